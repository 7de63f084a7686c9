//! The container's first process, from its birth in new namespaces to execve(2). Single-threaded, and nothing here
//! returns: it becomes the program, or reports what failed and exits.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use crate::bundle::{Bundle, Namespace};
use crate::cgroup::Hierarchies;
use crate::sys::{self, Cause, Failure, Named, c_string, check};
use crate::{mounts, seccomp, socket, terminal, users};

/// Descriptors that the first process starts with.
pub(crate) struct Inherited {
    /// Standard input, output, error.
    pub(crate) stdio: [OwnedFd; 3],
    /// The network namespace to live in.
    pub(crate) netns: Option<OwnedFd>,
    /// One byte comes in once the process is in its cgroups.
    pub(crate) joined: OwnedFd,
    /// What failed goes out here; closed by a successful execve.
    pub(crate) report: OwnedFd,
    /// Where the master of the container's terminal is sent, if it has one.
    pub(crate) console: Option<OwnedFd>,
}

/// What a process becomes.
pub(crate) struct Program<'a> {
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [String],
    pub(crate) identity: &'a users::Identity,
    pub(crate) terminal: bool,
}

/// Becomes the container's program.
pub(crate) fn run(bundle: &Bundle, hierarchies: &Hierarchies, inherited: Inherited) -> ! {
    let Inherited { stdio, netns, joined, report, console } = inherited;
    let mut report = fs::File::from(report);
    let Err(failure) = prepare(bundle, hierarchies, stdio, netns, joined, console, report.as_raw_fd());
    let _ = report.write_all(failure.to_wire().as_bytes());
    // SAFETY: ends this process at once; no destructor of the shim's copy may run.
    unsafe { libc::_exit(127) }
}

fn prepare(
    bundle: &Bundle,
    hierarchies: &Hierarchies,
    stdio: [OwnedFd; 3],
    netns: Option<OwnedFd>,
    joined: OwnedFd,
    console: Option<OwnedFd>,
    report: i32,
) -> Result<Infallible, Failure> {
    // The shim's own protection from the kernel's choice of whom to kill when memory is short is not the container's.
    let _ = fs::write("/proc/self/oom_score_adj", bundle.oom_score_adj.to_string());
    // SAFETY: plain system calls on this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        check(libc::setsid().into()).named(|| "setsid".into())?;
        libc::umask(0o022);
    }
    for (number, fd) in stdio.iter().enumerate() {
        // SAFETY: duplicates onto 0, 1, 2, which are this process's own.
        check(unsafe { libc::dup2(fd.as_raw_fd(), number as i32) }.into())
            .named(|| format!("set descriptor {number}"))?;
    }
    if let Some(netns) = &netns {
        // SAFETY: an open network namespace.
        check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }.into())
            .named(|| "enter the network namespace".into())?;
    }
    mounts::detach_from_host()?;
    let root = mounts::root(&bundle.rootfs)?;
    mounts::proc(root.as_fd(), bundle.network == Namespace::Given)?;
    let null = mounts::populate(root.as_fd(), bundle)?;
    if let Some(console) = &console {
        let (master, slave) = terminal::open(root.as_fd()).named(|| "make a terminal".into())?;
        if let Some((rows, columns)) = bundle.size {
            terminal::resize(&master, rows, columns).named(|| "set the terminal's size".into())?;
        }
        mounts::console(root.as_fd(), &slave)?;
        terminal::adopt(&slave).named(|| "take the terminal".into())?;
        socket::send(console.as_fd(), &[1], &[master.as_raw_fd()], 0).named(|| "hand over the terminal".into())?;
    }

    let mut byte = [0];
    fs::File::from(joined).read_exact(&mut byte).named(|| "wait for the cgroups".into())?;
    // SAFETY: plain system call. After the join, so that the namespace's root is the container's own group.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into()).named(|| "unshare cgroups".into())?;
    mounts::cgroups(root.as_fd(), hierarchies)?;
    mounts::change_root(root.as_fd())?;
    // Nothing of the host's is open from here on: a path through /proc/self/fd must lead nowhere (CVE-2024-21626).
    drop((stdio, netns, console));
    sys::close_all_but(&[root.as_raw_fd(), null.as_raw_fd(), report]);

    if !bundle.stdin && !bundle.terminal {
        terminal::own_null(root.as_fd(), &[0]).named(|| "open /dev/null in the container".into())?;
    }
    let hostname = bundle.hostname.as_bytes();
    // SAFETY: pointer and length describe `hostname`.
    check(unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) }.into())
        .named(|| format!("set host name {:?}", bundle.hostname))?;
    mounts::protect(root.as_fd(), null.as_fd(), bundle.rootfs.read_only)?;
    drop(null);

    let identity = users::resolve(&bundle.user, &bundle.groups).asked(|| format!("look up user {:?}", bundle.user))?;
    let cwd = if bundle.cwd.as_os_str().is_empty() { Path::new("/") } else { &bundle.cwd };
    let what = || format!("enter working directory {}", cwd.display());
    let folder = if bundle.rootfs.read_only {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        sys::openat2_in_root(root.as_fd(), cwd, flags, 0, true).asked(what)?
    } else {
        mounts::make_directory(root.as_fd(), cwd)?
    };
    // SAFETY: an open folder.
    check(unsafe { libc::fchdir(folder.as_raw_fd()) }.into()).asked(what)?;
    drop(folder);

    terminal::own_pipes(identity.uid);
    if bundle.terminal {
        // SAFETY: this process's own terminal.
        unsafe { libc::fchown(0, identity.uid, u32::MAX) };
    }
    become_program(
        bundle,
        &Program { args: &bundle.args, env: &bundle.env, identity: &identity, terminal: bundle.terminal },
        report,
    )
}

