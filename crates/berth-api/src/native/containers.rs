//! Containers.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{ContainerState, Core, LogFollower, LogQuery, NewContainer};
use berth_engine::{LogOptions, LogStream};
use berth_runtime::log::{format_time, parse_time};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::error::Error;
use super::idempotency;
use super::streams::Kind;
use super::wire::{
    Container, ContainerCreate, ContainerUpdate, Ended, List, LogEntry, PortList, Stats, Traffic, UsagePoint,
};
use crate::http::small_body;
use crate::{Api, Draining};

/// Most items of a page.
const LONGEST_PAGE: u32 = 1000;
/// Time between two readings of the counters.
const STATS_WINDOW: Duration = Duration::from_millis(200);
/// Time between two lines of streamed stats.
const STATS_PERIOD: Duration = Duration::from_secs(1);

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
    /// Only in this state: `created`, `running`, `paused`, `exited`.
    #[serde(default)]
    state: Option<String>,
}

/// Page size and position out of query parameters.
pub(super) fn page(limit: Option<u32>, cursor: Option<&str>) -> Result<(u32, i64), Error> {
    let limit = limit.unwrap_or(100);
    if !(1..=LONGEST_PAGE).contains(&limit) {
        return Err(Error::invalid(format!("limit must be 1 to {LONGEST_PAGE}, not {limit}")));
    }
    let after = match cursor {
        None | Some("") => 0,
        Some(text) => text.parse().map_err(|_| Error::invalid(format!("cursor {text:?} did not come from here")))?,
    };
    Ok((limit, after))
}

/// The state of a query parameter; none if it is absent or empty.
pub(super) fn state(text: Option<&str>) -> Result<Option<ContainerState>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let found = ContainerState::named(text);
    found.map(Some).ok_or_else(|| Error::invalid(format!("state {text:?} is not created, running, paused or exited")))
}

/// The account's containers, oldest first.
#[utoipa::path(get, path = "/v1/containers", params(ListParams), tag = "containers",
    responses((status = 200, body = List<Container>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Container>>, Error> {
    let (limit, after) = page(params.limit, params.cursor.as_deref())?;
    let state = state(params.state.as_deref())?;
    let page = core.containers(&caller, state, after, limit).await?;
    let items = page.items.into_iter().map(Container::from).collect();
    Ok(Json(List { items, next_cursor: page.next.map(|n| n.to_string()) }))
}

/// Makes a container, and starts it if `start` is true. Send an `Idempotency-Key` to be able to try again safely.
#[utoipa::path(post, path = "/v1/containers", request_body = ContainerCreate, tag = "containers",
    responses((status = 201, body = Container), (status = 409, body = super::wire::Problem)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<Container>), Error> {
    let key = idempotency::key_of(request.headers())?;
    let asked: ContainerCreate = read_json(&small_body(request.into_body()).await?)?;
    let start = asked.start;
    let mut new: NewContainer = asked.try_into()?;
    new.key = key;
    Ok((StatusCode::CREATED, Json(core.container_create(&caller, new, start).await?.into())))
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::invalid(format!("the body is not readable as JSON: {e}")))
}

/// One container, by id, the beginning of an id, or name.
#[utoipa::path(get, path = "/v1/containers/{id}", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container(&caller, &id).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveParams {
    /// Kills it if it runs.
    #[serde(default)]
    force: bool,
    /// Removes the volumes, too, that nobody named and nobody else uses.
    #[serde(default)]
    volumes: bool,
}

/// Removes a container.
#[utoipa::path(delete, path = "/v1/containers/{id}", tag = "containers",
    params(("id" = String, Path), RemoveParams), responses((status = 204), (status = 409, body = super::wire::Problem)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<RemoveParams>,
) -> Result<StatusCode, Error> {
    match params.volumes {
        true => core.container_remove_with_volumes(&caller, &id, params.force).await?,
        false => core.container_remove(&caller, &id, params.force).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Starts it; one that runs stays as it is.
#[utoipa::path(post, path = "/v1/containers/{id}/start", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container)))]
pub(super) async fn start(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container_start(&caller, &id).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StopParams {
    /// Seconds between the stop signal and the kill; the container's own if absent.
    #[serde(default)]
    timeout: Option<u64>,
    /// Number of the signal that asks it to stop; the container's own if absent.
    #[serde(default)]
    signal: Option<i32>,
}

impl StopParams {
    fn grace(&self) -> Option<Duration> {
        self.timeout.map(|s| Duration::from_secs(s.min(3600)))
    }
}

/// Stops it: signal, grace, kill.
#[utoipa::path(post, path = "/v1/containers/{id}/stop", tag = "containers",
    params(("id" = String, Path), StopParams), responses((status = 200, body = Container)))]
pub(super) async fn stop(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<StopParams>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container_stop_by(&caller, &id, params.grace(), params.signal).await?.into()))
}

