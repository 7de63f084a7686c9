//! What containers use, over time.
//!
//! A sampler reads the counters of all containers that run, every ten seconds, and writes down what has been added since the
//! last reading, in the same transaction as that reading: each byte is in one point and no other, whatever crashes. Who asks
//! for a container's use has it read at once, so its answer goes to the moment. Readings are added up to five minutes and to
//! hours, and the finer ones forgotten in time.

use std::collections::BTreeMap;

use berth_engine::{Stats, Traffic, UnitId};
use berth_store::{Measured, MeterReading, Point, Tx, Used};
use serde::{Deserialize, Serialize};

use crate::containers::{Container, ContainerState};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::plans::Plan;
use berth_identity::{Caller, Role};
use berth_types::now;

/// Milliseconds of the middle and the long step.
pub(crate) const STEPS: [i64; 2] = [300_000, 3_600_000];
/// Readings that share a transaction.
const CHUNK: usize = 500;
/// Up to so many readings are compared with what is known in the writing transaction itself.
const FEW: usize = 16;
/// Readings are added up when no more of their time can come in.
const LATE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const MS: i64 = 1_000_000;

/// What a container's counters show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reading {
    /// Nanoseconds since 1970.
    at: i64,
    /// Start of the run that runs; none if none does.
    run: Option<i64>,
    /// Of that run, nanoseconds.
    cpu: u64,
    /// At this moment, bytes.
    memory: u64,
    block_read: u64,
    block_write: u64,
    /// Over its whole life.
    traffic: Traffic,
    /// Bytes that it had written to its disk when that was looked at last.
    disk: u64,
}

/// Of what is known of a container, what tells about its newest run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LastRun {
    started_at: Option<i64>,
    exit: Option<berth_engine::Exit>,
}

/// What a container used.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Name of its account.
    pub account: String,
    /// Its number.
    pub container: i64,
    /// Its textual id.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its plan, the last that it had.
    pub plan: Option<Plan>,
    /// When it was made, nanoseconds since 1970.
    pub created_at: i64,
    /// When it was removed.
    pub ended_at: Option<i64>,
    /// What it used in the time asked for.
    pub used: Used,
}

/// What a container used from one reading to a later one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsagePoint {
    /// Beginning, milliseconds since 1970.
    pub from: i64,
    /// End, milliseconds since 1970.
    pub to: i64,
    /// CPUs in use, on average.
    pub cpus: f64,
    /// MiB of memory, on average.
    pub memory_mib: f64,
    /// Counts of this time.
    pub used: Used,
}

impl UsagePoint {
    fn of(point: Point) -> Self {
        let length = (point.at - point.since).max(1) as f64;
        let used = point.used;
        Self {
            from: point.since,
            to: point.at,
            cpus: used.cpu as f64 / 1000.0 / length,
            memory_mib: used.memory as f64 / length,
            used,
        }
    }
}

/// Most points of one container that are told at once: a day of readings.
const MOST_POINTS: usize = 10_000;

impl Reading {
    fn of(stats: &Stats) -> Self {
        Self {
            at: stats.at,
            // Which it is only its record says.
            run: Some(0),
            cpu: stats.cpu_ns,
            memory: stats.memory,
            block_read: stats.block_read,
            block_write: stats.block_write,
            traffic: stats.traffic,
            disk: 0,
        }
    }

