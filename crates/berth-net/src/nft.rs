//! The rule set of one network, over nf_tables' netlink interface (linux/netfilter/nf_tables.h).
//!
//! ```text
//! table ip NAME {
//!   map tcp, udp       { type inet_service : ipv4_addr . inet_service }
//!   map tcp_at, udp_at { type ipv4_addr . inet_service : ipv4_addr . inet_service }
//!   map tcp_spread, udp_spread { type inet_service . mark : ipv4_addr . inet_service }: port and bucket
//!   chain raw     { filter, prerouting -300: packets to 127/8 that did not come from here: drop (CVE-2020-8558) }
//!   chain pre     { nat, prerouting: to a local address: dnat by the maps; a balanced port's bucket is drawn by lot }
//!   chain out     { nat, output: the same, for the host's own connections }
//!   chain post    { nat, postrouting: masquerade what leaves the network, and what the host sends in by 127.0.0.1 }
//!   chain forward { filter, forward: into the bridge only answers, members of the sender's tenant, published ports }
//! }
//! ```
//! A second table, of the family `bridge`, sees frames before the bridge learns from them:
//!
//! ```text
//! table bridge NAME {
//!   set places      { type ifname . ether_addr . ipv4_addr }: who sends from which port
//!   chain prerouting { from our bridge: IPv4 and ARP of a place: accept; drop }
//! }
//! ```
//! Who may reach whom is told by two more collections in both: `tenant` (address to tenant) and `members` (address and
//! tenant). Where frames between ports don't pass the rules for IP, a chain `forward` of the bridge's table decides.
//!
//! Publishing a port is one map element, whatever the number of ports. Chains and tables of others are touched in
//! `host_firewall` only.

use std::net::Ipv4Addr;

use crate::bridge::{Subnet, mac_of};
use crate::netlink::{Error, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, attribute, attributes};
use crate::nf_tables::{
    BRIDGE, CMP_EQ, CMP_NEQ, Expression, GETRULE, IP, META_IIFNAME, META_L4PROTO, META_OIFNAME, NF_ACCEPT, NF_DROP,
    REG_1, batch, compare, destined_by_nat, dump, expression, interface, known_connection, masquerade, message,
    message_in, meta, payload, rule_in, send, verdict,
};

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const REG32_0: u32 = 8;
const REG32_1: u32 = 9;
const REG32_2: u32 = 10;
const META_MARK: u32 = 3;
const TYPE_ADDR_SERVICE: u32 = (7 << 6) | 13;
const TYPE_SERVICE: u32 = 13;
const SET_MAP: u32 = 8;
const TYPE_ADDR: u32 = 7;
const TYPE_MARK: u32 = 19;
const TYPE_ADDR_MARK: u32 = (7 << 6) | 19;
const TYPE_SERVICE_MARK: u32 = (13 << 6) | 19;
const TYPE_IFNAME_MAC_ADDR: u32 = (41 << 12) | (9 << 6) | 7;

/// Transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A host port that leads to a port of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// Transport.
    pub protocol: Protocol,
    /// The one address of the host it is published on; `None` is all of them.
    pub host: Option<Ipv4Addr>,
    /// Port on the host.
    pub host_port: u16,
    /// Address of the workload.
    pub to: Ipv4Addr,
    /// Port of the workload.
    pub to_port: u16,
}

/// A workload on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of its host end.
    pub link: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whose it is: members of one tenant reach each other.
    pub tenant: u32,
}

impl Member {
    /// Port, hardware address and address, each filled up to whole registers.
    fn place(&self) -> Vec<u8> {
        let mut key = self.link.as_bytes().to_vec();
        key.resize(16, 0);
        key.extend(mac_of(self.address));
        key.extend([0, 0]);
        key.extend(self.address.octets());
        key
    }

    fn membership(&self) -> Vec<u8> {
        [self.address.octets(), self.tenant.to_be_bytes()].concat()
    }

    fn elements(&self, table: &str, kind: u16) -> Vec<Message> {
        [BRIDGE, IP].into_iter().flat_map(|family| self.elements_in(family, table, kind)).collect()
    }

