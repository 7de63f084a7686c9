//! What commands do to deployments. Every step may be done twice: a server that is killed has its successor do it again.

use std::time::Duration;

use super::rollouts::Move;
use super::{DeploymentSpec, check_room, passing_name};
use crate::containers::{Container, NewContainer};
use crate::core::Core;
use crate::error::Error;
use crate::hosts::Machine;
use crate::tokens::Caller;

/// How long a successor without a health check has to run.
const RUNS_FOR: Duration = Duration::from_secs(1);

impl Core {
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
