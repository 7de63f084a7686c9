//! From start to removal, each step written down before it is done.

use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_engine::{NetworkMode, State};
use berth_store::ContainerChange;

use super::create::signal_number;
use super::{Container, ContainerState, FailureReason, Transition, json};
use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::Caller;
use berth_types::now;

/// Between two collections of unused layers.
const COLLECTION_PAUSE: Duration = Duration::from_millis(200);

fn check_signal(signal: Option<i32>) -> Result<(), Error> {
    match signal {
        Some(number) if !(1..=64).contains(&number) => {
            Err(Error::invalid(Field::Signal, format!("{number}: expected a signal number from 1 to 64")))
        }
        _ => Ok(()),
    }
}

impl Core {
    /// Writes down what is wanted, before anything is done about it.
    pub(crate) async fn set_desired(&self, id: i64, desired: &'static str) -> Result<(), Error> {
        self.write(move |tx| {
            let change = ContainerChange { desired: Some(desired), ..ContainerChange::default() };
            Ok(tx.container_change(id, &change).map(drop)?)
        })
        .await
    }

    /// The same, but a removal that was written down meanwhile stays.
    pub(crate) async fn set_desired_unless_removed(&self, id: i64, desired: &'static str) -> Result<(), Error> {
        self.write(move |tx| {
            if tx.container(id)?.is_some_and(|row| row.desired != "removed") {
                tx.container_change(id, &ContainerChange { desired: Some(desired), ..ContainerChange::default() })?;
            }
            Ok(())
        })
        .await
    }

    /// Has the engine do the run that is written down, and writes down what came of it.
    pub(crate) async fn run(&self, mut target: Container) -> Result<Container, Error> {
        let run = target.runs as u64;
        let begun = std::time::Instant::now();
        let started = self.inner.engine.start(&target.uid, run).await;
        self.inner.meters.starts.observe(started.is_ok(), begun.elapsed());
        match started {
            Ok(()) => {
                let observed = self.inner.engine.observe(&target.uid).await?;
                target.observe(&observed);
                self.watch_health(&target);
                let ended = target.state == ContainerState::Exited;
                let exited = target.exit.clone();
                if ended {
                    // Short programs end before they are looked at: both things are told, in their order.
                    target.exit = None;
                    target = self.record(target, Some("container.started")).await?;
                    target.exit = exited;
                    let again = self.plan_restart(&mut target).await?;
                    target = self.record(target.clone(), Some(target.ending())).await?;
                    if again {
                        self.restart_in_time(&target);
                    }
                    return Ok(target);
                }
                self.record(target, Some("container.started")).await
            }
            Err(error) => {
                let error = Error::from(error);
                target.error = Some(error.public());
                if let Ok(observed) = self.inner.engine.observe(&target.uid).await {
                    target.observe(&observed);
                }
                target.error = Some(error.public());
                // The client hears that it failed: it must not be started behind its back later.
                self.set_desired(target.id, "stopped").await?;
                self.record(target, Some("container.failed")).await?;
                Err(error)
            }
        }
    }

    /// Writes down what is observed.
    pub(crate) async fn record(&self, target: Container, event: Option<&'static str>) -> Result<Container, Error> {
        let (target, event) = self
            .write_observed(move |tx| {
                let change = ContainerChange {
                    state: Some(target.state.word()),
                    detail: Some(json(&target.detail())?),
                    ..ContainerChange::default()
                };
                if !tx.container_change(target.id, &change)? {
                    return Err(Error::NotFound { what: "container", name: target.name });
                }
                let told = event
                    .map(|kind| {
                        let exit = target.exit.as_ref();
                        let detail = serde_json::json!({
                            "name": target.name,
                            "exit_code": exit.map(|e| e.code),
                            "oom_killed": exit.map(|e| e.oom_killed),
                            "oom_kills": target.oom_kills,
                            "error": target.error,
                            "group": target.group,
                        });
                        tx.event_add(now(), target.account, kind, target.uid.as_str(), &detail.to_string())
                    })
                    .transpose()?;
                Ok((target, told))
            })
            .await?;
        self.publish(event.into_iter().collect());
        Ok(target)
    }

    /// Removes engine's and database's part, in this order: what the engine has is owned until the end.
    pub(crate) async fn erase(&self, target: &Container) -> Result<(), Error> {
        // Its counters go with it.
        self.measure_last(target).await?;
        self.inner.engine.remove(&target.uid).await?;
        let (id, account, uid) = (target.id, target.account, target.uid.to_string());
        let (name, group) = (target.name.clone(), target.group);
        // That it is to be removed is on disk: after a power failure it is removed again.
        let event = self
            .write_observed(move |tx| {
                tx.container_remove(id)?;
                tx.meter_end(id, now())?;
                let detail = serde_json::json!({ "name": name, "group": group }).to_string();
                Ok(tx.event_add(now(), account, "container.removed", &uid, &detail)?)
            })
            .await?;
        self.publish(vec![event]);
        Ok(())
    }

