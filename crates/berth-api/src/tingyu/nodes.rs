//! Nodes: what berth calls hosts.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::Core;

use super::auth::{authenticate, authenticate_and_read};
use super::error::Error;
use super::wire::{Answer, ListedNode, Node};

/// `GET /node/get`: several by name, separated by commas; those that are not there are left out.
pub(super) async fn get(State(core): State<Core>, request: Request) -> Result<Json<Answer<Vec<Node>>>, Error> {
    let (_, parameters) = authenticate_and_read(&core, request).await?;
    let names = parameters.text("name")?;
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let all = core.hosts().await?;
    Ok(Json(Answer::of(all.into_iter().filter(|host| names.contains(&host.name.as_str())).map(Node::of).collect())))
}

/// `GET /node/list`.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Result<Json<Answer<Vec<ListedNode>>>, Error> {
    authenticate(&core, &request).await?;
    let all = core.hosts().await?;
    Ok(Json(Answer::of(all.into_iter().map(|host| ListedNode::of(&core, host)).collect())))
}
