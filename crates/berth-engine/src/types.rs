//! The types of the boundary. They are those of the OCI runtime specification where it has one.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use berth_types::Extras;
use serde::{Deserialize, Serialize};

/// Textual id of a container: lower-case letters and digits, at most 63. Safe as a file name and in a cgroup path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitId(String);

impl FromStr for UnitId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if good { Ok(Self(text.to_owned())) } else { Err(format!("{text:?} is not a container id")) }
    }
}

impl TryFrom<String> for UnitId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<UnitId> for String {
    fn from(id: UnitId) -> Self {
        id.0
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl UnitId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Everything an engine needs to run a container. Complete: what the image or a default says is in it already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// The container.
    pub id: UnitId,
    /// The host that it is to be on; empty: the engine's own.
    #[serde(default)]
    pub host: String,
    /// The image by the name that a registry has it under, for an engine whose nodes pull it.
    #[serde(default)]
    pub image: String,
    /// Layers of the root file system by digest, lowest first.
    pub layers: Vec<String>,
    /// Command and arguments, not empty.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// `name`, `uid`, either with `:group`; empty is root.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// CPUs in thousandths.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of swap beyond memory; none unless asked.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Whether `/` can't be written.
    pub read_only: bool,
    /// Whether set-user-id programs and file capabilities have an effect (`sudo`); off unless asked.
    pub new_privileges: bool,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// How it is connected.
    pub network: NetworkMode,
    /// Ports to publish; empty unless `network` is the bridge.
    pub ports: Vec<PortRequest>,
    /// Whose it is: containers of one tenant reach each other on the bridge, and by name.
    #[serde(default)]
    pub tenant: u32,
    /// Names by which those of the same tenant find it.
    #[serde(default)]
    pub names: Vec<String>,
    /// Bounds on its traffic; only on the bridge.
    #[serde(default)]
    pub rates: Rates,
    /// Whether it keeps NET_RAW and NET_BIND_SERVICE in the host's network: there they reach what is the host's own.
    #[serde(default)]
    pub host_network_trusted: bool,
    /// Rows and columns of its terminal at first; 24 and 80 if `None`.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    /// Whether its standard input can be written to by those who attach.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// What few containers ask for.
    #[serde(default)]
    pub extras: Extras,
}

/// What is read from a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// 32 hexadecimal digits, derived from the machine's own id.
    pub id: String,
    /// Its name in the network.
    pub name: String,
    /// CPUs.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// File systems on disks.
    pub disks: Vec<DiskFacts>,
    /// Links with an IPv4 address.
    pub interfaces: Vec<InterfaceFacts>,
    /// `linux`.
    pub system: String,
    /// The distribution's own name.
    pub distribution: String,
    /// Kernel release.
    pub kernel: String,
    /// Go's word: `amd64`.
    pub architecture: String,
}

/// A file system on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Where it is mounted.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that are taken.
    pub used: u64,
}

/// A link with an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether there is hardware behind it.
    pub real: bool,
}

/// Bounds on traffic, bits per second; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// What comes in.
    #[serde(default)]
    pub ingress: Option<u64>,
    /// What goes out.
    #[serde(default)]
    pub egress: Option<u64>,
}

/// What can be changed of a container at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// See [`UnitSpec::cpu_milli`].
    pub cpu_milli: Option<u64>,
    /// See [`UnitSpec::memory`].
    pub memory: Option<u64>,
    /// See [`UnitSpec::swap`].
    pub swap: Option<u64>,
    /// See [`UnitSpec::pids`].
    pub pids: Option<u64>,
    /// See [`UnitSpec::rates`].
    pub rates: Rates,
}

impl UnitSpec {
    /// What can be changed at any time.
    pub fn resources(&self) -> Resources {
        let Self { cpu_milli, memory, swap, pids, rates, .. } = *self;
        Resources { cpu_milli, memory, swap, pids, rates }
    }

    /// Changes that.
    pub fn set_resources(&mut self, to: Resources) {
        let Resources { cpu_milli, memory, swap, pids, rates } = to;
        (self.cpu_milli, self.memory, self.swap, self.pids, self.rates) = (cpu_milli, memory, swap, pids, rates);
    }
}

/// Bytes and packets over a container's whole life, all its runs together. Bytes are those of IP packets with their headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
}

