//! What containers write.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much of a log matches.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct LogCount {
    /// Lines.
    pub lines: u64,
}

/// A piece of a container's output.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When it was written.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The bytes themselves, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// The number of its line, if numbers were asked for. Pieces of a line have the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The line goes on in the next entry of the stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}
