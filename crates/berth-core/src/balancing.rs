//! A group's ports of the host, and which of its containers they lead to: those that run and are well, but for those that
//! are about to be stopped.

pub(crate) mod state;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use berth_engine::{PortProtocol, UnitId};
use tokio::sync::broadcast::error::RecvError;

use crate::containers::{Container, ContainerState, container};

use crate::core::Core;
use crate::error::Error;
use crate::policies::HealthStatus;
use crate::services::spec::{Group, GroupSpec, GroupState, group};

/// After a container is taken out of a load balancer: what was on its way to it by then has arrived.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// A container that gets no new connections until this is dropped.
pub(crate) struct Draining {
    core: Core,
    container: i64,
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.core.inner.balancing.draining.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.container);
    }
}

/// The engine's name for a group's load balancer.
pub(crate) fn load_balancer_id(group: i64) -> Result<UnitId, Error> {
    format!("front{group}").parse().map_err(Error::Bug)
}

impl Core {
    pub(crate) fn load_balancer_lock(&self, group: i64) -> Arc<tokio::sync::Mutex<()>> {
        // Containers' numbers are positive.
        self.lock(-group)
    }

    /// Whether new connections may come to it.
    fn takes_connections(&self, member: &Container) -> bool {
        if member.state != ContainerState::Running {
            return false;
        }
        let balancing = &self.inner.balancing;
        if balancing.draining.lock().unwrap_or_else(PoisonError::into_inner).contains(&member.id) {
            return false;
        }
        match (&member.health_check, &member.health) {
            (Some(_), health) => health.as_ref().is_some_and(|h| h.status == HealthStatus::Healthy),
            (None, _) => {
                balancing.ready.lock().unwrap_or_else(PoisonError::into_inner).contains(&(member.id, member.runs))
            }
        }
    }

    /// Has the host's ports of a group lead to those of its containers that take connections now.
    pub(crate) async fn refresh_load_balancer(&self, id: i64) -> Result<(), Error> {
        let lock = self.load_balancer_lock(id);
        let _busy = lock.lock().await;
        let found = self
            .read(move |tx| match tx.group(id)? {
                Some(row) => {
                    let members = tx.containers_of_group(id)?;
                    Ok(Some((row, members)))
                }
                None => Ok(None),
            })
            .await?;
        let Some((row, members)) = found else { return Ok(()) };
        let group = group(row)?;
        if group.spec.ports.is_empty() && group.ports.is_empty() {
            return Ok(());
        }
        let mut to = Vec::new();
        for row in members.into_iter().filter(|row| row.desired == "running") {
            let member = container(row)?;
            if self.takes_connections(&member) {
                to.push(member.uid);
            }
        }
        let asked = group.load_balancer_ports(self.settings().port_range);
        let ports = self
            .inner
            .engine
            .set_load_balancer(&load_balancer_id(id)?, crate::containers::tenant_of(group.account), &asked, &to)
            .await?;
        if ports != group.ports {
            let ports = serde_json::to_string(&ports).map_err(|e| Error::Bug(e.to_string()))?;
            let change = berth_store::GroupChange { ports: Some(ports), ..Default::default() };
            self.write(move |tx| Ok(tx.group_change(id, &change).map(drop)?)).await?;
        }
        Ok(())
    }

