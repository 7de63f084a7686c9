//! A thousand simulated hosts with ten thousand containers: how long what is asked of all of them takes, what the sampler costs
//! and what a reading takes on the disk. Needs root. Appends a Markdown table with `--out FILE`.
#![expect(clippy::too_many_lines, reason = "a benchmark tells one story")]

#[path = "../tests/fleet/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of the harness")]
mod harness;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_core::Settings;
use berth_engine::Engine;
use berth_store::{MeterReading, Point, Store, Used};
use harness::{Fleet, IMAGES, image};
use serde_json::Value;

const HOSTS: usize = 1000;
const ON_EACH: usize = 10;
const STEPS: [i64; 2] = [300_000, 3_600_000];
/// Containers whose whole day is simulated.
const OF_A_DAY: i64 = 500;
const DAY_MS: i64 = 86_400_000;

/// Processor time of this process so far.
fn cpu() -> Duration {
    // SAFETY: it writes the structure that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Median and 99th percentile of a request, milliseconds, and the bytes of its answer.
async fn request(fleet: &Fleet, method: &str, path: &str, times: usize) -> (f64, f64, usize) {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for _ in 0..times {
        let (answer, length, took) = fleet.timed(method, path, Value::Null).await;
        assert!(answer.is_object(), "{path}: no answer");
        assert!(answer["code"].is_null() || answer["code"] == 200, "{path}: {answer}");
        all.push(took.as_secs_f64() * 1000.0);
        bytes = length;
    }
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[all.len() * 99 / 100], bytes)
}

/// 31 days of five-minute sums, as the sampler would have left them.
fn a_month(file: &std::path::Path, account: i64, machines: &[i64]) {
    let mut database = rusqlite::Connection::open(file).expect("database");
    database.busy_timeout(Duration::from_secs(60)).expect("timeout");
    let last = now() / STEPS[0] * STEPS[0];
    let hosts = machines.iter().map(|id| ("host", id.to_string(), ON_EACH));
    let of_images = (0..IMAGES).map(|n| ("image", image(n), HOSTS * ON_EACH / IMAGES));
    let of_versions = (0..IMAGES).map(|n| ("version", format!("{}:1", image(n)), HOSTS * ON_EACH / IMAGES));
    for (kind, key, count) in hosts.chain(of_images).chain(of_versions) {
        let tx = database.transaction().expect("transaction");
        {
            let mut add = tx
                .prepare_cached("INSERT OR IGNORE INTO sums VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")
                .expect("statement");
            for n in 1..=31 * 288 {
                let (at, count) = (last - n * STEPS[0], count as i64);
                let bytes = count * (40_000_000 + n % 288 * 100_000);
                let values = rusqlite::params![
                    kind,
                    account,
                    key,
                    at,
                    count,
                    count * STEPS[0],
                    count * 9_000_000,
                    count * 64 * STEPS[0],
                    0,
                    bytes / 20,
                    bytes
                ];
                add.execute(values).expect("insert");
            }
        }
        tx.commit().expect("commit");
    }
}

