//! A further process in a container that runs. A small process of its own, forked from the zygote, puts it there, waits for
//! it, and tells how it ended; the container's shim has no part in it.
//!
//! ```text
//! server --(SEQPACKET: folder; report, spec, stdio)--> zygote --fork--> attendant --clone3--> process in the container
//!    ^                                                                     |                        | terminal's master
//!    +---- "terminal" (with the master), "started", "ended" or "failed" --+ <----------------------+
//! ```

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::cgroup::{Cgroup, Hierarchies};
use crate::init::{self, Program};
use crate::oci::Other;
use crate::process::{PidFd, Process};
use crate::shim::files;
use crate::shim::hear_out;
use crate::sys::{self, Failure, Named, check, openat2_in_root};
use crate::{socket, terminal, users};

/// A process to be run in a container. Capabilities, filters and limits are the container's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Command and arguments, not empty.
    pub args: Vec<String>,
    /// `KEY=value`, complete.
    pub env: Vec<String>,
    /// Working directory; empty is `/`.
    pub cwd: PathBuf,
    /// As in [`Bundle::user`].
    pub user: String,
    /// Whether it has a terminal of its own.
    pub terminal: bool,
    /// Rows and columns of that, at its beginning.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    /// Whether its standard input comes from the caller; otherwise there is nothing to read.
    pub stdin: bool,
    /// Whether nobody hears it: no input, no output.
    pub detached: bool,
}

/// What the attendant tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecReport {
    /// The terminal's master comes with this.
    Terminal,
    /// It runs.
    Started(Process),
    /// It could not be run: a [`Failure`] as it goes between processes.
    Failed(String),
    /// It has ended, with this exit code (128 + the signal's number where a signal ended it).
    Ended(i32),
}

impl ExecReport {
    pub(crate) fn send(&self, to: &OwnedFd, fds: &[i32]) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        // Nobody hears it if the server has gone: the process runs on all the same.
        let _ = socket::send(to.as_fd(), &text, fds, 0);
    }

    /// The next report; `None` when the attendant is gone. Does not block if `flags` has MSG_DONTWAIT.
    ///
    /// # Errors
    /// What recvmsg(2) said, or that it is not understood.
    pub fn receive(from: &OwnedFd, flags: i32) -> io::Result<Option<(Self, Option<OwnedFd>)>> {
        let mut buffer = vec![0; 16 * 1024];
        let (length, fds) = socket::receive(from.as_fd(), &mut buffer, flags)?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..length])?, fds.into_iter().next())))
    }
}

/// A file in memory that holds the spec: it may be longer than a message.
pub(crate) fn spec_file(spec: &ExecSpec) -> io::Result<File> {
    // SAFETY: a constant name; the descriptor is owned at once.
    let mut file = unsafe {
        let fd = check(libc::memfd_create(c"berth-exec".as_ptr(), libc::MFD_CLOEXEC).into())?;
        File::from_raw_fd(fd as i32)
    };
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    Ok(file)
}

/// The attendant. `fds`: report, spec, and three for standard input, output and error unless there is a terminal.
pub(crate) fn run(folder: &Path, mut fds: Vec<OwnedFd>) -> ! {
    crate::shim::detach(c"berth-exec");
    let _ = std::env::set_current_dir("/");
    if fds.len() >= 2 {
        let report = fds.remove(0);
        let spec = File::from(fds.remove(0));
        match begin(folder, spec, fds, &report) {
            Ok((pid, process)) => {
                ExecReport::Started(process).send(&report, &[]);
                ExecReport::Ended(wait(pid)).send(&report, &[]);
            }
            Err(failure) => ExecReport::Failed(failure.to_wire()).send(&report, &[]),
        }
    }
    // SAFETY: ends this process; it shares nothing that would have to be flushed.
    unsafe { libc::_exit(0) }
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: plain system call on this process's own child.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return 255,
            Ok(_) if libc::WIFSIGNALED(status) => return 128 + libc::WTERMSIG(status),
            Ok(_) => return libc::WEXITSTATUS(status),
        }
    }
}

