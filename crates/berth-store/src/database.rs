//! The database: one writing thread that groups commits, a few reading connections.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

/// Most writes that share a commit: bounds how long the first of them waits.
const GROUP: usize = 256;
const READERS: usize = 4;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A unique value is taken already.
    #[error("{0} exists already")]
    Duplicate(String),
    /// The database could not be opened.
    #[error("the database {path} can't be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's word.
        source: rusqlite::Error,
    },
    /// It is of a newer berth.
    #[error("the database is of version {found}, this program knows up to {known}: use a newer berth")]
    Newer {
        /// The database's version.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// A statement failed.
    #[error("the database refused a statement")]
    Statement(#[from] rusqlite::Error),
    /// Something in it is not as it was written.
    #[error("the database holds {0}, which cannot be read")]
    Broken(String),
    /// The commit failed, so nothing was written.
    #[error("the database could not commit")]
    Commit(String),
    /// The code that ran in the transaction panicked; the transaction is rolled back.
    #[error("a database operation panicked: {0}")]
    Panicked(String),
    /// The writing thread is gone.
    #[error("the database is closed")]
    Closed,
}

impl Error {
    /// Whether the disk has no room for more.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Statement(rusqlite::Error::SqliteFailure(failure, _)) => {
                failure.code == rusqlite::ErrorCode::DiskFull
            }
            Self::Commit(text) => text.contains("is full"),
            _ => false,
        }
    }
}

/// Bytes that are kept on the disk for the time when all else has filled it: containers must be stopped and removed then.
const RESERVE: u64 = 16 << 20;
/// Free space below which that is given up, and above which it is taken again.
const NEARLY_FULL: u64 = 4 << 20;

struct Reserve {
    file: PathBuf,
    folder: std::ffi::CString,
    kept: bool,
    looked: std::time::Instant,
}

impl Reserve {
    fn new(database: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let file = database.with_extension("reserve");
        let folder = database.parent().unwrap_or(Path::new(".")).as_os_str().as_bytes();
        let mut reserve = Self {
            kept: file.exists(),
            file,
            folder: std::ffi::CString::new(folder).unwrap_or_default(),
            looked: std::time::Instant::now(),
        };
        reserve.take();
        reserve
    }

    fn free(&self) -> Option<u64> {
        // SAFETY: a path that outlives the call, which writes the buffer.
        unsafe {
            let mut stats: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(self.folder.as_ptr(), &raw mut stats) == 0)
                .then(|| stats.f_bavail.saturating_mul(stats.f_frsize))
        }
    }

    fn take(&mut self) {
        use std::os::fd::AsRawFd;
        if self.kept || self.free().is_none_or(|free| free < 2 * RESERVE + NEARLY_FULL) {
            return;
        }
        let made = std::fs::File::create(&self.file).is_ok_and(|file| {
            // SAFETY: an open descriptor.
            unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, RESERVE as libc::off_t) == 0 }
        });
        self.kept = made;
        if !made {
            let _ = std::fs::remove_file(&self.file);
        }
    }

    /// Before each group of writes.
    fn look(&mut self) {
        if self.kept {
            if self.free().is_some_and(|free| free < NEARLY_FULL) {
                tracing::warn!("the disk is full: what was kept back for the database is used now");
                let _ = std::fs::remove_file(&self.file);
                self.kept = false;
            }
        } else if self.looked.elapsed() > Duration::from_secs(30) {
            self.looked = std::time::Instant::now();
            self.take();
        }
    }
}

/// A transaction. Queries are its methods, one file a resource in `tables/`.
pub struct Tx<'a> {
    pub(crate) connection: &'a Connection,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tx")
    }
}

/// Runs within the group's transaction; what it returns is called after the commit with the commit's result.
type Work = Box<dyn FnOnce(&Connection) -> Done + Send>;

struct Job {
    work: Work,
    /// Whether it is to be on disk before it is answered.
    durable: bool,
}

type Done = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Runs on one of the reading threads, with its connection.
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SyncSender<Job>,
    /// To the reading threads. They are the database's own: a query never waits behind another part's blocking work.
    reader: Sender<Read>,
    /// As many reads at a time as there are reading threads; the others wait without a thread.
    reads: Arc<tokio::sync::Semaphore>,
    load: Arc<Load>,
}

