//! Who changed what.

use rusqlite::{Row, params};

use crate::database::{Error, Tx};

/// A change that somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// Number; grows.
    pub id: i64,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// The account; 0 if nobody was known.
    pub account_id: i64,
    /// The credential's name.
    pub who: String,
    /// The client's address.
    pub source: String,
    /// The API that it came by.
    pub dialect: String,
    /// Method and path.
    pub action: String,
    /// HTTP status.
    pub result: String,
    /// What was said if it failed.
    pub message: String,
    /// Id of the request.
    pub request_id: String,
    /// How often the same came of it.
    pub count: i64,
    /// When it did last, nanoseconds since 1970.
    pub last_at: i64,
}

/// Which entries to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of one account, or of all.
    pub account: Option<i64>,
    /// With numbers below this; 0 is all.
    pub before: i64,
    /// From then on, nanoseconds since 1970.
    pub since: i64,
    /// Before then, nanoseconds since 1970.
    pub until: i64,
    /// By this credential.
    pub who: Option<String>,
    /// In whose action this is found.
    pub action: Option<String>,
    /// Only what failed.
    pub failed: bool,
    /// At most so many.
    pub limit: u32,
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get(0)?,
        at: row.get(1)?,
        account_id: row.get(2)?,
        who: row.get(3)?,
        source: row.get(4)?,
        dialect: row.get(5)?,
        action: row.get(6)?,
        result: row.get(7)?,
        message: row.get(8)?,
        request_id: row.get(9)?,
        count: row.get(10)?,
        last_at: row.get(11)?,
    })
}

impl Tx<'_> {
    /// Adds an entry (`id` and `count` are ignored); its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn audit_add(&self, new: &AuditEntry) -> Result<i64, Error> {
        let sql =
            "INSERT INTO audit (at, account_id, who, source, dialect, action, result, message, request_id, last_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $1)";
        self.connection.prepare_cached(sql)?.execute(params![
            new.at,
            new.account_id,
            new.who,
            new.source,
            new.dialect,
            new.action,
            new.result,
            new.message,
            new.request_id
        ])?;
        Ok(self.connection.last_insert_rowid())
    }

    /// The same has come `more` times, the last time at `last_at`.
    ///
    /// # Errors
    /// The database's own.
    pub fn audit_repeat(&self, id: i64, more: i64, last_at: i64) -> Result<(), Error> {
        let sql = "UPDATE audit SET count = count + $1, last_at = $2 WHERE id = $3";
        self.connection.prepare_cached(sql)?.execute(params![more, last_at, id])?;
        Ok(())
    }

    /// Forgets the oldest entries of whoever has the most, until there are `most` in all; how many went.
    ///
    /// # Errors
    /// The database's own.
    pub fn audit_trim(&self, most: i64) -> Result<usize, Error> {
        let sql = "SELECT account_id, count(*) FROM audit GROUP BY account_id ORDER BY 2 DESC";
        let mut statement = self.connection.prepare_cached(sql)?;
        let counts = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        let counts = counts.collect::<Result<Vec<_>, _>>()?;
        let all: i64 = counts.iter().map(|(_, count)| count).sum();
        let Some((account, _)) = counts.first().filter(|_| all > most) else { return Ok(0) };
        let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE account_id = $1 ORDER BY id LIMIT $2)";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, all - most])?)
    }

    /// Entries, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, Error> {
        let sql = "SELECT id, at, account_id, who, source, dialect, action, result, message, request_id, count, last_at FROM audit
                   WHERE ($1 IS NULL OR account_id = $1) AND ($2 = 0 OR id < $2) AND max(at, last_at) >= $3 AND ($4 = 0 OR at < $4)
                   AND ($5 IS NULL OR who = $5) AND ($6 IS NULL OR instr(action, $6) > 0) AND (NOT $7 OR result >= '400' OR message <> '')
                   ORDER BY id DESC LIMIT $8";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(
            params![
                filter.account,
                filter.before,
                filter.since,
                filter.until,
                filter.who,
                filter.action,
                filter.failed,
                filter.limit
            ],
            entry,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets entries from before `before`.
    ///
    /// # Errors
    /// The database's own.
    pub fn audit_forget(&self, before: i64) -> Result<usize, Error> {
        Ok(self.connection.prepare_cached("DELETE FROM audit WHERE at < $1")?.execute([before])?)
    }
}
