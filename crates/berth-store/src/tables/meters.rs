//! Containers that are, or were, measured. A meter stays when its container goes; what was used is in points.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx};

/// A container that is, or was, measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Number.
    pub id: i64,
    /// Account of the container.
    pub account_id: i64,
    /// Its number.
    pub container_id: i64,
    /// Its textual id.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its image, as it was named.
    pub image: String,
    /// The image's name without the version.
    pub image_name: String,
    /// Number of its host.
    pub host_id: i64,
    /// Its plan, JSON of the core; the last that it had.
    pub plan: Option<String>,
    /// Whether it ran when it was read last.
    pub live: bool,
    /// The last reading, JSON of the core.
    pub last: String,
    /// When the container was made, nanoseconds since 1970.
    pub created_at: i64,
    /// When it was removed.
    pub ended_at: Option<i64>,
}

/// A container, as far as its use is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Its number.
    pub container_id: i64,
    /// Its account.
    pub account_id: i64,
    /// Its textual id.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its image, as the client named it.
    pub image: String,
    /// Number of its host.
    pub host_id: i64,
    /// What was observed of it, JSON of the core.
    pub detail: String,
    /// When it was made, nanoseconds since 1970.
    pub created_at: i64,
    /// Its plan, JSON of the core.
    pub plan: Option<String>,
    /// Its meter, if it was measured before.
    pub meter: Option<KnownMeter>,
}

/// What a meter knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMeter {
    /// Its number.
    pub id: i64,
    /// Whether the container ran when it was read last.
    pub live: bool,
    /// The last reading, JSON of the core.
    pub last: String,
    /// The container's name at that time.
    pub name: String,
    /// Its plan at that time.
    pub plan: Option<String>,
    /// Whether it takes no more readings.
    pub ended: bool,
    /// The image's name without the version; empty for one that is older than that column.
    pub image_name: String,
}

/// A reading to be noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterReading {
    /// The reading, JSON of the core.
    pub last: String,
    /// Whether the container runs.
    pub live: bool,
    /// When it was removed, nanoseconds since 1970; this reading is the last then.
    pub ended_at: Option<i64>,
    /// Full name of its image, with the version.
    pub image: String,
    /// The image's name without the version.
    pub image_name: String,
}

const METER: &str =
    "id, account_id, container_id, uid, name, image, plan, live, last, created_at, ended_at, host_id, image_name";

fn meter(row: &Row<'_>) -> rusqlite::Result<Meter> {
    Ok(Meter {
        id: row.get(0)?,
        account_id: row.get(1)?,
        container_id: row.get(2)?,
        uid: row.get(3)?,
        name: row.get(4)?,
        image: row.get(5)?,
        plan: row.get(6)?,
        live: row.get(7)?,
        last: row.get(8)?,
        created_at: row.get(9)?,
        ended_at: row.get(10)?,
        host_id: row.get(11)?,
        image_name: row.get(12)?,
    })
}

