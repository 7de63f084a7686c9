//! `/metrics` in Prometheus' text format. Totals for everybody; names of containers only for an administrator's token.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use berth_core::Role;

use crate::{Api, http};

/// Upper bounds of the latency histogram, seconds.
const BOUNDS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

#[derive(Debug, Default)]
struct Requests {
    count: u64,
    seconds: f64,
    buckets: [u64; BOUNDS.len()],
}

type Reading = fn(&berth_engine::Stats) -> f64;

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

pub(crate) async fn render(State(api): State<Api>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    let _ = writeln!(text, "# HELP berth_build_info The running version.\n# TYPE berth_build_info gauge");
    let _ = writeln!(text, "berth_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "# HELP berth_http_request_seconds Time from request to answer.");
    let _ = writeln!(text, "# TYPE berth_http_request_seconds histogram");
    for ((dialect, status), entry) in &*api.meters.requests.lock().unwrap_or_else(PoisonError::into_inner) {
        let labels = format!("dialect=\"{dialect}\",status=\"{status}\"");
        for (bucket, bound) in entry.buckets.iter().zip(BOUNDS) {
            let _ = writeln!(text, "berth_http_request_seconds_bucket{{{labels},le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(text, "berth_http_request_seconds_bucket{{{labels},le=\"+Inf\"}} {}", entry.count);
        let _ = writeln!(text, "berth_http_request_seconds_sum{{{labels}}} {}", entry.seconds);
        let _ = writeln!(text, "berth_http_request_seconds_count{{{labels}}} {}", entry.count);
    }
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
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    if let Ok(states) = api.core.container_states().await {
        let _ = writeln!(text, "# HELP berth_containers Containers by state.\n# TYPE berth_containers gauge");
        for (state, count) in states {
            let _ = writeln!(text, "berth_containers{{state=\"{state}\"}} {count}");
        }
    }
    let caller = match http::token_of(&headers) {
        Some(token) => api.core.identity().authenticate(&token).await.ok().flatten(),
        None => None,
    };
    if let Some(caller) = caller.filter(|c| c.role == Role::Admin)
        && let Ok(all) = api.core.container_usage(&caller, &[], Duration::ZERO).await
    {
        let fields: [(&str, &str, Reading); 9] = [
            ("berth_container_cpu_seconds_total", "counter", |s| s.cpu_ns as f64 / 1e9),
            ("berth_container_memory_bytes", "gauge", |s| s.memory as f64),
            ("berth_container_memory_limit_bytes", "gauge", |s| s.memory_limit as f64),
            ("berth_container_pids", "gauge", |s| s.pids as f64),
            ("berth_container_oom_kills_total", "counter", |s| s.oom_kills as f64),
            ("berth_container_block_read_bytes_total", "counter", |s| s.block_read as f64),
            ("berth_container_block_write_bytes_total", "counter", |s| s.block_write as f64),
            ("berth_container_network_receive_bytes_total", "counter", |s| s.traffic.rx_bytes as f64),
            ("berth_container_network_transmit_bytes_total", "counter", |s| s.traffic.tx_bytes as f64),
        ];
        for (name, kind, value) in fields {
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for usage in &all {
                let labels = format!("id=\"{}\",name=\"{}\"", usage.uid, escaped(&usage.name));
                let _ = writeln!(text, "{name}{{{labels}}} {}", value(&usage.stats));
            }
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
