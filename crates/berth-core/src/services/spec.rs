//! What a group is: its specification, and what is read of it.

use std::collections::BTreeMap;

use berth_engine::{NetworkMode, PortBinding, PortProtocol, PortRequest};
use berth_image::Digest;
use serde::{Deserialize, Serialize};

use crate::containers::{Container, ContainerUpdate, NewContainer};
use crate::error::{Error, Field};
use crate::policies::{HealthCheck, RestartPolicy};

/// Most containers of a group.
const MOST_REPLICAS: u32 = 1000;

/// A host port of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPort {
    /// Transport.
    pub protocol: PortProtocol,
    /// Port of its containers.
    pub container_port: u16,
    /// Port of the host; one of the settings' range if `None`.
    pub host_port: Option<u16>,
}

/// What a group's containers are to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSpec {
    /// How many.
    pub replicas: u32,
    /// Name of the image.
    pub image: String,
    /// Instead of the image's arguments.
    pub command: Option<Vec<String>>,
    /// Instead of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Variables over the image's.
    pub env: BTreeMap<String, String>,
    /// Instead of the image's.
    pub working_dir: Option<String>,
    /// Instead of the image's.
    pub user: Option<String>,
    /// CPUs in thousandths.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes that each is meant to use of the disk; told to clients, not enforced.
    pub disk: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bits per second in.
    pub ingress: Option<u64>,
    /// Bits per second out.
    pub egress: Option<u64>,
    /// Labels of its containers.
    pub labels: BTreeMap<String, String>,
    /// Ports of the host that lead to all its containers.
    pub ports: Vec<GroupPort>,
    /// Instead of the image's; `Some(None)` for none at all.
    pub health: Option<Option<HealthCheck>>,
    /// When a container is started again by itself.
    pub restart: RestartPolicy,
    /// Folder that code is put into (a path that ends in `.war` or `.jar` is the file itself).
    pub deploy_path: String,
    /// Seconds between the stop signal and the kill.
    pub stop_timeout_s: Option<u64>,
    /// Seconds that connections may take to end before a container is stopped.
    pub drain_s: u64,
}

impl Default for GroupSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            image: String::new(),
            command: None,
            entrypoint: None,
            env: BTreeMap::new(),
            working_dir: None,
            user: None,
            cpu_milli: None,
            memory: None,
            disk: None,
            pids: None,
            ingress: None,
            egress: None,
            labels: BTreeMap::new(),
            ports: Vec::new(),
            health: None,
            restart: RestartPolicy::UnlessStopped,
            deploy_path: "/app".into(),
            stop_timeout_s: None,
            drain_s: 10,
        }
    }
}

/// What a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Made, never started.
    Created,
    /// Its containers are to run.
    Running,
    /// They are to be stopped.
    Stopped,
    /// It is being removed.
    Deleting,
}

/// A group of like containers of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account: i64,
    /// Number of its service.
    pub service_id: i64,
    /// Name of its service.
    pub service: String,
    /// Unique in the service.
    pub name: String,
    /// What its containers are to be.
    pub spec: GroupSpec,
    /// What it is.
    pub state: GroupState,
    /// Version of its code; 0 is none.
    pub version: i64,
    /// Ports of the host that it has.
    pub ports: Vec<PortBinding>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    pub(crate) members_never_made: bool,
}

pub(crate) fn group(row: berth_store::Group) -> Result<Group, Error> {
    let unreadable = |e: serde_json::Error| Error::Bug(format!("group {} in the database: {e}", row.id));
    let spec = serde_json::from_str(&row.spec).map_err(unreadable)?;
    let ports = serde_json::from_str(&row.ports).map_err(unreadable)?;
    Ok(Group {
        id: row.id,
        account: row.account_id,
        service_id: row.service_id,
        service: row.service,
        name: row.name,
        spec,
        state: match row.desired.as_str() {
            "running" => GroupState::Running,
            "stopped" => GroupState::Stopped,
            "removed" => GroupState::Deleting,
            _ => GroupState::Created,
        },
        version: row.version,
        ports,
        created_at: row.created_at,
        members_never_made: row.desired == "created",
    })
}

impl Group {
    /// What it is by its containers, too: while one of them runs it is not stopped, whatever was written down last.
    pub fn state_with(&self, members: &[Container]) -> GroupState {
        match self.state {
            GroupState::Created | GroupState::Stopped if members.iter().any(|m| m.state.is_live()) => {
                GroupState::Running
            }
            state => state,
        }
    }

    /// `service/group`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }

    /// Name of the container that a step makes: the same each time the step is done.
    pub(crate) fn member_name(&self, activity: i64) -> String {
        format!("{}-{}-{activity}", self.service, self.name)
    }

