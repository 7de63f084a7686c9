//! Commands: what is slower than a query, written down before it begins and followed to its end.
//!
//! The row is the truth. The rules are in `progress`, what a command comes to in `plan`, the steps in `steps`, and `runner`
//! brings them together: one command of a target at a time, in the order accepted; a removal overtakes what waits.

mod plan;
mod progress;
mod runner;
mod steps;
#[cfg(test)]
mod tests;

use berth_store::CommandFilter;
use serde::{Deserialize, Serialize};

pub(crate) use runner::{Cancels, Driving, Failpoints};

use crate::core::Core;
use crate::deployments::{DeploymentSpec, Rollout};
use crate::error::Error;
use crate::plans::PlanChange;
use crate::services::GroupSpec;
use crate::settings::Settings;
use berth_identity::request_name;
use berth_identity::{Caller, Credential, Role};
use berth_types::Page;
use berth_types::{now, random_hex};

/// How far a command or one of its activities is.
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

    pub(crate) fn of(word: &str) -> Self {
        match word {
            "published" => Self::Published,
            "publish_failed" => Self::PublishFailed,
            "running" => Self::Running,
            "done" => Self::Done,
            _ => Self::Created,
        }
    }
}

/// What came of a command or an activity.
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

    pub(crate) fn of(word: &str) -> Option<Self> {
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
pub enum Target {
    /// A container, by number.
    Container(i64),
    /// A group, by number.
    Group(i64),
    /// A deployment, by a number that follows from its name.
    Deployment(i64),
    /// A roll-out, by a number that follows from its image.
    Rollout(i64),
}

impl Target {
    /// `container`, `group`, `deployment` or `rollout`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Container(_) => "container",
            Self::Group(_) => "group",
            Self::Deployment(_) => "deployment",
            Self::Rollout(_) => "rollout",
        }
    }

    /// Its number.
    pub fn id(self) -> i64 {
        let (Self::Container(id) | Self::Group(id) | Self::Deployment(id) | Self::Rollout(id)) = self;
        id
    }

    fn of(kind: &str, id: i64) -> Self {
        match kind {
            "group" => Self::Group(id),
            "deployment" => Self::Deployment(id),
            "rollout" => Self::Rollout(id),
            _ => Self::Container(id),
        }
    }
}

/// How a group's containers are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All at once.
    #[default]
    Parallel,
    /// One after another.
    Sequential,
}

/// Everything that a command does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Operation {
    ContainerStart,
    ContainerStop,
    ContainerDelete,
    /// Brings up a container that was written down with this command.
    ContainerCreate,
    ContainerRestart,
    /// Changes its plan, to another one if it `resize`s.
    ContainerPlan {
        change: Box<PlanChange>,
        resize: bool,
    },
    DeploymentCreate {
        host: String,
        spec: Box<DeploymentSpec>,
    },
    DeploymentUpdate {
        host: String,
        spec: Box<DeploymentSpec>,
        /// Only image and version of it.
        #[serde(default)]
        inherit: bool,
    },
    DeploymentDelete {
        host: String,
    },
    /// Moves deployments to a version.
    Rollout {
        asked: Rollout,
    },
    /// Takes back what a roll-out has moved.
    RolloutUndo {
        /// That command's UUID.
        of: String,
    },
    /// Makes a file of a container ready to be fetched.
    FileReady {
        path: String,
    },
    /// Brings a group to a specification: containers made, changed, made anew, removed.
    GroupApply {
        spec: Box<GroupSpec>,
        method: Method,
    },
    GroupStart {
        update: bool,
        image: Option<String>,
        method: Method,
    },
    GroupStop {
        method: Method,
    },
    GroupDelete,
    /// Code by address.
    GroupUpload {
        address: String,
        update: bool,
        method: Method,
    },
    /// Brings a group back to what it is written down to be, after a command that failed half way.
    GroupUndo {
        /// That command's UUID.
        of: String,
    },
    /// Code that was there before.
    GroupHistory {
        version: i64,
        update: bool,
        method: Method,
    },
}

