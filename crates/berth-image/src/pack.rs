//! A tree into a tar (POSIX pax): owner, mode, times to the nanosecond, extended attributes, hard links, devices.
//!
//! Walked by descriptors: nothing of the tree, however it changes meanwhile, leads out of it. A device is never opened, and
//! what the kernel shows of itself (`/proc`, `/sys` …) is an empty folder.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_runtime::openat2_in_root;
use tar::{EntryType, Header};

/// File systems that show the kernel's own state.
const KERNEL: [i64; 11] = [
    0x9fa0,                // proc
    0x6265_6572,           // sysfs
    0x27_e0eb,             // cgroup
    0x6367_7270,           // cgroup2
    0x1cd1,                // devpts
    0x1980_0202,           // mqueue
    0x6462_6720,           // debugfs
    0x7472_6163,           // tracefs
    0x7363_6673,           // securityfs
    0xcafe_4a11u32 as i64, // bpf
    0x6165_676c,           // pstore
];

/// Whether this is a file system that shows the kernel's own state.
pub(crate) fn is_kernels(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: an open descriptor; the buffer is written by the call.
    unsafe {
        let mut stats: libc::statfs = std::mem::zeroed();
        libc::fstatfs(fd.as_raw_fd(), &raw mut stats) == 0 && KERNEL.contains(&stats.f_type)
    }
}

/// Writes entries of a tar.
pub(crate) struct Packer<'a> {
    out: &'a mut dyn Write,
    /// First names of files with several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether this is an overlay's upper folder, to become a layer.
    overlay: bool,
    /// Paths that are left out, with what is below.
    without: HashSet<PathBuf>,
    buffer: Vec<u8>,
}

/// A folder that is being walked through.
struct Level {
    /// Closed while the walk is far below; opened again by its name.
    fd: Option<OwnedFd>,
    names: std::vec::IntoIter<OsString>,
    device: u64,
    inode: u64,
}

/// Folders of a walk that are kept open.
const KEPT_OPEN: usize = 64;
/// Longest path that a walk goes, bytes.
const LONGEST_PATH: usize = 64 << 10;

/// One entry's attributes.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a Path,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, i64),
    pub(crate) link: Option<&'a Path>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    // The length counts itself.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Writes the header of an entry, after an extended one where the plain one has no room.
pub(crate) fn write_header(out: &mut dyn Write, entry: &Entry<'_>) -> io::Result<()> {
    write_header_with(out, entry, &[])
}

