//! Deployments: containers that are known by a name of their owner's, in their host's network, always on. Whatever is done to
//! one is a command; another image or other bounds are a successor, which has to become ready before the old one goes.

mod rollouts;
mod steps;

use std::path::PathBuf;

use berth_engine::{Mount, MountSource, NetworkMode};
use berth_image::Digest;
use serde::{Deserialize, Serialize};

pub(crate) use self::rollouts::Move;
pub use self::rollouts::Rollout;
pub(crate) use self::steps::{Replaced, To};
use crate::containers::{Container, NewContainer};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::hosts::Host;
use crate::operations::{DeploymentCreate, DeploymentDelete, DeploymentUpdate, Operation, target};
use crate::policies::RestartPolicy;
use berth_identity::{Caller, check_name};
use berth_operations::{Command, QueuedOperation, Target};

/// What is asked for of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentSpec {
    /// Name of the image, without the version.
    pub image: String,
    /// Its version; `latest` if empty.
    pub version: String,
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Folders and files of the host, and where they are in the container.
    pub volumes: Vec<(String, String)>,
    /// CPUs that are kept for it.
    pub requests_cpu: f64,
    /// MiB that are kept for it.
    pub requests_memory: u64,
    /// CPUs that it may use at most; 0 is no bound.
    pub limits_cpu: f64,
    /// MiB that it may use at most; 0 is no bound.
    pub limits_memory: u64,
}

/// A deployment to be made or changed.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDeployment {
    /// Its name, unique in the account.
    pub name: String,
    /// What is asked for.
    pub spec: DeploymentSpec,
}

/// A deployment: a container, and what was asked for.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The container.
    pub container: Container,
    /// What was asked for; made up for a container that was made otherwise.
    pub spec: DeploymentSpec,
    /// Whether it was made as one.
    pub made: bool,
}

/// MiB: a PiB.
const MOST_MEMORY: u64 = 1 << 30;

/// A number that follows from some words, for what has no row of its own.
fn number_of(words: &[&str]) -> i64 {
    let digest = Digest::of(words.join("\n").as_bytes()).hex();
    i64::from_str_radix(&digest[..15], 16).unwrap_or(0)
}

pub(crate) fn deployment_target(account: i64, name: &str) -> Target {
    target::deployment(number_of(&["deployment", &account.to_string(), name]))
}

/// A deployment that is made with others: its name, the CPUs and the MiB that are to be kept for it.
pub type Reservation = (String, f64, u64);

/// Whether a host has left what a deployment asks to be kept for it. `also` is what others of the account ask for that are made
/// with it, as far as they are not there yet; `but` a container whose place it takes.
fn check_room(
    tx: &berth_store::Tx<'_>,
    account: i64,
    host: &Host,
    spec: &DeploymentSpec,
    also: &[Reservation],
    but: Option<i64>,
) -> Result<(), Error> {
    if spec.requests_cpu == 0.0 && spec.requests_memory == 0 {
        return Ok(());
    }
    let mut kept = std::collections::BTreeMap::<i64, (f64, u64)>::new();
    for (id, replaces, text) in tx.deployments_on_host(host.id)? {
        // Of one that is being replaced and its successor the larger: it may go either way.
        let place = replaces.unwrap_or(id);
        if Some(place) == but {
            continue;
        }
        let asked: DeploymentSpec = serde_json::from_str(&text).map_err(|e| Error::Bug(e.to_string()))?;
        let most = kept.entry(place).or_default();
        *most = (most.0.max(asked.requests_cpu), most.1.max(asked.requests_memory));
    }
    for (name, cpus, memory) in also {
        if tx.container_named(account, name)?.is_none() {
            // Numbers of containers are positive.
            kept.insert(-1 - kept.len() as i64, (*cpus, *memory));
        }
    }
    let cpus = kept.values().fold(host.facts.cpus as f64, |left, (cpus, _)| left - cpus);
    let memory = kept.values().fold(host.facts.memory >> 20, |left, (_, memory)| left.saturating_sub(*memory));
    if spec.requests_cpu > cpus + 1e-9 {
        let (asked, left) = (spec.requests_cpu, cpus.max(0.0));
        return Err(Error::Insufficient { resource: "cpu", requested: asked.to_string(), left: format!("{left:.2}") });
    }
    if spec.requests_memory > memory {
        let asked = spec.requests_memory;
        let (requested, left) = (format!("{asked} MB"), memory.to_string());
        return Err(Error::Insufficient { resource: "memory", requested, left });
    }
    Ok(())
}

/// Names that a deployment's successor and its forerunner have while one takes the other's place: `NAME.new.7`, `NAME.old.7`.
fn transient_name(name: &str) -> Option<&str> {
    let (rest, number) = name.rsplit_once('.')?;
    let number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    rest.strip_suffix(".new").or_else(|| rest.strip_suffix(".old")).filter(|_| number)
}

