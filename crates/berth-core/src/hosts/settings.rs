//! Settings of this server's own host.

use serde::{Deserialize, Serialize};

/// What the settings say about this server's own host; empty is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// Its name, instead of its own.
    pub name: String,
    /// Where it stands.
    pub area: String,
    /// Whose network it is in.
    pub operator: String,
    /// What that carries, Mbit/s; 0 is nothing said.
    pub bandwidth_mbit: i64,
    /// Seconds without a sign of life after which a host is not ready.
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
