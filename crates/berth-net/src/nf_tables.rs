//! What messages to nf_tables are made of: requests, batches, and the expressions of rules (`linux/netfilter/nf_tables.h`).

use crate::netlink::{Error, Message, NLM_F_ACK, NLM_F_CREATE, Socket};

pub(crate) const GETCHAIN: u16 = 4;
pub(crate) const NEWRULE: u16 = 6;
pub(crate) const GETRULE: u16 = 7;
pub(crate) const DELRULE: u16 = 8;

pub(crate) const REG_1: u32 = 1;
pub(crate) const META_IIFNAME: u32 = 6;
pub(crate) const META_OIFNAME: u32 = 7;
pub(crate) const META_L4PROTO: u32 = 16;
pub(crate) const CMP_EQ: u32 = 0;
pub(crate) const CMP_NEQ: u32 = 1;
pub(crate) const NF_DROP: u32 = 0;
pub(crate) const NF_ACCEPT: u32 = 1;

/// Families of tables (`NFPROTO_*` of `linux/netfilter.h`).
pub(crate) const IP: u8 = libc::AF_INET as u8;
pub(crate) const BRIDGE: u8 = 7;

pub(crate) fn message_in(family: u8, what: impl Into<String>, kind: u16, flags: u16) -> Message {
    Message::new(what, (10 << 8) | kind, flags, &[family, 0, 0, 0])
}

pub(crate) fn message(what: impl Into<String>, kind: u16, flags: u16) -> Message {
    message_in(IP, what, kind, flags)
}

thread_local! {
    /// Kept open: the kernel makes whoever closes a netfilter socket wait for the destruction of what was deleted by then,
    /// which takes an RCU grace period, some 10 ms. One for each thread, as a thread has one network namespace.
    static SOCKET: std::cell::RefCell<Option<Socket>> = const { std::cell::RefCell::new(None) };
}

fn with_socket<T>(work: impl FnOnce(&mut Socket) -> Result<T, Error>) -> Result<T, Error> {
    SOCKET.with_borrow_mut(|kept| {
        let mut socket = match kept.take() {
            Some(socket) => socket,
            None => Socket::netfilter()?,
        };
        let result = work(&mut socket);
        // One whose answers were not all read is of no more use.
        if !matches!(result, Err(Error::Socket { .. } | Error::Answer(_))) {
            *kept = Some(socket);
        }
        result
    })
}

pub(crate) fn send(messages: Vec<Message>) -> Result<(), Error> {
    with_socket(|socket| socket.send(messages))
}

pub(crate) fn dump(request: Message, each: impl FnMut(u16, &[u8])) -> Result<(), Error> {
    with_socket(|socket| socket.dump(request, each))
}

/// Wraps the messages in a batch, which the kernel carries out whole or not at all.
pub(crate) fn batch(messages: Vec<Message>) -> Vec<Message> {
    let edge = |kind| Message::new("nf_tables batch", kind, 0, &[0, 0, 0, 10]);
    let mut all = vec![edge(0x10)];
    all.extend(messages);
    all.push(edge(0x11));
    all
}

pub(crate) type Expression = Box<dyn Fn(Message) -> Message>;

/// A rule for a chain of a table: its last with `NLM_F_APPEND` as `append`, its first with 0.
pub(crate) fn rule_in(
    family: u8,
    what: impl Into<String>,
    append: u16,
    (table, chain): (&str, &str),
    expressions: &[Expression],
) -> Message {
    message_in(family, what, NEWRULE, NLM_F_ACK | NLM_F_CREATE | append)
        .text(1, table)
        .text(2, chain)
        .nest(4, |m| expressions.iter().fold(m, |m, expression| expression(m)))
}

pub(crate) fn expression(name: &'static str, data: impl Fn(Message) -> Message + 'static) -> Expression {
    Box::new(move |m| m.nest(1, |m| m.text(1, name).nest(2, &data)))
}

pub(crate) fn meta(key: u32) -> Expression {
    expression("meta", move |m| m.be32(1, REG_1).be32(2, key))
}

pub(crate) fn compare(op: u32, value: Vec<u8>) -> Expression {
    expression("cmp", move |m| m.be32(1, REG_1).be32(2, op).nest(3, |m| m.bytes(1, &value)))
}

pub(crate) fn interface(key: u32, op: u32, name: &str) -> [Expression; 2] {
    [meta(key), compare(op, [name.as_bytes(), &[0]].concat())]
}

pub(crate) fn payload(register: u32, base: u32, offset: u32, len: u32) -> Expression {
    expression("payload", move |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, len))
}

/// A bit of the connection's status or state (both are host-order words).
fn connection_bit(key: u32, bits: u32) -> [Expression; 3] {
    [
        expression("ct", move |m| m.be32(1, REG_1).be32(2, key)),
        expression("bitwise", move |m| {
            m.be32(1, REG_1)
                .be32(2, REG_1)
                .be32(3, 4)
                .nest(4, |m| m.bytes(1, &bits.to_ne_bytes()))
                .nest(5, |m| m.bytes(1, &[0; 4]))
        }),
        compare(CMP_NEQ, vec![0; 4]),
    ]
}

pub(crate) fn destined_by_nat() -> [Expression; 3] {
    const STATUS: u32 = 2;
    const DST_NAT: u32 = 1 << 5;
    connection_bit(STATUS, DST_NAT)
}

pub(crate) fn known_connection() -> [Expression; 3] {
    const STATE: u32 = 0;
    const ESTABLISHED_RELATED: u32 = 2 | 4;
    connection_bit(STATE, ESTABLISHED_RELATED)
}

pub(crate) fn verdict(code: u32) -> Expression {
    expression("immediate", move |m| m.be32(1, 0).nest(2, |m| m.nest(2, |m| m.be32(1, code))))
}

pub(crate) fn masquerade() -> Expression {
    expression("masq", |m| m)
}
