//! Sessions of the console. Only their hashes are kept.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

/// What a session was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionOrigin {
    /// A token, by number.
    Token(i64),
    /// An access key, by number.
    Key(i64),
}

/// Sessions that may be open of one token or access key; with one more, the oldest ends.
const MOST_OF_ONE: i64 = 100;

impl Tx<'_> {
    /// Adds a session by the hashes of its cookie and of what its pages show; those that have expired are
    /// forgotten. Times are nanoseconds since 1970.
    ///
    /// # Errors
    /// The database's own.
    pub fn console_session_add(
        &self,
        hash: &str,
        page_hash: &str,
        origin: SessionOrigin,
        now: i64,
        expires_at: i64,
    ) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM console_sessions WHERE expires_at <= $1")?.execute([now])?;
        let (token, key) = match origin {
            SessionOrigin::Token(id) => (Some(id), None),
            SessionOrigin::Key(id) => (None, Some(id)),
        };
        let sql = "INSERT INTO console_sessions (hash, page_hash, token_id, key_id, created_at, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6)";
        self.connection.prepare_cached(sql)?.execute(params![hash, page_hash, token, key, now, expires_at])?;
        let sql = "DELETE FROM console_sessions WHERE id IN (
                       SELECT id FROM console_sessions WHERE token_id IS $1 AND key_id IS $2
                       ORDER BY id DESC LIMIT -1 OFFSET $3)";
        self.connection.prepare_cached(sql)?.execute(params![token, key, MOST_OF_ONE])?;
        Ok(())
    }

    /// What the session with these hashes was made from, and when it ends, nanoseconds since 1970.
    ///
    /// # Errors
    /// The database's own.
    pub fn console_session(
        &self,
        hash: &str,
        page_hash: &str,
        now: i64,
    ) -> Result<Option<(SessionOrigin, i64)>, Error> {
        let sql = "SELECT token_id, key_id, expires_at FROM console_sessions WHERE hash = $1 AND page_hash = $2 AND expires_at > $3";
        let row = |row: &rusqlite::Row<'_>| {
            let (token, key): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            let origin = token.map(SessionOrigin::Token).or(key.map(SessionOrigin::Key));
            Ok((origin, row.get(2)?))
        };
        let found = self.connection.prepare_cached(sql)?.query_row(params![hash, page_hash, now], row).optional()?;
        Ok(found.and_then(|(origin, end)| Some((origin?, end))))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database's own.
    pub fn console_session_remove(&self, hash: &str) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM console_sessions WHERE hash = $1")?.execute([hash])?;
        Ok(())
    }

    /// The token with this number, unless it was revoked, has expired by `now`, or is of an account that is disabled.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_by_id(&self, id: i64, now: i64) -> Result<Option<super::tokens::Token>, Error> {
        let sql = format!(
            "SELECT {} FROM tokens WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
               AND account_id NOT IN (SELECT id FROM accounts WHERE disabled_at IS NOT NULL)",
            super::tokens::COLUMNS
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![id, now], super::tokens::token).optional()?)
    }
}
