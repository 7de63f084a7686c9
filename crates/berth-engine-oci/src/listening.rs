//! Which ports a container's processes listen on.

use std::collections::HashSet;
use std::fs;

use berth_engine::{EngineError, PortProtocol, UnitId};

use crate::engine::Inner;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

impl Inner {
    /// The sockets of all its processes, looked up in its network's tables (proc(5)).
    pub(crate) fn listening(&self, id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError> {
        self.unit(id)?;
        let processes = self.cgroup(id).processes();
        let sockets: HashSet<u64> = processes.iter().flat_map(|pid| sockets_of(*pid)).collect();
        // All of them have the network of the first.
        let Some(first) = processes.first() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (table, protocol) in [
            ("tcp", PortProtocol::Tcp),
            ("tcp6", PortProtocol::Tcp),
            ("udp", PortProtocol::Udp),
            ("udp6", PortProtocol::Udp),
        ] {
            let text = fs::read_to_string(format!("/proc/{first}/net/{table}")).unwrap_or_default();
            let own = listeners(&text, protocol).into_iter().filter(|(inode, _)| sockets.contains(inode));
            found.extend(own.map(|(_, port)| (protocol, port)));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Inodes of the sockets that a process holds.
fn sockets_of(pid: i32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    targets.filter_map(inode).collect()
}

/// Inode and port of the sockets of a table that wait for somebody: TCP ones that listen, UDP ones that are not connected.
fn listeners(table: &str, protocol: PortProtocol) -> Vec<(u64, u16)> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, remote, state, inode) = (fields.get(1)?, fields.get(2)?, fields.get(3)?, fields.get(9)?);
        let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
        let waits = match protocol {
            PortProtocol::Tcp => *state == LISTEN,
            PortProtocol::Udp => port(remote)? == 0,
        };
        waits.then_some((inode.parse().ok()?, port(local)?))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use berth_engine::PortProtocol;

    use super::listeners;

    #[test]
    fn sockets_that_wait_are_read_from_the_tables() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26571 1 0 100 0 0 10 0\n\
            1: 0100007F:1F91 0100007F:E2C2 01 00000000:00000000 00:00000000 00000000     0        0 26572 1 0 20 4 30 10 -1\n";
        assert_eq!(listeners(tcp, PortProtocol::Tcp), [(26_571, 8080)]);
        let udp = "  sl  local_address rem_address   st\n\
            5: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31 2 0 0\n\
            6: 00000000:0036 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 32 2 0 0\n";
        assert_eq!(listeners(udp, PortProtocol::Udp), [(31, 53)]);
    }
}
