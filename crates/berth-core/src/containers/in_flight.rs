//! What is going on with a container right now.

use serde::{Deserialize, Serialize};

/// What went wrong last and still shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureReason {
    /// It runs, but did not become ready.
    RunFailed,
    /// It could not be stopped.
    StopFailed,
}

/// What is being done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    Starting,
    Stopping,
}

/// What is going on with a container at this moment; a cache, gone with the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InFlight {
    pub(super) doing: Option<Transition>,
    pub(super) sessions: u32,
    pub(super) followers: u32,
}
