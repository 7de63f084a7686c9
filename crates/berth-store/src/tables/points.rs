//! What was used, over time.
//!
//! A point is what a container used from `since` (not included) to `at` (included), as the difference of two readings of its
//! counters: points of a meter follow each other without a gap or an overlap, so their sum is what the counters show. Points of
//! readings (step 0) are added up to longer ones, which take over when the short ones are forgotten.
//!
//! Points are packed. Readings come a round at a time, of all containers at once: a row holds those of some hundred containers, so that ten
//! thousand dirty a few pages and not ten thousand. When their time is added up they are sorted by meter: a row,
//! called segment, then holds the points of one meter in the next longer step, a score of bytes each.

use std::collections::{BTreeMap, BTreeSet};

use integer_encoding::VarInt;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::{Error, Tx};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// Number of values of [`Used`].
const VALUES: usize = 10;

impl Used {
    fn values(&self) -> [i64; VALUES] {
        [
            self.ran,
            self.cpu,
            self.memory,
            self.disk,
            self.block_read,
            self.block_write,
            self.rx_bytes,
            self.rx_packets,
            self.tx_bytes,
            self.tx_packets,
        ]
    }

    fn of(values: [i64; VALUES]) -> Self {
        let [ran, cpu, memory, disk, block_read, block_write, rx_bytes, rx_packets, tx_bytes, tx_packets] = values;
        Self { ran, cpu, memory, disk, block_read, block_write, rx_bytes, rx_packets, tx_bytes, tx_packets }
    }

    /// Adds another to it; what would be too much to tell stays at the most that can be told.
    pub fn add(&mut self, other: &Self) {
        let mut sum = self.values();
        for (value, more) in sum.iter_mut().zip(other.values()) {
            *value = value.saturating_add(more);
        }
        *self = Self::of(sum);
    }
}

fn put(to: &mut Vec<u8>, value: i64) {
    let mut buffer = [0; 10];
    let count = value.encode_var(&mut buffer);
    to.extend_from_slice(&buffer[..count]);
}

fn take(from: &mut &[u8]) -> Option<i64> {
    let (value, count) = i64::decode_var(from)?;
    *from = &from[count..];
    Some(value)
}

/// Appends a point of the segment or round that ends at `until`: its end as the distance from there, its length, which values
/// are not zero, and those.
fn pack(to: &mut Vec<u8>, until: i64, point: &Point) {
    put(to, until - point.at);
    put(to, point.at - point.since);
    let values = point.used.values();
    put(to, values.iter().enumerate().fold(0, |mask, (n, value)| mask | i64::from(*value != 0) << n));
    for value in values.iter().filter(|value| **value != 0) {
        put(to, *value);
    }
}

fn unpack(from: &mut &[u8], until: i64) -> Option<Point> {
    let at = until - take(from)?;
    let since = at - take(from)?;
    let mask = take(from)?;
    let mut values = [0; VALUES];
    for (n, value) in values.iter_mut().enumerate() {
        if mask >> n & 1 == 1 {
            *value = take(from)?;
        }
    }
    Some(Point { at, since, used: Used::of(values) })
}

fn broken(what: &str, until: i64) -> Error {
    Error::Broken(format!("{what} until {until}"))
}

fn unpack_all(mut packed: &[u8], until: i64, mut each: impl FnMut(Point)) -> Result<(), Error> {
    while !packed.is_empty() {
        each(unpack(&mut packed, until).ok_or_else(|| broken("a segment", until))?);
    }
    Ok(())
}

/// The points of a round: of each its meter, how long it is packed, and that.
fn round_points<'a>(
    mut packed: &'a [u8],
    until: i64,
    mut each: impl FnMut(i64, &'a [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    while !packed.is_empty() {
        let entry = (|| {
            let meter = take(&mut packed)?;
            let count = usize::try_from(take(&mut packed)?).ok()?;
            let (point, rest) = packed.split_at_checked(count)?;
            packed = rest;
            Some((meter, point))
        })();
        let (meter, point) = entry.ok_or_else(|| broken("a round", until))?;
        each(meter, point)?;
    }
    Ok(())
}

