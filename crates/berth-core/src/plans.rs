//! Plans: containers that are charged for. What a plan says is kept, checked and given back; what it comes to in money is
//! somebody else's.
//!
//! Everything that is done to such a container is a command, and how the container stands is a view of the newest of them.

pub(crate) mod settings;

use berth_operations::Domain as _;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use berth_engine::{PortProtocol, PortRequest};
use berth_image::{Digest, LayerFile, Pin, layer_of_files};
use serde::{Deserialize, Serialize};

pub use settings::{ImageNote, PlanSettings, PlanSpec};

use crate::containers::{Container, ContainerUpdate, NewContainer, container};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::operations::{ContainerCreate, ContainerDelete, ContainerPlan, ContainerRestart, target};
use crate::policies::RestartPolicy;
use berth_identity::Caller;
use berth_operations::{CommandStatus, Outcome};
use berth_types::now;

/// Port of a container's SSH server.
pub(crate) const SSH: u16 = 22;

/// How a container is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// As a package.
    Package,
    /// By what it uses.
    Use,
}

/// How its network is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkCharge {
    /// By bandwidth.
    Bandwidth,
    /// By traffic.
    Traffic,
}

/// A container's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How it is charged.
    pub charge: Charge,
    /// Number of its spec.
    pub spec: i64,
    /// Number of its image.
    pub image: i64,
    /// What its owner says about it.
    pub description: String,
    /// Numbers of the keys that may log in.
    pub ssh_keys: Vec<i64>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Whether its ports are published on the host.
    pub public: bool,
    /// How its network is charged.
    pub network_charge: Option<NetworkCharge>,
    /// Mbit/s in each direction; no bound if `None`.
    pub bandwidth: Option<i64>,
    /// Whether the server answers SSH for it, because its image has no server of its own; decided when it is made.
    #[serde(default)]
    pub ssh_by_us: bool,
}

/// A container to be made by a plan.
#[derive(Debug, Clone)]
pub struct NewPlanned {
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// Whether the image must be an official one, or one of the account's own.
    pub official: bool,
}

/// What is to be changed of a plan; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// See [`Plan::charge`].
    pub charge: Option<Charge>,
    /// See [`Plan::spec`].
    pub spec: Option<i64>,
    /// See [`Plan::description`].
    pub description: Option<String>,
    /// See [`Plan::network_charge`].
    pub network_charge: Option<NetworkCharge>,
    /// See [`Plan::bandwidth`].
    pub bandwidth: Option<i64>,
}

impl PlanChange {
    fn of(&self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        plan.charge = self.charge.unwrap_or(plan.charge);
        plan.spec = self.spec.unwrap_or(plan.spec);
        plan.description = self.description.clone().unwrap_or(plan.description);
        plan.network_charge = self.network_charge.or(plan.network_charge);
        plan.bandwidth = self.bandwidth.or(plan.bandwidth);
        plan
    }

    /// Whether it is another plan, and not only another detail of it.
    fn resizes(&self, plan: &Plan) -> bool {
        self.charge.is_some_and(|to| to != plan.charge) || self.spec.is_some_and(|to| to != plan.spec)
    }
}

/// What was done last to a container with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanOperation {
    /// It was made.
    Create,
    /// A detail of its plan was changed.
    Update,
    /// It got another plan.
    Resize,
    /// It is removed.
    Delete,
}

impl PlanOperation {
    const COMMANDS: [&'static str; 4] =
        ["container_create", "container_update", "container_resize", "container_delete"];

    fn of(command: &str) -> Self {
        match command {
            "container_update" => Self::Update,
            "container_resize" => Self::Resize,
            "container_delete" => Self::Delete,
            _ => Self::Create,
        }
    }
}

/// How far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanProgress {
    /// Under way.
    UnderWay,
    /// Done.
    Succeeded,
    /// It failed.
    Failed,
    /// Its time was up.
    TimedOut,
}

/// A container with its plan, and how it stands.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The container.
    pub container: Container,
    /// Its plan; made up for a container that was made without one.
    pub plan: Plan,
    /// What was done last.
    pub operation: PlanOperation,
    /// How far that is.
    pub progress: PlanProgress,
    /// When the plan was last changed, nanoseconds since 1970.
    pub updated_at: i64,
}

const MBIT: u64 = 1_000_000;

