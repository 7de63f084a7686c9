//! Containers: what was asked for, what is observed, and the steps between.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use berth_engine::{
    Exit, LogLine, LogOptions, LogReader, Mount, MountSource, NetworkMode, Placement, PortAsked, PortGiven, State,
    Stats, UnitId, UnitSpec,
};
use berth_image::Config;
use berth_store::{ContainerChange, ContainerFilter};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::error::Error;
use crate::tokens::{Caller, Role, check_name};
use crate::{now, random_hex};

/// What a client asks for. Everything that is empty or `None` comes from the image or the settings.
#[derive(Debug, Clone, Default)]
pub struct NewContainer {
    /// Unique in the account; made up if `None`.
    pub name: Option<String>,
    /// Name or digest of the image.
    pub image: String,
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
    pub ports: Vec<PortAsked>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop, number.
    pub stop_signal: Option<i32>,
    /// Seconds between that and the kill.
    pub stop_timeout_s: Option<u64>,
    /// Removed when it has ended.
    pub auto_remove: bool,
}

/// What is kept of it, with everything decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) unit: UnitSpec,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: i32,
    pub(crate) stop_timeout_s: u64,
    pub(crate) auto_remove: bool,
}

/// What was observed, beside the state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Detail {
    pub(crate) placement: Placement,
    pub(crate) pid: Option<i32>,
    pub(crate) started_at: Option<i64>,
    pub(crate) exit: Option<Exit>,
    pub(crate) error: Option<String>,
}

/// A container's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
}

impl ContainerState {
    /// The word that is stored.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }

    fn of(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "exited" => Self::Exited,
            _ => Self::Created,
        }
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
    pub ports: Vec<PortGiven>,
    /// First process in the host's pid namespace.
    pub pid: Option<i32>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Start of the newest run, nanoseconds since 1970.
    pub started_at: Option<i64>,
    /// End of the newest run.
    pub exit: Option<Exit>,
    /// Why the newest start failed.
    pub error: Option<String>,
    /// How often it was started.
    pub runs: i64,
    pub(crate) stop_signal: i32,
    pub(crate) stop_timeout: Duration,
    pub(crate) auto_remove: bool,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<i64>,
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
        error: detail.error,
        runs: row.run,
        stop_signal: spec.stop_signal,
        stop_timeout: Duration::from_secs(spec.stop_timeout_s),
        auto_remove: spec.auto_remove,
    })
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
            error: self.error.clone(),
        }
    }

    /// The event that tells of its end.
    pub(crate) fn ending(&self) -> &'static str {
        if self.exit.as_ref().is_some_and(|e| e.oom_killed) { "container.oom" } else { "container.exited" }
    }

    /// Takes over what the engine sees.
    pub(crate) fn observe(&mut self, state: &State) {
        match state {
            State::Absent => {
                self.state = if self.runs == 0 { ContainerState::Created } else { ContainerState::Exited };
                self.pid = None;
            }
            State::Created => self.state = ContainerState::Created,
            State::Running { pid, started_at } => {
                self.state = ContainerState::Running;
                self.pid = *pid;
                self.started_at = Some(*started_at);
                self.exit = None;
                self.error = None;
            }
            State::Exited(exit) => {
                self.state = ContainerState::Exited;
                self.pid = None;
                self.exit = Some(exit.clone());
            }
        }
    }
}

/// Signals by name and number, for what images and clients write.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 15] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<i32>().ok()) {
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}

