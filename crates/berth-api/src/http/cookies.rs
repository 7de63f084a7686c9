//! The console's cookie, and what shows that a request by it comes from the console's own pages.

use axum::http::{HeaderMap, Method, Uri, header};

use super::Peer;

/// The cookie's name over TLS: browsers take it only from this very host, over TLS, for all of its paths.
const SECURE: &str = "__Host-berth-session";
/// The cookie's name over plain HTTP.
const PLAIN: &str = "berth-session";
/// The header that a change by cookie has to have.
pub(crate) const CSRF: &str = "berth-csrf";

/// Whether the browser reached the server over TLS: here, or at a proxy that says so.
pub(crate) fn is_secure(peer: Option<&Peer>, headers: &HeaderMap) -> bool {
    peer.is_some_and(|peer| peer.base().starts_with("https:"))
        || headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The `Set-Cookie` of a session that ends in `seconds`; 0 has the browser forget it.
pub(crate) fn session_cookie(secret: &str, secure: bool, seconds: i64) -> String {
    let (name, attribute) = if secure { (SECURE, "; Secure") } else { (PLAIN, "") };
    format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{attribute}", seconds.max(0))
}

/// The secret of the session that a request's cookie names.
pub(crate) fn session_of(headers: &HeaderMap, secure: bool) -> Option<&str> {
    let wanted = if secure { SECURE } else { PLAIN };
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// Whether a request was made by a page of the host that it is for. A proxy in between keeps the host's name in `Host`, or says it
/// in `X-Forwarded-Host`.
pub(crate) fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host) else {
        return false;
    };
    let hosts = [text("host"), text("x-forwarded-host"), uri.authority().map(|a| a.as_str())];
    hosts.into_iter().flatten().any(|host| host.eq_ignore_ascii_case(origin))
}

/// Whether a request may be let in by its cookie: one that only reads may; a change needs the session's token and a page of this
/// host, a WebSocket the page.
pub(crate) fn is_own_page(method: &Method, headers: &HeaderMap, uri: &Uri, csrf: &str) -> bool {
    if headers.contains_key(header::UPGRADE) {
        return is_same_origin(headers, uri);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return true;
    }
    let shown = headers.get(CSRF).is_some_and(|value| value.as_bytes() == csrf.as_bytes());
    shown && is_same_origin(headers, uri)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

    use super::{is_own_page, session_cookie, session_of};

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn cookies_are_found_by_their_name() {
        let all = headers(&[("cookie", "a=b; berth-session=plain"), ("cookie", "__Host-berth-session=tls")]);
        assert_eq!(session_of(&all, false), Some("plain"));
        assert_eq!(session_of(&all, true), Some("tls"));
        assert_eq!(session_of(&headers(&[("cookie", "xberth-session=no")]), false), None);
        assert!(session_cookie("s", true, 5).starts_with("__Host-berth-session=s; Path=/; HttpOnly; SameSite=Strict;"));
        assert!(session_cookie("s", true, 5).ends_with("; Secure"));
        assert!(!session_cookie("s", false, 5).contains("Secure"));
    }

    #[test]
    fn other_pages_change_nothing() {
        let uri = Uri::from_static("/v1/containers");
        let good = [("host", "a:1"), ("origin", "http://a:1"), ("berth-csrf", "t")];
        let is = |method: Method, all: &[(&'static str, &'static str)]| is_own_page(&method, &headers(all), &uri, "t");
        assert!(is(Method::POST, &good));
        assert!(is(Method::GET, &[]));
        assert!(!is(Method::POST, &good[..2]), "no token");
        assert!(!is(Method::POST, &[good[0], good[2]]), "no origin");
        assert!(!is(Method::DELETE, &[good[0], ("origin", "http://evil"), good[2]]));
        assert!(!is(Method::POST, &[good[0], good[1], ("berth-csrf", "other")]));
        assert!(!is(Method::GET, &[good[0], ("upgrade", "websocket"), ("origin", "http://evil")]));
        assert!(!is(Method::GET, &[good[0], ("upgrade", "websocket")]));
        assert!(is(Method::GET, &[good[0], good[1], ("upgrade", "websocket")]));
        assert!(is(Method::POST, &[("x-forwarded-host", "b"), ("origin", "https://b"), good[2]]));
    }
}
