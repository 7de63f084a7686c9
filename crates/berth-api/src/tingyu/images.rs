//! Images.

use axum::Json;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::header;
use berth_core::{Caller, Core, FaultKind};

use super::auth::{enter, enter_with};
use super::error::Error;
use super::wire::{Answer, Done};
use crate::kit::Parameters;
use crate::native::{reader, stream_reader};

const NO_ARCHIVE: &str = "上传失败!请检查tar包是否是通过docker save保存!";

/// `DELETE /image/deleteByImage`: all its versions.
pub(super) async fn delete_by_image(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, parameters) = enter_with(&core, request, "image_delete").await?;
    delete(&core, &caller, &parameters.text("image")?, None).await
}

/// `DELETE /image/deleteByImageVersion`.
pub(super) async fn delete_by_image_version(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, parameters) = enter_with(&core, request, "image_delete").await?;
    let (image, version) = (parameters.text("image")?, parameters.text("imageVersion")?);
    delete(&core, &caller, &image, Some(&version)).await
}

async fn delete(core: &Core, caller: &Caller, image: &str, version: Option<&str>) -> Result<Json<Done>, Error> {
    match core.image_versions_remove(caller, image, version).await {
        Ok(()) => Ok(Json(Done::said("success"))),
        Err(error) if error.kind() == FaultKind::InUse => Err(Error::failed("镜像正在被容器使用,不能删除!")),
        Err(error) => Err(error.into()),
    }
}

/// `GET /image/search`: names and versions that hold a word.
pub(super) async fn search(State(core): State<Core>, request: Request) -> Result<Json<Answer<Vec<String>>>, Error> {
    let (caller, parameters) = enter_with(&core, request, "image_search").await?;
    let word = parameters.optional("wordkey")?.or(parameters.optional("wordKey")?).unwrap_or_default();
    let found = core.image_search(&caller, &word, &std::collections::BTreeMap::new()).await?;
    let lower = word.to_lowercase();
    let names = found.into_iter().flat_map(|image| image.names);
    let mut names: Vec<String> = names.filter(|name| name.to_lowercase().contains(&lower)).collect();
    names.sort();
    Ok(Json(Answer::of(names)))
}

/// `POST /image/uploadImage`: what `docker save` wrote, as the body, as `file` of a form, or at an address.
pub(super) async fn upload(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (kind, empty) = {
        let header =
            |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let empty = header(header::CONTENT_LENGTH) == "0" || axum::body::HttpBody::is_end_stream(request.body());
        (header(header::CONTENT_TYPE).to_ascii_lowercase(), empty)
    };
    let (caller, query) = enter(&core, &request, "image_upload").await?;
    let done = if kind.starts_with("multipart/form-data") {
        of_form(&core, &caller, query, request).await
    } else if empty || kind.starts_with("application/x-www-form-urlencoded") {
        let parameters = Parameters::of(request).await?;
        let name = name_of(&parameters)?;
        let address = parameters.text("image_url")?;
        core.image_fetch(&caller, &address, name).await.map(drop).map_err(refused)
    } else {
        let name = name_of(&query)?;
        core.image_import(&caller, reader(request), name).await.map(drop).map_err(refused)
    };
    done.map(|()| Json(Done::said("上传成功!")))
}

/// The name that it is to have: both halves, or those that the archive brings.
fn name_of(parameters: &Parameters) -> Result<Option<String>, Error> {
    let version = parameters.optional("version")?;
    Ok(parameters.optional("image_name")?.map(|name| match version {
        Some(version) => format!("{name}:{version}"),
        None => name,
    }))
}

fn refused(error: berth_core::Error) -> Error {
    match &error {
        berth_core::Error::Invalid { field: "archive" | "name", .. } => Error::failed(NO_ARCHIVE),
        _ => error.into(),
    }
}

async fn of_form(core: &Core, caller: &Caller, query: Parameters, request: Request) -> Result<(), Error> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| Error::invalid("body"))?;
    let mut fields: Vec<(String, String)> = Vec::new();
    loop {
        let field = form.next_field().await.map_err(|_| Error::failed(NO_ARCHIVE))?;
        let Some(mut field) = field else { return Err(Error::missing("file")) };
        if field.name() != Some("file") {
            // What stands before the file may name it.
            let name = field.name().unwrap_or_default().to_owned();
            let mut text = Vec::new();
            while let Some(chunk) = field.chunk().await.map_err(|_| Error::invalid("body"))? {
                text.extend_from_slice(&chunk);
                if text.len() > 64 << 10 || fields.len() > 64 {
                    return Err(Error::invalid("body"));
                }
            }
            fields.push((name, String::from_utf8_lossy(&text).into_owned()));
            continue;
        }
        let said = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let name = match (name_of(&query)?, said("image_name").filter(|name| !name.is_empty())) {
            (Some(name), _) => Some(name),
            (None, Some(name)) => {
                let version = said("version").filter(|version| !version.is_empty());
                Some(version.map_or_else(|| name.clone(), |version| format!("{name}:{version}")))
            }
            (None, None) => None,
        };
        // As it comes, a few pieces ahead of who unpacks it.
        let (send, pieces) = tokio::sync::mpsc::channel::<Result<axum::body::Bytes, std::io::Error>>(4);
        let pump = async move {
            loop {
                let piece = match field.chunk().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => return,
                    Err(error) => Err(std::io::Error::other(error.to_string())),
                };
                let broken = piece.is_err();
                if send.send(piece).await.is_err() || broken {
                    return;
                }
            }
        };
        let mut pieces = pieces;
        let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
        let import = core.image_import(caller, stream_reader(stream), name);
        let (result, ()) = tokio::join!(import, pump);
        return result.map(drop).map_err(refused);
    }
}
