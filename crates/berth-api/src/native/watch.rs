//! One WebSocket for everything that a page of the console follows: events, use of resources, logs, commands and pulls.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::http::StatusCode;
use axum::response::Response;
use berth_core::{Caller, LogQuery};
use berth_engine::LogOptions;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::auth::{Auth, BySession};
use super::containers::{log_entry, log_time};
use super::error::Error;
use super::exec::{Upgrade, upgrade};
use super::streams::Kind;
use super::wire::{Command, Container, Event, LogEntry, Stats};
use crate::Api;
use crate::http::Chinese;

/// Things that one connection may follow at a time.
const MOST_WATCHES: usize = 32;
/// Longest message of a client, bytes.
const MOST_MESSAGE: usize = 16 * 1024;
/// Messages that wait for a client who is slow; whoever makes more waits.
const AHEAD: usize = 4;
/// Time that a client may take to read a message.
const STALL: Duration = Duration::from_secs(60);
/// Pieces of a log that are read ahead.
const PIECES_AHEAD: usize = 64;
/// Events, or lines of a log, told in one message at most.
const BATCH: usize = 500;
/// Bytes of log text told in one message at most, beyond which it ends with the line.
const BATCH_BYTES: usize = 256 * 1024;
/// Time in which lines of a log are gathered for one message.
const GATHER: Duration = Duration::from_millis(25);
/// Time between two readings of what containers use.
const STATS_PERIOD: Duration = Duration::from_secs(1);
/// How often something that is followed as a whole is looked at without an event.
const CHANGES_PERIOD: Duration = Duration::from_secs(2);
/// How often a client is asked whether it is still there; proxies close what is silent for a minute.
const PING: Duration = Duration::from_secs(20);

/// What a client sends: something to follow under a number of its own, or the number of what it follows no more.
#[derive(Debug, Deserialize)]
struct ClientMessage {
    id: u64,
    #[serde(flatten)]
    what: Subscription,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "watch", rename_all = "lowercase")]
enum Subscription {
    /// Events after number `after`; from now on if absent.
    Events { after: Option<i64> },
    /// What one container uses, or all that run.
    Stats { container: Option<String> },
    /// The log of a container, from its last `tail` lines, from what is younger than `since`, or from the line after number `after`.
    Logs {
        container: String,
        tail: Option<usize>,
        since: Option<String>,
        after: Option<u64>,
        #[serde(default)]
        numbers: bool,
        grep: Option<String>,
    },
    /// A command as a whole at every change.
    Command { command: String },
    /// A container as a whole at every change.
    Container { container: String },
    /// A pull as a whole at every change.
    Pull { pull: String },
    /// Ends what has this number.
    Stop,
}

/// Follows what the client asks for (WebSocket). Each message of the client is JSON with a number `id` of its own and `watch`:
/// `events` (with `after`, the last number known), `stats`, `logs`, `container` (with `container`), `command`, `pull`, or `stop`.
/// Answers have the `id`, and `position` (where the events begin), `events`, `stats`, `lines`, `container`, `command`, `pull`, `error` (a problem) or `end`.
#[utoipa::path(get, path = "/v1/watch", tag = "events", responses((status = 101), (status = 401, body = super::wire::Problem)))]
pub(super) async fn watch(
    State(api): State<Api>,
    Auth(caller): Auth,
    by: BySession,
    Chinese(chinese): Chinese,
    socket: Upgrade,
) -> Result<Response, Error> {
    let socket = upgrade(socket, MOST_MESSAGE)?.max_frame_size(MOST_MESSAGE);
    let place = api.places.take(&caller, Kind::Stream)?;
    Ok(socket.on_upgrade(move |socket| async move {
        converse(socket, &api, caller, chinese, by.gone(&api)).await;
        drop(place);
    }))
}

