//! Containers as lists show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Container, Message, Port};

/// A container as a list shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContainerSummary {
    /// Textual id.
    pub id: String,
    /// Number, never used again.
    pub number: i64,
    /// Name.
    pub name: String,
    /// Image as it was named.
    pub image: String,
    /// `created`, `running`, `paused` or `exited`.
    pub state: String,
    /// `starting`, `healthy` or `unhealthy`; absent without a health check, or while it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Own address on the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How often it was started again by itself since somebody started it.
    pub restarts: u32,
    /// When that will be next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// Start of the newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// End of the newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Exit code of the newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it ended because it was out of memory (OOM-killed).
    pub oom_killed: bool,
    /// Why the newest start failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `error` in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_parts: Option<Message>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl From<berth_core::Container> for ContainerSummary {
    fn from(container: berth_core::Container) -> Self {
        let c = Container::from(container);
        Self {
            id: c.id,
            number: c.number,
            name: c.name,
            image: c.image,
            state: c.state,
            health: c.health.map(|health| health.status),
            ports: c.ports,
            address: c.address,
            restarts: c.restarts,
            next_start: c.next_start,
            created_at: c.created_at,
            started_at: c.started_at,
            finished_at: c.finished_at,
            exit_code: c.exit_code,
            oom_killed: c.oom_killed,
            error_parts: c.error_parts,
            error: c.error,
            labels: c.labels,
        }
    }
}

/// A page of them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContainerSummaryList {
    /// How many match, whatever their state.
    pub total: u64,
    /// How many match in each state.
    pub states: BTreeMap<String, u64>,
    /// The page.
    pub items: Vec<ContainerSummary>,
}
