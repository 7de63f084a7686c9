//! System calls that libc has no wrapper for, and a failure that names its step.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// Whose matter a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The host's: it has no room, or the kernel refused something that no container asks for.
    Host,
    /// What was asked for can't be done: a user, a folder, a mount.
    Request,
    /// There is no such program.
    Missing,
    /// The program is there and can't be run.
    Denied,
}

/// A step that failed. Between processes it goes as JSON.
#[derive(Debug)]
pub struct Failure {
    /// The step, with the value that failed.
    pub what: String,
    /// The system's word.
    pub source: io::Error,
    /// Whose matter it is.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for Failure {}

/// A failure on its way to another process.
#[derive(Serialize, Deserialize)]
struct Sent {
    what: String,
    why: String,
    errno: Option<i32>,
    cause: Cause,
}

impl Failure {
    /// The host's.
    pub(crate) fn host(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source, cause: Cause::Host }
    }

    /// The request's, unless the host has no room.
    pub(crate) fn request(what: impl Into<String>, source: io::Error) -> Self {
        let cause = if is_no_room(&source) { Cause::Host } else { Cause::Request };
        Self { what: what.into(), source, cause }
    }

    pub(crate) fn to_wire(&self) -> String {
        let (what, why, errno) = (self.what.clone(), self.source.to_string(), self.source.raw_os_error());
        serde_json::to_string(&Sent { what, why, errno, cause: self.cause }).unwrap_or_default()
    }

    /// What another process sent.
    pub(crate) fn from_wire(text: &str) -> Self {
        match serde_json::from_str::<Sent>(text) {
            Ok(Sent { what, why, errno, cause }) => {
                let source = errno.map_or_else(|| io::Error::other(why), io::Error::from_raw_os_error);
                Self { what, source, cause }
            }
            Err(_) => Self::host("start", io::Error::other(text.to_owned())),
        }
    }
}

/// Whether the host lacks something that another time it may have.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOSPC
                | libc::EDQUOT
                | libc::ENOMEM
                | libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOBUFS
                | libc::EXFULL
        )
    )
}

/// A descriptor that is readable when `signal` has come, which does nothing else any more.
pub(crate) fn signal_fd(signal: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on locals; the descriptor is owned as soon as it exists.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, signal);
        // What is ignored is not queued either.
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        libc::signal(signal, libc::SIG_DFL);
        let fd = check(libc::signalfd(-1, &raw const mask, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Who has sent the signal that a [`signal_fd`] has; 0 for a process of another pid namespace, the kernel's too.
pub(crate) fn sender(fd: &OwnedFd) -> Option<u32> {
    // SAFETY: a buffer of the structure's own size, which is plain data.
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size);
        (usize::try_from(read) == Ok(size)).then_some(info.ssi_pid)
    }
}

pub(crate) trait Named<T> {
    /// With the step that failed, which is the host's matter.
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Failure>;

    /// With the step that failed, which does what the request asks for.
    fn asked(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure::host(what(), source))
    }

    fn asked(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure::request(what(), source))
    }
}

/// poll(2) that goes on after a signal; `None` waits without end. Whether something is ready.
///
/// # Errors
/// What the kernel said.
pub(crate) fn poll(entries: &mut [libc::pollfd], limit: Option<std::time::Duration>) -> io::Result<bool> {
    let until = limit.map(|limit| std::time::Instant::now() + limit);
    loop {
        let left = until.map_or(-1, |until| {
            let left = until.saturating_duration_since(std::time::Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the array and its length.
        match check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as u64, left) }.into()) {
            Ok(ready) => return Ok(ready > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn c_string(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in a string"))
}

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_encoded_bytes())
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: callers pass what a system call just returned as a new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Opens `path` with `root` as its root directory: absolute links and `..` stay inside (openat2(2), RESOLVE_IN_ROOT).
/// With `links` false, a symbolic link anywhere in the path is refused (`ELOOP`).
///
/// # Errors
/// What openat2(2) said.
pub fn openat2_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, links: bool) -> io::Result<OwnedFd> {
    const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
    const RESOLVE_NO_SYMLINKS: u64 = 0x04;
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let how: [u64; 3] = [
        (flags | libc::O_CLOEXEC) as u64,
        u64::from(mode),
        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | if links { 0 } else { RESOLVE_NO_SYMLINKS },
    ];
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let path = c_path(path)?;
    loop {
        // SAFETY: path and `how` (struct open_how: flags, mode, resolve) outlive the call; the size given is theirs.
        let fd = unsafe {
            libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), how.as_ptr(), size_of_val(&how))
        };
        match check(fd) {
            // The kernel asks to try again when something was renamed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other.map(owned),
        }
    }
}

