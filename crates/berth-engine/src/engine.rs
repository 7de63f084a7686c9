//! The trait.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::abilities::Abilities;
use crate::types::{HostFacts, LogLine, LogOptions, Observed, Placement, PortProtocol, State, UnitId, UnitSpec};

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It has no such container.
    #[error("the engine has no container {0}")]
    NoSuchUnit(UnitId),
    /// The container does not run.
    #[error("container {0} is not running")]
    NotRunning(UnitId),
    /// The host's port is used by another container or program.
    #[error("port {1}/{0} of the host is in use")]
    PortInUse(PortProtocol, u16),
    /// No port of the range is free.
    #[error("no port from {0} to {1} is free on the host")]
    NoFreePort(u16, u16),
    /// The host has no room for it: memory, disk, addresses.
    #[error("the host has no room: {0}")]
    NoRoom(String),
    /// The program could not be run: it is not in the image, not executable, or a setting of the container is wrong.
    #[error("{text}")]
    Start {
        /// The step that failed, with the value.
        text: String,
        /// The exit code that Docker gives it: 127 there is no such program, 126 it can't be run, 125 anything else.
        code: i32,
    },
    /// It runs, but its processes are stopped.
    #[error("container {0} is paused")]
    Paused(UnitId),
    /// This engine can't do that.
    #[error("{0} is not possible on this engine")]
    Unsupported(&'static str),
    /// It took longer than it may.
    #[error("timed out: {0}")]
    Timeout(String),
    /// It can't be as asked; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Anything else; the text names the step.
    #[error("{0}")]
    Failed(String),
}

/// Pieces of a log, as they come.
#[async_trait]
pub trait LogReader: Send {
    /// The next piece; `None` when there is no more now. Call again later to follow.
    ///
    /// # Errors
    /// What reading said.
    async fn next(&mut self) -> Result<Option<LogLine>, EngineError>;
}

/// A socket that listens in a container.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: std::net::TcpListener,
    /// Turns true when the run has ended. The engine waits a moment until this is dropped: connections are closed before that,
    /// or their ends are never heard of.
    pub ended: tokio::sync::watch::Receiver<bool>,
}

/// A stream of ids of containers that are worth observing again: a nudge, never the news itself.
pub type Changes = broadcast::Receiver<UnitId>;

/// A place where workloads run: what every engine can do. What only some can is an ability ([`Engine::abilities`]).
///
/// Contract ([`contract::check`](crate::contract::check)): a call repeated with the same values does no more than the
/// first one, and what the engine needs after a restart is on disk, never in memory alone.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What it can do beyond these methods.
    fn abilities(&self) -> Abilities<'_> {
        Abilities::default()
    }

    /// The machines that it runs containers on and that it can reach now, its own first.
    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError>;

    /// Makes the container and gives it its address and ports, for its whole life. Nothing runs yet. Where it was made
    /// already, its placement is given again and `spec` is not looked at.
    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError>;

    /// Starts run number `run` and returns when the program runs. A run that has begun before, even if it has ended
    /// meanwhile, is not begun again; a container that runs stays as it is.
    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError>;

    /// Sends `signal`, waits for at most `grace`, kills, and returns when the container has ended. One that does not run
    /// stays as it is.
    async fn stop(&self, id: &UnitId, signal: i32, grace: Duration) -> Result<(), EngineError>;

    /// Kills it if it runs and removes everything of it. One that is not there is no error.
    async fn remove(&self, id: &UnitId) -> Result<(), EngineError>;

    /// What is the case now.
    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError>;

    /// The ids of all containers that the engine has.
    async fn list(&self) -> Result<Vec<UnitId>, EngineError>;

    /// What is the case now with all of them.
    async fn observe_all(&self) -> Result<Vec<(UnitId, Observed)>, EngineError> {
        let mut all = Vec::new();
        for id in self.list().await? {
            let observed = self.observe(&id).await?;
            // One that was removed meanwhile.
            if observed.state != State::Absent {
                all.push((id, observed));
            }
        }
        Ok(all)
    }

    /// The container's output.
    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError>;

    /// The name of what runs containers.
    fn runtime(&self) -> String {
        "built-in".into()
    }

    /// Why containers can't reach anybody, or be reached, at this moment, if that is so.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Nudges to observe again.
    fn changes(&self) -> Changes;
}
