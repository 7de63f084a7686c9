//! The system call filter: an allow-list equal to Docker's default profile. One table ([`table::CALLS`]) is rendered as a BPF
//! program for the built-in runtime and as JSON for other OCI runtimes.
//!
//! Refused calls fail with EPERM; calls that are newer than the table are told not to exist (ENOSYS), so that programs fall
//! back. One difference to Docker is on purpose: programs of another architecture (32 bit, x32) are refused.
//!
//! Written by hand because loading time counts: as sorted ranges the filter has some 130 instructions (0.05 ms to load), as
//! one rule a call it would be 1,900 (0.84 ms).

mod table;

use std::io;

use crate::sys::check;
use table::{CALLS, SYS_ADMIN};

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Never,
    /// With one of these capabilities in the container's bounding set.
    With(u64),
    /// By the address family.
    Socket,
    /// By the persona.
    Personality,
    /// Without SYS_ADMIN only if it makes no namespaces.
    Clone,
    /// Without SYS_ADMIN told not to exist: its flags are behind a pointer, and libraries fall back to clone.
    Clone3,
}

/// A system call.
#[derive(Debug, Clone, Copy)]
struct Call {
    name: &'static str,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the other architecture's"))]
    x86_64: i16,
    #[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "the other architecture's"))]
    aarch64: i16,
    when: When,
}

impl Call {
    /// Its number on this architecture, if it has one.
    fn number(&self) -> Option<u32> {
        #[cfg(target_arch = "x86_64")]
        let number = self.x86_64;
        #[cfg(target_arch = "aarch64")]
        let number = self.aarch64;
        u32::try_from(number).ok()
    }

