//! System calls from inside a container, one by one, by the built-in runtime and by runc: both have the same filter.

use std::collections::BTreeMap;
use std::os::fd::FromRawFd;

use berth_testkit::{Server, has_program, image, is_root};
use serde_json::json;

/// Set in the container: this very program is what runs there.
const PROBE: &str = "BERTH_PROBE";
/// The last call that is tried.
const LAST: i64 = 480;
/// Newest call that the filter generator of Debian 12's runc (libseccomp 2.5.4) knows; what is newer it tells not to exist.
const LAST_OF_RUNC: i64 = 450;

/// Calls that end or suspend the caller, or make another one of it.
const LEFT_OUT: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_rt_sigreturn,
    libc::SYS_sync,
    libc::SYS_rt_sigsuspend,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pause,
];

/// The errno of a call in a process of its own; 0 for success, -1 where it did not come back.
fn errno_of(number: i64, arguments: [i64; 6]) -> i32 {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors. The child makes plain system calls and ends.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        if child == 0 {
            libc::alarm(2);
            let [a, b, c, d, e, f] = arguments;
            let result = libc::syscall(number, a, b, c, d, e, f);
            let errno = if result == -1 { *libc::__errno_location() } else { 0 };
            libc::write(ends[1], (&raw const errno).cast(), 4);
            libc::_exit(0);
        }
        libc::close(ends[1]);
        let mut bytes = [0; 4];
        let mut from = std::fs::File::from_raw_fd(ends[0]);
        let read = std::io::Read::read_exact(&mut from, &mut bytes);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        if read.is_ok() { i32::from_ne_bytes(bytes) } else { -1 }
    }
}

/// Does nothing but in a container that the other test makes: there it tells the errno of every call.
#[test]
fn probe() {
    if std::env::var_os(PROBE).is_none() {
        return;
    }
    for number in (0..=LAST).filter(|number| !LEFT_OUT.contains(number)) {
        println!("call {number} {}", errno_of(number, [-1; 6]));
    }
    for family in 0..=47 {
        println!("socket {family} {}", errno_of(libc::SYS_socket, [family, 0x7fff, 0, 0, 0, 0]));
    }
    for persona in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff, 0x4_0000, 0x10] {
        println!("persona {persona} {}", errno_of(libc::SYS_personality, [persona, 0, 0, 0, 0, 0]));
    }
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        // CLONE_SIGHAND without CLONE_VM is refused by the kernel itself (EINVAL), before anything is made.
        println!("clone {flag} {}", errno_of(libc::SYS_clone, [flag | 0x800, 0, 0, 0, 0, 0]));
    }
    println!("clone 0 {}", errno_of(libc::SYS_clone, [0x800, 0, 0, 0, 0, 0]));
    println!("clone3 0 {}", errno_of(libc::SYS_clone3, [0, 0, 0, 0, 0, 0]));
}

async fn told(runtime: &str) -> Option<BTreeMap<(String, i64), i32>> {
    let rootfs = image("busybox").filter(|_| is_root())?;
    let settings = format!("[engine]\nruntime = \"{runtime}\"\n");
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), &format!("calls{runtime}"), &settings).await;
    server.import(&rootfs, "busybox", &[]);
    let own = std::env::current_exe().expect("this program");
    let asked = json!({"image": "busybox", "name": "probe", "start": true, "env": [format!("{PROBE}=1")],
        "mounts": [{"type": "bind", "source": own, "target": "/probe", "read_only": true}],
        "command": ["/probe", "--exact", "probe", "--nocapture", "--test-threads=1"]});
    let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let ended = server.cli(&["wait", "probe"]);
    let log = server.cli(&["logs", "probe"]).1;
    assert_eq!(ended.1.trim(), "0", "{log}");
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let what = words.next()?.to_owned();
        Some(((what, words.next()?.parse().ok()?), words.next()?.parse().ok()?))
    };
    let all = log.lines().filter_map(line).collect();
    server.finish().await;
    Some(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_runtimes_refuse_the_same_calls() {
    let Some(own) = told("").await else { return };
    assert!(own.len() > 400, "{} calls", own.len());
    let call = |number: i64| own[&("call".to_owned(), number)];
    for number in [
        libc::SYS_kcmp,
        libc::SYS_mbind,
        libc::SYS_get_mempolicy,
        libc::SYS_set_mempolicy,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_process_madvise,
    ] {
        assert_eq!(call(number), libc::EPERM, "{number}");
    }
    for number in [467, 470, LAST] {
        assert_eq!(call(number), libc::ENOSYS, "{number}: newer than the profile");
    }
    for (family, refused) in
        [(1, false), (2, false), (10, false), (16, false), (38, true), (40, true), (37, true), (46, true)]
    {
        assert_eq!(own[&("socket".to_owned(), family)] == libc::EPERM, refused, "family {family}");
    }
    assert_eq!(own[&("clone3".to_owned(), 0)], libc::ENOSYS);
    assert_eq!(own[&("clone".to_owned(), 0)], libc::EINVAL);
    assert_eq!(own[&("clone".to_owned(), 0x1000_0000)], libc::EPERM);

    if !has_program("runc") {
        return;
    }
    let Some(runc) = told("runc").await else { return };
    let mut differ = Vec::new();
    for ((what, number), errno) in &own {
        let other = runc[&(what.clone(), *number)];
        let fence = |errno: i32| [libc::EPERM, libc::ENOSYS].contains(&errno).then_some(errno);
        // Its filter library does not know uretprobe, and a kernel without it says so.
        if what == "call" && (*number > LAST_OF_RUNC || *number == 335) {
            continue;
        }
        if fence(*errno) != fence(other) {
            differ.push(format!("{what} {number}: {errno} here, {other} by runc"));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}
