//! berth as a service: what systemd is told, settings that are read again, the administrators' socket, contexts, TLS.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use berth_testkit::{Server, free_port, has_program, image, is_root, skip};

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// A command line with nothing of this process' surroundings that says which server.
fn berth(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BERTH);
    command.args(arguments).env("HOME", home).env_remove("XDG_CONFIG_HOME");
    for name in ["BERTH_HOST", "BERTH_TOKEN", "BERTH_DATA_DIR", "BERTH_CONTEXT", "BERTH_CACERT"] {
        command.env_remove(name);
    }
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it to its end; whether it was successful, and what it said.
fn done(mut command: Command) -> (bool, String) {
    let output = command.output().expect("berth");
    (output.status.success(), text(&output))
}

/// A certificate as operators make it, for these names.
fn certificate(folder: &Path, name: &str, names: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=berth"])
        .arg("-addext")
        .arg(format!("subjectAltName={names}"))
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", text(&made));
    (certificate, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_uses_it_by_a_context_with_tls() {
    if !is_root() || image("busybox").is_none() || !has_program("openssl") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("berth-far-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let (good, key) = certificate(&folder, "good", "DNS:localhost,IP:127.0.0.1");
    let (other, other_key) = certificate(&folder, "other", "DNS:elsewhere.example");
    let port = free_port();
    let settings = format!(
        "[https]\nlisten = \"127.0.0.1:{port}\"\ncertificate = {:?}\nkey = {:?}\n",
        good.display().to_string(),
        key.display().to_string()
    );
    let server = Server::start(BERTH, "tls", &settings).await;
    let busybox = image("busybox").expect("image");
    assert_eq!(server.cli(&["import", "--cmd", "sh", busybox.to_str().expect("path"), "busybox"]).0, 0);
    let address = format!("https://127.0.0.1:{port}");
    let (good, address) = (good.to_str().expect("path"), address.as_str());
    let token = server.token();

    // Without the certificate: what is wrong, and what to do.
    let refused = done(berth(&folder, &["-H", address, "--token", &token, "ps"]));
    assert!(!refused.0 && refused.1.contains("--cacert FILE"), "{}", refused.1);
    let plain = done(berth(&folder, &["-H", &address.replace("https", "http"), "--token", &token, "ps"]));
    assert!(!plain.0, "{}", plain.1);
    let reversed = server.url("").replace("http://", "https://");
    let reversed = done(berth(&folder, &["-H", &reversed, "--token", &token, "ps"]));
    assert!(!reversed.0 && reversed.1.contains("try http://"), "{}", reversed.1);

    // A wrong token is told when the context is added; a good one is kept for its owner only.
    let mut add = berth(&folder, &["context", "add", "prod", address, "--cacert", good, "--token-stdin"]);
    let wrong = with_input(&mut add, "berth_wrong\n");
    assert!(!wrong.0 && wrong.1.contains("token"), "{}", wrong.1);
    let mut add = berth(&folder, &["context", "add", "prod", address, "--cacert", good, "--token-stdin"]);
    let added = with_input(&mut add, &format!("{token}\n"));
    assert!(added.0, "{}", added.1);
    let mode = std::fs::metadata(folder.join(".config/berth/contexts.json")).expect("contexts");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
    assert!(done(berth(&folder, &["context", "ls"])).1.contains("prod*"));

    // All that has a session or a stream.
    let ran = done(berth(&folder, &["run", "-d", "--name", "far", "busybox", "sh", "-c", "echo begun; sleep 1000"]));
    assert!(ran.0, "{}", ran.1);
    let said = with_input(&mut berth(&folder, &["exec", "-i", "far", "cat"]), "over the wire\n");
    assert_eq!(said, (true, "over the wire\n".to_owned()));
    let hello = done(berth(&folder, &["run", "--rm", "-i", "busybox", "echo", "hello"]));
    assert_eq!(hello, (true, "hello\n".to_owned()));
    assert_eq!(done(berth(&folder, &["logs", "far"])).1, "begun\n");
    let copied = done(berth(&folder, &["cp", good, "far:/tmp/"]));
    assert!(copied.0, "{}", copied.1);
    let code = berth(&folder, &["exec", "far", "sh", "-c", "exit 7"]).status().expect("berth").code();
    assert_eq!(code, Some(7));

    // A certificate that is changed is taken up by SIGHUP, and one that is for another name is told so.
    std::fs::copy(&other, good).and_then(|_| std::fs::copy(&other_key, &key)).expect("another certificate");
    server.signal(libc::SIGHUP);
    let renamed = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let cacert = other.to_str().expect("path");
            let (_, said) = done(berth(&folder, &["-H", address, "--cacert", cacert, "--token", &token, "ps"]));
            if said.contains("elsewhere.example") {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let renamed = renamed.await.expect("the new certificate");
    assert!(renamed.contains("subjectAltName"), "{renamed}");
    assert_eq!(done(berth(&folder, &["context", "rm", "--force", "prod"])), (true, "prod\n".to_owned()));
    assert_eq!(server.cli(&["rm", "-f", "far"]).0, 0);
    std::fs::remove_dir_all(folder).expect("clean");
}

fn with_input(command: &mut Command, input: &str) -> (bool, String) {
    use std::io::Write;
    use std::process::Stdio;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("berth");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("input");
    let output = child.wait_with_output().expect("berth");
    (output.status.success(), text(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_of_administrators_needs_no_token_and_others_get_nothing() {
    if !is_root() {
        return skip("needs root");
    }
    let folder = std::env::temp_dir().join(format!("berth-members-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let path = folder.join("admin.sock");
    // `daemon` is a group of every Debian, with the number 1.
    let settings = format!("[socket]\npath = {:?}\ngroup = \"daemon\"\n", path.display().to_string());
    let server = Server::start(BERTH, "socket", &settings).await;
    let host = format!("unix://{}", path.display());
    let as_user = |user: u32, group: u32, arguments: &[&str]| {
        let mut command = berth(Path::new("/"), arguments);
        // The program lies where others can't read.
        command.uid(user).gid(group);
        command
    };
    let program = folder.join("berth");
    std::fs::copy(BERTH, &program).expect("copy");
    let run = |user: u32, group: u32, arguments: &[&str]| {
        let mut command = as_user(user, group, arguments);
        let mut copied = Command::new(&program);
        copied.args(command.get_args()).uid(user).gid(group).env("HOME", "/");
        command = copied;
        for name in ["BERTH_HOST", "BERTH_TOKEN", "BERTH_DATA_DIR", "BERTH_CONTEXT", "BERTH_CACERT"] {
            command.env_remove(name);
        }
        done(command)
    };
    let member = run(65_534, 1, &["-H", &host, "account", "ls"]);
    assert!(member.0 && member.1.contains("admin"), "{}", member.1);
    let made = run(65_534, 1, &["-H", &host, "volume", "create", "of-a-member"]);
    assert!(made.0, "{}", made.1);
    let stranger = run(65_534, 65_534, &["-H", &host, "account", "ls"]);
    assert!(!stranger.0 && stranger.1.contains("Permission denied"), "{}", stranger.1);
    // Who it was is in the audit log.
    let audit = server.cli(&["audit"]).1;
    assert!(audit.contains("local user 65534") && audit.contains("unix socket"), "{audit}");
    // A token that is wrong is not made good by the socket.
    let wrong = run(65_534, 1, &["-H", &host, "--token", "berth_wrong", "account", "ls"]);
    assert!(!wrong.0 && wrong.1.contains("token"), "{}", wrong.1);
    assert_eq!(server.cli(&["volume", "rm", "of-a-member"]).0, 0);
    std::fs::remove_dir_all(folder).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_and_settings_are_read_again() {
    if !is_root() || image("busybox").is_none() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("berth-told-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let socket = folder.join("notify");
    let told = UnixDatagram::bind(&socket).expect("socket");
    told.set_read_timeout(Some(Duration::from_secs(30))).expect("time limit");
    let hear = || {
        let mut buffer = [0; 4096];
        let length = told.recv(&mut buffer).expect("something is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let environment = [("NOTIFY_SOCKET", socket.display().to_string()), ("WATCHDOG_USEC", "900000".to_owned())];
    let mut server = Server::start_with(BERTH, "notify", "[core]\npids_limit = 11\n", &environment).await;
    let first = hear();
    assert!(first.contains("READY=1") && first.contains("STATUS=serves on http://"), "{first}");
    // Signs of life go on.
    for _ in 0..3 {
        assert_eq!(hear().trim(), "WATCHDOG=1");
    }
    let busybox = image("busybox").expect("image");
    assert_eq!(server.cli(&["import", "--cmd", "sh", busybox.to_str().expect("path"), "busybox"]).0, 0);
    let limit = |server: &Server, name: &str| {
        assert_eq!(server.cli(&["create", "--name", name, "busybox"]).0, 0);
        let found: serde_json::Value = serde_json::from_str(&server.cli(&["inspect", name]).1).expect("json");
        assert_eq!(server.cli(&["rm", name]).0, 0);
        found[0]["pids"].as_u64().or(found[0]["limits"]["pids"].as_u64()).expect("a limit")
    };
    assert_eq!(limit(&server, "before"), 11);
    let path = server.data.join("berth.toml");
    let before = std::fs::read_to_string(&path).expect("settings");
    let reloaded = |server: &Server| {
        server.signal(libc::SIGHUP);
        let begun = std::iter::repeat_with(hear).find(|said| !said.contains("WATCHDOG")).expect("endless");
        assert!(begun.contains("RELOADING=1") && begun.contains("MONOTONIC_USEC="), "{begun}");
        let done = std::iter::repeat_with(hear).find(|said| !said.contains("WATCHDOG")).expect("endless");
        assert!(done.contains("READY=1"), "{done}");
    };
    std::fs::write(&path, before.replace("pids_limit = 11", "pids_limit = 22")).expect("settings");
    reloaded(&server);
    assert_eq!(limit(&server, "after"), 22);
    // What can't be read changes nothing.
    std::fs::write(&path, "[core]\npids_limit = \"many\"\n").expect("settings");
    reloaded(&server);
    assert_eq!(limit(&server, "still"), 22);
    let config = path.to_str().expect("path");
    let checked = done(berth(&folder, &["config", "check", "--config", config]));
    assert!(!checked.0 && checked.1.contains("pids_limit"), "{}", checked.1);
    std::fs::write(&path, &before).expect("settings");
    assert!(done(berth(&folder, &["config", "check", "--config", config])).0);
    server.terminate();
    let last = std::iter::repeat_with(hear).find(|said| !said.contains("WATCHDOG")).expect("endless");
    assert!(last.contains("STOPPING=1"), "{last}");
    std::fs::remove_dir_all(folder).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_made_while_it_serves_brings_everything_back() {
    if !is_root() || image("busybox").is_none() {
        return;
    }
    let mut server = Server::start(BERTH, "backup", "").await;
    let busybox = image("busybox").expect("image");
    assert_eq!(server.cli(&["import", "--cmd", "sh", busybox.to_str().expect("path"), "busybox"]).0, 0);
    let token = server.tenant("shop").await;
    let write = "mkdir -p /data/a; echo kept > /data/a/file; chown 7:8 /data/a/file; exec sleep 1000";
    let run =
        ["run", "-d", "--name", "writer", "-v", "data:/data", "--restart", "always", "busybox", "sh", "-c", write];
    assert_eq!(server.cli(&run).0, 0);
    let written = async {
        while server.cli(&["exec", "writer", "cat", "/data/a/file"]).1 != "kept\n" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written).await.expect("the file");
    let folder = std::env::temp_dir().join(format!("berth-kept-{}", std::process::id()));
    let path = folder.to_str().expect("path");
    let config = server.data.join("berth.toml");
    let made = server.cli(&["backup", "--images", "--config", config.to_str().expect("path"), path]);
    assert_eq!(made.0, 0, "{}", made.2);
    assert!(made.1.contains("volumes.tar") && made.1.contains("images-admin.tar"), "{}", made.1);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(folder.join("secret.key")).expect("key"));
    assert_eq!(mode & 0o777, 0o600);
    assert_ne!(server.cli(&["backup", path]).0, 0, "a backup does not go over another one");

    // While it serves, and over data that is there, nothing is replaced.
    let restore = |more: &[&str]| {
        let data = server.data.to_str().expect("path").to_owned();
        done(berth(&folder, &[&["--data-dir", data.as_str(), "restore"], more, &[path]].concat()))
    };
    let running = restore(&["--force"]);
    assert!(!running.0 && running.1.contains("another berth serves"), "{}", running.1);
    assert_eq!(server.cli(&["rm", "-f", "writer"]).0, 0);
    assert_eq!(server.cli(&["volume", "rm", "data"]).0, 0);
    server.terminate();
    let data = server.data.clone();
    let restore = |more: &[&str]| {
        let data = data.to_str().expect("path").to_owned();
        done(berth(&folder, &[&["--data-dir", data.as_str(), "restore"], more, &[path]].concat()))
    };
    let there = restore(&[]);
    assert!(!there.0 && there.1.contains("has data already"), "{}", there.1);
    // One that is not what it was is found out before anything is replaced.
    let key = folder.join("secret.key");
    let good = std::fs::read(&key).expect("key");
    std::fs::write(&key, "x").expect("key");
    let broken = restore(&["--force"]);
    assert!(!broken.0 && broken.1.contains("secret.key"), "{}", broken.1);
    std::fs::write(&key, good).expect("key");
    let settings = std::fs::read(data.join("berth.toml")).expect("settings");
    let restored = restore(&["--force"]);
    assert!(restored.0 && restored.1.contains("what was there is now in"), "{}", restored.1);
    std::fs::write(data.join("berth.toml"), settings).expect("settings");
    server.up().await;

    // Accounts and tokens, volumes with owners, containers by their policy when their images are there again.
    assert_eq!(server.cli(&["--token", &token, "ps"]).0, 0);
    let images = folder.join("images-admin.tar");
    let loaded = server.cli(&["load", "-i", images.to_str().expect("path")]);
    assert_eq!(loaded.0, 0, "{}", loaded.2);
    let started = server.cli(&["start", "writer"]);
    assert_eq!(started.0, 0, "{}\n{}", started.2, server.log());
    let seen = server.cli(&["run", "--rm", "-v", "data:/data", "busybox", "stat", "-c", "%u:%g %n", "/data/a/file"]);
    assert_eq!(seen.1, "7:8 /data/a/file\n", "{}", seen.2);
    assert_eq!(server.cli(&["rm", "-f", "writer"]).0, 0);
    assert_eq!(server.cli(&["volume", "rm", "data"]).0, 0);
    for entry in std::fs::read_dir(data.parent().expect("folder")).expect("folder").flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{}.before-", data.file_name().expect("name").to_string_lossy()))
        {
            std::fs::remove_dir_all(entry.path()).expect("clean");
        }
    }
    std::fs::remove_dir_all(folder).expect("clean");
}
