//! Traffic over a container's whole life: what its ended runs add up to, kept on disk, and what its present run has.
//!
//! The last counters of a run are read by its shim, which has the network to the end; where the shim was killed the server
//! reads them, which keeps the namespace too. Where both went at once, the last sample stands in for them.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_engine::Traffic;
use berth_runtime::write_json;
use serde::{Deserialize, Serialize};

use crate::unit::read_json;

const FILE: &str = "traffic.json";

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// All runs up to `run`.
    ended: Traffic,
    run: u64,
    /// The last sample of run `sampled`.
    sample: Traffic,
    sampled: u64,
    /// The sample is not on disk yet.
    #[serde(skip)]
    unsaved: bool,
}

#[derive(Debug)]
pub(crate) struct Counted(Mutex<Kept>);

impl Kept {
    /// A run before `run` that was sampled, and whose end nobody noted (server and shim went at once), counts with its last sample.
    fn fold(&mut self, run: u64) {
        if self.sampled > self.run && self.sampled < run {
            self.ended = plus(self.ended, self.sample);
            self.run = self.sampled;
            self.unsaved = true;
        }
    }
}

fn missing(told: Traffic, floor: Traffic) -> Traffic {
    Traffic {
        rx_bytes: floor.rx_bytes.saturating_sub(told.rx_bytes),
        rx_packets: floor.rx_packets.saturating_sub(told.rx_packets),
        tx_bytes: floor.tx_bytes.saturating_sub(told.tx_bytes),
        tx_packets: floor.tx_packets.saturating_sub(told.tx_packets),
    }
}

fn plus(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        rx_bytes: a.rx_bytes + b.rx_bytes,
        rx_packets: a.rx_packets + b.rx_packets,
        tx_bytes: a.tx_bytes + b.tx_bytes,
        tx_packets: a.tx_packets + b.tx_packets,
    }
}

/// Counters only grow: what was read later and is less was read elsewhere.
fn most(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        rx_bytes: a.rx_bytes.max(b.rx_bytes),
        rx_packets: a.rx_packets.max(b.rx_packets),
        tx_bytes: a.tx_bytes.max(b.tx_bytes),
        tx_packets: a.tx_packets.max(b.tx_packets),
    }
}

pub(crate) fn of_run(counted: berth_runtime::Traffic) -> Traffic {
    let berth_runtime::Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets } = counted;
    Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets }
}

impl Counted {
    pub(crate) fn load(folder: &Path) -> Self {
        Self(Mutex::new(read_json(&folder.join(FILE)).ok().flatten().unwrap_or_default()))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a run that goes on has; on disk if it is new.
    pub(crate) fn sample(&self, folder: &Path, run: u64, now: Traffic) {
        let mut kept = self.kept();
        kept.fold(run);
        let before = if kept.sampled == run { kept.sample } else { Traffic::default() };
        let now = most(before, now);
        if kept.run < run && (kept.unsaved || kept.sampled != run || kept.sample != now) {
            kept.sample = now;
            kept.sampled = run;
            kept.unsaved = false;
            save(folder, &kept);
        }
    }

    /// What run `run` has counted so far stays, and its counters begin again at nothing.
    pub(crate) fn cut(&self, folder: &Path, run: u64) {
        let mut kept = self.kept();
        if kept.sampled == run && kept.run < run {
            kept.ended = plus(kept.ended, kept.sample);
            kept.sample = Traffic::default();
            kept.unsaved = false;
            save(folder, &kept);
        }
    }

    /// Adds a run that has ended, once. `last` is what was read at its end, if it was.
    pub(crate) fn end(&self, folder: &Path, run: u64, last: Option<Traffic>) {
        let mut kept = self.kept();
        if kept.run >= run {
            return;
        }
        kept.fold(run);
        let sample = if kept.sampled == run { kept.sample } else { Traffic::default() };
        kept.ended = plus(kept.ended, most(last.unwrap_or_default(), sample));
        kept.run = run;
        kept.unsaved = false;
        save(folder, &kept);
    }

    /// Never tells less than `floor` from now on: what was told before the machine went, and is not on disk here. `now` is what run
    /// `run` has.
    pub(crate) fn raise(&self, folder: &Path, run: u64, now: Option<Traffic>, floor: Traffic) {
        let more = missing(self.total(run, now), floor);
        if more != Traffic::default() {
            let mut kept = self.kept();
            kept.ended = plus(kept.ended, more);
            kept.unsaved = false;
            save(folder, &kept);
        }
    }

    /// The whole life, with what the present run has now.
    /// `now` is of run `run`; a run that has been added already is not added again.
    pub(crate) fn total(&self, run: u64, now: Option<Traffic>) -> Traffic {
        let mut kept = self.kept();
        let now = now.filter(|_| kept.run < run);
        if let Some(now) = now {
            kept.fold(run);
            // Nothing less is told later.
            let before = if kept.sampled == run { kept.sample } else { Traffic::default() };
            kept.unsaved |= kept.sampled != run || before != now;
            kept.sample = most(before, now);
            kept.sampled = run;
        }
        let waiting = if kept.sampled > kept.run { kept.sample } else { Traffic::default() };
        plus(kept.ended, waiting)
    }
}

fn save(folder: &Path, kept: &Kept) {
    if let Err(error) = write_json(&folder.join(FILE), kept) {
        tracing::error!(folder = %folder.display(), %error, "traffic could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use berth_engine::Traffic;

    use super::Counted;

    #[test]
    fn every_run_counts_once_over_restarts() {
        let folder = std::env::temp_dir().join(format!("berth-counted-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let bytes = |rx_bytes| Traffic { rx_bytes, ..Traffic::default() };
        let counted = Counted::load(&folder);
        counted.sample(&folder, 1, bytes(5));
        assert_eq!(counted.total(1, Some(bytes(7))), bytes(7));
        counted.end(&folder, 1, Some(bytes(10)));
        counted.end(&folder, 1, Some(bytes(10)));
        let counted = Counted::load(&folder);
        assert_eq!(counted.total(9, None), bytes(10));
        counted.sample(&folder, 2, bytes(3));
        let counted = Counted::load(&folder);
        assert_eq!(counted.total(9, None), bytes(13), "the last sample stands in");
        counted.end(&folder, 2, None);
        let counted = Counted::load(&folder);
        assert_eq!(counted.total(9, None), bytes(13));
        assert_eq!(counted.total(3, Some(bytes(9))), bytes(22));
        assert_eq!(counted.total(3, Some(bytes(8))), bytes(22), "nothing less than was told");
        counted.end(&folder, 3, Some(bytes(7)));
        assert_eq!(Counted::load(&folder).total(3, None), bytes(22));
        // A run that nobody saw the end of, and one after it.
        counted.sample(&folder, 5, bytes(1));
        assert_eq!(counted.total(6, Some(bytes(2))), bytes(25));
        // What was told before the machine went is the floor; it is reached once, and goes on from there.
        counted.raise(&folder, 6, Some(bytes(2)), bytes(20));
        assert_eq!(counted.total(6, Some(bytes(2))), bytes(25));
        counted.raise(&folder, 6, Some(bytes(2)), bytes(30));
        assert_eq!(counted.total(6, Some(bytes(3))), bytes(31));
        assert_eq!(Counted::load(&folder).total(6, Some(bytes(3))), bytes(31));
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
