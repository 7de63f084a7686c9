//! What one command, one container or one account must not hold up.

use std::time::Duration;

use super::super::{GroupDelete, GroupStart, Operation, target};
use super::{Method, World};
use crate::operations::Outcome;
use berth_operations::Domain as _;

fn start() -> Operation {
    GroupStart { update: true, image: None, method: Method::Parallel }.into()
}

#[test]
fn a_fault_of_the_program_ends_its_command_only() {
    let world = World::with_group("faults");
    world.core.operations().failpoints().set_faults(2, 1);
    let done = world.wait(&world.order(start()));
    assert_eq!(done.result, Some(Outcome::Success), "it is tried again after a panic and two faults: {}", done.message);
    world.core.operations().failpoints().set_faults(5, 0);
    let (first, second) = (world.order(start()), world.order(start()));
    let first = world.wait(&first);
    assert_eq!(first.result, Some(Outcome::Failed));
    assert!(first.message.contains("internal error"), "{}", first.message);
    assert_eq!(world.wait(&second).result, Some(Outcome::Success), "what waits behind it gets its turn");
    world.check("after faults", true);
}

#[test]
fn steps_of_an_account_wait_for_each_other() {
    let world = World::with_group("steps");
    let account = world.caller.account;
    let all = &world.core.operations().steps_at_once();
    let mut places: Vec<_> = std::iter::from_fn(|| all.try_take(account)).collect();
    assert_eq!(places.len(), world.core.settings().steps_at_once / 4);
    assert!(all.try_take(account + 1).is_some(), "others have places");
    let enqueued = world.order(start());
    std::thread::sleep(Duration::from_millis(200));
    let steps = world.block_on(world.core.command(&world.caller, &enqueued.uid)).expect("command").activities;
    assert!(
        steps.iter().all(|step| step.name == "pull" || step.result.is_none()),
        "nothing is done meanwhile: {steps:?}"
    );
    places.pop();
    assert_eq!(world.wait(&enqueued).result, Some(Outcome::Success), "one place is enough");
    // What is cancelled while it waits begins nothing.
    places.extend(all.try_take(account));
    let cancelled = world.order(start());
    std::thread::sleep(Duration::from_millis(200));
    world.block_on(world.core.command_cancel(&world.caller, &cancelled.uid)).expect("cancel");
    places.clear();
    let done = world.wait(&cancelled);
    assert_eq!(done.result, Some(Outcome::Superseded), "{}", done.message);
    let begun: Vec<_> = done.activities.iter().filter(|step| step.name == "replace").map(|step| step.result).collect();
    assert!(!begun.is_empty() && begun.iter().all(|result| *result == Some(Outcome::Superseded)), "{begun:?}");
    world.check("after a cancel", true);
}

#[test]
fn commands_that_wait_are_bounded_and_removals_are_not() {
    let world = World::with_group("waiting");
    let group = world.group();
    let point = world.hits() + super::FIRST_STEP;
    world.core.operations().failpoints().hold(point);
    let mut enqueued = vec![world.order(start())];
    world.held(point);
    let bound = world.core.settings().commands_waiting as usize;
    let order = |body: Operation| {
        let target = target::group(group.id);
        world.block_on(world.core.submit(&world.caller, target, group.full_name(), body))
    };
    while enqueued.len() < bound {
        enqueued.push(order(start()).expect("within the bound"));
    }
    let refused = order(start()).expect_err("one more");
    assert_eq!(refused.kind(), crate::error::FaultKind::NoRoom, "{refused}");
    assert!(refused.to_string().contains(&bound.to_string()), "{refused}");
    let removal = order(GroupDelete {}.into()).expect("a removal is taken");
    world.core.operations().failpoints().let_go();
    assert_eq!(world.wait(&removal).result, Some(Outcome::Success));
}

#[test]
fn a_container_that_can_not_be_measured_holds_up_no_other() {
    let world = World::with_group("measured");
    let members = world.block_on(world.core.group_containers(&world.group())).expect("members");
    let (stuck, other) = (&members[0], &members[1]);
    let release = world.engine.hold_stats(&stuck.uid);
    world.block_on(async {
        let core = world.core.clone();
        let sample = tokio::spawn(async move { core.sample().await });
        release.reached().await;
        let stop = world.core.container_stop(&world.caller, &other.name, None);
        tokio::time::timeout(Duration::from_secs(20), stop).await.expect("it is held up").expect("stop");
        release.let_go();
        sample.await.expect("task").expect("sample");
    });
}

#[test]
fn readings_at_the_same_time_count_every_byte_once() {
    let world = World::with_group("readings");
    let members = world.block_on(world.core.group_containers(&world.group())).expect("members");
    let one = &members[0];
    world.block_on(async {
        let mut reading = tokio::task::JoinSet::new();
        for n in 0..200 {
            let (core, id, uid) = (world.core.clone(), one.id, one.uid.clone());
            world.engine.add_traffic(&uid, 7, 3);
            reading.spawn(async move {
                if n % 8 == 0 { core.sample().await } else { core.traffic_of(id, &uid).await.map(drop) }
            });
        }
        while let Some(read) = reading.join_next().await {
            read.expect("task").expect("read");
        }
        let told = world.core.traffic_of(one.id, &one.uid).await.expect("traffic");
        assert_eq!((told.rx_bytes, told.tx_bytes), (1400, 600));
        let points = world.core.container_flow(&world.caller, one.id, None, None).await.expect("flow");
        assert_eq!((points.rx_bytes, points.tx_bytes), (1400, 600), "what is added up is what was counted");
    });
}
