//! Images.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use berth_core::Core;
use berth_image::Config;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::{page, read_json};
use super::error::Error;
use super::streams::{Kind, StreamLimits, reader, tar_of};
use super::wire::{CommitCreate, DiskUse, Image, ImageRemoved, List, PruneAsked, Pruned, Quota};
use crate::http::small_body;

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
    /// Only images with this in a name, official ones too; not paged.
    #[serde(default)]
    search: Option<String>,
    /// Only images with this label, `KEY` or `KEY=value`, official ones too; not paged.
    #[serde(default)]
    label: Option<String>,
}

/// The account's images, oldest first.
#[utoipa::path(get, path = "/v1/images", params(ListParams), tag = "images", responses((status = 200, body = List<Image>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Image>>, Error> {
    let (limit, after) = page(params.limit, params.cursor.as_deref())?;
    if params.search.is_some() || params.label.is_some() {
        let label = params.label.as_deref().filter(|l| !l.is_empty());
        let labels = label.map(|l| l.split_once('=').unwrap_or((l, ""))).map(|(k, v)| (k.to_owned(), v.to_owned()));
        let labels = labels.into_iter().collect();
        let found = core.image_search(&caller, params.search.as_deref().unwrap_or_default(), &labels).await?;
        let items = found.into_iter().map(Image::from).collect();
        return Ok(Json(List { items, next_cursor: None }));
    }
    let mut all = core.images(&caller, after, limit + 1).await?;
    let more = all.len() > limit as usize;
    all.truncate(limit as usize);
    let next_cursor = all.last().filter(|_| more).map(|i| i.id.to_string());
    Ok(Json(List { items: all.into_iter().map(Image::from).collect(), next_cursor }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadParams {
    /// Name for the archive's one image, instead of those that it brings.
    #[serde(default)]
    name: Option<String>,
}

/// Imports the images of an archive: `docker save`, or an OCI layout as tar; plain, gzip or zstd.
#[utoipa::path(post, path = "/v1/images", params(LoadParams), tag = "images",
    request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 201, body = List<Image>), (status = 400, body = super::wire::Problem)))]
pub(super) async fn load(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<LoadParams>,
    request: Request,
) -> Result<(StatusCode, Json<List<Image>>), Error> {
    let name = params.name.filter(|n| !n.is_empty());
    let all = core.image_import(&caller, reader(request), name).await?;
    Ok((StatusCode::CREATED, Json(List { items: all.into_iter().map(Image::from).collect(), next_cursor: None })))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportParams {
    /// Name of the image.
    name: String,
    /// The image configuration's `config` as JSON (`{"Cmd": ["/bin/sh"]}`).
    #[serde(default)]
    config: Option<String>,
}

/// Imports a tar of a root file system as an image of one layer.
#[utoipa::path(post, path = "/v1/images/rootfs", params(ImportParams), tag = "images",
    request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 201, body = Image), (status = 400, body = super::wire::Problem)))]
pub(super) async fn import(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ImportParams>,
    request: Request,
) -> Result<(StatusCode, Json<Image>), Error> {
    let config = match params.config.as_deref() {
        None | Some("") => Config::default(),
        Some(text) => serde_json::from_str(text).map_err(|e| Error::invalid(format!("config is not readable: {e}")))?,
    };
    let image = core.image_import_rootfs(&caller, reader(request), &params.name, config).await?;
    Ok((StatusCode::CREATED, Json(image.into())))
}

