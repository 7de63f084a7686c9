//! Access keys: a public half, and a secret that must be read again, kept encrypted.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Number.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// What its owner calls it.
    pub name: String,
    /// What a request names.
    pub access_key: String,
    /// Encrypted.
    pub secret: String,
    /// The one before, encrypted.
    pub old_secret: Option<String>,
    /// Until when that is good, nanoseconds since 1970.
    pub old_until: i64,
    /// `admin` or `user`.
    pub role: String,
    /// JSON of the core: what it may be used for, and from where.
    pub bounds: String,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970; never if `None`.
    pub expires_at: Option<i64>,
    /// When it was used last, to the minute.
    pub used_at: Option<i64>,
    /// From where.
    pub used_from: String,
}

const COLUMNS: &str =
    "id, account_id, name, access_key, secret, old_secret, old_until, role, bounds, disabled, created_at,
                       expires_at, used_at, used_from";

fn key(row: &Row<'_>) -> rusqlite::Result<AccessKey> {
    Ok(AccessKey {
        id: row.get(0)?,
        account_id: row.get(1)?,
        name: row.get(2)?,
        access_key: row.get(3)?,
        secret: row.get(4)?,
        old_secret: row.get(5)?,
        old_until: row.get(6)?,
        role: row.get(7)?,
        bounds: row.get(8)?,
        disabled: row.get(9)?,
        created_at: row.get(10)?,
        expires_at: row.get(11)?,
        used_at: row.get(12)?,
        used_from: row.get(13)?,
    })
}

impl Tx<'_> {
    /// Adds a key (`id` is ignored); its number.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if there is one with this public half.
    pub fn access_key_add(&self, new: &AccessKey) -> Result<i64, Error> {
        let sql = "INSERT INTO access_keys (account_id, name, access_key, secret, role, bounds, disabled, created_at, expires_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
        self.connection
            .prepare_cached(sql)?
            .query_row(
                params![
                    new.account_id,
                    new.name,
                    new.access_key,
                    new.secret,
                    new.role,
                    new.bounds,
                    new.disabled,
                    new.created_at,
                    new.expires_at
                ],
                |row| row.get(0),
            )
            .map_err(|e| unique(e, || "this access key".into()))
    }

    /// The key with this public half.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key(&self, access_key: &str) -> Result<Option<AccessKey>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM access_keys WHERE access_key = $1
               AND account_id NOT IN (SELECT id FROM accounts WHERE disabled_at IS NOT NULL)"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row([access_key], key).optional()?)
    }

    /// The key with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_by_id(&self, id: i64) -> Result<Option<AccessKey>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM access_keys WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], key).optional()?)
    }

    /// Keys by number: of one account, or of all.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_keys(&self, account: Option<i64>) -> Result<Vec<AccessKey>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM access_keys WHERE $1 IS NULL OR account_id = $1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([account], key)?.collect::<Result<_, _>>()?)
    }

    /// Gives it another secret; the one before is good until then.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_rotate(&self, id: i64, secret: &str, old_until: i64) -> Result<(), Error> {
        let sql = "UPDATE access_keys SET old_secret = secret, secret = $1, old_until = $2 WHERE id = $3";
        self.connection.prepare_cached(sql)?.execute(params![secret, old_until, id])?;
        Ok(())
    }

    /// Disables or enables it.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_disable(&self, id: i64, disabled: bool) -> Result<(), Error> {
        let sql = "UPDATE access_keys SET disabled = $1 WHERE id = $2";
        self.connection.prepare_cached(sql)?.execute(params![disabled, id])?;
        Ok(())
    }

    /// Changes what it may be used for.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_bounds(&self, id: i64, bounds: &str) -> Result<(), Error> {
        let sql = "UPDATE access_keys SET bounds = $1 WHERE id = $2";
        self.connection.prepare_cached(sql)?.execute(params![bounds, id])?;
        Ok(())
    }

    /// Notes its use.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_used(&self, id: i64, at: i64, from: &str) -> Result<(), Error> {
        let sql = "UPDATE access_keys SET used_at = $1, used_from = $2 WHERE id = $3";
        self.connection.prepare_cached(sql)?.execute(params![at, from, id])?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// The database's own.
    pub fn access_key_remove(&self, id: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM tokens WHERE key_id = $1")?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM access_keys WHERE id = $1")?.execute([id])?;
        Ok(())
    }
}