/// The end of the span that a time is in: what ends on a boundary belongs to what ends there.
fn end_of(at: i64, span: i64) -> i64 {
    -(-at).div_euclid(span) * span
}

/// How much time a segment of each step holds: readings that of the middle step, those that of the long one, those a day.
fn spans([middle, long]: [i64; 2]) -> [(i64, i64); 3] {
    [(0, middle), (middle, long), (long, 24 * long)]
}

fn segment_append(connection: &Connection, step: i64, meter: i64, until: i64, packed: &[u8]) -> Result<(), Error> {
    let sql = "INSERT INTO segments (step, meter_id, until, points) VALUES ($1, $2, $3, $4)
               ON CONFLICT (step, meter_id, until) DO UPDATE SET points = CAST(points || excluded.points AS BLOB)";
    connection.prepare_cached(sql)?.execute(params![step, meter, until, packed])?;
    Ok(())
}

/// Parts of a point that spans several of the middle steps: what a container used while nobody looked is spread evenly over that
/// time, else it would be one peak. What is added up already takes no more: the first part has its share.
fn parts(point: &Point, middle: i64, added_up: i64) -> Vec<Point> {
    let from = point.since.max(added_up);
    let first = end_of(from + 1, middle);
    if first >= point.at {
        return vec![*point];
    }
    let (mut ends, last) = (Vec::new(), point.at);
    ends.extend((0..).map(|n| first + n * middle).take_while(|end| *end < last));
    ends.push(last);
    let whole = last - from;
    let until = |end: i64| point.used.values().map(|value| share(value, end - from, whole));
    let mut done = [0; VALUES];
    let mut since = point.since;
    let part = |end| {
        let sum = until(end);
        let mut values = sum;
        values.iter_mut().zip(done).for_each(|(value, done)| *value -= done);
        done = sum;
        let part = Point { at: end, since, used: Used::of(values) };
        since = end;
        part
    };
    ends.into_iter().map(part).collect()
}

fn round_add(connection: &Connection, points: &[(i64, Point)], middle: i64) -> Result<(), Error> {
    let mut rounds = BTreeMap::<i64, Vec<u8>>::new();
    let mut one = Vec::new();
    let added_up = Tx { connection }.horizons()?.added_up;
    for (meter, whole) in points {
        for point in parts(whole, middle, added_up) {
            let until = end_of(point.at, middle);
            one.clear();
            pack(&mut one, until, &point);
            let round = rounds.entry(until).or_default();
            put(round, *meter);
            put(round, one.len() as i64);
            round.extend_from_slice(&one);
        }
    }
    for (until, packed) in rounds {
        let sql = "INSERT INTO rounds (until, points) VALUES ($1, $2)";
        connection.prepare_cached(sql)?.execute(params![until, packed])?;
    }
    Ok(())
}

/// Points of before they were packed, a row each: packed, as part of the migration that makes the tables for that.
pub(crate) fn pack_old(connection: &Connection) -> Result<(), Error> {
    // What core has always had for steps.
    const STEPS: [i64; 2] = [300_000, 3_600_000];
    let tx = Tx { connection };
    let added_up = tx.horizons()?.added_up;
    let mut sql = connection.prepare(
        "SELECT step, meter_id, at, since, ran, cpu, memory, disk, block_read, block_write, rx_bytes, rx_packets, tx_bytes,
         tx_packets FROM points ORDER BY step, meter_id, at",
    )?;
    let mut rows = sql.query([])?;
    let mut recent = Vec::new();
    // They come in the order of segments: each is written once.
    let mut segment: Option<(i64, i64, i64, Vec<u8>)> = None;
    while let Some(row) = rows.next()? {
        let (step, meter): (i64, i64) = (row.get(0)?, row.get(1)?);
        let mut values = [0; VALUES];
        for (n, value) in values.iter_mut().enumerate() {
            *value = row.get(4 + n)?;
        }
        let point = Point { at: row.get(2)?, since: row.get(3)?, used: Used::of(values) };
        if step == 0 && point.at > added_up {
            recent.push((meter, point));
            continue;
        }
        let span = spans(STEPS).into_iter().find(|(of, _)| *of == step).map_or(STEPS[1], |(_, span)| span);
        let until = end_of(point.at, span);
        if segment.as_ref().is_none_or(|(s, m, u, _)| (*s, *m, *u) != (step, meter, until)) {
            if let Some((step, meter, until, packed)) = segment.take() {
                segment_append(connection, step, meter, until, &packed)?;
            }
            segment = Some((step, meter, until, Vec::new()));
        }
        if let Some((.., packed)) = &mut segment {
            pack(packed, until, &point);
        }
    }
    if let Some((step, meter, until, packed)) = segment {
        segment_append(connection, step, meter, until, &packed)?;
    }
    round_add(connection, &recent, STEPS[0])?;
    drop(rows);
    drop(sql);
    Ok(connection.execute_batch("DROP TABLE points")?)
}

