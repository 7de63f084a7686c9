//! Commands and what they do, container by container.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// A command. Words are the core's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Number; grows in the order accepted.
    pub id: i64,
    /// UUID.
    pub uid: String,
    /// Its account.
    pub account_id: i64,
    /// What it does.
    pub name: String,
    /// Kind of its target.
    pub kind: String,
    /// Number of its target.
    pub target: i64,
    /// The target as it was called then.
    pub target_name: String,
    /// JSON: everything it needs.
    pub body: String,
    /// How far it is.
    pub status: String,
    /// What came of it; empty until then.
    pub result: String,
    /// The same in words.
    pub message: String,
    /// Why it is to stop; empty if it is not.
    pub cancelled: String,
    /// When its time is up, nanoseconds since 1970.
    pub deadline: i64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970.
    pub ended_at: Option<i64>,
}

/// A step of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStep {
    /// Number.
    pub id: i64,
    /// Its command.
    pub command_id: i64,
    /// All of a stage are done before the next begins.
    pub stage: i64,
    /// JSON: what it does.
    pub step: String,
    /// The same in a word.
    pub name: String,
    /// Number of the container; 0 if it is about none.
    pub container_id: i64,
    /// How far it is.
    pub status: String,
    /// What came of it; empty until then.
    pub result: String,
    /// The same in words.
    pub message: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970.
    pub ended_at: Option<i64>,
}

/// Which commands to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// Of this account.
    pub account: i64,
    /// With numbers below this; 0 is all.
    pub before: i64,
    /// Of this kind of target.
    pub kind: Option<&'static str>,
    /// Of this target.
    pub target: Option<i64>,
    /// Only those that have not ended.
    pub open: bool,
    /// At most so many.
    pub limit: u32,
}

const COMMAND: &str =
    "SELECT id, uid, account_id, name, kind, target, target_name, body, status, result, message, cancelled,
                       deadline, created_at, ended_at FROM commands";

fn command(row: &Row<'_>) -> rusqlite::Result<Command> {
    Ok(Command {
        id: row.get(0)?,
        uid: row.get(1)?,
        account_id: row.get(2)?,
        name: row.get(3)?,
        kind: row.get(4)?,
        target: row.get(5)?,
        target_name: row.get(6)?,
        body: row.get(7)?,
        status: row.get(8)?,
        result: row.get(9)?,
        message: row.get(10)?,
        cancelled: row.get(11)?,
        deadline: row.get(12)?,
        created_at: row.get(13)?,
        ended_at: row.get(14)?,
    })
}

const ACTIVITY: &str = "SELECT id, command_id, stage, step, name, container_id, status, result, message, created_at, ended_at FROM activities";

fn activity(row: &Row<'_>) -> rusqlite::Result<OperationStep> {
    Ok(OperationStep {
        id: row.get(0)?,
        command_id: row.get(1)?,
        stage: row.get(2)?,
        step: row.get(3)?,
        name: row.get(4)?,
        container_id: row.get(5)?,
        status: row.get(6)?,
        result: row.get(7)?,
        message: row.get(8)?,
        created_at: row.get(9)?,
        ended_at: row.get(10)?,
    })
}

