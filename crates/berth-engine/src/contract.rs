//! What every engine must hold to, as one story that runs against any of them.

use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineError};
use crate::session::{ExecOutput, ExecRequest, Session};
use crate::types::{
    LogOptions, NetworkMode, Placement, PortProtocol, PortRequest, Rates, Resources, State, UnitId, UnitSpec,
};

/// What an engine's test brings along.
#[derive(Debug, Clone)]
pub struct Material {
    /// Layers of an image that has the programs below.
    pub layers: Vec<String>,
    /// Runs until it is told to stop, and stops at SIGTERM.
    pub service: Vec<String>,
    /// Prints `hello` and ends with 0.
    pub greeter: Vec<String>,
    /// Ends with 7.
    pub failer: Vec<String>,
    /// A program that the image does not have.
    pub missing: Vec<String>,
    /// Two neighbouring host ports that nobody uses.
    pub ports: (u16, u16),
}

/// A spec with nothing special about it.
pub fn plain(id: &str, layers: &[String], args: &[String]) -> UnitSpec {
    UnitSpec {
        size: None,
        host_network_trusted: true,
        host: String::new(),
        id: id.parse().unwrap_or_else(|e| panic!("{e}")),
        layers: layers.to_vec(),
        args: args.to_vec(),
        env: Vec::new(),
        working_dir: String::new(),
        user: String::new(),
        hostname: id.to_owned(),
        cpu_milli: None,
        memory: None,
        swap: None,
        pids: None,
        shm_size: 64 << 20,
        read_only: false,
        new_privileges: false,
        mounts: Vec::new(),
        network: NetworkMode::Bridge,
        ports: Vec::new(),
        tenant: 1,
        names: vec![id.to_owned()],
        rates: Rates::default(),
        stdin: false,
        terminal: false,
        extras: Default::default(),
    }
}

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