/// The last steps, in the container already: privileges go, and the program comes.
pub(crate) fn become_program(bundle: &Bundle, program: &Program<'_>, report: i32) -> Result<Infallible, Failure> {
    let identity = program.identity;
    let variables = users::environment(program.env, &identity.home, &bundle.hostname, program.terminal);
    // A filter loaded without no_new_privs needs CAP_SYS_ADMIN, so it goes before the privileges.
    if bundle.seccomp && !bundle.no_new_privileges {
        seccomp::load(bundle.capabilities).named(|| "load the seccomp filter".into())?;
    }
    for limit in &bundle.rlimits {
        let bounds = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: plain system call on this process; the structure outlives it.
        check(unsafe { libc::setrlimit(limit.number as _, &raw const bounds) }.into())
            .asked(|| format!("set {} to {}:{}", limit.name, limit.soft, limit.hard))?;
    }
    become_user(identity, bundle.capabilities)?;
    // SAFETY: plain system call on this process; changing the user cleared the setting.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if bundle.no_new_privileges {
        // SAFETY: plain system call on this process.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).named(|| "no_new_privs".into())?;
    }
    let path = find_program(&program.args[0], &variables)?;
    let arguments = c_strings(program.args)?;
    let variables = c_strings(&variables)?;
    sys::close_range(3, true);
    debug_assert!(report > 2);
    if bundle.seccomp && bundle.no_new_privileges {
        seccomp::load(bundle.capabilities).named(|| "load the seccomp filter".into())?;
    }
    restore_signals();
    execute(&path, &arguments, &variables)
}

fn c_strings(all: &[String]) -> Result<Vec<CString>, Failure> {
    all.iter().map(|s| c_string(s).asked(|| format!("pass {s:?}"))).collect()
}

fn execute(program: &CString, arguments: &[CString], variables: &[CString]) -> Result<Infallible, Failure> {
    let pointers =
        |all: &[CString]| all.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>();
    let (argv, envp) = (pointers(arguments), pointers(variables));
    // SAFETY: null-terminated arrays of strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let source = io::Error::last_os_error();
    let name = program.to_string_lossy();
    let (what, cause) = match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) if fs::metadata(Path::new(&*name)).is_ok() => {
            (format!("run {name:?}: its interpreter"), Cause::Missing)
        }
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => (format!("run {name:?}"), Cause::Missing),
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ETXTBSY | libc::E2BIG) => {
            (format!("run {name:?}"), Cause::Denied)
        }
        _ => (format!("run {name:?}"), Cause::Host),
    };
    Err(Failure { what, source, cause })
}

/// The program's path: as given if it has a slash, else by the container's own PATH.
fn find_program(name: &str, variables: &[String]) -> Result<CString, Failure> {
    let what = || format!("run {name:?}");
    if name.contains('/') {
        return c_string(name).asked(what);
    }
    let path = variables.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = c_string(format!("{}/{name}", if folder.is_empty() { "." } else { folder })).named(what)?;
        // SAFETY: the string outlives the call.
        match check(unsafe { libc::access(candidate.as_ptr(), libc::X_OK) }.into()) {
            Ok(_) if !fs::metadata(Path::new(&*candidate.to_string_lossy())).is_ok_and(|m| m.is_dir()) => {
                return Ok(candidate);
            }
            Ok(_) => denied = true,
            Err(error) => denied |= error.raw_os_error() == Some(libc::EACCES),
        }
    }
    let (source, cause) = if denied {
        (io::Error::from_raw_os_error(libc::EACCES), Cause::Denied)
    } else {
        (io::Error::new(io::ErrorKind::NotFound, "no such program in $PATH"), Cause::Missing)
    };
    Err(Failure { what: what(), source, cause })
}

fn become_user(identity: &users::Identity, capabilities: u64) -> Result<(), Failure> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let mut last = 0;
    for number in 0..64u32 {
        // The kernel itself says where its capabilities end.
        // SAFETY: plain system call on this process.
        if unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } < 0 {
            break;
        }
        last = number;
        if capabilities & (1 << number) == 0 {
            // SAFETY: plain system call on this process.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into())
                .named(|| format!("drop capability {number}"))?;
        }
    }
    // SAFETY: plain system calls on this process; `groups` is described by its own length.
    unsafe {
        check(libc::setgroups(identity.groups.len(), identity.groups.as_ptr()).into()).named(|| "set groups".into())?;
        check(libc::setresgid(identity.gid, identity.gid, identity.gid).into())
            .named(|| format!("become group {}", identity.gid))?;
        check(libc::setresuid(identity.uid, identity.uid, identity.uid).into())
            .named(|| format!("become user {}", identity.uid))?;
    }
    // Another user than root keeps nothing; root keeps the bounding set. Nothing is inheritable: that would give it to
    // programs with inheritable file capabilities.
    let kept = if identity.uid == 0 { capabilities & ((1 << (last + 1)) - 1) } else { 0 };
    let header = [VERSION, 0];
    let data = [kept as u32, kept as u32, 0, (kept >> 32) as u32, (kept >> 32) as u32, 0];
    // SAFETY: struct __user_cap_header and two struct __user_cap_data, as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })
        .map(drop)
        .named(|| "set capabilities".into())
}

/// The shim blocks and ignores signals; a program expects the defaults.
fn restore_signals() {
    // SAFETY: resets dispositions and mask of this process; failures (KILL, STOP) are of no consequence.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
