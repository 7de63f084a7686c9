//! Containers.

use std::collections::BTreeMap;

use super::{Health, HealthCheck, Message};
use berth_core::{ContainerState, Error as CoreError, Field, NewContainer, RestartPolicy};
use berth_engine::{Mount, MountSource, NetworkMode, PortProtocol, PortRequest};
use berth_runtime::log::format_time;
use berth_types::Extras;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute path inside.
    pub target: String,
    /// Absolute path on the host (`bind`), or the volume's name (`volume`; made if it is not there).
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
    /// With `auto_remove`: whoever makes it follows it (its log, its end, or a session). After its end it is kept for a quarter of a
    /// minute, and as long as somebody follows it.
    #[serde(default)]
    pub attended: bool,
    /// Standard input can be written to by those who attach.
    pub stdin: bool,
    /// It has a terminal.
    pub terminal: bool,
    /// Rows of the terminal at first, with `columns`.
    #[serde(default)]
    pub rows: Option<u16>,
    /// Columns of the terminal at first.
    #[serde(default)]
    pub columns: Option<u16>,
    /// Bits per second that may come in, 100000 to 10000000000; no bound if absent.
    pub ingress: Option<u64>,
    /// Bits per second that may go out.
    pub egress: Option<u64>,
    /// `no` (default), `on-failure`, `on-failure:N`, `always` or `unless-stopped`.
    pub restart: Option<String>,
    /// How it is asked whether it is well; the image's own way if absent.
    pub health: Option<HealthCheck>,
    /// No health check, although the image has one.
    pub no_health: bool,
    /// Started at once.
    pub start: bool,
    /// What few containers ask for.
    pub extras: Extras,
    /// Every port that the image exposes is published on some port of the host.
    pub publish_all: bool,
}

/// Changes of a container. What is absent stays; `null` takes a bound away.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerUpdate {
    /// CPUs, with fractions.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Option<f64>>,
    /// Bytes of memory.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub memory: Option<Option<u64>>,
    /// Bytes of swap beyond memory.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub swap: Option<Option<u64>>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Bits per second in.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Option<u64>>,
    /// Bits per second out.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub egress: Option<Option<u64>>,
    /// Restart policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}

/// A field that is there, even if it is null.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(input).map(Some)
}

impl TryFrom<ContainerUpdate> for berth_core::ContainerUpdate {
    type Error = CoreError;

    fn try_from(u: ContainerUpdate) -> Result<Self, CoreError> {
        Ok(Self {
            cpu_milli: u.cpus.map(cpu_milli).transpose()?,
            memory: u.memory,
            swap: u.swap,
            pids: u.pids,
            ingress: u.ingress,
            egress: u.egress,
            restart: u.restart.as_deref().map(restart_policy).transpose()?,
        })
    }
}

pub(super) fn restart_policy(text: &str) -> Result<RestartPolicy, CoreError> {
    text.parse().map_err(|e: String| invalid(Field::Restart, e))
}

pub(super) fn cpu_milli(cpus: Option<f64>) -> Result<Option<u64>, CoreError> {
    match cpus {
        None => Ok(None),
        Some(cpus) if cpus.is_finite() && (0.01..=4096.0).contains(&cpus) => Ok(Some((cpus * 1000.0).round() as u64)),
        Some(cpus) => Err(invalid(Field::Cpus, format!("{cpus} is not between 0.01 and 4096"))),
    }
}

/// The ports that a container is to have.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortList {
    /// All of them; those that it has already are kept.
    pub ports: Vec<Port>,
}

impl TryFrom<PortList> for Vec<PortRequest> {
    type Error = CoreError;

    fn try_from(list: PortList) -> Result<Self, CoreError> {
        list.ports.into_iter().map(port).collect()
    }
}

/// Bytes and packets over a container's whole life. Bytes are those of IP packets with their headers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Bytes in.
    pub rx_bytes: u64,
    /// Packets in.
    pub rx_packets: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Packets out.
    pub tx_packets: u64,
}

impl From<berth_engine::Traffic> for Traffic {
    fn from(t: berth_engine::Traffic) -> Self {
        Self { rx_bytes: t.rx_bytes, rx_packets: t.rx_packets, tx_bytes: t.tx_bytes, tx_packets: t.tx_packets }
    }
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
    /// `created`, `running`, `paused` or `exited`.
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
    /// Bits per second that may come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u64>,
    /// Bits per second that may go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<u64>,
    /// Standard input can be written to by those who attach.
    #[serde(default)]
    pub stdin: bool,
    /// It has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// What few containers ask for.
    #[serde(default)]
    pub extras: Extras,
    /// Seconds between the stop signal and the kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// Signal that asks it to stop, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// Restart policy.
    pub restart: String,
    /// How often it was started again by itself since somebody started it.
    pub restarts: u32,
    /// When that will be next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<String>,
    /// How it is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What the checks of this run have shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
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
    /// End of the newest run; absent while it goes on, and where nobody saw it (the machine went down).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Exit code of the newest run; 128 + signal where a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it ended because it was out of memory (OOM-killed).
    pub oom_killed: bool,
    /// Processes of the newest run that the OOM killer has killed, whether or not it runs on.
    pub oom_kills: u64,
    /// Why the newest start failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `error` in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_parts: Option<Message>,
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
                    MountSource::Volume { name, .. } => ("volume", Some(name.clone()), None),
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
            ingress: c.spec.rates.ingress,
            egress: c.spec.rates.egress,
            stdin: c.spec.stdin,
            terminal: c.spec.terminal,
            extras: c.spec.extras,
            stop_timeout: Some(c.stop_timeout.as_secs()),
            stop_signal: Some(c.stop_signal),
            restart: c.restart.to_string(),
            restarts: c.restarts,
            next_start: c.next_start.map(format_time),
            health_check: c.health_check.map(HealthCheck::from),
            health: c.health.filter(|_| c.state.is_live()).map(|h| Health {
                status: h.status.word().into(),
                failures: h.failures,
                last_failure: h.last_failure,
                since: format_time(h.since),
            }),
            pid: c.pid,
            runs: c.runs,
            created_at: format_time(c.created_at),
            started_at: c.started_at.map(format_time),
            finished_at: c.exit.as_ref().and_then(|e| e.finished_at).map(format_time),
            exit_code: c.exit.as_ref().map(|e| e.code),
            oom_killed: c.exit.as_ref().is_some_and(|e| e.oom_killed),
            oom_kills: c.oom_kills,
            error_parts: c.error.as_deref().map(Message::of),
            error: c.error,
        }
    }
}

