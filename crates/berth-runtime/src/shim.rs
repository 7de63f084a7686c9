//! The shim: makes one container, keeps its output, waits for its end. Forked from the zygote, single-threaded, and it
//! lives exactly as long as the container.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::attach::Hub;
use crate::bundle::{Bundle, ExitStatus, Namespace, Traffic, write_json};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::init::{self, Inherited};
use crate::log::{self, Stream, Writer};
use crate::oci::Other;
use crate::process::Process;
use crate::socket;
use crate::sys::{self, Failure, Named, check};

/// Names of the files in a container's folder.
pub mod files {
    /// What the container is made of.
    pub const BUNDLE: &str = "bundle.json";
    /// The shim's [`Process`](crate::Process).
    pub const SHIM: &str = "shim.json";
    /// The [`Process`](crate::Process) of the container's first process.
    pub const INIT: &str = "init.json";
    /// How the container ended.
    pub const STATUS: &str = "status.json";
    /// Room on disk for that, taken before the container runs: its end is noted on a full disk, too.
    pub(crate) const STATUS_ROOM: &str = "status.room";

    /// Removes what the last run left, before another one.
    ///
    /// # Errors
    /// What the file system said.
    pub fn clear(folder: &std::path::Path) -> std::io::Result<()> {
        for name in [STATUS, STATUS_ROOM, SHIM, INIT] {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Runs one container from start to end. `report` hears `{"started": …}` or `{"failed": …}` once, then closes;
/// `noting` closes when the shim is noted on disk.
pub(crate) fn run(folder: &Path, netns: Option<OwnedFd>, report: OwnedFd, noting: OwnedFd) -> ! {
    detach(c"berth-shim");
    let noted = note(folder);
    drop(noting);
    let _ = std::env::set_current_dir("/");
    // Best effort: without CAP_SYS_RESOURCE the kernel refuses. The container must be killed before its shim; its first
    // process sets itself back.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    let mut report = File::from(report);
    match noted.and_then(|()| start(folder, netns)) {
        Ok(running) => {
            let answer = serde_json::json!({ "started": running.init });
            let _ = report.write_all(answer.to_string().as_bytes());
            drop(report);
            running.attend(folder);
        }
        Err(failure) => {
            let answer = serde_json::json!({ "failed": failure.to_wire() });
            let _ = report.write_all(answer.to_string().as_bytes());
        }
    }
    // SAFETY: ends this process; it shares nothing that would have to be flushed.
    unsafe { libc::_exit(0) }
}

/// Makes a process that was just forked from the zygote independent of it and of the server.
pub(crate) fn detach(name: &CStr) {
    // SAFETY: plain system calls on this freshly forked process: out of the zygote's session, alive without its parent,
    // children waited for again.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
    // The server's standard error and folder are not to be held for the process's whole life.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        // SAFETY: duplicates onto 1 and 2, which are this process's own.
        unsafe {
            libc::dup2(null.as_raw_fd(), 1);
            libc::dup2(null.as_raw_fd(), 2);
        }
    }
}

/// First of all: whoever looks for this shim finds it by this file.
fn note(folder: &Path) -> Result<(), Failure> {
    Process::of(std::process::id() as i32)
        .and_then(|own| write_json(&folder.join(files::SHIM), &own))
        .named(|| "note the shim".into())?;
    fs::write(folder.join(files::STATUS_ROOM), [b' '; ROOM]).named(|| "reserve space for the exit status".into())
}

/// Bytes of room for the exit status.
const ROOM: usize = 1024;

/// Writes the status into the room that was kept for it: no new block of the disk is needed. Where that does not do (a file system that
/// never writes in place) it is tried anew for a while.
fn keep_status(folder: &Path, status: &ExitStatus) -> io::Result<()> {
    let room = folder.join(files::STATUS_ROOM);
    let mut text = serde_json::to_vec(status)?;
    text.resize(text.len().max(ROOM), b' ');
    let in_place = File::options()
        .write(true)
        .open(&room)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&room, folder.join(files::STATUS)));
    if in_place.is_ok() {
        return Ok(());
    }
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match write_json(&folder.join(files::STATUS), status) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}

