//! The commands of deployments and roll-outs, disturbed as those of groups are.

use std::io::Cursor;
use std::time::{Duration, Instant};

use berth_engine::{Engine, State};

use super::super::Outcome;
use super::{FIRST_STEP, Fault, World, all, tar_with};
use crate::deployments::{Deployment, DeploymentSpec, NewDeployment, Rollout};
use berth_operations::{CommandQuery, Domain as _};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Create,
    Update,
    Delete,
    Rollout,
    /// To a version that ends at once.
    UpdateBroken,
    RolloutBroken,
}

const DEEDS: [Deed; 6] =
    [Deed::Create, Deed::Update, Deed::Delete, Deed::Rollout, Deed::UpdateBroken, Deed::RolloutBroken];
const NAMES: [&str; 3] = ["one", "two", "three"];

fn spec(version: &str) -> DeploymentSpec {
    DeploymentSpec {
        image: "app".into(),
        version: version.into(),
        env: vec![("A".into(), "b".into())],
        volumes: Vec::new(),
        requests_cpu: 0.5,
        requests_memory: 16,
        limits_cpu: 1.0,
        limits_memory: 32,
    }
}

fn create(world: &World, name: &str, spec: DeploymentSpec) -> Result<String, crate::Error> {
    world.block_on(async {
        let host = world.core.hosts().await?.remove(0);
        let new = NewDeployment { name: name.into(), spec };
        Ok(world.core.deployment_create(&world.caller, &host, new, Vec::new()).await?.uid)
    })
}

fn roll_out(world: &World, percent: u32, version: &str) -> String {
    let asked =
        Rollout { area: String::new(), operator: String::new(), percent, image: "app".into(), version: version.into() };
    world.block_on(world.core.rollout(&world.caller, asked)).expect("accepted").uid
}

fn update(world: &World, name: &str, spec: DeploymentSpec) -> String {
    world.block_on(async {
        let host = world.core.hosts().await.expect("hosts").remove(0);
        let new = NewDeployment { name: name.into(), spec };
        world.core.deployment_update(&world.caller, &host, new, false).await.expect("accepted").uid
    })
}

/// Images: `app:2` and `app:3` run, `app:broken` ends with 7, `app:late` with 8 when it has been ready for a while. Three deployments of `app:1`.
fn with_three(name: &str) -> World {
    let world = World::new(name);
    let versions = [
        ("2", vec!["serve"]),
        ("3", vec!["serve"]),
        ("broken", vec!["exit", "7"]),
        ("late", vec!["exit-after", "8", "500"]),
        ("port80", vec!["listen", "80"]),
        ("also80", vec!["listen", "80"]),
        ("port81", vec!["listen", "81"]),
        ("missing", vec!["missing"]),
    ];
    for (version, command) in versions {
        let config = berth_image::Config {
            cmd: command.into_iter().map(str::to_owned).collect(),
            env: vec![format!("V={version}")],
            ..Default::default()
        };
        let (file, name) = (Cursor::new(tar_with("etc/x")), format!("app:{version}"));
        let import = world.core.image_import_rootfs(&world.caller, file, &name, config);
        world.block_on(import).expect("image");
    }
    for name in NAMES {
        create(&world, name, spec("1")).expect("accepted");
    }
    settle(&world);
    for name in NAMES {
        assert_eq!(find(&world, name).expect("made").spec.version, "1");
    }
    world
}

