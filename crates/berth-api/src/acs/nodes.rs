//! Nodes: what berth calls groups.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Caller, Core, Group, Method};

use super::auth::{Change, authenticate, enter_change};
use super::containers::{Reply, number};
use super::error::Error;
use super::wire::{Answer, Command, Node};
use crate::http::{Parameters, PathText};

async fn found(core: &Core, caller: &Caller, id: &str) -> Result<Group, Error> {
    let id = number("node_id", id)?;
    core.group(caller, &id.to_string()).await.map_err(|error| match error {
        berth_core::Error::NotFound { .. } => berth_core::Error::NotFound { what: "node", name: id.to_string() }.into(),
        other => other.into(),
    })
}

/// `PARALLEL` if it is not there.
fn method(parameters: &Parameters) -> Result<Method, Error> {
    match parameters.optional("method")?.as_deref() {
        None | Some("PARALLEL") => Ok(Method::Parallel),
        Some("SEQUENTIAL") => Ok(Method::Sequential),
        Some(other) => Err(Error::invalid(format!("parameter method must be PARALLEL or SEQUENTIAL, not {other:?}"))),
    }
}

/// `GET /api/v1/node`.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Reply<Vec<Node>> {
    let (caller, _) = authenticate(&core, request, "node_list").await?;
    let mut all = Vec::new();
    for group in core.groups(&caller).await? {
        let containers = core.group_containers(&group).await?;
        all.push(Node::of(&core, group, &containers));
    }
    Ok(Json(Answer::of(all)))
}

/// `GET /api/v1/node/{node_id}`.
pub(super) async fn inspect(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Node> {
    let (caller, _) = authenticate(&core, request, "node_get").await?;
    let group = found(&core, &caller, &id).await?;
    let containers = core.group_containers(&group).await?;
    Ok(Json(Answer::of(Node::of(&core, group, &containers))))
}

fn answer(core: &Core, command: berth_core::Command) -> Reply<Command> {
    Ok(Json(Answer::of(Command::of(core, command))))
}

/// `POST /api/v1/node/{node_id}/uploadStart`: code by `url` becomes the node's next version.
pub(super) async fn upload_start(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    let (caller, parameters) = match enter_change(&core, request, "node_upload_start").await? {
        Change::New(caller, parameters) => (caller, parameters),
        Change::Again(command) => return answer(&core, *command),
    };
    let group = found(&core, &caller, &id).await?;
    let (url, update) = (parameters.text("url")?, parameters.flag("update")?);
    let command = core.group_upload(&caller, &group, &url, update, method(&parameters)?).await?;
    answer(&core, command)
}

/// `POST /api/v1/node/{node_id}/historyStart`: a `version` that the node had before.
pub(super) async fn history_start(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Reply<Command> {
    let (caller, parameters) = match enter_change(&core, request, "node_history_start").await? {
        Change::New(caller, parameters) => (caller, parameters),
        Change::Again(command) => return answer(&core, *command),
    };
    let group = found(&core, &caller, &id).await?;
    let (version, update) = (parameters.integer("version")?, parameters.flag("update")?);
    let command = core.group_history(&caller, &group, version, update, method(&parameters)?).await?;
    answer(&core, command)
}

/// `POST /api/v1/node/{node_id}/start`: from another image with `imageName` and `imageTag`.
pub(super) async fn start(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    let (caller, parameters) = match enter_change(&core, request, "node_start").await? {
        Change::New(caller, parameters) => (caller, parameters),
        Change::Again(command) => return answer(&core, *command),
    };
    let group = found(&core, &caller, &id).await?;
    let image = match (parameters.optional("imageName")?, parameters.optional("imageTag")?) {
        (Some(name), Some(tag)) => Some(format!("{name}:{tag}")),
        (Some(name), None) => Some(name),
        // Another tag of the same image.
        (None, Some(tag)) => {
            let name = &group.spec.image;
            let bare = name.rsplit_once(':').filter(|(_, t)| !t.contains('/')).map_or(name.as_str(), |(n, _)| n);
            Some(format!("{bare}:{tag}"))
        }
        (None, None) => None,
    };
    let update = parameters.flag("update")?;
    let command = core.group_start(&caller, &group, update, image, method(&parameters)?).await?;
    answer(&core, command)
}

/// `POST /api/v1/node/{node_id}/stop`.
pub(super) async fn stop(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    let (caller, parameters) = match enter_change(&core, request, "node_stop").await? {
        Change::New(caller, parameters) => (caller, parameters),
        Change::Again(command) => return answer(&core, *command),
    };
    let group = found(&core, &caller, &id).await?;
    let command = core.group_stop(&caller, &group, method(&parameters)?).await?;
    answer(&core, command)
}

/// `DELETE /api/v1/node/{node_id}`.
pub(super) async fn delete(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    let caller = match enter_change(&core, request, "node_delete").await? {
        Change::New(caller, _) => caller,
        Change::Again(command) => return answer(&core, *command),
    };
    let group = found(&core, &caller, &id).await?;
    let command = core.group_remove(&caller, &group).await?;
    answer(&core, command)
}
