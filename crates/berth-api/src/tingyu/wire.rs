//! The shapes of requests and answers, as documented.

use berth_core::{Command, CommandStatus, Container, ContainerState, Core, Deployment, DeploymentSpec, Host, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Error;
use crate::http::local_time;

/// `{"msg": "success", "code": 200, "data": …}`.
#[derive(Debug, Serialize)]
pub(super) struct Answer<T> {
    msg: &'static str,
    code: u16,
    data: T,
}

impl<T> Answer<T> {
    pub(super) fn of(data: T) -> Self {
        Self { msg: "success", code: 200, data }
    }
}

/// The same with `info`.
#[derive(Debug, Serialize)]
pub(super) struct Info<T> {
    msg: &'static str,
    code: u16,
    info: T,
    /// Mbit/s that are billed; with bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    p95: Option<f64>,
}

impl<T> Info<T> {
    pub(super) fn of(info: T, p95: Option<f64>) -> Self {
        Self { msg: "success", code: 200, info, p95 }
    }
}

/// What is said of something that was done.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    pub(super) msg: &'static str,
    pub(super) code: u16,
}

impl Done {
    pub(super) fn said(msg: &'static str) -> Self {
        Self { msg, code: 200 }
    }
}

/// `tingyu-` and the machine's id.
pub(super) fn uuid(id: &str) -> String {
    format!("tingyu-{id}")
}

/// One item of a batch.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    code: u16,
    deploymentname: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobid: Option<String>,
}

impl Item {
    pub(super) fn accepted(name: String, job: String) -> Self {
        Self { code: 200, deploymentname: name, message: "success".into(), jobid: Some(job) }
    }

    pub(super) fn failed(name: String, message: impl Into<String>) -> Self {
        Self { code: 500, deploymentname: name, message: message.into(), jobid: None }
    }
}

/// A deployment that is asked for. Numbers may be text; what is empty is not there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pub(super) uuid: Value,
    image: Value,
    imageversion: Value,
    deploymentname: Value,
    env: Value,
    volumes: Value,
    requestscpu: Value,
    requestsmemory: Value,
    limitscpu: Value,
    limitsmemory: Value,
}

/// Text, which may be a number; none where there is nothing or only blanks.
pub(super) fn text(value: &Value, name: &str) -> Result<Option<String>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.trim().to_owned())),
        Value::Number(number) => Ok(Some(number.to_string())),
        other => Err(Error::out_of_bounds(name, &format!("收到:{}", crate::http::kind_of(other)))),
    }
}

fn number(value: &Value, name: &str) -> Result<f64, Error> {
    let wrong = |found: String| Error::out_of_bounds(name, &format!("收到:{found}"));
    match value {
        Value::Null => Ok(0.0),
        Value::Number(number) => number.as_f64().filter(|n| *n >= 0.0).ok_or_else(|| wrong(number.to_string())),
        Value::String(text) if text.trim().is_empty() => Ok(0.0),
        Value::String(text) => {
            let number = text.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
            number.ok_or_else(|| wrong(text.chars().take(100).collect()))
        }
        other => Err(wrong(crate::http::kind_of(other).to_owned())),
    }
}

fn pairs(value: &Value, name: &str, keys: [&str; 2]) -> Result<Vec<(String, String)>, Error> {
    let all = match value {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        Value::Array(all) => all,
        _ => return Err(Error::invalid(name)),
    };
    let half = |item: &Value, key: &str| match &item[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null if key == "value" => Ok(String::new()),
        _ => Err(Error::invalid(&format!("{name}.{key}"))),
    };
    all.iter().map(|item| Ok((half(item, keys[0])?, half(item, keys[1])?))).collect()
}

impl Asked {
    pub(super) fn name(&self) -> String {
        text(&self.deploymentname, "deploymentname").ok().flatten().unwrap_or_default()
    }

    /// What is asked for, or what is wrong with it.
    pub(super) fn spec(&self) -> Result<DeploymentSpec, Error> {
        let whole = |value: &Value, name: &str| Ok::<u64, Error>(number(value, name)?.ceil() as u64);
        let image = text(&self.image, "image")?.ok_or_else(|| Error::missing("image"))?;
        // A name with a tag or digest of its own needs no other version.
        let has_version = image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let version = match text(&self.imageversion, "imageversion")? {
            None if !has_version => return Err(Error::missing("imageversion")),
            version => version.unwrap_or_default(),
        };
        Ok(DeploymentSpec {
            image,
            version,
            env: pairs(&self.env, "env", ["key", "value"])?,
            volumes: pairs(&self.volumes, "volumes", ["hostPath", "mountPath"])?,
            requests_cpu: number(&self.requestscpu, "requestscpu")?,
            requests_memory: whole(&self.requestsmemory, "requestsmemory")?,
            limits_cpu: number(&self.limitscpu, "limitscpu")?,
            limits_memory: whole(&self.limitsmemory, "limitsmemory")?,
        }
        .normalized())
    }
}

