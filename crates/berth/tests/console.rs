//! The console in a real Chromium: `console/test/browser.mjs` drives it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_testkit::{Server, done, free_port, has_program, image, is_root, skip};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_console_works_in_a_browser() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../console");
    if !["node", "chromium"].into_iter().all(has_program)
        || !std::path::Path::new(folder).join("dist/index.html").exists()
    {
        return skip("the console's test needs node, chromium and the bundle (make console)");
    }
    let port = free_port();
    let settings = format!("[registries.hosts.\"127.0.0.1:{port}\"]\nplain_http = true\n");
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "console", &settings).await;
    server.import(&rootfs, "busybox", &[]);
    let mut browser = Command::new("node")
        .arg("test/browser.mjs")
        .args([server.url("").trim_end_matches('/'), &server.token(), &port.to_string()])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start node");
    let mut answers = browser.stdin.take().expect("standard input");
    let asked = BufReader::new(browser.stdout.take().expect("standard output"));
    for line in asked.lines() {
        match line.expect("read").as_str() {
            "kill" => server.kill(),
            "start" => drop(server.up().await),
            other => panic!("the browser's test asks for {other:?}"),
        }
        answers.write_all(b"done\n").expect("answer");
    }
    let status = browser.wait().expect("wait for node");
    assert!(status.success(), "the browser's test failed: {status}\n{}", server.log());
    server.finish().await;
}

/// The described API, as generators of clients and the console's own build read it.
#[test]
fn the_description_in_the_docs_is_that_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let made = format!("{:#}\n", berth_api::openapi());
    if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
        std::fs::write(path, made).expect("write");
        return;
    }
    assert!(std::fs::read_to_string(path).expect("read") == made, "stale: BERTH_WRITE_DOCS=1 writes docs/openapi.json");
}

async fn a_log_is_read_from_its_beginning(server: &Server) {
    let talk = json!({"image": "busybox", "name": "talk", "command": ["sh", "-c", "seq 1 50"], "start": true});
    assert_eq!(server.request("POST", "/v1/containers", talk.to_string()).await.status, 201);
    done(server, &["wait", "talk"]);
    let lines =
        async |query: &str| server.request("GET", &format!("/v1/containers/talk/logs?format=text&{query}"), "").await;
    assert_eq!(lines("head=3").await.text, "1\n2\n3\n");
    assert_eq!(lines("head=2&grep=4").await.text, "4\n14\n");
    assert_eq!(lines("head=0").await.text, "");
    assert_eq!(lines("head=2&skip=3").await.text, "4\n5\n");
    assert_eq!(lines("skip=1&grep=4").await.text.lines().next(), Some("14"));
    assert_eq!(lines("skip=1&tail=1").await.status, 400);
    assert_eq!(lines("head=99").await.text.lines().count(), 50);
    assert_eq!(lines("head=1&tail=1").await.status, 400);
    done(server, &["rm", "talk"]);
}

