//! The dialect `acs`: containers and nodes (groups) of services, every change an asynchronous command.
//!
//! Requests are signed; `code` in every answer is text: "0", or the HTTP status.

mod auth;
mod commands;
mod containers;
pub(crate) mod error;
mod nodes;
mod wire;

use axum::Router;
use axum::http::Method;
use axum::routing::{get, post};

use crate::Api;

/// What is below `/api/v1/container`.
pub(crate) fn containers() -> Router<Api> {
    Router::new()
        .route("/", get(containers::list))
        .route("/{id}", get(containers::inspect).delete(containers::delete))
        .route("/{id}/start", post(containers::start))
        .route("/{id}/stop", post(containers::stop))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}

/// What is below `/api/v1/node`.
pub(crate) fn nodes() -> Router<Api> {
    Router::new()
        .route("/", get(nodes::list))
        .route("/{id}", get(nodes::inspect).delete(nodes::delete))
        .route("/{id}/uploadStart", post(nodes::upload_start))
        .route("/{id}/historyStart", post(nodes::history_start))
        .route("/{id}/start", post(nodes::start))
        .route("/{id}/stop", post(nodes::stop))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}

/// What is below `/api/v1/command`.
pub(crate) fn commands() -> Router<Api> {
    Router::new()
        .route("/", get(commands::list))
        .route("/{id}", get(commands::inspect))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
}

pub(crate) fn changes(method: &Method, path: &str) -> bool {
    // A private key can be fetched once, and lets in.
    let fetches = *method == Method::GET && path.starts_with("/api/v1/secret-keys/");
    fetches || method != Method::GET && method != Method::HEAD
}
