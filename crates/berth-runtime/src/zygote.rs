//! The zygote: a process of this program that has one thread and forks shims. The server can't fork safely (it has
//! threads), and a fork of a small process is cheaper than executing a large program.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use std::{fs, mem};

use serde::Deserialize;

use crate::process::Process;
use crate::sys::{self, check};

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A step of making it failed; the text is the step, the value and the system's word.
    #[error("{0}")]
    Failed(String),
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
    pid: i32,
    socket: Mutex<OwnedFd>,
}

fn spawn(program: &Path) -> io::Result<(OwnedFd, i32)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors; both are owned below.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    check(result.into())?;
    // SAFETY: socketpair(2) just returned them.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
    // Not waited for: the child ends when our end of the socket closes, and is then reaped by whoever is parent.
    let mut child =
        Command::new(program).arg(crate::zygote::ARGUMENT).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
    let pid = child.id() as i32;
    std::thread::Builder::new().name("zygote-wait".into()).stack_size(64 * 1024).spawn(move || child.wait())?;
    Ok((ours, pid))
}

/// The hidden first argument that makes this program a zygote.
pub(crate) const ARGUMENT: &str = "zygote-of-berth";

impl Zygote {
    /// Starts a zygote from `program`, whose `main` must begin with [`zygote_main`].
    ///
    /// # Errors
    /// What starting a process said.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (socket, pid) = spawn(program)?;
        Ok(Self { program: program.to_owned(), pid, socket: Mutex::new(socket) })
    }

    /// Notes which process it is.
    ///
    /// # Errors
    /// What the file system said.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        crate::bundle::write_json(path, &Process::of(self.pid)?)
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
        let path = folder.as_os_str().as_encoded_bytes();
        let mut fds = vec![report.as_raw_fd()];
        fds.extend(netns.map(|fd| fd.as_raw_fd()));
        self.send(path, &fds).map_err(StartError::Shim)?;
        drop(report);
        let mut poll = libc::pollfd { fd: answer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as said.
        let ready = unsafe { libc::poll(&raw mut poll, 1, i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)) };
        if ready == 0 {
            if let Some(shim) = Process::load(&folder.join(crate::files::SHIM)).and_then(|p| p.open()) {
                // Its child goes with it (PDEATHSIG).
                let _ = shim.signal(libc::SIGKILL);
            }
            return Err(StartError::Shim(io::ErrorKind::TimedOut.into()));
        }
        let mut text = String::new();
        fs::File::from(answer).read_to_string(&mut text).map_err(StartError::Shim)?;
        if let Ok(started) = serde_json::from_str::<Started>(&text) {
            return Ok(started);
        }
        match serde_json::from_str::<Failed>(&text) {
            Ok(failed) => Err(StartError::Failed(failed.failed)),
            Err(_) => Err(StartError::Shim(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn send(&self, bytes: &[u8], fds: &[i32]) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match send_with_fds(socket.as_raw_fd(), bytes, fds) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) => {
                *socket = spawn(&self.program)?.0;
                send_with_fds(socket.as_raw_fd(), bytes, fds)
            }
            other => other,
        }
    }
}

#[derive(Deserialize)]
struct Failed {
    failed: String,
}

/// Room for two descriptors, aligned as a control message must be.
type Control = [u64; 4];

fn send_with_fds(socket: i32, bytes: &[u8], fds: &[i32]) -> io::Result<()> {
    let mut control: Control = [0; 4];
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to locals that outlive the call; the control buffer has room for two descriptors.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as usize;
        std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        check(libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) as i64).map(drop)
    }
}

fn receive_with_fds(socket: i32, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; 4];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to locals that outlive the call; descriptors received are owned from here on.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = check(libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) as i64)?;
        let mut fds = Vec::new();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
            for index in 0..count {
                let fd = libc::CMSG_DATA(header).cast::<i32>().add(index).read_unaligned();
                fds.push(OwnedFd::from_raw_fd(fd));
            }
        }
        Ok((length as usize, fds))
    }
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
        match receive_with_fds(0, &mut buffer) {
            Ok((0, _)) => std::process::exit(0),
            Ok((length, fds)) => {
                let Ok((noted, noting)) = sys::pipe() else { continue };
                // SAFETY: single-threaded, so the child may go on with any code.
                if unsafe { libc::fork() } == 0 {
                    let path = buffer[..length].to_vec();
                    // SAFETY: descriptor 0 is the zygote's socket; the shim must not hold it.
                    unsafe { libc::close(0) };
                    let null = fs::File::open("/dev/null");
                    mem::forget(null);
                    use std::os::unix::ffi::OsStringExt;
                    let mut fds = fds.into_iter();
                    let Some(report) = fds.next() else { std::process::exit(1) };
                    drop(noted);
                    crate::shim::run(Path::new(&std::ffi::OsString::from_vec(path)), fds.next(), report, noting);
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