/// Serves a connection until the client goes, or `gone` is: server or session.
async fn converse(socket: WebSocket, api: &Api, caller: Caller, chinese: bool, gone: impl Future<Output = ()>) {
    let (mut to_client, mut from_client) = socket.split();
    let (answers, mut ready) = mpsc::channel::<String>(AHEAD);
    let inward = async {
        let mut watches: HashMap<u64, tokio::task::AbortHandle> = HashMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Text(text) = message else { continue };
            while tasks.try_join_next().is_some() {}
            watches.retain(|_, task| !task.is_finished());
            let asked = match serde_json::from_str::<ClientMessage>(&text) {
                Ok(asked) => asked,
                Err(error) => {
                    let problem = Error::invalid(format!("the message is not understood: {error}")).problem_in(chinese);
                    let _ = answers.send(json!({ "id": Value::Null, "error": problem }).to_string()).await;
                    continue;
                }
            };
            if let Some(before) = watches.remove(&asked.id) {
                before.abort();
            }
            if matches!(asked.what, Subscription::Stop) {
                continue;
            }
            if watches.len() >= MOST_WATCHES {
                let detail = format!("a connection follows at most {MOST_WATCHES} things at a time");
                let problem = Error::new(StatusCode::TOO_MANY_REQUESTS, "too_many_watches", detail).problem_in(chinese);
                let _ = answers.send(json!({ "id": asked.id, "error": problem }).to_string()).await;
                continue;
            }
            let (api, out) = (api.clone(), Answers { id: asked.id, to: answers.clone() });
            let task = tasks.spawn(async move {
                match follow(&api, &caller, asked.what, &out).await {
                    Ok(()) => out.send("end", json!(true)).await,
                    Err(error) => out.send("error", json!(error.problem_in(chinese))).await,
                };
            });
            watches.insert(asked.id, task);
        }
    };
    let outward = async {
        loop {
            let message = match tokio::time::timeout(PING, ready.recv()).await {
                Ok(Some(text)) => Message::Text(text.into()),
                Ok(None) => return,
                Err(_) => Message::Ping(Default::default()),
            };
            if !matches!(tokio::time::timeout(STALL, to_client.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = gone => {}
    }
}

/// Where the answers of one watch go.
struct Answers {
    id: u64,
    to: mpsc::Sender<String>,
}

impl Answers {
    /// Whether the client is still there.
    async fn send(&self, name: &str, value: Value) -> bool {
        let mut message = serde_json::Map::new();
        message.insert("id".into(), self.id.into());
        message.insert(name.into(), value);
        // As text: what waits takes no more memory than what is sent.
        self.to.send(Value::Object(message).to_string()).await.is_ok()
    }
}

async fn follow(api: &Api, caller: &Caller, what: Subscription, out: &Answers) -> Result<(), Error> {
    match what {
        Subscription::Events { after } => events(api, caller, after, out).await,
        Subscription::Stats { container } => {
            let _place = api.places.take(caller, Kind::Stream)?;
            stats(api, caller, container, out).await
        }
        Subscription::Logs { container, tail, since, after, numbers, grep } => {
            let _place = api.places.take(caller, Kind::Stream)?;
            let since = log_time("since", since.as_deref())?;
            let options = LogOptions { since, tail, after, numbered: numbers, ..LogOptions::default() };
            let query =
                LogQuery { options, grep: grep.filter(|grep| !grep.is_empty()), follow: true, ..LogQuery::default() };
            logs(api, caller, &container, &query, out).await
        }
        Subscription::Command { command } => changes(api, caller, &Subject::Command(command), out).await,
        Subscription::Container { container } => {
            let id = api.core.container(caller, &container).await?.uid.to_string();
            changes(api, caller, &Subject::Container(id), out).await
        }
        Subscription::Pull { pull } => {
            let mut watched = api.pulls.watch(caller, &pull)?;
            loop {
                let now = watched.borrow_and_update().clone();
                let over = now.is_over();
                if !out.send("pull", json!(now)).await || over || watched.changed().await.is_err() {
                    return Ok(());
                }
            }
        }
        Subscription::Stop => Ok(()),
    }
}

async fn events(api: &Api, caller: &Caller, after: Option<i64>, out: &Answers) -> Result<(), Error> {
    // Subscribed before the position is read: nothing falls in between.
    let mut wakes = api.core.event_stream();
    let mut after = match after {
        Some(after) => after,
        None => api.core.event_newest().await?,
    };
    // Where to go on from after an interruption, also while nothing happens.
    if !out.send("position", json!(after)).await {
        return Ok(());
    }
    loop {
        let all = api.core.events(caller, after, BATCH as u32).await?;
        match all.last() {
            Some(last) => {
                after = last.id;
                let all: Vec<Event> = all.into_iter().map(Event::from).collect();
                if !out.send("events", json!(all)).await {
                    return Ok(());
                }
            }
            None => drop(tokio::time::timeout(PING, wakes.recv()).await),
        }
    }
}

async fn stats(api: &Api, caller: &Caller, container: Option<String>, out: &Answers) -> Result<(), Error> {
    let ids: Vec<String> = match container {
        Some(name) => vec![api.core.container(caller, &name).await?.uid.to_string()],
        None => Vec::new(),
    };
    loop {
        let all = api.core.container_usage(caller, &ids, STATS_PERIOD).await?;
        let all: Vec<Stats> = all.into_iter().map(Stats::from).collect();
        if !out.send("stats", json!(all)).await {
            return Ok(());
        }
    }
}

async fn logs(api: &Api, caller: &Caller, id: &str, query: &LogQuery, out: &Answers) -> Result<(), Error> {
    let mut follower = api.core.container_logs(caller, id, query).await?;
    // Read by a task of its own, which goes with this one: what is read half must not be dropped when lines are gathered.
    let (read, mut pieces) = mpsc::channel(PIECES_AHEAD);
    let mut reader = tokio::task::JoinSet::new();
    reader.spawn(async move {
        loop {
            let next = follower.next().await;
            let goes_on = matches!(next, Ok(Some(_)));
            if read.send(next).await.is_err() || !goes_on {
                return;
            }
        }
    });
    loop {
        let Some(piece) = pieces.recv().await.unwrap_or(Ok(None))? else { return Ok(()) };
        let mut bytes = piece.text.len();
        let mut lines = vec![entry(piece)];
        let end = tokio::time::sleep(GATHER);
        tokio::pin!(end);
        let mut over = false;
        while lines.len() < BATCH && bytes < BATCH_BYTES && !over {
            tokio::select! {
                biased;
                piece = pieces.recv() => match piece.unwrap_or(Ok(None))? {
                    Some(piece) => {
                        bytes += piece.text.len();
                        lines.push(entry(piece));
                    }
                    None => over = true,
                },
                () = &mut end => break,
            }
        }
        if !out.send("lines", json!(lines)).await || over {
            return Ok(());
        }
    }
}

/// A piece of a log as text alone: numbers instead of what is no UTF-8 would be many times as long.
fn entry(piece: berth_engine::LogLine) -> LogEntry {
    LogEntry { bytes: None, ..log_entry(piece) }
}

/// Something that is told as a whole, by its id.
enum Subject {
    Command(String),
    Container(String),
}

impl Subject {
    fn id(&self) -> &str {
        match self {
            Self::Command(id) | Self::Container(id) => id,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Container(_) => "container",
        }
    }

    /// As it is now, and whether it will not change any more.
    async fn read(&self, api: &Api, caller: &Caller) -> Result<(Value, bool), Error> {
        Ok(match self {
            Self::Command(id) => {
                let found = api.core.command(caller, id).await?;
                let over = found.ended_at.is_some();
                (json!(Command::from(found)), over)
            }
            Self::Container(id) => (json!(Container::from(api.core.container(caller, id).await?)), false),
        })
    }
}

/// Tells it whenever an event about it finds it changed, until it is over.
async fn changes(api: &Api, caller: &Caller, subject: &Subject, out: &Answers) -> Result<(), Error> {
    let mut wakes = api.core.event_stream();
    let mut last = Value::Null;
    loop {
        let (now, over) = subject.read(api, caller).await?;
        if (now != last && !out.send(subject.name(), now.clone()).await) || over {
            return Ok(());
        }
        last = now;
        // Not everything that changes is an event.
        let _ = tokio::time::timeout(CHANGES_PERIOD, async {
            while wakes.recv().await.is_ok_and(|event| event.subject != subject.id()) {}
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientMessage, Subscription};

    #[test]
    fn messages_name_what_is_followed() {
        let read = |text: &str| serde_json::from_str::<ClientMessage>(text);
        let asked = read(r#"{"id":3,"watch":"logs","container":"a","tail":5}"#).expect("logs");
        assert_eq!(asked.id, 3);
        assert!(matches!(asked.what, Subscription::Logs { tail: Some(5), .. }));
        assert!(matches!(read(r#"{"id":3,"watch":"stop"}"#).expect("stop").what, Subscription::Stop));
        for wrong in ["", "{}", r#"{"id":-1,"watch":"stop"}"#, r#"{"id":1,"watch":"x"}"#, r#"{"id":1,"watch":"logs"}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
