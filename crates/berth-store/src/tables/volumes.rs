//! Named volumes.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};

/// A volume of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// Unique within the account.
    pub name: String,
    /// Name of its folder.
    pub folder: String,
    /// JSON object.
    pub labels: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

const COLUMNS: &str = "id, account_id, name, folder, labels, created_at";

fn volume(row: &Row<'_>) -> rusqlite::Result<Volume> {
    Ok(Volume {
        id: row.get(0)?,
        account_id: row.get(1)?,
        name: row.get(2)?,
        folder: row.get(3)?,
        labels: row.get(4)?,
        created_at: row.get(5)?,
    })
}

impl Tx<'_> {
    /// Adds a volume (`id` is ignored); its number.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the account has one of that name.
    pub fn volume_add(&self, new: &Volume) -> Result<i64, Error> {
        let sql = "INSERT INTO volumes (account_id, name, folder, labels, created_at)
                   VALUES ($1, $2, $3, $4, $5) RETURNING id";
        self.connection
            .prepare_cached(sql)?
            .query_row(params![new.account_id, new.name, new.folder, new.labels, new.created_at], |row| row.get(0))
            .map_err(|e| unique(e, || format!("a volume named {:?}", new.name)))
    }

    /// The account's volume of that name.
    ///
    /// # Errors
    /// The database's own.
    pub fn volume(&self, account: i64, name: &str) -> Result<Option<Volume>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM volumes WHERE account_id = $1 AND name = $2");
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![account, name], volume).optional()?)
    }

    /// Volumes by number: of one account, or of all.
    ///
    /// # Errors
    /// The database's own.
    pub fn volumes(&self, account: Option<i64>) -> Result<Vec<Volume>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM volumes WHERE $1 IS NULL OR account_id = $1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([account], volume)?.collect::<Result<_, _>>()?)
    }

    /// Removes a row.
    ///
    /// # Errors
    /// The database's own.
    pub fn volume_remove(&self, id: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM volumes WHERE id = $1")?.execute([id])?;
        Ok(())
    }
}
