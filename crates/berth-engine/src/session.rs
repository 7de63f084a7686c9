//! Conversations with processes: those run in a container beside its own, and the container's own.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::types::LogStream;

/// A process to be run in a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Command and arguments, not empty.
    pub args: Vec<String>,
    /// `KEY=value`, over the container's own.
    pub env: Vec<String>,
    /// Working directory; the container's own if `None`.
    pub working_dir: Option<String>,
    /// `name`, `uid`, either with `:group`; the container's own if `None`.
    pub user: Option<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Rows and columns of that, at its beginning.
    pub size: Option<(u16, u16)>,
    /// Whether it is sent input.
    pub stdin: bool,
    /// Whether nobody listens: it goes on by itself.
    pub detached: bool,
}

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// It wrote this. With a terminal all is standard output.
    Output(LogStream, Vec<u8>),
    /// It ended with this exit code; the last thing said. A container's own process ends without it where the session was
    /// only attached.
    Ended(i32),
}

/// What a process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Input.
    Input(Vec<u8>),
    /// There is no more input.
    EndOfInput,
    /// The terminal's size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
    /// A signal, for a process that was run by `exec`.
    Signal(i32),
}

/// A conversation. Dropping it ends a terminal's session (SIGHUP) and breaks pipes; a process that minds neither goes on.
#[derive(Debug)]
pub struct Session {
    /// What comes out; ends after [`ExecOutput::Ended`], or when the container has ended.
    pub output: mpsc::Receiver<ExecOutput>,
    /// What goes in.
    pub input: mpsc::Sender<ExecInput>,
}

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Where a link leads.
    pub target: Option<String>,
}

/// A container's files, while this lives. Everything blocks: for threads that may. Paths are the container's own; nothing
/// in it, links, mounts or races, leads out of it, and none of its programs is run.
pub trait Files: Send + Sync {
    /// What is at `path`, the link itself if it is one.
    ///
    /// # Errors
    /// That there is nothing.
    fn stat(&self, path: &Path) -> std::io::Result<FileStat>;

    /// What is in the folder at `path`, by name: 10,000 entries at most.
    ///
    /// # Errors
    /// That there is no such folder; `InvalidData` for one with more.
    fn list(&self, path: &Path) -> std::io::Result<Vec<FileStat>>;

    /// The regular file at `path`, for reading.
    ///
    /// # Errors
    /// That there is none.
    fn open(&self, path: &Path) -> std::io::Result<std::fs::File>;

    /// Writes what is at `path` as a tar whose entries begin with `name`; a link at the end is followed only if `follow`.
    ///
    /// # Errors
    /// What reading or writing said.
    fn pack(&self, path: &Path, name: &Path, follow: bool, out: &mut dyn std::io::Write) -> std::io::Result<()>;

    /// Removes everything in the folder at `path`.
    ///
    /// # Errors
    /// That there is no such folder, or what could not be removed.
    fn clear(&self, path: &Path) -> std::io::Result<()>;

    /// Unpacks a tar below the folder at `path`. Without `keep_owner` everything belongs to root.
    ///
    /// # Errors
    /// `NotADirectory` or `NotFound` for the path; `InvalidData` for the tar, with what is wrong.
    fn unpack(&self, path: &Path, tar: &mut dyn std::io::Read, keep_owner: bool) -> std::io::Result<()>;

    /// Writes its whole file system as a tar, without what is mounted on it.
    ///
    /// # Errors
    /// What reading or writing said.
    fn export(&self, out: &mut dyn std::io::Write) -> std::io::Result<()>;

    /// Writes what differs from the image as a layer's tar.
    ///
    /// # Errors
    /// What reading or writing said.
    fn difference(&self, out: &mut dyn std::io::Write) -> std::io::Result<()>;
}
