//! Links, addresses and routes over rtnetlink (rtnetlink(7)).

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::netlink::{
    Error, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Socket, attribute,
};
use crate::netns::Netns;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const RTM_NEWNEIGH: u16 = 28;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_STALE: u16 = 0x04;
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 4;
const AF_BRIDGE: u8 = 7;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;
const SETTLED_LIMIT: Duration = Duration::from_secs(1);

fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Bytes and packets of one link since it was made, as the link's own side sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Bytes that came in through the link.
    pub rx_bytes: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
}

/// The index of a link by its name, in the caller's network namespace; `None` where there is no such link.
pub fn link_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a valid C string for the length of the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The names of all links in the caller's network namespace.
///
/// # Errors
/// What the kernel answered to the dump.
pub fn link_names() -> Result<Vec<String>, Error> {
    Ok(links()?.into_iter().map(|link| link.name).collect())
}

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Index of the bridge that it is in; 0 for none.
    pub master: u32,
    /// Whether its owner has switched it on.
    pub up: bool,
}

impl Link {
    /// Of a message about a link (after the netlink header).
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let attributes = body.get(16..)?;
        Some(Self {
            name: String::from_utf8_lossy(attribute(attributes, IFLA_IFNAME)?).trim_end_matches('\0').to_owned(),
            index: number(&body[4..]),
            master: attribute(attributes, IFLA_MASTER).map_or(0, number),
            up: number(&body[8..]) & IFF_UP != 0,
        })
    }
}

/// All links in the caller's network namespace.
pub(crate) fn links() -> Result<Vec<Link>, Error> {
    let mut all = Vec::new();
    Socket::route()?.dump(Message::new("list links", RTM_GETLINK, NLM_F_DUMP, &ifinfomsg(0, 0, 0)), |kind, body| {
        if kind == RTM_NEWLINK {
            all.extend(Link::read(body));
        }
    })?;
    Ok(all)
}

/// The IPv4 addresses of a link.
pub(crate) fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Ipv4Addr>, Error> {
    let mut all = Vec::new();
    let header = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0];
    socket.dump(Message::new("list addresses", RTM_GETADDR, NLM_F_DUMP, &header), |kind, body| {
        if kind == RTM_NEWADDR
            && body.len() >= 8
            && body[4..8] == index.to_ne_bytes()
            && let Some(local) = attribute(&body[8..], 2).and_then(|b| <[u8; 4]>::try_from(b).ok())
        {
            all.push(Ipv4Addr::from(local));
        }
    })?;
    Ok(all)
}

/// Counters of every link, by index. One dump, about a microsecond a link.
///
/// # Errors
/// What the kernel answered to the dump.
pub fn link_stats() -> Result<std::collections::HashMap<u32, LinkStats>, Error> {
    let mut all = std::collections::HashMap::new();
    Socket::route()?.dump(stats_message(0, NLM_F_DUMP), |kind, body| all.extend(stats_in(kind, body)))?;
    Ok(all)
}

/// Counters of one link; `None` if there is no such link.
///
/// # Errors
/// What else the kernel answered.
pub fn link_stats_of(index: u32) -> Result<Option<LinkStats>, Error> {
    let mut found = None;
    // The acknowledgement ends the answer, as it does that of a dump.
    let asked = Socket::route()?.dump(stats_message(index, NLM_F_ACK), |kind, body| {
        found = stats_in(kind, body).map(|(_, stats)| stats).or(found);
    });
    match asked {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        asked => asked.map(|()| found),
    }
}

/// Asks for the 64-bit counters (`IFLA_STATS_LINK_64`) of one link, or of all.
fn stats_message(index: u32, flags: u16) -> Message {
    let mut header = [0; 12];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&1u32.to_ne_bytes());
    Message::new("read link counters", RTM_GETSTATS, flags, &header)
}

