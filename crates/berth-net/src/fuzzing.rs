//! Entry points for fuzz targets.

use crate::link::{Link, stats_in};
use crate::netlink::split;

/// Everything that reads what the kernel sends.
pub fn replies(datagram: &[u8]) {
    for piece in split(datagram) {
        let body = piece.payload;
        let _ = (Link::read(body), stats_in(piece.kind, body));
        crate::conntrack::read(body);
        crate::tc::read(body);
    }
    crate::conntrack::read(datagram);
}