/// The share of a number that a part of its time has, so that shares of all parts add up to no more than it.
fn share(value: i64, part: i64, whole: i64) -> i64 {
    (i128::from(value) * i128::from(part) / i128::from(whole.max(1))) as i64
}

/// What points come to from `from` to `to`; of one that lies partly outside its share. A point is of the hour in which it ends,
/// all of it, as it is in the long point of that hour: else both sides of an hour's end would count it.
fn sum(points: &[Point], from: i64, to: i64, long: i64) -> Used {
    let mut all = Used::default();
    for point in points {
        let since = point.since.max(end_of(point.at, long) - long);
        let (whole, part) = (point.at - since, point.at.min(to) - since.max(from));
        if part >= whole {
            all.add(&point.used);
        } else if part > 0 {
            all.add(&Used::of(point.used.values().map(|value| share(value, part, whole))));
        }
    }
    all
}

/// Points that are not sorted by meter yet, of all meters or of one.
#[derive(Debug, Default)]
pub struct Recent(BTreeMap<i64, Vec<Point>>);

impl Tx<'_> {
    /// Adds the points of a round of readings, each with its meter's number. `steps` are the middle and the long step,
    /// milliseconds.
    ///
    /// # Errors
    /// The database's own.
    pub fn round_add(&self, points: &[(i64, Point)], steps: [i64; 2]) -> Result<(), Error> {
        round_add(self.connection, points, steps[0])
    }

    /// The points after a time that are in rounds: of some meters, or of all. Read once, for all meters that are asked about.
    ///
    /// # Errors
    /// The database's own.
    pub fn recent(&self, from: i64, of: Option<&BTreeSet<i64>>) -> Result<Recent, Error> {
        let mut recent = Recent::default();
        let mut statement =
            self.connection.prepare_cached("SELECT until, points FROM rounds WHERE until > $1 ORDER BY id")?;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            let until = row.get(0)?;
            let packed = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            round_points(packed, until, |meter, mut point| {
                if of.is_none_or(|of| of.contains(&meter)) {
                    let point = unpack(&mut point, until).ok_or_else(|| broken("a round", until))?;
                    recent.0.entry(meter).or_default().push(point);
                }
                Ok(())
            })?;
        }
        Ok(recent)
    }

    /// Points of a step of a meter that end after `after`, at `until` at the latest.
    fn segment_points(
        &self,
        (step, span): (i64, i64),
        meter: i64,
        (after, until): (i64, i64),
        mut each: impl FnMut(Point),
    ) -> Result<(), Error> {
        let sql = "SELECT until, points FROM segments WHERE step = $1 AND meter_id = $2 AND until > $3 AND until < $4
                   ORDER BY until";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![step, meter, after, until.saturating_add(span)])?;
        while let Some(row) = rows.next()? {
            let packed = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            unpack_all(packed, row.get(0)?, |point| {
                if point.at > after && point.at <= until {
                    each(point);
                }
            })?;
        }
        Ok(())
    }

    /// The points of a meter that overlap a time (milliseconds since 1970), each moment in one of them: the finest that there
    /// is. `steps` are the middle and the long step, milliseconds.
    ///
    /// # Errors
    /// The database's own.
    pub fn points(
        &self,
        meter: i64,
        from: i64,
        to: i64,
        steps: [i64; 2],
        recent: &Recent,
    ) -> Result<Vec<Point>, Error> {
        let horizons = self.horizons()?;
        let [raw, middle, long] = spans(steps);
        let mut all = Vec::new();
        for (of, after, until) in
            [(long, i64::MIN, horizons.middle), (middle, horizons.middle, horizons.raw), (raw, horizons.raw, i64::MAX)]
        {
            // Readings may be further apart than their segment is long: all that follow are looked at.
            let last = if of.0 == 0 { until } else { until.min(to.saturating_add(of.0)) };
            self.segment_points(of, meter, (after.max(from), last), |point| {
                if point.since < to {
                    all.push(point);
                }
            })?;
        }
        let recent = recent.0.get(&meter).map(Vec::as_slice).unwrap_or_default();
        all.extend(recent.iter().filter(|p| p.at > from.max(horizons.raw) && p.since < to));
        Ok(all)
    }

    /// What a meter comes to in a time, milliseconds since 1970: of a point that lies partly outside its share. Whole hours are
    /// taken from long points, which come to the same.
    ///
    /// # Errors
    /// The database's own.
    pub fn used(&self, meter: i64, from: i64, to: i64, steps: [i64; 2], recent: &Recent) -> Result<Used, Error> {
        let added_up = self.horizons()?.added_up;
        let long = steps[1];
        let first = end_of(from.clamp(i64::MIN / 2, i64::MAX / 2), long);
        let last = to.min(added_up).max(i64::MIN / 2).div_euclid(long) * long;
        if first >= last {
            return Ok(sum(&self.points(meter, from, to, steps, recent)?, from, to, long));
        }
        let mut whole = Used::default();
        self.segment_points(spans(steps)[2], meter, (first, last), |point| whole.add(&point.used))?;
        // What ends later is of the hour after.
        let mut before = self.points(meter, from, first, steps, recent)?;
        before.retain(|point| point.at <= first);
        let after = self.points(meter, last, to, steps, recent)?;
        whole.add(&sum(&before, from, i64::MAX, long));
        whole.add(&sum(&after, last, to, long));
        Ok(whole)
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

    /// Adds up all readings until `to`, which is a multiple of the middle step, and points of that to the long step as far as
    /// that is complete; and what all containers of a host, an image and a version come to.
    ///
    /// # Errors
    /// The database's own.
    pub fn points_add_up(&self, to: i64, steps: [i64; 2]) -> Result<(), Error> {
        let from = self.horizons()?.added_up;
        let [middle, long] = steps;
        let mut statement = self.connection.prepare_cached("SELECT DISTINCT until FROM rounds WHERE until <= $1")?;
        let ends: Vec<i64> = statement.query_map([to], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for until in ends {
            self.add_up_until(until, steps)?;
        }
        let hours = to.div_euclid(long) * long;
        let hours_from = if from == i64::MIN { from } else { from.div_euclid(long) * long };
        if hours > hours_from {
            let sql =
                "SELECT meter_id, until, points FROM segments WHERE step = $1 AND meter_id IN (SELECT id FROM meters)
                       AND until > $2 AND until <= $3 ORDER BY meter_id, until";
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![middle, hours_from, hours])?;
            while let Some(row) = rows.next()? {
                let (meter, until): (i64, i64) = (row.get(0)?, row.get(1)?);
                let mut used = Used::default();
                let packed = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
                unpack_all(packed, until, |point| used.add(&point.used))?;
                self.point_append((long, 24 * long), meter, &Point { at: until, since: until - long, used })?;
            }
        }
        self.server_value_set("points_added_up", &to.to_string())
    }

    fn point_append(&self, (step, span): (i64, i64), meter: i64, point: &Point) -> Result<(), Error> {
        let (until, mut packed) = (end_of(point.at, span), Vec::new());
        pack(&mut packed, until, point);
        segment_append(self.connection, step, meter, until, &packed)
    }

    /// Sorts the rounds until a time by meter, and adds them up.
    fn add_up_until(&self, until: i64, steps: [i64; 2]) -> Result<(), Error> {
        let [middle, long] = steps;
        let mut meters = BTreeMap::<i64, (Vec<u8>, Used)>::new();
        let mut statement = self.connection.prepare_cached("SELECT points FROM rounds WHERE until = $1 ORDER BY id")?;
        let mut rows = statement.query([until])?;
        while let Some(row) = rows.next()? {
            let packed = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            round_points(packed, until, |meter, packed| {
                let point = unpack(&mut &*packed, until).ok_or_else(|| broken("a round", until))?;
                let (all, used) = meters.entry(meter).or_default();
                all.extend_from_slice(packed);
                used.add(&point.used);
                Ok(())
            })?;
        }
        let mut sums = BTreeMap::<(SumKind, i64, String), (i64, Used)>::new();
        let mut of_meter = self
            .connection
            .prepare_cached("SELECT account_id, CAST(host_id AS TEXT), image_name, image FROM meters WHERE id = $1")?;
        for (meter, (packed, used)) in meters {
            let found = of_meter
                .query_row([meter], |row| Ok((row.get(0)?, [row.get::<_, String>(1)?, row.get(2)?, row.get(3)?])));
            // One that was forgotten meanwhile has nothing left to be put together with.
            let Some((account, keys)) = found.optional()? else { continue };
            segment_append(self.connection, 0, meter, until, &packed)?;
            self.point_append((middle, long), meter, &Point { at: until, since: until - middle, used })?;
            for (kind, key) in SumKind::ALL.into_iter().zip(keys) {
                let (count, sum) = sums.entry((kind, account, key)).or_default();
                *count += 1;
                sum.add(&used);
            }
        }
        let sql = "INSERT INTO sums (kind, account_id, key, at, containers, ran, cpu, memory, disk, rx_bytes, tx_bytes)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let mut add = self.connection.prepare_cached(sql)?;
        for ((kind, account, key), (count, used)) in sums {
            let Used { ran, cpu, memory, disk, rx_bytes, tx_bytes, .. } = used;
            add.execute(params![kind.word(), account, key, until, count, ran, cpu, memory, disk, rx_bytes, tx_bytes])?;
        }
        self.connection.prepare_cached("DELETE FROM rounds WHERE until = $1")?.execute([until])?;
        Ok(())
    }

    /// What containers of an account, or of all, came to at each point of the middle step in a time, milliseconds since 1970:
    /// of one host, image or version, or of each; so many of them at most.
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
        most: i64,
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
                    "SELECT at, key, {TAIL} AND account_id = $2 AND key = $3 AND at > $4 AND at <= $5 GROUP BY at, key ORDER BY at LIMIT $6"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, key, from, to, most], read)? {
                    all.push(row?);
                }
            }
            (Some(account), None) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND account_id = $2 AND at > $3 AND at <= $4 GROUP BY at, key
                     ORDER BY at, key LIMIT $5"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, from, to, most], read)? {
                    all.push(row?);
                }
            }
            (None, key) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND ($2 IS NULL OR key = $2) AND at > $3 AND at <= $4 GROUP BY at, key
                     ORDER BY at, key LIMIT $5"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), key, from, to, most], read)? {
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
        let sql = "DELETE FROM segments WHERE step = $1 AND meter_id IN (SELECT id FROM meters) AND until <= $2";
        for (step, until) in [(0, raw), (steps[0], middle), (steps[1], long)] {
            self.connection.prepare_cached(sql)?.execute(params![step, until])?;
        }
        self.server_value_set("points_raw", &before.raw.max(raw).to_string())?;
        self.server_value_set("points_middle", &before.middle.max(middle).to_string())?;
        let sql =
            "DELETE FROM sums WHERE account_id IN (SELECT id FROM accounts) AND kind IN ('host', 'image', 'version')
                   AND at <= $1";
        self.connection.prepare_cached(sql)?.execute([middle])?;
        let ended = long.saturating_mul(1_000_000);
        let sql = "DELETE FROM segments WHERE step = $1 AND meter_id IN (SELECT id FROM meters WHERE ended_at <= $2)";
        for step in [0, steps[0], steps[1]] {
            self.connection.prepare_cached(sql)?.execute(params![step, ended])?;
        }
        self.connection.prepare_cached("DELETE FROM meters WHERE ended_at <= $1")?.execute([ended])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Point, SumKind, Used, end_of, pack, share, sum, unpack};
    use crate::{Error, KnownMeter, MeterReading, Store};

    const STEPS: [i64; 2] = [300, 3600];

    fn used(bytes: i64) -> Used {
        Used { rx_bytes: bytes, tx_packets: 1, ..Used::default() }
    }

    fn store(name: &str) -> (std::path::PathBuf, Store) {
        let folder = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let store = Store::open(&folder.join("berth.db")).expect("store");
        (folder, store)
    }

    const CONTAINER: &str = "INSERT INTO accounts (id, name, created_at) VALUES (1, 'a', 0);
        INSERT INTO containers (id, uid, account_id, name, image, image_digest, layers, spec, wanted, state, run, detail,
        created_at, host_id) VALUES (7, 'u', 1, 'n', 'i:1', '', '', '', 'running', 'running', 1, '{}', 5, 3)";

    fn reading(live: bool, ended_at: Option<i64>) -> MeterReading {
        MeterReading { last: "{}".into(), live, ended_at, image: "i:1".into(), image_name: "i".into() }
    }

    #[test]
    fn points_are_packed_without_loss() {
        let extremes = Used { ran: i64::MAX, cpu: i64::MIN, memory: -1, tx_packets: 64, ..Used::default() };
        for (point, until) in [
            (Point { at: 1_795_000_000_123, since: 1_794_999_990_123, used: used(123_456) }, 1_795_000_200_000),
            (Point { at: 300, since: 0, used: Used::default() }, 300),
            (Point { at: 10, since: 9, used: extremes }, 300),
        ] {
            let mut packed = Vec::new();
            pack(&mut packed, until, &point);
            assert_eq!(unpack(&mut packed.as_slice(), until), Some(point));
            for cut in 0..packed.len() {
                assert_eq!(unpack(&mut &packed[..cut], until), None, "cut off after {cut}");
            }
        }
        assert_eq!([end_of(1, 300), end_of(300, 300), end_of(301, 300), end_of(0, 300)], [300, 300, 600, 0]);
        let usual = Used {
            ran: 10_000,
            cpu: 1_234_567,
            memory: 64 * 10_000,
            disk: 3 * 10_000,
            rx_bytes: 1_250_000,
            tx_bytes: 12_500_000,
            rx_packets: 1000,
            tx_packets: 9000,
            ..Used::default()
        };
        let mut packed = Vec::new();
        pack(&mut packed, 300_000, &Point { at: 150_000, since: 140_000, used: usual });
        assert!(packed.len() <= 40, "{} bytes for a busy container's reading", packed.len());
    }

    #[tokio::test]
    async fn points_are_added_up_forgotten_and_never_counted_twice() {
        let (folder, store) = store("points");
        let total = |points: &[Point]| points.iter().map(|p| p.used.rx_bytes).sum::<i64>();
        let work = move |tx: &crate::Tx<'_>| -> Result<(), Error> {
            tx.connection.execute_batch(CONTAINER)?;
            let of = tx.measured(7)?.expect("container");
            assert_eq!((of.host_id, of.meter.clone()), (3, None));
            let id = tx.meter_note(&of, &reading(true, None))?.expect("meter");
            let of = tx.measured(7)?.expect("container");
            let known = KnownMeter {
                id,
                live: true,
                last: "{}".into(),
                name: "n".into(),
                plan: None,
                ended: false,
                image_name: "i".into(),
            };
            assert_eq!(of.meter, Some(known));
            assert_eq!(tx.meter_note(&of, &reading(false, None))?, Some(id), "changed, not added");
            // Every ten from 10 to 9000, of one byte more each time.
            let sum_of = |from: i64, to: i64| (from / 10 + 1..=to / 10).sum::<i64>();
            for n in 1..=900 {
                tx.round_add(
                    &[(id, Point { at: n * 10, since: n * 10 - 10, used: used(n) }), (99, Point::default())],
                    STEPS,
                )?;
            }
            let points = |from: i64, to: i64| tx.points(id, from, to, STEPS, &tx.recent(from, Some(&[id].into()))?);
            let check_sums = |when: &str| -> Result<(), Error> {
                for (from, to) in
                    [(0, 9000), (0, 1), (5, 15), (3595, 7205), (10, 8990), (3600, 7200), (7000, 9999), (-5, 3)]
                {
                    let exact = sum(&points(from, to)?, from, to, STEPS[1]);
                    let found = tx.used(id, from, to, STEPS, &tx.recent(from, None)?)?;
                    assert_eq!(found, exact, "{when}: {from} to {to}");
                }
                Ok(())
            };
            assert_eq!(total(&points(i64::MIN, i64::MAX)?), sum_of(0, 9000));
            check_sums("as it came")?;
            tx.points_add_up(3600, STEPS)?;
            tx.points_add_up(7200, STEPS)?;
            assert_eq!(total(&points(i64::MIN, i64::MAX)?), sum_of(0, 9000), "not twice");
            check_sums("added up")?;
            for (kind, key) in [(SumKind::Host, "3"), (SumKind::Image, "i"), (SumKind::Version, "i:1")] {
                let sums = tx.sums(kind, Some(1), Some(key), 0, 9000, 100)?;
                assert_eq!(
                    (sums.len(), sums.iter().map(|s| s.rx_bytes).sum::<i64>()),
                    (24, sum_of(0, 7200)),
                    "{kind:?}"
                );
                let some = tx.sums(kind, None, None, 3600, 7200, 100)?;
                assert_eq!(some.iter().map(|s| s.rx_bytes).sum::<i64>(), sum_of(3600, 7200));
                assert_eq!(tx.sums(kind, None, None, 3600, 7200, 5)?.len(), 5, "so many at most");
                assert!(tx.sums(kind, Some(2), Some(key), 0, 9000, 100)?.is_empty());
            }
            tx.points_forget(7200, 3600, i64::MIN, STEPS)?;
            let all = points(i64::MIN, i64::MAX)?;
            assert_eq!(
                (total(&all), all.len()),
                (sum_of(0, 9000), 1 + 12 + 180),
                "an hour, an hour in twelve, readings"
            );
            assert!(all.windows(2).all(|pair| pair[0].at == pair[1].since), "no gap, no overlap");
            let some = points(3600, 7200)?;
            assert_eq!((total(&some), some.len()), (sum_of(3600, 7200), 12));
            assert_eq!(points(7190, 7215)?.len(), 1 + 2, "what overlaps");
            assert_eq!(tx.used(id, i64::MIN, i64::MAX, STEPS, &tx.recent(0, None)?)?.rx_bytes, sum_of(0, 9000));
            assert_eq!(tx.meters(Some(1), 0, 100)?.len(), 1);
            assert_eq!(tx.meters(Some(1), 0, 5)?.len() + tx.meters(Some(2), 0, 100)?.len(), 0);
            let of = tx.measured(7)?.expect("container");
            assert_eq!(tx.meter_note(&of, &reading(false, Some(50)))?, Some(id));
            assert_eq!(tx.meter_note(&of, &reading(true, None))?, None, "it has ended");
            assert_eq!((tx.meters(None, 51, 100)?.len(), tx.meters(None, 50, 100)?.len()), (0, 1));
            // Nothing is left of a meter that is forgotten.
            tx.points_forget(7200, 3600, 1, STEPS)?;
            let count = |sql: &str| tx.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
            assert_eq!((count("SELECT COUNT(*) FROM meters")?, count("SELECT COUNT(*) FROM segments")?), (0, 0));
            Ok(())
        };
        store.write(work).await.expect("write");
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[tokio::test]
    async fn points_of_older_databases_are_packed() {
        let folder = std::env::temp_dir().join(format!("berth-store-old-points-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let file = folder.join("berth.db");
        {
            let old = rusqlite::Connection::open(&file).expect("file");
            for (text, _) in &crate::database::MIGRATIONS[..5] {
                old.execute_batch(text).expect("migration");
            }
            old.pragma_update(None, "user_version", 5).expect("version");
            old.execute_batch(CONTAINER).expect("container");
            old.execute_batch(
                "INSERT INTO meters (id, account_id, container_id, uid, name, image, image_name, live, last, created_at)
                 VALUES (1, 1, 7, 'u', 'n', 'i:1', 'i', 1, '{}', 5)",
            )
            .expect("meter");
            let add =
                "INSERT INTO points (step, meter_id, at, since, ran, cpu, memory, block_read, block_write, rx_bytes,
                       rx_packets, tx_bytes, tx_packets) VALUES ($1, 1, $2, $3, 1, 2, 3, 4, 5, $4, 7, 8, 9)";
            // Until 3,600,000 all is added up; what is after that is readings alone.
            for (step, count) in [(10_000, 400), (300_000, 12), (3_600_000, 1)] {
                for n in 1..=count {
                    let kind = if step == 10_000 { 0 } else { step };
                    old.execute(add, [kind, n * step, (n - 1) * step, 2 * step]).expect("point");
                }
            }
            old.execute_batch("INSERT INTO server (key, value) VALUES ('points_added_up', '3600000')")
                .expect("horizon");
        }
        let store = Store::open(&file).expect("migrated");
        let check = |tx: &crate::Tx<'_>| -> Result<(), Error> {
            const STEPS: [i64; 2] = [300_000, 3_600_000];
            let points = |recent| tx.points(1, 0, i64::MAX, STEPS, &recent);
            assert_eq!(points(tx.recent(0, None)?)?.len(), 400);
            let used = tx.used(1, 0, i64::MAX, STEPS, &tx.recent(0, None)?)?;
            assert_eq!((used.rx_bytes, used.tx_packets), (8_000_000, 9 + 9 * 40), "an hour as one, the rest as it was");
            tx.points_add_up(4_200_000, STEPS)?;
            tx.points_forget(3_600_000, 0, i64::MIN, STEPS)?;
            assert_eq!(points(tx.recent(0, None)?)?.len(), 12 + 40);
            assert_eq!(tx.sums(SumKind::Host, None, None, 0, i64::MAX, 100)?.len(), 2, "two more of five minutes");
            Ok(())
        };
        store.write(check).await.expect("read");
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[tokio::test]
    async fn what_reaches_over_an_hours_end_is_counted_once() {
        let (folder, store) = store("straddling");
        let work = move |tx: &crate::Tx<'_>| -> Result<(), Error> {
            tx.connection.execute_batch(CONTAINER)?;
            let of = tx.measured(7)?.expect("container");
            let id = tx.meter_note(&of, &reading(true, None))?.expect("meter");
            // Readings come a moment after the full ten seconds.
            for n in 1..=1080 {
                let at = n * 10 + 3;
                tx.round_add(&[(id, Point { at, since: at - 10, used: used(10) })], STEPS)?;
            }
            for added_up in [0, 3600, 7200] {
                if added_up > 0 {
                    tx.points_add_up(added_up, STEPS)?;
                }
                let bytes = |from, to| Ok::<_, Error>(tx.used(id, from, to, STEPS, &tx.recent(from, None)?)?.rx_bytes);
                let whole = bytes(0, 10_803)?;
                assert_eq!(whole, 10_800);
                for cut in [3600, 7200] {
                    assert_eq!(bytes(0, cut)? + bytes(cut, 10_803)?, whole, "cut at {cut}, added up to {added_up}");
                }
                for cut in [1, 3599, 3602, 3605, 7199, 7201, 9000] {
                    let parts = bytes(0, cut)? + bytes(cut, 10_803)?;
                    assert!((whole - 1..=whole).contains(&parts), "{parts} cut at {cut}, added up to {added_up}");
                }
            }
            Ok(())
        };
        store.write(work).await.expect("write");
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn parts_of_points_are_shared_out() {
        let point = |since, at, bytes| Point { at, since, used: Used { rx_bytes: bytes, ..Used::default() } };
        let points = [point(0, 10, 100), point(10, 30, 7)];
        let sum = |from, to| sum(&points, from, to, 3600).rx_bytes;
        assert_eq!((sum(0, 30), sum(5, 30), sum(30, 40)), (107, 57, 0));
        assert!(sum(0, 15) + sum(15, 30) <= 107);
        assert_eq!(share(i64::MAX, 1, 3), i64::MAX / 3);
    }
}
