//! What containers, images and volumes are to Docker's templates: the fields that people use, by Docker's names.

use berth_api::wire::{Container, Image, Port, Stats, Volume};
use serde_json::{Map, Value, json};

use super::output;

/// `0.0.0.0:8085->80/tcp, …`.
pub(super) fn ports(all: &[Port]) -> String {
    let one = |p: &Port| {
        let host = p.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into());
        let number = |n: Option<u16>| n.map(|n| n.to_string()).unwrap_or_default();
        format!("{host}:{}->{}/{}", number(p.host_port), number(p.container_port), p.protocol)
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `Up 3 minutes (healthy)`.
pub(super) fn status(c: &Container) -> String {
    let health = c.health.as_ref().map(|h| format!(" ({})", h.status)).unwrap_or_default();
    match (c.state.as_str(), &c.started_at, &c.finished_at) {
        ("running", Some(at), _) => format!("Up {}{health}", output::age(at)),
        ("paused", Some(at), _) => format!("Up {} (paused)", output::age(at)),
        ("exited", _, Some(at)) if c.next_start.is_some() => {
            format!("Restarting ({}) {} ago", c.exit_code.unwrap_or(0), output::age(at))
        }
        ("exited", _, Some(at)) => {
            let why = if c.oom_killed { ", out of memory" } else { "" };
            format!("Exited ({}{why}) {} ago", c.exit_code.unwrap_or(0), output::age(at))
        }
        ("exited", ..) if c.exit_code.is_some() => format!("Exited ({}), end time unknown", c.exit_code.unwrap_or(0)),
        (state, ..) => output::capitalised(state),
    }
}

/// Docker's word for the state.
pub(super) fn state(c: &Container) -> &str {
    match c.state.as_str() {
        "exited" if c.next_start.is_some() => "restarting",
        state => state,
    }
}

fn joined(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// A row of `ps`. `written` is what it has written, if that was asked for.
pub(super) fn container_row(c: &Container, account: &str, whole: bool, written: Option<u64>) -> Value {
    let shortened = |text: String| {
        if whole || text.chars().count() <= 28 { text } else { text.chars().take(27).chain(['…']).collect() }
    };
    let mounts: Vec<_> = c.mounts.iter().map(|m| m.source.clone().unwrap_or_else(|| m.target.clone())).collect();
    json!({
        "ID": c.id,
        "Image": if c.image.is_empty() { "-" } else { &c.image },
        "Command": shortened(c.command.join(" ")),
        "CreatedAt": c.created_at,
        "RunningFor": format!("{} ago", output::age(&c.created_at)),
        "Ports": ports(&c.ports),
        "State": state(c),
        "Status": status(c),
        "Size": written.map(output::bytes).unwrap_or_default(),
        "Names": c.name,
        "Labels": joined(&c.labels),
        "Mounts": mounts.join(","),
        "LocalVolumes": c.mounts.iter().filter(|m| m.kind == "volume").count().to_string(),
        "Networks": c.network,
        "Account": account,
    })
}

/// What `docker inspect` has of a container, beside all that berth knows by its own names.
pub(super) fn container(c: &Container) -> Value {
    let mut all = serde_json::to_value(c).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
    let mut bindings = Map::new();
    for port in &c.ports {
        let Some(inside) = port.container_port else { continue };
        let host = json!({
            "HostIp": port.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into()),
            "HostPort": port.host_port.map(|n| n.to_string()).unwrap_or_default(),
        });
        let of = bindings.entry(format!("{inside}/{}", port.protocol)).or_insert_with(|| json!([]));
        if let Some(list) = of.as_array_mut() {
            list.push(host);
        }
    }
    let mounts: Vec<Value> = c
        .mounts
        .iter()
        .map(|m| {
            let name = if m.kind == "volume" { m.source.clone() } else { None };
            json!({ "Type": m.kind, "Name": name, "Source": m.source, "Destination": m.target, "RW": !m.read_only })
        })
        .collect();
    let (policy, retries) = c.restart.split_once(':').unwrap_or((&c.restart, "0"));
    let running = matches!(c.state.as_str(), "running" | "paused");
    let health = c.health.as_ref().map(|h| json!({ "Status": h.status, "FailingStreak": h.failures }));
    let docker = json!({
        "Id": c.id,
        "Name": format!("/{}", c.name),
        "Created": c.created_at,
        "Path": c.command.first(),
        "Args": c.command.get(1..).unwrap_or_default(),
        "Image": c.image_digest,
        "RestartCount": c.restarts,
        "Platform": "linux",
        "State": {
            "Status": state(c),
            "Running": running,
            "Paused": c.state == "paused",
            "Restarting": c.next_start.is_some(),
            "OOMKilled": c.oom_killed,
            "Dead": false,
            "Pid": c.pid.unwrap_or(0),
            "ExitCode": if running { 0 } else { c.exit_code.unwrap_or(0) },
            "Error": c.error.clone().unwrap_or_default(),
            "StartedAt": c.started_at.clone().unwrap_or_else(|| NEVER.into()),
            "FinishedAt": c.finished_at.clone().unwrap_or_else(|| NEVER.into()),
            "Health": health,
        },
        "Config": {
            "Hostname": c.hostname,
            "User": c.user,
            "Tty": c.terminal,
            "OpenStdin": c.stdin,
            "Env": c.env,
            "Cmd": c.command,
            "Image": c.image,
            "WorkingDir": c.working_dir,
            "Labels": c.labels,
        },
        "HostConfig": {
            "NetworkMode": c.network,
            "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries.parse::<u32>().unwrap_or(0) },
            "Memory": c.memory.unwrap_or(0),
            "NanoCpus": c.cpus.map_or(0, |cpus| (cpus * 1e9) as u64),
            "PidsLimit": c.pids,
            "ReadonlyRootfs": c.read_only,
            "Init": c.extras.init,
            "PortBindings": bindings,
        },
        "Mounts": mounts,
        "NetworkSettings": {
            "IPAddress": c.address.clone().unwrap_or_default(),
            "Ports": bindings,
            "Networks": { c.network.clone(): { "IPAddress": c.address.clone().unwrap_or_default() } },
        },
    });
    all.extend(docker.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// What Docker writes for a time that was not.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Name and tag of an image's name; the tag is what follows the last colon after the last slash.
fn parts(name: &str) -> (String, String) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (name.to_owned(), "latest".to_owned()),
    }
}

/// Rows of `images`: one for each name.
pub(super) fn image_rows(image: &Image, account: &str, whole: bool) -> Vec<Value> {
    let digest = image.digest.trim_start_matches("sha256:");
    let id: String = if whole { image.digest.clone() } else { digest.chars().take(12).collect() };
    let names = if image.names.is_empty() { vec!["<none>:<none>".to_owned()] } else { image.names.clone() };
    let row = |name: String| {
        let (repository, tag) = parts(&name);
        json!({
            "ID": id,
            "Name": if name == "<none>:<none>" { "<none>" } else { &name },
            "Repository": repository,
            "Tag": tag,
            "Digest": image.digest,
            "CreatedSince": format!("{} ago", output::age(&image.imported_at)),
            "CreatedAt": image.imported_at,
            "Origin": if image.official { "official" } else { &image.origin },
            "Size": output::bytes(image.size),
            "Account": account,
        })
    };
    names.into_iter().map(row).collect()
}

/// What `docker image inspect` has, beside all that berth knows by its own names.
pub(super) fn image(image: &Image) -> Value {
    let mut all = serde_json::to_value(image).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
    let docker = json!({
        "Id": image.digest,
        "RepoTags": image.names,
        "RepoDigests": [],
        "Created": image.imported_at,
        "Size": image.size,
        "Os": "linux",
    });
    all.extend(docker.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// A row of `volume ls`.
pub(super) fn volume(volume: &Volume, account: &str) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Scope": "local",
        "CreatedAt": volume.created_at,
        "Created": format!("{} ago", output::age(&volume.created_at)),
        "Labels": joined(&volume.labels),
        "UsedBy": volume.used_by.join(", "),
        "Size": volume.size.map(output::bytes).unwrap_or_default(),
        "Mountpoint": volume.mountpoint.clone().unwrap_or_default(),
        "Account": account,
    })
}

/// A row of `stats`.
pub(super) fn stats(s: &Stats, account: &str) -> Value {
    json!({
        "ID": s.id,
        "Container": s.id,
        "Name": s.name,
        "CPUPerc": format!("{:.2}%", s.cpu_percent),
        "MemUsage": format!("{} / {}", output::bytes(s.memory), output::bytes(s.memory_limit)),
        "MemPerc": format!("{:.2}%", s.memory_percent),
        "NetIO": format!("{} / {}", output::bytes(s.rx_bytes), output::bytes(s.tx_bytes)),
        "BlockIO": format!("{} / {}", output::bytes(s.block_read), output::bytes(s.block_write)),
        "PIDs": s.pids.to_string(),
        "Account": account,
    })
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_port_of_a_registry_is_no_tag() {
        let of = |name: &str| parts(name);
        assert_eq!(of("a:1"), ("a".into(), "1".into()));
        assert_eq!(of("host:5000/a"), ("host:5000/a".into(), "latest".into()));
        assert_eq!(of("host:5000/a:2"), ("host:5000/a".into(), "2".into()));
    }
}
