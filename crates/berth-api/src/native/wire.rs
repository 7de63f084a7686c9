//! The native API's types. Times are RFC 3339 in UTC with nanoseconds; sizes are bytes.

use std::collections::BTreeMap;

use berth_core::{ContainerState, Error as CoreError, NewContainer};
use berth_engine::{Mount, MountSource, NetworkMode, PortAsked, PortProtocol};
use berth_runtime::log::format_time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `status` and `code` say it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A word for programs: `invalid`, `not_found`, `duplicate`, `wrong_state`, `in_use`, `no_room` …
    pub code: String,
    /// One sentence for people.
    pub detail: String,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A port of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Port inside the container; the host's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_port: Option<u16>,
    /// Port on the host; one of the configured range is chosen if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// With it, the first free port from `host_port` to this one is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_last: Option<u16>,
    /// The one address of the host; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "tcp".into()
}

/// A mount inside a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerMount {
    /// `bind` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute path inside.
    pub target: String,
    /// Absolute path on the host (`bind`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Bytes (`tmpfs`); 64 MiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// A container to be made. Everything absent comes from the image or the settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerCreate {
    /// Unique in the account; made up if absent.
    pub name: Option<String>,
    /// Name or digest of the image.
    pub image: String,
    /// Instead of the image's arguments.
    pub command: Option<Vec<String>>,
    /// Instead of the image's entry point; clears its arguments too.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`, over the image's.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// `name` or `uid`, either with `:group`.
    pub user: Option<String>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// CPUs, with fractions.
    pub cpus: Option<f64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of swap beyond memory; none if absent.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Root read-only.
    pub read_only: bool,
    /// Set-user-id programs have an effect.
    pub new_privileges: bool,
    /// Mounts.
    pub mounts: Vec<ContainerMount>,
    /// `bridge` (default), `host` (administrators only) or `none`.
    pub network: Option<String>,
    /// Ports to publish.
    pub ports: Vec<Port>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop: number.
    pub stop_signal: Option<i32>,
    /// Seconds between that and the kill.
    pub stop_timeout: Option<u64>,
    /// Removed when it has ended.
    pub auto_remove: bool,
    /// Started at once.
    pub start: bool,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Container {
    /// Textual id.
    pub id: String,
    /// Number, never used again.
    pub number: i64,
    /// Name.
    pub name: String,
    /// Image as it was named.
    pub image: String,
    /// Digest of the image.
    pub image_digest: String,
    /// `created`, `running` or `exited`.
    pub state: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// `bridge`, `host` or `none`.
    pub network: String,
    /// Own address on the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Mounts.
    pub mounts: Vec<ContainerMount>,
    /// CPUs it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Root read-only.
    pub read_only: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// First process in the host's pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// How often it was started.
    pub runs: i64,
    /// When it was made.
    pub created_at: String,
    /// Start of the newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// End of the newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Exit code of the newest run; 128 + signal where a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether the kernel killed it, or one of its processes, for want of memory.
    pub oom_killed: bool,
    /// Why the newest start failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn protocol(p: PortProtocol) -> String {
    p.to_string()
}

