//! Builds one layer's tree. Every path is resolved by openat2 inside the tree, so that no name and no link of an archive
//! reaches anything else.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use berth_runtime::{openat2_in_root, remove_tree};

use crate::digest::Digest;
use crate::error::{Error, Named, bad};
use crate::store::{Layer, Pin, Store};
use crate::tar_split::{self, Recorder};

/// PATH_MAX of Linux.
const LONGEST_PATH: usize = 4096;
/// Most bytes of names of a layer's folders, which are remembered until it is done.
const MOST_FOLDER_NAMES: usize = 256 << 20;
/// Most bytes of names that a layer owes to those below, which are kept with it.
const MOST_OWED_NAMES: usize = 8 << 20;

/// What an import may use at most, over all its layers.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of unpacked files.
    pub bytes: u64,
    /// Files, folders, links.
    pub entries: u64,
}

impl Default for Budget {
    /// 64 GiB, four million entries.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000 }
    }
}

impl Budget {
    /// Takes bytes off; `at` says where, if it is known.
    pub(crate) fn spend(&mut self, bytes: u64, at: impl FnOnce() -> String) -> Result<(), Error> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes =
            left.ok_or_else(|| Error::TooBig(format!("the archive unpacks to more than is allowed{}", at())))?;
        Ok(())
    }
}

/// Owner, mode, time and extended attributes of an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

fn set_opaque(folder: &OwnedFd, path: &Path) -> Result<(), Error> {
    let full = c_name(OsStr::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())))?;
    // SAFETY: constant strings and a path that outlives the call.
    check(unsafe { libc::setxattr(full.as_ptr(), c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr().cast(), 1, 0) })
        .map(drop)
        .named(|| format!("make {} opaque", path.display()))
}

/// Longest sparse file, bytes.
const LONGEST_FILE: u64 = 16 << 40;

/// What an entry counts for before the room on disk is asked for again, bytes.
const COST_OF_ENTRY: u64 = 64 << 10;

/// Whether this process can give files to other users. Without root's rights no container can be run from a layer; the store is
/// used then by tests that need no kernel, and what it unpacks belongs to the process.
fn may_set_owner() -> bool {
    // SAFETY: plain system call.
    unsafe { libc::geteuid() == 0 }
}

/// A layer under construction. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct LayerBuilder<'a> {
    /// Where it goes, and where it is made; `None` in a tree that is there already.
    store: Option<(&'a Store, PathBuf)>,
    root: OwnedFd,
    /// Whether things belong to whom the archive says, or to whoever unpacks.
    pub(crate) keep_owner: bool,
    /// Whether device nodes are made; those that are not are kept by name.
    pub(crate) devices: bool,
    /// Whether what it is made from is an uncompressed tar with its digest.
    pub(crate) tar: bool,
    pub(crate) left_out: HashSet<PathBuf>,
    /// What this layer hides of those below it, and has not itself.
    whiteouts: HashSet<PathBuf>,
    /// Ends where the archive can't be given back from the tree: it names a path twice.
    recorder: Option<Recorder>,
    /// Parent of the last entry: archives are mostly in order.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Folders' times are set last: entries made inside change them.
    folders: BTreeMap<PathBuf, (i64, i64)>,
    folder_names: usize,
    implied: BTreeSet<PathBuf>,
    links_below: Vec<(PathBuf, PathBuf)>,
    owed_names: usize,
    size: u64,
    since_check: u64,
    buffer: Vec<u8>,
    finished: bool,
}

impl std::fmt::Debug for LayerBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBuilder").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Drop for LayerBuilder<'_> {
    fn drop(&mut self) {
        if !self.finished
            && let Some((_, work)) = &self.store
            && let Err(error) = remove_tree(work)
        {
            tracing::warn!(folder = %work.display(), %error, "an unfinished layer could not be removed");
        }
    }
}

