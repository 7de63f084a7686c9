//! What one container is made of: written by the server into the container's folder, read by the shim.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// Everything the shim needs to make a container. Kept as `bundle.json` in the container's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The container's textual id; names its cgroups.
    pub id: String,
    /// Host name inside.
    pub hostname: String,
    /// The command and its arguments, not empty.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Working directory inside; made if it is missing.
    pub cwd: PathBuf,
    /// `name`, `uid`, `name:group`, `uid:gid` as in an image configuration; empty is root.
    pub user: String,
    /// Root file system.
    pub rootfs: Rootfs,
    /// Mounts in addition to the usual ones, in order.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Bit set of capabilities (capabilities(7) numbers) that the container is bounded by.
    pub capabilities: u64,
    /// Whether execve(2) can give no more privileges (set-user-id programs have no effect).
    pub no_new_privileges: bool,
    /// Whether the default seccomp filter is loaded.
    pub seccomp: bool,
    /// Where the network comes from.
    pub network: Namespace,
    /// Upper bounds.
    pub limits: Limits,
    /// Name of the cgroup that holds this server's containers.
    pub cgroup_parent: String,
    /// Rotation of the logs.
    pub log: LogLimits,
    /// Whether standard input can be written to by those who are attached.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Rows and columns of the terminal at first.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    /// Further groups of the user, by name or number.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Bounds of each process.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// How readily the kernel ends its processes when memory is short.
    #[serde(default)]
    pub oom_score_adj: i32,
    /// Absolute path of another OCI runtime's program; the built-in one if `None`.
    #[serde(default)]
    pub runtime: Option<PathBuf>,
}

/// A bound of each process (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The OCI specification's name, `RLIMIT_NOFILE`.
    pub name: String,
    /// The kernel's number.
    pub number: u32,
    /// Where it begins to refuse; `u64::MAX` for no bound.
    pub soft: u64,
    /// How far a process may raise that.
    pub hard: u64,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// One that was handed over by descriptor.
    Given,
    /// The host's own.
    Host,
}

/// An overlay of unpacked layers with a writable folder on top.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rootfs {
    /// An empty folder to mount it on, in the container's own mount namespace only.
    pub at: PathBuf,
    /// The folder that the names in `layers` are in. Short names keep any number of layers within mount(2)'s one page.
    pub layers_in: PathBuf,
    /// Names of layer folders, topmost first.
    pub layers: Vec<String>,
    /// Folder of what the container writes.
    pub upper: PathBuf,
    /// Overlayfs' work folder, on the same file system as `upper`.
    pub work: PathBuf,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
}

/// A mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside; missing folders (or, for a file, the file) are made.
    pub at: PathBuf,
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Read-only.
    pub read_only: bool,
    /// One of the server's own: where there is no place for it the container runs without.
    #[serde(default)]
    pub optional: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum MountKind {
    /// A file or folder of the host, with the mounts below it.
    Bind {
        /// Absolute path on the host.
        from: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Size in bytes.
        size: u64,
        /// Permission bits of its root.
        mode: u32,
    },
}

/// Upper bounds; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// CPUs, in thousandths.
    pub cpu_milli: Option<u64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Swap in bytes on top of memory; `None` with a memory bound is none at all.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Rotation of a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a new file is begun.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: 10_000_000, max_files: 10 }
    }
}

/// How a container ended. Kept as `status.json`, on disk before anyone hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + the signal's number where a signal ended it, as shells and Docker have it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Processes that the OOM killer has killed, the first one or others.
    pub oom_kills: u64,
    /// When it ended, nanoseconds since 1970.
    pub finished_at: i64,
    /// What came in and went out over the network in this run; `None` where nobody saw the end.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

/// Bytes and packets of the network. Bytes are those of IP packets, with their headers, without those of the link.
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

impl Traffic {
    /// The counters of an interface in `/proc/net/dev`, as the namespace sees it. The link's own headers (14 bytes a packet)
    /// are taken off.
    pub fn of_interface(text: &str, name: &str) -> Option<Self> {
        let line = text.lines().find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let (rx_packets, tx_packets) = (*numbers.get(1)?, *numbers.get(9)?);
        Some(Self::of_link(numbers[0], rx_packets, numbers[8], tx_packets))
    }

    /// What a link counted, without its own headers.
    pub fn of_link(rx_bytes: u64, rx_packets: u64, tx_bytes: u64, tx_packets: u64) -> Self {
        const ETHERNET: u64 = 14;
        let bytes = |bytes: u64, packets: u64| bytes.saturating_sub(packets * ETHERNET);
        Self { rx_bytes: bytes(rx_bytes, rx_packets), rx_packets, tx_bytes: bytes(tx_bytes, tx_packets), tx_packets }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes + other.rx_bytes,
            rx_packets: self.rx_packets + other.rx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            tx_packets: self.tx_packets + other.tx_packets,
        }
    }
}

/// NET_BIND_SERVICE and NET_RAW: in the host's network they listen to what the host says, and take its ports.
pub const HOST_NETWORK_CAPABILITIES: u64 = 1 << 10 | 1 << 13;

/// Docker's default set, by capabilities(7) numbers: CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6,
/// SETUID 7, SETPCAP 8, NET_BIND_SERVICE 10, NET_RAW 13, SYS_CHROOT 18, MKNOD 27, AUDIT_WRITE 29, SETFCAP 31.
pub const DEFAULT_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;

/// Writes `value` as JSON under a temporary name and renames it, so that a reader sees all or nothing.
///
/// # Errors
/// What the file system said.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(value)?)?;
    fs::rename(&temporary, path)
}

impl Bundle {
    /// Writes the bundle into the container's folder.
    ///
    /// # Errors
    /// What the file system said.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        write_json(&folder.join(crate::files::BUNDLE), self)
    }

    /// Reads the bundle from the container's folder.
    ///
    /// # Errors
    /// What the file system said, or that the file is not a bundle.
    pub fn load(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join(crate::files::BUNDLE))?)?)
    }
}

impl ExitStatus {
    /// Reads the status that the shim left; `None` where there is none.
    ///
    /// # Errors
    /// What the file system said, or that the file is not a status.
    pub fn load(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(crate::files::STATUS)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
