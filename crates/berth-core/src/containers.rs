//! Containers: what was asked for, what is observed; the steps between are in `create`, `life` and `watch`.

mod change;
mod create;
pub(crate) mod disk_limits;
mod exec;
mod health;
pub(crate) mod in_flight;
mod inspection;
mod life;
mod logs;
mod places;
mod ready;
mod restart;
mod search;
mod state;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use berth_engine::{
    Exit, Mount, NetworkMode, Observed, Placement, PortBinding, PortRequest, State, Stats, UnitId, UnitSpec,
};
use berth_store::ContainerFilter;
use serde::{Deserialize, Serialize};

pub use change::ContainerUpdate;
pub(crate) use change::check_port_count;
pub use create::signal_number;
pub(crate) use in_flight::{FailureReason, Transition};
pub use logs::{LogFollower, LogQuery};
pub(crate) use places::StartingOnes;
pub(crate) use ready::NotReady;
pub use search::ContainerOnly;
pub use state::ContainerPhase;

use crate::core::Core;
use crate::error::{Error, Field};
use crate::policies::{HealthCheck, HealthState, RestartPolicy};
use berth_identity::Caller;
use berth_types::{Extras, Page};

/// What a client asks for. Everything that is empty or `None` comes from the image or the settings.
#[derive(Debug, Clone, Default)]
pub struct NewContainer {
    /// Unique in the account; made up if `None`.
    pub name: Option<String>,
    /// Name or digest of the image.
    pub image: String,
    /// Its number; `image` is only how it is called then.
    pub image_number: Option<i64>,
    /// Instead of the image's arguments.
    pub command: Option<Vec<String>>,
    /// Instead of the image's entry point; clears the image's arguments, too.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`, over the image's.
    pub env: Vec<String>,
    /// Instead of the image's.
    pub working_dir: Option<String>,
    /// Instead of the image's.
    pub user: Option<String>,
    /// The textual id if `None`.
    pub hostname: Option<String>,
    /// CPUs in thousandths.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of swap beyond memory.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Root read-only.
    pub read_only: bool,
    /// Set-user-id programs work.
    pub new_privileges: bool,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Connection.
    pub network: NetworkMode,
    /// Ports; a range of (0, 0) is the settings' range.
    pub ports: Vec<PortRequest>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop, number.
    pub stop_signal: Option<i32>,
    /// Seconds between that and the kill.
    pub stop_timeout_s: Option<u64>,
    /// Removed when it has ended.
    pub auto_remove: bool,
    /// With `auto_remove`: whoever makes it follows it, so that it is kept for a while after its end.
    pub attended: bool,
    /// Standard input can be written to by those who attach.
    pub stdin: bool,
    /// It has a terminal.
    pub terminal: bool,
    /// What few containers ask for.
    pub extras: Extras,
    /// Every port that the image exposes is published on some port of the host.
    pub publish_all: bool,
    /// Rows and columns of the terminal at first.
    pub size: Option<(u16, u16)>,
    /// Bits per second in.
    pub ingress: Option<u64>,
    /// Bits per second out.
    pub egress: Option<u64>,
    /// When it is started again by itself.
    pub restart: RestartPolicy,
    /// Instead of the image's; `Some(None)` for none at all.
    pub health: Option<Option<HealthCheck>>,
    /// The idempotency key that the request came with.
    pub key: Option<String>,
    /// The host that it is to be on: number and textual id; this server's own if `None`.
    pub host: Option<(i64, String)>,
    /// The container whose place it is to take.
    pub replaces: Option<i64>,
}

/// What is kept of it, with everything decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) unit: UnitSpec,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: i32,
    pub(crate) stop_timeout_s: u64,
    pub(crate) auto_remove: bool,
    #[serde(default)]
    pub(crate) attended: bool,
    #[serde(default)]
    pub(crate) restart: RestartPolicy,
    #[serde(default)]
    pub(crate) health: Option<HealthCheck>,
}

