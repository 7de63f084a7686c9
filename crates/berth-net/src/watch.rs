//! Notices what other programs change: rules (nfnetlink), links, addresses and routes (rtnetlink).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::netlink::Error;

/// Groups of rtnetlink, as bits (rtnetlink(7)): links, IPv4 addresses, IPv4 routes.
const ROUTE_GROUPS: u32 = 1 | 0x10 | 0x40;
/// The group of nfnetlink that hears of rule sets (`NFNLGRP_NFTABLES`, 7), as a bit.
const RULE_GROUPS: u32 = 1 << 6;

/// Hears of changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch([OwnedFd; 2]);

fn listen(protocol: i32, groups: u32) -> Result<OwnedFd, Error> {
    let failed = || Error::socket("listen for changes", io::Error::last_os_error());
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system calls; the descriptor is owned as soon as it exists, the address is a local.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, kind, protocol);
        if fd < 0 {
            return Err(failed());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups;
        let size = size_of::<libc::sockaddr_nl>() as u32;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) != 0 {
            return Err(failed());
        }
        Ok(fd)
    }
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open() -> Result<Self, Error> {
        Ok(Self([listen(libc::NETLINK_ROUTE, ROUTE_GROUPS)?, listen(libc::NETLINK_NETFILTER, RULE_GROUPS)?]))
    }

    /// Waits for changes, no longer than `limit`; whether there were some, whoever made them.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let mut entries = [0, 1].map(|n| libc::pollfd { fd: self.0[n].as_raw_fd(), events: libc::POLLIN, revents: 0 });
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the entries outlive the call.
        let ready = unsafe { libc::poll(entries.as_mut_ptr(), 2, limit) };
        let mut buffer = [0u8; 8192];
        for fd in &self.0 {
            // All that waits is one change; what did not fit (ENOBUFS) is a change, too.
            loop {
                // SAFETY: a buffer with its length.
                let read = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                let full = || io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
                if read < 0 && !full() {
                    break;
                }
            }
        }
        ready > 0
    }
}