/// Waits until nothing is under way.
fn settle(world: &World) {
    let begun = Instant::now();
    loop {
        let open = world.block_on(world.core.read(|tx| Ok(tx.command_targets()?))).expect("read");
        if open.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{open:?} do not end");
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn find(world: &World, name: &str) -> Option<Deployment> {
    world.block_on(world.core.deployment(&world.caller, name)).ok()
}

/// Has it done.
fn order(world: &World, deed: Deed) {
    match deed {
        Deed::Create => drop(create(world, "new", spec("2")).expect("accepted")),
        Deed::Update => drop(update(world, "one", spec("2"))),
        Deed::UpdateBroken => drop(update(world, "one", spec("broken"))),
        Deed::RolloutBroken => drop(roll_out(world, 100, "broken")),
        Deed::Delete => {
            world.block_on(world.core.deployment_delete(&world.caller, "one")).map(drop).expect("accepted");
        }
        Deed::Rollout => drop(roll_out(world, 100, "2")),
    }
}

/// Which versions the deployments are of; they run, and nothing else is there.
fn versions(world: &World, story: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for name in ["one", "two", "three", "new"] {
        let Some(deployment) = find(world, name) else { continue };
        let observed = world.block_on(world.engine.observe(&deployment.container.uid)).expect("observe");
        assert!(matches!(observed.state, State::Running { .. }), "{story}: {name} does not run: {observed:?}");
        let image = format!("app:{}", deployment.spec.version);
        assert_eq!(deployment.container.image, image, "{story}: {name}");
        found.push((name, deployment.spec.version));
    }
    let units = world.block_on(world.engine.list()).expect("list");
    assert_eq!(units.len(), found.len(), "{story}: {units:?}");
    let records = world.block_on(world.core.containers(&world.caller, None, 0, 100)).expect("list").items;
    assert_eq!(records.len(), found.len(), "{story}: {:?}", records.iter().map(|c| &c.name).collect::<Vec<_>>());
    found
}

fn expected(deed: Option<Deed>) -> Vec<(&'static str, String)> {
    let all = match deed {
        // What does not become ready leaves everything as it was.
        None | Some(Deed::UpdateBroken | Deed::RolloutBroken) => vec![("one", "1"), ("two", "1"), ("three", "1")],
        Some(Deed::Create) => vec![("one", "1"), ("two", "1"), ("three", "1"), ("new", "2")],
        Some(Deed::Update) => vec![("one", "2"), ("two", "1"), ("three", "1")],
        Some(Deed::Delete) => vec![("two", "1"), ("three", "1")],
        Some(Deed::Rollout) => vec![("one", "2"), ("two", "2"), ("three", "2")],
    };
    all.into_iter().map(|(name, version)| (name, version.to_owned())).collect()
}

fn disturbed(deed: Deed, fault: Fault, at: usize) {
    let story = format!("{deed:?} with {fault:?} at {at}");
    let mut world = with_three(&format!("deployment-{deed:?}-{fault:?}-{at}"));
    let point = world.hits() + at;
    match fault {
        Fault::Kill => world.core.operations().failpoints().set(point, 0, 0),
        Fault::Fail => world.core.operations().failpoints().set(0, point, 0),
        Fault::Repeat => world.core.operations().failpoints().set(0, 0, point),
    }
    order(&world, deed);
    if fault == Fault::Kill {
        let begun = Instant::now();
        while world.core.operations().failpoints().hits() < point && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        world.restart();
    }
    settle(&world);
    let found = versions(&world, &story);
    if found == expected(Some(deed)) {
        return;
    }
    assert_eq!((fault, found), (Fault::Fail, expected(None)), "{story}: all or nothing");
    // And the same does it now.
    order(&world, deed);
    settle(&world);
    assert_eq!(versions(&world, &story), expected(Some(deed)), "{story}: once more");
}

#[test]
fn every_command_of_a_deployment_disturbed_at_every_point() {
    let mut stories: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for deed in DEEDS {
        let world = with_three(&format!("deployment-points-{deed:?}"));
        let before = world.hits();
        order(&world, deed);
        settle(&world);
        assert_eq!(versions(&world, "undisturbed"), expected(Some(deed)), "{deed:?}");
        let points = world.hits() - before;
        assert!(points > FIRST_STEP, "{deed:?}: {points}");
        for fault in [Fault::Kill, Fault::Fail, Fault::Repeat] {
            for at in 1..=points {
                stories.push(Box::new(move || disturbed(deed, fault, at)));
            }
        }
    }
    all(stories);
}

#[test]
fn a_version_that_ends_at_once_is_taken_back_everywhere() {
    let world = with_three("deployment-broken");
    // A third first: it goes well, and the same one is of the two thirds that follow.
    roll_out(&world, 33, "2");
    settle(&world);
    let first: Vec<_> = versions(&world, "a third").into_iter().filter(|(_, version)| version == "2").collect();
    assert_eq!(first.len(), 1, "{first:?}");
    roll_out(&world, 66, "2");
    settle(&world);
    let second: Vec<_> = versions(&world, "two thirds").into_iter().filter(|(_, version)| version == "2").collect();
    assert_eq!((second.len(), second.contains(&first[0])), (2, true), "{second:?}");
    let before = versions(&world, "before");
    let broken = roll_out(&world, 100, "broken");
    settle(&world);
    assert_eq!(versions(&world, "after a broken version"), before);
    let told = world.block_on(world.core.command(&world.caller, &broken)).expect("command");
    assert_eq!(told.result, Some(Outcome::Failed));
    assert!(told.message.contains("exit code 7") && told.message.contains("runs on"), "{}", told.message);
}

#[test]
fn a_version_that_ends_after_it_was_ready_is_taken_back_everywhere() {
    let world = with_three("deployment-late");
    world.core.reload(crate::Settings { soak_time_ms: 10_000, ..crate::Settings::clone(&world.core.settings()) });
    let late = roll_out(&world, 100, "late");
    settle(&world);
    let told = world.block_on(world.core.command(&world.caller, &late)).expect("command");
    assert_eq!(told.result, Some(Outcome::Failed), "{}", told.message);
    // Its policy may have brought it back before anybody looked.
    let ended = |message: &str| {
        let ways = ["exit code 8 after it was ready", "ended and was restarted after it was ready"];
        ways.iter().any(|way| message.contains(way))
    };
    assert!(ended(&told.message), "{}", told.message);
    assert_eq!(versions(&world, "after a late end"), expected(None));
    let moved = told.activities.iter().filter(|a| a.name == "move" && a.result == Some(Outcome::Success)).count();
    assert!(moved > 0, "it was judged ready first: {:?}", told.activities);
    // One that is updated by itself is watched just so.
    let late = update(&world, "one", spec("late"));
    settle(&world);
    let told = world.block_on(world.core.command(&world.caller, &late)).expect("command");
    assert_eq!(told.result, Some(Outcome::Failed), "{}", told.message);
    assert!(ended(&told.message), "{}", told.message);
    assert_eq!(versions(&world, "after a late end of one"), expected(None));
    // What was put there since stays: nothing is undone of an update that a removal has overtaken.
    let late = update(&world, "two", spec("2"));
    world.block_on(world.core.deployment_delete(&world.caller, "two")).expect("accepted");
    settle(&world);
    let told = world.block_on(world.core.command(&world.caller, &late)).expect("command");
    assert_eq!(told.result, Some(Outcome::Superseded), "{}", told.message);
    assert!(find(&world, "two").is_none());
    let undone = world.block_on(world.core.commands(&world.caller, &Default::default())).expect("commands").items;
    let undone = undone.iter().filter(|c| c.name == "rollout_undo" && c.target_name == "two").count();
    assert_eq!(undone, 0, "it is removed without being put back first");
}

/// Only where both want the same port the old one is stopped first; else it goes when the new one is ready.
#[test]
fn a_replacement_leaves_no_gap_without_a_conflict() {
    let world = with_three("deployment-gap");
    let done = |uid: String| world.block_on(world.core.command_wait(&world.caller, &uid)).expect("done");
    let runs_of = |name: &str| find(&world, name).map(|d| (d.container.id, d.container.runs));
    // Of three, how many did not run at some moment.
    let gaps = |version: &str| {
        world.engine.least_running();
        let told = done(update(&world, "one", spec(version)));
        assert_eq!(told.result, Some(Outcome::Success), "{version}: {}", told.message);
        3 - world.engine.least_running()
    };
    assert_eq!(gaps("2"), 0, "none of them listens");
    assert_eq!(gaps("port80"), 0);
    assert_eq!(gaps("port81"), 0, "another port");
    assert_eq!(gaps("port80"), 0);
    assert_eq!(gaps("also80"), 1, "the same port: the old one has to go first");
    assert_eq!(find(&world, "one").expect("made").spec.version, "also80");
    // One that does not come up costs the old one nothing, unless it listens.
    let before = runs_of("two");
    let told = done(update(&world, "two", spec("broken")));
    assert!(told.message.contains("runs on"), "{}", told.message);
    assert_eq!(runs_of("two"), before);
    let told = done(update(&world, "one", spec("broken")));
    assert!(told.result == Some(Outcome::Failed) && told.message.contains("runs again"), "{}", told.message);
    assert_eq!(versions(&world, "after")[0].1, "also80");
}

/// The same words and the same content change nothing; new content under an old name does; what could not be started is mended.
#[test]
fn an_update_goes_by_content_and_mends_what_could_not_start() {
    let world = with_three("deployment-content");
    let done = |uid: String| world.block_on(world.core.command_wait(&world.caller, &uid)).expect("done");
    let id = || find(&world, "one").expect("made").container.id;
    let before = id();
    let told = done(update(&world, "one", spec("1")));
    assert_eq!((told.result, told.message.as_str(), id()), (Some(Outcome::Success), "unchanged", before));
    let config = berth_image::Config { cmd: vec!["serve".into()], env: vec!["NEW=1".into()], ..Default::default() };
    let again = world.core.image_import_rootfs(&world.caller, Cursor::new(tar_with("etc/y")), "app:1", config);
    world.block_on(again).expect("image");
    let told = done(update(&world, "one", spec("1")));
    assert_eq!((told.result, told.message.as_str()), (Some(Outcome::Success), "success"));
    assert_ne!(id(), before, "another content is another version");

    // Stopped, changed to what can't be started, started: then mended.
    world.block_on(world.core.deployment_stop(&world.caller, "one")).expect("stop");
    done(update(&world, "one", spec("missing")));
    assert!(world.block_on(world.core.deployment_start(&world.caller, "one")).is_err());
    let told = done(update(&world, "one", spec("2")));
    assert_eq!(told.result, Some(Outcome::Success), "{}", told.message);
    let state =
        world.block_on(world.engine.observe(&find(&world, "one").expect("made").container.uid)).expect("observe");
    assert!(matches!(state.state, State::Running { .. }), "{state:?}");
    // What its owner stopped stays so.
    world.block_on(world.core.deployment_stop(&world.caller, "one")).expect("stop");
    done(update(&world, "one", spec("3")));
    let state =
        world.block_on(world.engine.observe(&find(&world, "one").expect("made").container.uid)).expect("observe");
    assert!(!matches!(state.state, State::Running { .. }), "{state:?}");
}

#[test]
fn a_cancelled_roll_out_goes_back() {
    let world = with_three("deployment-cancel");
    // The second step waits there: the first is done.
    let point = world.hits() + FIRST_STEP + 6;
    world.core.operations().failpoints().hold(point);
    let uid = roll_out(&world, 100, "2");
    world.held(point);
    world.block_on(world.core.command_cancel(&world.caller, &uid)).expect("cancel");
    world.core.operations().failpoints().let_go();
    settle(&world);
    assert_eq!(versions(&world, "after a cancel"), expected(None));
    let told = world.block_on(world.core.command(&world.caller, &uid)).expect("command");
    assert_eq!(told.result, Some(Outcome::Superseded), "{}", told.message);
    let query = CommandQuery { limit: 100, ..CommandQuery::default() };
    let all = world.block_on(world.core.commands(&world.caller, &query)).expect("commands");
    let undone = all.items.iter().find(|c| c.name == "rollout_undo").expect("what was moved is taken back");
    assert_eq!(undone.result, Some(Outcome::Success), "{undone:?}");
}

#[test]
fn what_a_roll_out_meets_changed_keeps_the_change() {
    let world = with_three("deployment-meanwhile");
    // All is planned, nothing is moved yet.
    let point = world.hits() + FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    let rollout = roll_out(&world, 100, "2");
    world.held(point);
    let done = |uid: String| world.block_on(world.core.command_wait(&world.caller, &uid)).map(drop).expect("done");
    done(update(&world, "one", DeploymentSpec { env: vec![("NEW".into(), "1".into())], ..spec("1") }));
    done(update(&world, "two", spec("3")));
    let removal = world.core.deployment_delete(&world.caller, "three");
    done(world.block_on(removal).expect("accepted").uid);
    world.core.operations().failpoints().let_go();
    settle(&world);
    let told = world.block_on(world.core.command(&world.caller, &rollout)).expect("command");
    assert_eq!(told.result, Some(Outcome::Success), "one that is gone is no failure: {}", told.message);
    let expected = [("one", "2".to_owned()), ("two", "3".to_owned())];
    assert_eq!(versions(&world, "after"), expected, "another version given by hand stays");
    assert_eq!(find(&world, "one").expect("made").spec.env, [("NEW".to_owned(), "1".to_owned())]);
}

#[test]
fn a_roll_out_that_waits_begins_after_the_one_before_is_taken_back() {
    let world = with_three("deployment-queue");
    let point = world.hits() + FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    let first = roll_out(&world, 100, "2");
    world.held(point);
    let second = roll_out(&world, 100, "3");
    // The first goes on until one has moved, and is cancelled then.
    let moved = |uid: &str| {
        let command = world.block_on(world.core.command(&world.caller, uid)).expect("command");
        command.activities.iter().filter(|a| a.name == "move" && a.result == Some(Outcome::Success)).count()
    };
    world.core.operations().failpoints().let_go();
    let begun = Instant::now();
    while moved(&first) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing moves");
        std::thread::sleep(Duration::from_millis(2));
    }
    world.block_on(world.core.command_cancel(&world.caller, &first)).expect("cancel");
    settle(&world);
    let all =
        world.block_on(world.core.commands(&world.caller, &CommandQuery { limit: 100, ..CommandQuery::default() }));
    let all = all.expect("commands").items;
    let undo = all.iter().find(|c| c.name == "rollout_undo").expect("undone");
    let later = all.iter().find(|c| c.uid == second).expect("second");
    let begun = later.activities.iter().map(|a| a.created_at).min().expect("it moves all");
    assert!(undo.ended_at.is_some_and(|ended| ended <= begun), "{undo:?} {later:?}");
    assert_eq!(later.activities.iter().filter(|a| a.name == "move").count(), NAMES.len());
    assert!(versions(&world, "after").iter().all(|(_, version)| version == "3"));
}

#[test]
fn two_that_want_the_same_deployment_survive_a_kill() {
    let stories = (1..=30usize).map(|at| {
        Box::new(move || {
            let mut world = with_three(&format!("deployment-two-{at}"));
            let point = world.hits() + at;
            world.core.operations().failpoints().set(point, 0, 0);
            let moved = roll_out(&world, 100, "2");
            let updated = update(&world, "one", spec("3"));
            let begun = Instant::now();
            while world.core.operations().failpoints().hits() < point && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(2));
            }
            world.restart();
            settle(&world);
            // Whichever came last; all run.
            let found = versions(&world, &format!("killed at {at}"));
            assert!(["2", "3"].contains(&found[0].1.as_str()), "at {at}: {found:?}");
            assert_eq!(&found[1..], [("two", "2".to_owned()), ("three", "2".to_owned())], "at {at}");
            for uid in [moved, updated] {
                let told = world.block_on(world.core.command(&world.caller, &uid)).expect("command");
                assert_eq!(told.result, Some(Outcome::Success), "at {at}: {}", told.message);
            }
        }) as Box<dyn FnOnce() + Send>
    });
    all(stories.collect());
}