/// The same, with further records in the extended header.
fn write_header_with(out: &mut dyn Write, entry: &Entry<'_>, records: &[(&str, &[u8])]) -> io::Result<()> {
    let mut extended = Vec::new();
    for (key, value) in records {
        record(&mut extended, key, value);
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_size(entry.size);
    if let Ok(seconds) = u64::try_from(entry.mtime.0) {
        header.set_mtime(seconds);
    }
    if entry.mtime.1 != 0 || entry.mtime.0 < 0 {
        // Before 1970 the fraction is of the magnitude.
        let (seconds, nanos) = entry.mtime;
        let shown = match (seconds < 0, nanos) {
            (true, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
            _ => format!("{seconds}.{nanos:09}"),
        };
        record(&mut extended, "mtime", shown.as_bytes());
    }
    let name = entry.name.as_os_str().as_bytes();
    let field = |extended: &mut Vec<u8>, to: &mut [u8], key: &str, value: &[u8]| {
        let plain = value.len() <= to.len() && value.is_ascii();
        let shown = &value[..value.len().min(to.len())];
        to[..shown.len()].copy_from_slice(shown);
        if !plain {
            record(extended, key, value);
        }
    };
    if let Some(ustar) = header.as_ustar_mut() {
        field(&mut extended, &mut ustar.name, "path", name);
        if let Some(link) = entry.link {
            field(&mut extended, &mut ustar.linkname, "linkpath", link.as_os_str().as_bytes());
        }
    }
    if matches!(entry.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(entry.device.0)?;
        header.set_device_minor(entry.device.1)?;
    }
    for (key, value) in &entry.xattrs {
        record(&mut extended, &format!("SCHILY.xattr.{key}"), value);
    }
    header.set_cksum();
    if !extended.is_empty() {
        let mut before = Header::new_ustar();
        before.set_entry_type(EntryType::XHeader);
        before.set_mode(0o644);
        before.set_size(extended.len() as u64);
        before.set_path("PaxHeader").map_err(io::Error::other)?;
        before.set_cksum();
        out.write_all(before.as_bytes())?;
        out.write_all(&extended)?;
        pad(out, extended.len() as u64)?;
    }
    out.write_all(header.as_bytes())
}

/// Fills up to whole blocks.
pub(crate) fn pad(out: &mut dyn Write, length: u64) -> io::Result<()> {
    let rest = (512 - length % 512) % 512;
    out.write_all(&[0; 512][..rest as usize])
}

/// Ends the tar.
pub(crate) fn write_end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}

pub(crate) fn open_path(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let name = CString::new(name.as_bytes())?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: an open folder and a name that outlives the call; the descriptor is owned at once.
    unsafe {
        match libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The very file that an `O_PATH` descriptor means.
pub(crate) fn reopen(fd: &OwnedFd, directory: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | if directory { libc::O_DIRECTORY } else { 0 };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match File::options().read(true).custom_flags(flags | libc::O_NOATIME).open(&path) {
        // Only the owner may leave no trace of reading.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            File::options().read(true).custom_flags(flags).open(&path)
        }
        other => other,
    }
}

pub(crate) fn read_link(fd: &OwnedFd) -> io::Result<PathBuf> {
    let mut buffer = vec![0u8; 4096];
    // SAFETY: an O_PATH descriptor of a link, an empty constant path, a buffer with its length.
    let length = unsafe { libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    buffer.truncate(length as usize);
    Ok(OsString::from_vec(buffer).into())
}

pub(crate) fn xattrs(fd: &OwnedFd) -> Vec<(String, Vec<u8>)> {
    let Ok(path) = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())) else { return Vec::new() };
    let mut names = vec![0u8; 64 * 1024];
    // SAFETY: a path and a buffer with its length.
    let length = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else { return Vec::new() };
    let mut all = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // What a file carries with it; the rest is this host's own (overlayfs' orders, SELinux' labels).
        let kept =
            name.starts_with(b"user.") || name == b"security.capability" || name.starts_with(b"system.posix_acl");
        let (Ok(key), Ok(c_key)) = (String::from_utf8(name.to_vec()), CString::new(name)) else { continue };
        if kept && let Some(value) = xattr(&path, &c_key) {
            all.push((key, value));
        }
    }
    all.sort();
    all
}

