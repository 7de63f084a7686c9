//! Every command, with every step repeated, every step failed, and the server killed before and after each write.

mod bounds;
mod deployments;
mod plans;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_engine::{Engine, FakeEngine, LoadBalancing, PortProtocol, State};
use berth_image::{Digest, Store as Images};
use berth_store::Store;

use super::{
    GroupApply, GroupDelete, GroupHistory, GroupStart, GroupStop, GroupUpload, Method, Operation, Outcome, target,
};
use crate::containers::ContainerState;
use crate::core::{Core, Paths};
use crate::fetch::{Fetch, FetchError};
use crate::policies::{HealthCheck, HealthTest};
use crate::registries::{Access, Blob, ImageReference, Login, Registry, RegistryError, Sent};
use crate::services::{Group, GroupPort, GroupSpec, GroupState};
use crate::settings::Settings;
use berth_identity::{Administrator, Caller};
use berth_operations::{Command, CommandQuery, Domain as _, Operation as _, OperationStep, QueuedOperation};

/// Addresses that end in `.tar` hold an archive with one file; others nothing.
struct Files;

fn tar_with(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, &b"x\n"[..]).expect("tar");
    tar.into_inner().expect("tar")
}

#[async_trait]
impl Fetch for Files {
    async fn fetch(&self, address: &str, to: &Path, _limit: u64, _private: bool) -> Result<(), FetchError> {
        if !address.ends_with(".tar") {
            return Err(FetchError(format!("{address} is not there")));
        }
        std::fs::write(to, tar_with(address.rsplit('/').next().unwrap_or("x"))).map_err(|e| FetchError(e.to_string()))
    }
}

struct NoRegistry;

#[async_trait]
impl Registry for NoRegistry {
    async fn manifest(
        &self,
        _image: &ImageReference,
        _reference: Option<&str>,
        _access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        Err(RegistryError::NotFound("no registry here".into()))
    }

    async fn blob(
        &self,
        _image: &ImageReference,
        _digest: &Digest,
        _size: u64,
        _access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError> {
        Err(RegistryError::NotFound("no registry here".into()))
    }

    async fn push_blob(
        &self,
        _image: &ImageReference,
        _digest: &Digest,
        _file: &Path,
        _access: &Access,
        _sent: Sent<'_>,
    ) -> Result<bool, RegistryError> {
        Err(RegistryError::NotFound("no registry here".into()))
    }

    async fn push_manifest(
        &self,
        _image: &ImageReference,
        _manifest: &[u8],
        _media_type: &str,
        _access: &Access,
    ) -> Result<(), RegistryError> {
        Err(RegistryError::NotFound("no registry here".into()))
    }

    async fn check(&self, _registry: &str, _login: &Login, _private: bool) -> Result<(), RegistryError> {
        Err(RegistryError::NotFound("no registry here".into()))
    }
}

/// A server's parts; the core lives in a runtime of its own, so that a "kill" ends all it does.
pub(crate) struct World {
    folder: PathBuf,
    engine: FakeEngine,
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) core: Core,
    pub(crate) caller: Caller,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("berth-commands-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        let engine = FakeEngine::default();
        let (runtime, core) = open(&folder, &engine);
        let admin = Administrator::make();
        let caller = runtime.block_on(async {
            core.identity().administrator(admin.clone()).await.expect("administrator");
            let caller = core.identity().authenticate(&admin.token).await.expect("read").expect("caller");
            core.image_import_rootfs(
                &caller,
                Cursor::new(tar_with("etc/x")),
                "app:1",
                berth_image::Config { cmd: vec!["serve".into()], ..Default::default() },
            )
            .await
            .expect("image");
            caller
        });
        Self { folder, engine, runtime: Some(runtime), core, caller }
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("runtime").block_on(work)
    }

    /// `kill -9` and a new server.
    fn restart(&mut self) {
        self.core.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let (runtime, core) = open(&self.folder, &self.engine);
        self.runtime = Some(runtime);
        self.core = core;
    }

    fn group(&self) -> Group {
        self.block_on(self.core.group(&self.caller, "shop/prod")).expect("group")
    }

