//! Making, starting, attending, ending and discarding a container.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_engine::{EngineError, MountSource, NetworkMode, Observed, Placement, State, UnitId, UnitSpec};
use berth_image::{copy_folder, finish_copy};
use berth_net::{Netns, Network};
use berth_runtime::log::now_ns;
use berth_runtime::{Bundle, Cause, ExitStatus, PidFd, Process, StartError, View, files, write_json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::engine::{Inner, OciEngine};
use crate::host::host_memory;
use crate::instance::{descriptors, failed};
use crate::traffic_totals::of_run;
use crate::unit::{Live, RUN, Run, SHIM_PROTOCOL, UNIT, Unit, UnitRecord, exit_of, read_json, relocate};

/// How long a container may take to reach its program.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed container may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// Time that this server's own sockets in a container have to be closed when it has ended.
const GOODBYE: Duration = Duration::from_millis(100);

/// The numbers of projects are from this one to twice as much.
const PROJECTS: u32 = 1 << 30;

/// A run that has begun.
pub(crate) struct StartedRun {
    pub(crate) shim: Option<PidFd>,
    pub(crate) init: Process,
    pub(crate) run: Run,
    pub(crate) netns: Option<Arc<Netns>>,
}

pub(crate) fn rates_of(rates: berth_engine::Rates) -> berth_net::Rates {
    berth_net::Rates { ingress: rates.ingress, egress: rates.egress }
}

impl Inner {
    pub(crate) fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        self.images.room().map_err(|e| EngineError::NoRoom(e.to_string()))?;
        // Held until the container is in the books: the same id is never made twice at a time. A few file operations.
        let mut allocator = self.allocator();
        if let Ok(unit) = self.unit(&spec.id) {
            return Ok(unit.record().placement.clone());
        }
        let ports = allocator.ports(&spec.id, spec.tenant, &spec.ports)?;
        let address = if spec.network == NetworkMode::Bridge {
            match allocator.address(self.network.subnet) {
                Ok(address) => Some(address),
                Err(error) => {
                    allocator.give_back(&spec.id, None);
                    return Err(error);
                }
            }
        } else {
            None
        };
        let placement = Placement { address, ports };
        let mut record = UnitRecord { spec: spec.clone(), placement: placement.clone(), project: None };
        relocate(&mut record.spec, self.options.volumes.as_deref());
        match self.make_folder(record) {
            Ok((folder, record)) => {
                let unit = Unit::new(folder, record, Observed::new(State::Created, 0));
                self.units().insert(spec.id.clone(), Arc::new(unit));
                self.nudge(&spec.id);
                Ok(placement)
            }
            Err(error) => {
                allocator.give_back(&spec.id, address);
                Err(error)
            }
        }
    }

    /// The number of a project that no container has, the same for the same container.
    fn free_project(&self, id: &UnitId) -> u32 {
        let taken: HashSet<u32> = self.units().values().filter_map(|unit| unit.record().project).collect();
        let mut hasher = DefaultHasher::new();
        (&self.instance.id, id).hash(&mut hasher);
        // Away from the small numbers that administrators give.
        let first = (hasher.finish() as u32 & (PROJECTS - 1)) | PROJECTS;
        (0..PROJECTS).map(|n| (first + n) % PROJECTS + PROJECTS).find(|n| !taken.contains(n)).unwrap_or(first)
    }

    fn make_folder(&self, mut record: UnitRecord) -> Result<(PathBuf, UnitRecord), EngineError> {
        let id = record.spec.id.clone();
        let making = self.trash().join(format!("making-{id}"));
        let folder = self.units_folder().join(id.as_str());
        let result = (|| {
            // What a server that was killed in here left.
            berth_runtime::remove_tree(&making)?;
            fs::create_dir(&making)?;
            for name in ["rootfs", "upper", "work"] {
                fs::create_dir(making.join(name))?;
            }
            if let Some(bytes) = record.spec.extras.disk {
                let (upper, work) = (making.join("upper"), making.join("work"));
                let project = self.free_project(&id);
                // Renames between the two, as overlayfs does, need them in one project.
                match berth_runtime::bound_by_project(&[&upper, &work], project, bytes) {
                    Ok(bound) => record.project = bound.then_some(project),
                    // It is measured then.
                    Err(error) => tracing::warn!(container = %id, %error, "a project quota could not be set"),
                }
            }
            write_json(&making.join(UNIT), &record)?;
            fs::rename(&making, &folder)
        })();
        if result.is_err() {
            let _ = fs::remove_dir_all(&making);
        }
        result.map_err(failed(format!("make the folder of {id}")))?;
        Ok((folder, record))
    }

    /// Everything of a start that blocks. On failure nothing of the run is left.
    pub(crate) fn start(&self, unit: &Unit, number: u64) -> Result<StartedRun, EngineError> {
        let begun = self.start_serving(unit, number);
        if begun.is_err() {
            self.allocator().rest(unit.id());
        }
        begun
    }

    fn start_serving(&self, unit: &Unit, number: u64) -> Result<StartedRun, EngineError> {
        let record = unit.record();
        let spec = &record.spec;
        if let Some((_, available)) = host_memory()
            && available < self.memory_reserve
        {
            let (available, kept) = (available >> 20, self.memory_reserve >> 20);
            return Err(EngineError::NoRoom(format!(
                "{available} MiB of memory are available, and {kept} are kept back"
            )));
        }
        descriptors(8)?;
        self.allocator().serve(unit.id())?;
        self.network_files(unit)?;
        let bundle = self.bundle(unit)?;
        bundle.save(&unit.folder).map_err(failed("write the bundle"))?;
        let mut link = None;
        let mut link_name = String::new();
        let netns = match spec.network {
            NetworkMode::Host => None,
            NetworkMode::None => {
                let netns = self.take_netns()?;
                netns.loopback_up().map_err(|e| EngineError::Failed(e.to_string()))?;
                Some(netns)
            }
            NetworkMode::Bridge => {
                let netns = self.take_netns()?;
                let address = record
                    .placement
                    .address
                    .ok_or_else(|| EngineError::Failed("the container has no address".into()))?;
                link_name = self.link_name();
                let refused = |e: berth_net::Error| EngineError::Failed(e.to_string());
                let index = self.network.attach(&netns, &link_name, address).map_err(|error| match error.errno() {
                    Some(libc::EXFULL) => EngineError::NoRoom(format!(
                        "{} containers are on the bridge, as many as Linux lets it have",
                        self.units()
                            .values()
                            .filter(|u| u.known().live.as_ref().is_some_and(|live| live.link.is_some()))
                            .count()
                    )),
                    _ => refused(error),
                })?;
                link = Some(index);
                let rates = rates_of(spec.rates);
                if rates != berth_net::Rates::default() {
                    Network::limit(&netns, index, rates).map_err(refused)?;
                }
                Some(netns)
            }
        };
        let run = Run { number, started_at: now_ns(), link, link_name, protocol: SHIM_PROTOCOL };
        files::clear(&unit.folder).map_err(failed("remove what the last run left"))?;
        write_json(&unit.folder.join(RUN), &run).map_err(failed("note the run"))?;
        // Before it runs: its first packet may be its most important one.
        let member = unit.member(&run);
        unit.placed.store(true, Ordering::Relaxed);
        if let Some(member) = &member {
            self.rules.admit(member).map_err(|e| EngineError::Failed(e.to_string()))?;
        }
        // Its first question may come before anybody hears that it runs.
        self.know_names(unit);
        let started = self.zygote.start_container(&unit.folder, netns.as_ref().map(berth_net::Netns::fd), START_LIMIT);
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                let error = match error {
                    StartError::Failed(failure) => start_error(failure),
                    StartError::Shim(source) if source.kind() == io::ErrorKind::TimedOut => {
                        EngineError::Timeout(format!("starting {}", spec.id))
                    }
                    StartError::Shim(source) => EngineError::Failed(format!("hear from the shim: {source}")),
                };
                let code = if let EngineError::Start { code, .. } = &error { *code } else { 125 };
                self.note_failure(unit, &run, code);
                return Err(error);
            }
        };
        let shim = Process::load(&unit.folder.join(files::SHIM)).and_then(|process| process.open());
        if let Err(error) = self.rules.publish(&unit.published()) {
            if let Some(init) = started.init.open() {
                let _ = init.signal(libc::SIGKILL);
            }
            if let Some(shim) = &shim {
                shim.wait(KILL_LIMIT);
            }
            self.note_failure(unit, &run, 125);
            return Err(EngineError::Failed(error.to_string()));
        }
        // Without a shim it has ended already, and all is on disk.
        Ok(StartedRun { shim, init: started.init, run, netns: netns.filter(|_| link.is_some()).map(Arc::new) })
    }

    pub(crate) fn know_names(&self, unit: &Unit) {
        let record = unit.record();
        if let Some(address) = record.placement.address {
            self.names.add(record.spec.tenant, &record.spec.names, address);
        }
    }

    pub(crate) fn forget_names(&self, unit: &Unit) {
        let record = unit.record();
        if let Some(address) = record.placement.address {
            self.names.remove(record.spec.tenant, &record.spec.names, address);
        }
    }

    /// A run that did not come about: what its shim may have left is removed. `code` is the exit code that is told of it.
    fn note_failure(&self, unit: &Unit, run: &Run, code: i32) {
        if let Some(member) = unit.member(run)
            && let Err(error) = self.rules.expel(&member)
        {
            tracing::warn!(container = %unit.id(), %error, "a place on the bridge could not be taken back");
        }
        self.forget_names(unit);
        if let Some(shim) = Process::load(&unit.folder.join(files::SHIM)).and_then(|p| p.open()) {
            let _ = shim.signal(libc::SIGKILL);
            shim.wait(KILL_LIMIT);
        }
        if let Err(error) = self.cgroup(unit.id()).remove() {
            tracing::warn!(container = %unit.id(), %error, "a cgroup could not be removed");
        }
        let status = ExitStatus { code, signal: None, oom_kills: 0, finished_at: now_ns(), traffic: None };
        let _ = write_json(&unit.folder.join(files::STATUS), &status);
        unit.known().observed = Observed::new(State::Exited(exit_of(&status, 0, None)), run.number);
    }

    pub(crate) fn link_name(&self) -> String {
        let mut number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let mut digits = Vec::new();
        while number > 0 {
            digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
            number /= 36;
        }
        digits.reverse();
        format!("{}{}", self.network.links, String::from_utf8_lossy(&digits))
    }

    /// The volumes of a container that are empty, or half filled: (name, place in the container, folder).
    fn empty_volumes(&self, unit: &Unit) -> Result<Vec<(String, PathBuf, PathBuf)>, EngineError> {
        let mut all = Vec::new();
        for mount in &unit.record().spec.mounts {
            let MountSource::Volume { name, source, .. } = &mount.source else { continue };
            if is_to_fill(name, source)? {
                all.push((name.clone(), mount.target.clone(), source.clone()));
            }
        }
        Ok(all)
    }

    /// What the image has at a volume's place becomes the beginning of a volume that is empty.
    fn fill_volume(&self, unit: &Unit, name: &str, target: &Path, source: &Path) -> Result<(), EngineError> {
        let refused = |e: berth_image::Error| match e.is_no_room() {
            true => EngineError::NoRoom(format!("fill volume {name} from the image: {e}")),
            false => EngineError::Failed(format!("fill volume {name} from the image: {e}")),
        };
        finish_copy(source).map_err(refused)?;
        if !is_to_fill(name, source)? {
            return Ok(());
        }
        self.images.room().map_err(refused)?;
        // The root alone: another volume's content is not the image's.
        let root = Bundle { mounts: Vec::new(), ..self.bundle(unit)? };
        let view = View::open(&root, false).map_err(|e| EngineError::Failed(e.to_string()))?;
        let root = view.as_fd().try_clone_to_owned().map_err(failed("copy a descriptor"))?;
        copy_folder(&root, target, source).map_err(refused)
    }

    /// Takes the container out of the books, its folder out of sight. What the folder holds is removed later.
    pub(crate) fn discard(&self, unit: &Unit) -> Result<(), EngineError> {
        let id = unit.id();
        // One of the same id that was removed before may still be on its way out.
        let aside = self.trash().join(format!("gone-{id}-{}", now_ns()));
        self.cgroup(id).remove().map_err(|e| EngineError::Failed(e.to_string()))?;
        // What could not be taken back at its end is, before address and ports are somebody else's. Not otherwise: taking
        // away what is not there has the kernel undo a transaction, which takes it tens of milliseconds.
        if unit.placed.load(Ordering::Relaxed) {
            let _ = self.rules.unpublish(&unit.published());
            if let Ok(Some(run)) = read_json::<Run>(&unit.folder.join(RUN))
                && let Some(member) = unit.member(&run)
            {
                let _ = self.rules.expel(&member);
            }
        }
        fs::rename(&unit.folder, &aside).map_err(failed(format!("set the folder of {id} aside")))?;
        if let Some(project) = unit.record().project
            && let Err(error) = berth_runtime::forget_project(&aside.join("upper"), project)
        {
            tracing::warn!(container = %id, project, %error, "the quota of a removed container's project is still there");
        }
        self.units().remove(id);
        self.leave_load_balancers(id)?;
        self.allocator().give_back(id, unit.record().placement.address);
        Ok(())
    }

    /// Removes what is in the trash; what comes while this is done is left to whoever does it.
    pub(crate) fn empty_trash(&self) {
        if self.trash_asked.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        loop {
            let seen = self.trash_asked.load(Ordering::SeqCst);
            self.empty_trash_once();
            if self.trash_asked.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return;
            }
        }
    }

    fn empty_trash_once(&self) {
        for entry in fs::read_dir(self.trash()).into_iter().flatten().flatten() {
            // What is being made right now has its container's name in front of the rename.
            if entry.file_name().to_string_lossy().starts_with("making-") && !entry_is_old(&entry) {
                continue;
            }
            if let Err(error) = berth_runtime::remove_tree(&entry.path())
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %entry.path().display(), %error, "a removed container's folder is still there");
            }
        }
    }
}

