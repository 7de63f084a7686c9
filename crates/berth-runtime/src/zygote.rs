//! The zygote: a process of this program that has one thread and forks shims. The server can't fork safely (it has
//! threads), and a fork of a small process is cheaper than executing a large program.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use std::{fs, mem};

use serde::Deserialize;

use crate::exec::{self, ExecReport, ExecSpec};
use crate::process::Process;
use crate::sys::Failure;
use crate::{socket, sys};

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A step of making it failed.
    #[error("{0}")]
    Failed(Failure),
    /// The shim could not be asked, or said nothing in time.
    #[error("no answer from the container's shim")]
    Shim(#[source] io::Error),
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Started {
    /// Its first process.
    #[serde(rename = "started")]
    pub init: Process,
}

/// The server's end of the zygote. Started again when it has died; containers don't depend on it.
#[derive(Debug)]
pub struct Zygote {
    program: PathBuf,
    /// Where its process is noted, so that the next server can wait for its end.
    note: PathBuf,
    /// Its cgroup.
    apart: String,
    socket: Mutex<OwnedFd>,
}

/// Starts a zygote and notes which process it is, before it is asked for anything.
fn begin(program: &Path, note: &Path, apart: &str) -> io::Result<OwnedFd> {
    let (socket, pid) = spawn(program)?;
    // Shims must not be in the service's cgroup: a service manager ends all that is in there with the server, and waits for it.
    crate::cgroup::stand_apart(pid, apart);
    // One that can't be noted ends with its socket.
    crate::bundle::write_json(note, &Process::of(pid)?)?;
    Ok(socket)
}

fn spawn(program: &Path) -> io::Result<(OwnedFd, i32)> {
    let (ours, theirs) = socket::pair()?;
    // Processes of this program are seen inside containers for moments; the file must not be written to through them.
    let copy = sys::read_only_copy(program)?;
    let program = format!("/proc/self/fd/{}", copy.as_raw_fd());
    // Not waited for: the child ends when our end of the socket closes, and is then reaped by whoever is parent.
    let mut command = Command::new(program);
    command.arg(crate::zygote::ARGUMENT).stdin(Stdio::from(theirs)).stdout(Stdio::null());
    crate::limits::as_before(&mut command);
    let mut child = command.spawn()?;
    let pid = child.id() as i32;
    std::thread::Builder::new().name("zygote-wait".into()).stack_size(64 * 1024).spawn(move || child.wait())?;
    Ok((ours, pid))
}

/// The hidden first argument that makes this program a zygote.
pub(crate) const ARGUMENT: &str = "zygote-of-berth";

impl Zygote {
    /// Starts a zygote from `program`, whose `main` must begin with [`zygote_main`], and notes its process in the file `note`;
    /// so for each that is started in place of one that died. It and the shims are in a cgroup `apart` of their own.
    ///
    /// # Errors
    /// What starting a process said, or the file system.
    pub fn start(program: &Path, note: &Path, apart: &str) -> io::Result<Self> {
        let socket = Mutex::new(begin(program, note, apart)?);
        Ok(Self { program: program.to_owned(), note: note.to_owned(), apart: apart.to_owned(), socket })
    }

    /// Starts the container whose bundle is in `folder` and waits until its program runs. Blocks: a few milliseconds.
    /// The files of an earlier run must be gone ([`files::clear`](crate::files::clear)).
    ///
    /// # Errors
    /// The step that failed; nothing is left of the container then but its folder.
    pub fn start_container(
        &self,
        folder: &Path,
        netns: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Started, StartError> {
        let (answer, report) = sys::pipe().map_err(StartError::Shim)?;
        let mut fds = vec![report.as_raw_fd()];
        fds.extend(netns.map(|fd| fd.as_raw_fd()));
        self.send(RUN, folder, &fds).map_err(StartError::Shim)?;
        drop(report);
        let mut entry = [libc::pollfd { fd: answer.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let answered = sys::poll(&mut entry, Some(limit));
        if !matches!(answered, Ok(true)) {
            if let Some(shim) = Process::load(&folder.join(crate::files::SHIM)).and_then(|p| p.open()) {
                // Its child goes with it (PDEATHSIG).
                let _ = shim.signal(libc::SIGKILL);
            }
            return Err(StartError::Shim(answered.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into())));
        }
        let mut text = String::new();
        fs::File::from(answer).read_to_string(&mut text).map_err(StartError::Shim)?;
        if let Ok(started) = serde_json::from_str::<Started>(&text) {
            return Ok(started);
        }
        match serde_json::from_str::<Failed>(&text) {
            Ok(failed) => Err(StartError::Failed(Failure::from_wire(&failed.failed))),
            Err(_) => Err(StartError::Shim(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Asks for a process in the container whose bundle is in `folder`, and does not wait for it to come up. Blocks for as long
    /// as the zygote is behind.
    ///
    /// # Errors
    /// What asking the zygote said.
    pub fn exec(&self, folder: &Path, spec: &ExecSpec) -> io::Result<Asked> {
        let (report, theirs) = socket::pair()?;
        let file = exec::spec_file(spec)?;
        let null = || fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        let (mut ours, mut child): ([Option<OwnedFd>; 3], Vec<OwnedFd>) = ([None, None, None], Vec::new());
        if !spec.terminal {
            for (number, kept) in ours.iter_mut().enumerate() {
                if spec.detached || (number == 0 && !spec.stdin) {
                    child.push(null()?);
                    continue;
                }
                let (read, write) = sys::pipe()?;
                let (mine, its) = if number == 0 { (write, read) } else { (read, write) };
                *kept = Some(mine);
                child.push(its);
            }
        }
        let mut fds = vec![theirs.as_raw_fd(), file.as_raw_fd()];
        fds.extend(child.iter().map(AsRawFd::as_raw_fd));
        self.send(EXEC, folder, &fds)?;
        Ok(Asked { report, coming: Coming { terminal: None, ours } })
    }

    fn send(&self, kind: u8, folder: &Path, fds: &[i32]) -> io::Result<()> {
        let bytes = [&[kind], folder.as_os_str().as_encoded_bytes()].concat();
        let mut socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match socket::send(socket.as_fd(), &bytes, fds, 0) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => {
                *socket = begin(&self.program, &self.note, &self.apart)?;
                socket::send(socket.as_fd(), &bytes, fds, 0)
            }
            other => other,
        }
    }
}

/// Kinds of requests to the zygote.
const RUN: u8 = b'r';
const EXEC: u8 = b'x';

/// A process that was asked for and has not come up yet. When `report` is closed it does not run, or not any more.
#[derive(Debug)]
pub struct Asked {
    /// Where [`ExecReport`]s come from, [`ExecReport::Ended`] last.
    pub report: OwnedFd,
    /// Our side of it.
    pub coming: Coming,
}

/// Our side of a process that is coming up.
#[derive(Debug)]
pub struct Coming {
    terminal: Option<OwnedFd>,
    ours: [Option<OwnedFd>; 3],
}

impl Coming {
    /// Takes what came from the process (`None`: its attendant has gone) and gives the process once it runs, or why it does not;
    /// `None` while it is still coming up.
    pub fn hear(&mut self, report: Option<(ExecReport, Option<OwnedFd>)>) -> Option<Result<Exec, StartError>> {
        match report {
            None => Some(Err(StartError::Shim(io::ErrorKind::UnexpectedEof.into()))),
            Some((ExecReport::Terminal, master)) => {
                self.terminal = master;
                None
            }
            Some((ExecReport::Failed(text), _)) => Some(Err(StartError::Failed(Failure::from_wire(&text)))),
            Some((ExecReport::Ended(_), _)) => Some(Err(StartError::Shim(io::ErrorKind::InvalidData.into()))),
            Some((ExecReport::Started(process), _)) => {
                let [stdin, stdout, stderr] = std::mem::take(&mut self.ours);
                Some(Ok(Exec { process, terminal: self.terminal.take(), stdin, stdout, stderr }))
            }
        }
    }
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct Exec {
    /// The process.
    pub process: Process,
    /// The master of its terminal, if it has one; all that it reads and writes.
    pub terminal: Option<OwnedFd>,
    /// Its standard input, if it is read.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: Option<OwnedFd>,
    /// Its standard error.
    pub stderr: Option<OwnedFd>,
}

#[derive(Deserialize)]
struct Failed {
    failed: String,
}

/// To be called first thing in `main`, before any thread exists: where the program was started as a zygote it never
/// returns, otherwise it does nothing.
pub fn zygote_main() {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    // SAFETY: plain system calls on this single-threaded process. Shims are not waited for.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"berth-zygote".as_ptr());
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        // The terminal's signals are for the server; this ends with the socket.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let mut buffer = [0; 4096];
    loop {
        // SAFETY: this process was started with its socket as descriptor 0.
        let socket = unsafe { BorrowedFd::borrow_raw(0) };
        match socket::receive(socket, &mut buffer, 0) {
            Ok((0, _)) => std::process::exit(0),
            Ok((length, fds)) if buffer[0] == EXEC => {
                // SAFETY: single-threaded, so the child may go on with any code. Descriptor 0 is the zygote's socket; the
                // child must not hold it.
                unsafe {
                    if libc::fork() == 0 {
                        libc::close(0);
                        mem::forget(fs::File::open("/dev/null"));
                        exec::run(&path_of(&buffer[1..length]), fds);
                    }
                }
            }
            Ok((length, fds)) => {
                let Ok((noted, noting)) = sys::pipe() else { continue };
                // SAFETY: single-threaded, so the child may go on with any code.
                if unsafe { libc::fork() } == 0 {
                    // SAFETY: descriptor 0 is the zygote's socket; the shim must not hold it.
                    unsafe { libc::close(0) };
                    let null = fs::File::open("/dev/null");
                    mem::forget(null);
                    let mut fds = fds.into_iter();
                    let Some(report) = fds.next() else { std::process::exit(1) };
                    drop(noted);
                    crate::shim::run(&path_of(&buffer[1..length]), fds.next(), report, noting);
                }
                // Until the shim is noted on disk: when this process has ended, every shim that it made can be found.
                drop(noting);
                let _ = fs::File::from(noted).read(&mut [0]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::process::exit(1),
        }
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}