/// A deployment's configuration.
#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    image: String,
    restart: &'static str,
    name: String,
    volumes: Vec<Volume>,
    env: Vec<Variable>,
    network: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    mount_path: String,
    host_path: String,
}

#[derive(Debug, Serialize)]
struct Variable {
    value: String,
    key: String,
}

impl Configuration {
    pub(super) fn of(found: Deployment) -> Self {
        use berth_core::RestartPolicy;
        let image = found.spec.full_image();
        let (volumes, env) = (found.spec.volumes.into_iter(), found.spec.env.into_iter());
        Self {
            image,
            restart: match found.container.restart {
                RestartPolicy::Always | RestartPolicy::UnlessStopped => "Always",
                RestartPolicy::OnFailure(_) => "OnFailure",
                RestartPolicy::No => "Never",
            },
            name: found.container.name,
            volumes: volumes.map(|(host_path, mount_path)| Volume { mount_path, host_path }).collect(),
            env: env.map(|(key, value)| Variable { value, key }).collect(),
            network: match found.container.spec.network {
                berth_engine::NetworkMode::Host => "host",
                berth_engine::NetworkMode::Bridge => "bridge",
                berth_engine::NetworkMode::None => "none",
            },
        }
    }
}

/// One of several that were asked for by name.
#[derive(Debug, Serialize)]
pub(super) struct Named<T> {
    code: u16,
    data: T,
    message: String,
}

/// All that there is of a name that is nobody's.
#[derive(Debug, Serialize)]
pub(super) struct JustName {
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Found<T> {
    One(Named<T>),
    None(Named<JustName>),
}

impl<T> Found<T> {
    pub(super) fn one(data: T) -> Self {
        Self::One(Named { code: 200, data, message: "success".into() })
    }

    pub(super) fn none(name: String) -> Self {
        Self::None(Named { code: 500, message: not_found(&name), data: JustName { name } })
    }
}

pub(super) fn not_found(name: &str) -> String {
    format!("deployments.apps \"{name}\" not found")
}

/// How a deployment does.
#[derive(Debug, Serialize)]
pub(super) struct State {
    createtime: String,
    podinfo: Vec<Pod>,
    deploymentname: String,
}

#[derive(Debug, Serialize)]
struct Pod {
    podname: String,
    podstate: &'static str,
}

/// The name, and what tells one start from another.
pub(super) fn pod_name(c: &Container) -> String {
    // As long as the platform's own: ten and five letters and digits.
    let suffix = format!("{:05x}", (c.id.unsigned_abs() * 7919 + c.runs.unsigned_abs() * 104_729) & 0xf_ffff);
    format!("{}-{:.10}-{suffix}", c.name, c.uid.as_str())
}

impl State {
    pub(super) fn of(core: &Core, c: Container) -> Self {
        let podstate = match c.state {
            ContainerState::Running | ContainerState::Paused => "Running",
            ContainerState::Created if c.error.is_some() => "Failed",
            ContainerState::Created => "Pending",
            ContainerState::Exited if c.next_start.is_some() => "Pending",
            ContainerState::Exited => match &c.exit {
                Some(exit) if exit.code == 0 => "Succeeded",
                Some(_) => "Failed",
                None => "Unknown",
            },
        };
        let podinfo = vec![Pod { podname: pod_name(&c), podstate }];
        let createtime = local_time(c.created_at, &core.settings().time_zone);
        Self { createtime, podinfo, deploymentname: c.name }
    }
}

/// How far a job is.
#[derive(Debug, Serialize)]
pub(super) struct Task {
    deploymentname: String,
    state: u8,
    uuid: String,
    deviceid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// 0 created, 1 published to the host, 2 running, 3 done, 4 failed.
pub(super) fn job_state(command: &Command) -> u8 {
    match (command.status, command.result) {
        (CommandStatus::Created, _) => 0,
        (CommandStatus::Published, _) => 1,
        (CommandStatus::Running, _) => 2,
        (CommandStatus::Done, Some(Outcome::Success)) => 3,
        (CommandStatus::Done | CommandStatus::PublishFailed, _) => 4,
    }
}

impl Task {
    /// There is no such job.
    pub(super) fn unknown(id: &str) -> Self {
        let message = Some(format!("任务{id}不存在!"));
        Self { deploymentname: String::new(), state: 4, uuid: String::new(), deviceid: String::new(), message }
    }

