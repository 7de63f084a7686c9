//! Bandwidth and resource use over time, of hosts, images and versions; and what the trade bills by.

use berth_store::{Sum, SumKind};

use crate::core::Core;
use crate::error::{Error, Field};
use crate::metering::STEPS;
use berth_identity::Caller;

/// Longest time that is told at once, milliseconds.
const LONGEST: i64 = 31 * 86_400_000;

/// Most points that are told at once: a month of a hundred.
const MOST: i64 = 1_000_000;

/// What containers are put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouped {
    /// All of the account.
    Account,
    /// Those on a host.
    Host,
    /// Those of an image, whatever its version.
    Image,
    /// Those of a version of an image.
    Version,
    /// Each by itself.
    Container,
}

/// What they came to in five minutes.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesPoint {
    /// Beginning of the five minutes, milliseconds since 1970.
    pub from: i64,
    /// Host's number, image, or image and version.
    pub key: String,
    /// Containers that ran at a time, at most.
    pub containers: i64,
    /// Bytes that came in.
    pub rx_bytes: i64,
    /// Bytes that went out.
    pub tx_bytes: i64,
    /// CPUs in use, on average.
    pub cpus: f64,
    /// MiB of memory, on average.
    pub memory_mib: f64,
    /// MiB of disk written by them, on average.
    pub disk_mib: f64,
}

impl SeriesPoint {
    fn of(sum: Sum) -> Self {
        let step = STEPS[0] as f64;
        Self {
            from: sum.at - STEPS[0],
            key: sum.key,
            containers: sum.containers,
            rx_bytes: sum.rx_bytes,
            tx_bytes: sum.tx_bytes,
            cpus: sum.cpu as f64 / 1000.0 / step,
            memory_mib: sum.memory as f64 / step,
            disk_mib: sum.disk as f64 / step,
        }
    }

    /// Mbit/s that came in, and that went out, on average.
    pub fn mbit(&self) -> (f64, f64) {
        let rate = |bytes: i64| bytes as f64 * 8.0 / 1e6 / (STEPS[0] as f64 / 1000.0);
        (rate(self.rx_bytes), rate(self.tx_bytes))
    }
}

/// Points in a time, and that time as far as it is known yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// By time and key.
    pub points: Vec<SeriesPoint>,
    /// Its beginning, milliseconds since 1970.
    pub from: i64,
    /// Its end: what comes later is not added up yet, or has not been.
    pub to: i64,
}

impl Series {
    /// Mbit/s that are billed for all series together.
    pub fn p95_mbit(&self) -> f64 {
        billed_mbit(&self.points, self.from, self.to)
    }
}

/// The value that 95 of a hundred five-minute points do not exceed, as the trade bills it: the highest five of a hundred are
/// struck off, the highest that is left counts. Of two directions the larger. All series of a point count together; five minutes
/// without any are points of zero, from the first to the last of the time asked for.
fn billed_mbit(points: &[SeriesPoint], from: i64, to: i64) -> f64 {
    let mut totals = std::collections::BTreeMap::<i64, (f64, f64)>::new();
    for point in points {
        let (down, up) = point.mbit();
        let total = totals.entry(point.from).or_default();
        *total = (total.0 + down, total.1 + up);
    }
    let count =
        usize::try_from((to.div_euclid(STEPS[0]) - from.div_euclid(STEPS[0])).max(0)).unwrap_or(0).max(totals.len());
    let value = |pick: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = totals.values().map(pick).collect();
        all.sort_by(|a, b| b.total_cmp(a));
        all.get(count / 20).copied().unwrap_or(0.0)
    };
    value(|t| t.0).max(value(|t| t.1))
}

/// The points of one container. Of several that had its name, the last.
fn container_sums(tx: &berth_store::Tx<'_>, account: i64, wanted: &str, from: i64, to: i64) -> Result<Vec<Sum>, Error> {
    let meters = tx.meters(Some(account), from.saturating_mul(1_000_000), i64::MAX)?;
    let is = |m: &&berth_store::Meter| m.uid == wanted || m.container_id.to_string() == wanted;
    let found = meters.iter().find(is).or_else(|| meters.iter().rev().find(|m| m.name == wanted));
    let found = found.ok_or_else(|| Error::NotFound { what: "container", name: wanted.to_owned() })?;
    let sum = |point: berth_store::Point| Sum {
        at: point.at,
        key: found.name.clone(),
        containers: 1,
        ran: point.used.ran,
        cpu: point.used.cpu,
        memory: point.used.memory,
        disk: point.used.disk,
        rx_bytes: point.used.rx_bytes,
        tx_bytes: point.used.tx_bytes,
    };
    Ok(tx.middle_points(found.id, from, to, STEPS)?.into_iter().map(sum).collect())
}

