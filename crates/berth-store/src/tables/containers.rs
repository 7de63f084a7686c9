//! Containers.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};

/// A container's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Number, never used again.
    pub id: i64,
    /// Textual id, unique everywhere.
    pub uid: String,
    /// Its account.
    pub account_id: i64,
    /// Unique within the account.
    pub name: String,
    /// The image as the client named it.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_digest: String,
    /// Digests of its layers, lowest first, JSON array.
    pub layers: String,
    /// What was asked for, JSON.
    pub spec: String,
    /// `stopped`, `running` or `removed`.
    pub desired: String,
    /// What was observed last: `created`, `running`, `exited`.
    pub state: String,
    /// How many times it was asked to start.
    pub run: i64,
    /// What else was observed, JSON.
    pub detail: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// The group that it is one of.
    pub group_id: Option<i64>,
    /// Digest of everything that can't be changed of a member that exists.
    pub shape: String,
    /// Version of the code in it; 0 is none.
    pub version: i64,
    /// The container whose place it takes when it is ready.
    pub replaces: Option<i64>,
    /// Number of the host that it is on.
    pub host_id: i64,
}

/// What changes of a row; `None` leaves a value as it is.
#[derive(Debug, Clone, Default)]
pub struct ContainerChange {
    /// See [`Container::desired`].
    pub desired: Option<&'static str>,
    /// See [`Container::state`].
    pub state: Option<&'static str>,
    /// See [`Container::run`].
    pub run: Option<i64>,
    /// See [`Container::detail`].
    pub detail: Option<String>,
    /// See [`Container::spec`].
    pub spec: Option<String>,
}

/// Which containers a list holds.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// Of this account only.
    pub account: Option<i64>,
    /// In this state only.
    pub state: Option<String>,
    /// With numbers above this.
    pub after: i64,
    /// At most so many.
    pub limit: u32,
}

const COLUMNS: &str =
    "id, uid, account_id, name, image, image_digest, layers, spec, wanted, state, run, detail, created_at,
     group_id, shape, version, replaces, host_id";

fn container(row: &Row<'_>) -> rusqlite::Result<Container> {
    Ok(Container {
        id: row.get(0)?,
        uid: row.get(1)?,
        account_id: row.get(2)?,
        name: row.get(3)?,
        image: row.get(4)?,
        image_digest: row.get(5)?,
        layers: row.get(6)?,
        spec: row.get(7)?,
        desired: row.get(8)?,
        state: row.get(9)?,
        run: row.get(10)?,
        detail: row.get(11)?,
        created_at: row.get(12)?,
        group_id: row.get(13)?,
        shape: row.get(14)?,
        version: row.get(15)?,
        replaces: row.get(16)?,
        host_id: row.get(17)?,
    })
}

/// By what containers are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContainerSort {
    /// The time of their making.
    #[default]
    Created,
    /// Their names.
    Name,
    /// Their images' names.
    Image,
    /// Their states.
    State,
}

/// Containers that match.
#[derive(Debug, Clone, Default)]
pub struct FoundContainers {
    /// The page that was asked for.
    pub page: Vec<Container>,
    /// How many match in each state.
    pub states: Vec<(String, i64)>,
}

/// Containers that are looked for.
#[derive(Debug, Clone, Default)]
pub struct ContainerSearch {
    /// Of this account.
    pub account: i64,
    /// What is in the name or the image's name, or at the beginning of the textual id; empty for all.
    pub text: String,
    /// Only in this state.
    pub state: Option<String>,
    /// Only on the host with this number.
    pub host: Option<i64>,
    /// Only of the group with this number.
    pub group: Option<i64>,
    /// The order.
    pub sort: ContainerSort,
    /// The last first.
    pub descending: bool,
    /// At most so many.
    pub limit: u32,
    /// After so many.
    pub offset: u32,
}

