//! A container's root as it would be mounted, for one that does not run: in a mount namespace that has no process, so that
//! nothing is mounted on the host and nothing is left.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::bundle::{Bundle, MountKind};
use crate::mounts;
use crate::sys::{Failure, Named, check};

/// The root; it is gone when this is dropped.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    /// Keeps the mounts below the root.
    _namespace: OwnedFd,
}

impl View {
    /// Mounts root and bind mounts of the bundle. Without `write` the root can be read only, and what the container wrote is
    /// seen as one more layer: somebody else may write meanwhile.
    ///
    /// # Errors
    /// The mount that failed.
    pub fn open(bundle: &Bundle, write: bool) -> Result<Self, Failure> {
        std::thread::scope(|scope| {
            // Its namespaces are a thread's own, so a thread is spent on it.
            let thread = std::thread::Builder::new()
                .name("view".into())
                .spawn_scoped(scope, || mount(bundle, write))
                .named(|| "start a thread".into())?;
            thread.join().unwrap_or_else(|_| Err(Failure::host("mount the root", std::io::Error::other("broken off"))))
        })
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn mount(bundle: &Bundle, write: bool) -> Result<View, Failure> {
    // SAFETY: changes this short-lived thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()).named(|| "unshare mounts".into())?;
    mounts::detach_from_host()?;
    let root = if write { mounts::root(&bundle.rootfs)? } else { mounts::root_to_read(&bundle.rootfs)? };
    for mount in &bundle.mounts {
        if let MountKind::Bind { from } = &mount.kind {
            // One whose target or source is missing is not there in a container that does not run.
            let shown = match (mount.optional, write) {
                (true, true) => mounts::bind_if_possible(root.as_fd(), from, &mount.at),
                _ => mounts::bind(root.as_fd(), from, &mount.at, mount.read_only),
            };
            if write {
                shown?;
            }
        }
    }
    let namespace = File::open("/proc/thread-self/ns/mnt").named(|| "open the namespace of mounts".into())?;
    // The mounts go with the namespace, whose descriptor is kept. The root was opened as a file: as a path it does as well.
    Ok(View { root, _namespace: namespace.into() })
}

/// The root of a process that runs, as it sees it.
///
/// # Errors
/// It is gone.
pub fn root_of(process: &crate::Process) -> io::Result<OwnedFd> {
    let alive = process.open().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let root = File::open(format!("/proc/{}/root", process.pid))?;
    // Opened while it lived, so it was its own.
    if alive.ended() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(root.into()) }
}
