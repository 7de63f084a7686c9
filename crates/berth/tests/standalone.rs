//! The dialect `standalone`: the document's operations, their shapes to the letter, every error, and real applications.

use std::time::Duration;

use berth_testkit::{Answer, FileServer, Server, image, is_root, zip_of};
use serde_json::{Value, json};

/// Field names and JSON types of a value, in words.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let inside: Vec<String> = fields.iter().map(|(k, v)| format!("{k}: {}", shape(v))).collect();
            format!("{{{}}}", inside.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::String(_) => "string".into(),
        Value::Number(n) if n.is_f64() => "float".into(),
        Value::Number(_) => "int".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => "null".into(),
    }
}

async fn build(server: &Server, runtime: &str, address: &str, memory: &str) -> Answer {
    let body = format!("image_name={runtime}&code_address={address}&memory={memory}");
    server.request("POST", "/container/build", body).await
}

/// What the application answers, once it listens: a start is answered when its program runs.
async fn fetch(port: u64, path: &str) -> (u16, String) {
    let mut answer = berth_testkit::http().get(format!("http://127.0.0.1:{port}{path}")).send().await;
    for _ in 0..200 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        answer = berth_testkit::http().get(format!("http://127.0.0.1:{port}{path}")).send().await;
    }
    let answer = answer.expect("the application answers");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