    fn elements_in(&self, family: u8, table: &str, kind: u16) -> Vec<Message> {
        let verb = if kind == NEWSETELEM { "admit" } else { "expel" };
        let flags = if kind == NEWSETELEM { NLM_F_ACK | NLM_F_CREATE } else { NLM_F_ACK };
        let element = |set: &str, key: Vec<u8>, data: Option<[u8; 4]>| {
            message_in(family, format!("{verb} {} ({set})", self.address), kind, flags)
                .text(1, table)
                .text(2, set)
                .nest(3, |m| {
                    m.nest(1, |m| {
                        let m = m.nest(1, |m| m.bytes(1, &key));
                        match data {
                            Some(data) if kind == NEWSETELEM => m.nest(2, |m| m.bytes(1, &data)),
                            _ => m,
                        }
                    })
                })
        };
        let tenant = Some(self.tenant.to_be_bytes());
        let mut all = vec![
            element("tenant", self.address.octets().to_vec(), tenant),
            element("members", self.membership(), None),
        ];
        if family == BRIDGE {
            all.push(element("places", self.place(), None));
        }
        all
    }
}

/// Buckets of a port that is balanced over several workloads: what most numbers of workloads divide without a rest.
pub(crate) const BUCKETS: u32 = 840;

/// A host port whose new connections are spread evenly over several places; those under way stay where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    /// Transport.
    pub protocol: Protocol,
    /// Port on the host.
    pub host_port: u16,
    /// Where it leads; nowhere if empty.
    pub to: Vec<(Ipv4Addr, u16)>,
}

impl Backends {
    fn map(&self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "tcp_spread",
            Protocol::Udp => "udp_spread",
        }
    }

    /// Key of a bucket: the port as it is in the packet, and the lot as the kernel draws it.
    fn key(&self, bucket: u32) -> Vec<u8> {
        [&self.host_port.to_be_bytes()[..], &[0, 0], &bucket.to_ne_bytes()].concat()
    }

    /// All its buckets in one message.
    fn elements(&self, table: &str, kind: u16) -> Option<Message> {
        if self.to.is_empty() {
            return None;
        }
        let verb = if kind == NEWSETELEM { "backends" } else { "gather" };
        let flags = if kind == NEWSETELEM { NLM_F_ACK | NLM_F_CREATE } else { NLM_F_ACK };
        let what = format!("{verb} port {}/{}", self.host_port, self.map());
        let all = message(what, kind, flags).text(1, table).text(2, self.map()).nest(3, |m| {
            (0..BUCKETS).fold(m, |m, bucket| {
                let (address, port) = self.to[bucket as usize % self.to.len()];
                let data = [&address.octets()[..], &port.to_be_bytes(), &[0, 0]].concat();
                m.nest(1, |m| {
                    let m = m.nest(1, |m| m.bytes(1, &self.key(bucket)));
                    if kind == NEWSETELEM { m.nest(2, |m| m.bytes(1, &data)) } else { m }
                })
            })
        });
        Some(all)
    }
}

impl Published {
    fn map(&self) -> &'static str {
        match (self.protocol, self.host) {
            (Protocol::Tcp, None) => "tcp",
            (Protocol::Udp, None) => "udp",
            (Protocol::Tcp, Some(_)) => "tcp_at",
            (Protocol::Udp, Some(_)) => "udp_at",
        }
    }

    fn key(&self) -> Vec<u8> {
        let port = self.host_port.to_be_bytes();
        match self.host {
            None => port.to_vec(),
            Some(host) => [&host.octets()[..], &port, &[0, 0]].concat(),
        }
    }

    fn data(&self) -> Vec<u8> {
        [&self.to.octets()[..], &self.to_port.to_be_bytes(), &[0, 0]].concat()
    }
}

/// Source (`offset` 12) or destination (16) address within a subnet.
fn address_in(offset: u32, subnet: Subnet) -> [Expression; 3] {
    let mask = u32::MAX.checked_shl(32 - u32::from(subnet.prefix)).unwrap_or(0).to_be_bytes();
    [
        payload(REG_1, 1, offset, 4),
        expression("bitwise", move |m| {
            m.be32(1, REG_1).be32(2, REG_1).be32(3, 4).nest(4, |m| m.bytes(1, &mask)).nest(5, |m| m.bytes(1, &[0; 4]))
        }),
        compare(CMP_EQ, subnet.network().octets().to_vec()),
    ]
}

/// How the places of a map are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Port,
    AddressAndPort,
    PortAndLot,
}

