//! The engine's state, and the base of the trait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_engine::{
    Abilities, Changes, Engine, EngineError, Exit, HostFacts, LogOptions, LogReader, Observed, Placement, PortBinding,
    PortRequest, State, UnitId, UnitSpec,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cache::{Cache, INSTANCE, RECORD, Record, UNIT, Watched};
use crate::errors::{failed, is_conflict, is_not_found, is_there, patiently};
use crate::{logs, nodes, pods};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file with the cluster's address and credentials; `None` for the pod's own account within a cluster, or the user's file.
    pub kubeconfig: Option<PathBuf>,
    /// Where its objects are.
    pub namespace: String,
    /// The name of this installation: several may share a namespace. A label's value (at most 63 letters, digits, `-`, `_`, `.`).
    pub instance: String,
    /// First and last host port that accounts may publish; administrators may publish any.
    pub account_ports: (u16, u16),
    /// Host ports that one tenant may have in all; 0 for no bound.
    pub ports_of_tenant: usize,
    /// How long a container may take from its start until its program runs: scheduling, the image, the network.
    pub start_limit: Duration,
}

impl Options {
    /// Defaults for a namespace.
    pub fn new(namespace: impl Into<String>, instance: impl Into<String>) -> Self {
        let start_limit = Duration::from_secs(300);
        Self {
            kubeconfig: None,
            namespace: namespace.into(),
            instance: instance.into(),
            account_ports: (11_000, 29_999),
            ports_of_tenant: 4096,
            start_limit,
        }
    }
}

/// How long a list of all objects may take at the beginning.
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// How long an object that was written may take until the watch tells of it.
const SEEN_LIMIT: Duration = Duration::from_secs(30);
/// How long a pod that was deleted may be there.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How long no node may take a pod until that is a failure: another pod may be going.
const SCHEDULE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) pods: Api<Pod>,
    secrets: Api<Secret>,
    pub(crate) cache: Arc<Cache>,
    /// Held by whoever starts, stops or removes a container.
    busy: Mutex<HashMap<UnitId, Arc<tokio::sync::Mutex<()>>>>,
    /// Ports are given to one container at a time.
    creating: tokio::sync::Mutex<()>,
    watches: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watches.iter().for_each(JoinHandle::abort);
    }
}

/// Containers as pods of a cluster. Clones are the same engine.
#[derive(Clone)]
pub struct KubeEngine {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for KubeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeEngine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

async fn client(options: &Options) -> Result<Client, EngineError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| EngineError::Failed(format!("{what}: {error}"));
    let config = match &options.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|e| failed(&format!("read {}", path.display()), &e))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options).await.map_err(|e| failed(&path.display().to_string(), &e))?
        }
        None => Config::infer().await.map_err(|e| failed("find the cluster", &e))?,
    };
    Client::try_from(config).map_err(|e| failed("use the cluster's credentials", &e))
}

/// Follows a kind of object; returns when the first list is complete.
async fn follow<K>(
    cache: &Arc<Cache>,
    api: Api<K>,
    config: watcher::Config,
    watches: &mut Vec<JoinHandle<()>>,
) -> Result<(), EngineError>
where
    K: Watched + kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let (listed, mut is_listed) = watch::channel(false);
    let events = watcher(api, config).default_backoff();
    watches.push(tokio::spawn(cache.clone().follow(events, listed)));
    let ready = tokio::time::timeout(LIST_LIMIT, is_listed.wait_for(|listed| *listed)).await;
    match ready {
        Ok(Ok(_)) => Ok(()),
        _ => Err(EngineError::Timeout(format!("list the cluster's {}; the log has the reason", K::plural(&())))),
    }
}

