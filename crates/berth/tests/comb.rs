//! The dialect `comb`, as its document shows it, with real containers.
#![expect(clippy::too_many_lines, reason = "a test tells one story")]

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_testkit::{Answer, Server, done, has_program, image, is_root, same_shape};
use serde_json::{Value, json};

/// A caller with a token of the dialect's own.
struct Cloud<'a> {
    server: &'a Server,
    http: reqwest::Client,
    token: String,
}

fn keys(server: &Server) -> (String, String) {
    let bytes = std::fs::read(server.data.join("admin.json")).expect("admin.json");
    let json: Value = serde_json::from_slice(&bytes).expect("admin.json");
    let text = |key: &str| json[key].as_str().expect("a key").to_owned();
    (text("access_key"), text("secret_key"))
}

async fn asked(
    http: &reqwest::Client,
    server: &Server,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<String>,
) -> Answer {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = http.request(method, server.url(&format!("/api/v1{path}")));
    if let Some(token) = token {
        request = request.header("authorization", format!("Token {token}"));
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}\n{}", server.log()));
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (status, kind, request_id) = (response.status().as_u16(), header("content-type"), header("request-id"));
    Answer { status, kind, request_id, text: response.text().await.expect("a body") }
}

impl<'a> Cloud<'a> {
    async fn with(server: &'a Server, access_key: &str, secret: &str) -> Self {
        let http = berth_testkit::http();
        let body = json!({"app_key": access_key, "app_secret": secret}).to_string();
        let answer = asked(&http, server, None, "POST", "/token", Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        same_shape(&answer.json(), &json!({"token": "", "expires_in": "86400"}), "token");
        let token = answer.json()["token"].as_str().expect("a token").to_owned();
        assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
        let elsewhere = server.request_as(Some(&token), "GET", "/tingyu/node/list", "").await;
        assert_eq!(elsewhere.status, 401, "it is good in this dialect only: {}", elsewhere.text);
        Self { server, http, token }
    }

    async fn administrator(server: &'a Server) -> Self {
        let (access_key, secret_key) = keys(server);
        Self::with(server, &access_key, &secret_key).await
    }

    async fn plain(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|b| b.to_string());
        asked(&self.http, self.server, Some(&self.token), method, path, body).await
    }

    /// A call that is answered with this status: its body.
    async fn call(&self, method: &str, path: &str, body: Option<Value>, status: u16) -> Value {
        let answer = self.plain(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert_eq!(answer.request_id.len(), 36);
        if answer.text.is_empty() { Value::Null } else { answer.json() }
    }

    /// A call that is refused with this code.
    async fn refused(&self, method: &str, path: &str, body: Option<Value>, code: u64) {
        let answer = self.plain(method, path, body).await;
        let json = answer.json();
        same_shape(&json, &json!({"code": 4_000_001, "message": ""}), path);
        assert_eq!((json["code"].as_u64(), u64::from(answer.status)), (Some(code), code / 10_000), "{path}: {json}");
    }

    async fn image(&self, kind: &str, name: &str) -> i64 {
        let all = self.call("GET", "/containers/images", None, 200).await;
        let found = all[kind].as_array().and_then(|all| all.iter().find(|image| image["name"] == name));
        found.and_then(|image| image["id"].as_i64()).unwrap_or_else(|| panic!("no {name} in {all}"))
    }

    /// The container when nothing is being done to it.
    async fn settled(&self, id: i64) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.call("GET", &format!("/containers/{id}"), None, 200).await;
            if found["status"].as_str().is_some_and(|status| !status.ends_with("ing")) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{found}: {}", self.server.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn create(&self, payload: &Value) -> Value {
        let created = self.call("POST", "/containers", Some(payload.clone()), 201).await;
        same_shape(&created, &json!({"id": 100}), "created");
        self.settled(created["id"].as_i64().expect("id")).await
    }

