//! What commands do to deployments. Every step may be done twice: a server that is killed has its successor do it again.

use berth_operations::Domain as _;
use std::time::Duration;

use super::rollouts::Move;
use super::{DeploymentSpec, check_room, transient_name};
use crate::containers::{Container, NewContainer, NotReady};
use crate::core::Core;
use crate::error::Error;
use crate::hosts::Host;
use berth_identity::Caller;

/// What a deployment is to become.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To<'a> {
    /// Exactly this.
    Exactly(&'a DeploymentSpec),
    /// This image and version, everything else as it is.
    Inheriting(&'a DeploymentSpec),
    /// The version of a roll-out, if it is as the roll-out found it: of that image, and of the version before.
    Moved(&'a Move),
}

impl To<'_> {
    /// The same, of one that is so now; `None` is nothing to do.
    fn of(self, now: &DeploymentSpec) -> Option<DeploymentSpec> {
        match self {
            To::Exactly(spec) => Some(spec.clone()),
            To::Inheriting(DeploymentSpec { image, version, .. }) => {
                Some(DeploymentSpec { image: image.clone(), version: version.clone(), ..now.clone() })
            }
            To::Moved(asked) => {
                let now = now.clone().normalized();
                let found = now.image == asked.image && now.version == asked.from;
                found.then(|| DeploymentSpec { version: asked.to.clone(), ..now })
            }
        }
    }
}

/// What came of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// This container has the place now.
    By(i64),
    /// The container was so already.
    Unchanged(i64),
    /// There was nothing to do.
    Nothing,
}

fn not_ready(why: NotReady) -> Error {
    match why {
        NotReady::TimedOut | NotReady::NotHealthy(_) => Error::Timeout(format!("the new container {why}")),
        why => Error::WrongState(format!("the new container {why}")),
    }
}

