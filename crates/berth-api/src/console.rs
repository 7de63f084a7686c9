//! The console: the files of its bundle, which are a part of this program, and the policies under which browsers run them.

use std::io::Read;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

mod bundle {
    include!(concat!(env!("OUT_DIR"), "/console.rs"));
}

/// Shown by a program that was built without the bundle.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>berth</title>\
    <p>This berth was built without its console. Build it with <code>make build</code>, or with \
    <code>cd console &amp;&amp; npm ci &amp;&amp; npm run build</code> before <code>cargo build</code>.\
    <p lang=\"zh\">此程序未包含控制台。请用 <code>make build</code> 构建，或先运行 <code>cd console &amp;&amp; npm ci &amp;&amp; npm run build</code>。\
    <p><a href=\"docs/\">API</a></html>";

/// What every page of this server tells browsers beside its content policy.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
];

/// Adds the headers of pages, with this content policy.
pub(crate) fn with_policy(mut response: Response, policy: &str) -> Response {
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// `GET /`: the console's one page. Style elements are taken only with this answer's nonce.
pub(crate) async fn index() -> Response {
    let nonce = berth_types::random_hex(16);
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let page = bundle::INDEX.unwrap_or(NOT_BUILT).replace("%NONCE%", &nonce);
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    with_policy((headers, page).into_response(), &policy)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// `GET /assets/…`: a file of the bundle. Its name changes with its content, so browsers may keep it.
pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, packed)) = bundle::FILES.iter().find(|(known, _)| *known == name) else {
        return with_policy(StatusCode::NOT_FOUND.into_response(), "default-src 'none'");
    };
    let known = [
        (header::CONTENT_TYPE, content_type(&name)),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::VARY, "accept-encoding"),
    ];
    let taken = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let response = if taken.split(',').any(|coding| coding.trim().split(';').next() == Some("gzip")) {
        (known, [(header::CONTENT_ENCODING, "gzip")], *packed).into_response()
    } else {
        let mut plain = Vec::new();
        match flate2::read::GzDecoder::new(*packed).read_to_end(&mut plain) {
            Ok(_) => (known, plain).into_response(),
            Err(error) => {
                tracing::error!(%error, name, "a file of the console");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    with_policy(response, "default-src 'none'; frame-ancestors 'none'")
}