impl Tx<'_> {
    /// Adds a command (`id` is ignored); its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_add(&self, new: &Command) -> Result<i64, Error> {
        let sql =
            "INSERT INTO commands (uid, account_id, name, kind, target, target_name, body, status, result, message,
                   cancelled, deadline, created_at, ended_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id";
        Ok(self.connection.prepare_cached(sql)?.query_row(
            params![
                new.uid,
                new.account_id,
                new.name,
                new.kind,
                new.target,
                new.target_name,
                new.body,
                new.status,
                new.result,
                new.message,
                new.cancelled,
                new.deadline,
                new.created_at,
                new.ended_at
            ],
            |row| row.get(0),
        )?)
    }

    /// The command with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn command(&self, id: i64) -> Result<Option<Command>, Error> {
        let sql = format!("{COMMAND} WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], command).optional()?)
    }

    /// The account's command with this UUID.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_by_uid(&self, account: i64, uid: &str) -> Result<Option<Command>, Error> {
        let sql = format!("{COMMAND} WHERE uid = $1 AND account_id = $2");
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![uid, account], command).optional()?)
    }

    /// Commands, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn commands(&self, filter: &CommandFilter) -> Result<Vec<Command>, Error> {
        let sql = format!(
            "{COMMAND} WHERE account_id = $1 AND ($2 = 0 OR id < $2) AND ($3 IS NULL OR kind = $3)
             AND ($4 IS NULL OR target = $4) AND (NOT $5 OR ended_at IS NULL) ORDER BY id DESC LIMIT $6"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(
            params![filter.account, filter.before, filter.kind, filter.target, filter.open, filter.limit],
            command,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest command of a target with one of these names.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_newest(&self, kind: &str, target: i64, names: [&str; 4]) -> Result<Option<Command>, Error> {
        let sql =
            format!("{COMMAND} WHERE kind = $1 AND target = $2 AND name IN ($3, $4, $5, $6) ORDER BY id DESC LIMIT 1");
        let values = params![kind, target, names[0], names[1], names[2], names[3]];
        Ok(self.connection.prepare_cached(&sql)?.query_row(values, command).optional()?)
    }

    /// The commands of a target that have not ended, in the order accepted.
    ///
    /// # Errors
    /// The database's own.
    pub fn commands_open(&self, kind: &str, target: i64) -> Result<Vec<Command>, Error> {
        let sql = format!("{COMMAND} WHERE kind = $1 AND target = $2 AND ended_at IS NULL ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![kind, target], command)?.collect::<Result<_, _>>()?)
    }

    /// How many commands of the account are not over.
    ///
    /// # Errors
    /// The database's own.
    pub fn commands_open_of(&self, account: i64) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) FROM commands WHERE account_id = $1 AND ended_at IS NULL";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![account], |row| row.get(0))?)
    }

    /// The one of those whose turn it is: what takes a roll-out back before roll-outs that wait, else the oldest.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_next(&self, kind: &str, target: i64) -> Result<Option<Command>, Error> {
        let sql = format!(
            "{COMMAND} WHERE kind = $1 AND target = $2 AND ended_at IS NULL
             ORDER BY name NOT IN ('rollout_undo', 'group_undo'), id LIMIT 1"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![kind, target], command).optional()?)
    }

    /// Targets that have commands which have not ended.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_targets(&self) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT DISTINCT kind, target FROM commands WHERE ended_at IS NULL";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// Notes how far a command is.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_progress(
        &self,
        id: i64,
        status: &str,
        result: &str,
        message: &str,
        ended_at: Option<i64>,
    ) -> Result<(), Error> {
        let sql = "UPDATE commands SET status = $1, result = $2, message = $3, ended_at = $4 WHERE id = $5";
        self.connection.prepare_cached(sql)?.execute(params![status, result, message, ended_at, id])?;
        Ok(())
    }

    /// Notes that a command is to stop, and why; the first reason stays.
    ///
    /// # Errors
    /// The database's own.
    pub fn command_cancel(&self, id: i64, why: &str) -> Result<(), Error> {
        let sql = "UPDATE commands SET cancelled = $1 WHERE id = $2 AND cancelled = '' AND ended_at IS NULL";
        self.connection.prepare_cached(sql)?.execute(params![why, id])?;
        Ok(())
    }

    /// Adds a step (`id` is ignored); its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn activity_add(&self, new: &OperationStep) -> Result<i64, Error> {
        let sql =
            "INSERT INTO activities (command_id, stage, step, name, container_id, status, result, message, created_at,
                   ended_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id";
        Ok(self.connection.prepare_cached(sql)?.query_row(
            params![
                new.command_id,
                new.stage,
                new.step,
                new.name,
                new.container_id,
                new.status,
                new.result,
                new.message,
                new.created_at,
                new.ended_at
            ],
            |row| row.get(0),
        )?)
    }

    /// A command's steps, in their order.
    ///
    /// # Errors
    /// The database's own.
    pub fn activities(&self, command: i64) -> Result<Vec<OperationStep>, Error> {
        let sql = format!("{ACTIVITY} WHERE command_id = $1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([command], activity)?.collect::<Result<_, _>>()?)
    }

    /// Notes how far a step is.
    ///
    /// # Errors
    /// The database's own.
    pub fn activity_progress(&self, step: &OperationStep) -> Result<(), Error> {
        let sql = "UPDATE activities SET status = $1, result = $2, message = $3, ended_at = $4, container_id = $5
                   WHERE id = $6";
        self.connection.prepare_cached(sql)?.execute(params![
            step.status,
            step.result,
            step.message,
            step.ended_at,
            step.container_id,
            step.id
        ])?;
        Ok(())
    }

    /// Forgets commands that ended before `before`.
    ///
    /// # Errors
    /// The database's own.
    pub fn commands_forget(&self, before: i64) -> Result<usize, Error> {
        Ok(self.connection.prepare_cached("DELETE FROM commands WHERE ended_at < $1")?.execute([before])?)
    }
}
