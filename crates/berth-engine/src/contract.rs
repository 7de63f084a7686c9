//! What every engine must hold to, as one story that runs against any of them; each ability has a clause of its own.

mod abilities;

use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineError};
use crate::types::{LogOptions, NetworkMode, Placement, PortProtocol, PortRequest, Rates, State, UnitId, UnitSpec};

/// What an engine's test brings along.
#[derive(Debug, Clone)]
pub struct Material {
    /// The name of an image that has the programs below, for an engine whose nodes pull it.
    pub image: String,
    /// Its layers.
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

impl Material {
    fn spec(&self, id: &str, args: &[String]) -> UnitSpec {
        UnitSpec { image: self.image.clone(), ..plain(id, &self.layers, args) }
    }
}

/// A spec with nothing special about it.
pub fn plain(id: &str, layers: &[String], args: &[String]) -> UnitSpec {
    UnitSpec {
        size: None,
        host_network_trusted: true,
        host: String::new(),
        image: String::new(),
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

/// Checks the whole contract: the base, and the clause of each ability that the engine has. Panics at what does not hold. Leaves nothing
/// behind in the engine.
pub async fn check(engine: &dyn Engine, material: &Material) {
    let mut changes = engine.changes();
    let (spec, placement) = lives(engine, material).await;
    abilities::while_it_runs(engine, material, &spec, &placement).await;
    let second = gives_a_port_to_one_at_a_time(engine, material, &placement).await;
    abilities::over_two(engine, material, [&spec.id, &second]).await;
    removes(engine, [&spec.id, &second]).await;
    tells_of_ends_and_failures(engine, material).await;
    abilities::while_it_dies(engine, material).await;
    assert!(engine.list().await.expect("list").iter().all(|id| !id.as_str().starts_with("contract")));
    let mut nudged = 0;
    while changes.try_recv().is_ok() {
        nudged += 1;
    }
    assert!(nudged > 0, "an engine says when to look again");
}

/// A port of the host between these two that leads to port 80.
fn port(first: u16, last: u16) -> PortRequest {
    PortRequest { protocol: PortProtocol::Tcp, host_ip: None, host_ports: (first, last), container_port: Some(80) }
}

/// A container is made, runs, ends, and runs again; each call is made twice.
async fn lives(engine: &dyn Engine, material: &Material) -> (UnitSpec, Placement) {
    let mut spec = material.spec("contract1", &material.service);
    spec.ports = vec![port(material.ports.0, material.ports.1)];
    let id = spec.id.clone();
    assert_eq!(engine.observe(&id).await.expect("observe").state, State::Absent);
    assert!(matches!(engine.start(&id, 1).await, Err(EngineError::NoSuchUnit(_))));
    let placement = engine.create(&spec).await.expect("create");
    assert_eq!(engine.create(&spec).await.expect("create again"), placement);
    assert_eq!(placement.ports.len(), 1);
    assert_eq!(engine.observe(&id).await.expect("observe").state, State::Created);
    abilities::before_it_runs(engine, &id).await;
    engine.start(&id, 1).await.expect("start");
    let first = engine.observe(&id).await.expect("observe");
    engine.start(&id, 1).await.expect("start again");
    assert_eq!(engine.observe(&id).await.expect("observe"), first, "the same run goes on");
    assert!(matches!(first.state, State::Running { .. }) && first.run == 1);
    assert!(engine.observe_all().await.expect("observe all").contains(&(id.clone(), first)));
    let listening = abilities::listens(engine, &id).await;
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
    if let Some(usage) = engine.abilities().usage {
        assert!(usage.stats(std::slice::from_ref(&id)).await.expect("stats").is_empty(), "it does not run");
    }
    engine.start(&id, 2).await.expect("the next run");
    assert!(matches!(engine.observe(&id).await.expect("observe").state, State::Running { .. }));
    assert_eq!(engine.create(&spec).await.expect("placement").ports, placement.ports, "ports are kept over runs");
    (spec, placement)
}

/// Ports belong to one container at a time; the id of another container that runs now.
async fn gives_a_port_to_one_at_a_time(engine: &dyn Engine, material: &Material, placement: &Placement) -> UnitId {
    let mut second = material.spec("contract2", &material.service);
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
    assert!(other.address.is_none() || other.address != placement.address, "an address is one container's");
    engine.start(&second.id, 1).await.expect("start");
    second.id
}

/// Removal, of one that runs too, and twice.
async fn removes(engine: &dyn Engine, all: [&UnitId; 2]) {
    let [id, second] = all;
    engine.remove(id).await.expect("remove a running one");
    engine.remove(id).await.expect("remove again");
    assert_eq!(engine.observe(id).await.expect("observe").state, State::Absent);
    engine.remove(second).await.expect("remove");
}

/// A log of one line.
async fn numbers_lines(engine: &dyn Engine, id: &UnitId) {
    let of = |tail, after, before| LogOptions { tail, after, before, numbered: true, ..LogOptions::default() };
    for (options, expected) in [
        (of(None, None, None), Some(1)),
        (of(Some(9), None, None), Some(1)),
        (of(Some(9), None, Some(2)), Some(1)),
        (of(Some(9), None, Some(1)), None),
        (of(Some(0), None, None), None),
        (of(None, Some(0), None), Some(1)),
        (of(None, Some(1), None), None),
        // It has not reached that number.
        (of(None, Some(2), None), Some(1)),
        // It has, although nothing of it is so old.
        (LogOptions { until: Some(i64::MIN), ..of(None, Some(1), None) }, None),
    ] {
        let line = engine.logs(id, &options).await.expect("logs").next().await.expect("read");
        assert_eq!(line.map(|line| line.number), expected.map(Some), "{options:?}");
    }
}

async fn tells_of_ends_and_failures(engine: &dyn Engine, material: &Material) {
    for (name, args, expected) in [("contract3", &material.greeter, 0), ("contract4", &material.failer, 7)] {
        let spec = material.spec(name, args);
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
            numbers_lines(engine, &spec.id).await;
        }
        engine.remove(&spec.id).await.expect("remove");
    }
    let spec = material.spec("contract5", &material.missing);
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
    use super::{Material, check, plain};
    use crate::engine::Engine;
    use crate::fake::FakeEngine;
    use crate::session::ExecRequest;

    fn material() -> Material {
        let types = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        Material {
            image: String::new(),
            layers: Vec::new(),
            service: types("sleep"),
            greeter: types("echo hello"),
            failer: types("exit 7"),
            missing: types("missing"),
            ports: (20_000, 20_001),
        }
    }

    #[tokio::test]
    async fn the_fake_holds_to_the_contract() {
        check(&FakeEngine::default(), &material()).await;
    }

    #[tokio::test]
    async fn an_engine_without_abilities_holds_to_the_base_and_says_what_it_can_not_do() {
        let engine = FakeEngine::default().without_abilities();
        check(&engine, &material()).await;
        let engine: &dyn Engine = &engine;
        let spec = plain("bare", &[], &material().service);
        engine.create(&spec).await.expect("create");
        engine.start(&spec.id, 1).await.expect("start");
        let request = ExecRequest { args: material().greeter, ..ExecRequest::default() };
        let refused = engine.exec(&spec.id, &request).await.expect_err("no exec");
        assert_eq!(refused.to_string(), "running a process in a container is not possible on this engine");
        assert!(engine.files(&spec.id, false).await.is_err() && engine.pause(&spec.id).await.is_err());
        // What is only a figure is not known.
        let ids = std::slice::from_ref(&spec.id);
        assert!(engine.stats(ids).await.expect("stats").is_empty());
        assert!(engine.traffic(ids).await.expect("traffic").is_empty());
    }
}
