//! When a container that was started is ready, and whether it stays well: the one place where both are decided. Every
//! replacement (of a deployment, of a group's member, by a roll-out) waits here before the old container goes.

use std::time::{Duration, Instant};

use berth_engine::State;

use super::{Container, ContainerState, container};
use crate::core::Core;
use crate::error::Error;
use crate::policies::HealthStatus;
use crate::takes_connections;
use berth_identity::Caller;
use berth_types::now;

/// Between two looks at a container that is not ready yet.
const PAUSE: Duration = Duration::from_millis(20);

/// Why a container is not ready, or no longer well. The text follows the container's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("ended with exit code {code}{}", if *.oom_killed { ", out of memory (OOM-killed)" } else { "" })]
    Ended { code: i32, oom_killed: bool },
    #[error("ended and was restarted")]
    Restarted,
    #[error("is unhealthy: {0}")]
    Unhealthy(String),
    #[error("was removed in the meantime")]
    Removed,
    #[error("was not healthy within {0} s")]
    NotHealthy(u64),
    #[error("was not ready before the operation timed out")]
    TimedOut,
    #[error("could not be observed: {0}")]
    Unknown(String),
}

impl Core {
    /// Waits until a container that was just started is ready: healthy where it has a health check; else up for the readiness
    /// time (the setting `ready_time_ms`, counted from its start) without an end or a restart, and, where its group has a port,
    /// taking connections there or up for `ready_wait_s`. Gives up at `deadline`, nanoseconds since 1970.
    pub(crate) async fn await_ready(&self, started: &Container, deadline: i64) -> Result<(), NotReady> {
        let unknown = |error: Error| NotReady::Unknown(error.public());
        let begun = Instant::now();
        let ready_time = Duration::from_millis(self.settings().ready_time_ms);
        let port_wait = Duration::from_secs(self.settings().ready_wait_s).max(ready_time);
        let port = match started.group {
            Some(id) => self.group_by_number(id).await.ok().and_then(|group| group.spec.asked_at()),
            None => None,
        };
        loop {
            let observed = self.inner.engine.observe(&started.uid).await.map_err(|error| unknown(error.into()))?;
            let up = match &observed.state {
                State::Running { started_at, .. } => Duration::from_nanos((now() - started_at).max(0) as u64),
                State::Exited(exit) => return Err(NotReady::Ended { code: exit.code, oom_killed: exit.oom_killed }),
                State::Absent | State::Created => return Err(NotReady::Removed),
            };
            if observed.run as i64 > started.runs {
                return Err(NotReady::Restarted);
            }
            if let Some(check) = &started.health_check {
                let health = self.noted(started.id).await.map_err(unknown)?.health;
                match health.as_ref().map(|health| health.status) {
                    Some(HealthStatus::Healthy) => return Ok(()),
                    Some(HealthStatus::Unhealthy) => {
                        return Err(NotReady::Unhealthy(health.and_then(|h| h.last_failure).unwrap_or_default()));
                    }
                    Some(HealthStatus::Starting) | None => {}
                }
                let longest = check.start_period + (check.interval + check.timeout) * (check.retries + 1);
                let longest = longest + Duration::from_secs(10);
                if begun.elapsed() > longest {
                    return Err(NotReady::NotHealthy(longest.as_secs()));
                }
            } else if up >= ready_time {
                match (port, started.address) {
                    // One that does not listen in time runs on all the same: it may listen later.
                    (Some(port), Some(address)) if up < port_wait => {
                        if takes_connections((address, port)).await {
                            return Ok(());
                        }
                    }
                    _ => return Ok(()),
                }
            }
            if now() > deadline {
                return Err(NotReady::TimedOut);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What is wrong with a container that was ready: it ended, was started again by its policy, or became unhealthy. `None`
    /// also where its owner stopped or removed it since: that says nothing about what runs in it.
    pub(crate) async fn ready_no_more(&self, id: i64) -> Result<Option<(String, NotReady)>, Error> {
        let row = self.read(move |tx| Ok(tx.container(id)?)).await?;
        let Some(row) = row.filter(|row| row.desired == "running") else { return Ok(None) };
        let known = self.up_to_date(container(row)?).await?;
        let why = if known.restarts > 0 {
            NotReady::Restarted
        } else if let Some(exit) = known.exit.as_ref().filter(|_| known.state == ContainerState::Exited) {
            NotReady::Ended { code: exit.code, oom_killed: exit.oom_killed }
        } else if let Some(health) = known.health.filter(|health| health.status == HealthStatus::Unhealthy) {
            NotReady::Unhealthy(health.last_failure.unwrap_or_default())
        } else {
            return Ok(None);
        };
        Ok(Some((known.name, why)))
    }

    /// Watches containers that were ready for `time`: the first that is ready no more ends it, with its name, the reason and
    /// the last lines of its output.
    pub(crate) async fn stay_ready(&self, caller: &Caller, containers: &[i64], time: Duration) -> Result<(), Error> {
        let mut changes = self.inner.engine.changes();
        let until = Instant::now() + if containers.is_empty() { Duration::ZERO } else { time };
        loop {
            for id in containers {
                let Some((name, why)) = self.ready_no_more(*id).await? else { continue };
                let said = self.last_lines(caller, &self.noted(*id).await?).await;
                return Err(Error::WrongState(format!("container {name} ({id}) {why} after it was ready{said}")));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Woken by whatever happens to any container; ill health is no news of the engine's, so a while is the limit.
            let _ = tokio::time::timeout(left.min(Duration::from_millis(200)), changes.recv()).await;
        }
    }
}
