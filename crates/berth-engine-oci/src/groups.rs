//! Notices what happens to the control groups of containers that run on: processes that are out of memory (OOM-killed), and
//! groups that another program has removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_engine::{EngineError, NetworkMode, State, UnitId};
use berth_runtime::Limits;
use berth_runtime::cgroup::Cgroup;

use crate::engine::Inner;

/// How often counts are read that the kernel does not tell of by itself.
const PERIOD: Duration = Duration::from_secs(2);
/// What ends because of its kill is to have ended by the time that the count is read: its end tells of it.
const PAUSE: Duration = Duration::from_millis(200);

/// Which containers are looked after.
#[derive(Debug)]
pub(crate) struct GroupWatch {
    /// inotify(7); none where it can't be had.
    fd: Option<OwnedFd>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Counts of memory, by number of the watch.
    told: BTreeMap<i32, UnitId>,
    /// The groups above those of containers.
    parents: BTreeSet<i32>,
    /// Those that are asked again and again.
    asked: BTreeSet<UnitId>,
}

/// What was noticed.
#[derive(Debug, Default)]
struct News {
    /// Containers whose counts of memory are to be read.
    memory: BTreeSet<UnitId>,
    /// Containers of which a group was removed.
    removed: BTreeSet<UnitId>,
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

    pub(crate) fn begin(&self, id: &UnitId, group: &Cgroup) {
        let path = group.memory_events().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        let mut watched = self.watched();
        let watch = self.fd.as_ref().zip(path).map(|(fd, path)| {
            // SAFETY: an open descriptor and a path that ends in zero.
            unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY) }
        });
        match watch {
            Some(watch) if watch >= 0 => drop(watched.told.insert(watch, id.clone())),
            _ => drop(watched.asked.insert(id.clone())),
        }
    }

    pub(crate) fn end(&self, id: &UnitId) {
        let mut watched = self.watched();
        watched.asked.remove(id);
        // The watch itself goes with the group.
        watched.told.retain(|_, told| told != id);
    }

    /// Has removals below these groups told.
    fn watch_parents(&self, folders: &[PathBuf]) {
        let Some(fd) = &self.fd else { return };
        for folder in folders {
            let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { continue };
            // SAFETY: an open descriptor and a path that ends in zero.
            let watch =
                unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), libc::IN_DELETE | libc::IN_ONLYDIR) };
            if watch >= 0 {
                self.watched().parents.insert(watch);
            }
        }
    }

    fn wait(&self) -> News {
        let mut found = News::default();
        if let Some(fd) = &self.fd {
            let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the entry outlives the call.
            if unsafe { libc::poll(&raw mut entry, 1, PERIOD.as_millis() as i32) } > 0 {
                std::thread::sleep(PAUSE);
                found = self.read(fd);
            }
        } else {
            std::thread::sleep(PERIOD);
        }
        found.memory.extend(self.watched().asked.iter().cloned());
        found
    }

    fn read(&self, fd: &OwnedFd) -> News {
        const HEADER: usize = size_of::<libc::inotify_event>();
        let mut found = News::default();
        let mut buffer = [0u8; 16 << 10];
        loop {
            // SAFETY: a buffer with its length.
            let read = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(read @ 1..) = usize::try_from(read) else { return found };
            let mut rest = &buffer[..read];
            while let Some(header) = rest.get(..HEADER) {
                let number = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map_or(0, u32::from_ne_bytes);
                let (watch, mask, name) = (number(0) as i32, number(4), number(12) as usize);
                let mut watched = self.watched();
                if mask & libc::IN_Q_OVERFLOW != 0 {
                    found.memory.extend(watched.told.values().cloned());
                } else if watched.parents.contains(&watch) {
                    let name = rest.get(HEADER..HEADER + name).unwrap_or_default();
                    let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default());
                    found.removed.extend(name.parse::<UnitId>());
                } else if mask & libc::IN_IGNORED != 0 {
                    watched.told.remove(&watch);
                } else {
                    found.memory.extend(watched.told.get(&watch).cloned());
                }
                rest = rest.get(HEADER + name..).unwrap_or_default();
            }
        }
    }
}

impl Inner {
    /// Takes note of what a container has had by now.
    fn count_oom_kills(&self, id: &UnitId) {
        let Ok(unit) = self.unit(id) else { return };
        let count = self.cgroup(id).oom_kills();
        {
            let mut known = unit.known();
            if known.live.is_none() || count <= known.observed.oom_kills {
                return;
            }
            known.observed.oom_kills = count;
            known.last_oom = Some(berth_runtime::log::now_ns());
        }
        self.nudge(id);
    }
}

impl Inner {
    /// Makes the groups of a container anew that another program has removed, and puts its processes back.
    fn regroup(&self, id: &UnitId) {
        let Ok(unit) = self.unit(id) else { return };
        // Whoever starts or ends it just now takes care of its groups.
        let Ok(_busy) = unit.busy.try_lock() else { return };
        let (live, observed) = {
            let known = unit.known();
            (known.live.clone(), known.observed.clone())
        };
        let Some(live) = live.filter(|live| live.init.as_ref().is_some_and(|init| !init.ended())) else { return };
        let group = self.cgroup(id);
        let (State::Running { paused, .. }, false) = (observed.state, group.is_whole()) else { return };
        let spec = &unit.fixed().spec;
        let limits = Limits { cpu_milli: spec.cpu_milli, memory: spec.memory, swap: spec.swap, pids: spec.pids };
        let done = group.create(&limits).and_then(|()| {
            if spec.network == NetworkMode::Host {
                group.count_traffic()?;
            }
            let Some(init) = unit.init() else { return Ok(()) };
            // Once more, for what was forked meanwhile.
            group.adopt(init.pid)?;
            group.adopt(init.pid)?;
            if paused { group.freeze(true) } else { Ok(()) }
        });
        match done {
            Ok(()) => {
                tracing::error!(container = %id, "its control group was removed by another program, and made anew")
            }
            Err(error) => {
                tracing::error!(container = %id, %error, "its control group was removed by another program: it has no bounds");
            }
        }
        self.groups.begin(id, &group);
        drop(live);
    }
}

/// Looks after the containers' groups for as long as the engine lives.
pub(crate) fn look_after(inner: &Arc<Inner>) -> Result<(), EngineError> {
    inner.groups.watch_parents(&berth_runtime::cgroup::parents(&inner.hierarchies, &inner.instance.cgroup_parent()));
    let (weak, watch) = (Arc::downgrade(inner), inner.groups.clone());
    let work = move || {
        loop {
            let due = watch.wait();
            let Some(inner) = weak.upgrade() else { return };
            due.memory.iter().for_each(|id| inner.count_oom_kills(id));
            due.removed.iter().for_each(|id| inner.regroup(id));
        }
    };
    let started: io::Result<_> = std::thread::Builder::new().name("group-watch".into()).spawn(work);
    started.map(drop).map_err(|e| EngineError::Failed(format!("start a thread: {e}")))
}
