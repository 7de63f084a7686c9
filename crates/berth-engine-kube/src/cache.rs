//! What is known of the cluster: fed by watches, read by everybody.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_engine::{Exit, Observed, PortBinding, State, UnitId, UnitSpec};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::pods;

/// Label of all that is this engine's, with the name of the installation.
pub(crate) const INSTANCE: &str = "berth.io/instance";
/// Label with the container's id.
pub(crate) const UNIT: &str = "berth.io/unit";
/// Label of a pod with the number of the run.
pub(crate) const RUN: &str = "berth.io/run";
/// Key of a Secret's data.
pub(crate) const RECORD: &str = "unit.json";

/// What is kept of a container, in its Secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: UnitSpec,
    pub(crate) ports: Vec<PortBinding>,
    /// The last run that was begun; 0 before the first. Its pod is made before this is written.
    pub(crate) run: u64,
    /// How that ended, written down before its pod is deleted.
    #[serde(default)]
    pub(crate) ended: Option<Exit>,
}

/// A container.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    pub(crate) record: Option<Record>,
    /// Version of the Secret that the record was read from.
    pub(crate) version: Option<String>,
    /// For pods' owner references.
    pub(crate) uid: Option<String>,
    /// Pods by run.
    pub(crate) pods: BTreeMap<u64, Arc<Pod>>,
}

impl Unit {
    /// The last run that was begun: its pod is made before it is written down.
    pub(crate) fn run(&self) -> u64 {
        let noted = self.record.as_ref().map_or(0, |record| record.run);
        self.pods.keys().next_back().map_or(noted, |run| noted.max(*run))
    }
}

/// Whether a version of an object came before another one. They are numbers of one sequence.
fn is_older(version: Option<&str>, than: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
    matches!((number(version), number(than)), (Some(version), Some(than)) if version < than)
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) units: BTreeMap<UnitId, Unit>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    /// Those that are being started: the pod of the run before is deleted, and the next one is not there yet.
    pub(crate) starting: HashSet<UnitId>,
}

impl Known {
    /// Forgets containers of which nothing is left.
    fn forget_empty(&mut self) {
        self.units.retain(|_, unit| unit.record.is_some() || !unit.pods.is_empty());
    }

    /// The state of a container.
    pub(crate) fn observed(&self, id: &UnitId) -> Observed {
        let Some(unit) = self.units.get(id) else { return Observed::new(State::Absent, 0) };
        let Some(record) = &unit.record else { return Observed::new(State::Absent, 0) };
        let run = unit.run();
        if run == 0 {
            return Observed::new(State::Created, 0);
        }
        let pod = unit.pods.get(&run);
        let ended = record.ended.as_ref().filter(|_| record.run == run);
        let state = match (pod.and_then(|pod| pods::state(pod)), ended) {
            (Some(state), _) => state,
            (None, Some(exit)) => State::Exited(exit.clone()),
            // Its pod waits for its image, or is not made yet.
            (None, None) if pod.is_some() || self.starting.contains(id) => State::Created,
            // Somebody deleted its pod, or its node has gone: nobody saw the end.
            (None, None) => State::Exited(pods::unseen_end()),
        };
        Observed::new(state, run)
    }
}

/// The cache and its change notifications.
#[derive(Debug)]
pub(crate) struct Cache {
    known: Mutex<Known>,
    /// Changes with every event.
    news: watch::Sender<u64>,
    changes: broadcast::Sender<UnitId>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { known: Mutex::default(), news: watch::channel(0).0, changes: broadcast::channel(4096).0 }
    }
}

/// A kind of object that is watched.
pub(crate) trait Watched: Send + Sized + 'static {
    /// Puts it there; the container that it is about.
    fn put(self, known: &mut Known) -> Option<UnitId>;

    /// Takes it out.
    fn take(self, known: &mut Known) -> Option<UnitId>;

    /// Takes all of the kind out that are not among those of a new list.
    fn retain(listed: &[Self], known: &mut Known) -> Vec<UnitId>;
}

fn unit_of(labels: &BTreeMap<String, String>) -> Option<UnitId> {
    labels.get(UNIT)?.parse().ok()
}

impl Watched for Secret {
    fn put(self, known: &mut Known) -> Option<UnitId> {
        let id = unit_of(self.labels())?;
        let bytes = self.data.as_ref()?.get(RECORD)?;
        match serde_json::from_slice(&bytes.0) {
            Ok(record) => {
                let unit = known.units.entry(id.clone()).or_default();
                // The watch tells of what was written by this server, too, and later.
                if is_older(self.metadata.resource_version.as_deref(), unit.version.as_deref()) {
                    return Some(id);
                }
                unit.record = Some(record);
                unit.version = self.resource_version();
                unit.uid = self.uid();
            }
            Err(error) => tracing::error!(container = %id, %error, "its Secret can't be read; it is left alone"),
        }
        Some(id)
    }