/// What the database has to do, for whoever watches.
#[derive(Debug)]
pub struct Load {
    /// Time from a write's request until it is on disk.
    pub writes: berth_types::Histogram,
    /// Writes that wait or are under way.
    pub waiting: std::sync::atomic::AtomicI64,
    /// How many there were of them whenever one was asked for.
    pub depth: berth_types::Histogram,
}

impl Default for Load {
    fn default() -> Self {
        let depth = berth_types::Histogram::of_numbers();
        Self { writes: berth_types::Histogram::default(), waiting: std::sync::atomic::AtomicI64::new(0), depth }
    }
}

/// A write as long as somebody waits for it.
struct Waits(Arc<Load>);

impl Waits {
    fn new(load: Arc<Load>) -> Self {
        let before = load.waiting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        load.depth.observe_number(u32::try_from(before).unwrap_or(0));
        Self(load)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Statements, and what has to be done after them that statements can't do.
pub(crate) type Migration = (&'static str, fn(&Connection) -> Result<(), Error>);

pub(crate) const MIGRATIONS: &[Migration] = &[
    (include_str!("migrations/0001_start.sql"), |_| Ok(())),
    (include_str!("migrations/0002_daily.sql"), |_| Ok(())),
    (include_str!("migrations/0003_services.sql"), |_| Ok(())),
    (include_str!("migrations/0004_plans.sql"), |_| Ok(())),
    (include_str!("migrations/0005_hosts.sql"), |_| Ok(())),
    (include_str!("migrations/0006_segments.sql"), crate::tables::points::pack_old),
    (include_str!("migrations/0007_deployments.sql"), |_| Ok(())),
    (include_str!("migrations/0008_bounds.sql"), |_| Ok(())),
    (include_str!("migrations/0009_accounts.sql"), |_| Ok(())),
    (include_str!("migrations/0010_console.sql"), |_| Ok(())),
    (include_str!("migrations/0011_distribution.sql"), |_| Ok(())),
    (include_str!("migrations/0012_revisions.sql"), |_| Ok(())),
];

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let named = |source| Error::Open { path: path.to_owned(), source };
    let connection = Connection::open_with_flags(path, flags).map_err(named)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(named)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -4096;")
        .map_err(named)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Writes the database at `path`, as it is at one moment, into the empty file `to`. A server may serve from it meanwhile.
///
/// # Errors
/// [`Error::Open`], or what the disk said.
pub fn snapshot(path: &Path, to: &Path) -> Result<(), Error> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute("VACUUM INTO $1", [to.to_string_lossy()])?;
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    for (index, (text, then)) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let tx = connection.transaction()?;
        tx.execute_batch(text)?;
        then(&tx)?;
        tx.pragma_update(None, "user_version", index as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}

impl Store {
    /// Opens the database, making and migrating it as needed.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Newer`], or the migration that failed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = open(path, flags | OpenFlags::SQLITE_OPEN_CREATE)?;
        migrate(&mut connection)?;
        // From here on the writing thread syncs the log itself, where a write asks for it. (SQLite goes on to sync what a checkpoint needs.)
        connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(Error::Statement)?;
        let mut log = Log::of(path);
        // Where thousands of containers' readings go, the pages that change each time are more than the readers' share.
        connection.execute_batch("PRAGMA cache_size = -32768").map_err(Error::Statement)?;
        let (writer, jobs) = mpsc::sync_channel(4 * GROUP);
        let mut reserve = Reserve::new(path);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_groups(&connection, &jobs, &mut reserve, &mut log))
            .map_err(|_| Error::Closed)?;
        let (reader, queries) = mpsc::channel::<Read>();
        let queries = Arc::new(Mutex::new(queries));
        for number in 0..READERS {
            let (connection, queries) = (open(path, flags)?, queries.clone());
            std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || {
                    // The lock is held while this thread waits for a query; the other idle threads wait for the lock.
                    while let Ok(query) = { queries.lock().unwrap_or_else(PoisonError::into_inner).recv() } {
                        query(&connection);
                    }
                })
                .map_err(|_| Error::Closed)?;
        }
        Ok(Self { writer, reader, reads: Arc::new(tokio::sync::Semaphore::new(READERS)), load: Arc::default() })
    }

