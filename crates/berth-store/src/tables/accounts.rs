//! Accounts: who owns things, what they may do and how much they may have.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};

/// What an account may have; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Containers that run at a time.
    pub containers: Option<i64>,
    /// Bytes of memory of all that run.
    pub memory: Option<i64>,
    /// Thousandths of CPUs of all that run.
    pub cpu_milli: Option<i64>,
    /// Bits per second of all that run, in each direction.
    pub bandwidth: Option<i64>,
    /// Bytes that its containers have written and its volumes hold.
    pub disk: Option<i64>,
    /// Bytes of its images; `None` is the setting's default.
    pub images: Option<i64>,
}

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
    /// When it was made, nanoseconds since 1970.
    pub created_at: i64,
    /// Since when its credentials are refused, nanoseconds since 1970.
    pub disabled_at: Option<i64>,
    /// What it may have.
    pub quota: Quota,
}

/// Changes of an account: `None` leaves a thing as it is, `Some(None)` makes it the setting's default, or unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// See [`Account::host_network`].
    pub host_network: Option<Option<bool>>,
    /// See [`Account::private_addresses`].
    pub private_addresses: Option<Option<bool>>,
    /// See [`Account::disabled_at`].
    pub disabled_at: Option<Option<i64>>,
    /// See [`Quota::containers`]; so for the others.
    pub containers: Option<Option<i64>>,
    /// See [`Quota::memory`].
    pub memory: Option<Option<i64>>,
    /// See [`Quota::cpu_milli`].
    pub cpu_milli: Option<Option<i64>>,
    /// See [`Quota::bandwidth`].
    pub bandwidth: Option<Option<i64>>,
    /// See [`Quota::disk`].
    pub disk: Option<Option<i64>>,
    /// See [`Quota::images`].
    pub images: Option<Option<i64>>,
}

/// What an account still has, which keeps it from being removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Belongings {
    /// Containers.
    pub containers: i64,
    /// Volumes.
    pub volumes: i64,
    /// Images.
    pub images: i64,
    /// Services with their groups.
    pub services: i64,
}

const COLUMNS: &str = "id, name, host_network, private_addresses, created_at, disabled_at, container_quota, memory_quota, \
                       cpu_milli_quota, bandwidth_quota, disk_quota, image_quota";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: row.get(0)?,
        name: row.get(1)?,
        host_network: row.get(2)?,
        private_addresses: row.get(3)?,
        created_at: row.get(4)?,
        disabled_at: row.get(5)?,
        quota: Quota {
            containers: row.get(6)?,
            memory: row.get(7)?,
            cpu_milli: row.get(8)?,
            bandwidth: row.get(9)?,
            disk: row.get(10)?,
            images: row.get(11)?,
        },
    })
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

    /// All accounts, without those that are gone.
    ///
    /// # Errors
    /// The database's own.
    pub fn accounts(&self) -> Result<Vec<Account>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM accounts WHERE removed_at IS NULL ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([], account)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Numbers and names of all accounts, those that are gone too.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_names(&self) -> Result<Vec<(i64, String)>, Error> {
        let mut statement = self.connection.prepare_cached("SELECT id, name FROM accounts ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One account by its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn account(&self, id: i64) -> Result<Option<Account>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM accounts WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], account).optional()?)
    }

    /// One account by its name.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_named(&self, name: &str) -> Result<Option<Account>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM accounts WHERE name = $1 AND removed_at IS NULL");
        Ok(self.connection.prepare_cached(&sql)?.query_row([name], account).optional()?)
    }

    /// Changes an account, by its name; whether there is such an account.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_change(&self, name: &str, change: &AccountChange) -> Result<bool, Error> {
        let Some(now) = self.account_named(name)? else { return Ok(false) };
        let sql = "UPDATE accounts SET host_network = $1, private_addresses = $2, disabled_at = $3, container_quota = $4,
                   memory_quota = $5, cpu_milli_quota = $6, bandwidth_quota = $7, disk_quota = $8, image_quota = $9 WHERE id = $10";
        self.connection.prepare_cached(sql)?.execute(params![
            change.host_network.unwrap_or(now.host_network),
            change.private_addresses.unwrap_or(now.private_addresses),
            change.disabled_at.unwrap_or(now.disabled_at),
            change.containers.unwrap_or(now.quota.containers),
            change.memory.unwrap_or(now.quota.memory),
            change.cpu_milli.unwrap_or(now.quota.cpu_milli),
            change.bandwidth.unwrap_or(now.quota.bandwidth),
            change.disk.unwrap_or(now.quota.disk),
            change.images.unwrap_or(now.quota.images),
            now.id
        ])?;
        Ok(true)
    }

    /// What an account still has.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_belongings(&self, id: i64) -> Result<Belongings, Error> {
        let count = |table: &str| -> Result<i64, Error> {
            let sql = format!("SELECT count(*) FROM {table} WHERE account_id = $1");
            Ok(self.connection.prepare_cached(&sql)?.query_row([id], |row| row.get(0))?)
        };
        let sql = "SELECT COUNT(*) FROM manifest_tags t JOIN manifests m ON m.account_id = t.account_id
                   AND m.repository = t.repository AND m.digest = t.digest WHERE t.account_id = $1 AND m.image IS NULL";
        let pushed: i64 = self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
        Ok(Belongings {
            containers: count("containers")?,
            volumes: count("volumes")?,
            // What was pushed and is no image is one that others can pull.
            images: count("images")? + pushed,
            services: count("services")?,
        })
    }

    /// Takes an account away: its credentials are revoked, its name is free. Its row stays for what it used.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_remove(&self, id: i64, now: i64) -> Result<(), Error> {
        let sql = "UPDATE tokens SET revoked_at = $1 WHERE account_id = $2 AND revoked_at IS NULL";
        self.connection.prepare_cached(sql)?.execute(params![now, id])?;
        for table in ["access_keys", "ssh_keys", "registry_logins", "manifests", "manifest_tags", "blobs"] {
            self.connection.prepare_cached(&format!("DELETE FROM {table} WHERE account_id = $1"))?.execute([id])?;
        }
        let sql = "UPDATE accounts SET removed_at = $1, disabled_at = $1, name = name || ' (removed, ' || id || ')' WHERE id = $2";
        self.connection.prepare_cached(sql)?.execute(params![now, id])?;
        Ok(())
    }

    /// The account of that name, made if it is new; `own` if none is named.
    ///
    /// # Errors
    /// The database's own.
    pub fn account_for(&self, own: i64, name: Option<&str>, now: i64) -> Result<i64, Error> {
        let Some(name) = name else { return Ok(own) };
        match self.account_named(name)? {
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
        Ok(self.account(id)?.and_then(|account| account.quota.images))
    }
}
