//! Care of images: names, search, history, accounts, quotas, pruning beside starts, collection by a watermark, ports of others.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_testkit::{
    Server, TestRegistry, digest_of, docker_archive, done, file, folder, image, is_root, kept, tar_of,
};
use serde_json::{Value, json};

async fn server(name: &str, settings: &str) -> Option<(Server, PathBuf)> {
    let rootfs = image("busybox").filter(|_| is_root())?;
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), name, settings).await;
    server.import(&rootfs, "base", &[]);
    Some((server, rootfs))
}

async fn token(server: &Server, account: &str) -> String {
    let answer = server.request("POST", "/v1/tokens", json!({"name": "t", "account": account}).to_string()).await;
    answer.json()["token"].as_str().expect("token").to_owned()
}

/// The names of the images that are found.
fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    let all = items.iter().flat_map(|i| i["names"].as_array().cloned().unwrap_or_default());
    all.filter_map(|n| n.as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_have_names_histories_owners_and_bounds() {
    let Some((server, rootfs)) = server("care", "").await else { return };
    // A layer of its own, so that it takes bytes of its own.
    done(&server, &["run", "--name", "m", "base", "sh", "-c", "head -c 3000000 /dev/urandom > /big"]);
    done(&server, &["commit", "-m", "big file", "-a", "Ann", "-l", "team=web", "m", "site:1"]);
    done(&server, &["rm", "m"]);
    done(&server, &["tag", "site:1", "registry.example:5000/team/site:prod"]);
    let shown: Value = serde_json::from_str(&done(&server, &["inspect", "site:1"])).expect("json");
    assert_eq!(shown[0]["names"].as_array().map(Vec::len), Some(2), "{shown}");
    let history: Value = serde_json::from_str(&done(&server, &["history", "--json", "site:1"])).expect("json");
    let newest = history.as_array().and_then(|h| h.iter().find(|e| e["comment"] == "big file")).expect("its entry");
    assert!(newest["size"].as_u64().is_some_and(|s| s >= 3_000_000) && newest["author"] == "Ann", "{history}");
    for (args, found) in [
        (vec!["search", "team"], true),
        (vec!["search", "-l", "team=web"], true),
        (vec!["search", "-l", "team=db"], false),
        (vec!["search", "nothing"], false),
    ] {
        assert_eq!(done(&server, &args).contains("site:1"), found, "{args:?}");
    }

    // Custom images are their account's; official ones everybody's to use, nobody's to remove.
    let other = token(&server, "other").await;
    let as_other = async |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        server.request_as(Some(&other), method, path, body).await
    };
    assert_eq!(names(&as_other("GET", "/v1/images?search=", Value::Null).await.json()), Vec::<String>::new());
    let ask = json!({"image": "site:1", "command": ["wc", "-c", "/big"], "start": true, "name": "x"});
    assert_eq!(as_other("POST", "/v1/containers", ask.clone()).await.status, 404);
    assert_eq!(as_other("POST", "/v1/images/share?image=site:1&official=true", Value::Null).await.status, 403);
    let shared = server.request("POST", "/v1/images/share?image=site:1&official=true", "").await;
    assert!(shared.status == 200 && shared.json()["official"] == true, "{}", shared.text);
    assert!(names(&as_other("GET", "/v1/images?search=site", Value::Null).await.json()).contains(&"site:1".into()));
    assert_eq!(as_other("POST", "/v1/containers", ask).await.status, 201);
    assert_eq!(as_other("DELETE", "/v1/images/site:1", Value::Null).await.status, 403);
    assert_eq!(as_other("DELETE", "/v1/containers/x?force=true", Value::Null).await.status, 204);

    // A quota is for what is the account's own, and what does not fit leaves nothing.
    let limit = async |bytes: Value| {
        let asked = json!({"account": "other", "bytes": bytes});
        assert_eq!(server.request("POST", "/v1/images/quota", asked.to_string()).await.status, 204);
    };
    assert_eq!(as_other("POST", "/v1/images/quota", json!({"account": "other"})).await.status, 403);
    limit(json!(1000)).await;
    let tar = std::fs::read(&rootfs).expect("read the image");
    let load = async || server.request_as(Some(&other), "POST", "/v1/images/rootfs?name=mine", tar.clone()).await;
    let refused = load().await;
    assert!(refused.status == 503 && refused.text.contains("1000 bytes"), "{}", refused.text);
    assert_eq!(names(&as_other("GET", "/v1/images", Value::Null).await.json()), Vec::<String>::new());
    let disk = as_other("GET", "/v1/disk", Value::Null).await.json();
    assert_eq!((&disk["image_quota"], &disk["images"]["count"]), (&json!(1000), &json!(0)), "{disk}");
    limit(Value::Null).await;
    assert_eq!(load().await.status, 201);

    // One name less is no image less; the last one is.
    done(&server, &["rmi", "site:1"]);
    assert!(done(&server, &["images"]).contains("team/site:prod"));
    let before: Value = serde_json::from_str(&done(&server, &["df", "--json"])).expect("json");
    done(&server, &["rmi", "registry.example:5000/team/site:prod"]);
    let after: Value = serde_json::from_str(&done(&server, &["df", "--json"])).expect("json");
    let size = |df: &Value| df["images"]["size"].as_u64().expect("size");
    assert!(size(&before) - size(&after) >= 3_000_000, "{before} {after}");
    server.finish().await;
}