impl Tx<'_> {
    /// Adds a container (`id` is ignored); its number.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the account has one of that name.
    pub fn container_add(&self, new: &Container) -> Result<i64, Error> {
        let sql = "INSERT INTO containers
                   (uid, account_id, name, image, image_digest, layers, spec, wanted, state, run, detail, created_at,
                   group_id, shape, version, replaces, host_id)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) RETURNING id";
        self.connection
            .prepare_cached(sql)?
            .query_row(
                params![
                    new.uid,
                    new.account_id,
                    new.name,
                    new.image,
                    new.image_digest,
                    new.layers,
                    new.spec,
                    new.desired,
                    new.state,
                    new.run,
                    new.detail,
                    new.created_at,
                    new.group_id,
                    new.shape,
                    new.version,
                    new.replaces,
                    new.host_id
                ],
                |row| row.get(0),
            )
            .map_err(|e| unique(e, || format!("a container named {:?}", new.name)))
    }

    /// The container with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn container(&self, id: i64) -> Result<Option<Container>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], container).optional()?)
    }

    /// The container with this textual id.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_by_uid(&self, uid: &str) -> Result<Option<Container>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE uid = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([uid], container).optional()?)
    }

    /// The account's container of exactly that name.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_named(&self, account: i64, name: &str) -> Result<Option<Container>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE account_id = $1 AND name = $2");
        Ok(self.connection.prepare_cached(&sql)?.query_row(params![account, name], container).optional()?)
    }

    /// The account's container by name, textual id or the beginning of one; at most two, for telling "none", "one",
    /// "several". A full match of a name or an id comes alone.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_by_reference(&self, account: i64, reference: &str) -> Result<Vec<Container>, Error> {
        let exact =
            format!("SELECT {COLUMNS} FROM containers WHERE account_id = $1 AND (name = $2 OR uid = $2) LIMIT 1");
        let found =
            self.connection.prepare_cached(&exact)?.query_row(params![account, reference], container).optional()?;
        if let Some(found) = found {
            return Ok(vec![found]);
        }
        // By the index of ids, not of the account: else every name that nobody has is looked for in all of its containers.
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE uid >= $1 AND uid < $1 || CHAR(1114111) AND +account_id = $2 LIMIT 2"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![reference, account], container)?.collect::<Result<_, _>>()?)
    }

    /// Containers by number.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM containers
             WHERE id > $1 AND ($2 IS NULL OR account_id = $2) AND ($3 IS NULL OR state = $3) ORDER BY id LIMIT $4"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![filter.after, filter.account, filter.state, filter.limit], container)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A page of the account's containers that match, without those that are being removed; and how many match in each state,
    /// whatever state is asked for.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_search(&self, asked: &ContainerSearch) -> Result<FoundContainers, Error> {
        const MATCHES: &str = "account_id = $1 AND wanted <> 'removed'
            AND (name LIKE $2 ESCAPE '\\' OR image LIKE $2 ESCAPE '\\' OR uid LIKE $3 ESCAPE '\\')
            AND ($4 IS NULL OR host_id = $4) AND ($5 IS NULL OR group_id = $5)";
        let text: String =
            asked.text.chars().flat_map(|c| "%_\\".contains(c).then_some('\\').into_iter().chain([c])).collect();
        let (within, beginning) = (format!("%{text}%"), format!("{text}%"));
        let sql = format!("SELECT state, COUNT(*) FROM containers WHERE {MATCHES} GROUP BY state ORDER BY state");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let values = params![asked.account, within, beginning, asked.host, asked.group];
        let counts = statement.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let counts = counts.collect::<Result<_, _>>()?;
        let column = match asked.sort {
            ContainerSort::Created => "id",
            ContainerSort::Name => "name",
            ContainerSort::Image => "image",
            ContainerSort::State => "state",
        };
        let direction = if asked.descending { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE {MATCHES} AND ($6 IS NULL OR state = $6)
             ORDER BY {column} {direction}, id {direction} LIMIT $7 OFFSET $8"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let values =
            params![asked.account, within, beginning, asked.host, asked.group, asked.state, asked.limit, asked.offset];
        let rows = statement.query_map(values, container)?.collect::<Result<_, _>>()?;
        Ok(FoundContainers { page: rows, states: counts })
    }

    /// The account's containers whose names begin so.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_named_from(&self, account: i64, beginning: &str) -> Result<Vec<Container>, Error> {
        // What follows all names of that beginning, as names are compared byte by byte.
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE account_id = $1 AND name >= $2 AND name < $2 || CHAR(1114111) ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, beginning], container)?.collect::<Result<_, _>>()?)
    }

    /// A page of the account's containers by number, without those that are being removed.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_page(&self, account: i64, offset: i64, limit: i64) -> Result<Vec<Container>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE account_id = $1 AND wanted <> 'removed' ORDER BY id DESC
             LIMIT $2 OFFSET $3"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, limit, offset], container)?.collect::<Result<_, _>>()?)
    }

    /// The containers on a host, of one account or of all, by number, without those that are being removed.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_on_host(&self, account: Option<i64>, host: i64) -> Result<Vec<Container>, Error> {
        // Only then is the index of an account's containers used.
        let whose = if account.is_some() { "account_id = $1" } else { "$1 IS NULL" };
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE {whose} AND host_id = $2 AND wanted <> 'removed' ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, host], container)?.collect::<Result<_, _>>()?)
    }

    /// The containers of a group, by number.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_of_group(&self, group: i64) -> Result<Vec<Container>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE group_id = $1 ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([group], container)?.collect::<Result<_, _>>()?)
    }

    /// Notes the code that is in a container, and that it replaces no other any more.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_settle(&self, id: i64, version: i64, shape: &str) -> Result<(), Error> {
        let sql = "UPDATE containers SET version = $1, shape = $2, replaces = NULL WHERE id = $3";
        self.connection.prepare_cached(sql)?.execute(params![version, shape, id])?;
        Ok(())
    }

    /// How many containers the account has.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_count(&self, account: i64) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) FROM containers WHERE account_id = $1 AND wanted <> 'removed'";
        Ok(self.connection.prepare_cached(sql)?.query_row([account], |row| row.get(0))?)
    }

    /// Containers that run and have a bound of what they may write to disk; of all accounts.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_with_disk_limit(&self) -> Result<Vec<Container>, Error> {
        // By the text of their description: those that have none, nearly all, need not be read as JSON each time.
        let sql = format!(
            "SELECT {COLUMNS} FROM containers WHERE state IN ('running', 'paused') AND spec LIKE '%\"disk\":%' ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], container)?.collect::<Result<_, _>>()?)
    }

    /// How many containers of all accounts are in each state.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_states(&self) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT state, COUNT(*) FROM containers WHERE wanted <> 'removed' GROUP BY state ORDER BY state";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// The account's containers that run, or are to run.
    ///
    /// # Errors
    /// The database's own.
    pub fn containers_running_of(&self, account: i64) -> Result<Vec<Container>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM containers
             WHERE account_id = $1 AND (wanted = 'running' OR state IN ('running', 'paused'))"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account], container)?.collect::<Result<_, _>>()?)
    }

    /// Gives it another name, and the description that has it.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if another container of the account has the name.
    pub fn container_rename(&self, id: i64, name: &str, spec: &str) -> Result<(), Error> {
        let sql = "UPDATE containers SET name = $1, spec = $2 WHERE id = $3";
        let changed = self.connection.prepare_cached(sql)?.execute(params![name, spec, id]);
        changed.map(drop).map_err(|e| unique(e, || format!("container {name:?}")))
    }

    /// Changes a row; whether it is there.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_change(&self, id: i64, change: &ContainerChange) -> Result<bool, Error> {
        let sql = "UPDATE containers SET wanted = COALESCE($1, wanted), state = COALESCE($2, state),
                   run = COALESCE($3, run), detail = COALESCE($4, detail), spec = COALESCE($5, spec) WHERE id = $6";
        let changed = self.connection.prepare_cached(sql)?.execute(params![
            change.desired,
            change.state,
            change.run,
            change.detail,
            change.spec,
            id
        ])?;
        Ok(changed == 1)
    }

    /// Removes a row.
    ///
    /// # Errors
    /// The database's own.
    pub fn container_remove(&self, id: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM containers WHERE id = $1")?.execute([id])?;
        Ok(())
    }
}