struct Running {
    init: Process,
    pidfd: OwnedFd,
    output: [Option<File>; 2],
    hub: Option<Hub>,
    log: Writer,
    cgroup: Cgroup,
    /// Kept until the counters of the last moment are read.
    netns: Option<OwnedFd>,
    bundle: Bundle,
}

fn start(folder: &Path, netns: Option<OwnedFd>) -> Result<Running, Failure> {
    let bundle = Bundle::load(folder).named(|| format!("read the bundle in {}", folder.display()))?;
    if bundle.args.is_empty() {
        return Err(Failure::request("run the container", io::Error::other("no command")));
    }
    let log = Writer::open(folder, bundle.log).named(|| "open the log".into())?;
    let hierarchies = Hierarchies::detect().named(|| "find the cgroups".into())?;
    let cgroup = Cgroup::new(hierarchies.clone(), &bundle.cgroup_parent, &bundle.id);
    let started = cgroup
        .create(&bundle.limits)
        .and_then(|()| count(&bundle, &cgroup))
        .and_then(|()| spawn(folder, &bundle, &hierarchies, &cgroup, netns.as_ref()));
    let Spawned { pid, pidfd, output, hub } = match started {
        Ok(started) => started,
        Err(failure) => {
            let _ = cgroup.remove();
            return Err(failure);
        }
    };
    let init = Process::of(pid).named(|| "name the container's first process".into()).and_then(|init| {
        write_json(&folder.join(files::INIT), &init).map(|()| init).named(|| "note the container".into())
    });
    match init {
        Ok(init) => Ok(Running { init, pidfd, output, hub, log, cgroup, netns, bundle }),
        Err(failure) => {
            // A child that was not waited for keeps its number, so this is still the one.
            // SAFETY: plain system calls on this process's own child.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            let _ = cgroup.remove();
            Err(failure)
        }
    }
}

/// A container in the host's network is counted by its cgroup. A host that can't count runs it all the same.
fn count(bundle: &Bundle, cgroup: &Cgroup) -> Result<(), Failure> {
    if bundle.network == Namespace::Host {
        let _ = cgroup.count_traffic();
    }
    Ok(())
}

struct Spawned {
    pid: i32,
    pidfd: OwnedFd,
    output: [Option<File>; 2],
    hub: Option<Hub>,
}