/// What was observed, beside the state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Detail {
    pub(crate) placement: Placement,
    pub(crate) pid: Option<i32>,
    pub(crate) started_at: Option<i64>,
    pub(crate) exit: Option<Exit>,
    pub(crate) stopped_at: Option<i64>,
    pub(crate) error: Option<String>,
    pub(crate) health: Option<HealthState>,
    pub(crate) restarts: u32,
    pub(crate) pause_ms: u64,
    pub(crate) next_start: Option<i64>,
    /// It is paused only while it is read.
    pub(crate) reading: bool,
    pub(crate) trouble: Option<FailureReason>,
    pub(crate) oom_kills: u64,
}

/// A place in a group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) group: i64,
    /// Digest of everything that can't be changed of it.
    pub(crate) shape: String,
    /// Version of its code.
    pub(crate) version: i64,
    /// The container whose place it takes when it is ready.
    pub(crate) replaces: Option<i64>,
}

/// A container's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its program runs.
    Running,
    /// It runs, but its processes are stopped.
    Paused,
    /// Its program has ended.
    Exited,
}

impl ContainerState {
    /// The word that is stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }

    /// Whether its program has been started and has not ended.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// The state of this word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Created, Self::Running, Self::Paused, Self::Exited].into_iter().find(|state| state.word() == word)
    }

    fn of(word: &str) -> Self {
        Self::named(word).unwrap_or(Self::Created)
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Number, never used again.
    pub id: i64,
    /// Textual id.
    pub uid: UnitId,
    /// Its account.
    pub account: i64,
    /// Name.
    pub name: String,
    /// Image as it was named.
    pub image: String,
    /// Digest of the image.
    pub image_digest: String,
    /// State.
    pub state: ContainerState,
    /// Everything the engine was told.
    pub spec: UnitSpec,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Own address.
    pub address: Option<Ipv4Addr>,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// First process in the host's pid namespace.
    pub pid: Option<i32>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Start of the newest run, nanoseconds since 1970.
    pub started_at: Option<i64>,
    /// End of the newest run.
    pub exit: Option<Exit>,
    /// End of the newest run that has ended, nanoseconds since 1970.
    pub stopped_at: Option<i64>,
    /// Why the newest start failed.
    pub error: Option<String>,
    /// How often it was started.
    pub runs: i64,
    /// When it is started again by itself.
    pub restart: RestartPolicy,
    /// How often that was done since somebody started it.
    pub restarts: u32,
    /// When that will be next, nanoseconds since 1970.
    pub next_start: Option<i64>,
    /// How it is asked whether it is well.
    pub health_check: Option<HealthCheck>,
    /// What the checks of this run have shown.
    pub health: Option<HealthState>,
    /// Number of the group that it is one of.
    pub group: Option<i64>,
    /// Version of the code in it; 0 is none.
    pub version: i64,
    /// Number of the host that it is on.
    pub host: i64,
    pub(crate) shape: String,
    pub(crate) replaces: Option<i64>,
    pub(crate) desired_running: bool,
    pub(crate) trouble: Option<FailureReason>,
    /// Processes of the newest run that the OOM killer has killed.
    pub oom_kills: u64,
    pub(crate) pause: Duration,
    pub(crate) reading: bool,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Time between that and the kill.
    pub stop_timeout: Duration,
    pub(crate) auto_remove: bool,
    pub(crate) attended: bool,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The container.
    pub uid: UnitId,
    /// Its name.
    pub name: String,
    /// Counters and levels.
    pub stats: Stats,
    /// CPU between two readings, percent of one CPU.
    pub cpu_percent: f64,
    /// The same, percent of what it may use at most: its limit, or the whole machine.
    pub cpu_percent_of_limit: f64,
    /// Memory, percent of its limit.
    pub memory_percent: f64,
}

