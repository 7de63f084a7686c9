//! Images from and to a real registry, also through a proxy that drops, stalls and corrupts, and exchanged with skopeo.

use std::path::Path;
use std::process::Command;

use berth_testkit::{FileServer, Mischief, Proxy, Server, TestRegistry, done, has_program, image, is_root, zip_of};

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
    for (mischief, times) in [
        (Mischief::Drop(3_000_000), 3),
        (Mischief::Drop(200), 2),
        (Mischief::Stall(2_000_000), 1),
        (Mischief::Corrupt(1_000_000), 1),
        (Mischief::Refuse, 2),
    ] {
        let carried = proxy.carried();
        proxy.misbehave(mischief, times);
        let (code, out, error) = server.cli(&["pull", "-q", &through]);
        assert_eq!((code, out.trim()), (0, digest.as_str()), "{mischief:?}: {error}");
        assert!(proxy.misdeeds() > 0, "{mischief:?} was not met with");
        let carried = proxy.carried() - carried;
        if matches!(mischief, Mischief::Drop(3_000_000)) {
            assert!(carried < 9_000_000, "what had come was not fetched again: {carried}");
        }
        done(&server, &["run", "--rm", &through, "cat", "/d/e/g"]);
        forget();
    }
    // What is never right is refused in the end, and leaves nothing.
    proxy.misbehave(Mischief::CorruptEvery(500_000), 1000);
    let (code, _, error) = server.cli(&["pull", &through]);
    assert!(code == 1 && error.contains("has the content"), "{error}");
    assert!(server.client().images().await.expect("images").is_empty());
    proxy.misbehave(Mischief::None, 0);
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
    let page = reqwest::get(format!("http://127.0.0.1:{}/", built["result"]["port"])).await.expect("the application");
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
