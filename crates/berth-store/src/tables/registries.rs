//! Credentials for registries. Secrets come encrypted.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

/// A login of an account at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// The account.
    pub account_id: i64,
    /// Host and port.
    pub registry: String,
    /// User's name.
    pub username: String,
    /// Password or token, encrypted.
    pub secret: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

impl Tx<'_> {
    /// Keeps a login, in place of an older one.
    ///
    /// # Errors
    /// The database's own.
    pub fn registry_login_put(&self, login: &RegistryLogin) -> Result<(), Error> {
        let sql = "INSERT INTO registry_logins (account_id, registry, username, secret, created_at)
                   VALUES ($1, $2, $3, $4, $5)
                   ON CONFLICT (account_id, registry) DO UPDATE SET
                   username = excluded.username, secret = excluded.secret, created_at = excluded.created_at";
        let RegistryLogin { account_id, registry, username, secret, created_at } = login;
        self.connection.prepare_cached(sql)?.execute(params![account_id, registry, username, secret, created_at])?;
        Ok(())
    }

    /// The account's logins.
    ///
    /// # Errors
    /// The database's own.
    pub fn registry_logins(&self, account: i64) -> Result<Vec<RegistryLogin>, Error> {
        let sql = "SELECT account_id, registry, username, secret, created_at FROM registry_logins
                   WHERE account_id = $1 ORDER BY registry";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([account], |row| {
            Ok(RegistryLogin {
                account_id: row.get(0)?,
                registry: row.get(1)?,
                username: row.get(2)?,
                secret: row.get(3)?,
                created_at: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Forgets a login; whether there was one.
    ///
    /// # Errors
    /// The database's own.
    pub fn registry_login_remove(&self, account: i64, registry: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM registry_logins WHERE account_id = $1 AND registry = $2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, registry])? == 1)
    }

    /// What the server itself remembers under a key.
    ///
    /// # Errors
    /// The database's own.
    pub fn server_value(&self, key: &str) -> Result<Option<String>, Error> {
        let sql = "SELECT value FROM server WHERE key = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// The database's own.
    pub fn server_value_set(&self, key: &str, value: &str) -> Result<(), Error> {
        let sql =
            "INSERT INTO server (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.connection.prepare_cached(sql)?.execute([key, value])?;
        Ok(())
    }
}
