//! Pseudo terminals (pts(4)), made within the container's own devpts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::sys::{MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, check, fsmount, fsopen, openat2_in_root};

/// Rows and columns until somebody says better: programs take none at all badly.
pub const USUAL_SIZE: (u16, u16) = (24, 80);
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a new terminal of the usual size: (master, slave). `root` is the container's.
pub(crate) fn open(root: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    // Whoever is root inside may have put anything in the place of a device: no links, and the file system must be the one.
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = openat2_in_root(root, Path::new("/dev/pts/ptmx"), flags, 0, false).map_err(|error| {
        // As devpts says it: it has no disk that could be full.
        let is_full = error.raw_os_error() == Some(libc::ENOSPC);
        let most = crate::mounts::MOST_TERMINALS;
        if is_full {
            io::Error::new(error.kind(), format!("the container has {most} terminals, as many as it may"))
        } else {
            error
        }
    })?;
    // SAFETY: an open descriptor; the buffer is written by the call.
    let kind = unsafe {
        let mut stats: libc::statfs = std::mem::zeroed();
        check(libc::fstatfs(master.as_raw_fd(), &raw mut stats).into())?;
        stats.f_type
    };
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(io::Error::other("/dev/pts is not a devpts"));
    }
    let unlock: libc::c_int = 0;
    // SAFETY: requests with the argument that they take; the slave is opened by its master, not by a path.
    unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock).into())?;
        let slave = check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags | libc::O_CLOEXEC).into())?;
        let slave = OwnedFd::from_raw_fd(slave as i32);
        resize(&master, USUAL_SIZE.0, USUAL_SIZE.1)?;
        Ok((master, slave))
    }
}

/// Puts the container's own null device in the place of the host's at these descriptors: whoever is root inside could change
/// the host's node by it. `root` is the container's; where its `/dev/null` is something else, a device is made.
pub(crate) fn own_null(root: BorrowedFd<'_>, numbers: &[i32]) -> io::Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    if numbers.is_empty() {
        return Ok(());
    }
    // Looked at before it is opened: what stands there may be a device that does something when it is.
    let found = openat2_in_root(root, Path::new("/dev/null"), libc::O_PATH, 0, false).ok().filter(|found| {
        let meta = std::fs::metadata(format!("/proc/self/fd/{}", found.as_raw_fd()));
        meta.is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == libc::makedev(1, 3))
    });
    let null = match found {
        Some(_) => openat2_in_root(root, Path::new("/dev/null"), libc::O_RDWR | libc::O_NOCTTY, 0, false)?,
        None => fresh_null()?,
    };
    for number in numbers {
        // SAFETY: duplicates onto this process's own standard descriptors.
        check(unsafe { libc::dup2(null.as_raw_fd(), *number) }.into())?;
    }
    Ok(())
}

/// A null device in a file system of its own, which goes with the descriptor.
fn fresh_null() -> io::Result<OwnedFd> {
    let mount = fsmount(&fsopen(c"tmpfs")?, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    // SAFETY: constant names in an open folder; the descriptor is owned at once.
    unsafe {
        let device = libc::makedev(1, 3);
        check(libc::mknodat(mount.as_raw_fd(), c"null".as_ptr(), libc::S_IFCHR | 0o666, device).into())?;
        check(libc::fchmodat(mount.as_raw_fd(), c"null".as_ptr(), 0o666, 0).into())?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(OwnedFd::from_raw_fd(check(libc::openat(mount.as_raw_fd(), c"null".as_ptr(), flags).into())? as i32))
    }
}

/// Gives the pipes at standard input, output and error to the user that the program runs as: it may open them anew by
/// `/dev/stdout`.
pub(crate) fn own_pipes(uid: u32) {
    for number in 0..3 {
        // SAFETY: plain system calls on this process's own descriptors; the buffer is written by the call.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(number, &raw mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
                libc::fchown(number, uid, u32::MAX);
            }
        }
    }
}

/// Makes the slave the terminal of the calling process' session, and its standard input, output and error.
pub(crate) fn adopt(slave: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain system calls on this process.
    unsafe {
        check(libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0).into())?;
        for number in 0..3 {
            check(libc::dup2(slave.as_raw_fd(), number).into())?;
        }
    }
    Ok(())
}

/// Sets the size that programs on the terminal see; they get SIGWINCH.
///
/// # Errors
/// What ioctl(2) said.
pub fn resize(master: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request takes a winsize.
    check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}
