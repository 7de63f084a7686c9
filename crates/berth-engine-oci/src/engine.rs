//! The engine's state, its start, and the trait.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_engine::{
    Abilities, Changes, Engine, EngineError, HostFacts, LogOptions, LogReader, Observed, Placement, State, UnitId,
    UnitSpec,
};
use berth_image::Store as Images;
use berth_net::{Netns, Network};
use berth_runtime::cgroup::{Cgroup, Hierarchies};
use berth_runtime::{LogLimits, Zygote};
use tokio::sync::{Semaphore, broadcast};

use crate::allocator::NetworkAllocator;
use crate::dns::Names;
use crate::groups::GroupWatch;
use crate::host::{host_memory, private_copy};
use crate::instance::{Instance, failed};
use crate::lifecycle::StartedRun;
use crate::load_balancers::LoadBalancers;
use crate::output::Output;
use crate::rules::{Keeper, Rules};
use crate::traffic_totals::of_run;
use crate::turns::Turns;
use crate::unit::{SHIM_PROTOCOL, UNIT, Unit, UnitRecord, read_json, relocate};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder.
    pub folder: PathBuf,
    /// Where volumes are. A container whose volume was elsewhere when it was made, before the data was moved or restored into another
    /// folder, gets it from here.
    pub volumes: Option<PathBuf>,
    /// The program whose `main` begins with [`berth_runtime::zygote_main`]; also what `MountSource::Program` mounts.
    pub program: PathBuf,
    /// Gateway and prefix length of the containers' network; a free one is chosen if `None`.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// Name servers for containers where the host's own are on its loopback.
    pub dns: Vec<String>,
    /// Rotation of logs.
    pub log: LogLimits,
    /// Starts under way at a time; the rest wait in line. The kernel's rtnl lock is the ceiling: more in flight make each
    /// start slower and none more of them a second.
    pub starts_at_once: usize,
    /// Another OCI runtime's program instead of the built-in one: an absolute path.
    pub runtime: Option<PathBuf>,
    /// Whether the cgroup hierarchy is remounted with `favordynmods` (faster starts).
    pub favor_dynamic_modifications: bool,
    /// Bytes of memory that containers leave to the host, at most an eighth of it: all of them together have the rest, and none is
    /// started when less is available.
    pub memory_reserve: u64,
    /// Host ports that one tenant may have in all; 0 for no bound.
    pub ports_of_tenant: usize,
}

impl Options {
    /// Defaults for a folder.
    pub fn new(folder: PathBuf, program: PathBuf) -> Self {
        Self {
            folder,
            volumes: None,
            program,
            subnet: None,
            dns: vec!["223.5.5.5".into(), "1.1.1.1".into()],
            log: LogLimits::default(),
            starts_at_once: 6,
            runtime: None,
            favor_dynamic_modifications: true,
            memory_reserve: 256 << 20,
            ports_of_tenant: 4096,
        }
    }
}

/// Between two samples of traffic that are kept for the case that server and shim go at once.
const SAMPLE_PERIOD: Duration = Duration::from_secs(10);

/// How long a start that the last server began may go on.
const STALLED: Duration = Duration::from_secs(5);

/// Network namespaces made ahead of their use.
const NETNS_AHEAD: usize = 8;

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) instance: Instance,
    pub(crate) network: Network,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) images: Images,
    pub(crate) zygote: Zygote,
    pub(crate) allocator: Mutex<NetworkAllocator>,
    pub(crate) rules: Rules,
    /// The copy of the program that containers see.
    pub(crate) program: PathBuf,
    units: Mutex<HashMap<UnitId, Arc<Unit>>>,
    pub(crate) changes: broadcast::Sender<UnitId>,
    pub(crate) starts: Semaphore,
    /// Turns to ask the zygote for a process: it makes one after the other, and who waits for it holds a thread.
    pub(crate) asking: Semaphore,
    pub(crate) next_link: std::sync::atomic::AtomicU64,
    /// When this engine began, nanoseconds since 1970.
    pub(crate) begun_at: i64,
    netns: Mutex<Vec<Netns>>,
    pub(crate) host_memory: u64,
    /// Bytes that are kept back for the host.
    pub(crate) memory_reserve: u64,
    pub(crate) names: Arc<Names>,
    pub(crate) serves_names: std::sync::atomic::AtomicBool,
    /// Volumes that are being filled.
    pub(crate) filling: Turns<PathBuf>,
    /// Whose volumes are being filled.
    pub(crate) filling_tenants: Turns<u32>,
    /// Turns to fill one.
    pub(crate) fills: Semaphore,
    pub(crate) load_balancers: LoadBalancers,
    pub(crate) groups: Arc<GroupWatch>,
    /// How many have asked for the trash to be emptied since that began; 0 while nobody does it.
    pub(crate) trash_asked: std::sync::atomic::AtomicUsize,
}

