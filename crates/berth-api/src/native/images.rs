//! Images.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::Core;
use berth_image::Config;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::page;
use super::error::Error;
use super::wire::{Image, ImageRemoved, List};

/// Longest silence in the middle of an archive.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);

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
}

/// The account's images, oldest first.
#[utoipa::path(get, path = "/v1/images", params(ListParams), tag = "images", responses((status = 200, body = List<Image>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Image>>, Error> {
    let (limit, after) = page(params.limit, params.cursor.as_deref())?;
    let mut all = core.images(&caller, after, limit + 1).await?;
    let more = all.len() > limit as usize;
    all.truncate(limit as usize);
    let next_cursor = all.last().filter(|_| more).map(|i| i.id.to_string());
    Ok(Json(List { items: all.into_iter().map(Image::from).collect(), next_cursor }))
}

/// The request's body as something that blocks when read; for the threads that unpack.
fn reader(request: Request) -> impl std::io::Read + Send + 'static {
    // A client that stops sending must not hold its thread for ever.
    let stream = futures_util::stream::unfold(request.into_body().into_data_stream(), async |mut body| {
        let chunk = match tokio::time::timeout(STALL, body.next()).await {
            Ok(chunk) => chunk?.map_err(std::io::Error::other),
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the archive stopped coming")),
        };
        Some((chunk, body))
    });
    SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
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