    /// A group of three that serves version 1.
    fn with_group(name: &str) -> Self {
        let world = Self::new(name);
        world.block_on(async {
            world.core.service_create(&world.caller, "shop").await.expect("service");
            let made = world.core.group_create(&world.caller, "shop", "prod", spec(3)).await.expect("group");
            world.core.command_wait(&world.caller, &made.1.uid).await.expect("made");
        });
        let first =
            world.order(GroupUpload { address: "http://x/v1.tar".into(), update: true, method: Method::Parallel });
        let first = world.wait(&first);
        assert_eq!(first.result, Some(Outcome::Success), "{}", first.message);
        world
    }

    fn order(&self, body: impl Into<Operation>) -> Command {
        let group = self.group();
        let order = self.core.submit(&self.caller, target::group(group.id), group.full_name(), body);
        self.block_on(order).expect("order")
    }

    fn wait(&self, command: &Command) -> Command {
        let waited = self.block_on(async {
            let wait = self.core.command_wait(&self.caller, &command.uid);
            tokio::time::timeout(Duration::from_secs(30), wait).await
        });
        waited.unwrap_or_else(|_| panic!("{} does not end", command.name)).expect("command")
    }

    /// Points that were hit, when no command is driven any more: the last one is hit after the command is told to have ended.
    fn hits(&self) -> usize {
        let begun = Instant::now();
        while !self.core.operations().is_idle() {
            assert!(begun.elapsed() < Duration::from_secs(20), "commands are driven for ever");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.core.operations().failpoints().hits()
    }

    /// Waits until what a test holds has come to where it is held.
    fn held(&self, point: usize) {
        let begun = Instant::now();
        while self.core.operations().failpoints().hits() < point {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not get there");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What must hold whenever nothing is under way.
    fn check(&self, story: &str, running: bool) {
        let begun = Instant::now();
        loop {
            match self.wrong(running) {
                None => return,
                Some(wrong) => assert!(begun.elapsed() < Duration::from_secs(5), "{story}: {wrong}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wrong(&self, running: bool) -> Option<String> {
        let group = self.group();
        let members = self.block_on(self.core.group_containers(&group)).expect("members");
        let mut units = self.block_on(self.engine.list()).expect("units");
        let mut known: Vec<_> = members.iter().map(|m| m.uid.clone()).collect();
        units.sort();
        known.sort();
        if units != known {
            return Some(format!("the engine has {units:?}, the records {known:?}"));
        }
        if members.len() != group.spec.replicas as usize {
            return Some(format!("{} members of {}", members.len(), group.spec.replicas));
        }
        if let Some(unproven) = members.iter().find(|m| m.replaces.is_some()) {
            return Some(format!("{} still waits for its place", unproven.name));
        }
        let runs = |m: &&crate::Container| m.state == ContainerState::Running;
        if running != members.iter().all(|m| runs(&m)) || !running && members.iter().any(|m| runs(&m)) {
            return Some(format!("running {running}: {:?}", members.iter().map(|m| m.state).collect::<Vec<_>>()));
        }
        let mut backends = self.engine.load_balancer(&crate::balancing::load_balancer_id(group.id).expect("id"));
        backends.sort();
        let expected = if running { known } else { Vec::new() };
        (backends != expected).then(|| format!("the load balancer leads to {backends:?}, not {expected:?}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn open(folder: &Path, engine: &FakeEngine) -> (tokio::runtime::Runtime, Core) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let core = runtime.block_on(async {
        let store = Store::open(&folder.join("berth.db")).expect("store");
        let images = Images::open(&folder.join("images"), 0).expect("images");
        let paths = Paths {
            volumes: folder.join("volumes"),
            packages: folder.join("packages"),
            downloads: folder.join("downloads"),
            distribution: folder.join("registry"),
            secret_key: folder.join("secret.key"),
        };
        let settings = Settings {
            commands_waiting: 50,
            disk_high_percent: 0,
            ready_time_ms: 50,
            soak_time_ms: 50,
            ..Settings::default()
        };
        Core::open(store, Arc::new(engine.clone()), images, Arc::new(Files), Arc::new(NoRegistry), paths, settings)
            .await
            .expect("core")
    });
    (runtime, core)
}

fn spec(replicas: u32) -> GroupSpec {
    let mut check = HealthCheck::new(HealthTest::Exec(vec!["true".into()]));
    check.interval = Duration::from_secs(1);
    GroupSpec {
        replicas,
        image: "app:1".into(),
        ports: vec![GroupPort { protocol: PortProtocol::Tcp, container_port: 80, host_port: Some(20_080) }],
        health: Some(Some(check)),
        drain_s: 0,
        ..GroupSpec::default()
    }
}

/// The commands, each with what the group's containers do in the end.
fn bodies() -> Vec<(Operation, bool)> {
    let method = Method::Sequential;
    let bigger = GroupSpec { env: [("A".into(), "b".into())].into(), ..spec(4) };
    let address = || "http://x/v2.tar".to_owned();
    vec![
        (GroupApply { spec: Box::new(bigger), method: Method::Parallel }.into(), true),
        (GroupApply { spec: Box::new(spec(1)), method }.into(), true),
        (GroupStart { update: true, image: None, method }.into(), true),
        (GroupStart { update: false, image: None, method: Method::Parallel }.into(), true),
        (GroupStop { method: Method::Parallel }.into(), false),
        (GroupUpload { address: address(), update: true, method }.into(), true),
        (GroupUpload { address: address(), update: false, method: Method::Parallel }.into(), true),
        (GroupHistory { version: 1, update: true, method: Method::Parallel }.into(), true),
        (GroupHistory { version: 1, update: false, method }.into(), true),
    ]
}

/// Runs stories side by side; each is a world of its own.
fn all(stories: Vec<Box<dyn FnOnce() + Send>>) {
    let stories = std::sync::Mutex::new(stories);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let story = stories.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                    let Some(story) = story else { return };
                    story();
                }
            });
        }
    });
}

/// Points from an order to its first step: before and after the two writes that lead there.
const FIRST_STEP: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    Fail,
    Repeat,
}

