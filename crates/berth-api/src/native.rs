//! The native API, `/v1`: JSON, errors as RFC 9457 problems, described by OpenAPI 3.1 made from the types.

mod accounts;
mod auth;
mod bulk;
mod commands;
mod containers;
pub(crate) mod docs;
pub(crate) mod error;
mod events;
mod exec;
mod host;
mod hosts;
mod idempotency;
mod images;
mod inspection;
mod keys;
mod openapi;
pub(crate) mod pulls;
mod registries;
mod services;
mod sessions;
mod ssh_keys;
mod streams;
mod summary;
mod tokens;
mod usage;
mod volumes;
mod watch;
pub mod wire;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::routing::{delete, get, patch, post, put};
use berth_core::Core;

use crate::Api;

pub use docs::{dialect_documents, openapi};
pub(crate) use streams::{StreamLimits, reader, stream_reader};

pub(crate) fn ends_with_client(method: &Method, path: &str) -> bool {
    method == Method::GET || path.ends_with("/exec")
}

pub(crate) fn router(core: Core) -> Router<Api> {
    containers_router()
        .merge(services_router())
        .route("/images", get(images::list).post(images::load))
        .route("/images/rootfs", post(images::import))
        .route("/images/tag", post(images::tag))
        .route("/images/share", post(images::share))
        .route("/images/prune", post(images::prune))
        .route("/images/quota", post(images::quota))
        .route("/images/history", get(images::history))
        .route("/images/archive", get(images::save))
        .route("/images/pull", post(registries::pull))
        .route("/images/push", post(registries::push))
        .route("/registries", get(registries::logins).post(registries::log_in))
        .route("/registries/{registry}", delete(registries::log_out))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/volumes/{name}/archive", get(volumes::backup).put(volumes::restore))
        .route("/disk", get(images::disk))
        .route("/images/{*reference}", get(images::inspect).delete(images::remove))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{key}", delete(keys::remove))
        .route("/keys/{key}/rotate", post(keys::rotate))
        .route("/keys/{key}/disable", post(keys::disable))
        .route("/keys/{key}/enable", post(keys::enable))
        .route("/audit", get(keys::audit))
        .route("/ssh-keys", get(ssh_keys::list).post(ssh_keys::create))
        .route("/ssh-keys/{number}", delete(ssh_keys::remove))
        .route("/usage", get(usage::list))
        .route("/bandwidth", get(hosts::bandwidth))
        .route("/hosts", get(hosts::list))
        .route("/hosts/{host}", get(hosts::inspect).patch(hosts::label))
        .route("/hosts/{host}/use", get(hosts::in_use))
        .route("/host", get(host::inspect))
        .route("/events", get(events::list))
        .route("/events/recent", get(events::recent))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/{name}", get(accounts::inspect).patch(accounts::change).delete(accounts::remove))
        .route("/session", get(sessions::inspect).post(sessions::create).delete(sessions::remove))
        .route("/pulls", get(pulls::list).post(pulls::create))
        .route("/pulls/{id}", get(pulls::inspect))
        .route("/pulls/{id}/cancel", post(pulls::cancel))
        .route("/doctor", get(host::doctor))
        .route("/watch", get(watch::watch))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(axum::middleware::from_fn_with_state(core, idempotency::once))
        .layer(axum::middleware::from_fn(error::in_language))
        // Small bodies are bounded where they are read, archives by what they unpack to.
        .layer(DefaultBodyLimit::disable())
}

fn containers_router() -> Router<Api> {
    Router::new()
        .route("/containers", get(containers::list).post(containers::create))
        .route("/containers/summary", get(summary::summary))
        .route("/bulk/containers", post(bulk::containers))
        .route("/containers/{id}", get(containers::inspect).patch(containers::update).delete(containers::remove))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/wait", get(containers::wait))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/logs/count", get(containers::count_logs))
        .route("/containers/{id}/stats", get(containers::stats))
        .route("/containers/{id}/traffic", get(containers::traffic))
        .route("/containers/{id}/series", get(containers::series))
        .route("/containers/{id}/ports", put(containers::ports))
        .route("/containers/{id}/processes", get(inspection::processes))
        .route("/containers/{id}/size", get(inspection::size))
        .route("/containers/{id}/changes", get(inspection::changes))
        .route("/containers/{id}/rename", post(inspection::rename))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/resume", post(containers::resume))
        .route("/containers/{id}/exec", post(exec::exec).get(exec::exec_session))
        .route("/containers/{id}/attach", get(exec::attach))
        .route("/containers/{id}/files", get(exec::download))
        .route("/containers/{id}/files/list", get(exec::list_files))
        .route("/containers/{id}/files/stat", get(exec::stat))
        .route("/containers/{id}/archive", get(exec::archive).put(exec::extract))
        .route("/containers/{id}/export", get(exec::export))
        .route("/containers/{id}/commit", post(images::commit))
        .route("/stats", get(containers::stats_of_all))
}

fn services_router() -> Router<Api> {
    Router::new()
        .route("/services", get(services::list).post(services::create))
        .route("/services/{service}", patch(services::rename).delete(services::remove))
        .route("/groups", get(services::groups))
        .route("/services/{service}/groups", post(services::group_create))
        .route(
            "/services/{service}/groups/{group}",
            get(services::group_inspect)
                .put(services::group_apply)
                .patch(services::group_rename)
                .delete(services::group_remove),
        )
        .route("/services/{service}/groups/{group}/start", post(services::group_start))
        .route("/services/{service}/groups/{group}/stop", post(services::group_stop))
        .route("/services/{service}/groups/{group}/deploy", post(services::group_deploy))
        .route("/services/{service}/groups/{group}/packages", get(services::packages))
        .route("/services/{service}/groups/{group}/revisions", get(services::revisions))
        .route("/apply", post(services::apply))
        .route("/commands", get(commands::list))
        .route("/commands/events", get(commands::follow_all))
        .route("/commands/{id}", get(commands::inspect))
        .route("/commands/{id}/wait", get(commands::wait))
        .route("/commands/{id}/cancel", post(commands::cancel))
        .route("/commands/{id}/events", get(commands::follow))
}
