//! The host that this server runs on.

use std::fs;

use crate::core::Core;
use crate::error::Error;

/// Facts about this host, read when asked.
#[derive(Debug, Clone, PartialEq)]
pub struct HostInfo {
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
    /// Version of the cgroup hierarchy, 1 or 2.
    pub cgroup_version: u8,
    /// What runs containers.
    pub runtime: String,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl Core {
    /// Facts about this host.
    ///
    /// # Errors
    /// That they could not be asked for.
    pub async fn host_info(&self) -> Result<HostInfo, Error> {
        let images = self.inner.images.clone();
        let read = Self::aside(move || read_host(&images)).await?;
        let engine = &self.inner.engine;
        Ok(HostInfo { runtime: engine.runtime(), warnings: engine.trouble().into_iter().collect(), ..read })
    }
}

fn read_host(images: &berth_image::Store) -> HostInfo {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let os = read("/etc/os-release");
    let os = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    let memory = read("/proc/meminfo");
    let field = |key: &str| -> u64 {
        let value = memory.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse().ok());
        value.unwrap_or(0u64) * 1024
    };
    HostInfo {
        name: read("/proc/sys/kernel/hostname").trim().to_owned(),
        os,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        architecture: std::env::consts::ARCH,
        cpus: cpus(),
        memory: field("MemTotal:"),
        memory_available: field("MemAvailable:"),
        disk_free: images.room().unwrap_or(0),
        load: read("/proc/loadavg").split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0),
        cgroup_version: if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        runtime: String::new(),
        warnings: Vec::new(),
    }
}

/// CPUs that this program may use.
pub(crate) fn cpus() -> usize {
    static KNOWN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
