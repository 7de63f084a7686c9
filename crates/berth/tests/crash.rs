//! The server is killed; containers, their output and their ports go on.

use std::net::Ipv4Addr;
use std::time::Duration;

use berth_client::LogQuery;
use berth_testkit::{Server, done, image, is_root};
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn answers(port: u16) -> bool {
    let work = async {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /f HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.contains("200 OK").then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(3), work).await, Ok(Some(())))
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_containers_outlive_a_kill_of_the_server() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "crash", "").await;
    server.import(&rootfs, "busybox", &[]);
    let script =
        "mkdir /w; echo x > /w/f; httpd -p 80 -h /w; i=0; while true; do echo line $i; i=$((i+1)); sleep 0.02; done";
    let mut ports = Vec::new();
    for n in 0..20 {
        let asked = json!({"image": "busybox", "name": format!("c{n}"), "start": true, "command": ["sh", "-c", script],
            "ports": [{"container_port": 80}], "memory": 32 << 20});
        let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        ports.push(answer.json()["ports"][0]["host_port"].as_u64().expect("port") as u16);
    }
    // One ends while nobody looks, with a code of its own.
    let asked =
        json!({"image": "busybox", "name": "ends", "start": true, "command": ["sh", "-c", "sleep 0.8; exit 9"]});
    assert_eq!(server.request("POST", "/v1/containers", asked.to_string()).await.status, 201);
    let before = server.client().containers().await.expect("list");
    server.kill();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for port in &ports {
        assert!(answers(*port).await, "port {port} while there is no server");
    }
    let took = server.up().await;
    let client = server.client();
    let after = client.containers().await.expect("list");
    assert!(took < Duration::from_secs(5) * berth_testkit::slow(), "the new server took {took:?}");
    assert_eq!(after.len(), 21);
    for (old, new) in before.iter().zip(&after) {
        if new.name == "ends" {
            assert_eq!((new.state.as_str(), new.exit_code), ("exited", Some(9)), "learnt afterwards");
        } else {
            assert_eq!((new.state.as_str(), new.pid, &new.ports), ("running", old.pid, &old.ports), "{}", new.name);
        }
    }
    for port in &ports {
        assert!(answers(*port).await, "port {port} under the new server");
    }
    for n in 0..20 {
        let mut log = client.container_logs(&format!("c{n}"), &LogQuery::default()).await.expect("logs");
        let mut next = 0;
        while let Some(entry) = log.next().await {
            assert_eq!(entry.expect("entry").text, format!("line {next}"), "c{n}");
            next += 1;
        }
        assert!(next > 50, "c{n} went on printing: {next} lines");
    }
    // The new server hears of ends, stops, and measures.
    let stats = client.stats().await.expect("stats");
    assert!(stats.len() == 20 && stats.iter().all(|s| s.rx_bytes > 0 && s.tx_bytes > 0), "{stats:?}");
    client.container_kill("c0", "KILL").await.expect("kill");
    assert_eq!(client.container_wait("c0").await.expect("wait").exit_code, Some(137));
    client.container_do("c1", "restart", Some(0)).await.expect("restart");
    assert!(!answers(ports[0]).await);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_leave_nothing_half_done() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "moments", "").await;
    server.import(&rootfs, "busybox", &[]);
    for round in 0..12u64 {
        let http = berth_testkit::http();
        let (url, token) = (server.url("/v1/containers"), server.token());
        let mut tasks = Vec::new();
        let keyed = json!({"image": "busybox", "start": true, "command": ["sleep", "600"], "labels": {"keyed": ""}})
            .to_string();
        let first = http
            .post(&url)
            .header("x-token", &token)
            .header("idempotency-key", format!("k{round}"))
            .body(keyed.clone());
        tasks.push(tokio::spawn(async move {
            let _ = first.send().await;
            None
        }));
        for n in 0..6 {
            let (http, url, token) = (http.clone(), url.clone(), token.clone());
            tasks.push(tokio::spawn(async move {
                let name = format!("r{round}n{n}");
                let asked = json!({"image": "busybox", "name": name, "start": true, "command": ["sleep", "600"],
                    "ports": [{"container_port": 80}]});
                let made = http.post(&url).header("x-token", &token).body(asked.to_string()).send().await;
                let acknowledged = made.is_ok_and(|r| r.status().as_u16() == 201);
                if n % 2 == 1 {
                    let _ = http.delete(format!("{url}/{name}?force=true")).header("x-token", &token).send().await;
                    return None;
                }
                acknowledged.then_some(name)
            }));
        }
        tokio::time::sleep(Duration::from_millis(4 + round * 5)).await;
        server.kill();
        let mut kept = Vec::new();
        for task in tasks {
            kept.extend(task.await.expect("join"));
        }
        server.up().await;
        // Sent again with the same key, whether it was answered or cut: there is one container in the end.
        let again = http.post(&url).header("x-token", &token).header("idempotency-key", format!("k{round}"));
        let again = again.body(keyed.clone()).send().await.expect("send");
        assert_eq!(again.status().as_u16(), 201, "{:?}", again.text().await);
        let client = server.client();
        let all = client.containers().await.expect("list");
        assert_eq!(all.iter().filter(|c| c.labels.contains_key("keyed")).count(), 1, "round {round}");
        for name in kept {
            let found =
                client.container(&name).await.unwrap_or_else(|e| panic!("{name} was acknowledged and is lost: {e}"));
            assert_eq!(found.state, "running", "{name}: {:?}", found.error);
        }
        for container in client.containers().await.expect("list") {
            assert!(container.state == "running", "{} is {}: {:?}", container.name, container.state, container.error);
            client.container_remove(&container.id, true).await.expect("remove");
        }
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_containers_go_on() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "drain", "").await;
    server.import(&rootfs, "busybox", &[]);
    let asked = json!({"image": "busybox", "name": "a", "start": true, "command": ["sleep", "600"]});
    let made = server.request("POST", "/v1/containers", asked.to_string()).await.json();
    let client = server.client();
    let mut log =
        Box::pin(client.container_logs("a", &LogQuery { follow: true, ..LogQuery::default() }).await.expect("follow"));
    let follower = tokio::spawn(async move { while log.next().await.is_some() {} });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    server.terminate();
    assert!(begun.elapsed() < Duration::from_secs(5), "a follower holds up the end for {:?}", begun.elapsed());
    follower.await.expect("the stream ends");
    server.up().await;
    assert_eq!(server.client().container("a").await.expect("a").pid.map(i64::from), made["pid"].as_i64());
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("--data-dir")
        .arg(&server.data)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .output()
        .expect("a second server");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another berth"), "{second:?}");
    server.finish().await;
}

