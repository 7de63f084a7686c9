//! Addresses and host ports: given out once, kept until the container is removed.
//!
//! A port that anybody uses is never given out: a socket is bound to see that. While a container serves its ports, sockets are
//! bound to them, so that no other program takes one for its own. Nothing listens on them: packets are turned around by the
//! rules before a socket is looked for. A port that nobody serves costs no descriptor.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use berth_engine::{EngineError, PortBinding, PortProtocol, PortRequest, UnitId};
use berth_net::{Network, Subnet};

#[derive(Debug, Default)]
pub(crate) struct NetworkAllocator {
    /// Where ports are published; there may be others beside it.
    network: Option<Network>,
    addresses: HashSet<Ipv4Addr>,
    next_address: u32,
    ports: HashMap<UnitId, Vec<(PortBinding, Option<OwnedFd>)>>,
    /// Whose the ports are, by their owner.
    tenants: HashMap<UnitId, u32>,
    serving: HashSet<UnitId>,
    next_port: HashMap<(u16, u16), u16>,
    /// Host ports that one account may have; none is bounded at 0.
    most_of_tenant: usize,
}

/// A change of a container's ports.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// All that it has now, in the order asked for.
    pub(crate) ports: Vec<PortBinding>,
    pub(crate) added: Vec<PortBinding>,
    pub(crate) removed: Vec<PortBinding>,
}

/// Binds without listening, so that both sides see a conflict.
fn bind(protocol: PortProtocol, address: SocketAddrV4) -> io::Result<OwnedFd> {
    if protocol == PortProtocol::Udp {
        return UdpSocket::bind(address).map(OwnedFd::from);
    }
    match bind_tcp(address, false) {
        // Connections of somebody who has gone may linger there for a minute (TIME-WAIT). They are in nobody's way.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind_tcp(address, true),
        other => other,
    }
}

fn bind_tcp(address: SocketAddrV4, over_lingering: bool) -> io::Result<OwnedFd> {
    let done = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: plain system calls; the descriptor is owned as soon as it exists, addresses and options are locals.
    unsafe {
        let fd = OwnedFd::from_raw_fd(done(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?);
        let reuse = |on: i32| {
            let size = size_of::<i32>() as u32;
            done(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), size))
        };
        if over_lingering {
            reuse(1)?;
        }
        let mut raw: libc::sockaddr_in = std::mem::zeroed();
        raw.sin_family = libc::AF_INET as u16;
        raw.sin_port = address.port().to_be();
        raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
        let size = size_of::<libc::sockaddr_in>() as u32;
        done(libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size))?;
        if over_lingering {
            // The port is shared with whoever else says SO_REUSEADDR until somebody listens on it; from then on it is this
            // socket's alone, also when it has ceased to listen.
            done(libc::listen(fd.as_raw_fd(), 0))?;
            reuse(0)?;
            done(libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD))?;
        }
        Ok(fd)
    }
}

impl NetworkAllocator {
    pub(crate) fn new(network: Network, most_of_tenant: usize) -> Self {
        Self { network: Some(network), most_of_tenant, ..Self::default() }
    }

    /// Refuses `more` ports that would be more than an account may have.
    fn check_tenant(&self, tenant: u32, more: usize) -> Result<(), EngineError> {
        if more == 0 || self.most_of_tenant == 0 {
            return Ok(());
        }
        let of_tenant = |(id, _): &(&UnitId, &Vec<_>)| self.tenants.get(*id) == Some(&tenant);
        let has: usize = self.ports.iter().filter(of_tenant).map(|(_, ports)| ports.len()).sum();
        if has + more > self.most_of_tenant {
            let most = self.most_of_tenant;
            return Err(EngineError::NoRoom(format!(
                "the account has {has} of {most} host ports, and {more} more were asked for"
            )));
        }
        Ok(())
    }

    /// Holds the ports of `id` against other programs, as long as it serves them.
    pub(crate) fn serve(&mut self, id: &UnitId) -> Result<(), EngineError> {
        let ports = self.ports.get(id).map_or(0, |ports| ports.iter().filter(|(_, socket)| socket.is_none()).count());
        if ports > 0 {
            crate::instance::descriptors(ports)?;
        }
        for (port, socket) in self.ports.get_mut(id).into_iter().flatten().filter(|(_, socket)| socket.is_none()) {
            let at = SocketAddrV4::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
            match bind(port.protocol, at) {
                Ok(held) => *socket = Some(held),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_served(*port) => {
                    // A client of the host that was given this very port by the kernel: the rules come before its socket.
                    tracing::warn!(container = %id, port = port.host_port, "a published port could not be held");
                }
                Err(error) => {
                    let (protocol, host_port) = (port.protocol, port.host_port);
                    self.rest(id);
                    return Err(match error.kind() {
                        io::ErrorKind::AddrInUse => EngineError::PortInUse(protocol, host_port),
                        _ => refused(&error, at),
                    });
                }
            }
        }
        self.serving.insert(id.clone());
        Ok(())
    }