    /// Runs `work` in a transaction and answers when it is on disk. If it fails, nothing of it is kept.
    ///
    /// # Errors
    /// What `work` returned, or the database's own.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.write_job(work, true).await
    }

    /// [`write`](Self::write) for what is found out again after a power failure: it outlives the process, and is on disk a tenth of a
    /// second later. It saves the wait for the disk.
    ///
    /// # Errors
    /// What `work` returned, or the database's own.
    pub async fn write_observed<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.write_job(work, false).await
    }

    async fn write_job<T, E, F>(&self, work: F, durable: bool) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let begun = std::time::Instant::now();
        let waits = Waits::new(self.load.clone());
        let (answer, answered) = oneshot::channel::<Result<T, E>>();
        let work: Work = Box::new(move |connection| {
            let result = in_savepoint(connection, work);
            Box::new(move |committed| {
                let _ = answer.send(match (result, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(why)) => Err(Error::Commit(why).into()),
                    (Err(error), _) => Err(error),
                });
            })
        });
        let job = Job { work, durable };
        // The queue is bounded; waiting for room must not hold up the runtime.
        if let Err(full) = self.writer.try_send(job) {
            let job = match full {
                mpsc::TrySendError::Full(job) => job,
                mpsc::TrySendError::Disconnected(_) => return Err(Error::Closed.into()),
            };
            let writer = self.writer.clone();
            let sent = tokio::task::spawn_blocking(move || writer.send(job)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Err(Error::Closed.into());
            }
        }
        let done = answered.await.unwrap_or_else(|_| Err(Error::Closed.into()));
        self.load.writes.observe(begun.elapsed());
        drop(waits);
        done
    }

    /// What the database has to do.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Runs `work` on one consistent state of the database.
    ///
    /// # Errors
    /// What `work` returned, or the database's own.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let Ok(permit) = self.reads.clone().acquire_owned().await else { return Err(Error::Closed.into()) };
        let (answer, answered) = oneshot::channel();
        let query: Read = Box::new(move |connection| {
            let result = read_on(connection, work);
            drop(permit);
            let _ = answer.send(result);
        });
        if self.reader.send(query).is_err() {
            return Err(Error::Closed.into());
        }
        answered.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// [`read`](Self::read) for a thread that may block.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_now<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let query: Read = Box::new(move |connection| drop(answer.send(read_on(connection, work))));
        if self.reader.send(query).is_err() {
            return Err(Error::Closed.into());
        }
        answered.recv().unwrap_or_else(|_| Err(Error::Closed.into()))
    }
}

/// The text of a panic.
fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Error::Panicked(text.unwrap_or_else(|| "no message".into()))
}

/// A panic in `work` ends the transaction and is an error like others: the thread lives on.
fn guarded<T, E: From<Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // What `work` holds is dropped by the unwinding; the connection has its transaction rolled back by the caller.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => Err(panicked(&*payload).into()),
    }
}

fn read_on<T, E: From<Error>>(connection: &Connection, work: impl FnOnce(&Tx<'_>) -> Result<T, E>) -> Result<T, E> {
    // Rolled back when it is dropped: a read has nothing to keep.
    let tx = connection.unchecked_transaction().map_err(Error::from)?;
    guarded(|| work(&Tx { connection: &tx }))
}

fn in_savepoint<T, E: From<Error>>(
    connection: &Connection,
    work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let statement = |sql| connection.prepare_cached(sql).and_then(|mut s| s.execute([])).map(drop).map_err(Error::from);
    statement("SAVEPOINT one")?;
    match guarded(|| work(&Tx { connection })) {
        Ok(value) => {
            statement("RELEASE one")?;
            Ok(value)
        }
        Err(error) => {
            statement("ROLLBACK TO one")?;
            statement("RELEASE one")?;
            Err(error)
        }
    }
}

/// What is written and not synced is synced at the latest then.
const SYNC_AFTER: Duration = Duration::from_millis(100);

/// The write-ahead log, which SQLite writes and this syncs.
struct Log {
    path: PathBuf,
    file: Option<std::fs::File>,
    /// When the first write came that is not synced.
    unsynced: Option<std::time::Instant>,
    /// Whether a sync has failed. The system forgets what it could not write: another sync of the log would succeed without it.
    failed: bool,
}

impl Log {
    fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), file: None, unsynced: None, failed: false }
    }

    /// Has all that is written on disk.
    fn sync(&mut self, connection: &Connection) -> Result<(), String> {
        if !self.failed {
            self.failed = self.sync_file().is_err();
        }
        if self.failed {
            // All of the log goes into the database itself, which is synced.
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy = connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|error| error.to_string())?;
            if busy != 0 {
                return Err("the log is read and can't be emptied".into());
            }
            self.failed = false;
        }
        self.unsynced = None;
        Ok(())
    }

    fn sync_file(&mut self) -> std::io::Result<()> {
        // It is there from the first write on, and is the same file until the database is closed.
        let file = match self.file.take() {
            Some(file) => file,
            None => std::fs::File::open(&self.path)?,
        };
        file.sync_data()?;
        self.file = Some(file);
        Ok(())
    }

    /// How long the next write may be waited for.
    fn patience(&self) -> Option<Duration> {
        self.unsynced.map(|since| SYNC_AFTER.saturating_sub(since.elapsed()))
    }
}