/// What looks after a container is killed with the server, as a power cut does: nobody knows when the container ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_saw_is_told_so() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "unseen", "[core]\nmeasure_period_s = 1\n").await;
    server.import(&rootfs, "busybox", &[]);
    let id = done(&server, &["run", "-d", "--name", "a", "busybox", "sleep", "1000"]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.kill();
    let mut found = std::fs::read_dir(server.data.join("engine/units")).expect("units").flatten();
    let unit = found.find(|e| e.file_name().to_string_lossy().starts_with(id.trim())).expect("unit").path();
    let shim = berth_runtime::Process::load(&unit.join("shim.json")).and_then(|p| p.open()).expect("shim");
    shim.signal(libc::SIGKILL).expect("kill");
    assert!(shim.wait(Duration::from_secs(5)));
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..2 {
        server.up().await;
        let shown = server.request("GET", "/v1/containers/a", "").await.json();
        assert_eq!((shown["state"].as_str(), shown["exit_code"].as_i64()), (Some("exited"), Some(255)));
        assert!(shown.get("finished_at").is_none(), "{shown}");
        assert!(done(&server, &["ps", "-a"]).contains("end time unknown"));
        server.kill();
    }
    server.up().await;
    // Two rounds of the sampler after it was last seen, not the time for which the machine was off.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let usage = server.request("GET", "/v1/usage", "").await.json();
    let ran = usage["items"][0]["ran_ms"].as_f64().unwrap_or_else(|| panic!("{usage}"));
    assert!((1_000.0..=4_500.0).contains(&ran), "{usage}");
    server.finish().await;
}