impl Plan {
    fn check(&self, settings: &PlanSettings) -> Result<PlanSpec, Error> {
        let spec = settings.specs.get(&self.spec.to_string()).copied();
        let spec = spec.ok_or_else(|| Error::NotFound { what: "spec", name: self.spec.to_string() })?;
        if self.bandwidth.is_some_and(|mbit| !(1..=100).contains(&mbit)) {
            let given = self.bandwidth.unwrap_or_default();
            return Err(Error::invalid(Field::Bandwidth, format!("1 to 100 (Mbit/s), not {given}")));
        }
        if self.description.len() > 4096 {
            return Err(Error::invalid(Field::Description, "at most 4096 bytes"));
        }
        let good = |key: &str| {
            key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if let Some(key) = self.env.keys().find(|key| !good(key)) {
            let rule = "letters, digits and '_', not beginning with a digit";
            return Err(Error::invalid(Field::EnvKey, format!("invalid variable name {key:?}: {rule}")));
        }
        let size: usize = self.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        if size > settings.env_max_bytes {
            let most = settings.env_max_bytes;
            return Err(Error::invalid(Field::EnvSize, format!("all variables take {size} bytes, {most} are allowed")));
        }
        Ok(spec)
    }

    /// Whether the image may be used with it.
    fn fits(&self, settings: &PlanSettings, names: &[String]) -> Result<(), Error> {
        for name in names {
            let Some(note) = settings.images.get(name) else { continue };
            let bounds = match self.charge {
                Charge::Package => note.packages,
                Charge::Use => note.specs,
            };
            if let Some((least, most)) = bounds
                && !(least..=most).contains(&self.spec)
            {
                let message = format!("image {name} is for specs {least} to {most}, not {}", self.spec);
                return Err(Error::invalid(Field::Plan, message));
            }
        }
        Ok(())
    }

    /// A plan that tells of a container which was made without one.
    fn of_container(c: &Container, image: i64, settings: &PlanSettings) -> Self {
        // The smallest spec that has room for it.
        let cpus = c.spec.cpu_milli.unwrap_or(0) as f64 / 1000.0;
        let memory = c.spec.memory.unwrap_or(0) >> 20;
        let mut specs: Vec<(i64, PlanSpec)> =
            settings.specs.iter().filter_map(|(n, s)| Some((n.parse().ok()?, *s))).collect();
        specs.sort_by_key(|(number, _)| *number);
        let fitting = specs.iter().find(|(_, s)| s.cpus >= cpus && s.memory_mib >= memory);
        let variable = |text: &String| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        let rate = c.spec.rates.egress.or(c.spec.rates.ingress);
        Self {
            charge: Charge::Use,
            spec: fitting.or(specs.last()).map_or(0, |(number, _)| *number),
            image,
            description: c.labels.get("description").cloned().unwrap_or_default(),
            ssh_keys: Vec::new(),
            env: c.spec.env.iter().filter_map(variable).collect(),
            public: !c.ports.is_empty(),
            network_charge: Some(NetworkCharge::Traffic),
            bandwidth: rate.map(|rate| i64::try_from(rate / MBIT).unwrap_or(i64::MAX)),
            ssh_by_us: false,
        }
    }
}

/// Keys that one container lets in.
const MOST_KEYS: usize = 64;

/// Whether a layer of the image brings an SSH server.
fn has_ssh_server(trees: &[PathBuf]) -> bool {
    const PROGRAMS: [&str; 5] =
        ["usr/sbin/sshd", "usr/bin/sshd", "sbin/sshd", "usr/sbin/dropbear", "usr/local/sbin/sshd"];
    trees.iter().filter_map(|tree| std::fs::File::open(tree).ok()).any(|root| {
        PROGRAMS
            .iter()
            .any(|program| berth_image::stat(root.as_fd(), Path::new(program)).is_ok_and(|s| s.kind == "file"))
    })
}

/// Keys that the image lets in already.
fn authorized(trees: &[PathBuf]) -> String {
    use std::io::Read;
    const PATH: &str = "root/.ssh/authorized_keys";
    const MOST: u64 = 64 << 10;
    for tree in trees.iter().rev() {
        let Ok(root) = std::fs::File::open(tree) else { continue };
        // Folders that this layer took away, or replaced whole, hide what is in those below.
        let stat = |path: &str| berth_image::stat(root.as_fd(), Path::new(path)).ok();
        let hidden = |path: &str| stat(path).is_some_and(|found| found.kind != "folder" || found.opaque);
        if stat(PATH).is_none() {
            if hidden("root") || hidden("root/.ssh") {
                return String::new();
            }
            continue;
        }
        let mut text = String::new();
        let opened = berth_image::open_file(root.as_fd(), Path::new(PATH));
        // What can't be read (a whiteout, no text) lets nobody in.
        let read = opened.and_then(|file| file.take(MOST).read_to_string(&mut text));
        return if read.is_ok() { text } else { String::new() };
    }
    String::new()
}

impl Core {
    /// The layer that lets these keys in, on top of these layers; and whether the image has an SSH server of its own.
    async fn ssh_layer(&self, layers: Vec<Digest>, keys: Vec<String>) -> Result<((String, Pin), bool), Error> {
        let images = self.inner.images.clone();
        let work = move || -> Result<_, Error> {
            let trees: Vec<PathBuf> = layers.iter().filter_map(|digest| images.tree(digest)).collect();
            let mut text = authorized(&trees);
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            for key in keys.iter().filter(|key| !text.contains(key.as_str())).collect::<Vec<_>>() {
                text.push_str(key);
                text.push('\n');
            }
            let files = [
                LayerFile { path: "root", mode: 0o700, content: None },
                LayerFile { path: "root/.ssh", mode: 0o700, content: None },
                LayerFile { path: "root/.ssh/authorized_keys", mode: 0o600, content: Some(text.as_bytes()) },
            ];
            let (layer, pin) = layer_of_files(&images, &files)?;
            Ok(((layer.digest.to_string(), pin), has_ssh_server(&trees)))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?
    }

    /// Makes a container by a plan: when this returns it is written down, with the command that brings it up.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the spec, the image or a key; [`Error::Invalid`], [`Error::Duplicate`], [`Error::Quota`].
    pub async fn planned_create(&self, caller: &Caller, new: NewPlanned) -> Result<Container, Error> {
        let all = self.settings();
        let settings = &all.plans;
        let NewPlanned { name, mut plan, official } = new;
        let mut named = std::collections::BTreeSet::new();
        plan.ssh_keys.retain(|id| named.insert(*id));
        if plan.ssh_keys.len() > MOST_KEYS {
            let given = plan.ssh_keys.len();
            return Err(Error::invalid(Field::SshKeys, format!("at most {MOST_KEYS}, not {given}")));
        }
        let spec = plan.check(settings)?;
        let (account, wanted, keys) = (caller.account, plan.image, plan.ssh_keys.clone());
        let (image, names, public_keys) = self
            .read(move |tx| {
                let gone = || Error::NotFound { what: "image", name: wanted.to_string() };
                let row = tx.image(wanted)?.ok_or_else(gone)?;
                // An official image that is the account's own is both.
                if if official { !row.shared } else { row.account_id != account } {
                    return Err(gone());
                }
                let names = tx.names_of_image(row.id)?;
                let mut lines = Vec::new();
                for id in keys {
                    let key = tx.ssh_key(account, id)?;
                    lines.push(key.ok_or_else(|| Error::NotFound { what: "ssh key", name: id.to_string() })?.public);
                }
                Ok((row, names, lines))
            })
            .await?;
        plan.fits(settings, &names)?;
        let unreadable = |e: serde_json::Error| Error::Bug(format!("image {}: {e}", image.id));
        let config: berth_image::ImageConfig = serde_json::from_str(&image.config).map_err(unreadable)?;
        let gate = self.inner.gate.read().await;
        let mut ssh = None;
        if !public_keys.is_empty() {
            let layers: Vec<Digest> = serde_json::from_str(&image.layers).map_err(unreadable)?;
            let (layer, own) = self.ssh_layer(layers, public_keys).await?;
            plan.ssh_by_us = !own;
            ssh = Some(layer);
        }
        let (layers, pin): (Vec<String>, Option<Pin>) = match ssh {
            Some((layer, pin)) => (vec![layer], Some(pin)),
            None => (Vec::new(), None),
        };
        let rate = plan.bandwidth.and_then(|mbit| u64::try_from(mbit).ok()).map(|mbit| mbit * MBIT);
        let asked = NewContainer {
            name: Some(name),
            image: names.first().cloned().unwrap_or_else(|| image.digest.clone()),
            image_number: Some(image.id),
            env: plan.env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            cpu_milli: Some((spec.cpus * 1000.0) as u64),
            memory: Some(spec.memory_mib << 20),
            ports: plan.ports(&config.config),
            ingress: rate,
            egress: rate,
            restart: RestartPolicy::Always,
            // A shell as the image's command waits for whoever comes, as on a machine of one's own.
            stdin: true,
            ..NewContainer::default()
        };
        let quota = settings.container_quota;
        let prepared = self.container_prepare(caller, asked).await?;
        let (core, caller_copy) = (self.clone(), *caller);
        let made = self
            .write(move |tx| {
                let has = u64::try_from(tx.container_count(account)?).unwrap_or(0);
                if quota > 0 && has >= quota {
                    return Err(Error::Quota(format!("the account may have {quota} containers, and has {has}")));
                }
                let (made, event) = core.container_add(tx, &caller_copy, prepared, layers, false, None)?;
                let operations = core.operations();
                let row = operations.row(
                    &core,
                    &caller_copy,
                    target::container(made.id),
                    &made.name,
                    ContainerCreate {}.into(),
                )?;
                let enqueued = operations.enqueue_in::<Self>(tx, row)?;
                let text = serde_json::to_string(&plan).map_err(|e| Error::Bug(e.to_string()))?;
                tx.plan_set(&berth_store::Plan { container_id: made.id, plan: text, updated_at: made.created_at })?;
                Ok((made, event, enqueued))
            })
            .await;
        drop((gate, pin));
        let (made, event, enqueued) = match made {
            Ok(made) => made,
            Err(error) => {
                self.collect_layers_soon();
                return Err(error);
            }
        };
        self.publish(vec![event]);
        self.operations().enqueue(self, enqueued);
        Ok(made)
    }

    /// Changes a plan: when this returns the change is checked and written down as a command.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`]; [`Error::WrongState`] while something else is being done to the container.
    pub async fn planned_change(&self, caller: &Caller, id: i64, change: PlanChange) -> Result<(), Error> {
        let found = self.planned(caller, id).await?;
        found.is_free()?;
        let all = self.settings();
        let settings = &all.plans;
        let plan = change.of(&found.plan);
        plan.check(settings)?;
        let image = plan.image;
        plan.fits(settings, &self.read(move |tx| Ok(tx.names_of_image(image)?)).await?)?;
        let resize = change.resizes(&found.plan);
        let body = ContainerPlan { change: Box::new(change), resize };
        self.submit(caller, target::container(id), found.container.name, body).await.map(drop)
    }

    /// Restarts it, by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] while something else is being done to the container.
    pub async fn planned_restart(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let found = self.planned(caller, id).await?;
        found.is_free()?;
        self.submit(caller, target::container(id), found.container.name, ContainerRestart {}).await.map(drop)
    }

    /// Removes it, by a command.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn planned_delete(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let found = self.container_by_number(caller, id).await?;
        self.submit(caller, target::container(id), found.name, ContainerDelete {}).await.map(drop)
    }