/// Containers on this machine.
#[derive(Clone)]
pub struct OciEngine {
    pub(crate) inner: Arc<Inner>,
    _keeper: Arc<Keeper>,
}

impl std::fmt::Debug for OciEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OciEngine").field("folder", &self.inner.options.folder).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn units(&self) -> MutexGuard<'_, HashMap<UnitId, Arc<Unit>>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn allocator(&self) -> MutexGuard<'_, NetworkAllocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unit(&self, id: &UnitId) -> Result<Arc<Unit>, EngineError> {
        self.units().get(id).cloned().ok_or_else(|| EngineError::NoSuchUnit(id.clone()))
    }

    pub(crate) fn units_folder(&self) -> PathBuf {
        self.options.folder.join("units")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.options.folder.join("trash")
    }

    pub(crate) fn cgroup(&self, id: &UnitId) -> Cgroup {
        Cgroup::new(self.hierarchies.clone(), &self.instance.cgroup_parent(), id.as_str())
    }

    pub(crate) fn nudge(&self, id: &UnitId) {
        // Nobody listening is fine.
        let _ = self.changes.send(id.clone());
    }

    /// One made ahead if there is one.
    pub(crate) fn take_netns(&self) -> Result<Netns, EngineError> {
        let kept = self.netns.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(|| Netns::create().map_err(failed("make a network namespace")), Ok)
    }

    pub(crate) fn refill_netns(&self) {
        loop {
            if self.netns.lock().unwrap_or_else(PoisonError::into_inner).len() >= NETNS_AHEAD {
                return;
            }
            let Ok(netns) = Netns::create() else { return };
            self.netns.lock().unwrap_or_else(PoisonError::into_inner).push(netns);
        }
    }
}

/// The zygote's process, so that the next server can wait for its end.
const ZYGOTE: &str = "zygote.json";

/// A server that was killed may have asked its zygote for starts that are still coming. The zygote does them and ends; only
/// then what is on disk can be believed.
fn wait_for_the_last(folder: &Path) {
    let last = berth_runtime::Process::load(&folder.join(ZYGOTE)).and_then(|process| process.open());
    if let Some(last) = last
        && !last.wait(Duration::from_secs(10))
    {
        tracing::warn!("the last server's zygote does not end; it is killed");
        let _ = last.signal(libc::SIGKILL);
    }
}

impl OciEngine {
    /// The containers' network: address and prefix length.
    pub fn subnet(&self) -> (Ipv4Addr, u8) {
        let subnet = self.inner.network.subnet;
        (subnet.network(), subnet.prefix)
    }

