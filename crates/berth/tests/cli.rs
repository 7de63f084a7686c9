//! The command line, as a person uses it.

use berth_testkit::{Server, image, is_root};

#[tokio::test(flavor = "multi_thread")]
async fn dockers_habits_work() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "cli", "").await;
    let ok = |args: &[&str]| {
        let (code, out, error) = server.cli(args);
        assert_eq!(code, 0, "{args:?}: {error}");
        out
    };
    server.import(&rootfs, "busybox", &[]);
    assert!(ok(&["images"]).contains("busybox:latest"));
    let (code, out, error) = server.cli(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((code, out.as_str(), error.as_str()), (3, "out\n", "err\n"));
    let script = "head -c 300 /dev/zero | tr '\\000' '\\377'";
    let raw = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .env("BERTH_DATA_DIR", &server.data)
        .args(["run", "--rm", "busybox", "sh", "-c", script])
        .output()
        .expect("run");
    assert_eq!(raw.stdout, vec![0xff; 300], "bytes come out as they went in");
    ok(&["create", "--name", "offered", "busybox"]);
    ok(&["volume", "create", "offered-volume"]);
    let offered = |words: &[&str]| {
        let asked = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
            .env_remove("BERTH_TOKEN")
            .env_remove("BERTH_HOST")
            .env_remove("BERTH_CONTEXT")
            .envs([("BERTH_COMPLETE", "fish"), ("BERTH_DATA_DIR", server.data.to_str().expect("UTF-8"))])
            .args(["--", "berth"])
            .args(words)
            .output()
            .expect("complete");
        String::from_utf8(asked.stdout).expect("UTF-8")
    };
    assert_eq!(offered(&["start", "off"]), "offered\tbusybox (created)\n");
    assert_eq!(offered(&["container", "rm", "off"]), "offered\tbusybox (created)\n");
    assert_eq!(offered(&["volume", "rm", "off"]), "offered-volume\n");
    assert_eq!(offered(&["run", "-d", "busy"]), "busybox:latest\n");
    assert_eq!(offered(&["volume", "pru"]).split('\t').next(), Some("prune"));
    assert_eq!(offered(&["volume", "create", "off"]), "");
    ok(&["rm", "offered"]);
    let id = ok(&[
        "run", "-d", "--name", "web", "-p", "80", "-m", "64m", "--cpus", "0.5", "-e", "A=b", "busybox", "httpd", "-f",
    ]);
    let id = id.trim();
    let listed = ok(&["ps"]);
    assert!(listed.contains(id) && listed.contains("->80/tcp") && listed.contains("Up "), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&ok(&["ps", "--json"])).expect("json");
    assert_eq!((json[0]["id"].as_str(), json[0]["memory"].as_u64()), (Some(id), Some(64 << 20)));
    let stats = ok(&["stats", "--no-stream", "web"]);
    assert!(stats.contains("64.0MiB") && stats.contains(id), "{stats}");
    assert!(ok(&["inspect", "web"]).contains("\"A=b\""));
    assert!(ok(&["inspect", "busybox"]).contains("sha256:"));
    assert_eq!(ok(&["stop", "-t", "0", "web"]), "web\n");
    assert!(!ok(&["ps"]).contains(id) && ok(&["ps", "-a"]).contains("Exited (137)"));
    assert_eq!(ok(&["start", &id[..6]]), format!("{}\n", &id[..6]));
    let (code, _, error) = server.cli(&["rm", "web"]);
    assert!(code == 1 && error.contains("is running"), "{error}");
    let (code, _, error) = server.cli(&["rmi", "busybox"]);
    assert!(code == 1 && error.contains("web"), "{error}");
    assert_eq!(ok(&["rm", "-f", "web"]), "web\n");
    assert_eq!(ok(&["create", "--name", "later", "busybox", "echo", "hi"]).trim().len(), 12);
    ok(&["start", "later"]);
    assert_eq!(ok(&["wait", "later"]), "0\n");
    assert_eq!(ok(&["logs", "later"]), "hi\n");
    assert!(ok(&["logs", "-t", "later"]).ends_with("Z hi\n"));
    ok(&["rm", "later"]);
    let events = ok(&["events", "--past"]);
    assert!(events.contains("container.started") && events.contains("container.removed"), "{events}");
    let (code, _, error) = server.cli(&["run", "nothing-here"]);
    assert!(code == 125 && error.contains("berth load"), "{error}");
    assert_eq!(server.cli(&["run", "--rm", "busybox", "nosuch"]).0, 127);
    assert_eq!(server.cli(&["run", "--rm", "busybox", "/etc"]).0, 126);
    let token = ok(&["token", "create", "--account", "other", "script"]);
    let (_, other, _) = server.cli(&["--token", token.trim(), "ps", "-a", "-q"]);
    assert_eq!(other, "");
    assert!(ok(&["info"]).contains("cpus"));
    assert!(ok(&["completion", "bash"]).contains("_berth"));
    assert!(ok(&["rmi", "busybox"]).contains("freed"));
    let (code, out, _) = server.cli(&["doctor", "--json"]);
    assert!(code == 0 && out.contains("nf_tables"), "{out}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_and_layout_folders_are_loaded() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "load", "").await;
    let tar = std::fs::read(rootfs).expect("image");
    let layout = server.data.join("layout");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("folder");
    let blob = |bytes: &[u8]| {
        let digest = berth_image::Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("blob");
        serde_json::json!({"digest": digest, "size": bytes.len()})
    };
    let layer = blob(&tar);
    let config =
        serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["echo", "from the layout"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}})
        .to_string();
    let config = blob(config.as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let mut manifest = blob(manifest.as_bytes());
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "layout:1"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    std::fs::write(layout.join("index.json"), index).expect("index");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("layout");
    let (code, out, error) = server.cli(&["load", layout.to_str().expect("path")]);
    assert_eq!((code, out.as_str()), (0, "Loaded image: layout:1\n"), "{error}");
    let (code, out, error) = server.cli(&["run", "--rm", "layout:1"]);
    assert_eq!((code, out.as_str()), (0, "from the layout\n"), "{error}");
    server.finish().await;
}

