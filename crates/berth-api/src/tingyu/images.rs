//! Images.

use axum::Json;
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::header;
use berth_core::{Caller, Core, FaultKind};

use futures_util::StreamExt as _;

use super::auth::{authenticate, authenticate_and_read};
use super::error::Error;
use super::wire::{Answer, Done};
use crate::http::Parameters;
use crate::native::{reader, stream_reader};

const NO_ARCHIVE: &str = "上传失败!请检查tar包是否是通过docker save保存!";

/// `DELETE /image/deleteByImage`: all its versions.
pub(super) async fn delete_by_image(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    delete(&core, &caller, &parameters.text("image")?, None).await
}

/// `DELETE /image/deleteByImageVersion`.
pub(super) async fn delete_by_image_version(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
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
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
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
    let (caller, query) = authenticate(&core, &request).await?;
    let done = if kind.starts_with("multipart/form-data") {
        of_form(&core, &caller, query, request).await
    } else {
        // curl calls everything a form.
        let form = kind.starts_with("application/x-www-form-urlencoded");
        let (request, archive) = if form { peeked(request).await? } else { (request, !empty) };
        if archive {
            let name = name_of(&query)?;
            core.image_import(&caller, reader(request), name).await.map(drop).map_err(refused)
        } else {
            let parameters = Parameters::of(request).await?;
            let name = name_of(&parameters)?;
            let address = parameters.text("image_url")?;
            core.image_fetch(&caller, &address, name).await.map(drop).map_err(refused)
        }
    };
    done.map(|()| Json(Done::said("上传成功!")))
}

/// Bytes at a body's beginning by which an archive is told from a form.
const PEEKED: usize = 512;

/// Whether a body is an archive, though its type says that it is a form; the request with the whole body.
async fn peeked(request: Request) -> Result<(Request, bool), Error> {
    let (head, body) = request.into_parts();
    let mut stream = body.into_data_stream();
    let mut begun = Vec::new();
    while begun.len() < PEEKED {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await;
        match next.map_err(|_| Error::failed("请求超时!"))? {
            Some(Ok(piece)) => begun.extend_from_slice(&piece),
            Some(Err(_)) => return Err(Error::invalid("body")),
            None => break,
        }
    }
    let looked_at = &begun[..begun.len().min(PEEKED)];
    let text = match std::str::from_utf8(looked_at) {
        Ok(_) => true,
        // A character that is cut at the end is one all the same.
        Err(error) => error.error_len().is_none(),
    };
    let control = looked_at.iter().any(|b| b.is_ascii_control() && !matches!(b, b'\t' | b'\r' | b'\n'));
    let first = futures_util::stream::iter([Ok(axum::body::Bytes::from(begun))]);
    let body = axum::body::Body::from_stream(first.chain(stream));
    Ok((Request::from_parts(head, body), !text || control))
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
        berth_core::Error::Invalid { field: berth_core::Field::Archive | berth_core::Field::Name, .. } => {
            Error::failed(NO_ARCHIVE)
        }
        _ => error.into(),
    }
}

/// Reads a field that is no file.
async fn text_of(field: &mut Field<'_>, known: usize) -> Result<(String, String), Error> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|_| Error::invalid("body"))? {
        text.extend_from_slice(&chunk);
        if text.len() > 64 << 10 || known > 64 {
            return Err(Error::invalid("body"));
        }
    }
    Ok((name, String::from_utf8_lossy(&text).into_owned()))
}

/// What a form calls the image, wherever that stands in it.
fn named_by(fields: &[(String, String)]) -> Option<String> {
    let said = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        found.filter(|value| !value.is_empty())
    };
    let name = said("image_name")?;
    Some(said("version").map_or_else(|| name.clone(), |version| format!("{name}:{version}")))
}

/// A form: the file is unpacked as it comes, a few pieces ahead of who unpacks it, and gets its name when all of the form is
/// there.
async fn of_form(core: &Core, caller: &Caller, query: Parameters, request: Request) -> Result<(), Error> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| Error::invalid("body"))?;
    let given = name_of(&query)?;
    let (send, mut pieces) = tokio::sync::mpsc::channel::<Result<axum::body::Bytes, std::io::Error>>(4);
    let (name, named) = tokio::sync::oneshot::channel::<Option<String>>();
    let read = async move {
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut send = Some(send);
        loop {
            let field = form.next_field().await.map_err(|_| Error::failed(NO_ARCHIVE))?;
            let Some(mut field) = field else { break };
            if field.name() != Some("file") {
                fields.push(text_of(&mut field, fields.len()).await?);
                continue;
            }
            let Some(send) = send.take() else { return Err(Error::out_of_bounds("file", "收到多个文件")) };
            loop {
                let piece = match field.chunk().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => break,
                    Err(error) => Err(std::io::Error::other(error.to_string())),
                };
                let broken = piece.is_err();
                // Whoever unpacks it has given up, and says why.
                if send.send(piece).await.is_err() || broken {
                    return Ok(());
                }
            }
        }
        if send.is_some() {
            return Err(Error::missing("file"));
        }
        let _ = name.send(given.or_else(|| named_by(&fields)));
        Ok(())
    };
    let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    let named = async move {
        let unread =
            |_| berth_core::Error::Invalid { field: berth_core::Field::Name, message: "the form broke off".into() };
        named.await.map_err(unread)
    };
    let import = core.image_import_named_later(caller, stream_reader(stream), named);
    let (imported, read) = tokio::join!(import, read);
    read?;
    imported.map(drop).map_err(refused)
}