    /// Nobody serves the ports of `id` any more; they stay its own.
    pub(crate) fn rest(&mut self, id: &UnitId) {
        self.serving.remove(id);
        for (_, socket) in self.ports.get_mut(id).into_iter().flatten() {
            *socket = None;
        }
    }

    /// Whether a server that is down at the moment, whose containers go on, has the port: its sockets are gone, not its rules.
    fn taken_elsewhere(&self, port: &PortBinding) -> bool {
        // What it leads to does not matter.
        let published = crate::unit::published(*port, Ipv4Addr::UNSPECIFIED);
        self.network.as_ref().is_some_and(|n| n.taken_elsewhere(&published).unwrap_or(false))
    }

    /// The next free address, round robin: one that was just given back is not used again at once (the kernel takes a
    /// while to forget a removed link).
    pub(crate) fn address(&mut self, subnet: Subnet) -> Result<Ipv4Addr, EngineError> {
        for _ in 0..subnet.capacity() {
            let candidate = subnet.address(self.next_address % subnet.capacity());
            self.next_address = self.next_address.wrapping_add(1);
            if self.addresses.insert(candidate) {
                return Ok(candidate);
            }
        }
        Err(EngineError::NoRoom(format!("all {} addresses of {} are given out", subnet.capacity(), subnet.network())))
    }

    fn clashes(&self, port: &PortBinding, others: &[(PortBinding, Option<OwnedFd>)]) -> bool {
        let same = |other: &PortBinding| {
            other.protocol == port.protocol
                && other.host_port == port.host_port
                && (other.host_ip == port.host_ip || other.host_ip.is_none() || port.host_ip.is_none())
        };
        others.iter().any(|(p, _)| same(p)) || self.ports.values().flatten().any(|(p, _)| same(p))
    }

    /// Gives out all of `asked`, or nothing.
    pub(crate) fn ports(
        &mut self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
    ) -> Result<Vec<PortBinding>, EngineError> {
        self.check_tenant(tenant, asked.len())?;
        let given = self.give(asked)?;
        let ports = given.iter().map(|(p, _)| *p).collect();
        self.ports.insert(id.clone(), given);
        self.tenants.insert(id.clone(), tenant);
        Ok(ports)
    }

    fn give(&mut self, asked: &[PortRequest]) -> Result<Vec<(PortBinding, Option<OwnedFd>)>, EngineError> {
        let mut given: Vec<(PortBinding, Option<OwnedFd>)> = Vec::new();
        for ask in asked {
            let (first, last) = ask.host_ports;
            let count = u32::from(last.saturating_sub(first)) + 1;
            let begin = u32::from(self.next_port.get(&ask.host_ports).copied().unwrap_or(first).saturating_sub(first));
            let mut found = None;
            for step in 0..count {
                let host_port = first + ((begin + step) % count) as u16;
                let port = PortBinding {
                    protocol: ask.protocol,
                    host_ip: ask.host_ip,
                    host_port,
                    container_port: ask.container_port.unwrap_or(host_port),
                };
                if self.clashes(&port, &given) {
                    continue;
                }
                match bind(ask.protocol, SocketAddrV4::new(ask.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), host_port)) {
                    Ok(_) if self.taken_elsewhere(&port) => {}
                    Ok(_) => {
                        found = Some((port, None));
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    Err(error) => {
                        let address = ask.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
                        return Err(refused(&error, SocketAddrV4::new(address, host_port)));
                    }
                }
            }
            let Some(found) = found else {
                return Err(if first == last {
                    EngineError::PortInUse(ask.protocol, first)
                } else {
                    EngineError::NoFreePort(first, last)
                });
            };
            if count > 1 {
                self.next_port
                    .insert(ask.host_ports, if found.0.host_port == last { first } else { found.0.host_port + 1 });
            }
            given.push(found);
        }
        Ok(given)
    }

