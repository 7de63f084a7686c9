//! Services and their groups: like containers that are made, changed, deployed to and removed together.

use std::collections::BTreeMap;

use berth_engine::{NetworkMode, PortBinding, PortProtocol, PortRequest};
use berth_image::Digest;
use serde::{Deserialize, Serialize};

use crate::containers::{Container, ContainerUpdate, NewContainer, container};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::operations::{
    ContainerDelete, ContainerStart, ContainerStop, GroupApply, GroupDelete, GroupHistory, GroupStart, GroupStop,
    GroupUpload, Operation, target,
};
use crate::policies::{HealthCheck, RestartPolicy};
use berth_identity::{Caller, check_name};
use berth_operations::{Command, Method};
use berth_types::now;

/// Most containers of a group.
const MOST_REPLICAS: u32 = 1000;
/// Longest name of a service or group, characters: both are part of their containers' names.
const LONGEST_NAME: usize = 50;

/// A service: a name for groups that belong together (production, staging …).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Number, never used again.
    pub id: i64,
    /// Unique in the account.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

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

/// A change between what a group is and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The value's name.
    pub field: String,
    /// As it is; `None` if it is not there.
    pub from: Option<serde_json::Value>,
    /// As it is to be.
    pub to: Option<serde_json::Value>,
}

/// What an `apply` does to a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// `service/group`.
    pub group: String,
    /// `create`, `change` or `none`.
    pub action: &'static str,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The command that does it; `None` if there is nothing to do or it was only asked.
    pub command: Option<Command>,
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
        state: match row.wanted.as_str() {
            "running" => GroupState::Running,
            "stopped" => GroupState::Stopped,
            "removed" => GroupState::Deleting,
            _ => GroupState::Created,
        },
        version: row.version,
        ports,
        created_at: row.created_at,
        members_never_made: row.wanted == "created",
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

    /// Name of the container that an activity makes: the same each time the activity is done.
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

fn check_short(field: Field, name: &str) -> Result<(), Error> {
    check_name(field, name)?;
    if name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid(field, format!("{name:?} is longer than {LONGEST_NAME} characters")));
    }
    Ok(())
}

