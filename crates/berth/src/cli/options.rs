//! `berth run` and `berth create`: docker's flags into a request.

use std::collections::BTreeMap;

use berth_api::wire::{ContainerCreate, ContainerMount, HealthCheck, Port};

/// What a container is to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// Publish a port: [IP:]HOST[-LAST]:CONTAINER[/udp], or CONTAINER for any host port
    #[arg(long, short = 'p', value_name = "PORT", value_parser = port)]
    publish: Vec<Port>,
    /// Memory limit, with b, k, m or g
    #[arg(long, short, value_parser = size)]
    memory: Option<u64>,
    /// Swap beyond memory, with b, k, m or g (none unless given)
    #[arg(long, value_parser = size)]
    swap: Option<u64>,
    /// CPUs, with fractions
    #[arg(long, value_parser = cpus)]
    cpus: Option<f64>,
    /// Processes and threads
    #[arg(long)]
    pids_limit: Option<u64>,
    /// Environment variable KEY=value, or KEY from here
    #[arg(long, short)]
    env: Vec<String>,
    /// Read environment variables from a file, one KEY=value a line
    #[arg(long)]
    env_file: Vec<std::path::PathBuf>,
    /// Working directory
    #[arg(long, short)]
    workdir: Option<String>,
    /// User, as name or uid, with :group
    #[arg(long, short)]
    user: Option<String>,
    /// Host name inside
    #[arg(long)]
    hostname: Option<String>,
    /// Program instead of the image's entry point
    #[arg(long)]
    entrypoint: Option<String>,
    /// bridge, host or none
    #[arg(long, alias = "net")]
    network: Option<String>,
    /// Mount a volume or a folder of the host: NAME:/container[:ro] or /host:/container[:ro]
    #[arg(long, short, value_parser = volume)]
    volume: Vec<ContainerMount>,
    /// Mount memory: /container[:size=64m]
    #[arg(long, value_parser = tmpfs)]
    tmpfs: Vec<ContainerMount>,
    /// Size of /dev/shm
    #[arg(long, value_parser = size)]
    shm_size: Option<u64>,
    /// Root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Let set-user-id programs such as sudo have their effect
    #[arg(long)]
    new_privileges: bool,
    /// Label KEY=value
    #[arg(long, short)]
    label: Vec<String>,
    /// Seconds between the stop signal and the kill
    #[arg(long)]
    stop_timeout: Option<u64>,
    /// Signal that asks it to stop, number
    #[arg(long)]
    stop_signal: Option<i32>,
    /// Keep standard input open
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// Start it again by itself: no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    restart: Option<String>,
    /// What may come in a second, such as 10mbit
    #[arg(long, value_parser = rate)]
    ingress: Option<u64>,
    /// What may go out a second, such as 10mbit
    #[arg(long, value_parser = rate)]
    egress: Option<u64>,
    /// Both directions
    #[arg(long, value_parser = rate, conflicts_with_all = ["ingress", "egress"])]
    bandwidth: Option<u64>,
    /// Health check: a command line, for /bin/sh in the container
    #[arg(long, value_name = "LINE")]
    health_cmd: Option<String>,
    /// Health check: PORT/path that GET is answered on
    #[arg(long, value_name = "PORT/PATH", conflicts_with = "health_cmd")]
    health_http: Option<String>,
    /// Health check: a port that accepts connections
    #[arg(long, value_name = "PORT", conflicts_with_all = ["health_cmd", "health_http"])]
    health_tcp: Option<u16>,
    /// Seconds between two checks
    #[arg(long, value_name = "SECONDS")]
    health_interval: Option<f64>,
    /// Seconds that a check may take
    #[arg(long, value_name = "SECONDS")]
    health_timeout: Option<f64>,
    /// Failures in a row until it is unhealthy
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// Seconds after the start in which failures don't count
    #[arg(long, value_name = "SECONDS")]
    health_start_period: Option<f64>,
    /// Start it anew when it is unhealthy
    #[arg(long)]
    health_restart: bool,
    /// No health check, although the image has one
    #[arg(long)]
    no_healthcheck: bool,
    /// When to fetch the image: always, missing or never
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub(super) pull: String,
    /// Remove it when it has ended
    #[arg(long)]
    pub(super) rm: bool,
    /// Image
    pub(super) image: String,
    /// Command and arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What to make, and whether to stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Print the id and leave; otherwise its output is shown until it ends
    #[arg(long, short)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) create: Create,
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        other => return Err(format!("{other:?} is not b, k, m, g or t")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a size"))?;
    if number.is_finite() && number >= 0.0 {
        Ok((number * factor as f64) as u64)
    } else {
        Err(format!("{text:?} is not a size"))
    }
}

pub(super) fn cpus(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| format!("{text:?} is not a number of CPUs"))
}

/// `10mbit`, `1.5gbit`, or bits per second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "bit" | "bps" => 1e0,
        "k" | "kbit" | "kbps" => 1e3,
        "m" | "mbit" | "mbps" => 1e6,
        "g" | "gbit" | "gbps" => 1e9,
        other => return Err(format!("{other:?} is not bit, kbit, mbit or gbit")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no rate"))?;
    if number.is_finite() && number > 0.0 { Ok((number * factor) as u64) } else { Err(format!("{text:?} is no rate")) }
}

