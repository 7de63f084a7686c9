//! Lists of containers and looks into them: `ps`, `stats`, `inspect`, `top`, `diff`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use berth_api::wire::{Container, Traffic};
use berth_client::{Client, Error};
use serde_json::Value;

use super::filters::{Filters, has_label};
use super::format::{self, Format};
use super::scope::Scope;
use super::{output, shapes};

type Outcome = Result<ExitCode, String>;

fn said(error: Error) -> String {
    error.to_string()
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    /// Show those that don't run, too
    #[arg(long, short)]
    all: bool,
    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
    /// The N that were made last, those that don't run, too
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
    /// The one that was made last
    #[arg(long, short = 'l', conflicts_with = "last")]
    latest: bool,
    /// Show what each has written
    #[arg(long, short)]
    size: bool,
    /// Print commands whole
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    format: Format,
    /// Print JSON with berth's own names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
}

const PS_FILTERS: [&str; 11] =
    ["id", "name", "label", "status", "exited", "ancestor", "volume", "network", "publish", "health", "since"];

const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "exited", "removing", "dead"];

/// Whether a container is one of those that are asked for. `since` is when the container of that filter was made.
fn is_asked_for(c: &Container, key: &str, value: &str, since: Option<&str>) -> bool {
    match key {
        "id" => c.id.starts_with(value),
        "name" => match regex::Regex::new(value.trim_start_matches('/')) {
            Ok(like) => like.is_match(&c.name),
            Err(_) => c.name.contains(value),
        },
        "label" => has_label(&c.labels, value),
        "status" => shapes::state(c) == value,
        "exited" => c.state == "exited" && c.exit_code.is_some_and(|code| code.to_string() == value),
        "ancestor" => {
            c.image == value
                || c.image == format!("{value}:latest")
                || format!("{}:latest", c.image) == value
                || c.image_digest.trim_start_matches("sha256:").starts_with(value.trim_start_matches("sha256:"))
        }
        "volume" => c.mounts.iter().any(|m| m.target == value || m.source.as_deref() == Some(value)),
        "network" => c.network == value,
        "publish" => {
            let number = value.split('/').next().unwrap_or(value);
            c.ports.iter().any(|p| p.host_port.is_some_and(|port| port.to_string() == number))
        }
        "health" => c.health.as_ref().map_or("none", |h| h.status.as_str()) == value,
        "since" => since.is_some_and(|at| c.created_at.as_str() > at),
        _ => false,
    }
}

