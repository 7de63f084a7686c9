//! Accounts and tokens. Of a token only the hash is kept.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};
use crate::tables::access_keys::AccessKey;

/// Who owns things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Number.
    pub id: i64,
    /// Unique name.
    pub name: String,
    /// Whether its users may have containers in the host's network; the setting's default if `None`.
    pub host_network: Option<bool>,
    /// Whether its downloads may come from private addresses; the setting's default if `None`.
    pub private_addresses: Option<bool>,
}

/// Changes of an account's rights: `None` leaves one as it is, `Some(None)` makes it the setting's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// See [`Account::host_network`].
    pub host_network: Option<Option<bool>>,
    /// See [`Account::private_addresses`].
    pub private_addresses: Option<Option<bool>>,
}

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

const COLUMNS: &str = "id, account_id, name, role, created_at, expires_at, key_id";

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
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

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account { id: row.get(0)?, name: row.get(1)?, host_network: row.get(2)?, private_addresses: row.get(3)? })
}

impl Tx<'_> {
    /// Adds an account.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the name is taken.
    pub fn account_add(&self, name: &str, now: i64) -> Result<i64, Error> {
        let sql = "INSERT INTO accounts (name, created_at) VALUES ($1, $2) RETURNING id";
        self.connection
            .prepare_cached(sql)?
            .query_row(params![name, now], |row| row.get(0))
            .map_err(|e| unique(e, || format!("account {name:?}")))
    }

    /// All accounts.
    ///
    /// # Errors
    /// The database's own.
    pub fn accounts(&self) -> Result<Vec<Account>, Error> {
        let sql = "SELECT id, name, host_network, private_addresses FROM accounts ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([], account)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One account by its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn account(&self, id: i64) -> Result<Option<Account>, Error> {
        let sql = "SELECT id, name, host_network, private_addresses FROM accounts WHERE id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([id], account).optional()?)
    }

    /// Changes an account's rights, by its name; whether there is such an account.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_change(&self, name: &str, change: &AccountChange) -> Result<bool, Error> {
        let Some(now) = self.accounts()?.into_iter().find(|account| account.name == name) else { return Ok(false) };
        let sql = "UPDATE accounts SET host_network = $1, private_addresses = $2 WHERE id = $3";
        let host_network = change.host_network.unwrap_or(now.host_network);
        let private_addresses = change.private_addresses.unwrap_or(now.private_addresses);
        self.connection.prepare_cached(sql)?.execute(params![host_network, private_addresses, now.id])?;
        Ok(true)
    }

    /// The account of that name, made if it is new; `own` if none is named.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_for(&self, own: i64, name: Option<&str>, now: i64) -> Result<i64, Error> {
        let Some(name) = name else { return Ok(own) };
        match self.accounts()?.into_iter().find(|account| account.name == name) {
            Some(found) => Ok(found.id),
            None => self.account_add(name, now),
        }
    }

    /// The account's name.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_name(&self, id: i64) -> Result<Option<String>, Error> {
        let sql = "SELECT name FROM accounts WHERE id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
    }

    /// Bytes of images that the account may have; `None` is the default's.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_image_quota(&self, id: i64) -> Result<Option<i64>, Error> {
        let sql = "SELECT image_quota FROM accounts WHERE id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?.flatten())
    }

    /// Sets that, by the account's name; whether there is such an account.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_set_image_quota(&self, name: &str, bytes: Option<i64>) -> Result<bool, Error> {
        let sql = "UPDATE accounts SET image_quota = $1 WHERE name = $2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![bytes, name])? == 1)
    }

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

    /// Ends the tokens that an access key was given for at `until` at the latest.
    ///
    /// # Errors
    /// The database's own.
    pub fn tokens_of_key_end(&self, key: i64, until: i64) -> Result<(), Error> {
        let sql = "UPDATE tokens SET expires_at = $1 WHERE key_id IS NOT NULL AND key_id = $2 AND expires_at > $1";
        self.connection.prepare_cached(sql)?.execute(params![until, key])?;
        Ok(())
    }

    /// The token with this hash, unless it was revoked or has expired by `now`.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_by_hash(&self, hash: &str, now: i64) -> Result<Option<Token>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM tokens
             WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![hash, now], token).optional()?)
    }

    /// When a token ends, nanoseconds since 1970, `Some(None)` for one that does not; `None` for one that is revoked or gone.
    ///
    /// # Errors
    /// The database's own.
    pub fn token_end(&self, id: i64) -> Result<Option<Option<i64>>, Error> {
        let sql = "SELECT expires_at FROM tokens WHERE id = $1 AND revoked_at IS NULL";
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
