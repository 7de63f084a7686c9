//! Looking into containers, and renaming them.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::Core;
use berth_engine::ChangeKind;
use berth_runtime::log::format_time;

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{ChangedPath, Container, List, Process, Rename, Written};
use crate::http::small_body;

/// The processes of a container that runs.
#[utoipa::path(get, path = "/v1/containers/{id}/processes", tag = "containers", params(("id" = String, Path)),
    responses((status = 200, body = List<Process>), (status = 409, body = super::wire::Problem)))]
pub(super) async fn processes(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<List<Process>>, Error> {
    let render = |p: berth_engine::ProcessFacts| Process {
        uid: p.uid,
        pid: p.pid,
        parent: p.parent,
        cpu_ms: p.cpu_ms,
        started_at: format_time(p.started_at),
        terminal: p.terminal,
        command: p.command,
    };
    let items = core.container_processes(&caller, &id).await?.into_iter().map(render).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// What a container has written to its root file system.
#[utoipa::path(get, path = "/v1/containers/{id}/size", tag = "containers", params(("id" = String, Path)),
    responses((status = 200, body = Written)))]
pub(super) async fn size(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Written>, Error> {
    Ok(Json(Written { bytes: core.container_written(&caller, &id).await? }))
}

/// What a container has changed of its image's files, by path.
#[utoipa::path(get, path = "/v1/containers/{id}/changes", tag = "containers", params(("id" = String, Path)),
    responses((status = 200, body = List<ChangedPath>)))]
pub(super) async fn changes(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<List<ChangedPath>>, Error> {
    let word = |kind| match kind {
        ChangeKind::Changed => "changed",
        ChangeKind::Added => "added",
        ChangeKind::Deleted => "deleted",
    };
    let found = core.container_changed_paths(&caller, &id).await?;
    let items = found.into_iter().map(|p| ChangedPath { path: p.path, kind: word(p.kind).into() }).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Gives a container another name, by which the account's others find it from now on.
#[utoipa::path(post, path = "/v1/containers/{id}/rename", request_body = Rename, tag = "containers",
    params(("id" = String, Path)),
    responses((status = 200, body = Container), (status = 409, body = super::wire::Problem)))]
pub(super) async fn rename(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    request: Request,
) -> Result<Json<Container>, Error> {
    let asked: Rename = read_json(&small_body(request.into_body()).await?)?;
    Ok(Json(core.container_rename(&caller, &id, &asked.name).await?.into()))
}
