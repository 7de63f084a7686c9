//! What the kernel's connection tracking knows (ctnetlink).

use std::net::Ipv4Addr;

use crate::netlink::{Error, Message, NLM_F_ACK, NLM_F_DUMP, attribute};
use crate::nf_tables;

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
        nf_tables::dump(ask(filtered), |_, body| {
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

/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = (1 << 8) | 2;
const TUPLE_ORIG: u16 = 1;
const FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM`.
const BY_PROTOCOL: u32 = 1 << 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const UDP: u8 = 17;

/// A UDP flow as it is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Whom its first packet was to.
    pub(crate) to: Ipv4Addr,
    /// Port that its first packet was to.
    pub(crate) port: u16,
    /// Who sent it.
    pub(crate) from: Ipv4Addr,
    /// Who answers, and from which port.
    pub(crate) answers: (Ipv4Addr, u16),
    /// Whom the answers go to.
    pub(crate) answers_to: Ipv4Addr,
    /// The first packet's tuple, and what else names the flow, as the kernel has them.
    names: Vec<(u16, Vec<u8>)>,
}

fn flow(body: &[u8]) -> Option<Flow> {
    let side = |kind| {
        let tuple = attribute(body, kind)?;
        let ip = attribute(tuple, TUPLE_IP)?;
        let proto = attribute(tuple, TUPLE_PROTO)?;
        let address = |n| attribute(ip, n).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
        let port = |n| attribute(proto, n).and_then(|b| <[u8; 2]>::try_from(b).ok()).map(u16::from_be_bytes);
        let protocol = *attribute(proto, 1)?.first()?;
        Some((protocol, address(1)?, address(2)?, port(2).unwrap_or(0), port(3).unwrap_or(0)))
    };
    let (protocol, from, to, _, port) = side(TUPLE_ORIG)?;
    let (_, answers, answers_to, answers_port, _) = side(TUPLE_REPLY)?;
    if protocol != UDP {
        return None;
    }
    let names = [TUPLE_ORIG, ID, ZONE].into_iter().filter_map(|kind| Some((kind, attribute(body, kind)?.to_vec())));
    Some(Flow { to, port, from, answers: (answers, answers_port), answers_to, names: names.collect() })
}

/// Forgets the UDP flows that are `stale`: the next packet of each is led by the rules as they are now. A flow is led where its
/// first packet was, for as long as packets come, whatever becomes of the rules.
pub(crate) fn forget(stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
    let ask = |filtered: bool| {
        let all = Message::new("list UDP flows", GET, NLM_F_DUMP, &[2, 0, 0, 0]);
        if !filtered {
            return all;
        }
        all.nest(TUPLE_ORIG, |m| m.nest(TUPLE_PROTO, |m| m.bytes(1, &[UDP])))
            .nest(FILTER, |m| m.u32(FILTER_ORIG_FLAGS, BY_PROTOCOL))
    };
    let list = |filtered| {
        let mut found = Vec::new();
        nf_tables::dump(ask(filtered), |_, body| {
            found.extend(body.get(4..).and_then(flow).filter(|flow| stale(flow)));
        })?;
        Ok(found)
    };
    let found = match list(true) {
        // A kernel that can't filter lists them all.
        Err(Error::Refused { .. }) => list(false)?,
        other => other?,
    };
    for flow in &found {
        let mut message = Message::new("forget a UDP flow", DELETE, NLM_F_ACK, &[2, 0, 0, 0]);
        for (kind, value) in &flow.names {
            message =
                if *kind == TUPLE_ORIG { message.nest(*kind, |m| m.raw(value)) } else { message.bytes(*kind, value) };
        }
        match nf_tables::send(vec![message]) {
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(found.len())
}

/// For fuzz targets: reads a connection.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(body: &[u8]) {
    let _ = (flow(body), is_opening(body, [10, 0, 0, 1], &[80]));
}