    /// One container with its plan.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn planned(&self, caller: &Caller, id: i64) -> Result<Planned, Error> {
        let found = self.container_by_number(caller, id).await?;
        let mut all = self.plans_of(vec![found]).await?;
        all.pop().ok_or_else(|| Error::NotFound { what: "container", name: id.to_string() })
    }

    /// A page of the account's containers by number, and how many there are.
    ///
    /// # Errors
    /// The database's own.
    pub async fn planned_page(&self, caller: &Caller, offset: i64, limit: i64) -> Result<(Vec<Planned>, i64), Error> {
        let account = caller.account;
        let (rows, total) = self
            .read(move |tx| Ok((tx.containers_page(account, offset, limit)?, tx.container_count(account)?)))
            .await?;
        let all = rows.into_iter().map(container).collect::<Result<Vec<_>, _>>()?;
        Ok((self.plans_of(all).await?, total))
    }

    async fn plans_of(&self, all: Vec<Container>) -> Result<Vec<Planned>, Error> {
        let core = self.clone();
        self.read(move |tx| {
            let mut planned = Vec::with_capacity(all.len());
            for found in all {
                let row = tx.plan(found.id)?;
                let updated_at = row.as_ref().map_or(found.created_at, |row| row.updated_at);
                let plan = match row {
                    Some(row) => serde_json::from_str(&row.plan)
                        .map_err(|e| Error::Bug(format!("plan of container {}: {e}", found.id)))?,
                    None => {
                        let hex = found.image_digest.trim_start_matches("sha256:");
                        let own = tx.images_by_digest(found.account, hex)?.first().map(|row| row.id);
                        let shared = || -> Result<_, Error> {
                            let all = tx.images_shared()?;
                            Ok(all.into_iter().find(|row| row.digest == found.image_digest).map(|row| row.id))
                        };
                        let image = if hex.is_empty() { None } else { own.map_or_else(shared, |id| Ok(Some(id)))? };
                        Plan::of_container(&found, image.unwrap_or(0), &core.settings().plans)
                    }
                };
                let newest = tx.command_newest("container", found.id, PlanOperation::COMMANDS)?;
                let (operation, progress) = match newest {
                    Some(row) => {
                        let progress = match (CommandStatus::of(&row.status), Outcome::of(&row.result)) {
                            (CommandStatus::Done, Some(Outcome::Success)) => PlanProgress::Succeeded,
                            (CommandStatus::Done, Some(Outcome::TimedOut)) => PlanProgress::TimedOut,
                            (CommandStatus::Done | CommandStatus::PublishFailed, _) => PlanProgress::Failed,
                            _ => PlanProgress::UnderWay,
                        };
                        (PlanOperation::of(&row.name), progress)
                    }
                    // Made without a command, or so long ago that it is forgotten.
                    None if found.error.is_some() && !found.state.is_live() => {
                        (PlanOperation::Create, PlanProgress::Failed)
                    }
                    None => (PlanOperation::Create, PlanProgress::Succeeded),
                };
                planned.push(Planned { container: found, plan, operation, progress, updated_at });
            }
            Ok(planned)
        })
        .await
    }

