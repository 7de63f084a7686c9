//! One container's folder and what is known of it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use std::{fs, io};

use berth_engine::{
    EngineError, Exit, MountSource, Observed, Placement, PortBinding, PortProtocol, State, UnitId, UnitSpec,
};
use berth_net::{Member, Netns, Protocol, Published};
use berth_runtime::{ExitStatus, PidFd, Process, files, write_json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::traffic_totals::Counted;

pub(crate) const UNIT: &str = "unit.json";
/// So long after an OOM kill an end by SIGKILL is taken for its consequence.
const OOM_EXIT_WINDOW_NS: i64 = 2_000_000_000;

/// So long a first process may take from when it accepts no others to when it is seen to have ended.
pub(crate) const DYING: Duration = Duration::from_millis(100);
/// So long its exit may take: it waits for the other processes of its pid namespace.
const EXIT: Duration = Duration::from_secs(10);

pub(crate) const RUN: &str = "run.json";

/// What `create` fixed, but for what is changed later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UnitRecord {
    pub(crate) spec: UnitSpec,
    pub(crate) placement: Placement,
    /// The project by whose quota the file system bounds what it writes.
    #[serde(default)]
    pub(crate) project: Option<u32>,
}

/// The newest run; written before it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) started_at: i64,
    /// Index of the host's end of the veth.
    pub(crate) link: Option<u32>,
    /// Its name.
    #[serde(default)]
    pub(crate) link_name: String,
    /// What its shim and a server say to each other, and in which files: [`SHIM_PROTOCOL`] of the program that began it.
    #[serde(default = "first_protocol")]
    pub(crate) protocol: u32,
}

/// Grows with every change after which an older server could not take a run over.
pub(crate) const SHIM_PROTOCOL: u32 = 1;

/// That of the programs that did not write it down.
fn first_protocol() -> u32 {
    1
}

/// A container that the engine has.
#[derive(Debug)]
pub(crate) struct Unit {
    id: UnitId,
    pub(crate) folder: PathBuf,
    record: RwLock<Arc<UnitRecord>>,
    /// One operation on a container at a time; others' containers don't wait for it.
    pub(crate) busy: Arc<tokio::sync::Mutex<()>>,
    pub(crate) counted: Counted,
    /// Held while counters are read and the time is put on them, so that the order of times is that of the readings.
    pub(crate) reading: Mutex<()>,
    /// Whether it may still have a place on the bridge or published ports.
    pub(crate) placed: std::sync::atomic::AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) observed: Observed,
    pub(crate) live: Option<Live>,
    /// When the last of the present run's out-of-memory kills was noticed, nanoseconds since 1970.
    pub(crate) last_oom: Option<i64>,
    /// OOM kills of the present run in groups that it does not have any more.
    pub(crate) oom_before: u64,
    /// When one of the present run was reported last, nanoseconds since 1970.
    pub(crate) oom_reported: Option<i64>,
}

/// A run that goes on.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// Its first process; `None` if that has ended and only the shim is still at work.
    pub(crate) init: Option<Arc<PidFd>>,
    pub(crate) link: Option<u32>,
    /// Keeps the counters for whoever reads them last, and a place to set bounds in.
    pub(crate) netns: Option<Arc<Netns>>,
    /// Whether somebody has attached to it.
    pub(crate) heard: Arc<std::sync::atomic::AtomicBool>,
    /// Whether this server has sent SIGKILL: the OOM killer is not why it ends then.
    pub(crate) killed: Arc<std::sync::atomic::AtomicBool>,
    /// Turns true when the end has been taken note of.
    pub(crate) ended: watch::Receiver<bool>,
    /// Turns true when it ends, before its place in the network is taken back: for those who listen in it.
    pub(crate) closing: Arc<watch::Sender<bool>>,
}

/// A run that goes on, as found: its shim, its first process, its number.
pub(crate) type LiveRun = (PidFd, Process, Run);

impl Live {
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            self.killed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        self.init.as_ref().map_or(Ok(()), |init| init.signal(signal))
    }

    /// Whether its first process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.init.as_ref().is_none_or(|init| init.ended())
    }

    /// Whether its first process has ended, or does within `limit`. Blocks that long, and up to [`EXIT`] for one whose exit has begun.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        self.init.as_ref().is_none_or(|init| init.wait(limit) || init.is_exiting() && init.wait(EXIT))
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has volumes that are not where they were taken from this folder.
pub(crate) fn relocate(spec: &mut UnitSpec, volumes: Option<&Path>) {
    for mount in &mut spec.mounts {
        let MountSource::Volume { source, .. } = &mut mount.source else { continue };
        let moved = volumes.zip(source.file_name()).map(|(volumes, name)| volumes.join(name));
        if let Some(moved) = moved.filter(|moved| !source.exists() && moved.exists()) {
            *source = moved;
        }
    }
}

impl Unit {
    pub(crate) fn new(folder: PathBuf, record: UnitRecord, observed: Observed) -> Self {
        Self {
            id: record.spec.id.clone(),
            counted: Counted::load(&folder),
            reading: Mutex::default(),
            placed: false.into(),
            folder,
            record: RwLock::new(Arc::new(record)),
            busy: Arc::default(),
            known: Mutex::new(Known { observed, live: None, last_oom: None, oom_before: 0, oom_reported: None }),
        }
    }

