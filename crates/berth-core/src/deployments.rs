//! Deployments: containers that are known by a name of their owner's, in their host's network, always on. Whatever is done to
//! one is a command; another image or other bounds are a successor, which has to prove itself before the old one goes.

use std::path::PathBuf;
use std::time::Duration;

use berth_engine::{Mount, MountSource, NetworkMode};
use berth_image::Digest;
use serde::{Deserialize, Serialize};

use crate::commands::{Body, Command, Target};
use crate::containers::{Container, NewContainer};
use crate::core::Core;
use crate::error::Error;
use crate::hosts::Machine;
use crate::policies::RestartPolicy;
use crate::tokens::{Caller, check_name};

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

/// A roll-out of a version over an image's deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Only on hosts of this area; empty is all.
    pub area: String,
    /// Only on hosts in this operator's network; empty is all.
    pub operator: String,
    /// Of a hundred; the same deployments come first when it is raised.
    pub percent: u32,
    /// Image without the version.
    pub image: String,
    /// The version that they are to have.
    pub version: String,
}

/// One change of a roll-out: everything but the version stays as it is at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Move {
    pub(crate) fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone(), ..self.clone() }
    }
}

/// MiB: a PiB.
const MOST_MEMORY: u64 = 1 << 30;
/// How long a successor without a health check has to run.
const RUNS_FOR: Duration = Duration::from_secs(1);

/// A number that follows from some words, for what has no row of its own.
fn number_of(words: &[&str]) -> i64 {
    let digest = Digest::of(words.join("\n").as_bytes()).hex();
    i64::from_str_radix(&digest[..15], 16).unwrap_or(0)
}

pub(crate) fn deployment_target(account: i64, name: &str) -> Target {
    Target::Deployment(number_of(&["deployment", &account.to_string(), name]))
}

/// Where a deployment stands among all, the same whatever the others are: who is chosen for a share of a roll-out stays so
/// when the share grows.
fn rank(name: &str, image: &str) -> i64 {
    number_of(&["rank", image, name])
}

/// Whether a host has left what a deployment asks to be kept for it. `also` is what others that are made with it ask for, CPUs
/// and MiB; `but` a container whose place it takes.
fn check_room(
    tx: &berth_store::Tx<'_>,
    host: i64,
    facts: &berth_engine::HostFacts,
    spec: &DeploymentSpec,
    also: (f64, u64),
    but: Option<i64>,
) -> Result<(), Error> {
    if spec.requests_cpu == 0.0 && spec.requests_memory == 0 {
        return Ok(());
    }
    let (mut cpus, mut memory) = (facts.cpus as f64 - also.0, (facts.memory >> 20).saturating_sub(also.1));
    for text in tx.deployments_on_host(host, but)? {
        let kept: DeploymentSpec = serde_json::from_str(&text).map_err(|e| Error::Bug(e.to_string()))?;
        cpus -= kept.requests_cpu;
        memory = memory.saturating_sub(kept.requests_memory);
    }
    if spec.requests_cpu > cpus + 1e-9 {
        let (asked, left) = (spec.requests_cpu, cpus.max(0.0));
        return Err(Error::NoRoom(format!("Insufficient cpu: {asked} requested, {left:.2} left")));
    }
    if spec.requests_memory > memory {
        let asked = spec.requests_memory;
        return Err(Error::NoRoom(format!("Insufficient memory: {asked} MB requested, {memory} left")));
    }
    Ok(())
}

/// Names that a deployment's successor and its forerunner have while one takes the other's place: `NAME.new.7`, `NAME.old.7`.
fn passing_name(name: &str) -> Option<&str> {
    let (rest, number) = name.rsplit_once('.')?;
    let number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    rest.strip_suffix(".new").or_else(|| rest.strip_suffix(".old")).filter(|_| number)
}

/// Most characters of a deployment's name: what is made of it is a container's name, too.
const LONGEST_NAME: usize = 100;

fn check_deployment_name(name: &str) -> Result<(), Error> {
    check_name("deploymentname", name)?;
    if name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid("deploymentname", format!("more than {LONGEST_NAME} characters")));
    }
    if passing_name(name).is_some() {
        return Err(Error::invalid("deploymentname", format!("{name:?} is kept for what berth makes by itself")));
    }
    Ok(())
}