/// Envelope and HTTP status of an error.
fn is_error(answer: &Answer, code: u64, said: &str) {
    let json = answer.json();
    let status = if code == 10005 { 503 } else { 200 };
    assert_eq!((answer.status, json["code"].as_u64()), (status, Some(code)), "{}", answer.text);
    assert_eq!(json["result"], json!({}), "{}", answer.text);
    assert!(json["message"].as_str().is_some_and(|m| m.contains(said)), "{said:?} in {}", answer.text);
    assert_eq!(answer.request_id.len(), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_six_operations_are_as_documented() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "standalone", "").await;
    let files = FileServer::default();
    let site = files.serve("site.zip", zip_of(&[("index.html", b"<h1>hi</h1>"), ("a/b.txt", b"deep")]));
    let moved = files.serve("redirect:moved.zip", site.clone().into_bytes());

    let built = build(&server, "static", &site, "64").await;
    assert_eq!(shape(&built.json()), "{code: int, result: {containerId: string, port: int}}");
    assert_eq!(built.json()["code"], 0);
    let id = built.json()["result"]["containerId"].as_str().expect("id").to_owned();
    let port = built.json()["result"]["port"].as_u64().expect("port");
    assert!((10_000..=30_000).contains(&port));
    assert_eq!(fetch(port, "/").await, (200, "<h1>hi</h1>".into()));
    assert_eq!(fetch(port, "/a/b.txt").await.1, "deep");
    assert_eq!(fetch(port, "/../../etc/passwd").await.0, 404);

    let operation = async |name: &str| {
        let answer = server.request("GET", &format!("/container/{name}?containerId={id}"), "").await;
        assert_eq!(shape(&answer.json()), "{code: int, result: {optionResult: int}}", "{name}");
        assert_eq!(
            (answer.status, &answer.json()),
            (200, &json!({"code": 0, "result": {"optionResult": 0}})),
            "{name}"
        );
    };
    let stats = server.request("GET", &format!("/container/stats?containerId={id}"), "").await.json();
    assert_eq!(shape(&stats), "{code: int, result: {cpu: float, memory: float}}");
    let memory = stats["result"]["memory"].as_f64().expect("memory");
    assert!(memory > 0.0 && memory < 60.0, "{stats}");
    for name in ["stop", "stop", "start", "start"] {
        operation(name).await;
    }
    assert_eq!(fetch(port, "/").await.0, 200, "the same port after a stop and start");
    operation("stop").await;
    let stats = server.request("GET", &format!("/container/stats?containerId={id}"), "").await.json();
    assert_eq!(stats["result"], json!({"cpu": 0.0, "memory": 0.0}));
    operation("start").await;
    let count = server.request("GET", "/container/analy", "").await.json();
    assert_eq!(
        (shape(&count).as_str(), count["result"]["count"].as_i64()),
        ("{code: int, result: {count: int}}", Some(1))
    );

    // JSON, numbers as text, a redirect, the token anywhere.
    let asked = json!({"image_name": "static", "code_address": moved, "memory": "64"}).to_string();
    let second = server.request("POST", "/container/build", asked).await.json();
    assert_eq!(second["code"], 0, "{second}");
    assert_ne!(second["result"]["port"].as_u64(), Some(port));
    let by_query = format!("/container/analy?token={}", server.token());
    assert_eq!(server.request_as(None, "GET", &by_query, "").await.json()["result"]["count"], 2);
    // Seen in the native API, too.
    assert_eq!(server.client().container(&id).await.expect("native").labels["berth.runtime"], "static");

    operation("remove").await;
    for name in ["start", "stop", "remove"] {
        let gone = server.request("GET", &format!("/container/{name}?containerId={id}"), "").await;
        assert_eq!(
            (gone.status, &gone.json()["code"], &gone.json()["result"]["optionResult"]),
            (200, &json!(0), &json!(1))
        );
        assert!(gone.json()["message"].as_str().is_some_and(|m| m.contains("no such container")), "{}", gone.text);
    }
    assert!(berth_testkit::http().get(format!("http://127.0.0.1:{port}/")).send().await.is_err());
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_its_code() {
    if !is_root() {
        return;
    }
    let settings = "[core]\nport_range = [29990, 29990]\ncode_unpacked_max_mib = 8\ncode_max_mib = 4\ncode_max_entries = 50\nready_wait_s = 3";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "errors", settings).await;
    let files = FileServer::default();
    let site = files.serve("site.zip", zip_of(&[("index.html", b"x")]));
    for token in [None, Some("wrong")] {
        for (method, path) in [("POST", "build"), ("GET", "start"), ("GET", "analy"), ("GET", "stats")] {
            is_error(&server.request_as(token, method, &format!("/container/{path}"), "").await, 10001, "token");
        }
    }
    let many: Vec<(String, &[u8])> = (0..60).map(|n| (format!("f{n}"), &b""[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(n, b)| (n.as_str(), *b)).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(5 << 20)
    .collect();
    let up = files.serve("up.zip", zip_of(&[("../up", b"x")]));
    let bomb = files.serve("bomb.zip", zip_of(&[("zeros", &vec![0; 20 << 20])]));
    let many = files.serve("many.zip", zip_of(&many));
    let big = files.serve("big.zip", zip_of(&[("noise", &noise)]));
    let text = files.serve("text.zip", b"hello".to_vec());
    let cut = files.serve("cut.zip", zip_of(&[("index.html", b"x")])[..60].to_vec());
    let missing = files.serve("there", Vec::new()).replace("there", "not-there");
    let to_metadata = files.serve("redirect:meta.zip", b"http://169.254.169.254/latest".to_vec());
    let to_file = files.serve("redirect:file.zip", b"file:///etc/passwd".to_vec());
    for (runtime, address, memory, code, said) in [
        ("", site.as_str(), "64", 10002, "image_name"),
        ("static", "", "64", 10002, "code_address"),
        ("static", &site, "", 10002, "memory"),
        ("ruby", &site, "64", 10003, "image_name"),
        ("static", "ftp://127.0.0.1/x", "64", 10003, "code_address"),
        ("static", "http://", "64", 10003, "code_address"),
        ("static", &site, "many", 10003, "memory"),
        ("static", &site, "64.5", 10003, "memory"),
        ("static", &site, "-5", 10003, "memory"),
        ("static", &site, "0", 10003, "memory"),
        ("static", &site, "99999999999999999", 10003, "memory"),
        ("static", &site, "999999999", 10005, "memory"),
        ("static", &up, "64", 10003, "leads out"),
        ("static", &bomb, "64", 10003, "more than is allowed"),
        ("static", &many, "64", 10003, "entries"),
        ("static", &big, "64", 10003, "larger than"),
        ("static", &text, "64", 10003, "not a zip"),
        ("static", &cut, "64", 10003, "not a zip"),
        ("static", &missing, "64", 10003, "404"),
        ("static", "http://127.0.0.1:1/x.zip", "64", 10003, "could not be fetched"),
        ("static", "http://169.254.169.254/latest", "64", 10003, "may not be reached"),
        ("static", "http://[fe80::1]/x.zip", "64", 10003, "may not be reached"),
        ("static", &to_metadata, "64", 10003, "may not be reached"),
        ("static", &to_file, "64", 10003, "302"),
        ("php5.6", &site, "64", 10005, "not on this server"),
    ] {
        is_error(&build(&server, runtime, address, memory).await, code, said);
    }
    for (body, said) in [
        ("{", "JSON"),
        ("[]", "no object"),
        (r#"{"image_name": ["static"], "code_address": "x", "memory": 1}"#, "image_name"),
    ] {
        is_error(&server.request("POST", "/container/build", body).await, 10003, said);
    }
    is_error(&server.request("POST", "/container/build", vec![b'x'; 3 << 20]).await, 10003, "longer");
    for path in ["start", "stop", "remove", "stats"] {
        is_error(&server.request("GET", &format!("/container/{path}"), "").await, 10002, "containerId");
    }
    is_error(&server.request("GET", "/container/stats?containerId=none", "").await, 10003, "no such container");
    is_error(&server.request("GET", "/container/build", "").await, 10003, "method");
    is_error(&server.request("POST", "/container/start", "").await, 10003, "method");
    is_error(&server.request("GET", "/container/nothing", "").await, 10003, "no such operation");

    // One port: the second build finds none, and leaves nothing behind.
    assert_eq!(build(&server, "static", &site, "64").await.json()["result"]["port"], 29_990);
    is_error(&build(&server, "static", &site, "64").await, 10005, "port");
    assert_eq!(server.client().containers().await.expect("list").len(), 1);
    let refused =
        server.request("POST", "/container/build", format!("image_name=static&memory=64&code_address={site}")).await;
    assert_eq!(refused.status, 503);
    server.finish().await;
}

/// A build beyond the bound waits for its turn; only a full queue refuses.
#[tokio::test(flavor = "multi_thread")]
async fn builds_wait_for_their_turn() {
    if !is_root() {
        return;
    }
    let settings = "[core]\nbuilds_at_once = 2\nbuilds_waiting = 80";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "turns", settings).await;
    let files = FileServer::default();
    let site = files.serve("site.zip", zip_of(&[("index.html", b"x")]));
    let all = (0..20).map(|_| build(&server, "static", &site, "64"));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.json()["code"], 0, "{}", answer.text);
    }
    // One account waits with half of the places at most.
    let slow = files.serve("slow.zip", zip_of(&[("index.html", b"x")]));
    let all = (0..60).map(|_| build(&server, "static", &slow, "64"));
    let codes: Vec<_> = futures_util::future::join_all(all).await.iter().map(|a| a.json()["code"].clone()).collect();
    assert!(codes.iter().filter(|code| **code == 0).count() >= 40, "{codes:?}");
    assert!(codes.iter().all(|code| *code == 0 || *code == 10005), "{codes:?}");
    server.finish().await;
}