/// `dnat` by one of the maps, for packets to an address of this machine.
fn dnat(protocol: Protocol, map: &'static str, by: By) -> Vec<Expression> {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let mut all = vec![
        expression("fib", |m| m.be32(1, REG_1).be32(2, 3).be32(3, 2)),
        compare(CMP_EQ, 2u32.to_ne_bytes().to_vec()),
        meta(META_L4PROTO),
        compare(CMP_EQ, vec![number as u8]),
    ];
    if by == By::AddressAndPort {
        all.push(payload(REG32_0, 1, 16, 4));
        all.push(payload(REG32_1, 2, 2, 2));
    } else {
        all.push(payload(REG32_0, 2, 2, 2));
    }
    if by == By::PortAndLot {
        const RANDOM: u32 = 1;
        // By lot and not in turn: a client that alternates between two ports would always draw the same half.
        all.push(expression("numgen", |m| m.be32(1, REG32_1).be32(2, BUCKETS).be32(3, RANDOM)));
    }
    all.push(expression("lookup", move |m| m.text(1, map).be32(2, REG32_0).be32(3, REG32_0)));
    all.push(expression("nat", |m| m.be32(1, 1).be32(2, libc::AF_INET as u32).be32(3, REG32_0).be32(5, REG32_1)));
    all
}

fn new_table(family: u8, name: &str) -> Message {
    message_in(family, format!("create table {name}"), NEWTABLE, NLM_F_ACK | NLM_F_CREATE).text(1, name)
}

fn new_chain(family: u8, table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    message_in(family, format!("create chain {name}"), NEWCHAIN, NLM_F_ACK | NLM_F_CREATE)
        .text(1, table)
        .text(3, name)
        .nest(4, |m| m.be32(1, hook).be32(2, priority as u32))
        .be32(5, NF_ACCEPT)
        .text(7, kind)
}

fn new_map(table: &str, name: &str, id: u32, key: (u32, u32)) -> Message {
    message(format!("create map {name}"), NEWSET, NLM_F_ACK | NLM_F_CREATE)
        .text(1, table)
        .text(2, name)
        .be32(3, SET_MAP)
        .be32(4, key.0)
        .be32(5, key.1)
        .be32(6, TYPE_ADDR_SERVICE)
        .be32(7, 8)
        .be32(10, id)
}

/// The map of tenants and the set of members, for one table.
fn tenants(family: u8, table: &str) -> [Message; 2] {
    let flags = NLM_F_ACK | NLM_F_CREATE;
    let map = message_in(family, "create map tenant", NEWSET, flags)
        .text(1, table)
        .text(2, "tenant")
        .be32(3, SET_MAP)
        .be32(4, TYPE_ADDR)
        .be32(5, 4)
        .be32(6, TYPE_MARK)
        .be32(7, 4)
        .be32(10, 11);
    [map, new_set(family, table, "members", 12, (TYPE_ADDR_MARK, 8))]
}

fn new_set(family: u8, table: &str, name: &str, id: u32, key: (u32, u32)) -> Message {
    message_in(family, format!("create set {name}"), NEWSET, NLM_F_ACK | NLM_F_CREATE)
        .text(1, table)
        .text(2, name)
        .be32(3, 0)
        .be32(4, key.0)
        .be32(5, key.1)
        .be32(10, id)
}

/// Whether the key in the registers is in the set.
fn in_set(set: &'static str, register: u32) -> Expression {
    expression("lookup", move |m| m.text(1, set).be32(2, register))
}

/// Source and destination are of one tenant.
///
/// The tenant goes by way of the packet's mark, which has its own value again before the packet goes on: nft 1.0.6 (Debian 12)
/// ends in an assertion when it lists rules with a key whose second half comes from a map, and with it whoever looks at any rules.
fn same_tenant() -> Vec<Expression> {
    let mark_to = |register| expression("meta", move |m| m.be32(1, register).be32(2, META_MARK));
    let mark_from = |register| expression("meta", move |m| m.be32(2, META_MARK).be32(3, register));
    vec![
        mark_to(REG32_2),
        payload(REG32_0, 1, 12, 4),
        // One without a tenant goes no further in this rule: its mark is as it was.
        expression("lookup", |m| m.text(1, "tenant").be32(2, REG32_0).be32(3, REG32_1)),
        mark_from(REG32_1),
        mark_to(REG32_1),
        mark_from(REG32_2),
        payload(REG32_0, 1, 16, 4),
        in_set("members", REG32_0),
    ]
}

