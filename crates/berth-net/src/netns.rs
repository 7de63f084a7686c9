//! Network namespaces, held by descriptor: nothing is bind-mounted, so nothing is left behind.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A network namespace. It lives as long as this descriptor, a copy of it, or a process inside it.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// Makes a namespace with nothing in it but a loopback that is down.
    ///
    /// # Errors
    /// What unshare(2) or opening the namespace said.
    pub fn create() -> io::Result<Self> {
        // unshare moves the calling thread only, so a thread of its own is spent on it.
        let made = std::thread::Builder::new().name("netns".into()).stack_size(64 * 1024).spawn(|| {
            // SAFETY: plain system call; it changes this short-lived thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            std::fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        })?;
        made.join().map_err(|_| io::Error::other("the namespace thread panicked"))?.map(Self)
    }

    /// The network namespace of a running process.
    ///
    /// # Errors
    /// What opening `/proc/<pid>/ns/net` said.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        std::fs::File::open(format!("/proc/{pid}/ns/net")).map(|f| Self(f.into()))
    }

    /// The descriptor, to hand to a process that is to live in it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }
}

/// Runs `f` on a thread inside `netns` and returns what it gave.
///
/// # Errors
/// What spawning the thread or setns(2) said.
pub fn in_netns<T: Send>(netns: &Netns, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("in-netns".into()).spawn_scoped(scope, || {
            // SAFETY: the descriptor is an open network namespace; only this thread moves.
            if unsafe { libc::setns(netns.0.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(f())
        })?;
        thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}