fn entry_is_old(entry: &fs::DirEntry) -> bool {
    let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(60))
}

/// The server's own name service first, if there is one; then the host's name servers, but for those on its loopback, which a
/// container can't reach.
fn is_to_fill(name: &str, source: &Path) -> Result<bool, EngineError> {
    let mut entries = fs::read_dir(source).map_err(failed(format!("open volume {name}")))?;
    Ok(entries.next().is_none() || source.with_extension("copied").exists())
}

impl OciEngine {
    /// Fills the container's volumes that are empty. Before it takes a place among those that start: what takes long must not keep
    /// others from starting. Of each volume and of each tenant one fill is under way at a time; of all, four.
    pub(crate) async fn fill_volumes(&self, unit: &Arc<Unit>) -> Result<(), EngineError> {
        let has = |mount: &berth_engine::Mount| matches!(mount.source, MountSource::Volume { .. });
        if !unit.record().spec.mounts.iter().any(has) {
            return Ok(());
        }
        let looked = unit.clone();
        for (name, target, source) in self.blocking(move |inner| inner.empty_volumes(&looked)).await? {
            let turn = self.inner.filling.of(source.clone());
            let _turn = turn.lock().await;
            // One account fills one at a time: those of others need not wait for all of its own.
            let turn = self.inner.filling_tenants.of(unit.record().spec.tenant);
            let _turn_of_tenant = turn.lock().await;
            let Ok(_place) = self.inner.fills.acquire().await else {
                return Err(EngineError::Failed("the engine is closing".into()));
            };
            let filled = unit.clone();
            self.blocking(move |inner| inner.fill_volume(&filled, &name, &target, &source)).await?;
        }
        Ok(())
    }