fn xattr(path: &CString, key: &CString) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 64 * 1024];
    // SAFETY: strings and a buffer with its length.
    let length = unsafe { libc::getxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

pub(crate) fn is_opaque(fd: &OwnedFd) -> bool {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .ok()
        .and_then(|path| xattr(&path, &c"trusted.overlay.opaque".to_owned()))
        .is_some_and(|value| value == b"y")
}

impl<'a> Packer<'a> {
    /// Of a tree as it is seen.
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, links: HashMap::new(), overlay: false, without: HashSet::new(), buffer: vec![0; 256 * 1024] }
    }

    /// Of an overlay's upper folder, as a layer; `without` are paths in it that no program of the container made.
    pub(crate) fn of_overlay(out: &'a mut dyn Write, without: HashSet<PathBuf>) -> Self {
        Self { overlay: true, without, ..Self::new(out) }
    }

    /// The thing at `fd` (an `O_PATH` descriptor) as `name`, with what is below it.
    pub(crate) fn add(&mut self, fd: &OwnedFd, name: &Path) -> io::Result<()> {
        let (mut name, mut inner) = (name.to_owned(), PathBuf::new());
        let mut levels: Vec<Level> = self.entry(fd, &name, &inner, None)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(child) = level.names.next() else {
                levels.pop();
                if !levels.is_empty() {
                    name.pop();
                    inner.pop();
                }
                continue;
            };
            let device = level.device;
            if !open_again(&mut levels, &inner)? {
                // It was moved away meanwhile, with what is left of it.
                if let Some(level) = levels.last_mut() {
                    level.names = Vec::new().into_iter();
                }
                continue;
            }
            let Some(folder) = levels.last().and_then(|level| level.fd.as_ref()) else { continue };
            let below = match open_path(folder.as_fd(), &child) {
                Ok(below) => below,
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            name.push(&child);
            inner.push(&child);
            if name.as_os_str().len() > LONGEST_PATH {
                let shown = String::from_utf8_lossy(&name.as_os_str().as_bytes()[..200]).into_owned();
                return Err(io::Error::other(format!("the path {shown}… is longer than {LONGEST_PATH} bytes")));
            }
            match self.entry(&below, &name, &inner, Some(device)) {
                Ok(Some(next)) => {
                    if let Some(far) = levels.len().checked_sub(KEPT_OPEN).filter(|far| *far > 0) {
                        levels[far].fd = None;
                    }
                    levels.push(next);
                    continue;
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            name.pop();
            inner.pop();
        }
        Ok(())
    }

    /// `inner` is the path below the tree's root; `parent` the device of the folder it is in. A folder is to be walked through.
    fn entry(&mut self, fd: &OwnedFd, name: &Path, inner: &Path, parent: Option<u64>) -> io::Result<Option<Level>> {
        if self.without.contains(inner) {
            return Ok(None);
        }
        let meta = own_metadata(fd)?;
        let kind = meta.file_type();
        let mut entry = Entry {
            name,
            kind: EntryType::Regular,
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            size: 0,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            link: None,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        if kind.is_dir() {
            return self.folder(fd, entry, parent, &meta);
        }
        if self.overlay && kind.is_char_device() && meta.rdev() == 0 {
            let hidden = [b".wh.", name.file_name().unwrap_or_default().as_bytes()].concat();
            let hidden = name.with_file_name(OsStr::from_bytes(&hidden));
            let hidden = Entry { name: &hidden, mode: 0, xattrs: Vec::new(), mtime: (0, 0), ..entry };
            return write_header(self.out, &hidden).map(|()| None);
        }
        if meta.nlink() > 1 && !kind.is_dir() {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                let first = first.clone();
                entry.kind = EntryType::Link;
                entry.link = Some(&first);
                return write_header(self.out, &entry).map(|()| None);
            }
            self.links.insert((meta.dev(), meta.ino()), name.to_owned());
        }
        if kind.is_symlink() {
            let target = read_link(fd)?;
            entry.kind = EntryType::Symlink;
            entry.link = Some(&target);
            return write_header(self.out, &entry).map(|()| None);
        }
        if kind.is_file() {
            if is_kernels(fd.as_fd()) {
                return Ok(None);
            }
            let mut file = reopen(fd, false)?;
            entry.size = meta.len();
            entry.xattrs = xattrs(fd);
            if let Some(pieces) = data_pieces(&file, entry.size) {
                return self.sparse(&file, entry, &pieces).map(|()| None);
            }
            write_header(self.out, &entry)?;
            return self.content(&mut file, entry.size).map(|()| None);
        }
        entry.device = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        entry.kind = if kind.is_char_device() {
            EntryType::Char
        } else if kind.is_block_device() {
            EntryType::Block
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else {
            // A socket is of no use without the process behind it.
            return Ok(None);
        };
        write_header(self.out, &entry).map(|()| None)
    }

    /// A file with large holes, in GNU tar's sparse format 1.0 (POSIX): a map of the pieces that hold data, then these alone.
    fn sparse(&mut self, file: &File, entry: Entry<'_>, pieces: &[(u64, u64)]) -> io::Result<()> {
        let size = entry.size;
        let ends = pieces.last().is_none_or(|(offset, length)| offset + length < size);
        let mut map = format!("{}\n", pieces.len() + usize::from(ends));
        for (offset, length) in pieces {
            map += &format!("{offset}\n{length}\n");
        }
        if ends {
            map += &format!("{size}\n0\n");
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let held: u64 = pieces.iter().map(|(_, length)| length).sum();
        let name = entry.name.to_owned();
        let shown =
            name.parent().unwrap_or(Path::new("")).join("GNUSparseFile.0").join(name.file_name().unwrap_or_default());
        let (size_text, total) = (size.to_string(), map.len() as u64 + held);
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name.as_os_str().as_bytes()),
            ("GNU.sparse.realsize", size_text.as_bytes()),
        ];
        write_header_with(self.out, &Entry { name: &shown, size: total, ..entry }, &records)?;
        self.out.write_all(&map)?;
        for (offset, length) in pieces {
            let mut at = *offset;
            let end = offset + length;
            while at < end {
                let wanted = usize::try_from(end - at).map_or(self.buffer.len(), |l| l.min(self.buffer.len()));
                let read = match file.read_at(&mut self.buffer[..wanted], at) {
                    // Cut meanwhile: filled up.
                    Ok(0) => {
                        self.buffer[..wanted].fill(0);
                        wanted
                    }
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                self.out.write_all(&self.buffer[..read])?;
                at += read as u64;
            }
        }
        pad(self.out, held)
    }

    /// Exactly `size` bytes: a file that grows meanwhile is cut, one that shrinks is filled up.
    fn content(&mut self, file: &mut File, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(self.buffer.len(), |l| l.min(self.buffer.len()));
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    self.out.write_all(&self.buffer[..wanted])?;
                    left -= wanted as u64;
                }
                Ok(read) => {
                    self.out.write_all(&self.buffer[..read])?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        pad(self.out, size)
    }

    fn folder(
        &mut self,
        fd: &OwnedFd,
        mut entry: Entry<'_>,
        parent: Option<u64>,
        meta: &fs::Metadata,
    ) -> io::Result<Option<Level>> {
        entry.kind = EntryType::Directory;
        let mut name = entry.name.as_os_str().to_owned();
        if name.is_empty() {
            name.push(".");
        }
        name.push("/");
        let shown = PathBuf::from(&name);
        let kernels = parent != Some(meta.dev()) && is_kernels(fd.as_fd());
        entry.xattrs = if kernels { Vec::new() } else { xattrs(fd) };
        write_header(self.out, &Entry { name: &shown, ..entry })?;
        if self.overlay && is_opaque(fd) {
            let opaque = shown.join(".wh..wh..opq");
            let nobody =
                Entry { name: &opaque, kind: EntryType::Regular, mode: 0, mtime: (0, 0), xattrs: Vec::new(), ..entry };
            write_header(self.out, &nobody)?;
        }
        if kernels {
            return Ok(None);
        }
        let opened: OwnedFd = reopen(fd, true)?.into();
        let mut names = Vec::new();
        for found in fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()))? {
            names.push(found?.file_name());
        }
        names.sort();
        Ok(Some(Level { fd: Some(opened), names: names.into_iter(), device: meta.dev(), inode: meta.ino() }))
    }
}

