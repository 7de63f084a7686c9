//! The commands of containers with plans, disturbed as those of groups are.

use std::time::{Duration, Instant};

use berth_engine::{Engine, State};

use super::{Fault, World, all};
use crate::plans::{Charge, NewPlanned, Plan, PlanChange, PlanOperation, PlanProgress, Planned};
use berth_operations::Domain as _;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Create,
    Resize,
    Update,
    Restart,
    Delete,
}

const DEEDS: [Deed; 5] = [Deed::Create, Deed::Resize, Deed::Update, Deed::Restart, Deed::Delete];

fn create(world: &World, name: &str) -> i64 {
    world.block_on(async {
        let image = world.core.images(&world.caller, 0, 10).await.expect("images")[0].id;
        let plan = Plan {
            charge: Charge::Package,
            spec: 1,
            image,
            description: String::new(),
            ssh_keys: Vec::new(),
            env: [("A".to_owned(), "b".to_owned())].into(),
            public: true,
            network_charge: None,
            bandwidth: Some(100),
            ssh_by_us: false,
        };
        let new = NewPlanned { name: name.into(), plan, official: false };
        world.core.planned_create(&world.caller, new).await.expect("accepted").id
    })
}

/// How it stands when nothing is under way; `None` when it is gone.
fn settled(world: &World, id: i64) -> Option<Planned> {
    let begun = Instant::now();
    loop {
        let busy = world.block_on(world.core.read(move |tx| Ok(tx.command_next("container", id)?))).expect("read");
        let found = world.block_on(world.core.planned(&world.caller, id)).ok();
        match found {
            None if busy.is_none() => return None,
            Some(found) if busy.is_none() => return Some(found),
            _ => assert!(begun.elapsed() < Duration::from_secs(20), "{busy:?} does not end"),
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Has it done; the container's number.
fn order(world: &World, deed: Deed, id: i64) -> i64 {
    let (core, caller) = (&world.core, &world.caller);
    match deed {
        Deed::Create => return create(world, "new"),
        Deed::Resize => {
            let change = PlanChange { spec: Some(20), ..PlanChange::default() };
            world.block_on(core.planned_change(caller, id, change)).expect("accepted");
        }
        Deed::Update => {
            let change = PlanChange { bandwidth: Some(7), ..PlanChange::default() };
            world.block_on(core.planned_change(caller, id, change)).expect("accepted");
        }
        Deed::Restart => world.block_on(core.planned_restart(caller, id)).expect("accepted"),
        Deed::Delete => world.block_on(core.planned_delete(caller, id)).expect("accepted"),
    }
    id
}

fn runs(world: &World, planned: &Planned) -> bool {
    let observed = world.block_on(world.engine.observe(&planned.container.uid)).expect("observe");
    matches!(observed.state, State::Running { .. })
}

fn check_done(world: &World, deed: Deed, id: i64, story: &str) {
    let found = settled(world, id);
    if deed == Deed::Delete {
        assert!(found.is_none(), "{story}");
        assert!(world.block_on(world.engine.list()).expect("list").is_empty(), "{story}");
        return;
    }
    let found = found.unwrap_or_else(|| panic!("{story}: it is gone"));
    assert_eq!(found.progress, PlanProgress::Succeeded, "{story}");
    assert!(runs(world, &found), "{story}: it does not run");
    let spec = &found.container.spec;
    match deed {
        Deed::Create => assert_eq!(found.operation, PlanOperation::Create, "{story}"),
        Deed::Resize => {
            assert_eq!((found.operation, found.plan.spec), (PlanOperation::Resize, 20), "{story}");
            assert_eq!((spec.memory, spec.cpu_milli), (Some(2048 << 20), Some(2000)), "{story}");
        }
        Deed::Update => {
            assert_eq!((found.operation, found.plan.bandwidth), (PlanOperation::Update, Some(7)), "{story}");
            assert_eq!(spec.rates.egress, Some(7_000_000), "{story}");
        }
        Deed::Restart => assert!(found.container.runs >= 2, "{story}: {}", found.container.runs),
        Deed::Delete => {}
    }
}

fn with_one(name: &str) -> (World, i64) {
    let world = World::new(name);
    let id = create(&world, "old");
    check_done(&world, Deed::Create, id, name);
    (world, id)
}

fn disturbed(deed: Deed, fault: Fault, at: usize) {
    let story = format!("{deed:?} with {fault:?} at {at}");
    let (mut world, old) = with_one(&format!("plan-{deed:?}-{fault:?}-{at}"));
    let point = world.hits() + at;
    match fault {
        Fault::Kill => world.core.operations().failpoints().set(point, 0, 0),
        Fault::Fail => world.core.operations().failpoints().set(0, point, 0),
        Fault::Repeat => world.core.operations().failpoints().set(0, 0, point),
    }
    let id = order(&world, deed, old);
    if fault == Fault::Kill {
        let begun = Instant::now();
        while world.core.operations().failpoints().hits() < point && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
        world.restart();
    }
    let found = settled(&world, id);
    // A restart is none of the operations that show: one that failed is seen by what it did not do.
    let undone = deed == Deed::Restart && found.as_ref().is_some_and(|found| found.container.runs < 2);
    let failed = undone || found.as_ref().is_some_and(|found| found.progress == PlanProgress::Failed);
    if !failed {
        check_done(&world, deed, id, &story);
        return;
    }
    assert_eq!(fault, Fault::Fail, "{story}");
    if deed == Deed::Create {
        // It says so, and can be removed.
        order(&world, Deed::Delete, id);
        assert!(settled(&world, id).is_none(), "{story}");
    } else {
        // As it was; and the same does it now.
        let found = found.unwrap_or_else(|| panic!("{story}: it is gone"));
        assert!(deed == Deed::Delete || (found.plan.spec, found.plan.bandwidth) == (1, Some(100)), "{story}");
        order(&world, deed, id);
        check_done(&world, deed, id, &story);
    }
}

#[test]
fn every_command_of_a_plan_disturbed_at_every_point() {
    let mut stories: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for deed in DEEDS {
        let (world, old) = with_one(&format!("plan-points-{deed:?}"));
        let before = world.hits();
        let id = order(&world, deed, old);
        check_done(&world, deed, id, "undisturbed");
        let points = world.hits() - before;
        assert!(points >= 5, "{deed:?}: {points}");
        for fault in [Fault::Kill, Fault::Fail, Fault::Repeat] {
            for at in 1..=points {
                stories.push(Box::new(move || disturbed(deed, fault, at)));
            }
        }
    }
    all(stories);
}

#[test]
fn nothing_else_begins_meanwhile_but_a_removal() {
    let (world, id) = with_one("plan-busy");
    let point = world.hits() + 1;
    // It stands still where it is.
    world.core.operations().failpoints().set(point, 0, 0);
    order(&world, Deed::Resize, id);
    let busy = |result: Result<(), crate::Error>| {
        assert!(matches!(result, Err(crate::Error::WrongState(_))), "{result:?}");
    };
    let change = PlanChange { bandwidth: Some(1), ..PlanChange::default() };
    busy(world.block_on(world.core.planned_change(&world.caller, id, change)));
    busy(world.block_on(world.core.planned_restart(&world.caller, id)));
    world.block_on(world.core.planned_delete(&world.caller, id)).expect("a removal overtakes");
    let mut world = world;
    world.restart();
    assert!(settled(&world, id).is_none());
}
