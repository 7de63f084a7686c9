//! What is done to a container while it runs.

use std::sync::Arc;
use std::time::Duration;

use berth_engine::{
    EngineError, ExecRequest, Listening, Placement, PortRequest, Resources, Session, State, UnitId, UnitSpec,
};
use berth_net::{Network, in_netns, link_stats};
use berth_runtime::{ExecSpec, Limits};

use crate::engine::{Inner, OciEngine};
use crate::exec_io::of_exec;
use crate::instance::failed;
use crate::lifecycle::{of_link, rates_of};
use crate::traffic_totals::of_run;
use crate::unit::{DYING, Unit, UnitRecord};

/// So long a process may take to be up.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// A process as it is asked for, in the container as it is.
fn exec_spec(unit: &UnitSpec, asked: &ExecRequest) -> ExecSpec {
    let mut env = unit.env.clone();
    for variable in &asked.env {
        let key = variable.split('=').next();
        env.retain(|have| have.split('=').next() != key);
        env.push(variable.clone());
    }
    ExecSpec {
        args: asked.args.clone(),
        env,
        cwd: asked.working_dir.clone().unwrap_or_else(|| unit.working_dir.clone()).into(),
        user: asked.user.clone().unwrap_or_else(|| unit.user.clone()),
        terminal: asked.terminal && !asked.detached,
        size: asked.size,
        stdin: asked.stdin,
        detached: asked.detached,
    }
}

impl Inner {
    pub(crate) fn listen(&self, id: &UnitId, port: u16) -> Result<Listening, EngineError> {
        let unit = self.unit(id)?;
        let live = unit.known().live.clone().ok_or_else(|| EngineError::NotRunning(id.clone()))?;
        let netns =
            live.netns.ok_or(EngineError::Unsupported("listening in a container without a network of its own"))?;
        let bind = || std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port));
        let bound = in_netns(&netns, bind).map_err(failed("enter the network namespace"))?;
        let socket = bound.map_err(failed(format!("listen on port {port} in {id}")))?;
        Ok(Listening { socket, ended: live.closing.subscribe() })
    }
}

impl OciEngine {
    pub(crate) async fn exec_in(&self, unit: &Unit, asked: &ExecRequest) -> Result<Session, EngineError> {
        let spec = exec_spec(&unit.record().spec, asked);
        let what = format!("running a process in {}", unit.id());
        let asked = {
            let Ok(_turn) = self.inner.asking.acquire().await else {
                return Err(EngineError::Failed("the engine is closing".into()));
            };
            let folder = unit.folder.clone();
            self.blocking(move |inner| inner.zygote.exec(&folder, &spec).map_err(failed("ask for a process"))).await?
        };
        of_exec(asked, &what, EXEC_LIMIT).await
    }

    pub(crate) async fn freeze(&self, unit: &Arc<Unit>, frozen: bool) -> Result<(), EngineError> {
        if unit.known().live.is_none() {
            return Err(EngineError::NotRunning(unit.id().clone()));
        }
        let target = unit.clone();
        self.blocking(move |inner| {
            let done = inner.cgroup(target.id()).freeze(frozen);
            // Its group goes with it; version 2 lets what is paused be killed.
            done.map_err(|error| target.unless_it_ends(EngineError::Failed(error.to_string())))
        })
        .await?;
        if let State::Running { paused, .. } = &mut unit.known().observed.state {
            *paused = frozen;
        }
        self.inner.nudge(unit.id());
        Ok(())
    }

    /// Before an end: a paused process can't die.
    pub(crate) async fn thaw(&self, unit: &Arc<Unit>) -> Result<(), EngineError> {
        let paused = matches!(unit.known().observed.state, State::Running { paused: true, .. });
        if !paused {
            return Ok(());
        }
        match self.freeze(unit, false).await {
            Err(EngineError::NotRunning(_)) => Ok(()),
            other => other,
        }
    }
}