impl Core {
    fn decide(
        &self,
        caller: &Caller,
        new: &NewContainer,
        uid: &UnitId,
        image: &Config,
        layers: Vec<String>,
    ) -> Result<Spec, Error> {
        let settings = &self.inner.settings;
        let args = match (&new.entrypoint, &new.command) {
            (Some(entrypoint), command) => {
                entrypoint.iter().chain(command.iter().flatten()).cloned().collect::<Vec<_>>()
            }
            (None, Some(command)) => image.entrypoint.iter().chain(command).cloned().collect(),
            (None, None) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "neither the request nor the image says what to run"));
        }
        let mut env = image.env.clone();
        for variable in &new.env {
            let Some((key, _)) = variable.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(Error::invalid("env", format!("{variable:?} is not KEY=value")));
            };
            env.retain(|have| have.split('=').next() != Some(key));
            env.push(variable.clone());
        }
        if args.iter().chain(&env).any(|text| text.contains('\0')) {
            return Err(Error::invalid("command", "a zero byte in the command or a variable"));
        }
        let texts = [&new.working_dir, &new.user].into_iter().flatten().map(String::as_str);
        let labels = new.labels.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]);
        if texts.chain(labels).any(|text| text.contains('\0') || text.len() > 4096) {
            return Err(Error::invalid(
                "request",
                "a zero byte, or more than 4096 bytes, in user, working_dir or a label",
            ));
        }
        // The kernel's own bound of process numbers.
        if new.pids.is_some_and(|p| p > 4 << 20) {
            return Err(Error::invalid("pids", "at most 4194304"));
        }
        if new.stop_signal.is_some_and(|s| !(1..=64).contains(&s)) {
            return Err(Error::invalid("stop_signal", "a signal's number is 1 to 64"));
        }
        if caller.role != Role::Admin && (new.network == NetworkMode::Host || new.new_privileges) {
            return Err(Error::Forbidden("network host and new_privileges are for administrators".into()));
        }
        for (field, value, least) in [
            ("memory", new.memory, 4 << 20),
            ("pids", new.pids, 1),
            ("cpus", new.cpu_milli, 10),
            ("shm_size", new.shm_size, 4096),
            ("swap", new.swap, 0),
        ] {
            if value.is_some_and(|v| v < least || v > i64::MAX as u64) {
                let shown = if field == "cpus" { "0.01".into() } else { least.to_string() };
                return Err(Error::invalid(field, format!("{shown} at least, and no more than 2^63-1")));
            }
        }
        let host_name = new.hostname.clone().unwrap_or_else(|| uid.to_string());
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host_name.is_empty() || host_name.len() > 63 || !host_name.chars().all(good) {
            return Err(Error::invalid("hostname", format!("{host_name:?}: 1 to 63 letters, digits, '-', '.', '_'")));
        }
        let mut ports = new.ports.clone();
        if !ports.is_empty() && new.network != NetworkMode::Bridge {
            return Err(Error::invalid("ports", "only a container on the bridge has ports of its own to publish"));
        }
        for port in &mut ports {
            if port.host_ports == (0, 0) {
                port.host_ports = settings.port_range;
            }
            if port.host_ports.0 == 0 || port.host_ports.0 > port.host_ports.1 || port.container_port == Some(0) {
                return Err(Error::invalid("ports", "ports are 1 to 65535, ranges go upwards"));
            }
        }
        let image_signal = image.stop_signal.as_deref().and_then(signal_number);
        Ok(Spec {
            unit: UnitSpec {
                id: uid.clone(),
                layers,
                args,
                env,
                working_dir: new.working_dir.clone().unwrap_or_else(|| image.working_dir.clone()),
                user: new.user.clone().unwrap_or_else(|| image.user.clone()),
                hostname: host_name,
                cpu_milli: new.cpu_milli,
                memory: new.memory,
                swap: new.swap,
                pids: Some(new.pids.unwrap_or(settings.pids_limit)),
                shm_size: new.shm_size.unwrap_or(64 << 20),
                read_only: new.read_only,
                new_privileges: new.new_privileges,
                mounts: new.mounts.clone(),
                network: new.network,
                ports,
            },
            labels: new.labels.clone(),
            stop_signal: new.stop_signal.or(image_signal).unwrap_or(15),
            stop_timeout_s: new.stop_timeout_s.unwrap_or(settings.stop_timeout_s).min(3600),
            auto_remove: new.auto_remove,
        })
    }

    fn check_mounts(&self, caller: &Caller, mounts: &mut [Mount]) -> Result<(), Error> {
        for mount in mounts {
            let plain = |path: &Path| {
                path.is_absolute() && !path.components().any(|c| matches!(c, std::path::Component::ParentDir))
            };
            if !plain(&mount.target) || mount.target == Path::new("/") {
                return Err(Error::invalid("mounts", format!("{} is no place to mount on", mount.target.display())));
            }
            if matches!(mount.source, MountSource::Tmpfs { size } if size == 0 || size > i64::MAX as u64) {
                return Err(Error::invalid("mounts", format!("the size of {} is no size", mount.target.display())));
            }
            if let MountSource::Bind { source } = &mut mount.source {
                if !plain(source) {
                    return Err(Error::invalid("mounts", format!("{} is no absolute path", source.display())));
                }
                let allowed = caller.role == Role::Admin
                    || self.inner.settings.bind_prefixes.iter().any(|p| source.starts_with(p));
                if !allowed {
                    return Err(Error::Forbidden(format!("{} may not be mounted by this account", source.display())));
                }
                // A link below an allowed folder could lead anywhere. The engine is given the path without links, and
                // refuses one that has any by the time of the start.
                let real = std::fs::canonicalize(&*source)
                    .map_err(|e| Error::invalid("mounts", format!("{}: {e}", source.display())))?;
                if caller.role != Role::Admin && !self.inner.settings.bind_prefixes.iter().any(|p| real.starts_with(p))
                {
                    return Err(Error::Forbidden(format!("{} leads out of what may be mounted", source.display())));
                }
                *source = real;
            }
        }
        Ok(())
    }

    /// Makes a container; with `start` it is started, too. `layers_above` go on top of the image's (an application's code).
    ///
    /// # Errors
    /// What is wrong with the request, that a name or port is taken, or that there is no room. Nothing is left then.
    pub async fn container_create(&self, caller: &Caller, new: NewContainer, start: bool) -> Result<Container, Error> {
        self.container_make(caller, new, Vec::new(), start).await
    }

    pub(crate) async fn container_make(
        &self,
        caller: &Caller,
        new: NewContainer,
        layers_above: Vec<String>,
        start: bool,
    ) -> Result<Container, Error> {
        let uid: UnitId = random_hex(6).parse().map_err(Error::Bug)?;
        let name = match &new.name {
            Some(name) => {
                check_name("name", name)?;
                name.clone()
            }
            None => uid.to_string(),
        };
        let core = self.clone();
        let (account, caller_copy) = (caller.account, *caller);
        let mut new = new;
        if !new.mounts.is_empty() {
            // Looks at the host's files, which may hang: neither this thread nor the database's writer may wait for it.
            let mut mounts = std::mem::take(&mut new.mounts);
            let checking = core.clone();
            let checked =
                tokio::task::spawn_blocking(move || checking.check_mounts(&caller_copy, &mut mounts).map(|()| mounts));
            new.mounts = checked.await.map_err(|e| Error::Bug(e.to_string()))??;
        }
        let made = self
            .write(move |tx| {
                // No image at all (the layers above are everything) is for runtimes that bring their own program.
                let (image_name, digest, config, mut layers) = if new.image.is_empty() && !layers_above.is_empty() {
                    (String::new(), String::new(), Config::default(), Vec::new())
                } else {
                    let row = crate::images::find(tx, account, &new.image)?;
                    let unreadable = |e: serde_json::Error| Error::Bug(format!("image {}: {e}", row.id));
                    let config: berth_image::ImageConfig = serde_json::from_str(&row.config).map_err(unreadable)?;
                    let layers: Vec<String> = serde_json::from_str(&row.layers).map_err(unreadable)?;
                    (new.image.clone(), row.digest.clone(), config.config, layers)
                };
                layers.extend(layers_above);
                if layers.is_empty() {
                    return Err(Error::invalid("image", "the image has no layers"));
                }
                let spec = core.decide(&caller_copy, &new, &uid, &config, layers.clone())?;
                let mut row = berth_store::Container {
                    id: 0,
                    uid: uid.to_string(),
                    account_id: account,
                    name,
                    image: image_name,
                    image_digest: digest,
                    layers: json(&layers)?,
                    spec: json(&spec)?,
                    wanted: if start { "running" } else { "stopped" }.into(),
                    state: "created".into(),
                    run: i64::from(start),
                    detail: json(&Detail::default())?,
                    created_at: now(),
                };
                row.id = tx.container_add(&row)?;
                let detail = serde_json::json!({ "name": row.name, "image": row.image }).to_string();
                let event = tx.event_add(row.created_at, account, "container.created", &row.uid, &detail)?;
                Ok((container(row)?, event))
            })
            .await;
        let (made, event) = made?;
        let lock = self.lock(made.id);
        let _busy = lock.lock().await;
        self.tell(vec![event]);
        // Somebody may have removed it before this one had the lock.
        let id = made.id;
        if self.read(move |tx| Ok(tx.container(id)?)).await?.is_none_or(|row| row.wanted == "removed") {
            return Err(Error::NotFound { what: "container", name: made.name });
        }
        let placed = self.inner.engine.create(&made.spec).await;
        let result = match placed {
            Ok(placement) if start => {
                self.run(Container { address: placement.address, ports: placement.ports, ..made.clone() }).await
            }
            Ok(placement) => {
                let placed = Container { address: placement.address, ports: placement.ports, ..made.clone() };
                self.record(placed, None).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            self.want(made.id, "removed").await?;
            self.erase(&made).await?;
            return Err(error);
        }
        result
    }

    /// Writes down what is wanted, before anything is done about it.
    async fn want(&self, id: i64, wanted: &'static str) -> Result<(), Error> {
        self.write(move |tx| {
            let change = ContainerChange { wanted: Some(wanted), ..ContainerChange::default() };
            Ok(tx.container_change(id, &change).map(drop)?)
        })
        .await
    }

    /// Has the engine do the run that is written down, and writes down what came of it.
    pub(crate) async fn run(&self, mut target: Container) -> Result<Container, Error> {
        let run = target.runs as u64;
        match self.inner.engine.start(&target.uid, run).await {
            Ok(()) => {
                let observed = self.inner.engine.observe(&target.uid).await?;
                target.observe(&observed.state);
                let ended = target.state == ContainerState::Exited;
                let exited = target.exit.clone();
                if ended {
                    // Short programs end before they are looked at: both things are told, in their order.
                    target.exit = None;
                    target = self.record(target, Some("container.started")).await?;
                    target.exit = exited;
                    return self.record(target.clone(), Some(target.ending())).await;
                }
                self.record(target, Some("container.started")).await
            }
            Err(error) => {
                let error = Error::from(error);
                target.error = Some(error.public());
                if let Ok(observed) = self.inner.engine.observe(&target.uid).await {
                    target.observe(&observed.state);
                }
                target.error = Some(error.public());
                // The client hears that it failed: it must not be started behind its back later.
                self.want(target.id, "stopped").await?;
                self.record(target, Some("container.failed")).await?;
                Err(error)
            }
        }
    }

    /// Writes down what is observed.
    pub(crate) async fn record(&self, target: Container, event: Option<&'static str>) -> Result<Container, Error> {
        let (target, event) = self
            .write(move |tx| {
                let change = ContainerChange {
                    state: Some(target.state.word()),
                    detail: Some(json(&target.detail())?),
                    ..ContainerChange::default()
                };
                if !tx.container_change(target.id, &change)? {
                    return Err(Error::NotFound { what: "container", name: target.name });
                }
                let told = event
                    .map(|kind| {
                        let exit = target.exit.as_ref();
                        let detail = serde_json::json!({
                            "name": target.name,
                            "exit_code": exit.map(|e| e.code),
                            "oom_killed": exit.map(|e| e.oom_killed),
                            "error": target.error,
                        });
                        tx.event_add(now(), target.account, kind, target.uid.as_str(), &detail.to_string())
                    })
                    .transpose()?;
                Ok((target, told))
            })
            .await?;
        self.tell(event.into_iter().collect());
        Ok(target)
    }

    /// Removes engine's and database's part, in this order: what the engine has is owned until the end.
    pub(crate) async fn erase(&self, target: &Container) -> Result<(), Error> {
        self.inner.engine.remove(&target.uid).await?;
        let (id, account, uid) = (target.id, target.account, target.uid.to_string());
        let name = target.name.clone();
        let event = self
            .write(move |tx| {
                tx.container_remove(id)?;
                let detail = serde_json::json!({ "name": name }).to_string();
                Ok(tx.event_add(now(), account, "container.removed", &uid, &detail)?)
            })
            .await?;
        self.tell(vec![event]);
        Ok(())
    }

    /// One container of the caller's account, by name, textual id or the beginning of one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] if the beginning fits several.
    pub async fn container(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        let (account, wanted) = (caller.account, reference.to_owned());
        let mut found = self.read(move |tx| Ok(tx.containers_by_reference(account, &wanted)?)).await?;
        found.retain(|row| row.wanted != "removed");
        if found.len() > 1 {
            return Err(Error::invalid(
                "container",
                format!("{reference:?} is the beginning of several containers' ids"),
            ));
        }
        let row = found.pop().ok_or_else(|| Error::NotFound { what: "container", name: reference.to_owned() })?;
        self.up_to_date(container(row)?).await
    }

    /// An end that the engine knows of and the record does not, for the moment until it is written down.
    async fn up_to_date(&self, mut known: Container) -> Result<Container, Error> {
        if known.state == ContainerState::Running {
            let observed = self.inner.engine.observe(&known.uid).await?;
            if matches!(observed.state, State::Exited(_)) {
                known.observe(&observed.state);
            }
        }
        Ok(known)
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
        rows.retain(|row| row.wanted != "removed");
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

    /// Starts it; one that runs stays as it is.
    ///
    /// # Errors
    /// That its program can't be run, with the reason.
    pub async fn container_start(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        self.start_locked(self.container(caller, found.uid.as_str()).await?).await
    }

    async fn start_locked(&self, mut target: Container) -> Result<Container, Error> {
        let observed = self.inner.engine.observe(&target.uid).await?;
        if matches!(observed.state, State::Running { .. }) {
            return Ok(target);
        }
        target.runs = target.runs.max(observed.run as i64) + 1;
        let (id, run) = (target.id, target.runs);
        self.write(move |tx| {
            let change = ContainerChange { wanted: Some("running"), run: Some(run), ..ContainerChange::default() };
            Ok(tx.container_change(id, &change)?)
        })
        .await?;
        match self.inner.engine.create(&target.spec).await {
            Ok(placement) => {
                target.address = placement.address;
                target.ports = placement.ports;
                self.run(target).await
            }
            Err(error) => {
                self.want(id, "stopped").await?;
                Err(error.into())
            }
        }
    }

    /// Stops it: signal, grace, kill. One that does not run stays as it is.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn container_stop(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
    ) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        self.stop_locked(self.container(caller, found.uid.as_str()).await?, grace).await
    }

    async fn stop_locked(&self, mut target: Container, grace: Option<Duration>) -> Result<Container, Error> {
        self.want(target.id, "stopped").await?;
        let id = target.id;
        let before = self.read(move |tx| Ok(tx.container(id)?)).await?.map(|row| ContainerState::of(&row.state));
        let stopped =
            self.inner.engine.stop(&target.uid, target.stop_signal, grace.unwrap_or(target.stop_timeout)).await;
        match stopped {
            // Never started, or lost with the host: there is nothing to stop.
            Err(berth_engine::EngineError::NoSuchUnit(_)) => {}
            other => other?,
        }
        let observed = self.inner.engine.observe(&target.uid).await?;
        target.observe(&observed.state);
        let event = (before == Some(ContainerState::Running)).then_some(target.ending());
        self.record(target, event).await
    }

    /// Stops and starts.
    ///
    /// # Errors
    /// As both.
    pub async fn container_restart(
        &self,
        caller: &Caller,
        reference: &str,
        grace: Option<Duration>,
    ) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let stopped = self.stop_locked(self.container(caller, found.uid.as_str()).await?, grace).await?;
        self.start_locked(stopped).await
    }

    /// Sends a signal, by name or number.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no signal, [`Error::WrongState`] if it does not run.
    pub async fn container_kill(&self, caller: &Caller, reference: &str, signal: &str) -> Result<(), Error> {
        let number =
            signal_number(signal).ok_or_else(|| Error::invalid("signal", format!("{signal:?} is not a signal")))?;
        let found = self.container(caller, reference).await?;
        Ok(self.inner.engine.signal(&found.uid, number).await?)
    }

    /// Removes it; one that runs only with `force`, which kills it.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it runs and `force` is not set.
    pub async fn container_remove(&self, caller: &Caller, reference: &str, force: bool) -> Result<(), Error> {
        let found = self.container(caller, reference).await?;
        if force {
            // Written down first: a crash from here on ends in the removal, never in a container that was merely killed.
            self.want(found.id, "removed").await?;
            if let Err(error) = self.inner.engine.signal(&found.uid, 9).await {
                // Not running is fine; a stop that waits out its grace must not hold up a removal by force.
                tracing::debug!(container = %found.uid, %error, "nothing to kill");
            }
        }
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let id = found.id;
        let row = self.read(move |tx| Ok(tx.container(id)?)).await?;
        if row.is_none_or(|row| !force && row.wanted == "removed") {
            return Err(Error::NotFound { what: "container", name: reference.to_owned() });
        }
        if !force {
            let observed = self.inner.engine.observe(&found.uid).await?;
            if matches!(observed.state, State::Running { .. }) {
                return Err(Error::WrongState(format!("container {} is running; stop it first, or force", found.name)));
            }
            self.want(id, "removed").await?;
        }
        self.erase(&found).await?;
        self.collect_layers_soon();
        Ok(())
    }

    /// In the background: the client need not wait for disk space.
    pub(crate) fn collect_layers_soon(&self) {
        let core = self.clone();
        tokio::spawn(async move {
            if let Err(error) = core.collect_layers().await {
                tracing::warn!(error = error.chain(), "layers that nothing uses could not be removed");
            }
        });
    }

    /// Returns when it is not running, with how it ended; at once if it does not run.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container, or it was removed meanwhile.
    pub async fn container_wait(&self, caller: &Caller, reference: &str) -> Result<Option<Exit>, Error> {
        let found = self.container(caller, reference).await?;
        let mut changes = self.inner.engine.changes();
        loop {
            let observed = self.inner.engine.observe(&found.uid).await?;
            match observed.state {
                State::Running { .. } => {}
                State::Exited(exit) => return Ok(Some(exit)),
                State::Created => return Ok(None),
                State::Absent => return Err(Error::NotFound { what: "container", name: reference.to_owned() }),
            }
            // A nudge, or a while: nudges may be missed when there are many.
            let _ = tokio::time::timeout(Duration::from_secs(5), async {
                while changes.recv().await.is_ok_and(|id| id != found.uid) {}
            })
            .await;
        }
    }

    /// What these containers use, as far as they run; all of the account's if none is named. Takes two readings, `between`
    /// apart, for the CPU.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that is named and is not there.
    pub async fn container_usage(
        &self,
        caller: &Caller,
        references: &[String],
        between: Duration,
    ) -> Result<Vec<Usage>, Error> {
        let mut all = Vec::new();
        if references.is_empty() {
            all = self.containers(caller, Some(ContainerState::Running), 0, 100_000).await?.items;
        } else {
            for reference in references {
                all.push(self.container(caller, reference).await?);
            }
        }
        let ids: Vec<UnitId> = all.iter().map(|c| c.uid.clone()).collect();
        let before: BTreeMap<UnitId, Stats> = self.inner.engine.stats(&ids).await?.into_iter().collect();
        tokio::time::sleep(between).await;
        let after = self.inner.engine.stats(&ids).await?;
        let machine = self.host().cpus as f64 * 1000.0;
        let usage = after.into_iter().filter_map(|(uid, stats)| {
            let container = all.iter().find(|c| c.uid == uid)?;
            let earlier = before.get(&uid)?;
            let elapsed = (stats.at - earlier.at).max(1) as f64;
            let cpus = stats.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / elapsed;
            let allowed = container.spec.cpu_milli.map_or(machine, |m| (m as f64).min(machine)) / 1000.0;
            Some(Usage {
                uid,
                name: container.name.clone(),
                stats,
                cpu_percent: cpus * 100.0,
                cpu_percent_of_limit: (cpus / allowed * 100.0).min(100.0),
                memory_percent: stats.memory as f64 / stats.memory_limit.max(1) as f64 * 100.0,
            })
        });
        Ok(usage.collect())
    }

    /// The container's output; with `follow` it goes on until the container has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the engine's own.
    pub async fn container_logs(
        &self,
        caller: &Caller,
        reference: &str,
        options: &LogOptions,
        follow: bool,
    ) -> Result<LogFollower, Error> {
        let found = self.container(caller, reference).await?;
        let reader = match self.inner.engine.logs(&found.uid, options).await {
            Err(berth_engine::EngineError::NoSuchUnit(_)) => None,
            other => Some(other?),
        };
        Ok(LogFollower { core: self.clone(), uid: found.uid, reader, follow, ended: false })
    }
}

/// Pieces of a container's output, as they come.
pub struct LogFollower {
    core: Core,
    uid: UnitId,
    reader: Option<Box<dyn LogReader>>,
    follow: bool,
    ended: bool,
}

impl std::fmt::Debug for LogFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFollower").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl LogFollower {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if let Some(line) = reader.next().await? {
                return Ok(Some(line));
            }
            if !self.follow || self.ended {
                return Ok(None);
            }
            let observed = self.core.inner.engine.observe(&self.uid).await?;
            // What was written before the end is read once more.
            self.ended = !matches!(observed.state, State::Running { .. });
            if !self.ended {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
