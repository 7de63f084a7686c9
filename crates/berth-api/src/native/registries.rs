//! Images from and to registries, and the logins for it.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Core, Login, Progress};
use futures_util::stream;
use tokio::sync::mpsc;

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Image, ImagePull, ImagePush, List, LoginCreate, RegistryLogin, Travel};
use crate::http::{Abort, small_body};

/// Words about layers that wait for a client who is slow; what is beyond is not told.
pub(super) const AHEAD: usize = 256;

pub(super) fn login(given: Option<LoginCreate>) -> Option<Login> {
    given.map(|l| Login { username: l.username, password: l.password })
}

/// One JSON object a line: progress as it comes, and the end of it. The status is 200 whatever the end is. `abort` goes with
/// the client.
fn told(
    progress: mpsc::Receiver<Progress>,
    end: tokio::task::JoinHandle<Result<Travel, Error>>,
    abort: Abort,
) -> Response {
    let state = (progress, Some(end), abort);
    let body = Body::from_stream(stream::unfold(state, |(mut progress, end, abort)| async move {
        let travel = match progress.recv().await {
            Some(word) => Travel::from(word),
            None => match (end?).await {
                Ok(Ok(travel)) => return line(travel).map(|bytes| (Ok(bytes), (progress, None, abort))),
                Ok(Err(error)) => {
                    let travel = Travel { error: Some(error.problem()), ..Travel::default() };
                    return line(travel).map(|bytes| (Ok(bytes), (progress, None, abort)));
                }
                Err(_) => return None,
            },
        };
        line(travel).map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), (progress, end, abort)))
    }));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line(travel: Travel) -> Option<Bytes> {
    let mut line = serde_json::to_vec(&travel).ok()?;
    line.push(b'\n');
    Some(line.into())
}

/// Fetches an image from its registry. The answer is one object a line: the layers' progress; the last one has the image or
/// the error. The image is fetched to its end even if the client goes.
#[utoipa::path(post, path = "/v1/images/pull", request_body = ImagePull, tag = "registries",
    responses((status = 200, content_type = "application/x-ndjson", body = Travel)))]
pub(super) async fn pull(State(core): State<Core>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    let asked: ImagePull = read_json(&small_body(request.into_body()).await?)?;
    let (progress, words) = mpsc::channel(AHEAD);
    let end = tokio::spawn(async move {
        let pulled = core.image_pull(&caller, &asked.image, asked.platform.as_deref(), login(asked.login), progress);
        let image = Image::from(pulled.await?);
        Ok(Travel { image: Some(Box::new(image)), ..Travel::default() })
    });
    Ok(told(words, end, Abort(None)))
}

/// Sends an image to the registry that its name says. The answer is like that of a pull; the last line has the digest.
#[utoipa::path(post, path = "/v1/images/push", request_body = ImagePush, tag = "registries",
    responses((status = 200, content_type = "application/x-ndjson", body = Travel)))]
pub(super) async fn push(State(core): State<Core>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    let asked: ImagePush = read_json(&small_body(request.into_body()).await?)?;
    let (progress, words) = mpsc::channel(AHEAD);
    let end = tokio::spawn(async move {
        let digest = core.image_push(&caller, &asked.image, login(asked.login), progress).await?;
        Ok(Travel { digest: Some(digest.to_string()), ..Travel::default() })
    });
    // Nobody is told any more when the client has gone, and nothing here is left half done by ending it.
    let abort = Abort(Some(end.abort_handle()));
    Ok(told(words, end, abort))
}

/// The account's logins at registries.
#[utoipa::path(get, path = "/v1/registries", tag = "registries", responses((status = 200, body = List<RegistryLogin>)))]
pub(super) async fn logins(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<RegistryLogin>>, Error> {
    let items = core.registry_logins(&caller).await?.into_iter().map(RegistryLogin::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Checks a login at a registry, and keeps it encrypted.
#[utoipa::path(post, path = "/v1/registries", request_body = LoginCreate, tag = "registries",
    responses((status = 204), (status = 502, body = super::wire::Problem)))]
pub(super) async fn log_in(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<StatusCode, Error> {
    let asked: LoginCreate = read_json(&small_body(request.into_body()).await?)?;
    let login = Login { username: asked.username, password: asked.password };
    core.registry_login(&caller, &asked.registry, login).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a login.
#[utoipa::path(delete, path = "/v1/registries/{registry}", tag = "registries", params(("registry" = String, Path)),
    responses((status = 204), (status = 404, body = super::wire::Problem)))]
pub(super) async fn log_out(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(registry): Segment<String>,
) -> Result<StatusCode, Error> {
    core.registry_logout(&caller, &registry).await?;
    Ok(StatusCode::NO_CONTENT)
}
