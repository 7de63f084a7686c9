//! The default system call filter, in the spirit of Docker's: what lets a process reach the kernel's own state, other
//! namespaces, mounts, keys, modules or the clock is refused; calls newer than this list are told not to exist, so that
//! programs fall back; everything else passes.
//!
//! Written by hand because loading time counts: as sorted ranges the filter is some 60 instructions (0.05 ms to load),
//! as one rule a call it would be 1,900 (0.84 ms).

use std::io;

use crate::sys::check;

/// System calls that are refused with EPERM. Some need capabilities that the default set lacks anyway: the filter is the
/// second fence.
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fanotify_init,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    SYS_KEXEC_FILE_LOAD,
    443, // quotactl_fd
    457, // statmount
    458, // listmount
    459, // lsm_get_self_attr
    460, // lsm_set_self_attr
    461, // lsm_list_modules
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS__sysctl,
    174, // create_module
    177, // get_kernel_syms
    libc::SYS_ioperm,
    libc::SYS_iopl,
    178, // query_module
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: i64 = 320;
#[cfg(target_arch = "aarch64")]
const SYS_KEXEC_FILE_LOAD: i64 = 294;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// The newest system call that this list knows (mseal). Above it, and for the x32 numbers, the answer is ENOSYS.
const NEWEST: u32 = 462;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;

fn step(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn program() -> Vec<libc::sock_filter> {
    const NAMESPACES: u32 = 0x7E02_0000;
    let mut all = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(JEQ, ARCH, 1, 0),
        // A program of another architecture (32 bit) would give the numbers another meaning.
        step(RETURN, EPERM, 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(JGT, NEWEST, 0, 1),
        step(RETURN, ENOSYS, 0, 0),
        // The flags of clone3 are behind a pointer: told not to exist, libraries use clone.
        step(JEQ, libc::SYS_clone3 as u32, 0, 1),
        step(RETURN, ENOSYS, 0, 0),
        step(JEQ, libc::SYS_clone as u32, 0, 4),
        step(LOAD, ARGUMENT_0, 0, 0),
        step(JSET, NAMESPACES, 0, 1),
        step(RETURN, EPERM, 0, 0),
        step(RETURN, ALLOW, 0, 0),
        step(JEQ, libc::SYS_socket as u32, 0, 4),
        step(LOAD, ARGUMENT_0, 0, 0),
        // AF_VSOCK reaches the hypervisor past every network namespace.
        step(JEQ, libc::AF_VSOCK as u32, 0, 1),
        step(RETURN, EPERM, 0, 0),
        step(RETURN, ALLOW, 0, 0),
        step(JEQ, libc::SYS_personality as u32, 0, 8),
        step(LOAD, ARGUMENT_0, 0, 0),
        step(JEQ, 0, 5, 0),
        step(JEQ, 0x0008, 4, 0),
        step(JEQ, 0x2_0000, 3, 0),
        step(JEQ, 0x2_0008, 2, 0),
        step(JEQ, 0xffff_ffff, 1, 0),
        step(RETURN, EPERM, 0, 0),
        step(RETURN, ALLOW, 0, 0),
    ];
    for (first, last) in ranges() {
        if first == last {
            all.push(step(JEQ, first, 0, 1));
        } else {
            all.push(step(JGE, first, 0, 2));
            all.push(step(JGT, last, 1, 0));
        }
        all.push(step(RETURN, EPERM, 0, 0));
    }
    all.push(step(RETURN, ALLOW, 0, 0));
    all
}

/// The denied numbers, neighbours joined.
fn ranges() -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> = DENIED.iter().chain(DENIED_HERE).map(|n| *n as u32).collect();
    numbers.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// Loads the filter into the calling thread. Needs either no_new_privs or CAP_SYS_ADMIN (seccomp(2)).
pub(crate) fn load() -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: i64 = 1;
    let mut filter = program();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` describes `filter`, and both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Whether this kernel can filter system calls.
pub fn supported() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|s| s.contains("errno"))
}

/// The same in the words of the OCI runtime specification, for runtimes that bring their own filter generator. Calls that a
/// filter generator does not know are left out by it.
pub(crate) fn as_oci() -> serde_json::Value {
    const NAMES: &[&str] = &[
        "acct",
        "add_key",
        "bpf",
        "clock_adjtime",
        "clock_settime",
        "delete_module",
        "finit_module",
        "fanotify_init",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "kexec_load",
        "kexec_file_load",
        "keyctl",
        "lookup_dcookie",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pivot_root",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "request_key",
        "setns",
        "settimeofday",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
        "vhangup",
        "_sysctl",
        "create_module",
        "get_kernel_syms",
        "ioperm",
        "iopl",
        "query_module",
        "sysfs",
        "uselib",
        "ustat",
    ];
    const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }],
        "syscalls": [
            { "names": NAMES, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS },
            { "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM,
              "args": [{ "index": 0, "value": CLONE_NEWUSER, "valueTwo": CLONE_NEWUSER, "op": "SCMP_CMP_MASKED_EQ" }] },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::{ALLOW, ARCH, ENOSYS, EPERM, program, ranges};

    /// Runs the filter as the kernel would.
    fn verdict(arch: u32, number: u32, argument: u32) -> u32 {
        let program = program();
        let (mut at, mut a) = (0, 0);
        for _ in 0..program.len() {
            let s = program[at];
            let test = match s.code {
                0x20 => {
                    a = match s.k {
                        0 => number,
                        4 => arch,
                        _ => argument,
                    };
                    at += 1;
                    continue;
                }
                0x06 => return s.k,
                0x15 => a == s.k,
                0x25 => a > s.k,
                0x35 => a >= s.k,
                _ => a & s.k != 0,
            };
            at += 1 + usize::from(if test { s.jt } else { s.jf });
        }
        panic!("the filter does not end")
    }

    #[test]
    fn the_filter_refuses_what_it_lists_and_nothing_else() {
        for number in 0..=462 {
            let listed = ranges().iter().any(|(a, b)| (*a..=*b).contains(&number));
            let expected = match i64::from(number) {
                libc::SYS_clone3 => ENOSYS,
                _ if listed => EPERM,
                _ => ALLOW,
            };
            assert_eq!(verdict(ARCH, number, 0), expected, "system call {number}");
        }
        assert_eq!(verdict(ARCH, 463, 0), ENOSYS);
        assert_eq!(verdict(ARCH, 0x4000_0001, 0), ENOSYS, "x32");
        assert_eq!(verdict(0x4000_0003, 1, 0), EPERM, "32 bit");
    }

    #[test]
    fn arguments_decide_for_clone_socket_and_personality() {
        let clone = libc::SYS_clone as u32;
        assert_eq!(verdict(ARCH, clone, libc::CLONE_NEWUSER as u32), EPERM);
        assert_eq!(verdict(ARCH, clone, (libc::CLONE_VM | libc::SIGCHLD) as u32), ALLOW);
        assert_eq!(verdict(ARCH, libc::SYS_socket as u32, libc::AF_VSOCK as u32), EPERM);
        assert_eq!(verdict(ARCH, libc::SYS_socket as u32, libc::AF_INET as u32), ALLOW);
        assert_eq!(verdict(ARCH, libc::SYS_personality as u32, 0x2_0008), ALLOW);
        assert_eq!(verdict(ARCH, libc::SYS_personality as u32, 0x4_0000), EPERM);
    }
}