/// Points that an undisturbed run passes.
fn points(number: usize, body: &Operation) -> usize {
    let world = World::with_group(&format!("points{number}"));
    let before = world.hits();
    let done = world.wait(&world.order(body.clone()));
    assert_eq!(done.result, Some(Outcome::Success), "{}: {}", done.name, done.message);
    world.hits() - before
}

fn disturbed(number: usize, body: Operation, running: bool, fault: Fault, at: usize) {
    let story = format!("{} {number} with {fault:?} at {at}", body.name());
    let mut world = World::with_group(&format!("{number}-{fault:?}-{at}"));
    let point = world.hits() + at;
    match fault {
        Fault::Kill => world.core.operations().failpoints().set(point, 0, 0),
        Fault::Fail => world.core.operations().failpoints().set(0, point, 0),
        Fault::Repeat => world.core.operations().failpoints().set(0, 0, point),
    }
    let command = world.order(body);
    if fault == Fault::Kill {
        let begun = Instant::now();
        while world.core.operations().failpoints().hits() < point && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let hits = world.core.operations().failpoints().hits();
        assert!(hits >= point, "{story}: the kill was not reached, {hits} of {point} points were hit");
        world.restart();
    }
    let done = world.wait(&command);
    if done.result == Some(Outcome::Success) {
        world.check(&story, running);
        return;
    }
    assert_eq!(fault, Fault::Fail, "{story}: {:?} {}", done.result, done.message);
    assert!(done.message.contains("on purpose"), "{story}: {}", done.message);
    // What it was before, or a part of what it was to be: in any case whole, and the same command does the rest.
    let again = world.wait(&world.order(command_body(&world, &command)));
    assert_eq!(again.result, Some(Outcome::Success), "{story}, again: {}", again.message);
    world.check(&story, running);
}

fn command_body(world: &World, command: &Command) -> Operation {
    let id = command.id;
    let row = world.block_on(world.core.read(move |tx| Ok(tx.command(id)?))).expect("read").expect("row");
    serde_json::from_str::<QueuedOperation<Operation>>(&row.body).expect("order").body
}

fn disturb_all(fault: Fault) {
    let mut stories: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for (number, (body, running)) in bodies().into_iter().enumerate() {
        for at in 1..=points(number * 10 + fault as usize, &body) {
            let body = body.clone();
            stories.push(Box::new(move || disturbed(number, body, running, fault, at)));
        }
    }
    assert!(stories.len() > 60, "{} points", stories.len());
    all(stories);
}

