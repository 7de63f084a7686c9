//! One bridge network: the bridge, its addresses, its rules.

use std::net::Ipv4Addr;
use std::{fs, io};

use crate::host_firewall::{self, Accepted};
use crate::netlink::{Error, Socket};
use crate::netns::{Netns, in_netns};
use crate::nft::{self, Backends, Member, Protocol, Published};
use crate::tc;
use crate::{conntrack, link};

/// An IPv4 network, told by its gateway (the bridge's own address) and prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The bridge's address; also the containers' default route.
    pub gateway: Ipv4Addr,
    /// Prefix length in bits, at most 30.
    pub prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The network's own address, all host bits zero.
    pub fn network(self) -> Ipv4Addr {
        (u32::from(self.gateway) & self.mask()).into()
    }

    /// Whether `address` belongs to the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network())
    }

    /// How many addresses can be given to containers: all but the network's, the gateway's and the broadcast address.
    pub fn capacity(self) -> u32 {
        (!self.mask()).saturating_sub(2)
    }

    /// The `n`th address for a container, `n` below [`capacity`](Self::capacity).
    pub fn address(self, n: u32) -> Ipv4Addr {
        let candidate = u32::from(self.network()) + 1 + n;
        // The gateway need not be the first address; step over it.
        Ipv4Addr::from(candidate + u32::from(candidate >= u32::from(self.gateway)))
    }
}

/// Bounds on a workload's traffic, bits per second; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// What comes in.
    pub ingress: Option<u64>,
    /// What goes out.
    pub egress: Option<u64>,
}

/// The hardware address of a workload follows from its address.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let octets = address.octets();
    [0x02, 0x42, octets[0], octets[1], octets[2], octets[3]]
}

/// A bridge with its subnet and rule set. The names must be the owner's alone: whatever carries them is replaced.
#[derive(Debug, Clone)]
pub struct Network {
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// Beginning of the names of its links.
    pub links: String,
    /// Name of the nf_tables table, and mark of the rules in the host's firewalls.
    pub table: String,
    /// Addresses.
    pub subnet: Subnet,
}

impl Network {
    /// The first of `candidates` that no route of this machine overlaps.
    ///
    /// # Errors
    /// What the kernel answered when asked for its routes.
    pub fn free_subnet(candidates: impl IntoIterator<Item = Subnet>) -> Result<Option<Subnet>, Error> {
        let taken = link::routes(&mut Socket::route()?)?;
        let overlaps = |subnet: &Subnet| {
            taken.iter().any(|(to, prefix)| {
                let route = Subnet { gateway: *to, prefix: *prefix };
                *prefix > 0 && (route.contains(subnet.network()) || subnet.contains(route.network()))
            })
        };
        Ok(candidates.into_iter().find(|subnet| !overlaps(subnet)))
    }