fn spawn(
    folder: &Path,
    bundle: &Bundle,
    hierarchies: &Hierarchies,
    cgroup: &Cgroup,
    netns: Option<&OwnedFd>,
) -> Result<Spawned, Failure> {
    let what = || "make pipes".to_owned();
    let null: OwnedFd = File::open("/dev/null").named(|| "open /dev/null".into())?.into();
    let (input, input_write) = if bundle.stdin && !bundle.terminal {
        sys::pipe().named(what).map(|(read, write)| (read, Some(File::from(write))))?
    } else {
        (null, None)
    };
    let console = if bundle.terminal { Some(socket::pair().named(what)?) } else { None };
    let (out_read, out_write) = sys::pipe().named(what)?;
    let (err_read, err_write) = sys::pipe().named(what)?;
    let (joined_read, joined_write) = sys::pipe().named(what)?;
    let (report_read, report_write) = sys::pipe().named(what)?;
    if let Some(other) = Other::of(folder, bundle) {
        drop((joined_read, joined_write, report_read, report_write, console));
        let made = other.create([input, out_write, err_write], netns)?;
        let begun = || -> Result<Spawned, Failure> {
            // The counting group of a container in the host's network is none of the runtime's.
            cgroup.join_counting(made.pid)?;
            other.start()?;
            let out = || "listen for who attaches".to_owned();
            let (output, hub) = match made.terminal {
                Some(master) => {
                    let master = File::from(master);
                    let input = master.try_clone().named(out)?;
                    ([Some(master), None], Some(Hub::open(folder, Some(input), true).named(out)?))
                }
                None => {
                    let hub = bundle.stdin.then(|| Hub::open(folder, input_write, false)).transpose().named(out)?;
                    ([Some(File::from(out_read)), Some(File::from(err_read))], hub)
                }
            };
            Ok(Spawned { pid: made.pid, pidfd: made.pidfd, output, hub })
        };
        let begun = begun();
        if begun.is_err() {
            other.delete();
        }
        return begun;
    }
    let birth_place = cgroup.birth_place()?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: the shim is single-threaded.
    let cloned = unsafe { sys::clone3(flags as u64, birth_place.as_ref().map(std::os::fd::AsFd::as_fd)) };
    let (pid, pidfd) = cloned.named(|| "clone the container's first process".into())?;
    let Some(pidfd) = pidfd else {
        // The child. Ends of pipes that belong to the shim would keep them open for ever.
        drop((out_read, err_read, joined_write, report_read, birth_place, input_write));
        // SAFETY: a descriptor that the shim keeps; this is the child's own copy of the table.
        let netns = netns.map(|fd| unsafe { std::os::fd::FromRawFd::from_raw_fd(fd.as_raw_fd()) });
        let inherited = Inherited {
            stdio: [input, out_write, err_write],
            netns,
            joined: joined_read,
            report: report_write,
            console: console.map(|(_, theirs)| theirs),
        };
        init::run(bundle, hierarchies, inherited);
    };
    drop((input, out_write, err_write, joined_read, report_write));
    let console = console.map(|(ours, _)| ours);
    let heard = hear_out(pid, cgroup.join(pid), joined_write, || Ok(report_read));
    let result = heard.and_then(|()| {
        let out = || "listen for who attaches".to_owned();
        let Some(console) = console else {
            let hub = bundle.stdin.then(|| Hub::open(folder, input_write, false)).transpose().named(out)?;
            return Ok(([Some(File::from(out_read)), Some(File::from(err_read))], hub));
        };
        // It was sent before the program began.
        let (_, fds) = socket::receive(console.as_fd(), &mut [0], libc::MSG_DONTWAIT)
            .named(|| "get the container's terminal".into())?;
        let master = fds
            .into_iter()
            .next()
            .ok_or_else(|| Failure::host("get the container's terminal", io::Error::other("none came")))?;
        let master = File::from(master);
        let input = master.try_clone().named(out)?;
        Ok(([Some(master), None], Some(Hub::open(folder, Some(input), true).named(out)?)))
    });
    match result {
        Ok((output, hub)) => Ok(Spawned { pid, pidfd, output, hub }),
        Err(failure) => {
            // SAFETY: plain system calls on this process's own child.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            Err(failure)
        }
    }
}

