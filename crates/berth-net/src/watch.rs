//! Notices what other programs change: rules (nfnetlink), links, addresses and routes (rtnetlink).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::link::{Link, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::{Error, Piece, is_own_port, split};

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
        // A thousand starts in one go make some megabytes of news. Where the kernel refuses the size, the usual one serves.
        let size = 4i32 << 20;
        let name = libc::SO_RCVBUFFORCE;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const size).cast(), size_of::<i32>() as u32);
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

/// After a wait that failed: an interrupted one is simply done again; anything else is logged, and takes as long as the wait would have, so
/// that a lasting error does not become a busy loop.
pub fn pause_after(error: &io::Error, what: &str, limit: Duration) {
    if error.kind() != io::ErrorKind::Interrupted {
        tracing::error!(%error, what, "waiting for a notification failed");
        std::thread::sleep(limit);
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

    /// Waits for changes, no longer than `limit`; whether there is something to look at. Rules that this process changed are not, and
    /// links about which `is_in_order` is true (`None` is a link that is gone, or has left its bridge) are not.
    pub fn wait(&mut self, limit: Duration, is_in_order: impl Fn(&str, Option<&Link>) -> bool) -> bool {
        let mut entries = [0, 1].map(|n| libc::pollfd { fd: self.0[n].as_raw_fd(), events: libc::POLLIN, revents: 0 });
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the entries outlive the call.
        match unsafe { libc::poll(entries.as_mut_ptr(), 2, milliseconds) } {
            ready if ready > 0 => {}
            0 => return false,
            _ => {
                pause_after(&io::Error::last_os_error(), "watch the network", limit);
                // What happened meanwhile is unknown, so it may be anything.
                return true;
            }
        }
        let mut buffer = vec![0u8; 64 * 1024];
        let mut found = false;
        for (fd, protocol) in self.0.iter().zip([libc::NETLINK_ROUTE, libc::NETLINK_NETFILTER]) {
            loop {
                // SAFETY: a buffer with its length.
                let read =
                    unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC) };
                match usize::try_from(read) {
                    Ok(read) if read <= buffer.len() => {
                        found |= split(&buffer[..read]).any(|piece| is_worth_a_look(protocol, &piece, &is_in_order));
                    }
                    // What did not fit is unknown, so it may be anything.
                    Ok(_) => found = true,
                    Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => found = true,
                    Err(_) => break,
                }
            }
        }
        found
    }
}

fn is_worth_a_look(protocol: i32, piece: &Piece<'_>, is_in_order: &impl Fn(&str, Option<&Link>) -> bool) -> bool {
    match (protocol, piece.kind) {
        (libc::NETLINK_ROUTE, RTM_NEWLINK | RTM_DELLINK) => Link::read(piece.payload)
            .is_none_or(|link| !is_in_order(&link.name, Some(&link).filter(|_| piece.kind == RTM_NEWLINK))),
        (libc::NETLINK_NETFILTER, _) => !is_own_port(protocol, piece.port),
        _ => true,
    }
}
