//! Notices processes that are out of memory (OOM-killed) in containers that run on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_engine::{EngineError, UnitId};
use berth_runtime::cgroup::Cgroup;

use crate::engine::Inner;

/// How often counts are read that the kernel does not tell of by itself.
const PERIOD: Duration = Duration::from_secs(2);
/// What ends because of its kill is to have ended by the time that the count is read: its end tells of it.
const PAUSE: Duration = Duration::from_millis(200);

/// Which containers are looked after.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    /// inotify(7); none where it can't be had.
    fd: Option<OwnedFd>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// By number of the watch.
    told: BTreeMap<i32, UnitId>,
    /// Those that are asked again and again.
    asked: BTreeSet<UnitId>,
}

impl MemoryWatch {
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

    /// Waits for news; whose counts are to be read.
    fn wait(&self) -> BTreeSet<UnitId> {
        let mut found = BTreeSet::new();
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
        found.extend(self.watched().asked.iter().cloned());
        found
    }

    fn read(&self, fd: &OwnedFd) -> BTreeSet<UnitId> {
        const HEADER: usize = size_of::<libc::inotify_event>();
        let mut found = BTreeSet::new();
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
                    found.extend(watched.told.values().cloned());
                } else if mask & libc::IN_IGNORED != 0 {
                    watched.told.remove(&watch);
                } else {
                    found.extend(watched.told.get(&watch).cloned());
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

/// Looks after the containers' memory for as long as the engine lives.
pub(crate) fn look_after(inner: &Arc<Inner>) -> Result<(), EngineError> {
    let (weak, watch) = (Arc::downgrade(inner), inner.memory.clone());
    let work = move || {
        loop {
            let due = watch.wait();
            let Some(inner) = weak.upgrade() else { return };
            due.iter().for_each(|id| inner.count_oom_kills(id));
        }
    };
    let started: io::Result<_> = std::thread::Builder::new().name("memory-watch".into()).spawn(work);
    started.map(drop).map_err(|e| EngineError::Failed(format!("start a thread: {e}")))
}
