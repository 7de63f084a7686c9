//! The dialect `comb`: a container cloud. Keys are exchanged for a token, containers have plans, and what is done to them goes
//! on after the answer.
//!
//! Errors are `{"code", "message"}`, the code being HTTP status, service and detail in one number.

mod auth;
mod containers;
pub(crate) mod error;
mod images;
mod keys;
mod tokens;
mod wire;

use axum::Router;
use axum::routing::{get, post, put};

use crate::Api;

/// What is below `/api/v1/containers`.
pub(crate) fn containers() -> Router<Api> {
    Router::new()
        .route("/", get(containers::list).post(containers::create))
        .route("/images", get(images::list))
        .route("/{id}", get(containers::inspect).put(containers::update).delete(containers::delete))
        .route("/{id}/actions/restart", put(containers::restart))
        .route("/{id}/tag", post(containers::tag))
        .route("/{id}/flow", get(containers::flow))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}

/// What is below `/api/v1/token`.
pub(crate) fn token() -> Router<Api> {
    Router::new()
        .route("/", post(tokens::create))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}

/// What is below `/api/v1/secret-keys`.
pub(crate) fn keys() -> Router<Api> {
    Router::new()
        .route("/", get(keys::list).post(keys::create))
        .route("/{id}", get(keys::private).delete(keys::delete))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}