impl KubeEngine {
    /// Reaches the cluster and learns what it has of this installation.
    ///
    /// # Errors
    /// That the cluster can't be found, does not answer, or does not let this account see pods, secrets and nodes.
    pub async fn open(options: Options) -> Result<Self, EngineError> {
        let client = client(&options).await?;
        client.apiserver_version().await.map_err(failed("reach the cluster"))?;
        let (cache, mut watches) = (Arc::new(Cache::default()), Vec::new());
        let pods: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &options.namespace);
        let own = || watcher::Config::default().labels(&format!("{INSTANCE}={},{UNIT}", options.instance));
        follow::<Node>(&cache, Api::all(client.clone()), watcher::Config::default(), &mut watches).await?;
        follow(&cache, secrets.clone(), own(), &mut watches).await?;
        follow(&cache, pods.clone(), own(), &mut watches).await?;
        let inner = Inner {
            options,
            pods,
            secrets,
            cache,
            busy: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
            watches,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn record(&self, id: &UnitId) -> Result<Record, EngineError> {
        self.inner.known_record(id)
    }

    /// The name of the last run's pod, which may be gone. That run may not be written down yet, or never was: a crash came between.
    pub(crate) fn last_pod(&self, id: &UnitId, record: &Record) -> String {
        let run = self.inner.cache.known().units.get(id).map_or(record.run, crate::cache::Unit::run);
        pods::pod_name(&record.spec, run)
    }

    /// The name of the pod of the run that goes on.
    pub(crate) fn running_pod(&self, id: &UnitId) -> Result<String, EngineError> {
        let record = self.record(id)?;
        let state = self.inner.cache.known().observed(id).state;
        match state {
            State::Running { .. } => Ok(self.last_pod(id, &record)),
            _ => Err(EngineError::NotRunning(id.clone())),
        }
    }
}

/// The one who starts, stops or removes a container now.
fn busy_of(inner: &Inner, id: &UnitId) -> Arc<tokio::sync::Mutex<()>> {
    let mut all = inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, busy| Arc::strong_count(busy) > 1);
    all.entry(id.clone()).or_default().clone()
}

fn secret_name(id: &UnitId) -> String {
    format!("berth-{id}")
}

/// A step that goes on although whoever asked for it has gone: half a start must not be left to nobody.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(EngineError::Failed(format!("a step was broken off: {error}"))))
}

/// Host ports for what was asked. A port is one container's, on whichever node it comes to be.
fn give(taken: &[PortBinding], asked: &[PortRequest], allowed: (u16, u16)) -> Result<Vec<PortBinding>, EngineError> {
    let mut given: Vec<PortBinding> = Vec::new();
    for asked in asked {
        let (first, last) = (asked.host_ports.0.max(allowed.0), asked.host_ports.1.min(allowed.1));
        if first > last {
            let (lowest, highest) = allowed;
            return Err(EngineError::Refused(format!(
                "on Kubernetes accounts publish host ports {lowest} to {highest}"
            )));
        }
        let is_free = |port: &u16| {
            let same = |p: &PortBinding| p.host_port == *port && p.protocol == asked.protocol;
            !taken.iter().chain(&given).any(same)
        };
        let host_port = (first..=last).find(is_free).ok_or(match first == last {
            true => EngineError::PortInUse(asked.protocol, first),
            false => EngineError::NoFreePort(first, last),
        })?;
        given.push(PortBinding {
            protocol: asked.protocol,
            host_ip: asked.host_ip,
            host_port,
            container_port: asked.container_port.unwrap_or(host_port),
        });
    }
    Ok(given)
}

impl Inner {
    fn secret(&self, record: &Record, version: Option<String>) -> Result<Secret, EngineError> {
        let content = serde_json::to_vec(record).map_err(|error| EngineError::Failed(error.to_string()))?;
        let text = json!({
            "metadata": {
                "name": secret_name(&record.spec.id),
                "labels": pods::labels(&record.spec, &self.options.instance, None),
                "resourceVersion": version,
            },
            "type": "berth.io/container",
        });
        let secret: Secret = serde_json::from_value(text).map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(Secret { data: Some([(RECORD.to_owned(), ByteString(content))].into()), ..secret })
    }

    /// Writes down what became of a container, over what was known of it.
    async fn note(&self, id: &UnitId, change: impl Fn(&mut Record)) -> Result<(), EngineError> {
        let name = secret_name(id);
        loop {
            let found = patiently(|| self.secrets.get(&name)).await.map_err(|error| match is_not_found(&error) {
                true => EngineError::NoSuchUnit(id.clone()),
                false => failed(format!("read secret {name}"))(error),
            })?;
            let content = found.data.as_ref().and_then(|data| data.get(RECORD));
            let content = content.ok_or_else(|| EngineError::Failed(format!("secret {name} has no {RECORD}")))?;
            let mut record: Record = serde_json::from_slice(&content.0)
                .map_err(|error| EngineError::Failed(format!("read secret {name}: {error}")))?;
            change(&mut record);
            let changed = self.secret(&record, found.resource_version())?;
            let params = PostParams::default();
            match patiently(|| self.secrets.replace(&name, &params, &changed)).await {
                // Changed by somebody since; what is to be noted is noted on top of that.
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(failed(format!("write secret {name}"))(error)),
                Ok(written) => {
                    self.cache.keep(written);
                    return Ok(());
                }
            }
        }
    }

