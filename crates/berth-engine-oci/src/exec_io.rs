//! Sessions with processes in containers: descriptors on one side, channels on the other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use berth_engine::{EngineError, ExecInput, ExecOutput, LogOptions, LogReader, LogStream, Session};
use berth_runtime::log::Stream;
use berth_runtime::{Asked, AttachMessage, Attached, ExecReport, ExitStatus, MOST_INPUT, StartError, resize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::lifecycle::start_error;
use crate::output::Output;

/// Pieces that wait for a listener who is slow; then the process waits.
const AHEAD: usize = 8;
const CHUNK: usize = 64 * 1024;
/// How long after a process's end its output may be silent until it counts as over.
const AFTERWARDS: std::time::Duration = std::time::Duration::from_millis(500);

fn watched<T: AsRawFd>(fd: T) -> Result<AsyncFd<T>, EngineError> {
    // SAFETY: a plain system call on an open descriptor.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
    // SAFETY: types handed over here own their descriptor and give the same one for as long as they live.
    let registered =
        unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE) };
    registered.map_err(|e| EngineError::Failed(format!("watch a process: {e}")))
}

fn read(fd: i32, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a buffer with its length.
    let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(read as usize) }
}

fn write(fd: i32, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: bytes with their length.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
}

/// Passes on what comes out of `fd` until its end.
///
/// A process that was left behind may hold it open: once the one that is waited for has `ended`, the pump goes when nothing
/// has come for a while. Time spent waiting for the listener does not count.
async fn pump_out(
    fd: Arc<AsyncFd<OwnedFd>>,
    stream: LogStream,
    said: mpsc::Sender<ExecOutput>,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let over = async {
            let _ = ended.wait_for(|e| *e).await;
            tokio::time::sleep(AFTERWARDS).await;
        };
        let ready = tokio::select! {
            biased;
            ready = fd.readable() => ready,
            () = over => return,
        };
        let Ok(mut ready) = ready else { return };
        match ready.try_io(|fd| read(fd.as_raw_fd(), &mut buffer)) {
            // Not ready after all.
            Err(_) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal that nobody has open any more says EIO.
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(length)) => {
                if said.send(ExecOutput::Output(stream, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| write(fd.as_raw_fd(), rest)) {
            Err(_) => {}
            Ok(Ok(written)) => rest = &rest[written..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

/// What a listener who has the process's terminal or pipes tells it.
async fn pump_in(
    mut told: mpsc::Receiver<ExecInput>,
    mut input: Option<Arc<AsyncFd<OwnedFd>>>,
    terminal: bool,
    process: berth_runtime::Process,
) {
    while let Some(told) = told.recv().await {
        match told {
            ExecInput::Input(bytes) => {
                if let Some(fd) = &input
                    && write_all(fd, &bytes).await.is_err()
                    && !terminal
                {
                    input = None;
                }
            }
            ExecInput::EndOfInput => match &input {
                // What Ctrl-D is on a terminal.
                Some(fd) if terminal => drop(write_all(fd, &[4]).await),
                _ => input = None,
            },
            ExecInput::Resize { rows, columns } => {
                if let Some(fd) = input.as_ref().filter(|_| terminal) {
                    let _ = resize(fd.get_ref().as_fd(), rows, columns);
                }
            }
            ExecInput::Signal(signal) => {
                // It began a session of its own, and so a group: what it has started goes with it.
                if process.open().is_some() {
                    // SAFETY: a plain signal; the process lives, so the group is its own.
                    unsafe { libc::kill(-process.pid, signal) };
                }
            }
        }
    }
}

/// The session of a process that was just begun.
/// A session with a process that was asked for, once it runs. Waits without a thread; dropped, or after `limit`, it leaves no process.
pub(crate) async fn of_exec(asked: Asked, what: &str, limit: std::time::Duration) -> Result<Session, EngineError> {
    let Asked { report, mut coming } = asked;
    let report = watched(report)?;
    let comes_up = async {
        loop {
            let mut ready = report.readable().await.map_err(StartError::Shim)?;
            let Ok(heard) = ready.try_io(|fd| ExecReport::receive(fd.get_ref(), libc::MSG_DONTWAIT)) else { continue };
            if let Some(exec) = coming.hear(heard.map_err(StartError::Shim)?) {
                return exec;
            }
        }
    };
    let exec = match tokio::time::timeout(limit, comes_up).await {
        Ok(Ok(exec)) => exec,
        Ok(Err(StartError::Failed(failure))) => return Err(start_error(failure)),
        Ok(Err(StartError::Shim(source))) => {
            return Err(EngineError::Failed(format!("hear from the process: {source}")));
        }
        Err(_) => return Err(EngineError::Timeout(what.to_owned())),
    };
    let (said, output) = mpsc::channel(AHEAD);
    let (input, told) = mpsc::channel(AHEAD);
    let (over, watched_end) = watch::channel(false);
    let mut pumps = Vec::new();
    let is_terminal = exec.terminal.is_some();
    let into = match exec.terminal {
        Some(master) => {
            let master = Arc::new(watched(master)?);
            pumps.push(tokio::spawn(pump_out(master.clone(), LogStream::Stdout, said.clone(), watched_end.clone())));
            Some(master)
        }
        None => {
            for (fd, stream) in [(exec.stdout, LogStream::Stdout), (exec.stderr, LogStream::Stderr)] {
                if let Some(fd) = fd {
                    pumps.push(tokio::spawn(pump_out(
                        Arc::new(watched(fd)?),
                        stream,
                        said.clone(),
                        watched_end.clone(),
                    )));
                }
            }
            exec.stdin.map(watched).transpose()?.map(Arc::new)
        }
    };
    let inward = tokio::spawn(pump_in(told, into, is_terminal, exec.process));
    tokio::spawn(async move {
        let code = tokio::select! {
            code = ended(&report) => code,
            () = said.closed() => {
                // Nobody listens any more: the terminal, or the pipes, close with the pumps.
                inward.abort();
                pumps.iter().for_each(tokio::task::JoinHandle::abort);
                return;
            }
        };
        // All that it wrote comes first.
        let _ = over.send(true);
        for pump in &mut pumps {
            let _ = pump.await;
        }
        let _ = said.send(ExecOutput::Ended(code)).await;
        inward.abort();
    });
    Ok(Session { output, input })
}

async fn ended(report: &AsyncFd<OwnedFd>) -> i32 {
    loop {
        let Ok(mut ready) = report.readable().await else { return 255 };
        match ready.try_io(|fd| ExecReport::receive(fd.get_ref(), libc::MSG_DONTWAIT)) {
            Err(_) => {}
            Ok(Ok(Some((ExecReport::Ended(code), _)))) => return code,
            Ok(Ok(Some(_))) => {}
            // Its attendant was killed; the process went with it.
            Ok(Ok(None) | Err(_)) => return 255,
        }
    }
}

/// Where a run's output is: its container's folder, and the time of its start.
pub(crate) struct RunLog {
    pub(crate) folder: PathBuf,
    pub(crate) started_at: i64,
}

impl RunLog {
    /// Sends what is in the log from `since` up to and with `until` (nanoseconds since 1970), but for the first bytes of each
    /// stream that were heard already. Whether somebody still listens.
    async fn send(&self, since: i64, until: i64, mut heard: [u64; 2], said: &mpsc::Sender<ExecOutput>) -> bool {
        let options = LogOptions { since: Some(since), until: Some(until.saturating_add(1)), ..LogOptions::default() };
        let Ok(mut log) = Output::open(&self.folder, &options).await else { return true };
        while let Ok(Some(mut line)) = log.next().await {
            if line.ends {
                line.text.push(b'\n');
            }
            let left = &mut heard[usize::from(line.stream == LogStream::Stderr)];
            let known = usize::try_from(*left).unwrap_or(usize::MAX).min(line.text.len());
            *left -= known as u64;
            line.text.drain(..known);
            if !line.text.is_empty() && said.send(ExecOutput::Output(line.stream, line.text)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The end of the run, if its status is on disk.
    fn finished_at(&self) -> i64 {
        ExitStatus::load(&self.folder).ok().flatten().map_or(i64::MAX - 1, |status| status.finished_at)
    }
}

/// Passes on what a container writes: with `from_start` first what is in the log, then what comes live, and at the end what
/// the log has beyond that.
async fn hear(
    attached: &AsyncFd<Attached>,
    run: &RunLog,
    from_start: bool,
    mut ended: watch::Receiver<bool>,
    said: &mpsc::Sender<ExecOutput>,
) {
    let mut joined_at = None;
    let mut heard = [0u64; 2];
    loop {
        let Ok(mut ready) = attached.readable().await else { break };
        match ready.try_io(|fd| fd.get_ref().output()) {
            Err(_) => {}
            Ok(Ok(AttachMessage::Hello(at))) => {
                joined_at = Some(at);
                if from_start && !run.send(run.started_at, at, [0; 2], said).await {
                    return;
                }
            }
            Ok(Ok(AttachMessage::Output(stream, bytes))) => {
                let stream = if stream == Stream::Stderr { LogStream::Stderr } else { LogStream::Stdout };
                heard[usize::from(stream == LogStream::Stderr)] += bytes.len() as u64;
                if said.send(ExecOutput::Output(stream, bytes)).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            // A shim that was killed resets the connection; the log has what it said.
            Ok(Ok(AttachMessage::End) | Err(_)) => break,
        }
    }
    let _ = ended.wait_for(|over| *over).await;
    let since = match joined_at {
        Some(at) => at.saturating_add(1),
        // It ended before it let anybody in.
        None if from_start => run.started_at,
        None => return,
    };
    run.send(since, run.finished_at(), heard, said).await;
}

/// The session with a container's own process. With `from_start` it begins with all that this run has written so far.
pub(crate) fn of_container(
    run: RunLog,
    from_start: bool,
    ended: watch::Receiver<bool>,
) -> Result<Session, EngineError> {
    let attached = match Attached::to(&run.folder) {
        Ok(attached) => attached,
        // The run is at its end.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            return Ok(of_ended(run, from_start, ended));
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(EngineError::NoRoom("too many are attached to this container".into()));
        }
        Err(error) => return Err(EngineError::Failed(format!("attach: {error}"))),
    };
    let attached = Arc::new(watched(attached)?);
    let (said, output) = mpsc::channel(AHEAD);
    let (input, mut told) = mpsc::channel(AHEAD);
    let (hears, listener) = (attached.clone(), said.clone());
    let mut outward = tokio::spawn(async move { hear(&hears, &run, from_start, ended, &said).await });
    tokio::spawn(async move {
        let talk = async {
            while let Some(told) = told.recv().await {
                let done = match told {
                    ExecInput::Input(bytes) => {
                        let mut result = Ok(());
                        for piece in bytes.chunks(MOST_INPUT) {
                            result = tell(&attached, |a| a.input(piece)).await;
                        }
                        result
                    }
                    ExecInput::EndOfInput => tell(&attached, Attached::end).await,
                    ExecInput::Resize { rows, columns } => tell(&attached, |a| a.resize(rows, columns)).await,
                    ExecInput::Signal(_) => Ok(()),
                };
                if done.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = async {
                talk.await;
                // Nothing more to be told; what it still says is heard.
                std::future::pending().await
            } => {}
            // A program that takes no input must not keep a connection that its client has left.
            () = listener.closed() => {}
            _ = &mut outward => {}
        }
        outward.abort();
    });
    Ok(Session { output, input })
}

async fn tell(to: &AsyncFd<Attached>, what: impl Fn(&Attached) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut ready = to.writable().await?;
        if let Ok(result) = ready.try_io(|fd| what(fd.get_ref())) {
            return result;
        }
    }
}

/// The session with a run that has ended, or is about to: what it wrote, if that is asked for.
pub(crate) fn of_ended(run: RunLog, from_start: bool, mut ended: watch::Receiver<bool>) -> Session {
    let (said, output) = mpsc::channel(AHEAD);
    let (input, mut told) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _ = ended.wait_for(|over| *over).await;
        if from_start {
            run.send(run.started_at, run.finished_at(), [0; 2], &said).await;
        }
    });
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    Session { output, input }
}

/// The session with a container that has neither input nor terminal: its output from now on.
pub(crate) fn of_log(mut log: Output, unit: Arc<crate::unit::Unit>) -> Session {
    let (said, output) = mpsc::channel(AHEAD);
    let (input, mut told) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut last = false;
        loop {
            match log.next().await {
                Ok(Some(mut line)) => {
                    if line.ends {
                        line.text.push(b'\n');
                    }
                    if said.send(ExecOutput::Output(line.stream, line.text)).await.is_err() {
                        return;
                    }
                }
                // What was written before the end is read once more.
                Ok(None) if last => return,
                Ok(None) => {
                    last = unit.known().live.is_none();
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
                        () = said.closed() => return,
                    }
                }
                Err(_) => return,
            }
        }
    });
    // Nobody there to tell anything.
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    Session { output, input }
}
