//! Settings: a TOML file, overridden by flags. What describes every key (`berth config example`, `docs/configuration.md`) is made
//! from these types.

pub(crate) mod describe;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::connections::MOST_STRANGERS;
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where everything is kept (mode 0700). Two servers with different folders and ports run side by side.
    pub(crate) data_dir: PathBuf,
    /// Address of the HTTP API. Put a TLS proxy in front of it before it is reached from elsewhere.
    pub(crate) listen: SocketAddr,
    /// Set by `--dev` only: the administrator's access key is taken without a signature.
    #[serde(skip)]
    pub(crate) dev: bool,
    /// The Unix socket of this machine's administrators.
    pub(crate) socket: crate::local::Socket,
    /// A second listener with TLS.
    pub(crate) https: Https,
    /// Bounds of HTTP connections.
    pub(crate) http: crate::connections::Http,
    /// Dialects that are served.
    pub(crate) dialects: berth_api::Dialects,
    /// The dialect `comb`.
    pub(crate) comb: berth_api::CombSettings,
    /// Seconds that requests under way may take after SIGTERM. Containers run on in any case.
    pub(crate) drain_s: u64,
    /// Log of the server.
    pub(crate) log: Log,
    /// What runs the containers, and the embedded engine.
    pub(crate) engine: Engine,
    /// The cluster, where `engine.kind` is `kubernetes`.
    pub(crate) kubernetes: Kubernetes,
    /// Images.
    pub(crate) images: Images,
    /// Registries.
    pub(crate) registries: berth_fetch::RegistriesSettings,
    /// Behaviour.
    pub(crate) core: berth_core::Settings,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Https {
    /// Address of a second listener with TLS, such as `0.0.0.0:8443`. It serves the same.
    pub(crate) listen: String,
    /// PEM file with the certificate and those that lead to its authority. A renewed one is taken up within half a minute.
    pub(crate) certificate: PathBuf,
    /// PEM file with its private key.
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// `error`, `warn`, `info`, `debug`, or directives of tracing's `EnvFilter`.
    pub(crate) level: String,
    /// One JSON object a line instead of text.
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Engine {
    /// `embedded`: containers on this machine. `kubernetes`: on the cluster of `[kubernetes]`. A data folder stays with the engine that it was
    /// begun with. What follows is of the embedded engine.
    pub(crate) kind: EngineKind,
    /// Gateway and prefix length of the containers' network, such as `10.210.0.1/16`. Empty: the first of 10.210.0.0/16 to
    /// 10.249.0.0/16 that no route overlaps, kept for good.
    pub(crate) subnet: String,
    /// Name servers for containers where the host's own are on its loopback.
    pub(crate) dns: Vec<String>,
    /// Bytes after which a container's log is rotated.
    pub(crate) log_max_size: u64,
    /// Files kept of a container's log, the current one included.
    pub(crate) log_max_files: u32,
    /// Container starts under way at a time; the rest wait in line.
    pub(crate) starts_at_once: usize,
    /// Host ports that one account may have, of containers and groups that run and that do not; `0` for no bound.
    pub(crate) ports_per_account: usize,
    /// MiB of memory that containers leave to the host, at most an eighth of it: all together have the rest, and none is
    /// started when less is available. `0` keeps nothing back.
    pub(crate) memory_reserve_mib: u64,
    /// `runc`, `crun` or the path of another program with their command line. Containers that run go on with the runtime that
    /// started them; the next start takes the new one. runc and crun are tested; gVisor's `runsc` and Kata's have the same
    /// command line but were not tried: what berth does by itself in a container (copies, the freezer, signals to its first
    /// process) expects a process of this kernel.
    pub(crate) runtime: String,
    /// Remount the cgroup hierarchy with `favordynmods`: without it the first start after a quiet moment takes 14 ms longer.
    pub(crate) favor_dynamic_modifications: bool,
}

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineKind {
    Embedded,
    Kubernetes,
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Kubernetes {
    /// File with the cluster's address and credentials. Empty: `$KUBECONFIG` or `~/.kube/config`, or the account of the pod that the server runs
    /// in.
    pub(crate) kubeconfig: PathBuf,
    /// Namespace of its pods and secrets, which must be there.
    pub(crate) namespace: String,
    /// Name of this installation, a label of all that it makes: several may share a namespace. Empty: one that was made up when the data
    /// folder was first used, so that a server with other data never takes this one's containers for forgotten ones.
    pub(crate) instance: String,
    /// First and last host port that accounts may publish on the nodes; administrators may publish any. Nodes' own ports (22, 6443, 10250,
    /// and 30000 to 32767 of Services) should not be among them.
    pub(crate) account_ports: (u16, u16),
    /// Seconds that a container may take until its program runs: scheduling, the image, the network.
    pub(crate) start_limit_s: u64,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            kubeconfig: PathBuf::new(),
            namespace: "berth".into(),
            instance: String::new(),
            account_ports: (11_000, 29_999),
            start_limit_s: 300,
        }
    }
}

