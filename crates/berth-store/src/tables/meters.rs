//! What containers used, over time.
//!
//! A meter is a container that is, or was, measured; it stays when the container goes. A point is what the container used
//! from `since` (not included) to `at` (included), as the difference of two readings of its counters: points of a meter
//! follow each other without a gap or an overlap, so their sum is what the counters show. Points of readings (step 0) are
//! added up to longer ones, which take over when the short ones are forgotten.

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

/// What was used in a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Milliseconds that it ran.
    pub ran: i64,
    /// CPU time, microseconds.
    pub cpu: i64,
    /// Memory over time, MiB milliseconds.
    pub memory: i64,
    /// Disk that it wrote over time, MiB milliseconds.
    pub disk: i64,
    /// Bytes read from block devices.
    pub block_read: i64,
    /// Bytes written to block devices.
    pub block_write: i64,
    /// Bytes that came in.
    pub rx_bytes: i64,
    /// Packets that came in.
    pub rx_packets: i64,
    /// Bytes that went out.
    pub tx_bytes: i64,
    /// Packets that went out.
    pub tx_packets: i64,
}

/// A point: what was used from `since` to `at`, milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// Its end.
    pub at: i64,
    /// Its beginning.
    pub since: i64,
    /// What was used.
    pub used: Used,
}

/// What containers are put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SumKind {
    /// By host: its number.
    Host,
    /// By image: its name without the version.
    Image,
    /// By version: name and version, `name:version`.
    Version,
}

impl SumKind {
    const ALL: [Self; 3] = [Self::Host, Self::Image, Self::Version];

    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Image => "image",
            Self::Version => "version",
        }
    }

    /// The expression that makes the key of a meter.
    fn key(self) -> &'static str {
        match self {
            Self::Host => "CAST(m.host_id AS TEXT)",
            Self::Image => "m.image_name",
            Self::Version => "m.image",
        }
    }
}

/// What several containers came to in a time of the middle step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Its end, milliseconds since 1970.
    pub at: i64,
    /// See [`SumKind`].
    pub key: String,
    /// How many they were.
    pub containers: i64,
    /// See [`Used::ran`].
    pub ran: i64,
    /// See [`Used::cpu`].
    pub cpu: i64,
    /// See [`Used::memory`].
    pub memory: i64,
    /// See [`Used::disk`].
    pub disk: i64,
    /// See [`Used::rx_bytes`].
    pub rx_bytes: i64,
    /// See [`Used::tx_bytes`].
    pub tx_bytes: i64,
}

/// Where one resolution begins and the next coarser one ends, milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Readings after this are kept one by one.
    pub raw: i64,
    /// Points of the middle step after this are kept.
    pub middle: i64,
    /// Everything up to this is in points of the middle step, and in those of the long step as far as that is complete.
    pub added_up: i64,
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

