//! Services, groups, packages, commands.

use std::collections::BTreeMap;

use berth_core::{Error as CoreError, Field, GroupPort as CorePort, GroupState, Method};
use berth_engine::PortProtocol;
use berth_runtime::log::format_time;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::containers::{Container, cpu_milli, invalid, restart_policy};
use super::{HealthCheck, Message};

/// A service to be made, or its new name.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceCreate {
    /// Unique in the account.
    pub name: String,
}

/// A service: a name for groups that belong together.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Number, never used again.
    pub number: i64,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: String,
}

impl From<berth_core::Service> for Service {
    fn from(s: berth_core::Service) -> Self {
        Self { number: s.id, name: s.name, created_at: format_time(s.created_at) }
    }
}

/// A host port of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupPort {
    /// Port of its containers.
    pub container_port: u16,
    /// Port of the host; one of the configured range is chosen if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "tcp".into()
}

/// Bytes as a number, or as text with `k`, `m`, `g` or `t` (times 1024).
fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    use serde::de::Error;
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Option::<Either>::deserialize(input)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => {
            let lower = text.trim().to_ascii_lowercase();
            let short = lower.trim_end_matches("ib").trim_end_matches('b');
            let (digits, shift) = match short.as_bytes().last() {
                Some(b'k') => (&short[..short.len() - 1], 10),
                Some(b'm') => (&short[..short.len() - 1], 20),
                Some(b'g') => (&short[..short.len() - 1], 30),
                Some(b't') => (&short[..short.len() - 1], 40),
                _ => (short, 0),
            };
            let number = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
            number.map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is no number of bytes, such as 64m")))
        }
    }
}

/// What a group's containers are to be. Everything absent comes from the image or the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSpec {
    /// How many containers.
    pub replicas: u32,
    /// Name of the image.
    pub image: String,
    /// Instead of the image's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Instead of the image's entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Variables over the image's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `name` or `uid`, either with `:group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// CPUs of each, with fractions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory of each; also text such as `64m`.
    #[serde(deserialize_with = "bytes", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory: Option<u64>,
    /// Bytes of disk that each is meant to use; told, not enforced.
    #[serde(deserialize_with = "bytes", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk: Option<u64>,
    /// Processes and threads of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Bits per second that may come in to each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u64>,
    /// Bits per second that may go out of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<u64>,
    /// Labels of its containers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports of the host that lead to all its healthy containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<GroupPort>,
    /// How a container is asked whether it is well; the image's own way if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// No health check, although the image has one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_health: bool,
    /// `no`, `on-failure`, `on-failure:N`, `always` or `unless-stopped` (default).
    pub restart: String,
    /// Folder that code is put into; a path that ends in `.war` or `.jar` is the file itself.
    pub deploy_path: String,
    /// Seconds between the stop signal and the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// Seconds that connections may take to end before a container is stopped.
    pub drain: u64,
}

impl Default for GroupSpec {
    fn default() -> Self {
        let mut spec = Self::from(berth_core::GroupSpec::default());
        spec.replicas = 1;
        spec
    }
}

impl TryFrom<GroupSpec> for berth_core::GroupSpec {
    type Error = CoreError;

    fn try_from(s: GroupSpec) -> Result<Self, CoreError> {
        let port = |p: GroupPort| {
            let protocol = match p.protocol.as_str() {
                "tcp" => PortProtocol::Tcp,
                "udp" => PortProtocol::Udp,
                other => return Err(invalid(Field::Ports, format!("protocol {other:?} is not tcp or udp"))),
            };
            Ok(CorePort { protocol, container_port: p.container_port, host_port: p.host_port })
        };
        let health = match (s.health, s.no_health) {
            (Some(check), false) => Some(Some(check.try_into()?)),
            (None, true) => Some(None),
            (None, false) => None,
            (Some(_), true) => return Err(invalid(Field::Health, "health and no_health contradict each other")),
        };
        Ok(Self {
            replicas: s.replicas,
            image: s.image,
            command: s.command,
            entrypoint: s.entrypoint,
            env: s.env,
            working_dir: s.working_dir,
            user: s.user,
            cpu_milli: cpu_milli(s.cpus)?,
            memory: s.memory,
            disk: s.disk,
            pids: s.pids,
            ingress: s.ingress,
            egress: s.egress,
            labels: s.labels,
            ports: s.ports.into_iter().map(port).collect::<Result<_, _>>()?,
            health,
            restart: restart_policy(&s.restart)?,
            deploy_path: s.deploy_path,
            stop_timeout_s: s.stop_timeout,
            drain_s: s.drain,
        })
    }
}

fn protocol(p: PortProtocol) -> String {
    if p == PortProtocol::Udp { "udp" } else { "tcp" }.into()
}

