//! Images from and to a real registry, also through a proxy that drops, stalls and corrupts, and exchanged with skopeo.

use std::path::Path;
use std::process::Command;

use berth_testkit::{
    Answer, Fault, FileServer, Proxy, Server, StrangeRegistry, TestRegistry, Ways, digest_of, docker_archive, done,
    file, has_program, image, is_root, kept, tar_of, zip_of,
};
use serde_json::json;

/// A server that knows these hosts to speak plain HTTP.
async fn server(name: &str, hosts: &[String], more: &str) -> Server {
    let mut settings = "[registries]\nstall_s = 1\n".to_owned();
    for host in hosts {
        settings += &format!("[registries.hosts.\"{host}\"]\nplain_http = true\n");
    }
    settings += more;
    Server::start(env!("CARGO_BIN_EXE_berth"), name, &settings).await
}

fn folder(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("berth-{name}-files-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("folder");
    path
}

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).output().expect("skopeo");
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image of several layers, the upper ones with what is hard to carry, and one of random bytes.
fn make_image(server: &Server, rootfs: &Path, name: &str) {
    server.import(rootfs, "base", &["A=1"]);
    let script = "mkdir -p /d/e; echo x > /d/e/f; ln /d/e/f /d/hard; ln -s e/f /d/soft; mkfifo /d/pipe; chmod 4711 /d/e/f; \
        chown 12:34 /d/hard; touch -d '2001-02-03 04:05:06' /d/soft /d/e; mknod /d/null c 1 3; rm -r /bin/vi; \
        head -c 6000000 /dev/urandom > /big; echo é > '/d/ümlaut'; i=0; n=x; while [ $i -lt 7 ]; do n=$n$n; i=$((i+1)); done; echo l > /d/$n";
    done(server, &["run", "--name", "maker", "base", "sh", "-c", script]);
    done(server, &["commit", "maker", "mid"]);
    done(server, &["run", "--name", "second", "mid", "sh", "-c", "rm /d/soft; echo more > /d/e/g; mkdir /empty"]);
    done(server, &["commit", "--label", "made=here", "second", name]);
}

/// Every file of an image, with mode, owner, time, links and content, as the container sees it.
fn listing(server: &Server, image: &str) -> String {
    let script = "cd /; find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc/host*' ! -path './etc/resolv*' \
        ! -path . ! -path ./etc -exec stat -c '%n %F %a %u %g %Y %s %h %t,%T' {} \\; | sort; find . -xdev -type f ! -path './proc*' ! -path './sys*' ! -path './etc/host*' ! -path './etc/resolv*' -exec md5sum {} \\; | sort";
    done(server, &["run", "--rm", image, "sh", "-c", script])
}