/// One image, by name, digest, or the beginning of a digest's digits.
#[utoipa::path(get, path = "/v1/images/{reference}", tag = "images",
    params(("reference" = String, Path)), responses((status = 200, body = Image)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(reference): Segment<String>,
) -> Result<Json<Image>, Error> {
    Ok(Json(core.image(&caller, &reference).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveParams {
    /// Although containers were made from it; they keep their layers.
    #[serde(default)]
    force: bool,
}

/// Removes a name, and the image with its last name.
#[utoipa::path(delete, path = "/v1/images/{reference}", tag = "images",
    params(("reference" = String, Path), RemoveParams), responses((status = 200, body = ImageRemoved)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(reference): Segment<String>,
    Params(params): Params<RemoveParams>,
) -> Result<Json<ImageRemoved>, Error> {
    let removed = core.image_remove(&caller, &reference, params.force).await?;
    let digest = removed.digest.map(|d| d.to_string());
    Ok(Json(ImageRemoved { names: removed.names, digest, freed: removed.freed }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TagParams {
    /// The image, by name or digest.
    image: String,
    /// The name that it gets as well.
    name: String,
}

/// Gives an image one more name.
#[utoipa::path(post, path = "/v1/images/tag", params(TagParams), tag = "images", responses((status = 200, body = Image)))]
pub(super) async fn tag(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<TagParams>,
) -> Result<Json<Image>, Error> {
    Ok(Json(core.image_tag(&caller, &params.image, &params.name).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareParams {
    /// The image, by name or digest.
    image: String,
    /// Whether every account may use it.
    official: bool,
}

/// Makes an image an official one, which every account may use, or takes that back. For administrators.
#[utoipa::path(post, path = "/v1/images/share", params(ShareParams), tag = "images", responses((status = 200, body = Image)))]
pub(super) async fn share(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ShareParams>,
) -> Result<Json<Image>, Error> {
    Ok(Json(core.image_share(&caller, &params.image, params.official).await?.into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageParams {
    /// The image, by name or digest.
    image: String,
}

/// How an image came about: the entries of its configuration, with sizes.
#[utoipa::path(get, path = "/v1/images/history", params(ImageParams), tag = "images",
    responses((status = 200, body = List<serde_json::Value>)))]
pub(super) async fn history(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ImageParams>,
) -> Result<Json<List<serde_json::Value>>, Error> {
    Ok(Json(List { items: core.image_history(&caller, &params.image).await?, next_cursor: None }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SaveParams {
    /// Images, by name or digest, separated by commas.
    images: String,
}

/// Images as one archive, which is both `docker save`'s and an OCI layout.
#[utoipa::path(get, path = "/v1/images/archive", params(SaveParams), tag = "images",
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), (status = 404, body = super::wire::Problem)))]
pub(super) async fn save(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Params(params): Params<SaveParams>,
) -> Result<Response, Error> {
    let names: Vec<String> =
        params.images.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
    let place = places.take(&caller, Kind::Archive)?;
    let write = core.image_save(&caller, &names).await?;
    tar_of(place, move |out| write(out).map_err(|e| std::io::Error::other(e.chain()))).await
}

/// Makes an image of what a container has become.
#[utoipa::path(post, path = "/v1/containers/{id}/commit", request_body = CommitCreate, tag = "images",
    params(("id" = String, Path)), responses((status = 201, body = Image)))]
pub(super) async fn commit(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    request: Request,
) -> Result<(StatusCode, Json<Image>), Error> {
    let asked: CommitCreate = read_json(&small_body(request.into_body()).await?)?;
    let image = core.container_commit(&caller, &id, asked.into()).await?;
    Ok((StatusCode::CREATED, Json(image.into())))
}

/// Removes images that no container was made from: those without a name, or all.
#[utoipa::path(post, path = "/v1/images/prune", request_body = PruneAsked, tag = "images",
    responses((status = 200, body = Pruned)))]
pub(super) async fn prune(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<Json<Pruned>, Error> {
    let asked: PruneAsked = read_json(&small_body(request.into_body()).await?)?;
    let prune = berth_core::Prune { all: asked.all, unused_for_s: asked.unused_for, dry_run: asked.dry_run };
    let pruned = core.image_prune(&caller, prune).await?;
    Ok(Json(Pruned { removed: pruned.images, freed: pruned.freed }))
}

/// How the account uses the disk.
#[utoipa::path(get, path = "/v1/disk", tag = "images", responses((status = 200, body = DiskUse)))]
pub(super) async fn disk(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<DiskUse>, Error> {
    Ok(Json(core.disk_use(&caller).await?.into()))
}

/// Sets how many bytes an account's images may take. For administrators.
#[utoipa::path(post, path = "/v1/images/quota", request_body = Quota, tag = "images",
    responses((status = 204), (status = 403, body = super::wire::Problem)))]
pub(super) async fn quota(State(core): State<Core>, Auth(caller): Auth, request: Request) -> Result<StatusCode, Error> {
    let asked: Quota = read_json(&small_body(request.into_body()).await?)?;
    core.account_image_quota(&caller, &asked.account, asked.bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}
