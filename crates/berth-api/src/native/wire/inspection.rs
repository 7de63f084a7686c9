//! Looks into containers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A process of a container, as the host sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// User by number.
    pub uid: u32,
    /// Process number on the host.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Processor time it has used, milliseconds.
    pub cpu_ms: u64,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// Its terminal; empty for none.
    pub terminal: String,
    /// Command and arguments.
    pub command: Vec<String>,
}

/// A path that differs from the image's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangedPath {
    /// Absolute path in the container.
    pub path: String,
    /// `changed`, `added` or `deleted`.
    pub kind: String,
}

/// What a container has written to its root file system.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Bytes.
    pub bytes: u64,
}

/// Another name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The name, unique in the account.
    pub name: String,
}