    fn take(self, known: &mut Known) -> Option<UnitId> {
        let id = unit_of(self.labels())?;
        let unit = known.units.get_mut(&id)?;
        (unit.record, unit.version, unit.uid) = (None, None, None);
        if unit.pods.is_empty() {
            known.units.remove(&id);
        }
        Some(id)
    }

    fn retain(listed: &[Self], known: &mut Known) -> Vec<UnitId> {
        let there: HashSet<UnitId> = listed.iter().filter_map(|secret| unit_of(secret.labels())).collect();
        let gone = known.units.iter().filter(|(id, unit)| unit.record.is_some() && !there.contains(*id));
        let gone: Vec<UnitId> = gone.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            if let Some(unit) = known.units.get_mut(id) {
                (unit.record, unit.version, unit.uid) = (None, None, None);
            }
        }
        known.forget_empty();
        gone
    }
}

fn run_of(pod: &Pod) -> Option<(UnitId, u64)> {
    Some((unit_of(pod.labels())?, pod.labels().get(RUN)?.parse().ok()?))
}

impl Watched for Pod {
    fn put(self, known: &mut Known) -> Option<UnitId> {
        let (id, run) = run_of(&self)?;
        let pods = &mut known.units.entry(id.clone()).or_default().pods;
        let version = self.metadata.resource_version.as_deref();
        if !pods.get(&run).is_some_and(|has| is_older(version, has.metadata.resource_version.as_deref())) {
            pods.insert(run, Arc::new(self));
        }
        Some(id)
    }

    fn take(self, known: &mut Known) -> Option<UnitId> {
        let (id, run) = run_of(&self)?;
        let unit = known.units.get_mut(&id)?;
        // One of the same name may have come since.
        if unit.pods.get(&run).is_some_and(|pod| pod.uid() == self.uid()) {
            unit.pods.remove(&run);
        }
        if unit.record.is_none() && unit.pods.is_empty() {
            known.units.remove(&id);
        }
        Some(id)
    }

    fn retain(listed: &[Self], known: &mut Known) -> Vec<UnitId> {
        let there: HashSet<(UnitId, u64)> = listed.iter().filter_map(run_of).collect();
        let mut gone = Vec::new();
        for (id, unit) in &mut known.units {
            let before = unit.pods.len();
            unit.pods.retain(|run, _| there.contains(&(id.clone(), *run)));
            if unit.pods.len() != before {
                gone.push(id.clone());
            }
        }
        known.forget_empty();
        gone
    }
}

impl Watched for Node {
    fn put(self, known: &mut Known) -> Option<UnitId> {
        known.nodes.insert(self.name_any(), Arc::new(self));
        None
    }

    fn take(self, known: &mut Known) -> Option<UnitId> {
        known.nodes.remove(&self.name_any());
        None
    }

    fn retain(listed: &[Self], known: &mut Known) -> Vec<UnitId> {
        let there: HashSet<String> = listed.iter().map(ResourceExt::name_any).collect();
        known.nodes.retain(|name, _| there.contains(name));
        Vec::new()
    }
}

impl Cache {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<UnitId> {
        self.changes.subscribe()
    }

    /// Has something be known, and tells those who wait and those whose containers look different now.
    fn note(&self, change: impl FnOnce(&mut Known) -> Vec<UnitId>, about: &[UnitId]) {
        let nudged: Vec<UnitId> = {
            let mut known = self.known();
            let before: Vec<_> = about.iter().map(|id| known.observed(id)).collect();
            let also = change(&mut known);
            let differ = about.iter().zip(before).filter(|(id, before)| known.observed(id) != *before);
            differ.map(|(id, _)| id.clone()).chain(also).collect()
        };
        self.news.send_modify(|version| *version = version.wrapping_add(1));
        for id in nudged {
            let _ = self.changes.send(id);
        }
    }

    /// Keeps what the API server answered a write with: the watch may tell of it much later.
    pub(crate) fn keep<K: Watched + kube::Resource>(&self, object: K) {
        self.change(object, K::put);
    }

    /// Puts an object there, or takes it out.
    fn change<K: kube::Resource>(&self, object: K, change: fn(K, &mut Known) -> Option<UnitId>) {
        let about: Vec<UnitId> = object.meta().labels.as_ref().and_then(unit_of).into_iter().collect();
        let change = |known: &mut Known| {
            change(object, known);
            Vec::new()
        };
        self.note(change, &about);
    }