pub(super) fn port(text: &str) -> Result<Port, String> {
    let wrong = || format!("{text:?} is not [IP:]HOST:CONTAINER[/tcp|/udp]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let parts: Vec<&str> = ports.split(':').collect();
    let (ip, host, inside) = match parts.as_slice() {
        [inside] => (None, "", *inside),
        [host, inside] => (None, *host, *inside),
        [ip, host, inside] => (Some((*ip).to_owned()), *host, *inside),
        _ => return Err(wrong()),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong);
    let (first, last) = match host.split_once('-') {
        Some((first, last)) => (Some(number(first)?), Some(number(last)?)),
        None if matches!(host, "" | "0") => (None, None),
        None => (Some(number(host)?), None),
    };
    Ok(Port {
        container_port: Some(number(inside)?),
        host_port: first,
        host_port_last: last,
        host_ip: ip.filter(|ip| !ip.is_empty()),
        protocol: protocol.to_owned(),
    })
}

fn volume(text: &str) -> Result<ContainerMount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] => (source, target, false),
        [source, target, mode @ ("ro" | "rw")] => (source, target, *mode == "ro"),
        _ => return Err(format!("{text:?} is not NAME:/container[:ro] or /host:/container[:ro]")),
    };
    // As Docker tells them apart: a path has a slash, or begins with a dot.
    let kind = if source.contains('/') || source.starts_with('.') { "bind" } else { "volume" };
    let source = match kind {
        "bind" => std::path::absolute(source).map_err(|e| format!("{source}: {e}"))?.to_string_lossy().into_owned(),
        _ => (*source).to_owned(),
    };
    Ok(ContainerMount { kind: kind.into(), target: (*target).into(), source: Some(source), size: None, read_only })
}

fn tmpfs(text: &str) -> Result<ContainerMount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let size = match options.strip_prefix("size=") {
        Some(value) => Some(size(value)?),
        None if options.is_empty() => None,
        None => return Err(format!("{options:?} is not size=…")),
    };
    Ok(ContainerMount { kind: "tmpfs".into(), target: target.into(), source: None, size, read_only: false })
}

impl Create {
    pub(super) fn request(self, start: bool) -> Result<ContainerCreate, String> {
        let health_command =
            self.health_cmd.as_ref().map(|line| vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]);
        let has_check = health_command.is_some() || self.health_http.is_some() || self.health_tcp.is_some();
        let health = has_check.then(|| HealthCheck {
            command: health_command,
            http: self.health_http.clone(),
            tcp: self.health_tcp,
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period,
            restart: self.health_restart,
        });
        let mut env = Vec::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
            env.extend(lines.map(str::to_owned));
        }
        env.extend(self.env);
        let mut resolved = Vec::new();
        for variable in env {
            if variable.contains('=') {
                resolved.push(variable);
            } else if let Ok(value) = std::env::var(&variable) {
                resolved.push(format!("{variable}={value}"));
            }
        }
        let mut labels = BTreeMap::new();
        for label in &self.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            labels.insert(key.to_owned(), value.to_owned());
        }
        let size = if self.tty { super::terminal::size() } else { None };
        Ok(ContainerCreate {
            name: self.name,
            image: self.image,
            command: (!self.command.is_empty()).then_some(self.command),
            entrypoint: self.entrypoint.map(|e| if e.is_empty() { Vec::new() } else { vec![e] }),
            env: resolved,
            working_dir: self.workdir,
            user: self.user,
            hostname: self.hostname,
            cpus: self.cpus,
            memory: self.memory,
            swap: self.swap,
            pids: self.pids_limit,
            shm_size: self.shm_size,
            read_only: self.read_only,
            new_privileges: self.new_privileges,
            mounts: self.volume.into_iter().chain(self.tmpfs).collect(),
            network: self.network,
            ports: self.publish,
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{port, size, tmpfs, volume};

    #[test]
    fn flags_are_read_as_docker_reads_them() {
        assert_eq!((size("64m"), size("1.5G"), size("10")), (Ok(64 << 20), Ok(3 << 29), Ok(10)));
        assert!(size("x").is_err() && size("5q").is_err() && size("-1").is_err());
        let p = port("127.0.0.1:8080:80/udp").expect("port");
        assert_eq!(
            (p.host_ip.as_deref(), p.host_port, p.container_port, p.protocol.as_str()),
            (Some("127.0.0.1"), Some(8080), Some(80), "udp")
        );
        let p = port("8000-8010:80").expect("range");
        assert_eq!((p.host_port, p.host_port_last), (Some(8000), Some(8010)));
        assert_eq!(port("80").expect("any").host_port, None);
        assert!(port("a:b").is_err() && port("1:2:3:4").is_err() && port("1:0").is_err());
        assert_eq!(port("0:80").expect("any").host_port, None);
        assert!(super::cpus("nan").is_err());
        assert!(volume("/a:/b:ro").is_ok_and(|v| v.read_only && v.kind == "bind") && volume("/a").is_err());
        assert!(volume("data:/b").is_ok_and(|v| v.kind == "volume" && v.source.as_deref() == Some("data")));
        assert_eq!(
            (super::rate("10mbit"), super::rate("1.5G"), super::rate("100000")),
            (Ok(10_000_000), Ok(1_500_000_000), Ok(100_000))
        );
        assert!(super::rate("x").is_err() && super::rate("5parsec").is_err() && super::rate("-1").is_err());
        assert_eq!(tmpfs("/x:size=1k").expect("tmpfs").size, Some(1024));
    }
}