#[test]
fn a_server_killed_at_any_point_of_any_command_has_its_successor_finish_it() {
    disturb_all(Fault::Kill);
}

#[test]
fn any_failed_step_of_any_command_leaves_a_whole_group_and_the_rest_can_be_done() {
    disturb_all(Fault::Fail);
}

#[test]
fn any_step_of_any_command_may_run_twice() {
    disturb_all(Fault::Repeat);
}

#[test]
fn a_removal_overtakes_what_waits_and_survives_a_kill_at_any_point() {
    let stories = (1..16usize).map(|at| {
        Box::new(move || {
            let mut world = World::with_group(&format!("removal{at}"));
            let point = world.hits() + at;
            world.core.operations().failpoints().set(point, 0, 0);
            let slow = world.order(GroupStart { update: true, image: None, method: Method::Sequential });
            let waits = world.order(GroupStop { method: Method::Parallel });
            let removal = world.order(GroupDelete {});
            std::thread::sleep(Duration::from_millis(100 + 20 * at as u64));
            world.restart();
            assert_eq!(world.wait(&removal).result, Some(Outcome::Success), "at {at}");
            assert_eq!(world.wait(&waits).result, Some(Outcome::Superseded), "at {at}");
            assert!(matches!(world.wait(&slow).result, Some(Outcome::Superseded | Outcome::Success)), "at {at}");
            let gone = world.block_on(world.core.group(&world.caller, "shop/prod"));
            assert!(gone.is_err(), "the group is gone");
            assert!(world.block_on(world.engine.list()).expect("list").is_empty(), "at {at}");
            assert!(world.block_on(world.engine.load_balancers()).expect("balancing").is_empty(), "at {at}");
        }) as Box<dyn FnOnce() + Send>
    });
    all(stories.collect());
}

#[test]
fn what_does_not_prove_itself_is_undone_and_told() {
    let world = World::with_group("broken");
    let before = world.block_on(world.core.group_containers(&world.group())).expect("members");
    let broken = GroupSpec { command: Some(vec!["exit".into(), "7".into()]), ..spec(3) };
    let done = world.wait(&world.order(GroupApply { spec: Box::new(broken), method: Method::Sequential }));
    assert_eq!(done.result, Some(Outcome::Failed));
    assert!(
        done.message.contains("exit code 7") && done.message.contains("4 steps were not begun"),
        "{}",
        done.message
    );
    let states: Vec<_> = done.activities.iter().map(|a| (a.name.as_str(), a.result)).collect();
    assert_eq!(states[2], ("replace", Some(Outcome::Failed)), "{states:?}");
    assert_eq!(states[3], ("replace", Some(Outcome::Superseded)), "{states:?}");
    world.check("after a broken version", true);
    let after = world.block_on(world.core.group_containers(&world.group())).expect("members");
    let ids = |all: &[crate::Container]| all.iter().map(|c| (c.id, c.runs)).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after), "the old ones ran on");
    let lost = world.wait(&world.order(GroupUpload {
        address: "http://x/nothing".into(),
        update: true,
        method: Method::Parallel,
    }));
    assert!(lost.message.contains("is not there"), "{}", lost.message);
    assert_eq!((world.group().version, world.group().state), (1, GroupState::Running));
}

#[test]
fn members_that_end_after_they_were_ready_are_replaced_by_what_was_there() {
    for method in [Method::Parallel, Method::Sequential] {
        let world = World::with_group(&format!("late-{method:?}"));
        let late = vec!["exit-after".into(), "8".into(), "130".into()];
        let late = GroupSpec { command: Some(late), ..spec(3) };
        let done = world.wait(&world.order(GroupApply { spec: Box::new(late), method }));
        assert_eq!(done.result, Some(Outcome::Failed), "{}", done.message);
        let replaced = |a: &&OperationStep| a.name == "replace" && a.result == Some(Outcome::Success);
        assert!(done.activities.iter().any(|a| replaced(&a)), "one was judged ready first: {:?}", done.activities);
        let query = CommandQuery { limit: 100, ..Default::default() };
        let all = world.block_on(world.core.commands(&world.caller, &query)).expect("commands").items;
        let undo = all.iter().find(|c| c.name == "group_undo").expect("an undo follows");
        assert_eq!(world.wait(undo).result, Some(Outcome::Success));
        world.check("after the undo", true);
        assert_eq!((world.group().version, world.group().spec.command), (1, spec(3).command));
        let members = world.block_on(world.core.group_containers(&world.group())).expect("members");
        assert!(members.iter().all(|m| m.version == 1 && m.spec.args.first().is_some_and(|a| a != "exit-after")));
    }
}