fn begin(folder: &Path, mut spec: File, stdio: Vec<OwnedFd>, report: &OwnedFd) -> Result<(i32, Process), Failure> {
    let mut text = Vec::new();
    let spec: ExecSpec = spec
        .read_to_end(&mut text)
        .and_then(|_| Ok(serde_json::from_slice(&text)?))
        .named(|| "read the command".into())?;
    let bundle = Bundle::load(folder).named(|| format!("read the bundle in {}", folder.display()))?;
    let gone = || Failure::host("enter the container", io::Error::from_raw_os_error(libc::ESRCH));
    let init = Process::load(&folder.join(files::INIT)).and_then(|p| p.open()).ok_or_else(gone)?;
    let hierarchies = Hierarchies::detect().named(|| "find the cgroups".into())?;
    let cgroup = Cgroup::new(hierarchies, &bundle.cgroup_parent, &bundle.id);
    if let Some(other) = Other::of(folder, &bundle) {
        let root = crate::oci::root_of(Process::load(&folder.join(files::INIT)).ok_or_else(gone)?.pid)?;
        let made = other.exec(&spec, stdio, &root)?;
        if let Some(master) = &made.terminal {
            ExecReport::Terminal.send(report, &[master.as_raw_fd()]);
        }
        return Process::of(made.pid).named(|| "name the process".into()).map(|process| (made.pid, process));
    }
    // From before it can be seen inside until it has become the program: nobody there may look into it (CVE-2019-5736).
    // SAFETY: plain system call on this single-threaded process.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    let pipe = || sys::pipe().named(|| "make pipes".into());
    let ((joined_read, joined_write), (failed_read, failed_write), (born_read, born_write)) =
        (pipe()?, pipe()?, pipe()?);
    let birth_place = cgroup.birth_place()?;
    // The process must be in all of the container's namespaces before it exists in that of the processes: what is seen there
    // of its mounts or its network would be the host's. So a messenger enters them, and the process is born to it, as a child
    // of the attendant.
    // SAFETY: the attendant is single-threaded; so is the messenger.
    let (messenger, messengers) = unsafe { sys::clone3(0, None) }.named(|| "clone a process".into())?;
    if messengers.is_none() {
        drop((joined_write, failed_read, born_read));
        let mut failed = File::from(failed_write);
        let born = enter(&init, bundle.oom_score_adj, birth_place.is_none()).and_then(|()| {
            let flags = libc::CLONE_PARENT as u64;
            // SAFETY: as above.
            let cloned = unsafe { sys::clone3(flags, birth_place.as_ref().map(std::os::fd::AsFd::as_fd)) };
            cloned.named(|| "clone a process in the container".into())
        });
        let failure = match born {
            Ok((_, None)) => {
                // Below the cgroup namespace's root the kernel would not find the group that the process is born in.
                let entered = if birth_place.is_some() { enter_spaces(&init, libc::CLONE_NEWCGROUP) } else { Ok(()) };
                drop((born_write, birth_place));
                let Err(failure) = entered
                    .and_then(|()| become_process(&bundle, &spec, stdio, joined_read, report, failed.as_raw_fd()));
                failure
            }
            Ok((pid, Some(_))) => {
                let _ = File::from(born_write).write_all(&pid.to_ne_bytes());
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(0) }
            }
            Err(failure) => failure,
        };
        let _ = failed.write_all(failure.to_wire().as_bytes());
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(127) }
    }
    drop((stdio, joined_read, failed_write, born_write, birth_place));
    let mut number = [0; 4];
    let born = File::from(born_read).read_exact(&mut number).map(|()| i32::from_ne_bytes(number));
    wait(messenger);
    let Ok(pid) = born else {
        let mut said = String::new();
        File::from(failed_read).read_to_string(&mut said).named(|| "read from the process".into())?;
        return Err(Failure::from_wire(&said));
    };
    let heard = hear_out(pid, cgroup.join(pid), joined_write, || {
        wait_for_either(&failed_read, report)?;
        Ok(failed_read)
    });
    let named = heard.and_then(|()| Process::of(pid).named(|| "name the process".into()));
    if named.is_err() {
        // SAFETY: plain system calls on this process's own child.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    named.map(|process| (pid, process))
}

