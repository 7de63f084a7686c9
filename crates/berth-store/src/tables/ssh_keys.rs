//! Keys for SSH logins. The private half is kept, encrypted, until its owner has fetched it.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// A key pair of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// What its owner calls it.
    pub name: String,
    /// The public half, a line of `authorized_keys`.
    pub public: String,
    /// Fingerprint of that.
    pub fingerprint: String,
    /// The private half, encrypted; `None` when it has been fetched.
    pub private: Option<String>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

const COLUMNS: &str = "id, account_id, name, public, fingerprint, private, created_at";

fn key(row: &Row<'_>) -> rusqlite::Result<SshKey> {
    Ok(SshKey {
        id: row.get(0)?,
        account_id: row.get(1)?,
        name: row.get(2)?,
        public: row.get(3)?,
        fingerprint: row.get(4)?,
        private: row.get(5)?,
        created_at: row.get(6)?,
    })
}

impl Tx<'_> {
    /// Adds a key (`id` is ignored); its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn ssh_key_add(&self, new: &SshKey) -> Result<i64, Error> {
        let sql = "INSERT INTO ssh_keys (account_id, name, public, fingerprint, private, created_at)
                   VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
        let values = params![new.account_id, new.name, new.public, new.fingerprint, new.private, new.created_at];
        Ok(self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
    }

    /// The account's key with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn ssh_key(&self, account: i64, id: i64) -> Result<Option<SshKey>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM ssh_keys WHERE account_id = $1 AND id = $2");
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![account, id], key).optional()?)
    }

    /// The account's keys by number.
    ///
    /// # Errors
    /// The database's own.
    pub fn ssh_keys(&self, account: i64) -> Result<Vec<SshKey>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM ssh_keys WHERE account_id = $1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([account], key)?.collect::<Result<_, _>>()?)
    }

    /// Forgets the private half; whether it was there.
    ///
    /// # Errors
    /// The database's own.
    pub fn ssh_key_forget_private(&self, id: i64) -> Result<bool, Error> {
        let sql = "UPDATE ssh_keys SET private = NULL WHERE id = $1 AND private IS NOT NULL";
        Ok(self.connection.prepare_cached(sql)?.execute([id])? == 1)
    }

    /// Removes a key of the account; whether there was one.
    ///
    /// # Errors
    /// The database's own.
    pub fn ssh_key_remove(&self, account: i64, id: i64) -> Result<bool, Error> {
        let sql = "DELETE FROM ssh_keys WHERE account_id = $1 AND id = $2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, id])? == 1)
    }
}
