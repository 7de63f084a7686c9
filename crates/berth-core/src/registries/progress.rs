//! How far layers have travelled.

use tokio::sync::mpsc;

/// How a layer (or the configuration) is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Digest of the blob.
    pub digest: String,
    /// What is done with it.
    pub status: ProgressStatus,
    /// Bytes that have travelled.
    pub current: u64,
    /// Bytes in all; 0 if that is not known.
    pub total: u64,
}

/// What is done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStatus {
    /// It is on its way in.
    Downloading,
    /// It was wrong, and is asked for once more.
    Retrying,
    /// It is being packed.
    Compressing,
    /// It is on its way out.
    Uploading,
    /// It is there.
    Done,
    /// It was there already.
    Exists,
}

impl ProgressStatus {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Downloading => "downloading",
            Self::Retrying => "retrying",
            Self::Compressing => "compressing",
            Self::Uploading => "uploading",
            Self::Done => "done",
            Self::Exists => "exists",
        }
    }
}

/// Where progress is told; nobody need listen.
pub type Progresses = mpsc::Sender<Progress>;