/// The command line refuses them by itself; so does the server.
async fn removal_and_restart_exclude_each_other(server: &Server) {
    let both = r#"{"image": "busybox", "command": ["true"], "auto_remove": true, "restart": "always"}"#;
    let refused = server.request("POST", "/v1/containers", both).await;
    assert!(refused.status == 400 && refused.text.contains("can't be started again"), "{}", refused.text);
    let passing =
        r#"{"image": "busybox", "name": "passing", "command": ["sleep", "9"], "auto_remove": true, "start": true}"#;
    assert_eq!(server.request("POST", "/v1/containers", passing).await.status, 201);
    let refused = server.request("PATCH", "/v1/containers/passing", r#"{"restart": "always"}"#).await;
    assert!(refused.status == 400 && refused.text.contains("can't be started again"), "{}", refused.text);
    berth_testkit::done(server, &["rm", "-f", "passing"]);
}

/// What operators do without thinking, and what must not cost them anything.
#[tokio::test(flavor = "multi_thread")]
async fn surprises_are_spared() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "surprises", "").await;
    server.import(&rootfs, "busybox", &[]);
    fn ok(server: &Server, args: &[&str]) -> String {
        let (code, out, error) = server.cli(args);
        assert_eq!(code, 0, "{args:?}: {error}");
        out
    }
    ok(&server, &["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    // What takes its time shows that it goes on.
    let script = "trap 'sleep 1.5; exit 0' TERM; while true; do sleep 0.1; done";
    ok(&server, &["run", "-d", "--name", "slow", "busybox", "sh", "-c", script]);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let (code, out, error) = server.cli(&["stop", "slow"]);
    assert_eq!((code, out.as_str()), (0, "slow\n"), "{error}");
    assert!(error.contains("stopping slow (1 s)"), "{error:?}");
    ok(&server, &["rm", "slow"]);
    // The first thing that a container does may be to look for another.
    for _ in 0..10 {
        ok(&server, &["run", "--rm", "busybox", "ping", "-c", "1", "-W", "2", "web"]);
    }
    // Signals to `berth run` are the container's: a unit of systemd that stops it stops the container.
    let trap = "trap 'echo heard; exit 4' TERM; echo ready; while true; do sleep 0.05; done";
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .env("BERTH_DATA_DIR", &server.data)
        .args(["run", "--rm", "--name", "trap", "busybox", "sh", "-c", trap])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("run");
    let mut ready = [0; 6];
    let mut out = child.stdout.take().expect("output");
    std::io::Read::read_exact(&mut out, &mut ready).expect("ready");
    // SAFETY: a plain signal to a child of this test.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).expect("output");
    assert_eq!((rest.as_str(), child.wait().expect("wait").code()), ("heard\n", Some(4)));
    assert!(server.cli(&["inspect", "trap"]).0 != 0, "--rm holds as well");
    // Whoever goes away in the middle leaves nothing behind for ever: the server removes it, over its own end too.
    for (number, (options, killed)) in [(&["-i"][..], false), (&[][..], false), (&[][..], true)].into_iter().enumerate()
    {
        let name = format!("gone{number}");
        let mut args = vec!["run", "--rm", "--name", &name];
        args.extend(options);
        args.extend(["busybox", "sh", "-c", "echo up; sleep 1"]);
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
            .env("BERTH_DATA_DIR", &server.data)
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("run");
        let mut up = [0; 3];
        std::io::Read::read_exact(&mut child.stdout.take().expect("output"), &mut up).expect("up");
        child.kill().expect("kill");
        child.wait().expect("wait");
        if killed {
            server.kill();
            server.up().await;
        }
        assert_eq!(server.cli(&["inspect", &name]).0, 0, "it runs on");
        let ends = std::time::Instant::now() + std::time::Duration::from_secs(15);
        while server.cli(&["inspect", &name]).0 == 0 {
            assert!(std::time::Instant::now() < ends, "{name} is still there");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    for form in [&["run", "--rm"][..], &["run", "-d", "--rm"], &["run", "-i", "--rm"], &["create", "--rm"]] {
        let (code, _, error) = server.cli(&[form, &["--restart", "always", "busybox", "true"]].concat());
        assert!(code != 0 && error.contains("restart"), "{form:?}: {code} {error}");
    }
    removal_and_restart_exclude_each_other(&server).await;
    // A server that runs keeps its things.
    let (code, _, error) = server.cli(&["uninstall"]);
    assert!(code == 1 && error.contains("stop it first"), "{error}");
    ok(&server, &["exec", "web", "true"]);
    // What is paused can be killed.
    ok(&server, &["run", "-d", "--name", "p", "busybox", "sleep", "1000"]);
    ok(&server, &["pause", "p"]);
    ok(&server, &["kill", "p"]);
    assert_eq!(ok(&server, &["wait", "p"]), "137\n");
    // Errors of copies are told in words, and nothing is silently left out.
    ok(&server, &["exec", "web", "ln", "-s", "/nowhere", "/dangling"]);
    for (args, said) in [
        (["cp", "-L", "web:/dangling", "/tmp/berth-x"], "/dangling: no such file"),
        (["cp", "-a", "web:/proc/meminfo", "-"], "kernel's"),
        (["cp", "-a", "/etc/hostname", "web:/dev/null"], "is a device"),
    ] {
        let (code, _, error) = server.cli(&args);
        assert!(code != 0 && error.to_lowercase().contains(said), "{args:?}: {error}");
    }
    ok(&server, &["exec", "web", "sh", "-c", "echo still > /dev/null"]);
    // A terminal has a size before its program looks.
    assert_eq!(ok(&server, &["exec", "-t", "web", "stty", "size"]).trim(), "24 80");
    // Other people's words don't steer a terminal.
    ok(&server, &["run", "-d", "--name", "esc", "busybox", "sh", "-c", ": \u{1b}[31m \n \u{7}; sleep 100"]);
    let shown = ok(&server, &["ps"]);
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}') && shown.lines().count() == 3, "{shown}");
    let (code, _, error) = server.cli(&["load", "-i", "/bin/sh"]);
    assert!(code == 1 && error.contains("no tar archive"), "{error}");
    // An administrator sees and withdraws everybody's tokens.
    let token = ok(&server, &["token", "create", "--account", "bob", "b1"]);
    let list = ok(&server, &["token", "ls", "--all"]);
    let row = list.lines().find(|l| l.contains("bob")).expect("bob's");
    ok(&server, &["token", "rm", row.split_whitespace().next().expect("number")]);
    assert!(server.cli(&["--token", token.trim(), "ps"]).0 != 0);
    let (code, _, error) = server.cli(&["volume", "prune"]);
    assert!(code == 1 && error.contains("--force"), "{error}");
    server.finish().await;
}

/// The command line talks to the server of its data folder by a Unix socket: nobody who listens on the server's port while it
/// is down is told the token.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_over_no_loopback_port() {
    if !is_root() {
        return;
    }
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "socket", "").await;
    assert_eq!(server.cli(&["ps"]).0, 0);
    let port = server.url("").rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).expect("a port");
    server.terminate();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("take the port");
    listener.set_nonblocking(true).expect("nonblocking");
    let (code, _, error) = server.cli(&["ps"]);
    assert!(code == 1 && error.contains("berth.sock"), "{error}");
    assert!(listener.accept().is_err(), "the command line connected to a stranger");
    drop(listener);
    server.up().await;
    let metrics = server.request("GET", "/metrics", "").await.text;
    assert!(metrics.contains("berth_"), "{metrics}");
    assert_eq!(server.cli(&["ps"]).0, 0, "the socket is there again");
    server.finish().await;
}