    /// Waits in the background for the shim's end, takes note of it, and nudges.
    pub(crate) fn attend(&self, unit: &Arc<Unit>, begun: StartedRun) -> Result<(), EngineError> {
        let StartedRun { shim, init, run, netns } = begun;
        let (ended, watched) = watch::channel(false);
        let closing = Arc::new(watch::channel(false).0);
        let listening = closing.clone();
        let waiting = match shim {
            None => None,
            Some(shim) => {
                // SAFETY: a `PidFd` owns its descriptor and gives the same one for as long as it lives.
                let registered = unsafe { AsyncFd::register_with_interest(shim, Interest::READABLE) };
                Some(registered.map_err(|e| EngineError::Failed(format!("watch the shim: {e}")))?)
            }
        };
        // What has just begun is neither paused nor has it been killed.
        let is_earlier = run.started_at < self.inner.begun_at;
        let group = self.inner.cgroup(unit.id());
        let paused = is_earlier && group.frozen();
        let state = State::Running { pid: Some(init.pid), started_at: run.started_at, paused };
        self.inner.know_names(unit);
        {
            let mut known = unit.known();
            let oom_kills = if is_earlier { group.oom_kills() } else { 0 };
            known.observed = Observed { oom_kills, ..Observed::new(state, run.number) };
            (known.last_oom, known.oom_before, known.oom_reported) = (None, 0, None);
            // Its end may have come, but it is not over before the shim is: until then nothing else may begin.
            let init = init.open().map(Arc::new);
            // Of a run that an earlier server began somebody may have heard already.
            let heard = Arc::new(is_earlier.into());
            known.live = waiting.is_some().then_some(Live {
                init,
                link: run.link,
                netns,
                heard,
                killed: Arc::default(),
                ended: watched,
                closing,
            });
        }
        self.inner.groups.begin(unit.id(), &group);
        let (inner, unit) = (self.inner.clone(), unit.clone());
        tokio::spawn(async move {
            if let Some(shim) = &waiting {
                let _ = shim.readable().await;
            }
            // What listens in it says goodbye while its packets still go out.
            listening.send_replace(true);
            let _ = tokio::time::timeout(GOODBYE, listening.closed()).await;
            let noted = unit.clone();
            let worker = inner.clone();
            let _ = tokio::task::spawn_blocking(move || worker.note_end(&noted, &run)).await;
            let _ = ended.send(true);
            inner.nudge(unit.id());
        });
        Ok(())
    }
}

