//! Counts what the sockets of a group send and receive, by two BPF programs attached to it in the version 2 hierarchy. For
//! containers in the host's network, which have no interface of their own that would count. The programs and their map
//! live as long as the group: no server need be there.

use std::io;
use std::os::fd::OwnedFd;

use super::bpf::{self, Hook, step};
use crate::bundle::Traffic;

/// Adds length and 1 to the values at `index` of the map, and lets the packet pass.
fn program(map: i32, index: i32) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const STORE_WORD: u8 = 0x62;
    const ATOMIC_ADD: u8 = 0xdb;
    const LOAD_MAP: u8 = 0x18;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const CALL: u8 = 0x85;
    const JUMP_EQUAL: u8 = 0x15;
    const EXIT: u8 = 0x95;
    const MAP_LOOKUP: i32 = 1;
    vec![
        step(MOVE_REGISTER, 0x16, 0, 0),
        step(STORE_WORD, 0x0a, -4, index),
        step(MOVE_REGISTER, 0xa2, 0, 0),
        step(ADD, 0x02, 0, -4),
        step(LOAD_MAP, 0x11, 0, map),
        0,
        step(CALL, 0, 0, MAP_LOOKUP),
        step(JUMP_EQUAL, 0x00, 4, 0),
        step(LOAD_WORD, 0x61, 0, 0), // the packet's length, from its IP header on
        step(ATOMIC_ADD, 0x10, 0, 0),
        step(MOVE, 0x01, 0, 1),
        step(ATOMIC_ADD, 0x10, 8, 0),
        step(MOVE, 0x00, 0, 1),
        step(EXIT, 0, 0, 0),
    ]
}

/// Begins to count.
pub(super) fn attach(cgroup: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let map = bpf::array(16, 2)?;
    for (hook, index) in [(Hook::Ingress, 0), (Hook::Egress, 1)] {
        let program = bpf::load(hook, &program(map.as_raw_fd(), index))?;
        bpf::attach(hook, cgroup, &program)?;
    }
    Ok(())
}

/// What was counted; `None` if nothing counts.
pub(super) fn read(cgroup: &OwnedFd) -> Option<Traffic> {
    let map = bpf::map_of(Hook::Ingress, cgroup)?;
    let ([rx_bytes, rx_packets], [tx_bytes, tx_packets]) = (bpf::read(&map, 0).ok()?, bpf::read(&map, 1).ok()?);
    Some(Traffic { rx_bytes, rx_packets, tx_bytes, tx_packets })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use super::{attach, read};

    #[test]
    fn packets_of_a_group_are_counted_to_the_byte() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let at = mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
        // SAFETY: plain system call.
        let root = unsafe { libc::geteuid() } == 0;
        let Some(at) = at.filter(|_| root) else {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root and a cgroup2 mount");
            println!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let folder = format!("{at}/berth-traffic-{}", std::process::id());
        fs::create_dir(&folder).expect("cgroup");
        let opened: OwnedFd = fs::File::open(&folder).expect("open").into();
        let attached = attach(&opened);
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = receiver.local_addr().expect("address").port();
        let script = format!(
            "echo $$ > {folder}/cgroup.procs; for i in 1 2 3 4 5; do printf 0123456789 > /dev/udp/127.0.0.1/{port}; done"
        );
        let ran = Command::new("/bin/bash").args(["-c", &script]).status();
        let counted = read(&opened);
        fs::remove_dir(&folder).expect("remove");
        attached.expect("attach");
        assert!(ran.expect("bash").success());
        let counted = counted.expect("counters");
        // 20 bytes of IP header and 8 of UDP's.
        assert_eq!((counted.tx_packets, counted.tx_bytes), (5, 5 * 38), "{counted:?}");
    }
}
