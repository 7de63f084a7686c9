//! Real containers through the native API: limits, network, isolation, output, lifecycle.
#![expect(clippy::too_many_lines, reason = "a test tells one story")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use berth_client::{Client, LogQuery};
use berth_net::{Netns, in_netns};
use berth_testkit::{Server, image, is_root};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn server(name: &str) -> Option<Server> {
    let rootfs = image("busybox").filter(|_| is_root())?;
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), name, "").await;
    server.import(&rootfs, "busybox", &[]);
    Some(server)
}

/// Makes and starts a container from a request in JSON.
async fn run(server: &Server, mut asked: Value) -> Value {
    asked["image"] = json!("busybox");
    asked["start"] = json!(true);
    let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

fn shell(script: &str) -> Value {
    json!(["sh", "-c", script])
}

/// What a command prints in a container of its own, both streams, and its exit code.
async fn output(server: &Server, mut asked: Value, script: &str) -> (String, i32) {
    asked["command"] = shell(script);
    let made = run(server, asked).await;
    let id = made["id"].as_str().expect("id");
    let client = server.client();
    let ended = client.container_wait(id).await.expect("wait");
    let text = log_of(&client, id).await;
    client.container_remove(id, false).await.expect("remove");
    (text, ended.exit_code.expect("exit code"))
}

async fn log_of(client: &Client, id: &str) -> String {
    let mut log = client.container_logs(id, &LogQuery::default()).await.expect("logs");
    let mut text = String::new();
    while let Some(entry) = log.next().await {
        let entry = entry.expect("entry");
        text.push_str(&entry.text);
        if !entry.partial {
            text.push('\n');
        }
    }
    text
}

/// The body of a GET, over a connection of its own.
async fn get(address: SocketAddr) -> std::io::Result<String> {
    let work = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(3), work)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

const HTTPD: &str = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_are_told() {
    let Some(server) = server("limits").await else { return };
    let client = server.client();
    let (text, _) = output(
        &server,
        json!({"memory": 32 << 20, "cpus": 0.25, "pids": 20}),
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes \
         /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max 2>/dev/null \
         || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max",
    )
    .await;
    assert!(text.starts_with("33554432\n") && text.contains("25000") && text.contains("20"), "{text}");

    let made = run(&server, json!({"memory": 16 << 20, "command": shell("tail /dev/zero")})).await;
    let id = made["id"].as_str().expect("id");
    let ended = client.container_wait(id).await.expect("wait");
    assert!(ended.oom_killed, "{ended:?}");
    let mut tries = 0;
    while !client.events().await.expect("events").iter().any(|e| e.kind == "container.oom" && e.subject == id) {
        tries += 1;
        assert!(tries < 100, "{:?}", client.events().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = client.container(id).await.expect("container");
    assert!(known.oom_killed && known.oom_kills > 0, "{known:?}");

    // Killed by its owner while children are out of memory: that is why it ended.
    let script = "while true; do tail /dev/zero; sleep 0.1; done";
    let made = run(&server, json!({"memory": 16 << 20, "command": shell(script)})).await;
    let id = made["id"].as_str().expect("id").to_owned();
    let begun = std::time::Instant::now();
    while client.container(&id).await.expect("container").oom_kills == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody tells of a child that is out of memory");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    berth_testkit::done(&server, &["kill", &id]);
    let ended = client.container_wait(&id).await.expect("wait");
    assert_eq!((ended.exit_code, ended.oom_killed), (Some(137), false));

    // A child that is out of memory is told while the container runs on, and is not why it ends later.
    let script = "tail /dev/zero; echo on; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let made = run(&server, json!({"memory": 16 << 20, "command": shell(script)})).await;
    let id = made["id"].as_str().expect("id").to_owned();
    let begun = std::time::Instant::now();
    let known = loop {
        let known = client.container(&id).await.expect("container");
        if known.oom_kills > 0 {
            break known;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody tells of a child that is out of memory");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((known.state.as_str(), known.oom_killed, known.oom_kills), ("running", false, 1));
    let events = client.events().await.expect("events");
    let told = |kind: &str| events.iter().filter(|e| e.kind == kind && e.subject == id).count();
    assert_eq!((told("container.oom"), told("container.exited")), (1, 0));
    let metrics = server.request("GET", "/metrics", "").await.text;
    let line = metrics.lines().find(|l| l.starts_with("berth_container_oom_kills_total{") && l.contains(&id));
    assert!(line.is_some_and(|line| line.ends_with("} 1")), "{line:?}");
    let stopped = server.request("POST", &format!("/v1/containers/{id}/stop"), "").await;
    assert_eq!(stopped.status, 200, "{}", stopped.text);
    let ended = client.container(&id).await.expect("container");
    assert_eq!((ended.exit_code, ended.oom_killed, ended.oom_kills), (Some(0), false, 1));

    let (text, _) =
        output(&server, json!({"pids": 8}), "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; echo all").await;
    assert!(text.contains("can't fork"), "{text}");

    // A quarter of a CPU for a second and a half of wanting all of it.
    let made = run(&server, json!({"cpus": 0.25, "command": shell("while true; do true; done")})).await;
    let id = made["id"].as_str().expect("id");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let stats = client.container_stats(id).await.expect("stats");
    let cpu = stats.cpu_ns as f64 / 1e9;
    assert!((0.15..0.75).contains(&cpu), "{stats:?}");
    assert!(stats.pids == 1 && stats.memory > 0, "{stats:?}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_from_everywhere_and_nobody_elses_is_taken() {
    let Some(server) = server("network").await else { return };
    let client = server.client();
    let web = run(&server, json!({"name": "web", "ports": [{"container_port": 80}], "command": shell(HTTPD)})).await;
    let port = web["ports"][0]["host_port"].as_u64().expect("port") as u16;
    let address: Ipv4Addr = web["address"].as_str().and_then(|a| a.parse().ok()).expect("address");
    let page = |text: std::io::Result<String>| text.is_ok_and(|t| t.ends_with("page\n"));
    let mut tries = 0;
    while !page(get((Ipv4Addr::LOCALHOST, port).into()).await) {
        tries += 1;
        assert!(tries < 100, "127.0.0.1:{port} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(page(get((address, 80).into()).await), "the container's own address");
    let gateway = Ipv4Addr::new(address.octets()[0], address.octets()[1], 0, 1);
    assert!(page(get((gateway, port).into()).await), "an address of the host");
    // busybox' own wget can't resolve names when it is static, and fails over it.
    let fetch =
        |ip: Ipv4Addr, port: u16| format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {ip} {port} | tail -n 1");
    let fetched = output(&server, json!({}), &fetch(gateway, port)).await.0;
    assert_eq!(fetched, "page\n", "another container, published");
    let fetched = output(&server, json!({}), &fetch(address, 80)).await.0;
    assert_eq!(fetched, "page\n", "another container, directly");
    let own = format!("({HTTPD}) & sleep 0.3; {}", fetch(gateway, port + 1));
    let hairpin = json!({"ports": [{"container_port": 80, "host_port": port + 1}]});
    assert_eq!(output(&server, hairpin, &own).await.0, "page\n", "its own published port");

    // Another machine: a namespace with a link of its own to the host.
    let other = Netns::create().expect("netns");
    let name = format!("bt{}", std::process::id());
    let far = berth_net::Network {
        bridge: name.clone(),
        links: format!("{name}v"),
        table: name.clone(),
        subnet: berth_net::Subnet { gateway: Ipv4Addr::new(198, 18, 77, 1), prefix: 24 },
    };
    let there = Ipv4Addr::new(198, 18, 77, 2);
    let member = berth_net::Member { link: format!("{name}v"), address: there, tenant: 1 };
    far.ensure(&[], &[], &[member]).expect("a far network");
    far.attach(&other, &format!("{name}v"), there).expect("attach");
    let reached = in_netns(&other, || {
        use std::io::{Read, Write};
        let limit = Duration::from_secs(2);
        let to = |ip: Ipv4Addr, port: u16| -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect_timeout(&(ip, port).into(), limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        (to(Ipv4Addr::new(198, 18, 77, 1), port), to(address, 80))
    })
    .expect("enter");
    far.remove().expect("remove");
    assert!(page(reached.0), "from another machine by the published port");
    assert!(reached.1.is_err(), "from another machine past the published ports");

    // UDP, one address only, ports in use.
    if let Some(python) = image("python") {
        server.import(&python, "python", &[]);
        let echo = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 7))\n\
            while True: s.sendto(*s.recvfrom(99))";
        let asked = json!({"image": "python", "start": true, "command": ["python3", "-c", echo],
            "ports": [{"container_port": 7, "protocol": "udp"}]});
        let made = server.request("POST", "/v1/containers", asked.to_string()).await.json();
        let udp = made["ports"][0]["host_port"].as_u64().expect("port") as u16;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        let heard = (0..30).any(|_| {
            let _ = socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, udp));
            let mut buffer = [0; 16];
            socket.recv(&mut buffer).is_ok_and(|n| &buffer[..n] == b"hello")
        });
        assert!(heard, "UDP {udp}");
        // A client that keeps its port is answered at once: when the port comes, goes, comes again and moves to another.
        let said = |name: &str| {
            let code = format!(
                "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 7))\n\
                while True: s.sendto(b\"{name}\", s.recvfrom(99)[1])"
            );
            json!(["python3", "-c", code])
        };
        let fixed =
            (31_600..31_900).find(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()).expect("a port");
        let ports = json!([{"container_port": 7, "host_port": fixed, "protocol": "udp"}]);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
        let hears = |wanted: &str| {
            let begun = std::time::Instant::now();
            loop {
                let _ = socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, fixed));
                let mut buffer = [0; 16];
                if socket.recv(&mut buffer).is_ok_and(|n| &buffer[..n] == wanted.as_bytes()) {
                    return;
                }
                // Python takes its time to come up.
                assert!(begun.elapsed() < Duration::from_secs(4), "{wanted} does not answer on {fixed}");
            }
        };
        for _ in 0..3 {
            let _ = socket.send_to(b"too early", (Ipv4Addr::LOCALHOST, fixed));
        }
        let make = |name: &str, ports: &Value| {
            let asked = json!({"name": name, "image": "python", "start": true, "command": said(name), "ports": ports});
            server.request("POST", "/v1/containers", asked.to_string())
        };
        assert_eq!(make("one", &ports).await.status, 201);
        hears("one");
        assert_eq!(server.cli(&["stop", "-t", "0", "one"]).0, 0);
        for _ in 0..20 {
            let _ = socket.send_to(b"nobody", (Ipv4Addr::LOCALHOST, fixed));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(server.cli(&["start", "one"]).0, 0);
        hears("one");
        assert_eq!(make("two", &json!([])).await.status, 201);
        for (id, ports) in [("one", &json!([])), ("two", &ports)] {
            let asked = json!({"ports": ports}).to_string();
            let moved = server.request("PUT", &format!("/v1/containers/{id}/ports"), asked).await;
            assert_eq!(moved.status, 200, "{}", moved.text);
        }
        hears("two");
    }
    let local = json!({"ports": [{"container_port": 80, "host_ip": "127.0.0.1"}], "command": shell(HTTPD)});
    let local = run(&server, local).await;
    let local_port = local["ports"][0]["host_port"].as_u64().expect("port") as u16;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(page(get((Ipv4Addr::LOCALHOST, local_port).into()).await));
    assert!(get((gateway, local_port).into()).await.is_err(), "published on 127.0.0.1 only");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    let used = listener.local_addr().expect("address").port();
    for taken in [used, port] {
        let asked = json!({"image": "busybox", "ports": [{"container_port": 80, "host_port": taken}]});
        let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("in_use")), "{}", answer.text);
    }
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err(), "a published port is held against others");

    // It is the container's over stop and start, and free after removal.
    client.container_do("web", "stop", Some(1)).await.expect("stop");
    assert!(get((Ipv4Addr::LOCALHOST, port).into()).await.is_err());
    let again = client.container_do("web", "start", None).await.expect("start");
    assert_eq!((again.ports[0].host_port, again.address.as_deref()), (Some(port), Some(address.to_string().as_str())));
    client.container_remove("web", true).await.expect("remove");
    let asked = json!({"name": "next", "ports": [{"container_port": 80, "host_port": port}], "command": shell(HTTPD)});
    run(&server, asked).await;
    client.container_remove("next", true).await.expect("remove");
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(), "free as soon as its container is gone");

    let (text, _) = output(
        &server,
        json!({"network": "none"}),
        "ls /sys/class/net; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo lo",
    )
    .await;
    assert_eq!(text, "lo\nlo\n");
    let (text, _) =
        output(&server, json!({"network": "host"}), "cat /proc/sys/kernel/hostname; ls /sys/class/net").await;
    assert!(text.contains("berth-"), "the host's links are seen: {text}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_shut_in() {
    let Some(server) = server("isolation").await else { return };
    let probe = "
        grep -E 'CapEff|CapInh|CapAmb|NoNewPrivs|^Seccomp:' /proc/self/status | tr -d '\\t'
        for command in 'mount -t tmpfs x /mnt' 'unshare -n true' 'unshare -U true' 'chroot /proc/1/root true' \
            'hostname other' 'date -s 2001-01-01; date | grep 2001' 'dmesg' 'insmod x' 'swapoff -a' 'mknod /tmp/disk b 254 0; head -c 1 /tmp/disk' \
            'echo 1 > /proc/sys/kernel/sysrq' 'echo b > /proc/sysrq-trigger' 'mkdir /sys/fs/cgroup/memory/x' \
            'mkdir /sys/fs/cgroup/x' 'head -c 4 /proc/kcore | grep -q ELF' 'ip link add d type dummy' 'nice -n -5 true' 'cat /dev/mem'; do
            if sh -c \"$command\" >/dev/null 2>&1; then echo \"allowed: $command\"; fi
        done
        cat /proc/kcore 2>/dev/null | wc -c
        ls /proc/1/fd | wc -w
        echo pid $$
        ls /proc | grep -E '^[0-9]+$' | wc -l
        ls -ld /dev/sda /dev/vda 2>/dev/null
        for d in null zero full random urandom tty; do test -c /dev/$d || echo missing $d; done
        echo ok > /dev/null && head -c 1 /dev/urandom >/dev/null && echo devices";
    let (text, _) = output(&server, json!({}), probe).await;
    // chroot to its own root is no way out.
    let allowed: Vec<&str> = text.lines().filter(|l| l.starts_with("allowed: ") && !l.contains("chroot")).collect();
    assert_eq!(allowed, Vec::<&str>::new(), "{text}");
    assert!(text.contains("CapEff:00000000a80425fb") && text.contains("CapInh:0000000000000000"), "{text}");
    assert!(text.contains("NoNewPrivs:1") && text.contains("Seccomp:2"), "{text}");
    assert!(text.contains("pid 1\n") && text.contains("devices\n") && text.contains("\n0\n"), "{text}");
    assert!(!text.contains("missing"), "{text}");

    let (text, _) =
        output(&server, json!({"user": "1000:1000"}), "id -u; id -g; grep CapEff /proc/self/status; touch /x").await;
    assert!(
        text.starts_with("1000\n1000\n") && text.contains("0000000000000000") && text.contains("Permission denied"),
        "{text}"
    );
    let asked = json!({"read_only": true, "mounts": [{"type": "tmpfs", "target": "/work", "size": 1 << 20}], "shm_size": 2 << 20});
    let (text, _) =
        output(&server, asked, "touch /x; touch /work/y && echo written; df -k /work /dev/shm | awk '{print $2}'")
            .await;
    assert!(text.contains("Read-only file system") && text.contains("written\n"), "{text}");
    assert!(text.contains("1024\n") && text.contains("2048\n"), "{text}");
    let (text, _) = output(
        &server,
        json!({"hostname": "box", "env": ["A=b c", "PATH=/bin"], "working_dir": "/new/place"}),
        "hostname; cat /etc/hostname; grep -c box /etc/hosts; pwd; echo $A; echo $PATH; test -s /etc/resolv.conf && echo resolves",
    )
    .await;
    assert_eq!(text, "box\nbox\n1\n/new/place\nb c\n/bin\nresolves\n");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_are_for_those_who_may_and_links_lead_nowhere() {
    let Some(server) = server("mounts").await else { return };
    let client = server.client();
    let folder = server.data.join("shared");
    std::fs::create_dir_all(&folder).expect("folder");
    std::fs::write(folder.join("f"), "from the host\n").expect("file");
    let bind = |target: &str, read_only: bool| json!({"mounts": [{"type": "bind", "source": folder.to_str(), "target": target, "read_only": read_only}]});
    let (text, _) = output(&server, bind("/in/side", false), "cat /in/side/f; echo more > /in/side/g").await;
    assert_eq!(
        (text.as_str(), std::fs::read(folder.join("g")).expect("g").as_slice()),
        ("from the host\n", &b"more\n"[..])
    );
    let (text, _) = output(&server, bind("/m", true), "echo x > /m/f").await;
    assert!(text.contains("Read-only"), "{text}");
    // A link in the container's own file system at the place of a mount is followed inside its root, never outside.
    let made = run(
        &server,
        json!({"name": "link", "command": shell("rm -rf /tmp; ln -s /etc /tmp; ln -s ../../../../.. /up")}),
    )
    .await;
    client.container_wait(made["id"].as_str().expect("id")).await.expect("wait");

    let user = client
        .token_create(&serde_json::from_value(json!({"name": "u", "account": "tenant"})).expect("request"))
        .await
        .expect("token");
    let token = user.token.expect("secret");
    let asked = json!({"image": "busybox"}).to_string();
    let answer = server.request_as(Some(&token), "POST", "/v1/containers", asked).await;
    assert_eq!(answer.status, 404, "another account does not see the image: {}", answer.text);
    let tar = std::fs::read(image("busybox").expect("image")).expect("image");
    let answer = server.request_as(Some(&token), "POST", "/v1/images/rootfs?name=busybox", tar).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    for (asked, status) in [
        (
            json!({"image": "busybox", "command": ["sh"], "mounts": [{"type": "bind", "source": "/etc", "target": "/m"}]}),
            403,
        ),
        (json!({"image": "busybox", "command": ["sh"], "network": "host"}), 403),
        (json!({"image": "busybox", "command": ["sh"], "mounts": [{"type": "tmpfs", "target": "/../m"}]}), 400),
        (json!({"image": "busybox", "command": ["sh"], "mounts": [{"type": "tmpfs", "target": "/"}]}), 400),
    ] {
        let answer = server.request_as(Some(&token), "POST", "/v1/containers", asked.to_string()).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    for path in ["/v1/containers/link", "/v1/containers/link/logs", "/v1/containers/link/stats"] {
        let answer = server.request_as(Some(&token), "GET", path, "").await;
        assert_eq!(answer.status, 404, "another account's container: {path}");
    }
    assert_eq!(
        server.request_as(Some(&token), "POST", "/v1/tokens", r#"{"name":"x","role":"admin"}"#).await.status,
        403
    );
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_from_create_to_remove() {
    let Some(server) = server("life").await else { return };
    let client = server.client();
    let asked = json!({"image": "busybox", "name": "a", "command": ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while true; do sleep 0.05; done"]});
    let made = server.request("POST", "/v1/containers", asked.to_string()).await.json();
    assert_eq!((made["state"].as_str(), made["runs"].as_i64()), (Some("created"), Some(0)));
    let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("duplicate")));
    assert_eq!(client.container_do("a", "start", None).await.expect("start").state, "running");
    assert_eq!(client.container_do("a", "start", None).await.expect("start again").runs, 1);
    let refused = client.container_remove("a", false).await.expect_err("it runs");
    assert_eq!(refused.code(), Some("wrong_state"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopped = client.container_do("a", "stop", None).await.expect("stop");
    assert_eq!((stopped.state.as_str(), stopped.exit_code), ("exited", Some(5)));
    assert_eq!(client.container_do("a", "stop", None).await.expect("stop again").state, "exited");
    assert_eq!(log_of(&client, "a").await, "up\nbye\n");
    let again = client.container_do("a", "restart", None).await.expect("restart");
    assert_eq!((again.state.as_str(), again.runs), ("running", 2));
    client.container_kill("a", "SIGKILL").await.expect("kill");
    assert_eq!(client.container_wait("a").await.expect("wait").exit_code, Some(137));
    assert!(client.container_kill("a", "TERM").await.is_err_and(|e| e.code() == Some("wrong_state")));
    assert!(client.container_kill("a", "NOPE").await.is_err_and(|e| e.code() == Some("invalid")));

    // One that ignores the signal is killed after the grace.
    run(&server, json!({"name": "deaf", "command": shell("trap '' TERM; sleep 60")})).await;
    let begun = std::time::Instant::now();
    let killed = client.container_do("deaf", "stop", Some(1)).await.expect("stop");
    assert!(begun.elapsed() >= Duration::from_millis(900) && killed.exit_code == Some(137), "{killed:?}");

    // What can't be run says so, and leaves no container where it was to be started at once.
    for command in [json!(["no-such"]), json!(["/etc/passwd"]), json!(["/no/such/path"])] {
        let asked = json!({"image": "busybox", "command": command, "start": true});
        let answer = server.request("POST", "/v1/containers", asked.to_string()).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.json()["detail"].as_str().is_some_and(|d| d.contains(command[0].as_str().expect("word"))));
    }
    let answer = server
        .request(
            "POST",
            "/v1/containers",
            json!({"image": "busybox", "user": "nobody-here", "start": true}).to_string(),
        )
        .await;
    assert!(answer.status == 400 && answer.text.contains("nobody-here"), "{}", answer.text);
    assert_eq!(client.containers().await.expect("list").len(), 2);

    // Removed by itself, with the same key made once, by the same request only.
    run(&server, json!({"auto_remove": true, "command": shell("true")})).await;
    let before = client.containers().await.expect("list").len();
    let keyed = |body: String| {
        let http = berth_testkit::http().post(server.url("/v1/containers")).bearer_auth(server.token());
        async move { http.header("idempotency-key", "k1").body(body).send().await.expect("send") }
    };
    let body = json!({"image": "busybox", "name": "keyed"}).to_string();
    let first: Value = serde_json::from_str(&keyed(body.clone()).await.text().await.expect("text")).expect("json");
    let second: Value = serde_json::from_str(&keyed(body).await.text().await.expect("text")).expect("json");
    assert_eq!(first, second);
    assert_eq!(keyed(json!({"image": "busybox"}).to_string()).await.status().as_u16(), 422);
    let mut tries = 0;
    while client.containers().await.expect("list").len() != 3 {
        tries += 1;
        assert!(tries < 100, "auto_remove: {before}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kinds: BTreeMap<String, usize> =
        client.events().await.expect("events").into_iter().fold(BTreeMap::new(), |mut all, e| {
            *all.entry(e.kind).or_default() += 1;
            all
        });
    for kind in [
        "container.created",
        "container.started",
        "container.exited",
        "container.failed",
        "container.removed",
        "image.imported",
    ] {
        assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_cut_and_kept_whole() {
    let Some(server) = server("logs").await else { return };
    let client = server.client();
    let script = "echo one; echo two >&2; printf 'no end'; sleep 0.3; echo; echo 你好; seq 1 3; sleep 0.2; echo last";
    run(&server, json!({"name": "talk", "command": shell(script)})).await;
    let mut log =
        client.container_logs("talk", &LogQuery { follow: true, ..LogQuery::default() }).await.expect("follow");
    let mut seen = Vec::new();
    while let Some(entry) = log.next().await {
        let entry = entry.expect("entry");
        seen.push((entry.stream, entry.text, entry.partial));
    }
    assert!(seen.contains(&("stderr".into(), "two".into(), false)), "{seen:?}");
    assert!(seen.contains(&("stdout".into(), "no end".into(), true)), "a beginning is shown at once: {seen:?}");
    assert_eq!(seen.last().map(|s| s.1.as_str()), Some("last"));
    let text = server.request("GET", "/v1/containers/talk/logs?format=text&tail=2", "").await.text;
    assert_eq!(text, "3\nlast\n");
    let since = server.request("GET", "/v1/containers/talk/logs?format=text&since=4000000000", "").await.text;
    assert_eq!(since, "");
    let all = server.request("GET", "/v1/containers/talk/logs?format=text&since=1000", "").await.text;
    assert!(all.contains("你好\n1\n2\n3\nlast\n"), "{all}");
    assert_eq!(server.request("GET", "/v1/containers/talk/logs?since=yesterday", "").await.status, 400);
    server.finish().await;
}

/// Mounts may come in any order: what is deeper goes on top. Two at one place are refused, and leave no volume behind.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_ordered_by_depth() {
    let Some(server) = server("order").await else { return };
    let bind = server.data.join("bind");
    std::fs::create_dir_all(&bind).expect("folder");
    std::fs::write(bind.join("f"), "bind\n").expect("file");
    let volume = |name: &str, target: &str| json!({"type": "volume", "source": name, "target": target});
    let folder = |target: &str| json!({"type": "bind", "source": bind, "target": target});
    let tmpfs = |target: &str| json!({"type": "tmpfs", "target": target});
    for (number, mounts) in [
        vec![folder("/a/b"), tmpfs("/a")],
        vec![tmpfs("/a"), folder("/a/b")],
        vec![folder("/a/b"), volume("v", "/a")],
        vec![folder("/a/b"), tmpfs("/x"), volume("w", "/a"), tmpfs("/a/c")],
    ]
    .into_iter()
    .enumerate()
    {
        let (text, code) = output(&server, json!({"mounts": mounts}), "cat /a/b/f && touch /a/new").await;
        assert_eq!((text.as_str(), code), ("bind\n", 0), "{number}");
    }
    for mounts in [
        vec![volume("twice1", "/a"), volume("twice2", "/a/")],
        vec![tmpfs("/a"), volume("twice3", "//a/.")],
        vec![folder("/a"), tmpfs("/a")],
    ] {
        let body = json!({"image": "busybox", "command": ["sh"], "mounts": mounts}).to_string();
        let answer = server.request("POST", "/v1/containers", body).await;
        assert!(answer.status == 400 && answer.text.contains("duplicate mount target /a"), "{}", answer.text);
    }
    let volumes = server.request("GET", "/v1/volumes", "").await.text;
    assert!(!volumes.contains("twice"), "{volumes}");
    server.finish().await;
}

/// What a process that is run in a container shows of itself before it has become its program, and what stands for the files
/// that are hidden.
#[tokio::test(flavor = "multi_thread")]
async fn helpers_and_masks_show_nothing_of_the_host() {
    let Some(server) = server("helpers").await else { return };
    // A mount of the host that no container has.
    let marker = server.data.join("seen-by-nobody");
    std::fs::create_dir(&marker).expect("a folder");
    let mount = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).arg(&marker).status();
        assert!(done.expect("run").success(), "{program}");
    };
    mount("mount", &["-t", "tmpfs", "tmpfs"]);
    // Looks at every process that comes, as long as others are run: their mounts, network and descriptors.
    let spy = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] && continue; \
        cat $p/net/dev 2>/dev/null | grep -v 'lo:\\|eth0:\\|face\\|Inter'; \
        grep seen-by-nobody $p/mountinfo 2>/dev/null; \
        done; done";
    run(&server, json!({"name": "spy", "command": ["sh", "-c", spy]})).await;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..40 {
                    assert_eq!(server.cli(&["exec", "spy", "true"]).0, 0);
                }
            });
        }
    });
    let log = server.cli(&["logs", "spy"]).1;
    mount("umount", &[]);
    assert!(!log.contains("seen-by-nobody"), "mounts of the host were seen: {log}");
    for line in log.lines() {
        assert!(!line.contains(':'), "a link of the host was seen: {line}");
    }

    // A volume at /dev whose `null` leads to a file of the container's.
    let prepare = "ln -s /kept /v/null; ln -s /kept /v/zero; echo kept > /kept";
    let (_, code) =
        output(&server, json!({"mounts": [{"type": "volume", "source": "dev", "target": "/v"}]}), prepare).await;
    assert_eq!(code, 0);
    let (text, _) = output(
        &server,
        json!({"mounts": [{"type": "volume", "source": "dev", "target": "/dev"}]}),
        "echo secret > /kept; for f in /proc/keys /proc/timer_list /proc/kcore /proc/interrupts; do [ -e $f ] || continue; \
         stat -c '%F %t:%T' $f; done | sort -u",
    )
    .await;
    assert_eq!(text, "character special file 1:3\n");
    for folder in ["/sys/firmware", "/sys/devices/virtual/powercap"] {
        let (text, _) = output(&server, json!({}), &format!("ls {folder} 2>/dev/null | wc -l")).await;
        assert_eq!(text.trim(), "0", "{folder}");
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_a_key_is_done_once_and_many_containers_by_one_request() {
    let Some(server) = server("once").await else { return };
    let keyed = |method: &str, path: &str, key: &str, body: Value| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = berth_testkit::http().request(method, server.url(path)).bearer_auth(server.token());
        let request = request.header("idempotency-key", key).body(body.to_string());
        async move {
            let answer = request.send().await.expect("send");
            let replayed = answer.headers().contains_key("idempotency-replayed");
            let (status, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
            (status, serde_json::from_str::<Value>(&text).unwrap_or(Value::Null), replayed)
        }
    };
    // Whatever it is that is made or changed.
    let service = json!({"name": "kept"});
    let (status, first, replayed) = keyed("POST", "/v1/services", "v", service.clone()).await;
    assert_eq!((status, replayed), (201, false), "{first}");
    assert_eq!(keyed("POST", "/v1/services", "v", service.clone()).await, (201, first, true));
    assert_eq!(keyed("POST", "/v1/services", "other", service).await.0, 409, "another key is another request");
    assert_eq!(keyed("DELETE", "/v1/services/kept", "d", Value::Null).await.0, 204);
    assert_eq!(keyed("DELETE", "/v1/services/kept", "d", Value::Null).await, (204, Value::Null, true));
    assert_eq!(keyed("DELETE", "/v1/services/kept", "v", Value::Null).await.0, 422, "another method");
    run(&server, json!({"name": "again", "command": shell("sleep 1000")})).await;
    for replayed in [false, true] {
        let (status, found, was) = keyed("POST", "/v1/containers/again/restart?timeout=0", "r", Value::Null).await;
        assert_eq!((status, was), (200, replayed), "{found}");
    }
    let id = server.client().container("again").await.expect("inspect").id;
    let starts = server.client().events().await.expect("events");
    let starts = starts.iter().filter(|event| event.kind == "container.started" && event.subject == id).count();
    assert_eq!(starts, 2, "started and restarted once");
    // What failed can be tried again, and a secret is nowhere but in its answer.
    assert_eq!(keyed("POST", "/v1/containers/nobody/start", "f", Value::Null).await.0, 404);
    run(&server, json!({"name": "nobody", "command": shell("sleep 1000")})).await;
    assert_eq!(keyed("POST", "/v1/containers/nobody/start", "f", Value::Null).await.0, 200);
    for path in ["/v1/tokens", "/v1/keys", "/v1/ssh-keys", "/v1/images/pull"] {
        let (status, told, _) = keyed("POST", path, "secret", json!({"name": "laptop", "image": "busybox"})).await;
        assert!(status == 400 && told.to_string().contains("takes no Idempotency-Key"), "{path}: {told}");
    }
    // Another right is another request; one of many at a time is done, and it alone.
    let user = server.request("POST", "/v1/tokens", r#"{"name":"user"}"#).await.json();
    let as_user =
        berth_testkit::http().post(server.url("/v1/services")).bearer_auth(user["token"].as_str().expect("token"));
    let as_user = as_user.header("idempotency-key", "v").body(r#"{"name":"kept"}"#).send().await.expect("send");
    assert_eq!(as_user.status().as_u16(), 422);
    let many: Vec<_> =
        (0..20).map(|_| tokio::spawn(keyed("POST", "/v1/services", "m", json!({"name": "many"})))).collect();
    let mut made = 0;
    for each in many {
        let (status, found, replayed) = each.await.expect("join");
        assert!(matches!(status, 201 | 409), "{status} {found}");
        assert!(status == 201 || found["code"] == "under_way", "{found}");
        made += usize::from(status == 201 && !replayed);
    }
    assert_eq!(made, 1);
    for wrong in ["", &"k".repeat(256)] {
        assert_eq!(keyed("POST", "/v1/services", wrong, json!({"name": "wrong"})).await.0, 400, "{wrong}");
    }

    let bulk = async |asked: Value| {
        let answer = server.request("POST", "/v1/bulk/containers", asked.to_string()).await;
        (answer.status, serde_json::from_str::<Value>(&answer.text).expect("json"))
    };
    let (status, done) =
        bulk(json!({"action": "stop", "containers": ["again", "missing", "nobody"], "timeout": 0})).await;
    assert_eq!(status, 200, "{done}");
    let named: Vec<&str> =
        done["items"].as_array().expect("items").iter().filter_map(|i| i["container"].as_str()).collect();
    assert_eq!(named, ["again", "missing", "nobody"], "in their order");
    assert_eq!((&done["items"][0]["error"], &done["items"][1]["error"]["status"]), (&Value::Null, &json!(404)));
    for name in ["again", "nobody"] {
        assert_eq!(server.client().container(name).await.expect("inspect").state, "exited");
    }
    // One grace time for all of them.
    for n in 0..20 {
        run(
            &server,
            json!({"name": format!("deaf{n}"), "command": shell("trap '' TERM; while true; do sleep 1; done")}),
        )
        .await;
    }
    let all: Vec<String> = (0..20).map(|n| format!("deaf{n}")).collect();
    let begun = std::time::Instant::now();
    let (_, done) = bulk(json!({"action": "stop", "containers": all, "timeout": 1})).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}: {done}", begun.elapsed());
    let (_, done) = bulk(json!({"action": "remove", "containers": all, "force": true})).await;
    assert!(done["items"].as_array().expect("items").iter().all(|i| i["error"].is_null()), "{done}");
    let audit = server.request("GET", "/v1/audit?action=bulk&limit=1000", "").await.json();
    let entry = |action: &str, status: u16| {
        let all = audit["items"].as_array().expect("items").iter();
        let action = format!("POST /v1/bulk/containers: {action}");
        all.filter(|each| each["action"] == action.as_str() && each["status"] == status).count()
    };
    assert_eq!(
        (entry("stop again", 200), entry("stop missing", 404), entry("remove deaf19", 200)),
        (1, 1, 1),
        "{audit}"
    );
    assert_eq!(entry("stop of 3 containers, 1 failed", 200), 1, "{audit}");
    for wrong in [
        json!({"action": "explode", "containers": ["again"]}),
        json!({"action": "stop", "containers": []}),
        json!({"action": "stop", "containers": (0..1001).map(|n| n.to_string()).collect::<Vec<_>>()}),
        json!({"action": "stop", "containers": ["again", "again"]}),
        json!({"action": "stop", "containers": ["a".repeat(129)]}),
        json!({"action": "stop", "containers": ["again"], "force": true}),
        json!({"action": "start", "containers": ["again"], "timeout": 1}),
        json!({"action": "pause", "containers": ["again"], "signal": "INT"}),
        json!({"action": "kill", "containers": ["again"], "signal": "EXPLODE"}),
        json!({"action": "stop", "containers": ["again"], "timeout": 3601}),
        json!({"action": "stop"}),
    ] {
        assert_eq!(bulk(wrong.clone()).await.0, 400, "{wrong}");
    }
    server.finish().await;
}