fn point(row: &Row<'_>) -> rusqlite::Result<Point> {
    Ok(Point {
        at: row.get(0)?,
        since: row.get(1)?,
        used: Used {
            ran: row.get(2)?,
            cpu: row.get(3)?,
            memory: row.get(4)?,
            block_read: row.get(5)?,
            block_write: row.get(6)?,
            rx_bytes: row.get(7)?,
            rx_packets: row.get(8)?,
            tx_bytes: row.get(9)?,
            tx_packets: row.get(10)?,
            disk: row.get(11)?,
        },
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

    /// Adds a meter (`id` is ignored), or changes what may change of one; its number.
    ///
    /// # Errors
    /// The database's own.
    pub fn meter_set(&self, new: &Meter) -> Result<i64, Error> {
        let sql =
            "INSERT INTO meters (account_id, container_id, uid, name, image, plan, live, last, created_at, ended_at,
                   host_id, image_name) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                   ON CONFLICT (container_id) DO UPDATE SET name = excluded.name, plan = excluded.plan,
                   live = excluded.live, last = excluded.last, ended_at = excluded.ended_at RETURNING id";
        let values = params![
            new.account_id,
            new.container_id,
            new.uid,
            new.name,
            new.image,
            new.plan,
            new.live,
            new.last,
            new.created_at,
            new.ended_at,
            new.host_id,
            new.image_name
        ];
        Ok(self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
    }

    /// Adds a reading's point. Two that end in the same millisecond become one.
    ///
    /// # Errors
    /// The database's own.
    pub fn point_add(&self, meter: i64, point: &Point) -> Result<(), Error> {
        let sql = "INSERT INTO points (step, meter_id, at, since, ran, cpu, memory, block_read, block_write, rx_bytes,
                   rx_packets, tx_bytes, tx_packets, disk) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
                   ON CONFLICT (step, meter_id, at) DO UPDATE SET ran = ran + excluded.ran, cpu = cpu + excluded.cpu,
                   memory = memory + excluded.memory, block_read = block_read + excluded.block_read,
                   block_write = block_write + excluded.block_write, rx_bytes = rx_bytes + excluded.rx_bytes,
                   rx_packets = rx_packets + excluded.rx_packets, tx_bytes = tx_bytes + excluded.tx_bytes,
                   tx_packets = tx_packets + excluded.tx_packets, disk = disk + excluded.disk";
        let used = &point.used;
        self.connection.prepare_cached(sql)?.execute(params![
            meter,
            point.at,
            point.since,
            used.ran,
            used.cpu,
            used.memory,
            used.block_read,
            used.block_write,
            used.rx_bytes,
            used.rx_packets,
            used.tx_bytes,
            used.tx_packets,
            used.disk
        ])?;
        Ok(())
    }

    /// The points of a meter that overlap a time (milliseconds since 1970), each moment in one of them: the finest that there
    /// is. `steps` are the middle and the long step, milliseconds.
    ///
    /// # Errors
    /// The database's own.
    pub fn points(&self, meter: i64, from: i64, to: i64, steps: [i64; 2]) -> Result<Vec<Point>, Error> {
        let horizons = self.horizons()?;
        let sql =
            "SELECT at, since, ran, cpu, memory, block_read, block_write, rx_bytes, rx_packets, tx_bytes, tx_packets, disk
                   FROM points WHERE step = $1 AND meter_id = $2 AND at > $3 AND at > $4 AND at <= $5 AND since < $6
                   ORDER BY at";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut all = Vec::new();
        for (step, after, until) in [
            (steps[1], i64::MIN, horizons.middle),
            (steps[0], horizons.middle, horizons.raw),
            (0, horizons.raw, i64::MAX),
        ] {
            for found in statement.query_map(params![step, meter, from, after, until, to], point)? {
                all.push(found?);
            }
        }
        Ok(all)
    }

    /// Where each resolution begins.
    ///
    /// # Errors
    /// The database's own.
    pub fn horizons(&self) -> Result<Horizons, Error> {
        let value = |key: &str| -> Result<i64, Error> {
            Ok(self.server_value(key)?.and_then(|text| text.parse().ok()).unwrap_or(i64::MIN))
        };
        Ok(Horizons { raw: value("points_raw")?, middle: value("points_middle")?, added_up: value("points_added_up")? })
    }

    /// Adds up all readings between what is added up already and `to`, which is a multiple of the middle step, and points of
    /// that to the long step as far as that is complete; and what all containers of a host, an image and a version come to.
    ///
    /// # Errors
    /// The database's own.
    pub fn points_add_up(&self, to: i64, steps: [i64; 2]) -> Result<(), Error> {
        let from = self.horizons()?.added_up;
        let [middle, long] = steps;
        // What ends on a boundary belongs to what ends there. Meter by meter: the key begins with step and meter, and the newest
        // of all points are far apart.
        let sql = "INSERT INTO points (step, meter_id, at, since, ran, cpu, memory, block_read, block_write, rx_bytes,
                   rx_packets, tx_bytes, tx_packets, disk)
                   SELECT $1, p.meter_id, (p.at + $1 - 1) / $1 * $1, (p.at + $1 - 1) / $1 * $1 - $1,
                   SUM(p.ran), SUM(p.cpu), SUM(p.memory), SUM(p.block_read), SUM(p.block_write), SUM(p.rx_bytes),
                   SUM(p.rx_packets), SUM(p.tx_bytes), SUM(p.tx_packets), SUM(p.disk)
                   FROM meters m CROSS JOIN points p ON p.step = $2 AND p.meter_id = m.id AND p.at > $3 AND p.at <= $4
                   GROUP BY p.meter_id, (p.at + $1 - 1) / $1";
        self.connection.prepare_cached(sql)?.execute(params![middle, 0, from, to])?;
        let hours = to.div_euclid(long) * long;
        let hours_from = if from == i64::MIN { from } else { from.div_euclid(long) * long };
        if hours > hours_from {
            self.connection.prepare_cached(sql)?.execute(params![long, middle, hours_from, hours])?;
        }
        for kind in SumKind::ALL {
            let sql = format!(
                "INSERT INTO sums (kind, account_id, key, at, containers, ran, cpu, memory, disk, rx_bytes, tx_bytes)
                 SELECT $1, m.account_id, {}, p.at, COUNT(*), SUM(p.ran), SUM(p.cpu), SUM(p.memory), SUM(p.disk),
                 SUM(p.rx_bytes), SUM(p.tx_bytes)
                 FROM meters m CROSS JOIN points p ON p.step = $2 AND p.meter_id = m.id AND p.at > $3 AND p.at <= $4
                 GROUP BY m.account_id, {}, p.at",
                kind.key(),
                kind.key()
            );
            self.connection.prepare_cached(&sql)?.execute(params![kind.word(), middle, from, to])?;
        }
        self.server_value_set("points_added_up", &to.to_string())
    }

    /// What containers of an account, or of all, came to at each point of the middle step in a time, milliseconds since 1970:
    /// of one host, image or version, or of each.
    ///
    /// # Errors
    /// The database's own.
    pub fn sums(
        &self,
        kind: SumKind,
        account: Option<i64>,
        key: Option<&str>,
        from: i64,
        to: i64,
    ) -> Result<Vec<Sum>, Error> {
        const TAIL: &str = "SUM(containers), SUM(ran), SUM(cpu), SUM(memory), SUM(disk), SUM(rx_bytes), SUM(tx_bytes)
                            FROM sums WHERE kind = $1";
        let read = |row: &Row<'_>| {
            Ok(Sum {
                at: row.get(0)?,
                key: row.get(1)?,
                containers: row.get(2)?,
                ran: row.get(3)?,
                cpu: row.get(4)?,
                memory: row.get(5)?,
                disk: row.get(6)?,
                rx_bytes: row.get(7)?,
                tx_bytes: row.get(8)?,
            })
        };
        let mut all = Vec::new();
        // A form of its own where the key leads to the rows: a condition that may be absent leads nowhere.
        match (account, key) {
            (Some(account), Some(key)) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND account_id = $2 AND key = $3 AND at > $4 AND at <= $5 GROUP BY at, key ORDER BY at"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, key, from, to], read)? {
                    all.push(row?);
                }
            }
            (account, key) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND ($2 IS NULL OR account_id = $2) AND ($3 IS NULL OR key = $3)
                     AND at > $4 AND at <= $5 GROUP BY at, key ORDER BY at, key"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, key, from, to], read)? {
                    all.push(row?);
                }
            }
        }
        Ok(all)
    }

    /// Forgets readings up to `raw` and points of the middle step up to `middle`, those of the long step up to `long`, and
    /// meters that have nothing left.
    ///
    /// # Errors
    /// The database's own.
    pub fn points_forget(&self, raw: i64, middle: i64, long: i64, steps: [i64; 2]) -> Result<(), Error> {
        let before = self.horizons()?;
        let sql = "DELETE FROM points WHERE step = $1 AND meter_id IN (SELECT id FROM meters) AND at <= $2";
        for (step, until) in [(0, raw), (steps[0], middle), (steps[1], long)] {
            self.connection.prepare_cached(sql)?.execute(params![step, until])?;
        }
        self.server_value_set("points_raw", &before.raw.max(raw).to_string())?;
        self.server_value_set("points_middle", &before.middle.max(middle).to_string())?;
        self.connection.prepare_cached("DELETE FROM sums WHERE at <= $1")?.execute([middle])?;
        let sql = "DELETE FROM meters WHERE ended_at <= $1";
        self.connection.prepare_cached(sql)?.execute([long.saturating_mul(1_000_000)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, Point, SumKind, Used};
    use crate::{Error, Store};

    const STEPS: [i64; 2] = [300, 3600];

    fn used(bytes: i64) -> Used {
        Used { rx_bytes: bytes, tx_packets: 1, ..Used::default() }
    }

    #[tokio::test]
    async fn points_are_added_up_forgotten_and_never_counted_twice() {
        let folder = std::env::temp_dir().join(format!("berth-store-meters-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let store = Store::open(&folder.join("berth.db")).expect("store");
        let total = |points: &[Point]| points.iter().map(|p| p.used.rx_bytes).sum::<i64>();
        let work = move |tx: &crate::Tx<'_>| -> Result<(), Error> {
            let meter = Meter {
                id: 0,
                account_id: 1,
                container_id: 7,
                uid: "a".into(),
                name: "a".into(),
                image: "i:1".into(),
                image_name: "i".into(),
                host_id: 3,
                plan: None,
                live: true,
                last: "{}".into(),
                created_at: 5,
                ended_at: None,
            };
            let id = tx.meter_set(&meter)?;
            assert_eq!(tx.meter_set(&Meter { live: false, ..meter.clone() })?, id, "changed, not added");
            // Every ten from 10 to 9000, of one byte more each time.
            let sum = |from: i64, to: i64| (from / 10 + 1..=to / 10).sum::<i64>();
            for n in 1..=900 {
                tx.point_add(id, &Point { at: n * 10, since: n * 10 - 10, used: used(n) })?;
            }
            assert_eq!(total(&tx.points(id, i64::MIN, i64::MAX, STEPS)?), sum(0, 9000));
            tx.points_add_up(3600, STEPS)?;
            tx.points_add_up(7200, STEPS)?;
            assert_eq!(total(&tx.points(id, i64::MIN, i64::MAX, STEPS)?), sum(0, 9000), "not twice");
            for (kind, key) in [(SumKind::Host, "3"), (SumKind::Image, "i"), (SumKind::Version, "i:1")] {
                let sums = tx.sums(kind, Some(1), Some(key), 0, 9000)?;
                assert_eq!((sums.len(), sums.iter().map(|s| s.rx_bytes).sum::<i64>()), (24, sum(0, 7200)), "{kind:?}");
                assert_eq!(
                    tx.sums(kind, None, None, 3600, 7200)?.iter().map(|s| s.rx_bytes).sum::<i64>(),
                    sum(3600, 7200)
                );
                assert!(tx.sums(kind, Some(2), Some(key), 0, 9000)?.is_empty());
            }
            tx.points_forget(7200, 3600, i64::MIN, STEPS)?;
            let all = tx.points(id, i64::MIN, i64::MAX, STEPS)?;
            assert_eq!((total(&all), all.len()), (sum(0, 9000), 1 + 12 + 180), "an hour, an hour in twelve, readings");
            assert!(all.windows(2).all(|pair| pair[0].at == pair[1].since), "no gap, no overlap");
            let some = tx.points(id, 3600, 7200, STEPS)?;
            assert_eq!((total(&some), some.len()), (sum(3600, 7200), 12));
            assert_eq!(tx.points(id, 7190, 7215, STEPS)?.len(), 1 + 2, "what overlaps");
            assert_eq!(tx.meters(Some(1), 0, 100)?.len(), 1);
            assert_eq!(tx.meters(Some(1), 0, 5)?.len() + tx.meters(Some(2), 0, 100)?.len(), 0);
            tx.meter_set(&Meter { ended_at: Some(50), ..meter })?;
            assert_eq!((tx.meters(None, 51, 100)?.len(), tx.meters(None, 50, 100)?.len()), (0, 1));
            Ok(())
        };
        store.write(work).await.expect("write");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
