//! Volumes.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use berth_core::{Core, NewVolume};

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::streams::{Kind, StreamLimits, reader, tar_of};
use super::wire::{List, Pruned, Volume, VolumeCreate};
use crate::http::small_body;

/// The account's volumes.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", responses((status = 200, body = List<Volume>)))]
pub(super) async fn list(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Volume>>, Error> {
    let items = core.volumes(&caller).await?.into_iter().map(Volume::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes a volume; one of that name that is there already is given as it is.
#[utoipa::path(post, path = "/v1/volumes", request_body = VolumeCreate, tag = "volumes",
    responses((status = 201, body = Volume)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<Volume>), Error> {
    let asked: VolumeCreate = read_json(&small_body(request.into_body()).await?)?;
    let new = NewVolume { name: asked.name.filter(|n| !n.is_empty()), labels: asked.labels };
    Ok((StatusCode::CREATED, Json(core.volume_create(&caller, new).await?.into())))
}

/// One volume, with its size.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes", params(("name" = String, Path)),
    responses((status = 200, body = Volume)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
) -> Result<Json<Volume>, Error> {
    let found = core.volume(&caller, &name).await?;
    let mountpoint = core.volume_folder(&caller, &found).map(|path| path.display().to_string());
    Ok(Json(Volume { mountpoint, ..found.into() }))
}

/// Removes a volume with all that is in it, unless a container mounts it.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes", params(("name" = String, Path)),
    responses((status = 204), (status = 409, body = super::wire::Problem)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Error> {
    core.volume_remove(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the volumes that no container mounts.
#[utoipa::path(post, path = "/v1/volumes/prune", tag = "volumes", responses((status = 200, body = Pruned)))]
pub(super) async fn prune(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<Pruned>, Error> {
    Ok(Json(Pruned { removed: core.volume_prune(&caller).await?, freed: 0 }))
}

/// A volume's content as a tar.
#[utoipa::path(get, path = "/v1/volumes/{name}/archive", tag = "volumes", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>)))]
pub(super) async fn backup(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
) -> Result<Response, Error> {
    let place = places.take(&caller, Kind::Archive)?;
    let write = core.volume_backup(&caller, &name).await?;
    tar_of(place, write).await
}

/// Unpacks a tar (plain, gzip or zstd) into a volume, over what is there.
#[utoipa::path(put, path = "/v1/volumes/{name}/archive", tag = "volumes", params(("name" = String, Path)),
    request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 204), (status = 400, body = super::wire::Problem)))]
pub(super) async fn restore(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
    request: Request,
) -> Result<StatusCode, Error> {
    let _place = places.take(&caller, Kind::Archive)?;
    let unpack = core.volume_restore(&caller, &name, Box::new(reader(request))).await?;
    tokio::task::spawn_blocking(unpack)
        .await
        .unwrap_or_else(|_| Err(berth_core::Error::Bug("a thread panicked".into())))?;
    Ok(StatusCode::NO_CONTENT)
}