    /// What it comes to with these capabilities, where its arguments don't decide.
    fn verdict(&self, capabilities: u64) -> Verdict {
        let admin = capabilities & SYS_ADMIN != 0;
        match self.when {
            When::Always => Verdict::Allow,
            When::Never => Verdict::Refuse,
            When::With(mask) if capabilities & mask != 0 => Verdict::Allow,
            When::With(_) => Verdict::Refuse,
            When::Clone | When::Clone3 if admin => Verdict::Allow,
            When::Clone3 => Verdict::Unknown,
            When::Clone | When::Socket | When::Personality => Verdict::ByArgument,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    Unknown,
    ByArgument,
}

/// Address families that sockets may be of, first and last. Left out are those that reach past the network namespace (VSOCK),
/// into the kernel's cryptography (ALG), and the long-unused ones.
const FAMILIES: &[(u32, u32)] = &[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];
/// Personas that a process may take.
const PERSONAS: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u32 = 0x7E02_0000;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

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
/// Its upper half: other filter generators compare all of it.
const ARGUMENT_0_UPPER: u32 = 20;

fn step(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Allows what is loaded if it is in one of these ranges; goes on otherwise.
fn allow_ranges(all: &mut Vec<libc::sock_filter>, ranges: &[(u32, u32)]) {
    for (first, last) in ranges {
        if first == last {
            all.push(step(JEQ, *first, 0, 1));
        } else {
            all.push(step(JGE, *first, 0, 2));
            all.push(step(JGT, *last, 1, 0));
        }
        all.push(step(RETURN, ALLOW, 0, 0));
    }
}

/// The newest call that the profile knows: above it the answer is ENOSYS.
fn newest() -> u32 {
    let known = CALLS.iter().filter(|call| call.when != When::Never);
    known.filter_map(Call::number).max().unwrap_or(0)
}

fn program(capabilities: u64) -> Vec<libc::sock_filter> {
    let mut all = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(JEQ, ARCH, 1, 0),
        // A program of another architecture (32 bit) would give the numbers another meaning.
        step(RETURN, EPERM, 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(JGT, newest(), 0, 1),
        step(RETURN, ENOSYS, 0, 0),
    ];
    for call in CALLS {
        let Some(number) = call.number() else { continue };
        let mut own = Vec::new();
        match (call.verdict(capabilities), call.when) {
            (Verdict::Unknown, _) => own.push(step(RETURN, ENOSYS, 0, 0)),
            (Verdict::ByArgument, When::Clone) => own.extend([
                step(LOAD, ARGUMENT_0, 0, 0),
                step(JSET, NAMESPACES, 0, 1),
                step(RETURN, EPERM, 0, 0),
                step(RETURN, ALLOW, 0, 0),
            ]),
            (Verdict::ByArgument, when) => {
                let personas: Vec<_> = PERSONAS.iter().map(|persona| (*persona, *persona)).collect();
                own.extend([
                    step(LOAD, ARGUMENT_0_UPPER, 0, 0),
                    step(JEQ, 0, 1, 0),
                    step(RETURN, EPERM, 0, 0),
                    step(LOAD, ARGUMENT_0, 0, 0),
                ]);
                allow_ranges(&mut own, if when == When::Socket { FAMILIES } else { &personas });
                own.push(step(RETURN, EPERM, 0, 0));
            }
            (Verdict::Allow | Verdict::Refuse, _) => continue,
        }
        all.push(step(JEQ, number, 0, own.len() as u8));
        all.extend(own);
    }
    allow_ranges(&mut all, &allowed(capabilities));
    all.push(step(RETURN, EPERM, 0, 0));
    all
}

/// The numbers that are allowed whatever the arguments, neighbours joined.
fn allowed(capabilities: u64) -> Vec<(u32, u32)> {
    let calls = CALLS.iter().filter(|call| call.verdict(capabilities) == Verdict::Allow);
    let mut numbers: Vec<u32> = calls.filter_map(Call::number).collect();
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

/// Loads the filter of a container with these capabilities into the calling thread. Needs either no_new_privs or
/// CAP_SYS_ADMIN (seccomp(2)).
pub(crate) fn load(capabilities: u64) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: i64 = 1;
    let mut filter = program(capabilities);
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
pub(crate) fn as_oci(capabilities: u64) -> serde_json::Value {
    use serde_json::json;
    let of = |verdict: Verdict| -> Vec<&str> {
        let here = CALLS.iter().filter(|call| call.number().is_some());
        here.filter(|call| call.verdict(capabilities) == verdict).map(|call| call.name).collect()
    };
    let mut rules = vec![
        json!({ "names": of(Verdict::Allow), "action": "SCMP_ACT_ALLOW" }),
        // Named although it is the default: runtimes take the largest call that is named for the newest that is known.
        json!({ "names": of(Verdict::Refuse), "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM }),
    ];
    let unknown = of(Verdict::Unknown);
    if !unknown.is_empty() {
        rules.push(json!({ "names": unknown, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    let mut argument = |name: &str, condition: serde_json::Value| {
        rules.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition] }));
    };
    for (first, last) in FAMILIES {
        // One condition an argument: runtimes take several of one argument for alternatives.
        for family in *first..=*last {
            argument("socket", json!({ "index": 0, "value": family, "op": "SCMP_CMP_EQ" }));
        }
    }
    for persona in PERSONAS {
        argument("personality", json!({ "index": 0, "value": persona, "op": "SCMP_CMP_EQ" }));
    }
    if capabilities & SYS_ADMIN == 0 {
        let masked = json!({ "index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
        argument("clone", masked);
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ALLOW, ARCH, CALLS, Call, ENOSYS, EPERM, Verdict, When, as_oci, newest, program};
    use crate::bundle::DEFAULT_CAPABILITIES;

    const ALL: u64 = (1 << 41) - 1;

    /// Runs the filter as the kernel would.
    fn verdict(capabilities: u64, arch: u32, number: u32, argument: u32) -> u32 {
        let program = program(capabilities);
        let (mut at, mut a) = (0, 0);
        for _ in 0..program.len() {
            let s = program[at];
            let test = match s.code {
                0x20 => {
                    a = match s.k {
                        0 => number,
                        4 => arch,
                        super::ARGUMENT_0_UPPER => 0,
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

    /// What the JSON says of a call with this first argument: the rule that fits, else the default.
    fn told(json: &serde_json::Value, name: &str, argument: u32) -> u32 {
        let rules = json["syscalls"].as_array().expect("rules");
        let fits = |rule: &&serde_json::Value| {
            let named = rule["names"].as_array().expect("names").iter().any(|n| n == name);
            let args = rule["args"].as_array();
            named
                && args.is_none_or(|args| {
                    let (value, op) = (args[0]["value"].as_u64().expect("value") as u32, &args[0]["op"]);
                    if op == "SCMP_CMP_EQ" { argument == value } else { argument & value == 0 }
                })
        };
        match rules.iter().find(fits) {
            Some(rule) if rule["action"] == "SCMP_ACT_ALLOW" => ALLOW,
            Some(rule) => super::ERRNO | rule["errnoRet"].as_u64().expect("errno") as u32,
            None => super::ERRNO | json["defaultErrnoRet"].as_u64().expect("errno") as u32,
        }
    }

    #[test]
    fn the_program_and_the_json_say_the_same_of_every_call() {
        for capabilities in [DEFAULT_CAPABILITIES, 0, ALL] {
            let json = as_oci(capabilities);
            for call in CALLS {
                let Some(number) = call.number() else { continue };
                for argument in [0, 1, 2, 8, 10, 16, 17, 38, 40, 45, 46, 0x2_0000, 0x4_0000, 0x1000_0000, 0xffff_ffff] {
                    let own = verdict(capabilities, ARCH, number, argument);
                    let name = call.name;
                    if number > newest() {
                        assert_eq!(own, ENOSYS, "{name}");
                        continue;
                    }
                    assert_eq!(own, told(&json, name, argument), "{name} {argument:#x} with {capabilities:#x}");
                    let expected = match call.verdict(capabilities) {
                        Verdict::Allow => ALLOW,
                        Verdict::Refuse => EPERM,
                        Verdict::Unknown => ENOSYS,
                        Verdict::ByArgument => own,
                    };
                    assert_eq!(own, expected, "{name}");
                }
            }
        }
    }

    #[test]
    fn the_table_is_whole() {
        let numbers: Vec<u32> = CALLS.iter().filter_map(Call::number).collect();
        let unique: HashSet<u32> = numbers.iter().copied().collect();
        assert_eq!(unique.len(), numbers.len(), "a number stands twice");
        assert_eq!(CALLS.iter().map(|call| call.name).collect::<HashSet<_>>().len(), CALLS.len());
        #[cfg(target_arch = "x86_64")]
        for number in 0..=334 {
            assert!(unique.contains(&number), "{number} is missing");
        }
        for number in 424..=newest() {
            assert!(unique.contains(&number), "{number} is missing");
        }
        let of = |name: &str| CALLS.iter().find(|call| call.name == name).and_then(Call::number).map(i64::from);
        for (name, number) in [
            ("read", libc::SYS_read),
            ("openat2", libc::SYS_openat2),
            ("clone3", libc::SYS_clone3),
            ("kcmp", libc::SYS_kcmp),
            ("mount", libc::SYS_mount),
            ("bpf", libc::SYS_bpf),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("personality", libc::SYS_personality),
            ("statx", libc::SYS_statx),
        ] {
            assert_eq!(of(name), Some(number), "{name}");
        }
    }

    #[test]
    fn capabilities_and_arguments_decide() {
        let default = |name: &str, argument: u32| {
            let call = CALLS.iter().find(|call| call.name == name).expect("a call");
            verdict(DEFAULT_CAPABILITIES, ARCH, call.number().expect("a number"), argument)
        };
        for name in
            ["kcmp", "mbind", "set_mempolicy", "get_mempolicy", "keyctl", "io_uring_setup", "mount", "setns", "bpf"]
        {
            assert_eq!(default(name, 0), EPERM, "{name}");
        }
        for name in ["ptrace", "statmount", "mseal", "chroot", "clock_adjtime"] {
            assert_eq!(default(name, 0), ALLOW, "{name}");
        }
        assert_eq!(default("clone", libc::CLONE_NEWUSER as u32), EPERM);
        assert_eq!(default("clone", (libc::CLONE_VM | libc::SIGCHLD) as u32), ALLOW);
        assert_eq!(default("clone3", 0), ENOSYS);
        assert_eq!(default("socket", libc::AF_ALG as u32), EPERM);
        assert_eq!(default("socket", libc::AF_VSOCK as u32), EPERM);
        assert_eq!(default("socket", libc::AF_INET6 as u32), ALLOW);
        assert_eq!(default("socket", libc::AF_NETLINK as u32), ALLOW);
        assert_eq!(default("personality", 0x4_0000), EPERM);
        assert_eq!(verdict(DEFAULT_CAPABILITIES, ARCH, newest() + 1, 0), ENOSYS);
        assert_eq!(verdict(DEFAULT_CAPABILITIES, ARCH, 0x4000_0001, 0), ENOSYS, "x32");
        assert_eq!(verdict(DEFAULT_CAPABILITIES, 0x4000_0003, 1, 0), EPERM, "32 bit");
        let kcmp = CALLS.iter().find(|call| call.name == "kcmp").expect("a call");
        assert_eq!((kcmp.verdict(ALL), kcmp.when), (Verdict::Allow, When::With(1 << 19)));
    }
}
