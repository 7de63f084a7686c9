//! A tree of files as a container sees it: what is at a path, listed, opened, cleared.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::pack::{is_kernels, is_opaque, locate, open_path, own_metadata, read_link, reopen};

/// What is at a path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The last part of its name.
    pub name: String,
    /// In a layer: whether it hides what is in the same folder of layers below.
    pub opaque: bool,
    /// `file`, `folder`, `link` or `other`.
    pub kind: &'static str,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Where a link leads.
    pub target: Option<String>,
}

/// What is at `path`, the link itself if it is one.
///
/// # Errors
/// That there is nothing.
pub fn stat(root: BorrowedFd<'_>, path: &Path) -> io::Result<Stat> {
    let fd = locate(root, path, false)?;
    let meta = own_metadata(&fd)?;
    let kind = meta.file_type();
    let target = kind.is_symlink().then(|| read_link(&fd)).transpose()?;
    Ok(Stat {
        name: path.file_name().map_or_else(|| "/".into(), |n| n.to_string_lossy().into_owned()),
        opaque: kind.is_dir() && is_opaque(&fd),
        kind: match kind {
            k if k.is_dir() => "folder",
            k if k.is_file() => "file",
            k if k.is_symlink() => "link",
            _ => "other",
        },
        size: if kind.is_file() { meta.len() } else { 0 },
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        target: target.map(|t| t.display().to_string()),
    })
}

/// What is in the folder at `path`, as a container sees it, by name.
///
/// # Errors
/// That there is no such folder; `InvalidData` for one with more than `most` entries.
pub fn list_folder(root: BorrowedFd<'_>, path: &Path, most: usize) -> io::Result<Vec<Stat>> {
    let folder = OwnedFd::from(reopen(&locate(root, path, true)?, true)?);
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        if names.len() >= most {
            let why = format!("the folder has more than {most} entries");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        names.push(entry?.file_name());
    }
    names.sort();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match stat(root, &path.join(&name)) {
            Ok(stat) => found.push(stat),
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Removes everything in the folder at `path`, as a container sees it; links are not followed out of it.
///
/// # Errors
/// What the system said; `InvalidData` for folders nested more than 500 deep.
pub fn clear_folder(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    fn clear(folder: &OwnedFd, depth: u32) -> io::Result<()> {
        if depth > 500 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "folders are nested too deep"));
        }
        for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
            let entry = entry?;
            let name = CString::new(entry.file_name().as_bytes())?;
            let mut flags = 0;
            if entry.file_type()?.is_dir() {
                let inner = open_path(folder.as_fd(), &entry.file_name())?;
                clear(&OwnedFd::from(reopen(&inner, true)?), depth + 1)?;
                flags = libc::AT_REMOVEDIR;
            }
            // SAFETY: an open folder and a name that outlives the call.
            if unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), flags) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
    let folder = locate(root, path, true)?;
    clear(&OwnedFd::from(reopen(&folder, true)?), 0)
}

/// Opens the regular file at `path`, links followed inside the tree.
///
/// # Errors
/// That there is nothing, or something else than a file (`InvalidInput`).
pub fn open_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let fd = locate(root, path, true)?;
    let meta = own_metadata(&fd)?;
    if !meta.is_file() || is_kernels(fd.as_fd()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    reopen(&fd, false)
}
