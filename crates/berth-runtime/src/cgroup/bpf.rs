//! The bpf(2) system call, as far as cgroups need it: programs of a few instructions, assembled here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::check;

/// Where a program is attached (`enum bpf_attach_type`), with the type of program that fits (`enum bpf_prog_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets that come in for the group's sockets.
    Ingress,
    /// Packets that the group's sockets send.
    Egress,
    /// Devices that are opened or made.
    Device,
}

impl Hook {
    fn attach_type(self) -> u64 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
            Self::Device => 6,
        }
    }

    fn program_type(self) -> u64 {
        match self {
            Self::Ingress | Self::Egress => 8,
            Self::Device => 15,
        }
    }
}

/// One instruction: code, registers (source high, destination low), offset, constant.
pub(super) fn step(code: u8, registers: u8, offset: i16, constant: i32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(constant as u32) << 32
}

fn bpf(command: i64, attributes: &[u64]) -> io::Result<i64> {
    // SAFETY: `attributes` begins a union bpf_attr of the size given and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) })
}

fn bpf_fd(command: i64, attributes: &[u64]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the call just returned it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has the kernel check and take a program.
pub(super) fn load(hook: Hook, program: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: i64 = 5;
    let licence = c"Apache-2.0";
    let name = u64::from_le_bytes(*b"berth\0\0\0");
    let attributes = [
        hook.program_type() | (program.len() as u64) << 32,
        program.as_ptr() as u64,
        licence.as_ptr() as u64,
        0,
        0,
        0,
        name.to_le(),
        0,
        hook.attach_type() << 32,
    ];
    bpf_fd(PROG_LOAD, &attributes)
}

/// Attaches a program beside those of others.
pub(super) fn attach(hook: Hook, cgroup: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    const PROG_ATTACH: i64 = 8;
    const ALLOW_MULTI: u64 = 2;
    let fds = cgroup.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    bpf(PROG_ATTACH, &[fds, hook.attach_type() | ALLOW_MULTI << 32]).map(drop)
}

/// An array of `count` values of `size` bytes.
pub(super) fn array(size: u32, count: u32) -> io::Result<OwnedFd> {
    const MAP_CREATE: i64 = 0;
    const ARRAY: u64 = 2;
    const KEY: u64 = 4;
    bpf_fd(MAP_CREATE, &[ARRAY | KEY << 32, u64::from(size) | u64::from(count) << 32, 0])
}

/// Reads one value of an array.
pub(super) fn read<const N: usize>(map: &OwnedFd, index: u32) -> io::Result<[u64; N]> {
    const MAP_LOOKUP_ELEM: i64 = 1;
    let mut value = [0u64; N];
    let attributes = [map.as_raw_fd() as u64, (&raw const index) as u64, value.as_mut_ptr() as u64, 0];
    bpf(MAP_LOOKUP_ELEM, &attributes).map(|_| value)
}

/// The first map of the program of ours that is attached to the group; `None` if there is none.
pub(super) fn map_of(hook: Hook, cgroup: &OwnedFd) -> Option<OwnedFd> {
    const PROG_QUERY: i64 = 16;
    const PROG_GET_FD_BY_ID: i64 = 13;
    const MAP_GET_FD_BY_ID: i64 = 14;
    const OBJ_GET_INFO_BY_FD: i64 = 15;
    const MOST: usize = 64;
    let mut ids = [0u32; MOST];
    let mut query =
        [cgroup.as_raw_fd() as u64 | hook.attach_type() << 32, 0, ids.as_mut_ptr() as u64, MOST as u64, 0, 0, 0];
    // The kernel writes the count back.
    // SAFETY: as in `bpf`; the array of ids has the room that is claimed.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, query.as_mut_ptr(), size_of_val(&query)) }).ok()?;
    let count = (query[3] as u32 as usize).min(MOST);
    ids[..count].iter().find_map(|id| {
        let program = bpf_fd(PROG_GET_FD_BY_ID, &[u64::from(*id), 0]).ok()?;
        let mut map = 0u32;
        // struct bpf_prog_info: nr_map_ids at 52, map_ids at 56, name at 64.
        let mut info = [0u64; 32];
        info[6] = 1 << 32;
        info[7] = (&raw mut map) as u64;
        let size = size_of_val(&info) as u64;
        bpf(OBJ_GET_INFO_BY_FD, &[program.as_raw_fd() as u64 | size << 32, info.as_mut_ptr() as u64]).ok()?;
        (info[8].to_le_bytes() == *b"berth\0\0\0").then_some(())?;
        bpf_fd(MAP_GET_FD_BY_ID, &[u64::from(map), 0]).ok()
    })
}
