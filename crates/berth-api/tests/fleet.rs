//! A thousand hosts with ten thousand containers: what is asked of all of them is answered, counted and rolled out right.

#[path = "fleet/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of the harness")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_core::{Grouped, Settings};
use berth_engine::Engine;
use harness::{AREAS, Fleet, IMAGES, OPERATORS, image};
use serde_json::{Value, json};

const HOSTS: usize = 1000;
const ON_EACH: usize = 10;
const STEPS: [i64; 2] = [300_000, 3_600_000];

fn settings() -> Settings {
    Settings { disk_high_percent: 0, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hosts_with_ten_thousand_containers() {
    let fleet = Arc::new(Fleet::new("many", HOSTS, settings()).await);
    let jobs = fleet.deploy(ON_EACH).await;
    assert_eq!(jobs.iter().collect::<BTreeSet<_>>().len(), HOSTS * ON_EACH);

    all_is_told(&fleet, &jobs).await;
    a_browser_shows_all(&fleet).await;
    all_adds_up(&fleet).await;
    a_roll_out_goes_where_it_should(&fleet).await;
    a_host_that_is_away_is_told(&fleet).await;
}

/// `console/test/scale.mjs` looks at them in a real Chromium.
async fn a_browser_shows_all(fleet: &Arc<Fleet>) {
    use std::io::{BufRead, BufReader, Write};

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../console");
    let has = |name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).exists())
    };
    if !(has("node") && has("chromium") && std::path::Path::new(folder).join("dist/index.html").exists()) {
        let all = std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_some();
        assert!(!all, "a test can't run: it needs node, chromium and the bundle (make console)");
        println!("skipped: the console over ten thousand containers needs node, chromium and the bundle");
        return;
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    let served = tokio::spawn(axum::serve(listener, fleet.router.clone()).into_future());
    let mut browser = std::process::Command::new("node")
        .args(["test/scale.mjs", &format!("http://{address}"), &fleet.token])
        .current_dir(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start node");
    let mut answers = browser.stdin.take().expect("standard input");
    let asked = BufReader::new(browser.stdout.take().expect("standard output"));
    let (lines, mut asked_for) = tokio::sync::mpsc::channel(1);
    let reader = std::thread::spawn(move || asked.lines().for_each(|line| drop(lines.blocking_send(line))));
    while let Some(line) = asked_for.recv().await {
        let line = line.expect("read");
        let made = match line.strip_prefix("update ").and_then(|n| n.parse().ok()) {
            Some(seconds) => updates(fleet, Duration::from_secs(seconds)).await,
            None => resume_all(fleet).await,
        };
        answers.write_all(format!("{made}\n").as_bytes()).expect("answer");
    }
    reader.join().expect("reader");
    let status = browser.wait().expect("wait for node");
    served.abort();
    assert!(status.success(), "the browser's test failed: {status}");
}

/// Lets all go on that are paused; how many.
async fn resume_all(fleet: &Arc<Fleet>) -> usize {
    let list = fleet.native("GET", "/v1/containers/summary?state=paused&limit=1000", Value::Null).await;
    let paused = list["items"].as_array().expect("items");
    for container in paused {
        let id = container["id"].as_str().expect("id");
        fleet.native("POST", &format!("/v1/containers/{id}/resume"), json!({})).await;
    }
    paused.len()
}

/// Pauses containers and lets them go on, the newest, 500 times a second; how many times. At the end every other one is paused.
async fn updates(fleet: &Arc<Fleet>, time: Duration) -> usize {
    let list = fleet.native("GET", "/v1/containers/summary?descending=true&limit=100", Value::Null).await;
    let ids: Vec<String> =
        list["items"].as_array().expect("items").iter().map(|c| c["id"].as_str().expect("id").to_owned()).collect();
    let ends = tokio::time::Instant::now() + time;
    let mut beat = tokio::time::interval(Duration::from_millis(40));
    let mut made = 0;
    let mut what = ["resume", "pause"];
    'all: loop {
        what.reverse();
        for some in ids.chunks(20) {
            beat.tick().await;
            if tokio::time::Instant::now() >= ends && what[0] == "pause" {
                break 'all;
            }
            let each = some.iter().map(|id| {
                let path = format!("/v1/containers/{id}/{}", what[0]);
                async move { fleet.native("POST", &path, json!({})).await }
            });
            made += futures_util::future::join_all(each).await.len();
        }
    }
    for id in ids.iter().step_by(2) {
        fleet.native("POST", &format!("/v1/containers/{id}/pause"), json!({})).await;
    }
    made
}

