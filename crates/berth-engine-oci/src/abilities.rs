//! What this engine can do beyond the base: everything.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use berth_engine::{
    ContainerFiles, EngineError, Exec, ExecRequest, Files, Inbound, Listening, LiveUpdate, LoadBalancing, LogOptions,
    Naming, Pause, Placement, PortBinding, PortProtocol, PortRequest, Ports, Resources, Session, Signals, State, Stats,
    Traffic, TrafficCounters, UnitId, Usage,
};
use berth_net::link_stats;

use crate::engine::OciEngine;
use crate::exec_io::{self, RunLog};
use crate::instance::{descriptors, failed};
use crate::lifecycle::of_link;
use crate::output::Output;
use crate::traffic_totals::of_run;
use crate::unit::{RUN, Run, read_json};

/// Up to so many containers are asked for their counters one by one; for more all links are listed.
const FEW: usize = 16;

#[async_trait]
impl Exec for OciEngine {
    async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError> {
        let unit = self.inner.unit(id)?;
        descriptors(8)?;
        match unit.known().observed.state {
            State::Running { paused: true, .. } => return Err(EngineError::Paused(id.clone())),
            State::Running { .. } => {}
            _ => return Err(EngineError::NotRunning(id.clone())),
        }
        match self.exec_in(&unit, asked).await {
            // Without its first process a container takes no others, and the kernel's errors for that are many.
            Err(error) => Err(self.blocking(move |_| Ok(unit.unless_it_ends(error))).await?),
            session => session,
        }
    }

    async fn attach(&self, id: &UnitId, from_start: bool) -> Result<Session, EngineError> {
        let unit = self.inner.unit(id)?;
        descriptors(4)?;
        let record = unit.record();
        let live = unit.known().live.clone();
        let folder = unit.folder.clone();
        let run = tokio::task::spawn_blocking(move || read_json::<Run>(&folder.join(RUN)));
        let run = run.await.map_err(|e| EngineError::Failed(e.to_string()))?.map_err(failed(format!("read {RUN}")))?;
        let started_at = match (&live, run) {
            (Some(_), Some(run)) => run.started_at,
            (None, Some(run)) if from_start => run.started_at,
            _ => return Err(EngineError::NotRunning(id.clone())),
        };
        let run = RunLog { folder: unit.folder.clone(), started_at };
        let Some(live) = live else {
            return Ok(exec_io::of_ended(run, true, tokio::sync::watch::channel(true).1));
        };
        if record.spec.stdin || record.spec.terminal {
            // The first who attaches hears what was said while nobody did.
            let first = !live.heard.swap(true, Ordering::Relaxed);
            return exec_io::of_container(run, from_start || first, live.ended);
        }
        let options = match from_start {
            true => LogOptions { since: Some(started_at), ..LogOptions::default() },
            false => LogOptions { tail: Some(0), ..LogOptions::default() },
        };
        Ok(exec_io::of_log(Output::open(&unit.folder, &options).await?, unit))
    }
}

#[async_trait]
impl ContainerFiles for OciEngine {
    async fn files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError> {
        descriptors(8)?;
        self.open_files(id, write).await
    }
}

#[async_trait]
impl Signals for OciEngine {
    async fn signal(&self, id: &UnitId, signal: i32) -> Result<(), EngineError> {
        let unit = self.inner.unit(id)?;
        let live = unit.known().live.clone().ok_or_else(|| EngineError::NotRunning(id.clone()))?;
        live.signal(signal).map_err(failed(format!("send signal {signal} to {id}")))
    }
}

#[async_trait]
impl Pause for OciEngine {
    async fn pause(&self, id: &UnitId) -> Result<(), EngineError> {
        let (engine, unit) = (self.clone(), self.inner.unit(id)?);
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            engine.freeze(&unit, true).await
        })
        .await
    }

    async fn resume(&self, id: &UnitId) -> Result<(), EngineError> {
        let (engine, unit) = (self.clone(), self.inner.unit(id)?);
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            engine.freeze(&unit, false).await
        })
        .await
    }
}

#[async_trait]
impl Inbound for OciEngine {
    async fn listen(&self, id: &UnitId, port: u16) -> Result<Listening, EngineError> {
        let id = id.clone();
        self.blocking(move |inner| inner.listen(&id, port)).await
    }

    async fn listening(&self, id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError> {
        let id = id.clone();
        self.blocking(move |inner| inner.listening(&id)).await
    }
}

#[async_trait]
impl LiveUpdate for OciEngine {
    async fn update(&self, id: &UnitId, to: Resources) -> Result<(), EngineError> {
        let unit = self.inner.unit(id)?;
        let engine = self.clone();
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            let target = unit.clone();
            engine.blocking(move |inner| inner.update(&target, to)).await
        })
        .await
    }
}

