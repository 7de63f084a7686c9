//! The core: its parts and its start.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use berth_engine::Engine;
use berth_image::Store as Images;
use berth_operations::Operations;
use berth_store::{Store, Tx};
use tokio::sync::broadcast;

use crate::balancing::state::Balancing;
use crate::distribution::Distribution;
use crate::fetch::Fetch;

use crate::error::Error;
use crate::events::event::Event;
use crate::registries::{Pulls, Registry};
use crate::settings::Settings;
use berth_identity::{AccountLimiter, Identity};

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) images: Images,
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) pulls: Pulls,
    pub(crate) distribution: Distribution,
    pub(crate) pulls_at_once: AccountLimiter,
    pub(crate) pushes_at_once: AccountLimiter,
    settings: arc_swap::ArcSwap<Settings>,
    pub(crate) meters: crate::watching::Meters,
    pub(crate) events: broadcast::Sender<Event>,
    /// When this server began, nanoseconds since 1970.
    pub(crate) begun_at: i64,
    pub(crate) builds: AccountLimiter,
    pub(crate) builds_waiting: AccountLimiter,
    pub(crate) imports: AccountLimiter,
    /// Processes in containers that have not come up yet.
    pub(crate) execs: AccountLimiter,
    /// Files for downloads that are being made or shared.
    pub(crate) held_files: Mutex<HashMap<String, usize>>,
    /// Files that are made ready at the same time.
    pub(crate) downloading: AccountLimiter,
    /// Held shared while layers go from pinned to written down, alone while unused ones are collected.
    pub(crate) gate: tokio::sync::RwLock<()>,
    /// Runs whose health is watched: container's number, run.
    pub(crate) watched: Mutex<HashMap<i64, i64>>,
    pub(crate) paths: Paths,
    pub(crate) identity: Identity,
    pub(crate) operations: Operations,
    pub(crate) balancing: Balancing,
    /// How many have asked for unused layers to be removed since that began; 0 while nobody does it.
    pub(crate) collecting: std::sync::atomic::AtomicUsize,
    /// Held while a place among an account's running containers is looked for.
    pub(crate) placing: tokio::sync::Mutex<()>,
    /// Containers that are being started, by account.
    pub(crate) starting: Mutex<crate::containers::StartingOnes>,
    /// The step in which containers' disks were looked at last.
    pub(crate) disks_looked_at: std::sync::atomic::AtomicI64,
    pub(crate) ssh: crate::ssh::listening::Listening,
    /// What is being done to containers now, and interactive sessions in them.
    pub(crate) in_flight: Mutex<HashMap<i64, crate::containers::in_flight::InFlight>>,
    /// When a write for the sake of readiness was last on disk.
    last_ready: tokio::sync::Mutex<Option<Instant>>,
    locks: Mutex<HashMap<i64, Weak<tokio::sync::Mutex<()>>>>,
}

/// Where the core keeps files of its own.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Folder of volumes.
    pub volumes: PathBuf,
    /// Folder of groups' code.
    pub packages: PathBuf,
    /// Folder of files that are ready to be fetched.
    pub downloads: PathBuf,
    /// Folder of what clients push.
    pub distribution: PathBuf,
    /// The key that secrets are encrypted with; made if it is not there.
    pub secret_key: PathBuf,
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Everything berth does. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Core")
    }
}