    /// `hosts` are all hosts.
    pub(super) fn of(command: Command, hosts: &[Host]) -> Self {
        let state = job_state(&command);
        let host = command.host.as_deref().and_then(|id| hosts.iter().find(|host| host.facts.id == id));
        Self {
            state,
            // What has changed nothing says so.
            message: Some(command.message)
                .filter(|message| state == 4 || state == 3 && message == "unchanged")
                .map(|message| berth_types::in_chinese(&message).unwrap_or(message)),
            uuid: host.map(|host| host.name.clone()).unwrap_or_default(),
            deviceid: command.host.as_deref().map(uuid).unwrap_or_default(),
            deploymentname: command.target_name,
        }
    }
}

/// A node, as one alone is shown.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    area: String,
    nodename: String,
    bandwith: i64,
    eth: String,
    operatingsystem: String,
    osimage: String,
    uuid: String,
    diskinfo: String,
    operator: String,
    architecture: String,
    kernelversion: String,
}

/// A node, as all are shown.
#[derive(Debug, Serialize)]
pub(super) struct ListedNode {
    area: String,
    createtime: String,
    memory: u64,
    address: String,
    bandwith: i64,
    operatingsystem: String,
    cpu: u64,
    uuid: String,
    operator: String,
    kernelversion: String,
    nodename: String,
    eth: String,
    systemos: String,
    osimage: String,
    diskinfo: String,
    heartbeattime: String,
    status: &'static str,
    architecture: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Eth<'a> {
    name: &'a str,
    #[serde(rename = "IP")]
    address: &'a str,
    #[serde(rename = "Type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Disk<'a> {
    name: &'a str,
    size: u64,
    r#use: u64,
}

fn interfaces(host: &Host) -> String {
    let eth = |i| {
        let i: &berth_engine::InterfaceFacts = i;
        Eth { name: &i.name, address: &i.address, kind: if i.real { "real" } else { "virt" } }
    };
    serde_json::to_string(&host.facts.interfaces.iter().map(eth).collect::<Vec<_>>()).unwrap_or_default()
}

fn disks(host: &Host) -> String {
    let disk = |d| {
        let d: &berth_engine::DiskFacts = d;
        Disk { name: &d.path, size: d.size >> 30, r#use: d.used >> 30 }
    };
    serde_json::to_string(&host.facts.disks.iter().map(disk).collect::<Vec<_>>()).unwrap_or_default()
}

impl Node {
    pub(super) fn of(host: Host) -> Self {
        Self {
            eth: interfaces(&host),
            diskinfo: disks(&host),
            area: host.area,
            nodename: host.name,
            bandwith: host.bandwidth_mbit,
            operatingsystem: host.facts.system,
            osimage: host.facts.distribution,
            uuid: uuid(&host.facts.id),
            operator: host.operator,
            architecture: host.facts.architecture,
            kernelversion: host.facts.kernel,
        }
    }
}

impl ListedNode {
    pub(super) fn of(core: &Core, host: Host) -> Self {
        let settings = core.settings();
        let zone = &settings.time_zone;
        Self {
            eth: interfaces(&host),
            diskinfo: disks(&host),
            createtime: local_time(host.created_at, zone),
            heartbeattime: local_time(host.heartbeat_at, zone),
            status: if host.ready { "Ready" } else { "NotReady" },
            area: host.area,
            memory: host.facts.memory >> 20,
            // The platform shows the node's name here, too.
            address: host.name.clone(),
            bandwith: host.bandwidth_mbit,
            operatingsystem: host.facts.system,
            cpu: host.facts.cpus,
            uuid: uuid(&host.facts.id),
            operator: host.operator,
            kernelversion: host.facts.kernel,
            nodename: host.name,
            systemos: host.facts.distribution.clone(),
            osimage: host.facts.distribution,
            architecture: host.facts.architecture,
        }
    }
}

/// What came and went in five minutes, Mbit/s. `K` is the name of what it is of.
#[derive(Debug, Serialize)]
pub(super) struct Bandwidth {
    pub(super) time: String,
    #[serde(flatten)]
    pub(super) of: Of,
    pub(super) up: f64,
    pub(super) down: f64,
}

/// What was used in five minutes.
#[derive(Debug, Serialize)]
pub(super) struct Used {
    pub(super) time: String,
    #[serde(flatten)]
    pub(super) of: Of,
    /// Cores.
    pub(super) cpu: f64,
    /// MB.
    pub(super) memory: f64,
    /// MB.
    pub(super) disk: f64,
    pub(super) containers: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Of {
    Nodename(String),
    Image(String),
    ImageVersion(String),
}

pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
