//! Files of containers that are made ready by a command, and fetched by whoever knows a token, for a while.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use berth_image::Digest;

use crate::core::Core;
use crate::error::{Error, Field};
use crate::operations::{FileReady, target};
use berth_identity::Caller;
use berth_operations::Command;
use berth_types::{now, random_hex};

/// How long a file can be fetched.
const LIFETIME_NS: i64 = 3_600_000_000_000;

/// Between two looks at how much room there is, bytes.
const LOOK: u64 = 4 << 20;
/// The largest file that is made ready, bytes; its digest is over its holes, too.
const LARGEST: u64 = 64 << 30;
/// Seconds after which a file that was not written to is taken for unchanged by its times alone.
const SETTLED_S: i64 = 60;
/// What no command has finished is removed after so many seconds without a write.
const ABANDONED_S: u64 = 600;

/// A file that is written only as long as the disk has room beyond what is kept back, and the account's quota beyond what its other
/// files take.
struct Bounded {
    file: File,
    images: berth_image::Store,
    /// Bytes that may still be written.
    left: u64,
    since: u64,
}

impl Bounded {
    /// Whether so many more bytes may be written.
    fn may(&mut self, count: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(count).ok_or(io::ErrorKind::QuotaExceeded)?;
        self.since += count;
        if self.since >= LOOK {
            self.since = 0;
            self.images.room().map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        Ok(())
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.may(bytes.len() as u64)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What changes when the content of a regular file does; empty where that is not so: writes through a mapping (mmap(2)) show up to half
/// a minute later, and never in memory.
fn stamp_of(file: &File) -> String {
    let Ok(meta) = file.metadata() else { return String::new() };
    if !meta.is_file() || meta.len() == 0 {
        return String::new();
    }
    if meta.ctime().max(meta.mtime()) > now() / 1_000_000_000 - SETTLED_S || berth_image::is_in_memory(file) {
        return String::new();
    }
    let (changed, modified) = ((meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()));
    format!("{}:{}:{}:{changed:?}:{modified:?}", meta.dev(), meta.ino(), meta.len())
}

/// Bytes that files take on the disk, each counted once.
fn taken(folder: &Path, rows: &[berth_store::Download]) -> u64 {
    let files: BTreeSet<&str> = rows.iter().map(|row| row.file.as_str()).collect();
    let on_disk = |file: &str| std::fs::metadata(folder.join(file)).map_or(0, |meta| meta.blocks() * 512);
    files.into_iter().map(on_disk).sum()
}

/// What making a file ready came to.
struct Made {
    name: String,
    file: String,
    size: u64,
    sha256: String,
    stamp: String,
}

/// What is to be made ready, and what there is already.
struct DownloadJob {
    container: i64,
    path: String,
    /// The name of the new file, if there has to be one.
    file: String,
    folder: PathBuf,
    images: berth_image::Store,
    /// The account's files.
    known: Vec<berth_store::Download>,
    /// Bytes that all of them may take.
    quota: u64,
}

/// The sweep goes by the age of what has no row: from now on there is time to write one down.
fn touch(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.set_modified(std::time::SystemTime::now())
}

fn make(files: &dyn berth_engine::Files, order: DownloadJob) -> io::Result<Made> {
    std::fs::create_dir_all(&order.folder)?;
    let wanted = Path::new(&order.path);
    let base = wanted.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned());
    let target = order.folder.join(&order.file);
    let new = || -> io::Result<Bounded> {
        let file = File::create(&target)?;
        let left = order.quota.saturating_sub(taken(&order.folder, &order.known));
        Ok(Bounded { file, images: order.images.clone(), left, since: 0 })
    };
    // A file that was made of the same path before and is still there.
    let kept = |is_equal: &dyn Fn(&berth_store::Download) -> bool| {
        let of_path = |known: &berth_store::Download| {
            known.container_id == order.container && known.path == order.path && order.folder.join(&known.file).exists()
        };
        order.known.iter().find(|known| is_equal(known) && of_path(known))
    };
    // Links are followed as the container would.
    let (name, stamp, out) = match files.open(wanted) {
        Ok(content) => {
            let stamp = stamp_of(&content);
            if !stamp.is_empty()
                && let Some(same) = kept(&|known| known.stamp == stamp)
            {
                let size = u64::try_from(same.size).unwrap_or(0);
                touch(&order.folder.join(&same.file))?;
                return Ok(Made { name: base, file: same.file.clone(), size, sha256: same.sha256.clone(), stamp });
            }
            if content.metadata()?.len() > LARGEST {
                return Err(io::Error::other(format!("it is larger than {} GiB", LARGEST >> 30)));
            }
            let mut out = new()?;
            let to = out.file.try_clone()?;
            berth_image::copy_file(&content, &to, &mut |count| out.may(count))?;
            // One that was written to meanwhile is no particular one.
            let stamp = Some(stamp).filter(|stamp| *stamp == stamp_of(&content)).unwrap_or_default();
            (base, stamp, out)
        }
        Err(_) => {
            let mut out = io::BufWriter::with_capacity(1 << 18, new()?);
            files.pack(wanted, Path::new(&base), true, &mut out)?;
            (format!("{base}.tar"), String::new(), out.into_inner().map_err(io::IntoInnerError::into_error)?)
        }
    };
    out.file.sync_all()?;
    let size = out.file.metadata()?.len();
    let sha256 = Digest::of_reader(File::open(&target)?)?.hex();
    if let Some(equal) = kept(&|known| known.sha256 == sha256) {
        std::fs::remove_file(&target)?;
        touch(&order.folder.join(&equal.file))?;
        return Ok(Made { name, file: equal.file.clone(), size, sha256, stamp });
    }
    touch(&target)?;
    Ok(Made { name, file: order.file, size, sha256, stamp })
}

/// A file that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Digest, hexadecimal.
    pub sha256: String,
    /// Who knows this may fetch it.
    pub token: String,
}

/// Files that the sweep leaves alone until this is dropped.
struct HeldFiles {
    core: Core,
    names: Vec<String>,
}

impl Drop for HeldFiles {
    fn drop(&mut self) {
        let mut all = self.core.inner.held_files.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            if let Some(count) = all.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    all.remove(name);
                }
            }
        }
    }
}

