//! `berth run` and `berth create`: docker's flags into a request.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_api::wire::{ContainerCreate, ContainerMount, Extras, HealthCheck, NamedAddress, Ulimit};
use berth_client::Client;

use super::values::{
    Ports, cpus, host_entry, mount, pair, ports, rate, seconds, signal, size, tmpfs, ulimit, volume, whole_seconds,
};

/// What a container is to be.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Create {
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// When to fetch the image: always, missing or never
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub(super) pull: String,
    /// Print nothing while the image is fetched
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Only images of this platform; this machine's own is what can run
    #[arg(long)]
    platform: Option<String>,
    /// Remove it, with its anonymous volumes, when it has ended
    #[arg(long)]
    pub(super) rm: bool,
    /// Start it again by itself: no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    restart: Option<String>,
    /// Write its id into a file that is not there yet
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,

    /// Environment variable KEY=value, or KEY from here
    #[arg(long, short, help_heading = "Program")]
    env: Vec<String>,
    /// Read environment variables from a file, one KEY=value a line
    #[arg(long, help_heading = "Program")]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(long, short, help_heading = "Program")]
    workdir: Option<String>,
    /// User, as name or uid, with :group
    #[arg(long, short, help_heading = "Program")]
    user: Option<String>,
    /// Further group of the user, by name or number
    #[arg(long, help_heading = "Program")]
    group_add: Vec<String>,
    /// Program instead of the image's entry point
    #[arg(long, help_heading = "Program")]
    entrypoint: Option<String>,
    /// A first process that passes signals on and waits for orphans
    #[arg(long, help_heading = "Program")]
    init: bool,
    /// Keep standard input open
    #[arg(long, short, help_heading = "Program")]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(long, short, help_heading = "Program")]
    pub(super) tty: bool,
    /// Signal that asks it to stop, by name or number
    #[arg(long, value_parser = signal, help_heading = "Program")]
    stop_signal: Option<i32>,
    /// Time between the stop signal and the kill: seconds, or such as 1m30s
    #[arg(long, value_parser = whole_seconds, value_name = "TIME", help_heading = "Program")]
    stop_timeout: Option<u64>,
    /// Label KEY=value
    #[arg(long, short, help_heading = "Program")]
    label: Vec<String>,
    /// Read labels from a file, one KEY=value a line
    #[arg(long, help_heading = "Program")]
    label_file: Vec<PathBuf>,

    /// Memory limit, with b, k, m or g
    #[arg(long, short, value_parser = size, help_heading = "Limits")]
    memory: Option<u64>,
    /// Swap beyond memory, with b, k, m or g (none unless given)
    #[arg(long, value_parser = size, help_heading = "Limits")]
    swap: Option<u64>,
    /// Memory and swap together, as docker counts it; -1 for as much swap as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, conflicts_with = "swap", help_heading = "Limits")]
    memory_swap: Option<String>,
    /// CPUs, with fractions
    #[arg(long, value_parser = cpus, help_heading = "Limits")]
    cpus: Option<f64>,
    /// Processes and threads
    #[arg(long, help_heading = "Limits")]
    pids_limit: Option<u64>,
    /// Bound of each process, such as nofile=1024:2048
    #[arg(long, value_parser = ulimit, help_heading = "Limits")]
    ulimit: Vec<Ulimit>,
    /// How readily the kernel ends it when memory is short, 0 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true, help_heading = "Limits")]
    oom_score_adj: Option<i32>,
    /// Size of /dev/shm
    #[arg(long, value_parser = size, help_heading = "Limits")]
    shm_size: Option<u64>,
    /// What may come in a second, such as 10mbit
    #[arg(long, value_parser = rate, help_heading = "Limits")]
    ingress: Option<u64>,
    /// What may go out a second, such as 10mbit
    #[arg(long, value_parser = rate, help_heading = "Limits")]
    egress: Option<u64>,
    /// Both directions
    #[arg(long, value_parser = rate, conflicts_with_all = ["ingress", "egress"], help_heading = "Limits")]
    bandwidth: Option<u64>,

    /// Publish a port: [IP:]HOST[-LAST]:CONTAINER[/udp], or CONTAINER for any host port
    #[arg(long, short = 'p', value_name = "PORT", value_parser = ports, help_heading = "Network")]
    publish: Vec<Ports>,
    /// Publish every port that the image exposes on some port of the host
    #[arg(long, short = 'P', help_heading = "Network")]
    publish_all: bool,
    /// A port that --publish-all publishes, too
    #[arg(long, value_name = "PORT", value_parser = ports, help_heading = "Network")]
    expose: Vec<Ports>,
    /// bridge, host or none
    #[arg(long, alias = "net", help_heading = "Network")]
    network: Option<String>,
    /// Host name inside
    #[arg(long, short = 'h', help_heading = "Network")]
    hostname: Option<String>,
    /// Line of /etc/hosts, NAME:ADDRESS; host-gateway is this machine
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host_entry, help_heading = "Network")]
    add_host: Vec<NamedAddress>,
    /// Name server, instead of berth's own: other containers are not found by name then
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    dns: Vec<String>,
    /// Domain in which names without a dot are looked for
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    dns_search: Vec<String>,
    /// Another name of a container, for this one only: CONTAINER:NAME
    #[arg(long, value_name = "CONTAINER:NAME", help_heading = "Network")]
    link: Vec<String>,

    /// Mount a volume or a folder of the host: NAME:/container[:ro], /host:/container[:ro], or /container
    #[arg(long, short, value_parser = volume, help_heading = "Files")]
    volume: Vec<ContainerMount>,
    /// The same in words: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_parser = mount, help_heading = "Files")]
    mount: Vec<ContainerMount>,
    /// Mount memory: /container[:size=64m]
    #[arg(long, value_parser = tmpfs, help_heading = "Files")]
    tmpfs: Vec<ContainerMount>,
    /// Mount what another container has mounted: CONTAINER[:ro]
    #[arg(long, value_name = "CONTAINER", help_heading = "Files")]
    volumes_from: Vec<String>,
    /// Root file system read-only
    #[arg(long, help_heading = "Files")]
    read_only: bool,

    /// Let set-user-id programs such as sudo have their effect
    #[arg(long, help_heading = "Security")]
    new_privileges: bool,
    /// no-new-privileges, as is usual here
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    security_opt: Vec<String>,
    /// host: there are no others
    #[arg(long, value_parser = ["host", ""], help_heading = "Security")]
    userns: Option<String>,

    /// max-size=10m, max-file=3: how its log is rotated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Log")]
    log_opt: Vec<String>,
    /// json-file or local: both are berth's own log
    #[arg(long, value_parser = ["json-file", "local"], help_heading = "Log")]
    log_driver: Option<String>,

    /// size=10g: what it may write to its root file system; with more, it is stopped
    #[arg(long, value_name = "size=BYTES", help_heading = "Limits")]
    storage_opt: Vec<String>,

    /// A command line, for /bin/sh in the container
    #[arg(long, value_name = "LINE", help_heading = "Health check")]
    health_cmd: Option<String>,
    /// PORT/path that GET is answered on
    #[arg(long, value_name = "PORT/PATH", conflicts_with = "health_cmd", help_heading = "Health check")]
    health_http: Option<String>,
    /// A port that accepts connections
    #[arg(long, value_name = "PORT", conflicts_with_all = ["health_cmd", "health_http"], help_heading = "Health check")]
    health_tcp: Option<u16>,
    /// Time between two checks: seconds, or such as 1m30s
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Health check")]
    health_interval: Option<f64>,
    /// Time that a check may take
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Health check")]
    health_timeout: Option<f64>,
    /// Failures in a row until it is unhealthy
    #[arg(long, value_name = "N", help_heading = "Health check")]
    health_retries: Option<u32>,
    /// Time after the start in which failures don't count
    #[arg(long, value_name = "TIME", value_parser = seconds, help_heading = "Health check")]
    health_start_period: Option<f64>,
    /// Start it anew when it is unhealthy
    #[arg(long, help_heading = "Health check")]
    health_restart: bool,
    /// No health check, although the image has one
    #[arg(long, help_heading = "Health check")]
    no_healthcheck: bool,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Image
    pub(super) image: String,
    /// Command and arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What to make, and whether to stay.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Run {
    /// Print the id and leave; otherwise its output is shown until it ends
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Only these of stdin, stdout and stderr
    #[arg(long, short, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"], conflicts_with = "detach", ignore_case = true)]
    pub(super) attach: Vec<String>,
    /// Whether signals to this command are the container's
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) sig_proxy: bool,
    /// Keys that let go of it, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = super::sessions::keys_of)]
    pub(super) detach_keys: Option<super::sessions::Keys>,
    #[command(flatten)]
    pub(super) create: Create,
}

