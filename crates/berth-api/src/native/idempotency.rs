//! `Idempotency-Key`: a change that is sent twice is done once and answered twice.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use berth_core::{Core, IdempotencyLookup, KeyGuard};

use super::auth::{Auth, Authenticated};
use super::error::Error;
use super::wire::Container;
use crate::http::{AuditDetail, small_body};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of the longest answer that is kept.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Changes whose answers can't be kept: secrets that are shown once, streams, archives, what a program printed, and the session.
const WITHOUT_KEY: [(&str, &str); 13] = [
    ("POST", "/v1/session"),
    ("DELETE", "/v1/session"),
    ("POST", "/v1/tokens"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/keys/{key}/rotate"),
    ("POST", "/v1/ssh-keys"),
    ("POST", "/v1/images"),
    ("POST", "/v1/images/rootfs"),
    ("POST", "/v1/images/pull"),
    ("POST", "/v1/images/push"),
    ("PUT", "/v1/containers/{id}/archive"),
    ("PUT", "/v1/volumes/{name}/archive"),
    ("POST", "/v1/containers/{id}/exec"),
];

/// The key of a request; none without the header.
///
/// # Errors
/// It is not 1 to 255 visible ASCII characters.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Error::invalid("Idempotency-Key is 1 to 255 visible ASCII characters")),
    }
}

/// Whether a request may have a key, by its method and its path as the description has it.
pub(super) fn takes_key(method: &Method, path: &str) -> bool {
    !method.is_safe() && !WITHOUT_KEY.contains(&(method.as_str(), path))
}

/// A layer: a change with a key that came before, from the same account, is answered as it was then and not done again. The answer
/// is kept for a day; what was refused is not, so the key is free for another try.
pub(super) async fn once(State(core): State<Core>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let Some(path) = matched.filter(|_| request.headers().contains_key(KEY) && !request.method().is_safe()) else {
        return next.run(request).await;
    };
    if !takes_key(request.method(), path.as_str()) {
        let detail = format!("{} {} takes no Idempotency-Key", request.method(), path.as_str());
        return Error::invalid(detail).into_response();
    }
    keyed(&core, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn keyed(core: &Core, request: Request, next: Next) -> Result<Response, Error> {
    let (mut parts, body) = request.into_parts();
    let Some(key) = key_of(&parts.headers)? else { return Ok(next.run(Request::from_parts(parts, body)).await) };
    let Auth(caller) = Auth::from_request_parts(&mut parts, core).await?;
    parts.extensions.insert(Authenticated(caller));
    let body = small_body(body).await?;
    let path = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str());
    let operation = format!("{} {path}", parts.method);
    let guard = match core.identity().idempotency_begin(&caller, &key, &operation, &body).await? {
        IdempotencyLookup::New(guard) => guard,
        IdempotencyLookup::Answered(answer) => return replayed(&answer),
        IdempotencyLookup::UnderWay => {
            let detail = "the first request with this Idempotency-Key is still under way";
            return Err(Error::new(StatusCode::CONFLICT, "under_way", detail));
        }
        IdempotencyLookup::Different => {
            let detail = "this Idempotency-Key came with another request before";
            return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", detail));
        }
        // A crash kept its answer from being noted. If the container failed and is gone, the request is done again.
        IdempotencyLookup::Made(id, guard) => match core.container_made(&caller, &id).await? {
            Some(found) => {
                let found = serde_json::to_string(&Container::from(found)).map_err(no_answer)?;
                let answer = format!("{} {found}", StatusCode::CREATED.as_u16());
                end(guard, Some(&answer)).await;
                return replayed(&answer);
            }
            None => guard,
        },
    };
    let (head, body) = next.run(Request::from_parts(parts, Body::from(body))).await.into_parts();
    if !head.status.is_success() {
        end(guard, None).await;
        return Ok(Response::from_parts(head, body));
    }
    // The server's own answer: what it may be long is bounded where it is made.
    let text = to_bytes(body, usize::MAX).await.map_err(no_answer)?;
    let answer = format!("{} {}", head.status.as_u16(), String::from_utf8_lossy(&text));
    end(guard, (text.len() <= LONGEST_ANSWER).then_some(&answer)).await;
    Ok(Response::from_parts(head, Body::from(text)))
}

/// What was done is answered, whether or not the answer can be kept.
async fn end(guard: KeyGuard, answer: Option<&str>) {
    if let Err(error) = guard.end(answer).await {
        tracing::error!(%error, "the answer to a request with an Idempotency-Key was not kept");
    }
}

fn no_answer(error: impl std::fmt::Display) -> Error {
    Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("no answer: {error}"))
}

/// An answer as it is kept: its status and its body.
fn replayed(kept: &str) -> Result<Response, Error> {
    let (status, body) = kept.split_once(' ').ok_or_else(|| no_answer("it was kept without a status"))?;
    let status = StatusCode::from_bytes(status.as_bytes()).map_err(no_answer)?;
    let mut response = (status, body.to_owned()).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(AuditDetail("answered as before, by its Idempotency-Key".into()));
    Ok(response)
}