impl From<berth_core::GroupSpec> for GroupSpec {
    fn from(s: berth_core::GroupSpec) -> Self {
        let no_health = s.health == Some(None);
        let port = |p: CorePort| GroupPort {
            container_port: p.container_port,
            host_port: p.host_port,
            protocol: protocol(p.protocol),
        };
        Self {
            replicas: s.replicas,
            image: s.image,
            command: s.command,
            entrypoint: s.entrypoint,
            env: s.env,
            working_dir: s.working_dir,
            user: s.user,
            cpus: s.cpu_milli.map(|milli| milli as f64 / 1000.0),
            memory: s.memory,
            disk: s.disk,
            pids: s.pids,
            ingress: s.ingress,
            egress: s.egress,
            labels: s.labels,
            ports: s.ports.into_iter().map(port).collect(),
            health: s.health.flatten().map(HealthCheck::from),
            no_health,
            restart: s.restart.to_string(),
            deploy_path: s.deploy_path,
            stop_timeout: s.stop_timeout_s,
            drain: s.drain_s,
        }
    }
}

/// A group to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Unique in the service.
    pub name: String,
    /// What its containers are to be.
    pub spec: GroupSpec,
}

/// A group to be renamed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRename {
    /// Its new name.
    pub name: String,
}

/// A port of the host that a group has.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GivenPort {
    /// Port of the host.
    pub host_port: u16,
    /// Port of its containers.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// A group of like containers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Number, never used again.
    pub number: i64,
    /// Name of its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// `created`, `running`, `stopped` or `deleting`.
    pub state: String,
    /// Version of its code; 0 is none.
    pub version: i64,
    /// Ports of the host that it has.
    pub ports: Vec<GivenPort>,
    /// What its containers are to be.
    pub spec: GroupSpec,
    /// When it was made.
    pub created_at: String,
    /// Its containers.
    pub containers: Vec<Container>,
}

impl Group {
    pub(crate) fn of(g: berth_core::Group, containers: Vec<berth_core::Container>) -> Self {
        let state = g.state_with(&containers);
        Self {
            number: g.id,
            service: g.service,
            name: g.name,
            state: match state {
                GroupState::Created => "created",
                GroupState::Running => "running",
                GroupState::Stopped => "stopped",
                GroupState::Deleting => "deleting",
            }
            .into(),
            version: g.version,
            ports: g
                .ports
                .into_iter()
                .map(|p| GivenPort {
                    host_port: p.host_port,
                    container_port: p.container_port,
                    protocol: protocol(p.protocol),
                })
                .collect(),
            spec: g.spec.into(),
            created_at: format_time(g.created_at),
            containers: containers.into_iter().map(Container::from).collect(),
        }
    }
}

/// How a group's containers are gone through.
pub(crate) fn method(text: Option<&str>) -> Result<Method, CoreError> {
    match text.unwrap_or_default() {
        "" | "parallel" => Ok(Method::Parallel),
        "sequential" => Ok(Method::Sequential),
        other => Err(invalid(Field::Method, format!("{other:?} is not parallel or sequential"))),
    }
}

/// Starting a group.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupStart {
    /// Containers are made anew; the old one stays until the new one is ready.
    pub update: bool,
    /// From this image from now on.
    pub image: Option<String>,
    /// `parallel` (default) or `sequential`.
    pub method: Option<String>,
}

/// Stopping a group.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupStop {
    /// `parallel` (default) or `sequential`.
    pub method: Option<String>,
}

/// Deploying code, or bringing a group back. One of `url`, `version` and `revision` is needed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupDeploy {
    /// Where the code is: zip, tar, tar.gz, war or jar by http or https. It becomes the group's next version.
    pub url: Option<String>,
    /// A version of its code that the group had before.
    pub version: Option<i64>,
    /// A revision of the group: what its containers were before, with as many as there are now.
    pub revision: Option<i64>,
    /// With `url` or `version`: containers are made anew instead of started again with the code.
    pub update: bool,
    /// `parallel` (default) or `sequential`.
    pub method: Option<String>,
}

/// What a group's containers were at a time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupRevision {
    /// 1, 2, … in the group.
    pub revision: i64,
    /// Whether the group is so now.
    pub current: bool,
    /// When it had become so.
    pub created_at: String,
    /// What its containers were to be. `replicas` is how many there are now: it is no part of a revision.
    pub spec: GroupSpec,
}

impl From<berth_core::GroupRevision> for GroupRevision {
    fn from(found: berth_core::GroupRevision) -> Self {
        Self {
            revision: found.revision,
            current: found.current,
            created_at: format_time(found.created_at),
            spec: found.spec.into(),
        }
    }
}

/// A version of a group's code.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Package {
    /// 1, 2, …
    pub version: i64,
    /// Whether it is the group's now.
    pub current: bool,
    /// Whether a deployment of it succeeded.
    pub proven: bool,
    /// Digest of the file.
    pub digest: String,
    /// The file's name at its origin.
    pub name: String,
    /// Bytes of the file.
    pub size: u64,
    /// Where it came from.
    pub url: String,
    /// When.
    pub created_at: String,
}

