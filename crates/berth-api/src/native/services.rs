//! Services, groups, and what is done to them.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{Core, Group as CoreGroup};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{
    Applied, Apply, Command, Group, GroupCreate, GroupDeploy, GroupMade, GroupRename, GroupRevision, GroupSpec,
    GroupStart, GroupStop, List, Package, Service, ServiceCreate,
};
use crate::http::small_body;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct MethodParams {
    /// `parallel` (default) or `sequential`.
    #[serde(default)]
    method: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyParams {
    /// `parallel` (default) or `sequential`.
    #[serde(default)]
    method: Option<String>,
    /// Only tell what differs.
    #[serde(default)]
    dry_run: bool,
}

/// Which group: by name or number.
type Names = (String, String);

async fn group(core: &Core, caller: &berth_core::Caller, (service, name): &Names) -> Result<CoreGroup, Error> {
    Ok(core.group(caller, &format!("{service}/{name}")).await?)
}

async fn body<T: serde::de::DeserializeOwned + Default>(request: Request) -> Result<T, Error> {
    let bytes = small_body(request.into_body()).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { read_json(&bytes) }
}

async fn shown(core: &Core, found: CoreGroup) -> Result<Group, Error> {
    let containers = core.group_containers(&found).await?;
    Ok(Group::of(found, containers))
}

/// The account's services.
#[utoipa::path(get, path = "/v1/services", tag = "services", responses((status = 200, body = List<Service>)))]
pub(super) async fn list(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Service>>, Error> {
    let items = core.services(&caller).await?.into_iter().map(Service::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes a service.
#[utoipa::path(post, path = "/v1/services", request_body = ServiceCreate, tag = "services",
    responses((status = 201, body = Service), (status = 409, body = super::wire::Problem)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<Service>), Error> {
    let asked: ServiceCreate = read_json(&small_body(request.into_body()).await?)?;
    Ok((StatusCode::CREATED, Json(core.service_create(&caller, &asked.name).await?.into())))
}

/// Gives a service another name.
#[utoipa::path(patch, path = "/v1/services/{service}", request_body = ServiceCreate, tag = "services",
    params(("service" = String, Path)), responses((status = 200, body = Service)))]
pub(super) async fn rename(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(service): Segment<String>,
    request: Request,
) -> Result<Json<Service>, Error> {
    let asked: ServiceCreate = read_json(&small_body(request.into_body()).await?)?;
    Ok(Json(core.service_rename(&caller, &service, &asked.name).await?.into()))
}

/// Removes a service that has no group.
#[utoipa::path(delete, path = "/v1/services/{service}", tag = "services", params(("service" = String, Path)),
    responses((status = 204), (status = 409, body = super::wire::Problem)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(service): Segment<String>,
) -> Result<StatusCode, Error> {
    core.service_remove(&caller, &service).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The account's groups with their containers.
#[utoipa::path(get, path = "/v1/groups", tag = "services", responses((status = 200, body = List<Group>)))]
pub(super) async fn groups(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Group>>, Error> {
    let mut items = Vec::new();
    for found in core.groups(&caller).await? {
        items.push(shown(&core, found).await?);
    }
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes a group and its containers, which are started by the command that comes with it.
#[utoipa::path(post, path = "/v1/services/{service}/groups", request_body = GroupCreate, tag = "services",
    params(("service" = String, Path)), responses((status = 201, body = GroupMade)))]
pub(super) async fn group_create(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(service): Segment<String>,
    request: Request,
) -> Result<(StatusCode, Json<GroupMade>), Error> {
    let asked: GroupCreate = read_json(&small_body(request.into_body()).await?)?;
    let (group, command) = core.group_create(&caller, &service, &asked.name, asked.spec.try_into()?).await?;
    let group = shown(&core, group).await?;
    Ok((StatusCode::CREATED, Json(GroupMade { group, command: command.into() })))
}

/// One group.
#[utoipa::path(get, path = "/v1/services/{service}/groups/{group}", tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 200, body = Group)))]
pub(super) async fn group_inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
) -> Result<Json<Group>, Error> {
    let found = group(&core, &caller, &names).await?;
    Ok(Json(shown(&core, found).await?))
}

/// Brings a group to another specification: how many, image, variables, bounds, ports, health check, deploy path.
#[utoipa::path(put, path = "/v1/services/{service}/groups/{group}", request_body = GroupSpec, tag = "services",
    params(("service" = String, Path), ("group" = String, Path), MethodParams), responses((status = 202, body = Command)))]
pub(super) async fn group_apply(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
    Params(params): Params<MethodParams>,
    request: Request,
) -> Result<(StatusCode, Json<Command>), Error> {
    let spec: GroupSpec = read_json(&small_body(request.into_body()).await?)?;
    let found = group(&core, &caller, &names).await?;
    let method = super::wire::method(params.method.as_deref())?;
    Ok((StatusCode::ACCEPTED, Json(core.group_apply(&caller, &found, spec.try_into()?, method).await?.into())))
}