impl From<berth_core::Container> for Container {
    fn from(c: berth_core::Container) -> Self {
        let ports = if c.ports.is_empty() && c.state == ContainerState::Created {
            Vec::new()
        } else {
            c.ports
                .iter()
                .map(|p| Port {
                    container_port: Some(p.container_port),
                    host_port: Some(p.host_port),
                    host_port_last: None,
                    host_ip: p.host_ip.map(|ip| ip.to_string()),
                    protocol: protocol(p.protocol),
                })
                .collect()
        };
        let mounts = c
            .spec
            .mounts
            .iter()
            .map(|m| {
                let (kind, source, size) = match &m.source {
                    MountSource::Bind { source } => ("bind", Some(source.display().to_string()), None),
                    MountSource::Tmpfs { size } => ("tmpfs", None, Some(*size)),
                    MountSource::Program => ("program", None, None),
                };
                let target = m.target.display().to_string();
                ContainerMount { kind: kind.into(), target, source, size, read_only: m.read_only }
            })
            .collect();
        let network = match c.spec.network {
            NetworkMode::Bridge => "bridge",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        };
        Self {
            id: c.uid.to_string(),
            number: c.id,
            name: c.name,
            image: c.image,
            image_digest: c.image_digest,
            state: c.state.word().into(),
            command: c.spec.args,
            env: c.spec.env,
            working_dir: c.spec.working_dir,
            user: c.spec.user,
            hostname: c.spec.hostname,
            network: network.into(),
            address: c.address.map(|a| a.to_string()),
            ports,
            mounts,
            cpus: c.spec.cpu_milli.map(|m| m as f64 / 1000.0),
            memory: c.spec.memory,
            pids: c.spec.pids,
            read_only: c.spec.read_only,
            labels: c.labels,
            pid: c.pid,
            runs: c.runs,
            created_at: format_time(c.created_at),
            started_at: c.started_at.map(format_time),
            finished_at: c.exit.as_ref().map(|e| format_time(e.finished_at)),
            exit_code: c.exit.as_ref().map(|e| e.code),
            oom_killed: c.exit.as_ref().is_some_and(|e| e.oom_killed),
            error: c.error,
        }
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> CoreError {
    CoreError::Invalid { field, message: message.into() }
}

impl TryFrom<ContainerCreate> for NewContainer {
    type Error = CoreError;

    fn try_from(c: ContainerCreate) -> Result<Self, CoreError> {
        if c.image.is_empty() {
            return Err(invalid("image", "an image is needed"));
        }
        let cpu_milli = match c.cpus {
            None => None,
            Some(cpus) if cpus.is_finite() && (0.01..=4096.0).contains(&cpus) => Some((cpus * 1000.0).round() as u64),
            Some(cpus) => return Err(invalid("cpus", format!("{cpus} is not between 0.01 and 4096"))),
        };
        let network = match c.network.as_deref() {
            None | Some("" | "bridge") => NetworkMode::Bridge,
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            Some(other) => return Err(invalid("network", format!("{other:?} is not bridge, host or none"))),
        };
        let mut mounts = Vec::new();
        for m in c.mounts {
            let source = match (m.kind.as_str(), m.source) {
                ("bind", Some(source)) => MountSource::Bind { source: source.into() },
                ("bind", None) => return Err(invalid("mounts", "a bind mount needs a source")),
                ("tmpfs", _) => MountSource::Tmpfs { size: m.size.unwrap_or(64 << 20) },
                (other, _) => return Err(invalid("mounts", format!("{other:?} is not bind or tmpfs"))),
            };
            mounts.push(Mount { target: m.target.into(), source, read_only: m.read_only });
        }
        let ports = c.ports.into_iter().map(port).collect::<Result<_, _>>()?;
        Ok(Self {
            name: c.name,
            image: c.image,
            command: c.command,
            entrypoint: c.entrypoint,
            env: c.env,
            working_dir: c.working_dir,
            user: c.user,
            hostname: c.hostname,
            cpu_milli,
            memory: c.memory,
            swap: c.swap,
            pids: c.pids,
            shm_size: c.shm_size,
            read_only: c.read_only,
            new_privileges: c.new_privileges,
            mounts,
            network,
            ports,
            labels: c.labels,
            stop_signal: c.stop_signal,
            stop_timeout_s: c.stop_timeout,
            auto_remove: c.auto_remove,
            key: None,
        })
    }
}

fn port(p: Port) -> Result<PortAsked, CoreError> {
    let protocol = match p.protocol.as_str() {
        "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        other => return Err(invalid("ports", format!("{other:?} is not tcp or udp"))),
    };
    let host_ip = match p.host_ip.as_deref() {
        None | Some("" | "0.0.0.0") => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("ports", format!("{text:?} is not an IPv4 address")))?),
    };
    if p.container_port.is_none() && p.host_port.is_none() {
        return Err(invalid("ports", "a port needs container_port or host_port"));
    }
    let host_ports = match (p.host_port, p.host_port_last) {
        (None | Some(0), None) => (0, 0),
        (Some(first), last) => (first, last.unwrap_or(first)),
        (None, Some(_)) => return Err(invalid("ports", "host_port_last needs host_port")),
    };
    Ok(PortAsked { protocol, host_ip, host_ports, container_port: p.container_port })
}

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// Exit code; absent if it was never started.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// When.
    pub finished_at: Option<String>,
}