    /// Brings up the bridge and puts the rules in place with exactly `ports` published, `backends` balanced and `members`
    /// admitted. Safe to repeat: connections and attached workloads are not disturbed.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn ensure(&self, ports: &[Published], backends: &[Backends], members: &[Member]) -> Result<(), Error> {
        let through_ip = self.ensure_links()?;
        nft::bridge_table_replace(&self.table, &self.links, !through_ip, members)?;
        nft::table_replace(&self.table, &self.bridge, self.subnet, ports, backends, members)?;
        self.pass_host_firewalls().map(|_| ())
    }

    /// Bridge, address and settings; whether frames between ports pass the rules for IP.
    fn ensure_links(&self) -> Result<bool, Error> {
        let mut socket = Socket::route()?;
        link::bridge_create(&mut socket, &self.bridge, mac_of(self.subnet.gateway))?;
        let index = link::link_index(&self.bridge).ok_or(Error::Answer("the bridge has no index"))?;
        link::address_add(&mut socket, index, self.subnet.gateway, self.subnet.prefix)?;
        link::link_up(&mut socket, &self.bridge, index)?;
        sysctl("net/ipv4/ip_forward", "1")?;
        // Lets the host's 127.0.0.1 be a source towards this bridge; the `raw` chain keeps others from abusing it.
        sysctl(&format!("net/ipv4/conf/{}/route_localnet", self.bridge), "1")?;
        // Frames between two ports pass the rules for IP only if they are sent through them.
        let through_ip = std::path::Path::new("/proc/sys/net/bridge").exists();
        if through_ip {
            link::bridge_through_ip(&mut socket, &self.bridge, index)?;
        }
        Ok(through_ip)
    }

    /// Puts back all that [`ensure`](Self::ensure) makes, the rules first, and the workloads' links into the bridge.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn restore(&self, ports: &[Published], backends: &[Backends], members: &[Member]) -> Result<(), Error> {
        let through_ip = std::path::Path::new("/proc/sys/net/bridge").exists();
        nft::bridge_table_replace(&self.table, &self.links, !through_ip, members)?;
        nft::table_replace(&self.table, &self.bridge, self.subnet, ports, backends, members)?;
        self.ensure_links()?;
        self.pass_host_firewalls()?;
        let mut socket = Socket::route()?;
        let bridge = link::link_index(&self.bridge).ok_or(Error::Answer("the bridge has no index"))?;
        let links = link::links()?;
        for member in members {
            let Some(found) = links.iter().find(|l| l.name == member.link) else { continue };
            if found.master != bridge || !found.up {
                link::put_on_bridge(&mut socket, &member.link, found.index, bridge, mac_of(member.address))?;
            }
            link::neighbour(&mut socket, bridge, member.address, mac_of(member.address))?;
        }
        // An address that was there all the time makes no route.
        link::connected_route(&mut socket, bridge, self.subnet.network(), self.subnet.prefix, self.subnet.gateway)
    }

    /// Has nothing pass the bridge until [`restore`](Self::restore).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn shut(&self) -> Result<(), Error> {
        let Some(index) = link::link_index(&self.bridge) else { return Ok(()) };
        link::link_down(&mut Socket::route()?, &self.bridge, index)
    }

    /// Whether both tables are there.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn is_whole(&self) -> Result<bool, Error> {
        Ok(nft::table_exists(&self.table)? && nft::bridge_table_exists(&self.table)?)
    }

    /// What is not as [`ensure`](Self::ensure) made it, in words. `ports` are compared if they are given; `rules` is how many there
    /// were at the first look.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn damage(
        &self,
        members: &[Member],
        ports: Option<&[Published]>,
        rules: &mut Option<usize>,
    ) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        if !self.is_whole()? {
            all.push("the tables of rules".to_owned());
            return Ok(all);
        }
        let found = nft::rules_of(&self.table)?;
        if *rules.get_or_insert(found) != found {
            *rules = None;
            all.push("rules".to_owned());
        }
        if let Some(ports) = ports {
            let found: std::collections::HashSet<Published> = nft::published(&self.table)?.into_iter().collect();
            if ports.iter().any(|port| !found.contains(port)) {
                all.push("published ports".to_owned());
            }
            if nft::places(&self.table)? < members.len() {
                all.push("workloads' places".to_owned());
            }
        }
        let links = link::links()?;
        let Some(bridge) = links.iter().find(|l| l.name == self.bridge) else {
            all.push(format!("bridge {}", self.bridge));
            return Ok(all);
        };
        if !bridge.up {
            all.push(format!("bridge {} is down", self.bridge));
        }
        let mut socket = Socket::route()?;
        if !link::addresses(&mut socket, bridge.index)?.contains(&self.subnet.gateway) {
            all.push(format!("address {}", self.subnet.gateway));
        }
        if !link::routes(&mut socket)?.contains(&(self.subnet.network(), self.subnet.prefix)) {
            all.push(format!("route to {}/{}", self.subnet.network(), self.subnet.prefix));
        }
        for member in members {
            match links.iter().find(|l| l.name == member.link) {
                Some(found) if found.master == bridge.index && found.up => {}
                Some(_) => all.push(format!("link {} is not in use", member.link)),
                None => all.push(format!("link {}", member.link)),
            }
        }
        all.extend(self.settings_damage());
        Ok(all)
    }

    /// What [`damage`](Self::damage) says of the settings that change without a notification of the kernel's.
    pub fn settings_damage(&self) -> Vec<String> {
        let forward = "net/ipv4/ip_forward".to_owned();
        let localnet = format!("net/ipv4/conf/{}/route_localnet", self.bridge);
        let is = |key: &str| fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default().trim().to_owned();
        let wrong = |key: String| Some((is(&key), key)).filter(|(is, _)| is != "1");
        [forward, localnet].into_iter().filter_map(wrong).map(|(is, key)| format!("{key} is {is:?}")).collect()
    }

    /// Repeats the part of [`ensure`](Self::ensure) that other programs undo: a restarted Docker rewrites `FORWARD`, firewalld its
    /// table. Says what was missing, and what could not be added.
    ///
    /// # Errors
    /// What the kernel answered when it was asked for the chains that there are.
    pub fn pass_host_firewalls(&self) -> Result<Accepted, Error> {
        host_firewall::accept(&self.bridge, self.subnet.gateway, &self.table)
    }

    /// Removes rules and bridge. Nothing there is no error.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn remove(&self) -> Result<(), Error> {
        // First what opens, then what filters.
        host_firewall::withdraw(&self.table)?;
        nft::table_delete(&self.table)?;
        nft::bridge_table_delete(&self.table)?;
        let mut socket = Socket::route()?;
        // Ends of namespaces that the kernel has not come to removing yet.
        for name in link::link_names()?.into_iter().filter(|name| name.starts_with(&self.links)) {
            delete(&mut socket, &name)?;
        }
        delete(&mut socket, &self.bridge)
    }

    /// What there is of it in the kernel, in words; empty after [`remove`](Self::remove).
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn traces(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        if link::link_index(&self.bridge).is_some() {
            found.push(format!("link {}", self.bridge));
        }
        if nft::bridge_table_exists(&self.table)? {
            found.push(format!("nf_tables bridge table {}", self.table));
        }
        if nft::table_exists(&self.table)? {
            found.push(format!("nf_tables table {}", self.table));
        }
        for chain in host_firewall::marked(&self.table)? {
            found.push(format!("rules marked {} in {chain}", self.table));
        }
        Ok(found)
    }

    /// Gives the namespace an `eth0` in this network, up, with its address and default route, and loopback up. Returns
    /// the index of the host's end, `host_link`, a name never used before (removal is asynchronous in the kernel).
    ///
    /// To take it back, close the namespace: deleting a veth holds the kernel's rtnl lock for 20 ms and more.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn attach(&self, netns: &Netns, host_link: &str, address: Ipv4Addr) -> Result<u32, Error> {
        let bridge = link::link_index(&self.bridge).ok_or_else(|| Error::Refused {
            what: format!("attach {host_link} to {}", self.bridge),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        let index = link::veth_create(&mut Socket::route()?, host_link, bridge, netns, mac_of(address))?;
        in_netns(netns, || {
            let mut socket = Socket::route()?;
            bring_up(&mut socket, "lo")?;
            let eth0 = link::link_index("eth0").ok_or(Error::Answer("eth0 is missing in the namespace"))?;
            link::address_add(&mut socket, eth0, address, self.subnet.prefix)?;
            link::link_up(&mut socket, "eth0", eth0)?;
            link::default_route(&mut socket, eth0, self.subnet.gateway)?;
            link::link_settled(&mut socket, "eth0", eth0)
        })
        .map_err(|source| Error::socket("enter the namespace", source))??;
        // In this order: the bridge itself is up only when a port of it is.
        let mut socket = Socket::route()?;
        link::link_settled(&mut socket, host_link, index)?;
        link::link_settled(&mut socket, &self.bridge, bridge)?;
        link::neighbour(&mut socket, bridge, address, mac_of(address))?;
        Ok(index)
    }

    /// Bounds the traffic of a workload whose host end has this index, from the next packet on.
    ///
    /// The bound on what goes out is inside the namespace: it holds as long as the workload may not administer its network.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn limit(netns: &Netns, host_index: u32, rates: Rates) -> Result<(), Error> {
        tc::limit(&mut Socket::route()?, host_index, rates.ingress)?;
        in_netns(netns, || {
            let index = link::link_index("eth0").ok_or(Error::Answer("eth0 is missing in the namespace"))?;
            tc::limit(&mut Socket::route()?, index, rates.egress)
        })
        .map_err(|source| Error::socket("enter the namespace", source))?
    }

    /// Lets workloads take part: each reaches those of the same tenant, by its own address only.
    ///
    /// # Errors
    /// What the kernel refused; none takes part then.
    pub fn admit(&self, members: &[Member]) -> Result<(), Error> {
        nft::admit(&self.table, members)
    }

    /// Takes that back; one that took no part is no error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn expel(&self, member: &Member) -> Result<(), Error> {
        nft::expel(&self.table, member)
    }

    /// Publishes all of `ports` or none. A port that leads elsewhere already is refused (`EBUSY`).
    ///
    /// # Errors
    /// The port that was refused.
    pub fn publish(&self, ports: &[Published]) -> Result<(), Error> {
        nft::publish(&self.table, ports)?;
        let udp: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
        self.forget_flows(udp.iter().map(|port| port.host_port), |flow| {
            udp.iter().any(|port| port.host_port == flow.port && (port.to, port.to_port) == flow.answers)
        });
        Ok(())
    }

    /// Forgets UDP flows to these ports of the host that lead elsewhere than they are `wanted` to: a client that keeps its port would
    /// be led there for ever.
    fn forget_flows(&self, ports: impl Iterator<Item = u16>, wanted: impl Fn(&conntrack::Flow) -> bool) {
        let ports: Vec<u16> = ports.collect();
        if ports.is_empty() {
            return;
        }
        let stale = |flow: &conntrack::Flow| {
            // Led into the network, or not led at all although it was to the host itself.
            let led = self.subnet.contains(flow.answers.0) && flow.answers.0 != flow.to;
            let not_led = flow.answers.0 == flow.to && flow.answers_to == flow.from && !self.subnet.contains(flow.to);
            ports.contains(&flow.port) && (led || not_led) && !wanted(flow)
        };
        // A kernel that does not tell its flows is no reason not to publish anything.
        if let Err(error) = conntrack::forget(stale) {
            tracing::warn!(%error, ?ports, "stale UDP flows of published ports could not be deleted");
        }
    }

    /// Takes ports back; one that was not published is no error.
    ///
    /// # Errors
    /// The port that was refused.
    pub fn unpublish(&self, ports: &[Published]) -> Result<(), Error> {
        nft::unpublish(&self.table, ports)?;
        let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
        self.forget_flows(udp.map(|port| port.host_port), |_| false);
        Ok(())
    }

    /// Has a host port lead to the places of `after` instead of those of `before`: new connections, one and all, from one
    /// moment on. Those under way stay where they are.
    ///
    /// # Errors
    /// What the kernel refused; the port leads where it led then.
    pub fn backends(&self, before: Option<&Backends>, after: &Backends) -> Result<(), Error> {
        nft::backends(&self.table, before, after)?;
        let port = Some(after.host_port).filter(|_| after.protocol == Protocol::Udp);
        self.forget_flows(port.into_iter(), |flow| after.to.contains(&flow.answers));
        Ok(())
    }

    /// Whether another server's table, of one that is not up perhaps, has the host's port already.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn taken_elsewhere(&self, port: &Published) -> Result<bool, Error> {
        nft::taken_elsewhere(&self.table, port)
    }

    /// How many TCP connections to these ports of a workload have begun and are not open yet: their first packet was led
    /// there by the rules, and may be under way still.
    ///
    /// # Errors
    /// What the kernel answered to the dump.
    pub fn opening(address: Ipv4Addr, ports: &[u16]) -> Result<usize, Error> {
        conntrack::opening(address, ports)
    }

    /// What the kernel says is published now.
    ///
    /// # Errors
    /// What the kernel answered to the dump.
    pub fn published(&self) -> Result<Vec<Published>, Error> {
        nft::published(&self.table)
    }
}

