//! Firewalls of the host in which this network's packets would be lost, and the rules of ours that accept them there.
//!
//! nf_tables drops a packet when any table does, so that an `accept` in the network's own table is not enough. What may come
//! in is decided by the `forward` chain of that table all the same. Only IPv4 is accepted: that table filters nothing else.
//!
//! | firewall | chain | when | where |
//! |---|---|---|---|
//! | Docker, podman, ufw | `ip filter FORWARD` | its policy is DROP | after every rule of the host's own |
//! | ufw | `ip filter INPUT` | its policy is DROP | after every rule of the host's own |
//! | firewalld | `inet firewalld filter_FORWARD`, `filter_INPUT` | always: it ends with `reject` | before the others |
//!
//! What comes to the host itself is accepted for the name service only: port 53 of the gateway's address, from the bridge.
//! The rules have the mark of the network as their comment, by which they are found and taken away again.

use std::net::Ipv4Addr;

use crate::netlink::{Error, NLM_F_ACK, NLM_F_APPEND, NLM_F_DUMP, attribute};
use crate::nf_tables::{
    CMP_EQ, DELRULE, Expression, GETCHAIN, GETRULE, IP, META_IIFNAME, META_L4PROTO, META_OIFNAME, NF_ACCEPT, NF_DROP,
    REG_1, batch, compare, dump, expression, interface, message_in, meta, payload, rule_in, send, verdict,
};

/// `NFPROTO_INET`.
const INET: u8 = 1;

#[derive(Clone, Copy)]
enum Accepts {
    /// What goes through the host, from the bridge and to it.
    Forwarded,
    /// What asks the name service.
    Names,
}

struct HostChain {
    family: u8,
    table: &'static str,
    chain: &'static str,
    /// Whether its policy must be DROP for packets to be lost.
    by_policy: bool,
    accepts: Accepts,
}

const HOST_CHAINS: [HostChain; 4] = [
    HostChain { family: IP, table: "filter", chain: "FORWARD", by_policy: true, accepts: Accepts::Forwarded },
    HostChain { family: IP, table: "filter", chain: "INPUT", by_policy: true, accepts: Accepts::Names },
    HostChain {
        family: INET,
        table: "firewalld",
        chain: "filter_FORWARD",
        by_policy: false,
        accepts: Accepts::Forwarded,
    },
    HostChain { family: INET, table: "firewalld", chain: "filter_INPUT", by_policy: false, accepts: Accepts::Names },
];

fn is_text(body: &[u8], kind: u16, text: &str) -> bool {
    attribute(body, kind).and_then(|found| found.strip_suffix(&[0])) == Some(text.as_bytes())
}

impl HostChain {
    fn shown(&self) -> String {
        format!("{} {}", self.table, self.chain)
    }

    /// Handles of the rules with this mark; none where there is no such chain.
    fn marked(&self, mark: &str) -> Result<Vec<u64>, Error> {
        let mut handles = Vec::new();
        let what = format!("list rules of {}", self.shown());
        let request = message_in(self.family, what, GETRULE, NLM_F_DUMP).text(1, self.table).text(2, self.chain);
        let listed = dump(request, |_, body| {
            let family = body.first().copied();
            let body = body.get(4..).unwrap_or_default();
            let ours = attribute(body, 7)
                .and_then(|data| data.get(2..))
                .is_some_and(|comment| comment.strip_suffix(&[0]).unwrap_or(comment) == mark.as_bytes());
            let here = family == Some(self.family) && is_text(body, 1, self.table) && is_text(body, 2, self.chain);
            if ours
                && here
                && let Some(handle) = attribute(body, 3).and_then(|b| b.try_into().ok())
            {
                handles.push(u64::from_be_bytes(handle));
            }
        });
        match listed {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            other => other.map(|()| handles),
        }
    }

