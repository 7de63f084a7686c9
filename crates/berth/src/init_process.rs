//! `berth init-process`: the first process of a container that asks for one (`--init`). Passes signals on to the command and waits
//! for every process that lost its parent.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

/// Signals that are not the command's: those of this process itself, and those that stop and continue it.
const OWN: [i32; 9] = [
    libc::SIGCHLD,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

fn all_signals() -> libc::sigset_t {
    // SAFETY: the set is written by the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in OWN.into_iter().filter(|signal| *signal != libc::SIGCHLD) {
            libc::sigdelset(&raw mut set, signal);
        }
        set
    }
}

extern "C" fn nothing(_signal: i32) {}

/// Runs the command to its end; its exit code, 128 + the signal's number where a signal ended it.
pub(crate) fn run(command: &[String]) -> Result<i32, String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let set = all_signals();
    // A first process gets no signal that it does not handle, and whoever stops the container looks for that (SigCgt): while it
    // waits for them they are not blocked. The handler itself never runs.
    // SAFETY: this process has one thread; handlers and mask are put back in the child before it becomes the command.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        for signal in (1..=64).filter(|signal| libc::sigismember(&raw const set, *signal) == 1) {
            libc::signal(signal, nothing as *const () as libc::sighandler_t);
        }
    }
    let mut child = Command::new(program);
    child.args(arguments);
    // SAFETY: only calls that may be made between fork and exec.
    unsafe {
        child.pre_exec(move || {
            // A group of its own, in front of the terminal, so that Ctrl-C is the command's.
            libc::setpgid(0, 0);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpid());
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            Ok(())
        });
    }
    let child = child.spawn().map_err(|error| not_run(program, &error))?;
    let main = child.id().cast_signed();
    loop {
        let mut signal = 0;
        // SAFETY: waits for a signal of the set, which is blocked.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
            continue;
        }
        if signal != libc::SIGCHLD {
            // To the command alone, which tells its own processes when it is time for them.
            // SAFETY: plain system call.
            unsafe { libc::kill(main, signal) };
            continue;
        }
        loop {
            let mut status = 0;
            // SAFETY: waits for any child that has ended.
            let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if ended <= 0 {
                break;
            }
            if ended == main {
                let status = ExitStatus::from_raw(status);
                return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
            }
        }
    }
}

/// As a shell tells why a program can't be run.
fn not_run(program: &str, error: &io::Error) -> String {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    eprintln!("{program}: {error}");
    std::process::exit(code)
}
