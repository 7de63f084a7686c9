//! The console's cookie, and what shows that a request by it comes from the console's own pages.

use axum::http::{HeaderMap, Method, Uri, header};

use super::Peer;

/// The cookie's name over TLS: browsers take it only from this very host, over TLS, for all of its paths.
const SECURE: &str = "__Host-berth-session";
/// The cookie's name over plain HTTP.
const PLAIN: &str = "berth-session";
/// The header in which a request by cookie shows its page's secret.
const CSRF: &str = "berth-csrf";
/// The protocol of the console's WebSockets, whose requests can have no such header.
pub(crate) const PROTOCOL: &str = "berth";
/// What the secret follows in the list of protocols that a WebSocket's request offers.
const CSRF_PROTOCOL: &str = "berth-csrf.";
/// Cookies of the session's name that are looked at: another port of the host may have set some.
const MOST_COOKIES: usize = 4;

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

/// What the cookies of the session's name hold.
pub(crate) fn sessions_of(headers: &HeaderMap, secure: bool) -> Vec<&str> {
    let wanted = if secure { SECURE } else { PLAIN };
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
        .take(MOST_COOKIES)
        .collect()
}

/// What the page shows beside the cookie.
pub(crate) fn csrf_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(CSRF) {
        return value.to_str().ok();
    }
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').find_map(|protocol| protocol.trim().strip_prefix(CSRF_PROTOCOL))
}

/// Whether a request was made by a page of the host that it is for. A proxy in between has to keep the name in `Host`.
pub(crate) fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host) else {
        return false;
    };
    let hosts = [text("host"), uri.authority().map(|a| a.as_str())];
    hosts.into_iter().flatten().any(|host| host.eq_ignore_ascii_case(origin))
}

/// Whether a request may be let in by its cookie as far as its origin goes: a change and a WebSocket need a page of this host.
pub(crate) fn is_own_page(method: &Method, headers: &HeaderMap, uri: &Uri) -> bool {
    let only_reads = matches!(*method, Method::GET | Method::HEAD) && !headers.contains_key(header::UPGRADE);
    only_reads || is_same_origin(headers, uri)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

    use super::{csrf_of, is_own_page, session_cookie, sessions_of};

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn cookies_are_found_by_their_name() {
        let all = headers(&[
            ("cookie", "a=b; berth-session=plain"),
            ("cookie", "__Host-berth-session=tls; berth-session=other"),
        ]);
        assert_eq!(sessions_of(&all, false), ["plain", "other"]);
        assert_eq!(sessions_of(&all, true), ["tls"]);
        assert!(sessions_of(&headers(&[("cookie", "xberth-session=no")]), false).is_empty());
        assert!(session_cookie("s", true, 5).starts_with("__Host-berth-session=s; Path=/; HttpOnly; SameSite=Strict;"));
        assert!(session_cookie("s", true, 5).ends_with("; Secure"));
        assert!(!session_cookie("s", false, 5).contains("Secure"));
        assert_eq!(csrf_of(&headers(&[("berth-csrf", "x")])), Some("x"));
        assert_eq!(csrf_of(&headers(&[("sec-websocket-protocol", "berth, berth-csrf.y")])), Some("y"));
        assert_eq!(csrf_of(&headers(&[("sec-websocket-protocol", "berth")])), None);
    }

    #[test]
    fn other_pages_change_nothing() {
        let uri = Uri::from_static("/v1/containers");
        let good = [("host", "a:1"), ("origin", "http://a:1")];
        let is = |method: Method, all: &[(&'static str, &'static str)]| is_own_page(&method, &headers(all), &uri);
        assert!(is(Method::POST, &good));
        assert!(is(Method::GET, &[]));
        assert!(!is(Method::POST, &good[..1]), "no origin");
        assert!(!is(Method::DELETE, &[good[0], ("origin", "http://evil")]));
        assert!(!is(Method::POST, &[good[0], ("origin", "http://a:2")]), "another port");
        assert!(!is(Method::GET, &[good[0], ("upgrade", "websocket"), ("origin", "http://evil")]));
        assert!(!is(Method::GET, &[good[0], ("upgrade", "websocket")]));
        assert!(is(Method::GET, &[good[0], good[1], ("upgrade", "websocket")]));
        assert!(!is(Method::POST, &[good[0], ("x-forwarded-host", "b"), ("origin", "https://b")]));
    }
}