impl DeploymentSpec {
    /// Image and version.
    pub fn full_image(&self) -> String {
        if self.version.is_empty() { self.image.clone() } else { format!("{}:{}", self.image, self.version) }
    }

    /// The same with the version where it belongs, and told: `app:1` is version 1 of `app`, and `app` its `latest`.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if self.version.is_empty() && !self.image.contains('@') {
            let full = self.image.clone();
            self.image = crate::meters::image_name(&full).to_owned();
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
        .settled()
    }

    /// What can be told to be wrong before anything is done.
    fn check(&self) -> Result<(), Error> {
        crate::images::full_name(&self.full_image())?;
        for (field, value) in [("requestscpu", self.requests_cpu), ("limitscpu", self.limits_cpu)] {
            if !value.is_finite() || !(0.0..=4096.0).contains(&value) {
                return Err(Error::invalid(field, format!("0 to 4096 cores, not {value}")));
            }
        }
        if self.limits_cpu > 0.0 && self.requests_cpu > self.limits_cpu {
            let (requests, limits) = (self.requests_cpu, self.limits_cpu);
            return Err(Error::invalid("requestscpu", format!("{requests} are more than limitscpu, {limits}")));
        }
        if self.limits_memory > 0 && self.requests_memory > self.limits_memory {
            let (requests, limits) = (self.requests_memory, self.limits_memory);
            return Err(Error::invalid("requestsmemory", format!("{requests} are more than limitsmemory, {limits}")));
        }
        if self.limits_memory > 0 && !(4..=MOST_MEMORY).contains(&self.limits_memory) {
            let given = self.limits_memory;
            return Err(Error::invalid("limitsmemory", format!("4 to {MOST_MEMORY} MB, not {given}")));
        }
        if self.requests_memory > MOST_MEMORY {
            let given = self.requests_memory;
            return Err(Error::invalid("requestsmemory", format!("{MOST_MEMORY} MB at most, not {given}")));
        }
        if let Some((key, _)) =
            self.env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(Error::invalid("env", format!("{key:?} is not the name of a variable")));
        }
        let mut places = std::collections::HashSet::new();
        if let Some((_, twice)) = self.volumes.iter().find(|(_, place)| !places.insert(place)) {
            return Err(Error::invalid("volumes", format!("{twice:?} twice")));
        }
        if self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() > 128 << 10 {
            return Err(Error::invalid("env", "more than 128 KiB"));
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
            host_network_allowed: true,
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

    async fn deployments_of(&self, all: Vec<Container>) -> Result<Vec<Deployment>, Error> {
        self.read(move |tx| {
            let mut found = Vec::with_capacity(all.len());
            for container in all {
                let kept = tx.deployment(container.id)?;
                let made = kept.is_some();
                let spec = match kept {
                    Some(text) => serde_json::from_str(&text)
                        .map_err(|e| Error::Bug(format!("deployment of container {}: {e}", container.id)))?,
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
        let rows = self.read(move |tx| Ok(tx.containers_on_host(account, host)?)).await?;
        let rows = rows.into_iter().filter(|row| row.replaces.is_none());
        let all = rows.map(crate::containers::container).collect::<Result<Vec<_>, _>>()?;
        self.deployments_of(all).await
    }

    async fn check_deployment(
        &self,
        caller: &Caller,
        host: &Machine,
        new: &NewDeployment,
        also: (f64, u64),
        but: Option<i64>,
    ) -> Result<(), Error> {
        check_deployment_name(&new.name)?;
        new.spec.check()?;
        let (facts, spec, id) = (host.facts.clone(), new.spec.clone(), host.id);
        self.read(move |tx| check_room(tx, id, &facts, &spec, also, but)).await?;
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
        host: &Machine,
        new: NewDeployment,
        also: (f64, u64),
    ) -> Result<Command, Error> {
        self.check_deployment(caller, host, &new, also, None).await?;
        if self.deployment(caller, &new.name).await.is_ok() {
            return Err(Error::Duplicate(format!("deployments.apps \"{}\" already exists", new.name)));
        }
        let body = Body::DeploymentCreate { host: host.facts.id.clone(), spec: Box::new(new.spec) };
        self.order(caller, deployment_target(caller.account, &new.name), new.name, body).await
    }

    /// Changes a deployment, by a command; its host stays.
    ///
    /// # Errors
    /// [`Error::NotFound`]; as [`deployment_create`](Self::deployment_create).
    pub async fn deployment_update(
        &self,
        caller: &Caller,
        host: &Machine,
        new: NewDeployment,
    ) -> Result<Command, Error> {
        let found = self.deployment(caller, &new.name).await?;
        if !found.made {
            return Err(Error::WrongState(format!("container {} was not made as a deployment", new.name)));
        }
        if found.container.host != host.id {
            return Err(Error::invalid("uuid", format!("deployment {} is on another host", new.name)));
        }
        self.check_deployment(caller, host, &new, (0.0, 0), Some(found.container.id)).await?;
        let body = Body::DeploymentUpdate { host: host.facts.id.clone(), spec: Box::new(new.spec) };
        self.order(caller, deployment_target(caller.account, &new.name), new.name, body).await
    }

    /// Removes a deployment, by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn deployment_delete(&self, caller: &Caller, name: &str) -> Result<Command, Error> {
        let target = deployment_target(caller.account, name);
        let host = match self.deployment(caller, name).await {
            Ok(found) => self.machine_of(&found.container).await?.map(|m| m.facts.id).unwrap_or_default(),
            Err(error) => {
                // One that is still being made can be removed, too.
                let making = self.read(move |tx| Ok(tx.command_next(target.kind(), target.id())?)).await?;
                let made_on = making.and_then(|row| serde_json::from_str::<crate::commands::Order>(&row.body).ok());
                match made_on.map(|order| order.body) {
                    Some(Body::DeploymentCreate { host, .. }) => host,
                    _ => return Err(error),
                }
            }
        };
        let body = Body::DeploymentDelete { host };
        self.order(caller, target, name.to_owned(), body).await
    }

    /// The machine that a container is on.
    ///
    /// # Errors
    /// The database's own.
    pub async fn machine_of(&self, container: &Container) -> Result<Option<Machine>, Error> {
        let id = container.host;
        self.read(move |tx| Ok(tx.host(id)?)).await?.map(|row| self.machine(row)).transpose()
    }

    /// The deployments that a roll-out is for, those that come first in front; with each what it is and whether it is in the
    /// share.
    async fn rollout_choice(&self, account: i64, asked: &Rollout) -> Result<Vec<(Deployment, bool)>, Error> {
        let hosts: std::collections::HashSet<i64> = self
            .machines()
            .await?
            .into_iter()
            .filter(|m| {
                (asked.area.is_empty() || m.area == asked.area)
                    && (asked.operator.is_empty() || m.operator == asked.operator)
            })
            .map(|m| m.id)
            .collect();
        let filter = berth_store::ContainerFilter { account: Some(account), limit: u32::MAX, ..Default::default() };
        let all = self.read(move |tx| Ok(tx.containers(&filter)?)).await?.into_iter().filter(|row| {
            row.replaces.is_none()
                && row.wanted != "removed"
                && hosts.contains(&row.host_id)
                && crate::meters::image_name(&row.image) == asked.image
        });
        let all = all.map(crate::containers::container).collect::<Result<Vec<_>, _>>()?;
        let mut found = self.deployments_of(all).await?;
        // Containers that were made otherwise have ports, commands and networks that a successor would lose.
        found.retain(|d| d.made);
        found.sort_by_key(|d| (rank(&d.container.name, &asked.image), d.container.id));
        let share = (found.len() as u64 * u64::from(asked.percent)).div_ceil(100) as usize;
        Ok(found.into_iter().enumerate().map(|(n, d)| (d, n < share)).collect())
    }

    /// Moves a share of an image's deployments to a version, a batch at a time; halts and takes back what it moved when one
    /// does not prove itself.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub async fn rollout(&self, caller: &Caller, asked: Rollout) -> Result<Command, Error> {
        if !(1..=100).contains(&asked.percent) {
            return Err(Error::invalid("percent", format!("1 to 100, not {}", asked.percent)));
        }
        crate::images::full_name(&format!("{}:{}", asked.image, asked.version))?;
        if asked.version.is_empty() {
            return Err(Error::invalid("imageversion", "empty"));
        }
        let target = Target::Rollout(number_of(&["rollout", &caller.account.to_string(), &asked.image]));
        let name = format!("{} {}%", asked.image, asked.percent);
        self.order(caller, target, name, Body::Rollout { asked }).await
    }

    /// What a roll-out comes to, now that it is its turn.
    pub(crate) async fn rollout_moves(&self, account: i64, asked: &Rollout) -> Result<Vec<Move>, Error> {
        let mut moves = Vec::new();
        for (found, chosen) in self.rollout_choice(account, asked).await? {
            let spec = found.spec.settled();
            if chosen && spec.version != asked.version {
                let (from, to) = (spec.version, asked.version.clone());
                moves.push(Move { name: found.container.name, image: spec.image, from, to });
            }
        }
        Ok(moves)
    }

    /// Deployments of a batch of a roll-out.
    pub(crate) fn batch_of(&self, count: usize) -> usize {
        let percent = usize::from(self.inner.settings.rollout_batch_percent.clamp(1, 100));
        (count * percent).div_ceil(100).max(1)
    }

    fn deployment_lock(&self, account: i64, name: &str) -> std::sync::Arc<tokio::sync::Mutex<()>> {
        // Containers' numbers are positive, groups' fronts negative and small.
        self.lock(i64::MIN + deployment_target(account, name).id() / 2)
    }

    /// A command's step: makes and starts it. May be done twice.
    pub(crate) async fn deployment_make(
        &self,
        caller: &Caller,
        name: &str,
        host: &str,
        spec: &DeploymentSpec,
    ) -> Result<i64, Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let made = match self.deployment(caller, name).await {
            // By this very step, before a crash.
            Ok(found) if found.spec == *spec => found.container,
            Ok(_) => return Err(Error::Duplicate(format!("deployments.apps \"{name}\" already exists"))),
            Err(Error::NotFound { .. }) => {
                let machine = self.machine_by_uid(host).await?;
                let new = spec.container(name.to_owned(), Some((machine.id, host.to_owned())), None);
                self.deployment_add(caller, new, spec, Some(machine), true).await?
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = self.container_start_number(caller, made.id).await {
            // Its name and its room are for one that can be started.
            self.container_erase_kindly(&made).await?;
            return Err(error);
        }
        Ok(made.id)
    }

    /// Writes down a container and what was asked for of it, together; and whether it `runs` when it has taken another's place.
    async fn deployment_add(
        &self,
        caller: &Caller,
        new: NewContainer,
        spec: &DeploymentSpec,
        host: Option<Machine>,
        runs: bool,
    ) -> Result<Container, Error> {
        let replaces = new.replaces;
        let prepared = self.container_prepare(caller, new).await?;
        let text = serde_json::to_string(spec).map_err(|e| Error::Bug(e.to_string()))?;
        let (core, caller, spec) = (self.clone(), *caller, spec.clone());
        let gate = self.inner.gate.read().await;
        let made = self
            .write(move |tx| {
                // What others were granted since it was asked for.
                if let Some(host) = host {
                    check_room(tx, host.id, &host.facts, &spec, (0.0, 0), replaces)?;
                }
                let (made, event) = core.container_add(tx, &caller, prepared, Vec::new(), false, None)?;
                tx.deployment_add(made.id, &text, runs)?;
                Ok((made, event))
            })
            .await;
        drop(gate);
        let (made, event) = made?;
        self.tell(vec![event]);
        Ok(made)
    }

    /// A command's step: one change of a roll-out, of a deployment that is still as the roll-out found it. `None` is nothing to
    /// do: it is gone, or somebody has given it another image or version meanwhile. May be done twice.
    pub(crate) async fn deployment_move(
        &self,
        caller: &Caller,
        asked: &Move,
        activity: i64,
    ) -> Result<Option<i64>, Error> {
        let moved = async {
            let spec = self.deployment(caller, &asked.name).await?.spec.settled();
            // At its end already, it may be half way there by this very step.
            if spec.image != asked.image || (spec.version != asked.from && spec.version != asked.to) {
                return Ok(None);
            }
            let to = DeploymentSpec { version: asked.to.clone(), ..spec };
            self.deployment_replace(caller, &asked.name, &to, activity).await.map(Some)
        };
        match moved.await {
            Err(Error::NotFound { what: "deployment", .. }) => Ok(None),
            other => other,
        }
    }

    /// A command's step: a successor takes a deployment's place. Both are in the host's network and may want the same ports, so
    /// the old one rests while the new one proves itself, and goes on if it does not. May be done twice.
    pub(crate) async fn deployment_replace(
        &self,
        caller: &Caller,
        name: &str,
        to: &DeploymentSpec,
        activity: i64,
    ) -> Result<i64, Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let temporary = format!("{name}.new.{activity}");
        let old = self.deployment(caller, name).await?;
        let made = match self.container_named(caller, &temporary).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => {
                self.remove_passing(caller, name).await?;
                if old.spec == *to && (old.container.state.is_live() || !old.container.wanted_running) {
                    return Ok(old.container.id);
                }
                let machine = self.machine_of(&old.container).await?;
                let host = machine.as_ref().map(|m| (m.id, m.facts.id.clone()));
                let new = to.container(temporary, host, Some(old.container.id));
                // Decided here, once: the old one rests soon, and a crash then must not be taken for its owner's wish.
                self.deployment_add(caller, new, to, machine, old.container.wanted_running).await?
            }
            Err(error) => return Err(error),
        };
        let id = made.id;
        if self.read(move |tx| Ok(tx.deployment_runs(id)?)).await? {
            self.inner.trip.point().await;
            let result = async {
                self.container_stop(caller, old.container.uid.as_str(), None).await?;
                self.inner.trip.point().await;
                let started = self.container_start_number(caller, made.id).await?;
                self.inner.trip.point().await;
                self.proves_itself(&started).await
            };
            if let Err(error) = result.await {
                return Err(self.go_back(caller, name, &old.container, &made, error).await);
            }
        }
        self.inner.trip.point().await;
        let (from, into, name, left) = (old.container.id, made.id, name.to_owned(), format!("{name}.old.{activity}"));
        self.write(move |tx| Ok(tx.container_take_name(from, into, &name, &left)?)).await?;
        // It is to be removed; if that can't be done now it is done later.
        if let Err(error) = self.container_erase_kindly(&old.container).await {
            tracing::warn!(container = %old.container.uid, error = error.chain(), "could not be removed yet");
        }
        Ok(made.id)
    }

    /// A successor has not proven itself: the old one runs again; what is to be told of it.
    async fn go_back(&self, caller: &Caller, name: &str, old: &Container, made: &Container, error: Error) -> Error {
        let said = self.last_lines(caller, made).await;
        // The successor goes last: as long as it is there a crash has all of this done again.
        if let Err(error) = self.container_stop(caller, made.uid.as_str(), Some(Duration::ZERO)).await {
            tracing::warn!(container = %made.uid, error = error.chain(), "a successor could not be stopped");
        }
        self.inner.trip.point().await;
        let end = match self.container_start_number(caller, old.id).await {
            Ok(_) => "; what it was before runs again".to_owned(),
            Err(error) => format!("; what it was before could not be started again: {}", error.public()),
        };
        self.inner.trip.point().await;
        match self.container_remove(caller, made.uid.as_str(), true).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(container = %made.uid, error = error.chain(), "a successor could not be removed yet");
            }
        }
        let message = format!("deployment {name}: {}{said}{end}", error.public());
        match error {
            Error::Timeout(_) => Error::Timeout(message),
            _ => Error::WrongState(message),
        }
    }

    /// Removes what updates of a deployment left that were broken off for good.
    async fn remove_passing(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let account = caller.account;
        for beginning in [format!("{name}.new."), format!("{name}.old.")] {
            let rows = self
                .read(move |tx| {
                    let mut rows = tx.containers_named_from(account, &beginning)?;
                    // Others may be called so that are nobody's successors.
                    rows.retain(|row| passing_name(&row.name).is_some());
                    let made = rows.into_iter().map(|row| Ok(tx.deployment(row.id)?.map(|_| row)));
                    made.filter_map(Result::transpose).collect::<Result<Vec<_>, Error>>()
                })
                .await?;
            for row in rows {
                self.container_erase_kindly(&crate::containers::container(row)?).await?;
            }
        }
        Ok(())
    }

    /// Ends one that is to be removed as it likes to be ended, and removes it.
    async fn container_erase_kindly(&self, found: &Container) -> Result<(), Error> {
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        self.want(found.id, "removed").await?;
        let running = matches!(self.inner.engine.observe(&found.uid).await?.state, berth_engine::State::Running { .. });
        if running {
            self.measure_before_end(found).await;
            // What can't be stopped is killed.
            let _ = self.inner.engine.stop(&found.uid, found.stop_signal, found.stop_timeout).await;
        }
        self.erase(found).await?;
        self.collect_layers_soon();
        Ok(())
    }

    /// A command's step. May be done twice.
    pub(crate) async fn deployment_remove(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        match self.deployment(caller, name).await {
            Ok(found) => self.container_erase_kindly(&found.container).await?,
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.remove_passing(caller, name).await
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

    /// Whether a container that was just started goes on, and is well where its image says how that is told.
    async fn proves_itself(&self, started: &Container) -> Result<(), Error> {
        let begun = std::time::Instant::now();
        let limit = started.health_check.as_ref().map_or(RUNS_FOR, |check| {
            check.start_period + (check.interval + check.timeout) * (check.retries + 1) + Duration::from_secs(10)
        });
        loop {
            let observed = self.inner.engine.observe(&started.uid).await?;
            if let berth_engine::State::Exited(exit) = &observed.state {
                return Err(Error::WrongState(format!("ended with exit code {}", exit.code)));
            }
            if observed.run as i64 > started.runs {
                return Err(Error::WrongState("ended at once and was started again".into()));
            }
            if started.health_check.is_some() {
                match self.noted(started.id).await?.health.as_ref().map(|h| h.status) {
                    Some(crate::HealthStatus::Healthy) => return Ok(()),
                    Some(crate::HealthStatus::Unhealthy) => return Err(Error::WrongState("is unhealthy".into())),
                    Some(crate::HealthStatus::Starting) | None => {}
                }
            }
            if begun.elapsed() > limit {
                return if started.health_check.is_some() {
                    Err(Error::Timeout("becoming healthy".into()))
                } else {
                    Ok(())
                };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeploymentSpec, number_of, rank};

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
        assert!(wrong(DeploymentSpec { requests_cpu: 2.0, ..spec() }).starts_with("requestscpu"));
        assert!(wrong(DeploymentSpec { requests_memory: 64, ..spec() }).starts_with("requestsmemory"));
        assert!(wrong(DeploymentSpec { limits_cpu: f64::NAN, ..spec() }).starts_with("limitscpu"));
        assert!(wrong(DeploymentSpec { image: "UPPER".into(), ..spec() }).starts_with("image"));
        assert!(wrong(DeploymentSpec { env: vec![("a=b".into(), String::new())], ..spec() }).starts_with("env"));
        assert!(DeploymentSpec { requests_cpu: 9.0, limits_cpu: 0.0, ..spec() }.check().is_ok(), "no bound");
    }

    #[test]
    fn shares_of_a_roll_out_are_stable_and_even() {
        let names: Vec<String> = (0..1000).map(|n| format!("d{n}")).collect();
        let first = |count: usize, names: &[String]| {
            let mut all: Vec<&String> = names.iter().collect();
            all.sort_by_key(|name| rank(name, "app"));
            all.into_iter().take(count).cloned().collect::<std::collections::BTreeSet<_>>()
        };
        let (twenty, fifty) = (first(200, &names), first(500, &names));
        assert!(twenty.is_subset(&fifty), "the same come first");
        assert_ne!(twenty, names.iter().take(200).cloned().collect());
        assert!(number_of(&["a"]) > 0 && number_of(&["a"]) != number_of(&["b"]));
    }
}
