//! The layer store.
//!
//! ```text
//! layers/17/fs/         a layer's tree; the short number keeps overlayfs' options within a page
//! layers/17/layer.json  its digest and size
//! work/…                unfinished; emptied at start
//! ```

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use berth_runtime::remove_tree;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Named};

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed tar, or of the archive that it came from.
    pub digest: Digest,
    /// Bytes of the files in it.
    pub size: u64,
    /// Folders that no entry described: their owner and mode are those of the layer below.
    #[serde(default)]
    pub(crate) implied: Vec<PathBuf>,
    /// Hard links to files of a layer below: (link, target).
    #[serde(default)]
    pub(crate) links_below: Vec<(PathBuf, PathBuf)>,
    /// Whether the digest is of an uncompressed tar that was read here. Without, it is of something else, which may be known to
    /// whoever has not the content.
    #[serde(default)]
    pub(crate) tar: bool,
}

#[derive(Debug, Default)]
struct Index {
    /// Digest to folder number.
    layers: HashMap<Digest, (u64, Layer)>,
    pins: HashMap<Digest, usize>,
    next: u64,
}

/// The folder that holds all layers. One store has one owner process.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    index: Arc<Mutex<Index>>,
    /// Bytes of disk that imports leave free.
    reserve: u64,
}

/// Keeps layers from [`Store::retain`] while their use is not written down yet.
#[derive(Debug)]
pub struct Pin {
    digests: Vec<Digest>,
    index: Arc<Mutex<Index>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = index.pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    index.pins.remove(digest);
                }
            }
        }
    }
}

