//! Images and their names.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// An image of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// Digest of its configuration.
    pub digest: String,
    /// The configuration, JSON as it came.
    pub config: String,
    /// Digests of its layers, lowest first, JSON array.
    pub layers: String,
    /// Bytes unpacked.
    pub size: i64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Whether every account may use it.
    pub shared: bool,
    /// Where it came from: `pulled`, `loaded`, `committed`.
    pub origin: String,
    /// When it was last used for a container, nanoseconds since 1970; 0 for never.
    pub used_at: i64,
}

/// A name of an image, `repository:tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The name.
    pub name: String,
    /// The image's number.
    pub image_id: i64,
}

const COLUMNS: &str = "id, account_id, digest, config, layers, size, created_at, shared, origin, used_at";

fn image(row: &Row<'_>) -> rusqlite::Result<Image> {
    Ok(Image {
        id: row.get(0)?,
        account_id: row.get(1)?,
        digest: row.get(2)?,
        config: row.get(3)?,
        layers: row.get(4)?,
        size: row.get(5)?,
        created_at: row.get(6)?,
        shared: row.get(7)?,
        origin: row.get(8)?,
        used_at: row.get(9)?,
    })
}

impl Tx<'_> {
    /// Adds an image, or finds the equal one that is there; its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_add(&self, new: &Image) -> Result<i64, Error> {
        let sql = "INSERT INTO images (account_id, digest, config, layers, size, created_at, origin)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (account_id, digest) DO UPDATE SET layers = excluded.layers
                   RETURNING id";
        Ok(self.connection.prepare_cached(sql)?.query_row(
            params![new.account_id, new.digest, new.config, new.layers, new.size, new.created_at, new.origin],
            |row| row.get(0),
        )?)
    }

    /// Gives the image a name; another image loses it.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_name(&self, account: i64, name: &str, image: i64) -> Result<(), Error> {
        let sql = "INSERT INTO image_names (account_id, name, image_id) VALUES ($1, $2, $3)
                   ON CONFLICT (account_id, name) DO UPDATE SET image_id = excluded.image_id";
        self.connection.prepare_cached(sql)?.execute(params![account, name, image])?;
        Ok(())
    }

    /// Takes a name away; whether it was there.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_unname(&self, account: i64, name: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM image_names WHERE account_id = $1 AND name = $2";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, name])? == 1)
    }

    /// The image with this name.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_by_name(&self, account: i64, name: &str) -> Result<Option<Image>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM images WHERE id =
             (SELECT image_id FROM image_names WHERE account_id = $1 AND name = $2)"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![account, name], image).optional()?)
    }

    /// The images whose digest begins so (`sha256:` left out); at most two, for telling "none", "one", "several".
    ///
    /// # Errors
    /// The database's own.
    pub fn images_by_digest(&self, account: i64, hex: &str) -> Result<Vec<Image>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM images WHERE account_id = $1 AND substr(digest, 8, length($2)) = $2 LIMIT 2"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, hex], image)?.collect::<Result<_, _>>()?)
    }

    /// The account's images after number `after`.
    ///
    /// # Errors
    /// The database's own.
    pub fn images(&self, account: i64, after: i64, limit: u32) -> Result<Vec<Image>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM images WHERE account_id = $1 AND id > $2 ORDER BY id LIMIT $3");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, after, limit], image)?.collect::<Result<_, _>>()?)
    }

    /// The names of the account's images.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_names(&self, account: i64) -> Result<Vec<ImageName>, Error> {
        let sql = "SELECT name, image_id FROM image_names WHERE account_id = $1 ORDER BY name";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([account], |row| Ok(ImageName { name: row.get(0)?, image_id: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The image with this name that another account shares with all.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_shared_by_name(&self, name: &str) -> Result<Option<Image>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM images WHERE shared <> 0 AND id IN
             (SELECT image_id FROM image_names WHERE name = $1) ORDER BY id LIMIT 1"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row([name], image).optional()?)
    }

    /// Images of all accounts that others may use.
    ///
    /// # Errors
    /// The database's own.
    pub fn images_shared(&self) -> Result<Vec<Image>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM images WHERE shared <> 0 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], image)?.collect::<Result<_, _>>()?)
    }

    /// Images of all accounts.
    ///
    /// # Errors
    /// The database's own.
    pub fn images_of_all(&self) -> Result<Vec<Image>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM images ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], image)?.collect::<Result<_, _>>()?)
    }

    /// The names of one image.
    ///
    /// # Errors
    /// The database's own.
    pub fn names_of_image(&self, id: i64) -> Result<Vec<String>, Error> {
        let sql = "SELECT name FROM image_names WHERE image_id = $1 ORDER BY name";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Lets all accounts use it, or its own only.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_share(&self, id: i64, shared: bool) -> Result<(), Error> {
        let sql = "UPDATE images SET shared = $1 WHERE id = $2";
        self.connection.prepare_cached(sql)?.execute(params![shared, id])?;
        Ok(())
    }

    /// Takes note that it was used.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_used(&self, id: i64, now: i64) -> Result<(), Error> {
        self.connection.prepare_cached("UPDATE images SET used_at = $1 WHERE id = $2")?.execute(params![now, id])?;
        Ok(())
    }

    /// Bytes of all the account's images, each for itself.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_bytes(&self, account: i64) -> Result<i64, Error> {
        let sql = "SELECT COALESCE(SUM(size), 0) FROM images WHERE account_id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([account], |row| row.get(0))?)
    }

    /// The image with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn image(&self, id: i64) -> Result<Option<Image>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM images WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], image).optional()?)
    }

    /// Removes an image with its names.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_remove(&self, id: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM images WHERE id = $1")?.execute([id])?;
        Ok(())
    }

    /// The `layers` of every image and every container, of all accounts: what must stay on disk.
    ///
    /// # Errors
    /// The database's own.
    pub fn layers_used(&self) -> Result<Vec<String>, Error> {
        let sql = "SELECT layers FROM images UNION SELECT layers FROM containers";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}
