//! What happened, in order.

use rusqlite::params;

use crate::database::{Error, Tx};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number; grows.
    pub id: i64,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Whose it is.
    pub account_id: i64,
    /// `container.started` and the like.
    pub kind: String,
    /// The textual id of what it happened to.
    pub subject: String,
    /// JSON object.
    pub detail: String,
}

fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        at: row.get(1)?,
        account_id: row.get(2)?,
        kind: row.get(3)?,
        subject: row.get(4)?,
        detail: row.get(5)?,
    })
}

impl Tx<'_> {
    /// Adds an event.
    ///
    /// # Errors
    /// The database's own.
    pub fn event_add(&self, at: i64, account: i64, kind: &str, subject: &str, detail: &str) -> Result<Event, Error> {
        let sql = "INSERT INTO events (at, account_id, kind, subject, detail) VALUES ($1, $2, $3, $4, $5) RETURNING id";
        let id = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![at, account, kind, subject, detail], |r| r.get(0))?;
        Ok(Event { id, at, account_id: account, kind: kind.into(), subject: subject.into(), detail: detail.into() })
    }

    /// The account's events after number `after`, oldest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn events(&self, account: i64, after: i64, limit: u32) -> Result<Vec<Event>, Error> {
        let sql = "SELECT id, at, account_id, kind, subject, detail FROM events
                   WHERE account_id = $1 AND id > $2 ORDER BY id LIMIT $3";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map(params![account, after, limit], event)?.collect::<Result<_, _>>()?)
    }

    /// The account's newest events, of one subject or of all, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn events_recent(&self, account: i64, subject: Option<&str>, limit: u32) -> Result<Vec<Event>, Error> {
        let sql = "SELECT id, at, account_id, kind, subject, detail FROM events
                   WHERE account_id = $1 AND ($2 IS NULL OR subject = $2) ORDER BY id DESC LIMIT $3";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map(params![account, subject, limit], event)?.collect::<Result<_, _>>()?)
    }

    /// The number of the newest event there is, 0 before the first.
    ///
    /// # Errors
    /// The database's own.
    pub fn event_newest(&self) -> Result<i64, Error> {
        let sql = "SELECT COALESCE(MAX(id), 0) FROM events";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Forgets events older than `before`.
    ///
    /// # Errors
    /// The database's own.
    pub fn events_forget(&self, before: i64) -> Result<usize, Error> {
        Ok(self.connection.prepare_cached("DELETE FROM events WHERE at < $1")?.execute([before])?)
    }
}