fn new_rule_in(family: u8, table: &str, chain: &str, expressions: Vec<Expression>) -> Message {
    rule_in(family, format!("add rule to {chain}"), NLM_F_APPEND, (table, chain), &expressions)
}

fn element(table: &str, kind: u16, port: &Published) -> Message {
    let verb = if kind == NEWSETELEM { "publish" } else { "unpublish" };
    let what = format!("{verb} port {}/{}", port.host_port, port.map());
    let flags = if kind == NEWSETELEM { NLM_F_ACK | NLM_F_CREATE } else { NLM_F_ACK };
    message(what, kind, flags).text(1, table).text(2, port.map()).nest(3, |m| {
        m.nest(1, |m| {
            let m = m.nest(1, |m| m.bytes(1, &port.key()));
            if kind == NEWSETELEM { m.nest(2, |m| m.bytes(1, &port.data())) } else { m }
        })
    })
}

fn new_rule(table: &str, chain: &str, expressions: Vec<Expression>) -> Message {
    new_rule_in(IP, table, chain, expressions)
}

/// The table of the family `bridge`, anew. With `decides` it also decides who reaches whom, where the table for IP can't.
pub(crate) fn bridge_table_replace(table: &str, links: &str, decides: bool, members: &[Member]) -> Result<(), Error> {
    const PREROUTING: u32 = 0;
    const FORWARD: u32 = 2;
    const ETHERNET_IP: u16 = 0x0800;
    const ETHERNET_ARP: u16 = 0x0806;
    let mut all = vec![
        new_table(BRIDGE, table),
        message_in(BRIDGE, format!("delete table {table}"), DELTABLE, NLM_F_ACK).text(1, table),
        new_table(BRIDGE, table),
        new_set(BRIDGE, table, "places", 10, (TYPE_IFNAME_MAC_ADDR, 28)),
    ];
    all.extend(tenants(BRIDGE, table));
    all.push(new_chain(BRIDGE, table, "prerouting", "filter", PREROUTING, -300));
    all.push(new_chain(BRIDGE, table, "forward", "filter", FORWARD, -200));
    // By the beginning of the ports' names: the bridge's own can't be asked for in every kernel.
    let ours = || Vec::from([meta(META_IIFNAME), compare(CMP_EQ, links.as_bytes().to_vec())]);
    let of = |protocol: u16| {
        let mut parts = ours();
        // As it is on the wire: a frame with a VLAN's tag is none of these.
        parts.push(payload(REG_1, 0, 12, 2));
        parts.push(compare(CMP_EQ, protocol.to_be_bytes().to_vec()));
        parts
    };
    // The sender's address: in the IP header, or in ARP's payload.
    for (protocol, offset) in [(ETHERNET_IP, 12), (ETHERNET_ARP, 14)] {
        let mut parts = of(protocol);
        parts.push(expression("meta", |m| m.be32(1, REG32_0).be32(2, META_IIFNAME)));
        parts.push(payload(REG32_0 + 4, 0, 6, 6));
        parts.push(payload(REG32_0 + 6, 1, offset, 4));
        parts.push(in_set("places", REG32_0));
        parts.push(verdict(NF_ACCEPT));
        all.push(new_rule_in(BRIDGE, table, "prerouting", parts));
    }
    let mut rest = ours();
    rest.push(verdict(NF_DROP));
    all.push(new_rule_in(BRIDGE, table, "prerouting", rest));
    if decides {
        let mut parts = of(ETHERNET_IP);
        parts.extend(same_tenant());
        parts.push(verdict(NF_ACCEPT));
        all.push(new_rule_in(BRIDGE, table, "forward", parts));
        let mut parts = of(ETHERNET_IP);
        parts.push(verdict(NF_DROP));
        all.push(new_rule_in(BRIDGE, table, "forward", parts));
    }
    all.extend(filling(BRIDGE, table, members));
    send(batch(all))
}

/// The elements of a table that is made in the same transaction: there is no moment at which the table is there, but not who
/// may pass, nor one at which everybody may.
fn filling<'a>(family: u8, table: &'a str, members: &'a [Member]) -> impl Iterator<Item = Message> + 'a {
    members.iter().flat_map(move |m| m.elements_in(family, table, NEWSETELEM)).map(Message::quiet)
}

