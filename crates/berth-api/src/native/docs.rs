//! The descriptions of the native API and of the dialects, and a page to browse them.

use std::sync::{Arc, LazyLock, OnceLock};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Url;

use super::{
    accounts, bulk, commands, containers, events, exec, host, hosts, images, inspection, keys, pulls, registries,
    services, sessions, ssh_keys, summary, tokens, usage, volumes, watch,
};
use crate::{Api, Dialects};

#[derive(OpenApi)]
#[openapi(
    info(title = "berth", description = "The native API of berth. Every answer carries a Request-Id."),
    paths(
        containers::list, summary::summary, bulk::containers, containers::create, containers::inspect, containers::remove, containers::start,
        containers::stop, containers::restart, containers::kill, containers::wait, containers::logs, containers::count_logs, containers::stats,
        containers::stats_of_all, containers::traffic, containers::series, containers::update, containers::ports, containers::pause,
        containers::resume, exec::exec, exec::exec_session, exec::attach, exec::stat, exec::list_files, exec::download,
        exec::archive, exec::extract, exec::export, images::commit, images::tag, images::share, images::history,
        images::save, images::prune, images::disk, images::quota, registries::pull, registries::push,
        registries::logins, registries::log_in, registries::log_out, volumes::list, volumes::create, volumes::inspect,
        volumes::remove, volumes::prune, volumes::backup, volumes::restore, images::list, images::load, images::import, images::inspect, images::remove,
        services::list, services::create, services::rename, services::remove, services::groups, services::group_create,
        services::group_inspect, services::group_apply, services::group_rename, services::group_remove,
        services::group_start, services::group_stop, services::group_deploy, services::packages, services::revisions, services::apply,
        commands::list, commands::inspect, commands::wait, commands::cancel, commands::follow, commands::follow_all,
        keys::list, keys::create, keys::rotate, keys::disable, keys::enable, keys::remove, keys::audit,
        hosts::list, hosts::inspect, hosts::label, hosts::in_use, hosts::bandwidth, ssh_keys::list, ssh_keys::create, ssh_keys::remove, usage::list,
        host::inspect, events::list, events::recent, tokens::list, tokens::create, tokens::revoke,
        pulls::list, pulls::create, pulls::inspect, pulls::cancel, host::doctor, sessions::inspect, sessions::create, sessions::remove, watch::watch,
        inspection::processes, inspection::size, inspection::changes, inspection::rename,
        accounts::list, accounts::create, accounts::inspect, accounts::change, accounts::remove,
    ),
    components(schemas(super::wire::Problem)),
    modifiers(&Secured),
    security(("token" = []))
)]
struct Description;

struct Secured;

impl Modify for Secured {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> serde_json::Value {
    super::openapi::complete(serde_json::to_value(Description::openapi()).unwrap_or_default())
}

/// `GET /openapi.json`.
pub(crate) async fn openapi_json() -> Json<&'static serde_json::Value> {
    static DOCUMENT: OnceLock<serde_json::Value> = OnceLock::new();
    Json(DOCUMENT.get_or_init(openapi))
}

/// A dialect's description. It is written by hand from the platform's document and what the dialect answers; tests compare both.
struct DialectDocument {
    name: &'static str,
    /// From the page of Swagger UI.
    address: &'static str,
    is_served: fn(&Dialects) -> bool,
    /// OpenAPI 3.1 as YAML.
    text: &'static str,
}

/// The document of the dialect with this name: a file, a setting and an address are called like it.
macro_rules! document {
    ($name:ident) => {
        DialectDocument {
            name: stringify!($name),
            address: concat!("../openapi/", stringify!($name), ".json"),
            is_served: |dialects| dialects.$name,
            text: include_str!(concat!("../../openapi/", stringify!($name), ".yaml")),
        }
    };
}

static DIALECTS: [DialectDocument; 4] = [document!(standalone), document!(acs), document!(comb), document!(tingyu)];

/// The OpenAPI 3.1 documents of the dialects, each with its dialect's name.
pub fn dialect_documents() -> &'static [(&'static str, serde_json::Value)] {
    static DOCUMENTS: LazyLock<Vec<(&'static str, serde_json::Value)>> = LazyLock::new(|| {
        let parse = |document: &DialectDocument| {
            // A test reads them all.
            let value = serde_yaml_ng::from_str(document.text).unwrap_or_else(|error| {
                tracing::error!(%error, "the description of {}", document.name);
                serde_json::Value::Null
            });
            (document.name, value)
        };
        DIALECTS.iter().map(parse).collect()
    });
    &DOCUMENTS
}

/// `GET /openapi/{dialect}.json`: of a dialect that is served.
pub(crate) async fn dialect_json(State(api): State<Api>, Path(file): Path<String>) -> Response {
    let name = file.strip_suffix(".json").unwrap_or_default();
    let is_served = DIALECTS.iter().any(|document| document.name == name && (document.is_served)(&api.dialects));
    match dialect_documents().iter().find(|(known, _)| *known == name && is_served) {
        Some((_, document)) => Json(document).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `GET /docs`: the page's files are relative to a folder. The address is relative, as the server may be below a path of a proxy.
pub(crate) async fn page() -> Redirect {
    Redirect::temporary("docs/")
}

/// The page of Swagger UI styles its elements itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /docs/…`: Swagger UI, out of this program.
pub(crate) async fn file(State(api): State<Api>, path: Option<Path<String>>) -> Response {
    let native = Url::with_primary("native", "../openapi.json", true);
    let served = DIALECTS.iter().filter(|document| (document.is_served)(&api.dialects));
    let dialects = served.map(|document| Url::new(document.name, document.address));
    let config = Arc::new(utoipa_swagger_ui::Config::new(std::iter::once(native).chain(dialects)));
    let name = path.map(|Path(p)| p).unwrap_or_default();
    match utoipa_swagger_ui::serve(&name, config) {
        Ok(Some(file)) => {
            let answer = ([(header::CONTENT_TYPE, file.content_type)], file.bytes.to_vec()).into_response();
            crate::console::with_policy(answer, POLICY)
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::error!(%error, "the documentation page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