/// The lines of a file that say something.
fn lines_of(path: &std::path::Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().map(str::trim_start).filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Variables of files and flags; those without a value are this process' own.
pub(super) fn environment(files: &[PathBuf], given: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for path in files {
        all.extend(lines_of(path)?);
    }
    all.extend(given.iter().cloned());
    let resolve = |variable: String| match variable.contains('=') {
        true => Some(variable),
        false => std::env::var(&variable).ok().map(|value| format!("{variable}={value}")),
    };
    Ok(all.into_iter().filter_map(resolve).collect())
}

/// Swap beyond memory, of what docker counts together.
pub(super) fn swap_of(together: &str, memory: Option<u64>) -> Result<u64, String> {
    /// As good as any: more than there is.
    const ALL: u64 = 1 << 50;
    if together == "-1" {
        return Ok(ALL);
    }
    let all = size(together)?;
    let memory = memory.ok_or("--memory-swap counts memory and swap together: it needs --memory")?;
    all.checked_sub(memory)
        .ok_or_else(|| format!("--memory-swap {together}: less than --memory; it counts both together"))
}

impl Create {
    fn health(&self) -> Option<HealthCheck> {
        let line = |line: &String| vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()];
        let command = self.health_cmd.as_ref().map(line);
        let has_check = command.is_some() || self.health_http.is_some() || self.health_tcp.is_some();
        has_check.then(|| HealthCheck {
            command,
            http: self.health_http.clone(),
            tcp: self.health_tcp,
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period,
            restart: self.health_restart,
        })
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        for path in &self.label_file {
            all.extend(lines_of(path)?.iter().map(|line| pair(line)));
        }
        all.extend(self.label.iter().map(|label| pair(label)));
        Ok(all)
    }

    fn extras(&self) -> Result<Extras, String> {
        let mut extras = Extras {
            init: self.init,
            ulimits: self.ulimit.clone(),
            hosts: self.add_host.clone(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            groups: self.group_add.clone(),
            oom_score_adj: self.oom_score_adj,
            ..Extras::default()
        };
        for option in &self.log_opt {
            match option.split_once('=') {
                Some(("max-size", value)) => extras.log_max_size = Some(size(value)?),
                Some(("max-file", value)) => {
                    let files = value.parse().map_err(|_| format!("--log-opt {option}: not a number"))?;
                    extras.log_max_files = Some(files);
                }
                _ => return Err(format!("--log-opt {option}: max-size= and max-file= are possible here")),
            }
        }
        for option in &self.storage_opt {
            match option.split_once('=') {
                Some(("size", value)) => extras.disk = Some(size(value)?),
                _ => return Err(format!("--storage-opt {option}: size= is possible here")),
            }
        }
        Ok(extras)
    }

    fn check(&self) -> Result<(), String> {
        for option in &self.security_opt {
            match option.as_str() {
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" if self.new_privileges => {
                    return Err("--security-opt no-new-privileges and --new-privileges contradict each other".into());
                }
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {}
                other => {
                    return Err(format!(
                        "--security-opt {other}: system calls and capabilities of containers are Docker's defaults and can't be changed"
                    ));
                }
            }
        }
        if self.rm && self.restart.as_deref().is_some_and(|policy| policy != "no") {
            return Err(
                "--rm and --restart contradict each other: what is removed when it has ended can't be started again"
                    .into(),
            );
        }
        if let Some(path) = &self.cidfile
            && path.exists()
        {
            return Err(format!("--cidfile {}: it is there already", path.display()));
        }
        let own = format!("linux/{}", berth_image::architecture());
        match self.platform.as_deref() {
            Some(platform) if platform != own && !platform.starts_with(&format!("{own}/")) => Err(format!(
                "--platform {platform}: this server's machine runs {own}; `berth pull --platform` fetches other images"
            )),
            _ => Ok(()),
        }
    }

    /// What other containers have that this one is to have, too: mounts and addresses.
    async fn of_others(&self, client: &Client) -> Result<(Vec<ContainerMount>, Vec<NamedAddress>), String> {
        let (mut mounts, mut hosts) = (Vec::new(), Vec::new());
        for text in &self.volumes_from {
            let (id, read_only) =
                text.strip_suffix(":ro").map_or((text.trim_end_matches(":rw"), false), |id| (id, true));
            let other = client.container(id).await.map_err(|e| format!("--volumes-from {text}: {e}"))?;
            let shared = other.mounts.into_iter().filter(|m| matches!(m.kind.as_str(), "bind" | "volume"));
            mounts.extend(shared.map(|m| ContainerMount { read_only: m.read_only || read_only, ..m }));
        }
        for text in &self.link {
            let (id, name) = text.split_once(':').unwrap_or((text, text));
            let other = client.container(id).await.map_err(|e| format!("--link {text}: {e}"))?;
            let address = other.address.ok_or_else(|| format!("--link {text}: {id} has no address of its own"))?;
            hosts.push(NamedAddress { name: name.to_owned(), address });
        }
        Ok((mounts, hosts))
    }

    pub(super) async fn request(self, client: &Client, start: bool) -> Result<ContainerCreate, String> {
        self.check()?;
        let (shared, linked) = self.of_others(client).await?;
        let health = self.health();
        let mut extras = self.extras()?;
        extras.hosts.extend(linked);
        let env = environment(&self.env_file, &self.env)?;
        let labels = self.labels()?;
        let swap = match &self.memory_swap {
            Some(together) => Some(swap_of(together, self.memory)?),
            None => self.swap,
        };
        let mut ports: Vec<_> = self.publish.into_iter().flat_map(|ports| ports.0).collect();
        if self.publish_all {
            ports.extend(self.expose.into_iter().flat_map(|ports| ports.0));
        }
        let own: Vec<_> = self.volume.into_iter().chain(self.mount).chain(self.tmpfs).collect();
        let mut mounts: Vec<_> = shared.into_iter().filter(|m| own.iter().all(|o| o.target != m.target)).collect();
        mounts.extend(own);
        let size = if self.tty { super::terminal::size() } else { None };
        Ok(ContainerCreate {
            name: self.name,
            image: self.image,
            command: (!self.command.is_empty()).then_some(self.command),
            entrypoint: self.entrypoint.map(|e| if e.is_empty() { Vec::new() } else { vec![e] }),
            env,
            working_dir: self.workdir,
            user: self.user,
            hostname: self.hostname,
            cpus: self.cpus,
            memory: self.memory,
            swap,
            pids: self.pids_limit,
            shm_size: self.shm_size,
            read_only: self.read_only,
            new_privileges: self.new_privileges,
            mounts,
            network: self.network,
            ports,
            labels,
            stdin: self.interactive,
            terminal: self.tty,
            rows: size.map(|(rows, _)| rows),
            columns: size.map(|(_, columns)| columns),
            ingress: self.ingress.or(self.bandwidth),
            egress: self.egress.or(self.bandwidth),
            restart: self.restart,
            health,
            no_health: self.no_healthcheck,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            auto_remove: self.rm,
            attended: false,
            start,
            extras,
            publish_all: self.publish_all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::swap_of;

    #[test]
    fn swap_is_what_is_beyond_memory() {
        assert_eq!(swap_of("128m", Some(64 << 20)), Ok(64 << 20));
        assert_eq!(swap_of("64m", Some(64 << 20)), Ok(0));
        assert!(swap_of("-1", None).is_ok_and(|swap| swap > 1 << 40));
        assert!(swap_of("64m", None).is_err() && swap_of("32m", Some(64 << 20)).is_err());
    }
}