#[tokio::test(flavor = "multi_thread")]
async fn images_travel_to_a_registry_and_back_and_are_the_same() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let files = folder("travel");
    let Some(registry) = TestRegistry::start(&files, None).await else { return };
    let host = registry.host();
    let first = server("travel", std::slice::from_ref(&host), "").await;
    let name = format!("{host}/team/app:1");
    make_image(&first, &rootfs, &name);
    let before = listing(&first, &name);
    assert!(before.contains("./d/pipe fifo") && before.contains("./big"), "{before}");
    let digest = first.client().image(&name).await.expect("image").digest;
    let pushed = done(&first, &["push", "-q", &name]);
    assert!(pushed.starts_with("sha256:"), "{pushed}");
    let again = first.cli(&["push", &name]);
    assert!(again.0 == 0 && again.2.contains("exists"), "nothing is sent twice: {again:?}");

    // Another server gets the very same image.
    let second = server("travel2", std::slice::from_ref(&host), "").await;
    let pulled = done(&second, &["pull", "-q", &name]);
    assert_eq!(pulled.trim(), digest, "the same configuration");
    assert_eq!(listing(&second, &name), before);
    let images = second.client().images().await.expect("images");
    assert_eq!((images[0].origin.as_str(), images[0].names.len()), ("pulled", 1));
    done(&second, &["pull", "-q", &format!("{host}/team/app@{}", pushed.trim())]);
    let missing = second.cli(&["pull", &format!("{host}/team/app:none")]);
    assert!(missing.0 == 1 && missing.2.contains("app:none"), "{missing:?}");
    let foreign = second.cli(&["pull", "--platform", "linux/s390x", &name]);
    // One manifest without an index is for one platform, and says for which.
    assert!(foreign.0 == 1 && foreign.2.contains("but for linux/"), "{foreign:?}");
    // `run` fetches what is missing.
    done(&second, &["rmi", "-f", &name]);
    let out = done(&second, &["run", "--rm", &name, "cat", "/d/e/g"]);
    assert_eq!(out, "more\n");

    if has_program("skopeo") {
        // skopeo takes it from the registry, and from an archive of ours; we take it from skopeo's.
        let insecure = "--src-tls-verify=false";
        let (layout, old) = (files.join("layout"), files.join("old.tar"));
        skopeo(&["copy", "-q", insecure, &format!("docker://{name}"), &format!("oci:{}:app", layout.display())]);
        skopeo(&[
            "copy",
            "-q",
            insecure,
            &format!("docker://{name}"),
            &format!("docker-archive:{}:x/old:1", old.display()),
        ]);
        done(&second, &["load", "--name", "fromlayout:1", layout.to_str().expect("path")]);
        done(&second, &["load", old.to_str().expect("path")]);
        for loaded in ["fromlayout:1", "x/old:1"] {
            assert_eq!(second.client().image(loaded).await.expect("image").digest, digest, "{loaded}");
        }
        let saved = files.join("saved.tar");
        done(&second, &["save", "-o", saved.to_str().expect("path"), &name]);
        for source in [format!("docker-archive:{}", saved.display()), format!("oci-archive:{}", saved.display())] {
            let to = files.join("taken");
            let _ = std::fs::remove_dir_all(&to);
            skopeo(&["copy", "-q", &source, &format!("oci:{}:t", to.display())]);
            let config: serde_json::Value =
                serde_json::from_str(&skopeo(&["inspect", "--config", &source])).expect("json");
            assert_eq!(config["config"]["Labels"]["made"], "here", "{source}");
            done(&second, &["load", "--name", "taken:1", to.to_str().expect("path")]);
            let taken = second.client().image("taken:1").await.expect("image");
            let own = second.client().image(&name).await.expect("image");
            // skopeo writes the configuration of a docker archive anew.
            assert_eq!(taken.layers, own.layers, "{source}");
            assert!(taken.digest == digest || source.starts_with("docker"), "{source}");
            done(&second, &["rmi", "-f", "taken:1"]);
        }
    }
    if has_program("umoci") && has_program("skopeo") {
        compare_with_umoci(&second, &files, &name).await;
    }
    first.finish().await;
    second.finish().await;
    drop(registry);
    std::fs::remove_dir_all(files).expect("clean");
}