pub(crate) fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the string outlives the call. 1 is FSOPEN_CLOEXEC.
    check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) }).map(owned)
}

pub(crate) fn fsconfig_string(fs: &OwnedFd, key: &str, value: &str) -> io::Result<()> {
    let (key, value) = (c_string(key)?, c_string(value)?);
    // SAFETY: the strings outlive the call. 1 is FSCONFIG_SET_STRING.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), 1, key.as_ptr(), value.as_ptr(), 0) }).map(drop)
}

pub(crate) fn fsconfig_flag(fs: &OwnedFd, key: &str) -> io::Result<()> {
    let key = c_string(key)?;
    // SAFETY: the string outlives the call. 0 is FSCONFIG_SET_FLAG.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), 0, key.as_ptr(), 0, 0) }).map(drop)
}

/// Creates the superblock and gives it as a detached mount with the attributes (`MOUNT_ATTR_*`).
pub(crate) fn fsmount(fs: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: no pointers but null. 6 is FSCONFIG_CMD_CREATE, 1 is FSMOUNT_CLOEXEC.
    unsafe {
        check(libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), 6, 0, 0, 0))?;
        check(libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attributes)).map(owned)
    }
}

/// A detached copy of the mount (and, with `recursive`, of those below) that `at` is on, as open_tree(2) gives it.
pub(crate) fn open_tree_clone(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant empty string.
    check(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) }).map(owned)
}

/// Attaches a detached mount at `target`, both by descriptor.
pub(crate) fn move_mount(mount: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    const F_EMPTY_PATH: i32 = 0x04;
    const T_EMPTY_PATH: i32 = 0x40;
    // SAFETY: the paths are constant empty strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// A descriptor of `path` on a detached, read-only copy of its mount: whoever gets hold of the file by it (through
/// `/proc/<pid>/exe` of a program that was executed so, CVE-2019-5736) can't write to it.
pub(crate) fn read_only_copy(path: &Path) -> io::Result<OwnedFd> {
    let file = std::fs::File::open(path)?;
    let copy = open_tree_clone(std::os::fd::AsFd::as_fd(&file), false)?;
    mount_setattr(std::os::fd::AsFd::as_fd(&copy), MOUNT_ATTR_RDONLY, 0, false)?;
    Ok(copy)
}

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Sets attributes of a mount, of those below too if `recursive`; `propagation` is an `MS_*` word or 0.
pub(crate) fn mount_setattr(at: BorrowedFd<'_>, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attributes: [u64; 4] = [set, 0, propagation, 0];
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant; `attributes` (struct mount_attr) outlives the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// fork(2) with namespaces: 0 in the child, the child's pid and pidfd in the parent. `cgroup` is a cgroup v2 folder that
/// the child is born in. With CLONE_PARENT the child is the caller's sibling.
///
/// # Safety
/// The caller must be single-threaded: glibc's locks are not prepared for the child.
pub(crate) unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<(i32, Option<OwnedFd>)> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: i32 = -1;
    let arguments: [u64; 11] = [
        flags | CLONE_PIDFD | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        (&raw mut pidfd) as u64,
        0,
        0,
        // A sibling has the caller's own (clone(2)).
        if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        0,
        0,
        0,
        0,
        0,
        cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    ];
    // SAFETY: `arguments` is struct clone_args, no stack is given, so the child goes on with a copy of this one.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) })? as i32;
    Ok((pid, if pid == 0 { None } else { Some(owned(pidfd.into())) }))
}

pub(crate) fn close_range(first: u32, cloexec_only: bool) {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    let flags = if cloexec_only { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: only descriptors that this process is done with are in the range; callers see to it.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, flags);
    }
}

/// Closes every descriptor from 3 on but these.
pub(crate) fn close_all_but(kept: &[i32]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            // SAFETY: closes what this process, which is about to become the container's, no longer uses.
            unsafe {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0);
            }
        }
        first = fd + 1;
    }
    close_range(first, false);
}

/// A pipe, both ends close-on-exec: (read, write).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    Ok((owned(fds[0].into()), owned(fds[1].into())))
}