    /// A command's step: has the container be as its changed plan says. May be done twice.
    pub(crate) async fn plan_apply(&self, caller: &Caller, id: i64, change: &PlanChange) -> Result<(), Error> {
        let found = self.planned(caller, id).await?;
        let plan = change.of(&found.plan);
        let spec = plan.check(&self.settings().plans)?;
        let mut update = ContainerUpdate::default();
        if change.spec.is_some() {
            update.cpu_milli = Some(Some((spec.cpus * 1000.0) as u64));
            update.memory = Some(Some(spec.memory_mib << 20));
        }
        if let Some(mbit) = change.bandwidth.and_then(|mbit| u64::try_from(mbit).ok()) {
            update.ingress = Some(Some(mbit * MBIT));
            update.egress = Some(Some(mbit * MBIT));
        }
        if update != ContainerUpdate::default() {
            self.container_update(caller, found.container.uid.as_str(), update).await?;
        }
        let text = serde_json::to_string(&plan).map_err(|e| Error::Bug(e.to_string()))?;
        let row = berth_store::Plan { container_id: id, plan: text, updated_at: now() };
        self.write(move |tx| Ok(tx.plan_set(&row)?)).await
    }

    /// The address by which the host is reached from outside, where it is known.
    pub fn public_address(&self) -> Option<Ipv4Addr> {
        self.settings().public_address
    }
}

