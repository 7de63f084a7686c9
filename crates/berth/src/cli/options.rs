//! `berth run` and `berth create`: docker's flags into a request.

use std::collections::BTreeMap;

use berth_api::wire::{ContainerCreate, ContainerMount, Port};

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
    /// Mount a folder or file of the host: /host:/container[:ro]
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
    /// Remove it when it has ended
    #[arg(long)]
    pub(super) rm: bool,
    /// Image
    image: String,
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

fn cpus(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| format!("{text:?} is not a number of CPUs"))
}

fn port(text: &str) -> Result<Port, String> {
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
        _ => return Err(format!("{text:?} is not /host:/container[:ro]")),
    };
    Ok(ContainerMount {
        kind: "bind".into(),
        target: (*target).into(),
        source: Some((*source).into()),
        size: None,
        read_only,
    })
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
            stop_signal: None,
            stop_timeout: self.stop_timeout,
            auto_remove: false,
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
        assert!(volume("/a:/b:ro").is_ok_and(|v| v.read_only) && volume("/a").is_err());
        assert_eq!(tmpfs("/x:size=1k").expect("tmpfs").size, Some(1024));
    }
}
