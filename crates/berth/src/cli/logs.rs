//! `berth logs`, and the output of what runs in the foreground.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use berth_api::wire::LogEntry;
use berth_client::{Client, Error, LogQuery};
use futures_util::{Stream, StreamExt};

use super::scope::Scope;
use super::values::{Lines, lines};

type Outcome = Result<ExitCode, String>;

fn said(error: Error) -> String {
    error.to_string()
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Go on until the container has ended
    #[arg(long, short, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
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
    /// Only so many lines from the end, or all
    #[arg(long, short = 'n', alias = "lines", value_parser = lines, value_name = "N")]
    tail: Option<Lines>,
    /// Show the time before each line
    #[arg(long, short)]
    timestamps: bool,
    /// Show the number of each line: 1 is the first that the container has written
    #[arg(long)]
    numbers: bool,
    /// No effect here
    #[arg(long, hide = true)]
    details: bool,
    /// Print JSON, one entry a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
    /// Container
    id: String,
}

/// What is shown of a log, and how.
pub(super) struct Shown {
    stdout: bool,
    stderr: bool,
    numbers: bool,
    timestamps: bool,
    json: bool,
}

impl Shown {
    /// Only these streams.
    pub(super) fn of(stdout: bool, stderr: bool) -> Self {
        Self { stdout, stderr, ..Self::default() }
    }
}

impl Default for Shown {
    fn default() -> Self {
        Self { stdout: true, stderr: true, numbers: false, timestamps: false, json: false }
    }
}

/// Where the printing of a log stands.
struct Printed {
    line_start: bool,
    /// Time of the last entry, and how many of that time there were.
    last: Option<(String, usize)>,
}

/// How long a follower waits for a server that has gone.
pub(super) const SERVER_PATIENCE: Duration = Duration::from_secs(60);

/// Prints a log; a follower goes on over restarts of the server, where it stood.
pub(super) async fn follow_log(client: &Client, id: &str, query: &LogQuery, shown: &Shown) -> Result<(), String> {
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
                match print_log(log, &mut printed, seen, shown).await? {
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
    shown: &Shown,
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
        if !(if entry.stream == "stderr" { shown.stderr } else { shown.stdout }) {
            continue;
        }
        if shown.json {
            println!("{}", serde_json::to_string(&entry).map_err(|e| e.to_string())?);
            continue;
        }
        let line_start = printed.line_start;
        let mut line = Vec::new();
        if let Some(number) = entry.number.filter(|_| shown.numbers && line_start) {
            line.extend(format!("{number:>6} ").into_bytes());
        }
        if shown.timestamps && line_start {
            line.extend(format!("{} ", entry.time).into_bytes());
        }
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

/// `10m` ago as seconds since 1970; other texts as they are.
pub(super) fn since(text: &str) -> String {
    let plain = text.parse::<f64>().is_ok();
    match super::values::seconds(text) {
        Ok(ago) if !plain && !text.is_empty() => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            format!("{:.3}", now.as_secs_f64() - ago)
        }
        _ => text.to_owned(),
    }
}

pub(super) async fn logs(client: &Client, logs: &Logs) -> Outcome {
    let query = LogQuery {
        follow: logs.follow,
        since: logs.since.as_deref().map(since),
        until: logs.until.as_deref().map(since),
        tail: logs.tail.and_then(|lines| lines.0),
        grep: logs.grep.clone(),
        numbers: logs.numbers,
    };
    let shown = Shown { numbers: logs.numbers, timestamps: logs.timestamps, json: logs.json, ..Shown::default() };
    let client = logs.scope.of_container(client, &logs.id).await.map_err(said)?;
    follow_log(&client, &logs.id, &query, &shown).await?;
    Ok(ExitCode::SUCCESS)
}
