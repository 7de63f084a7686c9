//! Containers.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Caller, ContainerOrder, Core};

use super::auth::{Change, authenticate, enter_change};
use super::error::Error;
use super::wire::{Answer, Command, Container};
use crate::http::PathText;

pub(super) type Reply<T> = Result<Json<Answer<T>>, Error>;

/// A number of the path.
pub(super) fn number(name: &str, text: &str) -> Result<i64, Error> {
    text.trim().parse().map_err(|_| Error::invalid(format!("parameter {name} must be a whole number, not {text:?}")))
}

/// Bytes of disk by group.
async fn disks(core: &Core, caller: &Caller) -> Result<HashMap<i64, Option<u64>>, Error> {
    Ok(core.groups(caller).await?.into_iter().map(|g| (g.id, g.spec.disk)).collect())
}

/// `GET /api/v1/container`: all of the account's.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Reply<Vec<Container>> {
    let (caller, _) = authenticate(&core, request, "container_list").await?;
    let disks = disks(&core, &caller).await?;
    let all = core.containers(&caller, None, 0, u32::MAX - 1).await?.items;
    let disk = |c: &berth_core::Container| c.group.and_then(|id| disks.get(&id).copied().flatten());
    Ok(Json(Answer::of(all.iter().map(|c| Container::of(&core, c, disk(c))).collect())))
}

/// `GET /api/v1/container/{container_id}`.
pub(super) async fn inspect(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Container> {
    let (caller, _) = authenticate(&core, request, "container_get").await?;
    let found = core.container_by_number(&caller, number("container_id", &id)?).await?;
    let disk = match found.group {
        Some(group) => core.group(&caller, &group.to_string()).await.ok().and_then(|g| g.spec.disk),
        None => None,
    };
    Ok(Json(Answer::of(Container::of(&core, &found, disk))))
}

async fn order(core: Core, id: String, request: Request, action: &str, what: ContainerOrder) -> Reply<Command> {
    let caller = match enter_change(&core, request, action).await? {
        Change::New(caller, _) => caller,
        Change::Again(command) => return Ok(Json(Answer::of(Command::of(&core, *command)))),
    };
    let command = core.container_order(&caller, number("container_id", &id)?, what).await?;
    Ok(Json(Answer::of(Command::of(&core, command))))
}

/// `POST /api/v1/container/{container_id}/start`.
pub(super) async fn start(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    order(core, id, request, "container_start", ContainerOrder::Start).await
}

/// `POST /api/v1/container/{container_id}/stop`.
pub(super) async fn stop(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    order(core, id, request, "container_stop", ContainerOrder::Stop).await
}

/// `DELETE /api/v1/container/{container_id}`.
pub(super) async fn delete(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    order(core, id, request, "container_delete", ContainerOrder::Delete).await
}