async fn all_is_told(fleet: &Fleet, jobs: &[String]) {
    let of_host = fleet.native("GET", "/v1/containers/summary?host=7&limit=1", Value::Null).await;
    assert_eq!(of_host["total"], ON_EACH, "only those of the host: {of_host}");
    let used = fleet.native("GET", "/v1/hosts/7/use", Value::Null).await;
    assert_eq!((&used["running"], &used["cpus_allotted"]), (&json!(ON_EACH), &json!(ON_EACH as f64)), "{used}");
    let nodes = fleet.call("GET", "/node/list", Value::Null).await;
    let nodes = nodes["data"].as_array().expect("nodes");
    assert_eq!(nodes.len(), HOSTS);
    assert!(nodes.iter().all(|node| node["status"] == "Ready"), "{}", nodes[0]);
    assert_eq!(nodes.iter().filter(|n| n["area"] == AREAS[3] && n["operator"] == OPERATORS[1]).count(), 33);

    for uuid in [&nodes[0]["uuid"], &nodes[HOSTS - 1]["uuid"]] {
        let path = format!("/container/list?uuid={}", uuid.as_str().expect("uuid"));
        let list = fleet.call("POST", &path, Value::Null).await;
        assert_eq!(list["data"].as_array().map(Vec::len), Some(ON_EACH), "{list}");
    }
    for jobs in jobs.chunks(500) {
        let status = fleet.call("GET", &format!("/task/status?jobid={}", jobs.join(",")), Value::Null).await;
        let info = status["info"].as_array().unwrap_or_else(|| panic!("{status}"));
        assert_eq!(info.len(), jobs.len());
        assert!(info.iter().all(|job| job["state"] == 3), "{:?}", info.iter().find(|job| job["state"] != 3));
    }

    let (mut after, mut seen) = (0, BTreeSet::new());
    loop {
        let page = fleet.core.containers(&fleet.caller, None, after, 999).await.expect("page").items;
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.into_iter().map(|c| (c.host, c.name)));
    }
    assert_eq!(seen.len(), HOSTS * ON_EACH);
    assert_eq!(seen.iter().map(|(host, _)| host).collect::<BTreeSet<_>>().len(), HOSTS);
}

/// The sum over containers is the sum over hosts, images and versions, and what the engine's counters show.
async fn all_adds_up(fleet: &Fleet) {
    let mut total = (0, 0);
    for (number, id) in fleet.engine.list().await.expect("units").iter().enumerate() {
        let (rx, tx) = (1000 + number as u64 * 7, 3_000_000 + number as u64 * 11);
        fleet.engine.add_traffic(id, rx, tx);
        total = (total.0 + rx as i64, total.1 + tx as i64);
    }
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    // Reads all counters.
    let usage = fleet.core.usage(&fleet.caller, true, 0, i64::MAX / 2).await.expect("usage");
    let sum = usage.iter().fold((0, 0), |sum, u| (sum.0 + u.used.rx_bytes, sum.1 + u.used.tx_bytes));
    assert_eq!((usage.len(), sum), (HOSTS * ON_EACH, total), "over containers");
    // Ahead of its time.
    let until = (now() / STEPS[0] + 1) * STEPS[0];
    fleet.store.write(move |tx| tx.points_add_up(until, STEPS)).await.expect("added up");
    for (kind, keys) in
        [(Grouped::Account, 1), (Grouped::Host, HOSTS), (Grouped::Image, IMAGES), (Grouped::Version, IMAGES)]
    {
        let points =
            fleet.core.series(&fleet.caller, kind, None, now() - 3_600_000, until).await.expect("points").points;
        let sum = points.iter().fold((0, 0), |sum, p| (sum.0 + p.rx_bytes, sum.1 + p.tx_bytes));
        let found: BTreeMap<_, i64> = points.iter().fold(BTreeMap::new(), |mut all, point| {
            *all.entry(point.key.clone()).or_default() += point.containers;
            all
        });
        assert_eq!((sum, found.len()), (total, keys), "{kind:?}");
    }
    let one = &usage[usage.len() / 2];
    let points = fleet.core.series(&fleet.caller, Grouped::Container, Some(&one.name), now() - 3_600_000, until).await;
    let points = points.expect("points").points;
    assert_eq!(points.iter().map(|p| p.tx_bytes).sum::<i64>(), one.used.tx_bytes, "{}", one.name);
    let again = fleet.core.usage(&fleet.caller, true, 0, i64::MAX / 2).await.expect("usage");
    assert_eq!(again.iter().map(|u| u.used.tx_bytes).sum::<i64>(), total.1, "nothing twice");
}

