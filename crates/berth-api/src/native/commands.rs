//! Commands: listed, looked at, followed, cancelled.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, CommandQuery, Core};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::page;
use super::error::Error;
use super::streams::Kind;
use super::wire::{Command, List};
use crate::Api;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Items of a page, 1 to 1000; 100 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// Only those that are not over.
    #[serde(default)]
    open: bool,
}

/// The account's commands, newest first.
#[utoipa::path(get, path = "/v1/commands", params(ListParams), tag = "commands",
    responses((status = 200, body = List<Command>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Command>>, Error> {
    let (limit, before) = page(params.limit, params.cursor.as_deref())?;
    let found = core.commands(&caller, &CommandQuery { before, limit, open: params.open, target: None }).await?;
    let items = found.items.into_iter().map(Command::from).collect();
    Ok(Json(List { items, next_cursor: found.next.map(|n| n.to_string()) }))
}

/// One command with its activities.
#[utoipa::path(get, path = "/v1/commands/{id}", tag = "commands", params(("id" = String, Path)),
    responses((status = 200, body = Command)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Command>, Error> {
    Ok(Json(core.command(&caller, &id).await?.into()))
}

/// Answers when the command is over.
#[utoipa::path(get, path = "/v1/commands/{id}/wait", tag = "commands", params(("id" = String, Path)),
    responses((status = 200, body = Command)))]
pub(super) async fn wait(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Command>, Error> {
    let _place = api.places.take(&caller, Kind::Stream)?;
    Ok(Json(api.core.command_wait(&caller, &id).await?.into()))
}

/// Has a command stop: one that waits never begins, one that runs begins no further step.
#[utoipa::path(post, path = "/v1/commands/{id}/cancel", tag = "commands", params(("id" = String, Path)),
    responses((status = 202, body = Command), (status = 409, body = super::wire::Problem)))]
pub(super) async fn cancel(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Response, Error> {
    let found = core.command_cancel(&caller, &id).await?;
    Ok((axum::http::StatusCode::ACCEPTED, Json(Command::from(found))).into_response())
}

fn told(command: berth_core::Command) -> Event {
    let event = Event::default().event("command").id(command.id.to_string());
    event.json_data(Command::from(command)).unwrap_or_default()
}

/// Follows one command as server-sent events: it as a whole at every change, until it is over.
#[utoipa::path(get, path = "/v1/commands/{id}/events", tag = "commands", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = Command)))]
pub(super) async fn follow(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Response, Error> {
    let place = api.places.take(&caller, Kind::Stream)?;
    // Subscribed before it is looked at: nothing falls in between.
    let wakes = api.core.event_stream();
    let first = api.core.command(&caller, &id).await?;
    let state = (api, place, wakes, id, Some(first), false);
    let events = stream::unfold(state, move |(api, place, mut wakes, id, last, over)| async move {
        if over {
            return None;
        }
        let first = last?;
        if first.ended_at.is_some() {
            return Some((Ok::<_, Infallible>(told(first.clone())), (api, place, wakes, id, Some(first), true)));
        }
        let next = next_change(&api, &caller, &mut wakes, &id, &first).await;
        Some((Ok(told(first)), (api, place, wakes, id, next, false)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

/// The command once it has changed; `None` when the server goes.
async fn next_change(
    api: &Api,
    caller: &Caller,
    wakes: &mut tokio::sync::broadcast::Receiver<berth_core::Event>,
    id: &str,
    last: &berth_core::Command,
) -> Option<berth_core::Command> {
    loop {
        tokio::select! {
            _ = tokio::time::timeout(Duration::from_secs(2), async {
                while wakes.recv().await.is_ok_and(|event| event.subject != id) {}
            }) => {}
            () = api.draining.begun() => return None,
        }
        let now = api.core.command(caller, id).await.ok()?;
        if now != *last {
            return Some(now);
        }
    }
}

/// Follows all of the account's commands as server-sent events: each as a whole at every change.
#[utoipa::path(get, path = "/v1/commands/events", tag = "commands",
    responses((status = 200, content_type = "text/event-stream", body = Command)))]
pub(super) async fn follow_all(State(api): State<Api>, Auth(caller): Auth) -> Result<Response, Error> {
    let place = api.places.take(&caller, Kind::Stream)?;
    let wakes = api.core.event_stream();
    let state = (api, place, wakes, VecDeque::<String>::new());
    let events = stream::unfold(state, move |(api, place, mut wakes, mut changed)| async move {
        loop {
            if let Some(id) = changed.pop_front() {
                if let Ok(command) = api.core.command(&caller, &id).await {
                    return Some((Ok::<_, Infallible>(told(command)), (api, place, wakes, changed)));
                }
                continue;
            }
            tokio::select! {
                event = wakes.recv() => match event {
                    Ok(event) if event.account == caller.account && event.kind.starts_with("command.") => {
                        changed.push_back(event.subject);
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(_) => return None,
                },
                () = api.draining.begun() => return None,
            }
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}
