//! Open files: a server needs many, its containers get what they would have had without it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

static BEFORE: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises this process's limit of open files as far as it may; what is started through a zygote keeps the limit of before.
///
/// # Errors
/// What `setrlimit` said; the limit is as it was.
pub fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = *BEFORE.get_or_init(|| limit);
    let raised = libc::rlimit { rlim_cur: before.rlim_max, ..before };
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How many files this process has open, and how many it may have; `None` where the kernel does not tell.
pub fn open_files() -> Option<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return None;
    }
    // Since Linux 6.2 the folder's size is their number (proc_pid_fd(5)); before it is 0.
    let open = match std::fs::metadata("/proc/self/fd").ok()?.len() {
        0 => std::fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        open => open,
    };
    Some((open, limit.rlim_cur))
}

/// Gives a program the limit of before.
pub(crate) fn as_before(command: &mut Command) {
    if let Some(before) = BEFORE.get().copied() {
        // SAFETY: `setrlimit` is safe to call between fork and exec.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const before) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    }
}
