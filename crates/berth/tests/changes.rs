//! Containers that change while they run, end and come back: bounds, ports, bandwidth, counters, policies, health, logs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use berth_testkit::{Server, done, free_port, image, is_root};
use serde_json::{Value, json};

async fn server(name: &str, settings: &str) -> Option<Server> {
    let rootfs = image("busybox").filter(|_| is_root())?;
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), name, settings).await;
    server.import(&rootfs, "busybox", &[]);
    Some(server)
}

async fn run(server: &Server, mut asked: Value) -> Value {
    let defaults = json!({"image": "busybox", "start": true, "command": ["sleep", "1000"]});
    for (key, value) in defaults.as_object().expect("object") {
        asked.as_object_mut().expect("object").entry(key).or_insert(value.clone());
    }
    let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

async fn show(server: &Server, id: &str) -> Value {
    server.request("GET", &format!("/v1/containers/{id}"), "").await.json()
}

async fn traffic(server: &Server, id: &str) -> (u64, u64, u64, u64) {
    let t = server.request("GET", &format!("/v1/containers/{id}/traffic"), "").await.json();
    let field = |name: &str| t[name].as_u64().expect("a number");
    (field("rx_bytes"), field("rx_packets"), field("tx_bytes"), field("tx_packets"))
}

async fn until(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    let limit = limit * berth_testkit::slow();
    while !so().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn address(container: &Value) -> Ipv4Addr {
    container["address"].as_str().and_then(|a| a.parse().ok()).expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_and_ports_change_while_it_runs_and_last() {
    let Some(mut server) = server("update", "").await else { return };
    let httpd = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
    let made = run(
        &server,
        json!({"name": "a", "memory": 64 << 20, "cpus": 1.0, "pids": 100, "command": ["sh", "-c", httpd]}),
    )
    .await;
    let bounds = || {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max 2>/dev/null \
            || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
        done(&server, &["exec", "a", "sh", "-c", script])
    };
    assert!(bounds().starts_with("67108864\n100000"), "{}", bounds());
    done(&server, &["update", "-m", "128m", "--cpus", "0.5", "--pids-limit", "77", "--restart", "always", "a"]);
    assert!(bounds().starts_with("134217728\n50000") && bounds().contains("77"), "{}", bounds());
    done(&server, &["update", "--cpus", "none", "a"]);
    let shown = show(&server, "a").await;
    assert_eq!(
        (&shown["cpus"], &shown["memory"], &shown["restart"]),
        (&Value::Null, &json!(134_217_728), &json!("always"))
    );
    for wrong in [
        json!({"memory": 1}),
        json!({"ingress": 5}),
        json!({"restart": "maybe"}),
        json!({"cpus": "x"}),
        json!({"nonsense": 1}),
    ] {
        let answer = server.request("PATCH", "/v1/containers/a", wrong.to_string()).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text);
    }
    // Ports come and go; those that stay are not touched.
    let reach = |port: u16| {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.ends_with("page\n").then_some(())
    };
    let (one, two) = (free_port(), free_port());
    done(&server, &["port", "--add", &format!("{one}:80"), "a"]);
    until("the port answers", Duration::from_secs(5), async || reach(one).is_some()).await;
    done(&server, &["port", "--add", &format!("{two}:80"), "a"]);
    assert!(reach(one).is_some() && reach(two).is_some());
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    let used = taken.local_addr().expect("address").port();
    assert!(server.cli(&["port", "--add", &format!("{used}:80"), "a"]).2.contains("in use"));
    assert!(reach(two).is_some(), "a refused change changes nothing");
    done(&server, &["port", "--remove", &one.to_string(), "a"]);
    assert!(reach(one).is_none() && reach(two).is_some());
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, one)).is_ok(), "given back");
    // All of it holds over a crash of the server and a restart of the container.
    server.kill();
    server.up().await;
    assert!(reach(two).is_some());
    done(&server, &["restart", "-t", "0", "a"]);
    until("the port answers again", Duration::from_secs(5), async || reach(two).is_some()).await;
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(done(&server, &["exec", "a", "sh", "-c", script]), "134217728\n");
    assert_eq!(show(&server, "a").await["address"], made["address"]);

    // Paused: nothing moves, also over a crash; stopping and removing work.
    run(&server, json!({"name": "p", "command": ["sh", "-c", "while true; do date +%s%N; sleep 0.02; done"]})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    done(&server, &["pause", "p"]);
    let lines = || done(&server, &["logs", "p"]).lines().count();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let before = lines();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(lines(), before);
    assert!(done(&server, &["ps"]).contains("(paused)"));
    server.kill();
    server.up().await;
    assert_eq!(show(&server, "p").await["state"], "paused");
    server.cli(&["unpause", "p"]);
    until("it goes on", Duration::from_secs(5), async || done(&server, &["logs", "p"]).lines().count() > before).await;
    done(&server, &["pause", "p"]);
    done(&server, &["stop", "-t", "1", "p"]);
    done(&server, &["start", "p"]);
    done(&server, &["pause", "p"]);
    done(&server, &["rm", "-f", "p"]);
    server.finish().await;
}