/// Bytes of holes from which on a file is packed as one with holes: readers that know none are told of few.
const LEAST_HOLES: u64 = 1 << 20;
/// A shorter hole is data.
const LEAST_HOLE: u64 = 64 << 10;
/// Pieces of one file.
const MOST_PIECES: usize = 65_536;

/// Where a file of `size` bytes holds data, (offset, length); `None` for one without large holes, or that does not tell.
/// Leaves the file at its beginning.
fn data_pieces(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt as _;
    // The everyday file costs no further call.
    if size < LEAST_HOLES || file.metadata().ok()?.blocks() * 512 + LEAST_HOLES > size {
        return None;
    }
    let pieces = walk_pieces(file, size);
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) };
    pieces
}

fn walk_pieces(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    let seek = |from: u64, whence| {
        // SAFETY: a plain system call on an open descriptor.
        let at = unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(from).ok()?, whence) };
        match u64::try_from(at) {
            Ok(at) => Some(Some(at.min(size))),
            // Only a hole is left.
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => Some(None),
            Err(_) => None,
        }
    };
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(data) = seek(at, libc::SEEK_DATA)? else { break };
        if data >= size {
            break;
        }
        let end = seek(data, libc::SEEK_HOLE)?.unwrap_or(size);
        match pieces.last_mut() {
            Some(last) if data - (last.0 + last.1) < LEAST_HOLE => last.1 = end - last.0,
            _ => pieces.push((data, end - data)),
        }
        if pieces.len() > MOST_PIECES {
            return None;
        }
        at = end;
    }
    let held: u64 = pieces.iter().map(|(_, length)| length).sum();
    (size - held >= LEAST_HOLES).then_some(pieces)
}

/// Whether a file is in memory (tmpfs), where its times say nothing about writes through a mapping.
pub fn is_in_memory(file: &File) -> bool {
    // SAFETY: plain data; the call fills it in.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a local.
    unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) == 0 && about.f_type == libc::TMPFS_MAGIC }
}

