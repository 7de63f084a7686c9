//! A clause for each ability, which an engine that has it must hold to.

use std::time::Duration;

use super::{Material, ended, port};
use crate::engine::{Engine, EngineError, Listening};
use crate::session::{ExecOutput, ExecRequest, Session};
use crate::types::{Placement, PortRequest, Resources, State, UnitId, UnitSpec};

/// Everything a process says, and its exit code.
async fn heard(mut session: Session) -> (String, Option<i32>) {
    let mut text = Vec::new();
    while let Some(said) = session.output.recv().await {
        match said {
            ExecOutput::Output(_, bytes) => text.extend(bytes),
            ExecOutput::Ended(code) => return (String::from_utf8_lossy(&text).into_owned(), Some(code)),
        }
    }
    (String::from_utf8_lossy(&text).into_owned(), None)
}

/// Signals: there is nobody to send one to.
pub(super) async fn before_it_runs(engine: &dyn Engine, id: &UnitId) {
    if let Some(signals) = engine.abilities().signals {
        assert!(matches!(signals.signal(id, 15).await, Err(EngineError::NotRunning(_))));
    }
}

/// Inbound: a socket in its network, which goes on.
pub(super) async fn listens(engine: &dyn Engine, id: &UnitId) -> Option<Listening> {
    let listening = match engine.abilities().inbound?.listen(id, 2222).await {
        Err(EngineError::Unsupported(_)) => None,
        other => Some(other.expect("listen")),
    };
    assert!(listening.as_ref().is_none_or(|listening| !*listening.ended.borrow()), "it goes on");
    listening
}

/// What is done to a container that runs.
pub(super) async fn while_it_runs(engine: &dyn Engine, material: &Material, spec: &UnitSpec, placement: &Placement) {
    let id = &spec.id;
    let able = engine.abilities();
    if let Some(live_update) = able.live_update {
        let bounds = Resources { pids: Some(77), ..spec.resources() };
        for _ in 0..2 {
            live_update.update(id, bounds).await.expect("update");
        }
    }
    if let Some(changing) = able.ports {
        let mut ports = spec.ports.clone();
        ports.push(PortRequest { container_port: Some(81), ..port(material.ports.0, material.ports.1) });
        let more = changing.set_ports(id, &ports).await.expect("one more port");
        assert_eq!(changing.set_ports(id, &ports).await.expect("again"), more);
        assert!(more.ports.len() == 2 && more.ports[0] == placement.ports[0], "{more:?}");
        assert_eq!(changing.set_ports(id, &spec.ports).await.expect("one less"), *placement);
    }
    if let Some(pause) = able.pause {
        for paused in [true, true, false, false] {
            if paused { pause.pause(id).await } else { pause.resume(id).await }.expect("pause, resume");
            let state = engine.observe(id).await.expect("observe").state;
            assert!(matches!(state, State::Running { paused: p, .. } if p == paused), "{state:?}");
        }
    }
    if let Some(usage) = able.usage {
        assert_eq!(usage.stats(std::slice::from_ref(id)).await.expect("stats").len(), 1);
        assert_eq!(usage.disk(std::slice::from_ref(id)).await.expect("disk").len(), 1);
    }
    if let Some(traffic) = able.traffic {
        assert_eq!(traffic.traffic(std::slice::from_ref(id)).await.expect("traffic").len(), 1);
    }
    if let Some(naming) = able.naming {
        for names in [&["another".to_owned()][..], &spec.names] {
            naming.rename(id, names).await.expect("rename");
        }
    }
    if let Some(files) = able.files {
        let opened = files.files(id, false).await.expect("files");
        let found = tokio::task::spawn_blocking(move || opened.stat(std::path::Path::new("/etc/hostname"))).await;
        assert_eq!(found.expect("task").expect("a file that every container has").name, "hostname");
    }
    if let Some(inspection) = able.inspection {
        assert!(!inspection.processes(id).await.expect("processes").is_empty());
    }
    if able.exec.is_some() {
        runs_further_processes(engine, material, id).await;
    }
}

