//! Settings: a TOML file, overridden by flags. `docs/configuration.md` describes every key; a test compares.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// Where the HTTP API listens.
    pub(crate) listen: SocketAddr,
    /// Set by `--dev` only: the administrator's access key is taken without a signature.
    #[serde(skip)]
    pub(crate) dev: bool,
    /// A second listener with TLS.
    pub(crate) https: Https,
    /// Bounds of HTTP connections.
    pub(crate) http: crate::connections::Http,
    /// Dialects that are served.
    pub(crate) dialects: berth_api::Dialects,
    /// The dialect `comb`.
    pub(crate) comb: berth_api::CombSettings,
    /// Seconds that requests under way may take when the server goes.
    pub(crate) drain_s: u64,
    /// Log of the server.
    pub(crate) log: Log,
    /// The embedded engine.
    pub(crate) engine: Engine,
    /// Images.
    pub(crate) images: Images,
    /// Registries.
    pub(crate) registries: berth_fetch::RegistriesSettings,
    /// Behaviour.
    pub(crate) core: berth_core::Settings,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Https {
    /// Where it listens, `0.0.0.0:8443`; empty: nowhere.
    pub(crate) listen: String,
    /// PEM file with the certificate and those that lead to its authority.
    pub(crate) certificate: PathBuf,
    /// PEM file with its private key.
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// `error`, `warn`, `info`, `debug`, or directives of tracing's `EnvFilter`.
    pub(crate) level: String,
    /// One JSON object a line instead of text.
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Engine {
    /// The containers' network, `10.210.0.1/16`: gateway and prefix length. Empty: a free one is chosen at the first start.
    pub(crate) subnet: String,
    /// Name servers for containers where the host's own are on its loopback.
    pub(crate) dns: Vec<String>,
    /// Bytes after which a container's log is rotated.
    pub(crate) log_max_size: u64,
    /// Files kept of a container's log.
    pub(crate) log_max_files: u32,
    /// Container starts under way at a time.
    pub(crate) starts_at_once: usize,
    pub(crate) ports_per_account: usize,
    /// MiB of memory that containers leave to the host, at most an eighth of it.
    pub(crate) memory_reserve_mib: u64,
    /// `runc`, `crun` or another OCI runtime's program, by name or path; empty: the built-in one.
    pub(crate) runtime: String,
    /// Whether the cgroup hierarchy is remounted with `favordynmods`, for faster starts.
    pub(crate) favor_dynamic_modifications: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Images {
    /// MiB of disk that are always left free.
    pub(crate) disk_reserve_mib: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/berth".into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            dev: false,
            http: crate::connections::Http::default(),
            https: Https::default(),
            dialects: berth_api::Dialects::default(),
            comb: berth_api::CombSettings::default(),
            drain_s: 30,
            log: Log::default(),
            engine: Engine::default(),
            images: Images::default(),
            registries: berth_fetch::RegistriesSettings::default(),
            core: berth_core::Settings::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

impl Default for Engine {
    fn default() -> Self {
        let options = berth_engine_oci::Options::new(PathBuf::new(), PathBuf::new());
        Self {
            subnet: String::new(),
            dns: options.dns,
            log_max_size: options.log.max_size,
            log_max_files: options.log.max_files,
            starts_at_once: options.starts_at_once,
            ports_per_account: options.ports_of_tenant,
            memory_reserve_mib: options.memory_reserve >> 20,
            runtime: String::new(),
            favor_dynamic_modifications: options.favor_dynamic_modifications,
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self { disk_reserve_mib: 512 }
    }
}

impl Settings {
    /// Reads the file; without one, the defaults.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, String> {
        let standard = Path::new("/etc/berth/berth.toml");
        let path = match path {
            Some(path) => path,
            None if standard.exists() => standard,
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path).map_err(|e| format!("settings {}: {e}", path.display()))?;
        let mut read: Self = toml::from_str(&text).map_err(|e| format!("settings {}: {e}", path.display()))?;
        // Runtimes in the file are added to the standard ones, one by one.
        for (name, runtime) in berth_core::Settings::default().runtimes {
            read.core.runtimes.entry(name).or_insert(runtime);
        }
        let (first, last) = read.core.port_range;
        if first == 0 || first > last {
            return Err(format!("settings {}: core.port_range {first}-{last} is no range of ports", path.display()));
        }
        let (low, high) = (read.core.disk_low_percent, read.core.disk_high_percent);
        if high > 100 || (high > 0 && low > high) {
            return Err(format!(
                "settings {}: core.disk_low_percent {low} and core.disk_high_percent {high}: the low one is at most the high one, and that at most 100",
                path.display()
            ));
        }
        read.engine.parsed_subnet()?;
        Ok(read)
    }
}

impl Engine {
    /// The program of another runtime, found.
    pub(crate) fn runtime_program(&self) -> Result<Option<PathBuf>, String> {
        if self.runtime.is_empty() {
            return Ok(None);
        }
        let path = Path::new(&self.runtime);
        if path.is_absolute() {
            return path
                .exists()
                .then(|| Some(path.to_owned()))
                .ok_or_else(|| format!("engine.runtime {} is not there", self.runtime));
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let found = folders.map(|f| f.join(path)).find(|p| p.is_file());
        found.map(Some).ok_or_else(|| format!("engine.runtime {:?} is no program in $PATH", self.runtime))
    }

    pub(crate) fn parsed_subnet(&self) -> Result<Option<(Ipv4Addr, u8)>, String> {
        if self.subnet.is_empty() {
            return Ok(None);
        }
        let parsed = self.subnet.split_once('/').and_then(|(gateway, prefix)| {
            Some((gateway.parse().ok()?, prefix.parse::<u8>().ok().filter(|p| (8..=30).contains(p))?))
        });
        parsed
            .map(Some)
            .ok_or_else(|| format!("engine.subnet {:?} is not GATEWAY/PREFIX, such as 10.210.0.1/16", self.subnet))
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn keys(prefix: &str, value: &toml::Value, all: &mut Vec<String>) {
        if let toml::Value::Table(table) = value {
            for (key, value) in table {
                if ["core.runtimes.", "core.plans.specs.", "core.plans.images."].contains(&prefix) {
                    continue;
                }
                let path = format!("{prefix}{key}");
                match value {
                    toml::Value::Table(_) => keys(&format!("{path}."), value, all),
                    _ => all.push(path),
                }
            }
        }
    }

    #[test]
    fn every_setting_is_in_the_manual() {
        let manual = include_str!("../../../docs/configuration.md");
        let mut all = Vec::new();
        keys("", &toml::Value::try_from(Settings::default()).expect("toml"), &mut all);
        assert!(all.len() > 15);
        for key in all {
            assert!(manual.contains(&format!("`{key}`")), "docs/configuration.md does not describe {key}");
        }
    }

    #[test]
    fn files_are_read_strictly() {
        let folder = std::env::temp_dir().join(format!("berth-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("berth.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).expect("write");
            Settings::load(Some(&path))
        };
        let read = load("[core.runtimes.\"python3.5\"]\nkind = \"python\"\nimage = \"mine:1\"\n").expect("load");
        assert_eq!(read.core.runtimes["python3.5"].image, "mine:1");
        assert!(read.core.runtimes.contains_key("static"));
        assert!(load("lisen = \"x\"").is_err_and(|e| e.contains("lisen")));
        assert!(load("[engine]\nsubnet = \"10.0.0.0\"").is_err_and(|e| e.contains("subnet")));
        assert!(load("[core]\ndisk_high_percent = 70").is_err_and(|e| e.contains("disk_low_percent 80")));
        assert!(load("[core]\nport_range = [5, 1]").is_err_and(|e| e.contains("port_range")));
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