    /// What was used since an earlier reading. `run` is the newest run's beginning, and end if it has ended; `unseen` is how
    /// long a run before it can have gone on after it was last seen, nanoseconds: the machine may have been off since.
    fn since(&self, before: &Self, (begun, ended_at): (Option<i64>, Option<i64>), unseen: i64) -> Used {
        // A counter of a run that has gone down began anew.
        let more = |now: u64, then: u64| i64::try_from(if now >= then { now - then } else { now }).unwrap_or(i64::MAX);
        let same_run = self.run.is_some() && self.run == before.run;
        let of_run = |now: u64, then: u64| if same_run { more(now, then) } else { more(now, 0) };
        let until = |end: i64| end.clamp(before.at, self.at);
        let mut ran = 0;
        if let Some(begun) = self.run.or(begun) {
            let end = if self.run.is_some() { self.at } else { until(ended_at.unwrap_or(self.at)) };
            ran += (end - begun.max(before.at)).max(0) / MS;
            // The run before, as long as it can have been.
            if before.run.is_some_and(|run| run != begun) {
                ran += (until(begun) - before.at).min(unseen) / MS;
            }
        }
        let ran = ran.clamp(0, (self.at - before.at) / MS);
        let memory = if self.run.is_some() { self.memory } else { before.memory };
        let over_time = |bytes: u64| {
            i64::try_from(u128::from(bytes) * u128::from(ran.unsigned_abs()) / (1 << 20)).unwrap_or(i64::MAX)
        };
        // The engine's totals only grow. Where it has lost the last seconds with its machine, counting goes on from what it has.
        let grown = |now: u64, then: u64| i64::try_from(now.saturating_sub(then)).unwrap_or(i64::MAX);
        let (now, then) = (&self.traffic, &before.traffic);
        Used {
            ran,
            cpu: of_run(self.cpu, before.cpu) / 1000,
            memory: over_time(memory),
            disk: over_time(self.disk),
            block_read: of_run(self.block_read, before.block_read),
            block_write: of_run(self.block_write, before.block_write),
            rx_bytes: grown(now.rx_bytes, then.rx_bytes),
            rx_packets: grown(now.rx_packets, then.rx_packets),
            tx_bytes: grown(now.tx_bytes, then.tx_bytes),
            tx_packets: grown(now.tx_packets, then.tx_packets),
        }
    }
}

fn parsed<T: for<'a> Deserialize<'a>>(text: &str, what: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| Error::Bug(format!("{what} in the database: {e}")))
}

/// The name of an image without its version: `x:5000/app:1` is `x:5000/app`.
pub(crate) fn image_name(full: &str) -> &str {
    let bare = full.split_once('@').map_or(full, |(name, _)| name);
    bare.rsplit_once(':').filter(|(_, version)| !version.contains('/')).map_or(bare, |(name, _)| name)
}

/// A reading that is to be written down, and what it adds.
struct Noted {
    of: Measured,
    reading: MeterReading,
    /// From when to when, milliseconds since 1970, and what; nothing if nothing was used.
    point: Option<Point>,
}

/// What a reading of a container adds to what is known of it; `None` if that is newer, or nothing can be added any more. Its
/// disk is looked at now and then only. `unseen` is as for [`Reading::since`].
fn noted(
    of: Measured,
    mut reading: Reading,
    disk: Option<u64>,
    ended_at: Option<i64>,
    unseen: i64,
) -> Result<Option<Noted>, Error> {
    let before = match &of.meter {
        Some(meter) => parsed(&meter.last, "a reading")?,
        None => Reading { at: of.created_at, ..Reading::default() },
    };
    // Somebody was faster.
    if of.meter.as_ref().is_some_and(|meter| meter.ended) || reading.at <= before.at {
        return Ok(None);
    }
    let run: LastRun = parsed(&of.detail, "a container")?;
    if reading.run.is_some() {
        reading.run = run.started_at;
    }
    reading.disk = disk.unwrap_or(before.disk);
    // One whose end nobody saw went with the machine some time after it was last seen.
    let ended = run.exit.as_ref().map(|exit| exit.finished_at.unwrap_or(before.at.saturating_add(unseen)));
    let used = reading.since(&before, (run.started_at, ended), unseen);
    // As others call it: `app` is `app:latest`.
    let image = crate::images::full_name(&of.image).unwrap_or_else(|_| of.image.clone());
    let since = before.at / MS;
    Ok(Some(Noted {
        reading: MeterReading {
            last: serde_json::to_string(&reading).map_err(|e| Error::Bug(e.to_string()))?,
            live: reading.run.is_some() && ended_at.is_none(),
            ended_at,
            image_name: image_name(&image).to_owned(),
            image,
        },
        point: (used != Used::default()).then(|| Point { at: (reading.at / MS).max(since + 1), since, used }),
        of,
    }))
}