    async fn gone(&self, id: i64) {
        let begun = Instant::now();
        loop {
            let answer = self.plain("GET", &format!("/containers/{id}"), None).await;
            if answer.status == 404 {
                assert_eq!(answer.json()["code"], 4_040_002);
                return;
            }
            assert!(
                ["deleting", "create_succ"].contains(&answer.json()["status"].as_str().unwrap_or_default())
                    || answer.json()["status"].as_str().is_some_and(|s| s.ends_with("_succ")),
                "{}",
                answer.text
            );
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", answer.text);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The document's own payload.
fn payload(image: i64, name: &str) -> Value {
    json!({"charge_type": 1, "spec_id": 1, "image_type": 2, "image_id": image, "name": name, "desc": "desc",
        "ssh_key_ids": [], "env_var": {"key": "value"}, "use_public_network": 1, "network_charge_type": 1,
        "bandwidth": 100})
}

fn with(mut payload: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().expect("object") {
        match value {
            Value::Null => drop(payload.as_object_mut().expect("object").remove(key)),
            other => payload[key] = other.clone(),
        }
    }
    payload
}

fn listed_example() -> Value {
    json!({"id": 100, "name": "name", "desc": "desc", "status": "create_fail", "bandwidth": 100, "replicas": 1,
        "charge_type": 1, "spec_id": 1, "created_at": "2016-03-19T05:44:17Z", "updated_at": "2016-03-19T05:44:17Z",
        "public_ip": "", "private_ip": "", "ssh_key_ids": [1, 2], "network_charge_type": 2, "image_id": 2,
        "use_public_network": 1, "env_var": {"key": "value"}})
}

fn inspected_example() -> Value {
    with(listed_example(), json!({"ssh_key_ids": "2947"}))
}

/// Listens on a port that the image says, so that something is published.
fn import_web(server: &Server, rootfs: &Path) {
    server.import(rootfs, "busybox", &[]);
    done(server, &["create", "--name", "web-base", "busybox", "sh", "-c", "exec httpd -f -p 80 -h /etc"]);
    done(server, &["commit", "web-base", "web"]);
    done(server, &["rm", "-f", "web-base"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_operations_work_as_shown() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\npublic_address = \"203.0.113.7\"\n[core.plans.images.\"official/os:1\"]\ndescription = \"an os\"\nweight = 3\npackages = [20, 50]\nspecs = [10, 40]\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb", settings).await;
    import_web(&server, &rootfs);
    done(&server, &["tag", "busybox", "official/os:1"]);
    let cloud = Cloud::administrator(&server).await;
    let web = cloud.image("custom_images", "web").await;

    // Images: official ones have constraints, as an administrator says.
    let other: Vec<String> = done(&server, &["key", "create", "other", "--account", "other"])
        .lines()
        .filter_map(|line| line.split_once(' ').map(|(_, half)| half.trim().to_owned()))
        .collect();
    let tenant = Cloud::with(&server, &other[0], &other[1]).await;
    assert_eq!(tenant.call("GET", "/containers/images", None, 200).await["public_images"], json!([]));
    let share = server.request("POST", "/v1/images/share?image=busybox&official=true", "");
    assert!(share.await.status < 300);
    let images = tenant.call("GET", "/containers/images", None, 200).await;
    let entry = json!({"tag": "v1", "desc": "v1", "weight": 0, "id": 30202, "name": "4638_tomcat2"});
    let official = images["public_images"].as_array().expect("array");
    let os = official.iter().find(|image| image["name"] == "official/os").expect("the official image").clone();
    let bounds = json!({"min_combo": 20, "max_combo": 50, "min_machine_spec": 10, "max_machine_spec": 40});
    same_shape(&os, &with(entry.clone(), json!({"constraint": bounds})), "official");
    assert_eq!(
        (&os["desc"], &os["weight"], &os["tag"], &os["constraint"]),
        (&json!("an os"), &json!(3), &json!("1"), &bounds)
    );
    assert_eq!(official[0]["weight"], json!(3), "the weightiest first");
    let mine = cloud.call("GET", "/containers/images", None, 200).await["custom_images"][0].clone();
    assert_eq!(mine["constraint"], Value::Null);
    assert_eq!(mine.as_object().map(|o| o.len()), Some(6));
    let id = os["id"].as_i64().expect("id");
    let official = with(payload(id, "bounded"), json!({"image_type": 1}));
    tenant.refused("POST", "/containers", Some(official.clone()), 4_000_001).await;
    tenant.refused("POST", "/containers", Some(with(official.clone(), json!({"image_type": 2}))), 4_040_129).await;
    let fits = tenant.create(&with(official, json!({"spec_id": 20}))).await;
    assert_eq!(fits["status"], "create_succ", "{fits}");

    // The payload of the document.
    let made = cloud.create(&payload(web, "name")).await;
    let mut example = inspected_example();
    same_shape(&made, &example, "container");
    assert_eq!(
        (&made["status"], &made["public_ip"], &made["bandwidth"]),
        (&json!("create_succ"), &json!("203.0.113.7"), &json!(100))
    );
    let id = made["id"].as_i64().expect("id");
    let path = |rest: &str| format!("/containers/{id}{rest}");
    cloud.refused("POST", "/containers", Some(payload(web, "name")), 4_090_001).await;
    tenant.refused("GET", &path(""), None, 4_040_002).await;
    tenant.refused("DELETE", &path(""), None, 4_040_002).await;
    let shown: Value = serde_json::from_str(&done(&server, &["inspect", "name"])).expect("json");
    let shown = if shown.is_array() { shown[0].clone() } else { shown };
    assert_eq!(
        (&shown["memory"], &shown["cpus"], &shown["state"]),
        (&json!(512 << 20), &json!(0.5), &json!("running")),
        "{shown}"
    );
    assert_eq!((&shown["ingress"], &shown["egress"]), (&json!(100_000_000), &json!(100_000_000)));
    assert!(shown["env"].as_array().is_some_and(|env| env.contains(&json!("key=value"))), "{shown}");
    assert_eq!(shown["address"], made["private_ip"]);

    // Changes: a detail, and another plan.
    cloud.call("PUT", &path(""), Some(json!({"desc": "", "bandwidth": "10"})), 200).await;
    let changed = cloud.settled(id).await;
    assert_eq!(
        (&changed["status"], &changed["bandwidth"], &changed["desc"]),
        (&json!("update_succ"), &json!(10), &json!(""))
    );
    let rates = |server: &Server| {
        let shown: Value = serde_json::from_str(&done(server, &["inspect", "name"])).expect("json");
        let shown = if shown.is_array() { shown[0].clone() } else { shown };
        (shown["ingress"].clone(), shown["egress"].clone(), shown["memory"].clone())
    };
    assert_eq!(rates(&server), (json!(10_000_000), json!(10_000_000), json!(512 << 20)));
    cloud.call("PUT", &path(""), Some(json!({"charge_type": 2, "network_charge_type": 2})), 200).await;
    let changed = cloud.settled(id).await;
    assert_eq!(
        (&changed["status"], &changed["charge_type"], &changed["network_charge_type"]),
        (&json!("resize_succ"), &json!(2), &json!(2))
    );
    cloud.call("PUT", &path(""), Some(json!({"spec_id": 10})), 200).await;
    assert_eq!(cloud.settled(id).await["spec_id"], json!(10));
    assert_eq!(rates(&server).2, json!(1 << 30));

    // Restart, list, page.
    cloud.call("PUT", &path("/actions/restart"), None, 200).await;
    let begun = Instant::now();
    while !done(&server, &["commands"]).lines().any(|l| l.contains("container_restart") && l.contains("success")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", done(&server, &["commands"]));
    }
    assert_eq!(cloud.settled(id).await["status"], "resize_succ", "a restart is none of the four operations");
    for n in 0..3 {
        cloud.create(&with(payload(web, &format!("more{n}")), json!({"use_public_network": 0, "env_var": {}}))).await;
    }
    example = listed_example();
    let page = cloud.call("GET", "/containers?limit=1&offset=3", None, 200).await;
    same_shape(&page, &json!({"total": 1, "containers": [example]}), "list");
    assert_eq!((&page["total"], page["containers"].as_array().map(Vec::len)), (&json!(4), Some(1)));
    let page = cloud.call("GET", "/containers?limit=30&offset=0", None, 200).await;
    assert_eq!((&page["containers"][0]["name"], &page["containers"][0]["public_ip"]), (&json!("more2"), &Value::Null));
    assert_eq!(page["containers"][3]["name"], "name", "newest first");
    let body = asked(&cloud.http, &server, Some(&cloud.token), "GET", "/containers", Some("{}".into())).await;
    assert_eq!(body.status, 200, "a GET with a body");
    assert_eq!(tenant.call("GET", "/containers", None, 200).await["total"], 1);
    // What another dialect made is seen, and deleted, here too.
    done(&server, &["run", "-d", "--name", "foreign", "-m", "600m", "busybox", "sleep", "1000"]);
    let page = cloud.call("GET", "/containers?offset=0", None, 200).await;
    let foreign = &page["containers"][0];
    let env = foreign["env_var"].clone();
    let mut example = with(listed_example(), json!({ "env_var": env }));
    example["public_ip"] = Value::Null;
    same_shape(foreign, &example, "foreign");
    assert_eq!((&foreign["spec_id"], &foreign["status"]), (&json!(10), &json!("create_succ")), "{foreign}");
    let foreign = foreign["id"].as_i64().expect("id");
    cloud.call("DELETE", &format!("/containers/{foreign}"), None, 200).await;
    cloud.gone(foreign).await;

    // An image of it, and a container of that.
    done(&server, &["exec", "name", "sh", "-c", "echo kept > /etc/kept"]);
    let tagged = cloud.call("POST", &path("/tag"), Some(json!({"repo_name": "cluster", "tag": "1.2.6"})), 201).await;
    same_shape(&tagged, &json!({"image_id": "409"}), "tag");
    let image: i64 = tagged["image_id"].as_str().expect("text").parse().expect("number");
    assert_eq!(image, cloud.image("custom_images", "cluster").await);
    let copy = cloud.create(&payload(image, "copy")).await["id"].as_i64().expect("id");
    assert_eq!(done(&server, &["exec", "copy", "cat", "/etc/kept"]).trim(), "kept");

    for id in [id, copy] {
        cloud.call("DELETE", &format!("/containers/{id}"), None, 200).await;
    }
    cloud.gone(id).await;
    cloud.gone(copy).await;
    cloud.refused("DELETE", &path(""), None, 4_040_002).await;
    // Nothing in it can be run: it says so, and can be removed.
    let broken = with(payload(web, "broken"), json!({"spec_id": 1}));
    done(&server, &["create", "--name", "broken-base", "busybox", "/no/such/program"]);
    done(&server, &["commit", "broken-base", "broken"]);
    let broken = with(broken, json!({"image_id": cloud.image("custom_images", "broken").await}));
    let failed = cloud.create(&broken).await;
    assert_eq!(failed["status"], "create_fail", "{failed}");
    let failed = failed["id"].as_i64().expect("id");
    cloud.call("DELETE", &format!("/containers/{failed}"), None, 200).await;
    cloud.gone(failed).await;
    let account = fits["id"].as_i64().expect("id");
    tenant.call("DELETE", &format!("/containers/{account}"), None, 200).await;
    tenant.gone(account).await;

    // What was used, removed ones too.
    let usage = server.request("GET", "/v1/usage?all=true", "").await.json();
    let of = |name: &str| usage["items"].as_array().and_then(|all| all.iter().find(|u| u["name"] == name)).cloned();
    let removed = of("name").expect("a removed one");
    assert_eq!(
        (&removed["charge"], &removed["spec"], &removed["account"]),
        (&json!("use"), &json!(10), &json!("admin"))
    );
    assert!(removed["removed_at"].is_string() && removed["ran_ms"].as_u64().is_some_and(|ms| ms > 0), "{removed}");
    assert_eq!(of("bounded").expect("the tenant's")["account"], "other");
    let csv = done(&server, &["usage", "--csv"]);
    assert!(csv.starts_with("account,number,id,name,image,charge,spec,") && csv.lines().count() > 4, "{csv}");
    assert!(!csv.contains("bounded"), "its own account only");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_its_code() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\nrequests_per_s = 20\nrequests_burst = 100\n[core.plans]\ncontainer_quota = 1\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-errors", settings).await;
    server.import(&rootfs, "busybox", &[]);
    let cloud = Cloud::administrator(&server).await;
    let (access_key, secret_key) = keys(&server);
    let anybody = |method: &'static str, path: &'static str, body: Option<String>| {
        asked(&cloud.http, &server, None, method, path, body)
    };
    for (method, path) in
        [("GET", "/containers"), ("GET", "/containers/images"), ("GET", "/secret-keys"), ("GET", "/containers/1/flow")]
    {
        let answer = anybody(method, path, None).await;
        assert_eq!(
            (answer.status, answer.json()),
            (401, json!({"code": 4_010_001, "message": "Unauthorized user."})),
            "{path}"
        );
    }
    for body in [json!({"app_key": access_key, "app_secret": "x"}), json!({"app_key": "x", "app_secret": secret_key})] {
        assert_eq!(anybody("POST", "/token", Some(body.to_string())).await.json()["code"], 4_010_001);
    }
    assert_eq!(
        anybody("POST", "/token", Some(json!({"app_key": access_key}).to_string())).await.json()["code"],
        4_000_002
    );
    assert_eq!(anybody("POST", "/token", Some("{".into())).await.json()["code"], 4_220_001);
    assert_eq!(anybody("GET", "/token", None).await.json()["code"], 4_050_001);
    // In any case of the scheme; and only where a key's bounds are looked at.
    let token = |scheme: &str, path: &str| {
        let request = cloud.http.get(server.url(path)).header("authorization", format!("{scheme} {}", cloud.token));
        async move { request.send().await.expect("send").status().as_u16() }
    };
    assert_eq!((token("token", "/api/v1/containers").await, token("TOKEN", "/api/v1/containers").await), (200, 200));
    assert_eq!((token("Token", "/v1/containers").await, token("Token", "/api/v1/node").await), (401, 401));
    assert!(!done(&server, &["token", "ls", "--all"]).contains(&access_key), "tokens of keys are not listed");

    let image = cloud.image("custom_images", "busybox").await;
    let good = payload(image, "good");
    let missing = |name: &str| with(good.clone(), json!({ name: null }));
    for name in ["charge_type", "spec_id", "image_type", "image_id", "name"] {
        cloud.refused("POST", "/containers", Some(missing(name)), 4_000_002).await;
    }
    let by_use = with(good.clone(), json!({"charge_type": 2}));
    for name in ["use_public_network", "network_charge_type", "bandwidth"] {
        cloud.refused("POST", "/containers", Some(with(by_use.clone(), json!({ name: null }))), 4_000_002).await;
        cloud.refused("POST", "/containers", Some(with(by_use.clone(), json!({ name: "" }))), 4_000_002).await;
    }
    for (name, value, code) in [
        ("charge_type", json!(3), 4_000_001),
        ("charge_type", json!("one"), 4_000_001),
        ("image_type", json!(0), 4_000_001),
        ("use_public_network", json!(2), 4_000_001),
        ("network_charge_type", json!(9), 4_000_001),
        ("bandwidth", json!(0), 4_000_001),
        ("bandwidth", json!(101), 4_000_001),
        ("bandwidth", json!(1.5), 4_000_001),
        ("env_var", json!([1]), 4_000_001),
        ("name", json!("no spaces"), 4_000_121),
        ("name", json!("-x"), 4_000_121),
        ("env_var", json!({"A": "x".repeat(40_000)}), 4_000_123),
        ("env_var", json!({"1A": "x"}), 4_000_124),
        ("ssh_key_ids", json!([77]), 4_000_136),
        ("ssh_key_ids", json!(["x"]), 4_000_136),
        ("spec_id", json!(2), 4_040_118),
        ("image_id", json!(987_654), 4_040_129),
        ("image_type", json!(1), 4_040_129),
    ] {
        cloud.refused("POST", "/containers", Some(with(good.clone(), json!({ name: value }))), code).await;
    }
    for path in ["/containers?limit=0", "/containers?limit=31", "/containers?offset=-1", "/containers?limit=x"] {
        cloud.refused("GET", path, None, 4_000_001).await;
    }
    cloud.refused("GET", "/containers/77", None, 4_040_002).await;
    cloud.refused("GET", "/containers/x", None, 4_040_002).await;
    cloud.refused("GET", "/containers/77/flow", None, 4_040_002).await;
    cloud.refused("PUT", "/containers/77/actions/restart", None, 4_040_002).await;
    cloud.refused("PUT", "/containers/77/actions/dance", None, 4_040_006).await;
    cloud.refused("PATCH", "/containers/77", None, 4_050_001).await;
    cloud.refused("GET", "/secret-keys/77", None, 4_040_005).await;
    cloud.refused("DELETE", "/secret-keys/77", None, 4_040_005).await;
    let made = cloud.call("POST", "/secret-keys", Some(json!({})), 201).await;
    assert!(made["name"].as_str().is_some_and(|name| name.starts_with("key-")), "{made}");
    cloud.refused("POST", "/secret-keys", Some(json!({"key_name": "k", "key_type": "dsa"})), 4_000_001).await;
    let packed =
        cloud.http.post(server.url("/api/v1/containers")).header("authorization", format!("Token {}", cloud.token));
    let packed = packed.header("content-encoding", "gzip").body("x").send().await.expect("send");
    assert_eq!(
        (packed.status().as_u16(), packed.json::<Value>().await.expect("json")["code"].as_u64()),
        (415, Some(4_150_001))
    );

    // Liberal in what is taken: numbers as text, empty texts, null, keys with commas.
    let liberal = with(
        good.clone(),
        json!({"charge_type": "1", "spec_id": "1", "image_id": image.to_string(), "bandwidth": "",
        "desc": "", "ssh_key_ids": "", "env_var": {"N": 5, "EMPTY": null}}),
    );
    let made = cloud.create(&liberal).await;
    assert_eq!((&made["status"], &made["env_var"]), (&json!("create_succ"), &json!({"N": "5", "EMPTY": ""})), "{made}");
    cloud.refused("POST", "/containers", Some(with(good, json!({"name": "second"}))), 4_030_002).await;
    let id = made["id"].as_i64().expect("id");
    cloud.refused("PUT", &format!("/containers/{id}"), Some(json!({"bandwidth": 1000})), 4_000_001).await;
    // A package has a bandwidth, which stays when it is charged by use.
    let by_use = json!({"charge_type": 2, "network_charge_type": 1});
    cloud.call("PUT", &format!("/containers/{id}"), Some(by_use), 200).await;
    cloud.settled(id).await;
    cloud
        .refused("GET", &format!("/containers/{id}/flow?from_time=2000000000&to_time=1000000000"), None, 4_000_001)
        .await;
    cloud
        .refused("POST", &format!("/containers/{id}/tag"), Some(json!({"repo_name": "UPPER", "tag": "1"})), 4_000_001)
        .await;
    cloud.refused("POST", &format!("/containers/{id}/tag"), Some(json!({"repo_name": "x"})), 4_000_002).await;

    // Too many at once are told so, and let in again after a while.
    let mut refused = 0;
    for _ in 0..300 {
        refused += u32::from(cloud.plain("GET", "/containers", None).await.json()["code"] == 4_030_001);
    }
    assert!(refused > 100, "{refused} of 300");
    tokio::time::sleep(Duration::from_millis(300)).await;
    cloud.call("GET", "/containers", None, 200).await;
    // A key that is not for this has a token that is not, either; one that is disabled has none.
    let halves = |args: &[&str]| -> Vec<String> {
        done(&server, args).lines().filter_map(|l| l.split_once(' ').map(|(_, half)| half.trim().to_owned())).collect()
    };
    let reader = halves(&["key", "create", "reader", "--account", "b", "--dialect", "comb", "--action", "read"]);
    let reader = Cloud::with(&server, &reader[0], &reader[1]).await;
    reader.call("GET", "/containers", None, 200).await;
    reader.refused("DELETE", "/containers/1", None, 4_010_001).await;
    // A private key is had once: who may only read does not take it, and who asks for its size neither.
    reader.refused("GET", "/secret-keys/1", None, 4_010_001).await;
    // One that may do some things only gets a token for them.
    let maker = halves(&["key", "create", "maker", "--dialect", "comb", "--action", "secret_key_*"]);
    let maker = Cloud::with(&server, &maker[0], &maker[1]).await;
    let made = maker.call("POST", "/secret-keys", Some(json!({"key_name": "mine"})), 201).await;
    let path = format!("/secret-keys/{}", made["id"]);
    let first = maker.plain("GET", &path, None).await.text;
    assert!(first.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "{first}");
    assert_eq!(maker.plain("GET", &path, None).await.text, first, "each time");
    maker.refused("GET", "/containers", None, 4_010_001).await;
    maker.refused("GET", "/containers/", None, 4_040_006).await;
    done(&server, &["key", "disable", "reader"]);
    reader.refused("GET", "/containers", None, 4_010_001).await;
    let signer = halves(&["key", "create", "signer", "--account", "b", "--dialect", "acs"]);
    let body = json!({"app_key": signer[0], "app_secret": signer[1]}).to_string();
    assert_eq!(anybody("POST", "/token", Some(body)).await.json()["code"], 4_010_001);
    server.finish().await;
}

/// `ssh` into the container of this host port.
fn ssh(key: &Path, port: u16, more: &[&str], command: &str, input: &[u8]) -> Output {
    let port = port.to_string();
    let mut child = Command::new("ssh")
        .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", &port, "-i"])
        .arg(key)
        .args(more)
        .args(["root@127.0.0.1", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ssh");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("wait");
    writing.join().expect("join");
    output
}

/// The same, by a client that does not read for a second.
fn ssh_slowly(key: &Path, port: u16, command: &str, input: &[u8]) -> Vec<u8> {
    let port = port.to_string();
    let mut child = Command::new("timeout")
        .args(["60", "ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-p", &port, "-i"])
        .arg(key)
        .args(["root@127.0.0.1", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ssh");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut stdout = child.stdout.take().expect("stdout");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    std::thread::sleep(Duration::from_secs(1));
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).expect("read");
    child.wait().expect("wait");
    writing.join().expect("join");
    all
}

fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn ssh_port(server: &Server, name: &str) -> u16 {
    let ports = done(server, &["port", name]);
    let line = ports.lines().find(|line| line.starts_with("22/tcp")).unwrap_or_else(|| panic!("{ports}"));
    line.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_log_in_with_and_without_a_server_in_the_image() {
    let (Some(rootfs), Some(dropbear)) = (image("busybox").filter(|_| is_root()), image("dropbear")) else { return };
    if !has_program("ssh") || !has_program("ssh-keygen") {
        berth_testkit::skip("ssh is not installed");
        return;
    }
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-ssh", "").await;
    server.import(&rootfs, "busybox", &[]);
    let bear = dropbear.to_str().expect("path");
    done(&server, &["import", "--cmd", "dropbear -R -F -E", bear, "with-server"]);
    let files: PathBuf = server.data.join("keys");
    std::fs::create_dir_all(&files).expect("folder");
    let mut ids = Vec::new();
    let mut paths = Vec::new();
    let (access_key, secret_key) = keys(&server);
    let (image, with_server) = {
        let cloud = Cloud::with(&server, &access_key, &secret_key).await;
        for (name, kind) in [("ed", "ed25519"), ("old", "rsa"), ("stranger", "")] {
            let made = cloud.call("POST", "/secret-keys", Some(json!({"key_name": name, "key_type": kind})), 201).await;
            same_shape(
                &made,
                &json!({"id": 1, "name": "", "fingerprint": "", "created_at": "2016-03-19T05:44:17Z"}),
                "key",
            );
            let id = made["id"].as_i64().expect("id");
            let answer = cloud.plain("GET", &format!("/secret-keys/{id}"), None).await;
            let form = if kind == "ed25519" { "OPENSSH" } else { "RSA" };
            let begins = format!("-----BEGIN {form} PRIVATE KEY-----");
            assert!(answer.status == 200 && answer.text.starts_with(&begins), "{}", answer.text);
            let path = files.join(name);
            std::fs::write(&path, &answer.text).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            let listing =
                Command::new("ssh-keygen").args(["-l", "-E", "md5", "-f"]).arg(&path).output().expect("ssh-keygen");
            let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
            assert!(listing.contains(&format!("MD5:{}", made["fingerprint"].as_str().expect("text"))), "{listing}");
            ids.push(id);
            paths.push(path);
        }
        let all = cloud.call("GET", "/secret-keys", None, 200).await;
        assert_eq!((all.as_array().map(Vec::len), &all[0]["name"]), (Some(3), &json!("stranger")), "{all}");
        let stored = std::fs::read(server.data.join("berth.db")).expect("database");
        assert!(!stored.windows(20).any(|w| w == b"OPENSSH PRIVATE KEY-"), "private halves are encrypted");
        assert!(!stored.windows(15).any(|w| w == b"RSA PRIVATE KEY"), "private halves are encrypted");
        (cloud.image("custom_images", "busybox").await, cloud.image("custom_images", "with-server").await)
    };

    // Without a server in the image: berth's own answers.
    let cloud = Cloud::with(&server, &access_key, &secret_key).await;
    let new = with(payload(image, "plain"), json!({"ssh_key_ids": &ids[..2], "env_var": {"GREETING": "你好"}}));
    let made = cloud.create(&new).await;
    assert_eq!(
        (&made["status"], &made["ssh_key_ids"]),
        (&json!("create_succ"), &json!(format!("{},{}", ids[0], ids[1])))
    );
    let port = ssh_port(&server, "plain");
    let mode = done(&server, &["exec", "plain", "stat", "-c", "%a %U", "/root/.ssh", "/root/.ssh/authorized_keys"]);
    assert_eq!(mode.split_whitespace().collect::<Vec<_>>(), ["700", "root", "600", "root"], "{mode}");
    for path in &paths[..2] {
        let output = ssh(path, port, &[], "echo $GREETING $HOME $(hostname) $(id -u); pwd; exit 7", b"");
        let uid = done(&server, &["exec", "plain", "hostname"]);
        assert_eq!(said(&output), (7, format!("你好 /root {} 0\n/root", uid.trim())), "{output:?}");
    }
    let refused = ssh(&paths[2], port, &[], "true", b"");
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    let user = ssh(&paths[0], port, &["-l", "nobody"], "true", b"");
    assert!(!user.status.success(), "root only: {user:?}");
    // Both streams, everything that goes in comes out, a terminal with its size, a signal's code.
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let echoed = ssh(&paths[0], port, &[], "cat; echo oops >&2", &bytes);
    assert!(
        echoed.stdout == bytes && echoed.stderr == b"oops\n",
        "{} bytes, {:?}",
        echoed.stdout.len(),
        String::from_utf8_lossy(&echoed.stderr)
    );
    // A reader that pauses holds up what it reads, and nothing for good.
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let slow = ssh_slowly(&paths[0], port, "cat", &bytes);
    assert!(slow == bytes, "{} bytes", slow.len());
    let variable = ssh(&paths[0], port, &["-o", "SetEnv=GIT_PROTOCOL=version=2"], "echo \"<$GIT_PROTOCOL>\"", b"");
    assert_eq!(said(&variable), (0, "<>".to_owned()), "{variable:?}");
    let terminal = ssh(&paths[0], port, &["-tt"], "tty; stty size; echo $TERM", b"");
    let (code, text) = said(&terminal);
    assert!(code == 0 && text.contains("/dev/pts/0") && text.lines().nth(1).is_some_and(|l| l.contains(' ')), "{text}");
    let interactive = ssh(&paths[0], port, &["-tt"], "", b"echo sum $((20+22))\nexit 5\n");
    assert!(said(&interactive).0 == 5 && said(&interactive).1.contains("sum 42"), "{interactive:?}");
    let sum = ssh(&paths[0], port, &[], "head -c 5000000 /dev/zero | wc -c", b"");
    assert_eq!(said(&sum), (0, "5000000".to_owned()));
    // A login counts, and what it carries is the container's traffic.
    let id = made["id"].as_i64().expect("id");
    let traffic: Value = serde_json::from_str(&done(&server, &["traffic", "--json", "plain"])).expect("json");
    assert!(traffic[0]["rx_bytes"].as_u64().is_some_and(|bytes| bytes > 3_000_000), "{traffic}");

    // Over a restart of the container, its own change of who may come in, and a crash of the server.
    let started = || done(&server, &["inspect", "-f", "{{.State.StartedAt}}", "plain"]);
    let before = started();
    cloud.call("PUT", &format!("/containers/{id}/actions/restart"), None, 200).await;
    let begun = Instant::now();
    while started() == before {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", server.log());
    }
    while said(&ssh(&paths[0], port, &[], "echo again", b"")) != (0, "again".to_owned()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", server.log());
    }
    let public = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&paths[2]).output().expect("ssh-keygen").stdout;
    let line = String::from_utf8_lossy(&public).trim().to_owned();
    done(&server, &["exec", "plain", "sh", "-c", &format!("echo '{line}' > /root/.ssh/authorized_keys")]);
    assert_eq!(said(&ssh(&paths[2], port, &[], "echo in", b"")), (0, "in".to_owned()));
    assert!(!ssh(&paths[0], port, &[], "true", b"").status.success());
    drop(cloud);
    server.kill();
    server.up().await;
    let begun = Instant::now();
    while said(&ssh(&paths[2], port, &[], "echo back", b"")) != (0, "back".to_owned()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", server.log());
    }

    // With one: it answers, with the same keys. Not public: from the host only.
    let cloud = Cloud::with(&server, &access_key, &secret_key).await;
    let new = with(payload(with_server, "bear"), json!({"ssh_key_ids": [ids[1]], "use_public_network": 0}));
    assert_eq!(cloud.create(&new).await["status"], "create_succ");
    let port = ssh_port(&server, "bear");
    assert!(done(&server, &["port", "bear"]).contains(&format!("127.0.0.1:{port}")));
    let begun = Instant::now();
    while said(&ssh(&paths[1], port, &[], "cat /proc/$PPID/comm", b"")) != (0, "dropbear".to_owned()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", done(&server, &["logs", "bear"]));
    }
    // Sessions end with their container.
    let mut child = Command::new("ssh")
        .args([
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
        ])
        .args(["-p", &ssh_port(&server, "plain").to_string(), "-i"])
        .arg(&paths[2])
        .args(["root@127.0.0.1", "sleep 1000"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(child.try_wait().expect("wait").is_none());
    cloud.call("DELETE", &format!("/containers/{id}"), None, 200).await;
    cloud.gone(id).await;
    let begun = Instant::now();
    while child.try_wait().expect("wait").is_none() {
        if begun.elapsed() > Duration::from_secs(15) {
            child.kill().expect("kill");
            panic!("a session outlives its container");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(cloud);
    server.finish().await;
}

/// Bytes since 1970 in this unit of the document.
fn tenths(text: &Value) -> u64 {
    let text = text.as_str().and_then(|t| t.strip_suffix("MB")).expect("a number of MB");
    (text.parse::<f64>().expect("a number") * 10.0).round() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_told_for_any_time_and_survives_every_restart() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[engine]\nsubnet = \"198.18.81.1/24\"\n[core]\nmeasure_period_s = 1\n";
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-flow", settings).await;
    server.import(&rootfs, "busybox", &[]);
    let (access_key, secret_key) = keys(&server);
    // Nothing listens: the kernel says so once a second, which is next to nothing.
    done(&server, &["create", "--name", "base", "busybox", "sleep", "1000"]);
    done(&server, &["commit", "base", "sink"]);
    let cloud = Cloud::with(&server, &access_key, &secret_key).await;
    let image = cloud.image("custom_images", "sink").await;
    // By use and not public: a package would be capped.
    let changes = json!({"charge_type": 2, "use_public_network": 0, "network_charge_type": null, "bandwidth": null});
    let made = cloud.create(&with(payload(image, "sink"), changes)).await;
    let id = made["id"].as_i64().expect("id");
    let address = made["private_ip"].as_str().expect("an address").to_owned();
    drop(cloud);
    let flow = async |server: &Server, query: &str| {
        let cloud = Cloud::with(server, &access_key, &secret_key).await;
        let flow = cloud.call("GET", &format!("/containers/{id}/flow{query}"), None, 200).await;
        same_shape(&flow, &json!({"container_up_flow": "1234.0MB", "container_down_flow": "111111.0MB"}), "flow");
        (tenths(&flow["container_up_flow"]), tenths(&flow["container_down_flow"]))
    };
    // A first packet teaches the neighbour; then 1,000 bytes and 28 of headers each.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let send = |count: u64| {
        for n in 0..count {
            socket.send_to(&[0; 1000], (address.as_str(), 9)).expect("send");
            if n % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    };
    let millis = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let mut sent = 0;
    let mut marks = Vec::new();
    for step in ["first", "restart of the container", "crash of the server", "the server was away"] {
        match step {
            "restart of the container" => drop(done(&server, &["restart", "-t", "0", "sink"])),
            "crash of the server" => {
                server.kill();
                server.up().await;
            }
            _ => {}
        }
        // Asking makes a reading: what comes is after it.
        flow(&server, "").await;
        marks.push((millis(), sent));
        tokio::time::sleep(Duration::from_millis(30)).await;
        if step == "the server was away" {
            server.kill();
            send(2000);
            server.up().await;
        } else {
            send(2000);
        }
        sent += 2000 * 1028;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (up, down) = flow(&server, "").await;
        let expected = sent as f64 / 1e5;
        assert!(up == 0 && (down as f64 - expected).abs() <= 0.5 + expected * 0.001, "{step}: {down} for {expected}");
    }
    // Any time between; seconds and milliseconds; negative is all.
    for window in marks.windows(2) {
        let ((from, before), (to, after)) = (window[0], window[1]);
        let (_, down) = flow(&server, &format!("?from_time={from}&to_time={to}")).await;
        let expected = (after - before) as f64 / 1e5;
        // A mark is a moment after its reading: of a point that is short, because the sampler came by, that moment is a part.
        assert!((down as f64 - expected).abs() <= 0.5 + expected * 0.25, "{down} for {expected} in {from} to {to}");
    }
    let (_, all) = flow(&server, "?from_time=-1&to_time=-5").await;
    assert_eq!(all, (sent as f64 / 1e5).round() as u64);
    assert_eq!(flow(&server, &format!("?from_time={}&to_time={}", 1000, marks[0].0 / 1000)).await.1, 0);
    assert_eq!(flow(&server, &format!("?from_time={}", millis() + 60_000)).await, (0, 0));
    // To the byte, also when it is gone.
    let counted: Value = serde_json::from_str(&done(&server, &["traffic", "--json", "sink"])).expect("json");
    done(&server, &["rm", "-f", "sink"]);
    let usage = server.request("GET", "/v1/usage", "").await.json();
    let used =
        usage["items"].as_array().and_then(|all| all.iter().find(|u| u["name"] == "sink")).expect("usage").clone();
    // Neighbours asked for once more, perhaps.
    let more = used["rx_bytes"].as_u64().zip(counted[0]["rx_bytes"].as_u64()).map(|(used, counted)| used - counted);
    assert!(more.is_some_and(|more| more < 2000), "{used} {counted}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_done_after_a_crash_and_by_a_whole_client() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-crash", "").await;
    server.import(&rootfs, "busybox", &[]);
    let (access_key, secret_key) = keys(&server);
    let mut accepted = Vec::new();
    for round in 0..4 {
        {
            let cloud = Cloud::with(&server, &access_key, &secret_key).await;
            let image = cloud.image("custom_images", "busybox").await;
            for n in 0..3 {
                let new = payload(image, &format!("c{round}-{n}"));
                accepted.push(cloud.call("POST", "/containers", Some(new), 201).await["id"].as_i64().expect("id"));
            }
        }
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        server.kill();
        server.up().await;
        let cloud = Cloud::with(&server, &access_key, &secret_key).await;
        for id in &accepted {
            assert_eq!(cloud.settled(*id).await["status"], "create_succ");
        }
        let first = accepted.remove(0);
        cloud.call("DELETE", &format!("/containers/{first}"), None, 200).await;
        drop(cloud);
        if round == 1 {
            server.kill();
            server.up().await;
        }
        Cloud::with(&server, &access_key, &secret_key).await.gone(first).await;
    }
    let running = server.client().containers().await.expect("list");
    assert!(running.len() == accepted.len() && running.iter().all(|c| c.state == "running"), "{running:?}");

    let python = Command::new("python3").args(["-c", "import requests"]).output();
    if !python.is_ok_and(|output| output.status.success()) || !has_program("ssh") {
        berth_testkit::skip("the example needs python3-requests and ssh");
    } else {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/comb.py");
        let output = Command::new("python3")
            .arg(example)
            .args(["busybox", "--login"])
            .env("BERTH_HOST", server.url(""))
            .env("BERTH_DATA_DIR", &server.data)
            .output()
            .expect("the example");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("by SSH: 你好 from ") && text.ends_with("all is gone\n"), "{text}");
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_served_over_tls() {
    if !is_root() {
        return;
    }
    if !has_program("openssl") || !has_program("curl") {
        berth_testkit::skip("openssl or curl is not installed");
        return;
    }
    let folder = std::env::temp_dir().join(format!("berth-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let path = |name: &str| folder.join(name).to_str().expect("path").to_owned();
    let certify = |name: &str| {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
            .output();
        assert!(made.is_ok_and(|output| output.status.success()));
    };
    certify("first");
    let port = berth_testkit::free_port();
    let settings = format!(
        "[https]\nlisten = \"127.0.0.1:{port}\"\ncertificate = {:?}\nkey = {:?}\n",
        path("cert.pem"),
        path("key.pem")
    );
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-tls", &settings).await;
    let (access_key, secret_key) = keys(&server);
    let output = Command::new("curl")
        .args(["-sS", "--cacert", &path("cert.pem"), &format!("https://127.0.0.1:{port}/api/v1/token"), "-d"])
        .arg(json!({"app_key": access_key, "app_secret": secret_key}).to_string())
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\"expires_in\":\"86400\""), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Somebody who never shakes hands holds up nobody.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
    let head = Command::new("curl").args(["-sSk", "-m", "5", &format!("https://127.0.0.1:{port}/healthz")]).output();
    assert_eq!(head.expect("curl").stdout, b"ok\n");
    server.finish().await;
    std::fs::remove_dir_all(folder).expect("clean");
}

/// What the cloud's own clients send: Terraform's provider, the Python and Go CLIs, the SDKs for Go and PHP.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_clouds_own_clients_send_is_taken() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-clients", "").await;
    server.import(&rootfs, "busybox", &[]);
    done(&server, &["create", "--name", "base", "busybox", "sleep", "1000"]);
    done(&server, &["commit", "base", "app"]);
    done(&server, &["create", "--name", "nothing", "busybox", "/no/such/program"]);
    done(&server, &["commit", "nothing", "broken"]);
    let (access_key, secret_key) = keys(&server);
    let (id, failed, image) = {
        let cloud = Cloud::with(&server, &access_key, &secret_key).await;
        // Terraform reads the key at every refresh.
        let made = cloud.call("POST", "/secret-keys", Some(json!({"key_name": ""})), 201).await;
        let path = format!("/secret-keys/{}", made["id"]);
        let (one, two) = (cloud.plain("GET", &path, None).await.text, cloud.plain("GET", &path, None).await.text);
        assert!(one == two && one.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "{one}");
        assert!(cloud.call("GET", "/secret-keys", None, 200).await[0]["name"].is_string());

        // The Python CLI sends empty texts, and a package is public then.
        let image = cloud.image("custom_images", "app").await;
        let python = json!({"charge_type": "1", "spec_id": "1", "image_type": "2", "image_id": image, "name": "p", "desc": "",
            "use_public_network": "", "network_charge_type": "", "bandwidth": ""});
        let made = cloud.create(&python).await;
        assert_eq!(
            (&made["use_public_network"], &made["network_charge_type"], &made["bandwidth"]),
            (&json!(1), &json!(2), &json!(100)),
            "{made}"
        );
        let id = made["id"].as_i64().expect("id");

        // What is no JSON object changes nothing.
        let send = async |method: &str, path: &str, kind: Option<&str>, body: &str| {
            let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = cloud.http.request(method, server.url(&format!("/api/v1{path}")));
            request = request.header("authorization", format!("token {}", cloud.token)).body(body.to_owned());
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            let answer = request.send().await.expect("send");
            let status = answer.status().as_u16();
            (status, answer.json::<Value>().await.unwrap_or_default()["code"].clone())
        };
        for body in ["garbage", "a=b", "[]", "[1]", "\"x\"", "1", "null", "{\"desc\":"] {
            for (method, path) in [("PUT", ""), ("PUT", "/actions/restart"), ("DELETE", ""), ("POST", "/tag")] {
                let answer = send(method, &format!("/containers/{id}{path}"), None, body).await;
                assert_eq!(answer, (422, json!(4_220_001)), "{method} {path} {body}");
            }
        }
        let known = cloud.call("GET", &format!("/containers/{id}"), None, 200).await;
        assert_eq!((&known["status"], &known["desc"]), (&json!("create_succ"), &json!("")), "{known}");
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(send("PUT", &format!("/containers/{id}"), Some(form), "desc=form").await.0, 200);
        cloud.settled(id).await;
        let path = format!("/containers/{id}");
        assert_eq!(send("PUT", &path, Some(form), "{\"desc\": \"json\"}").await.0, 200);
        assert_eq!(cloud.settled(id).await["desc"], "json");
        assert_eq!(send("GET", "/containers", None, "[]").await.0, 200, "the PHP SDK's GET has a body");

        // Other services of the cloud, and paths that are nothing at all.
        for path in ["/apps", "/repositories", "/namespaces", "/ips", "/containersx", "/", "/nodes"] {
            cloud.refused("GET", path, None, 4_040_006).await;
        }
        assert_eq!(cloud.plain("GET", "/containers/%FF", None).await.status, 404);
        let acs = server.request("GET", "/api/v1/container/1/2/3", "").await;
        assert_eq!((acs.status, acs.json()["code"].clone()), (404, json!("404")));

        // Texts are the publisher's, once.
        let text = async |method: &str, path: &str, body: Option<Value>| {
            cloud.plain(method, path, body).await.json()["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!(text("GET", "/containers/77", None).await, "No such container.");
        assert_eq!(text("GET", "/apps", None).await, "No such api");
        assert_eq!(text("POST", "/containers", Some(python.clone())).await, "Duplicate container name.");
        assert_eq!(text("POST", "/containers", Some(json!({}))).await, "Missing parameters.: charge_type");
        let other = with(python.clone(), json!({"name": "q", "image_id": 7777}));
        assert!(text("POST", "/containers", Some(other)).await.starts_with("No such image."));

        // What could not be made stays so.
        let broken = cloud.image("custom_images", "broken").await;
        let failed = cloud.create(&with(python, json!({"name": "b", "image_id": broken}))).await;
        assert_eq!(failed["status"], "create_fail", "{failed}");
        let failed = failed["id"].as_i64().expect("id");
        cloud.refused("PUT", &format!("/containers/{failed}"), Some(json!({"desc": "x"})), 4_030_010).await;
        cloud.refused("PUT", &format!("/containers/{failed}/actions/restart"), None, 4_030_010).await;
        (id, failed, image)
    };
    assert!(image > 0);
    server.kill();
    server.up().await;
    let cloud = Cloud::with(&server, &access_key, &secret_key).await;
    let known = cloud.call("GET", &format!("/containers/{failed}"), None, 200).await;
    assert_eq!(known["status"], "create_fail", "{known}");
    for id in [id, failed] {
        cloud.call("DELETE", &format!("/containers/{id}"), None, 200).await;
        cloud.gone(id).await;
    }
    drop(cloud);
    server.finish().await;

    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "comb-once", "[comb]\nprivate_keys = \"once\"\n").await;
    let (access_key, secret_key) = keys(&server);
    let cloud = Cloud::with(&server, &access_key, &secret_key).await;
    let made = cloud.call("POST", "/secret-keys", Some(json!({"key_type": "ed25519"})), 201).await;
    let path = format!("/secret-keys/{}", made["id"]);
    assert_eq!(cloud.plain("HEAD", &path, None).await.status, 405);
    assert!(cloud.plain("GET", &path, None).await.text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
    cloud.refused("GET", &path, None, 4_040_005).await;
    drop(cloud);
    server.finish().await;
}