#[test]
fn commands_are_cancelled() {
    let world = World::with_group("cancel");
    // Its first step waits there: else all of it may be over before the cancellation comes.
    let point = world.hits() + FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    let slow = world.order(GroupStart { update: true, image: None, method: Method::Sequential });
    world.held(point);
    world.block_on(world.core.command_cancel(&world.caller, &slow.uid)).expect("cancel");
    world.core.operations().failpoints().let_go();
    let done = world.wait(&slow);
    assert_eq!(done.result, Some(Outcome::Superseded), "{}", done.message);
    assert!(done.message.contains("cancelled"), "{}", done.message);
    let results: Vec<_> = done.activities.iter().map(|a| a.result).collect();
    assert_eq!(results[0], Some(Outcome::Success), "what had begun is done to its end: {results:?}");
    assert_eq!(results.last(), Some(&Some(Outcome::Superseded)), "{results:?}");
    world.check("after a cancel", true);
    assert!(world.block_on(world.core.command_cancel(&world.caller, &slow.uid)).is_err(), "it is over");
}

#[test]
fn only_so_many_versions_are_kept_and_one_that_is_gone_is_told() {
    let world = World::with_group("versions");
    for version in 2..=13 {
        let address = format!("http://x/v{version}.tar");
        let done = world.wait(&world.order(GroupUpload { address, update: true, method: Method::Parallel }));
        assert_eq!(done.result, Some(Outcome::Success), "{}", done.message);
    }
    let group = world.group();
    let kept = world.block_on(world.core.packages(&group)).expect("packages");
    assert_eq!(kept.iter().map(|p| p.version).collect::<Vec<_>>(), (4..=13).collect::<Vec<_>>());
    let gone = world.core.group_history(&world.caller, &group, 1, true, Method::Parallel);
    assert!(world.block_on(gone).is_err());
    let units = world.block_on(world.engine.list()).expect("list");
    for unit in units {
        let state = world.block_on(world.engine.observe(&unit)).expect("observe").state;
        assert!(matches!(state, State::Running { .. }));
    }
}

/// As version 0.1.0 wrote it: a server that is upgraded goes on with what it finds.
#[test]
fn what_is_on_disk_is_read_and_written_the_same() {
    let operations = [
        r#"{"do":"container_start"}"#,
        r#"{"do":"container_create"}"#,
        r#"{"do":"deployment_delete","host":"h"}"#,
        r#"{"do":"rollout_undo","of":"u"}"#,
        r#"{"do":"rollout","asked":{"area":"a","operator":"o","percent":5,"image":"i","version":"2"}}"#,
        r#"{"do":"file_ready","path":"/x"}"#,
        r#"{"do":"group_start","update":true,"image":null,"method":"parallel"}"#,
        r#"{"do":"group_stop","method":"sequential"}"#,
        r#"{"do":"group_delete"}"#,
        r#"{"do":"group_upload","address":"http://x/","update":false,"method":"parallel"}"#,
        r#"{"do":"group_undo","of":"u"}"#,
        r#"{"do":"group_history","version":3,"update":true,"method":"parallel"}"#,
    ];
    for text in operations {
        let read: Operation = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(serde_json::to_string(&read).expect("json"), text);
    }
    let steps = [
        r#"{"step":"start","container":1}"#,
        r#"{"step":"deploy_new"}"#,
        r#"{"step":"move","name":"n","image":"i","from":"1","to":"2"}"#,
        r#"{"step":"watch","ms":5}"#,
        r#"{"step":"pull","image":"i"}"#,
        r#"{"step":"ports"}"#,
        r#"{"step":"create","start":true}"#,
        r#"{"step":"replace","container":4,"start":false}"#,
        r#"{"step":"settle"}"#,
        r#"{"step":"remove_group"}"#,
    ];
    for text in steps {
        let read: super::Step = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(serde_json::to_string(&read).expect("json"), text);
    }
}
