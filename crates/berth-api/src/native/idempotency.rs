//! `Idempotency-Key`: a creation that is sent twice is done once and answered twice.

use std::future::Future;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, Core, IdempotencyLookup};
use serde::Serialize;

use super::error::Error;

/// Runs `work` unless the key was used for the same request before; its answer is kept for a day.
pub(super) async fn once<T: Serialize>(
    core: &Core,
    caller: &Caller,
    headers: &HeaderMap,
    operation: &str,
    body: &[u8],
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response, Error> {
    let key = headers.get("idempotency-key").map(|v| v.to_str().map(str::to_owned));
    let key = match key {
        None => None,
        Some(Ok(key)) if (1..=255).contains(&key.len()) => Some(key),
        Some(_) => return Err(Error::invalid("Idempotency-Key is 1 to 255 visible ASCII characters")),
    };
    let render =
        |text: String| (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], text).into_response();
    let text = |value: &T| {
        serde_json::to_string(value)
            .map_err(|e| Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("no answer: {e}")))
    };
    let Some(key) = key else { return Ok(render(text(&work.await?)?)) };
    match core.identity().idempotency_begin(caller, &key, operation, body).await? {
        IdempotencyLookup::Answered(answer) => return Ok(render(answer)),
        IdempotencyLookup::Made(id) => match core.container_made(caller, &id).await {
            Ok(Some(found)) => {
                let found = serde_json::to_string(&super::wire::Container::from(found)).map_err(|e| {
                    Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("no answer: {e}"))
                })?;
                core.identity().idempotency_end(caller, &key, Some(&found)).await?;
                return Ok(render(found));
            }
            // It failed and is gone: the key is free for another try.
            Ok(None) => {}
            Err(error) => {
                core.identity().idempotency_release(caller, &key);
                return Err(error.into());
            }
        },
        IdempotencyLookup::UnderWay => {
            let detail = "the first request with this Idempotency-Key is still under way";
            return Err(Error::new(StatusCode::CONFLICT, "under_way", detail));
        }
        IdempotencyLookup::Different => {
            let detail = "this Idempotency-Key came with another request before";
            return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", detail));
        }
        IdempotencyLookup::New => {}
    }
    let result = match work.await {
        Ok(value) => text(&value),
        Err(error) => Err(error),
    };
    core.identity().idempotency_end(caller, &key, result.as_deref().ok()).await?;
    result.map(render)
}