    pub(crate) fn record(&self) -> Arc<UnitRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record, on disk first.
    pub(crate) fn update_record(&self, record: UnitRecord) -> io::Result<()> {
        write_json(&self.folder.join(UNIT), &record)?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
        Ok(())
    }

    /// What a call failed with; but that it is not running where its first process has ended meanwhile, or does within
    /// [`DYING`]. Blocks that long, and up to [`EXIT`] for one whose exit has begun.
    pub(crate) fn unless_it_ends(&self, error: EngineError) -> EngineError {
        let live = self.known().live.clone();
        // What the request itself is to blame for is known at once.
        let certain = matches!(error, EngineError::Start { .. } | EngineError::NotRunning(_) | EngineError::Timeout(_));
        let limit = if certain { Duration::ZERO } else { DYING };
        match live {
            Some(live) if !live.ends_within(limit) => error,
            _ => EngineError::NotRunning(self.id.clone()),
        }
    }

    /// The first process of the run that goes on.
    pub(crate) fn init(&self) -> Option<Process> {
        Process::load(&self.folder.join(files::INIT))
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> &UnitId {
        &self.id
    }

    /// Its ports, as the rules have them.
    pub(crate) fn published(&self) -> Vec<Published> {
        self.published_as(&self.record().placement.ports)
    }

    pub(crate) fn published_as(&self, ports: &[PortBinding]) -> Vec<Published> {
        let Some(to) = self.record().placement.address else { return Vec::new() };
        ports.iter().map(|port| published(*port, to)).collect()
    }

    /// Its place on the bridge, while it has one.
    pub(crate) fn member(&self, run: &Run) -> Option<Member> {
        let record = self.record();
        let address = record.placement.address.filter(|_| !run.link_name.is_empty())?;
        Some(Member { link: run.link_name.clone(), address, tenant: record.spec.tenant })
    }

    /// A shim that has not noted its child yet: it is in the middle of a start, and what is on disk can't be believed before its end.
    pub(crate) fn starting(&self) -> Option<PidFd> {
        let shim = Process::load(&self.folder.join(files::SHIM)).and_then(|process| process.open())?;
        (Process::load(&self.folder.join(files::INIT)).is_none() && !shim.ended()).then_some(shim)
    }

    /// Reads from disk and kernel what the case is; with the shim, if it lives.
    pub(crate) fn probe(&self) -> (Observed, Option<LiveRun>) {
        // A file that was cut by a power failure is as good as none: no run outlived that.
        let Ok(Some(run)) = read_json::<Run>(&self.folder.join(RUN)) else {
            return (Observed::new(State::Created, 0), None);
        };
        let shim = || Process::load(&self.folder.join(files::SHIM)).and_then(|p| p.open());
        let init = Process::load(&self.folder.join(files::INIT));
        // The order matters: a shim that ends now writes its status first.
        if let (Some(shim), Some(init)) = (shim(), &init) {
            let state = State::Running { pid: Some(init.pid), started_at: run.started_at, paused: false };
            return (Observed::new(state, run.number), Some((shim, init.clone(), run)));
        }
        let status = ExitStatus::load(&self.folder).unwrap_or_default();
        let exit = match (&status, init) {
            (Some(status), _) => exit_of(status, 0, None),
            // It ran, and nobody saw the end: the host went down, or someone killed the shim.
            (None, Some(_)) => Exit { code: 255, signal: None, oom_killed: false, finished_at: None },
            // The server died before the run began.
            (None, None) => {
                let state = if run.number > 1 {
                    State::Exited(Exit { code: 255, signal: None, oom_killed: false, finished_at: None })
                } else {
                    State::Created
                };
                return (Observed::new(state, run.number - 1), None);
            }
        };
        (
            Observed {
                oom_kills: status.map_or(0, |status| status.oom_kills),
                ..Observed::new(State::Exited(exit), run.number)
            },
            None,
        )
    }
}

/// The end of a run that had had `before` out-of-memory kills when it was last looked at, the last of them at `last`, nanoseconds since
/// 1970.
pub(crate) fn exit_of(status: &ExitStatus, before: u64, last: Option<i64>) -> Exit {
    // A process that was killed some time ago is not why the container has ended, even if it was killed, too, later.
    let lately = last.is_some_and(|at| status.finished_at - at < OOM_EXIT_WINDOW_NS);
    let oom_killed = status.code == 137 && status.oom_kills > 0 && (status.oom_kills > before || lately);
    Exit { code: status.code, signal: status.signal, oom_killed, finished_at: Some(status.finished_at) }
}

/// A port as the rules have it.
pub(crate) fn published(port: PortBinding, to: Ipv4Addr) -> Published {
    Published {
        protocol: match port.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
        },
        host: port.host_ip.filter(|ip| *ip != Ipv4Addr::UNSPECIFIED),
        host_port: port.host_port,
        to,
        to_port: port.container_port,
    }
}
