//! One thing done with many containers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problem;

/// What is done with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// As `POST /v1/containers/{id}/start`.
    Start,
    /// As `POST /v1/containers/{id}/stop`.
    Stop,
    /// As `POST /v1/containers/{id}/restart`.
    Restart,
    /// As `POST /v1/containers/{id}/kill`.
    Kill,
    /// As `POST /v1/containers/{id}/pause`.
    Pause,
    /// As `POST /v1/containers/{id}/resume`.
    Resume,
    /// As `DELETE /v1/containers/{id}`.
    Remove,
}

impl BulkAction {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Remove => "remove",
        }
    }
}

/// What to do with which containers. A field that does not go with the action is refused.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkContainers {
    /// What is done with each.
    pub action: BulkAction,
    /// 1 to 1000 containers, by id, the beginning of an id, or name; each once.
    #[schema(min_items = 1, max_items = 1000)]
    pub containers: Vec<String>,
    /// For `remove`: kills those that run.
    #[serde(default)]
    pub force: bool,
    /// For `remove`: removes the volumes, too, that nobody named and nobody else uses.
    #[serde(default)]
    pub volumes: bool,
    /// For `stop` and `restart`: seconds between the stop signal and the kill, at most 3600; each container's own if absent.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Name or number of a signal. For `stop` and `restart` the one that asks it to stop, each container's own if absent; for `kill` `KILL` if absent.
    #[serde(default)]
    pub signal: Option<String>,
}

/// What came of it for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkResult {
    /// As it was named in the request.
    pub container: String,
    /// Why it was not done; absent if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}