/// Lets a child that waits for its cgroups go on, and hears what it says: nothing once it has become the program. Its own word
/// comes first: where it failed before it waited, letting it go on fails as well, and says nothing of the reason. `report` is
/// called when it may be read.
pub(crate) fn hear_out(
    pid: i32,
    joined: Result<(), Failure>,
    go_on: OwnedFd,
    report: impl FnOnce() -> Result<OwnedFd, Failure>,
) -> Result<(), Failure> {
    let mut go_on = File::from(go_on);
    let told = joined.and_then(|()| go_on.write_all(&[1]).named(|| "release the process".into()));
    if told.is_err() {
        // It may wait for a word that does not come.
        // SAFETY: this process's own child, which was not waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    drop(go_on);
    let mut said = String::new();
    File::from(report()?).read_to_string(&mut said).named(|| "read from the process".into())?;
    if said.is_empty() { told } else { Err(Failure::from_wire(&said)) }
}

/// Time that a container has to end when the machine does.
const GRACE: Duration = Duration::from_secs(10);

impl Running {
    /// Until the first process has ended: output to the log, children waited for. Then the status, then the clean-up.
    fn attend(mut self, folder: &Path) {
        let pid = self.init.pid;
        let mut buffer = vec![0; 64 * 1024];
        let mut ended = None;
        // What is still in the pipes after the end is read; a process that left the pid namespace's reach is not waited for.
        let mut rounds_after_end = 0;
        let mut idle = false;
        let mut polled = Vec::new();
        // Told to end by the host's first process, which ends the machine, the shim ends the container, and its run is noted.
        let told = sys::signal_fd(libc::SIGTERM).ok();
        // SAFETY: a plain system call; the process is this one's own child, which was not waited for.
        let kill = |signal| unsafe { libc::kill(pid, signal) };
        let mut deadline: Option<Instant> = None;
        loop {
            let fd = |file: &Option<File>| file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // Once it has ended, what it said last goes to the log whoever else listens.
            let blocked = ended.is_none() && self.hub.as_ref().is_some_and(Hub::is_blocked);
            let output = |n: usize| if blocked { -1 } else { fd(&self.output[n]) };
            polled.clear();
            polled.extend([
                entry(output(0)),
                entry(output(1)),
                entry(if ended.is_none() { self.pidfd.as_raw_fd() } else { -1 }),
                entry(told.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            ]);
            if let Some(hub) = &self.hub {
                hub.polled(&mut polled);
            }
            let limit = if ended.is_some() {
                20
            } else if blocked {
                1000
            } else if self.log.has_pending() {
                50
            } else {
                -1
            };
            let mut limit = u64::try_from(limit).ok().map(Duration::from_millis);
            if let Some(deadline) = deadline.filter(|_| ended.is_none()) {
                let left = deadline.saturating_duration_since(Instant::now());
                limit = Some(limit.map_or(left, |limit| limit.min(left)));
            }
            let ready = sys::poll(&mut polled, limit).unwrap_or_else(|_| {
                // The kernel is out of memory, perhaps: counts as a round in which nothing came.
                std::thread::sleep(Duration::from_millis(10));
                polled.iter_mut().for_each(|entry| entry.revents = 0);
                false
            });
            if let Some(hub) = &mut self.hub {
                hub.serve(&polled[4..], &mut self.log);
            }
            let by_first = polled[3].revents != 0 && told.as_ref().and_then(sys::sender).is_some_and(|pid| pid <= 1);
            if by_first && ended.is_none() && deadline.is_none() {
                let _ = self.cgroup.freeze(false);
                let heard = crate::delivers_signal(pid, libc::SIGTERM);
                kill(if heard { libc::SIGTERM } else { libc::SIGKILL });
                deadline = Some(Instant::now() + GRACE);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) && ended.is_none() {
                kill(libc::SIGKILL);
                deadline = Some(Instant::now() + GRACE);
            }
            if !ready {
                // A character that is not completed by the second time never will be.
                self.log.flush(idle);
            }
            idle = !ready;
            for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
                if polled[index].revents == 0 {
                    continue;
                }
                match self.output[index].as_mut().map(|file| file.read(&mut buffer)) {
                    Some(Ok(length)) if length > 0 => {
                        self.log.take(stream, &buffer[..length]);
                        if let Some(hub) = &mut self.hub {
                            hub.tell(stream, &buffer[..length]);
                        }
                    }
                    Some(Err(error))
                        if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                    _ => self.output[index] = None,
                }
            }
            if polled[2].revents & libc::POLLIN != 0 {
                let mut status = 0;
                // SAFETY: plain system call on this process's own child.
                match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
                    Ok(_) => ended = Some(status),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Nobody knows how it ended.
                    Err(_) => ended = Some(255 << 8),
                }
            }
            if let Some(status) = ended {
                rounds_after_end += u32::from(!ready);
                if self.output.iter().all(Option::is_none) || rounds_after_end > 10 {
                    self.log.flush(true);
                    if let Some(hub) = self.hub.take() {
                        hub.close(&mut self.log);
                    }
                    finish(folder, &self.bundle, &self.cgroup, status, self.netns.as_ref());
                    return;
                }
            }
        }
    }
}

/// The counters of `eth0`, whose namespace ends with this process.
fn traffic(netns: &OwnedFd) -> Option<Traffic> {
    // SAFETY: an open network namespace; this single-threaded process does nothing else with the network.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }.into()).ok()?;
    Traffic::of_interface(&fs::read_to_string("/proc/self/net/dev").ok()?, "eth0")
}

fn finish(folder: &Path, bundle: &Bundle, cgroup: &Cgroup, status: i32, netns: Option<&OwnedFd>) {
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    let code = signal.map_or_else(|| libc::WEXITSTATUS(status), |signal| 128 + signal);
    let traffic = match netns {
        Some(netns) => traffic(netns),
        None => cgroup.traffic(),
    };
    let status = ExitStatus { code, signal, oom_kills: cgroup.oom_kills(), finished_at: log::now_ns(), traffic };
    let _ = keep_status(folder, &status);
    if let Some(other) = Other::of(folder, bundle) {
        other.delete();
    }
    let _ = cgroup.remove();
}
