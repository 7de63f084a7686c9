//! What operations are made of, as everybody sees them.

use serde::{Deserialize, Serialize};

/// How far a command or one of its steps is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandStatus {
    /// Written down.
    Created,
    /// Handed to the host.
    Published,
    /// The host could not be reached.
    PublishFailed,
    /// Its steps run.
    Running,
    /// It is over.
    Done,
}

impl CommandStatus {
    /// The word that is stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Published => "published",
            Self::PublishFailed => "publish_failed",
            Self::Running => "running",
            Self::Done => "done",
        }
    }

    /// The status of a stored word.
    pub fn of(word: &str) -> Self {
        match word {
            "published" => Self::Published,
            "publish_failed" => Self::PublishFailed,
            "running" => Self::Running,
            "done" => Self::Done,
            _ => Self::Created,
        }
    }
}

/// What came of a command or a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It could not be done.
    Failed,
    /// What it was about is gone.
    NotFound,
    /// Its time was up.
    TimedOut,
    /// A later command, or somebody, put an end to it.
    Superseded,
}

impl Outcome {
    /// The word that is stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::NotFound => "not_found",
            Self::TimedOut => "timed_out",
            Self::Superseded => "overtaken",
        }
    }

    /// The outcome of a stored word.
    pub fn of(word: &str) -> Option<Self> {
        Some(match word {
            "success" => Self::Success,
            "failed" => Self::Failed,
            "not_found" => Self::NotFound,
            "timed_out" => Self::TimedOut,
            "overtaken" => Self::Superseded,
            _ => return None,
        })
    }
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The domain's word, such as `container`.
    pub kind: &'static str,
    /// A number that is the target's own among those of its kind.
    pub id: i64,
}

/// How the steps of a stage are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All at once.
    #[default]
    Parallel,
    /// One after another.
    Sequential,
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Number; grows in the order accepted.
    pub id: i64,
    /// UUID.
    pub uid: String,
    /// Its account.
    pub account: i64,
    /// What it does: `group_start` and the like.
    pub name: String,
    /// What it is about.
    pub target: Target,
    /// That, as it was called then.
    pub target_name: String,
    /// How far it is.
    pub status: CommandStatus,
    /// What came of it.
    pub result: Option<Outcome>,
    /// The same in words.
    pub message: String,
    /// Whether it is to stop, and why.
    pub cancelled: String,
    /// When its time is up, nanoseconds since 1970.
    pub deadline: i64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970.
    pub ended_at: Option<i64>,
    /// Textual id of the host that it is about, if it is about a deployment.
    pub host: Option<String>,
    /// What it does, container by container.
    pub activities: Vec<OperationStep>,
}

/// A step of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationStep {
    /// Number.
    pub id: i64,
    /// What it does: `start`, `replace` …
    pub name: String,
    /// Number of the container, if it is about one.
    pub container: Option<i64>,
    /// How far it is.
    pub status: CommandStatus,
    /// What came of it.
    pub result: Option<Outcome>,
    /// The same in words.
    pub message: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970.
    pub ended_at: Option<i64>,
}

/// Which commands to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct CommandQuery {
    /// With numbers below this; 0 is all.
    pub before: i64,
    /// Of this target.
    pub target: Option<Target>,
    /// Only those that have not ended.
    pub open: bool,
    /// At most so many.
    pub limit: u32,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What came of it.
    pub outcome: Outcome,
    /// The same in words.
    pub message: String,
    /// The container that it was about in the end.
    pub container: Option<i64>,
}

impl Done {
    /// It was done.
    pub fn success() -> Self {
        Self { outcome: Outcome::Success, message: "success".into(), container: None }
    }

    /// It was done; with it the container that it was about in the end.
    pub fn with(container: i64) -> Self {
        Self { container: Some(container), ..Self::success() }
    }

    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, message: message.into(), container: None }
    }

    /// It took too long.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::TimedOut, message: message.into(), container: None }
    }
}

/// A step of a plan. A stage begins when all steps of the one before have succeeded.
#[derive(Debug, Clone)]
pub struct PlannedStep<S> {
    /// Stages are gone through in the order of their numbers.
    pub stage: i64,
    /// What is done.
    pub step: S,
}