/// Exec.
async fn runs_further_processes(engine: &dyn Engine, material: &Material, id: &UnitId) {
    let asked = |args: &[String]| ExecRequest { args: args.to_vec(), ..ExecRequest::default() };
    let greeted = heard(engine.exec(id, &asked(&material.greeter)).await.expect("exec")).await;
    assert_eq!(greeted, ("hello\n".to_owned(), Some(0)));
    let failed = heard(engine.exec(id, &asked(&material.failer)).await.expect("exec")).await;
    assert_eq!(failed, (String::new(), Some(7)));
    let refused = engine.exec(id, &asked(&material.missing)).await.expect_err("a program that is missing");
    assert!(
        matches!(&refused, EngineError::Start { text, code: 127 } if text.contains(&material.missing[0])),
        "{refused:?}"
    );
}

/// Load balancing.
pub(super) async fn over_two(engine: &dyn Engine, material: &Material, over: [&UnitId; 2]) {
    if engine.abilities().load_balancing.is_some() {
        balances(engine, material, over).await;
    }
}

/// A load balancer over two containers, changed, taken over by another port, and taken away.
async fn balances(engine: &dyn Engine, material: &Material, over: [&UnitId; 2]) {
    let load_balancer: UnitId = "front1".parse().unwrap_or_else(|e| panic!("{e}"));
    let range = [PortRequest { host_ports: (material.ports.0 + 2, material.ports.1 + 3), ..port(1, 1) }];
    let both = over.map(Clone::clone);
    let given = engine.set_load_balancer(&load_balancer, 1, &range, &both).await.expect("a load balancer");
    assert_eq!(
        engine.set_load_balancer(&load_balancer, 1, &range, &both[..1]).await.expect("over one"),
        given,
        "its port is kept"
    );
    assert_eq!(engine.set_load_balancer(&load_balancer, 1, &range, &both[..1]).await.expect("again"), given);
    assert_eq!(engine.load_balancers().await.expect("load_balancers"), std::slice::from_ref(&load_balancer));
    let mut third = material.spec("contract6", &material.service);
    third.ports = vec![port(given[0].host_port, given[0].host_port)];
    assert!(matches!(engine.create(&third).await, Err(EngineError::PortInUse(..))), "a load balancer's port is taken");
    assert_eq!(engine.connections(over[0], &[80]).await.expect("connections"), 0);
    for _ in 0..2 {
        assert!(engine.set_load_balancer(&load_balancer, 1, &[], &[]).await.expect("taken away").is_empty());
    }
    assert!(engine.load_balancers().await.expect("load_balancers").is_empty());
}

/// What is asked of a container while it dies is done, or refused because it is not running.
pub(super) async fn while_it_dies(engine: &dyn Engine, material: &Material) {
    let spec = material.spec("contract9", &material.service);
    let id = &spec.id;
    engine.create(&spec).await.expect("create");
    let request = ExecRequest { args: material.greeter.clone(), ..ExecRequest::default() };
    let resources = Resources { memory: Some(64 << 20), ..spec.resources() };
    if engine.abilities().signals.is_none() {
        engine.remove(id).await.expect("remove");
        return;
    }
    for run in 1..=40 {
        engine.start(id, run).await.expect("start");
        let kill = async {
            // A little later each time: the calls meet the end at each of their steps.
            tokio::time::sleep(Duration::from_micros(150 * run)).await;
            engine.signal(id, 9).await
        };
        let (killed, exec, again, paused, changed, files) = tokio::join!(
            kill,
            engine.exec(id, &request),
            engine.exec(id, &request),
            async {
                let paused = engine.pause(id).await;
                paused.and(engine.resume(id).await)
            },
            engine.update(id, resources),
            async {
                let opened = engine.files(id, false).await;
                opened.map(drop)
            },
        );
        for (call, answer) in [
            ("signal", killed),
            ("exec", exec.map(drop)),
            ("exec again", again.map(drop)),
            ("pause and resume", paused),
            ("update", changed),
            ("files", files),
        ] {
            let fine = match &answer {
                Ok(()) | Err(EngineError::NotRunning(_)) => true,
                Err(EngineError::Paused(_)) => call.starts_with("exec"),
                Err(EngineError::Unsupported(_)) => call != "signal",
                Err(_) => false,
            };
            assert!(fine, "{call} of a container that ends, run {run}: {answer:?}");
        }
        ended(engine, id).await;
    }
    engine.remove(id).await.expect("remove");
}
