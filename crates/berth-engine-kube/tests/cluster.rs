//! The engine on a real cluster: a control plane, two nodes with kubelet and containerd, on this machine (`tests/kubernetes/run`).

use std::process::Command;
use std::time::Duration;

use berth_engine::contract::{Material, check, plain};
use berth_engine::{Engine, EngineError, ExecInput, ExecOutput, ExecRequest, LogOptions, State, UnitId, UnitSpec};
use berth_engine_kube::{KubeEngine, Options};
use berth_testkit::Cluster;

/// What every node has.
const IMAGE: &str = "localhost/busybox:1";

async fn engine_of(cluster: &Cluster, namespace: &str) -> KubeEngine {
    let start_limit = Duration::from_secs(60);
    let options = Options { kubeconfig: Some(cluster.kubeconfig()), start_limit, ..Options::new(namespace, "test") };
    KubeEngine::open(options).await.unwrap_or_else(|error| panic!("open: {error}"))
}

fn words(text: &str) -> Vec<String> {
    text.split('|').map(str::to_owned).collect()
}

fn spec(id: &str, args: &str) -> UnitSpec {
    UnitSpec { image: IMAGE.into(), ..plain(id, &[], &words(args)) }
}

/// Makes a container and starts its first run.
async fn begin(engine: &KubeEngine, spec: &UnitSpec) {
    engine.create(spec).await.unwrap_or_else(|error| panic!("create {}: {error}", spec.id));
    engine.start(&spec.id, 1).await.unwrap_or_else(|error| panic!("start {}: {error}", spec.id));
}

/// How its run ended, when it has.
async fn ended(engine: &KubeEngine, id: &UnitId) -> berth_engine::Exit {
    let mut changes = engine.changes();
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let State::Exited(exit) = engine.observe(id).await.expect("observe").state {
            return exit;
        }
        let changed = tokio::time::timeout_at(limit, changes.recv()).await;
        assert!(changed.is_ok(), "{id} does not end: {:?}", engine.observe(id).await);
    }
}