    /// Deletes the pod of a run, and waits until its node has ended it; without the node, if that does not answer.
    async fn delete_pod(&self, id: &UnitId, run: u64, name: &str) -> Result<(), EngineError> {
        let gone = |known: &crate::cache::Known| {
            known.units.get(id).is_none_or(|unit| !unit.pods.contains_key(&run)).then_some(())
        };
        // With 0 it would be gone from the API before its processes are from the node.
        for grace in [1, 0] {
            let params = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
            match patiently(|| self.pods.delete(name, &params)).await {
                Err(error) if !is_not_found(&error) => return Err(failed(format!("delete pod {name}"))(error)),
                _ => {}
            }
            if self.cache.until(END_LIMIT, gone).await.is_some() {
                return Ok(());
            }
        }
        Err(EngineError::Timeout(format!("pod {name} was not deleted in time")))
    }

    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        let _one_at_a_time = self.creating.lock().await;
        let placement = |record: &Record| Placement { address: None, ports: record.ports.clone() };
        let (taken, of_tenant) = {
            let known = self.cache.known();
            if let Some(record) = known.units.get(&spec.id).and_then(|unit| unit.record.as_ref()) {
                return Ok(placement(record));
            }
            let records: Vec<&Record> = known.units.values().filter_map(|unit| unit.record.as_ref()).collect();
            let of_tenant = records.iter().filter(|record| record.spec.tenant == spec.tenant);
            let of_tenant: usize = of_tenant.map(|record| record.ports.len()).sum();
            (records.iter().flat_map(|record| record.ports.clone()).collect::<Vec<PortBinding>>(), of_tenant)
        };
        pods::check(spec)?;
        let most = self.options.ports_of_tenant;
        if most > 0 && of_tenant + spec.ports.len() > most {
            return Err(EngineError::NoRoom(format!("an account may have {most} ports of hosts")));
        }
        let allowed = if spec.host_network_trusted { (1, u16::MAX) } else { self.options.account_ports };
        let record = Record { spec: spec.clone(), ports: give(&taken, &spec.ports, allowed)?, run: 0, ended: None };
        let secret = self.secret(&record, None)?;
        let params = PostParams::default();
        match patiently(|| self.secrets.create(&params, &secret)).await {
            // An answer that was lost, and the request repeated.
            Err(error) if is_there(&error) => {
                let name = secret.name_any();
                let found = patiently(|| self.secrets.get(&name)).await;
                self.cache.keep(found.map_err(failed(format!("read secret {name}")))?);
            }
            Err(error) => return Err(failed(format!("make secret {}", secret.name_any()))(error)),
            Ok(made) => self.cache.keep(made),
        }
        self.known_record(&spec.id).map(|record| placement(&record))
    }

    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError> {
        let (record, owner, others, pending) = {
            let known = self.cache.known();
            let unit = known.units.get(id).filter(|unit| unit.record.is_some());
            let unit = unit.ok_or_else(|| EngineError::NoSuchUnit(id.clone()))?;
            let record = unit.record.clone().ok_or_else(|| EngineError::NoSuchUnit(id.clone()))?;
            let pending = unit.pods.get(&run).is_some_and(|pod| pods::state(pod).is_none());
            if !pending && (unit.run() >= run || matches!(known.observed(id).state, State::Running { .. })) {
                return Ok(());
            }
            let others: Vec<(u64, String)> = unit.pods.iter().map(|(run, pod)| (*run, pod.name_any())).collect();
            (record, unit.uid.clone().unwrap_or_default(), others, pending)
        };
        if pending {
            // An earlier server began it.
            return self.comes_up(id, run, &pods::pod_name(&record.spec, run)).await;
        }
        let before = self.cache.known().observed(id);
        let node =
            match record.spec.host.as_str() {
                "" => None,
                machine => {
                    let known = self.cache.known();
                    let found = pods::node_of(known.nodes.values().map(AsRef::as_ref), machine);
                    Some(found.ok_or_else(|| {
                        EngineError::NoRoom(format!("the cluster has no node with machine id {machine}"))
                    })?)
                }
            };
        if let (State::Exited(exit), None) = (before.state, &record.ended) {
            // How it ended goes with its pod.
            self.note(id, |record| (record.run, record.ended) = (before.run, Some(exit.clone()))).await?;
        }
        // They hold its ports; and with its next run a container's output begins anew.
        for (run, name) in others {
            self.delete_pod(id, run, &name).await?;
        }
        let owner = (self.options.instance.as_str(), owner.as_str());
        let pod = pods::pod(&record.spec, &record.ports, run, owner, node.as_deref())?;
        let params = PostParams::default();
        match patiently(|| self.pods.create(&params, &pod)).await {
            Err(error) if is_there(&error) => {}
            Err(error) => return Err(failed(format!("make pod {}", pod.name_any()))(error)),
            Ok(made) => self.cache.keep(made),
        }
        // Second, so that no run is written down that was never made.
        self.note(id, |record| (record.run, record.ended) = (run, None)).await?;
        self.comes_up(id, run, &pod.name_any()).await
    }

    /// Waits until the program of a run has begun.
    async fn comes_up(&self, id: &UnitId, run: u64, name: &str) -> Result<(), EngineError> {
        let seen = AtomicBool::new(false);
        let outcome = |known: &crate::cache::Known| {
            let Some(pod) = known.units.get(id).and_then(|unit| unit.pods.get(&run)) else {
                return seen
                    .load(Ordering::Relaxed)
                    .then(|| Err(EngineError::Failed(format!("pod {name} was deleted while it was started"))));
            };
            seen.store(true, Ordering::Relaxed);
            match pods::failure(pod) {
                Some(error) => Some(Err(error)),
                None => pods::state(pod).map(|_| Ok(())),
            }
        };
        let no_node = |known: &crate::cache::Known| pods::unschedulable(known.units.get(id)?.pods.get(&run)?);
        let first = self.cache.until(SCHEDULE_LIMIT, outcome).await;
        let begun = match first {
            Some(begun) => begun,
            None => match self.cache.until(Duration::ZERO, no_node).await {
                Some(why) => Err(EngineError::NoRoom(format!("no node takes it: {why}"))),
                None => {
                    let limit = self.options.start_limit.saturating_sub(SCHEDULE_LIMIT);
                    let timeout = || Err(EngineError::Timeout(format!("the start of pod {name}")));
                    self.cache.until(limit, outcome).await.unwrap_or_else(timeout)
                }
            },
        };
        if begun.is_err() {
            let exit = self.cache.known().observed(id).state;
            let exit = if let State::Exited(exit) = exit { exit } else { pods::unseen_end() };
            self.end_with(id, run, name, exit).await?;
        }
        begun
    }

    /// Writes down how a run ended, and deletes its pod.
    async fn end_with(&self, id: &UnitId, run: u64, name: &str, exit: Exit) -> Result<(), EngineError> {
        self.note(id, |record| (record.run, record.ended) = (run, Some(exit.clone()))).await?;
        self.delete_pod(id, run, name).await
    }

    async fn stop(&self, id: &UnitId, grace: Duration) -> Result<(), EngineError> {
        let record = self.known_record(id)?;
        let is_over =
            |known: &crate::cache::Known| (!matches!(known.observed(id).state, State::Running { .. })).then_some(());
        let (run, waits, over) = {
            let known = self.cache.known();
            let run = known.units.get(id).map_or(0, crate::cache::Unit::run);
            let pod = known.units.get(id).and_then(|unit| unit.pods.get(&run));
            (run, pod.is_some_and(|pod| pods::state(pod).is_none()), is_over(&known).is_some())
        };
        let name = pods::pod_name(&record.spec, run);
        if waits {
            // It has not run yet, and is not to.
            return self.end_with(id, run, &name, pods::unseen_end()).await;
        }
        if over {
            return Ok(());
        }
        if !grace.is_zero() {
            let deadline = Patch::Merge(json!({ "spec": { "activeDeadlineSeconds": 1 } }));
            let params = PatchParams::default();
            match patiently(|| self.pods.patch(&name, &params, &deadline)).await {
                Err(error) if !is_not_found(&error) => return Err(failed(format!("end pod {name}"))(error)),
                _ => {}
            }
            // The node looks at deadlines every second.
            if self.cache.until(grace + Duration::from_secs(2), is_over).await.is_some() {
                return Ok(());
            }
        }
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        self.end_with(id, run, &name, pods::killed(now)).await
    }

    async fn remove(&self, id: &UnitId) -> Result<(), EngineError> {
        let all: Vec<(u64, String)> = {
            let known = self.cache.known();
            let Some(unit) = known.units.get(id) else { return Ok(()) };
            unit.pods.iter().map(|(run, pod)| (*run, pod.name_any())).collect()
        };
        for (run, name) in all {
            self.delete_pod(id, run, &name).await?;
        }
        let name = secret_name(id);
        let params = DeleteParams::default();
        match patiently(|| self.secrets.delete(&name, &params)).await {
            Err(error) if !is_not_found(&error) => return Err(failed(format!("delete secret {name}"))(error)),
            _ => {}
        }
        let gone = |known: &crate::cache::Known| (!known.units.contains_key(id)).then_some(());
        let gone = self.cache.until(SEEN_LIMIT, gone).await;
        gone.ok_or_else(|| EngineError::Timeout(format!("the removal of {id}")))
    }

    fn known_record(&self, id: &UnitId) -> Result<Record, EngineError> {
        let known = self.cache.known();
        let record = known.units.get(id).and_then(|unit| unit.record.clone());
        record.ok_or_else(|| EngineError::NoSuchUnit(id.clone()))
    }
}