/// Most characters of a deployment's name: what is made of it is a container's name, too.
const LONGEST_NAME: usize = 100;

fn check_deployment_name(name: &str) -> Result<(), Error> {
    check_name(Field::DeploymentName, name)?;
    if name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid(Field::DeploymentName, format!("longer than {LONGEST_NAME} characters")));
    }
    if transient_name(name).is_some() {
        return Err(Error::invalid(Field::DeploymentName, format!("the name {name:?} is reserved for berth")));
    }
    Ok(())
}

impl DeploymentSpec {
    /// What is kept of a container's deployment.
    pub(crate) fn kept(kept: &berth_store::Deployment, container: i64) -> Result<Self, Error> {
        let spec = serde_json::from_str(&kept.spec);
        spec.map_err(|e| Error::Bug(format!("deployment of container {container}: {e}")))
    }

    /// Image and version.
    pub fn full_image(&self) -> String {
        if self.version.is_empty() { self.image.clone() } else { format!("{}:{}", self.image, self.version) }
    }

    /// The same with the version where it belongs, and told: `app:1` is version 1 of `app`, and `app` its `latest`.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        if self.version.is_empty() && !self.image.contains('@') {
            let full = self.image.clone();
            self.image = crate::metering::image_name(&full).to_owned();
            let version = full.strip_prefix(&self.image).and_then(|rest| rest.strip_prefix(':'));
            self.version = version.filter(|v| !v.is_empty()).unwrap_or("latest").to_owned();
        }
        self
    }

    fn of(c: &Container) -> Self {
        let variable = |text: &String| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        let bind = |mount: &Mount| match &mount.source {
            MountSource::Bind { source } => {
                Some((source.to_string_lossy().into_owned(), mount.target.to_string_lossy().into_owned()))
            }
            _ => None,
        };
        Self {
            image: c.image.clone(),
            version: String::new(),
            env: c.spec.env.iter().filter_map(variable).collect(),
            volumes: c.spec.mounts.iter().filter_map(bind).collect(),
            requests_cpu: 0.0,
            requests_memory: 0,
            limits_cpu: c.spec.cpu_milli.map_or(0.0, |milli| milli as f64 / 1000.0),
            limits_memory: c.spec.memory.unwrap_or(0) >> 20,
        }
        .normalized()
    }

    /// What can be told to be wrong before anything is done.
    fn check(&self) -> Result<(), Error> {
        crate::images::full_name(&self.full_image())?;
        for (field, value) in [(Field::CpuRequest, self.requests_cpu), (Field::CpuLimit, self.limits_cpu)] {
            if !value.is_finite() || !(0.0..=4096.0).contains(&value) {
                return Err(Error::invalid(field, format!("0 to 4096 cores, not {value}")));
            }
        }
        if self.limits_cpu > 0.0 && self.requests_cpu > self.limits_cpu {
            let (requests, limits) = (self.requests_cpu, self.limits_cpu);
            return Err(Error::invalid(Field::CpuRequest, format!("{requests} exceed the limit of {limits}")));
        }
        if self.limits_memory > 0 && self.requests_memory > self.limits_memory {
            let (requests, limits) = (self.requests_memory, self.limits_memory);
            return Err(Error::invalid(Field::MemoryRequest, format!("{requests} exceed the limit of {limits}")));
        }
        if self.limits_memory > 0 && !(4..=MOST_MEMORY).contains(&self.limits_memory) {
            let given = self.limits_memory;
            return Err(Error::invalid(Field::MemoryLimit, format!("4 to {MOST_MEMORY} MB, not {given}")));
        }
        if self.requests_memory > MOST_MEMORY {
            let given = self.requests_memory;
            return Err(Error::invalid(Field::MemoryRequest, format!("{MOST_MEMORY} MB at most, not {given}")));
        }
        if let Some((key, _)) =
            self.env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(Error::invalid(Field::Env, format!("invalid variable name {key:?}")));
        }
        let mut places = std::collections::HashSet::new();
        if let Some((_, twice)) = self.volumes.iter().find(|(_, place)| !places.insert(place)) {
            return Err(Error::invalid(Field::Volumes, format!("duplicate volume {twice:?}")));
        }
        if self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() > 128 << 10 {
            return Err(Error::invalid(Field::Env, "more than 128 KiB"));
        }
        Ok(())
    }

    fn mounts(&self) -> Vec<Mount> {
        let mount = |(source, target): &(String, String)| Mount {
            target: PathBuf::from(target),
            source: MountSource::Bind { source: PathBuf::from(source) },
            read_only: false,
        };
        self.volumes.iter().map(mount).collect()
    }

    fn container(&self, name: String, host: Option<(i64, String)>, replaces: Option<i64>) -> NewContainer {
        NewContainer {
            name: Some(name),
            image: self.full_image(),
            env: self.env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            cpu_milli: (self.limits_cpu > 0.0).then_some(((self.limits_cpu * 1000.0) as u64).max(10)),
            memory: (self.limits_memory > 0).then_some(self.limits_memory << 20),
            mounts: self.mounts(),
            network: NetworkMode::Host,
            restart: RestartPolicy::Always,
            stdin: true,
            host,
            replaces,
            ..NewContainer::default()
        }
    }
}