#[async_trait]
impl Ports for OciEngine {
    async fn set_ports(&self, id: &UnitId, asked: &[PortRequest]) -> Result<Placement, EngineError> {
        let (engine, unit, asked) = (self.clone(), self.inner.unit(id)?, asked.to_vec());
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            let target = unit.clone();
            engine.blocking(move |inner| inner.set_ports(&target, asked)).await
        })
        .await
    }
}

#[async_trait]
impl LoadBalancing for OciEngine {
    async fn set_load_balancer(
        &self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError> {
        let (id, asked, to) = (id.clone(), asked.to_vec(), to.to_vec());
        // Blocking work is not broken off, so this is whole by itself.
        self.blocking(move |inner| inner.set_load_balancer(&id, tenant, &asked, &to)).await
    }

    async fn load_balancers(&self) -> Result<Vec<UnitId>, EngineError> {
        Ok(self.inner.load_balancers.ids())
    }

    async fn connections(&self, id: &UnitId, ports: &[u16]) -> Result<usize, EngineError> {
        let (id, ports) = (id.clone(), ports.to_vec());
        self.blocking(move |inner| inner.connections(&id, &ports)).await
    }
}

#[async_trait]
impl TrafficCounters for OciEngine {
    async fn traffic(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Traffic)>, EngineError> {
        let units: Vec<_> = ids.iter().filter_map(|id| self.inner.unit(id).ok()).collect();
        self.blocking(move |inner| {
            Ok(units
                .into_iter()
                .map(|unit| {
                    let (live, run) = {
                        let known = unit.known();
                        (known.live.clone(), known.observed.run)
                    };
                    let now = live.and_then(|live| inner.traffic_now(&unit, &live)).map(of_run);
                    (unit.id().clone(), unit.counted.total(run, now))
                })
                .collect())
        })
        .await
    }

    async fn keep_traffic(&self, id: &UnitId, at_least: Traffic) -> Result<(), EngineError> {
        let unit = self.inner.unit(id)?;
        self.blocking(move |inner| {
            let (live, run) = {
                let known = unit.known();
                (known.live.clone(), known.observed.run)
            };
            let now = live.as_ref().map(|live| inner.traffic_now(&unit, live).map(of_run));
            // One that runs and can't be read now: with an old figure it would be counted twice.
            if now.as_ref().is_none_or(Option::is_some) {
                unit.counted.raise(&unit.folder, run, now.flatten(), at_least);
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Usage for OciEngine {
    async fn stats(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Stats)>, EngineError> {
        let units: Vec<_> = ids.iter().filter_map(|id| self.inner.unit(id).ok()).collect();
        self.blocking(move |inner| {
            let links = match units.len() {
                ..=FEW => std::collections::HashMap::new(),
                _ => link_stats().map_err(|e| EngineError::Failed(e.to_string()))?,
            };
            let all = units.into_iter().filter_map(|unit| {
                let _order = unit.reading.lock().unwrap_or_else(PoisonError::into_inner);
                let (live, run) = {
                    let known = unit.known();
                    (known.live.clone()?, known.observed.run)
                };
                let usage = inner.cgroup(unit.id()).usage()?;
                let link = live.link.and_then(|index| links.get(&index)).map(of_link);
                let traffic = link.or_else(|| inner.traffic_now(&unit, &live)).map(of_run);
                let stats = Stats {
                    at: berth_runtime::log::now_ns(),
                    cpu_ns: usage.cpu_ns,
                    memory: usage.memory,
                    memory_limit: unit.record().spec.memory.unwrap_or(inner.host_memory),
                    pids: usage.pids,
                    block_read: usage.read_bytes,
                    block_write: usage.write_bytes,
                    traffic: unit.counted.total(run, traffic),
                    oom_kills: unit.known().oom_before + usage.oom_kills,
                };
                Some((unit.id().clone(), stats))
            });
            Ok(all.collect())
        })
        .await
    }

    async fn disk(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, u64)>, EngineError> {
        let units: Vec<_> = ids.iter().filter_map(|id| self.inner.unit(id).ok()).collect();
        self.blocking(move |_| {
            Ok(units
                .into_iter()
                .map(|unit| (unit.id().clone(), berth_image::disk_usage(&unit.folder.join("upper"))))
                .collect())
        })
        .await
    }
}

#[async_trait]
impl Naming for OciEngine {
    async fn rename(&self, id: &UnitId, names: &[String]) -> Result<(), EngineError> {
        let (engine, unit, names) = (self.clone(), self.inner.unit(id)?, names.to_vec());
        Self::whole(async move {
            let _busy = unit.busy.lock().await;
            let target = unit.clone();
            engine.blocking(move |inner| inner.rename(&target, names)).await
        })
        .await
    }
}
