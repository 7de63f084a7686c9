//! What groups were, revision by revision.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// Newest revisions of a group that are kept.
const KEPT: i64 = 10;

/// What a group was at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// 1, 2, … in the group.
    pub revision: i64,
    /// JSON of the core.
    pub spec: String,
    /// When the group had become so, in nanoseconds since 1970.
    pub created_at: i64,
}

fn revision(row: &Row<'_>) -> rusqlite::Result<Revision> {
    Ok(Revision { revision: row.get(0)?, spec: row.get(1)?, created_at: row.get(2)? })
}

impl Tx<'_> {
    /// A group's newest revision.
    ///
    /// # Errors
    /// The database's own.
    pub fn revision_newest(&self, group: i64) -> Result<Option<Revision>, Error> {
        let sql =
            "SELECT revision, spec, created_at FROM group_revisions WHERE group_id = $1 ORDER BY revision DESC LIMIT 1";
        Ok(self.connection.prepare_cached(sql)?.query_row([group], revision).optional()?)
    }

    /// Adds a group's next revision. Those beyond the ten newest go.
    ///
    /// # Errors
    /// The database's own.
    pub fn revision_add(&self, group: i64, spec: &str, now: i64) -> Result<(), Error> {
        let next = self.revision_newest(group)?.map_or(1, |newest| newest.revision + 1);
        let sql = "INSERT INTO group_revisions (group_id, revision, spec, created_at) VALUES ($1, $2, $3, $4)";
        self.connection.prepare_cached(sql)?.execute(params![group, next, spec, now])?;
        let sql = "DELETE FROM group_revisions WHERE group_id = $1 AND revision <= $2";
        self.connection.prepare_cached(sql)?.execute(params![group, next - KEPT])?;
        Ok(())
    }

    /// A group's revisions, oldest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn revisions(&self, group: i64) -> Result<Vec<Revision>, Error> {
        let sql = "SELECT revision, spec, created_at FROM group_revisions WHERE group_id = $1 ORDER BY revision";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([group], revision)?.collect::<Result<_, _>>()?)
    }
}
