//! Events.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params};
use super::containers::page;
use super::error::Error;
use super::streams::Kind;
use super::wire::{Event, List};
use crate::Api;

/// Events read from the database at a time by a follower.
const BATCH: u32 = 500;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventParams {
    /// Items of a page, 1 to 1000; 100 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// The number of the last event that is known; with `follow` and without it, only what comes from now on is told.
    #[serde(default)]
    cursor: Option<String>,
    /// Go on for ever, one event a line.
    #[serde(default)]
    follow: bool,
}

/// What happened in the account, oldest first.
#[utoipa::path(get, path = "/v1/events", params(EventParams), tag = "events", responses((status = 200, body = List<Event>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Auth(caller): Auth,
    Params(params): Params<EventParams>,
) -> Result<Response, Error> {
    let (limit, mut after) = page(params.limit, params.cursor.as_deref())?;
    if !params.follow {
        let all = api.core.events(&caller, after, limit).await?;
        let next_cursor = all.last().filter(|_| all.len() == limit as usize).map(|e| e.id.to_string());
        let items = all.into_iter().map(Event::from).collect();
        return Ok(Json(List::<Event> { items, next_cursor }).into_response());
    }
    let place = api.places.take(&caller, Kind::Stream)?;
    // Subscribed before the position is read: nothing falls in between.
    let wakes = api.core.event_stream();
    if params.cursor.is_none() {
        after = api.core.event_newest().await?;
    }
    let state = (api, place, wakes, after, VecDeque::new());
    let body =
        Body::from_stream(stream::unfold(state, move |(api, place, mut wakes, mut after, mut ahead)| async move {
            loop {
                if let Some(event) = ahead.pop_front() {
                    let event: berth_core::Event = event;
                    after = event.id;
                    let mut line = serde_json::to_vec(&Event::from(event)).ok()?;
                    line.push(b'\n');
                    return Some((
                        Ok::<_, std::convert::Infallible>(Bytes::from(line)),
                        (api, place, wakes, after, ahead),
                    ));
                }
                ahead = api.core.events(&caller, after, BATCH).await.ok()?.into();
                if ahead.is_empty() {
                    tokio::select! {
                        _ = tokio::time::timeout(Duration::from_secs(30), wakes.recv()) => {}
                        () = api.draining.begun() => return None,
                    }
                }
            }
        }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RecentParams {
    /// Most items, 1 to 1000; 100 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// Only of this: the id of a container or a command, or an image's digest.
    #[serde(default)]
    subject: Option<String>,
}

/// What happened lately in the account, newest first.
#[utoipa::path(get, path = "/v1/events/recent", params(RecentParams), tag = "events",
    responses((status = 200, body = List<Event>)))]
pub(super) async fn recent(
    State(api): State<Api>,
    Auth(caller): Auth,
    Params(params): Params<RecentParams>,
) -> Result<Json<List<Event>>, Error> {
    let (limit, _) = page(params.limit, None)?;
    let all = api.core.events_recent(&caller, params.subject, limit).await?;
    Ok(Json(List { items: all.into_iter().map(Event::from).collect(), next_cursor: None }))
}