/// The tree that umoci unpacks, file by file against what a container of ours exports.
async fn compare_with_umoci(server: &Server, files: &Path, name: &str) {
    let (layout, bundle) = (files.join("umoci"), files.join("bundle"));
    let saved = files.join("umoci.tar");
    done(server, &["save", "-o", saved.to_str().expect("path"), name]);
    skopeo(&["copy", "-q", &format!("docker-archive:{}", saved.display()), &format!("oci:{}:app", layout.display())]);
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:app", layout.display())])
        .arg(&bundle)
        .output()
        .expect("umoci");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let own = files.join("own.tar");
    done(server, &["create", "--name", "exported", name]);
    done(server, &["export", "-o", own.to_str().expect("path"), "exported"]);
    let exported = files.join("exported");
    std::fs::create_dir(&exported).expect("folder");
    let tar = Command::new("tar").arg("-xpf").arg(&own).arg("-C").arg(&exported).arg("--xattrs").status();
    assert!(tar.is_ok_and(|s| s.success()), "tar");
    let tree = |root: &Path| {
        let script = "find . -mindepth 1 ! -path './proc' ! -path './sys' ! -path './dev' \
            -printf '%P %y %m %U %G %T@ %l %n\\n' | sed 's/\\.[0-9]* / /' | sort; find . -type f -exec md5sum {} + | sort";
        let output = Command::new("sh").args(["-c", script]).current_dir(root).output().expect("find");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (theirs, ours) = (tree(&bundle.join("rootfs")), tree(&exported));
    let differing: Vec<(&str, &str)> = theirs.lines().zip(ours.lines()).filter(|(a, b)| a != b).collect();
    assert!(theirs.lines().count() > 100, "{theirs}");
    assert!(differing.is_empty() && theirs.lines().count() == ours.lines().count(), "{differing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_breaks_off_stalls_and_lies_is_got_the_better_of() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let files = folder("flaky");
    let Some(registry) = TestRegistry::start(&files, None).await else { return };
    let proxy = Proxy::start(&registry.host()).await;
    let hosts = [registry.host(), proxy.host()];
    let server = server("flaky", &hosts, "").await;
    let direct = format!("{}/a/b:1", registry.host());
    make_image(&server, &rootfs, &direct);
    let digest = server.client().image(&direct).await.expect("image").digest;
    done(&server, &["push", "-q", &direct]);
    let through = format!("{}/a/b:1", proxy.host());
    let forget = || {
        for container in ["maker", "second"] {
            let _ = server.cli(&["rm", "-f", container]);
        }
        for name in [&direct, &through, "mid", "base"] {
            let _ = server.cli(&["rmi", "-f", name]);
        }
    };
    forget();
    for (fault, times) in [
        (Fault::Drop(3_000_000), 3),
        (Fault::Drop(200), 2),
        (Fault::Stall(2_000_000), 1),
        (Fault::Corrupt(1_000_000), 1),
        (Fault::Refuse, 2),
    ] {
        let carried = proxy.carried();
        proxy.inject_fault(fault, times);
        let (code, out, error) = server.cli(&["pull", "-q", &through]);
        assert_eq!((code, out.trim()), (0, digest.as_str()), "{fault:?}: {error}");
        assert!(proxy.misdeeds() > 0, "{fault:?} was not met with");
        let carried = proxy.carried() - carried;
        if matches!(fault, Fault::Drop(3_000_000)) {
            assert!(carried < 9_000_000, "what had come was not fetched again: {carried}");
        }
        done(&server, &["run", "--rm", &through, "cat", "/d/e/g"]);
        forget();
    }
    // What is never right is refused in the end, and leaves nothing.
    proxy.inject_fault(Fault::CorruptEvery(500_000), 1000);
    let (code, _, error) = server.cli(&["pull", &through]);
    assert!(code == 1 && error.contains("has the content"), "{error}");
    assert!(server.client().images().await.expect("images").is_empty());
    proxy.inject_fault(Fault::None, 0);
    server.finish().await;
    drop(registry);
    std::fs::remove_dir_all(files).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_logins_are_kept_secret() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let files = folder("mirror");
    let Some(registry) = TestRegistry::start(&files, Some(("ann", "s3cret"))).await else { return };
    let Some(open) = TestRegistry::start(&files.join("open"), None).await else { return };
    let dead = "http://127.0.0.1:9";
    let (host, mirror) = (registry.host(), open.host());
    let more = format!(
        "[registries.hosts.\"*\"]\nmirrors = [\"{dead}\", \"http://{mirror}\"]\n[registries.hosts.\"{mirror}\"]\nplain_http = true\n"
    );
    let server = server("mirror", std::slice::from_ref(&host), &more).await;
    server.import(&rootfs, "base", &[]);
    let name = format!("{host}/x/y:1");
    done(&server, &["tag", "base", &name]);
    let refused = server.cli(&["push", &name]);
    assert!(refused.0 == 1 && refused.2.to_lowercase().contains("auth"), "{refused:?}");
    assert!(refused.2.contains(&format!("berth login -u USER {host}")), "{refused:?}");
    let wrong = server.cli(&["login", "-u", "ann", "-p", "wrong", &host]);
    assert!(wrong.0 == 1 && !wrong.2.contains("wrong"), "{wrong:?}");
    done(&server, &["login", "-u", "ann", "-p", "s3cret", &host]);
    assert_eq!(done(&server, &["login", "--list"]), format!("{host}\tann\n"));
    done(&server, &["push", "-q", &name]);
    let database = std::fs::read(server.data.join("berth.db")).expect("database");
    let wal = std::fs::read(server.data.join("berth.db-wal")).unwrap_or_default();
    let holds = |bytes: &[u8]| bytes.windows(6).any(|w| w == b"s3cret");
    assert!(!holds(&database) && !holds(&wal) && !server.log().contains("s3cret"), "the password is kept in clear");

    // The mirror has none of it: the registry itself has. Then the mirror has, and the registry is not asked.
    done(&server, &["pull", "-q", &name]);
    let at_mirror = format!("{mirror}/x/y:1");
    done(&server, &["tag", "base", &at_mirror]);
    done(&server, &["push", "-q", &at_mirror]);
    done(&server, &["logout", &host]);
    done(&server, &["rmi", "-f", &name]);
    done(&server, &["pull", "-q", &name]);
    server.finish().await;
    drop((registry, open));
    std::fs::remove_dir_all(files).expect("clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_runtime_is_not_here_fetches_it() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let files = folder("runtime");
    let Some(registry) = TestRegistry::start(&files, None).await else { return };
    let host = registry.host();
    let name = format!("{host}/runtimes/web:1");
    let runtime = |name: &str, image: &str| {
        let command = "httpd -f -p $PORT";
        format!(
            "[core.runtimes.\"{name}\"]\nkind = \"php\"\nimage = \"{image}\"\nport = 8080\ncommand = \"{command}\"\n"
        )
    };
    let more = runtime("there", &name) + &runtime("nowhere", &format!("{host}/runtimes/other:1"));
    let server = server("runtime", std::slice::from_ref(&host), &more).await;
    server.import(&rootfs, &name, &[]);
    done(&server, &["push", "-q", &name]);
    done(&server, &["rmi", &name]);
    let code = FileServer::default();
    let site = code.serve("site.zip", zip_of(&[("index.html", b"fetched")]));
    let build = async |runtime: &str| {
        let body = format!("image_name={runtime}&code_address={site}&memory=64");
        server.request("POST", "/container/build", body).await.json()
    };
    let built = build("there").await;
    assert_eq!(built["code"], 0, "{built}");
    let page = berth_testkit::http()
        .get(format!("http://127.0.0.1:{}/", built["result"]["port"]))
        .send()
        .await
        .expect("the application");
    assert_eq!(page.text().await.expect("text"), "fetched");
    let refused = build("nowhere").await;
    assert_eq!(refused["code"], 10005, "{refused}");
    assert!(
        refused["message"].as_str().is_some_and(|m| m.contains("can't be fetched") && m.contains("other")),
        "{refused}"
    );
    server.finish().await;
    drop(registry);
    std::fs::remove_dir_all(files).expect("clean");
}

async fn pull_as(server: &Server, token: &str, image: &str) -> Answer {
    let asked = json!({"image": image}).to_string();
    server.request_as(Some(token), "POST", "/v1/images/pull", asked).await
}

/// Whether the last word of a pull is an image.
fn pulled(answer: &Answer) -> bool {
    answer.status == 200 && answer.text.lines().last().is_some_and(|last| last.contains("\"image\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_alone_gives_nobody_a_layer() {
    if !is_root() {
        return;
    }
    let registry = StrangeRegistry::start(Ways::default());
    let host = registry.host();
    let server = server("digests", std::slice::from_ref(&host), "").await;
    let secret = tar_of(&[file("secret", b"of the administrator")]);
    done(&server, &["load", "-i", &kept(&server, "own", &docker_archive(&[&secret], &["/x"], "own:1"))]);
    let layer = digest_of(&secret);
    let other = server.tenant("other").await;
    let config = json!({"architecture": "", "os": "linux", "config": {"Cmd": ["/x"]}});
    // The digest of another account's layer in the configuration, other content in the registry.
    let mine = tar_of(&[file("mine", b"x")]);
    registry.image("evil", "1", &[&layer], &[&mine], config.clone());
    let answer = pull_as(&server, &other, &format!("{host}/evil:1")).await;
    assert!(!pulled(&answer) && answer.text.contains("expected was"), "{}", answer.text);
    // The digest of code, which is that of a short text.
    let zip = zip_of(&[("index.html", b"the code")]);
    let site = FileServer::default().serve("site.zip", zip.clone());
    let body = format!("image_name=static&code_address={site}&memory=64");
    let built = server.request("POST", "/container/build", body).await;
    assert_eq!(built.json()["code"], 0, "{}", built.text);
    let text = format!("{} under app", digest_of(&zip));
    registry.image("evil", "2", &[&digest_of(text.as_bytes())], &[text.as_bytes()], config.clone());
    let answer = pull_as(&server, &other, &format!("{host}/evil:2")).await;
    assert!(!pulled(&answer), "{}", answer.text);
    let all = server.request_as(Some(&other), "GET", "/v1/images", "").await;
    assert_eq!(all.json()["items"], json!([]), "{}", all.text);
    // Whoever has the content gets the image; what the account has is not asked for again.
    registry.image("good", "1", &[&layer], &[&secret], config.clone());
    let answer = pull_as(&server, &other, &format!("{host}/good:1")).await;
    assert!(pulled(&answer) && !answer.text.contains("exists"), "{}", answer.text);
    let answer = pull_as(&server, &other, &format!("{host}/good:1")).await;
    assert!(pulled(&answer) && answer.text.contains("exists"), "{}", answer.text);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_of_every_kind_take_and_give() {
    if !is_root() {
        return;
    }
    let mut noise = vec![0; 14 << 20];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let large = tar_of(&[file("noise", &noise)]);
    let small = tar_of(&[file("small", b"x")]);
    let kinds = [
        Ways { least_part: 5 << 20, ..Ways::default() },
        Ways { least_part: 9 << 20, part_status: 201, ..Ways::default() },
        Ways { least_part: 1 << 40, part_status: 200, ..Ways::default() },
        Ways { part_status: 201, first_part_only: true, ..Ways::default() },
        Ways {
            token_life: Some(1),
            challenges: vec!["Negotiate".into(), "Basic realm=\"a, b\", AWS x=\"y\"".into()],
            ..Ways::default()
        },
    ];
    let registries: Vec<_> = kinds.iter().cloned().map(StrangeRegistry::start).collect();
    let hosts: Vec<_> = registries.iter().map(StrangeRegistry::host).collect();
    let server = server("kinds", &hosts, "").await;
    for (registry, ways) in registries.iter().zip(&kinds) {
        let name = format!("{}/app:1", registry.host());
        // The small layer twice: it travels once.
        let archive = docker_archive(&[&small, &large, &small], &["/x"], &name);
        done(&server, &["load", "-i", &kept(&server, "app", &archive)]);
        done(&server, &["push", &name]);
        assert_eq!(registry.refused(), Vec::<String>::new(), "{ways:?}");
        assert!(registry.uploads() <= 5, "{} uploads, {ways:?}", registry.uploads());
        let before: serde_json::Value = serde_json::from_str(&done(&server, &["inspect", &name])).expect("json");
        done(&server, &["rmi", &name]);
        done(&server, &["pull", &name]);
        let after: serde_json::Value = serde_json::from_str(&done(&server, &["inspect", &name])).expect("json");
        assert!(before[0]["digest"].is_string() && before[0]["digest"] == after[0]["digest"], "{before} {after}");
        done(&server, &["rmi", &name]);
    }
    // An index with entries that are no images, that nothing runs, that do not say what they are for.
    let registry = &registries[0];
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = |name: &str| json!({"architecture": architecture, "os": "linux", "config": {"Cmd": [name]}});
    let of = |name: &str| registry.image("many", name, &[&digest_of(&small)], &[&small], config(name));
    let media_type = "application/vnd.oci.image.index.v1+json";
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let index = |tag: &str, entries: Vec<serde_json::Value>| {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
        registry.manifest("many", tag, media_type, index.as_bytes());
    };
    let entry = |name: &str, platform: serde_json::Value| json!({"mediaType": manifest, "digest": of(name), "size": 1, "platform": platform});
    let strange = json!({"mediaType": manifest, "digest": "sha512:00", "size": 1});
    let plain = || entry("plain", json!({"os": "linux", "architecture": architecture}));
    let too_new = || entry("new", json!({"os": "linux", "architecture": architecture, "variant": "v99"}));
    let unknown = || entry("attested", json!({"os": "unknown", "architecture": "unknown"}));
    let silent = json!({"mediaType": manifest, "digest": of("silent"), "size": 1});
    let foreign = registry.image(
        "many",
        "foreign",
        &[&digest_of(&small)],
        &[&small],
        json!({"architecture": "s390x", "os": "linux", "config": {"Cmd": ["foreign"]}}),
    );
    let foreign = json!({"mediaType": manifest, "digest": foreign, "size": 1});
    index("1", vec![strange.clone(), unknown(), too_new(), plain()]);
    index("2", vec![strange, unknown(), foreign, silent]);
    index("3", vec![too_new()]);
    for (tag, taken) in [("1", Some("plain")), ("2", Some("silent")), ("3", None)] {
        let name = format!("{}/many:{tag}", registry.host());
        let (code, _, said) = server.cli(&["pull", &name]);
        let Some(taken) = taken else {
            assert!(code != 0 && said.contains(&format!("linux/{architecture}/v99")), "{said}");
            continue;
        };
        assert_eq!(code, 0, "{said}");
        let image = done(&server, &["inspect", &name]);
        assert!(image.contains(&format!("\"{taken}\"")), "{tag}: {image}");
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_a_right() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = server("private", &[], "").await;
    server.import(&rootfs, "busybox", &[]);
    let user = server.tenant("edge").await;
    let files = FileServer::default();
    let site = files.serve("site.zip", zip_of(&[("index.html", b"x")]));
    let archive = files.serve("image.tar", docker_archive(&[&tar_of(&[file("a", b"a")])], &["/x"], "a:1"));
    let build = async |token: &str, address: &str| {
        let body = format!("image_name=static&code_address={address}&memory=64");
        server.request_as(Some(token), "POST", "/container/build", body).await
    };
    let uploads = async |token: &str| {
        let path = format!("/tingyu/image/uploadImage?image_name=app&version=1&image_url={archive}");
        server.request_as(Some(token), "POST", &path, "").await
    };
    let refused = build(&user, &site).await;
    assert!(refused.json()["code"] == 10003 && refused.text.contains("may not be reached"), "{}", refused.text);
    let refused = uploads(&user).await.text;
    assert!(!refused.contains("\"code\":200"), "{refused}");
    // A registry that only the client names; one in the settings is the administrator's word.
    let registry = StrangeRegistry::start(Ways::default());
    let answer = pull_as(&server, &user, &format!("{}/x:1", registry.host())).await;
    assert!(answer.text.contains("may not be reached"), "{}", answer.text);
    done(&server, &["account", "set", "edge", "--private-addresses", "yes"]);
    let taken = uploads(&user).await.text;
    assert!(taken.contains("\"code\":200"), "{taken}");
    let built = build(&user, &site).await.json();
    let id = built["result"]["containerId"].as_str().expect("an id");
    done(&server, &["rm", "-f", "--token", &user, id]);
    let answer = pull_as(&server, &user, &format!("{}/x:1", registry.host())).await;
    assert!(!answer.text.contains("may not be reached"), "{}", answer.text);
    // The containers' own network is nobody's, by any way.
    done(&server, &["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let inside =
        server.request("GET", "/v1/containers/web", "").await.json()["address"].as_str().expect("ip").to_owned();
    let around = files.serve("redirect:around.zip", format!("http://{inside}/x.zip").into_bytes());
    for address in [format!("http://{inside}/x.zip"), format!("http://[::ffff:{inside}]/x.zip"), around] {
        for token in [&user, &server.token()] {
            let refused = build(token, &address).await;
            assert!(refused.text.contains("may not be reached"), "{address}: {}", refused.text);
        }
    }
    server.finish().await;
}
