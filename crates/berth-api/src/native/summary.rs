//! Containers as lists show them: found, sorted and counted by the server.

use axum::Json;
use axum::extract::State;
use berth_core::{ContainerOnly, ContainerSearch, ContainerSort, Core};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params};
use super::containers::{page, state};
use super::error::Error;
use super::wire::{ContainerSummary, ContainerSummaryList};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SummaryParams {
    /// Only those with this text in their name or in their image's name, or at the beginning of their id.
    #[serde(default)]
    text: String,
    /// Only in this state: `created`, `running`, `paused`, `exited`.
    #[serde(default)]
    state: Option<String>,
    /// Only those with this label: `KEY` or `KEY=VALUE`.
    #[serde(default)]
    label: Option<String>,
    /// Only those that run and have this health: `starting`, `healthy` or `unhealthy`.
    #[serde(default)]
    health: Option<String>,
    /// Only on this host: its number, id or name.
    #[serde(default)]
    host: Option<String>,
    /// Only of this group: `SERVICE/GROUP`, or its number.
    #[serde(default)]
    group: Option<String>,
    /// `created` (default), `name`, `image` or `state`.
    #[serde(default)]
    sort: Option<String>,
    /// The last first.
    #[serde(default)]
    descending: bool,
    /// 1 to 1000; 100 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// How many to pass over.
    #[serde(default)]
    offset: u32,
}

/// The account's containers as a list shows them, and how many there are in each state.
#[utoipa::path(get, path = "/v1/containers/summary", params(SummaryParams), tag = "containers",
    responses((status = 200, body = ContainerSummaryList), (status = 404, body = super::wire::Problem)))]
pub(super) async fn summary(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<SummaryParams>,
) -> Result<Json<ContainerSummaryList>, Error> {
    let (limit, _) = page(params.limit, None)?;
    let sort = match params.sort.as_deref() {
        None | Some("" | "created") => ContainerSort::Created,
        Some("name") => ContainerSort::Name,
        Some("image") => ContainerSort::Image,
        Some("state") => ContainerSort::State,
        Some(other) => return Err(Error::invalid(format!("sort {other:?} is not created, name, image or state"))),
    };
    let state = state(params.state.as_deref())?;
    let host = match params.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => Some(core.host_by(host).await?.id),
        None => None,
    };
    let group = match params.group.as_deref().filter(|group| !group.is_empty()) {
        Some(group) => Some(core.group(&caller, group).await?.id),
        None => None,
    };
    let asked = ContainerSearch {
        host,
        group,
        text: params.text,
        state: state.map(|state| state.word().to_owned()),
        sort,
        descending: params.descending,
        limit,
        offset: params.offset,
        ..ContainerSearch::default()
    };
    let label = params.label.filter(|label| !label.is_empty()).map(|label| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (label, None),
    });
    let health = params.health.filter(|health| !health.is_empty());
    if let Some(other) = health.as_deref().filter(|word| !["starting", "healthy", "unhealthy"].contains(word)) {
        return Err(Error::invalid(format!("health {other:?} is not starting, healthy or unhealthy")));
    }
    let only = ContainerOnly { label, health };
    let (items, states) = core.containers_search(&caller, asked, &only).await?;
    Ok(Json(ContainerSummaryList {
        total: states.values().sum(),
        states,
        items: items.into_iter().map(ContainerSummary::from).collect(),
    }))
}
