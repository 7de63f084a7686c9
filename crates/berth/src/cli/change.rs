//! Changes of containers that exist: `update`, `pause`, `unpause`, `port`, `commit`.

use std::process::ExitCode;

use berth_api::wire::{CommitCreate, ContainerUpdate, Port};
use berth_client::Client;

use super::containers::each;
use super::options::swap_of;
use super::output;
use super::values::{cpus, port, rate, size};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// CPUs, with fractions; none for no bound
    #[arg(long, value_parser = or_none(cpus))]
    cpus: Option<Bound<f64>>,
    /// Memory limit, with b, k, m or g; none for no bound
    #[arg(long, short, value_parser = or_none(size))]
    memory: Option<Bound<u64>>,
    /// Swap beyond memory
    #[arg(long, value_parser = or_none(size))]
    swap: Option<Bound<u64>>,
    /// Memory and swap together, as docker counts it; -1 for as much swap as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, conflicts_with = "swap")]
    memory_swap: Option<String>,
    /// Processes and threads
    #[arg(long)]
    pids_limit: Option<u64>,
    /// What may come in a second, such as 10mbit; none for no bound
    #[arg(long, value_parser = or_none(rate))]
    ingress: Option<Bound<u64>>,
    /// What may go out a second, such as 10mbit; none for no bound
    #[arg(long, value_parser = or_none(rate))]
    egress: Option<Bound<u64>>,
    /// Both directions
    #[arg(long, value_parser = or_none(rate), conflicts_with_all = ["ingress", "egress"])]
    bandwidth: Option<Bound<u64>>,
    /// no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    restart: Option<String>,
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
}

/// A bound, or that there is to be none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<T>(Option<T>);

fn or_none<T: Copy + Send + Sync + 'static>(
    read: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Bound<T>, String> + Clone + Send + Sync + 'static {
    move |text| if text == "none" { Ok(Bound(None)) } else { read(text).map(|value| Bound(Some(value))) }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ports {
    /// Add a port: [IP:]HOST:CONTAINER[/udp]
    #[arg(long, short, value_parser = port)]
    add: Vec<Port>,
    /// Take a port of the host back: HOST[/udp]
    #[arg(long, short)]
    remove: Vec<String>,
    /// Container
    id: String,
    /// Only what this port of the container leads from: PORT[/udp]
    #[arg(conflicts_with_all = ["add", "remove"])]
    port: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Commit {
    /// For the history
    #[arg(long, short, default_value = "")]
    message: String,
    /// For the history
    #[arg(long, short, default_value = "")]
    author: String,
    /// Let it go on while it is read
    #[arg(long)]
    no_pause: bool,
    /// Command of the new image
    #[arg(long, num_args = 1, value_name = "LINE")]
    cmd: Option<String>,
    /// Environment variable KEY=value of the new image
    #[arg(long, short)]
    env: Vec<String>,
    /// Label KEY=value of the new image
    #[arg(long, short)]
    label: Vec<String>,
    /// A line of a Dockerfile that says what the new image is to have: CMD, ENTRYPOINT, ENV or LABEL
    #[arg(long, short, value_name = "LINE")]
    change: Vec<String>,
    /// Container
    id: String,
    /// Name of the new image
    name: Option<String>,
}

pub(super) async fn update(client: &Client, update: &Update) -> Outcome {
    let both = update.bandwidth.map(|b| b.0);
    let swap = match &update.memory_swap {
        Some(together) => Some(Some(swap_of(together, update.memory.and_then(|b| b.0))?)),
        None => update.swap.map(|b| b.0),
    };
    let asked = ContainerUpdate {
        cpus: update.cpus.map(|b| b.0),
        memory: update.memory.map(|b| b.0),
        swap,
        pids: update.pids_limit,
        ingress: update.ingress.map(|b| b.0).or(both),
        egress: update.egress.map(|b| b.0).or(both),
        restart: update.restart.clone(),
    };
    let asked = &asked;
    each("changing", &update.ids, |id| async move { client.container_update(id, asked).await.map(|_| id.to_owned()) })
        .await
}

pub(super) async fn ports(client: &Client, ports: &Ports) -> Outcome {
    let said = |e: berth_client::Error| e.to_string();
    let found = client.container(&ports.id).await.map_err(said)?;
    let mut all = found.ports.clone();
    for text in &ports.remove {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number: u16 = number.parse().map_err(|_| format!("{text:?} is not HOST[/udp]"))?;
        let before = all.len();
        all.retain(|p| p.host_port != Some(number) || p.protocol != protocol);
        if all.len() == before {
            return Err(format!("port {text} is not published by {}", ports.id));
        }
    }
    all.extend(ports.add.iter().cloned());
    let shown = if ports.add.is_empty() && ports.remove.is_empty() {
        found
    } else {
        client.container_ports(&ports.id, all).await.map_err(said)?
    };
    if let Some(wanted) = &ports.port {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let is_wanted = |p: &&Port| p.container_port.is_some_and(|n| n.to_string() == number) && p.protocol == protocol;
        let found: Vec<_> = shown.ports.iter().filter(is_wanted).collect();
        if found.is_empty() {
            return Err(format!("port {wanted} of {} is not published", ports.id));
        }
        for p in found {
            let host = p.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into());
            println!("{host}:{}", p.host_port.unwrap_or(0));
        }
        return Ok(ExitCode::SUCCESS);
    }
    for p in &shown.ports {
        let number = |n: Option<u16>| n.map(|n| n.to_string()).unwrap_or_default();
        let host = p.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into());
        println!("{}/{} -> {host}:{}", number(p.container_port), p.protocol, number(p.host_port));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what a line of a Dockerfile says.
fn change(asked: &mut CommitCreate, line: &str) -> Result<(), String> {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    // A list of JSON, or a line for a shell.
    let command = || match serde_json::from_str::<Vec<String>>(rest) {
        Ok(list) => list,
        Err(_) => vec!["/bin/sh".into(), "-c".into(), rest.to_owned()],
    };
    let variable = || match rest.split_once('=') {
        Some(_) => rest.to_owned(),
        None => rest.split_once(char::is_whitespace).map_or(rest.to_owned(), |(k, v)| format!("{k}={}", v.trim())),
    };
    match word.to_ascii_uppercase().as_str() {
        "CMD" => asked.command = Some(command()),
        "ENTRYPOINT" => asked.entrypoint = Some(command()),
        "ENV" => asked.env.push(variable()),
        "LABEL" => asked.labels.extend([super::values::pair(&variable())]),
        other => {
            return Err(format!("--change {line}: {other} is not possible here; CMD, ENTRYPOINT, ENV and LABEL are"));
        }
    }
    Ok(())
}

pub(super) async fn commit(client: &Client, commit: &Commit) -> Outcome {
    let words = |line: &String| line.split_whitespace().map(str::to_owned).collect();
    let label = |l: &String| {
        let (key, value) = l.split_once('=').unwrap_or((l, ""));
        (key.to_owned(), value.to_owned())
    };
    let mut asked = CommitCreate {
        name: commit.name.clone(),
        comment: commit.message.clone(),
        author: commit.author.clone(),
        no_pause: commit.no_pause,
        command: commit.cmd.as_ref().map(words),
        entrypoint: None,
        env: commit.env.clone(),
        labels: commit.label.iter().map(label).collect(),
    };
    for line in &commit.change {
        change(&mut asked, line)?;
    }
    let committed =
        output::with_progress(&format!("committing {}", commit.id), client.container_commit(&commit.id, &asked)).await;
    println!("{}", committed.map_err(|e| e.to_string())?.digest);
    Ok(ExitCode::SUCCESS)
}