/// A clean relative path of an entry's name: no root, no `.`, and `..` refused.
pub(crate) fn clean(name: &Path) -> Result<PathBuf, Error> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) if part.len() > 255 => {
                let shown: String = part.to_string_lossy().chars().take(40).collect();
                return Err(bad(format!("a name of {} bytes ({shown}…) is longer than file systems have", part.len())));
            }
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(bad(format!("entry {:?} leads out of the archive", name.display())));
            }
        }
    }
    let length = path.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(bad(format!("an entry's name of {length} bytes is longer than paths may be")));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(bad("an entry's name has a zero byte"));
    }
    Ok(path)
}

fn c_name(name: &OsStr) -> Result<CString, Error> {
    CString::new(name.as_bytes()).map_err(|_| bad("an entry's name has a zero byte"))
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn times(mtime: (i64, i64)) -> [libc::timespec; 2] {
    let time = libc::timespec { tv_sec: mtime.0, tv_nsec: mtime.1.clamp(0, 999_999_999) };
    [time, time]
}

impl<'a> LayerBuilder<'a> {
    /// Begins an empty layer.
    ///
    /// # Errors
    /// The disk is full, or the work folder could not be made.
    pub fn new(store: &'a Store) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        store.room()?;
        let work = store.work_folder().join(format!("layer-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let tree = work.join("fs");
        fs::create_dir_all(&tree).named(|| format!("make {}", tree.display()))?;
        let root = File::open(&tree).named(|| format!("open {}", tree.display()))?.into();
        let mut builder = Self::within(root);
        builder.store = Some((store, work));
        builder.keep_owner = may_set_owner();
        Ok(builder)
    }

    /// Writes into a tree that is there already, a container's or a volume's.
    pub(crate) fn within(root: OwnedFd) -> Self {
        Self {
            store: None,
            root,
            recorder: None,
            keep_owner: true,
            devices: true,
            tar: false,
            left_out: HashSet::new(),
            whiteouts: HashSet::new(),
            parent: None,
            folders: BTreeMap::new(),
            folder_names: 0,
            implied: BTreeSet::new(),
            links_below: Vec::new(),
            owed_names: 0,
            size: 0,
            since_check: 0,
            buffer: vec![0; 256 * 1024],
            finished: false,
        }
    }

    /// From now on takes note of the tar that it is made from.
    pub(crate) fn begin_record(&mut self) {
        let at = self.store.as_ref().map(|(_, work)| work.join(tar_split::FILE));
        self.recorder = at.and_then(|at| Recorder::create(&at).ok());
    }

    /// The tar can't be given back from notes and tree.
    pub(crate) fn end_record(&mut self) {
        self.recorder = None;
    }

    /// Charges what an archive has beside files' content, but for what is `free`.
    pub(crate) fn charge(&mut self, bytes: usize, free: usize, budget: &mut Budget) -> Result<(), Error> {
        let more = bytes.saturating_sub(free) as u64;
        budget.spend(more, || " (in its headers)".into())?;
        self.size += more;
        self.spend_disk(bytes as u64)
    }

    fn owe(&mut self, bytes: usize) -> Result<(), Error> {
        self.owed_names += bytes;
        if self.owed_names > MOST_OWED_NAMES {
            return Err(Error::TooBig("the layer builds on too much that is not in it".into()));
        }
        Ok(())
    }

    fn link_later(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        self.owe(path.as_os_str().len() + target.as_os_str().len())?;
        self.links_below.push((path.to_owned(), target.to_owned()));
        Ok(())
    }

    /// Takes note of bytes of the archive that the tree does not hold. Where that fails the layer is kept without.
    pub(crate) fn record(&mut self, bytes: &[u8]) {
        if self.recorder.as_mut().is_some_and(|r| r.raw(bytes).is_err()) {
            self.recorder = None;
        }
    }

    /// Takes note that the archive has the content of `path` next.
    pub(crate) fn record_file(&mut self, path: &Path, length: u64) {
        if self.recorder.as_mut().is_some_and(|r| r.file(path, length).is_err()) {
            self.recorder = None;
        }
    }

    /// The folder that `path` is in, opened; missing folders on the way are made.
    fn parent_of(&mut self, path: &Path) -> Result<(OwnedFd, CString), Error> {
        // Empty files take inodes, which run out before the bytes do.
        self.spend_disk(COST_OF_ENTRY)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(bad("the root is not a file"));
        };
        let name = c_name(name)?;
        if self.parent.as_ref().is_none_or(|(last, _)| last != parent) {
            let fd = self.open_folder(parent)?;
            self.parent = Some((parent.to_owned(), fd));
        }
        let Some((_, fd)) = &self.parent else { return Err(bad("no parent folder")) };
        Ok((fd.try_clone().named(|| "copy a descriptor".into())?, name))
    }

    fn open_folder(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let open = |root: &OwnedFd, path: &Path| {
            openat2_in_root(root.as_fd(), path, libc::O_PATH | libc::O_DIRECTORY, 0, true)
        };
        if let Ok(fd) = open(&self.root, path) {
            return Ok(fd);
        }
        let mut sofar = PathBuf::new();
        let mut current = self.root.try_clone().named(|| "copy a descriptor".into())?;
        for part in path.iter() {
            sofar.push(part);
            let name = c_name(part)?;
            // SAFETY: an open folder and a name that outlives the call.
            match check(unsafe { libc::mkdirat(current.as_raw_fd(), name.as_ptr(), 0o755) }) {
                Ok(_) => {
                    self.owe(sofar.as_os_str().len())?;
                    self.implied.insert(sofar.clone());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).named(|| format!("make folder {}", sofar.display())),
            }
            current = match open(&self.root, &sofar) {
                Ok(fd) => fd,
                // It was hidden before: what is in it now is all that there is.
                Err(_) if self.whiteouts.remove(&sofar) => {
                    // SAFETY: an open folder and a name that outlives the calls.
                    unsafe {
                        check(libc::unlinkat(current.as_raw_fd(), name.as_ptr(), 0))
                            .and_then(|_| check(libc::mkdirat(current.as_raw_fd(), name.as_ptr(), 0o755)))
                            .named(|| format!("make folder {}", sofar.display()))?;
                    }
                    self.owe(sofar.as_os_str().len())?;
                    self.implied.insert(sofar.clone());
                    let fd = open(&self.root, &sofar).named(|| format!("open folder {}", sofar.display()))?;
                    set_opaque(&fd, &sofar)?;
                    fd
                }
                // A link that leads nowhere or to a file can't be a folder on the way.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ENOENT | libc::ELOOP)) => {
                    return Err(bad(format!("{} is not a folder, yet entries lie below it", sofar.display())));
                }
                Err(error) => return Err(error).named(|| format!("open folder {}", sofar.display())),
            };
        }
        Ok(current)
    }

    /// A device in use, such as a running container's `/dev/null`, is nothing that a copied file takes the place of.
    fn keep_devices(&self, parent: &OwnedFd, name: &CString, path: &Path) -> Result<(), Error> {
        // SAFETY: an open folder, a name and a buffer that outlive the call.
        let kind = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstatat(parent.as_raw_fd(), name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW) != 0 {
                return Ok(());
            }
            stat.st_mode & libc::S_IFMT
        };
        if kind == libc::S_IFCHR || kind == libc::S_IFBLK {
            return Err(bad(format!("{} is a device and is not replaced", path.display())));
        }
        Ok(())
    }

    /// Removes what stands at the place of a new entry.
    fn clear(&mut self, parent: &OwnedFd, name: &CString, path: &Path) -> Result<(), Error> {
        if self.store.is_none() {
            self.keep_devices(parent, name, path)?;
        }
        // SAFETY: an open folder and a name that outlives the call.
        match check(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) }) {
            // What only hid something has no content, which the record would miss.
            Ok(_) if self.whiteouts.remove(path) => Ok(()),
            Ok(_) => {
                self.recorder = None;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM)) => {
                if self.store.is_none() {
                    // Volumes may be mounted below it, and somebody may go on filling it.
                    return Err(bad(format!("{} is a folder and is not replaced", path.display())));
                }
                self.parent = None;
                self.recorder = None;
                let full = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()))
                    .join(OsStr::from_bytes(name.to_bytes()));
                self.folders.retain(|folder, _| !folder.starts_with(path));
                self.implied.retain(|folder| !folder.starts_with(path));
                remove_tree(&full).named(|| format!("replace folder {}", path.display()))
            }
            Err(error) => Err(error).named(|| format!("replace {}", path.display())),
        }
    }

    fn set_meta(&self, parent: &OwnedFd, name: &CString, meta: &Meta, link: bool, path: &Path) -> Result<(), Error> {
        if self.store.is_none() {
            return self.set_meta_in_use(parent, name, meta, link, path);
        }
        let what = || format!("set owner, mode and time of {}", path.display());
        // SAFETY: an open folder, a name and times that outlive the calls.
        unsafe {
            if self.keep_owner {
                let flags = libc::AT_SYMLINK_NOFOLLOW;
                check(libc::fchownat(parent.as_raw_fd(), name.as_ptr(), meta.uid, meta.gid, flags)).named(what)?;
            }
            // After the owner: chown clears the set-user-id bit.
            if !link {
                check(libc::fchmodat(parent.as_raw_fd(), name.as_ptr(), meta.mode & 0o7777, 0)).named(what)?;
            }
        }
        if !meta.xattrs.is_empty() {
            let full =
                PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()));
            self.set_xattrs(&c_name(full.as_os_str())?, meta, path)?;
        }
        // SAFETY: an open folder, a name and times that outlive the call.
        check(unsafe {
            libc::utimensat(parent.as_raw_fd(), name.as_ptr(), times(meta.mtime).as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
        })
        .map(drop)
        .named(what)
    }

    /// The same in a tree that others change meanwhile: nothing is done by name, which may mean a link to anything by now.
    fn set_meta_in_use(
        &self,
        parent: &OwnedFd,
        name: &CString,
        meta: &Meta,
        link: bool,
        path: &Path,
    ) -> Result<(), Error> {
        let what = || format!("set owner, mode and time of {}", path.display());
        let relative = Path::new(OsStr::from_bytes(name.to_bytes()));
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        // RESOLVE_NO_SYMLINKS would refuse the link itself.
        let thing = openat2_in_root(parent.as_fd(), relative, flags, 0, link).named(what)?;
        let is_link = File::from(thing.try_clone().named(what)?).metadata().named(what)?.is_symlink();
        if is_link != link {
            return Err(bad(format!("{} was replaced while it was written", path.display())));
        }
        let full = c_name(OsStr::new(&format!("/proc/self/fd/{}", thing.as_raw_fd())))?;
        // SAFETY: an open descriptor and strings that outlive the calls.
        unsafe {
            if self.keep_owner {
                let owned = libc::fchownat(thing.as_raw_fd(), c"".as_ptr(), meta.uid, meta.gid, libc::AT_EMPTY_PATH);
                check(owned).named(what)?;
            }
            if link {
                return Ok(());
            }
            // Privileges of another owner must not become this one's.
            let kept = if self.keep_owner { 0o7777 } else { 0o1777 };
            check(libc::chmod(full.as_ptr(), meta.mode & kept)).named(what)?;
        }
        self.set_xattrs(&full, meta, path)?;
        // SAFETY: path and times outlive the call.
        check(unsafe { libc::utimensat(libc::AT_FDCWD, full.as_ptr(), times(meta.mtime).as_ptr(), 0) })
            .map(drop)
            .named(what)
    }

    /// `full` means the thing itself, whatever it is.
    fn set_xattrs(&self, full: &CString, meta: &Meta, path: &Path) -> Result<(), Error> {
        let in_use = self.store.is_none();
        for (key, value) in &meta.xattrs {
            // Overlayfs takes its orders from this name space: an image must not give any.
            if key.starts_with("trusted.") || (!self.keep_owner && key.starts_with("security.")) {
                continue;
            }
            let key_c = c_name(OsStr::new(key))?;
            let (name, bytes, length) = (key_c.as_ptr(), value.as_ptr().cast(), value.len());
            // SAFETY: strings and value outlive the call; a path by name is not followed at its end.
            let set = check(unsafe {
                if in_use {
                    libc::setxattr(full.as_ptr(), name, bytes, length, 0)
                } else {
                    libc::lsetxattr(full.as_ptr(), name, bytes, length, 0)
                }
            });
            match set {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    tracing::debug!(path = %path.display(), key, "extended attribute not supported here");
                }
                other => drop(other.named(|| format!("set attribute {key} of {}", path.display()))?),
            }
        }
        Ok(())
    }

    /// A folder; one that is there gets the new attributes.
    pub(crate) fn directory(&mut self, path: &Path, meta: &Meta) -> Result<(), Error> {
        if self.folders.insert(path.to_owned(), meta.mtime).is_none() {
            self.folder_names += path.as_os_str().len() + 64;
            if self.folder_names > MOST_FOLDER_NAMES {
                return Err(Error::TooBig("the layer has too many folders".into()));
            }
        }
        self.implied.remove(path);
        if path.as_os_str().is_empty() {
            let Some((_, work)) = &self.store else { return Ok(()) };
            let tree = work.join("fs");
            if self.keep_owner {
                std::os::unix::fs::chown(&tree, Some(meta.uid), Some(meta.gid))
                    .named(|| "set the root's owner".into())?;
            }
            let mode = std::os::unix::fs::PermissionsExt::from_mode(meta.mode & 0o7777);
            return fs::set_permissions(&tree, mode).named(|| "set the root's mode".into());
        }
        let (parent, name) = self.parent_of(path)?;
        // SAFETY: an open folder and a name that outlives the call.
        match check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) }) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_folder = openat2_in_root(
                    parent.as_fd(),
                    Path::new(OsStr::from_bytes(name.to_bytes())),
                    libc::O_PATH | libc::O_DIRECTORY,
                    0,
                    false,
                );
                if is_folder.is_err() {
                    let hidden = self.whiteouts.contains(path);
                    self.clear(&parent, &name, path)?;
                    // SAFETY: as above.
                    check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) })
                        .named(|| format!("make folder {}", path.display()))?;
                    if hidden {
                        self.opaque(path)?;
                    }
                }
            }
            Err(error) => return Err(error).named(|| format!("make folder {}", path.display())),
        }
        self.set_meta(&parent, &name, meta, false, path)
    }

    fn create_file(&mut self, path: &Path) -> Result<(File, OwnedFd, CString), Error> {
        let (parent, name) = self.parent_of(path)?;
        self.clear(&parent, &name, path)?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
        let relative = Path::new(OsStr::from_bytes(name.to_bytes()));
        let file = openat2_in_root(parent.as_fd(), relative, flags, 0o600, false)
            .named(|| format!("make file {}", path.display()))?;
        Ok((file.into(), parent, name))
    }

    /// A regular file with what `data` yields. Runs of zeros become holes.
    pub(crate) fn file(
        &mut self,
        path: &Path,
        meta: &Meta,
        data: &mut dyn Read,
        budget: &mut Budget,
    ) -> Result<u64, Error> {
        let (mut file, parent, name) = self.create_file(path)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.copy(&mut file, data, &mut buffer, budget, path);
        self.buffer = buffer;
        let length = written?;
        file.set_len(length).named(|| format!("write {}", path.display()))?;
        drop(file);
        self.set_meta(&parent, &name, meta, false, path)?;
        Ok(length)
    }

    fn copy(
        &mut self,
        file: &mut File,
        data: &mut dyn Read,
        buffer: &mut [u8],
        budget: &mut Budget,
        path: &Path,
    ) -> Result<u64, Error> {
        let mut length = 0;
        loop {
            let read = match data.read(buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).named(|| format!("read {} from the archive", path.display())),
            };
            let chunk = &buffer[..read];
            if read >= 4096 && chunk.iter().all(|b| *b == 0) {
                file.seek(SeekFrom::Current(read as i64)).named(|| format!("write {}", path.display()))?;
            } else {
                file.write_all(chunk).named(|| format!("write {}", path.display()))?;
                self.spend_disk(read as u64)?;
                self.size += read as u64;
            }
            length += read as u64;
            budget.spend(read as u64, || format!(" (at {})", path.display()))?;
        }
    }

    /// Asks from time to time whether there is room left.
    fn spend_disk(&mut self, bytes: u64) -> Result<(), Error> {
        self.since_check += bytes;
        if self.since_check > 64 << 20 {
            self.since_check = 0;
            if let Some((store, _)) = &self.store {
                store.room()?;
            }
        }
        Ok(())
    }

    /// A file of `length` bytes that holds `pieces` (offset, length) of `data` one after another, and holes between.
    pub(crate) fn sparse_file(
        &mut self,
        path: &Path,
        meta: &Meta,
        length: u64,
        pieces: &[(u64, u64)],
        data: &mut dyn Read,
        budget: &mut Budget,
    ) -> Result<(), Error> {
        // Holes take neither disk nor time; what is longer than any file system's files is a mistake, or worse.
        if length > LONGEST_FILE {
            return Err(bad(format!("{} is {length} bytes long, at most {LONGEST_FILE} are possible", path.display())));
        }
        let (mut file, parent, name) = self.create_file(path)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(());
        for (offset, size) in pieces {
            result = offset
                .checked_add(*size)
                .filter(|end| *end <= length)
                .map(|_| ())
                .ok_or_else(|| bad(format!("sparse map of {} reaches past its end", path.display())));
            result = result.and_then(|()| {
                file.seek(SeekFrom::Start(*offset)).named(|| format!("write {}", path.display()))?;
                let copied = self.copy(&mut file, &mut data.take(*size), &mut buffer, budget, path)?;
                if copied == *size { Ok(()) } else { Err(bad(format!("{} is cut short", path.display()))) }
            });
            if result.is_err() {
                break;
            }
        }
        self.buffer = buffer;
        result?;
        file.set_len(length).named(|| format!("write {}", path.display()))?;
        drop(file);
        self.set_meta(&parent, &name, meta, false, path)
    }

    /// A symbolic link; the target is text for whoever follows it inside a container.
    pub(crate) fn symlink(&mut self, path: &Path, target: &Path, meta: &Meta) -> Result<(), Error> {
        let (parent, name) = self.parent_of(path)?;
        self.clear(&parent, &name, path)?;
        let target = c_name(target.as_os_str())?;
        // SAFETY: an open folder and strings that outlive the call.
        check(unsafe { libc::symlinkat(target.as_ptr(), parent.as_raw_fd(), name.as_ptr()) })
            .named(|| format!("make link {}", path.display()))?;
        self.set_meta(&parent, &name, meta, true, path)
    }

    /// A hard link to `target`, an entry of this layer or of one below.
    pub(crate) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        if self.left_out.contains(target) {
            self.left_out.insert(path.to_owned());
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        let (from, from_name) = match openat2_in_root(
            self.root.as_fd(),
            target.parent().unwrap_or(Path::new("")),
            libc::O_PATH | libc::O_DIRECTORY,
            0,
            true,
        ) {
            Ok(fd) => (fd, c_name(target.file_name().unwrap_or_default())?),
            Err(_) => return self.link_later(path, target),
        };
        if path == target {
            return Ok(());
        }
        self.clear(&parent, &name, path)?;
        // SAFETY: open folders and names that outlive the call; the last component is not followed.
        let linked =
            check(unsafe { libc::linkat(from.as_raw_fd(), from_name.as_ptr(), parent.as_raw_fd(), name.as_ptr(), 0) });
        match linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.link_later(path, target),
            other => other.map(drop).named(|| format!("link {} to {}", path.display(), target.display())),
        }
    }

    /// A device, pipe or socket: `kind` is an `S_IF*` word.
    pub(crate) fn node(&mut self, path: &Path, kind: u32, major: u32, minor: u32, meta: &Meta) -> Result<(), Error> {
        if !self.devices && matches!(kind, libc::S_IFCHR | libc::S_IFBLK) {
            self.left_out.insert(path.to_owned());
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        self.clear(&parent, &name, path)?;
        // SAFETY: an open folder and a name that outlives the call.
        check(unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), kind | 0o600, libc::makedev(major, minor)) })
            .named(|| format!("make node {}", path.display()))?;
        self.set_meta(&parent, &name, meta, false, path)
    }

    /// Hides `path` of the layers below (overlayfs' whiteout).
    ///
    /// What this layer itself has there, before or after, stays: only what is below is hidden.
    pub(crate) fn whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let (parent, name) = self.parent_of(path)?;
        // SAFETY: an open folder, a name and a buffer that outlive the call.
        let there = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            let found = libc::fstatat(parent.as_raw_fd(), name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW);
            (found == 0).then_some(stat.st_mode & libc::S_IFMT)
        };
        match there {
            Some(libc::S_IFDIR) if self.only_hides(path)? => {
                let full = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()))
                    .join(OsStr::from_bytes(name.to_bytes()));
                remove_tree(&full).named(|| format!("mask {}", path.display()))?;
                self.parent = None;
                self.implied.retain(|folder| !folder.starts_with(path));
                self.whiteouts.retain(|hidden| !hidden.starts_with(path));
            }
            Some(libc::S_IFDIR) => return self.opaque(path),
            Some(_) => return Ok(()),
            None => {}
        }
        self.owe(path.as_os_str().len())?;
        self.node(path, libc::S_IFCHR, 0, 0, &Meta::default())?;
        self.whiteouts.insert(path.to_owned());
        Ok(())
    }

    /// Whether a folder was made for nothing but what it hides.
    fn only_hides(&mut self, path: &Path) -> Result<bool, Error> {
        if !self.implied.contains(path) {
            return Ok(false);
        }
        let folder = self.open_folder(path)?;
        let listed = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        for entry in listed.named(|| format!("list {}", path.display()))? {
            let entry = entry.named(|| format!("list {}", path.display()))?;
            if !self.whiteouts.contains(&path.join(entry.file_name())) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hides everything that layers below have in the folder `path`.
    pub(crate) fn opaque(&mut self, path: &Path) -> Result<(), Error> {
        let folder = self.open_folder(path)?;
        set_opaque(&folder, path)
    }

    /// The last step in a tree that was there already.
    pub(crate) fn finish_within(mut self) -> Result<(), Error> {
        self.finished = true;
        if let Some((link, target)) = self.links_below.first() {
            return Err(bad(format!("{} is a link to {}, which is not there", link.display(), target.display())));
        }
        self.set_folder_times()
    }

    fn set_folder_times(&self) -> Result<(), Error> {
        for (path, mtime) in self.folders.iter().rev() {
            if let Ok(fd) = openat2_in_root(self.root.as_fd(), path, libc::O_PATH | libc::O_DIRECTORY, 0, true) {
                let full = c_name(OsStr::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))?;
                // SAFETY: path and times outlive the call.
                check(unsafe { libc::utimensat(libc::AT_FDCWD, full.as_ptr(), times(*mtime).as_ptr(), 0) })
                    .named(|| format!("set time of {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Puts the layer into the store under `digest`.
    ///
    /// # Errors
    /// What the disk said.
    pub fn finish(mut self, digest: Digest) -> Result<(Layer, Pin), Error> {
        self.set_folder_times()?;
        let Some((store, work)) = self.store.clone() else { return Err(bad("not a layer")) };
        let recorded = self.recorder.take().is_some_and(|r| r.finish().is_ok());
        if !recorded {
            let _ = fs::remove_file(work.join(tar_split::FILE));
        }
        let layer = Layer {
            digest,
            size: self.size,
            implied: std::mem::take(&mut self.implied).into_iter().collect(),
            links_below: std::mem::take(&mut self.links_below),
            tar: self.tar,
        };
        let adopted = store.adopt(&work, layer)?;
        self.finished = true;
        Ok(adopted)
    }
}
