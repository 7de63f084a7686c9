//! The dialect `acs`, as its documents show it, with real containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_core::signature_of;
use berth_testkit::{Answer, FileServer, Server, done, free_port, image, is_root, same_shape, zip_of};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A caller with an access key.
struct Caller<'a> {
    server: &'a Server,
    access_key: String,
    secret_key: String,
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl<'a> Caller<'a> {
    fn administrator(server: &'a Server) -> Self {
        let bytes = std::fs::read(server.data.join("admin.json")).expect("admin.json");
        let json: Value = serde_json::from_slice(&bytes).expect("admin.json");
        let text = |key: &str| json[key].as_str().expect("a key").to_owned();
        Self { server, access_key: text("access_key"), secret_key: text("secret_key") }
    }

    fn query(&self, method: &str, parameters: &[(&str, &str)], at: u64) -> String {
        let mut all: BTreeMap<&str, String> = parameters.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        all.insert("accesskey", self.access_key.clone());
        all.insert("timestamp", at.to_string());
        let plain = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('=', "%3D").replace('\n', "%0A");
        let text = all.iter().map(|(n, v)| format!("{}={}", plain(n), plain(v))).collect::<Vec<_>>().join("&");
        all.insert("signature", signature_of(&self.secret_key, &format!("{method}\n{text}")));
        all.iter().map(|(n, v)| format!("{n}={}", encoded(v))).collect::<Vec<_>>().join("&")
    }

    async fn plain(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let path = format!("{path}?{}", self.query(method, parameters, millis()));
        self.server.request_as(None, method, &path, "").await
    }

    /// A call that succeeds: its data.
    async fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer = self.plain(method, path, parameters).await;
        let json = answer.json();
        assert_eq!(
            (answer.status, &json["code"], &json["message"]),
            (200, &json!("0"), &json!("success")),
            "{path}: {json}"
        );
        json["data"].clone()
    }

    /// A command, followed to its end.
    async fn command(&self, method: &str, path: &str, parameters: &[(&str, &str)], name: &str) -> Value {
        let accepted = self.call(method, path, parameters).await;
        same_shape(&accepted, &command_example(), "command");
        assert_eq!((&accepted["name"], &accepted["status"]), (&json!(name), &json!("CREATED")), "{accepted}");
        assert_eq!((&accepted["result"], &accepted["endTime"]), (&json!(""), &json!("")));
        let id = accepted["commandId"].as_str().expect("id").to_owned();
        self.end(&id).await
    }

    async fn end(&self, id: &str) -> Value {
        for _ in 0..1200 {
            let now = self.call("GET", &format!("/api/v1/command/{id}"), &[]).await;
            if now["status"] == "DONE" {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("command {id} does not end: {}", self.server.log());
    }
}

fn container_example() -> Value {
    json!({"id": 2529, "nodeId": 1418, "status": "ALLOCATED", "createTime": "2016-01-28 14:22:35", "startTime": "",
        "stopTime": "", "hostId": 301, "cpu": 0, "mem": 1024, "disk": 10240, "health": ""})
}

fn node_example() -> Value {
    json!({"id": 610474, "name": "正式环境", "imageName": "registry.acs.aliyun.com/open/tomcat7:3.0.0", "status": "RUNNING",
        "serviceId": 12209, "createTime": "2016-06-23 17:56:00", "containers": [container_example()]})
}

fn command_example() -> Value {
    json!({"commandId": "ec8364b4-6c58-4c42-b410-c77d3aa0a5fe", "name": "container_start", "status": "CREATED",
        "result": "", "resultMsg": "", "createTime": "2016-06-27 11:04:44", "endTime": "", "activitys": []})
}

async fn get(port: u16) -> Result<String, String> {
    let work = async {
        let mut stream =
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("connect: {e}"))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.map_err(|e| format!("send: {e}"))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|e| format!("receive: {e}"))?;
        if text.contains("200 OK") { Ok(text) } else { Err(format!("answered {text:?}")) }
    };
    tokio::time::timeout(Duration::from_secs(5), work).await.map_err(|_| "no answer".to_owned())?
}

/// A web server that serves the deploy path and heeds SIGTERM.
const SERVE: &str = "mkdir -p /app; httpd -f -p 80 -h /app & trap 'kill $!; exit 0' TERM; wait";