/// A mount inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside.
    pub target: PathBuf,
    /// What is mounted.
    #[serde(flatten)]
    pub source: MountSource,
    /// Read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum MountSource {
    /// A file or folder of the host.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Bytes.
        size: u64,
    },
    /// A named volume of the tenant's.
    Volume {
        /// Its name.
        name: String,
        /// Its folder on the host; begins as what the image has at the target while it is empty.
        source: PathBuf,
        /// Whether nobody named it: it goes with the container, where that is removed with its volumes.
        #[serde(default)]
        anonymous: bool,
    },
    /// The program of the server itself, for workloads that need nothing else.
    Program,
}

/// How a container is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// An address of its own behind the host.
    #[default]
    Bridge,
    /// The host's network as it is.
    Host,
    /// A loopback and nothing else.
    None,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// Transport.
    pub protocol: PortProtocol,
    /// The one address of the host; `None` is all.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port is chosen from first to last, both included; equal for a fixed one.
    pub host_ports: (u16, u16),
    /// Port inside; `None` for the same as the host's.
    pub container_port: Option<u16>,
}

/// A port that is kept for a container until it is removed, and published while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Transport.
    pub protocol: PortProtocol,
    /// The one address of the host; `None` is all.
    pub host_ip: Option<Ipv4Addr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port inside.
    pub container_port: u16,
}

impl PortBinding {
    /// Whether this is what was asked for.
    pub fn answers(&self, asked: &PortRequest) -> bool {
        self.protocol == asked.protocol
            && self.host_ip == asked.host_ip
            && (asked.host_ports.0..=asked.host_ports.1).contains(&self.host_port)
            && self.container_port == asked.container_port.unwrap_or(self.host_port)
    }
}

/// What a container was given for its whole life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its own address, on a bridge.
    pub address: Option<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<PortBinding>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended it; 255 where nobody saw the end (the host went down).
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it ended because it was out of memory (OOM-killed).
    pub oom_killed: bool,
    /// Nanoseconds since 1970; `None` where nobody saw it: the machine went down, or the server and what looks after the container did.
    pub finished_at: Option<i64>,
}

/// A container's state as the engine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// The engine has nothing of that id.
    Absent,
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// The first process in the host's pid namespace, where there is such a thing.
        pid: Option<i32>,
        /// Nanoseconds since 1970.
        started_at: i64,
        /// Whether its processes are stopped.
        #[serde(default)]
        paused: bool,
    },
    /// Its first process has ended.
    Exited(Exit),
}

/// What an engine sees of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// State.
    pub state: State,
    /// The number of the run that the state is of; 0 before the first.
    pub run: u64,
    /// Processes of that run that the OOM killer has killed so far.
    pub oom_kills: u64,
}

impl Observed {
    /// A state without out-of-memory kills.
    pub fn new(state: State, run: u64) -> Self {
        Self { state, run, oom_kills: 0 }
    }
}

/// What a container uses now. Counters are of this run, but for the network's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When this was read, nanoseconds since 1970.
    pub at: i64,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Memory without droppable page cache, bytes.
    pub memory: u64,
    /// Its limit in bytes; the host's memory if it has none.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub block_read: u64,
    /// Bytes written to block devices.
    pub block_write: u64,
    /// Network, over its whole life.
    pub traffic: Traffic,
    /// Processes that the OOM killer has killed.
    #[serde(default)]
    pub oom_kills: u64,
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Where it came from.
    pub stream: LogStream,
    /// Whether the line ends here, or the next piece of the stream continues it.
    pub ends: bool,
    /// The text without a line break; any bytes.
    pub text: Vec<u8>,
    /// The number of its line, if numbers were asked for: 1 for the first line of the log.
    pub number: Option<u64>,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Not older than this, nanoseconds since 1970.
    pub since: Option<i64>,
    /// Older than this, nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Number the lines. The engine then reads the log from its beginning, whatever part is wanted.
    pub numbered: bool,
    /// Only lines with higher numbers; of a log that has not reached this number all lines. Numbers them.
    pub after: Option<u64>,
    /// Only lines with lower numbers, and `tail` counts from there. Numbers them.
    pub before: Option<u64>,
    /// An engine may leave out whole lines that this does not want; it gives the others, and lines of several pieces.
    pub only: Option<LineFilter>,
}

/// Whether a whole line, without its line break, is wanted.
#[derive(Clone)]
pub struct LineFilter(pub std::sync::Arc<LineTest>);

/// What tells whether a line is wanted.
pub type LineTest = dyn Fn(&[u8]) -> bool + Send + Sync;

impl std::fmt::Debug for LineFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineFilter")
    }
}

impl PartialEq for LineFilter {
    fn eq(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LineFilter {}

impl LogOptions {
    /// Whether lines have numbers.
    pub fn are_numbered(&self) -> bool {
        self.numbered || self.after.is_some() || self.before.is_some()
    }
}
