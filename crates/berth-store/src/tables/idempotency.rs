//! Answers to creations, by the key that the client gave: the same request again gets the same answer.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Digest of the request that came with it first.
    pub request: String,
    /// The answer to it; `None` while it is under way, or if a crash cut it.
    pub answer: Option<String>,
    /// Textual id of what it made, as soon as that is written down.
    pub about: Option<String>,
}

impl Tx<'_> {
    /// Takes the key for this request; what was known of it before.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_begin(
        &self,
        account: i64,
        key: &str,
        request: &str,
        now: i64,
    ) -> Result<Option<Remembered>, Error> {
        let sql = "SELECT request, answer, about FROM idempotency WHERE account_id = $1 AND key = $2";
        let known = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![account, key], |row| {
                Ok(Remembered { request: row.get(0)?, answer: row.get(1)?, about: row.get(2)? })
            })
            .optional()?;
        if known.is_none() {
            let sql = "INSERT INTO idempotency (account_id, key, request, created_at) VALUES ($1, $2, $3, $4)";
            self.connection.prepare_cached(sql)?.execute(params![account, key, request, now])?;
        }
        Ok(known)
    }

    /// Notes what the request with this key makes, in the same transaction as that.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_about(&self, account: i64, key: &str, about: &str) -> Result<(), Error> {
        let sql = "UPDATE idempotency SET about = $1 WHERE account_id = $2 AND key = $3";
        self.connection.prepare_cached(sql)?.execute(params![about, account, key])?;
        Ok(())
    }

    /// Notes the answer, or gives the key back if there is none to keep.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_end(&self, account: i64, key: &str, answer: Option<&str>) -> Result<(), Error> {
        match answer {
            Some(answer) => {
                let sql = "UPDATE idempotency SET answer = $1 WHERE account_id = $2 AND key = $3";
                self.connection.prepare_cached(sql)?.execute(params![answer, account, key])?;
            }
            None => {
                let sql = "DELETE FROM idempotency WHERE account_id = $1 AND key = $2";
                self.connection.prepare_cached(sql)?.execute(params![account, key])?;
            }
        }
        Ok(())
    }

    /// Forgets keys older than `before`, and at start all whose requests a crash cut before they made anything
    /// (`unanswered`).
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_forget(&self, before: i64, unanswered: bool) -> Result<usize, Error> {
        let sql = "DELETE FROM idempotency WHERE created_at < $1 OR (answer IS NULL AND about IS NULL AND $2)";
        Ok(self.connection.prepare_cached(sql)?.execute(params![before, unanswered])?)
    }
}
