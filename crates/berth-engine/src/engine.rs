//! The trait.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::inspection::Inspection;
use crate::session::{ExecRequest, Files, Session};
use crate::types::{
    Abilities, HostFacts, LogLine, LogOptions, Observed, Placement, PortBinding, PortProtocol, PortRequest, Resources,
    Stats, Traffic, UnitId, UnitSpec,
};

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

/// A place where workloads run.
///
/// Contract ([`contract::check`](crate::contract::check)): a call repeated with the same values does no more than the
/// first one, and what the engine needs after a restart is on disk, never in memory alone.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What it can do beyond the contract.
    fn abilities(&self) -> Abilities;

    /// The machines that it runs containers on and that it can reach now, its own first.
    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError>;

    /// Makes the container and gives it its address and ports, for its whole life. Nothing runs yet. Where it was made
    /// already, its placement is given again and `spec` is not looked at.
    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError>;

    /// Starts run number `run` and returns when the program runs. A run that has begun before, even if it has ended
    /// meanwhile, is not begun again; a container that runs stays as it is.
    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError>;

    /// Sends a signal to the first process.
    async fn signal(&self, id: &UnitId, signal: i32) -> Result<(), EngineError>;

    /// Sends `signal`, waits for at most `grace`, kills, and returns when the container has ended. One that does not run
    /// stays as it is.
    async fn stop(&self, id: &UnitId, signal: i32, grace: Duration) -> Result<(), EngineError>;

    /// Kills it if it runs and removes everything of it. One that is not there is no error.
    async fn remove(&self, id: &UnitId) -> Result<(), EngineError>;

    /// Changes its bounds: at once if it runs, and for all its next runs.
    async fn update(&self, id: &UnitId, to: Resources) -> Result<(), EngineError>;

    /// Has exactly these ports published: those that fit what was asked are kept, others are given or taken back, at once
    /// if it runs.
    async fn set_ports(&self, id: &UnitId, asked: &[PortRequest]) -> Result<Placement, EngineError>;

    /// Has exactly these ports of the host lead to the containers `to`, new connections spread evenly over them; those under
    /// way stay where they are. Ports that fit what was asked are kept, others are given or taken back; nothing asked takes
    /// the load balancer away. A container of `to` that the engine does not have is left out. `id` is the load balancer's own, `tenant` is
    /// whose ports they are.
    async fn set_load_balancer(
        &self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError>;

    /// The ids of all load balancers.
    async fn load_balancers(&self) -> Result<Vec<UnitId>, EngineError>;

    /// TCP connections to these ports of the container that are not over.
    async fn connections(&self, id: &UnitId, ports: &[u16]) -> Result<usize, EngineError>;

    /// A socket of this process that listens on a TCP port in the container's network, on all its addresses. It, and what
    /// it accepted, are to be closed when the run has ended, which `ended` tells.
    async fn listen(&self, id: &UnitId, port: u16) -> Result<Listening, EngineError>;

    /// The ports that its processes listen on in its network. An engine that can't look says none.
    async fn listening(&self, _id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError> {
        Ok(Vec::new())
    }

    /// Stops its processes where they are. One that is paused stays so.
    async fn pause(&self, id: &UnitId) -> Result<(), EngineError>;

    /// Lets them go on.
    async fn resume(&self, id: &UnitId) -> Result<(), EngineError>;

    /// Runs a further process in it; returns when that runs.
    async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError>;

    /// Takes part in the conversation with its own process. Several may. Without a standard input or a terminal of its own
    /// there is only its output, from now on. With `from_start` the session begins with all that the run has written so far,
    /// and one that has ended meanwhile gives just that.
    async fn attach(&self, id: &UnitId, from_start: bool) -> Result<Session, EngineError>;

    /// Its files, to be read, or with `write` to be changed too.
    async fn files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError>;

    /// What came in and went out over the network in their whole lives, whether they run or not.
    async fn traffic(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Traffic)>, EngineError>;

    /// Never tells less traffic of it than this from now on: what was told before the machine went down may not be on disk.
    async fn keep_traffic(&self, _id: &UnitId, _at_least: Traffic) -> Result<(), EngineError> {
        Ok(())
    }

    /// Bytes on disk that they wrote.
    async fn disk(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, u64)>, EngineError>;

    /// What is the case now.
    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError>;

    /// The ids of all containers that the engine has.
    async fn list(&self) -> Result<Vec<UnitId>, EngineError>;

    /// What these containers use; those that don't run are left out.
    async fn stats(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Stats)>, EngineError>;

    /// The container's output.
    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError>;

    /// Has others of its tenant find it by these names, at once if it runs.
    async fn rename(&self, id: &UnitId, names: &[String]) -> Result<(), EngineError>;

    /// The name of what runs containers.
    fn runtime(&self) -> String {
        "built-in".into()
    }

    /// Looking into containers, if this engine can.
    fn inspection(&self) -> Option<&dyn Inspection> {
        None
    }

    /// Why containers can't reach anybody, or be reached, at this moment, if that is so.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Nudges to observe again.
    fn changes(&self) -> Changes;
}
