//! What a container is doing, in more words than its state has.

use std::sync::PoisonError;

use berth_engine::{ExecOutput, Session};

use super::in_flight::{FailureReason, InFlight, Transition};
use super::{Container, ContainerState};
use crate::core::Core;
use crate::error::Error;

/// A container in one word, as fine as any dialect tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Made, never started.
    Allocated,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It runs, and somebody has an interactive session in it.
    Login,
    /// It ran and ended by itself with an error.
    Failed,
    /// It was started and runs, but did not become ready.
    RunFailed,
    /// It could not be started, and nothing runs.
    StartFailed,
    /// It is being stopped.
    Stopping,
    /// It does not run, as is right.
    Stopped,
    /// It could not be stopped, and runs.
    StopFailed,
}

/// Somebody who follows a container; at the drop of the last one it may be removed.
#[derive(Debug)]
pub struct Followed {
    core: Core,
    container: i64,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.core.change_in_flight(self.container, |busy| busy.followers = busy.followers.saturating_sub(1));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (core, container) = (self.core.clone(), self.container);
            runtime.spawn(async move { crate::reconcile::look_at(&core, container).await });
        }
    }
}

/// Ends with what it stands for.
pub(crate) struct TransitionGuard<'a> {
    core: &'a Core,
    container: i64,
}

impl Drop for TransitionGuard<'_> {
    fn drop(&mut self) {
        self.core.change_in_flight(self.container, |busy| busy.doing = None);
    }
}

impl Core {
    fn change_in_flight(&self, container: i64, change: impl FnOnce(&mut InFlight)) {
        let mut all = self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = all.entry(container).or_default();
        change(busy);
        if busy.doing.is_none() && busy.sessions == 0 && busy.followers == 0 {
            all.remove(&container);
        }
    }

    pub(crate) fn begin(&self, container: i64, doing: Transition) -> TransitionGuard<'_> {
        self.change_in_flight(container, |busy| busy.doing = Some(doing));
        TransitionGuard { core: self, container }
    }

    /// Somebody waits for what the container says, or for its end: until this is dropped it is not removed by itself.
    pub fn follow(&self, container: i64) -> Followed {
        self.change_in_flight(container, |busy| busy.followers += 1);
        Followed { core: self.clone(), container }
    }

    /// When a container that has ended is to be removed by itself, nanoseconds since 1970; `None` while somebody follows it.
    pub(crate) fn removal_due(&self, ended: &super::Container) -> Option<i64> {
        let followed = {
            let all = self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&ended.id).is_some_and(|busy| busy.followers > 0)
        };
        let at = ended.exit.as_ref().and_then(|exit| exit.finished_at).unwrap_or(0);
        let wait = i64::try_from(self.settings().attended_ms).unwrap_or(i64::MAX / 1_000_000) * 1_000_000;
        // A client finds a server that was restarted again within that time.
        let due = if ended.attended { at.max(self.inner.begun_at).saturating_add(wait) } else { at };
        (!followed).then_some(due)
    }

    /// A session that counts as a login until its process has ended.
    pub(crate) fn counted(&self, container: i64, session: Session) -> Session {
        let (core, Session { mut output, input }) = (self.clone(), session);
        let (said, heard) = tokio::sync::mpsc::channel(16);
        self.change_in_flight(container, |busy| busy.sessions += 1);
        tokio::spawn(async move {
            while let Some(piece) = tokio::select! {
                piece = output.recv() => piece,
                () = said.closed() => None,
            } {
                let ended = matches!(piece, ExecOutput::Ended(_));
                if said.send(piece).await.is_err() || ended {
                    break;
                }
            }
            core.change_in_flight(container, |busy| busy.sessions = busy.sessions.saturating_sub(1));
        });
        Session { output: heard, input }
    }

    /// Notes that a container runs, but did not become ready.
    pub(crate) async fn note_trouble(&self, id: i64) -> Result<(), Error> {
        let lock = self.lock(id);
        let _busy = lock.lock().await;
        let mut noted = self.noted(id).await?;
        if noted.state.is_live() {
            noted.trouble = Some(FailureReason::RunFailed);
            self.record(noted, None).await?;
        }
        Ok(())
    }

    /// A container that ran and was not ready is well by now.
    pub(crate) async fn forget_trouble(&self, id: i64) -> Result<(), Error> {
        let lock = self.lock(id);
        let _busy = lock.lock().await;
        let mut noted = self.noted(id).await?;
        if noted.trouble == Some(FailureReason::RunFailed) {
            noted.trouble = None;
            self.record(noted, None).await?;
        }
        Ok(())
    }

    fn has_been_up(&self, of: &Container) -> bool {
        let ready_time = i64::try_from(self.settings().ready_time_ms).unwrap_or(i64::MAX / 1_000_000) * 1_000_000;
        of.started_at.is_some_and(|at| berth_types::now() - at >= ready_time)
    }

    /// What a container is doing.
    pub fn container_phase(&self, of: &Container) -> ContainerPhase {
        let busy = self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner).get(&of.id).copied();
        let busy = busy.unwrap_or_default();
        match (busy.doing, of.state) {
            (Some(Transition::Starting), _) => ContainerPhase::Starting,
            (Some(Transition::Stopping), _) => ContainerPhase::Stopping,
            (None, ContainerState::Created) if of.error.is_some() => ContainerPhase::StartFailed,
            (None, ContainerState::Created) => ContainerPhase::Allocated,
            (None, ContainerState::Running | ContainerState::Paused) => match of.trouble {
                // Without a check nobody tells when it is well: it is when it has been up as long as a new one has to be.
                Some(FailureReason::RunFailed) if of.health_check.is_none() && self.has_been_up(of) => {
                    ContainerPhase::Running
                }
                Some(FailureReason::RunFailed) => ContainerPhase::RunFailed,
                Some(FailureReason::StopFailed) => ContainerPhase::StopFailed,
                None if busy.sessions > 0 => ContainerPhase::Login,
                None => ContainerPhase::Running,
            },
            (None, ContainerState::Exited) if of.error.is_some() => ContainerPhase::StartFailed,
            (None, ContainerState::Exited) => {
                let code = of.exit.as_ref().map_or(0, |exit| exit.code);
                if of.desired_running && code != 0 { ContainerPhase::Failed } else { ContainerPhase::Stopped }
            }
        }
    }
}
