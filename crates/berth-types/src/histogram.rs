//! Counting how long things take, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, seconds.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// How long something took, as Prometheus counts it.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Of each bucket alone; the last one is beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lines of Prometheus' text format; `labels` such as `result="failed"`, or empty.
    pub fn lines(&self, name: &str, labels: &str) -> String {
        use std::fmt::Write;
        let comma = if labels.is_empty() { "" } else { "," };
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let (mut text, mut count) = (String::new(), 0);
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS.map(|b| b.to_string()).into_iter().chain(["+Inf".into()]))
        {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_sum{braces} {}", self.microseconds.load(Ordering::Relaxed) as f64 / 1e6);
        let _ = writeln!(text, "{name}_count{braces} {count}");
        text
    }
}

/// The same thing, well done and failed.
#[derive(Debug, Default)]
pub struct Outcomes {
    good: Histogram,
    failed: Histogram,
}

impl Outcomes {
    /// Counts one.
    pub fn observe(&self, good: bool, took: Duration) {
        if good { &self.good } else { &self.failed }.observe(took);
    }

    /// Lines of Prometheus' text format, with the label `result`.
    pub fn lines(&self, name: &str) -> String {
        self.good.lines(name, "result=\"success\"") + &self.failed.lines(name, "result=\"failed\"")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Histogram;

    #[test]
    fn buckets_add_up() {
        let histogram = Histogram::default();
        for ms in [1, 3, 3, 700_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let text = histogram.lines("x", "a=\"b\"");
        assert!(
            text.contains("x_bucket{a=\"b\",le=\"0.001\"} 1\n") && text.contains("x_bucket{a=\"b\",le=\"0.005\"} 3\n")
        );
        assert!(
            text.contains("le=\"600\"} 3\n")
                && text.contains("le=\"+Inf\"} 4\n")
                && text.contains("x_count{a=\"b\"} 4\n")
        );
        assert!(histogram.lines("x", "").contains("x_sum 700.007\n"));
    }
}