pub(crate) fn container(row: berth_store::Container) -> Result<Container, Error> {
    let unreadable = |e: serde_json::Error| Error::Bug(format!("container {} in the database: {e}", row.id));
    let spec: Spec = serde_json::from_str(&row.spec).map_err(unreadable)?;
    let detail: Detail = serde_json::from_str(&row.detail).map_err(unreadable)?;
    Ok(Container {
        id: row.id,
        uid: row.uid.parse().map_err(Error::Bug)?,
        account: row.account_id,
        name: row.name,
        image: row.image,
        image_digest: row.image_digest,
        state: ContainerState::of(&row.state),
        spec: spec.unit,
        labels: spec.labels,
        address: detail.placement.address,
        ports: detail.placement.ports,
        pid: detail.pid,
        created_at: row.created_at,
        started_at: detail.started_at,
        exit: detail.exit,
        stopped_at: detail.stopped_at,
        error: detail.error,
        runs: row.run,
        restart: spec.restart,
        restarts: detail.restarts,
        next_start: detail.next_start,
        health_check: spec.health,
        health: detail.health,
        group: row.group_id,
        version: row.version,
        host: row.host_id,
        shape: row.shape,
        replaces: row.replaces,
        desired_running: row.desired == "running",
        trouble: detail.trouble,
        oom_kills: detail.oom_kills,
        pause: Duration::from_millis(detail.pause_ms),
        reading: detail.reading,
        stop_signal: spec.stop_signal,
        stop_timeout: Duration::from_secs(spec.stop_timeout_s),
        auto_remove: spec.auto_remove,
        attended: spec.attended,
    })
}

/// What the engine keeps accounts apart by.
pub(crate) fn tenant_of(account: i64) -> u32 {
    u32::try_from(account).unwrap_or(u32::MAX)
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Bug(e.to_string()))
}

impl Container {
    pub(crate) fn detail(&self) -> Detail {
        Detail {
            placement: Placement { address: self.address, ports: self.ports.clone() },
            pid: self.pid,
            started_at: self.started_at,
            exit: self.exit.clone(),
            stopped_at: self.stopped_at,
            error: self.error.clone(),
            health: self.health.clone(),
            restarts: self.restarts,
            pause_ms: self.pause.as_millis() as u64,
            next_start: self.next_start,
            reading: self.reading,
            trouble: self.trouble,
            oom_kills: self.oom_kills,
        }
    }

    /// What is kept of what was asked for.
    pub(crate) fn stored(&self) -> Spec {
        Spec {
            unit: self.spec.clone(),
            labels: self.labels.clone(),
            stop_signal: self.stop_signal,
            stop_timeout_s: self.stop_timeout.as_secs(),
            auto_remove: self.auto_remove,
            attended: self.attended,
            restart: self.restart,
            health: self.health_check.clone(),
        }
    }

    /// The event that tells of its end.
    pub(crate) fn ending(&self) -> &'static str {
        if self.exit.as_ref().is_some_and(|e| e.oom_killed) { "container.oom" } else { "container.exited" }
    }

    /// Takes over what the engine sees.
    pub(crate) fn observe(&mut self, observed: &Observed) {
        if matches!(observed.state, State::Running { .. } | State::Exited(_)) {
            self.oom_kills = observed.oom_kills;
        }
        match &observed.state {
            State::Absent => {
                self.state = if self.runs == 0 { ContainerState::Created } else { ContainerState::Exited };
                self.pid = None;
            }
            State::Created => self.state = ContainerState::Created,
            State::Running { pid, started_at, paused } => {
                if self.started_at != Some(*started_at) {
                    self.health = None;
                }
                self.state = if *paused { ContainerState::Paused } else { ContainerState::Running };
                self.next_start = None;
                self.pid = *pid;
                self.started_at = Some(*started_at);
                self.exit = None;
                self.error = None;
            }
            State::Exited(exit) => {
                self.state = ContainerState::Exited;
                self.pid = None;
                self.exit = Some(exit.clone());
                self.stopped_at = exit.finished_at;
            }
        }
    }
}

