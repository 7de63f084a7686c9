//! What containers used and carried, hosts, keys for SSH.

use berth_runtime::log::format_time;
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

/// What containers carried and used in each five minutes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Bandwidth {
    /// The 95th percentile of the larger direction, all points of a time together: what the trade bills by, Mbit/s.
    pub p95_mbit: f64,
    /// The points.
    pub points: Vec<BandwidthPoint>,
}

/// What containers of a host, an image or a version carried and used in five minutes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct BandwidthPoint {
    /// Beginning of the five minutes.
    pub time: String,
    /// Number of the host, image, or image and version.
    pub key: String,
    /// Containers that ran at a time, at most.
    pub containers: i64,
    /// What went out, Mbit/s on average.
    pub up_mbit: f64,
    /// What came in, Mbit/s on average.
    pub down_mbit: f64,
    /// Bytes that came in.
    pub rx_bytes: i64,
    /// Bytes that went out.
    pub tx_bytes: i64,
    /// CPUs in use, on average.
    pub cpus: f64,
    /// MiB of memory, on average.
    pub memory_mib: f64,
    /// MiB of disk that they had written, on average.
    pub disk_mib: f64,
}

/// What a container used from one reading to a later one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct UsagePoint {
    /// Beginning.
    pub from: String,
    /// End.
    pub to: String,
    /// CPUs in use, on average.
    pub cpus: f64,
    /// MiB of memory, on average.
    pub memory_mib: f64,
    /// Bytes that came in.
    pub rx_bytes: i64,
    /// Bytes that went out.
    pub tx_bytes: i64,
    /// Bytes read from block devices.
    pub block_read: i64,
    /// Bytes written to block devices.
    pub block_write: i64,
}

impl From<berth_core::UsagePoint> for UsagePoint {
    fn from(point: berth_core::UsagePoint) -> Self {
        Self {
            from: format_time(point.from * 1_000_000),
            to: format_time(point.to * 1_000_000),
            cpus: point.cpus,
            memory_mib: point.memory_mib,
            rx_bytes: point.used.rx_bytes,
            tx_bytes: point.used.tx_bytes,
            block_read: point.used.block_read,
            block_write: point.used.block_write,
        }
    }
}

/// What an examination of the machine found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// `ok`, `warning` (it works without) or `missing`.
    pub state: String,
    /// What is there.
    pub found: String,
    /// What to do; empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// A machine that runs containers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostEntry {
    /// Number.
    pub number: i64,
    /// Textual id, derived from the machine's own.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub area: String,
    /// Whose network it is in.
    pub operator: String,
    /// What that carries, Mbit/s; 0 if nobody has said.
    pub bandwidth_mbit: i64,
    /// Whether it was heard of lately.
    pub ready: bool,
    /// When it was heard of last.
    pub heartbeat_at: String,
    /// Since when it is known.
    pub created_at: String,
    /// CPUs.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Distribution.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU architecture, Go's word.
    pub architecture: String,
    /// File systems on disks.
    pub disks: Vec<HostDisk>,
    /// Links with an address.
    pub interfaces: Vec<HostInterface>,
}

/// What containers that run on a host may have, and what they use now: of all accounts for administrators, else the account's own.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostUse {
    /// Containers.
    pub containers: u64,
    /// Those that run.
    pub running: u64,
    /// CPUs that those with a bound may use.
    pub cpus_allotted: f64,
    /// How many that run have no bound of CPU time.
    pub without_cpu_bound: u64,
    /// CPUs that are used now.
    pub cpus_used: f64,
    /// Bytes of memory that those with a bound may use.
    pub memory_allotted: u64,
    /// How many that run have no bound of memory.
    pub without_memory_bound: u64,
    /// Bytes of memory that are used now.
    pub memory_used: u64,
}

impl From<berth_core::HostUse> for HostUse {
    fn from(found: berth_core::HostUse) -> Self {
        Self {
            containers: found.containers,
            running: found.running,
            cpus_allotted: found.cpu_milli as f64 / 1000.0,
            without_cpu_bound: found.without_cpu_bound,
            cpus_used: found.cpus_used,
            memory_allotted: found.memory,
            without_memory_bound: found.without_memory_bound,
            memory_used: found.memory_used,
        }
    }
}

/// A file system on a disk.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostDisk {
    /// Where it is mounted.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that are taken.
    pub used: u64,
}

/// A link with an address.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostInterface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether there is hardware behind it.
    pub real: bool,
}

/// What is said about a machine; what is absent stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostLabel {
    /// Its name.
    pub name: Option<String>,
    /// Where it stands.
    pub area: Option<String>,
    /// Whose network it is in: 移动, 联通, 电信.
    pub operator: Option<String>,
    /// What that carries, Mbit/s.
    pub bandwidth_mbit: Option<i64>,
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