impl Inner {
    fn note_end(&self, unit: &Unit, run: &Run) {
        let id = unit.id();
        let mut placed = false;
        if let Err(error) = self.rules.unpublish(&unit.published()) {
            placed = true;
            tracing::error!(container = %id, %error, "ports of an ended container are still published");
        }
        let live = unit.known().live.clone();
        // Its link may have been made anew since it began.
        let now = read_json::<Run>(&unit.folder.join(RUN)).ok().flatten().filter(|now| now.number == run.number);
        if let Some(member) = unit.member(now.as_ref().unwrap_or(run))
            && let Err(error) = self.rules.expel(&member)
        {
            placed = true;
            tracing::warn!(container = %id, %error, "a place on the bridge could not be taken back");
        }
        unit.placed.store(placed, Ordering::Relaxed);
        self.allocator().rest(id);
        self.forget_names(unit);
        self.groups.end(id);
        // The shim writes its status within moments of its child's end; one that was opened too late may still be at it.
        let mut status = None;
        for _ in 0..200 {
            match ExitStatus::load(&unit.folder) {
                Ok(Some(found)) => {
                    status = Some(found);
                    break;
                }
                Ok(None) if Process::load(&unit.folder.join(files::SHIM)).and_then(|p| p.open()).is_some() => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(container = %id, %error, "the exit status can't be read");
                    break;
                }
            }
        }
        let status = status.unwrap_or_else(|| {
            // The shim was killed; its child went with it.
            let lost = ExitStatus {
                code: 255,
                signal: None,
                oom_kills: self.cgroup(id).oom_kills(),
                finished_at: now_ns(),
                traffic: live.as_ref().and_then(|l| self.traffic_now(unit, l)),
            };
            if let Err(error) = self.cgroup(id).remove() {
                tracing::warn!(container = %id, %error, "a cgroup could not be removed");
            }
            let _ = write_json(&unit.folder.join(files::STATUS), &lost);
            lost
        });
        unit.counted.end(&unit.folder, run.number, status.traffic.map(of_run));
        let mut known = unit.known();
        let status = ExitStatus { oom_kills: status.oom_kills + known.oom_before, ..status };
        let mut exit = exit_of(&status, known.observed.oom_kills, known.last_oom);
        exit.oom_killed &= !live.as_ref().is_some_and(|live| live.killed.load(Ordering::Relaxed));
        known.observed = Observed { oom_kills: status.oom_kills, ..Observed::new(State::Exited(exit), run.number) };
        known.live = None;
    }

    /// A host that can't count by control groups runs a container in its network all the same: whoever bills must know.
    pub(crate) fn warn_if_uncounted(&self, unit: &Unit) {
        let is_host = unit.record().spec.network == NetworkMode::Host;
        let live = unit.known().live.clone();
        if is_host && self.cgroup(unit.id()).traffic().is_none() && live.is_some_and(|live| !live.has_ended()) {
            tracing::error!(container = %unit.id(), "nothing counts the traffic of a container in the host's network");
        }
    }

    /// What the run that goes on has counted so far.
    pub(crate) fn traffic_now(&self, unit: &Unit, live: &Live) -> Option<berth_runtime::Traffic> {
        match live.link {
            Some(index) => match berth_net::link_stats_of(index) {
                Ok(found) => found.as_ref().map(of_link),
                Err(error) => {
                    tracing::error!(container = %unit.id(), %error, "a container's traffic could not be read");
                    None
                }
            },
            None if unit.record().spec.network == NetworkMode::Host => self.cgroup(unit.id()).traffic(),
            None => None,
        }
    }
}