    /// Starts the engine: rules and bridge in place, containers that run taken over, what has no owner removed. Within a
    /// tokio runtime; blocks for some ten milliseconds.
    ///
    /// # Errors
    /// The step that failed.
    pub fn open(options: Options, images: Images) -> Result<Self, EngineError> {
        let folder = &options.folder;
        for name in ["units", "trash"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(failed(format!("make {}", path.display())))?;
        }
        let (instance, choosing) = Instance::load_or_choose(folder, options.subnet)?;
        let hierarchies = Hierarchies::detect().map_err(failed("find the cgroups"))?;
        if options.favor_dynamic_modifications
            && let Err(error) = Hierarchies::favor_dynamic_modifications()
        {
            tracing::info!(%error, "cgroup2 can't be remounted with favordynmods: starts may wait some 14 ms");
        }
        let host_memory = host_memory().map_or(0, |(total, _)| total);
        let memory_reserve = options.memory_reserve.min(host_memory / 8);
        let bound = (memory_reserve > 0).then_some(host_memory - memory_reserve);
        if let Err(error) = Cgroup::bound_parent(&hierarchies, &instance.cgroup_parent(), bound) {
            tracing::warn!(%error, "the containers' memory has no bound in all: they may leave too little to the host");
        }
        wait_for_the_last(folder);
        let program = private_copy(&options.program, folder)?;
        let zygote = Zygote::start(&options.program, &folder.join(ZYGOTE), &instance.shims())
            .map_err(failed("start the zygote"))?;
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let inner = Arc::new(Inner {
            program,
            network: instance.network(),
            rules: Rules::new(instance.network()),
            allocator: Mutex::new(NetworkAllocator::new(instance.network(), options.ports_of_tenant)),
            instance,
            hierarchies,
            images,
            zygote,
            units: Mutex::default(),
            changes: broadcast::channel(4096).0,
            starts: Semaphore::new(options.starts_at_once.max(1)),
            asking: Semaphore::new(4),
            // Link names are never used twice, not even by the next server: removal is asynchronous in the kernel.
            begun_at: berth_runtime::log::now_ns(),
            next_link: (since_epoch.as_millis() as u64).into(),
            netns: Mutex::default(),
            host_memory,
            memory_reserve,
            names: Arc::default(),
            serves_names: false.into(),
            filling: Turns::default(),
            filling_tenants: Turns::default(),
            fills: Semaphore::new(4),
            load_balancers: LoadBalancers::load(&options.folder),
            groups: Arc::new(GroupWatch::open()),
            trash_asked: 0.into(),
            options,
        });
        let engine = Self { _keeper: Arc::new(Keeper(inner.clone())), inner };
        engine.take_over()?;
        drop(choosing);
        let inner = engine.inner.clone();
        tokio::task::spawn_blocking(move || {
            inner.refill_netns();
            inner.empty_trash();
        });
        let (inner, subnet, dns) =
            (engine.inner.clone(), engine.inner.network.subnet, engine.inner.options.dns.clone());
        tokio::spawn(async move {
            match crate::dns::serve(&inner.names, subnet, &dns).await {
                Ok(()) => {
                    // A firewall of the host may be in between; then every lookup would wait for nothing.
                    let probing = inner.clone();
                    let reached = tokio::task::spawn_blocking(move || probing.reaches_names()).await;
                    match reached {
                        Ok(Ok(())) => inner.serves_names.store(true, std::sync::atomic::Ordering::Relaxed),
                        Ok(Err(error)) => tracing::warn!(
                            error,
                            "containers can't reach the name service on {} (a firewall?): they don't find each other by name",
                            subnet.gateway
                        ),
                        Err(_) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no name service on {}: containers don't find each other by name", subnet.gateway);
                }
            }
        });
        let inner = Arc::downgrade(&engine.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SAMPLE_PERIOD).await;
                let Some(inner) = inner.upgrade() else { return };
                let _ = tokio::task::spawn_blocking(move || inner.sample_traffic()).await;
            }
        });
        crate::rules::look_after(&engine.inner)?;
        crate::groups::look_after(&engine.inner)?;
        Ok(engine)
    }

    /// Reads the folders, asks which shims live, and makes kernel and memory agree with it.
    fn take_over(&self) -> Result<(), EngineError> {
        let inner = &self.inner;
        let mut published = Vec::new();
        let mut running = Vec::new();
        let mut members = Vec::new();
        let folder = inner.units_folder();
        let mut units = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed(format!("list {}", folder.display())))? {
            let path = entry.map_err(failed(format!("list {}", folder.display())))?.path();
            let unit = match load(&path, inner.options.volumes.as_deref()) {
                Ok(Some(unit)) => unit,
                Ok(None) => {
                    tracing::warn!(folder = %path.display(), "a folder that is no container's is left alone");
                    continue;
                }
                Err(error) => {
                    // Cut by a power failure; the core makes the container anew from its own records.
                    tracing::warn!(folder = %path.display(), %error, "a container's folder can't be read; it is set aside");
                    let aside = inner.trash().join(format!("unreadable-{}", berth_runtime::log::now_ns()));
                    fs::rename(&path, &aside).map_err(failed(format!("set {} aside", path.display())))?;
                    continue;
                }
            };
            units.push(Arc::new(unit));
        }
        self.await_starts(&units);
        for unit in units {
            let placement = unit.record().placement.clone();
            let (observed, live) = unit.probe();
            let tenant = unit.record().spec.tenant;
            inner.allocator().remember(unit.id(), tenant, placement.address, &placement.ports, live.is_some());
            unit.known().observed = observed;
            inner.units().insert(unit.id().clone(), unit.clone());
            match live {
                Some((_, _, run)) if run.protocol > SHIM_PROTOCOL => {
                    return Err(EngineError::Failed(format!(
                        "container {} was started by a newer berth (shim protocol {}, this program has {SHIM_PROTOCOL}): run that or a newer one",
                        unit.id(),
                        run.protocol
                    )));
                }
                Some((shim, init, run)) => {
                    published.extend(unit.published());
                    members.extend(unit.member(&run));
                    let netns = run.link.and_then(|_| Netns::of_process(init.pid).ok()).map(Arc::new);
                    running.push((unit, StartedRun { shim: Some(shim), init, run, netns }));
                }
                None => {
                    // A run that ended while nobody looked; each counts once.
                    let status = berth_runtime::ExitStatus::load(&unit.folder).unwrap_or_default();
                    unit.counted.end(
                        &unit.folder,
                        unit.known().observed.run,
                        status.and_then(|s| s.traffic).map(of_run),
                    );
                    if let Err(error) = inner.cgroup(unit.id()).remove() {
                        tracing::warn!(container = %unit.id(), %error, "a cgroup that is left could not be removed");
                    }
                }
            }
        }
        for id in Cgroup::list(&inner.hierarchies, &inner.instance.cgroup_parent()) {
            let owned = id.parse::<UnitId>().is_ok_and(|id| inner.units().contains_key(&id));
            if !owned {
                tracing::info!(container = id, "a cgroup without a container is removed");
                if let Err(error) =
                    Cgroup::new(inner.hierarchies.clone(), &inner.instance.cgroup_parent(), &id).remove()
                {
                    tracing::warn!(container = id, %error, "a cgroup without a container could not be removed");
                }
            }
        }
        let backends = inner.take_over_load_balancers();
        inner.rules.begin(&published, &backends, &members).map_err(|e| EngineError::Failed(e.to_string()))?;
        // After the rules: the end of one takes its ports out of them.
        running.into_iter().try_for_each(|(unit, begun)| self.attend(&unit, begun))
    }

    /// Waits for the starts that the last server has left, for all at the same time; what takes too long is ended.
    fn await_starts(&self, units: &[Arc<Unit>]) {
        let until = Instant::now() + STALLED;
        let mut starting: Vec<_> = units.iter().filter(|unit| unit.starting().is_some()).collect();
        while !starting.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            starting.retain(|unit| unit.starting().is_some());
        }
        let stalled: Vec<_> = starting.iter().filter_map(|unit| Some((unit, unit.starting()?))).collect();
        for (unit, shim) in &stalled {
            tracing::warn!(container = %unit.id(), "a start that the last server began does not end; it is broken off");
            let _ = shim.signal(libc::SIGKILL);
        }
        for (unit, shim) in stalled {
            if !shim.wait(Duration::from_secs(1)) {
                tracing::error!(container = %unit.id(), "a start that was broken off still hangs in the kernel");
            }
            // What the shim had begun goes with its group.
            if let Err(error) = self.inner.cgroup(unit.id()).remove() {
                tracing::warn!(container = %unit.id(), %error, "the group of a start that was broken off is still there");
            }
        }
    }

    /// A step that goes on although whoever asked for it has gone: half a start must not be left to nobody.
    pub(crate) async fn whole<T: Send + 'static>(
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        tokio::spawn(work)
            .await
            .unwrap_or_else(|error| Err(EngineError::Failed(format!("a step was broken off: {error}"))))
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(EngineError::Failed(format!("a step was broken off: {error}"))))
    }
}