#[test]
fn what_its_owner_stopped_stays_so_and_what_waits_meets_what_is() {
    let world = with_three("deployment-stopped");
    world.block_on(world.core.deployment_stop(&world.caller, "two")).expect("stopped");
    let done = update(&world, "two", spec("2"));
    settle(&world);
    let done = world.block_on(world.core.command(&world.caller, &done)).expect("command");
    assert_eq!(done.result, Some(Outcome::Success), "{}", done.message);
    let two = find(&world, "two").expect("there");
    assert!(!two.container.desired_running && !two.container.state.is_live() && two.spec.version == "2", "{two:?}");
    world.block_on(world.core.deployment_start(&world.caller, "two")).expect("started");
    // A roll-out's step that waits for an update of the same takes over what that made of it.
    let point = world.hits() + FIRST_STEP + 3;
    world.core.operations().failpoints().hold(point);
    let changed = DeploymentSpec { env: vec![("NEW".into(), "1".into())], ..spec("1") };
    let first = update(&world, "one", changed);
    world.held(point);
    roll_out(&world, 100, "2");
    let inherited = world.block_on(async {
        let host = world.core.hosts().await.expect("hosts").remove(0);
        let new = NewDeployment { name: "one".into(), spec: spec("3") };
        world.core.deployment_update(&world.caller, &host, new, true).await.expect("accepted").uid
    });
    std::thread::sleep(Duration::from_millis(300));
    world.core.operations().failpoints().let_go();
    settle(&world);
    for uid in [first, inherited] {
        let told = world.block_on(world.core.command(&world.caller, &uid)).expect("command");
        assert_eq!(told.result, Some(Outcome::Success), "{}", told.message);
    }
    let one = find(&world, "one").expect("there");
    assert_eq!((one.spec.env, one.spec.version.as_str()), (vec![("NEW".into(), "1".into())], "3"));
    let expected = [("one", "3".to_owned()), ("two", "2".to_owned()), ("three", "2".to_owned())];
    assert_eq!(versions(&world, "after"), expected);
}

