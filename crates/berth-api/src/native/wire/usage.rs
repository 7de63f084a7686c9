//! What containers used.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a container used in a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Name of its account.
    pub account: String,
    /// Its number.
    pub number: i64,
    /// Its textual id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// `package` or `use`, for a container with a plan; of the last plan that it had, as all that follows.
    pub charge: Option<String>,
    /// Number of its spec.
    pub spec: Option<i64>,
    /// Whether its ports are published.
    pub public_network: Option<bool>,
    /// `bandwidth` or `traffic`.
    pub network_charge: Option<String>,
    /// Mbit/s in each direction.
    pub bandwidth_mbit: Option<i64>,
    /// When it was made.
    pub created_at: String,
    /// When it was removed.
    pub removed_at: Option<String>,
    /// Milliseconds that it ran.
    pub ran_ms: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory over time, MiB times milliseconds.
    pub memory_mib_ms: u64,
    /// Bytes read from block devices.
    pub block_read: u64,
    /// Bytes written to block devices.
    pub block_write: u64,
    /// Bytes that came in, those of IP packets with their headers.
    pub rx_bytes: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
}

/// A key for SSH to be taken or made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SshKeyCreate {
    /// What its owner calls it.
    pub name: String,
    /// A line of `authorized_keys`; a pair is made if it is absent.
    pub public_key: Option<String>,
    /// `ed25519` (default) or `rsa`, of a pair that is made.
    pub kind: Option<String>,
}

/// A key for SSH.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SshKey {
    /// Number.
    pub number: i64,
    /// What its owner calls it.
    pub name: String,
    /// MD5 of the public half, in pairs of hexadecimal digits.
    pub fingerprint: String,
    /// A line of `authorized_keys`.
    pub public_key: String,
    /// Whether the private half is here, to be fetched once by the dialect `comb`.
    pub private_key_to_fetch: bool,
    /// When it was made.
    pub created_at: String,
    /// The private half in OpenSSH's form; only in the answer to its making.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}