/// A day of readings of some containers through the store: bytes a reading, all in, and seconds of adding up for each container
/// and five minutes.
async fn a_day() -> (f64, f64) {
    let folder = std::env::temp_dir().join(format!("berth-bench-day-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let file = folder.join("berth.db");
    let store = Store::open(&file).expect("store");
    let size = || {
        let database = rusqlite::Connection::open(&file).expect("database");
        database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpoint");
        std::fs::metadata(&file).expect("file").len()
    };
    {
        let database = rusqlite::Connection::open(&file).expect("database");
        database.execute_batch("INSERT INTO accounts (id, name, created_at) VALUES (1, 'a', 0)").expect("account");
        for n in 0..OF_A_DAY {
            let sql = "INSERT INTO containers (uid, account_id, name, image, image_digest, layers, spec, wanted, state, run,
                       detail, created_at, host_id) VALUES (?1, 1, ?1, ?2, '', '', '', 'running', 'running', 1, '{}', 5, ?3)";
            let values = rusqlite::params![format!("u{n}"), format!("{}:1", image(n as usize)), n / ON_EACH as i64];
            database.execute(sql, values).expect("container");
        }
    }
    let meters: Vec<i64> = store
        .write::<_, berth_store::Error, _>(move |tx| {
            let mut meters = Vec::new();
            for container in 1..=OF_A_DAY {
                let of = tx.measured(container)?.expect("container");
                let name = image(container as usize);
                let (live, ended_at, image) = (true, None, format!("{name}:1"));
                let new = MeterReading { last: "{}".into(), live, ended_at, image, image_name: name };
                meters.push(tx.meter_note(&of, &new)?.expect("meter"));
            }
            Ok(meters)
        })
        .await
        .expect("meters");
    let before = size();
    let begin = (now() - 2 * DAY_MS) / STEPS[1] * STEPS[1];
    let mut random = 1u64;
    let mut adding_up = Duration::ZERO;
    for round in 0..DAY_MS / 10_000 {
        let points: Vec<(i64, Point)> = meters
            .iter()
            .map(|meter| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let noise = (random >> 40) as i64;
                // Readings come some milliseconds after the full ten seconds, each time others.
                let jitter = |round: i64| (round * 7919 + meter * 104_729) % 23;
                let at = begin + (round + 1) * 10_000 + jitter(round + 1);
                let since = begin + round * 10_000 + jitter(round);
                let out = 1_000_000 + noise % 3_000_000;
                let used = Used {
                    ran: at - since,
                    cpu: 200_000 + noise % 400_000,
                    memory: (at - since) * (60 + noise % 8),
                    disk: (at - since) * 5,
                    block_read: 0,
                    block_write: if noise % 4 == 0 { 4096 * (noise % 64) } else { 0 },
                    rx_bytes: out / 20,
                    rx_packets: out / 2800,
                    tx_bytes: out,
                    tx_packets: out / 1400,
                };
                (*meter, Point { at, since, used })
            })
            .collect();
        store.write::<_, berth_store::Error, _>(move |tx| tx.round_add(&points, STEPS)).await.expect("round");
        let until = begin + (round + 1) * 10_000;
        // As the sampler does it: a minute late.
        if (until - 60_000 - begin) % STEPS[0] == 0 && until - 60_000 > begin {
            let started = cpu();
            store
                .write::<_, berth_store::Error, _>(move |tx| tx.points_add_up(until - 60_000, STEPS))
                .await
                .expect("sum");
            adding_up += cpu() - started;
        }
    }
    let until = begin + DAY_MS;
    store.write::<_, berth_store::Error, _>(move |tx| tx.points_add_up(until, STEPS)).await.expect("sum");
    let bytes = (size() - before) as f64;
    drop(store);
    std::fs::remove_dir_all(&folder).expect("clean");
    let samples = (OF_A_DAY * DAY_MS / 10_000) as f64;
    (bytes / samples, adding_up.as_secs_f64() / (288 * OF_A_DAY) as f64)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut out = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--out" {
            out = arguments.next();
        }
    }
    let mut rows: Vec<(String, String, &str)> = Vec::new();
    // The sampler runs when it is measured.
    let settings = Settings { measure_period_s: 86_400, disk_high_percent: 0, ..Settings::default() };
    let fleet = Arc::new(Fleet::new("bench", HOSTS, settings).await);
    let begun = Instant::now();
    let made = fleet.deploy(ON_EACH).await.len();
    let took = begun.elapsed().as_secs_f64();
    rows.push((
        format!("{made} containers made by `create`, all jobs done"),
        format!("{:.0} a second", made as f64 / took),
        "",
    ));

    let mut sampled = Vec::new();
    for round in 0..12u64 {
        for (number, id) in fleet.engine.list().await.expect("units").iter().enumerate() {
            fleet.engine.add_traffic(id, 1000 + number as u64 % 777 * (round + 1), 50_000 + number as u64 * 3);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = cpu();
        fleet.core.sample().await.expect("sampled");
        sampled.push((cpu() - started).as_secs_f64());
    }
    let read = |tx: &berth_store::Tx<'_>| Ok::<_, berth_store::Error>(tx.meters_to_read()?.len());
    assert_eq!(fleet.store.read(read).await.expect("read"), HOSTS * ON_EACH, "all are read");
    sampled.sort_by(f64::total_cmp);
    let round = sampled[sampled.len() / 2];
    let (bytes, adding_up) = a_day().await;
    let share = (round / 10.0 + adding_up * (HOSTS * ON_EACH) as f64 / 300.0) * 100.0;
    rows.push((
        format!("sampler: {:.0} ms of a core every 10 s, {:.0} ms every 5 min", round * 1e3, adding_up * 1e7),
        format!("{share:.2} % of a core"),
        "5 %",
    ));
    rows.push((
        format!(
            "store after a day of {OF_A_DAY} containers, every reading kept, five minutes, hours and sums beside them"
        ),
        format!("{bytes:.1} bytes a reading"),
        "100",
    ));

    let machines: Vec<i64> = fleet.core.hosts().await.expect("hosts").iter().map(|m| m.id).collect();
    let file = fleet.folder.join("berth.db");
    let account = fleet.caller.account;
    tokio::task::spawn_blocking(move || a_month(&file, account, &machines)).await.expect("a month");
    let (from, to) = (now() - 31 * DAY_MS + 60_000, now());
    let zone = |ms: i64| {
        let text =
            format!("{}", jiff::Timestamp::from_millisecond(ms).expect("time").to_zoned(jiff::tz::TimeZone::UTC));
        format!("{}%20{}", &text[..10], &text[11..19])
    };
    let uuid = fleet.core.hosts().await.expect("hosts")[HOSTS / 2].facts.id.clone();
    let month = format!("startDate={}&endDate={}", zone(from), zone(to - STEPS[1] * 9));
    let asked = [
        ("`/container/list` of a host", "POST", format!("/tingyu/container/list?uuid=tingyu-{uuid}"), 200, "50 ms"),
        ("`/node/list`, a thousand hosts", "GET", "/tingyu/node/list".into(), 40, "50 ms"),
        ("native list, a page of 1000", "GET", "/v1/containers?limit=1000".into(), 40, "50 ms"),
        (
            "31 days by image, one of 20",
            "GET",
            format!("/tingyu/info/bandWith/getByImage?image=edge07&{month}"),
            40,
            "200 ms",
        ),
        (
            "31 days by version, one of 20",
            "GET",
            format!("/tingyu/info/bandWith/getByImageVersion?imageVersion=edge07:1&{month}"),
            40,
            "",
        ),
        (
            "31 days of resource use by image",
            "GET",
            format!("/tingyu/info/resourceUse/getByImage?image=edge07&{month}"),
            40,
            "",
        ),
        (
            "31 days by image, natively",
            "GET",
            format!("/v1/bandwidth?by=image&key=edge07&from={}&to={}", from / 1000, to / 1000),
            40,
            "",
        ),
        ("31 days, each of 20 images", "GET", format!("/tingyu/info/bandWith/getByImage?{month}"), 5, ""),
        (
            "a day, each of a thousand hosts",
            "GET",
            format!("/v1/bandwidth?by=host&from={}&to={}", to / 1000 - 86_400, to / 1000),
            3,
            "",
        ),
    ];
    for (what, method, path, times, target) in asked {
        let (median, p99, bytes) = request(&fleet, method, &path, times).await;
        let size = if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
        rows.push((format!("{what} ({size})"), format!("{median:.1} ms, p99 {p99:.1}"), target));
    }
    let begun = Instant::now();
    fleet.core.usage(&fleet.caller, true, 0, i64::MAX / 2).await.expect("usage");
    rows.push(("usage of all, read at once".into(), format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1e3), ""));

    let mut text = String::from("\n## A thousand hosts, ten thousand containers\n\n");
    text += "On the engine in memory, with SQLite on the disk; requests within the process, without a socket. Median of a dozen rounds of the\n";
    text += "sampler; a day is simulated reading by reading with traffic that varies, with jitter, and 31 days of five-minute sums are filled in.\n\n";
    text += "| | measured | target |\n|---|---|---|\n";
    for (what, measured, target) in &rows {
        text += &format!("| {what} | {measured} | {target} |\n");
    }
    print!("{text}");
    if let Some(out) = out {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&out);
        file.and_then(|mut file| file.write_all(text.as_bytes())).unwrap_or_else(|error| panic!("{out}: {error}"));
    }
}
