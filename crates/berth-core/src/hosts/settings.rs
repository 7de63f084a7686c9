//! Settings of this server's own host.

use serde::{Deserialize, Serialize};

/// What the settings say about this server's own host; empty is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// Name of this server's machine. What is set here goes before what `berth host label` says.
    pub name: String,
    /// Where it stands.
    pub area: String,
    /// Whose network it is in: 移动, 联通 or 电信.
    pub operator: String,
    /// What that carries, Mbit/s; 0: nothing is said.
    pub bandwidth_mbit: i64,
    /// Seconds without a sign of life after which a host is not ready. Signs come every 10 s.
    pub lease_s: u64,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            area: String::new(),
            operator: String::new(),
            bandwidth_mbit: 0,
            // Three signs of life may be lost.
            lease_s: 40,
        }
    }
}