pub(crate) fn bridge_table_delete(table: &str) -> Result<(), Error> {
    let delete = message_in(BRIDGE, format!("delete table {table}"), DELTABLE, NLM_F_ACK).text(1, table);
    ignore(send(batch(vec![delete])), libc::ENOENT)
}

pub(crate) fn bridge_table_exists(table: &str) -> Result<bool, Error> {
    exists(BRIDGE, table)
}

pub(crate) fn admit(table: &str, members: &[Member]) -> Result<(), Error> {
    let mut done = 0;
    for portion in members.chunks(PORTION / 5) {
        let sent = send(batch(portion.iter().flat_map(|m| m.elements(table, NEWSETELEM)).collect()));
        if let Err(error) = sent {
            members[..done].iter().try_for_each(|member| expel(table, member))?;
            return Err(error);
        }
        done += portion.len();
    }
    Ok(())
}

pub(crate) fn expel(table: &str, member: &Member) -> Result<(), Error> {
    let whole = send(batch(member.elements(table, DELSETELEM)));
    if !matches!(&whole, Err(error) if error.errno() == Some(libc::ENOENT)) {
        return whole;
    }
    // Some of it was gone already: one by one, then.
    for message in member.elements(table, DELSETELEM) {
        ignore(send(batch(vec![message])), libc::ENOENT)?;
    }
    Ok(())
}

/// Puts the whole table in place, with `ports` published, in one transaction: an older table of that name is replaced and
/// no packet ever meets a state in between.
pub(crate) fn table_replace(
    table: &str,
    bridge: &str,
    subnet: Subnet,
    ports: &[Published],
    backends: &[Backends],
    members: &[Member],
) -> Result<(), Error> {
    const PREROUTING: u32 = 0;
    const FORWARD: u32 = 2;
    const OUTPUT: u32 = 3;
    const POSTROUTING: u32 = 4;
    let mut all = vec![
        new_table(IP, table),
        message(format!("delete table {table}"), DELTABLE, NLM_F_ACK).text(1, table),
        new_table(IP, table),
        new_map(table, "tcp", 1, (TYPE_SERVICE, 2)),
        new_map(table, "udp", 2, (TYPE_SERVICE, 2)),
        new_map(table, "tcp_at", 3, (TYPE_ADDR_SERVICE, 8)),
        new_map(table, "udp_at", 4, (TYPE_ADDR_SERVICE, 8)),
        new_map(table, "tcp_spread", 5, (TYPE_SERVICE_MARK, 8)),
        new_map(table, "udp_spread", 6, (TYPE_SERVICE_MARK, 8)),
        new_chain(IP, table, "raw", "filter", PREROUTING, -300),
        new_chain(IP, table, "pre", "nat", PREROUTING, -100),
        new_chain(IP, table, "out", "nat", OUTPUT, -100),
        new_chain(IP, table, "post", "nat", POSTROUTING, 100),
        new_chain(IP, table, "forward", "filter", FORWARD, 0),
    ];
    all.extend(tenants(IP, table));
    let loopback = Subnet { gateway: Ipv4Addr::LOCALHOST, prefix: 8 };
    let mut rule = |chain, parts: Vec<Expression>| all.push(new_rule(table, chain, parts));
    let chain = |parts: Vec<Vec<Expression>>| parts.into_iter().flatten().collect::<Vec<_>>();

    rule(
        "raw",
        chain(vec![
            interface(META_IIFNAME, CMP_NEQ, "lo").into(),
            address_in(16, loopback).into(),
            vec![verdict(NF_DROP)],
        ]),
    );
    for hook in ["pre", "out"] {
        rule(hook, dnat(Protocol::Tcp, "tcp_at", By::AddressAndPort));
        rule(hook, dnat(Protocol::Udp, "udp_at", By::AddressAndPort));
        rule(hook, dnat(Protocol::Tcp, "tcp", By::Port));
        rule(hook, dnat(Protocol::Udp, "udp", By::Port));
        rule(hook, dnat(Protocol::Tcp, "tcp_spread", By::PortAndLot));
        rule(hook, dnat(Protocol::Udp, "udp_spread", By::PortAndLot));
    }
    let inside = || address_in(12, subnet).into();
    rule("post", chain(vec![inside(), interface(META_OIFNAME, CMP_NEQ, bridge).into(), vec![masquerade()]]));
    rule(
        "post",
        chain(vec![
            address_in(12, loopback).into(),
            interface(META_OIFNAME, CMP_EQ, bridge).into(),
            vec![masquerade()],
        ]),
    );
    rule(
        "post",
        chain(vec![
            inside(),
            interface(META_OIFNAME, CMP_EQ, bridge).into(),
            destined_by_nat().into(),
            vec![masquerade()],
        ]),
    );
    for parts in accepted(bridge) {
        rule("forward", parts);
    }
    rule("forward", chain(vec![interface(META_OIFNAME, CMP_EQ, bridge).into(), vec![verdict(NF_DROP)]]));
    all.extend(ports.iter().map(|port| element(table, NEWSETELEM, port).quiet()));
    all.extend(backends.iter().filter_map(|s| s.elements(table, NEWSETELEM)).map(Message::quiet));
    all.extend(filling(IP, table, members));
    send(batch(all))
}

