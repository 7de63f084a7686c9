//! Starting again by itself.

use std::time::Duration;

use berth_engine::State;
use berth_store::ContainerChange;

use super::{Container, ContainerState, container};
use crate::core::Core;
use crate::error::Error;
use crate::policies::{RestartPolicy, pause_after};
use berth_types::now;

/// Pause before a restart from which on a container counts as in a crash loop.
const CRASH_LOOP: Duration = Duration::from_millis(1600);

impl Core {
    /// Plans the next start of a container that was just seen to have ended, if its policy wants one. Whether it does.
    pub(crate) async fn plan_restart(&self, ended: &mut Container) -> Result<bool, Error> {
        let Some(exit) = &ended.exit else { return Ok(false) };
        if !ended.restart.applies(exit.code, ended.restarts) {
            return Ok(false);
        }
        // A start that failed has not run at all.
        let ran = ended
            .started_at
            .filter(|_| ended.error.is_none())
            .map_or(0, |at| exit.finished_at.map_or(0, |end| (end - at).max(0)));
        let longest = Duration::from_millis(self.settings().restart_pause_max_ms);
        let pause = pause_after(ended.pause, Duration::from_nanos(ran as u64), longest);
        ended.pause = pause;
        ended.next_start = Some(now() + pause.as_nanos() as i64);
        // The pauses grow: from here on it is a loop that somebody should look at.
        if pause >= CRASH_LOOP {
            let (container, name, account, code) = (&ended.uid, &ended.name, ended.account, exit.code);
            let pause_ms = pause.as_millis() as u64;
            tracing::warn!(%container, name, account, code, pause_ms, restarts = ended.restarts, "crash loop");
        }
        Ok(true)
    }

    /// Does the planned start when its time has come, unless something else happens to the container before.
    pub(crate) fn restart_in_time(&self, planned: &Container) {
        let Some(at) = planned.next_start else { return };
        let (weak, id) = (std::sync::Arc::downgrade(&self.inner), planned.id);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_nanos((at - now()).max(0) as u64)).await;
            let Some(inner) = weak.upgrade() else { return };
            let core = Self { inner };
            if let Err(error) = core.restart_if_due(id, at).await {
                tracing::warn!(container = id, error = error.chain(), "a container could not be started again");
            }
        });
    }

    async fn restart_if_due(&self, id: i64, at: i64) -> Result<(), Error> {
        let lock = self.lock(id);
        let _busy = lock.lock().await;
        let Some(row) = self.read(move |tx| Ok(tx.container(id)?)).await? else { return Ok(()) };
        let wanted = row.desired == "running";
        let mut target = container(row)?;
        if !wanted || target.next_start != Some(at) || target.state != ContainerState::Exited {
            return Ok(());
        }
        target.next_start = None;
        if target.restart == RestartPolicy::No {
            self.record(target, None).await?;
            return Ok(());
        }
        target.restarts += 1;
        self.start_again(target).await
    }

    /// One more run, with the lock held. A start that fails is an end like any other.
    pub(crate) async fn start_again(&self, mut target: Container) -> Result<(), Error> {
        let observed = self.inner.engine.observe(&target.uid).await?;
        if matches!(observed.state, State::Running { .. }) {
            return Ok(());
        }
        target.runs = target.runs.max(observed.run as i64) + 1;
        let (id, run) = (target.id, target.runs);
        let still_wanted = self
            .write(move |tx| {
                // A removal is written down without the lock.
                if tx.container(id)?.is_none_or(|row| row.desired != "running") {
                    return Ok(false);
                }
                let change = ContainerChange { run: Some(run), ..ContainerChange::default() };
                Ok(tx.container_change(id, &change)?)
            })
            .await?;
        if !still_wanted {
            return Ok(());
        }
        let again = target.clone();
        let result = match self.inner.engine.create(&target.spec).await {
            Ok(placement) => {
                target.address = placement.address;
                target.ports = placement.ports;
                self.run(target).await
            }
            Err(error) => Err(error.into()),
        };
        let Err(error) = result else { return Ok(()) };
        tracing::warn!(container = %again.uid, error = error.chain(), "a container could not be started again");
        // It failed to run: wanted all the same, later, unless it is to be removed by now.
        self.set_desired_unless_removed(id, "running").await?;
        let Some(row) = self.read(move |tx| Ok(tx.container(id)?)).await? else { return Ok(()) };
        let mut failed = container(row)?;
        failed.restarts = again.restarts;
        failed.pause = again.pause;
        failed.error.get_or_insert_with(|| error.public());
        let code = if let Error::Start { code, .. } = &error { *code } else { 125 };
        failed.exit = Some(berth_engine::Exit { code, signal: None, oom_killed: false, finished_at: Some(now()) });
        failed.state = ContainerState::Exited;
        if self.plan_restart(&mut failed).await? {
            failed = self.record(failed, None).await?;
            self.restart_in_time(&failed);
        } else {
            self.set_desired_unless_removed(id, "stopped").await?;
            self.record(failed, None).await?;
        }
        Ok(())
    }

    /// At the start of the server: what should run and does not. `rebooted` if the host was started since.
    pub(crate) async fn resume_after_start(
        &self,
        found: &mut Container,
        wanted: &str,
        rebooted: bool,
    ) -> Result<(), Error> {
        if found.state != ContainerState::Exited {
            return Ok(());
        }
        if found.restart == RestartPolicy::No && found.next_start.take().is_some() {
            *found = self.record(found.clone(), None).await?;
        }
        let unhealthy = found.health.as_ref().is_some_and(|h| h.status == crate::policies::HealthStatus::Unhealthy);
        if wanted == "running" && unhealthy && found.health_check.as_ref().is_some_and(|c| c.restart) {
            // Stopped to be started anew, whatever the policy; then the server went.
            found.restarts += 1;
            return self.start_again(found.clone()).await;
        }
        // What could not be started is not, because the host was.
        if wanted != "running" && !(rebooted && found.restart == RestartPolicy::Always && found.error.is_none()) {
            return Ok(());
        }
        if wanted != "running" {
            self.set_desired_unless_removed(found.id, "running").await?;
            found.exit.get_or_insert(berth_engine::Exit {
                code: 0,
                signal: None,
                oom_killed: false,
                finished_at: Some(now()),
            });
        }
        if self.plan_restart(found).await? {
            // The pause is for what fails again and again, not for what a server or a host took down.
            if rebooted {
                found.next_start = Some(now());
            }
            *found = self.record(found.clone(), None).await?;
            self.restart_in_time(found);
        }
        Ok(())
    }
}
