//! The native API, `/v1`: JSON, errors as RFC 9457 problems, described by OpenAPI 3.1 made from the types.

mod auth;
mod containers;
pub(crate) mod docs;
pub(crate) mod error;
mod events;
mod host;
mod idempotency;
mod images;
mod tokens;
pub mod wire;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};

use crate::Api;

pub use docs::openapi;

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/containers", get(containers::list).post(containers::create))
        .route("/containers/{id}", get(containers::inspect).delete(containers::remove))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/wait", get(containers::wait))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/stats", get(containers::stats))
        .route("/stats", get(containers::stats_of_all))
        .route("/images", get(images::list).post(images::load))
        .route("/images/rootfs", post(images::import))
        .route("/images/{*reference}", get(images::inspect).delete(images::remove))
        .route("/host", get(host::inspect))
        .route("/events", get(events::list))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        // Small bodies are bounded where they are read, archives by what they unpack to.
        .layer(DefaultBodyLimit::disable())
}
