//! Which devices a container may open: the harmless ones every Unix program expects, and mknod of anything.
//!
//! Version 1 has files for it; version 2 wants a BPF program (linux/bpf.h, BPF_PROG_TYPE_CGROUP_DEVICE).

use std::io;
use std::os::fd::OwnedFd;

use super::bpf::{self, Hook, step};
use super::{Cgroup, Hierarchies, write};
use crate::sys::{Failure, Named};

/// Character devices that may be read and written: major and minor, `None` for all minors.
/// null, zero, full, random, urandom, tty, ptmx, pseudo terminals.
const ALLOWED: [(u32, Option<u32>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

pub(super) fn restrict(cgroup: &Cgroup) -> Result<(), Failure> {
    match &cgroup.hierarchies {
        Hierarchies::V1(..) => {
            let folder = cgroup
                .folder("devices")
                .ok_or_else(|| Failure::host("find the devices cgroup", io::Error::from_raw_os_error(libc::ENOENT)))?;
            write(&folder.join("devices.deny"), "a")?;
            for (major, minor) in ALLOWED {
                let minor = minor.map_or_else(|| "*".to_owned(), |m| m.to_string());
                write(&folder.join("devices.allow"), format!("c {major}:{minor} rwm"))?;
            }
            write(&folder.join("devices.allow"), "c *:* m")?;
            write(&folder.join("devices.allow"), "b *:* m")
        }
        Hierarchies::V2(_) => {
            let folder = cgroup
                .birth_place()?
                .ok_or_else(|| Failure::host("open the cgroup", io::Error::from_raw_os_error(libc::ENOENT)))?;
            attach(&folder).named(|| "attach the device program".into())
        }
    }
}

/// `struct bpf_cgroup_dev_ctx` is access_type (access << 16 | type), major, minor. Returns 1 to allow.
fn program() -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    const CHARACTER: i32 = 2;
    const MKNOD: i32 = 1;
    let mut all = vec![
        step(LOAD_WORD, 0x12, 0, 0), // r2 = access_type
        step(MOVE_REGISTER, 0x23, 0, 0),
        step(SHIFT_RIGHT, 0x03, 0, 16), // r3 = access
        step(AND, 0x02, 0, 0xffff),     // r2 = type
        step(LOAD_WORD, 0x14, 4, 0),    // r4 = major
        step(LOAD_WORD, 0x15, 8, 0),    // r5 = minor
        step(JUMP_NOT_EQUAL, 0x03, 2, MKNOD),
        step(MOVE, 0x00, 0, 1),
        step(EXIT, 0, 0, 0),
        step(JUMP_NOT_EQUAL, 0x02, 0, CHARACTER), // its offset, to the refusal, is set below
    ];
    let test_type = all.len() - 1;
    for (major, minor) in ALLOWED {
        let length = if minor.is_some() { 3 } else { 2 };
        all.push(step(JUMP_NOT_EQUAL, 0x04, length, major as i32));
        if let Some(minor) = minor {
            all.push(step(JUMP_NOT_EQUAL, 0x05, 2, minor as i32));
        }
        all.push(step(MOVE, 0x00, 0, 1));
        all.push(step(EXIT, 0, 0, 0));
    }
    all[test_type] = step(JUMP_NOT_EQUAL, 0x02, (all.len() - test_type - 1) as i16, CHARACTER);
    all.push(step(MOVE, 0x00, 0, 0));
    all.push(step(EXIT, 0, 0, 0));
    all
}

fn attach(cgroup: &OwnedFd) -> io::Result<()> {
    let program = bpf::load(Hook::Device, &program())?;
    bpf::attach(Hook::Device, cgroup, &program)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use super::attach;

    /// The controllers need not be in the version 2 hierarchy for its device programs to work.
    #[test]
    fn the_version_2_program_allows_null_and_refuses_the_disk() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let at = mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
        // SAFETY: plain system call.
        let root = unsafe { libc::geteuid() } == 0;
        let Some(at) = at.filter(|_| root) else {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root and a cgroup2 mount");
            println!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let folder = format!("{at}/berth-test-{}", std::process::id());
        fs::create_dir(&folder).expect("cgroup");
        let opened: OwnedFd = fs::File::open(&folder).expect("open").into();
        let attached = attach(&opened);
        let device = "/dev/kmsg";
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("echo $$ > {folder}/cgroup.procs; cat < /dev/null && cat < /dev/zero | head -c 1 >/dev/null && echo null; head -c 0 {device} && echo disk"))
            .output();
        fs::remove_dir(&folder).expect("remove");
        attached.expect("attach");
        let output = output.expect("sh");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
