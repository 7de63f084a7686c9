//! Watching containers: their end, what they use, what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_engine::{Exit, LogLine, LogOptions, LogReader, State, Stats, UnitId};

use super::{ContainerState, Usage};
use crate::core::Core;
use crate::error::Error;
use crate::tokens::Caller;

impl Core {
    /// Returns when it is not running, with how it ended; at once if it does not run.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container, or it was removed meanwhile.
    pub async fn container_wait(&self, caller: &Caller, reference: &str) -> Result<Option<Exit>, Error> {
        let found = self.container(caller, reference).await?;
        let mut changes = self.inner.engine.changes();
        loop {
            let observed = self.inner.engine.observe(&found.uid).await?;
            match observed.state {
                State::Running { .. } => {}
                State::Exited(exit) => return Ok(Some(exit)),
                State::Created => return Ok(None),
                State::Absent => return Err(Error::NotFound { what: "container", name: reference.to_owned() }),
            }
            // A nudge, or a while: nudges may be missed when there are many.
            let _ = tokio::time::timeout(Duration::from_secs(5), async {
                while changes.recv().await.is_ok_and(|id| id != found.uid) {}
            })
            .await;
        }
    }

    /// What these containers use, as far as they run; all of the account's if none is named. Takes two readings, `between`
    /// apart, for the CPU.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that is named and is not there.
    pub async fn container_usage(
        &self,
        caller: &Caller,
        references: &[String],
        between: Duration,
    ) -> Result<Vec<Usage>, Error> {
        let mut all = Vec::new();
        if references.is_empty() {
            all = self.containers(caller, Some(ContainerState::Running), 0, 100_000).await?.items;
        } else {
            for reference in references {
                all.push(self.container(caller, reference).await?);
            }
        }
        let ids: Vec<UnitId> = all.iter().map(|c| c.uid.clone()).collect();
        let before: BTreeMap<UnitId, Stats> = self.inner.engine.stats(&ids).await?.into_iter().collect();
        tokio::time::sleep(between).await;
        let after = self.inner.engine.stats(&ids).await?;
        let machine = self.host().cpus as f64 * 1000.0;
        let usage = after.into_iter().filter_map(|(uid, stats)| {
            let container = all.iter().find(|c| c.uid == uid)?;
            let earlier = before.get(&uid)?;
            let elapsed = (stats.at - earlier.at).max(1) as f64;
            let cpus = stats.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / elapsed;
            let allowed = container.spec.cpu_milli.map_or(machine, |m| (m as f64).min(machine)) / 1000.0;
            Some(Usage {
                uid,
                name: container.name.clone(),
                stats,
                cpu_percent: cpus * 100.0,
                cpu_percent_of_limit: (cpus / allowed * 100.0).min(100.0),
                memory_percent: stats.memory as f64 / stats.memory_limit.max(1) as f64 * 100.0,
            })
        });
        Ok(usage.collect())
    }

    /// The container's output; with `follow` it goes on until the container has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the engine's own.
    pub async fn container_logs(
        &self,
        caller: &Caller,
        reference: &str,
        options: &LogOptions,
        follow: bool,
    ) -> Result<LogFollower, Error> {
        let found = self.container(caller, reference).await?;
        let reader = match self.inner.engine.logs(&found.uid, options).await {
            Err(berth_engine::EngineError::NoSuchUnit(_)) => None,
            other => Some(other?),
        };
        Ok(LogFollower { core: self.clone(), uid: found.uid, reader, follow, ended: false })
    }
}

/// Pieces of a container's output, as they come.
pub struct LogFollower {
    core: Core,
    uid: UnitId,
    reader: Option<Box<dyn LogReader>>,
    follow: bool,
    ended: bool,
}

impl std::fmt::Debug for LogFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFollower").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl LogFollower {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if let Some(line) = reader.next().await? {
                return Ok(Some(line));
            }
            if !self.follow || self.ended {
                return Ok(None);
            }
            let observed = self.core.inner.engine.observe(&self.uid).await?;
            // What was written before the end is read once more.
            self.ended = !matches!(observed.state, State::Running { .. });
            if !self.ended {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
