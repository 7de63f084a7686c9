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
    /// The last run that was begun; 0 before the first.
    pub(crate) run: u64,
    /// How that ended, if it was seen and its pod is gone.
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

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) units: BTreeMap<UnitId, Unit>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    /// Those whose run is being begun: it is written down, and its pod is not there yet.
    pub(crate) starting: HashSet<UnitId>,
}

impl Known {
    /// What is the case with a container.
    pub(crate) fn observed(&self, id: &UnitId) -> Observed {
        let Some(unit) = self.units.get(id) else { return Observed::new(State::Absent, 0) };
        let Some(record) = &unit.record else { return Observed::new(State::Absent, 0) };
        if record.run == 0 {
            return Observed::new(State::Created, 0);
        }
        let pod = unit.pods.get(&record.run);
        let state = match (pod.and_then(|pod| pods::state(pod)), &record.ended) {
            (Some(state), _) => state,
            (None, Some(exit)) => State::Exited(exit.clone()),
            // Its pod waits for its image, or is not made yet.
            (None, None) if pod.is_some() || self.starting.contains(id) => State::Created,
            // Somebody deleted its pod, or its node has gone: nobody saw the end.
            (None, None) => State::Exited(pods::unseen_end()),
        };
        Observed::new(state, record.run)
    }
}

/// The cache, and news of it.
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
                unit.record = None;
            }
        }
        gone
    }
}

fn run_of(pod: &Pod) -> Option<(UnitId, u64)> {
    Some((unit_of(pod.labels())?, pod.labels().get(RUN)?.parse().ok()?))
}

impl Watched for Pod {
    fn put(self, known: &mut Known) -> Option<UnitId> {
        let (id, run) = run_of(&self)?;
        known.units.entry(id.clone()).or_default().pods.insert(run, Arc::new(self));
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
                Ok(Event::Apply(object)) => {
                    let about: Vec<UnitId> = object.meta().labels.as_ref().and_then(unit_of).into_iter().collect();
                    self.note(
                        |known| {
                            object.put(known);
                            Vec::new()
                        },
                        &about,
                    );
                }
                Ok(Event::Delete(object)) => {
                    let about: Vec<UnitId> = object.meta().labels.as_ref().and_then(unit_of).into_iter().collect();
                    self.note(
                        |known| {
                            object.take(known);
                            Vec::new()
                        },
                        &about,
                    );
                }
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