/// An application for each runtime: what it is made of, and what image it needs.
type Application = (&'static str, &'static str, &'static [&'static str], Vec<(&'static str, &'static [u8])>);

#[tokio::test(flavor = "multi_thread")]
async fn real_applications_run_in_every_language() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "languages", "[core]\nready_wait_s = 60").await;
    let files = FileServer::default();
    let applications: Vec<Application> = vec![
        ("python3.5", "python", &[], vec![("app.py", include_bytes!("apps/app.py"))]),
        ("nodejs4", "node", &[], vec![("server.js", include_bytes!("apps/server.js"))]),
        ("php5.6", "php", &[], vec![("public/index.php", include_bytes!("apps/index.php"))]),
        (
            "java8",
            "java",
            &[],
            vec![("Procfile", b"web: exec java -Xmx64m Main.java\n"), ("Main.java", include_bytes!("apps/Main.java"))],
        ),
        (
            "go1.5",
            "go",
            &["HOME=/root", "CGO_ENABLED=0", "GOPROXY=off"],
            vec![("main.go", include_bytes!("apps/main.go")), ("go.mod", b"module hello\n")],
        ),
    ];
    for (runtime, name, env, sources) in applications {
        let Some(rootfs) = image(name) else { continue };
        let reference = berth_image_of(runtime);
        server.import(&rootfs, reference, env);
        let address = files.serve(&format!("{name}.zip"), zip_of(&sources));
        let begun = std::time::Instant::now();
        let built = build(&server, runtime, &address, "768").await;
        assert_eq!(built.json()["code"], 0, "{runtime}: {}", built.text);
        println!("{runtime}: built and answering after {:?}", begun.elapsed());
        let port = built.json()["result"]["port"].as_u64().expect("port");
        let (status, text) = fetch(port, "/").await;
        assert_eq!((status, text.trim()), (200, format!("hello from {name}").as_str()), "{runtime}");
        let id = built.json()["result"]["containerId"].as_str().expect("id").to_owned();
        let stats = server.request("GET", &format!("/container/stats?containerId={id}"), "").await.json();
        assert!(stats["result"]["memory"].as_f64().is_some_and(|m| m > 0.0), "{runtime}: {stats}");
        let done = server.request("GET", &format!("/container/remove?containerId={id}"), "").await.json();
        assert_eq!(done["result"]["optionResult"], 0);
    }
    // What does not start says why, and is gone.
    if let Some(_python) = image("python") {
        let broken = files.serve("broken.zip", zip_of(&[("app.py", b"raise SystemExit('no database')")]));
        is_error(&build(&server, "python3.5", &broken, "64").await, 10003, "no database");
        let empty = files.serve("empty.zip", zip_of(&[("readme.txt", b"nothing")]));
        is_error(&build(&server, "python3.5", &empty, "64").await, 10003, "Procfile");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.client().containers().await.expect("list").len(), 0);
    server.finish().await;
}