impl Core {
    /// A command's step: makes and starts it. May be done twice.
    pub(crate) async fn deployment_make(
        &self,
        caller: &Caller,
        name: &str,
        host: &str,
        spec: &DeploymentSpec,
        activity: i64,
    ) -> Result<i64, Error> {
        let lock = self.deployment_lock(caller.account, name);
        let _busy = lock.lock().await;
        let made = match self.deployment(caller, name).await {
            // By this very step, before a crash.
            Ok(found) if found.made && found.spec == *spec => found.container,
            Ok(_) => return Err(Error::Duplicate(format!("deployment {name} exists already"))),
            Err(Error::NotFound { .. }) => {
                let machine = self.host_by_uid(host).await?;
                let new = spec.container(name.to_owned(), Some((machine.id, host.to_owned())), None);
                self.deployment_add(caller, new, spec, Some(machine), true, activity).await?
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
        host: Option<Host>,
        runs: bool,
        activity_id: i64,
    ) -> Result<Container, Error> {
        let replaces = new.replaces;
        let prepared = self.container_prepare(caller, new).await?;
        let text = serde_json::to_string(spec).map_err(|e| Error::Bug(e.to_string()))?;
        let row = berth_store::Deployment { spec: text, runs, activity_id };
        let (core, caller, spec) = (self.clone(), *caller, spec.clone());
        let gate = self.inner.gate.read().await;
        let made = self
            .write(move |tx| {
                // What others were granted since it was asked for.
                if let Some(host) = host {
                    check_room(tx, caller.account, &host, &spec, &[], replaces)?;
                }
                let (made, event) = core.container_add(tx, &caller, prepared, Vec::new(), false, None)?;
                tx.deployment_add(made.id, &row)?;
                Ok((made, event))
            })
            .await;
        drop(gate);
        let (made, event) = made?;
        self.publish(vec![event]);
        Ok(made)
    }

    /// A command's step: a successor takes a deployment's place. It is started beside the old one, which goes when it is ready; only
    /// where both want the same port of their host the old one is stopped first, and goes on if its successor is not ready. May
    /// be done twice.
    pub(crate) async fn deployment_replace(
        &self,
        caller: &Caller,
        name: &str,
        to: To<'_>,
        activity: i64,
        deadline: i64,
    ) -> Result<Replaced, Error> {
        let lock = self.deployment_lock(caller.account, name);
        // What it is to become is decided by what it is then, not by what it was before others had their turn.
        let _busy = lock.lock().await;
        let old = match self.deployment(caller, name).await {
            Err(Error::NotFound { .. }) if matches!(to, To::Moved(_)) => return Ok(Replaced::Nothing),
            other => other?,
        };
        if !old.made {
            return Err(Error::WrongState(format!("container {name} is not managed by a deployment")));
        }
        let id = old.container.id;
        if self.read(move |tx| Ok(tx.deployment(id)?)).await?.is_some_and(|row| row.activity_id == activity) {
            // It has the place already, by this very step. What was left to be done is to remove the one before.
            self.remove_passing(caller, name).await?;
            return Ok(Replaced::By(id));
        }
        let Some(to) = to.of(&old.spec) else { return Ok(Replaced::Nothing) };
        let temporary = format!("{name}.new.{activity}");
        let made = match self.container_named(caller, &temporary).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => {
                // It rests by its owner's wish; or for an update that was broken off, or because it could not be started.
                let runs = old.container.desired_running
                    || old.container.error.is_some()
                    || self.rests_for_a_successor(caller, name, id).await?;
                self.remove_passing(caller, name).await?;
                let same = old.spec == to && self.is_of(caller, &old.container, &to.full_image()).await?;
                if same && (old.container.state.is_live() || !runs) {
                    return Ok(Replaced::Unchanged(id));
                }
                let machine = self.host_of(&old.container).await?;
                let host = machine.as_ref().map(|m| (m.id, m.facts.id.clone()));
                let new = to.container(temporary, host, Some(id));
                // Decided here, once: the old one rests soon, and a crash then must not be taken for its owner's wish.
                self.deployment_add(caller, new, &to, machine, runs, activity).await?
            }
            Err(error) => return Err(error),
        };
        let into = made.id;
        let runs = self.read(move |tx| Ok(tx.deployment(into)?)).await?.is_some_and(|row| row.runs);
        let result = async {
            if runs {
                self.operations().failpoints().point().await;
                if !self.start_beside(caller, &old.container, into, deadline).await? {
                    self.operations().failpoints().point().await;
                    self.container_stop(caller, made.uid.as_str(), Some(Duration::ZERO)).await?;
                    self.operations().failpoints().point().await;
                    self.container_stop(caller, old.container.uid.as_str(), None).await?;
                    self.operations().failpoints().point().await;
                    let started = self.container_start_number(caller, into).await?;
                    self.operations().failpoints().point().await;
                    self.await_ready(&started, deadline).await.map_err(not_ready)?;
                }
            }
            self.operations().failpoints().point().await;
            let (name, left) = (name.to_owned(), format!("{name}.old.{activity}"));
            self.write(move |tx| {
                if tx.container_take_name(id, into, &name, &left)? {
                    return Ok(());
                }
                Err(Error::WrongState("its successor was removed in the meantime".into()))
            })
            .await
        };
        if let Err(error) = result.await {
            return Err(self.go_back(caller, name, &old.container, runs, &made, error).await);
        }
        // It is to be removed; if that can't be done now it is done later.
        if let Err(error) = self.container_erase_kindly(&old.container).await {
            tracing::warn!(container = %old.container.uid, error = error.chain(), "could not be removed yet");
        }
        Ok(Replaced::By(into))
    }

    /// Whether a container was made from what an image's name stands for now. An image that is gone is no reason to change.
    async fn is_of(&self, caller: &Caller, container: &Container, image: &str) -> Result<bool, Error> {
        match self.image(caller, image).await {
            Ok(found) => Ok(found.digest.to_string() == container.image_digest),
            Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Starts a successor while the old one runs. Whether it is ready; not, where they seem to want the same port: the old one
    /// listens, and the new one ends, or listens nowhere.
    async fn start_beside(&self, caller: &Caller, old: &Container, into: i64, deadline: i64) -> Result<bool, Error> {
        let observed = self.inner.engine.observe(&old.uid).await?;
        if !matches!(observed.state, berth_engine::State::Running { .. }) {
            return Ok(false);
        }
        let old_listens = !self.inner.engine.listening(&old.uid).await?.is_empty();
        let started = self.container_start_number(caller, into).await?;
        self.operations().failpoints().point().await;
        match self.await_ready(&started, deadline).await {
            Ok(()) => Ok(!old_listens || !self.inner.engine.listening(&started.uid).await?.is_empty()),
            Err(NotReady::Ended { .. } | NotReady::Restarted) if old_listens => Ok(false),
            Err(why) => Err(not_ready(why)),
        }
    }

    /// Whether a deployment has a successor that was to run: then it rests only until that is ready.
    async fn rests_for_a_successor(&self, caller: &Caller, name: &str, id: i64) -> Result<bool, Error> {
        let (account, name) = (caller.account, name.to_owned());
        self.read(move |tx| {
            for row in tx.containers_named_from(account, &format!("{name}.new."))? {
                let its = transient_name(&row.name) == Some(name.as_str()) && row.replaces == Some(id);
                if its && tx.deployment(row.id)?.is_some_and(|kept| kept.runs) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// A successor did not become ready: the old one runs again; the text about it.
    async fn go_back(
        &self,
        caller: &Caller,
        name: &str,
        old: &Container,
        runs: bool,
        made: &Container,
        error: Error,
    ) -> Error {
        let said = self.last_lines(caller, made).await;
        // The successor goes last: as long as it is there a crash has all of this done again.
        if let Err(error) = self.container_stop(caller, made.uid.as_str(), Some(Duration::ZERO)).await {
            tracing::warn!(container = %made.uid, error = error.chain(), "a successor could not be stopped");
        }
        self.operations().failpoints().point().await;
        let state = self.inner.engine.observe(&old.uid).await.map(|observed| observed.state);
        let ran_on = matches!(state, Ok(berth_engine::State::Running { .. }));
        let back = if runs { self.container_start_number(caller, old.id).await.map(drop) } else { Ok(()) };
        let end = match back {
            Ok(()) if runs && ran_on => "; what it was before runs on".to_owned(),
            Ok(()) if runs => "; what it was before runs again".to_owned(),
            Ok(()) => String::new(),
            Err(error) => {
                // Nobody wished it to rest: the next update has its successor run.
                if let Err(error) = self.set_desired(old.id, "running").await {
                    tracing::warn!(container = %old.uid, error = error.chain(), "could not be noted as wanted");
                }
                format!("; what it was before could not be started again: {}", error.public())
            }
        };
        self.operations().failpoints().point().await;
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
            let name = name.to_owned();
            let rows = self
                .read(move |tx| {
                    let mut rows = tx.containers_named_from(account, &beginning)?;
                    // Others' names may begin so, and those of their successors.
                    rows.retain(|row| transient_name(&row.name) == Some(name.as_str()));
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
        self.set_desired(found.id, "removed").await?;
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
}