impl Tx<'_> {
    /// The meter of a container.
    ///
    /// # Errors
    /// The database's own.
    pub fn meter(&self, container: i64) -> Result<Option<Meter>, Error> {
        let sql = format!("SELECT {METER} FROM meters WHERE container_id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([container], meter).optional()?)
    }

    /// The meters of an account, or of all, that measured something in a time, nanoseconds since 1970.
    ///
    /// # Errors
    /// The database's own.
    pub fn meters(&self, account: Option<i64>, from: i64, to: i64) -> Result<Vec<Meter>, Error> {
        let sql = format!(
            "SELECT {METER} FROM meters WHERE ($1 IS NULL OR account_id = $1) AND created_at < $2
             AND (ended_at IS NULL OR ended_at >= $3) ORDER BY id"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map(params![account, to, from], meter)?.collect::<Result<_, _>>()?)
    }

    /// Numbers of the containers that are to be read: those that run, and those that ran when they were read last.
    ///
    /// # Errors
    /// The database's own.
    pub fn meters_to_read(&self) -> Result<Vec<(i64, String)>, Error> {
        let sql = "SELECT id, uid FROM containers WHERE state IN ('running', 'paused')
                   UNION SELECT container_id, uid FROM meters WHERE live <> 0 AND ended_at IS NULL ORDER BY 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// Ends a removed container's meter, if it has not ended with a reading.
    ///
    /// # Errors
    /// The database's own.
    pub fn meter_end(&self, container: i64, at: i64) -> Result<(), Error> {
        let sql = "UPDATE meters SET ended_at = $1, live = 0 WHERE container_id = $2 AND ended_at IS NULL";
        self.connection.prepare_cached(sql)?.execute(params![at, container])?;
        Ok(())
    }

    /// What is needed to note a reading of a container; `None` if there is no such.
    ///
    /// # Errors
    /// The database's own.
    pub fn measured(&self, container: i64) -> Result<Option<Measured>, Error> {
        // One that is being removed has another name, perhaps, so that its successor can have its own.
        let sql = "SELECT c.id, c.account_id, c.uid,
                   CASE WHEN c.wanted = 'removed' THEN COALESCE(m.name, c.name) ELSE c.name END, c.image, c.host_id, c.detail, c.created_at, p.plan,
                   m.id, m.live, m.last, m.name, m.plan, m.ended_at, m.image_name
                   FROM containers c LEFT JOIN meters m ON m.container_id = c.id LEFT JOIN plans p ON p.container_id = c.id
                   WHERE c.id = $1";
        let found = self.connection.prepare_cached(sql)?.query_row([container], |row| {
            let meter = row.get::<_, Option<i64>>(9)?.map(|id| {
                Ok::<_, rusqlite::Error>(KnownMeter {
                    id,
                    live: row.get(10)?,
                    last: row.get(11)?,
                    name: row.get(12)?,
                    plan: row.get(13)?,
                    ended: row.get::<_, Option<i64>>(14)?.is_some(),
                    image_name: row.get(15)?,
                })
            });
            Ok(Measured {
                container_id: row.get(0)?,
                account_id: row.get(1)?,
                uid: row.get(2)?,
                name: row.get(3)?,
                image: row.get(4)?,
                host_id: row.get(5)?,
                detail: row.get(6)?,
                created_at: row.get(7)?,
                plan: row.get(8)?,
                meter: meter.transpose()?,
            })
        });
        Ok(found.optional()?)
    }

    /// Notes a container's reading, making its meter if it has none; the meter's number. `None`, and nothing is noted, if another
    /// reading was noted since `of` was read, the meter has ended, or the container is gone.
    ///
    /// # Errors
    /// The database's own.
    pub fn meter_note(&self, of: &Measured, new: &MeterReading) -> Result<Option<i64>, Error> {
        let Some(known) = &of.meter else {
            let sql = "INSERT INTO meters (account_id, container_id, uid, name, image, plan, live, last, created_at, ended_at,
                       host_id, image_name)
                       SELECT account_id, id, uid, name, $1, $2, $3, $4, created_at, $5, host_id, $6 FROM containers
                       WHERE id = $7 ON CONFLICT (container_id) DO NOTHING RETURNING id";
            let values = params![new.image, of.plan, new.live, new.last, new.ended_at, new.image_name, of.container_id];
            return Ok(self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0)).optional()?);
        };
        let changed = if known.live == new.live
            && known.name == of.name
            && known.plan == of.plan
            && known.image_name == new.image_name
            && new.ended_at.is_none()
        {
            // What changes each time and is in no index.
            let sql = "UPDATE meters SET last = $1 WHERE id = $2 AND ended_at IS NULL AND last = $3";
            self.connection.prepare_cached(sql)?.execute(params![new.last, known.id, known.last])?
        } else {
            let sql = "UPDATE meters SET last = $1, live = $2, name = $3, plan = $4, ended_at = $5, image = $6, image_name = $7
                       WHERE id = $8 AND ended_at IS NULL AND last = $9";
            let values = params![
                new.last,
                new.live,
                of.name,
                of.plan,
                new.ended_at,
                new.image,
                new.image_name,
                known.id,
                known.last
            ];
            self.connection.prepare_cached(sql)?.execute(values)?
        };
        Ok((changed == 1).then_some(known.id))
    }
}
