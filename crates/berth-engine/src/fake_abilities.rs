//! The abilities of the engine in memory: all but looking into containers.

use std::sync::PoisonError;

use async_trait::async_trait;

use crate::abilities::{
    ContainerFiles, Exec, Inbound, LiveUpdate, LoadBalancing, Naming, Pause, Ports, Signals, TrafficCounters, Usage,
};
use crate::engine::{EngineError, Listening};
use crate::fake::{FakeEngine, OneFile, Unit, ended, give, missing, now};
use crate::session::{ExecOutput, ExecRequest, Files, Session};
use crate::types::{
    LogStream, Placement, PortBinding, PortProtocol, PortRequest, Resources, State, Stats, Traffic, UnitId,
};

#[async_trait]
impl Exec for FakeEngine {
    /// `echo …` and `exit N` are known; everything else ends with 0.
    async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError> {
        let running = self.with(id, |unit| matches!(unit.state, State::Running { .. }))?;
        if !running {
            return Err(EngineError::NotRunning(id.clone()));
        }
        let (said, output) = tokio::sync::mpsc::channel(4);
        let (input, _) = tokio::sync::mpsc::channel(4);
        let argument = asked.args.get(1).cloned().unwrap_or_default();
        let code = match asked.args.first().map(String::as_str) {
            Some("missing") => return Err(missing()),
            Some("never") => std::future::pending().await,
            Some("exit") => argument.parse().unwrap_or(1),
            Some("echo") => {
                let _ = said.send(ExecOutput::Output(LogStream::Stdout, format!("{argument}\n").into_bytes())).await;
                0
            }
            _ => 0,
        };
        let _ = said.send(ExecOutput::Ended(code)).await;
        Ok(Session { output, input })
    }

    async fn attach(&self, _id: &UnitId, _from_start: bool) -> Result<Session, EngineError> {
        Err(EngineError::Unsupported("attaching"))
    }
}

#[async_trait]
impl ContainerFiles for FakeEngine {
    /// `/etc/hostname` is there, and nothing else; what is written is read to its end and not kept.
    async fn files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError> {
        self.with(id, |unit| {
            Box::new(OneFile { content: format!("{}\n", unit.spec.id), writable: write }) as Box<dyn Files>
        })
    }
}

#[async_trait]
impl Signals for FakeEngine {
    async fn signal(&self, id: &UnitId, signal: i32) -> Result<(), EngineError> {
        self.with(id, |unit| match unit.state {
            State::Running { .. } => {
                unit.state = ended(128 + signal, Some(signal));
                Ok(())
            }
            _ => Err(EngineError::NotRunning(id.clone())),
        })?
        .inspect(|()| drop(self.changes.send(id.clone())))
    }
}

#[async_trait]
impl Pause for FakeEngine {
    async fn pause(&self, id: &UnitId) -> Result<(), EngineError> {
        self.set_paused(id, true)
    }

    async fn resume(&self, id: &UnitId) -> Result<(), EngineError> {
        self.set_paused(id, false)
    }
}

#[async_trait]
impl Inbound for FakeEngine {
    async fn listen(&self, _id: &UnitId, _port: u16) -> Result<Listening, EngineError> {
        Err(EngineError::Unsupported("listening in a container"))
    }

    async fn listening(&self, id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError> {
        self.with(id, |unit| Self::port_of(unit).map(|port| (PortProtocol::Tcp, port)).into_iter().collect())
    }
}

#[async_trait]
impl LiveUpdate for FakeEngine {
    async fn update(&self, id: &UnitId, to: Resources) -> Result<(), EngineError> {
        self.with(id, |unit| unit.spec.set_resources(to))
    }
}

#[async_trait]
impl Ports for FakeEngine {
    async fn set_ports(&self, id: &UnitId, asked: &[PortRequest]) -> Result<Placement, EngineError> {
        let mut units = self.units();
        let has = units.get(id).ok_or_else(|| EngineError::NoSuchUnit(id.clone()))?.placement.ports.clone();
        let ports = give(&units, id, &has, asked, &self.held(id))?;
        let unit = units.get_mut(id).ok_or_else(|| EngineError::NoSuchUnit(id.clone()))?;
        unit.placement.ports = ports;
        Ok(unit.placement.clone())
    }
}

#[async_trait]
impl LoadBalancing for FakeEngine {
    async fn set_load_balancer(
        &self,
        id: &UnitId,
        _tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError> {
        let held = self.held(id);
        let mut load_balancers = self.load_balancers.lock().unwrap_or_else(PoisonError::into_inner);
        let has = load_balancers.get(id).map(|(ports, _)| ports.clone()).unwrap_or_default();
        let units = self.units();
        let ports = give(&units, id, &has, asked, &held)?;
        if asked.is_empty() {
            load_balancers.remove(id);
        } else {
            let to = to.iter().filter(|id| units.contains_key(*id)).cloned().collect();
            load_balancers.insert(id.clone(), (ports.clone(), to));
        }
        Ok(ports)
    }

    async fn load_balancers(&self) -> Result<Vec<UnitId>, EngineError> {
        Ok(self.load_balancers.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect())
    }

    async fn connections(&self, id: &UnitId, _ports: &[u16]) -> Result<usize, EngineError> {
        self.with(id, |_| 0)
    }
}

#[async_trait]
impl TrafficCounters for FakeEngine {
    async fn traffic(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Traffic)>, EngineError> {
        let units = self.units();
        Ok(ids.iter().filter_map(|id| Some((id.clone(), units.get(id)?.traffic))).collect())
    }
}

#[async_trait]
impl Usage for FakeEngine {
    async fn stats(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Stats)>, EngineError> {
        let held = {
            let mut held = self.held_stats.lock().unwrap_or_else(PoisonError::into_inner);
            held.take_if(|(id, _)| ids.contains(id))
        };
        if let Some((_, held)) = held {
            held.0.0.notify_one();
            held.0.1.notified().await;
        }
        let units = self.units();
        let running = ids.iter().filter_map(|id| Some((id, units.get(id)?)));
        let running = running.filter(|(_, unit)| matches!(unit.state, State::Running { .. }));
        let stats = |unit: &Unit| Stats {
            at: now(),
            memory_limit: 1 << 30,
            traffic: unit.traffic,
            oom_kills: unit.oom_kills,
            ..Stats::default()
        };
        Ok(running.map(|(id, unit)| (id.clone(), stats(unit))).collect())
    }

    async fn disk(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, u64)>, EngineError> {
        Ok(ids.iter().map(|id| (id.clone(), 0)).collect())
    }
}

#[async_trait]
impl Naming for FakeEngine {
    async fn rename(&self, id: &UnitId, names: &[String]) -> Result<(), EngineError> {
        let mut units = self.units();
        let unit = units.get_mut(id).ok_or_else(|| EngineError::NoSuchUnit(id.clone()))?;
        unit.spec.names = names.to_vec();
        Ok(())
    }
}