/// Differences between two specifications, field by field.
fn differences(from: Option<&GroupSpec>, to: &GroupSpec) -> Vec<Difference> {
    let object = |spec: &GroupSpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (from.map(object).unwrap_or_default(), object(to));
    let is_nothing = |value: &serde_json::Value| {
        value.is_null()
            || value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    let mut all = Vec::new();
    for (field, to) in after {
        let from = before.get(&field).cloned();
        if from.as_ref() == Some(&to) || from.is_none() && is_nothing(&to) {
            continue;
        }
        let shown = |value: Option<serde_json::Value>| value.filter(|v| !is_nothing(v));
        all.push(Difference { field, from: shown(from), to: shown(Some(to)) });
    }
    all
}

impl Core {
    /// Makes a service.
    ///
    /// # Errors
    /// [`Error::Duplicate`], [`Error::Invalid`] for the name.
    pub async fn service_create(&self, caller: &Caller, name: &str) -> Result<Service, Error> {
        check_short(Field::Name, name)?;
        let (account, name) = (caller.account, name.to_owned());
        let row = self.write(move |tx| Ok(tx.service_add(account, &name, now())?)).await?;
        Ok(Service { id: row.id, name: row.name, created_at: row.created_at })
    }

    /// The account's services.
    ///
    /// # Errors
    /// The database's own.
    pub async fn services(&self, caller: &Caller) -> Result<Vec<Service>, Error> {
        let account = caller.account;
        let rows = self.read(move |tx| Ok(tx.services(account)?)).await?;
        Ok(rows.into_iter().map(|r| Service { id: r.id, name: r.name, created_at: r.created_at }).collect())
    }

    /// One service, by name or number.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn service(&self, caller: &Caller, reference: &str) -> Result<Service, Error> {
        let all = self.services(caller).await?;
        let number = reference.parse::<i64>().ok();
        let found = all.iter().find(|s| s.name == reference).or_else(|| all.iter().find(|s| Some(s.id) == number));
        found.cloned().ok_or_else(|| Error::NotFound { what: "service", name: reference.into() })
    }

    /// Gives a service another name. Containers keep theirs.
    ///
    /// # Errors
    /// [`Error::Duplicate`], [`Error::NotFound`].
    pub async fn service_rename(&self, caller: &Caller, reference: &str, name: &str) -> Result<Service, Error> {
        check_short(Field::Name, name)?;
        let found = self.service(caller, reference).await?;
        let (id, to) = (found.id, name.to_owned());
        self.write(move |tx| Ok(tx.service_rename(id, &to)?)).await?;
        Ok(Service { name: name.to_owned(), ..found })
    }

    /// Removes a service that has no group.
    ///
    /// # Errors
    /// [`Error::InUse`] if it has groups.
    pub async fn service_remove(&self, caller: &Caller, reference: &str) -> Result<(), Error> {
        let found = self.service(caller, reference).await?;
        if self.write(move |tx| Ok(tx.service_remove(found.id)?)).await? {
            return Ok(());
        }
        Err(Error::InUse(format!("service {} has groups; remove them first", found.name)))
    }

    /// The account's groups.
    ///
    /// # Errors
    /// The database's own.
    pub async fn groups(&self, caller: &Caller) -> Result<Vec<Group>, Error> {
        let account = caller.account;
        let rows = self.read(move |tx| Ok(tx.groups(Some(account))?)).await?;
        rows.into_iter().map(group).collect()
    }

    /// One group, by `service/group` or number.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn group(&self, caller: &Caller, reference: &str) -> Result<Group, Error> {
        let not_found = || Error::NotFound { what: "group", name: reference.into() };
        if let Some((service, name)) = reference.split_once('/') {
            let all = self.groups(caller).await?;
            return all.into_iter().find(|g| g.service == service && g.name == name).ok_or_else(not_found);
        }
        let number = reference.parse::<i64>().map_err(|_| not_found())?;
        let found = self.group_by_number(number).await.map_err(|_| not_found())?;
        if found.account == caller.account { Ok(found) } else { Err(not_found()) }
    }

    pub(crate) async fn group_by_number(&self, id: i64) -> Result<Group, Error> {
        let row = self.read(move |tx| Ok(tx.group(id)?)).await?;
        group(row.ok_or_else(|| Error::NotFound { what: "group", name: id.to_string() })?)
    }

    /// The containers of a group, by number.
    ///
    /// # Errors
    /// The database's own.
    pub async fn group_containers(&self, found: &Group) -> Result<Vec<Container>, Error> {
        let id = found.id;
        let rows = self.read(move |tx| Ok(tx.containers_of_group(id)?)).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| row.wanted != "removed") {
            all.push(self.up_to_date(container(row)?).await?);
        }
        Ok(all)
    }

    /// Makes a group, and by the command that comes with it its containers, which are started.
    ///
    /// # Errors
    /// [`Error::Duplicate`], [`Error::Invalid`], [`Error::NotFound`] for the service, that a port is taken.
    pub async fn group_create(
        &self,
        caller: &Caller,
        service: &str,
        name: &str,
        spec: GroupSpec,
    ) -> Result<(Group, Command), Error> {
        check_short(Field::Name, name)?;
        spec.check(&self.inner.settings)?;
        let service = self.service(caller, service).await?;
        let mut row = berth_store::Group {
            id: 0,
            account_id: caller.account,
            service_id: service.id,
            service: service.name.clone(),
            name: name.to_owned(),
            spec: serde_json::to_string(&spec).map_err(|e| Error::Bug(e.to_string()))?,
            wanted: "created".into(),
            version: 0,
            ports: "[]".into(),
            created_at: now(),
        };
        let row = self
            .write(move |tx| {
                row.id = tx.group_add(&row)?;
                Ok(row)
            })
            .await?;
        let made = group(row)?;
        let taken = async {
            // A port that is taken is told now, not by a command that fails.
            self.refresh_load_balancer(made.id).await?;
            let body = GroupApply { spec: Box::new(spec), method: Method::Parallel };
            self.submit(caller, target::group(made.id), made.full_name(), body).await
        };
        match taken.await {
            Ok(command) => Ok((self.group_by_number(made.id).await?, command)),
            Err(error) => {
                self.group_erase(made.id).await?;
                Err(error)
            }
        }
    }

    /// Brings a group to another specification: by a command.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::WrongState`] if it is being removed.
    pub async fn group_apply(
        &self,
        caller: &Caller,
        found: &Group,
        spec: GroupSpec,
        method: Method,
    ) -> Result<Command, Error> {
        spec.check(&self.inner.settings)?;
        self.submit_of_group(caller, found, GroupApply { spec: Box::new(spec), method }).await
    }

    async fn submit_of_group(
        &self,
        caller: &Caller,
        found: &Group,
        operation: impl Into<Operation>,
    ) -> Result<Command, Error> {
        let operation = operation.into();
        if found.state == GroupState::Deleting && !operation.body().is_removal() {
            return Err(Error::WrongState(format!("group {} is being removed", found.full_name())));
        }
        self.submit(caller, target::group(found.id), found.full_name(), operation).await
    }

    /// Starts a group's containers, with `update` anew, with `image` from another image.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is being removed.
    pub async fn group_start(
        &self,
        caller: &Caller,
        found: &Group,
        update: bool,
        image: Option<String>,
        method: Method,
    ) -> Result<Command, Error> {
        self.submit_of_group(caller, found, GroupStart { update, image, method }).await
    }

    /// Stops a group's containers.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is being removed.
    pub async fn group_stop(&self, caller: &Caller, found: &Group, method: Method) -> Result<Command, Error> {
        self.submit_of_group(caller, found, GroupStop { method }).await
    }

    /// Removes a group with its containers; what waits is overtaken.
    ///
    /// # Errors
    /// The database's own.
    pub async fn group_remove(&self, caller: &Caller, found: &Group) -> Result<Command, Error> {
        self.submit_of_group(caller, found, GroupDelete {}).await
    }

    /// Deploys code from an address as the group's next version.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no http or https address.
    pub async fn group_upload(
        &self,
        caller: &Caller,
        found: &Group,
        address: &str,
        update: bool,
        method: Method,
    ) -> Result<Command, Error> {
        if !address.starts_with("http://") && !address.starts_with("https://") {
            return Err(Error::invalid(Field::Url, "expected an http or https URL"));
        }
        self.submit_of_group(caller, found, GroupUpload { address: address.to_owned(), update, method }).await
    }

    /// Deploys a version that the group had before.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a version that is not kept.
    pub async fn group_history(
        &self,
        caller: &Caller,
        found: &Group,
        version: i64,
        update: bool,
        method: Method,
    ) -> Result<Command, Error> {
        if !self.packages_of(found.id).await?.iter().any(|p| p.version == version) {
            return Err(Error::NotFound { what: "version", name: format!("{version} of group {}", found.full_name()) });
        }
        self.submit_of_group(caller, found, GroupHistory { version, update, method }).await
    }

    /// Gives a group another name. Containers keep theirs.
    ///
    /// # Errors
    /// [`Error::Duplicate`].
    pub async fn group_rename(&self, found: &Group, name: &str) -> Result<Group, Error> {
        check_short(Field::Name, name)?;
        let (id, change) = (found.id, berth_store::GroupChange { name: Some(name.to_owned()), ..Default::default() });
        self.write(move |tx| Ok(tx.group_change(id, &change).map(drop)?)).await?;
        self.group_by_number(id).await
    }

    /// The last of a group: its ports, its code, its row.
    pub(crate) async fn group_erase(&self, id: i64) -> Result<(), Error> {
        let lock = self.load_balancer_lock(id);
        let busy = lock.lock().await;
        self.inner.engine.set_load_balancer(&crate::balancing::load_balancer_id(id)?, 0, &[], &[]).await?;
        self.write(move |tx| Ok(tx.group_remove(id)?)).await?;
        drop(busy);
        self.packages_sweep(crate::packages::SETTLED_S).await?;
        self.collect_layers_soon();
        Ok(())
    }

    /// Has the account's groups be as told, those told only: services and groups that are missing are made. With `dry` only
    /// the differences are told.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing is changed if it is one of the specifications.
    pub async fn apply(
        &self,
        caller: &Caller,
        wanted: Vec<(String, String, GroupSpec)>,
        method: Method,
        dry: bool,
    ) -> Result<Vec<Applied>, Error> {
        for (service, name, spec) in &wanted {
            check_short(Field::Service, service)?;
            check_short(Field::Group, name)?;
            spec.check(&self.inner.settings)?;
        }
        let ports = wanted.iter().flat_map(|(service, name, spec)| {
            spec.ports.iter().filter_map(move |p| Some((p.protocol, p.host_port?, format!("{service}/{name}"))))
        });
        let mut taken: BTreeMap<(String, u16), String> = BTreeMap::new();
        for (protocol, port, group) in ports {
            if let Some(other) = taken.insert((protocol.to_string(), port), group.clone()) {
                return Err(Error::invalid(
                    Field::Ports,
                    format!("port {port}/{protocol} is used by both {other} and {group}"),
                ));
            }
        }
        let known = self.groups(caller).await?;
        let mut all = Vec::new();
        for (service, name, spec) in wanted {
            let found = known.iter().find(|g| g.service == service && g.name == name);
            let differences = differences(found.map(|g| &g.spec), &spec);
            let full = format!("{service}/{name}");
            let mut applied = Applied { group: full, action: "none", differences, command: None };
            match found {
                None => {
                    applied.action = "create";
                    if !dry {
                        match self.service_create(caller, &service).await {
                            Ok(_) | Err(Error::Duplicate(_)) => {}
                            Err(error) => return Err(error),
                        }
                        applied.command = Some(self.group_create(caller, &service, &name, spec).await?.1);
                    }
                }
                // One whose making failed is made now.
                Some(found) if !applied.differences.is_empty() || found.members_never_made => {
                    applied.action = "change";
                    if !dry {
                        applied.command = Some(self.group_apply(caller, found, spec, method).await?);
                    }
                }
                Some(_) => {}
            }
            all.push(applied);
        }
        Ok(all)
    }

    /// Starts a container by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn container_order(&self, caller: &Caller, id: i64, what: ContainerOrder) -> Result<Command, Error> {
        let found = self.container_by_number(caller, id).await?;
        let body = match what {
            ContainerOrder::Start => Operation::from(ContainerStart {}),
            ContainerOrder::Stop => ContainerStop {}.into(),
            ContainerOrder::Delete => ContainerDelete {}.into(),
        };
        self.submit(caller, target::container(found.id), found.name, body).await
    }
}

/// What a command can do with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerOrder {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Remove it, running or not.
    Delete,
}