/// Datagrams of one size, all sent.
fn send(to: SocketAddr, count: u64, size: usize) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let payload = vec![7; size];
    for n in 0..count {
        socket.send_to(&payload, to).expect("send");
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_counted_to_the_byte_over_every_restart() {
    let Some(python) = image("python") else { return };
    // Of its own: what a test before this one still sends to its containers must not come to these.
    let Some(mut server) = server("traffic", "[engine]\nsubnet = \"198.18.79.1/24\"\n").await else { return };
    server.import(&python, "python", &[]);
    let bound = async |server: &Server, id: &str, times: usize| {
        until("it listens", Duration::from_secs(10), async || done(server, &["logs", id]).lines().count() >= times)
            .await;
    };
    // 20 bytes of IP header and 8 of UDP's; a few packets of ARP and answers come on top.
    let (count, size) = (2000u64, 1000usize);
    let exact = count * (size as u64 + 28);
    let near =
        |counted: u64, expected: u64| counted >= expected && (counted - expected) as f64 <= expected as f64 * 0.001;
    // Swallows what comes: an answer for each would be an ICMP packet.
    let sink = |port: u16| {
        let script = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', {port}))\nprint('bound', flush=True)\nwhile True: s.recv(2000)"
        );
        json!(["python3", "-c", script])
    };
    let made = run(&server, json!({"name": "a", "image": "python", "command": sink(9)})).await;
    let to = SocketAddr::from((address(&made), 9));
    let (mut expected, mut runs) = (0, 0);
    for step in ["first", "restart of the container", "crash of the server", "crash of the shim and of the server"] {
        match step {
            "restart of the container" => drop(done(&server, &["restart", "-t", "0", "a"])),
            "crash of the server" => {
                server.kill();
                server.up().await;
            }
            "crash of the shim and of the server" => {
                let path = server.data.join(format!("engine/units/{}/shim.json", made["id"].as_str().expect("id")));
                let shim: Value = serde_json::from_str(&fs::read_to_string(path).expect("shim")).expect("json");
                // SAFETY: a plain signal to a process that this test's own server started.
                unsafe { libc::kill(shim["pid"].as_i64().expect("pid") as i32, libc::SIGKILL) };
                until("its end is seen", Duration::from_secs(5), async || {
                    show(&server, "a").await["state"] == "exited"
                })
                .await;
                server.kill();
                server.up().await;
                done(&server, &["start", "a"]);
            }
            _ => {}
        }
        runs += usize::from(step != "crash of the server");
        bound(&server, "a", runs).await;
        send(to, count, size);
        expected += exact;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (rx, packets, tx, _) = traffic(&server, "a").await;
        assert!(near(rx, expected), "{step}: {rx} for {expected}");
        assert!(packets >= expected / (size as u64 + 28), "{step}: {packets} packets");
        assert!(tx < expected / 100, "{step}: {tx}");
    }
    done(&server, &["stop", "-t", "0", "a"]);
    assert!(near(traffic(&server, "a").await.0, expected), "a stopped one keeps its counters");
    let shown: Value = serde_json::from_str(&done(&server, &["traffic", "--json"])).expect("json");
    assert_eq!((&shown[0]["name"], &shown[0]["rx_bytes"]), (&json!("a"), &json!(traffic(&server, "a").await.0)));
    let (rx, row) = (traffic(&server, "a").await.0.to_string(), done(&server, &["traffic", "a"]));
    assert!(row.lines().nth(1).is_some_and(|l| l.contains(&rx)), "{row}");

    // In the host's network: by its sockets.
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("port").port();
    run(&server, json!({"name": "h", "image": "python", "network": "host", "command": sink(port)})).await;
    bound(&server, "h", 1).await;
    send(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), count, size);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (rx, packets, ..) = traffic(&server, "h").await;
    assert!(near(rx, exact) && packets >= count, "{rx} for {exact}, {packets} packets");
    server.kill();
    server.up().await;
    assert!(near(traffic(&server, "h").await.0, exact));
    done(&server, &["stop", "-t", "0", "h"]);
    assert!(near(traffic(&server, "h").await.0, exact), "{:?}", traffic(&server, "h").await);
    server.finish().await;
}