pub(crate) fn stats_in(kind: u16, body: &[u8]) -> Option<(u32, LinkStats)> {
    const IFLA_STATS_LINK_64: u16 = 1;
    let attributes = body.get(12..).filter(|_| kind == RTM_NEWSTATS)?;
    let stats = attribute(attributes, IFLA_STATS_LINK_64)?;
    let field = |n: usize| stats.get(n * 8..n * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let index = u32::from_ne_bytes([body[4], body[5], body[6], body[7]]);
    Some((index, LinkStats { rx_packets: field(0), tx_packets: field(1), rx_bytes: field(2), tx_bytes: field(3) }))
}

pub(crate) fn bridge_create(socket: &mut Socket, name: &str, mac: [u8; 6]) -> Result<(), Error> {
    let message = Message::new(
        format!("create bridge {name}"),
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        &ifinfomsg(0, IFF_UP, IFF_UP),
    )
    .text(IFLA_IFNAME, name)
    // A fixed address: without one the bridge takes the lowest of its ports' and changes it as they come and go.
    .bytes(IFLA_ADDRESS, &mac)
    .nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge"));
    match socket.send(vec![message]) {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Has frames between the bridge's ports pass the host's rules for IP (br_netfilter), whatever the host's own setting.
pub(crate) fn bridge_through_ip(socket: &mut Socket, name: &str, index: u32) -> Result<(), Error> {
    const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
    let what = format!("have {name} call the rules for IP");
    socket.send(vec![Message::new(what, RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, 0, 0)).nest(IFLA_LINKINFO, |m| {
        m.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |m| m.u8(IFLA_BR_NF_CALL_IPTABLES, 1))
    })])
}

pub(crate) fn link_up(socket: &mut Socket, name: &str, index: u32) -> Result<(), Error> {
    socket.send(vec![Message::new(format!("set {name} up"), RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, IFF_UP, IFF_UP))])
}

/// Waits until a link carries packets, a second at most; one that still does not then is left to the kernel.
///
/// A link that was set up is usable only when a worker of the kernel has seen it, which on a busy machine takes hundreds of
/// milliseconds; what is sent meanwhile is lost, and who sent it waits a second for the retry. Reading the link's state
/// does the worker's part at once (kernels since 6.14; on older ones the worker is waited for).
pub(crate) fn link_settled(socket: &mut Socket, name: &str, index: u32) -> Result<(), Error> {
    let until = Instant::now() + SETTLED_LIMIT;
    loop {
        let mut up = false;
        let read = Message::new(format!("read the state of {name}"), RTM_GETLINK, NLM_F_ACK, &ifinfomsg(index, 0, 0));
        socket.dump(read, |kind, body| {
            if kind == RTM_NEWLINK && body.len() > 16 {
                // A driver that does not say more leaves a link that is up at "unknown".
                up = attribute(&body[16..], IFLA_OPERSTATE)
                    .and_then(|state| state.first())
                    .is_some_and(|state| [IF_OPER_UNKNOWN, IF_OPER_UP].contains(state));
            }
        })?;
        if up || Instant::now() > until {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

pub(crate) fn link_down(socket: &mut Socket, name: &str, index: u32) -> Result<(), Error> {
    socket.send(vec![Message::new(format!("set {name} down"), RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, 0, IFF_UP))])
}

/// Puts a link into a bridge again, up, as it was made.
pub(crate) fn put_on_bridge(
    socket: &mut Socket,
    name: &str,
    index: u32,
    bridge: u32,
    mac: [u8; 6],
) -> Result<(), Error> {
    socket.send(vec![
        Message::new(format!("put {name} on the bridge"), RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, IFF_UP, IFF_UP))
            .u32(IFLA_MASTER, bridge),
    ])?;
    bridge_port(socket, name, index, mac)
}

pub(crate) fn link_delete(socket: &mut Socket, name: &str, index: u32) -> Result<(), Error> {
    socket.send(vec![Message::new(format!("delete link {name}"), RTM_DELLINK, NLM_F_ACK, &ifinfomsg(index, 0, 0))])
}

/// A veth whose host end is in the bridge and up, and whose other end appears in the namespace at once as `eth0`.
/// Creating it here and moving it over costs 35 ms in the kernel instead of 0.4.
pub(crate) fn veth_create(
    socket: &mut Socket,
    host: &str,
    bridge: u32,
    netns: &Netns,
    mac: [u8; 6],
) -> Result<u32, Error> {
    let create = Message::new(
        format!("create veth {host}"),
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        &ifinfomsg(0, IFF_UP, IFF_UP),
    )
    .text(IFLA_IFNAME, host)
    .u32(IFLA_MASTER, bridge)
    .nest(IFLA_LINKINFO, |m| {
        m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&ifinfomsg(0, 0, 0))
                    .text(IFLA_IFNAME, "eth0")
                    .bytes(IFLA_ADDRESS, &mac)
                    .u32(IFLA_NET_NS_FD, netns.fd().as_raw_fd() as u32)
            })
        })
    });
    socket.send(vec![create])?;
    let index = link_index(host).ok_or(Error::Answer("a link that was just made has no index"))?;
    bridge_port(socket, host, index, mac)?;
    Ok(index)
}

