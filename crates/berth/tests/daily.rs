//! What is done with containers every day: processes and files inside, images made of them, volumes, names, changes.
#![expect(clippy::too_many_lines, reason = "a test tells one story")]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_api::wire::ExecCreate;
use berth_client::Heard;
use berth_testkit::{Server, done, image, is_root};
use serde_json::{Value, json};

async fn server(name: &str, settings: &str) -> Option<Server> {
    let rootfs = image("busybox").filter(|_| is_root())?;
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), name, settings).await;
    server.import(&rootfs, "busybox", &["FROM_IMAGE=1"]);
    Some(server)
}

async fn run(server: &Server, asked: Value) -> Value {
    run_as(server, &server.token(), asked).await
}

async fn run_as(server: &Server, token: &str, mut asked: Value) -> Value {
    let defaults = json!({"image": "busybox", "start": true, "command": ["sleep", "1000"]});
    for (key, value) in defaults.as_object().expect("object") {
        asked.as_object_mut().expect("object").entry(key).or_insert(value.clone());
    }
    let answer = server.request_as(Some(token), "POST", "/v1/containers", asked.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

/// Output of a command in a container, and its exit code.
fn exec(server: &Server, id: &str, script: &str) -> (String, i32) {
    let (code, out, error) = server.cli(&["exec", id, "sh", "-c", script]);
    (out + &error, code)
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("berth-{name}-files-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("folder");
    path
}

/// Asks until it is so, for a while.
async fn until(what: &str, limit: Duration, mut so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    let limit = limit * berth_testkit::slow();
    while !so().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn words(session: &mut berth_client::Session, wanted: &str) -> String {
    let mut text = String::new();
    let heard = async {
        while !text.contains(wanted) {
            match session.next().await.expect("a word") {
                Heard::Stdout(bytes) | Heard::Stderr(bytes) => text += &String::from_utf8_lossy(&bytes),
                Heard::Ended(code) => panic!("ended with {code} after {text:?}, without {wanted:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
    text
}

async fn ended(session: &mut berth_client::Session) -> (String, i32) {
    let mut text = String::new();
    loop {
        match session.next().await.expect("a word") {
            Heard::Stdout(bytes) | Heard::Stderr(bytes) => text += &String::from_utf8_lossy(&bytes),
            Heard::Ended(code) => return (text, code),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_run_inside_with_the_containers_own_bounds() {
    let Some(server) = server("exec", "").await else { return };
    let client = server.client();
    let made =
        run(&server, json!({"name": "a", "user": "1000:1000", "working_dir": "/tmp", "env": ["OWN=2"], "pids": 50}))
            .await;
    let pid = made["pid"].as_i64().expect("pid");
    let (text, code) = exec(
        &server,
        "a",
        "id -u; pwd; echo $OWN$FROM_IMAGE; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; exit 9",
    );
    assert_eq!(code, 9);
    assert!(text.starts_with("1000\n/tmp\n21\n") && text.contains("CapEff:\t0000000000000000"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"), "{text}");
    let (_, out, _) = server.cli(&[
        "exec",
        "-u",
        "root",
        "-w",
        "/etc",
        "-e",
        "OWN=3",
        "a",
        "sh",
        "-c",
        "id -u; pwd; echo $OWN; ls /proc/self/fd; tr '\\0' ' ' < /proc/1/cmdline",
    ]);
    assert!(
        out.starts_with("0\n/etc\n3\n0\n1\n2\n3\n") && out.ends_with("sleep 1000 "),
        "no descriptor of the host's: {out}"
    );
    // In every group of the container, and in its namespaces.
    let own = |which: &str| fs::read_link(format!("/proc/{pid}/ns/{which}")).expect("namespace").display().to_string();
    let (text, _) = exec(
        &server,
        "a",
        "for n in mnt net pid ipc uts cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup",
    );
    for which in ["mnt", "net", "pid", "ipc", "uts", "cgroup"] {
        assert!(text.contains(&own(which)), "{which}: {text}");
    }
    assert!(text.lines().filter(|l| l.contains("memory") || l.contains("pids")).all(|l| l.ends_with(":/")), "{text}");
    assert_eq!(server.cli(&["exec", "a", "nosuch"]).0, 127);
    assert_eq!(server.cli(&["exec", "a", "/etc/hosts"]).0, 126);
    assert!(server.cli(&["exec", "-u", "nobody9", "a", "id"]).2.contains("nobody9"));
    assert!(server.cli(&["exec", "-w", "/none", "a", "id"]).2.contains("/none"));

    // Input, both streams, a killed one, one that is left to itself.
    let cat = ExecCreate { command: vec!["cat".into()], stdin: true, ..ExecCreate::default() };
    let mut session = client.container_exec_session("a", &cat).await.expect("session");
    let big = "0123456789abcdef".repeat(20_000);
    session.input(big.as_bytes()).await.expect("input");
    session.end_of_input().await.expect("end");
    let (text, code) = ended(&mut session).await;
    assert_eq!((text.len(), code), (big.len(), 0));
    let result = client
        .container_exec(
            "a",
            &ExecCreate {
                command: ["sh", "-c", "echo o; echo e >&2; kill -9 $$"].map(str::to_owned).to_vec(),
                ..ExecCreate::default()
            },
        )
        .await
        .expect("exec");
    assert_eq!((result.stdout.as_str(), result.stderr.as_str(), result.exit_code), ("o\n", "e\n", Some(137)));
    done(&server, &["exec", "-d", "a", "sh", "-c", "sleep 0.2; touch /tmp/left"]);
    until("a detached process works on", Duration::from_secs(5), async || exec(&server, "a", "ls /tmp/left").1 == 0)
        .await;

    // A terminal: size, resize, signals by keys.
    let shell = ExecCreate { command: vec!["sh".into()], terminal: true, stdin: true, ..ExecCreate::default() };
    let mut session = client.container_exec_session("a", &shell).await.expect("session");
    session.resize(40, 132).await.expect("resize");
    session.input(b"stty size; tty; echo $TERM\n").await.expect("input");
    let text = words(&mut session, "xterm\r\n").await;
    assert!(text.contains("40 132") && text.contains("/dev/pts/"), "{text}");
    session.input(b"sleep 100\n").await.expect("input");
    words(&mut session, "sleep 100").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    session.input(&[3]).await.expect("ctrl-c");
    session.input(b"echo back-$?\nexit 5\n").await.expect("input");
    words(&mut session, "back-130").await;
    assert_eq!(ended(&mut session).await.1, 5);

    // A thousand of them leave neither processes nor memory with the shim.
    let shim: i64 = {
        let text = fs::read_to_string(
            server.data.join(format!("engine/units/{}/shim.json", made["id"].as_str().expect("id"))),
        );
        serde_json::from_str::<Value>(&text.expect("shim.json")).expect("json")["pid"].as_i64().expect("pid")
    };
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{shim}/status")).expect("shim");
        status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .expect("VmRSS")
    };
    let before = resident();
    let mut ran = 0;
    for _ in 0..40 {
        let many = (0..25).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client.container_exec("a", &ExecCreate { command: vec!["true".into()], ..ExecCreate::default() }).await
            })
        });
        for started in many.collect::<Vec<_>>() {
            let result = started.await.expect("task");
            ran += u32::from(result.is_ok_and(|r| r.exit_code == Some(0)));
        }
    }
    assert_eq!(ran, 1000);
    assert!(resident() <= before + 64, "the shim grew from {before} to {} kB", resident());
    let zombies = || {
        let all = fs::read_dir("/proc").expect("proc").flatten();
        all.filter(|e| fs::read_to_string(e.path().join("stat")).is_ok_and(|s| s.contains("(berth-exec) Z"))).count()
    };
    until("no zombies are left", Duration::from_secs(5), async || zombies() == 0).await;
    let (text, _) = exec(&server, "a", "ps | wc -l");
    assert!(text.trim().parse::<u32>().is_ok_and(|n| n < 8), "{text}");

    // Not in one that does not run.
    done(&server, &["pause", "a"]);
    assert!(server.cli(&["exec", "a", "true"]).2.contains("paused"));
    done(&server, &["unpause", "a"]);
    done(&server, &["stop", "-t", "0", "a"]);
    assert!(server.cli(&["exec", "a", "true"]).2.contains("not running"));
    // Who ran what, from where.
    done(&server, &["start", "a"]);
    done(&server, &["exec", "a", "echo", "by session"]);
    let body = json!({"command": ["echo", "by request"]}).to_string();
    assert_eq!(server.request("POST", "/v1/containers/a/exec", body).await.status, 200);
    assert_ne!(server.cli(&["exec", "a", "no-such-program"]).0, 0);
    let listed = server.request("GET", "/v1/audit?action=exec&limit=3", "").await.json();
    let entries: Vec<_> = listed["items"].as_array().expect("items").iter().rev().collect();
    let of = |n: usize, key: &str| entries[n][key].as_str().expect("text").to_owned();
    assert!(of(0, "action").ends_with("/exec: echo by session"), "{listed}");
    assert!(of(1, "action").ends_with("/exec: echo by request"), "{listed}");
    assert!(of(2, "action").ends_with("/exec: no-such-program") && entries[2]["status"] != 101, "{listed}");
    assert!((0..3).all(|n| of(n, "who") == "token 1" && !of(n, "from").is_empty() && !of(n, "request_id").is_empty()));
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_attaches_hears_and_is_heard_over_restarts_of_the_server() {
    let Some(mut server) = server("attach", "").await else { return };
    let client = server.client();
    let echo = "echo begun; while read line; do echo got-$line; done; echo over; exit 4";
    run(&server, json!({"name": "a", "stdin": true, "command": ["sh", "-c", echo]})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut one = client.container_attach("a").await.expect("attach");
    words(&mut one, "begun").await;
    let mut two = client.container_attach("a").await.expect("attach again");
    tokio::time::sleep(Duration::from_millis(100)).await;
    one.input(b"x\n").await.expect("input");
    words(&mut one, "got-x").await;
    words(&mut two, "got-x").await;
    drop(one);
    server.kill();
    assert!(two.next().await.is_err(), "the connection ends with the server");
    server.up().await;
    let mut three = server.client().container_attach("a").await.expect("attach to the next server");
    tokio::time::sleep(Duration::from_millis(100)).await;
    three.input(b"y\n").await.expect("input");
    words(&mut three, "got-y").await;
    three.end_of_input().await.expect("end");
    let (text, code) = ended(&mut three).await;
    assert!(text.contains("over") && code == 4, "{text} {code}");
    assert_eq!(done(&server, &["logs", "a"]), "begun\ngot-x\ngot-y\nover\n");

    // A terminal of its own, and an answer that waits for the first who comes.
    run(&server, json!({"name": "t", "terminal": true, "stdin": true, "command": ["sh", "-c", "echo early; tty; cat > /dev/null; exit 6"]})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut session = server.client().container_attach("t").await.expect("attach");
    let text = words(&mut session, "/dev/pts/0").await;
    assert!(text.contains("early\r\n"), "{text:?}");
    session.input(&[4]).await.expect("ctrl-d");
    assert_eq!(ended(&mut session).await.1, 6);

    // A great deal of output arrives whole at a listener who is in no hurry.
    run(&server, json!({"name": "loud", "stdin": true, "command": ["sh", "-c", "read x; seq 1 200000; read x"]})).await;
    let mut session = server.client().container_attach("loud").await.expect("attach");
    session.input(b"\n").await.expect("input");
    let mut text = String::new();
    while !text.ends_with("\n200000\n") {
        match session.next().await.expect("a word") {
            Heard::Stdout(bytes) => text += &String::from_utf8_lossy(&bytes),
            other => panic!("{other:?}"),
        }
        if text.len().is_multiple_of(7) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(text.lines().count(), 200_000);
    // Without input or terminal there is the output.
    run(&server, json!({"name": "plain", "command": ["sh", "-c", "sleep 0.3; echo said; sleep 0.3; exit 3"]})).await;
    let mut session = server.client().container_attach("plain").await.expect("attach");
    assert_eq!(ended(&mut session).await, ("said\n".to_owned(), 3));
    let (code, out, error) = server.cli(&["run", "--rm", "-i", "busybox", "sh", "-c", "cat; exit 2"]);
    assert_eq!((code, out.as_str()), (2, ""), "{error}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_container_leads_a_copy_out_of_it() {
    let Some(server) = server("copy", "").await else { return };
    let files = folder("copy");
    run(&server, json!({"name": "a"})).await;
    let secret = files.join("secret");
    fs::write(&secret, "of the host").expect("write");
    let script = format!(
        "mkdir -p /d/sub; echo in > /d/f; ln -s {0} /d/abs; ln -s ../../../../../../../../{0} /d/rel; ln -s / /d/root; ln -s /proc/self/root /d/magic; \
         ln -s /proc/1/root{0} /d/proc; mkfifo /d/fifo; mknod /d/dev c 10 130; mkdir /e; ln -s /etc /e/link",
        secret.display()
    );
    assert_eq!(exec(&server, "a", &script), (String::new(), 0));
    for path in [
        "/d/abs",
        "/d/rel",
        "/d/magic/etc/hostname",
        "/d/proc",
        "/../../../etc/shadow-",
        "/d/root/../../etc/shadow-",
        "/d/fifo",
        "/d/dev",
        "/proc/kcore",
        "/d",
    ] {
        let answer = server.request("GET", &format!("/v1/containers/a/files?path={path}"), "").await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.text);
    }
    let answer = server.request("GET", "/v1/containers/a/files?path=/d/root/d/f", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "in\n"));
    let hostname = server.request("GET", "/v1/containers/a/files?path=/e/link/hostname", "").await;
    assert_eq!(hostname.text.trim().len(), 12, "links lead to the container's own files");
    // Written through links: into the container's root, not the host's.
    let bait = files.join("bait");
    fs::create_dir(&bait).expect("folder");
    assert_eq!(exec(&server, "a", &format!("ln -s {} /d/out", bait.display())).1, 0);
    let note = files.join("note");
    fs::write(&note, "note").expect("write");
    let note = note.to_str().expect("path");
    assert_ne!(server.cli(&["cp", note, "a:/d/out/x"]).0, 0, "the link leads nowhere inside");
    done(&server, &["cp", note, "a:/e/link/x"]);
    assert!(!std::path::Path::new("/etc/x").exists() && fs::read_dir(&bait).expect("list").next().is_none());
    assert_eq!(exec(&server, "a", "cat /etc/x").0, "note");
    // An archive whose entries climb.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o644);
    let name = b"../../../tmp/berth-climbed";
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_cksum();
    tar.append(&header, &b"x"[..]).expect("append");
    let climbing = tar.into_inner().expect("tar");
    let answer = server.request("PUT", "/v1/containers/a/archive?path=/d", climbing).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(!std::path::Path::new("/tmp/berth-climbed").exists());

    // Races: a folder that is swapped for a link again and again while it is read and written.
    done(
        &server,
        &[
            "exec",
            "-d",
            "a",
            "sh",
            "-c",
            &format!(
                "mkdir -p /r/real; cp /d/f /r/real/secret; while true; do ln -s {} /r/swap; rm /r/swap; mkdir /r/swap; cp /d/f /r/swap/secret; rm -r /r/swap; done",
                files.display()
            ),
        ],
    );
    for round in 0..60 {
        let answer = server.request("GET", "/v1/containers/a/files?path=/r/swap/secret", "").await;
        assert!(!answer.text.contains("of the host"), "{}", answer.text);
        let answer = server.request("GET", "/v1/containers/a/archive?path=/r", "").await;
        assert!(!answer.text.contains("of the host"));
        let _ = server.cli(&["cp", note, &format!("a:/r/swap/n{round}")]);
    }
    assert_eq!(fs::read_dir(&files).expect("list").count(), 3, "nothing was written beside");

    // What comes out is what is there: links, modes, times, owners; stopped ones too, with their volumes.
    done(&server, &["stop", "-t", "0", "a"]);
    let out = files.join("out");
    done(&server, &["cp", "-a", "a:/e", out.to_str().expect("path")]);
    assert_eq!(fs::read_link(out.join("link")).expect("link"), PathBuf::from("/etc"));
    done(&server, &["cp", note, "a:/stopped"]);
    done(&server, &["start", "a"]);
    assert_eq!(exec(&server, "a", "cat /stopped; stat -c %u:%g /stopped").0, "note0:0\n");
    // Nothing that comes out has power over this machine: no devices, no bits that set a user, unless they are asked for.
    let script = "mkdir /t; cd /t; echo x > f; cp /bin/busybox su; chmod 4755 su; mknod c c 1 3; mknod b b 7 0; ln c also; \
         mkfifo p; chmod 4755 p";
    assert_eq!(exec(&server, "a", script), (String::new(), 0));
    let taken = files.join("taken");
    let (code, _, said) = server.cli(&["cp", "a:/t", taken.to_str().expect("path")]);
    assert_eq!(code, 0, "{said}");
    let mut names: Vec<_> = fs::read_dir(&taken)
        .expect("list")
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    names.sort();
    assert_eq!(names, ["f", "p", "su"]);
    for name in ["b", "c", "also"] {
        assert!(said.contains(&format!("left out (a device): t/{name}")), "{said}");
    }
    for name in ["su", "p"] {
        assert_eq!(fs::metadata(taken.join(name)).expect("there").mode() & 0o6000, 0, "{name}");
    }
    let (code, _, said) = server.cli(&["cp", "a:/t/c", files.join("device").to_str().expect("path")]);
    assert!(code != 0 && said.contains("is a device") && !files.join("device").exists(), "{said}");
    let kept = files.join("kept");
    done(&server, &["cp", "-a", "a:/t", kept.to_str().expect("path")]);
    assert_eq!(fs::metadata(kept.join("su")).expect("there").mode() & 0o7777, 0o4755);
    assert!(fs::symlink_metadata(kept.join("c")).expect("there").file_type().is_char_device(), "-a asks for all");
    // A large file in pieces.
    assert_eq!(exec(&server, "a", "seq 1 100000 > /big").1, 0);
    let whole = server.request("GET", "/v1/containers/a/files?path=/big", "").await.text;
    let url = server.url("/v1/containers/a/files?path=/big");
    let part = berth_testkit::http()
        .get(url)
        .bearer_auth(server.token())
        .header("range", "bytes=1000-1999")
        .send()
        .await
        .expect("get");
    assert_eq!(part.status(), 206);
    assert_eq!(part.text().await.expect("text"), whole[1000..2000]);
    assert_eq!(whole.lines().count(), 100_000);
    server.finish().await;
    fs::remove_dir_all(files).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_outlive_containers_and_belong_to_their_account() {
    let Some(server) = server("volumes", "").await else { return };
    let files = folder("volumes");
    let mount = json!([{"type": "volume", "source": "data", "target": "/etc"}]);
    // A new volume begins with what the image has there.
    run(&server, json!({"name": "a", "mounts": mount})).await;
    assert_eq!(exec(&server, "a", "ls /etc | grep -c . ; echo kept > /etc/mine").1, 0);
    done(&server, &["rm", "-f", "a"]);
    run(
        &server,
        json!({"name": "b", "mounts": [{"type": "volume", "source": "data", "target": "/v", "read_only": true}]}),
    )
    .await;
    assert_eq!(exec(&server, "b", "cat /v/mine; ls /v/passwd").0, "kept\n/v/passwd\n");
    assert_ne!(exec(&server, "b", "touch /v/x").1, 0, "read-only");
    assert!(server.cli(&["volume", "rm", "data"]).2.contains("mounted by b"));
    let shown: Value = serde_json::from_str(&done(&server, &["volume", "inspect", "data"])).expect("json");
    assert!(shown[0]["size"].as_u64().is_some_and(|s| s > 0) && shown[0]["used_by"] == json!(["b"]), "{shown}");
    let backup = files.join("data.tar");
    done(&server, &["volume", "backup", "-o", backup.to_str().expect("path"), "data"]);
    done(&server, &["volume", "create", "copy"]);
    done(&server, &["volume", "restore", "copy", backup.to_str().expect("path")]);
    run(&server, json!({"name": "c", "mounts": [{"type": "volume", "source": "copy", "target": "/v"}]})).await;
    assert_eq!(exec(&server, "c", "cat /v/mine").0, "kept\n");
    // A stopped container's volume is copied from, too.
    done(&server, &["stop", "-t", "0", "c"]);
    done(&server, &["cp", "c:/v/mine", files.join("mine").to_str().expect("path")]);
    assert_eq!(fs::read_to_string(files.join("mine")).expect("read"), "kept\n");
    // Another account has its own.
    let token = server.request("POST", "/v1/tokens", json!({"name": "t", "account": "other"}).to_string()).await.json()
        ["token"]
        .as_str()
        .expect("token")
        .to_owned();
    let others = server.request_as(Some(&token), "GET", "/v1/volumes", "").await;
    assert_eq!(others.json()["items"], json!([]));
    assert_eq!(server.request_as(Some(&token), "GET", "/v1/volumes/data/archive", "").await.status, 404);
    assert_eq!(server.request_as(Some(&token), "DELETE", "/v1/volumes/data", "").await.status, 404);
    done(&server, &["rm", "-f", "b", "c"]);
    assert_eq!(done(&server, &["volume", "prune", "--all", "--force"]), "data\ncopy\n");
    assert_eq!(fs::read_dir(server.data.join("volumes")).expect("list").count(), 0);
    server.finish().await;
    fs::remove_dir_all(files).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_an_account_find_each_other_and_nobody_elses() {
    let Some(server) = server("tenants", "").await else { return };
    let answer = server.request("POST", "/v1/tokens", json!({"name": "t", "account": "other"}).to_string()).await;
    let other = answer.json()["token"].as_str().expect("token").to_owned();
    let shared = server.request("POST", "/v1/images/share?image=busybox&official=true", "").await;
    assert_eq!(shared.status, 200, "{}", shared.text);
    let httpd = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
    let web =
        run(&server, json!({"name": "web", "command": ["sh", "-c", httpd], "ports": [{"container_port": 80}]})).await;
    run(&server, json!({"name": "near"})).await;
    let far = run_as(&server, &other, json!({"name": "web", "command": ["sh", "-c", httpd]})).await;
    let stranger = run_as(&server, &other, json!({"name": "stranger"})).await;
    let of = |c: &Value| c["address"].as_str().and_then(|a| a.parse::<Ipv4Addr>().ok()).expect("address");
    let fetch = |ip: &str, port: u16| format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {ip} {port} | tail -n 1");
    let near = |script: &str| exec(&server, "near", script).0;
    let away = |script: String| {
        let (server, other, id) = (&server, other.clone(), stranger["id"].as_str().expect("id").to_owned());
        async move {
            let body = json!({"command": ["sh", "-c", script]}).to_string();
            server.request_as(Some(&other), "POST", &format!("/v1/containers/{id}/exec"), body).await.json()["stdout"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        }
    };
    until("httpd answers", Duration::from_secs(5), async || near(&fetch(&of(&web).to_string(), 80)) == "page\n").await;
    // By name, in each account its own.
    let found = near("nslookup web 2>&1");
    assert!(found.contains(&of(&web).to_string()) && !found.contains(&of(&far).to_string()), "{found}");
    let found = away("nslookup web 2>&1".into()).await;
    assert!(found.contains(&of(&far).to_string()) && !found.contains(&of(&web).to_string()), "{found}");
    // By address: one's own account's, nobody else's; not even with a forged address, nor by the host as a router.
    assert_eq!(away(fetch(&of(&far).to_string(), 80)).await, "page\n");
    assert_eq!(away(fetch(&of(&web).to_string(), 80)).await, "");
    assert!(!near(&fetch(&of(&far).to_string(), 80)).contains("page"));
    assert!(!near(&format!("ping -c 1 -W 1 {}", of(&far))).contains("1 packets received"));
    let gateway = Ipv4Addr::from(u32::from(of(&web)) & 0xffff_0000 | 1);
    // A published port is everybody's.
    let port = web["ports"][0]["host_port"].as_u64().expect("port") as u16;
    assert_eq!(away(fetch(&gateway.to_string(), port)).await, "page\n");
    // Whoever looks after the machine's rules with Debian's tool sees them: nft reads all tables, and 1.0.6 gives up at some keys.
    let nft = ["/usr/sbin/nft", "/sbin/nft"].into_iter().find(|path| std::path::Path::new(path).exists());
    match nft {
        Some(nft) => {
            let out = std::process::Command::new(nft).args(["list", "ruleset"]).output().expect("nft");
            let (text, error) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success() && text.contains("@members accept"), "{:?}: {error}", out.status);
        }
        None => berth_testkit::skip("nft is not installed; `make test` installs it on Debian"),
    }
    // Its own files and processes are an account's own.
    for path in ["exec", "commit", "pause"] {
        let answer = server
            .request_as(
                Some(&other),
                "POST",
                &format!("/v1/containers/{}/{path}", web["id"].as_str().expect("id")),
                "{\"command\":[\"id\"]}",
            )
            .await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.text);
    }
    for id in [&far, &stranger] {
        let path = format!("/v1/containers/{}?force=true", id["id"].as_str().expect("id"));
        assert_eq!(server.request_as(Some(&other), "DELETE", &path, "").await.status, 204);
    }
    server.finish().await;
}

/// Short programs lose no output, whatever they leave unread.
#[tokio::test(flavor = "multi_thread")]
async fn short_programs_are_heard_whole() {
    let Some(server) = server("short", "").await else { return };
    let input = b"x\n".repeat(100_000);
    done(&server, &["run", "-d", "--name", "a", "busybox", "sleep", "1000"]);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let said = server.cli_with(&["run", "--rm", "-i", "busybox", "echo", "hi"], &input);
                    assert_eq!((said.0, said.1.as_str()), (0, "hi\n"), "run -i: {}", said.2);
                    let said = server.cli_with(&["exec", "-i", "a", "sh", "-c", "echo out; exit 3"], &input);
                    assert_eq!((said.0, said.1.as_str()), (3, "out\n"), "exec -i: {}", said.2);
                }
            });
        }
    });
    // More than any buffer on the way holds, written before anybody listens.
    let (code, out, error) = server.cli_with(&["run", "--rm", "-i", "busybox", "seq", "1", "100000"], b"");
    assert_eq!((code, out.lines().count(), out.lines().last()), (0, 100_000, Some("100000")), "{error}");

    // The end is told at once, though nobody comes for the output.
    let begun = Instant::now();
    let made = run(&server, json!({"stdin": true, "command": ["sh", "-c", "echo said; exit 4"]})).await;
    let id = made["id"].as_str().expect("id");
    assert_eq!(done(&server, &["wait", id]).trim(), "4");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    let mut session = server.client().container_attach_from_start(id).await.expect("attach to what has ended");
    assert_eq!(ended(&mut session).await, ("said\n".to_owned(), 4));
    assert!(server.client().container_attach(id).await.is_err(), "it does not run");

    // A terminal has its size from the first moment on.
    let asked = json!({"terminal": true, "stdin": true, "rows": 41, "columns": 133, "command": ["stty", "size"]});
    let made = run(&server, asked).await;
    let mut session =
        server.client().container_attach_from_start(made["id"].as_str().expect("id")).await.expect("attach");
    assert_eq!(ended(&mut session).await.0, "41 133\r\n");
    server.finish().await;
}

/// What programs find in their environment, and how those that can't be run are told, with both runtimes.
#[tokio::test(flavor = "multi_thread")]
async fn programs_find_their_host_name_and_failures_have_dockers_codes() {
    for runtime in ["", "runc"] {
        if runtime == "runc" && !berth_testkit::has_program("runc") {
            continue;
        }
        let settings = format!("[engine]\nruntime = \"{runtime}\"\n");
        let Some(server) = server(&format!("codes{runtime}"), &settings).await else { return };
        let made = run(&server, json!({"name": "a", "hostname": "h1"})).await;
        assert!(made["id"].is_string());
        assert_eq!(exec(&server, "a", "echo $HOSTNAME; hostname"), ("h1\nh1\n".into(), 0), "{runtime}");
        let said = done(&server, &["run", "--rm", "busybox", "sh", "-c", "test $HOSTNAME = $(hostname) && echo same"]);
        assert_eq!(said, "same\n", "{runtime}");
        assert_eq!(done(&server, &["run", "--rm", "-e", "HOSTNAME=z", "busybox", "sh", "-c", "echo $HOSTNAME"]), "z\n");
        assert_eq!(
            done(&server, &["run", "--rm", "-t", "busybox", "sh", "-c", "echo $TERM"]),
            "xterm\r\n",
            "{runtime}"
        );
        let script = "printf '#!/none\\n' > /bad; chmod +x /bad; echo text > /text; chmod +x /text";
        done(&server, &["run", "--name", "m", "busybox", "sh", "-c", script]);
        done(&server, &["commit", "m", "scripts"]);
        for (args, code) in [
            (vec!["busybox", "nosuch"], 127),
            (vec!["busybox", "/nosuch/x"], 127),
            (vec!["scripts", "/bad"], 127),
            (vec!["busybox", "/etc"], 126),
            (vec!["scripts", "/text"], 126),
            (vec!["--user", "nobody9", "busybox", "true"], 125),
            (vec!["--memory", "1", "busybox", "true"], 125),
            (vec!["-v", "x:/a", "-v", "y:/a/", "busybox", "true"], 125),
        ] {
            // runc has let go of its caller when the kernel refuses these: the program's own end is all there is.
            if runtime == "runc" && args[0] == "scripts" {
                continue;
            }
            for flags in [vec!["run", "--rm"], vec!["run", "-d"], vec!["run", "--rm", "-i"]] {
                let (got, out, error) = server.cli(&[flags, args.clone()].concat());
                assert_eq!(got, code, "{runtime} {args:?}: {out} {error}");
                assert!(!error.contains("pipe") && error.contains("berth: "), "{error}");
            }
        }
        for (program, code) in [("nosuch", 127), ("/etc", 126)] {
            let (got, _, error) = server.cli(&["exec", "a", program]);
            assert_eq!(got, code, "{runtime} exec {program}: {error}");
        }
        server.finish().await;
    }
}

/// Resident memory of the server, bytes.
fn memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

fn open_files(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_do_not_come_up_hold_up_nobody_else() {
    let Some(server) = server("slow-execs", "").await else { return };
    let token = server.tenant("b").await;
    let rootfs = image("busybox").expect("an image");
    done(&server, &["import", "--token", &token, rootfs.to_str().expect("path"), "busybox"]);
    run(&server, json!({"name": "a"})).await;
    run_as(&server, &token, json!({"name": "slow", "cpus": 0.01})).await;
    let client = berth_testkit::http();
    let (url, body) = (server.url("/v1/containers/slow/exec"), json!({"command": ["true"]}).to_string());
    let storm: Vec<_> = (0..600)
        .map(|_| {
            let request = client.post(&url).bearer_auth(&token).header("content-type", "application/json");
            tokio::spawn(request.body(body.clone()).send())
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Instant::now();
    assert_eq!(exec(&server, "a", "echo here"), ("here\n".to_owned(), 0));
    done(&server, &["logs", "a"]);
    done(&server, &["ps"]);
    done(&server, &["stop", "-t", "0", "a"]);
    done(&server, &["start", "a"]);
    assert!(before.elapsed() < Duration::from_secs(5), "held up for {:?}", before.elapsed());
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("list").count();
    assert!(threads < 100, "{threads} threads");
    storm.iter().for_each(tokio::task::JoinHandle::abort);
    drop(storm);
    done(&server, &["rm", "-f", "--token", &token, "slow"]);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_of_logs_and_output_hold_is_bounded() {
    let Some(server) = server("readers", "[engine]\nlog_max_size = 10000000\nlog_max_files = 9\n").await else {
        return;
    };
    // 80 MB of short lines.
    let script = "seq 1 1200000; echo the last";
    run(&server, json!({"name": "a", "command": ["sh", "-c", script]})).await;
    done(&server, &["wait", "a"]);
    let before = memory(&server);
    let client = berth_testkit::http();
    for query in ["tail=100000000", "grep=1&tail=100000000", "tail=900000"] {
        let readers = (0..20).map(|_| {
            let request = client.get(server.url(&format!("/v1/containers/a/logs?{query}"))).bearer_auth(server.token());
            async move {
                let mut response = request.send().await.expect("an answer");
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = response.chunk().await;
                }
                response
            }
        });
        let held = futures_util::future::join_all(readers).await;
        let more = memory(&server).saturating_sub(before);
        assert!(more < 100 << 20, "{query}: {more} bytes more for {} readers", held.len());
    }
    let begun = Instant::now();
    assert_eq!(done(&server, &["logs", "-n", "2", "a"]), "1200000\nthe last\n");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(done(&server, &["logs", "-n", "2", "--grep", "^11999", "a"]), "1199998\n1199999\n");
    // What processes say is bounded for all of them together.
    run(&server, json!({"name": "b"})).await;
    let body = json!({"command": ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]}).to_string();
    let all = (0..100).map(|_| server.request("POST", "/v1/containers/b/exec", body.clone()));
    for answer in futures_util::future::join_all(all).await {
        let answer = answer.json();
        assert_eq!((&answer["exit_code"], &answer["truncated"]), (&json!(0), &json!(true)), "{answer}");
    }
    let alone = server.request("POST", "/v1/containers/b/exec", body).await.json();
    assert_eq!(alone["stdout"].as_str().map(str::len), Some(1 << 20), "the room was given back");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_nobody_serves_cost_nothing_and_are_bounded() {
    let Some(server) =
        server("ports", "[engine]\nports_per_account = 500\n[core]\nport_range = [10000, 29999]\n").await
    else {
        return;
    };
    let ports = |count: u16| (0..count).map(|n| json!({"container_port": 1000 + n})).collect::<Vec<_>>();
    let before = open_files(&server);
    for name in ["a", "b"] {
        run(&server, json!({"name": name, "start": false, "ports": ports(240)})).await;
    }
    assert!(open_files(&server) < before + 20, "{} more files are open", open_files(&server) - before);
    let create = |count: u16| {
        let asked = json!({"name": "c", "image": "busybox", "ports": ports(count)}).to_string();
        server.request("POST", "/v1/containers", asked)
    };
    let refused = create(30).await;
    assert!(refused.status == 503 && refused.text.contains("480 of 500"), "{}", refused.text);
    let refused = create(257).await;
    assert!(refused.status == 400 && refused.text.contains("256"), "{}", refused.text);
    done(&server, &["start", "a"]);
    assert!(open_files(&server) >= before + 240, "held while they are served");
    done(&server, &["stop", "-t", "0", "a"]);
    assert!(open_files(&server) < before + 20);
    // What another program took meanwhile is told at the start.
    let port =
        server.request("GET", "/v1/containers/a", "").await.json()["ports"][0]["host_port"].as_u64().expect("port");
    let other = std::net::TcpListener::bind(("0.0.0.0", port as u16)).expect("nobody holds it");
    let (code, _, said) = server.cli(&["start", "a"]);
    assert!(code != 0 && said.contains(&port.to_string()), "{said}");
    drop(other);
    done(&server, &["start", "a"]);
    done(&server, &["rm", "-f", "a"]);
    assert_eq!(create(30).await.status, 201);
    // Terminals are bounded, too.
    run(&server, json!({"name": "t"})).await;
    let script = "i=0; while [ $i -lt 80 ]; do (exec 3<>/dev/ptmx && sleep 5) >/dev/null 2>&1 & i=$((i+1)); done; sleep 1; \
                  ls /dev/pts | grep -c '^[0-9]'";
    assert_eq!(exec(&server, "t", script).0, "64\n");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_files_take_neither_time_nor_others_starts() {
    let Some(server) = server("sparse", "").await else { return };
    run(&server, json!({"name": "maker", "command": ["sh", "-c", "mkdir /data; truncate -s 20G /data/big; echo x > /data/f; sleep 1000"]}))
        .await;
    until("the file is there", Duration::from_secs(5), async || exec(&server, "maker", "cat /data/f").1 == 0).await;
    let begun = Instant::now();
    done(&server, &["commit", "maker", "sparse:1"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "the commit took {:?}", begun.elapsed());
    let image = done(&server, &["inspect", "sparse:1"]);
    let size = serde_json::from_str::<Value>(&image).expect("json")[0]["size"].as_u64().expect("a size");
    assert!(size < 100 << 20, "{size} bytes");
    // The first use of a volume fills it from the image; others start meanwhile.
    let mount = json!([{"type": "volume", "source": "v", "target": "/data"}]);
    let filled = run(&server, json!({"name": "first", "image": "sparse:1", "mounts": mount}));
    let others = (0..8).map(|n| run(&server, json!({"name": format!("other{n}")})));
    let begun = Instant::now();
    let (_, all) = tokio::join!(filled, futures_util::future::join_all(others));
    assert_eq!(all.len(), 8);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let (told, code) = exec(&server, "first", "stat -c '%s %b' /data/big; cat /data/f");
    assert_eq!(code, 0, "{told}");
    let mut words = told.split_whitespace();
    assert_eq!(words.next(), Some("21474836480"));
    assert!(words.next().and_then(|b| b.parse::<u64>().ok()).expect("blocks") < 1000, "{told}");
    server.finish().await;
}
