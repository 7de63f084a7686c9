//! Steps that operations of several kinds are made of.

use std::time::Duration;

use async_trait::async_trait;
use berth_engine::LogOptions;
use berth_identity::Caller;
use berth_operations::{Done, Outcome, Step as _, Work, has_replaced};
use serde::{Deserialize, Serialize};

use super::{Step, StepBody};
use crate::containers::{Container, LogQuery, NotReady};
use crate::core::Core;
use crate::error::{Error, FaultKind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub container: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub container: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    pub container: i64,
}

/// Starts a container for the first time, until those who may log in can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub container: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    pub container: i64,
}

/// Watches for so long what the command's steps have replaced; fails when one of them ends, restarts or becomes unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub ms: u64,
}

/// Fetches an image that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    pub image: String,
}

/// Watches what was replaced for the soak time.
pub(super) fn soak(core: &Core) -> Watch {
    Watch { ms: core.settings().soak_time_ms }
}

/// What came of a step that failed so.
pub(super) fn done_of(error: &Error) -> Done {
    let outcome = match error.kind() {
        FaultKind::NotFound => Outcome::NotFound,
        FaultKind::Timeout => Outcome::TimedOut,
        FaultKind::Bug | FaultKind::Unavailable => {
            tracing::error!(error = error.chain(), "a command's step failed");
            Outcome::Failed
        }
        FaultKind::Invalid
        | FaultKind::Duplicate
        | FaultKind::WrongState
        | FaultKind::InUse
        | FaultKind::NoRoom
        | FaultKind::TooOften
        | FaultKind::Quota
        | FaultKind::Forbidden
        | FaultKind::Upstream => Outcome::Failed,
    };
    Done { outcome, message: error.public(), container: None }
}

#[async_trait]
impl StepBody for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let (caller, deadline) = (&work.caller, work.command.deadline);
        match core.container_start_number(caller, self.container).await {
            Ok(started) if started.group.is_none() => {}
            // A member has to become ready; the message of a failure ends with its last output.
            Ok(found) => drop(core.start_and_await_ready(caller, &found, deadline).await?),
            Err(error @ Error::NotFound { .. }) => return Err(error),
            Err(error) => match core.container_by_number(caller, self.container).await {
                Ok(found) if found.group.is_some() => {
                    core.start_and_await_ready(caller, &found, deadline).await?;
                }
                _ => return Err(error),
            },
        }
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let found = core.container_by_number(&work.caller, self.container).await?;
        core.container_stop(&work.caller, found.uid.as_str(), None).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        core.retire(&work.caller, self.container).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Launch {
    fn name(&self) -> &'static str {
        "launch"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        core.container_start_number(&work.caller, self.container).await?;
        core.await_ssh(self.container).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let found = core.container_by_number(&work.caller, self.container).await?;
        core.container_restart(&work.caller, found.uid.as_str(), None).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn only_waits(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let replaced = core.replaced_by(work.command.id).await?;
        core.stay_ready(&work.caller, &replaced, Duration::from_millis(self.ms)).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Pull {
    fn name(&self) -> &'static str {
        "pull"
    }

    fn only_waits(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let image = &self.image;
        if matches!(core.image(&work.caller, image).await, Err(Error::NotFound { .. })) {
            let pull = core.image_pull(&work.caller, image, None, None, tokio::sync::mpsc::channel(1).0);
            let pulled = tokio::time::timeout(work.time_left(), pull).await;
            pulled.map_err(|_| Error::Timeout(format!("fetching image {image}")))??;
        }
        Ok(Done::success())
    }
}

impl Core {
    /// The containers that a command's steps have put in others' places so far.
    async fn replaced_by(&self, command: i64) -> Result<Vec<i64>, Error> {
        let steps = self.read(move |tx| Ok(tx.activities(command)?)).await?;
        let mut replaced = Vec::new();
        for row in steps {
            if has_replaced(&row) {
                let step: Step =
                    serde_json::from_str(&row.step).map_err(|e| Error::Bug(format!("step {}: {e}", row.id)))?;
                if step.replaces() {
                    replaced.push(row.container_id);
                }
            }
        }
        Ok(replaced)
    }

    /// Takes a container out of its group's load balancer, lets its connections end, and removes it.
    pub(super) async fn retire(&self, caller: &Caller, container: i64) -> Result<(), Error> {
        let found = match self.container_by_number(caller, container).await {
            Ok(found) => found,
            // Done already, by this very step perhaps.
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if found.state.is_live() {
            // What can't be stopped is killed.
            if let Err(error) = self.container_stop(caller, found.uid.as_str(), None).await {
                tracing::warn!(container = %found.uid, error = error.chain(), "a container could not be stopped");
            }
        }
        match self.container_remove(caller, found.uid.as_str(), true).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Starts a container and waits until it is ready; the message of a failure ends with its last output.
    pub(super) async fn start_and_await_ready(
        &self,
        caller: &Caller,
        found: &Container,
        deadline: i64,
    ) -> Result<Container, Error> {
        let failed = |why: String| Error::WrongState(format!("container {} ({}) {why}", found.name, found.id));
        let started = match self.container_start(caller, found.uid.as_str()).await {
            Ok(started) => started,
            Err(error @ Error::NotFound { .. }) => return Err(error),
            Err(error) => {
                let said = self.last_lines(caller, found).await;
                return Err(failed(format!("could not be started: {}{said}", error.public())));
            }
        };
        match self.await_ready(&started, deadline).await {
            Ok(()) => {
                self.forget_trouble(found.id).await?;
                self.member_is_ready(&started).await?;
                self.container(caller, found.uid.as_str()).await
            }
            Err(why) => {
                let said = self.last_lines(caller, found).await;
                self.note_trouble(found.id).await?;
                if why == NotReady::TimedOut {
                    return Err(Error::Timeout(format!("starting container {} ({}){said}", found.name, found.id)));
                }
                Err(failed(format!("{why}{said}")))
            }
        }
    }

    /// The end of a container's output, for the message about its failure.
    pub(crate) async fn last_lines(&self, caller: &Caller, of: &Container) -> String {
        let options = LogOptions { tail: Some(5), ..LogOptions::default() };
        let query = LogQuery { options, ..LogQuery::default() };
        let Ok(mut log) = self.container_logs(caller, of.uid.as_str(), &query).await else {
            return String::new();
        };
        let mut said = String::new();
        while let Ok(Some(line)) = log.next().await {
            said.push_str(&String::from_utf8_lossy(&line.text));
            said.push(if line.ends { '\n' } else { ' ' });
            if said.len() > 8000 {
                break;
            }
        }
        let said: String = said.trim().chars().take(2000).collect();
        if said.is_empty() { said } else { format!("; it said: {said}") }
    }
}