#[test]
fn names_of_passing_containers_are_nobodys_and_others_are_left_alone() {
    let world = World::new("deployment-names");
    assert!(create(&world, "web.new.5", spec("1")).is_err());
    create(&world, "web", spec("1")).expect("accepted");
    create(&world, "web.new.api", spec("1")).expect("accepted");
    settle(&world);
    let removal = world.core.deployment_delete(&world.caller, "web");
    world.block_on(removal).expect("accepted");
    settle(&world);
    assert!(find(&world, "web").is_none() && find(&world, "web.new.api").is_some());
    // One that can't be started leaves its name to one that can.
    let config = berth_image::Config { cmd: vec!["missing".into()], ..Default::default() };
    let import = world.core.image_import_rootfs(&world.caller, Cursor::new(tar_with("etc/x")), "app:none", config);
    world.block_on(import).expect("image");
    let failed = create(&world, "new", spec("none")).expect("accepted");
    settle(&world);
    let failed = world.block_on(world.core.command(&world.caller, &failed)).expect("command");
    assert_eq!(failed.result, Some(Outcome::Failed), "{}", failed.message);
    create(&world, "new", spec("1")).expect("the name is free");
    settle(&world);
    assert_eq!(find(&world, "new").expect("made").spec.version, "1");
    // And one whose making waits can be removed.
    let point = world.hits() + FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    create(&world, "late", spec("1")).expect("accepted");
    world.held(point);
    world.block_on(world.core.deployment_delete(&world.caller, "late")).expect("accepted");
    world.core.operations().failpoints().let_go();
    settle(&world);
    assert!(find(&world, "late").is_none());
    assert!(world.block_on(world.core.deployment_delete(&world.caller, "late")).is_err(), "gone");
}

