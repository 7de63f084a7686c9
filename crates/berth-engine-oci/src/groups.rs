//! Watches the control groups of running containers: processes that the OOM killer has killed, and groups that another program has
//! removed.
//!
//! inotify(7) only wakes the thread. What is the case is read from the groups: all of them at the beginning, after a queue overflow
//! and every [`FULL`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_engine::{EngineError, NetworkMode, State, UnitId};
use berth_runtime::Limits;
use berth_runtime::cgroup::{Cgroup, parents};

use crate::engine::Inner;
use crate::unit::Unit;

/// How often counters without notification (cgroup v1) are read.
const PERIOD: Duration = Duration::from_secs(2);
/// Time between an OOM kill and the look at its container: one that ends because of it reports the kill with its end.
const PAUSE: Duration = Duration::from_millis(200);
/// How often all groups are checked without a notification.
const FULL: Duration = Duration::from_secs(10);
/// Shortest time between two reports of one container: a container decides itself how often it is killed.
const REPORTS: Duration = Duration::from_secs(10);

/// The watches.
#[derive(Debug)]
pub(crate) struct GroupWatch {
    /// `None` where inotify can't be had.
    fd: Option<OwnedFd>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// `memory.events` of containers, by number of the watch.
    memory: BTreeMap<i32, UnitId>,
    /// The groups above those of containers, by number of the watch.
    parents: BTreeSet<i32>,
    /// Containers whose counter has to be polled.
    polled: BTreeSet<UnitId>,
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Pending {
    /// Containers whose counter of OOM kills may have grown.
    memory: BTreeSet<UnitId>,
    /// Names of containers' groups that were removed: most of them because the container has ended.
    removed: BTreeSet<String>,
    /// Whether everything has to be looked at: notifications were lost, or a group above those of containers is gone.
    all: bool,
}

impl GroupWatch {
    pub(crate) fn open() -> Self {
        // SAFETY: plain system call; the descriptor is owned as soon as it exists.
        let fd = unsafe {
            let fd = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
            (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
        };
        Self { fd, watched: Mutex::default() }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, path: &std::path::Path, events: u32) -> Option<i32> {
        let (fd, path) = (self.fd.as_ref()?, CString::new(path.as_os_str().as_bytes()).ok()?);
        // SAFETY: an open descriptor and a path that ends in zero.
        let watch = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) };
        (watch >= 0).then_some(watch)
    }

    fn remove(&self, watch: i32) {
        if let Some(fd) = &self.fd {
            // SAFETY: an open descriptor; a number that is no watch is refused.
            unsafe { libc::inotify_rm_watch(fd.as_raw_fd(), watch) };
        }
    }

    pub(crate) fn begin(&self, id: &UnitId, group: &Cgroup) {
        let mut watched = self.watched();
        match group.memory_events().and_then(|path| self.add(&path, libc::IN_MODIFY)) {
            Some(watch) => drop(watched.memory.insert(watch, id.clone())),
            None => drop(watched.polled.insert(id.clone())),
        }
    }

    pub(crate) fn end(&self, id: &UnitId) {
        let mut watched = self.watched();
        watched.polled.remove(id);
        // The kernel keeps the watch of a file whose group is gone.
        let own: Vec<i32> = watched.memory.iter().filter(|(_, of)| *of == id).map(|(watch, _)| *watch).collect();
        for watch in own {
            watched.memory.remove(&watch);
            self.remove(watch);
        }
    }

    /// Watches these groups for removed children, in place of those that were watched before.
    fn watch_parents(&self, folders: &[PathBuf]) {
        // The number of a folder that is watched already stays the same.
        let now: BTreeSet<i32> =
            folders.iter().filter_map(|folder| self.add(folder, libc::IN_DELETE | libc::IN_ONLYDIR)).collect();
        let before = std::mem::replace(&mut self.watched().parents, now.clone());
        before.difference(&now).for_each(|watch| self.remove(*watch));
    }

    /// Waits for a notification, [`PERIOD`] at most.
    fn wait(&self) -> Pending {
        let mut pending = Pending::default();
        if let Some(fd) = &self.fd {
            let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the entry outlives the call.
            match unsafe { libc::poll(&raw mut entry, 1, PERIOD.as_millis() as i32) } {
                0 => {}
                ready if ready > 0 => pending = self.read(fd),
                _ => berth_net::pause_after(&std::io::Error::last_os_error(), "watch control groups", PERIOD),
            }
        } else {
            std::thread::sleep(PERIOD);
        }
        pending.memory.extend(self.watched().polled.iter().cloned());
        pending
    }

    fn read(&self, fd: &OwnedFd) -> Pending {
        const HEADER: usize = size_of::<libc::inotify_event>();
        let mut pending = Pending::default();
        let mut buffer = [0u8; 16 << 10];
        loop {
            // SAFETY: a buffer with its length.
            let read = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(read @ 1..) = usize::try_from(read) else { return pending };
            let mut rest = &buffer[..read];
            while let Some(header) = rest.get(..HEADER) {
                let number = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map_or(0, u32::from_ne_bytes);
                let (watch, mask, name) = (number(0) as i32, number(4), number(12) as usize);
                let watched = self.watched();
                if mask & libc::IN_Q_OVERFLOW != 0 {
                    pending.memory.extend(watched.memory.values().cloned());
                    pending.all = true;
                } else if watched.parents.contains(&watch) {
                    pending.all |= mask & libc::IN_IGNORED != 0;
                    // Filled up with zeros.
                    let name = rest.get(HEADER..HEADER + name).unwrap_or_default().split(|byte| *byte == 0).next();
                    if mask & libc::IN_DELETE != 0 {
                        pending.removed.extend(name.map(|name| String::from_utf8_lossy(name).into_owned()));
                    }
                } else if mask & libc::IN_IGNORED == 0 {
                    pending.memory.extend(watched.memory.get(&watch).cloned());
                }
                rest = rest.get(HEADER + name..).unwrap_or_default();
            }
        }
    }
}