impl Core {
    /// One container of the caller's account, by name, textual id or the beginning of one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] if the beginning fits several.
    pub async fn container(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        let (account, wanted) = (caller.account, reference.to_owned());
        let mut found = self.read(move |tx| Ok(tx.containers_by_reference(account, &wanted)?)).await?;
        found.retain(|row| row.desired != "removed");
        if found.len() > 1 {
            return Err(Error::invalid(
                Field::Container,
                format!("{reference:?} is the beginning of several containers' ids"),
            ));
        }
        let row = found.pop().ok_or_else(|| Error::NotFound { what: "container", name: reference.to_owned() })?;
        self.up_to_date(container(row)?).await
    }

    /// One container of the caller's account by its exact name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(crate) async fn container_named(&self, caller: &Caller, name: &str) -> Result<Container, Error> {
        let (account, wanted) = (caller.account, name.to_owned());
        let row = self.read(move |tx| Ok(tx.container_named(account, &wanted)?)).await?;
        let row = row.filter(|row| row.desired != "removed");
        let row = row.ok_or_else(|| Error::NotFound { what: "container", name: name.to_owned() })?;
        self.up_to_date(container(row)?).await
    }

    /// One container of the caller's account, by number.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn container_by_number(&self, caller: &Caller, id: i64) -> Result<Container, Error> {
        let row = self.read(move |tx| Ok(tx.container(id)?)).await?;
        let row = row.filter(|row| row.account_id == caller.account && row.desired != "removed");
        let row = row.ok_or_else(|| Error::NotFound { what: "container", name: id.to_string() })?;
        self.up_to_date(container(row)?).await
    }

    /// An end that the engine knows of and the record does not, for the moment until it is written down.
    pub(crate) async fn up_to_date(&self, mut known: Container) -> Result<Container, Error> {
        if known.state.is_live() {
            let observed = self.inner.engine.observe(&known.uid).await?;
            if matches!(observed.state, State::Exited(_)) {
                known.observe(&observed);
            }
        }
        Ok(known)
    }

    /// What a request whose answer was not noted has made, when nobody works on it any more; `None` if it is gone.
    ///
    /// # Errors
    /// The database's own.
    pub async fn container_made(&self, caller: &Caller, uid: &str) -> Result<Option<Container>, Error> {
        // A server before this one began it; this one may be about to finish it.
        if let Ok(found) = self.container(caller, uid).await {
            drop(self.lock(found.id).lock().await);
        }
        match self.container(caller, uid).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The account's containers by number, after `after`.
    ///
    /// # Errors
    /// The database's own.
    pub async fn containers(
        &self,
        caller: &Caller,
        state: Option<ContainerState>,
        after: i64,
        limit: u32,
    ) -> Result<Page<Container>, Error> {
        let filter = ContainerFilter {
            account: Some(caller.account),
            state: state.map(|s| s.word().to_owned()),
            after,
            limit: limit.saturating_add(1),
        };
        let mut rows = self.read(move |tx| Ok(tx.containers(&filter)?)).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|row| row.id);
        rows.retain(|row| row.desired != "removed");
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.push(self.up_to_date(container(row)?).await?);
        }
        Ok(Page { items, next })
    }

    /// How many containers the account has.
    ///
    /// # Errors
    /// The database's own.
    pub async fn container_count(&self, caller: &Caller) -> Result<i64, Error> {
        let account = caller.account;
        self.read(move |tx| Ok(tx.container_count(account)?)).await
    }

    /// How many containers of all accounts are in each state.
    ///
    /// # Errors
    /// The database's own.
    pub async fn container_states(&self) -> Result<Vec<(String, i64)>, Error> {
        self.read(|tx| Ok(tx.container_states()?)).await
    }
}
