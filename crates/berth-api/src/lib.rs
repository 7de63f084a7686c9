//! HTTP. One listener serves the native API and every dialect; their paths do not collide. A dialect is a translation: it
//! parses, authenticates, calls the core once and renders. It holds no state, and its codes are nobody else's.

mod acs;
mod comb;
mod console;
mod distribution;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod native;
mod prometheus;
mod ranges;
mod sample;
mod standalone;
mod tingyu;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_core::Core;

pub use http::{Draining, Peer, is_time_zone};
pub use native::{dialect_documents, openapi, wire};
pub use tingyu::OPERATORS;

/// Dialects that an access key may be bounded to.
pub const DIALECTS_OF_KEYS: [&str; 3] = ["acs", "comb", "tingyu"];

use crate::http::RequestLayer;
use crate::prometheus::Meters;

/// What every handler can reach.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) core: Core,
    pub(crate) meters: Arc<Meters>,
    pub(crate) draining: Draining,
    pub(crate) places: native::StreamLimits,
    pub(crate) dialects: Dialects,
    pub(crate) comb: CombSettings,
    pub(crate) doctor: Doctor,
    pub(crate) pulls: native::pulls::Pulls,
}

impl axum::extract::FromRef<Api> for native::StreamLimits {
    fn from_ref(api: &Api) -> Self {
        api.places.clone()
    }
}

impl axum::extract::FromRef<Api> for Core {
    fn from_ref(api: &Api) -> Self {
        api.core.clone()
    }
}

/// Which dialects are served; one that is not answers as any path that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dialects {
    /// `/container/*`.
    pub standalone: bool,
    /// `/api/v1/container*`, `/api/v1/node*`, `/api/v1/command*`.
    pub acs: bool,
    /// `/api/v1/containers*`, `/api/v1/token`, `/api/v1/secret-keys*`.
    pub comb: bool,
    /// `/tingyu/*`.
    pub tingyu: bool,
    /// `/v2/*`: the accounts' images as a registry, for `docker push` and `docker pull`.
    pub registry: bool,
}

impl Default for Dialects {
    fn default() -> Self {
        Self { standalone: true, acs: true, comb: true, tingyu: true, registry: true }
    }
}

/// Whether the private half of a key can be read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrivateKeys {
    /// Each time: infrastructure tools read it at every refresh.
    #[default]
    Always,
    /// It is forgotten after the first time.
    Once,
}

/// Settings of the dialect `comb`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CombSettings {
    /// Whether the private half of a key that was made by the dialect `comb` can be read again: `"once"` forgets it after the
    /// first time.
    pub private_keys: PrivateKeys,
}

/// Settings of what is served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Which dialects.
    pub dialects: Dialects,
    /// The dialect `comb`.
    pub comb: CombSettings,
    /// What `/v1/doctor` says.
    pub doctor: Doctor,
}

/// Examines the machine. It may block.
#[derive(Debug, Clone, Copy)]
pub struct Doctor(pub fn() -> Vec<wire::Finding>);

impl Default for Doctor {
    fn default() -> Self {
        Self(Vec::new)
    }
}