impl Netns {
    /// Brings the loopback up, for a namespace that is to have no other link.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn loopback_up(&self) -> Result<(), Error> {
        in_netns(self, || bring_up(&mut Socket::route()?, "lo"))
            .map_err(|source| Error::socket("enter the namespace", source))?
    }
}

fn delete(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let Some(index) = link::link_index(name) else { return Ok(()) };
    match link::link_delete(socket, name, index) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn bring_up(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let index = link::link_index(name).ok_or(Error::Answer("no loopback in the namespace"))?;
    link::link_up(socket, name, index)
}

fn sysctl(key: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{key}");
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error::socket(format!("set sysctl {key} to {value}"), source))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Network, Subnet};
    use crate::netlink::Socket;
    use crate::{Netns, Protocol, Published, in_netns};

    #[test]
    fn addresses_step_over_the_gateway_and_stay_inside() {
        let subnet = Subnet { gateway: Ipv4Addr::new(10, 9, 0, 1), prefix: 29 };
        let all: Vec<_> = (0..subnet.capacity()).map(|n| subnet.address(n).to_string()).collect();
        assert_eq!(all, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        assert!(subnet.contains(Ipv4Addr::new(10, 9, 0, 7)) && !subnet.contains(Ipv4Addr::new(10, 9, 0, 8)));
    }

    #[test]
    fn ports_are_published_listed_replaced_and_taken_back() {
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root to change nf_tables");
            println!("skipped: needs root to change nf_tables");
            return;
        }
        // In a namespace of its own: what a test that fails leaves there goes with it.
        let host = Netns::create().expect("netns");
        in_netns(&host, published_and_attached).expect("a thread in it");
    }

    fn published_and_attached() {
        super::bring_up(&mut Socket::route().expect("socket"), "lo").expect("loopback");
        let id = std::process::id();
        let network = Network {
            bridge: format!("bt{id}"),
            links: format!("btv{id}"),
            table: format!("berth-test-{id}"),
            subnet: Subnet { gateway: Ipv4Addr::new(198, 19, 254, 1), prefix: 24 },
        };
        let port = |host: Option<Ipv4Addr>, host_port| Published {
            protocol: Protocol::Tcp,
            host,
            host_port,
            to: Ipv4Addr::new(198, 19, 254, 2),
            to_port: 80,
        };
        network.ensure(&[port(None, 31001)], &[], &[]).expect("network");
        let (a, b) = (port(None, 31002), port(Some(Ipv4Addr::LOCALHOST), 31003));
        network.publish(&[a, b]).expect("publish");
        network.publish(&[a]).expect("publishing the same again is harmless");
        let mut elsewhere = a;
        elsewhere.to_port = 81;
        let refused = network.publish(&[port(None, 31004), elsewhere]).expect_err("the port leads elsewhere");
        assert!(refused.to_string().contains("31002"), "{refused}");
        let mut listed = network.published().expect("list");
        listed.sort();
        assert_eq!(listed, [port(None, 31001), a, b], "a refused batch leaves nothing");
        network.unpublish(&[a, a]).expect("unpublish twice");
        let many: Vec<Published> = (20_000..21_500).map(|p| port(None, p)).collect();
        network.ensure(&many, &[], &[]).expect("more ports than one message holds");
        assert_eq!(network.published().expect("list").len(), many.len());
        network.ensure(&[b], &[], &[]).expect("again");
        assert_eq!(network.published().expect("list"), [b]);

        spread_over_two(&network);

        // Somebody has been calling for a while when it comes.
        let caller = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
        caller.send_to(b"early", "198.19.254.2:7").expect("send");
        let netns = Netns::create().expect("netns");
        let link = format!("btv{id}");
        let address = Ipv4Addr::new(198, 19, 254, 2);
        let index = network.attach(&netns, &link, address).expect("attach");
        network.admit(&[crate::Member { link: link.clone(), address, tenant: 0 }]).expect("admit");
        let stats = || crate::link_stats().expect("stats")[&index];
        let before = stats().tx_bytes;
        for _ in 0..200 {
            caller.send_to(&[0; 1000], "198.19.254.2:7").expect("send");
        }
        assert!(stats().tx_bytes >= before + 200 * 1000, "nothing waits for an answer: {:?}", stats());
        drop(netns);
        network.remove().expect("remove");
        network.remove().expect("remove twice");
        assert_eq!(network.traces().expect("traces"), Vec::<String>::new());
    }

    /// Two places on one workload's address, told apart by their ports: every connection comes to one, all come about evenly.
    fn spread_over_two(network: &Network) {
        let netns = Netns::create().expect("netns");
        let address = Ipv4Addr::new(198, 19, 254, 9);
        let link = format!("bts{}", std::process::id());
        network.attach(&netns, &link, address).expect("attach");
        network.admit(&[crate::Member { link, address, tenant: 0 }]).expect("admit");
        let listeners =
            in_netns(&netns, || [81, 82].map(|p| std::net::TcpListener::bind(("0.0.0.0", p)).expect("bind")));
        let listeners = listeners.expect("enter");
        let backends = |to: &[u16]| crate::Backends {
            protocol: Protocol::Tcp,
            host_port: 31005,
            to: to.iter().map(|p| (address, *p)).collect(),
        };
        for listener in &listeners {
            listener.set_nonblocking(true).expect("nonblocking");
        }
        let called = || {
            let connected: Vec<_> =
                (0..60).map(|_| std::net::TcpStream::connect("198.19.254.1:31005").is_ok()).collect();
            let counts = [0, 1].map(|n: usize| std::iter::from_fn(|| listeners[n].accept().ok()).count());
            (connected.into_iter().filter(|c| *c).count(), counts)
        };
        network.backends(None, &backends(&[81, 82])).expect("backends");
        let (connected, counts) = called();
        assert!(connected == 60 && counts.iter().all(|c| *c >= 10), "{connected} {counts:?}");
        network.backends(Some(&backends(&[81, 82])), &backends(&[82])).expect("without the first");
        assert_eq!(called(), (60, [0, 60]));
        network.backends(Some(&backends(&[82])), &backends(&[])).expect("nowhere");
        assert_eq!(called().0, 0);
        network.backends(Some(&backends(&[81])), &backends(&[81])).expect("although it was not there");
        assert_eq!(called(), (60, [60, 0]));
        // The queue of a listener that nobody serves is full after two: the kernel drops what begins then.
        let full = in_netns(&netns, || std::net::TcpListener::bind(("0.0.0.0", 83)).expect("bind")).expect("enter");
        // SAFETY: plain system call on a socket that is open.
        unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) };
        network.backends(Some(&backends(&[81])), &backends(&[83])).expect("to the busy one");
        let patience = std::time::Duration::from_millis(200);
        let at = "198.19.254.1:31005".parse().expect("address");
        let tried: Vec<_> = (0..4).map(|_| std::net::TcpStream::connect_timeout(&at, patience)).collect();
        assert!(tried.iter().any(Result::is_err) && tried[0].is_ok());
        assert!(Network::opening(address, &[83]).expect("dump") > 0, "they are on their way still");
        assert_eq!(Network::opening(address, &[81]).expect("dump"), 0);
        network.backends(Some(&backends(&[83])), &backends(&[])).expect("taken back");
    }

    fn test_network() -> Network {
        Network {
            bridge: "bt0".into(),
            links: "bt0v".into(),
            table: "berth-test".into(),
            subnet: Subnet { gateway: Ipv4Addr::new(198, 19, 253, 1), prefix: 24 },
        }
    }

    /// As on a host with Docker or ufw, whose policies are DROP. In a namespace of its own: the host's rules are not touched.
    #[test]
    fn policies_of_drop_are_opened_for_this_network_after_the_hosts_own_rules() {
        let iptables = |args: &[&str]| std::process::Command::new("iptables").args(args).output();
        // SAFETY: plain system call.
        let root = unsafe { libc::geteuid() } == 0;
        if !root || !iptables(&["--version"]).is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("nf_tables")) {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root and iptables (nf_tables)");
            println!("skipped: needs root and iptables (nf_tables)");
            return;
        }
        let netns = Netns::create().expect("netns");
        let listing = in_netns(&netns, || {
            let done = |args: &[&str]| assert!(iptables(args).is_ok_and(|o| o.status.success()), "{args:?}");
            let list_of = |chain| String::from_utf8_lossy(&iptables(&["-S", chain]).expect("list").stdout).into_owned();
            let list = || list_of("FORWARD");
            done(&["-P", "FORWARD", "DROP"]);
            done(&["-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"]);
            let network = test_network();
            network.ensure(&[], &[], &[]).expect("ensure");
            let first = list();
            let added = || network.pass_host_firewalls().expect("asked").added;
            assert!(added().is_empty(), "nothing is missing: {}", list());
            // Docker writes the chain anew.
            done(&["-F", "FORWARD"]);
            assert_eq!(added(), ["filter FORWARD"]);
            // ufw comes up.
            done(&["-P", "INPUT", "DROP"]);
            assert_eq!(added(), ["filter INPUT"]);
            let names = list_of("INPUT");
            assert!(
                names.contains("-d 198.19.253.1/32 -i bt0 -p udp -m udp --dport 53") && names.contains("-p tcp"),
                "{names}"
            );
            assert_eq!(network.traces().expect("traces").len(), 5, "link, two tables, two chains");
            network.remove().expect("remove");
            assert_eq!(list_of("INPUT").lines().count(), 1);
            (first, list())
        });
        let (first, last) = listing.expect("enter");
        let lines: Vec<&str> = first.lines().collect();
        assert_eq!((lines.len(), lines[1]), (4, "-A FORWARD -s 192.0.2.1/32 -j DROP"), "{first}");
        assert!(lines[2].contains("bt0") && lines[2].contains("berth-test") && lines[2].ends_with("ACCEPT"), "{first}");
        assert_eq!(last.lines().count(), 1, "only the policy is left: {last}");
    }

    /// firewalld refuses at the end of its chains what none of its zones knows.
    #[test]
    fn a_firewalld_is_passed_before_its_own_rules_and_one_that_owns_its_table_is_told() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root");
            println!("skipped: needs root");
            return;
        }
        let chains = "chain filter_INPUT { type filter hook input priority 10; reject; }; \
                      chain filter_FORWARD { type filter hook forward priority 10; reject; };";
        let netns = Netns::create().expect("netns");
        let done = in_netns(&netns, || {
            let nft = |text: &str| {
                let output = Command::new("nft").arg(text).output().expect("nft");
                assert!(output.status.success(), "{text}: {output:?}");
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            nft(&format!("table inet firewalld {{ {chains} }}"));
            let network = test_network();
            network.ensure(&[], &[], &[]).expect("ensure");
            let forward = nft("list chain inet firewalld filter_FORWARD");
            let at = |text| forward.find(text).unwrap_or_else(|| panic!("{text} in {forward}"));
            assert!(at("iifname \"bt0\"") < at("reject") && at("oifname \"bt0\"") < at("reject"), "{forward}");
            let input = nft("list chain inet firewalld filter_INPUT");
            assert!(input.contains("ip daddr 198.19.253.1 udp dport 53") && input.contains("tcp dport 53"), "{input}");
            assert_eq!(forward.matches("meta nfproto ipv4").count(), 2, "{forward}");
            assert!(network.pass_host_firewalls().expect("again").added.is_empty());
            // It writes its table anew when it is reloaded.
            nft("delete table inet firewalld");
            nft(&format!("table inet firewalld {{ {chains} }}"));
            assert_eq!(network.pass_host_firewalls().expect("after a reload").added.len(), 2);
            network.remove().expect("remove");
            assert!(!nft("list table inet firewalld").contains("bt0"));

            nft("delete table inet firewalld");
            let mut owner =
                Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("nft");
            let mut orders = owner.stdin.take().expect("stdin");
            writeln!(orders, "table inet firewalld {{ flags owner; {chains} }}").expect("order");
            let begun = std::time::Instant::now();
            while !nft("list tables").contains("firewalld") {
                assert!(begun.elapsed() < std::time::Duration::from_secs(10), "the table is not made");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let told = network.pass_host_firewalls().expect("asked");
            assert_eq!((told.added.len(), told.refused.len()), (0, 2), "{told:?}");
            drop(orders);
            owner.wait().expect("its end");
        });
        done.expect("enter");
    }

    /// Where frames between ports don't pass the rules for IP, the bridge's own table decides, with a packet's mark on the way.
    #[test]
    fn the_kernel_takes_the_bridges_own_decisions() {
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root");
            println!("skipped: needs root");
            return;
        }
        let netns = Netns::create().expect("netns");
        let member = crate::Member { link: "bt1v0".into(), address: Ipv4Addr::new(198, 19, 252, 2), tenant: 7 };
        let done = in_netns(&netns, || {
            crate::nft::bridge_table_replace("berth-test", "bt1v", true, std::slice::from_ref(&member)).expect("taken");
            assert!(crate::nft::bridge_table_exists("berth-test").expect("asked"));
            crate::nft::bridge_table_delete("berth-test").expect("deleted");
        });
        done.expect("enter");
    }
}