impl Kubernetes {
    fn faults(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.kubeconfig.as_os_str().is_empty()
            && let Err(error) = std::fs::read(&self.kubeconfig)
        {
            all.push(format!("kubernetes.kubeconfig {}: {error}", self.kubeconfig.display()));
        }
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = |name: &str| {
            (1..=63).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-') && !name.ends_with('-')
        };
        for (key, name) in [("namespace", &self.namespace), ("instance", &self.instance)] {
            let is_made_up = key == "instance" && name.is_empty();
            if !is_made_up && !is_name(name) {
                all.push(format!("kubernetes.{key} {name:?}: expected 1 to 63 lower-case letters, digits and '-'"));
            }
        }
        all
    }

    /// As the engine takes it; `ports` is how many an account may have.
    pub(crate) fn options(&self, data: &Path, ports: usize) -> Result<berth_engine_kube::Options, String> {
        if data.join("engine").exists() {
            return Err(format!(
                "{} is a data folder of the embedded engine: Kubernetes needs one of its own",
                data.display()
            ));
        }
        let known = instance_of(&data.join(INSTANCE), &self.instance)?;
        let instance = if self.instance.is_empty() { known } else { self.instance.clone() };
        Ok(berth_engine_kube::Options {
            kubeconfig: Some(self.kubeconfig.clone()).filter(|path| !path.as_os_str().is_empty()),
            account_ports: self.account_ports,
            ports_of_tenant: ports,
            start_limit: std::time::Duration::from_secs(self.start_limit_s),
            ..berth_engine_kube::Options::new(&self.namespace, instance)
        })
    }
}

/// The file with the name of an installation on Kubernetes; its data folder has no other engine.
pub(crate) const INSTANCE: &str = "instance.json";

/// The name in this file, which is made where it is not there: with the given name, or a random one.
fn instance_of(path: &Path, given: &str) -> Result<String, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| named(&e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = if given.is_empty() { berth_types::random_hex(8) } else { given.to_owned() };
            berth_runtime::write_json(path, &name).map_err(|e| named(&e))?;
            Ok(name)
        }
        Err(error) => Err(named(&error)),
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Images {
    /// MiB of disk that imports, new containers, pushes and copies into containers and volumes leave free. The database keeps
    /// another 16 MiB back for itself, so that containers can be stopped and removed on a full disk.
    pub(crate) disk_reserve_mib: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: crate::local::STANDARD_DATA.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            dev: false,
            http: crate::connections::Http::default(),
            socket: crate::local::Socket::default(),
            https: Https::default(),
            dialects: berth_api::Dialects::default(),
            comb: berth_api::CombSettings::default(),
            drain_s: 30,
            log: Log::default(),
            engine: Engine::default(),
            kubernetes: Kubernetes::default(),
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
            kind: EngineKind::Embedded,
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
    /// The file that is read.
    pub(crate) fn path(given: Option<&Path>) -> Option<&Path> {
        let standard = Path::new(crate::service::files::SETTINGS);
        given.or_else(|| standard.exists().then_some(standard))
    }

    /// Reads the file; without one, the defaults.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = Self::path(path) else { return Ok(Self::default()) };
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
        let strangers = read.http.strangers;
        if !(1..=MOST_STRANGERS).contains(&strangers) {
            return Err(format!("settings {}: http.strangers {strangers}: 1 to {MOST_STRANGERS}", path.display()));
        }
        read.engine.parsed_subnet()?;
        Ok(read)
    }

    /// What is wrong with them on this machine, beside what [`Settings::load`] refuses.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut all = Vec::new();
        all.extend(crate::log::fault(&self.log.level));
        all.extend(self.engine.runtime_program().err());
        if self.engine.kind == EngineKind::Kubernetes {
            all.extend(self.kubernetes.faults());
        }
        if !self.https.listen.is_empty() {
            if self.https.listen.parse::<SocketAddr>().is_err() {
                all.push(format!("https.listen {:?} is not ADDRESS:PORT", self.https.listen));
            }
            all.extend(crate::tls::load(&self.https).err().map(|e| format!("https: {e}")));
        }
        for (name, registry) in &self.registries.hosts {
            if let Some(path) = &registry.ca_file
                && let Err(error) = std::fs::read(path)
            {
                all.push(format!("registries.hosts.{name:?}.ca_file {}: {error}", path.display()));
            }
        }
        if !berth_api::is_time_zone(&self.core.time_zone) {
            all.push(format!(
                "core.time_zone {:?} is not a name of the tz database, such as Asia/Shanghai",
                self.core.time_zone
            ));
        }
        let relative = self.core.bind_prefixes.iter().filter(|prefix| !prefix.starts_with('/'));
        all.extend(relative.map(|prefix| format!("core.bind_prefixes: {prefix:?} is not an absolute path")));
        let is_http = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if !self.core.public_url.is_empty() && !is_http(&self.core.public_url) {
            all.push(format!("core.public_url {:?} is not http://… or https://…", self.core.public_url));
        }
        let servers = self.engine.dns.iter().filter(|server| server.parse::<std::net::IpAddr>().is_err());
        all.extend(servers.map(|server| format!("engine.dns: {server:?} is not an address")));
        for (name, registry) in &self.registries.hosts {
            let wrong = registry.mirrors.iter().filter(|mirror| !is_http(mirror));
            all.extend(
                wrong.map(|mirror| {
                    format!("registries.hosts.{name:?}.mirrors: {mirror:?} is not http://… or https://…")
                }),
            );
        }
        if let Some(path) = self.socket.of(&self.data_dir)
            && !path.is_absolute()
        {
            all.push(format!("socket.path {} is not an absolute path", path.display()));
        }
        all
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
