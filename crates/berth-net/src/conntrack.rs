//! What the kernel's connection tracking knows (ctnetlink).

use std::net::Ipv4Addr;

use crate::netlink::{Error, Message, NLM_F_DUMP, attribute};
use crate::nft;

/// Subsystem 1, `IPCTNL_MSG_CT_GET`.
const GET: u16 = (1 << 8) | 1;
const TUPLE_REPLY: u16 = 2;
const PROTOINFO: u16 = 4;
const FILTER: u16 = 25;
const FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`.
const BY_SOURCE: u32 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// TCP connections to `ports` of `address` that have begun and are not open yet. A connection is known from the moment on
/// at which the rules have decided where it leads, so one whose first packet is still on its way, or was lost and will be
/// sent again to the same place, is among them.
pub(crate) fn opening(address: Ipv4Addr, ports: &[u16]) -> Result<usize, Error> {
    let octets = address.octets();
    let ask = |filtered: bool| {
        let all = Message::new(format!("list connections to {address}"), GET, NLM_F_DUMP, &[2, 0, 0, 0]);
        if !filtered {
            return all;
        }
        all.nest(TUPLE_REPLY, |m| m.nest(TUPLE_IP, |m| m.bytes(1, &octets)))
            .nest(FILTER, |m| m.u32(FILTER_REPLY_FLAGS, BY_SOURCE))
    };
    let count = |filtered| {
        let mut found = 0;
        nft::dump(ask(filtered), |_, body| {
            found += usize::from(body.get(4..).and_then(|b| is_opening(b, octets, ports)).unwrap_or(false));
        })?;
        Ok(found)
    };
    match count(true) {
        // A kernel that can't filter (before 5.8) lists them all.
        Err(Error::Refused { .. }) => count(false),
        other => other,
    }
}

/// Whether a listed connection comes from there in its answers, and is in one of the states before "open".
fn is_opening(body: &[u8], address: [u8; 4], ports: &[u16]) -> Option<bool> {
    const SYN_SENT: u8 = 1;
    const SYN_RECV: u8 = 2;
    const SYN_SENT_BY_BOTH: u8 = 9;
    let reply = attribute(body, TUPLE_REPLY)?;
    let source = attribute(attribute(reply, TUPLE_IP)?, 1)?;
    let port = u16::from_be_bytes(attribute(attribute(reply, TUPLE_PROTO)?, 2)?.try_into().ok()?);
    let tcp = attribute(attribute(body, PROTOINFO)?, 1)?;
    let state = *attribute(tcp, 1)?.first()?;
    Some(source == address && ports.contains(&port) && [SYN_SENT, SYN_RECV, SYN_SENT_BY_BOTH].contains(&state))
}