    /// Has the container have what is asked for: what fits is kept, the rest is given, and what is no longer asked for is given
    /// up, its host ports first of all to the same container.
    pub(crate) fn change(&mut self, id: &UnitId, tenant: u32, asked: &[PortRequest]) -> Result<Change, EngineError> {
        let has: Vec<PortBinding> = self.ports.get(id).into_iter().flatten().map(|(p, _)| *p).collect();
        let mut free = has.clone();
        let mut ports: Vec<Option<PortBinding>> =
            asked.iter().map(|ask| free.iter().position(|p| p.answers(ask)).map(|index| free.remove(index))).collect();
        // What is given up makes room for what is asked for; it is put back if that fails.
        let mut own = self.ports.remove(id).unwrap_or_default();
        let (given_up, kept): (Vec<_>, Vec<_>) = own.drain(..).partition(|(p, _)| free.contains(p));
        self.ports.insert(id.clone(), kept);
        let sockets_of: Vec<PortBinding> = given_up.iter().map(|(p, _)| *p).collect();
        drop(given_up);
        // Fixed ports first: a range must not take what another asks for by number.
        let mut order: Vec<usize> = (0..asked.len()).filter(|n| ports[*n].is_none()).collect();
        order.sort_by_key(|n| asked[*n].host_ports.1 - asked[*n].host_ports.0);
        let missing: Vec<PortRequest> = order.iter().map(|n| asked[*n].clone()).collect();
        let added = match self.check_tenant(tenant, missing.len()).and_then(|()| self.give(&missing)) {
            Ok(added) => added,
            Err(error) => {
                self.hold(id, &sockets_of);
                return Err(error);
            }
        };
        for (index, (port, _)) in order.into_iter().zip(&added) {
            ports[index] = Some(*port);
        }
        let change = Change {
            ports: ports.into_iter().flatten().collect(),
            added: added.iter().map(|(p, _)| *p).collect(),
            removed: free,
        };
        self.ports.entry(id.clone()).or_default().extend(added);
        self.tenants.insert(id.clone(), tenant);
        if self.serving.contains(id)
            && let Err(error) = self.serve(id)
        {
            self.undo(id, &change);
            return Err(error);
        }
        Ok(change)
    }

    /// Takes ports again that were given up, with their sockets if they are served.
    fn hold(&mut self, id: &UnitId, ports: &[PortBinding]) {
        let serving = self.serving.contains(id);
        for port in ports {
            let at = SocketAddrV4::new(port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
            let socket = if serving { bind(port.protocol, at).ok() } else { None };
            self.ports.entry(id.clone()).or_default().push((*port, socket));
        }
    }

    pub(crate) fn give_back_address(&mut self, address: Ipv4Addr) {
        self.addresses.remove(&address);
    }

    /// Gives up what a change took away.
    pub(crate) fn settle(&mut self, id: &UnitId, change: &Change) {
        let gone = |p: &PortBinding| change.removed.contains(p) && !change.ports.contains(p);
        self.ports.entry(id.clone()).or_default().retain(|(p, _)| !gone(p));
    }

    /// Gives up what a change added, and takes again what it gave up.
    pub(crate) fn undo(&mut self, id: &UnitId, change: &Change) {
        self.ports.entry(id.clone()).or_default().retain(|(p, _)| !change.added.contains(p));
        self.hold(id, &change.removed);
    }

    /// Takes note of what a container was given in an earlier life of the server. A port that another program took
    /// meanwhile stays the container's: its rule comes before any socket.
    pub(crate) fn remember(
        &mut self,
        id: &UnitId,
        tenant: u32,
        address: Option<Ipv4Addr>,
        ports: &[PortBinding],
        serves: bool,
    ) {
        self.addresses.extend(address);
        self.tenants.insert(id.clone(), tenant);
        self.ports.insert(id.clone(), Vec::new());
        if serves {
            self.serving.insert(id.clone());
        }
        self.hold(id, ports);
    }

    pub(crate) fn give_back(&mut self, id: &UnitId, address: Option<Ipv4Addr>) {
        if let Some(address) = address {
            self.addresses.remove(&address);
        }
        self.ports.remove(id);
        self.tenants.remove(id);
        self.serving.remove(id);
    }
}

fn refused(error: &io::Error, at: SocketAddrV4) -> EngineError {
    let text = format!("publish on {at}: {error}");
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => EngineError::Start { text, code: 125 },
        _ if berth_runtime::is_no_room(error) => EngineError::NoRoom(text),
        _ => EngineError::Failed(text),
    }
}