#[async_trait]
impl Engine for KubeEngine {
    fn abilities(&self) -> Abilities<'_> {
        Abilities { exec: Some(self), ..Abilities::default() }
    }

    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError> {
        Ok(self.inner.cache.known().nodes.values().filter_map(|node| nodes::facts(node)).collect())
    }

    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        let (inner, spec) = (self.inner.clone(), spec.clone());
        whole(async move { inner.create(&spec).await }).await
    }

    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError> {
        let (inner, id) = (self.inner.clone(), id.clone());
        whole(async move {
            let busy = busy_of(&inner, &id);
            let _busy = busy.lock().await;
            inner.cache.set_starting(&id, true);
            let started = inner.start(&id, run).await;
            inner.cache.set_starting(&id, false);
            started
        })
        .await
    }

    /// The signal is the image's own: the cluster's API knows no other.
    async fn stop(&self, id: &UnitId, signal: i32, grace: Duration) -> Result<(), EngineError> {
        let (inner, id) = (self.inner.clone(), id.clone());
        let grace = if signal == 9 { Duration::ZERO } else { grace };
        whole(async move {
            let busy = busy_of(&inner, &id);
            let _busy = busy.lock().await;
            inner.stop(&id, grace).await
        })
        .await
    }

    async fn remove(&self, id: &UnitId) -> Result<(), EngineError> {
        let (inner, id) = (self.inner.clone(), id.clone());
        whole(async move {
            let busy = busy_of(&inner, &id);
            let _busy = busy.lock().await;
            inner.remove(&id).await
        })
        .await
    }

    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError> {
        Ok(self.inner.cache.known().observed(id))
    }

    async fn observe_all(&self) -> Result<Vec<(UnitId, Observed)>, EngineError> {
        let known = self.inner.cache.known();
        let all = known.units.iter().filter(|(_, unit)| unit.record.is_some());
        Ok(all.map(|(id, _)| (id.clone(), known.observed(id))).collect())
    }

    async fn list(&self) -> Result<Vec<UnitId>, EngineError> {
        let known = self.inner.cache.known();
        Ok(known.units.iter().filter(|(_, unit)| unit.record.is_some()).map(|(id, _)| id.clone()).collect())
    }

    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError> {
        let record = self.record(id)?;
        let has_pod = self.inner.cache.known().units.get(id).is_some_and(|unit| unit.pods.contains_key(&unit.run()));
        let pod = has_pod.then(|| self.last_pod(id, &record));
        Ok(Box::new(logs::Reader::new(self.inner.pods.clone(), pod, options.clone())))
    }

    fn runtime(&self) -> String {
        format!("Kubernetes, namespace {}", self.inner.options.namespace)
    }

    fn changes(&self) -> Changes {
        self.inner.cache.changes()
    }
}