/// The next write; what waits to be synced is synced meanwhile. None when nobody writes any more.
fn next_job(connection: &Connection, jobs: &Receiver<Job>, log: &mut Log) -> Option<Job> {
    if let Some(patience) = log.patience() {
        match jobs.recv_timeout(patience) {
            Ok(job) => return Some(job),
            Err(end) => {
                if let Err(error) = log.sync(connection) {
                    tracing::error!(error, "the database's log can't be synced to disk");
                    log.unsynced = Some(std::time::Instant::now());
                }
                if matches!(end, mpsc::RecvTimeoutError::Disconnected) {
                    return None;
                }
            }
        }
    }
    jobs.recv().ok()
}

fn write_groups(connection: &Connection, jobs: &Receiver<Job>, reserve: &mut Reserve, log: &mut Log) {
    while let Some(first) = next_job(connection, jobs, log) {
        reserve.look();
        let mut durable = false;
        let mut done = Vec::new();
        if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
            tracing::error!(%error, "the database can't begin a transaction");
            // Not run at all: outside a transaction its savepoint would be one of its own. Its sender hears that it is gone.
            drop(first);
            continue;
        }
        let mut next = Some(first);
        while let Some(job) = next {
            durable |= job.durable;
            done.push((job.work)(connection));
            if connection.is_autocommit() {
                // SQLite gave the transaction up by itself (disk full, I/O error): nothing of the group is kept.
                break;
            }
            next = if done.len() < GROUP { jobs.try_recv().ok() } else { None };
        }
        let committed = if connection.is_autocommit() { Err("rolled back".to_owned()) } else { Ok(()) };
        let committed = committed.and_then(|()| {
            connection.execute_batch("COMMIT").map_err(|error| {
                tracing::error!(%error, "the database could not commit");
                let _ = connection.execute_batch("ROLLBACK");
                error.to_string()
            })
        });
        let committed = committed.and_then(|()| {
            log.unsynced.get_or_insert_with(std::time::Instant::now);
            let late = log.patience() == Some(Duration::ZERO);
            if durable || late {
                log.sync(connection).map_err(|error| format!("sync the database's log: {error}"))
            } else {
                Ok(())
            }
        });
        for answer in done {
            answer(committed.clone());
        }
    }
}