    /// The ports of the host that it is to have now.
    pub(crate) fn load_balancer_ports(&self, range: (u16, u16)) -> Vec<PortRequest> {
        if self.state == GroupState::Deleting {
            return Vec::new();
        }
        let asked = |port: &GroupPort| PortRequest {
            protocol: port.protocol,
            host_ip: None,
            host_ports: port.host_port.map_or(range, |p| (p, p)),
            container_port: Some(port.container_port),
        };
        self.spec.ports.iter().map(asked).collect()
    }
}

impl GroupSpec {
    /// # Errors
    /// [`Error::Invalid`] with the field that is wrong.
    pub(crate) fn check(&self, settings: &crate::settings::Settings) -> Result<(), Error> {
        crate::containers::check_port_count(self.ports.len(), settings)?;
        if self.replicas > MOST_REPLICAS {
            return Err(Error::invalid(Field::Replicas, format!("at most {MOST_REPLICAS}, not {}", self.replicas)));
        }
        if self.image.is_empty() {
            return Err(Error::invalid(Field::Image, "image is required"));
        }
        let path = std::path::Path::new(&self.deploy_path);
        let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
        if !path.is_absolute() || !plain || path == std::path::Path::new("/") || self.deploy_path.contains('\0') {
            return Err(Error::invalid(
                Field::DeployPath,
                format!("{:?} is no absolute path of a folder", self.deploy_path),
            ));
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.container_port == 0 || port.host_port == Some(0) {
                return Err(Error::invalid(Field::Ports, "ports are 1 to 65535"));
            }
            let same = |other: &GroupPort| {
                other.protocol == port.protocol && other.host_port.is_some() && other.host_port == port.host_port
            };
            if self.ports[..index].iter().any(same) {
                return Err(Error::invalid(
                    Field::Ports,
                    format!("host port {} is listed twice", port.host_port.unwrap_or_default()),
                ));
            }
        }
        if let Some(key) = self.env.keys().find(|key| key.is_empty() || key.contains(['=', '\0'])) {
            return Err(Error::invalid(Field::Env, format!("invalid variable name {key:?}")));
        }
        if self.drain_s > 3600 {
            return Err(Error::invalid(Field::Drain, "at most 3600 (one hour)"));
        }
        Ok(())
    }

    /// The port by which a container without a health check shows that it is there.
    pub(crate) fn asked_at(&self) -> Option<u16> {
        self.ports.iter().find(|port| port.protocol == PortProtocol::Tcp).map(|port| port.container_port)
    }

    /// Digest of everything that can't be changed of a container that exists.
    pub(crate) fn shape(&self) -> String {
        let fixed = Self {
            replicas: 0,
            cpu_milli: None,
            memory: None,
            disk: None,
            pids: None,
            ingress: None,
            egress: None,
            restart: RestartPolicy::No,
            drain_s: 0,
            // Host ports belong to the load balancer; the ports of health checks belong to the containers.
            ports: self.ports.iter().map(|p| GroupPort { host_port: None, ..*p }).collect(),
            ..self.clone()
        };
        Digest::of(&serde_json::to_vec(&fixed).unwrap_or_default()).hex()
    }

    /// What can be changed at any time.
    pub(crate) fn live_update(&self) -> ContainerUpdate {
        ContainerUpdate {
            cpu_milli: Some(self.cpu_milli),
            memory: Some(self.memory),
            swap: None,
            pids: self.pids,
            ingress: Some(self.ingress),
            egress: Some(self.egress),
            restart: Some(self.restart),
        }
    }

    pub(crate) fn live_part_is(&self, known: &Container) -> bool {
        let has = known.spec.resources();
        has.cpu_milli == self.cpu_milli
            && has.memory == self.memory
            && (self.pids.is_none() || has.pids == self.pids)
            && has.rates.ingress == self.ingress
            && has.rates.egress == self.egress
            && known.restart == self.restart
    }

    /// A container of the group.
    pub(crate) fn container(&self, group: &Group, name: String) -> NewContainer {
        let mut env: Vec<String> = self.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        env.push(format!("BERTH_SERVICE={}", group.service));
        env.push(format!("BERTH_GROUP={}", group.name));
        NewContainer {
            name: Some(name),
            image: self.image.clone(),
            command: self.command.clone(),
            entrypoint: self.entrypoint.clone(),
            env,
            working_dir: self.working_dir.clone(),
            user: self.user.clone(),
            cpu_milli: self.cpu_milli,
            memory: self.memory,
            pids: self.pids,
            network: NetworkMode::Bridge,
            labels: self.labels.clone(),
            stop_timeout_s: self.stop_timeout_s,
            ingress: self.ingress,
            egress: self.egress,
            restart: self.restart,
            health: self.health.clone(),
            ..NewContainer::default()
        }
    }
}
