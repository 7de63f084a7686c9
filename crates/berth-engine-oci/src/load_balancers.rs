//! Host ports that lead to several containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_engine::{EngineError, PortBinding, PortProtocol, PortRequest, UnitId};
use berth_net::{Backends, Network, Protocol};
use berth_runtime::write_json;
use serde::{Deserialize, Serialize};

use crate::engine::Inner;
use crate::instance::failed;
use crate::unit::read_json;

/// On disk, so that the next server's rules have them from the first moment.
pub(crate) const FRONTS: &str = "fronts.json";

/// One load balancer: the ports it has, the containers they lead to, and what the kernel was told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LoadBalancer {
    /// Whose it is.
    #[serde(default)]
    tenant: u32,
    ports: Vec<PortBinding>,
    to: Vec<UnitId>,
    #[serde(skip)]
    backends: Vec<Backends>,
}

#[derive(Debug, Default)]
pub(crate) struct LoadBalancers(Mutex<BTreeMap<UnitId, LoadBalancer>>);

impl LoadBalancers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<UnitId, LoadBalancer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The load balancers of an earlier life of the server.
    pub(crate) fn load(folder: &Path) -> Self {
        let read = read_json(&folder.join(FRONTS)).unwrap_or_else(|error| {
            // Cut by a power failure; the core sets them anew from its own records.
            tracing::warn!(%error, "{FRONTS} can't be read");
            None
        });
        Self(Mutex::new(read.unwrap_or_default()))
    }

    pub(crate) fn ids(&self) -> Vec<UnitId> {
        self.all().keys().cloned().collect()
    }
}

impl Inner {
    fn backends_of(&self, ports: &[PortBinding], to: &[UnitId]) -> Vec<Backends> {
        let addresses: Vec<_> = to.iter().filter_map(|id| self.unit(id).ok()?.record().placement.address).collect();
        let backends = |port: &PortBinding| Backends {
            protocol: match port.protocol {
                PortProtocol::Tcp => Protocol::Tcp,
                PortProtocol::Udp => Protocol::Udp,
            },
            host_port: port.host_port,
            to: addresses.iter().map(|address| (*address, port.container_port)).collect(),
        };
        ports.iter().map(backends).collect()
    }

    /// What was noted, as the rules are to have it; its ports are held.
    pub(crate) fn take_over_load_balancers(&self) -> Vec<Backends> {
        let mut all = self.load_balancers.all();
        for (id, load_balancer) in all.iter_mut() {
            self.allocator().remember(
                id,
                load_balancer.tenant,
                None,
                &load_balancer.ports,
                !load_balancer.to.is_empty(),
            );
            load_balancer.backends = self.backends_of(&load_balancer.ports, &load_balancer.to);
        }
        all.values().flat_map(|load_balancer| load_balancer.backends.clone()).collect()
    }