/// A piece of a container's output.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When it was written.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The bytes themselves, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// The line goes on in the next entry of the stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// What a container uses.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// The container.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When this was read.
    pub time: String,
    /// CPU time of the run, nanoseconds.
    pub cpu_ns: u64,
    /// CPU between two readings, percent of one CPU.
    pub cpu_percent: f64,
    /// Bytes of memory without droppable page cache.
    pub memory: u64,
    /// Its limit; the host's memory if it has none.
    pub memory_limit: u64,
    /// Percent of the limit.
    pub memory_percent: f64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub block_read: u64,
    /// Bytes written to block devices.
    pub block_write: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Packets in.
    pub rx_packets: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Packets out.
    pub tx_packets: u64,
}

impl From<berth_core::Usage> for Stats {
    fn from(u: berth_core::Usage) -> Self {
        let s = u.stats;
        Self {
            id: u.uid.to_string(),
            name: u.name,
            time: format_time(s.at),
            cpu_ns: s.cpu_ns,
            cpu_percent: u.cpu_percent,
            memory: s.memory,
            memory_limit: s.memory_limit,
            memory_percent: u.memory_percent,
            pids: s.pids,
            block_read: s.block_read,
            block_write: s.block_write,
            rx_bytes: s.rx_bytes,
            rx_packets: s.rx_packets,
            tx_bytes: s.tx_bytes,
            tx_packets: s.tx_packets,
        }
    }
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Digest of its configuration.
    pub digest: String,
    /// Number.
    pub number: i64,
    /// Its names, `repository:tag`.
    pub names: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Layers by digest, lowest first.
    pub layers: Vec<String>,
    /// CPU architecture, Go's word.
    pub architecture: String,
    /// How it runs: the image configuration's `config`.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
    /// When it was imported.
    pub imported_at: String,
}

impl From<berth_core::Image> for Image {
    fn from(i: berth_core::Image) -> Self {
        Self {
            digest: i.digest.to_string(),
            number: i.id,
            names: i.names,
            size: i.size,
            layers: i.layers.iter().map(ToString::to_string).collect(),
            architecture: i.config.architecture,
            config: serde_json::to_value(&i.config.config).unwrap_or_default(),
            imported_at: format_time(i.created_at),
        }
    }
}

/// What the removal of an image took away.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageRemoved {
    /// Names.
    pub names: Vec<String>,
    /// The image, if that was its last name.
    pub digest: Option<String>,
    /// Bytes of disk freed.
    pub freed: u64,
}

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of berth.
    pub berth: String,
    /// Distribution.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU architecture.
    pub architecture: String,
    /// CPUs.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes available.
    pub memory_available: u64,
    /// Bytes free for images and containers.
    pub disk_free: u64,
    /// Mean number of running tasks in the last minute.
    pub load: f64,
}

impl From<berth_core::Host> for Host {
    fn from(h: berth_core::Host) -> Self {
        Self {
            name: h.name,
            berth: env!("CARGO_PKG_VERSION").into(),
            os: h.os,
            kernel: h.kernel,
            architecture: h.architecture.into(),
            cpus: h.cpus as u64,
            memory: h.memory,
            memory_available: h.memory_available,
            disk_free: h.disk_free,
            load: h.load,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number; grows. Pass the last one as `cursor` to go on.
    pub number: i64,
    /// When.
    pub time: String,
    /// `container.started` and the like.
    pub kind: String,
    /// Textual id or digest of what it happened to.
    pub subject: String,
    /// More, by kind.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

impl From<berth_core::Event> for Event {
    fn from(e: berth_core::Event) -> Self {
        Self { number: e.id, time: format_time(e.at), kind: e.kind, subject: e.subject, detail: e.detail }
    }
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What its owner calls it.
    pub name: String,
    /// `user` (default) or `admin`.
    #[serde(default)]
    pub role: Option<String>,
    /// Name of another account, made if it is new; administrators only.
    #[serde(default)]
    pub account: Option<String>,
    /// Seconds until it expires; never if absent.
    #[serde(default)]
    pub expires_in: Option<u64>,
}

/// A token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Number.
    pub number: i64,
    /// What its owner calls it.
    pub name: String,
    /// `user` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_at: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What a client sends; only in the answer to its making.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