/// Each dialect can be turned off: then its paths are paths that are not there.
#[tokio::test(flavor = "multi_thread")]
async fn dialects_are_turned_off() {
    if !is_root() {
        return;
    }
    let paths = [
        ("standalone", "/container/analy"),
        ("acs", "/api/v1/node"),
        ("acs", "/api/v1/container"),
        ("acs", "/api/v1/command"),
        ("comb", "/api/v1/containers"),
        ("comb", "/api/v1/token"),
        ("comb", "/api/v1/secret-keys"),
        ("tingyu", "/tingyu/node/list"),
    ];
    for off in ["standalone", "acs", "comb", "tingyu"] {
        let settings = format!("[dialects]\n{off} = false\n");
        let server = Server::start(env!("CARGO_BIN_EXE_berth"), &format!("off-{off}"), &settings).await;
        for (dialect, path) in paths {
            let answer = server.request("GET", path, "").await;
            // Below /api/v1/ what nobody has is comb's to answer, where that is served.
            let of_comb = off == "acs" && answer.text.contains("4040006");
            let gone = answer.status == 404 && (answer.text.contains("no_such_path") || of_comb);
            assert_eq!(gone, dialect == off, "{off} is off, {path}: {} {}", answer.status, answer.text);
        }
        server.finish().await;
    }
}

/// A machine without certificate authorities, as a minimal Debian is: what does not go over TLS needs none.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_certificate_authorities_is_served() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "no-authorities", "").await;
    let without = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
            .env("BERTH_DATA_DIR", &server.data)
            .env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", "/nonexistent")
            .args(args)
            .output()
            .expect("run")
    };
    let (url, token) = (server.url(""), server.token());
    for args in [&["ps"][..], &["-H", &url, "--token", &token, "ps"]] {
        let done = without(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let told = without(&["doctor"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("bundled"), "{}", String::from_utf8_lossy(&told.stdout));
    server.finish().await;
}
