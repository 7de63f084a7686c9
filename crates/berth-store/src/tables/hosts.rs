//! Machines that run containers.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Number, never used again.
    pub id: i64,
    /// Textual id, derived from the machine's own.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub area: String,
    /// Whose network it is in.
    pub operator: String,
    /// What that carries, Mbit/s.
    pub bandwidth_mbit: i64,
    /// What was read from it, JSON of the core.
    pub facts: String,
    /// When it was heard of last, nanoseconds since 1970.
    pub heartbeat_at: i64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

/// What people set of a host; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLabels {
    /// See [`Host::name`].
    pub name: Option<String>,
    /// See [`Host::area`].
    pub area: Option<String>,
    /// See [`Host::operator`].
    pub operator: Option<String>,
    /// See [`Host::bandwidth_mbit`].
    pub bandwidth_mbit: Option<i64>,
}

const COLUMNS: &str = "id, uid, name, area, operator, bandwidth_mbit, facts, heartbeat_at, created_at";

fn host(row: &Row<'_>) -> rusqlite::Result<Host> {
    Ok(Host {
        id: row.get(0)?,
        uid: row.get(1)?,
        name: row.get(2)?,
        area: row.get(3)?,
        operator: row.get(4)?,
        bandwidth_mbit: row.get(5)?,
        facts: row.get(6)?,
        heartbeat_at: row.get(7)?,
        created_at: row.get(8)?,
    })
}

impl Tx<'_> {
    /// Notes that a host was heard of, with what was read from it. `name` is for one that is new. Whether it is new.
    ///
    /// # Errors
    /// The database's own.
    pub fn host_heard(&self, uid: &str, name: &str, facts: &str, at: i64) -> Result<bool, Error> {
        let known = "UPDATE hosts SET facts = $1, heartbeat_at = $2 WHERE uid = $3";
        if self.connection.prepare_cached(known)?.execute(params![facts, at, uid])? == 1 {
            return Ok(false);
        }
        let sql = "INSERT INTO hosts (uid, name, facts, heartbeat_at, created_at) VALUES ($1, $2, $3, $4, $4)";
        self.connection.prepare_cached(sql)?.execute(params![uid, name, facts, at])?;
        Ok(true)
    }

    /// All hosts, by number.
    ///
    /// # Errors
    /// The database's own.
    pub fn hosts(&self) -> Result<Vec<Host>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM hosts ORDER BY id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], host)?.collect::<Result<_, _>>()?)
    }

    /// The host with this textual id.
    ///
    /// # Errors
    /// The database's own.
    pub fn host_by_uid(&self, uid: &str) -> Result<Option<Host>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM hosts WHERE uid = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([uid], host).optional()?)
    }

    /// The host with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn host(&self, id: i64) -> Result<Option<Host>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM hosts WHERE id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], host).optional()?)
    }

    /// Hosts called so: two at most, for telling "none", "one", "several".
    ///
    /// # Errors
    /// The database's own.
    pub fn hosts_named(&self, name: &str) -> Result<Vec<Host>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM hosts WHERE name = $1 LIMIT 2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([name], host)?.collect::<Result<_, _>>()?)
    }

    /// Sets what people say about a host; whether there is one.
    ///
    /// # Errors
    /// The database's own.
    pub fn host_label(&self, id: i64, labels: &HostLabels) -> Result<bool, Error> {
        let sql = "UPDATE hosts SET name = COALESCE($1, name), area = COALESCE($2, area),
                   operator = COALESCE($3, operator), bandwidth_mbit = COALESCE($4, bandwidth_mbit) WHERE id = $5";
        let values = params![labels.name, labels.area, labels.operator, labels.bandwidth_mbit, id];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? == 1)
    }
}