impl Core {
    /// One deployment of the caller's account by its exact name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn deployment(&self, caller: &Caller, name: &str) -> Result<Deployment, Error> {
        let gone = || Error::NotFound { what: "deployment", name: name.to_owned() };
        let found = self.container_named(caller, name).await.map_err(|error| match error {
            Error::NotFound { .. } => gone(),
            other => other,
        })?;
        let mut all = self.deployments_of(vec![found]).await?;
        all.pop().ok_or_else(gone)
    }

    /// The container that has a deployment's place, and what is kept of it; `None` where there is none.
    pub(crate) async fn deployment_row(
        &self,
        account: i64,
        name: &str,
    ) -> Result<Option<(i64, berth_store::Deployment)>, Error> {
        let name = name.to_owned();
        self.read(move |tx| {
            let Some(found) = tx.container_named(account, &name)? else { return Ok(None) };
            Ok(tx.deployment(found.id)?.map(|kept| (found.id, kept)))
        })
        .await
    }

    async fn deployments_of(&self, all: Vec<Container>) -> Result<Vec<Deployment>, Error> {
        self.read(move |tx| {
            let mut found = Vec::with_capacity(all.len());
            for container in all {
                let kept = tx.deployment(container.id)?;
                let made = kept.is_some();
                let spec = match kept {
                    Some(kept) => DeploymentSpec::kept(&kept, container.id)?,
                    None => DeploymentSpec::of(&container),
                };
                found.push(Deployment { container, spec, made });
            }
            Ok(found)
        })
        .await
    }

    /// The account's deployments on a host, by number.
    ///
    /// # Errors
    /// The database's own.
    pub async fn deployments_on(&self, caller: &Caller, host: i64) -> Result<Vec<Deployment>, Error> {
        let account = caller.account;
        let rows = self.read(move |tx| Ok(tx.containers_on_host(Some(account), host)?)).await?;
        let rows = rows.into_iter().filter(|row| row.replaces.is_none());
        let all = rows.map(crate::containers::container).collect::<Result<Vec<_>, _>>()?;
        self.deployments_of(all).await
    }

    async fn check_deployment(
        &self,
        caller: &Caller,
        host: &Host,
        new: &NewDeployment,
        also: Vec<Reservation>,
        but: Option<i64>,
    ) -> Result<(), Error> {
        check_deployment_name(&new.name)?;
        new.spec.check()?;
        let (host, spec, account) = (host.clone(), new.spec.clone(), caller.account);
        let (core, of) = (self.clone(), *caller);
        self.read(move |tx| {
            core.identity().check_host_network(tx, &of)?;
            check_room(tx, account, &host, &spec, &also, but)
        })
        .await?;
        let (core, caller, mut mounts) = (self.clone(), *caller, new.spec.mounts());
        let checking = tokio::task::spawn_blocking(move || core.check_mounts(&caller, &mut mounts));
        checking.await.map_err(|e| Error::Bug(e.to_string()))?
    }

    /// Makes a deployment on a host, by a command. `also` is what others that are made with it ask to be kept.
    ///
    /// # Errors
    /// [`Error::Duplicate`], [`Error::Invalid`], [`Error::NoRoom`], [`Error::Forbidden`] for a folder of the host.
    pub async fn deployment_create(
        &self,
        caller: &Caller,
        host: &Host,
        new: NewDeployment,
        also: Vec<Reservation>,
    ) -> Result<Command, Error> {
        self.check_deployment(caller, host, &new, also, None).await?;
        if self.deployment(caller, &new.name).await.is_ok() {
            return Err(Error::Duplicate(format!("deployment {} exists already", new.name)));
        }
        let body = DeploymentCreate { host: host.facts.id.clone(), spec: Box::new(new.spec) };
        self.submit(caller, deployment_target(caller.account, &new.name), new.name, body).await
    }

    /// Changes a deployment, by a command; its host stays. With `inherit` only its image and version, everything else is as it is
    /// when that comes about.
    ///
    /// # Errors
    /// [`Error::NotFound`]; as [`deployment_create`](Self::deployment_create).
    pub async fn deployment_update(
        &self,
        caller: &Caller,
        host: &Host,
        new: NewDeployment,
        inherit: bool,
    ) -> Result<Command, Error> {
        let found = self.deployment(caller, &new.name).await?;
        if !found.made {
            return Err(Error::WrongState(format!("container {} is not managed by a deployment", new.name)));
        }
        if found.container.host != host.id {
            return Err(Error::invalid(Field::DeploymentHost, format!("deployment {} is on another host", new.name)));
        }
        self.check_deployment(caller, host, &new, Vec::new(), Some(found.container.id)).await?;
        let body = DeploymentUpdate { host: host.facts.id.clone(), spec: Box::new(new.spec), inherit };
        self.submit(caller, deployment_target(caller.account, &new.name), new.name, body).await
    }

    /// Removes a deployment, by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn deployment_delete(&self, caller: &Caller, name: &str) -> Result<Command, Error> {
        let target = deployment_target(caller.account, name);
        let host = match self.deployment(caller, name).await {
            Ok(found) => self.host_of(&found.container).await?.map(|m| m.facts.id).unwrap_or_default(),
            Err(error) => {
                // One that is still being made can be removed, too.
                match self.deployment_making(caller, name).await? {
                    Some(host) => host,
                    None => return Err(error),
                }
            }
        };
        let body = DeploymentDelete { host };
        self.submit(caller, target, name.to_owned(), body).await
    }

    /// Whether a deployment of that name has been asked for, and its container is not written down yet.
    pub async fn deployment_is_being_made(&self, caller: &Caller, name: &str) -> bool {
        matches!(self.deployment_making(caller, name).await, Ok(Some(_)))
    }

    /// The host of a deployment that is being made.
    async fn deployment_making(&self, caller: &Caller, name: &str) -> Result<Option<String>, Error> {
        let target = deployment_target(caller.account, name);
        let open = self.read(move |tx| Ok(tx.commands_open(target.kind, target.id)?)).await?;
        let host_of = |row: berth_store::Command| match serde_json::from_str::<QueuedOperation<Operation>>(&row.body) {
            Ok(QueuedOperation { body: Operation::DeploymentCreate(asked), .. }) => Some(asked.host),
            _ => None,
        };
        Ok(open.into_iter().find_map(host_of))
    }

    /// The host that a container is on.
    ///
    /// # Errors
    /// The database's own.
    pub async fn host_of(&self, container: &Container) -> Result<Option<Host>, Error> {
        let id = container.host;
        self.read(move |tx| Ok(tx.host(id)?)).await?.map(|row| self.host_of_row(row)).transpose()
    }

    fn deployment_lock(&self, account: i64, name: &str) -> std::sync::Arc<tokio::sync::Mutex<()>> {
        // Containers' numbers are positive, groups' load balancers negative and small.
        self.lock(i64::MIN + deployment_target(account, name).id / 2)
    }

    /// Starts a deployment, when nothing else is being done to it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; that its program can't be run.
    pub async fn deployment_start(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let id = self.deployment(caller, name).await?.container.id;
        self.container_start_number(caller, id).await.map(drop)
    }

    /// Stops a deployment, when nothing else is being done to it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; that it can't be stopped.
    pub async fn deployment_stop(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let found = self.deployment(caller, name).await?.container;
        self.container_stop(caller, found.uid.as_str(), None).await.map(drop)
    }

    /// Stops and starts a deployment, when nothing else is being done to it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; that it can't be stopped, or its program can't be run.
    pub async fn deployment_restart(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let found = self.deployment(caller, name).await?.container;
        self.container_restart(caller, found.uid.as_str(), None).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::DeploymentSpec;

    fn spec() -> DeploymentSpec {
        DeploymentSpec {
            image: "app".into(),
            version: "1".into(),
            env: vec![("A".into(), "b".into())],
            volumes: Vec::new(),
            requests_cpu: 0.5,
            requests_memory: 16,
            limits_cpu: 1.0,
            limits_memory: 32,
        }
    }

    #[test]
    fn specifications_are_checked() {
        assert!(spec().check().is_ok());
        let wrong = |spec: DeploymentSpec| spec.check().expect_err("refused").to_string();
        assert!(wrong(DeploymentSpec { requests_cpu: 2.0, ..spec() }).starts_with("cpu_request"));
        assert!(wrong(DeploymentSpec { requests_memory: 64, ..spec() }).starts_with("memory_request"));
        assert!(wrong(DeploymentSpec { limits_cpu: f64::NAN, ..spec() }).starts_with("cpu_limit"));
        assert!(wrong(DeploymentSpec { image: "UPPER".into(), ..spec() }).starts_with("image"));
        assert!(wrong(DeploymentSpec { env: vec![("a=b".into(), String::new())], ..spec() }).starts_with("env"));
        assert!(DeploymentSpec { requests_cpu: 9.0, limits_cpu: 0.0, ..spec() }.check().is_ok(), "no bound");
    }
}
