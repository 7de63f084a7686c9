//! A container's files.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_engine::{EngineError, FileStat, Files, State, UnitId};
use berth_image::{
    Budget, Keep, clear_folder, list_folder, open_file, pack_difference, pack_path, stat, unpack_within,
};
use berth_runtime::{Bundle, View, root_of};
use tokio::sync::OwnedMutexGuard;

use crate::engine::OciEngine;
use crate::unit::Unit;

enum Root {
    /// Of a container that runs, as it sees it.
    Live(OwnedFd),
    /// Of one that does not, mounted for the purpose.
    Mounted(View),
}

struct Open {
    root: Root,
    /// Without mounts.
    bare: Bundle,
    unit: Arc<Unit>,
    /// Nothing else is done to the container meanwhile where it is written to without running.
    _busy: Option<OwnedMutexGuard<()>>,
}

impl Open {
    fn root(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Live(fd) => fd.as_fd(),
            Root::Mounted(view) => view.as_fd(),
        }
    }
}

/// Entries of a folder that are listed.
const MOST_ENTRIES: usize = 10_000;

fn file_stat(found: berth_image::Stat) -> FileStat {
    FileStat {
        name: found.name,
        kind: found.kind.to_owned(),
        size: found.size,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        mtime: found.mtime,
        target: found.target,
    }
}

impl Files for Open {
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        Ok(file_stat(stat(self.root(), path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileStat>> {
        Ok(list_folder(self.root(), path, MOST_ENTRIES)?.into_iter().map(file_stat).collect())
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        open_file(self.root(), path)
    }

    fn pack(&self, path: &Path, name: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
        pack_path(self.root(), path, name, follow, out)
    }

    fn clear(&self, path: &Path) -> io::Result<()> {
        clear_folder(self.root(), path)
    }

    fn unpack(&self, path: &Path, tar: &mut dyn Read, keep_owner: bool) -> io::Result<()> {
        let root = self.root().try_clone_to_owned()?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        berth_runtime::openat2_in_root(root.as_fd(), path, flags, 0, true)?;
        let keep = Keep { owner: keep_owner, devices: true };
        unpack_within(root, path, tar, keep, Budget::default()).map(drop).map_err(|error| match error {
            berth_image::Error::Io { source, what } if source.raw_os_error().is_some() => {
                io::Error::new(source.kind(), format!("{what}: {source}"))
            }
            other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
        })
    }

    fn export(&self, out: &mut dyn Write) -> io::Result<()> {
        let view = View::open(&self.bare, false).map_err(|e| io::Error::other(e.to_string()))?;
        pack_path(view.as_fd(), Path::new("/"), Path::new(""), true, out)
    }

    fn difference(&self, out: &mut dyn Write) -> io::Result<()> {
        // What was made to mount on, or mounted over, is not the container's.
        let fixed = self.unit.record();
        let usual = ["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf"];
        let mut without: HashSet<PathBuf> = usual.iter().map(PathBuf::from).collect();
        let mounts = fixed.spec.mounts.iter().filter_map(|m| m.target.strip_prefix("/").ok());
        without.extend(mounts.map(Path::to_owned));
        pack_difference(&self.unit.folder.join("upper"), without, out)
    }
}

impl OciEngine {
    pub(crate) async fn open_files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError> {
        loop {
            let unit = self.inner.unit(id)?;
            let live = unit.known().live.clone();
            match (self.open_files_of(unit, write).await, live) {
                // It has ended by itself: once that is noted, they are opened as those of any other that does not run.
                (Err(EngineError::NotRunning(_)), Some(mut live)) => {
                    let _ = live.ended.wait_for(|ended| *ended).await;
                }
                (opened, _) => return opened,
            }
        }
    }

    async fn open_files_of(&self, unit: Arc<Unit>, write: bool) -> Result<Box<dyn Files>, EngineError> {
        // A start or an end that is under way is waited for; then it is one or the other.
        let busy = unit.busy.clone().lock_owned().await;
        let observed = unit.known().observed.clone();
        self.blocking(move |inner| {
            let failed = |error: String| EngineError::Failed(format!("open the files of {}: {error}", unit.id()));
            let bundle = inner.bundle(&unit)?;
            let bare = Bundle { mounts: Vec::new(), ..bundle.clone() };
            if let State::Running { .. } = observed.state
                && let Some(init) = unit.init()
            {
                let root = root_of(&init).map_err(|e| unit.unless_it_ends(failed(e.to_string())))?;
                return Ok(Box::new(Open { root: Root::Live(root), bare, unit, _busy: None }) as Box<dyn Files>);
            }
            inner.network_files(&unit)?;
            let view = View::open(&bundle, write).map_err(|e| failed(e.to_string()))?;
            let busy = write.then_some(busy);
            Ok(Box::new(Open { root: Root::Mounted(view), bare, unit, _busy: busy }) as Box<dyn Files>)
        })
        .await
    }
}