/// Everything that is served.
pub fn router(core: Core, draining: Draining, settings: Settings) -> Router {
    let dialects = settings.dialects;
    let meters = Arc::new(Meters::default());
    let api = Api {
        core,
        meters: meters.clone(),
        draining,
        places: native::StreamLimits::default(),
        dialects,
        comb: settings.comb,
        doctor: settings.doctor,
        pulls: native::pulls::Pulls::default(),
    };
    let names = http::AccountNames::default();
    let layer = |dialect: &'static str, broken: fn(http::InternalFallback) -> Response| RequestLayer {
        dialect,
        broken,
        ends_with_client: |_, _| false,
        changes: acs::changes,
        core: api.core.clone(),
        meters: meters.clone(),
        names: names.clone(),
    };
    let native_layer =
        RequestLayer { ends_with_client: native::ends_with_client, ..layer("native", native::error::broken) };
    let native = http::with_layer(native::router(api.core.clone()), native_layer);
    let standalone_layer =
        RequestLayer { changes: standalone::changes, ..layer("standalone", standalone::error::broken) };
    let standalone = http::with_layer(standalone::router(), standalone_layer.clone());
    let comb = |router| http::with_layer(router, layer("comb", comb::error::broken));
    let nothing: Router = comb(Router::new().fallback(comb::error::no_such_path)).with_state(api.clone());
    let tingyu_layer = RequestLayer { changes: tingyu::changes, ..layer("tingyu", tingyu::error::broken) };
    let tingyu = http::with_layer(tingyu::router(), tingyu_layer.clone());
    let acs = |router| http::with_layer(router, layer("acs", acs::error::broken));
    let other = Router::new()
        .route("/", get(console::index))
        .route("/assets/{file}", get(console::asset))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus::render))
        .route("/openapi.json", get(native::docs::openapi_json))
        .route("/openapi/{file}", get(native::docs::dialect_json))
        .route("/docs", get(native::docs::page))
        .route("/docs/", get(native::docs::file))
        .route("/docs/{*file}", get(native::docs::file))
        .route("/samples/hello.zip", get(sample::hello))
        .fallback(native::error::no_such_path);
    let other =
        http::with_layer(other, RequestLayer { changes: |_, _| false, ..layer("other", native::error::broken) });
    let mut all = Router::new().nest("/v1", native);
    // Only what is below is nested: a path that ends with the slash needs a route of its own.
    if dialects.standalone {
        let unknown = http::with_layer(Router::new().fallback(standalone::error::no_such_path), standalone_layer);
        all = all.nest("/container", standalone).route_service("/container/", unknown.with_state(api.clone()));
    }
    if dialects.acs {
        let unknown: Router = acs(Router::new().fallback(acs::error::no_such_path)).with_state(api.clone());
        for folder in ["/api/v1/container/", "/api/v1/node/", "/api/v1/command/"] {
            all = all.route_service(folder, unknown.clone());
        }
        all = all
            .nest("/api/v1/container", acs(acs::containers()))
            .nest("/api/v1/node", acs(acs::nodes()))
            .nest("/api/v1/command", acs(acs::commands()));
    }
    if dialects.tingyu {
        let unknown = http::with_layer(Router::new().fallback(tingyu::error::no_such_path), tingyu_layer);
        all = all.nest("/tingyu", tingyu).route_service("/tingyu/", unknown.with_state(api.clone()));
    }
    if dialects.registry {
        let registry_layer =
            RequestLayer { changes: distribution::changes, ..layer("registry", distribution::error::broken) };
        let registry = http::with_layer(distribution::router(), registry_layer);
        let root: Router = registry.clone().with_state(api.clone());
        all = all.nest("/v2", registry).route_service("/v2/", root);
    }
    if dialects.comb {
        all = all
            .nest("/api/v1/containers", comb(comb::containers()))
            .nest("/api/v1/token", comb(comb::token()))
            .nest("/api/v1/secret-keys", comb(comb::keys()))
            // A router of nothing but a fallback: what the other dialect nests below this path goes before it.
            .nest("/api/v1", comb(Router::new().fallback(comb::error::no_such_path)))
            .route_service("/api/v1/", nothing.clone())
            .route_service("/api/v1/containers/", nothing.clone())
            .route_service("/api/v1/secret-keys/", nothing.clone())
            .route_service("/api/v1/token/", nothing);
    }
    all.fallback_service(other.with_state(api.clone())).with_state(api)
}

/// A whole HTTP/1.1 answer to a request of which the address, or all of the head, has more than `limit` bytes, in the form of whom the
/// path is for. The connection can't be used any further.
pub fn head_too_long(path: &str, limit: usize) -> Vec<u8> {
    use futures_util::FutureExt;
    let is_below =
        |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let broken = if is_below("/container") {
        standalone::error::broken
    } else if is_below("/tingyu") {
        tingyu::error::broken
    } else if ["/api/v1/container", "/api/v1/node", "/api/v1/command"].into_iter().any(is_below) {
        acs::error::broken
    } else if is_below("/v2") {
        distribution::error::broken
    } else if is_below("/api/v1") {
        comb::error::broken
    } else {
        native::error::broken
    };
    let (head, body) = broken(http::InternalFallback::LongHead(limit)).into_parts();
    // It is in memory as a whole.
    let body = axum::body::to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok).unwrap_or_default();
    let status = head.status;
    let mut answer =
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != axum::http::header::CONTENT_LENGTH) {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    // It is answered before a request is known: the id is in no log.
    let id = uuid::Uuid::new_v4();
    let rest = format!("request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    answer.extend_from_slice(rest.as_bytes());
    answer.extend_from_slice(&body);
    answer
}

/// Whether work can be taken on: the database answers, and the server is not on its way out.
async fn ready(State(api): State<Api>) -> Response {
    if api.draining.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match api.core.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            tracing::error!(error = error.chain(), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", error.public())).into_response()
        }
    }
}