fn enter_spaces(container: &PidFd, spaces: i32) -> Result<(), Failure> {
    // SAFETY: plain system call on this single-threaded process.
    let entered = check(unsafe { libc::setns(container.as_raw_fd(), spaces) }.into());
    entered.map(drop).named(|| "enter the container".into())
}

/// Enters the namespaces of a container: its processes' for children only, its cgroups' only if asked.
fn enter(container: &PidFd, score: i32, cgroups: bool) -> Result<(), Failure> {
    // While the host's /proc is still there.
    let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    let spaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET | libc::CLONE_NEWPID;
    enter_spaces(container, if cgroups { spaces | libc::CLONE_NEWCGROUP } else { spaces })
}

/// Until the process has said something (or become the program), or whoever asked for it has given up: then it must not run
/// any more.
fn wait_for_either(process: &OwnedFd, asker: &OwnedFd) -> Result<(), Failure> {
    let entry = |fd: &OwnedFd, events| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    let mut polled = [entry(process, libc::POLLIN), entry(asker, 0)];
    loop {
        sys::poll(&mut polled, None).named(|| "wait for the process".into())?;
        if polled[0].revents != 0 {
            return Ok(());
        }
        if polled[1].revents != 0 {
            return Err(Failure::host("run the process", io::ErrorKind::TimedOut.into()));
        }
    }
}

/// In the child: becomes the program, or says why not.
fn become_process(
    bundle: &Bundle,
    spec: &ExecSpec,
    stdio: Vec<OwnedFd>,
    joined: OwnedFd,
    report: &OwnedFd,
    failed: i32,
) -> Result<Infallible, Failure> {
    File::from(joined).read_exact(&mut [0]).named(|| "wait for the cgroups".into())?;
    // SAFETY: plain system calls on this single-threaded process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        check(libc::setsid().into()).named(|| "setsid".into())?;
        libc::umask(0o022);
    }
    // Entering a mount namespace leads to its root: the container's.
    let root: OwnedFd = fs::File::open("/").named(|| "open the container's root".into())?.into();
    if spec.terminal {
        let (master, slave) = terminal::open(root.as_fd()).named(|| "make a terminal".into())?;
        if let Some((rows, columns)) = spec.size {
            terminal::resize(&master, rows, columns).named(|| "size the terminal".into())?;
        }
        terminal::adopt(&slave).named(|| "take the terminal".into())?;
        ExecReport::Terminal.send(report, &[master.as_raw_fd()]);
    } else {
        for (number, fd) in stdio.iter().enumerate() {
            // SAFETY: duplicates onto 0, 1, 2, which are this process's own.
            check(unsafe { libc::dup2(fd.as_raw_fd(), number as i32) }.into())
                .named(|| format!("set descriptor {number}"))?;
        }
    }
    drop(stdio);
    // Nothing of the host's is open from here on (CVE-2024-21626).
    sys::close_all_but(&[root.as_raw_fd(), failed]);

    let silent: &[i32] = match (spec.terminal, spec.detached, spec.stdin) {
        (true, ..) => &[],
        (false, true, _) => &[0, 1, 2],
        (false, false, false) => &[0],
        (false, false, true) => &[],
    };
    terminal::own_null(root.as_fd(), silent).named(|| "open /dev/null in the container".into())?;
    let identity = users::resolve(&spec.user, &bundle.groups).asked(|| format!("look up user {:?}", spec.user))?;
    let cwd = if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd };
    let what = || format!("enter working directory {}", cwd.display());
    let place = openat2_in_root(root.as_fd(), cwd, libc::O_PATH | libc::O_DIRECTORY, 0, true).asked(what)?;
    terminal::own_pipes(identity.uid);
    // SAFETY: an open folder, and this process's own terminal.
    unsafe {
        check(libc::fchdir(place.as_raw_fd()).into()).asked(what)?;
        if spec.terminal {
            libc::fchown(0, identity.uid, u32::MAX);
        }
    }
    drop((place, root));
    let program = Program { args: &spec.args, env: &spec.env, identity: &identity, terminal: spec.terminal };
    init::become_program(bundle, &program, failed)
}