impl Core {
    /// Five-minute points from `from` to `to`, milliseconds since 1970, 31 days at the most: of one host, image or version, or of
    /// each that the account's containers were on or of; of the account, or of one of its containers, also one that is gone, by
    /// name or id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the container;
    /// [`Error::Invalid`] for the time, and for more than a million points.
    pub async fn series(
        &self,
        caller: &Caller,
        kind: Grouped,
        key: Option<&str>,
        from: i64,
        to: i64,
    ) -> Result<Series, Error> {
        if from > to {
            return Err(Error::invalid(Field::Range, "it ends before it begins"));
        }
        if to - from > LONGEST {
            return Err(Error::invalid(Field::Range, "more than 31 days"));
        }
        let (account, key) = (caller.account, key.map(str::to_owned));
        let (sums, added_up) = self
            .read(move |tx| {
                let of = |kind| Ok::<_, Error>(tx.sums(kind, Some(account), key.as_deref(), from, to, MOST + 1)?);
                let sums = match kind {
                    Grouped::Host => of(SumKind::Host)?,
                    Grouped::Image => of(SumKind::Image)?,
                    Grouped::Version => of(SumKind::Version)?,
                    Grouped::Account => {
                        let accounts = tx.account_names()?.into_iter();
                        let name =
                            accounts.filter(|(id, _)| *id == account).map(|(_, name)| name).next().unwrap_or_default();
                        let sums = tx.sums_of_account(account, from, to)?;
                        sums.into_iter().map(|sum| Sum { key: name.clone(), ..sum }).collect()
                    }
                    Grouped::Container => {
                        let wanted = key.ok_or_else(|| Error::invalid(Field::Key, "the container is not named"))?;
                        container_sums(tx, account, &wanted, from, to)?
                    }
                };
                Ok((sums, tx.horizons()?.added_up))
            })
            .await?;
        if sums.len() as i64 > MOST {
            return Err(Error::invalid(
                Field::Range,
                format!("more than {MOST} points: ask for less time, or for one"),
            ));
        }
        let points = sums.into_iter().map(SeriesPoint::of).collect();
        Ok(Series { points, from, to: to.min(added_up).max(from) })
    }
}

#[cfg(test)]
mod tests {
    use super::{SeriesPoint, billed_mbit};
    use crate::metering::STEPS;

    fn point(n: i64, mbit: f64, key: &str) -> SeriesPoint {
        SeriesPoint {
            from: n * STEPS[0],
            key: key.into(),
            containers: 1,
            rx_bytes: 0,
            tx_bytes: (mbit * 1e6 / 8.0 * 300.0) as i64,
            cpus: 0.0,
            memory_mib: 0.0,
            disk_mib: 0.0,
        }
    }

    #[test]
    fn the_highest_twentieth_is_struck_off() {
        // 100 points of 1 to 100: 5 are struck off.
        let points: Vec<_> = (0..100).map(|n| point(n, (n + 1) as f64, "a")).collect();
        assert_eq!(billed_mbit(&points, 0, 100 * STEPS[0]), 95.0);
        // Several series count together.
        let both: Vec<_> = points.iter().cloned().chain((0..100).map(|n| point(n, 1.0, "b"))).collect();
        assert_eq!(billed_mbit(&both, 0, 100 * STEPS[0]), 96.0);
        // Time without traffic counts: five points of a hundred are nothing.
        assert_eq!(billed_mbit(&points[95..], 0, 100 * STEPS[0]), 0.0);
        assert_eq!(billed_mbit(&points[94..], 0, 100 * STEPS[0]), 95.0);
        assert_eq!(billed_mbit(&[], 0, 0), 0.0);
    }
}
