//! The dialect `standalone`: one machine, six operations, a `code` in every answer.
//!
//! The HTTP status is 200 for every answered request; `code` is the contract. Only "come back later" (10005) is a 503, with
//! `Retry-After`, so that clients and proxies which know no codes do the right thing too.

mod auth;
mod containers;
pub(crate) mod error;
mod wire;

use axum::Router;
use axum::routing::{get, post};

use crate::Api;

/// Its changes are GETs, too.
pub(crate) fn changes(_method: &axum::http::Method, path: &str) -> bool {
    !path.ends_with("/analy") && !path.ends_with("/stats")
}

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/build", post(containers::build))
        // They change something: HEAD, which only asks, must not (RFC 9110, 9.2.1).
        .route("/start", get(containers::start).head(error::wrong_method))
        .route("/stop", get(containers::stop).head(error::wrong_method))
        .route("/remove", get(containers::remove).head(error::wrong_method))
        .route("/analy", get(containers::analy))
        .route("/stats", get(containers::stats))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(axum::middleware::from_fn(error::in_language))
}