/// Elements of one transaction: their acknowledgements must fit the socket's receive buffer (measured: some 250 do).
const PORTION: usize = 100;

/// The packets of this network that may be forwarded, one rule each: what containers send, answers to it, and what
/// comes in by a published port. From one container to another only the same tenant's may, answers included.
fn accepted(bridge: &str) -> [Vec<Expression>; 4] {
    let mut out = Vec::from(interface(META_IIFNAME, CMP_EQ, bridge));
    out.extend(interface(META_OIFNAME, CMP_NEQ, bridge));
    out.push(verdict(NF_ACCEPT));
    let into = |condition: Vec<Expression>| {
        let mut parts = Vec::from(interface(META_OIFNAME, CMP_EQ, bridge));
        parts.extend(condition);
        parts.push(verdict(NF_ACCEPT));
        parts
    };
    let mut neighbours = Vec::from(interface(META_IIFNAME, CMP_EQ, bridge));
    neighbours.extend(same_tenant());
    let mut answers = Vec::from(interface(META_IIFNAME, CMP_NEQ, bridge));
    answers.extend(known_connection());
    [out, into(answers), into(destined_by_nat().into()), into(neighbours)]
}

pub(crate) fn table_delete(table: &str) -> Result<(), Error> {
    let delete = message(format!("delete table {table}"), DELTABLE, NLM_F_ACK).text(1, table);
    ignore(send(batch(vec![delete])), libc::ENOENT)
}

/// Whether there is a table of that name.
pub(crate) fn table_exists(table: &str) -> Result<bool, Error> {
    exists(IP, table)
}

fn exists(family: u8, table: &str) -> Result<bool, Error> {
    const GETTABLE: u16 = 1;
    let mut found = false;
    dump(message_in(family, "list tables", GETTABLE, NLM_F_DUMP), |_, body| {
        let name = body.get(4..).and_then(|b| attribute(b, 1)).unwrap_or_default();
        found |= name.strip_suffix(&[0]) == Some(table.as_bytes());
    })?;
    Ok(found)
}

/// How many rules both tables of that name have.
pub(crate) fn rules_of(table: &str) -> Result<usize, Error> {
    let mut count = 0;
    for family in [IP, BRIDGE] {
        dump(message_in(family, "list rules", GETRULE, NLM_F_DUMP).text(1, table), |_, body| {
            let name = body.get(4..).and_then(|b| attribute(b, 1)).unwrap_or_default();
            count += usize::from(name.strip_suffix(&[0]) == Some(table.as_bytes()));
        })?;
    }
    Ok(count)
}

/// How many workloads take part, by the table of the bridge.
pub(crate) fn places(table: &str) -> Result<usize, Error> {
    let mut count = 0;
    dump(message_in(BRIDGE, "list places", GETSETELEM, NLM_F_DUMP).text(1, table).text(2, "places"), |_, body| {
        let elements = body.get(4..).and_then(|b| attribute(b, 3)).unwrap_or_default();
        count += attributes(elements).count();
    })?;
    Ok(count)
}

