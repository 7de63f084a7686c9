//! What released versions left in their data folders is taken over: `tests/released/VERSION.tar.gz`, made by `tests/released/make` with
//! that version's own program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_testkit::{Server, done, is_root};
use serde_json::{Value, json};

/// The archives that are kept.
fn kept() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/released");
    let all = std::fs::read_dir(folder).expect("tests/released").map(|entry| entry.expect("entry").path());
    let mut found: Vec<PathBuf> = all.filter(|path| path.to_string_lossy().ends_with(".tar.gz")).collect();
    found.sort();
    found
}

async fn show(server: &Server, name: &str) -> Value {
    let answer = server.request("GET", &format!("/v1/containers/{name}"), "").await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text);
    answer.json()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let limit = Duration::from_secs(30) * berth_testkit::slow();
    let held = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(limit, held).await.is_ok(), "not within {limit:?}: {what}");
}

/// A server of this version on that data.
async fn taken_over(archive: &Path) -> Server {
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "released", "").await;
    server.terminate();
    // Its bridge, rules and cgroups go by what the folder says of them.
    berth_engine_oci::uninstall(&server.data.join("engine")).expect("uninstall");
    for entry in std::fs::read_dir(&server.data).expect("the data folder") {
        let entry = entry.expect("entry");
        if entry.file_name() == "berth.toml" {
            continue;
        }
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("clear");
    }
    let unpacked = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&server.data).status().expect("tar");
    assert!(unpacked.success(), "{}", archive.display());
    server.up().await;
    server
}

async fn containers_are_as_they_were(server: &Server) {
    let runs = show(server, "runs").await;
    assert_eq!(
        (&runs["image"], &runs["memory"], &runs["cpus"], &runs["restart"]),
        (&json!("kept:1"), &json!(64 << 20), &json!(0.5), &json!("always"))
    );
    assert_eq!(runs["labels"]["team"], "one");
    assert!(runs["env"].as_array().expect("env").contains(&json!("GREETING=你好")), "{runs}");
    assert_eq!(runs["ports"][0]["host_port"], 18_077);
    let never = show(server, "never").await;
    assert_eq!((&never["state"], &never["command"]), (&json!("created"), &json!(["/bin/waits", "with", "arguments"])));
    let limited = show(server, "limited").await;
    assert_eq!((&limited["ingress"], &limited["egress"]), (&json!(10_000_000), &json!(10_000_000)));
    assert_eq!(show(server, "ended").await["state"], "exited");
    assert_eq!(done(server, &["logs", "ended"]), "it waits\nit ends\n");
    if cfg!(target_arch = "x86_64") {
        // Its policy brings it back after what looks like a power cut; the others are started as somebody asks.
        until("what ran always runs again", async || {
            let runs = show(server, "runs").await;
            println!("runs: {} {}", runs["state"], runs["error"]);
            runs["state"] == "running"
        })
        .await;
        for name in ["never", "ended", "limited"] {
            done(server, &["start", name]);
            until("it runs", async || done(server, &["logs", name]).ends_with("it waits\n")).await;
            done(server, &["stop", "-t", "5", name]);
        }
    }
    let folder = server.data.join("note");
    done(server, &["cp", "runs:/data/note", folder.to_str().expect("a path")]);
    assert_eq!(std::fs::read_to_string(folder).expect("the volume's file"), "in the volume\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_every_released_version_is_taken_over() {
    if !is_root() {
        return;
    }
    let archives = kept();
    assert!(!archives.is_empty(), "tests/released has the data of 0.1.0 at least");
    for archive in archives {
        let server = taken_over(&archive).await;
        containers_are_as_they_were(&server).await;
        let images = server.request("GET", "/v1/images", "").await.json();
        assert!(images["items"][0]["names"].as_array().expect("names").contains(&json!("kept:again")), "{images}");
        // Its group, with the code that was deployed.
        let group = server.request("GET", "/v1/services/shop/groups/prod", "").await.json();
        assert_eq!((&group["spec"]["replicas"], &group["version"]), (&json!(2), &json!(1)), "{group}");
        if cfg!(target_arch = "x86_64") {
            done(&server, &["group", "scale", "shop/prod", "1"]);
            done(&server, &["group", "scale", "shop/prod", "2"]);
        }
        // Its credentials.
        assert!(done(&server, &["key", "ls"]).contains("deployer"));
        let token = std::fs::read_to_string(server.data.join("kept-token")).expect("a token");
        let token = token.split_whitespace().find(|word| word.starts_with("berth_")).expect("a token").to_owned();
        assert_eq!(server.request_as(Some(&token), "GET", "/v1/containers", "").await.status, 200);
        let traffic = server.request("GET", "/v1/containers/runs/traffic", "").await;
        assert_eq!(traffic.status, 200, "{}", traffic.text);
        // What operations, audit and meters hold can be read.
        for path in ["/v1/commands", "/v1/audit", "/v1/usage", "/v1/events/recent", "/v1/volumes", "/v1/accounts"] {
            let answer = server.request("GET", path, "").await;
            let items = answer.json()["items"].as_array().map(Vec::len);
            assert!(answer.status == 200 && items > Some(0), "{path}: {}", answer.text);
        }
        let removed = server.request("DELETE", "/v1/services/shop/groups/prod", "").await.json();
        done(&server, &["wait", removed["id"].as_str().expect("an id")]);
        done(&server, &["rm", "-f", "runs", "ended", "never", "limited"]);
        server.finish().await;
    }
}