impl Store {
    /// Opens the store in `root`, making it if it is not there, and clears what an earlier process left unfinished.
    ///
    /// # Errors
    /// The folder that could not be made or read.
    pub fn open(root: &Path, reserve: u64) -> Result<Self, Error> {
        let layers = root.join("layers");
        let work = root.join("work");
        fs::create_dir_all(&layers).named(|| format!("make {}", layers.display()))?;
        if work.exists() {
            remove_tree(&work).named(|| format!("clear {}", work.display()))?;
        }
        fs::create_dir(&work).named(|| format!("make {}", work.display()))?;
        let mut index = Index::default();
        for entry in fs::read_dir(&layers).named(|| format!("list {}", layers.display()))? {
            let entry = entry.named(|| format!("list {}", layers.display()))?;
            let Some(number) = entry.file_name().to_str().and_then(|n| n.parse::<u64>().ok()) else { continue };
            index.next = index.next.max(number + 1);
            let description = entry.path().join("layer.json");
            let layer: Layer = match fs::read(&description).map(|b| serde_json::from_slice(&b)) {
                Ok(Ok(layer)) => layer,
                _ => {
                    tracing::warn!(folder = %entry.path().display(), "a layer without a readable description is left alone");
                    continue;
                }
            };
            index.layers.insert(layer.digest, (number, layer));
        }
        Ok(Self { root: root.to_owned(), index: Arc::new(Mutex::new(index)), reserve })
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder that names given by [`folder_name`](Self::folder_name) are in.
    pub fn layers_folder(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// A folder for what is not finished, on the same file system.
    pub fn work_folder(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The layer with this digest, if it is here.
    pub fn layer(&self, digest: &Digest) -> Option<Layer> {
        self.index().layers.get(digest).map(|(_, layer)| layer.clone())
    }

    /// The layer's tree, relative to [`layers_folder`](Self::layers_folder).
    pub fn folder_name(&self, digest: &Digest) -> Option<String> {
        self.index().layers.get(digest).map(|(number, _)| format!("{number}/fs"))
    }

    /// The layer, pinned, if it is here.
    pub(crate) fn pinned(&self, digest: &Digest) -> Option<(Layer, Pin)> {
        let pin = self.pin([*digest]);
        self.layer(digest).map(|layer| (layer, pin))
    }

    /// The folder of a layer's tree.
    pub fn tree(&self, digest: &Digest) -> Option<PathBuf> {
        self.folder_name(digest).map(|name| self.layers_folder().join(name))
    }

    /// Keeps these layers for as long as the pin lives, whether they are here yet or not.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut index = self.index();
        for digest in &digests {
            *index.pins.entry(*digest).or_default() += 1;
        }
        Pin { digests, index: self.index.clone() }
    }

    /// Whether a layer is here whose digest is that of its uncompressed tar.
    pub fn has_layer_of_tar(&self, digest: &Digest) -> bool {
        self.index().layers.get(digest).is_some_and(|(_, layer)| layer.tar)
    }

    /// Free bytes on the store's file system beyond the reserve.
    ///
    /// # Errors
    /// [`Error::DiskFull`] when there is nothing beyond it, [`Error::InodesFull`] when there are too few inodes.
    pub fn room(&self) -> Result<u64, Error> {
        let (available, inodes) = free(&self.root).named(|| format!("ask {} for free space", self.root.display()))?;
        // A small file system keeps a small part back; some have no fixed number of inodes (btrfs).
        if let Some((left, all)) = inodes
            && left <= INODE_RESERVE.min(all / 20)
        {
            return Err(Error::InodesFull { available: left, reserve: INODE_RESERVE.min(all / 20) });
        }
        match available.checked_sub(self.reserve) {
            Some(room) if room > 0 => Ok(room),
            _ => Err(Error::DiskFull { available, reserve: self.reserve }),
        }
    }

    /// Puts a finished tree (`work`, holding `fs`) into the store, or drops it if an equal layer is here already. It comes
    /// pinned: from the first moment on nobody collects it.
    pub(crate) fn adopt(&self, work: &Path, layer: Layer) -> Result<(Layer, Pin), Error> {
        let pin = self.pin([layer.digest]);
        let description = serde_json::to_vec(&layer).map_err(|e| Error::Bad(e.to_string()))?;
        fs::write(work.join("layer.json"), description).named(|| "write layer.json".into())?;
        sync_file_system(work).named(|| "sync the layer to disk".into())?;
        let mut index = self.index();
        if let Some((number, present)) = index.layers.get_mut(&layer.digest) {
            if layer.tar && !present.tar {
                // Kept by an older berth, which did not say it.
                present.tar = true;
                let description = serde_json::to_vec(present).map_err(|e| Error::Bad(e.to_string()))?;
                let at = self.layers_folder().join(number.to_string());
                fs::write(at.join("layer.tmp"), description).named(|| "write layer.json".into())?;
                fs::rename(at.join("layer.tmp"), at.join("layer.json")).named(|| "write layer.json".into())?;
            }
            let present = present.clone();
            drop(index);
            remove_tree(work).named(|| "drop a layer that is here already".into())?;
            return Ok((present, pin));
        }
        let number = index.next;
        let target = self.layers_folder().join(number.to_string());
        fs::rename(work, &target).named(|| format!("rename a layer to {}", target.display()))?;
        index.next += 1;
        index.layers.insert(layer.digest, (number, layer.clone()));
        Ok((layer, pin))
    }

    /// Removes every layer that is neither in `used` nor pinned; returns how many bytes that freed.
    ///
    /// # Errors
    /// The first layer that could not be removed; the others are.
    pub fn retain(&self, used: &HashSet<Digest>) -> Result<u64, Error> {
        let mut index = self.index();
        let unused: Vec<(Digest, u64, u64)> = index
            .layers
            .iter()
            .filter(|(digest, _)| !used.contains(digest) && !index.pins.contains_key(digest))
            .map(|(digest, (number, layer))| (*digest, *number, layer.size))
            .collect();
        // Renamed under the lock, so that nobody finds half of one; removed after it.
        let mut doomed = Vec::new();
        for (digest, number, size) in unused {
            let target = self.work_folder().join(format!("gone-{number}"));
            fs::rename(self.layers_folder().join(number.to_string()), &target)
                .named(|| format!("set layer {digest} aside"))?;
            index.layers.remove(&digest);
            doomed.push((target, size));
        }
        drop(index);
        let mut freed = 0;
        let mut first_error = None;
        for (path, size) in doomed {
            match remove_tree(&path).named(|| format!("remove {}", path.display())) {
                Ok(()) => freed += size,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(freed), Err)
    }
}

/// Inodes that are never used for images and containers.
const INODE_RESERVE: u64 = 20_000;

/// Bytes, and inodes: left and in all, where they are bounded.
fn free(path: &Path) -> io::Result<(u64, Option<(u64, u64)>)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path outlives the call; `stats` is written by it.
    unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut stats) != 0 {
            return Err(io::Error::last_os_error());
        }
        let inodes = (stats.f_files > 0).then_some((stats.f_favail, stats.f_files));
        Ok((stats.f_bavail * stats.f_frsize, inodes))
    }
}

fn sync_file_system(folder: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let folder = fs::File::open(folder)?;
    // SAFETY: an open descriptor.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
