//! `/metrics` in Prometheus' text format. Totals of the machine for everybody on loopback, and for whoever shows a token elsewhere;
//! containers for those who may see them: an administrator's token shows all, a user's its account's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Core, HealthStatus, Watched};

use crate::{Api, http};

/// Upper bounds of the latency histogram, seconds.
const BOUNDS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

#[derive(Debug, Default)]
struct Requests {
    count: u64,
    seconds: f64,
    buckets: [u64; BOUNDS.len()],
}

type Reading = fn(&Watched) -> Option<f64>;

/// Counters of this process.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    requests: Mutex<BTreeMap<(&'static str, u16), Requests>>,
}

impl Meters {
    pub(crate) fn request(&self, dialect: &'static str, status: u16, elapsed: Duration) {
        let mut all = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry((dialect, status)).or_default();
        let seconds = elapsed.as_secs_f64();
        entry.count += 1;
        entry.seconds += seconds;
        for (bucket, bound) in entry.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What is told of each container: name, kind, help, value.
const READINGS: [(&str, &str, &str, Reading); 17] = [
    ("cpu_seconds_total", "counter", "CPU time of its current run.", |w| Some(w.stats.as_ref()?.cpu_ns as f64 / 1e9)),
    ("memory_bytes", "gauge", "Memory in use, without page cache that can be dropped.", |w| {
        Some(w.stats.as_ref()?.memory as f64)
    }),
    ("memory_limit_bytes", "gauge", "Memory that it may use.", |w| Some(w.stats.as_ref()?.memory_limit as f64)),
    ("cpu_limit", "gauge", "CPUs that it may use; nothing without a limit.", |w| {
        w.container.spec.cpu_milli.map(|milli| milli as f64 / 1000.0)
    }),
    ("pids", "gauge", "Processes and threads.", |w| Some(w.stats.as_ref()?.pids as f64)),
    ("oom_kills_total", "counter", "Processes of its current run that the OOM killer ended.", |w| {
        Some(w.stats.as_ref().map_or(w.container.oom_kills, |s| s.oom_kills) as f64)
    }),
    ("block_read_bytes_total", "counter", "Bytes read from block devices in its current run.", |w| {
        Some(w.stats.as_ref()?.block_read as f64)
    }),
    ("block_write_bytes_total", "counter", "Bytes written to block devices in its current run.", |w| {
        Some(w.stats.as_ref()?.block_write as f64)
    }),
    ("network_receive_bytes_total", "counter", "Bytes that came in, in its whole life.", |w| {
        Some(w.stats.as_ref()?.traffic.rx_bytes as f64)
    }),
    ("network_transmit_bytes_total", "counter", "Bytes that went out, in its whole life.", |w| {
        Some(w.stats.as_ref()?.traffic.tx_bytes as f64)
    }),
    ("network_receive_packets_total", "counter", "Packets that came in, in its whole life.", |w| {
        Some(w.stats.as_ref()?.traffic.rx_packets as f64)
    }),
    ("network_transmit_packets_total", "counter", "Packets that went out, in its whole life.", |w| {
        Some(w.stats.as_ref()?.traffic.tx_packets as f64)
    }),
    ("running", "gauge", "1 while it runs.", |w| Some(f64::from(u8::from(w.container.state.is_live())))),
    ("restarts", "gauge", "How often it was started again by itself since somebody started it.", |w| {
        Some(f64::from(w.container.restarts))
    }),
    ("start_time_seconds", "gauge", "When its current run began, seconds since 1970.", |w| {
        w.container.started_at.filter(|_| w.container.state.is_live()).map(|at| at as f64 / 1e9)
    }),
    ("exit_code", "gauge", "Exit code of the last run, of one that does not run.", |w| {
        Some(f64::from(w.container.exit.as_ref().filter(|_| !w.container.state.is_live())?.code))
    }),
    ("healthy", "gauge", "1 if its health check is good, 0 if it is not; nothing without one.", |w| {
        match w.container.health.as_ref().filter(|_| w.container.state.is_live())?.status {
            HealthStatus::Healthy => Some(1.0),
            HealthStatus::Unhealthy => Some(0.0),
            HealthStatus::Starting => None,
        }
    }),
];

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn requests(text: &mut String, meters: &Meters) {
    family(text, "berth_http_request_seconds", "histogram", "Time from request to answer.");
    for ((dialect, status), entry) in &*meters.requests.lock().unwrap_or_else(PoisonError::into_inner) {
        let labels = format!("dialect=\"{dialect}\",status=\"{status}\"");
        for (bucket, bound) in entry.buckets.iter().zip(BOUNDS) {
            let _ = writeln!(text, "berth_http_request_seconds_bucket{{{labels},le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(text, "berth_http_request_seconds_bucket{{{labels},le=\"+Inf\"}} {}", entry.count);
        let _ = writeln!(text, "berth_http_request_seconds_sum{{{labels}}} {}", entry.seconds);
        let _ = writeln!(text, "berth_http_request_seconds_count{{{labels}}} {}", entry.count);
    }
}

fn durations(text: &mut String, core: &Core) {
    let meters = core.meters();
    for (name, help, all) in [
        ("berth_container_start_seconds", "Time from a start until the program runs.", &meters.starts),
        ("berth_image_pull_seconds", "Time of a fetch from a registry.", &meters.pulls),
        ("berth_command_seconds", "Time of a command from when it was accepted to its end.", core.command_durations()),
    ] {
        family(text, name, "histogram", help);
        *text += &all.lines(name);
    }
    let load = core.database_load();
    family(text, "berth_database_write_seconds", "histogram", "Time of a write until it is on disk.");
    *text += &load.writes.lines("berth_database_write_seconds", "");
    family(text, "berth_database_writes_waiting", "gauge", "Writes that wait or are under way.");
    let _ = writeln!(text, "berth_database_writes_waiting {}", load.waiting.load(std::sync::atomic::Ordering::Relaxed));
    family(
        text,
        "berth_database_queue_depth",
        "histogram",
        "Writes that waited or were under way when one more was asked for.",
    );
    *text += &load.depth.lines("berth_database_queue_depth", "");
}

fn containers(text: &mut String, all: &[Watched]) {
    let labels: Vec<String> = all
        .iter()
        .map(|w| {
            let c = &w.container;
            let (name, image, account) = (escaped(&c.name), escaped(&c.image), escaped(&w.account));
            format!("id=\"{}\",name=\"{name}\",image=\"{image}\",account=\"{account}\"", c.uid)
        })
        .collect();
    for (name, kind, help, value) in READINGS {
        let name = format!("berth_container_{name}");
        family(text, &name, kind, help);
        for (watched, labels) in all.iter().zip(&labels) {
            if let Some(value) = value(watched) {
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
}

pub(crate) async fn render(State(api): State<Api>, request: axum::extract::Request) -> Response {
    let refused = |status, detail: &str| {
        let problem = crate::native::error::Error::new(status, "unauthorized", detail);
        problem.into_response()
    };
    let local = http::client_address(request.extensions()).is_some_and(|from| from.to_canonical().is_loopback());
    let caller = match http::token_of(request.headers()) {
        Some(token) => match api.core.identity().authenticate(&token).await {
            Ok(Some(caller)) => Some(caller),
            Ok(None) => return refused(StatusCode::UNAUTHORIZED, "the token is unknown, expired or revoked"),
            Err(error) => return crate::native::error::Error::from(error).into_response(),
        },
        None => None,
    };
    if caller.is_none() && !local {
        return refused(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …");
    }
    let mut text = String::new();
    family(&mut text, "berth_build_info", "gauge", "The running version.");
    let _ = writeln!(text, "berth_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    requests(&mut text, &api.meters);
    durations(&mut text, &api.core);
    let host = match api.core.host_info().await {
        Ok(host) => host,
        Err(error) => return crate::native::error::Error::from(error).into_response(),
    };
    for (name, help, value) in [
        ("berth_host_cpus", "CPUs of the host.", host.cpus as f64),
        ("berth_host_memory_bytes", "Memory of the host.", host.memory as f64),
        ("berth_host_memory_available_bytes", "Memory available on the host.", host.memory_available as f64),
        ("berth_host_disk_free_bytes", "Disk free for images and containers.", host.disk_free as f64),
        ("berth_host_load1", "Mean number of running tasks in a minute.", host.load),
    ] {
        family(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name} {value}");
    }
    if let Ok(states) = api.core.container_states().await {
        family(&mut text, "berth_containers", "gauge", "Containers by state.");
        for (state, count) in states {
            let _ = writeln!(text, "berth_containers{{state=\"{state}\"}} {count}");
        }
    }
    if let Some(caller) = caller {
        match api.core.watched(&caller).await {
            Ok(all) => containers(&mut text, &all),
            Err(error) => return crate::native::error::Error::from(error).into_response(),
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