#[test]
fn room_is_granted_once() {
    let world = World::new("deployment-room");
    // The host has eight CPUs; both are accepted before the first of them has its room.
    let point = world.hits() + FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    let big = DeploymentSpec { requests_cpu: 5.0, limits_cpu: 0.0, ..spec("1") };
    let both =
        [create(&world, "a", big.clone()).expect("accepted"), create(&world, "b", big.clone()).expect("accepted")];
    world.core.operations().failpoints().let_go();
    settle(&world);
    let results = both.map(|uid| world.block_on(world.core.command(&world.caller, &uid)).expect("command"));
    let failed: Vec<_> = results.iter().filter(|c| c.result != Some(Outcome::Success)).collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert!(
        failed[0].message.contains("insufficient cpu on the host: 5 requested, 3.00 left"),
        "{}",
        failed[0].message
    );
    let refused = create(&world, "c", big).expect_err("no room").to_string();
    assert!(refused.contains("insufficient cpu"), "{refused}");
}

/// A file is there to be fetched, or the command says why not; and then the same makes it ready.
fn download_disturbed(fault: Fault, at: usize) {
    let story = format!("a download with {fault:?} at {at}");
    let mut world = World::new(&format!("download-{fault:?}-{at}"));
    create(&world, "one", spec("1")).expect("accepted");
    settle(&world);
    let begin = |world: &World| {
        let begun = world.core.download_begin(&world.caller, "one", "/etc/hostname");
        world.block_on(begun).expect("accepted").uid
    };
    let content = |world: &World, command: &str| {
        let found = world.block_on(world.core.download(&world.caller, command)).expect("read")?;
        let text = std::fs::read_to_string(&found.path).expect("file");
        assert_eq!((found.size, found.name.as_str()), (text.len() as u64, "hostname"), "{story}");
        Some(text)
    };
    let expected = format!("{}\n", find(&world, "one").expect("made").container.uid);
    let point = world.hits() + at;
    match fault {
        Fault::Kill => world.core.operations().failpoints().set(point, 0, 0),
        Fault::Fail => world.core.operations().failpoints().set(0, point, 0),
        Fault::Repeat => world.core.operations().failpoints().set(0, 0, point),
    }
    let mut command = begin(&world);
    if fault == Fault::Kill {
        let begun = Instant::now();
        while world.core.operations().failpoints().hits() < point && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        world.restart();
    }
    settle(&world);
    if content(&world, &command).is_none() {
        assert_eq!(fault, Fault::Fail, "{story}");
        command = begin(&world);
        settle(&world);
    }
    assert_eq!(content(&world, &command), Some(expected), "{story}");
    assert!(world.block_on(world.core.download_begin(&world.caller, "one", "etc")).is_err());
}

#[test]
fn making_a_file_ready_disturbed_at_every_point() {
    let mut stories: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for fault in [Fault::Kill, Fault::Fail, Fault::Repeat] {
        // Two writes lead to the step, one follows.
        for at in 1..=FIRST_STEP + 2 {
            stories.push(Box::new(move || download_disturbed(fault, at)));
        }
    }
    all(stories);
}