/// Whether a program of the host has that port to be spoken to: a TCP socket that listens, any UDP socket.
fn is_served(port: PortBinding) -> bool {
    let (names, udp) = match port.protocol {
        PortProtocol::Tcp => (["tcp", "tcp6"], false),
        PortProtocol::Udp => (["udp", "udp6"], true),
    };
    let listens = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        // The state is 0A for a socket that listens (proc_pid_net(5)).
        local == Some(port.host_port) && (udp || fields.nth(1) == Some("0A"))
    };
    let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    names.iter().any(|name| table(name).lines().skip(1).any(listens))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

    use berth_engine::{EngineError, PortProtocol, PortRequest};
    use berth_net::Subnet;

    use super::NetworkAllocator;

    #[test]
    fn ports_in_use_are_never_given_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let used = listener.local_addr().expect("address").port();
        let mut allocator = NetworkAllocator::default();
        let ask = |first, last| PortRequest {
            protocol: PortProtocol::Tcp,
            host_ip: None,
            host_ports: (first, last),
            container_port: None,
        };
        let id = "a".parse().expect("id");
        assert!(matches!(allocator.ports(&id, 1, &[ask(used, used)]), Err(EngineError::PortInUse(_, p)) if p == used));
        let Some(next) = used.checked_add(40) else { return };
        let given = allocator.ports(&id, 1, &[ask(used, next)]).expect("another of the range");
        assert!(given[0].host_port > used && given[0].container_port == given[0].host_port);
        let mine = (Ipv4Addr::LOCALHOST, given[0].host_port);
        let other = TcpListener::bind(mine).expect("nobody serves it yet");
        assert!(matches!(allocator.serve(&id), Err(EngineError::PortInUse(_, p)) if p == given[0].host_port));
        drop(other);
        allocator.serve(&id).expect("serve");
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, given[0].host_port)).is_err(), "held against others");
        allocator.rest(&id);
        assert!(TcpListener::bind(mine).is_ok(), "nobody serves it any more");
        let other = "b".parse().expect("id");
        assert!(allocator.ports(&other, 1, &[ask(mine.1, mine.1)]).is_err(), "it is given out all the same");
        allocator.give_back(&id, None);
        assert!(allocator.ports(&other, 1, &[ask(mine.1, mine.1)]).is_ok());
    }

    #[test]
    fn an_account_has_so_many_ports_and_no_more() {
        let mut allocator = NetworkAllocator { most_of_tenant: 3, ..NetworkAllocator::default() };
        let ask = |count: usize| {
            vec![
                PortRequest {
                    protocol: PortProtocol::Udp,
                    host_ip: None,
                    host_ports: (20_000, 29_999),
                    container_port: Some(1),
                };
                count
            ]
        };
        let id = |name: &str| name.parse().expect("id");
        allocator.ports(&id("a"), 1, &ask(2)).expect("two");
        let refused = allocator.ports(&id("b"), 1, &ask(2));
        assert!(matches!(&refused, Err(EngineError::NoRoom(text)) if text.contains("2 of 3")), "{refused:?}");
        allocator.ports(&id("b"), 2, &ask(3)).expect("another account");
        assert!(allocator.change(&id("a"), 1, &ask(4)).is_err());
        assert_eq!(allocator.change(&id("a"), 1, &ask(3)).expect("one more").ports.len(), 3);
        allocator.give_back(&id("a"), None);
        allocator.ports(&id("a"), 1, &ask(3)).expect("given back");
    }

    #[test]
    fn connections_that_linger_on_a_port_keep_nobody_from_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let at = listener.local_addr().expect("address");
        let client = TcpStream::connect(at).expect("connect");
        // Who closes first lingers.
        drop(listener.accept().expect("accept"));
        drop((client, listener));
        let raw = PortRequest {
            protocol: PortProtocol::Tcp,
            host_ip: None,
            host_ports: (at.port(), at.port()),
            container_port: None,
        };
        let mut allocator = NetworkAllocator::default();
        let id = "a".parse().expect("id");
        assert!(super::bind_tcp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, at.port()), false).is_err(), "it lingers");
        allocator.ports(&id, 1, std::slice::from_ref(&raw)).expect("given all the same");
        allocator.serve(&id).expect("serve");
        // The standard library binds with SO_REUSEADDR.
        assert!(TcpListener::bind(at).is_err(), "held against others");
        assert!(TcpStream::connect(at).is_err(), "nobody listens");
        let other = "b".parse().expect("id");
        assert!(NetworkAllocator::default().ports(&other, 1, &[raw]).is_err(), "another server sees that");
        allocator.give_back(&id, None);
        assert!(TcpListener::bind(at).is_ok());
    }

    #[test]
    fn addresses_run_out_with_an_error() {
        let subnet = Subnet { gateway: Ipv4Addr::new(10, 0, 0, 1), prefix: 30 };
        let mut allocator = NetworkAllocator::default();
        assert_eq!(allocator.address(subnet).ok(), Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert!(matches!(allocator.address(subnet), Err(EngineError::NoRoom(_))));
    }
}