    /// Marks a container as being started, or not any more.
    pub(crate) fn set_starting(&self, id: &UnitId, starting: bool) {
        let change = |known: &mut Known| {
            if starting {
                known.starting.insert(id.clone())
            } else {
                known.starting.remove(id)
            };
            Vec::new()
        };
        self.note(change, std::slice::from_ref(id));
    }

    /// Keeps what a watch says until it ends, which it never does by itself. `listed` turns true with the first complete list.
    pub(crate) async fn follow<K>(
        self: Arc<Self>,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        listed: watch::Sender<bool>,
    ) where
        K: Watched + kube::Resource,
    {
        let mut events = std::pin::pin!(events);
        let mut list: Vec<K> = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object)) => self.change(object, K::put),
                Ok(Event::Delete(object)) => self.change(object, K::take),
                Ok(Event::Init) => list.clear(),
                Ok(Event::InitApply(object)) => list.push(object),
                Ok(Event::InitDone) => {
                    let objects = std::mem::take(&mut list);
                    self.note(
                        |known| {
                            let mut about = K::retain(&objects, known);
                            about.extend(objects.into_iter().filter_map(|object| object.put(known)));
                            about
                        },
                        &[],
                    );
                    let _ = listed.send(true);
                }
                // It goes on by itself, with growing pauses; a list that is out of date (410) is made anew.
                Err(error) => tracing::warn!(%error, "a watch of the cluster was interrupted"),
            }
        }
    }

    /// Waits until something is the case; `None` after `limit`.
    pub(crate) async fn until<T>(&self, limit: Duration, mut look: impl FnMut(&Known) -> Option<T>) -> Option<T> {
        let mut news = self.news.subscribe();
        let wait = async {
            loop {
                news.borrow_and_update();
                if let Some(found) = look(&self.known()) {
                    return found;
                }
                if news.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_engine::State;
    use berth_engine::contract::plain;
    use futures_util::stream;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use kube::runtime::watcher::Event;
    use serde_json::json;
    use tokio::sync::watch;

    use super::{Cache, RECORD, Record};

    fn secret(version: &str, run: u64) -> Secret {
        let record = Record { spec: plain("web1", &[], &["x".to_owned()]), ports: Vec::new(), run, ended: None };
        let text = json!({ "metadata": { "name": "berth-web1", "resourceVersion": version, "labels": { "berth.io/unit": "web1" } } });
        let data = [(RECORD.to_owned(), ByteString(serde_json::to_vec(&record).expect("json")))];
        Secret { data: Some(data.into()), ..serde_json::from_value(text).expect("secret") }
    }

    fn pod(run: u64) -> Pod {
        let labels = json!({ "berth.io/unit": "web1", "berth.io/run": run.to_string() });
        let state = json!({ "running": { "startedAt": "2026-01-02T03:04:05Z" } });
        let status = json!({ "phase": "Running", "containerStatuses": [{ "name": "main", "state": state, "image": "x", "imageID": "x",
            "ready": true, "restartCount": 0 }] });
        serde_json::from_value(json!({ "metadata": { "name": "p", "labels": labels }, "status": status })).expect("pod")
    }

    #[tokio::test]
    async fn what_is_missing_from_a_new_list_is_gone() {
        let cache = Arc::new(Cache::default());
        let id = "web1".parse().expect("id");
        let secrets = |events: Vec<Event<Secret>>| {
            cache.clone().follow(stream::iter(events.into_iter().map(Ok)), watch::channel(false).0)
        };
        secrets(vec![Event::Init, Event::InitApply(secret("7", 0)), Event::InitDone]).await;
        assert_eq!(cache.known().observed(&id).state, State::Created);
        // A pod is there before its run is written down.
        cache.clone().follow(stream::iter([Ok(Event::Apply(pod(1)))]), watch::channel(false).0).await;
        let seen = cache.known().observed(&id);
        assert!(matches!(seen.state, State::Running { .. }) && seen.run == 1, "{seen:?}");
        // What this server wrote is newer than what the watch tells afterwards.
        cache.keep(secret("9", 1));
        secrets(vec![Event::Apply(secret("8", 0))]).await;
        assert_eq!(cache.known().units[&id].record.as_ref().map(|record| record.run), Some(1));
        // Lists made anew, without the pod, then without the Secret.
        let pods: Vec<kube::runtime::watcher::Result<Event<Pod>>> = vec![Ok(Event::Init), Ok(Event::InitDone)];
        cache.clone().follow(stream::iter(pods), watch::channel(false).0).await;
        assert!(matches!(cache.known().observed(&id).state, State::Exited(exit) if exit.code == 255));
        secrets(vec![Event::Init, Event::InitDone]).await;
        assert!(cache.known().units.is_empty(), "nothing waits for it any more");
    }
}
