//! Files of containers.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Core, FaultKind};
use serde::Serialize;

use super::auth::authenticate_and_read;
use super::error::{Error, UNKNOWN};
use super::wire::job_state;
use crate::http::PathText;
use crate::ranges;

#[derive(Debug, Serialize)]
pub(super) struct JobAnswer {
    msg: &'static str,
    code: u16,
    jobid: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Ready {
    msg: &'static str,
    code: u16,
    state: u8,
    size: u64,
    sha256: String,
    url: String,
}

/// The container that a pod's name begins with: without what tells one start from another.
async fn container(core: &Core, caller: &berth_core::Caller, name: &str) -> Result<String, Error> {
    match core.deployment(caller, name).await {
        Ok(found) => return Ok(found.container.uid.to_string()),
        Err(error) if error.kind() == FaultKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut parts = name.rsplitn(3, '-');
    let (_, _, deployment) = (parts.next(), parts.next(), parts.next());
    let deployment = deployment.ok_or_else(|| Error::no_container(name))?;
    let found = core.deployment(caller, deployment).await?;
    if super::wire::pod_name(&found.container).rsplit_once('-').map(|(p, _)| p) != name.rsplit_once('-').map(|(p, _)| p)
    {
        return Err(Error::no_container(name));
    }
    Ok(found.container.uid.to_string())
}

/// `POST /file/downloadfile`: has a file, or a folder as a tar, made ready.
pub(super) async fn download(State(core): State<Core>, request: Request) -> Result<Json<JobAnswer>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let (name, path) = (parameters.text("name")?, parameters.text("filepath")?);
    let begun = async {
        let container = container(&core, &caller, &name).await?;
        Ok::<_, Error>(core.download_begin(&caller, &container, &path).await?)
    };
    let command = begun.await.map_err(Error::of_files)?;
    Ok(Json(JobAnswer { msg: "success", code: 200, jobid: command.uid }))
}

/// `POST /file/getResponseByJobId`: where the file is to be had, when it is ready.
pub(super) async fn response(State(core): State<Core>, request: Request) -> Result<Json<Ready>, Error> {
    let base = request.extensions().get::<crate::http::Peer>().map(|peer| peer.base().to_owned()).unwrap_or_default();
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let id = parameters.text("jobId").or_else(|_| parameters.text("jobid")).map_err(|_| Error::missing("jobId"))?;
    let command = core.command(&caller, &id).await.map_err(|error| Error::from(error).of_files())?;
    let state = job_state(&command);
    if state == 4 {
        return Err(Error::failed(UNKNOWN).with_error(format!("get file info fail: {}", command.message)));
    }
    let ready = if state == 3 { core.download(&caller, &id).await? } else { None };
    match ready {
        Some(file) => {
            // What the client says in Host is no word to be repeated.
            let settings = core.settings();
            let base = if settings.public_url.is_empty() { base.as_str() } else { settings.public_url.as_str() };
            let url = format!("{}/tingyu/file/get/{}", base.trim_end_matches('/'), file.token);
            Ok(Json(Ready { msg: "success", code: 200, state, size: file.size, sha256: file.sha256, url }))
        }
        // Made ready, and gone since; or no job that makes a file.
        None if state == 3 => Err(Error::failed(UNKNOWN).with_error("get file info fail")),
        None => {
            Ok(Json(Ready { msg: "success", code: 200, state, size: 0, sha256: String::new(), url: String::new() }))
        }
    }
}

/// `GET /file/get/{token}`: the file, in ranges if they are asked for. The address alone lets in.
pub(super) async fn fetch(
    State(core): State<Core>,
    PathText(token): PathText,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let found = core.download_by_token(&token).await.map_err(|_| Error::gone("文件不存在或已过期!"))?;
    let open = async || {
        let file = tokio::fs::File::open(&found.path).await?;
        let meta = file.metadata().await?;
        Ok::<_, std::io::Error>((file.into_std().await, meta))
    };
    let gone = |error: std::io::Error| {
        tracing::error!(%error, "a file that was made ready can't be read");
        Error::failed(UNKNOWN)
    };
    let (file, meta) = open().await.map_err(gone)?;
    match ranges::serve(file, &meta, &method, &headers).await.map_err(gone)? {
        Ok(mut response) => {
            let plain: String = found.name.chars().filter(|c| !c.is_control() && !"\"\\/".contains(*c)).collect();
            let ascii: String = plain.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect();
            let encoded: String = plain.bytes().map(|b| format!("%{b:02X}")).collect();
            let value = format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}");
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
            }
            Ok(response)
        }
        Err(length) => {
            let range = [(header::CONTENT_RANGE, ranges::no_such_range(length))];
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response())
        }
    }
}