impl Core {
    fn hold_files(&self, names: impl Iterator<Item = String>) -> HeldFiles {
        let names: Vec<String> = names.collect();
        let mut all = self.inner.held_files.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            *all.entry(name.clone()).or_default() += 1;
        }
        HeldFiles { core: self.clone(), names }
    }

    fn holds_file(&self, name: &str) -> bool {
        self.inner.held_files.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    fn download_of(&self, row: berth_store::Download) -> Download {
        Download {
            path: self.inner.paths.downloads.join(&row.file),
            name: row.name,
            size: u64::try_from(row.size).unwrap_or(0),
            sha256: row.sha256,
            token: row.token,
        }
    }

    /// Has a file of a container, or a folder as a tar, made ready, by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the container; [`Error::Invalid`] for the path.
    pub async fn download_begin(&self, caller: &Caller, reference: &str, path: &str) -> Result<Command, Error> {
        let found = self.container(caller, reference).await?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Error::invalid(Field::Path, format!("{path:?} is not an absolute path")));
        }
        let body = FileReady { path: path.to_owned() };
        self.submit(caller, target::container(found.id), found.name, body).await
    }

    /// The file that a command made ready, if it did and it is still here.
    ///
    /// # Errors
    /// The database's own.
    pub async fn download(&self, caller: &Caller, command: &str) -> Result<Option<Download>, Error> {
        let (account, wanted) = (caller.account, command.to_owned());
        let row = self.read(move |tx| Ok(tx.download(&wanted)?)).await?;
        let row = row.filter(|row| row.account_id == account && row.expires_at > now());
        Ok(row.map(|row| self.download_of(row)))
    }

    /// The file that a token is for.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn download_by_token(&self, token: &str) -> Result<Download, Error> {
        let wanted = token.to_owned();
        let row = self.read(move |tx| Ok(tx.download_by_token(&wanted, now())?)).await?;
        row.map(|row| self.download_of(row))
            .ok_or_else(|| Error::NotFound { what: "file", name: "by this address".into() })
    }

    /// A command's step. May be done twice.
    pub(crate) async fn download_make(
        &self,
        caller: &Caller,
        container: i64,
        command: &str,
        path: &str,
    ) -> Result<(), Error> {
        let found = self.container_by_number(caller, container).await?;
        // One at a time of an account, so that its quota holds.
        let _place = self.inner.downloading.take(caller.account).await;
        let files = self.inner.engine.files(&found.uid, false).await?;
        let account = caller.account;
        let known = self.read(move |tx| Ok(tx.downloads_of(account, now())?)).await?;
        // Never an old name: another command's row may share what is behind that.
        let file = format!("{command}-{}", random_hex(4));
        // The sweep spares all of these: some have no row yet, some are about to get another one.
        let _held = self.hold_files(known.iter().map(|row| row.file.clone()).chain([file.clone()]));
        let quota_mib = self.settings().download_quota_mib;
        let order = DownloadJob {
            container,
            path: path.to_owned(),
            file: file.clone(),
            folder: self.inner.paths.downloads.clone(),
            images: self.inner.images.clone(),
            known: known.into_iter().filter(|row| row.command_uid != command).collect(),
            quota: if quota_mib == 0 { u64::MAX } else { quota_mib << 20 },
        };
        let work = move || {
            order.images.room()?;
            Ok(make(files.as_ref(), order))
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?;
        let made = match made {
            Ok(Ok(made)) => made,
            Err(full) => return Err(full),
            Ok(Err(error)) => {
                let _ = tokio::fs::remove_file(self.inner.paths.downloads.join(file)).await;
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => Error::NotFound { what: "file", name: path.to_owned() },
                    io::ErrorKind::StorageFull => Error::NoRoom("not enough disk space on this server".into()),
                    io::ErrorKind::QuotaExceeded => Error::Quota(format!(
                        "files that are ready to be fetched may take {quota_mib} MiB of an account, and {path} is too much"
                    )),
                    _ => Error::WrongState(format!("{path} could not be read: {error}")),
                });
            }
        };
        let row = berth_store::Download {
            command_uid: command.to_owned(),
            account_id: caller.account,
            name: made.name,
            file: made.file,
            size: i64::try_from(made.size).unwrap_or(i64::MAX),
            sha256: made.sha256,
            token: random_hex(24),
            expires_at: now().saturating_add(LIFETIME_NS),
            container_id: container,
            path: path.to_owned(),
            stamp: made.stamp,
        };
        self.write(move |tx| Ok(tx.download_add(&row)?)).await
    }

    /// Removes files that can't be fetched any more, and those that no command finished.
    pub(crate) async fn downloads_sweep(&self) -> Result<(), Error> {
        let kept = self.write(|tx| Ok(tx.downloads_forget(now())?)).await?;
        let folder = self.inner.paths.downloads.clone();
        let core = self.clone();
        let sweep = move || {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                // One that is being written has no row yet.
                if !kept.contains(&name)
                    && !core.holds_file(&name)
                    && age.is_some_and(|age| age.as_secs() > ABANDONED_S)
                {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        };
        tokio::task::spawn_blocking(sweep).await.map_err(|e| Error::Bug(e.to_string()))
    }
}