/// Writes down readings, in the order in which they were read.
fn write_down(tx: &Tx<'_>, all: &[Noted]) -> Result<(), Error> {
    let added_up = tx.horizons()?.added_up;
    let mut points = Vec::with_capacity(all.len());
    for noted in all {
        if let Some(id) = tx.meter_note(&noted.of, &noted.reading)?
            && let Some(point) = noted.point
        {
            // What is added up already stays as it is: a reading that comes very late is of the time after.
            points.push((id, Point { at: point.at.max(added_up.saturating_add(1)), ..point }));
        }
    }
    Ok(tx.round_add(&points, STEPS)?)
}

/// What becomes of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A client is told: it has to be on disk first.
    Told,
    /// The counters are read again.
    Kept,
}

impl Core {
    /// Reads the counters of these containers (number, textual id) and writes down what they add.
    async fn measure(&self, targets: Vec<(i64, UnitId)>, with_disks: bool, purpose: Purpose) -> Result<(), Error> {
        let mut disks = BTreeMap::new();
        if with_disks {
            let ids: Vec<UnitId> = targets.iter().map(|(_, uid)| uid.clone()).collect();
            disks.extend(self.inner.engine.disk(&ids).await?);
        }
        let disks = std::sync::Arc::new(disks);
        for chunk in targets.chunks(CHUNK) {
            let ids: Vec<UnitId> = chunk.iter().map(|(_, uid)| uid.clone()).collect();
            let stats: BTreeMap<UnitId, Stats> = self.inner.engine.stats(&ids).await?.into_iter().collect();
            let rest: Vec<UnitId> = ids.iter().filter(|uid| !stats.contains_key(uid)).cloned().collect();
            let mut resting = BTreeMap::new();
            if !rest.is_empty() {
                let at = now();
                let all = self.inner.engine.traffic(&rest).await?;
                resting
                    .extend(all.into_iter().map(|(uid, traffic)| (uid, Reading { at, traffic, ..Reading::default() })));
            }
            let (chunk, disks, unseen) = (chunk.to_vec(), disks.clone(), self.unseen());
            let few = chunk.len() <= FEW;
            let put_together = move |tx: &Tx<'_>| {
                let mut all = Vec::with_capacity(chunk.len());
                for (id, uid) in &chunk {
                    let reading = match (stats.get(uid), resting.get(uid)) {
                        (Some(stats), _) => Reading::of(stats),
                        (None, Some(reading)) => *reading,
                        (None, None) => continue,
                    };
                    if let Some(found) = tx.measured(*id)? {
                        all.extend(noted(found, reading, disks.get(uid).copied(), None, unseen)?);
                    }
                }
                Ok(all)
            };
            if few {
                // In one go: whoever asks for these finds his own reading counted, or a later one.
                let work = move |tx: &berth_store::Tx<'_>| write_down(tx, &put_together(tx)?);
                match purpose {
                    Purpose::Told => self.write(work).await,
                    Purpose::Kept => self.write_observed(work).await,
                }?;
            } else {
                // Beside the writing thread, which others wait for. Where another reading is faster, the next one has what this
                // would have added.
                let all = self.read(put_together).await?;
                self.write(move |tx| write_down(tx, &all)).await?;
            }
        }
        Ok(())
    }

    /// The traffic that a container was last told to have had, from what is on disk for certain.
    pub(crate) async fn traffic_told(&self, container: i64) -> Option<berth_engine::Traffic> {
        let found = self.read(move |tx| Ok(tx.meter(container)?)).await.ok().flatten()?;
        serde_json::from_str::<Reading>(&found.last).ok().map(|reading| reading.traffic)
    }

    /// What came in and went out of a container in its whole life; what is told is on disk first, so that it is never less later.
    pub(crate) async fn traffic_of(&self, container: i64, uid: &UnitId) -> Result<berth_engine::Traffic, Error> {
        self.measure(vec![(container, uid.clone())], false, Purpose::Told).await?;
        // What has come since the measure may be gone after a power failure.
        if let Some(told) = self.traffic_told(container).await {
            return Ok(told);
        }
        let all = self.inner.engine.traffic(std::slice::from_ref(uid)).await?;
        Ok(all.into_iter().next().map(|(_, traffic)| traffic).unwrap_or_default())
    }

    /// Two rounds of the sampler, nanoseconds.
    fn unseen(&self) -> i64 {
        i64::try_from(self.settings().measure_period_s.max(1)).unwrap_or(60).saturating_mul(2_000_000_000)
    }

    /// Reads the counters of a container that is about to be ended: those of the run go with it.
    pub(crate) async fn measure_before_end(&self, of: &Container) {
        if !of.state.is_live() {
            return;
        }
        if let Err(error) = self.measure(vec![(of.id, of.uid.clone())], false, Purpose::Kept).await {
            tracing::error!(container = %of.uid, error = error.chain(), "not measured before its end");
        }
    }

    /// Reads all counters now and adds up what can be: what the sampler does every ten seconds.
    ///
    /// # Errors
    /// The engine's or the database's own.
    pub async fn sample(&self) -> Result<(), Error> {
        let rows = self.read(|tx| Ok(tx.meters_to_read()?)).await?;
        let targets = rows.into_iter().filter_map(|(id, uid)| Some((id, uid.parse().ok()?))).collect();
        let at = now() / MS;
        // Walking through what containers have written takes its time: once in the middle step.
        let looked = self.inner.disks_looked_at.load(std::sync::atomic::Ordering::Relaxed);
        let with_disks = at.div_euclid(STEPS[0]) != looked;
        self.inner.disks_looked_at.store(at.div_euclid(STEPS[0]), std::sync::atomic::Ordering::Relaxed);
        self.measure(targets, with_disks, Purpose::Kept).await?;
        let settings = self.settings();
        let day = |days: u32| i64::from(days.max(1)) * DAY_MS;
        let (raw, middle, long) = (
            day(settings.measure_raw_days),
            day(settings.measure_five_minute_days).max(day(settings.measure_raw_days)),
            day(settings.measure_hour_days),
        );
        let at = now() / MS;
        let hour = |at: i64| at.div_euclid(STEPS[1]) * STEPS[1];
        let until = (at - LATE_MS).div_euclid(STEPS[0]) * STEPS[0];
        let horizons = self.read(|tx| Ok(tx.horizons()?)).await?;
        if horizons.added_up >= until {
            return Ok(());
        }
        // An hour at a time: after a night without a server others must not wait for all of it.
        let mut done = horizons.added_up;
        while done != i64::MIN && until - done > STEPS[1] {
            done = (done + STEPS[1]).max(until - 400 * DAY_MS);
            self.write(move |tx| Ok(tx.points_add_up(done, STEPS)?)).await?;
        }
        self.write(move |tx| {
            tx.points_add_up(until, STEPS)?;
            // Only what the coarser step has already; once in that.
            let whole = hour(until);
            if horizons.added_up != i64::MIN && whole == hour(horizons.added_up) {
                return Ok(());
            }
            Ok(tx.points_forget(hour(at - raw).min(whole), hour(at - middle).min(whole), hour(at - long), STEPS)?)
        })
        .await
    }

    /// Reads everything again and again, on the full ten seconds.
    pub(crate) fn begin_measuring(&self) {
        let period = std::time::Duration::from_secs(self.settings().measure_period_s.max(1));
        let weak = std::sync::Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let since = u128::from(now().unsigned_abs()) % period.as_nanos();
                tokio::time::sleep(period - std::time::Duration::from_nanos(since as u64)).await;
                let Some(inner) = weak.upgrade() else { return };
                let core = Self { inner };
                if let Err(error) = core.sample().await {
                    tracing::error!(error = error.chain(), "what containers use could not be measured");
                }
            }
        });
    }

    /// Ends a container that is about to be removed, with a last reading of its counters: when nothing can be added any more.
    pub(crate) async fn measure_last(&self, of: &Container) -> Result<(), Error> {
        if of.runs == 0 {
            return Ok(());
        }
        let observed = self.inner.engine.observe(&of.uid).await?;
        if matches!(observed.state, berth_engine::State::Running { .. }) {
            self.measure_before_end(of).await;
        }
        match self.inner.engine.stop(&of.uid, 9, std::time::Duration::ZERO).await {
            Ok(()) => {}
            Err(berth_engine::EngineError::NoSuchUnit(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let all = self.inner.engine.traffic(std::slice::from_ref(&of.uid)).await?;
        let Some((_, traffic)) = all.into_iter().next() else { return Ok(()) };
        let (id, at, unseen) = (of.id, now(), self.unseen());
        let reading = Reading { at, traffic, ..Reading::default() };
        self.write(move |tx| {
            let Some(found) = tx.measured(id)? else { return Ok(()) };
            let last = noted(found, reading, None, Some(at), unseen)?;
            write_down(tx, &Vec::from_iter(last))
        })
        .await
    }

    /// Bytes and packets of a container from `from` to `to`, milliseconds since 1970; `None` is its beginning, and now.
    /// Whole lives are exact to the byte; other times as exact as there are readings at their ends.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a time that ends before it begins.
    pub async fn container_flow(
        &self,
        caller: &Caller,
        id: i64,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Traffic, Error> {
        let found = self.container_by_number(caller, id).await?;
        self.measure(vec![(id, found.uid)], false, Purpose::Told).await?;
        let (created, at) = (found.created_at / MS, now() / MS);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(Error::invalid(Field::FlowEnd, "before the beginning"));
        }
        let (from, to) = (from.unwrap_or(created).max(created), to.unwrap_or(at).min(at));
        let used = self
            .read(move |tx| {
                let Some(meter) = tx.meter(id)? else { return Ok(Used::default()) };
                Ok(tx.used(meter.id, from, to, STEPS, &tx.recent(from, Some(&[meter.id].into()))?)?)
            })
            .await?;
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(Traffic {
            rx_bytes: number(used.rx_bytes),
            rx_packets: number(used.rx_packets),
            tx_bytes: number(used.tx_bytes),
            tx_packets: number(used.tx_packets),
        })
    }

    /// What a container used over time, from `from` to `to`, milliseconds since 1970: readings of ten seconds (setting
    /// `measure_period_s`) as long as they are kept, then five minutes, then hours. In time without a point nothing was
    /// used, or nothing was measured.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a time that ends before it begins or has more than 10,000 points.
    pub async fn container_series(
        &self,
        caller: &Caller,
        reference: &str,
        from: i64,
        to: i64,
    ) -> Result<Vec<UsagePoint>, Error> {
        if from > to {
            return Err(Error::invalid(Field::Range, "it ends before it begins"));
        }
        let id = self.container(caller, reference).await?.id;
        let points = self
            .read(move |tx| {
                let Some(meter) = tx.meter(id)? else { return Ok(Vec::new()) };
                Ok(tx.points(meter.id, from, to, STEPS, &tx.recent(from, Some(&[meter.id].into()))?)?)
            })
            .await?;
        if points.len() > MOST_POINTS {
            return Err(Error::invalid(Field::Range, format!("more than {MOST_POINTS} points: ask for less time")));
        }
        let mut points: Vec<UsagePoint> = points.into_iter().map(UsagePoint::of).collect();
        points.sort_by_key(|point| point.from);
        Ok(points)
    }

    /// What each container of the account, or of `all` accounts for an administrator, used from `from` to `to`, nanoseconds
    /// since 1970; removed ones too.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Invalid`] for a time that ends before it begins.
    pub async fn usage(&self, caller: &Caller, all: bool, from: i64, to: i64) -> Result<Vec<Usage>, Error> {
        if all && caller.role != Role::Admin {
            return Err(Error::Forbidden("only an administrator sees what others use".into()));
        }
        if from > to {
            return Err(Error::invalid(Field::To, "before from"));
        }
        let account = (!all).then_some(caller.account);
        let filter = berth_store::ContainerFilter { account, limit: u32::MAX, ..Default::default() };
        let rows = self.read(move |tx| Ok(tx.containers(&filter)?)).await?;
        let live = rows.into_iter().filter(|row| {
            [ContainerState::Running.word(), ContainerState::Paused.word()].contains(&row.state.as_str())
        });
        self.measure(live.filter_map(|row| Some((row.id, row.uid.parse().ok()?))).collect(), false, Purpose::Told)
            .await?;
        self.read(move |tx| {
            let names: BTreeMap<i64, String> = tx.account_names()?.into_iter().collect();
            let mut found = Vec::new();
            let meters = tx.meters(account, from, to)?;
            let recent = tx.recent(from / MS, Some(&meters.iter().map(|m| m.id).collect()))?;
            for meter in meters {
                let used = tx.used(meter.id, from / MS, to / MS, STEPS, &recent)?;
                found.push(Usage {
                    account: names.get(&meter.account_id).cloned().unwrap_or_default(),
                    container: meter.container_id,
                    plan: meter.plan.as_deref().map(|text| parsed(text, "a plan")).transpose()?,
                    uid: meter.uid,
                    name: meter.name,
                    image: meter.image,
                    created_at: meter.created_at,
                    ended_at: meter.ended_at,
                    used,
                });
            }
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use berth_engine::Traffic;

    use super::{MS, Reading};

    fn reading(at: i64, run: Option<i64>, cpu: u64, bytes: u64) -> Reading {
        let traffic = Traffic { rx_bytes: bytes, ..Traffic::default() };
        Reading {
            at: at * MS,
            run: run.map(|r| r * MS),
            cpu: cpu * 1000,
            memory: 1 << 20,
            traffic,
            ..Reading::default()
        }
    }

    #[test]
    fn readings_add_what_has_come_since() {
        let first = reading(1000, Some(500), 10, 100);
        let run = |begun: i64, ended: Option<i64>| (Some(begun * MS), ended.map(|e| e * MS));
        let used = reading(3000, Some(500), 30, 150).since(&first, run(500, None), 20_000 * MS);
        assert_eq!((used.ran, used.cpu, used.memory, used.rx_bytes), (2000, 20, 2000, 50));
        // Another run: CPU counts anew, traffic goes on.
        let used = reading(3000, Some(2500), 7, 160).since(&first, run(2500, None), 20_000 * MS);
        assert_eq!((used.ran, used.cpu, used.rx_bytes), (2000, 7, 60));
        // It has ended.
        let used = reading(3000, None, 0, 170).since(&first, run(500, Some(1200)), 20_000 * MS);
        assert_eq!((used.ran, used.cpu, used.rx_bytes), (200, 0, 70));
        // A whole run since, and none before.
        let none = reading(1000, None, 0, 0);
        assert_eq!(reading(3000, None, 0, 5).since(&none, run(1500, Some(1700)), 20_000 * MS).ran, 200);
        assert_eq!(reading(3000, None, 0, 5).since(&none, run(500, Some(700)), 20_000 * MS).ran, 0, "counted before");
        // The engine lost the last seconds with its machine: nothing is counted twice.
        let lost = reading(3000, Some(2500), 0, 5);
        assert_eq!(lost.since(&first, run(2500, None), 20_000 * MS).rx_bytes, 0);
        assert_eq!(reading(4000, Some(2500), 0, 25).since(&lost, run(2500, None), 20_000 * MS).rx_bytes, 20);
        // And was off for an hour.
        let off = reading(3_600_000, Some(3_599_000), 0, 200).since(&first, run(3_599_000, None), 20_000 * MS);
        assert_eq!(off.ran, 1000 + 20_000);
    }

    #[test]
    fn images_are_told_from_their_versions() {
        for (full, name) in [
            ("app:1", "app"),
            ("app", "app"),
            ("x:5000/app:v1", "x:5000/app"),
            ("x:5000/app", "x:5000/app"),
            ("a@sha256:0", "a"),
        ] {
            assert_eq!(super::image_name(full), name);
        }
    }
}