/// How a port of the bridge is, whose other side has that address.
fn bridge_port(socket: &mut Socket, host: &str, index: u32, mac: [u8; 6]) -> Result<(), Error> {
    // Hairpin: a container must reach a port that it publishes itself.
    socket.send(vec![
        Message::new(format!("set hairpin on {host}"), RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, 0, 0)).nest(
            IFLA_LINKINFO,
            |m| {
                m.text(IFLA_INFO_SLAVE_KIND, "bridge")
                    .nest(IFLA_INFO_SLAVE_DATA, |m| m.u8(IFLA_BRPORT_MODE, 1).u8(IFLA_BRPORT_LEARNING, 0))
            },
        ),
        // Who is where is told, not learnt (`static` in `bridge fdb`; `permanent` would be the host itself): some frames are learnt from before any rule sees them.
        Message::new(format!("place {host} on the bridge"), RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &{
            let mut header = [0; 12];
            header[0] = AF_BRIDGE;
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            header[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
            header[10] = NTF_MASTER;
            header
        })
        .bytes(NDA_LLADDR, &mac),
    ])
}

/// Tells the host where an address on a link is, until it finds out otherwise.
///
/// Who sends to an address that nobody has yet, and goes on as it appears, is heard only at the next retry, a second later;
/// and what is sent meanwhile is lost but for the last few.
pub(crate) fn neighbour(socket: &mut Socket, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), Error> {
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_STALE.to_ne_bytes());
    let what = format!("say where {address} is");
    socket.send(vec![
        Message::new(what, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header)
            .bytes(NDA_DST, &address.octets())
            .bytes(NDA_LLADDR, &mac),
    ])
}

pub(crate) fn address_add(socket: &mut Socket, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    let mut header = [libc::AF_INET as u8, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    socket.send(vec![
        Message::new(
            format!("add address {address}/{prefix}"),
            RTM_NEWADDR,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            &header,
        )
        .bytes(1, &address.octets())
        .bytes(2, &address.octets())
        .bytes(4, &broadcast.to_be_bytes()),
    ])
}

/// The route to a subnet by the link that has an address in it, as the kernel makes it with the address.
pub(crate) fn connected_route(
    socket: &mut Socket,
    index: u32,
    network: Ipv4Addr,
    prefix: u8,
    source: Ipv4Addr,
) -> Result<(), Error> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_KERNEL: u8 = 2;
    const RT_SCOPE_LINK: u8 = 253;
    const RTN_UNICAST: u8 = 1;
    let header =
        [libc::AF_INET as u8, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_KERNEL, RT_SCOPE_LINK, RTN_UNICAST, 0, 0, 0, 0];
    let what = format!("route to {network}/{prefix}");
    socket.send(vec![
        Message::new(what, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &header)
            .bytes(1, &network.octets())
            .u32(4, index)
            .bytes(7, &source.octets()),
    ])
}

pub(crate) fn default_route(socket: &mut Socket, index: u32, gateway: Ipv4Addr) -> Result<(), Error> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    let header = [libc::AF_INET as u8, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    socket.send(vec![
        Message::new(format!("default route by {gateway}"), RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &header)
            .bytes(5, &gateway.octets())
            .u32(4, index),
    ])
}

/// Destinations of the IPv4 routes of the main table, as address and prefix length; the default route is left out.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<(Ipv4Addr, u8)>, Error> {
    let mut all = Vec::new();
    let header = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    socket.dump(Message::new("list routes", RTM_GETROUTE, NLM_F_DUMP, &header), |kind, body| {
        if kind == RTM_NEWROUTE
            && body.len() >= 12
            && let Some(to) = attribute(&body[12..], 1).and_then(|b| <[u8; 4]>::try_from(b).ok())
        {
            all.push((Ipv4Addr::from(to), body[1]));
        }
    })?;
    Ok(all)
}
