//! What an engine may be able to do beyond the base that every engine has.
//!
//! An engine names its abilities in [`Engine::abilities`]; each has a clause in the contract ([`crate::contract`]). The core calls the methods of
//! `dyn Engine` below: without the ability they refuse with [`EngineError::Unsupported`], or tell that nothing is known where an answer is
//! only a figure.

use std::time::Duration;

use async_trait::async_trait;

use crate::engine::{Engine, EngineError, Listening};
use crate::inspection::Inspection;
use crate::session::{ExecRequest, Files, Session};
use crate::types::{Placement, PortBinding, PortProtocol, PortRequest, Resources, State, Stats, Traffic, UnitId};

const SIGKILL: i32 = 9;

/// Further processes in a container, and the conversation with its own.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Runs a further process in it; returns when that runs.
    async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError>;

    /// Takes part in the conversation with its own process. Several may. Without a standard input or a terminal of its own
    /// there is only its output, from now on. With `from_start` the session begins with all that the run has written so far,
    /// and one that has ended meanwhile gives just that.
    async fn attach(&self, id: &UnitId, from_start: bool) -> Result<Session, EngineError>;
}

/// The files of a container, whether it runs or not.
#[async_trait]
pub trait ContainerFiles: Send + Sync {
    /// Its files, to be read, or with `write` to be changed too.
    async fn files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError>;
}

/// Signals other than those that stop.
#[async_trait]
pub trait Signals: Send + Sync {
    /// Sends a signal to the first process.
    async fn signal(&self, id: &UnitId, signal: i32) -> Result<(), EngineError>;
}

/// Processes that stand still.
#[async_trait]
pub trait Pause: Send + Sync {
    /// Stops its processes where they are. One that is paused stays so.
    async fn pause(&self, id: &UnitId) -> Result<(), EngineError>;

    /// Lets them go on.
    async fn resume(&self, id: &UnitId) -> Result<(), EngineError>;
}

/// The inside of a container's network.
#[async_trait]
pub trait Inbound: Send + Sync {
    /// A socket of this process that listens on a TCP port in the container's network, on all its addresses. It, and what
    /// it accepted, are to be closed when the run has ended, which `ended` tells.
    async fn listen(&self, id: &UnitId, port: u16) -> Result<Listening, EngineError>;

    /// The ports that its processes listen on in its network.
    async fn listening(&self, id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError>;
}

/// Bounds that change without a new run.
#[async_trait]
pub trait LiveUpdate: Send + Sync {
    /// Changes its bounds: at once if it runs, and for all its next runs.
    async fn update(&self, id: &UnitId, to: Resources) -> Result<(), EngineError>;
}

/// Ports of the host that change without a new container.
#[async_trait]
pub trait Ports: Send + Sync {
    /// Has exactly these ports published: those that fit what was asked are kept, others are given or taken back, at once
    /// if it runs.
    async fn set_ports(&self, id: &UnitId, asked: &[PortRequest]) -> Result<Placement, EngineError>;
}

/// Ports of the host that lead to several containers.
#[async_trait]
pub trait LoadBalancing: Send + Sync {
    /// Has exactly these ports of the host lead to the containers `to`, new connections spread evenly over them; those under
    /// way stay where they are. Ports that fit what was asked are kept, others are given or taken back; nothing asked takes
    /// the load balancer away. A container of `to` that the engine does not have is left out. `id` is the load balancer's own, `tenant` is
    /// whose ports they are.
    async fn set_load_balancer(
        &self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError>;

    /// The ids of all load balancers.
    async fn load_balancers(&self) -> Result<Vec<UnitId>, EngineError>;

    /// TCP connections to these ports of the container that are not over.
    async fn connections(&self, id: &UnitId, ports: &[u16]) -> Result<usize, EngineError>;
}

/// Exact counters of the network.
#[async_trait]
pub trait TrafficCounters: Send + Sync {
    /// What came in and went out over the network in their whole lives, whether they run or not.
    async fn traffic(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Traffic)>, EngineError>;

    /// Never tells less traffic of it than this from now on: what was told before the machine went down may not be on disk.
    async fn keep_traffic(&self, _id: &UnitId, _at_least: Traffic) -> Result<(), EngineError> {
        Ok(())
    }
}

/// What containers use.
#[async_trait]
pub trait Usage: Send + Sync {
    /// What these containers use; those that don't run are left out.
    async fn stats(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Stats)>, EngineError>;

    /// Bytes on disk that they wrote.
    async fn disk(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, u64)>, EngineError>;
}

/// Names that containers find each other by.
#[async_trait]
pub trait Naming: Send + Sync {
    /// Has others of its tenant find it by these names, at once if it runs.
    async fn rename(&self, id: &UnitId, names: &[String]) -> Result<(), EngineError>;
}

/// What an engine can do; `None` is what it can't.
#[derive(Clone, Copy, Default)]
#[expect(missing_docs, reason = "each is described with its trait")]
pub struct Abilities<'a> {
    pub exec: Option<&'a dyn Exec>,
    pub files: Option<&'a dyn ContainerFiles>,
    pub signals: Option<&'a dyn Signals>,
    pub pause: Option<&'a dyn Pause>,
    pub inbound: Option<&'a dyn Inbound>,
    pub live_update: Option<&'a dyn LiveUpdate>,
    pub ports: Option<&'a dyn Ports>,
    pub load_balancing: Option<&'a dyn LoadBalancing>,
    pub traffic: Option<&'a dyn TrafficCounters>,
    pub usage: Option<&'a dyn Usage>,
    pub naming: Option<&'a dyn Naming>,
    pub inspection: Option<&'a dyn Inspection>,
}

impl<'a> Abilities<'a> {
    /// All of one engine that has them all.
    pub fn all<E>(engine: &'a E) -> Self
    where
        E: Exec
            + ContainerFiles
            + Signals
            + Pause
            + Inbound
            + LiveUpdate
            + Ports
            + LoadBalancing
            + TrafficCounters
            + Usage
            + Naming
            + Inspection,
    {
        Self {
            exec: Some(engine),
            files: Some(engine),
            signals: Some(engine),
            pause: Some(engine),
            inbound: Some(engine),
            live_update: Some(engine),
            ports: Some(engine),
            load_balancing: Some(engine),
            traffic: Some(engine),
            usage: Some(engine),
            naming: Some(engine),
            inspection: Some(engine),
        }
    }
}

/// Has the engine do something that it may not be able to.
fn able<'a, T: ?Sized>(ability: Option<&'a T>, what: &'static str) -> Result<&'a T, EngineError> {
    ability.ok_or(EngineError::Unsupported(what))
}

#[expect(missing_docs, clippy::missing_errors_doc, reason = "each is described with the ability's trait")]
impl dyn Engine + '_ {
    pub async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError> {
        able(self.abilities().exec, "running a process in a container")?.exec(id, asked).await
    }