/// Gives a group another name.
#[utoipa::path(patch, path = "/v1/services/{service}/groups/{group}", request_body = GroupRename, tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 200, body = Group)))]
pub(super) async fn group_rename(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
    request: Request,
) -> Result<Json<Group>, Error> {
    let asked: GroupRename = read_json(&small_body(request.into_body()).await?)?;
    let found = group(&core, &caller, &names).await?;
    let renamed = core.group_rename(&found, &asked.name).await?;
    Ok(Json(shown(&core, renamed).await?))
}

/// Removes a group with its containers; commands that wait are superseded.
#[utoipa::path(delete, path = "/v1/services/{service}/groups/{group}", tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 202, body = Command)))]
pub(super) async fn group_remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
) -> Result<(StatusCode, Json<Command>), Error> {
    let found = group(&core, &caller, &names).await?;
    Ok((StatusCode::ACCEPTED, Json(core.group_remove(&caller, &found).await?.into())))
}

/// Starts a group's containers, anew or from another image if asked.
#[utoipa::path(post, path = "/v1/services/{service}/groups/{group}/start", request_body = GroupStart, tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 202, body = Command)))]
pub(super) async fn group_start(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
    request: Request,
) -> Result<(StatusCode, Json<Command>), Error> {
    let asked: GroupStart = body(request).await?;
    let found = group(&core, &caller, &names).await?;
    let method = super::wire::method(asked.method.as_deref())?;
    let image = asked.image.filter(|image| !image.is_empty());
    Ok((StatusCode::ACCEPTED, Json(core.group_start(&caller, &found, asked.update, image, method).await?.into())))
}

/// Stops a group's containers, each when its connections have ended.
#[utoipa::path(post, path = "/v1/services/{service}/groups/{group}/stop", request_body = GroupStop, tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 202, body = Command)))]
pub(super) async fn group_stop(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
    request: Request,
) -> Result<(StatusCode, Json<Command>), Error> {
    let asked: GroupStop = body(request).await?;
    let found = group(&core, &caller, &names).await?;
    let method = super::wire::method(asked.method.as_deref())?;
    Ok((StatusCode::ACCEPTED, Json(core.group_stop(&caller, &found, method).await?.into())))
}

/// Deploys code from an address as the next version, or brings the group back to a version of its code or to a revision.
#[utoipa::path(post, path = "/v1/services/{service}/groups/{group}/deploy", request_body = GroupDeploy, tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 202, body = Command)))]
pub(super) async fn group_deploy(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
    request: Request,
) -> Result<(StatusCode, Json<Command>), Error> {
    let asked: GroupDeploy = body(request).await?;
    let found = group(&core, &caller, &names).await?;
    let method = super::wire::method(asked.method.as_deref())?;
    let command = match (asked.url, asked.version, asked.revision) {
        (Some(url), None, None) => core.group_upload(&caller, &found, &url, asked.update, method).await?,
        (None, Some(version), None) => core.group_history(&caller, &found, version, asked.update, method).await?,
        (None, None, Some(_)) if asked.update => {
            return Err(Error::invalid(
                "update goes with url or version: a revision makes the containers anew where they differ",
            ));
        }
        (None, None, Some(revision)) => core.group_roll_back(&caller, &found, revision, method).await?,
        _ => return Err(Error::invalid("exactly one of url, version and revision is required")),
    };
    Ok((StatusCode::ACCEPTED, Json(command.into())))
}

/// Lists the specifications that the group has had, the last ten, oldest first. A change that failed is not among them.
#[utoipa::path(get, path = "/v1/services/{service}/groups/{group}/revisions", tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 200, body = List<GroupRevision>)))]
pub(super) async fn revisions(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
) -> Result<Json<List<GroupRevision>>, Error> {
    let found = group(&core, &caller, &names).await?;
    let items = core.group_revisions(&found).await?.into_iter().map(GroupRevision::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// The versions of a group's code that are kept, oldest first.
#[utoipa::path(get, path = "/v1/services/{service}/groups/{group}/packages", tag = "services",
    params(("service" = String, Path), ("group" = String, Path)), responses((status = 200, body = List<Package>)))]
pub(super) async fn packages(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(names): Segment<Names>,
) -> Result<Json<List<Package>>, Error> {
    let found = group(&core, &caller, &names).await?;
    let all = core.packages(&found).await?;
    let items = all.into_iter().map(|p| Package::of(p, found.version)).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Has groups be as told, those told only; tells what differs, and with `dry_run` does nothing more.
#[utoipa::path(post, path = "/v1/apply", request_body = Apply, params(ApplyParams), tag = "services",
    responses((status = 200, body = List<Applied>)))]
pub(super) async fn apply(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ApplyParams>,
    request: Request,
) -> Result<Json<List<Applied>>, Error> {
    let asked: Apply = read_json(&small_body(request.into_body()).await?)?;
    let method = super::wire::method(params.method.as_deref())?;
    let mut wanted = Vec::new();
    for (service, groups) in asked.services {
        for (name, spec) in groups {
            wanted.push((service.clone(), name, spec.try_into()?));
        }
    }
    let items = core.apply(&caller, wanted, method, params.dry_run).await?.into_iter().map(Applied::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}