/// What a step that failed is to the engine's caller; exit codes as Docker gives them.
pub(crate) fn start_error(failure: berth_runtime::Failure) -> EngineError {
    let text = failure.to_string();
    match failure.cause {
        Cause::Request => EngineError::Start { text, code: 125 },
        Cause::Denied => EngineError::Start { text, code: 126 },
        Cause::Missing => EngineError::Start { text, code: 127 },
        Cause::Host if berth_runtime::is_no_room(&failure.source) => EngineError::NoRoom(text),
        Cause::Host => EngineError::Failed(text),
    }
}

/// The host's end of a veth sees the container's traffic the other way round.
pub(crate) fn of_link(host: &berth_net::LinkStats) -> berth_runtime::Traffic {
    berth_runtime::Traffic::of_link(host.tx_bytes, host.tx_packets, host.rx_bytes, host.rx_packets)
}

impl Unit {
    /// Signal, grace, kill. One that can't hear the signal is killed at once. Returns when the end has been taken note of.
    pub(crate) async fn end(&self, signal: i32, grace: Duration) -> Result<(), EngineError> {
        let Some(live) = self.known().live.clone() else { return Ok(()) };
        let mut ended = live.ended.clone();
        live.signal(signal).map_err(failed(format!("send signal {signal} to {}", self.id())))?;
        if signal != libc::SIGKILL {
            let pid = match self.known().observed.state {
                State::Running { pid, .. } => pid,
                _ => None,
            };
            let heard = pid.is_none_or(|pid| berth_runtime::delivers_signal(pid, signal));
            if heard && !grace.is_zero() && tokio::time::timeout(grace, ended.wait_for(|e| *e)).await.is_ok() {
                return Ok(());
            }
            live.signal(libc::SIGKILL).map_err(failed(format!("kill {}", self.id())))?;
        }
        match tokio::time::timeout(KILL_LIMIT, ended.wait_for(|e| *e)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::Timeout(format!("ending {}", self.id()))),
        }
    }
}
