//! Counting how long things take, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BUCKETS: usize = 14;
/// Upper bounds of the buckets of times, seconds.
const SECONDS: [f64; BUCKETS] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Upper bounds of the buckets of numbers of things.
const NUMBERS: [f64; BUCKETS] =
    [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];

/// How long something took, or how many there were, as Prometheus counts it.
#[derive(Debug)]
pub struct Histogram {
    bounds: [f64; BUCKETS],
    /// Of each bucket alone; the last one is beyond all bounds.
    buckets: [AtomicU64; BUCKETS + 1],
    millionths: AtomicU64,
}

impl Default for Histogram {
    /// Of times.
    fn default() -> Self {
        Self { bounds: SECONDS, buckets: Default::default(), millionths: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// One of numbers of things: the length of a queue whenever something joins it.
    pub fn of_numbers() -> Self {
        Self { bounds: NUMBERS, ..Self::default() }
    }

    /// Counts one that took so long.
    pub fn observe(&self, took: Duration) {
        self.count(took.as_secs_f64(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts one with so many.
    pub fn observe_number(&self, number: u32) {
        self.count(f64::from(number), u64::from(number) * 1_000_000);
    }

    fn count(&self, value: f64, millionths: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(BUCKETS);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.millionths.fetch_add(millionths, Ordering::Relaxed);
    }

    /// Lines of Prometheus' text format; `labels` such as `result="failed"`, or empty.
    pub fn lines(&self, name: &str, labels: &str) -> String {
        use std::fmt::Write;
        let comma = if labels.is_empty() { "" } else { "," };
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let (mut text, mut count) = (String::new(), 0);
        for (bucket, bound) in
            self.buckets.iter().zip(self.bounds.map(|b| b.to_string()).into_iter().chain(["+Inf".into()]))
        {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_sum{braces} {}", self.millionths.load(Ordering::Relaxed) as f64 / 1e6);
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
        let queue = Histogram::of_numbers();
        [0, 0, 1, 3, 20_000].into_iter().for_each(|depth| queue.observe_number(depth));
        let text = queue.lines("q", "");
        assert!(text.contains("q_bucket{le=\"0\"} 2\n") && text.contains("q_bucket{le=\"5\"} 4\n"), "{text}");
        assert!(text.contains("q_bucket{le=\"10000\"} 4\n") && text.contains("q_sum 20004\n"), "{text}");
    }
}
