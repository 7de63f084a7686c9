//! Pseudo terminals (pts(4)), made within the container's own devpts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::sys::{check, openat2_in_root};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a new terminal: (master, slave). `root` is the container's.
pub(crate) fn open(root: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    // Whoever is root inside may have put anything in the place of a device: no links, and the file system must be the one.
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = openat2_in_root(root, Path::new("/dev/pts/ptmx"), flags, 0, false)?;
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
        Ok((master, OwnedFd::from_raw_fd(slave as i32)))
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
