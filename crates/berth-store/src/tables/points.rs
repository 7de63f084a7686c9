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

fn sum_of(row: &Row<'_>) -> rusqlite::Result<Sum> {
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

/// Most parts of a point: a day's.
const MOST_PARTS: i64 = 288;

/// Parts of a point that spans several of the middle steps: what a container used while nobody looked is spread evenly over that
/// time, else it would be one peak. What is added up already takes no more: the first part has its share. Of very long ones the
/// parts are longer; those in which nothing was used are left out.
fn parts(point: &Point, middle: i64, added_up: i64) -> Vec<Point> {
    let from = point.since.max(added_up);
    let count = (point.at.saturating_sub(from) / middle).max(1);
    let middle = middle.saturating_mul((count + MOST_PARTS - 1) / MOST_PARTS);
    let first = end_of(from.saturating_add(1), middle);
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
    ends.into_iter().map(part).filter(|part| part.used != Used::default()).collect()
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

/// A time in which one container ran, milliseconds since 1970.
type Span = (i64, i64);

/// Adds when a container ran according to its next point; nothing before `from`.
fn note_span(spans: &mut Vec<Span>, point: &Point, from: i64) {
    let since = point.since.max(from);
    let ran = point.used.ran.min(point.at - since);
    if ran <= 0 {
        return;
    }
    let goes_on = spans.last().is_some_and(|(_, to)| *to == since);
    let span = if goes_on { (since, since + ran) } else { (point.at - ran, point.at) };
    match spans.last_mut() {
        // One container, however often it is read, is never two at a time.
        Some(last) if last.1 >= span.0 => last.1 = span.1.max(last.1),
        _ => spans.push(span),
    }
}

/// How many of these are at one moment, at most. One that ends as another begins is not there with it.
fn most_at_once(spans: &[Span]) -> i64 {
    let mut edges: Vec<(i64, i64)> = spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
    edges.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in edges {
        now += change;
        most = most.max(now);
    }
    most
}

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
            // A reading may be longer than its segment; of one that ends an hour later nothing counts here any more.
            let last = until.min(to.saturating_add(if of.0 == 0 { steps[1] } else { of.0 }));
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
        let mut before = if from < first { self.points(meter, from, first, steps, recent)? } else { Vec::new() };
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
        let mut meters = BTreeMap::<i64, (Vec<u8>, Used, Vec<Span>)>::new();
        let mut statement = self.connection.prepare_cached("SELECT points FROM rounds WHERE until = $1 ORDER BY id")?;
        let mut rows = statement.query([until])?;
        while let Some(row) = rows.next()? {
            let packed = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            round_points(packed, until, |meter, packed| {
                let point = unpack(&mut &*packed, until).ok_or_else(|| broken("a round", until))?;
                let (all, used, spans) = meters.entry(meter).or_default();
                all.extend_from_slice(packed);
                used.add(&point.used);
                note_span(spans, &point, until - middle);
                Ok(())
            })?;
        }
        let mut sums = BTreeMap::<(SumKind, i64, String), (Vec<Span>, Used)>::new();
        let mut of_meter = self
            .connection
            .prepare_cached("SELECT account_id, CAST(host_id AS TEXT), image_name, image FROM meters WHERE id = $1")?;
        for (meter, (packed, used, ran)) in meters {
            let found = of_meter
                .query_row([meter], |row| Ok((row.get(0)?, [row.get::<_, String>(1)?, row.get(2)?, row.get(3)?])));
            // One that was forgotten meanwhile has nothing left to be put together with.
            let Some((account, keys)) = found.optional()? else { continue };
            segment_append(self.connection, 0, meter, until, &packed)?;
            self.point_append((middle, long), meter, &Point { at: until, since: until - middle, used })?;
            for (kind, key) in SumKind::ALL.into_iter().zip(keys) {
                let (spans, sum) = sums.entry((kind, account, key)).or_default();
                spans.extend_from_slice(&ran);
                sum.add(&used);
            }
        }
        let sql = "INSERT INTO sums (kind, account_id, key, at, containers, ran, cpu, memory, disk, rx_bytes, tx_bytes)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let mut add = self.connection.prepare_cached(sql)?;
        for ((kind, account, key), (spans, used)) in sums {
            let count = most_at_once(&spans);
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
        let mut all = Vec::new();
        // A form of its own where the key leads to the rows: a condition that may be absent leads nowhere.
        match (account, key) {
            (Some(account), Some(key)) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND account_id = $2 AND key = $3 AND at > $4 AND at <= $5 GROUP BY at, key ORDER BY at LIMIT $6"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, key, from, to, most], sum_of)? {
                    all.push(row?);
                }
            }
            (Some(account), None) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND account_id = $2 AND at > $3 AND at <= $4 GROUP BY at, key
                     ORDER BY at, key LIMIT $5"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), account, from, to, most], sum_of)? {
                    all.push(row?);
                }
            }
            (None, key) => {
                let sql = format!(
                    "SELECT at, key, {TAIL} AND ($2 IS NULL OR key = $2) AND at > $3 AND at <= $4 GROUP BY at, key
                     ORDER BY at, key LIMIT $5"
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                for row in statement.query_map(params![kind.word(), key, from, to, most], sum_of)? {
                    all.push(row?);
                }
            }
        }
        Ok(all)
    }

    /// What all containers of an account came to at each point of the middle step in a time, milliseconds since 1970; their key is
    /// empty.
    ///
    /// # Errors
    /// The database's own.
    pub fn sums_of_account(&self, account: i64, from: i64, to: i64) -> Result<Vec<Sum>, Error> {
        let sql =
            "SELECT at, '', SUM(containers), SUM(ran), SUM(cpu), SUM(memory), SUM(disk), SUM(rx_bytes), SUM(tx_bytes)
                   FROM sums WHERE account_id = $1 AND kind = 'host' AND at > $2 AND at <= $3 GROUP BY at ORDER BY at";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map(params![account, from, to], sum_of)?.collect::<Result<_, _>>()?)
    }

    /// Points of the middle step of a meter, between two times, milliseconds since 1970.
    ///
    /// # Errors
    /// The database's own.
    pub fn middle_points(&self, meter: i64, from: i64, to: i64, steps: [i64; 2]) -> Result<Vec<Point>, Error> {
        let mut all = Vec::new();
        self.segment_points(spans(steps)[1], meter, (from, to), |point| all.push(point))?;
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
mod tests;