fn group(server: &Server, replicas: &str, port: u16) {
    let publish = format!("{port}:80");
    let health = ["--health-http", "80/index.html", "--health-interval", "1", "--health-retries", "1"];
    let mut args = vec!["group", "create", "商店/正式环境", "--image", "busybox", "-n", replicas, "-p", &publish];
    args.extend(["-m", "32m", "--disk", "10g", "--health-start-period", "0"]);
    args.extend(health);
    args.extend(["-e", "A=b", "--", "sh", "-c", SERVE]);
    // Not well without code; its command fails, and the group is there.
    let (code, _, error) = server.cli(&args);
    assert!(code == 1 && error.contains("unhealthy"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_operations_work_as_shown() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "acs", "").await;
    server.import(&rootfs, "busybox", &[]);
    done(&server, &["tag", "busybox", "registry.example/open/web:3.0.0"]);
    let files = FileServer::default();
    let v1 = files.serve("v1.zip", zip_of(&[("index.html", b"one")]));
    let v2 = files.serve("v2.zip", zip_of(&[("other.html", b"broken")]));
    let v3 = files.serve("v3.zip", zip_of(&[("site/index.html", b"three"), ("site/a.txt", b"a")]));
    let port = free_port();
    group(&server, "3", port);
    let admin = Caller::administrator(&server);
    let nodes = admin.call("GET", "/api/v1/node", &[]).await;
    same_shape(&nodes, &json!([node_example()]), "nodes");
    let id = nodes[0]["id"].as_i64().expect("id");
    let path = |rest: &str| format!("/api/v1/node/{id}{rest}");
    assert_eq!((&nodes[0]["name"], &nodes[0]["status"]), (&json!("正式环境"), &json!("CREATED")));

    // Version 1, then a broken one that stops itself, then back.
    let one = admin.command("POST", &path("/uploadStart"), &[("url", &v1)], "node_upload_start").await;
    assert_eq!((&one["result"], &one["resultMsg"]), (&json!("200"), &json!("success")), "{one}");
    let activity = &one["activitys"][0];
    let example = json!({"activityId": 1, "name": "", "containerId": 1, "hostId": 1, "status": "", "result": "",
        "resultMsg": "", "createTime": "2016-06-27 11:04:44", "endTime": "2016-06-27 11:04:44"});
    same_shape(activity, &example, "activity");
    assert!(get(port).await.is_ok_and(|text| text.ends_with("one")));
    let node = admin.call("GET", &path(""), &[]).await;
    same_shape(&node, &node_example(), "node");
    let containers = node["containers"].as_array().expect("containers").clone();
    assert_eq!((containers.len(), &node["status"]), (3, &json!("RUNNING")));
    for container in &containers {
        assert_eq!((&container["status"], &container["health"]), (&json!("RUNNING"), &json!("healthy")), "{container}");
        assert_eq!((&container["cpu"], &container["mem"], &container["disk"]), (&json!(-1), &json!(32), &json!(10240)));
        assert_eq!(container["nodeId"], json!(id));
    }
    let sequential = [("url", v2.as_str()), ("update", "true"), ("method", "SEQUENTIAL")];
    let broken = admin.command("POST", &path("/uploadStart"), &sequential, "node_upload_start").await;
    assert_eq!(broken["result"], "500", "{broken}");
    assert!(broken["resultMsg"].as_str().is_some_and(|m| m.contains("404") && m.contains("not begun")), "{broken}");
    let ids =
        |node: &Value| node["containers"].as_array().expect("list").iter().map(|c| c["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&admin.call("GET", &path(""), &[]).await), ids(&node), "the old ones ran on");
    let three = [("url", v3.as_str()), ("update", "false")];
    let three = admin.command("POST", &path("/uploadStart"), &three, "node_upload_start").await;
    assert_eq!(three["result"], "200", "{three}");
    assert!(get(port).await.is_ok_and(|text| text.ends_with("three")));
    assert_eq!(ids(&admin.call("GET", &path(""), &[]).await), ids(&node), "started again in place");
    // In place the broken one is put back.
    let back = admin.command("POST", &path("/historyStart"), &[("version", "2")], "node_history_start").await;
    assert!(
        back["result"] == "500" && back["resultMsg"].as_str().is_some_and(|m| m.contains("version 3 again")),
        "{back}"
    );
    assert!(get(port).await.is_ok_and(|text| text.ends_with("three")));
    let first = admin
        .command("POST", &path("/historyStart"), &[("version", "1"), ("update", "true")], "node_history_start")
        .await;
    assert_eq!(first["result"], "200", "{first}");
    assert!(get(port).await.is_ok_and(|text| text.ends_with("one")));
    assert_ne!(ids(&admin.call("GET", &path(""), &[]).await), ids(&node), "made anew");

    // Stop, start from another image, containers on their own.
    let stopped = admin.command("POST", &path("/stop"), &[("method", "SEQUENTIAL")], "node_stop").await;
    assert_eq!(stopped["result"], "200");
    let node = admin.call("GET", &path(""), &[]).await;
    assert!(node["status"] == "STOPPED" && node["containers"][0]["status"] == "STOPPED", "{node}");
    assert!(get(port).await.is_err_and(|e| e.starts_with("connect")), "nothing leads anywhere");
    let image = [("imageName", "registry.example/open/web"), ("imageTag", "3.0.0")];
    let started = admin.command("POST", &path("/start"), &image, "node_start").await;
    assert_eq!(started["result"], "200", "{started}");
    let node = admin.call("GET", &path(""), &[]).await;
    assert_eq!(node["imageName"], "registry.example/open/web:3.0.0");
    let one = node["containers"][0]["id"].as_i64().expect("id");
    let container = |rest: &str| format!("/api/v1/container/{one}{rest}");
    assert_eq!(admin.command("POST", &container("/stop"), &[], "container_stop").await["result"], "200");
    let seen = admin.call("GET", &container(""), &[]).await;
    same_shape(&seen, &container_example(), "container");
    assert_eq!(seen["status"], "STOPPED");
    assert_eq!(admin.command("POST", &container("/start"), &[], "container_start").await["result"], "200");
    assert_eq!(admin.call("GET", &container(""), &[]).await["status"], "RUNNING");
    assert_eq!(admin.command("DELETE", &container(""), &[], "container_delete").await["result"], "200");
    let all = admin.call("GET", "/api/v1/container", &[]).await;
    same_shape(&all, &json!([container_example()]), "containers");
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    // The image is not there: the command says so, and nothing has changed.
    let missing = [("imageName", "127.0.0.1:1/no/such"), ("imageTag", "1")];
    let missing = admin.command("POST", &path("/start"), &missing, "node_start").await;
    assert!(
        missing["result"] != "200" && missing["resultMsg"].as_str().is_some_and(|m| m.contains("127.0.0.1")),
        "{missing}"
    );
    let list = admin.call("GET", "/api/v1/command", &[("pageSize", "3"), ("page", "2")]).await;
    same_shape(&list, &json!([command_example()]), "commands");
    assert_eq!(list.as_array().map(Vec::len), Some(3));
    assert_eq!(admin.command("DELETE", &path(""), &[], "node_delete").await["result"], "200");
    let gone = admin.plain("GET", &path(""), &[]).await;
    assert_eq!((gone.status, gone.json()["code"].clone()), (404, json!("404")));
    done(&server, &["service", "rm", "商店"]);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_in_the_dialects_own_form() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "acs-keys", "").await;
    let admin = Caller::administrator(&server);
    let refused = async |answer: Answer, status: u16, what: &str| {
        let json = answer.json();
        assert_eq!((answer.status, json["code"].as_str()), (status, Some(status.to_string().as_str())), "{json}");
        assert!(
            json["message"].as_str().is_some_and(|m| m.contains(what)) && json.get("data").is_none(),
            "{what}: {json}"
        );
        assert_eq!(answer.request_id.len(), 36);
    };
    let ask = async |query: String| server.request_as(None, "GET", &format!("/api/v1/node?{query}"), "").await;
    refused(ask(String::new()).await, 401, "accesskey").await;
    refused(ask(format!("accesskey={}", admin.access_key)).await, 401, "timestamp").await;
    refused(ask(format!("accesskey={}&timestamp={}", admin.access_key, millis())).await, 401, "signature").await;
    refused(ask(admin.query("GET", &[], millis() - 400_000)).await, 401, "off by").await;
    refused(ask(admin.query("POST", &[], millis())).await, 401, "signature").await;
    refused(ask(admin.query("GET", &[], millis()) + "&more=1").await, 401, "signature").await;
    refused(ask(format!("accesskey=nobody&timestamp={}&signature=00", millis())).await, 401, "accesskey").await;
    refused(admin.plain("GET", "/api/v1/node/x", &[]).await, 400, "node_id").await;
    refused(admin.plain("GET", "/api/v1/node/77", &[]).await, 404, "node: 77").await;
    refused(admin.plain("POST", "/api/v1/container/77/start", &[]).await, 404, "container: 77").await;
    refused(admin.plain("GET", "/api/v1/command/77", &[]).await, 404, "command: 77").await;
    refused(admin.plain("PUT", "/api/v1/node", &[]).await, 405, "method").await;
    refused(admin.plain("GET", "/api/v1/node/1/2/3", &[]).await, 404, "operation").await;

    // Keys: bounds, rotation, disabling; another account sees nothing.
    let key = |args: &[&str]| {
        let out = done(&server, args);
        let half = |name: &str| out.lines().find_map(|l| l.strip_prefix(name)).expect("a half").trim().to_owned();
        Caller { server: &server, access_key: half("access_key"), secret_key: half("secret_key") }
    };
    let reader = key(&["key", "create", "reader", "--account", "other", "--dialect", "acs", "--action", "read"]);
    assert_eq!(reader.call("GET", "/api/v1/node", &[]).await, json!([]));
    refused(reader.plain("POST", "/api/v1/container/1/start", &[]).await, 403, "container_start").await;
    let far = key(&["key", "create", "far", "--address", "192.0.2.0/24"]);
    refused(far.plain("GET", "/api/v1/node", &[]).await, 403, "127.0.0.1").await;
    let rotated = key(&["key", "rotate", "reader"]);
    assert_ne!(rotated.secret_key, reader.secret_key);
    for caller in [&reader, &rotated] {
        assert_eq!(caller.call("GET", "/api/v1/container", &[]).await, json!([]), "both secrets are good");
    }
    let last = key(&["key", "rotate", "reader", "--old-for", "0"]);
    refused(rotated.plain("GET", "/api/v1/node", &[]).await, 401, "signature").await;
    assert_eq!(last.call("GET", "/api/v1/command", &[]).await, json!([]));
    assert!(done(&server, &["key", "ls", "--all"]).contains("ago from 127.0.0.1"));
    done(&server, &["key", "disable", "reader"]);
    refused(last.plain("GET", "/api/v1/node", &[]).await, 401, "accesskey").await;
    done(&server, &["key", "enable", "reader"]);
    last.call("GET", "/api/v1/node", &[]).await;
    let stored = std::fs::read(server.data.join("berth.db")).expect("database");
    assert!(!stored.windows(40).any(|w| w == last.secret_key.as_bytes()), "secrets are encrypted");

    // Who did what is on record, refusals too.
    let audit = done(&server, &["audit", "--all", "--action", "/api/v1/container/1/start"]);
    assert!(audit.contains("403") && audit.contains("127.0.0.1") && audit.contains("acs"), "{audit}");
    let audit: Value = serde_json::from_str(&done(&server, &["audit", "--json", "--action", "/rotate"])).expect("json");
    assert_eq!(audit.as_array().map(Vec::len), Some(2), "{audit}");
    assert_eq!((&audit[0]["who"], &audit[0]["status"]), (&json!("token 1"), &json!(200)));
    // What `berth sign` prints works as pasted.
    let line = done(&server, &["sign", "GET", "/api/v1/node", "名字=a b&c"]);
    let out = std::process::Command::new("sh").args(["-c", &line]).output().expect("curl");
    assert!(String::from_utf8_lossy(&out.stdout).contains("\"code\":\"0\""), "{line}: {out:?}");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_deployment_loses_no_request_and_survives_a_kill_of_the_server() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "rollout", "").await;
    server.import(&rootfs, "busybox", &[]);
    let files = FileServer::default();
    let v1 = files.serve("v1", zip_of(&[("index.html", b"one")]));
    let v2 = files.serve("v2.zip", zip_of(&[("index.html", b"two")]));
    let port = free_port();
    group(&server, "6", port);
    done(&server, &["group", "deploy", "商店/正式环境", &v1]);
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (over, calls) = (over.clone(), calls.clone());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    calls.fetch_add(1, Ordering::SeqCst);
                    failures.extend(get(port).await.err());
                }
                failures
            })
        })
        .collect();
    done(&server, &["group", "deploy", "--sequential", "--update", "商店/正式环境", &v2]);
    let id = done(&server, &["group", "rollback", "-d", "--sequential", "--update", "商店/正式环境", "1"]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.up().await;
    done(&server, &["wait", id.trim()]);
    over.store(true, Ordering::SeqCst);
    let mut failures = Vec::new();
    for caller in callers {
        failures.extend(caller.await.expect("join"));
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls > 100 && failures.is_empty(), "{} of {calls} calls failed: {failures:?}", failures.len());
    assert!(get(port).await.is_ok_and(|text| text.ends_with("one")));
    done(&server, &["group", "rm", "商店/正式环境"]);
    assert!(server.client().containers().await.expect("list").is_empty());
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_take_their_time_are_given_before_a_container_goes() {
    const SLOW: &str = "nc -ll -p 80 -e sh -c 'read line; read end; sleep 1; echo 200 OK slowly'";
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "drain-group", "").await;
    server.import(&rootfs, "busybox", &[]);
    let port = free_port();
    let publish = format!("{port}:80");
    let args = ["group", "create", "slow/one", "--image", "busybox", "-n", "2", "-p", &publish, "--drain", "3"];
    done(&server, &[&args[..], &["--", "sh", "-c", SLOW]].concat());
    let asking: Vec<_> = (0..2).map(|_| tokio::spawn(get(port))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    done(&server, &["group", "stop", "slow/one"]);
    for asked in asking {
        let answer = asked.await.expect("join");
        assert!(answer.as_ref().is_ok_and(|text| text.contains("slowly")), "{answer:?}: {}", server.log());
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_applied_and_differences_told() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "apply", "").await;
    server.import(&rootfs, "busybox", &[]);
    let path = server.data.join("shop.yaml");
    let file = path.to_str().expect("path").to_owned();
    let yaml = |replicas: u32, more: &str| {
        let text = format!(
            "services:\n  shop:\n    prod:\n      image: busybox\n      replicas: {replicas}\n      memory: 32m\n      command: [sleep, '600']\n      stop_timeout: 1\n{more}"
        );
        std::fs::write(&path, text).expect("write");
    };
    yaml(2, "");
    let dry = done(&server, &["apply", "-f", &file, "--dry-run"]);
    assert!(dry.starts_with("+ shop/prod") && dry.contains("replicas: - -> 2"), "{dry}");
    assert!(done(&server, &["group", "ls"]).lines().count() == 1, "nothing was made");
    done(&server, &["apply", "-f", &file]);
    assert!(done(&server, &["group", "ls"]).contains("2/2"));
    let before: Vec<_> = server.client().containers().await.expect("list").into_iter().map(|c| c.id).collect();
    assert!(done(&server, &["apply", "-f", &file]).starts_with("  shop/prod"), "nothing differs");
    yaml(3, "      cpus: 0.5\n");
    let changed = done(&server, &["apply", "-f", &file]);
    assert!(changed.starts_with("~ shop/prod") && changed.contains("cpus: - -> 0.5"), "{changed}");
    let after = server.client().containers().await.expect("list");
    assert!(after.len() == 3 && before.iter().all(|id| after.iter().any(|c| c.id == *id)), "changed where they are");
    yaml(1, "      env: {A: b}\n");
    done(&server, &["apply", "-f", &file]);
    let last = server.client().containers().await.expect("list");
    assert!(last.len() == 1 && after.iter().all(|c| c.id != last[0].id), "made anew");
    std::fs::write(server.data.join("bad.toml"), "[services.shop.prod]\nimage = 'busybox'\nreplicaz = 1\n")
        .expect("write");
    let bad = server.data.join("bad.toml");
    let (code, _, error) = server.cli(&["apply", "-f", bad.to_str().expect("path")]);
    assert!(code == 1 && error.contains("replicaz"), "{error}");
    let (code, _, error) = server.cli(&["group", "create", "shop/second", "--image", "busybox", "-p", "0:80"]);
    assert!(code != 0 && error.contains("port"), "{error}");
    done(&server, &["group", "rm", "shop/prod"]);
    server.finish().await;
}

/// The server is killed when broken code is in the containers already, and has not been found out yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_half_deployed_is_put_back_and_ports_that_are_taken_change_nothing() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "putback", "").await;
    server.import(&rootfs, "busybox", &[]);
    let files = FileServer::default();
    let v1 = files.serve("v1.zip", zip_of(&[("index.html", b"one")]));
    let v2 = files.serve("v2.zip", zip_of(&[("other.html", b"broken")]));
    let port = free_port();
    group(&server, "2", port);
    let name = "商店/正式环境";
    done(&server, &["group", "deploy", name, &v1]);
    done(&server, &["group", "update", name, "--health-start-period", "2"]);
    let id = done(&server, &["group", "deploy", "-d", name, &v2]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.kill();
    server.up().await;
    let (code, _, error) = server.cli(&["wait", id.trim()]);
    assert!(code == 1 && error.contains("with version 1 again"), "{error}");
    assert!(get(port).await.is_ok_and(|text| text.ends_with("one")));
    let history = done(&server, &["group", "history", name]);
    assert!(history.contains("1*") && history.contains("failed"), "{history}");

    let other = free_port();
    let publish = format!("{other}:80");
    done(&server, &["group", "create", "商店/预发", "--image", "busybox", "-p", &publish, "--", "sh", "-c", SERVE]);
    let (code, _, error) = server.cli(&["group", "update", name, "-p", &publish]);
    assert!(code == 1 && error.contains("in use"), "{error}");
    assert!(get(port).await.is_ok(), "nothing has changed");
    done(&server, &["group", "rm", "商店/预发"]);
    server.kill();
    server.up().await;
    assert!(get(port).await.is_ok() && get(other).await.is_err(), "nor does it later");
    done(&server, &["group", "rm", name]);
    server.finish().await;
}

/// A signature of a change is good for one path and one command, over a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_good_for_one_path_and_one_command() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "acs-once", "").await;
    server.import(&rootfs, "busybox", &[]);
    let number = |server: &Server, name: &str| {
        done(server, &["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
        let shown: Value = serde_json::from_str(&done(server, &["inspect", name])).expect("json");
        shown[0]["number"].as_i64().expect("a number")
    };
    let (a, b) = (number(&server, "a"), number(&server, "b"));
    let query = Caller::administrator(&server).query("POST", &[], millis());
    let send = async |server: &Server, method: &str, path: &str, query: &str| {
        let answer = server.request_as(None, method, &format!("/api/v1/{path}?{query}"), "").await;
        (answer.status, answer.json())
    };
    let first = send(&server, "POST", &format!("container/{a}/stop"), &query).await;
    assert_eq!(first.0, 200, "{first:?}");
    let others = [
        format!("container/{b}/stop"),
        format!("container/{a}/start"),
        format!("container/{a}/stop/"),
        "node/1/stop".into(),
        "container/77/stop".into(),
    ];
    for round in 0..2 {
        assert_eq!(send(&server, "POST", &format!("container/{a}/stop"), &query).await, first, "{round}");
        let signature = query.rsplit_once("signature=").expect("a signature").1;
        let shouted = query.replace(signature, &signature.to_uppercase());
        for other in &others {
            for query in [&query, &shouted] {
                let answer = send(&server, "POST", other, query).await;
                assert!(answer.0 == 401 || other.ends_with('/') && answer.0 == 404, "{other}: {answer:?}");
            }
        }
        server.kill();
        server.up().await;
    }
    let admin = Caller::administrator(&server);
    let all = admin.call("GET", "/api/v1/command", &[]).await;
    let stops = all.as_array().expect("commands").iter().filter(|c| c["name"] == "container_stop").count();
    assert_eq!(stops, 1, "{all}");
    let shown: Value = serde_json::from_str(&done(&server, &["inspect", "b"])).expect("json");
    assert_eq!(shown[0]["state"], "running");

    // A removal that is asked for once more when the container is gone; and a first use that is refused binds as well.
    let query = admin.query("DELETE", &[], millis());
    let removal = send(&server, "DELETE", &format!("container/{a}"), &query).await;
    let command = removal.1["data"]["commandId"].as_str().expect("a command").to_owned();
    done(&server, &["wait", &command]);
    assert_eq!(send(&server, "DELETE", &format!("container/{a}"), &query).await, removal);
    let query = admin.query("POST", &[], millis());
    assert_eq!(send(&server, "POST", "container/77/stop", &query).await.0, 404);
    assert_eq!(send(&server, "POST", &format!("container/{b}/stop"), &query).await.0, 401);
    // Reading is not bound.
    let query = admin.query("GET", &[], millis());
    assert_eq!(send(&server, "GET", "container", &query).await.0, 200);
    assert_eq!(send(&server, "GET", "node", &query).await.0, 200);
    let line = done(&server, &["sign", "GET", "/api/v1/node", "url=http://x/?a=b%20c&d=e"]);
    let out = std::process::Command::new("sh").args(["-c", &line]).output().expect("curl");
    assert!(String::from_utf8_lossy(&out.stdout).contains("\"code\":\"0\""), "{line}: {out:?}");
    server.finish().await;
}

/// What a node and its containers are told to be after starts that failed, stops, and pauses.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_what_is() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "acs-told", "").await;
    server.import(&rootfs, "busybox", &[]);
    let admin = Caller::administrator(&server);
    done(&server, &["service", "create", "shop"]);
    // Well as long as /ok is there; ends at once with /bad.
    let script = "[ -e /bad ] && exit 3; touch /ok; exec sleep 1000";
    let check = json!({"command": ["test", "-f", "/ok"], "interval": 1.0, "retries": 1, "timeout": 1.0});
    let spec = json!({"image": "busybox", "command": ["sh", "-c", script], "replicas": 2, "health": check});
    let made =
        server.request("POST", "/v1/services/shop/groups", json!({"name": "prod", "spec": spec}).to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    done(&server, &["wait", made.json()["command"]["id"].as_str().expect("a command")]);
    let node = async || admin.call("GET", "/api/v1/node", &[]).await[0].clone();
    let id = node().await["id"].as_i64().expect("an id");
    let followed = async |path: &str| {
        let command = admin.call("POST", &format!("/api/v1/{path}"), &[]).await;
        let id = command["commandId"].as_str().expect("a command").to_owned();
        let _ = server.cli(&["wait", &id]);
        admin.call("GET", &format!("/api/v1/command/{id}"), &[]).await
    };
    followed(&format!("node/{id}/start")).await;
    let containers = async || node().await["containers"].as_array().expect("containers").clone();
    let of = |containers: &[Value], n: usize, field: &str| containers[n][field].as_str().unwrap_or_default().to_owned();
    let all = containers().await;
    assert_eq!((of(&all, 0, "status"), of(&all, 0, "health")), ("RUNNING".into(), "healthy".into()), "{all:?}");
    let numbers: Vec<i64> = all.iter().map(|c| c["id"].as_i64().expect("an id")).collect();
    let list: Value = serde_json::from_str(&done(&server, &["ps", "-a", "--json"])).expect("json");
    let name = |n: usize| {
        let found = list.as_array().expect("list").iter().find(|c| c["number"] == numbers[n]).expect("it");
        found["name"].as_str().expect("a name").to_owned()
    };
    done(&server, &["exec", &name(1), "touch", "/bad"]);
    followed(&format!("node/{id}/stop")).await;
    let all = containers().await;
    assert_eq!((node().await["status"].as_str(), of(&all, 0, "health")), (Some("STOPPED"), String::new()), "{all:?}");
    let stopped = of(&all, 0, "stopTime");
    assert!(!stopped.is_empty());
    let started = followed(&format!("node/{id}/start")).await;
    assert_eq!(started["result"], "500", "{started}");
    let all = containers().await;
    assert_eq!(node().await["status"], "RUNNING", "one of its containers serves: {all:?}");
    assert_eq!((of(&all, 0, "status"), of(&all, 0, "stopTime")), ("RUNNING".into(), stopped), "{all:?}");
    assert_eq!(of(&all, 1, "health"), "", "{all:?}");

    // Paused, and started again by each dialect.
    let token = server.token();
    let uid = list.as_array().expect("list").iter().find(|c| c["number"] == numbers[0]).expect("it")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for start in ["acs", "native", "standalone", "tingyu"] {
        done(&server, &["pause", &name(0)]);
        match start {
            "acs" => drop(followed(&format!("container/{}/start", numbers[0])).await),
            "native" => drop(done(&server, &["start", &name(0)])),
            "standalone" => {
                let path = format!("/container/start?containerId={uid}&token={token}");
                assert!(server.request_as(None, "GET", &path, "").await.text.contains("\"optionResult\":0"));
            }
            _ => {
                let path = format!("/tingyu/container/start?name={}", name(0));
                let answer = server.request("POST", &path, "").await;
                assert!(answer.text.contains("200"), "{}", answer.text);
            }
        }
        let shown: Value = serde_json::from_str(&done(&server, &["inspect", &name(0)])).expect("json");
        assert_eq!(shown[0]["state"], "running", "{start}");
    }
    server.finish().await;
}