pub(super) fn invalid(field: Field, message: impl Into<String>) -> CoreError {
    CoreError::Invalid { field, message: message.into() }
}

impl TryFrom<ContainerCreate> for NewContainer {
    type Error = CoreError;

    fn try_from(c: ContainerCreate) -> Result<Self, CoreError> {
        if c.image.is_empty() {
            return Err(invalid(Field::Image, "an image is needed"));
        }
        let cpu_milli = cpu_milli(c.cpus)?;
        let health = match (c.health, c.no_health) {
            (Some(_), true) => return Err(invalid(Field::Health, "either a health check or none")),
            (Some(check), false) => Some(Some(check.try_into()?)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        let network = match c.network.as_deref() {
            None | Some("" | "bridge") => NetworkMode::Bridge,
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            Some(other) => return Err(invalid(Field::Network, format!("{other:?} is not bridge, host or none"))),
        };
        let mut mounts = Vec::new();
        for m in c.mounts {
            let source = match (m.kind.as_str(), m.source) {
                ("bind", Some(source)) => MountSource::Bind { source: source.into() },
                ("bind", None) => return Err(invalid(Field::Mounts, "a bind mount needs a source")),
                ("volume", Some(name)) => {
                    MountSource::Volume { name, source: std::path::PathBuf::new(), anonymous: false }
                }
                // One that nobody named: it gets a name of its own.
                ("volume", None) => {
                    MountSource::Volume { name: String::new(), source: std::path::PathBuf::new(), anonymous: true }
                }
                ("tmpfs", _) => MountSource::Tmpfs { size: m.size.unwrap_or(64 << 20) },
                (other, _) => return Err(invalid(Field::Mounts, format!("{other:?} is not bind, volume or tmpfs"))),
            };
            mounts.push(Mount { target: m.target.into(), source, read_only: m.read_only });
        }
        let ports = c.ports.into_iter().map(port).collect::<Result<_, _>>()?;
        Ok(Self {
            name: c.name,
            image: c.image,
            image_number: None,
            host: None,
            replaces: None,
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
            attended: c.attended,
            stdin: c.stdin,
            terminal: c.terminal,
            extras: c.extras,
            publish_all: c.publish_all,
            size: c.rows.zip(c.columns),
            ingress: c.ingress,
            egress: c.egress,
            restart: c.restart.as_deref().map(restart_policy).transpose()?.unwrap_or_default(),
            health,
            key: None,
        })
    }
}

pub(super) fn port(p: Port) -> Result<PortRequest, CoreError> {
    let protocol = match p.protocol.as_str() {
        "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        other => return Err(invalid(Field::Ports, format!("{other:?} is not tcp or udp"))),
    };
    let host_ip = match p.host_ip.as_deref() {
        None | Some("" | "0.0.0.0") => None,
        Some(text) => {
            Some(text.parse().map_err(|_| invalid(Field::Ports, format!("{text:?} is not an IPv4 address")))?)
        }
    };
    if p.container_port.is_none() && p.host_port.is_none() {
        return Err(invalid(Field::Ports, "a port needs container_port or host_port"));
    }
    let host_ports = match (p.host_port, p.host_port_last) {
        (None | Some(0), None) => (0, 0),
        (Some(first), last) => (first, last.unwrap_or(first)),
        (None, Some(_)) => return Err(invalid(Field::Ports, "host_port_last needs host_port")),
    };
    Ok(PortRequest { protocol, host_ip, host_ports, container_port: p.container_port })
}

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// Exit code; absent if it was never started.
    pub exit_code: Option<i32>,
    /// Whether it was out of memory (OOM-killed).
    pub oom_killed: bool,
    /// When.
    pub finished_at: Option<String>,
}

/// What a container uses.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
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
    /// Bytes in, over its whole life; of IP packets with their headers.
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
            rx_bytes: s.traffic.rx_bytes,
            rx_packets: s.traffic.rx_packets,
            tx_bytes: s.traffic.tx_bytes,
            tx_packets: s.traffic.tx_packets,
        }
    }
}