/// What is pruned, loaded, committed and started at the same moments is either refused in words or whole.
#[tokio::test(flavor = "multi_thread")]
async fn pruning_at_any_moment_takes_nothing_that_is_used() {
    let Some((server, _)) = server("prune", "").await else { return };
    let archive = server.data.join("base.tar");
    done(&server, &["save", "-o", archive.to_str().expect("path"), "base"]);
    done(&server, &["rmi", "base"]);
    let over = Arc::new(AtomicBool::new(false));
    let server = Arc::new(server);
    let pruner = {
        let (server, over) = (server.clone(), over.clone());
        tokio::spawn(async move {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = server.request("POST", "/v1/images/prune", r#"{"all":true}"#).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                rounds += 1;
            }
            rounds
        })
    };
    let bytes = std::fs::read(&archive).expect("archive");
    let users: Vec<_> = (0..3)
        .map(|n| {
            let (server, bytes) = (server.clone(), bytes.clone());
            tokio::spawn(async move {
                let mut ran = 0;
                for turn in 0..12 {
                    let name = format!("i{n}-{turn}");
                    let loaded = server.request("POST", &format!("/v1/images?name={name}"), bytes.clone()).await;
                    assert_eq!(loaded.status, 201, "{}", loaded.text);
                    let asked = json!({"image": name, "name": name, "start": true, "command": ["sh", "-c", "ls /bin/busybox; sleep 100"]});
                    let made = server.request("POST", "/v1/containers", asked.to_string()).await;
                    if made.status == 404 {
                        continue;
                    }
                    assert_eq!(made.status, 201, "{}", made.text);
                    let commit = json!({"name": format!("c-{name}")}).to_string();
                    let commit = server.request("POST", &format!("/v1/containers/{name}/commit"), commit).await;
                    assert_eq!(commit.status, 201, "{}", commit.text);
                    let exec = json!({"command": ["cat", "/bin/busybox"]}).to_string();
                    let exec = server.request("POST", &format!("/v1/containers/{name}/exec"), exec).await;
                    assert_eq!(exec.json()["exit_code"], 0, "{}", &exec.text[..200.min(exec.text.len())]);
                    let gone = server.request("DELETE", &format!("/v1/containers/{name}?force=true"), "").await;
                    assert_eq!(gone.status, 204, "{}", gone.text);
                    ran += 1;
                }
                ran
            })
        })
        .collect();
    let mut ran = 0;
    for user in users {
        ran += user.await.expect("a user");
    }
    over.store(true, Ordering::Relaxed);
    let rounds = pruner.await.expect("the pruner");
    assert!(ran > 0 && rounds > 3, "{ran} containers ran, {rounds} times pruned");
    std::fs::remove_file(archive).expect("remove");
    done(&server, &["prune", "-a"]);
    let layers = std::fs::read_dir(server.data.join("images/layers")).into_iter().flatten().flatten();
    assert_eq!(layers.count(), 0, "nothing uses a layer any more");
    Arc::into_inner(server).expect("nobody else").finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_pulled_images_that_nothing_uses() {
    if image("busybox").is_none() || !is_root() {
        return;
    }
    let files = std::env::temp_dir().join(format!("berth-watermark-files-{}", std::process::id()));
    std::fs::create_dir_all(&files).expect("folder");
    let Some(registry) = TestRegistry::start(&files, None).await else { return };
    let host = registry.host();
    // Every disk is fuller than this.
    let settings = format!(
        "[core]\ndisk_high_percent = 1\ndisk_low_percent = 0\n[registries.hosts.\"{host}\"]\nplain_http = true\n"
    );
    let Some((mut server, _)) = self::server("watermark", &settings).await else { return };
    let (used, unused) = (format!("{host}/a/used:1"), format!("{host}/a/unused:1"));
    for (name, file) in [(&used, "u"), (&unused, "n")] {
        done(&server, &["run", "--name", file, "base", "touch", &format!("/{file}")]);
        done(&server, &["commit", file, name]);
        done(&server, &["rm", file]);
        done(&server, &["push", "-q", name]);
        done(&server, &["rmi", name]);
        done(&server, &["pull", "-q", name]);
    }
    done(&server, &["create", "--name", "keeper", &used, "true"]);
    server.terminate();
    server.up().await;
    let mut left = done(&server, &["images"]);
    for _ in 0..100 {
        if !left.contains("a/unused") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        left = done(&server, &["images"]);
    }
    assert!(!left.contains("a/unused") && left.contains("a/used") && left.contains("base"), "{left}");
    let events = server.request("GET", "/v1/events?limit=1000", "").await.text;
    assert!(events.contains("image.collected"), "{events}");
    // What was taken can be had again.
    done(&server, &["run", "--rm", &unused, "ls", "/n"]);
    server.finish().await;
    drop(registry);
    std::fs::remove_dir_all(files).expect("clean");
}

/// The layers' digests of an image, lowest first, as its saved archive tells them.
fn saved_layers(server: &Server, name: &str) -> Vec<String> {
    let path = server.data.join("saved.tar");
    done(server, &["save", "-o", path.to_str().expect("a path"), name]);
    let mut digests = std::collections::HashMap::new();
    let mut manifest = None;
    let mut archive = tar::Archive::new(std::fs::File::open(&path).expect("open"));
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
        if name == "manifest.json" {
            manifest = Some(serde_json::from_slice::<Value>(&bytes).expect("json"));
        }
        digests.insert(name, digest_of(&bytes));
    }
    let layers = manifest.expect("a manifest")[0]["Layers"].as_array().expect("layers").clone();
    layers.iter().map(|name| digests[name.as_str().expect("a name")].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_may_name_a_layer_twice() {
    let Some((server, rootfs)) = server("twice", "").await else { return };
    let base = std::fs::read(&rootfs).expect("read the image");
    let empty = tar_of(&[]);
    let a = tar_of(&[folder("d"), file("d/who", b"a"), file("d/of-a", b"a")]);
    let b = tar_of(&[folder("d"), file("d/who", b"b"), file("d/of-b", b"b"), file("d/.wh.of-a", b"")]);
    // The same tree as a's, by another archive: a name of its own, the same content.
    let like_a = tar_of(&[file("d/of-a", b"a"), file("d/who", b"a")]);
    for (name, layers, told) in [
        ("aba", vec![&base, &a, &b, &a], "a of-a of-b who"),
        ("empties", vec![&base, &empty, &a, &empty, &b, &empty], "b of-b who"),
        ("like", vec![&base, &a, &b, &like_a], "a of-a of-b who"),
        ("same", vec![&base, &a, &a, &a], "a of-a who"),
    ] {
        let layers: Vec<&[u8]> = layers.into_iter().map(Vec::as_slice).collect();
        let archive = docker_archive(&layers, &["sh"], &format!("{name}:1"));
        done(&server, &["load", "-i", &kept(&server, "image.tar", &archive)]);
        let image = format!("{name}:1");
        let shell = "cat /d/who; echo \" $(ls /d)\"";
        assert_eq!(
            done(&server, &["run", "--rm", &image, "sh", "-c", shell]).trim().replace('\n', " "),
            told,
            "{name}"
        );
        let digests: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
        assert_eq!(saved_layers(&server, &image), digests, "{name}: saved with the digests it came with");

        // A commit on top, and a copy out of one that does not run.
        done(&server, &["run", "--name", "m", &image, "sh", "-c", "echo new > /d/new"]);
        done(&server, &["cp", "m:/d/who", server.data.join("who").to_str().expect("a path")]);
        assert_eq!(std::fs::read(server.data.join("who")).expect("read"), &told.as_bytes()[..1], "{name}");
        done(&server, &["commit", "m", &format!("{name}:2")]);
        done(&server, &["rm", "m"]);
        let image = format!("{name}:2");
        let shell = "cat /d/who /d/new";
        let said = done(&server, &["run", "--rm", &image, "sh", "-c", shell]);
        assert_eq!(said.trim(), format!("{}new", &told[..1]), "{name}");
        let saved = saved_layers(&server, &image);
        assert_eq!(saved[..saved.len() - 1], digests, "{name}: what a commit is made on stays as it is");
        done(&server, &["rmi", &image, &format!("{name}:1")]);
    }
    server.finish().await;
}

/// A root file system may have anything in the place of the files that the server brings along: the container starts.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_an_image_is_in_the_way_of_a_start() {
    use berth_testkit::{Entry, link};
    for runtime in ["", "runc"] {
        if runtime == "runc" && !berth_testkit::has_program("runc") {
            continue;
        }
        let settings = format!("[engine]\nruntime = \"{runtime}\"\n");
        let Some((server, rootfs)) = server(&format!("way{runtime}"), &settings).await else { return };
        let base = std::fs::read(&rootfs).expect("read the image");
        let device = Entry { name: "etc/resolv.conf", kind: tar::EntryType::Fifo, link: "", mode: 0o644, content: b"" };
        let cases: Vec<(&str, Vec<Entry<'_>>, bool)> = vec![
            ("dangling", vec![link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")], true),
            ("absolute", vec![link("etc/resolv.conf", "/nowhere/x"), link("etc/hosts", "/nowhere/y")], true),
            ("loop", vec![link("etc/resolv.conf", "b"), link("etc/b", "resolv.conf")], true),
            ("folder", vec![folder("etc/resolv.conf"), folder("etc/hostname")], true),
            ("full", vec![folder("etc/resolv.conf"), file("etc/resolv.conf/x", b"x")], false),
            ("fifo", vec![device], true),
            ("null", vec![link("etc/hosts", "/dev/null"), link("etc/hostname", "/etc")], true),
            ("gone", vec![file("etc/.wh.resolv.conf", b""), file("etc/.wh.hosts", b"")], true),
            ("etc", vec![file(".wh.etc", b""), link("etc", "/nowhere/etc")], false),
        ];
        for (name, entries, placed) in cases {
            let layer = tar_of(&entries);
            let archive = docker_archive(&[&base, &layer], &["sh"], &format!("{name}:1"));
            done(&server, &["load", "-i", &kept(&server, "image.tar", &archive)]);
            let image = format!("{name}:1");
            for flags in [vec!["run", "--rm"], vec!["run", "--rm", "--read-only"]] {
                let script = "echo up; grep -c nameserver /etc/resolv.conf";
                let (code, out, error) = server.cli(&[flags.clone(), vec![&image, "sh", "-c", script]].concat());
                assert!(out.starts_with("up"), "{runtime} {name} {flags:?}: {code} {error}");
                if placed {
                    assert!(out.trim() != "up\n0" && code == 0, "{runtime} {name} {flags:?}: {out} {error}");
                }
            }
        }
        // What is in a volume stays as it is.
        let prepare = "ln -s /nowhere/x /v/resolv.conf; echo mine > /v/hosts";
        done(&server, &["run", "--rm", "-v", "etc:/v", "base", "sh", "-c", prepare]);
        let script = "readlink /etc/resolv.conf; ls /etc";
        let said = done(&server, &["run", "--rm", "-v", "etc:/etc", "base", "sh", "-c", script]);
        assert!(said.starts_with("/nowhere/x"), "{runtime}: {said}");
        server.finish().await;
    }
}