/// Lists, pulls and sessions, as other clients than the console may use them, too.
#[tokio::test(flavor = "multi_thread")]
async fn lists_pulls_and_sessions_are_bounded_and_say_what_is_wrong() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "console-api", "").await;
    server.import(&rootfs, "busybox", &[]);
    for name in ["web_1", "webX1", "db"] {
        let asked = json!({
            "image": "busybox", "name": name, "command": ["sleep", "1000"], "start": name == "db",
            "labels": {"kind": if name == "db" { "store" } else { "web" }},
        });
        assert_eq!(server.request("POST", "/v1/containers", asked.to_string()).await.status, 201);
    }
    let list = async |query: &str| server.request("GET", &format!("/v1/containers/summary?{query}"), "").await.json();
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
    };
    let found = list("text=web_1").await;
    assert_eq!((names(&found), &found["total"]), (vec!["web_1".to_owned()], &json!(1)), "an underscore is itself");
    let found = list("text=busy&sort=name&descending=true&limit=2").await;
    assert_eq!((names(&found), &found["total"]), (vec!["web_1".to_owned(), "webX1".to_owned()], &json!(3)));
    assert_eq!(found["states"], json!({"created": 2, "running": 1}));
    assert_eq!(names(&list("sort=name&offset=2").await), ["web_1"]);
    assert_eq!(names(&list("state=running").await), ["db"]);
    assert_eq!(names(&list("label=kind=store").await), ["db"]);
    let found = list("label=kind&sort=name&limit=1&offset=1").await;
    assert_eq!((names(&found), &found["total"]), (vec!["webX1".to_owned()], &json!(3)));
    assert_eq!(list("label=kind=web&state=running").await["states"], json!({"created": 2}));
    assert_eq!(list("health=unhealthy").await["total"], 0);
    for (wrong, why) in [
        ("limit=0", "limit must be"),
        ("sort=age", "sort"),
        ("state=new", "state"),
        ("health=ill", "health"),
        ("x=1", "x"),
    ] {
        let answer = server.request("GET", &format!("/v1/containers/summary?{wrong}"), "").await;
        assert!(answer.status == 400 && answer.text.contains(why), "{wrong}: {}", answer.text);
    }
    let found = list("host=1&text=web").await;
    assert_eq!(found["total"], 2, "on this machine");
    for (query, status) in [("host=elsewhere", 404), ("group=web/prod", 404)] {
        assert_eq!(
            server.request("GET", &format!("/v1/containers/summary?{query}"), "").await.status,
            status,
            "{query}"
        );
    }
    a_log_is_read_from_its_beginning(&server).await;
    // What was used, reading by reading, as long as somebody measures: none yet, and wrong times are refused.
    let series = server.request("GET", "/v1/containers/db/series", "").await;
    assert!(series.status == 200 && series.json()["items"].is_array(), "{}", series.text);
    assert_eq!(server.request("GET", "/v1/containers/db/series?from=20&to=10", "").await.status, 400);
    let traffic = server.request("GET", "/v1/containers/db/traffic", "").await;
    assert_eq!(traffic.status, 200);
    let series = server.request("GET", "/v1/containers/db/series", "").await.json();
    let points = series["items"].as_array().expect("points");
    assert!(points.iter().any(|p| p["memory_mib"].as_f64() > Some(0.0)), "asking for traffic was a reading: {series}");
    // What the machine lacks is for administrators.
    let checks = server.request("GET", "/v1/doctor", "").await.json();
    assert!(checks["items"].as_array().expect("checks").iter().any(|c| c["what"] == "root" && c["state"] == "ok"));
    // A pull is followed by its number until it is over, and says what the registry said.
    let begun = server.request("POST", "/v1/pulls", json!({"image": "127.0.0.1:1/no/such:1"}).to_string()).await;
    assert_eq!(begun.status, 202, "{}", begun.text);
    let path = format!("/v1/pulls/{}", begun.json()["id"].as_str().expect("an id"));
    let failed = async {
        loop {
            let pull = server.request("GET", &path, "").await.json();
            if pull["state"] != "running" {
                return pull;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let failed = tokio::time::timeout(Duration::from_secs(30), failed).await.expect("it ends");
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"]["detail"].as_str().is_some_and(|why| why.contains("127.0.0.1:1")), "{failed}");
    let other = server.tenant("other").await;
    assert_eq!(server.request_as(Some(&other), "GET", &path, "").await.status, 404, "another's");
    assert_eq!(server.request_as(Some(&other), "GET", "/v1/doctor", "").await.status, 403);
    assert_eq!(server.request("POST", &format!("{path}/cancel"), "").await.status, 409, "it is over");
    // Logins that fail are bounded; one that is good is let in all the same.
    let log_in = async |token: &str| {
        let body = json!({"token": token}).to_string();
        let request = berth_testkit::http().post(server.url("/v1/session")).header("origin", server.url("")).body(body);
        request.send().await.expect("an answer").status().as_u16()
    };
    let mut statuses = Vec::new();
    for _ in 0..14 {
        statuses.push(log_in("berth_wrong").await);
    }
    assert!(statuses.starts_with(&[401; 10]) && statuses.ends_with(&[429]), "{statuses:?}");
    assert_eq!(log_in(&server.token()).await, 201);
    done(&server, &["rm", "-f", "web_1", "webX1", "db"]);
    server.finish().await;
}