/// Turns SQLite's unique violation into [`Error::Duplicate`] of `what`.
pub(crate) fn unique(error: rusqlite::Error, what: impl FnOnce() -> String) -> Error {
    match error {
        rusqlite::Error::SqliteFailure(failure, _)
            if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE =>
        {
            Error::Duplicate(what())
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Store};

    fn store(name: &str) -> (Store, std::path::PathBuf) {
        let folder = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        (Store::open(&folder.join("berth.db")).expect("store"), folder)
    }

    #[tokio::test]
    async fn a_failed_write_leaves_nothing_and_harms_no_neighbour() {
        let (store, folder) = store("group");
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    store
                        .write(move |tx| {
                            tx.event_add(n, 1, "test", "s", "{}")?;
                            if n % 5 == 0 { Err(Error::Duplicate("on purpose".into())) } else { Ok(()) }
                        })
                        .await
                })
            })
            .collect();
        let mut failed = 0;
        for task in tasks {
            failed += usize::from(task.await.expect("join").is_err());
        }
        let events = store.read(|tx| tx.events(1, 0, 100)).await.expect("read");
        assert_eq!((failed, events.len()), (10, 40));
        drop(store);
        std::fs::remove_dir_all(folder).expect("clean");
    }

    /// What was written, as another process finds it in the files as they are on disk or in the system's memory.
    #[tokio::test]
    async fn what_is_observed_is_written_at_once_and_synced_soon() {
        let (store, folder) = store("observed");
        for round in 0..20 {
            store.write_observed(move |tx| tx.event_add(round, 1, "test", "s", "{}").map(drop)).await.expect("write");
            let seen = rusqlite::Connection::open(folder.join("berth.db"))
                .and_then(|other| other.query_row("SELECT COUNT(*) FROM events", [], |row| row.get::<_, i64>(0)));
            assert_eq!(seen.expect("read"), round + 1);
        }
        store.write(|tx| tx.event_add(99, 1, "test", "s", "{}").map(drop)).await.expect("a durable one after them");
        drop(store);
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn the_log_is_synced_in_time() {
        let (store, folder) = store("log");
        let mut log = super::Log::of(&folder.join("berth.db"));
        assert_eq!(log.patience(), None, "nothing waits");
        log.unsynced = Some(std::time::Instant::now());
        assert!(log.patience().is_some_and(|patience| patience <= super::SYNC_AFTER));
        let connection = rusqlite::Connection::open(folder.join("berth.db")).expect("open");
        log.sync(&connection).expect("sync");
        assert!(log.patience().is_none() && log.file.is_some());
        // What could not be written to the log goes into the database.
        log.failed = true;
        log.sync(&connection).expect("a checkpoint");
        assert_eq!((log.failed, std::fs::metadata(&log.path).expect("the log").len()), (false, 0));
        drop(store);
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[tokio::test]
    async fn a_panic_in_a_write_or_a_read_is_an_error_and_the_threads_live() {
        let (store, folder) = store("panic");
        for round in 0..20 {
            let neighbour = store.write(move |tx| tx.event_add(round, 1, "test", "s", "{}").map(drop));
            let panics = store.write(move |tx| -> Result<(), Error> {
                tx.event_add(1000, 1, "test", "panicked", "{}")?;
                panic!("on purpose {round}");
            });
            let (neighbour, panicked) = tokio::join!(neighbour, panics);
            neighbour.expect("the neighbour's write");
            assert!(matches!(panicked, Err(Error::Panicked(text)) if text == format!("on purpose {round}")));
            let read = store.read(|_| -> Result<(), Error> { panic!("in a read") }).await;
            assert!(matches!(read, Err(Error::Panicked(_))));
            let read = store.read_now(|_| -> Result<(), Error> { panic!("in a read") });
            assert!(matches!(read, Err(Error::Panicked(_))));
        }
        let events = store.read(|tx| tx.events(1, 0, 100)).await.expect("read");
        assert_eq!(events.len(), 20, "nothing of what panicked is kept");
        drop(store);
        std::fs::remove_dir_all(folder).expect("clean");
    }

    /// On a disk of its own, full to the last byte, records are still written.
    #[tokio::test]
    async fn a_full_disk_leaves_room_for_records() {
        let folder = std::env::temp_dir().join(format!("berth-store-full-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        let at = std::ffi::CString::new(folder.to_str().expect("path")).expect("path");
        // SAFETY: strings that outlive the call.
        let mounted = unsafe {
            libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=64m".as_ptr().cast()) == 0
        };
        if !mounted {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root to mount a small disk");
            println!("skipped: needs root to mount a small disk");
            return;
        }
        let store = Store::open(&folder.join("berth.db")).expect("store");
        store.write(|tx| tx.event_add(1, 1, "test", "s", "{}")).await.expect("write");
        let mut filler = std::fs::File::create(folder.join("filler")).expect("filler");
        while std::io::Write::write_all(&mut filler, &[7; 4096]).is_ok() {}
        for n in 0..500 {
            let written = store.write(move |tx| tx.event_add(n, 1, "test", "s", "{}")).await;
            written.unwrap_or_else(|e| panic!("write {n}: {e}"));
        }
        drop((store, filler));
        // SAFETY: as above; lazily, for the writing thread may still be closing.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        std::fs::remove_dir_all(folder).expect("clean");
    }

    #[tokio::test]
    async fn a_newer_database_is_refused() {
        let (store, folder) = store("newer");
        drop(store);
        let path = folder.join("berth.db");
        rusqlite::Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("update");
        assert!(matches!(Store::open(&path), Err(Error::Newer { found: 99, .. })));
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