/// The image that the runtime names by default.
fn berth_image_of(runtime: &str) -> &'static str {
    match runtime {
        "python3.5" => "docker.io/library/python:3.5",
        "nodejs4" => "docker.io/library/node:4",
        "php5.6" => "docker.io/library/php:5.6-cli",
        "java8" => "docker.io/library/tomcat:9-jre8",
        _ => "docker.io/library/golang:1.5",
    }
}

/// Its messages are Chinese, unless the client prefers English.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_chinese_unless_english_is_preferred() {
    if !berth_testkit::is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "chinese", "").await;
    let say = async |language: &str, path: &str| -> Value {
        let request = berth_testkit::http().get(server.url(path)).header("x-token", server.token());
        let answer = request.header("accept-language", language).send().await.expect("an answer");
        serde_json::from_str(&answer.text().await.expect("text")).expect("json")
    };
    for (language, missing, unknown) in [
        ("zh-CN,zh;q=0.9,en;q=0.8", "缺少参数 containerId", "没有这个容器：nothing"),
        ("de", "缺少参数 containerId", "没有这个容器：nothing"),
        ("en-US,en;q=0.9", "parameter containerId is missing", "no such container: nothing"),
    ] {
        let found = say(language, "/container/stop").await;
        assert_eq!((&found["code"], &found["message"]), (&json!(10002), &json!(missing)), "{language}");
        let found = say(language, "/container/stop?containerId=nothing").await;
        assert_eq!(found["message"], json!(unknown), "{language}: {found}");
    }
    server.finish().await;
}