/// Once it listens.
fn connect(to: SocketAddr) -> TcpStream {
    for _ in 0..100 {
        if let Ok(stream) = TcpStream::connect(to) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{to} does not listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_is_bounded_in_each_direction_and_changes_live() {
    let Some(server) = server("bandwidth", "").await else { return };
    let source = "while true; do nc -l -p 7 < /dev/zero; done & while true; do nc -l -p 9 > /dev/null; done";
    let made = run(
        &server,
        json!({"name": "a", "ingress": 20_000_000, "egress": 10_000_000, "command": ["sh", "-c", source]}),
    )
    .await;
    let ip = address(&made);
    /// Bits per second by the container's own counters, over this long: the least and the most that it can have been, as the
    /// counters were read at some moment of each request.
    async fn rate(server: &Server, into: bool, time: Duration) -> (f64, f64) {
        let read = async || {
            let asked = Instant::now();
            let (rx, _, tx, _) = traffic(server, "a").await;
            (if into { rx } else { tx }, asked, Instant::now())
        };
        // What the bucket had saved up goes first.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let (first, first_asked, first_told) = read().await;
        tokio::time::sleep(time).await;
        let (last, last_asked, last_told) = read().await;
        let bits = (last - first) as f64 * 8.0;
        (bits / (last_told - first_asked).as_secs_f64(), bits / (last_asked - first_told).as_secs_f64())
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (ended, reads) = (stop.clone(), std::time::Duration::from_millis(200));
    let pull = std::thread::spawn(move || {
        let mut stream = connect((ip, 7).into());
        stream.set_read_timeout(Some(reads)).expect("timeout");
        let mut buffer = vec![0; 64 * 1024];
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = stream.read(&mut buffer);
        }
    });
    // An emulated machine can't send that much.
    let least = if berth_testkit::slow() > 1 { 0.2 } else { 0.85 };
    let within = |(lowest, highest): (f64, f64), of: f64| lowest < 1.06 * of && highest > least * of;
    let time = Duration::from_millis(1500);
    let out = rate(&server, false, time).await;
    assert!(within(out, 10e6), "out {out:?}");
    done(&server, &["update", "--egress", "40mbit", "a"]);
    let out = rate(&server, false, time).await;
    assert!(within(out, 40e6), "out {out:?}");
    done(&server, &["update", "--egress", "none", "a"]);
    let out = rate(&server, false, Duration::from_millis(500)).await;
    assert!(out.1 > 200e6 / f64::from(berth_testkit::slow()), "without a bound {out:?}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    pull.join().expect("pull");

    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let over = ended.clone();
    let push = std::thread::spawn(move || {
        let mut stream = connect((ip, 9).into());
        stream.set_write_timeout(Some(reads)).expect("timeout");
        let buffer = vec![0; 64 * 1024];
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = stream.write(&buffer);
        }
    });
    let into = rate(&server, true, time).await;
    assert!(within(into, 20e6), "in {into:?}");
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    push.join().expect("push");
    // A container in the host's network has no bandwidth of its own.
    let answer = server
        .request(
            "POST",
            "/v1/containers",
            json!({"image": "busybox", "network": "host", "egress": 1_000_000}).to_string(),
        )
        .await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    server.finish().await;
}

/// Rates between which a cap is changed, bits per second.
const RATES: [u64; 7] = [100_000, 1_000_000, 5_000_000, 10_000_000, 40_000_000, 100_000_000, 1_000_000_000];

/// Those that this machine is fast enough for.
fn rates() -> &'static [u64] {
    if berth_testkit::slow() > 1 { &RATES[..4] } else { &RATES }
}

/// Sends to port 9 of a container, or receives from port 7, until it is told to end; 400 Mbit/s at most, so that two cores have
/// time for all that run at once.
fn load(
    ip: Ipv4Addr,
    into: bool,
    ended: &std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> std::thread::JoinHandle<()> {
    let over = ended.clone();
    std::thread::spawn(move || {
        let mut stream = connect((ip, if into { 9 } else { 7 }).into());
        let wait = Some(Duration::from_millis(200));
        stream.set_read_timeout(wait).and_then(|()| stream.set_write_timeout(wait)).expect("timeout");
        let mut buffer = vec![0; 256 * 1024];
        let mut moved = 0;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            moved += if into { stream.write(&buffer) } else { stream.read(&mut buffer) }.unwrap_or(0);
            if moved >= buffer.len() {
                moved = 0;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    })
}

/// Any cap follows any other while data flows, and two seconds later what flows is what the cap allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_changes_under_load_holds_and_cuts_nothing_off() {
    let Some(server) = server("caps", "").await else { return };
    let source = "while true; do nc -l -p 7 < /dev/zero; done & while true; do nc -l -p 9 > /dev/null; done";
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    // A container for each rate and direction; it goes from its rate to every other one and back.
    let mut all = Vec::new();
    let mut threads = Vec::new();
    for (number, from) in rates().iter().copied().enumerate() {
        for into in [true, false] {
            let name = format!("{}-{from}", if into { "in" } else { "out" });
            let asked = json!({"name": name, "ingress": from, "egress": from, "command": ["sh", "-c", source]});
            threads.push(load(address(&run(&server, asked).await), into, &ended));
            all.push((number, into, name));
        }
    }
    let change = async |name: &str, rate: u64| {
        let body = json!({"ingress": rate, "egress": rate}).to_string();
        let answer = server.request("PATCH", &format!("/v1/containers/{name}"), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    let counted = async |name: &str, into: bool| {
        let asked = Instant::now();
        let (rx, _, tx, _) = traffic(&server, name).await;
        (if into { rx } else { tx }, asked, Instant::now())
    };
    let mut wrong = Vec::new();
    for step in 1..rates().len() {
        let to_of = |number: usize| rates()[(number + step) % rates().len()];
        for (number, _, name) in &all {
            change(name, to_of(*number)).await;
        }
        let mut left = all.clone();
        // The sender's congestion control finds out about the new rate in its own time: BBR probes in cycles. It has a few.
        for round in 0..6 {
            tokio::time::sleep(Duration::from_millis(if round == 0 { 2000 } else { 500 })).await;
            let mut before = Vec::new();
            for (_, into, name) in &left {
                before.push(counted(name, *into).await);
            }
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let mut off = Vec::new();
            for ((number, into, name), (then, then_asked, then_told)) in left.into_iter().zip(before) {
                let (now, now_asked, now_told) = counted(&name, into).await;
                // The counters were read at some moment of each request.
                let of = |time: Duration| to_of(number) as f64 / 8.0 * time.as_secs_f64();
                let (allowed, at_most) = (of(now_asked - then_told), of(now_told - then_asked));
                // A packet at each end of the time measured is not a part of the rate; segments that are sent as one packet
                // are counted with one header. What a sender that paused has saved up in the bucket goes on top.
                let (bytes, packets) = ((now - then) as f64, 2.0 * 1514.0);
                assert!(
                    bytes < 1.02 * at_most + packets + 16.0 * 1024.0,
                    "{name} to {}: {:.3}",
                    to_of(number),
                    bytes / at_most
                );
                // The load is less than a gigabit a second.
                let least = if to_of(number) < 1_000_000_000 { 0.95 } else { 0.2 };
                if bytes + packets < least * allowed {
                    println!("{name} to {}: {:.3} in window {round}", to_of(number), bytes / allowed);
                    off.push((number, into, name));
                    wrong = vec![format!("{:?} to {}: {:.3}", off.last(), to_of(number), bytes / allowed)];
                }
            }
            left = off;
        }
        assert!(left.is_empty(), "{left:?} do not get what they may: {wrong:?}");
        for (number, _, name) in &all {
            change(name, rates()[*number]).await;
        }
        tokio::time::sleep(Duration::from_millis(1000)).await;
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("load");
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_bring_containers_back_and_stop_when_told() {
    let Some(mut server) = server("restart", "[core]\nrestart_pause_max_ms = 400\n").await else { return };
    // on-failure:2: three runs in all.
    run(&server, json!({"name": "f", "restart": "on-failure:2", "command": ["sh", "-c", "echo once; exit 3"]})).await;
    until("it gave up", Duration::from_secs(10), async || {
        let shown = show(&server, "f").await;
        shown["runs"] == 3 && shown["state"] == "exited" && shown["next_start"].is_null()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let shown = show(&server, "f").await;
    assert_eq!((&shown["runs"], &shown["restarts"], &shown["exit_code"]), (&json!(3), &json!(2), &json!(3)));
    // The pauses: 100 ms, then 200.
    let log = done(&server, &["logs", "--json", "f"]);
    let time = |line: &str| {
        serde_json::from_str::<Value>(line).expect("json")["time"].as_str().and_then(berth_runtime::log::parse_time)
    };
    let times: Vec<i64> = log.lines().filter_map(time).collect();
    let pauses: Vec<i64> = times.windows(2).map(|w| (w[1] - w[0]) / 1_000_000).collect();
    assert!(pauses.len() == 2 && (95..2000).contains(&pauses[0]) && (195..2000).contains(&pauses[1]), "{pauses:?}");
    // A success is no failure.
    run(&server, json!({"name": "s", "restart": "on-failure", "command": ["true"]})).await;
    // always, and a stop that holds.
    run(&server, json!({"name": "w", "restart": "always", "command": ["sh", "-c", "sleep 0.05; exit 0"]})).await;
    until("it came back a few times", Duration::from_secs(10), async || {
        show(&server, "w").await["runs"].as_i64() > Some(3)
    })
    .await;
    done(&server, &["stop", "w"]);
    let runs = show(&server, "w").await["runs"].clone();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let shown = show(&server, "w").await;
    assert_eq!((&shown["runs"], shown["state"].as_str(), &shown["next_start"]), (&runs, Some("exited"), &Value::Null));
    assert_eq!(show(&server, "s").await["runs"], 1);
    // Killed from outside, it comes back; one that is removed while it waits does not.
    let made = run(&server, json!({"name": "k", "restart": "unless-stopped"})).await;
    // SAFETY: a plain signal to a process that this test's own server started.
    unsafe { libc::kill(made["pid"].as_i64().expect("pid") as i32, libc::SIGKILL) };
    until("it came back", Duration::from_secs(5), async || {
        let shown = show(&server, "k").await;
        shown["runs"] == 2 && shown["state"] == "running"
    })
    .await;
    run(&server, json!({"name": "gone", "restart": "always", "command": ["sh", "-c", "exit 1"]})).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    done(&server, &["rm", "-f", "gone"]);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!done(&server, &["ps", "-a"]).contains("gone"));
    // The server is away when one ends: the next server starts it again. A planned start is not forgotten either.
    let pid = show(&server, "k").await["pid"].as_i64().expect("pid") as i32;
    server.kill();
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.up().await;
    until("the next server started it", Duration::from_secs(5), async || {
        let shown = show(&server, "k").await;
        shown["runs"] == 3 && shown["state"] == "running"
    })
    .await;
    assert_eq!(show(&server, "w").await["state"], "exited", "what was stopped stays so");
    // After a restart of the host, which looks like another boot and no processes: `always` comes back although stopped.
    let pid = show(&server, "k").await["pid"].as_i64().expect("pid") as i32;
    server.kill();
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    forget_boot(&server);
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.up().await;
    until("back after a reboot", Duration::from_secs(5), async || {
        show(&server, "k").await["runs"] == 4 && show(&server, "w").await["runs"].as_i64() > runs.as_i64()
    })
    .await;
    let answer = server
        .request(
            "POST",
            "/v1/containers",
            json!({"image": "busybox", "restart": "always", "auto_remove": true}).to_string(),
        )
        .await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    server.finish().await;
}

/// As if the records were of another boot of the host.
fn forget_boot(server: &Server) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"update server set value = 'another' where key = 'boot'\"); c.commit()";
    let status = std::process::Command::new("python3").args(["-c", script]).arg(server.data.join("berth.db")).status();
    assert!(status.is_ok_and(|s| s.success()), "python3");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_told_and_acted_on() {
    let Some(mut server) = server("health", "").await else { return };
    let status = async |server: &Server, id: &str| {
        show(server, id).await["health"]["status"].as_str().unwrap_or_default().to_owned()
    };
    let check = |kind: &str, value: Value| {
        let mut check = json!({"interval": 0.1, "timeout": 1, "retries": 2});
        check[kind] = value;
        check
    };
    let httpd = "mkdir /w; sleep 0.5; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
    run(&server, json!({"name": "h", "command": ["sh", "-c", httpd], "health": {"http": "80/index.html", "interval": 0.1, "start_period": 10, "retries": 1}})).await;
    run(&server, json!({"name": "t", "command": ["sh", "-c", "nc -l -p 5 > /dev/null; sleep 1000"], "health": check("tcp", json!(6))})).await;
    run(&server, json!({"name": "e", "health": check("command", json!(["sh", "-c", "echo looked; test ! -e /sick"]))}))
        .await;
    until("h is healthy", Duration::from_secs(10), async || status(&server, "h").await == "healthy").await;
    until("t is unhealthy", Duration::from_secs(10), async || status(&server, "t").await == "unhealthy").await;
    until("e is healthy", Duration::from_secs(10), async || status(&server, "e").await == "healthy").await;
    assert!(show(&server, "t").await["health"]["last_failure"].as_str().is_some_and(|t| t.contains("port 6")));
    done(&server, &["exec", "e", "touch", "/sick"]);
    until("e is unhealthy", Duration::from_secs(10), async || status(&server, "e").await == "unhealthy").await;
    assert!(
        show(&server, "e").await["health"]["last_failure"].as_str().is_some_and(|t| t.contains("exit code 1: looked"))
    );
    // The next server goes on watching.
    server.kill();
    server.up().await;
    done(&server, &["exec", "e", "rm", "/sick"]);
    until("e is healthy again", Duration::from_secs(10), async || status(&server, "e").await == "healthy").await;
    let events = server.client().events().await.expect("events");
    assert!(
        events.iter().any(|e| e.kind == "container.unhealthy") && events.iter().any(|e| e.kind == "container.healthy")
    );
    assert!(done(&server, &["ps"]).contains("(healthy)"));
    // A check that hangs is a failure, and is killed.
    run(
        &server,
        json!({"name": "slow", "health": {"command": ["sleep", "77"], "interval": 0.1, "timeout": 0.3, "retries": 1}}),
    )
    .await;
    until("slow is unhealthy", Duration::from_secs(10), async || status(&server, "slow").await == "unhealthy").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = done(&server, &["exec", "slow", "sh", "-c", "ps | grep -c '[s]leep 77' || true"]);
    assert!(left.trim().parse::<u32>().is_ok_and(|n| n <= 2), "{left}");
    // Started anew when it is unhealthy.
    let mut again = check("command", json!(["sh", "-c", "test ! -e /tmp/sick"]));
    again["restart"] = json!(true);
    run(
        &server,
        json!({"name": "r", "health": again, "stop_timeout": 0, "mounts": [{"type": "tmpfs", "target": "/tmp"}]}),
    )
    .await;
    until("r is healthy", Duration::from_secs(10), async || status(&server, "r").await == "healthy").await;
    done(&server, &["exec", "r", "touch", "/tmp/sick"]);
    until("r was started anew and is well", Duration::from_secs(10), async || {
        show(&server, "r").await["runs"] == 2 && status(&server, "r").await == "healthy"
    })
    .await;
    // The image's own check is taken over, unless there is to be none.
    run(&server, json!({"name": "base"})).await;
    let config = json!({"Cmd": ["sleep", "1000"], "Healthcheck": {"Test": ["CMD-SHELL", "exit 1"], "Interval": 100_000_000, "Retries": 1}});
    let rootfs = fs::read(image("busybox").expect("image")).expect("read");
    let answer = server
        .request("POST", &format!("/v1/images/rootfs?name=checked&config={}", encoded(&config.to_string())), rootfs)
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    run(&server, json!({"name": "own", "image": "checked"})).await;
    run(&server, json!({"name": "none", "image": "checked", "no_health": true})).await;
    until("the image's check counts", Duration::from_secs(10), async || status(&server, "own").await == "unhealthy")
        .await;
    assert!(show(&server, "none").await["health"].is_null());
    server.finish().await;
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// Of the container `b`, which has written 1500 lines into several files; and of one whose first files are gone.
async fn lines_have_numbers(server: &Server) {
    let lines = async |query: &str| {
        let answer = server.request("GET", &format!("/v1/containers/b/logs?{query}"), "").await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        let entries = answer.text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        entries
            .map(|each| (each["number"].as_u64(), each["text"].as_str().expect("text").to_owned()))
            .collect::<Vec<_>>()
    };
    let expected = |numbers: &[u64]| numbers.iter().map(|n| (Some(*n), format!("number {n}"))).collect::<Vec<_>>();
    for (query, numbers) in [
        ("numbers=true&head=1", &[1][..]),
        ("numbers=true&tail=2", &[1499, 1500]),
        ("before=1001&tail=2", &[999, 1000]),
        ("after=1000&head=2", &[1001, 1002]),
        ("before=3", &[1, 2]),
        ("after=1500", &[]),
        ("grep=00%24&tail=2&numbers=true", &[1400, 1500]),
        ("grep=00%24&tail=1&before=1400", &[1300]),
        ("grep=00%24&after=1300", &[1400, 1500]),
    ] {
        assert_eq!(lines(query).await, expected(numbers), "{query}");
    }
    assert_eq!(lines("tail=1").await, [(None, "number 1500".to_owned())], "numbers are given to whoever asks for them");
    assert_eq!(lines("tail=1&grep=00%24").await, [(None, "number 1500".to_owned())]);
    let refused = server.request("GET", "/v1/containers/b/logs?before=9&follow=true", "").await;
    assert!(refused.status == 400 && refused.text.contains("before and follow exclude each other"), "{}", refused.text);
    assert_eq!(done(server, &["logs", "--numbers", "-n", "1", "b"]), "  1500 number 1500\n");
    let bound = ["--log-opt", "max-size=20k", "--log-opt", "max-file=2"];
    done(server, &[&["run", "-d", "--name", "c"][..], &bound, &["busybox", "seq", "1", "60000"]].concat());
    done(server, &["wait", "c"]);
    let kept = done(server, &["logs", "--numbers", "c"]);
    // What comes in one piece is not divided, so a file may be larger than it should.
    assert!(kept.lines().count() < 50_000 && kept.ends_with(" 60000 60000\n"), "{}", kept.lines().count());
    assert!(
        kept.lines().all(|line| line.split_whitespace().collect::<std::collections::BTreeSet<_>>().len() == 1),
        "{kept}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_searched_bounded_and_followed_over_a_restart_of_the_server() {
    let Some(mut server) = server("grep", "[engine]\nlog_max_size = 20000\nlog_max_files = 50\n").await else { return };
    let script = "for i in $(seq 1 300); do echo line $i; echo err $i >&2; done; echo 结束 $(seq 1 9000 | tr '\\n' ' ') needle; sleep 0.2; echo last";
    run(&server, json!({"name": "a", "command": ["sh", "-c", script]})).await;
    done(&server, &["wait", "a"]);
    let (_, out, error) = server.cli(&["logs", "--grep", "line 29[0-9]$", "a"]);
    assert_eq!((out.lines().count(), error.as_str()), (10, ""));
    assert_eq!(server.cli(&["logs", "--grep", "^err", "-n", "2", "a"]).2, "err 299\nerr 300\n");
    let long = done(&server, &["logs", "--grep", "needle", "a"]);
    assert!(
        long.starts_with("结束 1 2") && long.ends_with(" needle\n") && long.lines().count() == 1,
        "whole although it is long"
    );
    assert!(server.cli(&["logs", "--grep", "(", "a"]).2.contains("grep"));
    let first = serde_json::from_str::<Value>(
        done(&server, &["logs", "--json", "-n", "1", "a"]).lines().next().expect("a line"),
    )
    .expect("json");
    let at = first["time"].as_str().expect("time");
    assert_eq!(done(&server, &["logs", "--since", at, "a"]), "last\n");
    let (_, out, error) = server.cli(&["logs", "--until", at, "a"]);
    assert!(!out.contains("last") && out.contains("line 300") && error.contains("err 300"));

    // A follower misses and repeats nothing while files rotate and the server is killed.
    let count =
        "i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo number $i; [ $((i % 10)) = 0 ] && sleep 0.01; done; sleep 0.5";
    run(&server, json!({"name": "b", "command": ["sh", "-c", count]})).await;
    let program = env!("CARGO_BIN_EXE_berth");
    let follower = std::process::Command::new(program)
        .env("BERTH_DATA_DIR", &server.data)
        .args(["logs", "-f", "b"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("follower");
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.up().await;
    let output = tokio::task::spawn_blocking(move || follower.wait_with_output()).await.expect("task").expect("output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected: String = (1..=1500).map(|n| format!("number {n}\n")).collect();
    assert!(
        text == expected,
        "{} lines, {:?}",
        text.lines().count(),
        text.lines().zip(expected.lines()).find(|(a, b)| a != b)
    );
    lines_have_numbers(&server).await;
    server.finish().await;
}

/// What a container may write to its root file system is bounded: one that writes more is stopped, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_above_its_disk_limit_is_stopped_and_says_so() {
    let Some(server) = server("disk", "").await else { return };
    let write = |mib: u32| format!("dd if=/dev/zero of=/big bs=1M count={mib} 2>/dev/null; echo written; sleep 1000");
    let started = |name: &str, mib: u32| {
        done(
            &server,
            &[
                "run",
                "-d",
                "--name",
                name,
                "--restart",
                "always",
                "--storage-opt",
                "size=8m",
                "busybox",
                "sh",
                "-c",
                &write(mib),
            ],
        )
    };
    started("greedy", 32);
    started("modest", 4);
    until("it is stopped", Duration::from_secs(20), async || show(&server, "greedy").await["state"] == "exited").await;
    until("it says why", Duration::from_secs(5), async || {
        show(&server, "greedy").await["error"].as_str().is_some_and(|why| why.contains("of the 8 MiB of disk"))
    })
    .await;
    assert_eq!(show(&server, "greedy").await["extras"]["disk"], json!(8 << 20));
    let events = server.request("GET", "/v1/events/recent?limit=100", "").await.text;
    assert!(events.contains("container.disk_limit"), "{events}");
    // Its policy does not bring it back, and nobody else does.
    let refused = server.request("POST", "/v1/containers/greedy/start", "").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("no_room")), "{}", refused.text);
    assert_eq!(show(&server, "greedy").await["state"], "exited");
    assert_eq!(show(&server, "modest").await["state"], "running");
    let wrong = json!({"image": "busybox", "extras": {"disk": 5}}).to_string();
    let refused = server.request("POST", "/v1/containers", wrong).await;
    assert!(refused.status == 400 && refused.text.contains("disk: expected"), "{}", refused.text);
    done(&server, &["rm", "-f", "greedy", "modest"]);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_comes_back_to_what_it_was() {
    let Some(server) = server("revisions", "").await else { return };
    let list = || {
        serde_json::from_str::<Vec<Value>>(&done(&server, &["group", "revisions", "--json", "shop/web"])).expect("json")
    };
    let variable = |name: &str| {
        let found: Value = serde_json::from_str(&done(&server, &["group", "inspect", "shop/web"])).expect("json");
        (found["spec"]["env"][name].clone(), found["containers"].as_array().map_or(0, Vec::len))
    };
    let spec = ["--image", "busybox", "-e", "V=1", "shop/web"];
    done(&server, &["service", "create", "shop"]);
    done(&server, &[&["group", "create", "--replicas", "2"], &spec[..], &["--", "sleep", "1000"]].concat());
    assert_eq!(list().len(), 1);
    done(&server, &["group", "update", "-e", "V=2", "shop/web"]);
    // How many there are is no revision, a stop and a start make none, nor does what failed and was undone.
    done(&server, &["group", "scale", "shop/web", "3"]);
    done(&server, &["group", "stop", "shop/web"]);
    done(&server, &["group", "start", "shop/web"]);
    let (code, _, told) = server.cli(&["group", "update", "shop/web", "--", "/nobody-has-this"]);
    assert_ne!(code, 0, "{told}");
    let all = list();
    assert_eq!(all.iter().map(|each| each["revision"].as_i64()).collect::<Vec<_>>(), [Some(1), Some(2)], "{all:?}");
    assert_eq!((&all[0]["current"], &all[1]["current"]), (&json!(false), &json!(true)));
    let table = done(&server, &["group", "revisions", "shop/web"]);
    assert!(table.contains("2*") && table.contains("env"), "{table}");

    done(&server, &["group", "rollback", "shop/web"]);
    assert_eq!(variable("V"), (json!("1"), 3), "as it was, and as many as there were last");
    assert_eq!(
        list().iter().filter(|each| each["current"] == true).map(|each| each["revision"].as_i64()).collect::<Vec<_>>(),
        [Some(3)]
    );
    done(&server, &["group", "rollback", "--revision", "2", "shop/web"]);
    assert_eq!(variable("V").0, json!("2"));
    let (code, _, told) = server.cli(&["group", "rollback", "--revision", "2", "--update", "shop/web"]);
    assert!(code != 0 && told.contains("--update"), "{told}");
    let (code, _, told) = server.cli(&["group", "rollback", "--revision", "9", "shop/web"]);
    assert!(code != 0 && told.contains("revision") && told.contains('9'), "{told}");
    for n in 3..15 {
        done(&server, &["group", "update", "-e", &format!("V={n}"), "shop/web"]);
    }
    let all = list();
    assert_eq!((all.len(), &all[9]["spec"]["env"]["V"]), (10, &json!("14")), "{all:?}");
    // One that never was what it is to be has no revision, whatever else is done with it.
    let (code, _, told) = server.cli(&["group", "create", "--image", "busybox", "shop/bad", "--", "/nobody-has-this"]);
    assert_ne!(code, 0, "{told}");
    done(&server, &["group", "stop", "shop/bad"]);
    assert_eq!(done(&server, &["group", "revisions", "--json", "shop/bad"]).trim(), "[]");
    done(&server, &["group", "rm", "shop/bad"]);
    done(&server, &["group", "rm", "shop/web"]);
    done(&server, &["service", "rm", "shop"]);
    server.finish().await;
}
