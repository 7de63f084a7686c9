//! Commands about containers.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use berth_api::wire::{Container, ContainerCreate, LogEntry, Port, Traffic};
use berth_client::{Client, Error, LogQuery};
use futures_util::{Stream, StreamExt};

use super::options::{Create, Run};
use super::{output, registries, sessions};

type Outcome = Result<ExitCode, String>;

fn said(error: Error) -> String {
    error.to_string()
}

/// Containers by id, the beginning of an id, or name.
#[derive(Debug, clap::Args)]
pub(crate) struct Ids {
    /// Containers, by id, the beginning of an id, or name
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Seconds between the stop signal and the kill
    #[arg(long, short)]
    pub(super) time: Option<u64>,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Signal, by name or number
    #[arg(long, short, default_value = "KILL")]
    pub(super) signal: String,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Kill those that run
    #[arg(long, short)]
    pub(super) force: bool,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    /// Show those that don't run, too
    #[arg(long, short)]
    all: bool,
    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Go on until the container has ended
    #[arg(long, short)]
    follow: bool,
    /// Not older than this: RFC 3339, seconds since 1970, or a while ago (10m, 2h)
    #[arg(long)]
    since: Option<String>,
    /// Older than this, as --since
    #[arg(long)]
    until: Option<String>,
    /// Only lines in which this regular expression is found
    #[arg(long, short)]
    grep: Option<String>,
    /// Only so many lines from the end
    #[arg(long, short = 'n', alias = "lines")]
    tail: Option<usize>,
    /// Show the time before each line
    #[arg(long, short)]
    timestamps: bool,
    /// Print JSON, one entry a line
    #[arg(long)]
    json: bool,
    /// Container
    id: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Show them once and leave
    #[arg(long)]
    no_stream: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Containers; all that run if none is named
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrafficOf {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Containers; all if none is named
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// What happened so far, instead of what happens from now on
    #[arg(long)]
    past: bool,
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
}

/// Does it for each, goes on after failures, and fails if one did. `doing` is what is shown meanwhile (`stopping`); empty for nothing.
pub(super) async fn each<'a, F: Future<Output = Result<String, Error>>>(
    doing: &str,
    ids: &'a [String],
    act: impl Fn(&'a str) -> F,
) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        let done = match doing {
            "" => act(id).await,
            doing => output::with_progress(&format!("{doing} {id}"), act(id)).await,
        };
        match done {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("berth: {id}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

pub(super) async fn act(client: &Client, id: &str, verb: &str, timeout: Option<u64>) -> Result<String, Error> {
    client.container_do(id, verb, timeout).await.map(|_| id.to_owned())
}

pub(super) async fn kill(client: &Client, id: &str, signal: &str) -> Result<String, Error> {
    client.container_kill(id, signal).await.map(|()| id.to_owned())
}

pub(super) async fn remove(client: &Client, id: &str, force: bool) -> Result<String, Error> {
    client.container_remove(id, force).await.map(|()| id.to_owned())
}

pub(super) async fn wait(client: &Client, id: &str) -> Result<String, Error> {
    client.container_wait(id).await.map(|e| e.exit_code.unwrap_or(0).to_string())
}

pub(super) async fn create(client: &Client, create: Create) -> Outcome {
    let pull = create.pull.clone();
    let request = create.request(false)?;
    println!("{}", make(client, &request, &pull).await.map_err(|unmade| unmade.message)?.id);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(client: &Client, run: Run) -> Outcome {
    let (remove, pull) = (run.create.rm, run.create.pull.clone());
    let (tty, interactive) = (run.create.tty, run.create.interactive);
    if tty && interactive && !run.detach && !std::io::stdin().is_terminal() {
        return Err("standard input is no terminal: leave -t away".into());
    }
    let mut request = run.create.request(true)?;
    request.attended = remove && !run.detach;
    let made = match make(client, &request, &pull).await {
        Ok(made) => made,
        Err(Unmade { message, exit_code }) => {
            eprintln!("berth: {}", output::harmless(&message));
            return Ok(ExitCode::from(exit_code));
        }
    };
    let _passing_on = (!(run.detach || tty && interactive)).then(|| PassingOn::begin(client, &made.id)).transpose()?;
    if run.detach {
        println!("{}", made.id);
        return Ok(ExitCode::SUCCESS);
    }
    if (tty || interactive)
        && let Ok(session) = client.container_attach_from_start(&made.id).await
    {
        let Some(ended) = sessions::talk(session, tty, interactive).await.map_err(said)? else {
            // Let go of: it goes on.
            return Ok(ExitCode::SUCCESS);
        };
        if remove {
            remove_ended(client, &made.id).await?;
        }
        return Ok(sessions::code(ended));
    }
    let ended = async {
        follow_log(client, &made.id, &LogQuery { follow: true, ..LogQuery::default() }, false, false).await?;
        client.container_wait(&made.id).await.map_err(said)
    };
    // Only what is known to have ended: a broken connection says nothing about the container.
    let ended = ended.await?;
    if remove {
        remove_ended(client, &made.id).await?;
    }
    if ended.oom_killed {
        eprintln!("berth: the container was out of memory (OOM-killed)");
    }
    Ok(ExitCode::from(u8::try_from(ended.exit_code.unwrap_or(0)).unwrap_or(1)))
}

/// Removes what the server removes by itself a while later.
async fn remove_ended(client: &Client, id: &str) -> Result<(), String> {
    match client.container_remove(id, true).await {
        Err(error) if error.code() == Some("not_found") => Ok(()),
        other => other.map_err(said),
    }
}

/// Signals to this program are the container's, as long as this lives.
struct PassingOn(tokio::task::JoinHandle<()>);

impl PassingOn {
    fn begin(client: &Client, id: &str) -> Result<Self, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("TERM", 15)] {
            let watched = signal(SignalKind::from_raw(number)).map_err(|e| format!("watch for {name}: {e}"))?;
            let told = told.clone();
            tokio::spawn(async move {
                let mut watched = watched;
                while watched.recv().await.is_some() && told.send(name).is_ok() {}
            });
        }
        let (client, id) = (client.clone(), id.to_owned());
        Ok(Self(tokio::spawn(async move {
            let mut interrupts = 0;
            while let Some(name) = heard.recv().await {
                interrupts += u32::from(name == "INT");
                // Who presses Ctrl-C again means it: first processes don't heed what they have no handler for.
                let name = match (name, interrupts) {
                    ("INT", 2) => "TERM",
                    ("INT", 3..) => "KILL",
                    (name, _) => name,
                };
                let _ = client.container_kill(&id, name).await;
            }
        })))
    }
}

impl Drop for PassingOn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a container was not made, and the exit code that Docker has for it: 126 and 127 for programs that can't be run, 125 for
/// all else.
struct Unmade {
    message: String,
    exit_code: u8,
}

impl From<String> for Unmade {
    fn from(message: String) -> Self {
        Self { message, exit_code: 125 }
    }
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self { exit_code: error.exit_code().unwrap_or(125), message: error.to_string() }
    }
}

/// Makes a container, and fetches its image before, as far as that is wanted.
async fn make(client: &Client, request: &ContainerCreate, pull: &str) -> Result<Container, Unmade> {
    if pull == "always" {
        registries::fetch(client, &request.image, None, false).await?;
    }
    match output::with_progress("starting", client.container_create(request)).await {
        Err(error) if pull == "missing" && error.code() == Some("not_found") => {
            eprintln!("Image {} is not here: it is fetched", request.image);
            registries::fetch(client, &request.image, None, false).await.map_err(|fetching| {
                format!("{error}, and it could not be fetched: {fetching}; `berth load` imports images from archives")
            })?;
            Ok(output::with_progress("starting", client.container_create(request)).await?)
        }
        other => Ok(other?),
    }
}

fn ports(all: &[Port]) -> String {
    let one = |p: &Port| {
        let host = p.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into());
        let number = |n: Option<u16>| n.map(|n| n.to_string()).unwrap_or_default();
        format!("{host}:{}->{}/{}", number(p.host_port), number(p.container_port), p.protocol)
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn status(c: &Container) -> String {
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
        (state, ..) => state[..1].to_uppercase() + &state[1..],
    }
}

fn shortened(words: &[String]) -> String {
    let text = words.join(" ");
    if text.chars().count() <= 28 { text } else { text.chars().take(27).chain(['…']).collect() }
}

pub(super) async fn ps(client: &Client, ps: &Ps) -> Outcome {
    let mut all = client.containers().await.map_err(said)?;
    all.retain(|c| ps.all || matches!(c.state.as_str(), "running" | "paused") || c.next_start.is_some());
    all.reverse();
    if ps.quiet {
        all.iter().for_each(|c| println!("{}", c.id));
    } else if ps.json {
        output::json(&all)?;
    } else {
        let rows: Vec<_> = all
            .iter()
            .map(|c| {
                let image = if c.image.is_empty() { "-".to_owned() } else { c.image.clone() };
                let ago = format!("{} ago", output::age(&c.created_at));
                vec![c.id.clone(), image, shortened(&c.command), ago, status(c), ports(&c.ports), c.name.clone()]
            })
            .collect();
        output::table(&["ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the printing of a log stands.
struct Printed {
    line_start: bool,
    /// Time of the last entry, and how many of that time there were.
    last: Option<(String, usize)>,
}

/// How long a follower waits for a server that has gone.
const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// Prints a log; a follower goes on over restarts of the server, where it stood.
async fn follow_log(client: &Client, id: &str, query: &LogQuery, timestamps: bool, json: bool) -> Result<(), String> {
    let mut printed = Printed { line_start: true, last: None };
    let mut query = query.clone();
    let mut gone_since: Option<std::time::Instant> = None;
    // Whether there was a log at all: only then its end is one, and a server that does not answer may come back.
    let mut connected = false;
    loop {
        let seen = printed.last.clone();
        let broken = match client.container_logs(id, &query).await {
            Ok(log) => {
                gone_since = None;
                connected = true;
                match print_log(log, &mut printed, seen, timestamps, json).await? {
                    None if !query.follow => return Ok(()),
                    // A server that goes ends its streams in order, too.
                    None => match client.container(id).await {
                        Ok(c) if !matches!(c.state.as_str(), "running" | "paused") && c.next_start.is_none() => {
                            return Ok(());
                        }
                        Err(error) if error.code() == Some("not_found") => return Ok(()),
                        Err(error @ Error::Refused(_)) => return Err(error.to_string()),
                        Ok(_) => None,
                        Err(error) => Some(error),
                    },
                    broken => broken,
                }
            }
            Err(error) if connected && error.code() == Some("not_found") => return Ok(()),
            // While the server comes up it may answer that it is not ready.
            Err(error) if connected && error.code() == Some("overloaded") => Some(error),
            Err(error @ (Error::Refused(_) | Error::Answer(_))) => return Err(error.to_string()),
            Err(error) => Some(error),
        };
        if !query.follow || !connected {
            return broken.map_or(Ok(()), |e| Err(e.to_string()));
        }
        let since = *gone_since.get_or_insert_with(std::time::Instant::now);
        if since.elapsed() > SERVER_PATIENCE {
            return Err(broken.map_or_else(|| "the server does not answer".into(), |e| e.to_string()));
        }
        if let Some((at, _)) = &printed.last {
            query.since = Some(at.clone());
            query.tail = None;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Prints entries until the end; the error that broke them off. Those in `seen` (a time and how many of it) are passed over.
async fn print_log(
    log: impl Stream<Item = Result<LogEntry, Error>>,
    printed: &mut Printed,
    seen: Option<(String, usize)>,
    timestamps: bool,
    json: bool,
) -> Result<Option<Error>, String> {
    let mut log = std::pin::pin!(log);
    let mut known = seen.as_ref().map_or(0, |(_, count)| *count);
    while let Some(entry) = log.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(Some(error)),
        };
        if known > 0 && seen.as_ref().is_some_and(|(at, _)| *at == entry.time) {
            known -= 1;
            continue;
        }
        printed.last = match printed.last.take() {
            Some((at, count)) if at == entry.time => Some((at, count + 1)),
            _ => Some((entry.time.clone(), 1)),
        };
        if json {
            println!("{}", serde_json::to_string(&entry).map_err(|e| e.to_string())?);
            continue;
        }
        let line_start = printed.line_start;
        let mut line = if timestamps && line_start { format!("{} ", entry.time).into_bytes() } else { Vec::new() };
        line.extend_from_slice(entry.bytes.as_deref().unwrap_or(entry.text.as_bytes()));
        if !entry.partial {
            line.push(b'\n');
        }
        printed.line_start = !entry.partial;
        // Bytes as they are: the output may be an archive on its way into a file.
        let written = if entry.stream == "stderr" {
            std::io::stderr().write_all(&line)
        } else {
            let mut out = std::io::stdout();
            out.write_all(&line).and_then(|()| out.flush())
        };
        written.map_err(|e| format!("write: {e}"))?;
    }
    Ok(None)
}

/// `10m` as seconds since 1970; other texts as they are.
fn since(text: &str) -> String {
    let (number, unit) = text.split_at(text.char_indices().last().map_or(0, |(at, _)| at));
    let factor = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return text.to_owned(),
    };
    match number.parse::<f64>() {
        Ok(n) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            format!("{:.3}", now.as_secs_f64() - n * factor)
        }
        Err(_) => text.to_owned(),
    }
}

pub(super) async fn logs(client: &Client, logs: &Logs) -> Outcome {
    let query = LogQuery {
        follow: logs.follow,
        since: logs.since.as_deref().map(since),
        until: logs.until.as_deref().map(since),
        tail: logs.tail,
        grep: logs.grep.clone(),
    };
    follow_log(client, &logs.id, &query, logs.timestamps, logs.json).await?;
    Ok(ExitCode::SUCCESS)
}

async fn usage(client: &Client, ids: &[String]) -> Result<Vec<berth_api::wire::Stats>, String> {
    if ids.is_empty() {
        return client.stats().await.map_err(said);
    }
    let mut all = Vec::new();
    for id in ids {
        all.push(client.container_stats(id).await.map_err(said)?);
    }
    Ok(all)
}

pub(super) async fn stats(client: &Client, stats: &Stats) -> Outcome {
    // Into a pipe it is read once: a stream of screens would be of no use there.
    let once = stats.no_stream || (!std::io::stdout().is_terminal() && !stats.json);
    loop {
        let all = usage(client, &stats.ids).await?;
        if stats.json {
            println!("{}", serde_json::to_string(&all).map_err(|e| e.to_string())?);
        } else {
            if !once {
                print!("\x1b[2J\x1b[H");
            }
            let rows: Vec<_> = all
                .iter()
                .map(|s| {
                    vec![
                        s.id.clone(),
                        s.name.clone(),
                        format!("{:.2}%", s.cpu_percent),
                        format!("{} / {}", output::bytes(s.memory), output::bytes(s.memory_limit)),
                        format!("{:.2}%", s.memory_percent),
                        format!("{} / {}", output::bytes(s.rx_bytes), output::bytes(s.tx_bytes)),
                        format!("{} / {}", output::bytes(s.block_read), output::bytes(s.block_write)),
                        s.pids.to_string(),
                    ]
                })
                .collect();
            output::table(
                &["ID", "NAME", "CPU", "MEMORY / LIMIT", "MEM", "NET IN / OUT", "BLOCK IN / OUT", "PIDS"],
                &rows,
            );
        }
        if once {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub(super) async fn traffic(client: &Client, asked: &TrafficOf) -> Outcome {
    let mut containers = Vec::new();
    for id in &asked.ids {
        containers.push(client.container(id).await.map_err(said)?);
    }
    if asked.ids.is_empty() {
        containers = client.containers().await.map_err(said)?;
    }
    let mut all = Vec::new();
    for container in containers {
        match client.container_traffic(&container.id).await {
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

pub(super) async fn inspect(client: &Client, ids: &[String]) -> Outcome {
    let mut all = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        let found = match client.container(id).await {
            Err(error) if error.code() == Some("not_found") => {
                client.image(id).await.map(|i| serde_json::to_value(i).unwrap_or_default()).map_err(|_| error)
            }
            other => other.map(|c| serde_json::to_value(c).unwrap_or_default()),
        };
        match found {
            Ok(value) => all.push(value),
            Err(error) => {
                eprintln!("berth: {id}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    output::json(&all)?;
    Ok(code)
}

pub(super) async fn events(client: &Client, events: &Events) -> Outcome {
    let print = |event: &berth_api::wire::Event| -> Result<(), String> {
        if events.json {
            println!("{}", serde_json::to_string(event).map_err(|e| e.to_string())?);
        } else {
            println!("{} {} {} {}", event.time, event.kind, event.subject, event.detail);
        }
        Ok(())
    };
    if events.past {
        client.events().await.map_err(said)?.iter().try_for_each(print)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut stream = client.events_follow().await.map_err(said)?;
    while let Some(event) = stream.next().await {
        print(&event.map_err(said)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
