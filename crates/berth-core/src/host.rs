//! The machine that this server is.

use std::fs;

use crate::core::Core;

/// Facts about this machine, read when asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The distribution's own name.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU architecture, Rust's word.
    pub architecture: &'static str,
    /// CPUs that can be used.
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    /// Bytes available without swapping.
    pub memory_available: u64,
    /// Bytes free for images and containers.
    pub disk_free: u64,
    /// Mean number of running tasks in the last minute.
    pub load: f64,
}

impl Core {
    /// Facts about this machine.
    pub fn host(&self) -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let os = read("/etc/os-release");
        let os =
            os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
        let memory = read("/proc/meminfo");
        let field = |key: &str| -> u64 {
            let value =
                memory.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse().ok());
            value.unwrap_or(0u64) * 1024
        };
        Host {
            name: read("/proc/sys/kernel/hostname").trim().to_owned(),
            os,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: field("MemTotal:"),
            memory_available: field("MemAvailable:"),
            disk_free: self.inner.images.room().unwrap_or(0),
            load: read("/proc/loadavg").split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0),
        }
    }
}
