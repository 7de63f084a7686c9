//! Processes named so that a number used again is not mistaken for the one meant.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::sys::{check, poll};

/// A process by pid, start time and boot: equal only if it is the very same process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Number in the host's pid namespace.
    pub pid: i32,
    /// Clock ticks between boot and its start (proc(5), field 22 of stat).
    pub started: u64,
    /// The kernel's id of this boot.
    pub boot: String,
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Fields of `/proc/PID/stat` as proc(5) counts them.
const FLAGS_FIELD: usize = 9;
const STARTED_FIELD: usize = 22;
/// Of the flags: it is in its exit (`include/linux/sched.h`).
const PF_EXITING: u64 = 4;

/// A number of `/proc/PID/stat`, from the fourth field on.
fn field_of_stat(pid: impl std::fmt::Display, field: usize) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces and brackets; what follows its last bracket, from the third field on, does not.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(field - 3))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("unreadable /proc stat"))
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    field_of_stat(pid, STARTED_FIELD)
}

impl Process {
    /// Names a running process.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started: start_ticks(pid)?, boot: boot_id()? })
    }

    /// Reads what was saved in `path`; `None` where there is nothing readable.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Opens the process if it still is the very same one; `None` if it is gone.
    pub fn open(&self) -> Option<PidFd> {
        // SAFETY: plain system call.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) }).ok()?;
        // SAFETY: just returned, nobody else's.
        let fd = PidFd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        // Compared after opening: from here on the descriptor can't come to mean another process.
        (start_ticks(self.pid).ok()? == self.started && boot_id().ok()? == self.boot && !fd.ended()).then_some(fd)
    }
}

/// A descriptor of a process (pidfd_open(2)); readable once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Sends a signal. A process that ended meanwhile is no error.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) said.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: plain system call; no signal information is passed.
        match check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, 0, 0) }) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether the process has ended.
    pub fn ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits at most `limit` for the end; whether it has come.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut entry = [libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        poll(&mut entry, Some(limit)).unwrap_or(false)
    }

    /// Whether the process is in its exit or has ended: it has no files, root or control group that could be used any more. The
    /// first process of a pid namespace stays so until the last other one of it is gone, which may take a while.
    pub fn is_exiting(&self) -> bool {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).unwrap_or_default();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        pid.and_then(|pid| field_of_stat(pid, FLAGS_FIELD).ok()).is_none_or(|flags| flags & PF_EXITING != 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Whether a signal reaches the first process of a pid namespace: the kernel discards what it does not handle, ignore or
/// block (pid_namespaces(7)). One that ignores it means to go on for a while, and is given the time.
pub fn delivers_signal(pid: i32, signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    handles_signal(&status, signal)
}

fn handles_signal(status: &str, signal: i32) -> bool {
    let mut masks = status.lines().filter_map(|line| {
        let (key, mask) = line.split_once(':')?;
        ["SigBlk", "SigIgn", "SigCgt"].contains(&key).then(|| u64::from_str_radix(mask.trim(), 16).unwrap_or(u64::MAX))
    });
    masks.any(|mask| mask & 1u64.checked_shl(signal.unsigned_abs() - 1).unwrap_or(0) != 0)
}

#[cfg(test)]
mod tests {
    use super::Process;
    use super::handles_signal;

    #[test]
    fn a_process_is_the_same_only_while_it_lives() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep");
        let process = Process::of(child.id() as i32).expect("process");
        let fd = process.open().expect("runs");
        assert!(!fd.ended() && !fd.is_exiting());
        let other = Process { started: process.started + 1, ..process.clone() };
        assert!(other.open().is_none(), "another start time is another process");
        fd.signal(libc::SIGKILL).expect("kill");
        // Not reaped yet.
        assert!(fd.wait(std::time::Duration::from_secs(10)) && fd.is_exiting());
        child.wait().expect("wait");
        assert!(fd.ended() && fd.is_exiting() && process.open().is_none());
        fd.signal(libc::SIGKILL).expect("killing what has ended is harmless");
    }

    #[test]
    fn a_signal_is_heard_if_it_is_handled_ignored_or_blocked() {
        let status = |blocked: u64, ignored: u64, caught: u64| {
            format!("Name:\tsh\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
        };
        assert!(!handles_signal(&status(0, 1 << 2, 1 << 1), 15));
        assert!(
            handles_signal(&status(1 << 14, 0, 0), 15)
                && handles_signal(&status(0, 1 << 14, 0), 15)
                && handles_signal(&status(0, 0, 1 << 14), 15)
        );
        assert!(handles_signal(&status(0, 0, 1 << 63), 64));
    }
}