impl Inner {
    /// Asks this server's name service from a place on the bridge, as a container would.
    pub(crate) fn reaches_names(&self) -> Result<(), String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let netns = self.take_netns().map_err(|e| said(&e))?;
        let subnet = self.network.subnet;
        let address = self.allocator().address(subnet).map_err(|e| said(&e))?;
        let link = self.link_name();
        let member = berth_net::Member { link: link.clone(), address, tenant: 0 };
        let asked = (|| {
            self.network.attach(&netns, &link, address).map_err(|e| said(&e))?;
            self.rules.admit(&member).map_err(|e| said(&e))?;
            self.names.add(0, &["berth".into()], address);
            let asked = berth_net::in_netns(&netns, || crate::dns::ask(subnet.gateway, "berth"));
            asked.map_err(|e| said(&e))?.map_err(|e| said(&e))
        })();
        self.names.remove(0, &["berth".into()], address);
        let _ = self.rules.expel(&member);
        self.allocator().give_back_address(address);
        asked
    }

    pub(crate) fn update(&self, unit: &Unit, to: Resources) -> Result<(), EngineError> {
        let before = unit.record();
        let mut record = UnitRecord::clone(&before);
        record.spec.set_resources(to);
        let live = unit.known().live.clone();
        if let Some(live) = &live {
            let limits_of =
                |r: &Resources| Limits { cpu_milli: r.cpu_milli, memory: r.memory, swap: r.swap, pids: r.pids };
            let was = before.spec.resources();
            // What the kernel refuses (less memory than is used) must not be written down; one that has ended meanwhile
            // takes the new bounds at its next start.
            let cgroup = self.cgroup(unit.id());
            let ended = || live.ends_within(DYING);
            let used = cgroup.usage().map_or(0, |usage| usage.memory);
            if let Some(memory) = to.memory.filter(|memory| was.memory.is_none_or(|w| *memory < w) && *memory < used) {
                let text = format!("{used} bytes of memory are in use: it can't be bounded to {memory}");
                return Err(EngineError::Refused(text));
            }
            if let Err(error) = cgroup.update(&limits_of(&to))
                && !ended()
            {
                let _ = cgroup.update(&limits_of(&was));
                return Err(EngineError::Refused(format!("the kernel refuses these bounds: {error}")));
            }
            if was.rates != to.rates
                && let (Some(netns), Some(index)) = (&live.netns, live.link)
                && let Err(error) = Network::limit(netns, index, rates_of(to.rates))
                && !ended()
            {
                let _ = Network::limit(netns, index, rates_of(was.rates));
                let _ = cgroup.update(&limits_of(&was));
                return Err(EngineError::Failed(error.to_string()));
            }
        }
        unit.update_record(record).map_err(failed(format!("note the bounds of {}", unit.id())))
    }

    /// Has others find it by these names from now on.
    pub(crate) fn rename(&self, unit: &Unit, names: Vec<String>) -> Result<(), EngineError> {
        let runs = unit.known().live.is_some();
        if runs {
            self.forget_names(unit);
        }
        let mut record = UnitRecord::clone(&unit.record());
        record.spec.names = names;
        let noted = unit.update_record(record).map_err(failed(format!("note the names of {}", unit.id())));
        if runs {
            self.know_names(unit);
        }
        noted
    }

    pub(crate) fn set_ports(&self, unit: &Unit, asked: Vec<PortRequest>) -> Result<Placement, EngineError> {
        let before = unit.record();
        let change = self.allocator().change(unit.id(), before.spec.tenant, &asked)?;
        let undo = |error: String| {
            self.allocator().undo(unit.id(), &change);
            EngineError::Failed(error)
        };
        let mut record = UnitRecord::clone(&before);
        record.spec.ports = asked;
        record.placement.ports = change.ports.clone();
        let runs = unit.known().live.is_some();
        let (added, removed) = (unit.published_as(&change.added), unit.published_as(&change.removed));
        if runs {
            // A port of the host may lead elsewhere from now on: it is taken back first.
            let changed = self.rules.unpublish(&removed).and_then(|()| self.rules.publish(&added));
            if let Err(error) = changed {
                let _ = self.rules.publish(&removed);
                return Err(undo(error.to_string()));
            }
        }
        let placement = record.placement.clone();
        if let Err(error) = unit.update_record(record) {
            let _ = self.rules.unpublish(&added);
            let _ = self.rules.publish(&removed);
            return Err(undo(format!("note the ports of {}: {error}", unit.id())));
        }
        if runs && unit.known().live.is_none() {
            // It has ended meanwhile, perhaps before these were published.
            let _ = self.rules.unpublish(&added);
        }
        self.allocator().settle(unit.id(), &change);
        Ok(placement)
    }

    /// Notes what runs have counted so far.
    pub(crate) fn sample_traffic(&self) {
        let units: Vec<_> = self.units().values().cloned().collect();
        let links = match link_stats() {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%error, "the containers' traffic could not be read");
                return;
            }
        };
        for unit in units {
            let (live, run) = {
                let known = unit.known();
                (known.live.clone(), known.observed.run)
            };
            let Some(live) = live else { continue };
            let link = live.link.and_then(|index| links.get(&index)).map(of_link);
            if let Some(now) = link.or_else(|| self.traffic_now(&unit, &live).filter(|_| live.link.is_none())) {
                unit.counted.sample(&unit.folder, run, of_run(now));
            }
        }
    }
}
