//! What was pushed: manifests, tags, and the blobs of repositories.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// A manifest as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its account.
    pub account_id: i64,
    /// Its repository.
    pub repository: String,
    /// Digest of its content.
    pub digest: String,
    /// Media type.
    pub media_type: String,
    /// Its bytes; empty where only the rest of it was asked for.
    pub content: Vec<u8>,
    /// Digests of the blobs that it names, separated by spaces.
    pub blobs: String,
    /// Digests of the manifests that it names, separated by spaces.
    pub manifests: String,
    /// Digest of the manifest that it is about.
    pub subject: Option<String>,
    /// Digest of the image (of its configuration) that it describes.
    pub image: Option<String>,
    /// Whether the server made it of an image of its own.
    pub made: bool,
    /// When it was last put or asked for, nanoseconds since 1970.
    pub used_at: i64,
}

/// A tag of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestTag {
    /// Its account.
    pub account_id: i64,
    /// Its repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The manifest's digest.
    pub digest: String,
}

/// A blob that a repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its account.
    pub account_id: i64,
    /// Its repository.
    pub repository: String,
    /// Digest of its content.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Whether the server made it of a layer of its own.
    pub made: bool,
    /// When it was last put or asked for, nanoseconds since 1970.
    pub used_at: i64,
}

/// Manifests about one that are told.
const MOST_REFERRERS: u32 = 1000;

const MANIFEST: &str =
    "account_id, repository, digest, media_type, content, blobs, manifests, subject, image, made, used_at";
/// The same without the content.
const OUTLINE: &str =
    "account_id, repository, digest, media_type, X'', blobs, manifests, subject, image, made, used_at";
const BLOB: &str = "account_id, repository, digest, size, made, used_at";

fn manifest(row: &Row<'_>) -> rusqlite::Result<Manifest> {
    Ok(Manifest {
        account_id: row.get(0)?,
        repository: row.get(1)?,
        digest: row.get(2)?,
        media_type: row.get(3)?,
        content: row.get(4)?,
        blobs: row.get(5)?,
        manifests: row.get(6)?,
        subject: row.get(7)?,
        image: row.get(8)?,
        made: row.get(9)?,
        used_at: row.get(10)?,
    })
}

fn tag(row: &Row<'_>) -> rusqlite::Result<ManifestTag> {
    Ok(ManifestTag { account_id: row.get(0)?, repository: row.get(1)?, tag: row.get(2)?, digest: row.get(3)? })
}

fn blob(row: &Row<'_>) -> rusqlite::Result<Blob> {
    Ok(Blob {
        account_id: row.get(0)?,
        repository: row.get(1)?,
        digest: row.get(2)?,
        size: row.get(3)?,
        made: row.get(4)?,
        used_at: row.get(5)?,
    })
}