impl Operation {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::ContainerStart => "container_start",
            Self::ContainerStop => "container_stop",
            Self::ContainerDelete => "container_delete",
            Self::ContainerCreate => "container_create",
            Self::ContainerRestart => "container_restart",
            Self::ContainerPlan { resize: false, .. } => "container_update",
            Self::ContainerPlan { resize: true, .. } => "container_resize",
            Self::DeploymentCreate { .. } => "deployment_create",
            Self::DeploymentUpdate { .. } => "deployment_update",
            Self::DeploymentDelete { .. } => "deployment_delete",
            Self::Rollout { .. } => "rollout",
            Self::RolloutUndo { .. } => "rollout_undo",
            Self::FileReady { .. } => "file_ready",
            Self::GroupApply { .. } => "group_apply",
            Self::GroupStart { .. } => "group_start",
            Self::GroupStop { .. } => "group_stop",
            Self::GroupDelete => "group_delete",
            Self::GroupUpload { .. } => "group_upload",
            Self::GroupHistory { .. } => "group_history",
            Self::GroupUndo { .. } => "group_undo",
        }
    }

    fn method(&self) -> Method {
        match self {
            Self::GroupApply { method, .. }
            | Self::GroupStart { method, .. }
            | Self::GroupStop { method }
            | Self::GroupUpload { method, .. }
            | Self::GroupHistory { method, .. } => *method,
            Self::ContainerStart
            | Self::ContainerStop
            | Self::ContainerDelete
            | Self::ContainerCreate
            | Self::ContainerRestart
            | Self::ContainerPlan { .. }
            | Self::DeploymentCreate { .. }
            | Self::DeploymentUpdate { .. }
            | Self::DeploymentDelete { .. }
            | Self::Rollout { .. }
            | Self::RolloutUndo { .. }
            | Self::FileReady { .. }
            | Self::GroupUndo { .. }
            | Self::GroupDelete => Method::Parallel,
        }
    }

    fn host(self) -> Option<String> {
        match self {
            Self::DeploymentCreate { host, .. }
            | Self::DeploymentUpdate { host, .. }
            | Self::DeploymentDelete { host } => Some(host),
            _ => None,
        }
    }

    /// Seconds that it may take.
    fn limit(&self, settings: &Settings) -> u64 {
        match self {
            Self::ContainerCreate | Self::ContainerRestart | Self::ContainerPlan { .. } => {
                settings.plans.operation_timeout_s
            }
            // As long as it takes for all of them; each step is bounded by what it waits for.
            Self::Rollout { .. } | Self::RolloutUndo { .. } => settings.command_timeout_s.max(ROLLOUT_LIMIT_S),
            _ => settings.command_timeout_s,
        }
    }

    /// Whether what fails holds up nothing: as much as can be is taken back.
    fn keeps_going(&self) -> bool {
        matches!(self, Self::RolloutUndo { .. } | Self::GroupUndo { .. })
    }

    fn is_removal(&self) -> bool {
        matches!(self, Self::ContainerDelete | Self::GroupDelete | Self::DeploymentDelete { .. })
    }
}

/// Seconds that a roll-out may take: a week.
const ROLLOUT_LIMIT_S: u64 = 7 * 86_400;

/// A command's body, and who gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct QueuedOperation {
    pub(crate) body: Operation,
    pub(crate) role: Role,
}