async fn versions(fleet: &Fleet, of: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for container in fleet.core.containers(&fleet.caller, None, 0, u32::MAX - 1).await.expect("list").items {
        if let Some((_, version)) = container.image.split_once(':').filter(|(name, _)| *name == of) {
            found.entry(version.to_owned()).or_default().insert(container.name);
        }
    }
    found
}

async fn a_roll_out_goes_where_it_should(fleet: &Fleet) {
    let (area, operator, of) = (AREAS[3], OPERATORS[1], image(10));
    // Whose host is there, and whose image that is.
    let machines = fleet.core.hosts().await.expect("hosts");
    let there = |number: usize| {
        let host = &machines[number / ON_EACH];
        host.area == area && host.operator == operator && image(number) == of
    };
    let meant: BTreeSet<String> = (0..HOSTS * ON_EACH).filter(|n| there(*n)).map(|n| format!("d{n}")).collect();
    assert!(meant.len() >= 10, "{meant:?}");
    let roll_out = |percent: u32, version: &str| {
        let path = format!(
            "/container/updateByInherit?area={area}&operator={operator}&percent={percent}&image={of}&imageversion={version}"
        );
        let path: String =
            path.bytes().map(|b| if b.is_ascii() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
        async move {
            let answer = fleet.call("PUT", &path, Value::Null).await;
            assert_eq!(answer, json!({"msg": "success", "code": 200, "data": null}));
            fleet.settle().await;
        }
    };
    roll_out(20, "2").await;
    let fifth = versions(fleet, &of).await.remove("2").expect("a fifth");
    assert_eq!(fifth.len(), meant.len().div_ceil(5));
    assert!(fifth.is_subset(&meant), "{fifth:?} of {meant:?}");
    // It goes wrong on the first of them, which goes back.
    roll_out(20, "bad").await;
    let after = versions(fleet, &of).await;
    assert_eq!((after.get("bad"), after.get("2")), (None, Some(&fifth)));
    roll_out(100, "2").await;
    assert_eq!(versions(fleet, &of).await.get("2"), Some(&meant), "those that were there first, and the rest");
    assert!(!versions(fleet, &image(1)).await.contains_key("2"), "of another image");
}

async fn a_host_that_is_away_is_told(fleet: &Fleet) {
    let away = fleet.core.hosts().await.expect("hosts").remove(7);
    fleet.engine.set_reached(&away.facts.id, false);
    let begun = std::time::Instant::now();
    loop {
        let answer = fleet.call("GET", "/node/list", Value::Null).await;
        let node =
            answer["data"].as_array().and_then(|all| all.iter().find(|node| node["nodename"] == away.name.as_str()));
        let status = &node.expect("it stays on the list")["status"];
        if status == "NotReady" {
            break;
        }
        assert_eq!(status, "Ready");
        assert!(begun.elapsed() < Duration::from_secs(120), "its lease does not run out");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let item = |host: &str, name: &str| json!({"uuid": format!("tingyu-{host}"), "image": image(0), "imageversion": "1", "deploymentname": name});
    let other = fleet.core.hosts().await.expect("hosts").remove(8).facts.id;
    let both = json!([item(&away.facts.id, "late1"), item(&other, "late2")]);
    let answer = fleet.call("POST", "/container/create", both).await;
    let codes: Vec<_> = answer["data"].as_array().expect("items").iter().map(|i| (&i["code"], &i["message"])).collect();
    assert_eq!(codes, [(&json!(500), &json!("Node is not ready")), (&json!(200), &json!("success"))], "{answer}");
    fleet.settle().await;
}
