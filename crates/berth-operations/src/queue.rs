//! The queue: commands are on disk before anything is done about them.

use berth_identity::{Caller, Credential, Role, request_name};
use berth_store::{CommandFilter, Tx};
use berth_types::{Page, now};
use serde::{Deserialize, Serialize};

use crate::domain::{Domain, Operation};
use crate::types::{Command, CommandQuery, CommandStatus, OperationStep, Outcome, Target};
use crate::{Error, Operations};

/// An operation as it is stored, and the role of who gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedOperation<O> {
    /// What is to be done.
    pub body: O,
    /// Whose rights it has.
    pub role: Role,
}

/// A command that was just written down, the event that tells of it, and the commands that it supersedes.
pub struct Enqueued {
    row: berth_store::Command,
    event: berth_store::Event,
    superseded: Vec<i64>,
}

/// The target of a row; `None` for a kind that this version does not know.
pub(crate) fn target_of<D: Domain>(kind: &str, id: i64) -> Option<Target> {
    D::KINDS.iter().find(|known| **known == kind).map(|kind| Target { kind, id })
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

fn command<D: Domain>(row: berth_store::Command, steps: Vec<berth_store::OperationStep>) -> Command {
    let host = D::host_of(&row);
    Command {
        id: row.id,
        uid: row.uid,
        account: row.account_id,
        name: row.name,
        target: target_of::<D>(&row.kind, row.target).unwrap_or(Target { kind: "", id: row.target }),
        target_name: row.target_name,
        status: CommandStatus::of(&row.status),
        result: Outcome::of(&row.result),
        message: row.message,
        cancelled: row.cancelled,
        deadline: row.deadline,
        created_at: row.created_at,
        ended_at: row.ended_at,
        host,
        activities: steps.into_iter().map(activity).collect(),
    }
}

/// A command as it was when it was accepted.
fn as_accepted<D: Domain>(row: berth_store::Command) -> Command {
    let status = CommandStatus::Created.word().into();
    let (result, message) = (String::new(), String::new());
    command::<D>(berth_store::Command { status, result, message, ended_at: None, ..row }, Vec::new())
}

impl Operations {
    /// Takes on a command: when this returns it is on disk.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when as many commands of the account wait as it may have, or the database's own.
    pub async fn submit<D: Domain>(
        &self,
        domain: &D,
        caller: &Caller,
        target: Target,
        target_name: String,
        body: D::Operation,
    ) -> Result<Command, Error> {
        let row = self.row(domain, caller, target, &target_name, body)?;
        let operations = self.clone();
        let request = match caller.credential {
            Credential::Signature { request, .. } => Some(request_name(request)),
            Credential::Token(_) | Credential::Key(_) | Credential::Command | Credential::Local(_) => None,
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
                let enqueued = operations.enqueue_in::<D>(tx, row)?;
                if let Some(request) = &request {
                    tx.signed_request_done(request, &enqueued.row.uid)?;
                }
                Ok(Ok(enqueued))
            })
            .await?;
        Ok(match enqueued {
            Ok(enqueued) => self.enqueue(domain, enqueued),
            Err(known) => as_accepted::<D>(known),
        })
    }

    /// The command that came of the caller's signed request before, as it was answered then.
    ///
    /// # Errors
    /// The database's own.
    pub async fn command_of_request<D: Domain>(&self, caller: &Caller) -> Result<Option<Command>, Error> {
        let Credential::Signature { request, .. } = caller.credential else { return Ok(None) };
        let account = caller.account;
        let known = self
            .read(move |tx| match tx.signed_request_command(&request_name(request))? {
                Some(uid) => Ok(tx.command_by_uid(account, &uid)?),
                None => Ok(None),
            })
            .await?;
        Ok(known.map(as_accepted::<D>))
    }

    /// A command, ready to be written down.
    ///
    /// # Errors
    /// [`Error::Bug`]: the operation can't be written.
    pub fn row<D: Domain>(
        &self,
        domain: &D,
        caller: &Caller,
        target: Target,
        target_name: &str,
        body: D::Operation,
    ) -> Result<berth_store::Command, Error> {
        let name = body.name();
        let limit = i64::try_from(domain.limit_s(&body)).unwrap_or(i64::MAX / 2_000_000_000);
        let order = serde_json::to_string(&QueuedOperation { body, role: caller.role })
            .map_err(|e| Error::Bug(e.to_string()))?;
        let at = now();
        Ok(berth_store::Command {
            id: 0,
            uid: uuid::Uuid::new_v4().to_string(),
            account_id: caller.account,
            name: name.into(),
            kind: target.kind.into(),
            target: target.id,
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
    ///
    /// # Errors
    /// As of [`submit`](Self::submit).
    pub fn enqueue_in<D: Domain>(&self, tx: &Tx<'_>, mut row: berth_store::Command) -> Result<Enqueued, Error> {
        let mut superseded = Vec::new();
        let queued: QueuedOperation<D::Operation> =
            serde_json::from_str(&row.body).map_err(|e| Error::Bug(e.to_string()))?;
        if queued.body.is_removal() {
            for open in tx.commands_open(&row.kind, row.target)? {
                if open.name == row.name {
                    continue;
                }
                let why = format!("superseded by operation {} {}", row.name, row.uid);
                tx.command_cancel(open.id, &why)?;
                superseded.push(open.id);
            }
            queued.body.removal_enqueued(tx, row.target)?;
        } else if !queued.body.is_undo() {
            let (open, bound) = (tx.commands_open_of(row.account_id)?, self.inner.options.commands_waiting);
            if open >= i64::from(bound) {
                return Err(Error::NoRoom(format!(
                    "{open} commands of the account are not over, as many as it may have"
                )));
            }
        }
        row.id = tx.command_add(&row)?;
        let detail = serde_json::json!({ "name": row.name, "target": row.target_name }).to_string();
        let event = tx.event_add(row.created_at, row.account_id, "command.created", &row.uid, &detail)?;
        Ok(Enqueued { row, event, superseded })
    }

    /// What follows when a command is on disk.
    pub fn enqueue<D: Domain>(&self, domain: &D, enqueued: Enqueued) -> Command {
        let Enqueued { row, event, superseded } = enqueued;
        domain.tell(vec![event]);
        for id in superseded {
            self.inner.cancels.tell(id);
        }
        if let Some(target) = target_of::<D>(&row.kind, row.target) {
            self.drive(domain, target);
        }
        command::<D>(row, Vec::new())
    }

    /// One command of the caller's account, with its steps.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn command<D: Domain>(&self, caller: &Caller, uid: &str) -> Result<Command, Error> {
        let (account, wanted) = (caller.account, uid.to_owned());
        let found = self
            .read(move |tx| match tx.command_by_uid(account, &wanted)? {
                Some(row) => {
                    let steps = tx.activities(row.id)?;
                    Ok(Some(command::<D>(row, steps)))
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
    pub async fn commands<D: Domain>(&self, caller: &Caller, query: &CommandQuery) -> Result<Page<Command>, Error> {
        let filter = CommandFilter {
            account: caller.account,
            before: query.before,
            kind: query.target.map(|target| target.kind),
            target: query.target.map(|target| target.id),
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
                items.push(command::<D>(row, steps));
            }
            Ok(Page { items, next })
        })
        .await
    }

    /// Has a command stop: one that waits never begins, one that runs begins no further step.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is over.
    pub async fn cancel<D: Domain>(&self, domain: &D, caller: &Caller, uid: &str) -> Result<Command, Error> {
        let found = self.command::<D>(caller, uid).await?;
        if found.ended_at.is_some() {
            return Err(Error::WrongState(format!("command {uid} has ended")));
        }
        let id = found.id;
        self.write(move |tx| Ok(tx.command_cancel(id, "cancelled")?)).await?;
        self.inner.cancels.tell(id);
        self.drive(domain, found.target);
        self.command::<D>(caller, uid).await
    }
}