impl Core {
    /// The parts, put together; nothing runs yet.
    pub(crate) fn assemble(
        store: Store,
        engine: Arc<dyn Engine>,
        images: Images,
        fetch: Arc<dyn Fetch>,
        registry: Arc<dyn Registry>,
        paths: Paths,
        settings: Settings,
    ) -> Result<Self, Error> {
        let distribution = Distribution::open(&paths.distribution)
            .map_err(|e| Error::Bug(format!("open {}: {e}", paths.distribution.display())))?;
        let identity = Identity::open(store.clone(), &paths.secret_key, settings.identity())?;
        let inner = Inner {
            operations: Operations::new(store.clone(), settings.operations()),
            store,
            engine,
            images,
            fetch,
            registry,
            pulls: Pulls::default(),
            distribution,
            pulls_at_once: AccountLimiter::new(32, 8),
            pushes_at_once: AccountLimiter::new(16, 4),
            imports: AccountLimiter::new(32, 8),
            execs: AccountLimiter::new(512, 32),
            downloading: AccountLimiter::new(8, 1),
            held_files: Mutex::default(),
            begun_at: berth_types::now(),
            // Others than the one with many get a turn soon.
            builds: AccountLimiter::new(settings.builds_at_once.max(1), (settings.builds_at_once * 3 / 4).max(1)),
            builds_waiting: AccountLimiter::new(settings.builds_waiting.max(1), (settings.builds_waiting / 2).max(1)),
            settings: arc_swap::ArcSwap::from_pointee(settings),
            meters: crate::watching::Meters::default(),
            events: broadcast::channel(4096).0,
            gate: tokio::sync::RwLock::default(),
            watched: Mutex::default(),
            identity,
            paths,
            balancing: Balancing::default(),
            collecting: 0.into(),
            placing: tokio::sync::Mutex::default(),
            starting: Mutex::default(),
            disks_looked_at: 0.into(),
            ssh: crate::ssh::listening::Listening::default(),
            in_flight: Mutex::default(),
            last_ready: tokio::sync::Mutex::default(),
            locks: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The settings in force; [`Core::reload`] may have others follow.
    pub fn settings(&self) -> Arc<Settings> {
        self.inner.settings.load_full()
    }

    /// Takes other settings for everything that begins from now on. How many builds and steps are under way at a time, and how
    /// many may wait, is fixed when the core is opened.
    pub fn reload(&self, settings: Settings) {
        self.identity().reload(settings.identity());
        self.inner.settings.store(Arc::new(settings));
    }

    /// Accounts, credentials and what they may do.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Whether the host was started since the last server of these records.
    pub(crate) async fn was_rebooted(&self) -> Result<bool, Error> {
        let last = self.read(|tx| Ok(tx.server_value("boot")?)).await?;
        Ok(last.is_some_and(|last| last != boot_id()))
    }

    /// Takes note of this boot.
    pub(crate) async fn note_boot(&self) -> Result<(), Error> {
        self.write(|tx| Ok(tx.server_value_set("boot", &boot_id())?)).await
    }

    /// Does what may block (disks, `/proc`) on a thread for that.
    pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))
    }

    /// Bytes free for images and containers, beyond what is kept back.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there are none.
    pub(crate) async fn room(&self) -> Result<u64, Error> {
        let images = self.inner.images.clone();
        Ok(Self::aside(move || images.room()).await??)
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.store.write(work).await
    }

    /// [`write`](Self::write) for what is observed again after a power failure: nobody waits for the disk.
    pub(crate) async fn write_observed<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.store.write_observed(work).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.store.read(work).await
    }

    /// One operation on a container at a time.
    pub(crate) fn lock(&self, container: i64) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&container).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() > 1024 {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(container, Arc::downgrade(&lock));
        lock
    }

    /// The server goes: commands stay where they are, for the next one to go on with. What a step comes to from now on may be
    /// the end of this server's threads, and is not written down.
    pub fn close(&self) {
        self.inner.operations.close();
    }

    /// Whether the database takes a write, within five seconds; for readiness. Answered from memory for a second, so that
    /// probes of strangers cost at most one durable write a second.
    ///
    /// # Errors
    /// The database's own; [`Error::Timeout`].
    pub async fn ready(&self) -> Result<(), Error> {
        if let Some(trouble) = self.inner.engine.trouble() {
            return Err(Error::Timeout(format!("the network to be put back ({trouble})")));
        }
        let mut last = self.inner.last_ready.lock().await;
        if last.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return Ok(());
        }
        *last = None;
        let at = berth_types::now().to_string();
        let write = self.write(move |tx| Ok(tx.server_value_set("ready", &at)?));
        tokio::time::timeout(READY_LIMIT, write)
            .await
            .map_err(|_| Error::Timeout("a write to the database".into()))??;
        *last = Some(Instant::now());
        Ok(())
    }
}

/// How long a readiness probe waits for the database.
const READY_LIMIT: Duration = Duration::from_secs(5);