/// Starts that hang (a disk that does not answer) when the server dies: the next one waits once, not for each.
#[tokio::test(flavor = "multi_thread")]
async fn starts_that_hang_hold_up_no_server() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "stalled", "").await;
    server.import(&rootfs, "busybox", &[]);
    let ids: Vec<String> =
        (0..6).map(|_| done(&server, &["run", "-d", "busybox", "sleep", "1000"]).trim().to_owned()).collect();
    server.kill();
    let mut hanging = Vec::new();
    for id in &ids {
        let mut found = std::fs::read_dir(server.data.join("engine/units")).expect("units").flatten();
        let unit = found.find(|e| e.file_name().to_string_lossy().starts_with(id.as_str())).expect("unit").path();
        let child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let process = berth_runtime::Process::of(child.id() as i32).expect("process");
        berth_runtime::write_json(&unit.join("shim.json"), &process).expect("note");
        std::fs::remove_file(unit.join("init.json")).expect("remove");
        hanging.push(child);
    }
    let took = server.up().await;
    assert!(took < Duration::from_secs(10), "the new server took {took:?}");
    for mut child in hanging {
        assert!(child.wait().expect("wait").code().is_none(), "it was killed");
    }
    for id in &ids {
        done(&server, &["start", id]);
        assert_eq!(server.cli(&["exec", id, "echo", "here"]).1, "here\n");
    }
    server.finish().await;
}

/// A service manager ends all that is in the service's cgroup with the server: shims are not in there, and heed no signal but the
/// host's first process's.
#[tokio::test(flavor = "multi_thread")]
async fn shims_stand_apart_from_the_service() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "apart", "").await;
    server.import(&rootfs, "busybox", &[]);
    done(&server, &["run", "-d", "--name", "a", "busybox", "sleep", "1000"]);
    let id = server.request("GET", "/v1/containers/a", "").await.json()["id"].as_str().expect("id").to_owned();
    let noted = std::fs::read(server.data.join(format!("engine/units/{id}/shim.json"))).expect("shim.json");
    let shim = serde_json::from_slice::<serde_json::Value>(&noted).expect("json")["pid"].as_i64().expect("pid") as i32;
    let groups = std::fs::read_to_string(format!("/proc/{shim}/cgroup")).expect("cgroup");
    let of_services = groups.lines().filter(|line| line.starts_with("0::") || line.contains("name=systemd"));
    for line in of_services {
        assert!(line.contains("-shims"), "{line}");
    }
    // SAFETY: a plain signal to a process of this test's server.
    unsafe { libc::kill(shim, libc::SIGTERM) };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(server.cli(&["exec", "a", "echo", "here"]).1, "here\n", "a signal of anybody else ends nothing");
    server.finish().await;
}

/// A container that ends while the disk is full has its exit code all the same, and what it carried.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_on_a_full_disk_is_known() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "full", "[images]\ndisk_reserve_mib = 0\n").await;
    server.import(&rootfs, "busybox", &[]);
    let engine = server.data.join("engine");
    let host = |script: &str| {
        let text = script.replace("ENGINE", engine.to_str().expect("path"));
        assert!(std::process::Command::new("sh").args(["-ec", &text]).status().expect("sh").success(), "{text}");
    };
    server.kill();
    host(
        "cp -a ENGINE ENGINE.was; rm -f ENGINE.was/program; mount -t tmpfs -o size=600m none ENGINE; cp -a ENGINE.was/. ENGINE/; rm -r ENGINE.was",
    );
    server.up().await;
    let units = engine.join("units");
    let id = done(&server, &["run", "-d", "--name", "a", "busybox", "sh", "-c", "sleep 3; exit 9"]);
    let full = units.join("full");
    let mut file = std::fs::File::create(&full).expect("file");
    while std::io::Write::write_all(&mut file, &vec![1; 1 << 20]).is_ok() {}
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    while std::io::Write::write_all(&mut file, &[1]).is_ok() {}
    assert_eq!(server.cli(&["wait", "a"]).1, "9\n");
    std::fs::remove_file(&full).expect("remove");
    drop(file);
    assert_eq!(done(&server, &["run", "--rm", "busybox", "echo", "on"]), "on\n", "it goes on when there is room");
    done(&server, &["rm", "-f", id.trim()]);
    host("umount -l ENGINE");
    server.finish().await;
}
