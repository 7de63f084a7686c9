//! Wrong requests of all kinds on every route: an error in the dialect's own form, never a panic, nothing left behind.

use berth_testkit::{Server, image, is_root};

/// The HTTP library answers these before any handler sees them.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_are_answered_in_form() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "heads", "").await;
    server.import(&rootfs, "busybox", &[]);
    let address = server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let ask = async |target: &str, header: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connect");
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nx-long: {header}\r\n\r\n");
        // The server may have said its word before all of it is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut text = String::new();
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read_to_string(&mut text)).await;
        read.expect("an answer").expect("no reset");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status: u16 = head.split(' ').nth(1).expect("status").parse().expect("number");
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body:?}"));
        (status, json)
    };
    for (address, header) in [(70_000, 1), (1_000_000, 1), (1, 1_000_000), (1, 3_000_000)] {
        let (query, header) = ("x".repeat(address), "y".repeat(header));
        let ask = async |path: &str| ask(&format!("{path}?x={query}"), &header).await;
        let (status, json) = ask("/tingyu/container/infos").await;
        assert_eq!((status, json["code"].as_str()), (200, Some("TY0004")), "{json}");
        let (status, json) = ask("/container/create_by_code").await;
        assert_eq!((status, json["code"].as_i64()), (200, Some(10003)), "{json}");
        let (status, json) = ask("/api/v1/containers").await;
        assert_eq!((status, json["code"].as_i64()), (400, Some(4_000_001)), "{json}");
        let (status, json) = ask("/api/v1/container/status").await;
        assert_eq!(status, 400, "{json}");
        assert!(json["message"].is_string(), "{json}");
        let (status, json) = ask("/v1/containers").await;
        assert_eq!((status, json["code"].as_str()), (431, Some("too_large")), "{json}");
        let (status, json) = ask("/v2/_catalog").await;
        assert_eq!((status, json["errors"][0]["code"].as_str()), (431, Some("SIZE_INVALID")), "{json}");
    }
    // After another request on the same connection, too.
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connect");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let mut text = String::new();
    while !text.ends_with("ok\n") {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).await.expect("read");
        assert!(count > 0, "{text:?}");
        text += &String::from_utf8_lossy(&part[..count]);
    }
    let long = format!("GET /tingyu/x?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(300_000));
    let _ = stream.write_all(long.as_bytes()).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("no reset");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("TY0004"), "{text:?}");
    // What only looks like the library's answer is what somebody wrote.
    let lines = "printf 'HTTP/1.1 431 Request Header Fields Too Large\\r\\ncontent-length: 0\\r\\n\\r\\n'";
    berth_testkit::done(&server, &["run", "--name", "says", "busybox", "sh", "-c", lines]);
    for _ in 0..20 {
        let said = server.request("GET", "/v1/containers/says/logs?format=text", "").await;
        assert!(said.status == 200 && said.text.ends_with("content-length: 0\r\n\r\n"), "{said:?}");
    }
    berth_testkit::done(&server, &["rm", "says"]);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_answered_in_form() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "hostile", "").await;
    let spec = server.request("GET", "/openapi.json", "").await.json();
    assert_eq!(spec["openapi"].as_str().map(|v| &v[..3]), Some("3.1"));
    let docs = server.request("GET", "/docs/", "").await;
    assert!(docs.status == 200 && docs.text.contains("swagger"), "{}", docs.text);
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(200_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"x\"".to_vec(),
        b"{\"image\": 5}".to_vec(),
        b"{\"image\": \"x\", \"unknown\": 1}".to_vec(),
        b"{\"image\": \"x\", \"cpus\": -1}".to_vec(),
        b"{\"image\": \"x\", \"cpus\": 1e999}".to_vec(),
        b"{\"image\": \"x\", \"memory\": -1}".to_vec(),
        b"{\"image\": \"x\", \"memory\": 1e300}".to_vec(),
        b"{\"image\": \"x\", \"ports\": [{\"container_port\": 70000}]}".to_vec(),
        b"{\"image\": \"x\", \"ports\": [{\"container_port\": 1, \"host_ip\": \"x\"}]}".to_vec(),
        b"{\"image\": \"x\", \"name\": \"../../x\"}".to_vec(),
        b"{\"image\": \"x\", \"name\": \"a\\u0000b\"}".to_vec(),
        b"\xff\xfe\x00\x01".to_vec(),
        deep.into_bytes(),
        long.into_bytes(),
        vec![b'a'; 2 << 20],
    ];
    let segments = ["x", "%00", "%2e%2e%2f%2e%2e", "%ff", "a%20b", "99999999999999999999"];
    let mut tried = 0;
    for (path, operations) in spec["paths"].as_object().expect("paths") {
        if path == "/v1/commands/events" {
            // It goes on for ever, and takes no parameters.
            continue;
        }
        for method in operations.as_object().expect("operations").keys().filter(|m| *m != "parameters") {
            let method = method.to_uppercase();
            for segment in segments {
                let names = ["id", "reference", "number", "name", "registry", "service", "group", "key"];
                let path = names.iter().fold(path.clone(), |path, n| path.replace(&format!("{{{n}}}"), segment));
                let unauthorized = server.request_as(None, &method, &path, "").await;
                // The console's login needs no token, but a page of this server.
                let refused = if (method.as_str(), path.as_str()) == ("POST", "/v1/session") { 403 } else { 401 };
                assert_eq!(unauthorized.status, refused, "{method} {path}: {}", unauthorized.text);
                for body in if method == "POST" { bodies.as_slice() } else { &bodies[..1] } {
                    for query in ["", "?limit=-1&cursor=x&state=y&force=maybe&timeout=-1&follow=perhaps&name=%00"] {
                        let answer = server.request(&method, &format!("{path}{query}"), body.clone()).await;
                        tried += 1;
                        assert!(answer.status < 500, "{method} {path}{query}: {} {}", answer.status, answer.text);
                        if answer.status >= 400 {
                            assert_eq!(
                                answer.kind, "application/problem+json",
                                "{method} {path}{query}: {}",
                                answer.text
                            );
                            let problem = answer.json();
                            assert_eq!(problem["status"].as_u64(), Some(answer.status.into()), "{}", answer.text);
                            for leak in ["/root", "/tmp/", "SELECT", "src/"] {
                                assert!(!answer.text.contains(leak), "{method} {path}: {}", answer.text);
                            }
                        }
                        assert_eq!(answer.request_id.len(), 36);
                    }
                }
            }
        }
    }
    assert!(tried > 300, "{tried}");
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("PATCH", "/v1/containers", 405),
        ("GET", "/v1/containers?limit=0", 400),
        ("GET", "/v1/containers?limit=1001", 400),
        ("GET", "/v1/containers?cursor=zz", 400),
    ] {
        let answer = server.request(method, path, "").await;
        assert_eq!(
            (answer.status, answer.kind.as_str()),
            (status, "application/problem+json"),
            "{path}: {}",
            answer.text
        );
    }
    let metrics = server.request("GET", "/metrics", "").await.text;
    assert!(metrics.contains("berth_http_request_seconds_bucket") && metrics.contains("berth_containers"), "{metrics}");
    assert_eq!(server.request("GET", "/readyz", "").await.status, 200);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_wrong_archives_leave_nothing() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "archives", "").await;
    let tar = std::fs::read(rootfs).expect("image");
    for (path, body) in [
        ("/v1/images", tar.clone()),
        ("/v1/images", b"noise".to_vec()),
        ("/v1/images/rootfs?name=cut", tar[..tar.len() / 2].to_vec()),
        ("/v1/images/rootfs?name=NOT%20A%20NAME", tar.clone()),
        ("/v1/images/rootfs", tar.clone()),
        ("/v1/images/rootfs?name=x&config=%7B", tar.clone()),
    ] {
        let answer = server.request("POST", path, body).await;
        assert_eq!((answer.status, answer.kind.as_str()), (400, "application/problem+json"), "{path}: {}", answer.text);
    }
    // A client that goes away in the middle.
    {
        use tokio::io::AsyncWriteExt;
        let address = server.url("").replace("http://", "");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
        let head = format!(
            "POST /v1/images/rootfs?name=gone HTTP/1.1\r\nhost: x\r\nx-token: {}\r\ncontent-length: {}\r\n\r\n",
            server.token(),
            tar.len()
        );
        stream.write_all(head.as_bytes()).await.expect("head");
        stream.write_all(&tar[..100_000]).await.expect("a part");
    }
    let mut tries = 0;
    let count = |folder: &str| std::fs::read_dir(server.data.join(folder)).map_or(0, Iterator::count);
    while count("images/work") + count("images/layers") > 0 {
        tries += 1;
        assert!(tries < 200, "layers {}, work {}", count("images/layers"), count("images/work"));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(server.client().images().await.expect("images").is_empty());
    server.finish().await;
}

