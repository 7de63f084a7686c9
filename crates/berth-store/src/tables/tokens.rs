//! Tokens. Only their hashes are kept.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};
use crate::tables::access_keys::AccessKey;

/// A credential of an account, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Number.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// What its owner calls it.
    pub name: String,
    /// `admin` or `user`.
    pub role: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970; never if `None`.
    pub expires_at: Option<i64>,
    /// The access key that it was given for: it is good only as far as that is.
    pub key_id: Option<i64>,
}

pub(super) const COLUMNS: &str = "id, account_id, name, role, created_at, expires_at, key_id";

pub(super) fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.get(0)?,
        account_id: row.get(1)?,
        name: row.get(2)?,
        role: row.get(3)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        key_id: row.get(6)?,
    })
}

impl Tx<'_> {
    /// Adds a token by its hash.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_add(
        &self,
        account: i64,
        name: &str,
        hash: &str,
        role: &str,
        now: i64,
        expires_at: Option<i64>,
    ) -> Result<Token, Error> {
        let sql = format!(
            "INSERT INTO tokens (account_id, name, hash, role, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING {COLUMNS}"
        );
        let values = params![account, name, hash, role, now, expires_at];
        Ok(self.connection.prepare_cached(&sql)?.query_row(values, token)?)
    }

    /// Adds a token that an access key was given for, and forgets those of it that have expired.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_of_key_add(&self, key: &AccessKey, hash: &str, now: i64, expires_at: i64) -> Result<Token, Error> {
        let sql = "DELETE FROM tokens WHERE key_id = $1 AND expires_at <= $2";
        self.connection.prepare_cached(sql)?.execute(params![key.id, now])?;
        let sql = format!(
            "INSERT INTO tokens (account_id, name, hash, role, created_at, expires_at, key_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}"
        );
        let values = params![key.account_id, key.name, hash, key.role, now, expires_at, key.id];
        Ok(self.connection.prepare_cached(&sql)?.query_row(values, token)?)
    }

    /// Ends the tokens and the console's sessions that an access key was given for at `until` at the latest.
    ///
    /// # Errors
    /// The database's own.
    pub fn tokens_of_key_end(&self, key: i64, until: i64) -> Result<(), Error> {
        let sql = "UPDATE tokens SET expires_at = $1 WHERE key_id IS NOT NULL AND key_id = $2 AND expires_at > $1";
        self.connection.prepare_cached(sql)?.execute(params![until, key])?;
        let sql = "UPDATE console_sessions SET expires_at = $1 WHERE key_id = $2 AND expires_at > $1";
        self.connection.prepare_cached(sql)?.execute(params![until, key])?;
        Ok(())
    }

    /// The token with this hash, unless it was revoked, has expired by `now`, or is of an account that is disabled.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_by_hash(&self, hash: &str, now: i64) -> Result<Option<Token>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM tokens
             WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
               AND account_id NOT IN (SELECT id FROM accounts WHERE disabled_at IS NOT NULL)"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![hash, now], token).optional()?)
    }

    /// When a token ends, nanoseconds since 1970, `Some(None)` for one that does not; `None` for one that is revoked or gone.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_end(&self, id: i64) -> Result<Option<Option<i64>>, Error> {
        let sql = "SELECT expires_at FROM tokens WHERE id = $1 AND revoked_at IS NULL
                   AND account_id NOT IN (SELECT id FROM accounts WHERE disabled_at IS NOT NULL)";
        Ok(self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
    }

    /// The account's tokens that were not revoked, but for those of access keys.
    ///
    /// # Errors
    /// The database's own.
    pub fn tokens(&self, account: i64) -> Result<Vec<Token>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM tokens
             WHERE account_id = $1 AND revoked_at IS NULL AND key_id IS NULL ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([account], token)?.collect::<Result<_, _>>()?)
    }

    /// All accounts' tokens that are not revoked, but for those of access keys.
    ///
    /// # Errors
    /// The database's own.
    pub fn tokens_of_all(&self) -> Result<Vec<Token>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE revoked_at IS NULL AND key_id IS NULL ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], token)?.collect::<Result<_, _>>()?)
    }

    /// Revokes a token of the account; whether there was one.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_revoke(&self, account: i64, id: i64, now: i64) -> Result<bool, Error> {
        let sql = "UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND account_id = $3 AND revoked_at IS NULL";
        Ok(self.connection.prepare_cached(sql)?.execute(params![now, id, account])? == 1)
    }
}