impl Package {
    pub(crate) fn of(p: berth_core::Package, current: i64) -> Self {
        Self {
            version: p.version,
            current: p.version == current,
            proven: p.proven,
            digest: p.digest,
            name: p.name,
            size: u64::try_from(p.size).unwrap_or(0),
            url: p.address,
            created_at: format_time(p.created_at),
        }
    }
}

/// A group and the command that works on it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupMade {
    /// The group.
    pub group: Group,
    /// The command that makes its containers.
    pub command: Command,
}

/// A step of a command.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Number.
    pub number: i64,
    /// `start`, `stop`, `replace`, `deploy`, `fetch` …
    pub name: String,
    /// Number of the container, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<i64>,
    /// `created`, `running` or `done`.
    pub status: String,
    /// `success`, `failed`, `not_found`, `timed_out` or `overtaken`, when it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The same in words.
    pub message: String,
    /// `message` in parts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_parts: Option<Message>,
    /// When it was planned.
    pub created_at: String,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// A command: what is slower than a query, and can be followed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Command {
    /// UUID.
    pub id: String,
    /// Number; grows in the order accepted.
    pub number: i64,
    /// `group_apply`, `group_start`, `container_stop` …
    pub name: String,
    /// What it is about, as it was called then.
    pub target: String,
    /// `created`, `published`, `publish_failed`, `running` or `done`.
    pub status: String,
    /// `success`, `failed`, `not_found`, `timed_out` or `overtaken`, when it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The same in words: which container failed, why, and what it said last.
    pub message: String,
    /// `message` in parts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_parts: Option<Message>,
    /// When it was accepted.
    pub created_at: String,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Its steps.
    #[serde(default)]
    pub activities: Vec<Activity>,
}

impl From<berth_core::Command> for Command {
    fn from(c: berth_core::Command) -> Self {
        let parts = |text: &str| (!text.is_empty()).then(|| Message::of(text));
        let activity = |a: berth_core::OperationStep| Activity {
            number: a.id,
            name: a.name,
            container: a.container,
            status: a.status.word().into(),
            result: a.result.map(|r| r.word().into()),
            message_parts: parts(&a.message),
            message: a.message,
            created_at: format_time(a.created_at),
            ended_at: a.ended_at.map(format_time),
        };
        Self {
            id: c.uid,
            number: c.id,
            name: c.name,
            target: c.target_name,
            status: c.status.word().into(),
            result: c.result.map(|r| r.word().into()),
            message_parts: parts(&c.message),
            message: c.message,
            created_at: format_time(c.created_at),
            ended_at: c.ended_at.map(format_time),
            activities: c.activities.into_iter().map(activity).collect(),
        }
    }
}

/// Groups as they are to be, by service and name.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// Services by name, their groups by name.
    pub services: BTreeMap<String, BTreeMap<String, GroupSpec>>,
}

/// A value that differs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// As it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub from: Option<serde_json::Value>,
    /// As it is to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub to: Option<serde_json::Value>,
}

/// What an apply does to a group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// `service/group`.
    pub group: String,
    /// `create`, `change` or `none`.
    pub action: String,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The command that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
}

impl From<berth_core::Applied> for Applied {
    fn from(a: berth_core::Applied) -> Self {
        // By the names and in the units of a specification as it is written.
        let difference = |d: berth_core::Difference| {
            let cpus = |v: serde_json::Value| v.as_f64().map_or(v, |milli| (milli / 1000.0).into());
            let (field, from, to) = match d.field.as_str() {
                "cpu_milli" => ("cpus".into(), d.from.map(cpus), d.to.map(cpus)),
                "stop_timeout_s" => ("stop_timeout".into(), d.from, d.to),
                "drain_s" => ("drain".into(), d.from, d.to),
                _ => (d.field, d.from, d.to),
            };
            Difference { field, from, to }
        };
        Self {
            group: a.group,
            action: a.action.into(),
            differences: a.differences.into_iter().map(difference).collect(),
            command: a.command.map(Command::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GroupSpec;

    #[test]
    fn specifications_survive_the_way_there_and_back() {
        let text = r#"{"replicas": 3, "image": "x", "memory": "64m", "disk": 10737418240, "cpus": 0.5,
            "ports": [{"container_port": 80}], "health": {"http": "80/"}, "env": {"A": "b"}}"#;
        let wire: GroupSpec = serde_json::from_str(text).expect("read");
        assert_eq!((wire.memory, wire.drain, wire.restart.as_str()), (Some(64 << 20), 10, "unless-stopped"));
        let core: berth_core::GroupSpec = wire.clone().try_into().expect("core");
        let again = GroupSpec::from(core.clone());
        assert_eq!(berth_core::GroupSpec::try_from(again).expect("again"), core);
        assert!(serde_json::from_str::<GroupSpec>(r#"{"memory": "64 apples"}"#).is_err());
        assert!(serde_json::from_str::<GroupSpec>(r#"{"memori": 1}"#).is_err());
    }
}