impl Tx<'_> {
    /// Puts a manifest there, or finds it there.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_put(&self, new: &Manifest) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO manifests ({MANIFEST}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (account_id, repository, digest) DO UPDATE SET media_type = excluded.media_type,
             image = excluded.image, made = MIN(made, excluded.made), used_at = excluded.used_at"
        );
        self.connection.prepare_cached(&sql)?.execute(params![
            new.account_id,
            new.repository,
            new.digest,
            new.media_type,
            new.content,
            new.blobs,
            new.manifests,
            new.subject,
            new.image,
            new.made,
            new.used_at
        ])?;
        Ok(())
    }

    /// A manifest, by its digest.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest(&self, account: i64, repository: &str, digest: &str) -> Result<Option<Manifest>, Error> {
        let sql = format!("SELECT {MANIFEST} FROM manifests WHERE account_id = $1 AND repository = $2 AND digest = $3");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![account, repository, digest], manifest).optional()?)
    }

    /// The manifest of an image in a repository that was asked for last.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_of_image(&self, account: i64, repository: &str, image: &str) -> Result<Option<Manifest>, Error> {
        let sql = format!(
            "SELECT {MANIFEST} FROM manifests WHERE account_id = $1 AND repository = $2 AND image = $3
             ORDER BY made, used_at DESC LIMIT 1"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![account, repository, image], manifest).optional()?)
    }

    /// The manifests that are about this one, at most 1,000.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifests_about(&self, account: i64, repository: &str, subject: &str) -> Result<Vec<Manifest>, Error> {
        let sql = format!(
            "SELECT {MANIFEST} FROM manifests WHERE account_id = $1 AND repository = $2 AND subject = $3
             ORDER BY digest LIMIT {MOST_REFERRERS}"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, repository, subject], manifest)?.collect::<Result<_, _>>()?)
    }

    /// All manifests of all accounts, without their contents.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifests(&self) -> Result<Vec<Manifest>, Error> {
        let mut statement = self.connection.prepare_cached(&format!("SELECT {OUTLINE} FROM manifests"))?;
        Ok(statement.query_map([], manifest)?.collect::<Result<_, _>>()?)
    }

    /// Takes note that a manifest was asked for.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_used(&self, account: i64, repository: &str, digest: &str, now: i64) -> Result<(), Error> {
        let sql = "UPDATE manifests SET used_at = $1 WHERE account_id = $2 AND repository = $3 AND digest = $4";
        self.connection.prepare_cached(sql)?.execute(params![now, account, repository, digest])?;
        Ok(())
    }

    /// Removes a manifest with its tags; whether it was there.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_remove(&self, account: i64, repository: &str, digest: &str) -> Result<bool, Error> {
        for table in ["manifest_tags", "manifests"] {
            let sql = format!("DELETE FROM {table} WHERE account_id = $1 AND repository = $2 AND digest = $3");
            let removed = self.connection.prepare_cached(&sql)?.execute(params![account, repository, digest])?;
            if table == "manifests" {
                return Ok(removed == 1);
            }
        }
        Ok(false)
    }

    /// Gives a manifest a tag; another one loses it.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_tag(&self, new: &ManifestTag) -> Result<(), Error> {
        let sql = "INSERT INTO manifest_tags (account_id, repository, tag, digest) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (account_id, repository, tag) DO UPDATE SET digest = excluded.digest";
        self.connection.prepare_cached(sql)?.execute(params![new.account_id, new.repository, new.tag, new.digest])?;
        Ok(())
    }

    /// Takes a tag away; whether it was there.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_untag(&self, account: i64, repository: &str, tag: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM manifest_tags WHERE account_id = $1 AND repository = $2 AND tag = $3";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, repository, tag])? == 1)
    }

    /// The tag of a repository.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_by_tag(&self, account: i64, repository: &str, tag: &str) -> Result<Option<Manifest>, Error> {
        let sql = format!(
            "SELECT {MANIFEST} FROM manifests WHERE account_id = $1 AND repository = $2 AND digest =
             (SELECT digest FROM manifest_tags WHERE account_id = $1 AND repository = $2 AND tag = $3)"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![account, repository, tag], manifest).optional()?)
    }

    /// All tags of all accounts.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_tags(&self) -> Result<Vec<ManifestTag>, Error> {
        let sql = "SELECT account_id, repository, tag, digest FROM manifest_tags";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], tag)?.collect::<Result<_, _>>()?)
    }

    /// Repository, tag, and the digest of the image that is meant by it if it is one, of an account's tags.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_tags_of(&self, account: i64) -> Result<Vec<(String, String, Option<String>)>, Error> {
        let sql = "SELECT t.repository, t.tag, m.image FROM manifest_tags t JOIN manifests m
                   ON m.account_id = t.account_id AND m.repository = t.repository AND m.digest = t.digest
                   WHERE t.account_id = $1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([account], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Names of the account's images, each with the image's digest.
    ///
    /// # Errors
    /// The database's own.
    pub fn image_names_and_digests(&self, account: i64) -> Result<Vec<(String, String)>, Error> {
        let sql =
            "SELECT n.name, i.digest FROM image_names n JOIN images i ON i.id = n.image_id WHERE n.account_id = $1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([account], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many manifests the account has.
    ///
    /// # Errors
    /// The database's own.
    pub fn manifest_count(&self, account: i64) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) FROM manifests WHERE account_id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([account], |row| row.get(0))?)
    }

    /// Lets a repository have a blob.
    ///
    /// # Errors
    /// The database's own.
    pub fn blob_put(&self, new: &Blob) -> Result<(), Error> {
        let sql =
            "INSERT INTO blobs (account_id, repository, digest, size, made, used_at) VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT (account_id, repository, digest) DO UPDATE SET used_at = excluded.used_at,
                   made = MIN(made, excluded.made)";
        let values = params![new.account_id, new.repository, new.digest, new.size, new.made, new.used_at];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// A blob of a repository; of any of the account's with `None`.
    ///
    /// # Errors
    /// The database's own.
    pub fn blob(&self, account: i64, repository: Option<&str>, digest: &str) -> Result<Option<Blob>, Error> {
        let sql = format!(
            "SELECT {BLOB} FROM blobs WHERE account_id = $1 AND ($2 IS NULL OR repository = $2) AND digest = $3 LIMIT 1"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_row(params![account, repository, digest], blob).optional()?)
    }

    /// Whether a repository of any account has a blob.
    ///
    /// # Errors
    /// The database's own.
    pub fn blob_is_needed(&self, digest: &str) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = $1)";
        Ok(self.connection.prepare_cached(sql)?.query_row([digest], |row| row.get(0))?)
    }

    /// All blobs of all accounts.
    ///
    /// # Errors
    /// The database's own.
    pub fn blobs(&self) -> Result<Vec<Blob>, Error> {
        let mut statement = self.connection.prepare_cached(&format!("SELECT {BLOB} FROM blobs"))?;
        Ok(statement.query_map([], blob)?.collect::<Result<_, _>>()?)
    }

    /// Takes a blob from a repository; whether it had it.
    ///
    /// # Errors
    /// The database's own.
    pub fn blob_remove(&self, account: i64, repository: &str, digest: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM blobs WHERE account_id = $1 AND repository = $2 AND digest = $3";
        Ok(self.connection.prepare_cached(sql)?.execute(params![account, repository, digest])? == 1)
    }

    /// Takes note that a blob was asked for.
    ///
    /// # Errors
    /// The database's own.
    pub fn blob_used(&self, account: i64, repository: &str, digest: &str, now: i64) -> Result<(), Error> {
        let sql = "UPDATE blobs SET used_at = $1 WHERE account_id = $2 AND repository = $3 AND digest = $4";
        self.connection.prepare_cached(sql)?.execute(params![now, account, repository, digest])?;
        Ok(())
    }

    /// Bytes of what the account has pushed: manifests, and blobs, each once. What the server made of its own images is not counted.
    ///
    /// # Errors
    /// The database's own.
    pub fn pushed_bytes(&self, account: i64) -> Result<i64, Error> {
        let sql = "SELECT (SELECT COALESCE(SUM(size), 0) FROM
                   (SELECT digest, MAX(size) AS size FROM blobs WHERE account_id = $1 AND made = 0 GROUP BY digest))
                   + (SELECT COALESCE(SUM(LENGTH(content)), 0) FROM manifests WHERE account_id = $1 AND made = 0)";
        Ok(self.connection.prepare_cached(sql)?.query_row([account], |row| row.get(0))?)
    }
}
