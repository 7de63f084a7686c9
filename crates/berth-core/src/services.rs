//! Services and their groups: like containers that are made, changed, deployed to and removed together.

pub(crate) mod revisions;
pub(crate) mod spec;

use std::collections::BTreeMap;

pub use revisions::GroupRevision;
pub(crate) use spec::group;
pub use spec::{Group, GroupPort, GroupSpec, GroupState};

use crate::containers::{Container, container};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::operations::{
    ContainerDelete, ContainerStart, ContainerStop, GroupApply, GroupDelete, GroupHistory, GroupStart, GroupStop,
    GroupUpload, Operation, target,
};
use berth_identity::{Caller, check_name};
use berth_operations::{Command, Method};
use berth_types::now;

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
        for row in rows.into_iter().filter(|row| row.desired != "removed") {
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
        spec.check(&self.settings())?;
        let service = self.service(caller, service).await?;
        let mut row = berth_store::Group {
            id: 0,
            account_id: caller.account,
            service_id: service.id,
            service: service.name.clone(),
            name: name.to_owned(),
            spec: serde_json::to_string(&spec).map_err(|e| Error::Bug(e.to_string()))?,
            desired: "created".into(),
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
            // A port that is taken is refused now, not by a command that fails.
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
        spec.check(&self.settings())?;
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

    /// Removes a group with its containers; what waits is superseded.
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
            spec.check(&self.settings())?;
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