/// A command that was just written down, the event that tells of it, and the commands that it overtakes.
pub(crate) struct Enqueued {
    row: berth_store::Command,
    event: berth_store::Event,
    overtaken: Vec<i64>,
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

fn activity(row: berth_store::OperationStep) -> OperationStep {
    OperationStep {
        id: row.id,
        name: row.name,
        container: Some(row.container_id).filter(|id| *id > 0),
        status: CommandStatus::of(&row.status),
        result: Outcome::of(&row.result),
        message: row.message,
        created_at: row.created_at,
        ended_at: row.ended_at,
    }
}

fn command(row: berth_store::Command, steps: Vec<berth_store::OperationStep>) -> Command {
    Command {
        id: row.id,
        uid: row.uid,
        account: row.account_id,
        name: row.name,
        target: Target::of(&row.kind, row.target),
        target_name: row.target_name,
        status: CommandStatus::of(&row.status),
        result: Outcome::of(&row.result),
        message: row.message,
        cancelled: row.cancelled,
        deadline: row.deadline,
        created_at: row.created_at,
        ended_at: row.ended_at,
        host: match row.kind.as_str() {
            "deployment" => serde_json::from_str::<QueuedOperation>(&row.body).ok().and_then(|order| order.body.host()),
            _ => None,
        },
        activities: steps.into_iter().map(activity).collect(),
    }
}

/// A command as it was when it was accepted.
fn as_accepted(row: berth_store::Command) -> Command {
    let status = CommandStatus::Created.word().into();
    let (result, message) = (String::new(), String::new());
    command(berth_store::Command { status, result, message, ended_at: None, ..row }, Vec::new())
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> String {
    let mut digits = random_hex(16).into_bytes();
    digits[12] = b'4';
    digits[16] = b"89ab"[usize::from(digits[16] % 4)];
    let text = String::from_utf8_lossy(&digits).into_owned();
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
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

impl Core {
    /// Takes on a command: when this returns it is on disk.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        target: Target,
        target_name: String,
        body: Operation,
    ) -> Result<Command, Error> {
        let row = self.operation_row(caller, target, &target_name, body)?;
        let core = self.clone();
        let request = match caller.credential {
            Credential::Signature { request, .. } => Some(request_name(request)),
            Credential::Token(_) | Credential::Key(_) | Credential::Command => None,
        };
        let enqueued = self
            .write(move |tx| {
                // The same signed request twice, at the same time perhaps, gives one command.
                if let Some(request) = &request
                    && let Some(uid) = tx.signed_request_command(request)?
                    && let Some(known) = tx.command_by_uid(row.account_id, &uid)?
                {
                    return Ok(Err(known));
                }
                let enqueued = core.enqueue_in(tx, row)?;
                if let Some(request) = &request {
                    tx.signed_request_done(request, &enqueued.row.uid)?;
                }
                Ok(Ok(enqueued))
            })
            .await?;
        Ok(match enqueued {
            Ok(enqueued) => self.enqueue(enqueued),
            Err(known) => as_accepted(known),
        })
    }

    /// The command that came of the caller's signed request before, as it was answered then.
    ///
    /// # Errors
    /// The database's own.
    pub async fn command_of_request(&self, caller: &Caller) -> Result<Option<Command>, Error> {
        let Credential::Signature { request, .. } = caller.credential else { return Ok(None) };
        let account = caller.account;
        let known = self
            .read(move |tx| match tx.signed_request_command(&request_name(request))? {
                Some(uid) => Ok(tx.command_by_uid(account, &uid)?),
                None => Ok(None),
            })
            .await?;
        Ok(known.map(as_accepted))
    }

    /// A command, ready to be written down.
    pub(crate) fn operation_row(
        &self,
        caller: &Caller,
        target: Target,
        target_name: &str,
        body: Operation,
    ) -> Result<berth_store::Command, Error> {
        let name = body.name();
        let limit = i64::try_from(body.limit(&self.inner.settings)).unwrap_or(i64::MAX / 2_000_000_000);
        let order = serde_json::to_string(&QueuedOperation { body, role: caller.role })
            .map_err(|e| Error::Bug(e.to_string()))?;
        let at = now();
        Ok(berth_store::Command {
            id: 0,
            uid: uuid(),
            account_id: caller.account,
            name: name.into(),
            kind: target.kind().into(),
            target: target.id(),
            target_name: target_name.to_owned(),
            body: order,
            status: CommandStatus::Created.word().into(),
            result: String::new(),
            message: String::new(),
            cancelled: String::new(),
            deadline: at.saturating_add(limit.saturating_mul(1_000_000_000)),
            created_at: at,
            ended_at: None,
        })
    }

    /// Writes a command down; [`enqueue`](Self::enqueue) goes on when that is on disk.
    pub(crate) fn enqueue_in(
        &self,
        tx: &berth_store::Tx<'_>,
        mut row: berth_store::Command,
    ) -> Result<Enqueued, Error> {
        let mut overtaken = Vec::new();
        let order: QueuedOperation = serde_json::from_str(&row.body).map_err(|e| Error::Bug(e.to_string()))?;
        if order.body.is_removal() {
            for open in tx.commands_open(&row.kind, row.target)? {
                if open.name == row.name {
                    continue;
                }
                let why = format!("superseded by operation {} {}", row.name, row.uid);
                tx.command_cancel(open.id, &why)?;
                overtaken.push(open.id);
            }
            if row.kind == "group" {
                let change = berth_store::GroupChange { wanted: Some("removed"), ..Default::default() };
                tx.group_change(row.target, &change)?;
            }
        } else if !matches!(order.body, Operation::RolloutUndo { .. } | Operation::GroupUndo { .. }) {
            let (open, bound) = (tx.commands_open_of(row.account_id)?, self.inner.settings.commands_waiting);
            if open >= i64::from(bound) {
                return Err(Error::NoRoom(format!(
                    "{open} commands of the account are not over, as many as it may have"
                )));
            }
        }
        row.id = tx.command_add(&row)?;
        let detail = serde_json::json!({ "name": row.name, "target": row.target_name }).to_string();
        let event = tx.event_add(row.created_at, row.account_id, "command.created", &row.uid, &detail)?;
        Ok(Enqueued { row, event, overtaken })
    }

    /// What follows when a command is on disk.
    pub(crate) fn enqueue(&self, enqueued: Enqueued) -> Command {
        let Enqueued { row, event, overtaken } = enqueued;
        self.tell(vec![event]);
        for id in overtaken {
            self.inner.cancels.tell(id);
        }
        self.drive(Target::of(&row.kind, row.target));
        command(row, Vec::new())
    }

    /// One command of the caller's account, with its activities.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn command(&self, caller: &Caller, uid: &str) -> Result<Command, Error> {
        let (account, wanted) = (caller.account, uid.to_owned());
        let found = self
            .read(move |tx| match tx.command_by_uid(account, &wanted)? {
                Some(row) => {
                    let steps = tx.activities(row.id)?;
                    Ok(Some(command(row, steps)))
                }
                None => Ok(None),
            })
            .await?;
        found.ok_or_else(|| Error::NotFound { what: "command", name: uid.to_owned() })
    }

    /// The account's commands, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub async fn commands(&self, caller: &Caller, query: &CommandQuery) -> Result<Page<Command>, Error> {
        let filter = CommandFilter {
            account: caller.account,
            before: query.before,
            kind: query.target.map(Target::kind),
            target: query.target.map(Target::id),
            open: query.open,
            limit: query.limit.saturating_add(1),
        };
        let limit = query.limit as usize;
        self.read(move |tx| {
            let mut rows = tx.commands(&filter)?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            let next = rows.last().filter(|_| more).map(|row| row.id);
            let mut items = Vec::with_capacity(rows.len());
            for row in rows {
                let steps = tx.activities(row.id)?;
                items.push(command(row, steps));
            }
            Ok(Page { items, next })
        })
        .await
    }

    /// Has a command stop: one that waits never begins, one that runs begins no further step.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is over.
    pub async fn command_cancel(&self, caller: &Caller, uid: &str) -> Result<Command, Error> {
        let found = self.command(caller, uid).await?;
        if found.ended_at.is_some() {
            return Err(Error::WrongState(format!("command {uid} has ended")));
        }
        let id = found.id;
        self.write(move |tx| Ok(tx.command_cancel(id, "cancelled")?)).await?;
        self.inner.cancels.tell(id);
        self.drive(found.target);
        self.command(caller, uid).await
    }

    /// Returns when the command is over.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn command_wait(&self, caller: &Caller, uid: &str) -> Result<Command, Error> {
        let mut events = self.event_stream();
        loop {
            let found = self.command(caller, uid).await?;
            if found.ended_at.is_some() {
                return Ok(found);
            }
            // An event about it, or a while: events may be missed when there are many.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async {
                while events.recv().await.is_ok_and(|event| event.subject != uid) {}
            })
            .await;
        }
    }
}