/// Copies a file to the beginning of another, which is empty; holes stay holes. `may` is asked before each piece is written, with its
/// length in bytes. Returns the size.
///
/// # Errors
/// What reading or writing said, or `may`.
pub fn copy_file(from: &File, to: &File, may: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let size = from.metadata()?.len();
    let mut buffer = vec![0; 1 << 20];
    let Some(pieces) = data_pieces(from, size) else {
        // Also what has no size: a pipe, a file of the kernel's.
        let (mut from, mut to, mut copied) = (from, to, 0);
        loop {
            let count = match io::Read::read(&mut from, &mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            may(count as u64)?;
            io::Write::write_all(&mut to, &buffer[..count])?;
            copied += count as u64;
        }
    };
    for (mut at, mut left) in pieces {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = from.read_at(&mut buffer[..most], at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            may(count as u64)?;
            to.write_all_at(&buffer[..count], at)?;
            at += count as u64;
            left -= count as u64;
        }
    }
    to.set_len(size)?;
    Ok(size)
}

/// Has the last folder of a walk open, whose path is `inner`; `false` if it is not there any more.
fn open_again(levels: &mut [Level], inner: &Path) -> io::Result<bool> {
    let Some(last) = levels.len().checked_sub(1) else { return Ok(false) };
    if levels[last].fd.is_some() {
        return Ok(true);
    }
    let Some(open) = levels.iter().rposition(|level| level.fd.is_some()) else { return Ok(false) };
    let names: Vec<&OsStr> = inner.iter().collect();
    let mut current =
        levels[open].fd.as_ref().map_or_else(|| Err(io::ErrorKind::NotFound.into()), OwnedFd::try_clone)?;
    for level in open + 1..=last {
        let Ok(found) = open_path(current.as_fd(), names[level - 1]) else { return Ok(false) };
        let Ok(folder) = reopen(&found, true) else { return Ok(false) };
        let meta = folder.metadata()?;
        if (meta.dev(), meta.ino()) != (levels[level].device, levels[level].inode) {
            return Ok(false);
        }
        current = folder.into();
        // Those that the walk comes back to next.
        if last - level < KEPT_OPEN {
            levels[level].fd = Some(current.try_clone()?);
        }
    }
    Ok(true)
}

/// What an `O_PATH` descriptor itself is, a link included.
pub(crate) fn own_metadata(fd: &OwnedFd) -> io::Result<fs::Metadata> {
    // A copy that closes on its own; fstat(2) is allowed on such descriptors.
    File::from(fd.try_clone()?).metadata()
}

/// Finds `path` in the tree at `root`; links on the way are followed inside, one at the end only if `follow`.
pub(crate) fn locate(root: BorrowedFd<'_>, path: &Path, follow: bool) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | if follow { 0 } else { libc::O_NOFOLLOW };
    openat2_in_root(root, path, flags, 0, true)
}

/// Writes what is at `path` as a tar whose entries begin with its own name (`.` for a folder's content). A link at the end
/// is followed only where `follow`.
///
/// # Errors
/// What reading or writing said.
pub fn pack_path(root: BorrowedFd<'_>, path: &Path, name: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
    let fd = locate(root, path, follow)?;
    if is_kernels(fd.as_fd()) {
        let why = "what is in /proc and /sys is the kernel's, and is not copied";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Packer::new(out).add(&fd, name)?;
    write_end(out)
}

/// Writes an overlay's upper folder as a layer's tar.
///
/// # Errors
/// What reading or writing said.
pub fn pack_difference(upper: &Path, without: HashSet<PathBuf>, out: &mut dyn Write) -> io::Result<()> {
    let root: OwnedFd = File::open(upper)?.into();
    let fd = locate(root.as_fd(), Path::new("."), true)?;
    Packer::of_overlay(out, without).add(&fd, Path::new(""))?;
    write_end(out)
}

/// Bytes on disk of a folder and all that is below; what vanishes meanwhile is left out.
pub fn disk_usage(folder: &Path) -> u64 {
    let Ok(root) = File::open(folder) else { return 0 };
    let mut waiting = vec![PathBuf::new()];
    let mut seen = HashSet::new();
    let mut sum = 0;
    while let Some(next) = waiting.pop() {
        // By descriptor: what is a folder now may be a link to the host's root in a moment.
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let Ok(fd) = openat2_in_root(root.as_fd(), &next, flags, 0, false) else { continue };
        let listed = fs::read_dir(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        for entry in listed.into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(next.join(entry.file_name()));
            }
            // A file with several names is on disk once.
            if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                sum += meta.blocks() * 512;
            }
        }
    }
    sum
}

/// How full the disk that a folder is on is, percent, as `df` counts it.
///
/// # Errors
/// What statvfs(2) said.
pub fn disk_percent(folder: &Path) -> io::Result<u8> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the path outlives the call; `stats` is written by it.
    let stats = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut stats) != 0 {
            return Err(io::Error::last_os_error());
        }
        stats
    };
    let used = stats.f_blocks - stats.f_bfree;
    Ok((used * 100).div_ceil((used + stats.f_bavail).max(1)) as u8)
}