/// Whether another table whose name begins as this one's up to the first `-` has the port.
pub(crate) fn taken_elsewhere(own: &str, port: &Published) -> Result<bool, Error> {
    const GETTABLE: u16 = 1;
    const GETSETELEM: u16 = 13;
    let family = own.split_inclusive('-').next().unwrap_or(own);
    let mut others = Vec::new();
    dump(message_in(IP, "list tables", GETTABLE, NLM_F_DUMP), |_, body| {
        let name = body.get(4..).and_then(|b| attribute(b, 1)).and_then(|n| n.strip_suffix(&[0]));
        others
            .extend(name.map(String::from_utf8_lossy).filter(|n| n.starts_with(family) && n != own).map(String::from));
    })?;
    let anywhere = Published { host: None, ..*port };
    let backends = Backends { protocol: port.protocol, host_port: port.host_port, to: Vec::new() };
    for table in others {
        let ask = message(format!("look for port {}", port.host_port), GETSETELEM, NLM_F_ACK)
            .text(1, &table)
            .text(2, backends.map())
            .nest(3, |m| m.nest(1, |m| m.nest(1, |m| m.bytes(1, &backends.key(0)))));
        match send(vec![ask]) {
            Ok(()) => return Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        for port in [Some(port).filter(|p| p.host.is_some()), Some(&anywhere)].into_iter().flatten() {
            let ask = message(format!("look for port {}", port.host_port), GETSETELEM, NLM_F_ACK)
                .text(1, &table)
                .text(2, port.map())
                .nest(3, |m| m.nest(1, |m| m.nest(1, |m| m.bytes(1, &port.key()))));
            match send(vec![ask]) {
                Ok(()) => return Ok(true),
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}

fn ignore(result: Result<(), Error>, errno: i32) -> Result<(), Error> {
    match result {
        Err(error) if error.errno() == Some(errno) => Ok(()),
        other => other,
    }
}

/// Publishes all of `ports` or none.
pub(crate) fn publish(table: &str, ports: &[Published]) -> Result<(), Error> {
    let mut done = 0;
    for portion in ports.chunks(PORTION) {
        let sent = send(batch(portion.iter().map(|p| element(table, NEWSETELEM, p)).collect()));
        if let Err(error) = sent {
            unpublish(table, &ports[..done])?;
            return Err(error);
        }
        done += portion.len();
    }
    Ok(())
}

/// Takes ports back; one that was not published is no error.
pub(crate) fn unpublish(table: &str, ports: &[Published]) -> Result<(), Error> {
    for port in ports {
        ignore(send(batch(vec![element(table, DELSETELEM, port)])), libc::ENOENT)?;
    }
    Ok(())
}

/// Has a port lead to the places of `after` instead of those of `before`, in one transaction.
pub(crate) fn backends(table: &str, before: Option<&Backends>, after: &Backends) -> Result<(), Error> {
    let change = |gone: bool| {
        let delete = before.filter(|_| !gone).and_then(|b| b.elements(table, DELSETELEM));
        batch(delete.into_iter().chain(after.elements(table, NEWSETELEM)).collect())
    };
    match send(change(false)) {
        // What was to be there was not: somebody else emptied the table.
        Err(error) if error.errno() == Some(libc::ENOENT) => send(change(true)),
        other => other,
    }
}

/// What the kernel says is published now.
pub(crate) fn published(table: &str) -> Result<Vec<Published>, Error> {
    let mut all = Vec::new();
    for (map, protocol, at) in [
        ("tcp", Protocol::Tcp, false),
        ("udp", Protocol::Udp, false),
        ("tcp_at", Protocol::Tcp, true),
        ("udp_at", Protocol::Udp, true),
    ] {
        let request = message(format!("list map {map}"), GETSETELEM, NLM_F_DUMP).text(1, table).text(2, map);
        let listed = dump(request, |_, body| {
            let elements = body.get(4..).and_then(|b| attribute(b, 3)).unwrap_or_default();
            for (_, element) in attributes(elements) {
                let value = |kind| attribute(element, kind).and_then(|b| attribute(b, 1)).unwrap_or_default();
                let (key, data) = (value(1), value(2));
                let address = |b: &[u8]| b.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
                let port = |b: &[u8], from| {
                    b.get(from..from + 2).and_then(|b: &[u8]| b.try_into().ok()).map(u16::from_be_bytes)
                };
                if let (Some(host_port), Some(to), Some(to_port)) =
                    (port(key, if at { 4 } else { 0 }), address(data), port(data, 4))
                {
                    let host = if at { address(key) } else { None };
                    all.push(Published { protocol, host, host_port, to, to_port });
                }
            }
        });
        match listed {
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(all)
}