async fn lines(engine: &KubeEngine, id: &UnitId, options: &LogOptions) -> Vec<String> {
    let mut reader = engine.logs(id, options).await.expect("logs");
    let mut all = Vec::new();
    while let Some(line) = reader.next().await.expect("line") {
        all.push(String::from_utf8_lossy(&line.text).into_owned());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_holds_on_a_real_cluster() {
    let Some(cluster) = Cluster::start(91) else { return };
    for name in ["contract", "life", "other"] {
        cluster.namespace(name);
    }
    let contract = engine_of(&cluster, "contract").await;
    let material = Material {
        image: IMAGE.into(),
        layers: Vec::new(),
        service: words("/bin/sh|-c|trap 'exit 0' TERM; while :; do sleep 0.1; done"),
        greeter: words("/bin/echo|hello"),
        failer: words("/bin/sh|-c|exit 7"),
        missing: words("missing"),
        ports: (31_820, 31_821),
    };
    check(&contract, &material).await;
    hosts(&cluster, &contract).await;
    tells_of_runs(&cluster).await;
    ends_as_asked(&cluster).await;
    says_what_it_can_not_do(&cluster).await;
    survives_the_api_server(&cluster).await;
    for namespace in ["contract", "life", "other"] {
        let left = cluster.kubectl(&["-n", namespace, "get", "pods,secrets", "-o", "name"]);
        assert_eq!(left, "", "nothing is left in {namespace}");
    }
}

async fn hosts(cluster: &Cluster, engine: &KubeEngine) {
    let hosts = engine.hosts().await.expect("hosts");
    assert_eq!(hosts.len(), 2, "those that are machines: {hosts:?}");
    let real = hosts.iter().find(|host| host.name == "real-2").expect("a real node");
    let machine = cluster.kubectl(&["get", "node", "real-2", "-o", "jsonpath={.status.nodeInfo.machineID}"]);
    assert_eq!(real.id, machine.replace('-', ""));
    assert!(real.cpus > 0 && real.memory > 1 << 30 && !real.kernel.is_empty(), "{real:?}");
}

/// Output, exit codes, the second server.
async fn tells_of_runs(cluster: &Cluster) {
    let engine = engine_of(cluster, "life").await;
    let talker = spec("talker", "/bin/sh|-c|for i in 1 2 3 4 5; do echo line $i; done; sleep 1; echo last; exit 3");
    begin(&engine, &talker).await;
    let exit = ended(&engine, &talker.id).await;
    assert!(exit.code == 3 && exit.finished_at.is_some(), "{exit:?}");
    let all = lines(&engine, &talker.id, &LogOptions::default()).await;
    assert_eq!(all, ["line 1", "line 2", "line 3", "line 4", "line 5", "last"]);
    let tail = LogOptions { tail: Some(2), ..LogOptions::default() };
    assert_eq!(lines(&engine, &talker.id, &tail).await, ["line 5", "last"]);
    // Another server of the same installation sees the same; one elsewhere, nothing.
    let second = engine_of(cluster, "life").await;
    assert_eq!(second.observe(&talker.id).await.expect("observe"), engine.observe(&talker.id).await.expect("observe"));
    assert_eq!(engine_of(cluster, "other").await.list().await.expect("list"), []);
    // Out of memory.
    let greedy = UnitSpec { memory: Some(32 << 20), ..spec("greedy", "/bin/sh|-c|x=a; while :; do x=$x$x; done") };
    begin(&engine, &greedy).await;
    let exit = ended(&engine, &greedy.id).await;
    assert!(exit.oom_killed, "{exit:?}");
    for id in [&talker.id, &greedy.id] {
        engine.remove(id).await.expect("remove");
    }
}

/// Stops, pods deleted by others, processes in it.
async fn ends_as_asked(cluster: &Cluster) {
    let engine = engine_of(cluster, "life").await;
    // Whoever ignores the signal is killed after the grace.
    let deaf = spec("deaf", "/bin/sh|-c|trap '' TERM; while :; do sleep 0.1; done");
    begin(&engine, &deaf).await;
    engine.stop(&deaf.id, 15, Duration::from_secs(1)).await.expect("stop");
    assert_eq!(ended(&engine, &deaf.id).await.code, 137);
    let processes = || Command::new("pgrep").args(["-f", "trap '' TERM; while :"]).output().expect("pgrep").stdout;
    assert_eq!(String::from_utf8_lossy(&processes()), "", "no process of it is left");
    // A pod that somebody deletes is told as an end that nobody saw; the next run is a new pod.
    engine.start(&deaf.id, 2).await.expect("start again");
    cluster.kubectl(&["-n", "life", "delete", "pod", "berth-deaf-2", "--grace-period=0", "--force"]);
    let exit = ended(&engine, &deaf.id).await;
    assert!(exit.code == 255 && exit.finished_at.is_none(), "{exit:?}");
    engine.start(&deaf.id, 3).await.expect("start again");
    let request = ExecRequest { args: words("/bin/cat"), stdin: true, ..ExecRequest::default() };
    let mut session = (&engine as &dyn Engine).exec(&deaf.id, &request).await.expect("exec");
    session.input.send(ExecInput::Input(b"to and fro".to_vec())).await.expect("input");
    session.input.send(ExecInput::EndOfInput).await.expect("input");
    let mut heard = Vec::new();
    while let Some(said) = session.output.recv().await {
        match said {
            ExecOutput::Output(_, bytes) => heard.extend(bytes),
            ExecOutput::Ended(code) => assert_eq!(code, 0),
        }
    }
    assert_eq!(heard, b"to and fro");
    engine.remove(&deaf.id).await.expect("remove");
    // One that stops at the signal has its own exit code, and its output stays.
    let polite = spec("polite", "/bin/sh|-c|trap 'echo bye; exit 9' TERM; while :; do sleep 0.1; done");
    let host = engine.hosts().await.expect("hosts").into_iter().find(|host| host.name == "real-3").expect("node").id;
    let polite = UnitSpec { host, ..polite };
    begin(&engine, &polite).await;
    let node = cluster.kubectl(&["-n", "life", "get", "pod", "berth-polite-1", "-o", "jsonpath={.spec.nodeName}"]);
    assert_eq!(node, "real-3", "the host that it is to be on");
    engine.stop(&polite.id, 15, Duration::from_secs(20)).await.expect("stop");
    assert_eq!(ended(&engine, &polite.id).await.code, 9);
    assert_eq!(lines(&engine, &polite.id, &LogOptions::default()).await, ["bye"]);
    engine.remove(&polite.id).await.expect("remove");
}

async fn says_what_it_can_not_do(cluster: &Cluster) {
    let engine = engine_of(cluster, "other").await;
    let missing = UnitSpec { image: "localhost/nowhere:1".into(), ..spec("missing", "/bin/true") };
    engine.create(&missing).await.expect("create");
    let refused = engine.start(&missing.id, 1).await.expect_err("there is no such image");
    assert!(matches!(&refused, EngineError::Start { text, code: 125 } if text.contains("nowhere")), "{refused:?}");
    let huge = UnitSpec { host: "0".repeat(32), ..spec("huge", "/bin/true") };
    engine.create(&huge).await.expect("create");
    let refused = engine.start(&huge.id, 1).await.expect_err("there is no such node");
    assert!(matches!(&refused, EngineError::NoRoom(_)), "{refused:?}");
    let named = UnitSpec { user: "nobody".into(), ..spec("named", "/bin/true") };
    let refused = engine.create(&named).await.expect_err("users by name");
    assert!(matches!(&refused, EngineError::Refused(_)), "{refused:?}");
    // What would be the node's own, for whoever is no administrator.
    let port = |first, last| {
        let protocol = berth_engine::PortProtocol::Tcp;
        vec![berth_engine::PortRequest { protocol, host_ip: None, host_ports: (first, last), container_port: Some(80) }]
    };
    let untrusted = |id: &str| UnitSpec { host_network_trusted: false, ..spec(id, "/bin/true") };
    let source = berth_engine::MountSource::Bind { source: "/".into() };
    let bind = berth_engine::Mount { target: "/host".into(), source, read_only: true };
    for wrong in [
        UnitSpec { ports: port(10_250, 10_250), ..untrusted("kubelet") },
        UnitSpec { mounts: vec![bind], ..untrusted("bind") },
        UnitSpec { network: berth_engine::NetworkMode::Host, ..untrusted("network") },
    ] {
        let refused = engine.create(&wrong).await.expect_err("for administrators");
        assert!(matches!(&refused, EngineError::Refused(_)), "{}: {refused:?}", wrong.id);
    }
    for id in [&missing.id, &huge.id] {
        engine.remove(id).await.expect("remove");
    }
}

/// What is asked while the API server stands still is done when it goes on; what happened meanwhile is learned.
async fn survives_the_api_server(cluster: &Cluster) {
    let engine = engine_of(cluster, "life").await;
    let short = spec("short", "/bin/sh|-c|sleep 2; exit 5");
    begin(&engine, &short).await;
    let server =
        Command::new("pgrep").args(["-f", &format!("kube-apiserver .*{}", cluster.folder().display())]).output();
    let pid = String::from_utf8_lossy(&server.expect("pgrep").stdout).trim().to_owned();
    assert!(!pid.is_empty() && !pid.contains('\n'), "the API server's process: {pid:?}");
    let signal = |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    signal("-STOP");
    let later = spec("later", "/bin/sh|-c|exit 6");
    let (asked, next) = (engine.clone(), later.clone());
    let created = tokio::spawn(async move { asked.create(&next).await });
    // Longer than the container lives.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!created.is_finished(), "it waits");
    signal("-CONT");
    created.await.expect("task").expect("created when the server is back");
    assert_eq!(ended(&engine, &short.id).await.code, 5);
    engine.start(&later.id, 1).await.expect("start");
    assert_eq!(ended(&engine, &later.id).await.code, 6);
    for id in [&short.id, &later.id] {
        engine.remove(id).await.expect("remove");
    }
}