pub(super) async fn ps(client: &Client, ps: &Ps) -> Outcome {
    let filters = ps.filters.by_key(&PS_FILTERS)?;
    if let Some(wrong) = filters.get("status").into_iter().flatten().find(|status| !STATES.contains(&status.as_str())) {
        return Err(format!("--filter status={wrong}: not one of {}", STATES.join(", ")));
    }
    let shows_all =
        ps.all || ps.last.is_some() || ps.latest || filters.contains_key("status") || filters.contains_key("exited");
    let mut all: Vec<(String, Container)> = Vec::new();
    for (account, client) in ps.scope.clients(client).await? {
        let of_account = client.containers().await.map_err(said)?;
        let since = match filters.get("since").and_then(|all| all.first()) {
            Some(id) => client.container(id).await.ok().map(|c| c.created_at),
            None => None,
        };
        let wanted = |c: &Container| {
            (shows_all || matches!(c.state.as_str(), "running" | "paused") || c.next_start.is_some())
                && filters.iter().all(|(key, values)| {
                    let one = |value: &String| is_asked_for(c, key, value, since.as_deref());
                    // Labels narrow each other down, as Docker has it.
                    if *key == "label" { values.iter().all(one) } else { values.iter().any(one) }
                })
        };
        all.extend(of_account.into_iter().filter(wanted).map(|c| (account.clone(), c)));
    }
    all.sort_by(|(_, a), (_, b)| b.created_at.cmp(&a.created_at).then(b.number.cmp(&a.number)));
    all.truncate(if ps.latest { 1 } else { ps.last.unwrap_or(usize::MAX) });
    if ps.quiet {
        all.iter().for_each(|(_, c)| println!("{}", c.id));
        return Ok(ExitCode::SUCCESS);
    }
    if ps.json {
        output::json(&all.into_iter().map(|(_, c)| c).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for (account, c) in &all {
        let written = match ps.size {
            true => Some(client.container_written(&c.id).await.unwrap_or(0)),
            false => None,
        };
        rows.push(shapes::container_row(c, account, ps.no_trunc || ps.format.is_given(), written));
    }
    let mut columns = vec![
        ("ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAME", "Names"),
    ];
    if ps.size {
        columns.push(("WRITTEN", "Size"));
    }
    if ps.scope.shows_accounts() {
        columns.insert(0, ("ACCOUNT", "Account"));
    }
    format::print(&ps.format, &rows, &columns)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Those that don't run, too, with nothing used
    #[arg(long, short)]
    all: bool,
    /// Show them once and leave
    #[arg(long)]
    no_stream: bool,
    /// No effect here: ids are short
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: Format,
    /// Print JSON with berth's own names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
    /// Containers; all that run if none is named
    ids: Vec<String>,
}

async fn usage(client: &Client, asked: &Stats) -> Result<Vec<(String, berth_api::wire::Stats)>, String> {
    let mut all = Vec::new();
    for id in &asked.ids {
        let of = asked.scope.of_container(client, id).await.map_err(said)?;
        all.push((String::new(), of.container_stats(id).await.map_err(said)?));
    }
    if asked.ids.is_empty() {
        for (account, client) in asked.scope.clients(client).await? {
            let running = client.stats().await.map_err(said)?;
            let mut others = Vec::new();
            if asked.all {
                for c in client.containers().await.map_err(said)? {
                    if running.iter().all(|s| s.id != c.id) {
                        let none = berth_api::wire::Stats { id: c.id, name: c.name, ..Default::default() };
                        others.push(none);
                    }
                }
            }
            all.extend(running.into_iter().chain(others).map(|s| (account.clone(), s)));
        }
    }
    Ok(all)
}

pub(super) async fn stats(client: &Client, stats: &Stats) -> Outcome {
    // Into a pipe it is read once: a stream of screens would be of no use there.
    let once = stats.no_stream || (!std::io::stdout().is_terminal() && !stats.json);
    let mut columns = vec![
        ("ID", "ID"),
        ("NAME", "Name"),
        ("CPU", "CPUPerc"),
        ("MEMORY / LIMIT", "MemUsage"),
        ("MEM", "MemPerc"),
        ("NET IN / OUT", "NetIO"),
        ("BLOCK IN / OUT", "BlockIO"),
        ("PIDS", "PIDs"),
    ];
    if stats.scope.shows_accounts() {
        columns.insert(0, ("ACCOUNT", "Account"));
    }
    loop {
        let all = usage(client, stats).await?;
        if stats.json {
            let plain: Vec<_> = all.iter().map(|(_, s)| s).collect();
            println!("{}", serde_json::to_string(&plain).map_err(|e| e.to_string())?);
        } else {
            if !once {
                print!("\x1b[2J\x1b[H");
            }
            let rows: Vec<_> = all.iter().map(|(account, s)| shapes::stats(s, account)).collect();
            format::print(&stats.format, &rows, &columns)?;
        }
        if once {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrafficOf {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
    /// Containers; all if none is named
    ids: Vec<String>,
}

pub(super) async fn traffic(client: &Client, asked: &TrafficOf) -> Outcome {
    let mut containers = Vec::new();
    for id in &asked.ids {
        let of = asked.scope.of_container(client, id).await.map_err(said)?;
        containers.push((of.clone(), of.container(id).await.map_err(said)?));
    }
    if asked.ids.is_empty() {
        for (_, of) in asked.scope.clients(client).await? {
            let found = of.containers().await.map_err(said)?;
            containers.extend(found.into_iter().map(|c| (of.clone(), c)));
        }
    }
    let mut all = Vec::new();
    for (of, container) in containers {
        match of.container_traffic(&container.id).await {
            Ok(traffic) => all.push((container, traffic)),
            // Removed since the list was made.
            Err(error) if asked.ids.is_empty() && error.code() == Some("not_found") => {}
            Err(error) => return Err(said(error)),
        }
    }
    if asked.json {
        let with_id = |(c, t): &(Container, Traffic)| {
            let mut value = serde_json::to_value(t).unwrap_or_default();
            value["id"] = c.id.clone().into();
            value["name"] = c.name.clone().into();
            value
        };
        output::json(&all.iter().map(with_id).collect::<Vec<_>>())?;
    } else {
        let row = |(c, t): &(Container, Traffic)| {
            let counts = [t.rx_bytes, t.rx_packets, t.tx_bytes, t.tx_packets];
            [c.id.clone(), c.name.clone()].into_iter().chain(counts.map(|n| n.to_string())).collect()
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        output::table(&["ID", "NAME", "BYTES IN", "PACKETS IN", "BYTES OUT", "PACKETS OUT"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// A template, such as '{{.State.Status}}'
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Only a container, image or volume
    #[arg(long = "type", value_name = "KIND", value_parser = ["container", "image", "volume"])]
    pub(super) kind: Option<String>,
    /// With what it has written
    #[arg(long, short)]
    size: bool,
    #[command(flatten)]
    scope: Scope,
    /// Containers, images, volumes
    #[arg(required = true)]
    ids: Vec<String>,
}

impl Inspect {
    /// The same of one kind only.
    pub(super) fn of(self, kind: &str) -> Self {
        Self { kind: Some(kind.to_owned()), ..self }
    }

    /// The same of volumes only.
    pub(super) fn of_volumes(format: Option<String>, ids: Vec<String>) -> Self {
        Self { format, kind: Some("volume".into()), size: false, scope: Scope::default(), ids }
    }
}

/// What is called so: with berth's own names, and as templates see it.
async fn found(client: &Client, asked: &Inspect, id: &str) -> Result<(Value, Value), Error> {
    let kind = asked.kind.as_deref();
    let mut missing = None;
    if kind.is_none_or(|kind| kind == "container") {
        let of = asked.scope.of_container(client, id).await;
        match match of {
            Ok(of) => of.container(id).await,
            Err(error) => Err(error),
        } {
            Ok(c) => return Ok((serde_json::to_value(&c).unwrap_or_default(), shapes::container(&c))),
            Err(error) if error.code() == Some("not_found") => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    if kind.is_none_or(|kind| kind == "image") {
        match client.image(id).await {
            Ok(i) => return Ok((serde_json::to_value(&i).unwrap_or_default(), shapes::image(&i))),
            Err(error) if missing.is_none() => missing = Some(error),
            Err(_) => {}
        }
    }
    if kind.is_none_or(|kind| kind == "volume") {
        match client.volume(id).await {
            Ok(v) => {
                let own = serde_json::to_value(&v).unwrap_or_default();
                let mut both = own.clone();
                if let (Some(both), Value::Object(docker)) = (both.as_object_mut(), shapes::volume(&v, "")) {
                    both.extend(docker);
                }
                return Ok((own, both));
            }
            Err(error) if missing.is_none() => missing = Some(error),
            Err(_) => {}
        }
    }
    Err(missing.unwrap_or_else(|| Error::Answer(format!("{id}: no container, image or volume"))))
}

pub(super) async fn inspect(client: &Client, asked: &Inspect) -> Outcome {
    let template = asked.format.as_deref().filter(|f| *f != "json").map(format::Template::new).transpose()?;
    let mut all = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for id in &asked.ids {
        match found(client, asked, id).await {
            Ok((own, docker)) => match &template {
                Some(template) => println!("{}", output::harmless(&template.line(&docker)?)),
                None => all.push(own),
            },
            Err(error) => {
                eprintln!("berth: {id}: {}", super::language::localized(&error.to_string()));
                code = ExitCode::FAILURE;
            }
        }
    }
    if template.is_none() {
        output::json(&all)?;
    }
    Ok(code)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    scope: Scope,
    /// Container
    id: String,
    /// aux for other columns; ps' further options are not known here
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// `0:01`, minutes and seconds.
fn clock(ms: u64) -> String {
    format!("{:02}:{:02}:{:02}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60)
}

pub(super) async fn top(client: &Client, top: &Top) -> Outcome {
    let options = top.options.join(" ");
    let aux = match options.trim_start_matches('-') {
        "" | "ef" => false,
        "aux" => true,
        _ => return Err(format!("top: {options} is not known here; -ef and aux are")),
    };
    let of = top.scope.of_container(client, &top.id).await.map_err(said)?;
    let all = of.container_processes(&top.id).await.map_err(said)?;
    let terminal =
        |p: &berth_api::wire::Process| if p.terminal.is_empty() { "?".to_owned() } else { p.terminal.clone() };
    let time = |p: &berth_api::wire::Process| p.started_at.get(11..16).unwrap_or_default().to_owned();
    let row = |p: &berth_api::wire::Process| match aux {
        true => vec![p.uid.to_string(), p.pid.to_string(), terminal(p), time(p), clock(p.cpu_ms), p.command.join(" ")],
        false => vec![
            p.uid.to_string(),
            p.pid.to_string(),
            p.parent.to_string(),
            time(p),
            terminal(p),
            clock(p.cpu_ms),
            p.command.join(" "),
        ],
    };
    let heads: &[&str] = match aux {
        true => &["USER", "PID", "TTY", "START", "TIME", "COMMAND"],
        false => &["UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD"],
    };
    output::table(heads, &all.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// Container
    id: String,
}

pub(super) async fn diff(client: &Client, diff: &Diff) -> Outcome {
    for path in client.container_changes(&diff.id).await.map_err(said)? {
        let kind: String = path.kind.chars().take(1).collect();
        println!("{} {}", kind.to_uppercase(), output::harmless(&path.path));
    }
    Ok(ExitCode::SUCCESS)
}
