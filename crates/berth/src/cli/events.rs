//! `berth events`.

use std::process::ExitCode;
use std::time::Duration;

use berth_client::{Client, Error};
use futures_util::StreamExt;

use super::filters::Filters;
use super::format::{self, Format};
use super::logs::since;

type Outcome = Result<ExitCode, String>;

fn said(error: Error) -> String {
    error.to_string()
}

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// What happened so far, instead of what happens from now on
    #[arg(long)]
    past: bool,
    /// Not older than this: RFC 3339, seconds since 1970, or a while ago (10m, 2h); what happened so far, then what follows
    #[arg(long)]
    since: Option<String>,
    /// Older than this, as --since
    #[arg(long)]
    until: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    format: Format,
    /// Print JSON, one event a line
    #[arg(long)]
    json: bool,
}

/// Our word for an event of docker's.
fn ours(word: &str) -> &str {
    match word {
        "start" => "started",
        "die" | "stop" => "exited",
        "create" => "created",
        "destroy" => "removed",
        "pause" => "paused",
        "unpause" => "resumed",
        other => other,
    }
}

const EVENT_FILTERS: [&str; 4] = ["type", "event", "container", "image"];

/// A time of RFC 3339, seconds since 1970 or a while ago; in nanoseconds since 1970.
fn moment(text: &str) -> Result<i64, String> {
    let text = since(text);
    match text.parse::<f64>() {
        Ok(seconds) => Ok((seconds * 1e9) as i64),
        Err(_) => berth_runtime::log::parse_time(&text).ok_or_else(|| format!("{text:?} is no time")),
    }
}

pub(super) async fn events(client: &Client, events: &Events) -> Outcome {
    let filters = events.filters.by_key(&EVENT_FILTERS)?;
    let (from, to) =
        (events.since.as_deref().map(moment).transpose()?, events.until.as_deref().map(moment).transpose()?);
    let mut subjects = std::collections::HashMap::new();
    for name in filters.get("container").into_iter().flatten() {
        let id = client.container(name).await.map_or_else(|_| name.clone(), |c| c.id);
        subjects.insert(id, ());
    }
    let at = |event: &berth_api::wire::Event| berth_runtime::log::parse_time(&event.time).unwrap_or(0);
    let wanted = |event: &berth_api::wire::Event| {
        let (kind, what) = event.kind.split_once('.').unwrap_or((&event.kind, ""));
        from.is_none_or(|from| at(event) >= from)
            && to.is_none_or(|to| at(event) < to)
            && filters.iter().all(|(key, values)| match *key {
                "type" => values.iter().any(|value| value == kind),
                "event" => values.iter().any(|value| ours(value) == what || *value == event.kind),
                "container" => kind == "container" && subjects.contains_key(&event.subject),
                _ => kind == "image" && values.contains(&event.subject),
            })
    };
    let print = |event: &berth_api::wire::Event| -> Result<(), String> {
        if !wanted(event) {
            return Ok(());
        }
        if events.json {
            println!("{}", serde_json::to_string(event).map_err(|e| e.to_string())?);
        } else if events.format.is_given() {
            let (kind, what) = event.kind.split_once('.').unwrap_or((&event.kind, ""));
            let row = serde_json::json!({
                "Time": event.time, "Type": kind, "Action": what, "Status": what, "ID": event.subject,
                "Actor": { "ID": event.subject }, "Detail": event.detail,
            });
            format::print(&events.format, &[row], &[])?;
        } else {
            println!("{} {} {} {}", event.time, event.kind, event.subject, event.detail);
        }
        Ok(())
    };
    let now = berth_core::now();
    if events.past || from.is_some() || to.is_some_and(|to| to <= now) {
        client.events().await.map_err(said)?.iter().try_for_each(print)?;
    }
    if events.past || to.is_some_and(|to| to <= now) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut stream = client.events_follow().await.map_err(said)?;
    let left = to.map(|to| Duration::from_nanos(u64::try_from(to - now).unwrap_or(0)));
    let follow = async {
        while let Some(event) = stream.next().await {
            print(&event.map_err(said)?)?;
        }
        Ok(ExitCode::SUCCESS)
    };
    match left {
        Some(left) => tokio::time::timeout(left, follow).await.unwrap_or(Ok(ExitCode::SUCCESS)),
        None => follow.await,
    }
}