impl Planned {
    fn is_free(&self) -> Result<(), Error> {
        if self.operation == PlanOperation::Create && self.progress == PlanProgress::Failed {
            let name = &self.container.name;
            return Err(Error::WrongState(format!("container {name} could not be made; it can only be deleted")));
        }
        if self.progress == PlanProgress::UnderWay {
            let name = &self.container.name;
            return Err(Error::WrongState(format!("another operation on container {name} is in progress")));
        }
        Ok(())
    }
}

impl Plan {
    /// What of the image's ports is published, and SSH for those who have keys: without a public network for the host only.
    fn ports(&self, image: &berth_image::Config) -> Vec<PortRequest> {
        let port = |number: u16, protocol, host_ip| PortRequest {
            protocol,
            host_ip,
            host_ports: (0, 0),
            container_port: Some(number),
        };
        let mut all = Vec::new();
        if self.public {
            for text in image.exposed_ports.keys() {
                let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
                let protocol = if protocol == "udp" { PortProtocol::Udp } else { PortProtocol::Tcp };
                if let Some(number) = number.parse().ok().filter(|n| *n > 0) {
                    all.push(port(number, protocol, None));
                }
            }
        }
        let ssh_published = all.iter().any(|p| p.container_port == Some(SSH) && p.protocol == PortProtocol::Tcp);
        if !self.ssh_keys.is_empty() && !ssh_published {
            all.push(port(SSH, PortProtocol::Tcp, (!self.public).then_some(Ipv4Addr::LOCALHOST)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{Charge, ImageNote, NetworkCharge, Plan, PlanChange, PlanSettings};

    fn plan() -> Plan {
        Plan {
            charge: Charge::Use,
            spec: 10,
            image: 1,
            description: String::new(),
            ssh_keys: vec![1],
            env: [("KEY".to_owned(), "value".to_owned())].into(),
            public: true,
            network_charge: Some(NetworkCharge::Bandwidth),
            bandwidth: Some(100),
            ssh_by_us: false,
        }
    }

    #[test]
    fn plans_are_checked() {
        let mut settings = PlanSettings::default();
        let wrong = |plan: &Plan, settings: &PlanSettings| plan.check(settings).expect_err("refused").to_string();
        assert!(plan().check(&settings).is_ok_and(|spec| spec.memory_mib == 1024));
        assert!(wrong(&Plan { spec: 2, ..plan() }, &settings).contains("spec"));
        for bandwidth in [0, -1, 101] {
            assert!(wrong(&Plan { bandwidth: Some(bandwidth), ..plan() }, &settings).contains("bandwidth"));
        }
        for key in ["", "1a", "a-b", "a=b", "变量"] {
            let env = [(key.to_owned(), String::new())].into();
            assert!(wrong(&Plan { env, ..plan() }, &settings).starts_with("env: invalid"), "{key}");
        }
        let env = [("A".to_owned(), "x".repeat(33 << 10))].into();
        assert!(wrong(&Plan { env, ..plan() }, &settings).starts_with("env: all"));
        let note = ImageNote { packages: Some((20, 50)), specs: Some((10, 40)), ..ImageNote::default() };
        settings.images.insert("centos:latest".into(), note);
        let names = ["centos:latest".to_owned()];
        assert!(plan().fits(&settings, &names).is_ok());
        assert!(Plan { charge: Charge::Package, ..plan() }.fits(&settings, &names).is_err());
        assert!(Plan { spec: 50, ..plan() }.fits(&settings, &names).is_err());
        assert!(Plan { spec: 50, ..plan() }.fits(&settings, &["other:1".to_owned()]).is_ok());
    }

    #[test]
    fn ports_are_the_images_and_ssh_once() {
        let config = |ports: &[&str]| berth_image::Config {
            exposed_ports: ports.iter().map(|p| ((*p).to_owned(), serde_json::json!({}))).collect(),
            ..Default::default()
        };
        let inside = |plan: &Plan, ports: &[&str]| {
            plan.ports(&config(ports)).iter().map(|p| (p.container_port, p.host_ip.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(inside(&plan(), &["80/tcp", "22/tcp"]), [(Some(22), false), (Some(80), false)]);
        assert_eq!(inside(&plan(), &["53/udp", "x"]), [(Some(53), false), (Some(22), false)]);
        assert_eq!(inside(&Plan { public: false, ..plan() }, &["80/tcp"]), [(Some(22), true)], "for the host only");
        assert_eq!(inside(&Plan { ssh_keys: vec![], public: false, ..plan() }, &["80/tcp"]), []);
    }

    #[test]
    fn a_change_of_charge_or_spec_is_another_plan() {
        let change = PlanChange { bandwidth: Some(10), description: Some("d".into()), ..PlanChange::default() };
        assert!(!change.resizes(&plan()));
        let changed = change.of(&plan());
        assert_eq!((changed.bandwidth, changed.description.as_str(), changed.spec), (Some(10), "d", 10));
        assert!(PlanChange { spec: Some(20), ..PlanChange::default() }.resizes(&plan()));
        assert!(PlanChange { charge: Some(Charge::Package), ..PlanChange::default() }.resizes(&plan()));
        assert!(!PlanChange { charge: Some(Charge::Use), spec: Some(10), ..PlanChange::default() }.resizes(&plan()));
    }
}
