//! Deployments: what was asked for of a container that one of their names, and files of them that are ready to be fetched.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx, unique};

/// What was asked for of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// JSON of the core.
    pub spec: String,
    /// Of one that takes another's place: whether it is to run then.
    pub runs: bool,
    /// The step of a command that made it.
    pub activity_id: i64,
}

/// A file that was made ready to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The command that made it.
    pub command_uid: String,
    /// Its account.
    pub account_id: i64,
    /// Its name.
    pub name: String,
    /// Where it is kept, below the folder for such files.
    pub file: String,
    /// Bytes.
    pub size: i64,
    /// Digest, hexadecimal.
    pub sha256: String,
    /// Who knows this may fetch it.
    pub token: String,
    /// Until then, nanoseconds since 1970.
    pub expires_at: i64,
    /// Number of the container that it is of.
    pub container_id: i64,
    /// The path in that.
    pub path: String,
    /// What changes with the content of a file; empty where nothing does.
    pub stamp: String,
}

fn download(row: &rusqlite::Row<'_>) -> rusqlite::Result<Download> {
    Ok(Download {
        command_uid: row.get(0)?,
        account_id: row.get(1)?,
        name: row.get(2)?,
        file: row.get(3)?,
        size: row.get(4)?,
        sha256: row.get(5)?,
        token: row.get(6)?,
        expires_at: row.get(7)?,
        container_id: row.get(8)?,
        path: row.get(9)?,
        stamp: row.get(10)?,
    })
}

const DOWNLOAD: &str =
    "command_uid, account_id, name, file, size, sha256, token, expires_at, container_id, path, stamp";

impl Tx<'_> {
    /// Notes what was asked for of a container.
    ///
    /// # Errors
    /// The database's own.
    pub fn deployment_add(&self, container: i64, new: &Deployment) -> Result<(), Error> {
        let sql = "INSERT INTO deployments (container_id, spec, runs, activity_id) VALUES ($1, $2, $3, $4)";
        self.connection.prepare_cached(sql)?.execute(params![container, new.spec, new.runs, new.activity_id])?;
        Ok(())
    }

    /// What was asked for of a container.
    ///
    /// # Errors
    /// The database's own.
    pub fn deployment(&self, container: i64) -> Result<Option<Deployment>, Error> {
        let sql = "SELECT spec, runs, activity_id FROM deployments WHERE container_id = $1";
        let read =
            |row: &rusqlite::Row<'_>| Ok(Deployment { spec: row.get(0)?, runs: row.get(1)?, activity_id: row.get(2)? });
        Ok(self.connection.prepare_cached(sql)?.query_row([container], read).optional()?)
    }

    /// What was asked for of all deployments on a host, of all accounts: number of the container, that of the one whose place it
    /// takes, JSON of the core.
    ///
    /// # Errors
    /// The database's own.
    pub fn deployments_on_host(&self, host: i64) -> Result<Vec<(i64, Option<i64>, String)>, Error> {
        let sql = "SELECT c.id, c.replaces, d.spec FROM containers c JOIN deployments d ON d.container_id = c.id
                   WHERE c.host_id = $1 AND c.wanted <> 'removed'";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([host], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives one container's name to another: the first is called `left` then and is to be removed, and of the second it is no
    /// longer said that it replaces anything. Whether the second is there and not to be removed itself; if not, the caller has to
    /// give the transaction up.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if `left` is taken.
    pub fn container_take_name(&self, from: i64, to: i64, name: &str, left: &str) -> Result<bool, Error> {
        let sql = "UPDATE containers SET name = $1, wanted = 'removed' WHERE id = $2";
        let taken = |e| unique(e, || format!("a container named {left:?}"));
        self.connection.prepare_cached(sql)?.execute(params![left, from]).map_err(taken)?;
        let sql = "UPDATE containers SET name = $1, replaces = NULL WHERE id = $2 AND wanted <> 'removed'";
        let changed = self
            .connection
            .prepare_cached(sql)?
            .execute(params![name, to])
            .map_err(|e| unique(e, || format!("a container named {name:?}")))?;
        Ok(changed == 1)
    }

    /// Adds a file that is ready, or says anew what it is: it was made twice, perhaps.
    ///
    /// # Errors
    /// The database's own.
    pub fn download_add(&self, new: &Download) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO downloads ({DOWNLOAD}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (command_uid) DO UPDATE SET name = excluded.name, file = excluded.file, size = excluded.size,
             sha256 = excluded.sha256, expires_at = excluded.expires_at, stamp = excluded.stamp"
        );
        self.connection.prepare_cached(&sql)?.execute(params![
            new.command_uid,
            new.account_id,
            new.name,
            new.file,
            new.size,
            new.sha256,
            new.token,
            new.expires_at,
            new.container_id,
            new.path,
            new.stamp
        ])?;
        Ok(())
    }

    /// The file that a command made ready.
    ///
    /// # Errors
    /// The database's own.
    pub fn download(&self, command: &str) -> Result<Option<Download>, Error> {
        let sql = format!("SELECT {DOWNLOAD} FROM downloads WHERE command_uid = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([command], download).optional()?)
    }

    /// The account's files that may still be fetched.
    ///
    /// # Errors
    /// The database's own.
    pub fn downloads_of(&self, account: i64, now: i64) -> Result<Vec<Download>, Error> {
        let sql = format!("SELECT {DOWNLOAD} FROM downloads WHERE account_id = $1 AND expires_at > $2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, now], download)?.collect::<Result<_, _>>()?)
    }

    /// The file that this token is for, if it may still be fetched.
    ///
    /// # Errors
    /// The database's own.
    pub fn download_by_token(&self, token: &str, now: i64) -> Result<Option<Download>, Error> {
        let sql = format!("SELECT {DOWNLOAD} FROM downloads WHERE token = $1 AND expires_at > $2");
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![token, now], download).optional()?)
    }

    /// Forgets files that may not be fetched any more; the names of those that are still kept.
    ///
    /// # Errors
    /// The database's own.
    pub fn downloads_forget(&self, now: i64) -> Result<Vec<String>, Error> {
        self.connection.prepare_cached("DELETE FROM downloads WHERE expires_at <= $1")?.execute([now])?;
        let mut statement = self.connection.prepare_cached("SELECT file FROM downloads")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}