/// The engine's view of a container once it is no longer running, within ten seconds.
async fn ended(engine: &dyn Engine, id: &UnitId) -> State {
    let begun = Instant::now();
    loop {
        let state = engine.observe(id).await.unwrap_or_else(|e| panic!("observe {id}: {e}")).state;
        if !matches!(state, State::Running { .. }) {
            return state;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{id} does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn code(state: &State) -> Option<i32> {
    match state {
        State::Exited(exit) => Some(exit.code),
        _ => None,
    }
}

/// Checks the whole contract; panics at what does not hold. Leaves nothing behind in the engine.
pub async fn check(engine: &dyn Engine, material: &Material) {
    let mut changes = engine.changes();
    let (spec, placement) = lives(engine, material).await;
    changes_while_it_runs(engine, material, &spec, &placement).await;
    runs_further_processes(engine, material, &spec.id).await;
    let second = gives_a_port_to_one_at_a_time(engine, material, &placement).await;
    balances(engine, material, [&spec.id, &second]).await;
    removes(engine, [&spec.id, &second]).await;
    tells_of_ends_and_failures(engine, material).await;
    refuses_what_ends(engine, material).await;
    assert!(engine.list().await.expect("list").iter().all(|id| !id.as_str().starts_with("contract")));
    let mut nudged = 0;
    while changes.try_recv().is_ok() {
        nudged += 1;
    }
    assert!(nudged > 0, "an engine says when to look again");
}

/// What is asked of a container while it dies is done, or refused because it is not running.
async fn refuses_what_ends(engine: &dyn Engine, material: &Material) {
    let spec = plain("contract9", &material.layers, &material.service);
    let id = &spec.id;
    engine.create(&spec).await.expect("create");
    let request = ExecRequest { args: material.greeter.clone(), ..ExecRequest::default() };
    let resources = Resources { memory: Some(64 << 20), ..spec.resources() };
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

/// A port of the host between these two that leads to port 80.
fn port(first: u16, last: u16) -> PortRequest {
    PortRequest { protocol: PortProtocol::Tcp, host_ip: None, host_ports: (first, last), container_port: Some(80) }
}

/// A container is made, runs, ends, and runs again; each call is made twice.
async fn lives(engine: &dyn Engine, material: &Material) -> (UnitSpec, Placement) {
    let mut spec = plain("contract1", &material.layers, &material.service);
    spec.ports = vec![port(material.ports.0, material.ports.1)];
    let id = spec.id.clone();
    assert_eq!(engine.observe(&id).await.expect("observe").state, State::Absent);
    assert!(matches!(engine.start(&id, 1).await, Err(EngineError::NoSuchUnit(_))));
    let placement = engine.create(&spec).await.expect("create");
    assert_eq!(engine.create(&spec).await.expect("create again"), placement);
    assert!(placement.address.is_some() && placement.ports.len() == 1);
    assert_eq!(engine.observe(&id).await.expect("observe").state, State::Created);
    assert!(matches!(engine.signal(&id, 15).await, Err(EngineError::NotRunning(_))));
    engine.start(&id, 1).await.expect("start");
    let first = engine.observe(&id).await.expect("observe");
    engine.start(&id, 1).await.expect("start again");
    assert_eq!(engine.observe(&id).await.expect("observe"), first, "the same run goes on");
    assert!(matches!(first.state, State::Running { .. }) && first.run == 1);
    assert_eq!(engine.stats(std::slice::from_ref(&id)).await.expect("stats").len(), 1);
    let listening = match engine.listen(&id, 2222).await {
        Err(EngineError::Unsupported(_)) => None,
        other => Some(other.expect("listen")),
    };
    assert!(listening.as_ref().is_none_or(|listening| !*listening.ended.borrow()), "it goes on");
    engine.stop(&id, 15, Duration::from_secs(5)).await.expect("stop");
    engine.stop(&id, 15, Duration::from_secs(5)).await.expect("stop again");
    if let Some(mut listening) = listening {
        let told = tokio::time::timeout(Duration::from_secs(5), listening.ended.wait_for(|ended| *ended)).await;
        assert!(told.is_ok_and(|told| told.is_ok()), "who listens is told of the end");
    }
    let stopped = engine.observe(&id).await.expect("observe");
    assert!(matches!(stopped.state, State::Exited(_)), "{stopped:?}");
    engine.start(&id, 1).await.expect("a run that has ended is not begun again");
    assert_eq!(engine.observe(&id).await.expect("observe"), stopped);
    assert!(engine.stats(std::slice::from_ref(&id)).await.expect("stats").is_empty());
    engine.start(&id, 2).await.expect("the next run");
    assert!(matches!(engine.observe(&id).await.expect("observe").state, State::Running { .. }));
    assert_eq!(engine.create(&spec).await.expect("placement").ports, placement.ports, "ports are kept over runs");
    (spec, placement)
}

/// Bounds, ports and a pause, while it runs.
async fn changes_while_it_runs(engine: &dyn Engine, material: &Material, spec: &UnitSpec, placement: &Placement) {
    let id = &spec.id;
    let mut bounds = spec.resources();
    bounds.pids = Some(77);
    for _ in 0..2 {
        engine.update(id, bounds).await.expect("update");
    }
    let mut ports = spec.ports.clone();
    ports.push(PortRequest { container_port: Some(81), ..port(material.ports.0, material.ports.1) });
    let more = engine.set_ports(id, &ports).await.expect("one more port");
    assert_eq!(engine.set_ports(id, &ports).await.expect("again"), more);
    assert!(more.ports.len() == 2 && more.ports[0] == placement.ports[0], "{more:?}");
    assert_eq!(engine.set_ports(id, &spec.ports).await.expect("one less"), *placement);
    for paused in [true, true, false, false] {
        if paused { engine.pause(id).await } else { engine.resume(id).await }.expect("pause, resume");
        let state = engine.observe(id).await.expect("observe").state;
        assert!(matches!(state, State::Running { paused: p, .. } if p == paused), "{state:?}");
    }
}

/// Processes beside the container's own.
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
    assert_eq!(engine.traffic(std::slice::from_ref(id)).await.expect("traffic").len(), 1);
}

/// Ports belong to one container at a time; the id of another container that runs now.
async fn gives_a_port_to_one_at_a_time(engine: &dyn Engine, material: &Material, placement: &Placement) -> UnitId {
    let mut second = plain("contract2", &material.layers, &material.service);
    second.ports = vec![port(placement.ports[0].host_port, placement.ports[0].host_port)];
    assert!(matches!(engine.create(&second).await, Err(EngineError::PortInUse(..))));
    assert_eq!(
        engine.observe(&second.id).await.expect("observe").state,
        State::Absent,
        "a refused create leaves nothing"
    );
    second.ports = vec![port(material.ports.0, material.ports.1)];
    let other = engine.create(&second).await.expect("the other port of the range");
    assert_ne!(other.ports[0].host_port, placement.ports[0].host_port);
    assert_ne!(other.address, placement.address);
    engine.start(&second.id, 1).await.expect("start");
    second.id
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
    let mut third = plain("contract6", &material.layers, &material.service);
    third.ports = vec![port(given[0].host_port, given[0].host_port)];
    assert!(matches!(engine.create(&third).await, Err(EngineError::PortInUse(..))), "a load balancer's port is taken");
    assert_eq!(engine.connections(over[0], &[80]).await.expect("connections"), 0);
    for _ in 0..2 {
        assert!(engine.set_load_balancer(&load_balancer, 1, &[], &[]).await.expect("taken away").is_empty());
    }
    assert!(engine.load_balancers().await.expect("load_balancers").is_empty());
}

/// Removal, of one that runs too, and twice.
async fn removes(engine: &dyn Engine, all: [&UnitId; 2]) {
    let [id, second] = all;
    engine.remove(id).await.expect("remove a running one");
    engine.remove(id).await.expect("remove again");
    assert_eq!(engine.observe(id).await.expect("observe").state, State::Absent);
    engine.remove(second).await.expect("remove");
}

async fn tells_of_ends_and_failures(engine: &dyn Engine, material: &Material) {
    for (name, args, expected) in [("contract3", &material.greeter, 0), ("contract4", &material.failer, 7)] {
        let spec = plain(name, &material.layers, args);
        engine.create(&spec).await.expect("create");
        engine.start(&spec.id, 1).await.expect("start");
        assert_eq!(code(&ended(engine, &spec.id).await), Some(expected), "{name}");
        if expected == 0 {
            let mut reader = engine.logs(&spec.id, &LogOptions::default()).await.expect("logs");
            let line = reader.next().await.expect("read").expect("a line");
            assert_eq!((line.text.as_slice(), line.ends), (&b"hello"[..], true));
            assert_eq!(reader.next().await.expect("read"), None);
            let options = LogOptions { since: Some(i64::MAX), ..LogOptions::default() };
            assert_eq!(engine.logs(&spec.id, &options).await.expect("logs").next().await.expect("read"), None);
        }
        engine.remove(&spec.id).await.expect("remove");
    }
    let spec = plain("contract5", &material.layers, &material.missing);
    engine.create(&spec).await.expect("create");
    let refused = engine.start(&spec.id, 1).await.expect_err("a program that is missing");
    assert!(
        matches!(&refused, EngineError::Start { text, code: 127 } if text.contains(&material.missing[0])),
        "{refused:?}"
    );
    assert!(!matches!(engine.observe(&spec.id).await.expect("observe").state, State::Running { .. }));
    engine.remove(&spec.id).await.expect("remove");
}

#[cfg(test)]
mod tests {
    use super::{Material, check};
    use crate::FakeEngine;

    #[tokio::test]
    async fn the_fake_holds_to_the_contract() {
        let types = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let material = Material {
            layers: Vec::new(),
            service: types("sleep"),
            greeter: types("echo hello"),
            failer: types("exit 7"),
            missing: types("missing"),
            ports: (20_000, 20_001),
        };
        check(&FakeEngine::default(), &material).await;
    }
}
