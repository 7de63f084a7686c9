//! Administration: accounts with quotas, acting for others, what is seen of all accounts.

use berth_testkit::{FileServer, Server, image, is_root, zip_of};
use serde_json::json;

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// The account has 20 of 70 MiB left.
async fn dialects_refuse_in_their_own_form(server: &Server, token: &str) {
    assert_eq!(server.cli(&["account", "set", "shop", "--private-addresses", "yes", "--host-network", "yes"]).0, 0);
    let files = FileServer::default();
    let site = files.serve("site.zip", zip_of(&[("index.html", b"x")]));
    let asked = format!("image_name=static&code_address={site}&memory=64");
    let refused = server.request_as(Some(token), "POST", "/container/build", asked).await;
    assert_eq!((refused.status, refused.json()["code"].as_u64()), (503, Some(10005)), "standalone: {}", refused.text);
    assert!(refused.text.contains("too much for the account's quota"), "standalone: {}", refused.text);

    let nodes = server.request_as(Some(token), "GET", "/tingyu/node/list", "").await.json();
    let asked = json!([{"uuid": nodes["data"][0]["uuid"], "image": "busybox", "imageversion": "latest",
        "deploymentname": "quota", "limitscpu": 0.1, "limitsmemory": 64}]);
    let item = server.request_as(Some(token), "POST", "/tingyu/container/create", asked.to_string()).await.json();
    let mut message = item["data"][0]["message"].clone();
    if let Some(job) = item["data"][0]["jobid"].as_str() {
        let path = format!("/tingyu/task/status?jobid={job}");
        loop {
            let found = server.request_as(Some(token), "GET", &path, "").await.json()["info"][0].clone();
            if found["state"].as_i64().is_some_and(|state| state >= 3) {
                assert_eq!(found["state"], 4, "tingyu: {found}");
                message = found["message"].clone();
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert!(message.as_str().is_some_and(|text| text.contains("配额")), "tingyu: {message} {item}");

    let key = server.cli(&["key", "create", "cloud", "--account", "shop"]).1;
    let key: Vec<&str> = key.lines().filter_map(|line| line.split_once(' ').map(|(_, half)| half.trim())).collect();
    let body = json!({"app_key": key[0], "app_secret": key[1]}).to_string();
    let cloud = server.request_as(None, "POST", "/api/v1/token", body).await.json()["token"].clone();
    let http = berth_testkit::http();
    let token = format!("Token {}", cloud.as_str().expect("a token"));
    let get = http.get(server.url("/api/v1/containers/images")).header("authorization", &token);
    let images: serde_json::Value =
        serde_json::from_str(&get.send().await.expect("images").text().await.expect("text")).expect("JSON");
    let asked = json!({"charge_type": 1, "spec_id": 1, "image_type": 1, "image_id": images["public_images"][0]["id"],
        "name": "quota", "desc": "", "ssh_key_ids": [], "env_var": {}, "use_public_network": 0});
    let post = http.post(server.url("/api/v1/containers")).header("authorization", &token);
    let answer =
        post.header("content-type", "application/json").body(asked.to_string()).send().await.expect("an answer");
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
    assert_eq!(status, 201, "comb: {text}");
    let made: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // It is made as documented, at once; that it may not start is its state.
    let path = format!("/api/v1/containers/{}", made["id"]);
    let state = loop {
        let get = http.get(server.url(&path)).header("authorization", &token);
        let found: serde_json::Value =
            serde_json::from_str(&get.send().await.expect("it").text().await.expect("text")).expect("JSON");
        let state = found["status"].as_str().expect("a state").to_owned();
        if !state.ends_with("ing") {
            break state;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(state, "create_fail", "comb");
    let path = format!("/api/v1/containers/{}", made["id"]);
    let gone = http.delete(server.url(&path)).header("authorization", &token).send().await.expect("an answer");
    assert!(gone.status().is_success(), "comb: {gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_bound_what_an_account_may_run_in_every_dialect() {
    if !is_root() || image("busybox").is_none() {
        return;
    }
    let server = Server::start(BERTH, "accounts", "").await;
    let busybox = image("busybox").expect("image");
    server.import(&busybox, "busybox", &[]);
    assert_eq!(server.cli(&["official", "busybox"]).0, 0);
    let (code, token, error) =
        server.cli(&["account", "create", "shop", "-m", "100m", "--containers", "2", "--cpus", "1"]);
    assert_eq!(code, 0, "{error}");
    let token = token.trim().to_owned();
    let shop = |args: &[&str]| server.cli(&[&["--token", token.as_str()], args].concat());

    // Each container needs a bound of its own, and all together fit.
    let (code, _, error) = shop(&["run", "-d", "busybox", "sleep", "1000"]);
    assert_eq!(code, 125);
    assert!(error.contains("100 MiB of memory in all: a container needs a bound of its own"), "{error}");
    assert_eq!(shop(&["run", "-d", "--name", "a", "-m", "60m", "--cpus", "0.5", "busybox", "sleep", "1000"]).0, 0);
    let (_, _, error) = shop(&["run", "-d", "-m", "60m", "--cpus", "0.1", "busybox", "sleep", "1000"]);
    assert!(error.contains("60 MiB of memory are too much") && error.contains("60 MiB of 100 MiB"), "{error}");
    let (_, _, error) = shop(&["run", "-d", "-m", "10m", "--cpus", "0.6", "busybox", "sleep", "1000"]);
    assert!(error.contains("0.600 CPUs of CPU time are too much"), "{error}");
    assert_eq!(shop(&["run", "-d", "--name", "b", "-m", "40m", "--cpus", "0.5", "busybox", "sleep", "1000"]).0, 0);
    let (_, _, error) = shop(&["run", "-d", "-m", "1m", "--cpus", "0.1", "busybox", "sleep", "1000"]);
    assert!(error.contains("2 containers of the account run, of 2"), "{error}");
    // While it runs, too: more is refused, less is not.
    let (code, _, error) = shop(&["update", "-m", "80m", "a"]);
    assert!(code != 0 && error.contains("80 MiB of memory are too much"), "{error}");
    assert_eq!(shop(&["update", "-m", "50m", "a"]).0, 0);
    // What is stopped makes room; a start is judged again.
    assert_eq!(shop(&["stop", "-t", "0", "b"]).0, 0);
    assert_eq!(server.cli(&["account", "set", "shop", "-m", "70m"]).0, 0);
    let (code, _, error) = shop(&["start", "b"]);
    assert!(code != 0 && error.contains("40 MiB of memory are too much"), "{error}");

    dialects_refuse_in_their_own_form(&server, &token).await;

    // What it has, beside what it may have.
    let seen: serde_json::Value = serde_json::from_str(&server.cli(&["account", "inspect", "shop"]).1).expect("json");
    assert_eq!((seen[0]["quota"]["memory"].as_u64(), seen[0]["usage"]["running"].as_u64()), (Some(70 << 20), Some(1)));
    assert_eq!(seen[0]["usage"]["memory"].as_u64(), Some(50 << 20));
    assert_eq!(server.cli(&["account", "set", "shop", "-m", "none", "--cpus", "none"]).0, 0);
    assert_eq!(shop(&["start", "b"]).0, 0);

    // The disk: above the quota nothing is started.
    assert_eq!(shop(&["exec", "b", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=3"]).0, 0);
    assert_eq!(server.cli(&["account", "set", "shop", "--disk", "1m"]).0, 0);
    assert_eq!(shop(&["stop", "-t", "0", "b"]).0, 0);
    let (code, _, error) = shop(&["start", "b"]);
    assert!(code != 0 && error.contains("of 1 MiB on disk"), "{error}");

    // Disabled at once, and what runs goes on.
    assert_eq!(server.cli(&["account", "disable", "shop"]).0, 0);
    let (code, _, error) = shop(&["ps"]);
    assert!(code != 0 && error.contains("the token is unknown, expired or revoked"), "{error}");
    assert!(server.cli(&["ps", "--all-accounts"]).1.contains("shop"));
    assert_eq!(server.cli(&["account", "enable", "shop"]).0, 0);
    assert_eq!(shop(&["ps"]).0, 0);
    let (code, _, error) = server.cli(&["account", "disable", "admin"]);
    assert!(code != 0 && error.contains("is the administrator's"), "{error}");

    // One that has something is not removed by accident.
    let (code, _, error) = server.cli(&["account", "rm", "shop"]);
    assert!(code != 0 && error.contains("has 2 containers"), "{error}");
    assert_eq!(server.cli(&["account", "rm", "--force", "shop"]).0, 0);
    assert!(!server.cli(&["account", "ls", "-q"]).1.contains("shop"));
    assert_ne!(shop(&["ps"]).0, 0);
    // Its name is free, and nothing of it comes back.
    assert_eq!(server.cli(&["account", "create", "--no-token", "shop"]).0, 0);
    assert_eq!(server.cli(&["--for-account", "shop", "ps", "-aq"]).1, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_see_and_stop_what_others_have() {
    if !is_root() || image("busybox").is_none() {
        return;
    }
    let server = Server::start(BERTH, "all-accounts", "").await;
    server.import(&image("busybox").expect("image"), "busybox", &[]);
    assert_eq!(server.cli(&["official", "busybox"]).0, 0);
    let (one, other) = (server.tenant("one").await, server.tenant("other").await);
    let run = |token: &str, name: &str| {
        let made = server.cli(&["--token", token, "run", "-d", "--name", name, "busybox", "sleep", "1000"]);
        assert_eq!(made.0, 0, "{}", made.2);
        made.1.trim().to_owned()
    };
    let (a, _b, _c) = (run(&one, "web"), run(&other, "web"), run(&other, "alone"));
    assert!(!server.cli(&["ps"]).1.contains("web"), "an administrator's own are none");
    let all = server.cli(&["ps", "--all-accounts", "--format", "{{.Account}} {{.Names}}"]).1;
    let mut rows: Vec<_> = all.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, ["one web", "other alone", "other web"]);
    assert!(server.cli(&["stats", "--no-stream", "--all-accounts"]).1.contains("alone"));
    // By a name that several have it is not guessed which one is meant.
    let (code, _, error) = server.cli(&["stop", "-t", "0", "--all-accounts", "web"]);
    assert!(code != 0 && error.contains("several accounts") && error.contains("one, other"), "{error}");
    assert_eq!(server.cli(&["stop", "-t", "0", "--all-accounts", &a, "alone"]).0, 0);
    assert_eq!(server.cli(&["--for-account", "other", "logs", "web"]).0, 0);
    assert_eq!(server.cli(&["inspect", "--all-accounts", "-f", "{{.State.Status}}", &a]).1, "exited\n");
    // Users can't.
    for line in [&["ps", "--all-accounts"][..], &["--for-account", "other", "ps"]] {
        let (code, _, error) = server.cli(&[&["--token", one.as_str()], line].concat());
        assert!(code != 0 && error.contains("only an administrator"), "{line:?}: {error}");
    }
    // Metrics: all of them for the administrator, its own for a user, none for others.
    let metrics = server.request("GET", "/metrics", "").await.text;
    let of = |text: &str, name: &str| {
        text.lines().any(|l| l.starts_with("berth_container_running{") && l.contains(&format!("account=\"{name}\"")))
    };
    assert!(of(&metrics, "one") && of(&metrics, "other"), "{metrics}");
    assert!(metrics.contains("berth_container_start_seconds_count{result=\"success\"} 3"), "{metrics}");
    // What the dashboard and the alerts ask for is there.
    let name = regex::Regex::new(r"berth_[a-z0-9_]+").expect("an expression");
    for page in ["grafana-dashboard.json", "prometheus-alerts.yml"] {
        let text = std::fs::read_to_string(format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"))).expect(page);
        for asked in name.find_iter(&text) {
            assert!(
                metrics.contains(&format!("\n{}", asked.as_str())) || asked.as_str().ends_with("_healthy"),
                "{page}: {}",
                asked.as_str()
            );
        }
    }
    let metrics = server.request_as(Some(&one), "GET", "/metrics", "").await.text;
    assert!(of(&metrics, "one") && !of(&metrics, "other"), "{metrics}");
    let metrics = server.request_as(None, "GET", "/metrics", "").await.text;
    assert!(metrics.contains("berth_host_cpus") && !metrics.contains("berth_container_running{"), "{metrics}");
    assert_eq!(server.request_as(Some("berth_wrong"), "GET", "/metrics", "").await.status, 401);
    let shown = server.cli(&["rm", "-f", "--all-accounts", &a, "alone"]);
    assert_eq!(shown.0, 0, "{}", shown.2);
    assert_eq!(server.cli(&["--for-account", "other", "rm", "-f", "web"]).0, 0);
}
