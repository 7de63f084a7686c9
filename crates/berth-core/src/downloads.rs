//! Files of containers that are made ready by a command, and fetched by whoever knows a token, for a while.

use std::io::Write;
use std::path::{Path, PathBuf};

use berth_image::Digest;

use crate::commands::{Body, Command, Target};
use crate::core::Core;
use crate::error::Error;
use crate::tokens::Caller;
use crate::{now, random_hex};

/// How long a file can be fetched.
const LIFETIME_NS: i64 = 3_600_000_000_000;

/// Between two looks at how much room there is, bytes.
const LOOK: u64 = 64 << 20;

/// A file that is written only as long as the disk has room beyond what is kept back: what a container has in a file, sparse
/// ones of any size too, must not fill the server's disk.
struct Bounded {
    file: std::fs::File,
    images: berth_image::Store,
    since: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.since >= LOOK {
            self.since = 0;
            self.images.room().map_err(|_| std::io::Error::from(std::io::ErrorKind::StorageFull))?;
        }
        let count = self.file.write(bytes)?;
        self.since += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
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

impl Core {
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
            return Err(Error::invalid("filepath", format!("{path:?} is no absolute path")));
        }
        let body = Body::FileReady { path: path.to_owned() };
        self.order(caller, Target::Container(found.id), found.name, body).await
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
        let files = self.inner.engine.files(&found.uid, false).await?;
        let folder = self.inner.paths.downloads.clone();
        self.inner.images.room()?;
        let (wanted, file, images) = (PathBuf::from(path), command.to_owned(), self.inner.images.clone());
        let work = move || -> std::io::Result<(String, u64, String)> {
            std::fs::create_dir_all(&folder)?;
            let target = folder.join(&file);
            let file = Bounded { file: std::fs::File::create(&target)?, images, since: 0 };
            let mut out = std::io::BufWriter::with_capacity(1 << 18, file);
            let base = wanted.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned());
            // Links are followed as the container would.
            let name = match files.open(&wanted) {
                Ok(mut content) => {
                    std::io::copy(&mut content, &mut out)?;
                    base
                }
                Err(_) => {
                    files.pack(&wanted, Path::new(&base), true, &mut out)?;
                    format!("{base}.tar")
                }
            };
            out.flush()?;
            let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?.file;
            file.sync_all()?;
            let size = file.metadata()?.len();
            let digest = Digest::of_reader(std::fs::File::open(&target)?)?;
            Ok((name, size, digest.hex()))
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?;
        let (name, size, sha256) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = tokio::fs::remove_file(self.inner.paths.downloads.join(command)).await;
                return Err(match error.kind() {
                    std::io::ErrorKind::NotFound => Error::NotFound { what: "file", name: path.to_owned() },
                    std::io::ErrorKind::StorageFull => Error::NoRoom("not enough disk space on this server".into()),
                    _ => Error::WrongState(format!("{path} could not be read: {error}")),
                });
            }
        };
        let row = berth_store::Download {
            command_uid: command.to_owned(),
            account_id: caller.account,
            name,
            file: command.to_owned(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            sha256,
            token: random_hex(24),
            expires_at: now().saturating_add(LIFETIME_NS),
        };
        self.write(move |tx| Ok(tx.download_add(&row)?)).await
    }

    /// Removes files that can't be fetched any more, and those that no command finished.
    pub(crate) async fn downloads_sweep(&self) -> Result<(), Error> {
        let kept = self.write(|tx| Ok(tx.downloads_forget(now())?)).await?;
        let folder = self.inner.paths.downloads.clone();
        let sweep = move || {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                // One that is being written has no row yet.
                if !kept.contains(&name) && age.is_some_and(|age| age.as_secs() > 7200) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        };
        tokio::task::spawn_blocking(sweep).await.map_err(|e| Error::Bug(e.to_string()))
    }
}