/// Requests of one dialect that anybody known is answered in its own form.
const DIALECTS: [(&str, &str); 5] = [
    ("GET", "/v1/containers"),
    ("GET", "/container/analy"),
    ("GET", "/api/v1/containers"),
    ("GET", "/api/v1/node/list"),
    ("GET", "/tingyu/container/list"),
];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_up_nobody() {
    if !is_root() {
        return;
    }
    berth_runtime::raise_open_files().expect("files");
    let settings = "[http]\nstrangers_per_address = 64\nhead_s = 2\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "strangers", settings).await;
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list").count();
    let before = open();
    let address = server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let connect = async |text: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connect");
        // Pushed out already, perhaps.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await;
        stream
    };
    let answered = async || {
        for (method, path) in DIALECTS {
            let begun = std::time::Instant::now();
            let answer = server.request(method, path, "").await;
            assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{path}: {:?}", begun.elapsed());
            assert!(answer.status < 500, "{path}: {} {}", answer.status, answer.text);
        }
    };
    // Silent ones, and ones whose head never ends.
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(connect("").await);
        held.push(connect("GET /v1/containers HTTP/1.1\r\nHost: x\r\n").await);
    }
    answered().await;
    let begun = std::time::Instant::now();
    while open() > before + 200 {
        held.push(connect("").await);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{} files are open", open());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Bodies that never come, to every dialect, with no credential and with a wrong one.
    for path in
        ["/v1/containers", "/container/build", "/api/v1/container/1/start", "/api/v1/token", "/tingyu/container/create"]
    {
        for credential in ["", "Authorization: Bearer wrong\r\n", "token: wrong\r\n"] {
            for _ in 0..100 {
                let text = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{credential}Content-Length: 10\r\n\r\n");
                held.push(connect(&text).await);
            }
        }
    }
    answered().await;
    // A refusal does not wait for the body.
    let begun = std::time::Instant::now();
    let mut refused = connect("POST /v1/containers HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n").await;
    let mut buffer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut refused, &mut buffer).await.expect("an answer");
    assert_eq!(&buffer, b"HTTP/1.1 401");
    assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    // Whoever says nothing is let go of.
    let mut silent = connect("").await;
    let closed = tokio::io::AsyncReadExt::read(&mut silent, &mut buffer);
    let closed = tokio::time::timeout(std::time::Duration::from_secs(6), closed).await.expect("in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
    // A head that is too long is refused, and the long path of a known caller is answered in its dialect's form.
    let mut long = connect(&format!("GET /v1/x HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(300 << 10))).await;
    let read = tokio::io::AsyncReadExt::read_exact(&mut long, &mut buffer).await;
    assert!(read.is_err() || &buffer == b"HTTP/1.1 431", "{}", String::from_utf8_lossy(&buffer));
    drop(held);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_does_not_take_all_places_to_run() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\nrunning_per_account = 3\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "places", settings).await;
    server.import(&rootfs, "busybox", &[]);
    berth_testkit::done(&server, &["official", "busybox"]);
    let made = server.request("POST", "/v1/tokens", r#"{"name": "u", "account": "user"}"#).await.json();
    let token = made["token"].as_str().expect("token");
    let body = |name: String, start: bool| {
        serde_json::json!({"image": "busybox", "name": name, "start": start, "command": ["sleep", "1000"]}).to_string()
    };
    let ask =
        |path: String, body: String| server.request_as(Some(token), "POST", Box::leak(path.into_boxed_str()), body);
    for n in 0..8 {
        let answer = ask("/v1/containers".into(), body(format!("c{n}"), false)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    let all = (0..8).map(|n| ask(format!("/v1/containers/c{n}/start"), String::new()));
    let answers = futures_util::future::join_all(all).await;
    let started = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(started, 3);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("no_room")), "{}", refused.text);
    }
    for n in 0..3 {
        ask(format!("/v1/containers/c{n}/start"), String::new()).await;
    }
    let answer = ask("/v1/containers".into(), body("more".into(), true)).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("of 3 that may"), "{}", answer.text);
    // One that ends makes room; administrators are not bounded.
    let running = server.request_as(Some(token), "GET", "/v1/containers", "").await.json();
    let one = running["items"].as_array().expect("items").iter().find(|c| c["state"] == "running").expect("one");
    let path = format!("/v1/containers/{}/stop", one["id"].as_str().expect("id"));
    assert_eq!(ask(path, String::new()).await.status, 200);
    let answer = ask("/v1/containers".into(), body("more".into(), true)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    for _ in 0..4 {
        berth_testkit::done(&server, &["run", "-d", "busybox", "sleep", "1000"]);
    }
    for name in ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "more"] {
        let path = format!("/v1/containers/{name}?force=true");
        assert_eq!(server.request_as(Some(token), "DELETE", &path, "").await.status, 204);
    }
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_asks_too_often_is_told_so() {
    if !is_root() {
        return;
    }
    let settings = "[core]\naccount_requests_per_s = 5\naccount_requests_burst = 20\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "often", settings).await;
    let all = (0..60).map(|_| server.request("GET", "/v1/containers", ""));
    let answers = futures_util::future::join_all(all).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && answers.iter().any(|answer| answer.status == 200));
    let problem = refused[0].json();
    assert_eq!(problem["code"], "too_many_requests", "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("more than 5 requests")), "{problem}");
    // Places come back.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_makes_nothing_that_lives_longer() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "expiry", "").await;
    let made =
        server.request("POST", "/v1/tokens", r#"{"name": "short", "role": "admin", "expires_in": 60}"#).await.json();
    let (short, end) = (made["token"].as_str().expect("token"), made["expires_at"].as_str().expect("an end"));
    let ask = async |method: &str, path: &str, body: &str| {
        let answer = server.request_as(Some(short), method, path, body.to_owned()).await;
        (answer.status, answer.json())
    };
    for body in [r#"{"name": "a"}"#, r#"{"name": "b", "expires_in": 3600}"#] {
        for path in ["/v1/tokens", "/v1/keys"] {
            let (status, made) = ask("POST", path, body).await;
            assert_eq!(status, 201, "{path}: {made}");
            let until = made["expires_at"].as_str().unwrap_or_else(|| panic!("{path} {body}: {made}"));
            assert!(until <= end, "{path}: {until} after {end}");
        }
    }
    // A key that never ends gives no secret to what does, nor is it enabled by it.
    let lasting = server.request("POST", "/v1/keys", r#"{"name": "lasting"}"#).await.json();
    let number = lasting["number"].as_i64().expect("number");
    assert_eq!(ask("POST", &format!("/v1/keys/{number}/rotate"), "{}").await.0, 403);
    assert_eq!(server.request("POST", &format!("/v1/keys/{number}/disable"), "").await.status, 200);
    assert_eq!(ask("POST", &format!("/v1/keys/{number}/enable"), "").await.0, 403);
    assert_eq!(server.request("POST", &format!("/v1/keys/{number}/enable"), "").await.status, 200);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_do_not_fill_the_audit_log() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "failures", "").await;
    for round in 0..3 {
        let all = (0..200).map(|_| server.request("DELETE", "/v1/containers/none", ""));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!(answer.status, 404, "{round}: {}", answer.text);
        }
    }
    let all = (0..900).map(|n| {
        let path = format!("/v1/containers/none{n}");
        let server = &server;
        async move { server.request("DELETE", &path, "").await.status }
    });
    assert!(futures_util::future::join_all(all).await.iter().all(|status| *status == 404));
    let listed = async || server.request("GET", "/v1/audit?failed=true&limit=1000", "").await.json()["items"].clone();
    let begun = std::time::Instant::now();
    loop {
        let items = listed().await;
        let items = items.as_array().expect("items");
        let counts: i64 = items.iter().map(|e| e["count"].as_i64().expect("a count")).sum();
        let same = items.iter().find(|e| e["action"] == "DELETE /v1/containers/none").expect("the same");
        if same["count"] == 600 && counts >= 1500 {
            assert!(items.len() < 700, "{} entries", items.len());
            assert!(items.iter().any(|e| e["action"] == "further failed requests"));
            break;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{counts} counted, the same {}", same["count"]);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    server.finish().await;
}