impl Inner {
    /// OOM kills of the present run: in the group that it has now, and in those that it had before.
    pub(crate) fn oom_kills(&self, unit: &Unit) -> u64 {
        let count = self.cgroup(unit.id()).oom_kills();
        unit.known().oom_before + count
    }

    /// Whether a running container has more OOM kills than are reported.
    fn has_unreported_kills(&self, id: &UnitId) -> bool {
        let Ok(unit) = self.unit(id) else { return false };
        let count = self.oom_kills(&unit);
        let known = unit.known();
        known.live.is_some() && count > known.observed.oom_kills
    }

    /// Reports the OOM kills of a container that runs on; `false` if it is too early for another report.
    fn report_kills(&self, id: &UnitId) -> bool {
        let Ok(unit) = self.unit(id) else { return true };
        let count = self.oom_kills(&unit);
        {
            let mut known = unit.known();
            if known.live.is_none() || count <= known.observed.oom_kills {
                return true;
            }
            let now = berth_runtime::log::now_ns();
            // Also when it is not reported: an end at this moment is judged by it.
            known.last_oom = Some(now);
            if known.oom_reported.is_some_and(|last| now - last < REPORTS.as_nanos() as i64) {
                return false;
            }
            known.oom_reported = Some(now);
            known.observed.oom_kills = count;
        }
        self.nudge(id);
        true
    }

    /// Makes the missing groups of a running container anew, and puts its processes into them.
    fn regroup(&self, unit: &Unit) -> Result<(), String> {
        // Whoever starts or ends it now takes care of its groups.
        let Ok(_busy) = unit.busy.try_lock() else { return Ok(()) };
        let (live, state, run) = {
            let known = unit.known();
            (known.live.clone(), known.observed.state.clone(), known.observed.run)
        };
        let Some(init) = live.and_then(|live| live.init).filter(|init| !init.ended()) else { return Ok(()) };
        let group = self.cgroup(unit.id());
        let (State::Running { paused, .. }, false) = (state, group.is_whole()) else { return Ok(()) };
        if init.ended() {
            // They went with it.
            return Ok(());
        }
        tracing::error!(container = %unit.id(), "a control group was removed by another program; it is made anew");
        {
            // The counters of the new groups begin at zero.
            let mut known = unit.known();
            known.oom_before = known.observed.oom_kills;
        }
        self.groups.end(unit.id());
        let spec = &unit.record().spec;
        let limits = Limits { cpu_milli: spec.cpu_milli, memory: spec.memory, swap: spec.swap, pids: spec.pids };
        group.create(&limits).map_err(|e| e.to_string())?;
        if spec.network == NetworkMode::Host {
            unit.counted.cut(&unit.folder, run);
            if let Err(error) = group.count_traffic() {
                tracing::error!(container = %unit.id(), %error, "its traffic is not counted any more");
            }
        }
        let Some(first) = unit.init() else { return Ok(()) };
        // Twice: processes that were forked meanwhile.
        let adopted = group.adopt(first.pid).and_then(|()| group.adopt(first.pid));
        if paused && let Err(error) = group.freeze(true) {
            tracing::error!(container = %unit.id(), %error, "it was paused and goes on now");
        }
        self.groups.begin(unit.id(), &group);
        if init.ended() {
            // Its end was noted before the groups were there.
            self.groups.end(unit.id());
            return group.remove().map_err(|e| e.to_string());
        }
        adopted.map_err(|e| e.to_string())
    }

    /// Checks the groups of all running containers.
    fn check_groups(&self) {
        self.groups.watch_parents(&parents(&self.hierarchies, &self.instance.cgroup_parent()));
        let units: Vec<Arc<Unit>> = self.units().values().cloned().collect();
        self.check_groups_of(&units);
    }

    fn check_groups_of(&self, units: &[Arc<Unit>]) {
        for unit in units.iter().filter(|unit| unit.known().live.is_some()) {
            if let Err(error) = self.regroup(unit) {
                tracing::error!(container = %unit.id(), error, "its control group could not be made anew: it has no limits");
            }
        }
    }
}

/// Watches the containers' groups for as long as the engine lives.
pub(crate) fn look_after(inner: &Arc<Inner>) -> Result<(), EngineError> {
    let (weak, watch) = (Arc::downgrade(inner), inner.groups.clone());
    let work = move || {
        let mut checked: Option<Instant> = None;
        let mut later = BTreeSet::new();
        loop {
            let Some(inner) = weak.upgrade() else { return };
            if checked.is_none_or(|at| at.elapsed() >= FULL) {
                inner.check_groups();
                checked = Some(Instant::now());
            }
            drop(inner);
            let mut pending = watch.wait();
            let Some(inner) = weak.upgrade() else { return };
            pending.memory.append(&mut later);
            pending.memory.retain(|id| inner.has_unreported_kills(id));
            if pending.all {
                checked = None;
            } else {
                let ids = pending.removed.iter().filter_map(|name| name.parse::<UnitId>().ok());
                inner.check_groups_of(&ids.filter_map(|id| inner.unit(&id).ok()).collect::<Vec<_>>());
            }
            if !pending.memory.is_empty() {
                std::thread::sleep(PAUSE);
            }
            later.extend(pending.memory.into_iter().filter(|id| !inner.report_kills(id)));
        }
    };
    let started: io::Result<_> = std::thread::Builder::new().name("group-watch".into()).spawn(work);
    started.map(drop).map_err(|e| EngineError::Failed(format!("start a thread: {e}")))
}
