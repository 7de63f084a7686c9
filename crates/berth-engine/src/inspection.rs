//! Looking into containers: an ability that not every engine has.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::types::UnitId;

/// A process of a container, as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// User by number, in the container.
    pub uid: u32,
    /// Process number on the host.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Processor time it has used, milliseconds.
    pub cpu_ms: u64,
    /// When it began, nanoseconds since 1970.
    pub started_at: i64,
    /// Its terminal; empty for none.
    pub terminal: String,
    /// Command and arguments, or the program's name for one that has none.
    pub command: Vec<String>,
}

/// What became of a path in comparison with the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The image has it, too.
    Changed,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// A path that differs from the image's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathChange {
    /// Absolute path in the container.
    pub path: String,
    /// What became of it.
    pub kind: ChangeKind,
}

/// The ability.
#[async_trait]
pub trait Inspection: Send + Sync {
    /// The processes of a container that runs, by number.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUnit`], [`EngineError::NotRunning`].
    async fn processes(&self, id: &UnitId) -> Result<Vec<ProcessFacts>, EngineError>;

    /// What a container has changed of its image's files, by path; at most `most` of them.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUnit`], or that there are more.
    async fn changed_paths(&self, id: &UnitId, most: usize) -> Result<Vec<PathChange>, EngineError>;
}