    fn rules(&self, bridge: &str, gateway: Ipv4Addr) -> Vec<Vec<Expression>> {
        const NFPROTO: u32 = 15;
        let begin = |key| {
            let mut parts = Vec::from(interface(key, CMP_EQ, bridge));
            if self.family == INET {
                parts.extend([meta(NFPROTO), compare(CMP_EQ, vec![IP])]);
            }
            parts
        };
        let end = |mut parts: Vec<Expression>| {
            parts.push(expression("counter", |m| m));
            parts.push(verdict(NF_ACCEPT));
            parts
        };
        // Only what `iptables` can read back: with anything else in it the whole table is "incompatible" to that program, and so
        // to Docker.
        match self.accepts {
            Accepts::Forwarded => [META_IIFNAME, META_OIFNAME].map(|key| end(begin(key))).into(),
            Accepts::Names => [libc::IPPROTO_UDP, libc::IPPROTO_TCP]
                .map(|protocol| {
                    let mut parts = begin(META_IIFNAME);
                    parts.extend([payload(REG_1, 1, 16, 4), compare(CMP_EQ, gateway.octets().to_vec())]);
                    parts.extend([meta(META_L4PROTO), compare(CMP_EQ, vec![protocol as u8])]);
                    parts.extend([payload(REG_1, 2, 2, 2), compare(CMP_EQ, 53_u16.to_be_bytes().to_vec())]);
                    end(parts)
                })
                .into(),
        }
    }

    fn add(&self, bridge: &str, gateway: Ipv4Addr, mark: &str) -> Result<(), Error> {
        let comment = [&[0, mark.len() as u8 + 1], mark.as_bytes(), &[0]].concat();
        // Without NLM_F_APPEND the kernel puts a rule before the others.
        let append = if self.by_policy { NLM_F_APPEND } else { 0 };
        let rule = |parts: Vec<Expression>| {
            let what = format!("accept {bridge} in {}", self.shown());
            rule_in(self.family, what, append, (self.table, self.chain), &parts).bytes(7, &comment)
        };
        send(batch(self.rules(bridge, gateway).into_iter().map(rule).collect()))
    }
}

/// What was done to be accepted by the firewalls of the host.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Chains in which rules were missing and are now.
    pub added: Vec<String>,
    /// Why rules could not be added, for each chain: firewalld may own its table alone (`NftablesTableOwner`).
    pub refused: Vec<String>,
}

/// Makes sure that this network's packets are accepted in the firewalls of the host. `mark` is the comment of the rules;
/// `nft list ruleset` and `iptables -S` show it.
///
/// # Errors
/// What the kernel answered when it was asked for the chains that there are.
pub(crate) fn accept(bridge: &str, gateway: Ipv4Addr, mark: &str) -> Result<Accepted, Error> {
    let mut found = Vec::new();
    let every_family = 0;
    dump(message_in(every_family, "list chains", GETCHAIN, NLM_F_DUMP), |_, body| {
        let family = body.first().copied();
        let body = body.get(4..).unwrap_or_default();
        let policy = attribute(body, 5).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        found.extend(HOST_CHAINS.iter().filter(|chain| {
            family == Some(chain.family)
                && is_text(body, 1, chain.table)
                && is_text(body, 3, chain.chain)
                && (!chain.by_policy || policy == Some(NF_DROP))
        }));
    })?;
    let mut all = Accepted::default();
    for chain in found {
        if !chain.marked(mark)?.is_empty() {
            continue;
        }
        match chain.add(bridge, gateway, mark) {
            Ok(()) => all.added.push(chain.shown()),
            // The chain went away meanwhile.
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => all.refused.push(error.to_string()),
        }
    }
    Ok(all)
}

/// Takes the rules with this mark away.
pub(crate) fn withdraw(mark: &str) -> Result<(), Error> {
    for chain in &HOST_CHAINS {
        let handles = chain.marked(mark)?;
        if handles.is_empty() {
            continue;
        }
        let delete = |handle: u64| {
            message_in(chain.family, format!("withdraw rule from {}", chain.shown()), DELRULE, NLM_F_ACK)
                .text(1, chain.table)
                .text(2, chain.chain)
                .bytes(3, &handle.to_be_bytes())
        };
        send(batch(handles.into_iter().map(delete).collect()))?;
    }
    Ok(())
}

/// Chains that hold rules with this mark.
pub(crate) fn marked(mark: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for chain in &HOST_CHAINS {
        if !chain.marked(mark)?.is_empty() {
            found.push(chain.shown());
        }
    }
    Ok(found)
}