/// Stops and starts it.
#[utoipa::path(post, path = "/v1/containers/{id}/restart", tag = "containers",
    params(("id" = String, Path), StopParams), responses((status = 200, body = Container)))]
pub(super) async fn restart(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<StopParams>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container_restart_by(&caller, &id, params.grace(), params.signal).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct KillParams {
    /// Name or number; `KILL` if absent.
    #[serde(default)]
    signal: Option<String>,
}

/// Sends a signal to its first process.
#[utoipa::path(post, path = "/v1/containers/{id}/kill", tag = "containers",
    params(("id" = String, Path), KillParams), responses((status = 204), (status = 409, body = super::wire::Problem)))]
pub(super) async fn kill(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<KillParams>,
) -> Result<StatusCode, Error> {
    core.container_kill(&caller, &id, params.signal.as_deref().unwrap_or("KILL")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers when it is not running.
#[utoipa::path(get, path = "/v1/containers/{id}/wait", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Ended)))]
pub(super) async fn wait(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Ended>, Error> {
    let _place = api.places.take(&caller, Kind::Stream)?;
    let exit = tokio::select! {
        exit = api.core.container_wait(&caller, &id) => exit?,
        () = api.draining.begun() => {
            return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is going; ask again"));
        }
    };
    Ok(Json(Ended {
        exit_code: exit.as_ref().map(|e| e.code),
        oom_killed: exit.as_ref().is_some_and(|e| e.oom_killed),
        finished_at: exit.and_then(|e| e.finished_at).map(format_time),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogParams {
    /// Go on until the container has ended.
    #[serde(default)]
    follow: bool,
    /// Not older than this: RFC 3339, or seconds since 1970.
    #[serde(default)]
    since: Option<String>,
    /// Older than this: RFC 3339, or seconds since 1970.
    #[serde(default)]
    until: Option<String>,
    /// Only so many lines from the end.
    #[serde(default)]
    tail: Option<usize>,
    /// Only so many lines from the beginning; not with `tail`.
    #[serde(default)]
    head: Option<usize>,
    /// Leave out so many lines at the beginning; not with `tail`.
    #[serde(default)]
    skip: usize,
    /// Only lines in which this regular expression is found.
    #[serde(default)]
    grep: Option<String>,
    /// Number the lines: 1 is the first line that the container has written, also after rotation has deleted it.
    #[serde(default)]
    numbers: bool,
    /// Only lines with higher numbers; all lines if the log has not reached this number, because it is of an earlier log.
    #[serde(default)]
    after: Option<u64>,
    /// Only lines with lower numbers; with `tail` the page before a line. Not with `follow`.
    #[serde(default)]
    before: Option<u64>,
    /// `json` (default) or `text`. JSON is one `LogEntry` a line, text the output as it was written.
    #[serde(default)]
    format: Option<String>,
    /// With `text`: the time before each line.
    #[serde(default)]
    timestamps: bool,
}

/// The container's output.
#[utoipa::path(get, path = "/v1/containers/{id}/logs", tag = "containers",
    params(("id" = String, Path), LogParams),
    responses((status = 200, content_type = "application/x-ndjson", body = LogEntry)))]
pub(super) async fn logs(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<LogParams>,
) -> Result<Response, Error> {
    let since = log_time("since", params.since.as_deref())?;
    let until = log_time("until", params.until.as_deref())?;
    let text = match params.format.as_deref() {
        None | Some("" | "json") => false,
        Some("text") => true,
        Some(other) => return Err(Error::invalid(format!("format {other:?} is not json or text"))),
    };
    if params.tail.is_some() && (params.head.is_some() || params.skip > 0) {
        return Err(Error::invalid("head and skip count from the beginning: they can't be asked for with tail"));
    }
    if params.before.is_some() && params.follow {
        return Err(Error::invalid("what is before a line can't be followed: before and follow exclude each other"));
    }
    let LogParams { tail, numbers, after, before, .. } = params;
    let query = LogQuery {
        head: params.head,
        skip: params.skip,
        options: LogOptions { since, until, tail, numbered: numbers, after, before, ..LogOptions::default() },
        grep: params.grep.filter(|g| !g.is_empty()),
        follow: params.follow && until.is_none(),
    };
    let place = api.places.take(&caller, Kind::Stream)?;
    let follower = api.core.container_logs(&caller, &id, &query).await?;
    let timestamps = params.timestamps;
    let body = Body::from_stream(stream::unfold(
        (follower, api.draining.clone(), place, true),
        move |(mut follower, draining, place, line_start)| async move {
            let (bytes, line_start) = next_lines(&mut follower, &draining, text, timestamps, line_start).await?;
            Some((Ok::<_, std::convert::Infallible>(bytes), (follower, draining, place, line_start)))
        },
    ));
    let kind = if text { "text/plain; charset=utf-8" } else { "application/x-ndjson" };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogCountParams {
    /// Lines in which this regular expression is found.
    grep: String,
    /// Not older than this: RFC 3339, or seconds since 1970.
    #[serde(default)]
    since: Option<String>,
    /// Older than this: RFC 3339, or seconds since 1970.
    #[serde(default)]
    until: Option<String>,
}

/// How many lines of the container's output match.
#[utoipa::path(get, path = "/v1/containers/{id}/logs/count", tag = "containers",
    params(("id" = String, Path), LogCountParams), responses((status = 200, body = super::wire::LogCount)))]
pub(super) async fn count_logs(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<LogCountParams>,
) -> Result<Json<super::wire::LogCount>, Error> {
    let since = log_time("since", params.since.as_deref())?;
    let until = log_time("until", params.until.as_deref())?;
    let _place = api.places.take(&caller, Kind::Stream)?;
    let options = LogOptions { since, until, ..LogOptions::default() };
    let lines = api.core.container_log_count(&caller, &id, &options, &params.grep).await?;
    Ok(Json(super::wire::LogCount { lines: lines as u64 }))
}

/// A point in a log: RFC 3339, or seconds since 1970.
pub(super) fn log_time(name: &str, value: Option<&str>) -> Result<Option<i64>, Error> {
    match value {
        None | Some("") => Ok(None),
        Some(text) => parse_time(text)
            .or_else(|| text.parse::<f64>().ok().filter(|s| s.is_finite()).map(|s| (s * 1e9) as i64))
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("{name} {text:?} is neither RFC 3339 nor seconds"))),
    }
}

/// The next piece of the log, rendered; `None` at the end.
async fn next_lines(
    follower: &mut LogFollower,
    draining: &Draining,
    text: bool,
    timestamps: bool,
    line_start: bool,
) -> Option<(Bytes, bool)> {
    let line = tokio::select! {
        line = follower.next() => line,
        () = draining.begun() => return None,
    };
    let line = match line {
        Ok(line) => line?,
        Err(error) => {
            tracing::error!(error = error.chain(), "a log could not be read on");
            return None;
        }
    };
    let ends = line.ends;
    let mut out = Vec::new();
    if text {
        if timestamps && line_start {
            out.extend_from_slice(format_time(line.at).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&line.text);
        if ends {
            out.push(b'\n');
        }
    } else {
        out = serde_json::to_vec(&log_entry(line)).unwrap_or_default();
        out.push(b'\n');
    }
    Some((out.into(), ends))
}

/// A line of a log as it is told.
pub(super) fn log_entry(line: berth_engine::LogLine) -> LogEntry {
    LogEntry {
        time: format_time(line.at),
        stream: match line.stream {
            LogStream::Stdout => "stdout".into(),
            LogStream::Stderr => "stderr".into(),
        },
        partial: !line.ends,
        number: line.number,
        bytes: std::str::from_utf8(&line.text).is_err().then(|| line.text.clone()),
        text: String::from_utf8_lossy(&line.text).into_owned(),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsParams {
    /// One line a second until the container has ended.
    #[serde(default)]
    stream: bool,
}

/// What it uses; once, or streamed as one JSON object a line.
#[utoipa::path(get, path = "/v1/containers/{id}/stats", tag = "containers",
    params(("id" = String, Path), StatsParams), responses((status = 200, body = Stats), (status = 409, body = super::wire::Problem)))]
pub(super) async fn stats(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<StatsParams>,
) -> Result<Response, Error> {
    let found = api.core.container(&caller, &id).await?;
    let ids = [found.uid.to_string()];
    if !params.stream {
        let usage = api.core.container_usage(&caller, &ids, STATS_WINDOW).await?.pop();
        let usage = usage.ok_or_else(|| {
            Error::new(StatusCode::CONFLICT, "wrong_state", format!("container {} is not running", found.name))
        })?;
        return Ok(Json(Stats::from(usage)).into_response());
    }
    let body = Body::from_stream(stream::unfold((api, ids), move |(api, ids)| async move {
        let usage = tokio::select! {
            usage = api.core.container_usage(&caller, &ids, STATS_PERIOD) => usage.ok()?.pop()?,
            () = api.draining.begun() => return None,
        };
        let mut line = serde_json::to_vec(&Stats::from(usage)).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (api, ids)))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// What all of the account's running containers use.
#[utoipa::path(get, path = "/v1/stats", tag = "containers", responses((status = 200, body = List<Stats>)))]
pub(super) async fn stats_of_all(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Stats>>, Error> {
    let all = core.container_usage(&caller, &[], STATS_WINDOW).await?;
    Ok(Json(List { items: all.into_iter().map(Stats::from).collect(), next_cursor: None }))
}

/// What came in and went out over the network in its whole life, whether it runs or not.
#[utoipa::path(get, path = "/v1/containers/{id}/traffic", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Traffic)))]
pub(super) async fn traffic(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Traffic>, Error> {
    Ok(Json(core.container_traffic(&caller, &id).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SeriesParams {
    /// From then on: RFC 3339, or seconds since 1970; an hour before `to` if absent.
    #[serde(default)]
    from: Option<String>,
    /// Until then; until now if absent.
    #[serde(default)]
    to: Option<String>,
}

/// What it used over time: readings of ten seconds as long as they are kept, then five minutes, then hours; at most 10,000 points.
/// Time without a point is time in which it used nothing.
#[utoipa::path(get, path = "/v1/containers/{id}/series", tag = "containers", params(("id" = String, Path), SeriesParams),
    responses((status = 200, body = List<UsagePoint>), (status = 404, body = super::wire::Problem)))]
pub(super) async fn series(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<SeriesParams>,
) -> Result<Json<List<UsagePoint>>, Error> {
    let to = super::usage::time(params.to.as_deref())?.unwrap_or_else(berth_core::now) / 1_000_000;
    let from = super::usage::time(params.from.as_deref())?.map_or(to - 3_600_000, |ns| ns / 1_000_000);
    let points = core.container_series(&caller, &id, from, to).await?;
    Ok(Json(List { items: points.into_iter().map(UsagePoint::from).collect(), next_cursor: None }))
}

/// Changes bounds and restart policy, at once if it runs.
#[utoipa::path(patch, path = "/v1/containers/{id}", request_body = ContainerUpdate, tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container), (status = 400, body = super::wire::Problem)))]
pub(super) async fn update(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    request: Request,
) -> Result<Json<Container>, Error> {
    let asked: ContainerUpdate = read_json(&small_body(request.into_body()).await?)?;
    Ok(Json(core.container_update(&caller, &id, asked.try_into()?).await?.into()))
}

/// Has exactly these ports published, at once if it runs. Those that it has already are kept.
#[utoipa::path(put, path = "/v1/containers/{id}/ports", request_body = PortList, tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container), (status = 409, body = super::wire::Problem)))]
pub(super) async fn ports(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    request: Request,
) -> Result<Json<Container>, Error> {
    let asked: PortList = read_json(&small_body(request.into_body()).await?)?;
    Ok(Json(core.container_ports(&caller, &id, asked.try_into()?).await?.into()))
}

/// Stops its processes where they are.
#[utoipa::path(post, path = "/v1/containers/{id}/pause", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container), (status = 409, body = super::wire::Problem)))]
pub(super) async fn pause(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container_pause(&caller, &id).await?.into()))
}

/// Lets its processes go on.
#[utoipa::path(post, path = "/v1/containers/{id}/resume", tag = "containers",
    params(("id" = String, Path)), responses((status = 200, body = Container), (status = 409, body = super::wire::Problem)))]
pub(super) async fn resume(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Container>, Error> {
    Ok(Json(core.container_resume(&caller, &id).await?.into()))
}