    fn note_ready(&self, member: &Container) {
        let mut ready = self.inner.balancing.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|(id, _)| *id != member.id);
        ready.insert((member.id, member.runs));
    }

    /// Gives a group the ports of a specification that it does not have yet, before anything else is done about that.
    pub(crate) async fn group_ports(&self, group: &Group, spec: &GroupSpec) -> Result<(), Error> {
        if group.spec.ports == spec.ports {
            return Ok(());
        }
        let (id, ports) = (group.id, spec.ports.clone());
        let before = group.spec.clone();
        let write = |spec: GroupSpec| async move {
            let spec = serde_json::to_string(&spec).map_err(|e| Error::Bug(e.to_string()))?;
            let change = berth_store::GroupChange { spec: Some(spec), ..Default::default() };
            self.write(move |tx| Ok(tx.group_change(id, &change).map(drop)?)).await
        };
        write(GroupSpec { ports, ..before.clone() }).await?;
        if let Err(error) = self.refresh_load_balancer(id).await {
            write(before).await?;
            self.refresh_load_balancer(id).await?;
            return Err(error);
        }
        Ok(())
    }

    /// A member without a health check has shown that it takes connections.
    pub(crate) async fn member_is_ready(&self, member: &Container) -> Result<(), Error> {
        let Some(group) = member.group else { return Ok(()) };
        self.note_ready(member);
        self.refresh_load_balancer(group).await
    }

    /// Takes a member out of its group's load balancer and lets its connections end, as long as the group allows. It stays out until
    /// what is returned is dropped.
    pub(crate) async fn drain(&self, member: &Container) -> Result<Option<Draining>, Error> {
        let Some(id) = member.group else { return Ok(None) };
        let served = self.takes_connections(member);
        self.inner.balancing.draining.lock().unwrap_or_else(PoisonError::into_inner).insert(member.id);
        let draining = Draining { core: self.clone(), container: member.id };
        if let Err(error) = self.refresh_load_balancer(id).await {
            // No reason not to stop it.
            tracing::warn!(group = id, error = error.chain(), "a group's ports could not be set");
        }
        let Ok(group) = self.group_by_number(id).await else { return Ok(Some(draining)) };
        let ports = tcp_ports(&group);
        if !served || ports.is_empty() {
            return Ok(Some(draining));
        }
        let begun = Instant::now();
        let limit = Duration::from_secs(group.spec.drain_s);
        tokio::time::sleep(ON_THE_WAY.min(limit)).await;
        while begun.elapsed() < limit && self.inner.engine.connections(&member.uid, &ports).await? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(draining))
    }

    /// At the start of the server: what runs is taken to be ready, and load balancers of groups that are gone go, too. Then follows
    /// what happens to members.
    pub(crate) async fn follow_members(&self) -> Result<(), Error> {
        let mut events = self.event_stream();
        let groups = self.read(|tx| Ok(tx.groups(None)?)).await?;
        let mut owned = HashSet::new();
        for row in groups {
            let id = row.id;
            owned.insert(load_balancer_id(id)?);
            let group = group(row)?;
            for member in self.group_containers(&group).await? {
                if member.state == ContainerState::Running {
                    self.note_ready(&member);
                }
            }
            if let Err(error) = self.refresh_load_balancer(id).await {
                tracing::warn!(group = group.full_name(), error = error.chain(), "a group's ports could not be set");
            }
        }
        for load_balancer in self.inner.engine.load_balancers().await? {
            if !owned.contains(&load_balancer) {
                self.inner.engine.set_load_balancer(&load_balancer, 0, &[], &[]).await?;
            }
        }
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let event = events.recv().await;
                let Some(inner) = weak.upgrade() else { return };
                let core = Self { inner };
                let result = match event {
                    Ok(event) if event.kind.starts_with("container.") => core.member_changed(&event).await,
                    Ok(_) => Ok(()),
                    Err(RecvError::Lagged(_)) => core.refresh_all().await,
                    Err(RecvError::Closed) => return,
                };
                if let Err(error) = result {
                    tracing::warn!(error = error.chain(), "a group's ports could not be set");
                }
            }
        });
        Ok(())
    }

    async fn refresh_all(&self) -> Result<(), Error> {
        for row in self.read(|tx| Ok(tx.groups(None)?)).await? {
            self.refresh_load_balancer(row.id).await?;
        }
        Ok(())
    }

    async fn member_changed(&self, event: &crate::events::Event) -> Result<(), Error> {
        let Some(group) = event.detail["group"].as_i64() else { return Ok(()) };
        if event.kind == "container.created" {
            return Ok(());
        }
        let uid = event.subject.clone();
        if event.kind == "container.started"
            && let Some(row) = self.read(move |tx| Ok(tx.container_by_uid(&uid)?)).await?
        {
            let member = container(row)?;
            if member.health_check.is_none() && member.replaces.is_none() {
                let core = self.clone();
                tokio::spawn(async move { core.await_readiness(member, group).await });
            }
        }
        self.refresh_load_balancer(group).await
    }

    /// A member that was started by itself, or by hand, serves when it takes connections.
    async fn await_readiness(&self, member: Container, group: i64) -> Result<(), Error> {
        let port = self.group_by_number(group).await?.spec.asked_at();
        let begun = Instant::now();
        let limit = Duration::from_secs(self.settings().ready_wait_s);
        while let (Some(port), Some(address)) = (port, member.address) {
            if crate::takes_connections((address, port)).await || begun.elapsed() > limit {
                break;
            }
            let now = self.noted(member.id).await?;
            if now.runs != member.runs || now.state != ContainerState::Running {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = self.noted(member.id).await?;
        if now.runs == member.runs && now.state == ContainerState::Running {
            self.member_is_ready(&now).await?;
        }
        Ok(())
    }
}

fn tcp_ports(group: &Group) -> Vec<u16> {
    if group.state == GroupState::Created && group.ports.is_empty() {
        return Vec::new();
    }
    let tcp = group.spec.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
    tcp.map(|port| port.container_port).collect()
}