    pub(crate) fn set_load_balancer(
        &self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError> {
        let mut all = self.load_balancers.all();
        let before = all.get(id).cloned().unwrap_or_default();
        let change = self.allocator().change(id, tenant, asked)?;
        if to.is_empty() {
            self.allocator().rest(id);
        } else if let Err(error) = self.allocator().serve(id) {
            self.allocator().undo(id, &change);
            return Err(error);
        }
        let after = LoadBalancer {
            tenant,
            ports: change.ports.clone(),
            to: to.to_vec(),
            backends: self.backends_of(&change.ports, to),
        };
        let mut steps: Vec<(Option<Backends>, Backends)> = Vec::new();
        let same = |a: &Backends, b: &Backends| a.protocol == b.protocol && a.host_port == b.host_port;
        for old in &before.backends {
            if !after.backends.iter().any(|new| same(old, new)) {
                steps.push((Some(old.clone()), Backends { to: Vec::new(), ..old.clone() }));
            }
        }
        for new in &after.backends {
            let old = before.backends.iter().find(|old| same(old, new)).cloned();
            if old.as_ref() != Some(new) {
                steps.push((old, new.clone()));
            }
        }
        for (done, (old, new)) in steps.iter().enumerate() {
            if let Err(error) = self.rules.backends(old.as_ref(), new) {
                for (old, new) in steps[..done].iter().rev() {
                    let nowhere = Backends { to: Vec::new(), ..new.clone() };
                    let _ = self.rules.backends(Some(new), old.as_ref().unwrap_or(&nowhere));
                }
                self.allocator().undo(id, &change);
                return Err(EngineError::Failed(error.to_string()));
            }
        }
        self.allocator().settle(id, &change);
        if asked.is_empty() {
            self.allocator().give_back(id, None);
            all.remove(id);
        } else {
            all.insert(id.clone(), after);
        }
        let path = self.options.folder.join(FRONTS);
        write_json(&path, &*all).map_err(failed(format!("write {}", path.display())))?;
        Ok(change.ports)
    }

    /// A container that goes is in no load balancer any more: its address may be another's soon.
    pub(crate) fn leave_load_balancers(&self, id: &UnitId) -> Result<(), EngineError> {
        let mut all = self.load_balancers.all();
        for (load_balancer_id, load_balancer) in
            all.iter_mut().filter(|(_, load_balancer)| load_balancer.to.contains(id))
        {
            load_balancer.to.retain(|other| other != id);
            let backends = self.backends_of(&load_balancer.ports, &load_balancer.to);
            for (old, new) in load_balancer.backends.iter().zip(&backends) {
                self.rules.backends(Some(old), new).map_err(|e| EngineError::Failed(e.to_string()))?;
            }
            load_balancer.backends = backends;
            if load_balancer.to.is_empty() {
                self.allocator().rest(load_balancer_id);
            }
        }
        Ok(())
    }

    /// TCP connections to these ports that are not over: data may be on its way. Those that the rules have led here count
    /// from their first packet on, although the container may not have seen it yet, or has to be sent it again.
    pub(crate) fn connections(&self, id: &UnitId, ports: &[u16]) -> Result<usize, EngineError> {
        let unit = self.unit(id)?;
        let Some(init) = unit.init() else { return Ok(0) };
        let table = |name: &str| fs::read_to_string(format!("/proc/{}/net/{name}", init.pid)).unwrap_or_default();
        let known = under_way(&table("tcp"), ports) + under_way(&table("tcp6"), ports);
        let Some(address) = unit.record().placement.address.filter(|_| known == 0) else { return Ok(known) };
        match Network::opening(address, ports) {
            Ok(opening) => Ok(opening),
            Err(error) => {
                // A kernel that does not tell is no reason not to stop anything.
                static TOLD: std::sync::Once = std::sync::Once::new();
                TOLD.call_once(|| tracing::warn!(%error, "connections that are being opened can't be seen"));
                Ok(0)
            }
        }
    }
}

/// Lines of `/proc/net/tcp` (proc_pid_net(5)) for connections to these local ports in a state in which either side may still
/// have something to say or to hear.
fn under_way(table: &str, ports: &[u16]) -> usize {
    const ESTABLISHED: u8 = 1;
    const SYN_RECV: u8 = 3;
    const FIN_WAIT1: u8 = 4;
    const CLOSE_WAIT: u8 = 8;
    const LAST_ACK: u8 = 9;
    const CLOSING: u8 = 11;
    const NEW_SYN_RECV: u8 = 12;
    let counts = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let port = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        let state = fields.nth(1).and_then(|state| u8::from_str_radix(state, 16).ok());
        port.is_some_and(|p| ports.contains(&p))
            && state.is_some_and(|s| {
                [ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING, NEW_SYN_RECV].contains(&s)
            })
    };
    table.lines().skip(1).filter(counts).count()
}

#[cfg(test)]
mod tests {
    use super::under_way;

    #[test]
    fn connections_that_are_not_over_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000\n\
            1: 0100007F:0050 0100007F:A1B2 01 00000000:00000000 00:00000000\n\
            2: 0100007F:0050 0100007F:A1B3 06 00000000:00000000 00:00000000\n\
            3: 0100007F:0050 0100007F:A1B4 08 00000000:00000000 00:00000000\n\
            4: 0100007F:A1B2 0100007F:0050 01 00000000:00000000 00:00000000\n";
        assert_eq!((under_way(table, &[80]), under_way(table, &[81]), under_way("", &[80])), (2, 0, 0));
    }
}