    pub async fn attach(&self, id: &UnitId, from_start: bool) -> Result<Session, EngineError> {
        able(self.abilities().exec, "attaching to a container")?.attach(id, from_start).await
    }

    pub async fn files(&self, id: &UnitId, write: bool) -> Result<Box<dyn Files>, EngineError> {
        able(self.abilities().files, "reading and writing a container's files")?.files(id, write).await
    }

    /// Every engine can kill.
    pub async fn signal(&self, id: &UnitId, signal: i32) -> Result<(), EngineError> {
        match self.abilities().signals {
            Some(signals) => signals.signal(id, signal).await,
            None if signal != SIGKILL => Err(EngineError::Unsupported("sending a signal to a container")),
            None => match self.observe(id).await?.state {
                State::Running { .. } => self.stop(id, SIGKILL, Duration::ZERO).await,
                State::Absent => Err(EngineError::NoSuchUnit(id.clone())),
                _ => Err(EngineError::NotRunning(id.clone())),
            },
        }
    }

    pub async fn pause(&self, id: &UnitId) -> Result<(), EngineError> {
        able(self.abilities().pause, "pausing a container")?.pause(id).await
    }

    /// What can't be paused is not.
    pub async fn resume(&self, id: &UnitId) -> Result<(), EngineError> {
        match self.abilities().pause {
            Some(pause) => pause.resume(id).await,
            None => Ok(()),
        }
    }

    pub async fn listen(&self, id: &UnitId, port: u16) -> Result<Listening, EngineError> {
        able(self.abilities().inbound, "listening in a container")?.listen(id, port).await
    }

    /// An engine that can't look says none.
    pub async fn listening(&self, id: &UnitId) -> Result<Vec<(PortProtocol, u16)>, EngineError> {
        match self.abilities().inbound {
            Some(inbound) => inbound.listening(id).await,
            None => Ok(Vec::new()),
        }
    }

    pub async fn update(&self, id: &UnitId, to: Resources) -> Result<(), EngineError> {
        able(self.abilities().live_update, "changing the bounds of a container")?.update(id, to).await
    }

    pub async fn set_ports(&self, id: &UnitId, asked: &[PortRequest]) -> Result<Placement, EngineError> {
        able(self.abilities().ports, "changing the ports of a container")?.set_ports(id, asked).await
    }

    pub async fn set_load_balancer(
        &self,
        id: &UnitId,
        tenant: u32,
        asked: &[PortRequest],
        to: &[UnitId],
    ) -> Result<Vec<PortBinding>, EngineError> {
        match self.abilities().load_balancing {
            Some(balancing) => balancing.set_load_balancer(id, tenant, asked, to).await,
            None if asked.is_empty() => Ok(Vec::new()),
            None => Err(EngineError::Unsupported("a port for several containers")),
        }
    }

    pub async fn load_balancers(&self) -> Result<Vec<UnitId>, EngineError> {
        match self.abilities().load_balancing {
            Some(balancing) => balancing.load_balancers().await,
            None => Ok(Vec::new()),
        }
    }

    pub async fn connections(&self, id: &UnitId, ports: &[u16]) -> Result<usize, EngineError> {
        match self.abilities().load_balancing {
            Some(balancing) => balancing.connections(id, ports).await,
            None => Ok(0),
        }
    }

    pub async fn traffic(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Traffic)>, EngineError> {
        match self.abilities().traffic {
            Some(counters) => counters.traffic(ids).await,
            None => Ok(Vec::new()),
        }
    }

    pub async fn keep_traffic(&self, id: &UnitId, at_least: Traffic) -> Result<(), EngineError> {
        match self.abilities().traffic {
            Some(counters) => counters.keep_traffic(id, at_least).await,
            None => Ok(()),
        }
    }

    pub async fn stats(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, Stats)>, EngineError> {
        match self.abilities().usage {
            Some(usage) => usage.stats(ids).await,
            None => Ok(Vec::new()),
        }
    }

    pub async fn disk(&self, ids: &[UnitId]) -> Result<Vec<(UnitId, u64)>, EngineError> {
        match self.abilities().usage {
            Some(usage) => usage.disk(ids).await,
            None => Ok(Vec::new()),
        }
    }

    pub async fn rename(&self, id: &UnitId, names: &[String]) -> Result<(), EngineError> {
        match self.abilities().naming {
            Some(naming) => naming.rename(id, names).await,
            None => Ok(()),
        }
    }

    pub fn inspection(&self) -> Option<&dyn Inspection> {
        self.abilities().inspection
    }
}
