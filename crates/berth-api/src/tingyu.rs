//! The dialect `tingyu`: containers at the edge, on many hosts, billed by bandwidth.
//!
//! The HTTP status is 200 but for credentials; `code` is 200, 500, or the text of a failure of the whole request. What fails in a
//! batch is told item by item.

mod auth;
mod containers;
pub(crate) mod error;
mod files;
mod images;
mod info;
mod nodes;
mod tasks;
mod wire;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::routing::{delete, get, post, put};

use crate::Api;

/// Operators of networks, as the document has them: a host of another one would be out of every roll-out's reach.
pub const OPERATORS: [&str; 3] = ["移动", "联通", "电信"];

/// Most of its questions may be asked by POST, too.
pub(crate) fn changes(method: &Method, path: &str) -> bool {
    const QUESTIONS: [&str; 5] =
        ["/task/status", "/container/get", "/container/info", "/container/list", "/file/getResponseByJobId"];
    method != Method::GET && method != Method::HEAD && !QUESTIONS.iter().any(|question| path.ends_with(question))
}

pub(crate) fn router() -> Router<Api> {
    Router::new()
        .route("/task/status", get(tasks::status).post(tasks::status))
        .route("/container/create", post(containers::create))
        .route("/container/updateByName", put(containers::update_by_name))
        .route("/container/updateByInherit", put(containers::update_by_inherit))
        .route("/container/inheritUpdate", post(containers::inherit_update))
        .route("/container/get", post(containers::get).get(containers::get))
        .route("/container/info", post(containers::info).get(containers::info))
        .route("/container/list", post(containers::list).get(containers::list))
        .route("/container/delete", delete(containers::remove))
        .route("/container/start", post(containers::start))
        .route("/container/stop", post(containers::stop))
        .route("/container/restart", post(containers::restart))
        .route("/image/deleteByImage", delete(images::delete_by_image))
        .route("/image/deleteByImageVersion", delete(images::delete_by_image_version))
        .route("/image/search", get(images::search))
        .route("/image/uploadImage", post(images::upload))
        .route("/info/bandWith/getAllNode", get(info::bandwidth_of_nodes))
        .route("/info/bandWith/getByImage", get(info::bandwidth_by_image))
        .route("/info/bandWith/getByImageVersion", get(info::bandwidth_by_version))
        .route("/info/resourceUse/getByImage", get(info::use_by_image))
        .route("/info/resourceUse/getByImageVersion", get(info::use_by_version))
        .route("/node/get", get(nodes::get))
        .route("/node/list", get(nodes::list))
        .route("/file/downloadfile", post(files::download))
        .route("/file/getResponseByJobId", post(files::response).get(files::response))
        .route("/file/get/{token}", get(files::fetch))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        // Small bodies are bounded where they are read, archives by what they unpack to.
        .layer(DefaultBodyLimit::disable())
}