    /// Starts it; one that runs stays as it is.
    ///
    /// # Errors
    /// That its program can't be run, with the reason.
    pub async fn container_start(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        self.start_locked(caller, self.container(caller, found.uid.as_str()).await?).await
    }

    /// [`container_start`](Self::container_start) by number.
    pub(crate) async fn container_start_number(&self, caller: &Caller, id: i64) -> Result<Container, Error> {
        let lock = self.lock(id);
        let _busy = lock.lock().await;
        self.start_locked(caller, self.container_by_number(caller, id).await?).await
    }

    async fn start_locked(&self, caller: &Caller, mut target: Container) -> Result<Container, Error> {
        let _doing = self.begin(target.id, Transition::Starting);
        let observed = self.inner.engine.observe(&target.uid).await?;
        if let State::Running { paused, .. } = observed.state {
            // It may have been asked to end by a signal, and not have heeded it: it is wanted again.
            if !target.desired_running {
                self.set_desired(target.id, "running").await?;
            }
            if paused {
                self.inner.engine.resume(&target.uid).await?;
                target.observe(&self.inner.engine.observe(&target.uid).await?);
                target = self.record(target, Some("container.resumed")).await?;
            }
            self.watch_health(&target);
            return Ok(target);
        }
        let _place = self.place_to_run(caller, Some(target.id), target.spec.resources()).await?;
        self.check_disk_limit(&target).await?;
        if target.spec.network == NetworkMode::Host {
            let (core, caller) = (self.clone(), *caller);
            self.read(move |tx| Ok(core.identity().check_host_network(tx, &caller)?)).await?;
        }
        target.trouble = None;
        target.runs = target.runs.max(observed.run as i64) + 1;
        // Somebody starts it: what it did by itself before is forgotten.
        (target.restarts, target.pause, target.next_start) = (0, Duration::ZERO, None);
        let (id, run) = (target.id, target.runs);
        self.write(move |tx| {
            let change = ContainerChange { desired: Some("running"), run: Some(run), ..ContainerChange::default() };
            Ok(tx.container_change(id, &change)?)
        })
        .await?;
        match self.inner.engine.create(&target.spec).await {
            Ok(placement) => {
                target.address = placement.address;
                target.ports = placement.ports;
                self.run(target).await
            }
            Err(error) => {
                let error = Error::from(error);
                self.set_desired(id, "stopped").await?;
                target.error = Some(error.public());
                self.record(target, Some("container.failed")).await?;
                Err(error)
            }
        }
    }