fn load(path: &Path, volumes: Option<&Path>) -> std::io::Result<Option<Unit>> {
    let Some(mut record) = read_json::<UnitRecord>(&path.join(UNIT))? else { return Ok(None) };
    relocate(&mut record.spec, volumes);
    if path.file_name().is_none_or(|name| name != record.spec.id.as_str()) {
        return Ok(None);
    }
    Ok(Some(Unit::new(path.to_owned(), record, Observed::new(State::Created, 0))))
}

#[async_trait]
impl Engine for OciEngine {
    fn abilities(&self) -> Abilities<'_> {
        Abilities::all(self)
    }

    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError> {
        let folder = self.inner.options.folder.clone();
        self.blocking(move |_| Ok(vec![crate::host::facts(&folder)])).await
    }

    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        if let Ok(unit) = self.inner.unit(&spec.id) {
            return Ok(unit.record().placement.clone());
        }
        // Its masks are bind mounts of the container's own null device, which a mount there would replace.
        let hides_null = |target: &Path| target == Path::new("/dev") || target == Path::new("/dev/null");
        if self.inner.options.runtime.is_some() && spec.mounts.iter().any(|mount| hides_null(&mount.target)) {
            return Err(EngineError::Unsupported("a mount at /dev with a runtime of the machine, such as runc,"));
        }
        let spec = spec.clone();
        // Blocking work is not broken off, so a create is whole by itself; one id is made once (`Inner::create`).
        self.blocking(move |inner| inner.create(&spec)).await
    }

    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError> {
        let (engine, unit) = (self.clone(), self.inner.unit(id)?);
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            if engine.inner.unit(unit.id()).is_err() {
                return Err(EngineError::NoSuchUnit(unit.id().clone()));
            }
            {
                let known = unit.known();
                if known.live.is_some() || known.observed.run >= run {
                    return Ok(());
                }
            }
            engine.fill_volumes(&unit).await?;
            let Ok(_place) = engine.inner.starts.acquire().await else {
                return Err(EngineError::Failed("the engine is closing".into()));
            };
            let started = unit.clone();
            let begun = engine.blocking(move |inner| inner.start(&started, run)).await?;
            engine.attend(&unit, begun)?;
            engine.inner.nudge(unit.id());
            engine.inner.warn_if_uncounted(&unit);
            let inner = engine.inner.clone();
            tokio::task::spawn_blocking(move || inner.refill_netns());
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: &UnitId, signal: i32, grace: Duration) -> Result<(), EngineError> {
        let (engine, unit) = (self.clone(), self.inner.unit(id)?);
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            engine.thaw(&unit).await?;
            unit.end(signal, grace).await
        })
        .await
    }

    async fn remove(&self, id: &UnitId) -> Result<(), EngineError> {
        let Ok(unit) = self.inner.unit(id) else { return Ok(()) };
        let engine = self.clone();
        Self::whole(async move {
            // A stop that waits out its grace is not waited for.
            let live = unit.known().live.clone();
            if let Some(live) = live {
                live.signal(libc::SIGKILL).map_err(failed(format!("kill {}", unit.id())))?;
                // Whoever is paused is killed when it goes on.
                engine.thaw(&unit).await?;
            }
            let _busy = unit.busy.lock().await;
            if engine.inner.unit(unit.id()).is_err() {
                return Ok(());
            }
            unit.end(libc::SIGKILL, Duration::ZERO).await?;
            let gone = unit.clone();
            engine.blocking(move |inner| inner.discard(&gone)).await?;
            engine.inner.nudge(unit.id());
            let inner = engine.inner.clone();
            tokio::task::spawn_blocking(move || inner.empty_trash());
            Ok(())
        })
        .await
    }

    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError> {
        Ok(match self.inner.unit(id) {
            Ok(unit) => unit.known().observed.clone(),
            Err(_) => Observed::new(State::Absent, 0),
        })
    }

    async fn list(&self) -> Result<Vec<UnitId>, EngineError> {
        Ok(self.inner.units().keys().cloned().collect())
    }

    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError> {
        let unit = self.inner.unit(id)?;
        Ok(Box::new(Output::open(&unit.folder, options).await?))
    }

    fn runtime(&self) -> String {
        self.inner.options.runtime.as_ref().map_or_else(|| "built-in".into(), |program| program.display().to_string())
    }

    fn trouble(&self) -> Option<String> {
        self.inner.rules.trouble()
    }

    fn changes(&self) -> Changes {
        self.inner.changes.subscribe()
    }
}
