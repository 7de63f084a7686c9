//! Processes and files inside a container.

use berth_engine::ExecRequest;
use berth_runtime::USUAL_SIZE;
use berth_runtime::log::format_time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// First bytes of the binary messages of a session, those of Kubernetes' `v5.channel.k8s.io`.
pub mod channel {
    /// Standard input, from the client.
    pub const STDIN: u8 = 0;
    /// Standard output, from the server.
    pub const STDOUT: u8 = 1;
    /// Standard error, from the server.
    pub const STDERR: u8 = 2;
    /// JSON, the last message from the server: `{"exit_code": 0}`, or `{"error": …}` with a `Problem`.
    pub const STATUS: u8 = 3;
    /// JSON from the client: `{"Width": 80, "Height": 24}`.
    pub const RESIZE: u8 = 4;
    /// From the client, followed by the number of a channel: there is nothing more on it.
    pub const CLOSE: u8 = 255;
}

/// A process to be run in a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecCreate {
    /// Command and arguments.
    pub command: Vec<String>,
    /// `KEY=value`, over the container's own.
    pub env: Vec<String>,
    /// Working directory; the container's own if absent.
    pub working_dir: Option<String>,
    /// `name` or `uid`, either with `:group`; the container's own if absent.
    pub user: Option<String>,
    /// It gets a terminal.
    pub terminal: bool,
    /// Lines of the terminal at its beginning; 24 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Columns of it; 80 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<u16>,
    /// It is sent input.
    pub stdin: bool,
    /// It goes on by itself; nothing is heard of it.
    pub detach: bool,
}

impl From<ExecCreate> for ExecRequest {
    fn from(e: ExecCreate) -> Self {
        Self {
            args: e.command,
            env: e.env,
            working_dir: e.working_dir,
            user: e.user,
            terminal: e.terminal,
            size: (e.rows.is_some() || e.columns.is_some())
                .then(|| (e.rows.unwrap_or(USUAL_SIZE.0), e.columns.unwrap_or(USUAL_SIZE.1))),
            stdin: e.stdin,
            detached: e.detach,
        }
    }
}

/// What became of a process.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExecResult {
    /// Exit code; absent while it goes on by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Standard output, its first mebibyte, or less when many processes of the account run; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, as well.
    pub stderr: String,
    /// Whether there was more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// What is at a path of a container.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileStat {
    /// The last part of its name.
    pub name: String,
    /// `file`, `folder`, `link` or `other`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed last.
    pub modified: String,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl From<berth_engine::FileStat> for FileStat {
    fn from(f: berth_engine::FileStat) -> Self {
        Self {
            name: f.name,
            kind: f.kind,
            size: f.size,
            mode: f.mode,
            uid: f.uid,
            gid: f.gid,
            modified: format_time(f.mtime),
            target: f.target,
        }
    }
}