    /// Stops it: signal, grace, kill. One that does not run stays as it is.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn container_stop(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
    ) -> Result<Container, Error> {
        self.container_stop_by(caller, reference, grace, None).await
    }

    /// [`container_stop`](Self::container_stop) by another signal than its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a signal that is none, and those of it.
    pub async fn container_stop_by(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
        signal: Option<i32>,
    ) -> Result<Container, Error> {
        check_signal(signal)?;
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        self.stop_locked(found, grace, signal).await
    }

    pub(super) async fn stop_locked(
        &self,
        mut target: Container,
        grace: Option<Duration>,
        signal: Option<i32>,
    ) -> Result<Container, Error> {
        let _doing = self.begin(target.id, Transition::Stopping);
        // Connections end before it does, unless it is to end at once.
        let _draining = match grace {
            Some(Duration::ZERO) => None,
            _ => self.drain(&target).await?,
        };
        self.set_desired(target.id, "stopped").await?;
        self.measure_before_end(&target).await;
        let id = target.id;
        let before = self.read(move |tx| Ok(tx.container(id)?)).await?.map(|row| ContainerState::of(&row.state));
        let signal = signal.unwrap_or(target.stop_signal);
        let stopped = self.inner.engine.stop(&target.uid, signal, grace.unwrap_or(target.stop_timeout)).await;
        match stopped {
            // Never started, or lost with the host: there is nothing to stop.
            Err(berth_engine::EngineError::NoSuchUnit(_)) => {}
            Err(error) => {
                target.trouble = Some(FailureReason::StopFailed);
                self.record(target, None).await?;
                return Err(error.into());
            }
            Ok(()) => {}
        }
        let observed = self.inner.engine.observe(&target.uid).await?;
        target.observe(&observed);
        target.trouble = None;
        // Its owner wants it stopped from now on, whatever its last start came to.
        target.error = None;
        let waited = target.next_start.take().is_some();
        let event = match before.is_some_and(ContainerState::is_live) {
            true => Some(target.ending()),
            // It was to be started again by its policy.
            false => waited.then_some("container.restart_cancelled"),
        };
        self.record(target, event).await
    }

    /// Stops and starts.
    ///
    /// # Errors
    /// As both.
    pub async fn container_restart(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
    ) -> Result<Container, Error> {
        self.container_restart_by(caller, reference, grace, None).await
    }

    /// [`container_restart`](Self::container_restart) by another signal than its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a signal that is none, and those of it.
    pub async fn container_restart_by(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
        signal: Option<i32>,
    ) -> Result<Container, Error> {
        check_signal(signal)?;
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        // Nobody else takes it meanwhile.
        let _place = self.place_to_run(caller, Some(found.id), found.spec.resources()).await?;
        let stopped = self.stop_locked(found, grace, signal).await?;
        self.start_locked(caller, stopped).await
    }

    /// Sends a signal, by name or number.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no signal, [`Error::WrongState`] if it does not run.
    pub async fn container_kill(&self, caller: &Caller, reference: &str, signal: &str) -> Result<(), Error> {
        let number =
            signal_number(signal).ok_or_else(|| Error::invalid(Field::Signal, format!("invalid signal {signal:?}")))?;
        let found = self.container(caller, reference).await?;
        if number != 9 && number != found.stop_signal {
            return Ok(self.inner.engine.signal(&found.uid, number).await?);
        }
        // Whoever sends these wants it to end: no policy brings it back.
        let id = found.id;
        let before = self.read(move |tx| Ok(tx.container(id)?)).await?.map(|row| row.desired);
        self.set_desired_unless_removed(id, "stopped").await?;
        let sent = self.inner.engine.signal(&found.uid, number).await;
        if sent.is_ok() && number == 9 {
            // What is paused can't die; what is not says so.
            let _ = self.inner.engine.resume(&found.uid).await;
        }
        if sent.is_err() && before.as_deref() == Some("running") {
            self.set_desired_unless_removed(id, "running").await?;
        }
        Ok(sent?)
    }

    /// Removes it with the volumes that nobody named; see [`container_remove`](Self::container_remove).
    ///
    /// # Errors
    /// Those of it. Volumes that can't be removed are left.
    pub async fn container_remove_with_volumes(
        &self,
        caller: &Caller,
        reference: &str,
        force: bool,
    ) -> Result<(), Error> {
        let found = self.container(caller, reference).await?;
        self.container_remove(caller, found.uid.as_str(), force).await?;
        self.remove_anonymous(found.account, &found.spec.mounts).await;
        Ok(())
    }

    /// Removes it; one that runs only with `force`, which kills it.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it runs and `force` is not set.
    pub async fn container_remove(&self, caller: &Caller, reference: &str, force: bool) -> Result<(), Error> {
        let found = self.container(caller, reference).await?;
        if force {
            // Written down first: a crash from here on ends in the removal, never in a container that was merely killed.
            self.set_desired(found.id, "removed").await?;
            // While its group still has counters.
            self.measure_before_end(&found).await;
            if let Err(error) = self.inner.engine.signal(&found.uid, 9).await {
                // Not running is fine; a stop that waits out its grace must not hold up a removal by force.
                tracing::debug!(container = %found.uid, %error, "nothing to kill");
            }
        }
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let id = found.id;
        let row = self.read(move |tx| Ok(tx.container(id)?)).await?;
        if force && row.is_none() {
            // The reconciler saw the end first, and did what was wanted.
            self.collect_layers_soon();
            return Ok(());
        }
        if row.is_none_or(|row| !force && row.desired == "removed") {
            return Err(Error::NotFound { what: "container", name: reference.to_owned() });
        }
        if !force {
            let observed = self.inner.engine.observe(&found.uid).await?;
            if matches!(observed.state, State::Running { .. }) {
                return Err(Error::WrongState(format!("container {} is running; stop it first, or force", found.name)));
            }
            self.set_desired(id, "removed").await?;
        }
        self.erase(&found).await?;
        self.collect_layers_soon();
        Ok(())
    }

    /// In the background: the client need not wait for disk space.
    pub(crate) fn collect_layers_soon(&self) {
        if self.inner.collecting.fetch_add(1, Ordering::SeqCst) > 0 {
            // Whoever is at it does it once more.
            return;
        }
        let core = self.clone();
        tokio::spawn(async move {
            loop {
                let seen = core.inner.collecting.load(Ordering::SeqCst);
                if let Err(error) = core.collect_layers().await {
                    tracing::warn!(error = error.chain(), "layers that nothing uses could not be removed");
                }
                if core.inner.collecting.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    return;
                }
                // Many removals in a row are one collection.
                tokio::time::sleep(COLLECTION_PAUSE).await;
            }
        });
    }
}
