//! What all dialects share: request ids, the log line, panics and overload caught, tokens found, bodies read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, BodyDataStream, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use tokio::sync::{Notify, Semaphore};

use crate::Api;
use crate::prometheus::Meters;

/// Requests of one dialect under way at a time; beyond it the answer is "overloaded" at once. Followers count too.
const AT_ONCE: usize = 4096;
/// Longest JSON or form body, bytes.
pub(crate) const LONGEST_BODY: usize = 1 << 20;
/// Time that a small body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(20);

/// Set when the server goes: no new work is ready for it, and streams that would never end do.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<(AtomicBool, Notify)>);

impl Draining {
    /// Begins it.
    pub fn begin(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Returns when it begins.
    pub async fn begun(&self) {
        let waiting = self.0.1.notified();
        if !self.is_draining() {
            waiting.await;
        }
    }
}

/// What a handler can't answer for itself; each dialect has a form for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InternalFallback {
    Panic,
    Overload,
    /// The request's head, or the address in it, has more than so many bytes.
    LongHead(usize),
}

/// That, in words.
pub(crate) fn long_head(limit: usize) -> String {
    format!("the request's address or head is longer than {limit} bytes")
}

/// Who a request turned out to be from; filled in by whoever finds out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Who(Arc<std::sync::OnceLock<berth_core::Caller>>, Option<Peer>);

impl Who {
    pub(crate) fn is(&self, caller: berth_core::Caller) {
        if self.0.set(caller).is_ok()
            && let Some(peer) = &self.1
        {
            (peer.0)(caller.account);
        }
    }
}

/// The other end of a connection; put among a request's extensions by whoever accepts connections.
#[derive(Clone)]
pub struct Peer(Arc<dyn Fn(i64) + Send + Sync>, Arc<str>);

impl Peer {
    /// `known` is told the account when a request on the connection has shown a good credential; `base` is the server as the
    /// connection reaches it, such as `https://10.0.0.5:8443`.
    pub fn new(base: &str, known: impl Fn(i64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(known), base.into())
    }

    /// The server as the connection reaches it.
    pub(crate) fn base(&self) -> &str {
        &self.1
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

/// What an error said, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct AuditMessage(pub(crate) String);

/// What a request is about beside its path, for the audit log: the command that is run.
#[derive(Debug, Clone)]
pub(crate) struct AuditDetail(pub(crate) String);

/// A request's client and id, for what is noted of it later.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    pub(crate) source: String,
    pub(crate) request_id: String,
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Client {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The address at the other end of the connection.
pub(crate) fn client_address(extensions: &axum::http::Extensions) -> Option<std::net::IpAddr> {
    extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>().map(|info| info.0.ip())
}

/// `yyyy-MM-dd HH:mm:ss` in a zone of the tz database, of nanoseconds since 1970.
pub(crate) fn local_time(at: i64, zone: &str) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(at.into()) else { return String::new() };
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The same read: nanoseconds since 1970.
pub(crate) fn local_time_of(text: &str, zone: &str) -> Option<i64> {
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text.trim()).ok()?;
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    i64::try_from(time.to_zoned(zone).ok()?.timestamp().as_nanosecond()).ok()
}

/// A change that is to go into the audit log when it is known what came of it.
struct AuditGuard {
    core: berth_core::Core,
    who: Who,
    change: berth_core::Change,
}

impl AuditGuard {
    async fn down(mut self, result: u16, message: String) {
        self.change.caller = self.who.0.get().copied();
        self.change.result = result;
        self.change.message = message;
        // Who is nobody's caller changes nothing, and could fill the disk with attempts: only some of them are kept.
        if self.change.caller.is_none() && !attempt_counts() {
            return;
        }
        if let Err(error) = self.core.audit_note(self.change).await {
            tracing::error!(error = error.chain(), "a change could not be noted in the audit log");
        }
    }
}

/// Attempts without a good credential that are noted, a minute.
const ATTEMPTS: u64 = 60;

fn attempt_counts() -> bool {
    static MINUTE: std::sync::Mutex<(u64, u64)> = std::sync::Mutex::new((0, 0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() / 60);
    let mut minute = MINUTE.lock().unwrap_or_else(PoisonError::into_inner);
    if minute.0 != now {
        *minute = (now, 0);
    }
    minute.1 += 1;
    minute.1 <= ATTEMPTS
}

#[derive(Clone)]
pub(crate) struct RequestLayer {
    pub(crate) dialect: &'static str,
    pub(crate) broken: fn(InternalFallback) -> Response,
    /// What only reads, or waits for a process: it may wait for a long time, and nothing is left half done.
    pub(crate) ends_with_client: fn(&axum::http::Method, &str) -> bool,
    /// What changes something: it is noted in the audit log.
    pub(crate) changes: fn(&axum::http::Method, &str) -> bool,
    pub(crate) core: berth_core::Core,
    pub(crate) meters: Arc<Meters>,
}

/// Puts the dialect's layer in front of its routes.
pub(crate) fn with_layer(router: Router<Api>, layer: RequestLayer) -> Router<Api> {
    let state = (layer, Arc::new(Semaphore::new(AT_ONCE)));
    router.layer(axum::middleware::from_fn_with_state(state, handle))
}

async fn handle(
    State((layer, places)): State<(RequestLayer, Arc<Semaphore>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = request_id();
    let method = request.method().clone();
    // Without the query: a token may be in it.
    let whole = request.extensions().get::<axum::extract::OriginalUri>().map(|uri| uri.0.path().to_owned());
    let path = shown(whole.unwrap_or_else(|| request.uri().path().to_owned()));
    let source = client_address(request.extensions()).map(|ip| ip.to_string()).unwrap_or_default();
    let who = Who(Arc::default(), request.extensions().get::<Peer>().cloned());
    request.extensions_mut().insert(who.clone());
    request.extensions_mut().insert(Client { source: source.clone(), request_id: id.clone() });
    let mut response = match places.try_acquire_owned() {
        Err(_) => (layer.broken)(InternalFallback::Overload),
        Ok(place) => {
            // A task of its own: a client that goes away must not leave its operation half done.
            let ends_with_client = (layer.ends_with_client)(&method, &path);
            let found = who.clone();
            let note = (layer.changes)(&method, &path).then(|| AuditGuard {
                core: layer.core.clone(),
                who,
                change: berth_core::Change {
                    source,
                    dialect: layer.dialect,
                    action: format!("{method} {path}"),
                    request_id: id.clone(),
                    ..berth_core::Change::default()
                },
            });
            let work = tokio::spawn(async move {
                let (parts, body) = request.into_parts();
                let (body, rest) = Rest::of(body);
                let response = next.run(Request::from_parts(parts, body)).await;
                // Before it is answered, and whether anybody waits for that or not.
                if let Some(mut note) = note {
                    if let Some(AuditDetail(detail)) = response.extensions().get() {
                        note.change.action = format!("{}: {detail}", note.change.action);
                    }
                    let said = response.extensions().get::<AuditMessage>().map(|said| said.0.clone());
                    note.down(response.status().as_u16(), said.unwrap_or_default()).await;
                }
                drop(place);
                // Whoever is nobody's caller is not listened to for long.
                match found.0.get() {
                    Some(_) => rest.drain(DRAIN_BYTES, DRAIN_TIME).await,
                    None => rest.drain(STRANGERS_BYTES, STRANGERS_TIME).await,
                }
                response
            });
            let abort = Abort(ends_with_client.then(|| work.abort_handle()));
            let done = work.await;
            drop(abort);
            match done {
                Ok(response) => response,
                Err(error) => {
                    tracing::error!(request_id = id, path, %error, "a handler panicked");
                    (layer.broken)(InternalFallback::Panic)
                }
            }
        }
    };
    let elapsed = begun.elapsed();
    let status = response.status().as_u16();
    layer.meters.request(layer.dialect, status, elapsed);
    tracing::info!(
        request_id = id,
        dialect = layer.dialect,
        %method,
        path,
        status,
        ms = elapsed.as_secs_f64() * 1000.0,
        "request"
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("request-id", value);
    }
    response
}

/// A path as it may be shown: not too long, and without what lets somebody in.
fn shown(path: String) -> String {
    const LONGEST: usize = 200;
    const TOKENS: &str = "/tingyu/file/get/";
    if path.starts_with(TOKENS) {
        return format!("{TOKENS}…");
    }
    match path.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &path[..at]),
        None => path,
    }
}

/// Ends a task when the request that it works for has gone.
pub(crate) struct Abort(pub(crate) Option<tokio::task::AbortHandle>);

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What a handler left unread of a request's body. A connection that is answered and closed while the client still sends is
/// reset, and the client never sees the answer; so the rest is read and forgotten, within bounds.
struct Rest(Arc<Mutex<BodyDataStream>>);

const DRAIN_BYTES: usize = 1 << 30;
const DRAIN_TIME: Duration = Duration::from_secs(20);
const STRANGERS_BYTES: usize = 1 << 20;
const STRANGERS_TIME: Duration = Duration::from_secs(1);

impl Rest {
    fn of(body: Body) -> (Body, Self) {
        if body.is_end_stream() {
            return (body, Self(Arc::new(Mutex::new(Body::empty().into_data_stream()))));
        }
        let shared = Arc::new(Mutex::new(body.into_data_stream()));
        let handed = shared.clone();
        let next = move |context: &mut std::task::Context<'_>| {
            handed.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
        };
        (Body::from_stream(futures_util::stream::poll_fn(next)), Self(shared))
    }

    async fn drain(self, most: usize, limit: Duration) {
        let next = |context: &mut std::task::Context<'_>| {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
        };
        let mut rest = futures_util::stream::poll_fn(next);
        let mut read = 0;
        let work = async {
            while let Some(Ok(chunk)) = rest.next().await {
                read += chunk.len();
                if read > most {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, work).await;
    }
}

/// A random UUID (RFC 9562, version 4).
fn request_id() -> String {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    // Two keyed hashes of a counter: unguessable enough for a correlation id, and no system call.
    static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let (a, b) = (RandomState::new().hash_one(n), RandomState::new().hash_one(!n));
    let b = b & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48, b & 0xffff_ffff_ffff)
}

/// The token of `X-Token`, or of `Authorization` with one of the schemes `Bearer` and `Token`, in any case.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
    if let Some(token) = text("x-token") {
        return Some(token.to_owned());
    }
    let (scheme, token) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    (known && !token.trim().is_empty()).then(|| token.trim().to_owned())
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    Broken,
    /// It did not arrive in time.
    Late,
}

/// The whole of a small body.
pub(crate) async fn small_body(body: Body) -> Result<Vec<u8>, BodyError> {
    let Ok(read) = tokio::time::timeout(BODY_TIME, to_bytes(body, LONGEST_BODY)).await else {
        return Err(BodyError::Late);
    };
    match read {
        Ok(bytes) => Ok(bytes.into()),
        // axum's own error hides which of the two it was; its text tells.
        Err(error) if error.to_string().contains("length limit") => Err(BodyError::TooLarge),
        Err(_) => Err(BodyError::Broken),
    }
}

/// The text of the path's only variable part; empty where it can't be decoded, so that it names nothing.
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for PathText {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(text.map(|text| text.0).unwrap_or_default()))
    }
}

/// Parameters by name, wherever the client put them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Parameters(std::collections::BTreeMap<String, serde_json::Value>);

/// A parameter that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParameterError {
    Missing(&'static str),
    Wrong {
        name: &'static str,
        expected: &'static str,
        found: String,
    },
    /// The body as a whole.
    Body(String),
    /// The body is longer than [`LONGEST_BODY`].
    TooLong,
    /// The body did not arrive in time.
    Late,
}

/// What kind of JSON it is, where its value is nothing to repeat.
pub(crate) fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a truth value",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

impl Parameters {
    /// Reads query and body. A body that begins like JSON is JSON, whatever its `Content-Type` says; otherwise it is a
    /// form, which has a `=` at least. What the body says goes before the query.
    pub(crate) async fn of(request: Request) -> Result<Self, ParameterError> {
        Self::read(request, false).await
    }

    /// The same, where a form is one only with a form's `Content-Type`, and any other body has to be a JSON object.
    pub(crate) async fn strict(request: Request) -> Result<Self, ParameterError> {
        Self::read(request, true).await
    }

    async fn read(request: Request, strict: bool) -> Result<Self, ParameterError> {
        let mut all = Self::default();
        all.take_form(request.uri().query().unwrap_or_default().as_bytes());
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let form_allowed = !strict || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        let body = small_body(request.into_body()).await.map_err(|error| match error {
            BodyError::TooLarge => ParameterError::TooLong,
            BodyError::Broken => ParameterError::Body("the body could not be read".into()),
            BodyError::Late => ParameterError::Late,
        })?;
        let first = body.iter().copied().find(|b| !b.is_ascii_whitespace());
        match first {
            None => {}
            Some(b'{' | b'[' | b'"') => match serde_json::from_slice(&body) {
                Ok(serde_json::Value::Object(object)) => all.0.extend(object),
                Ok(_) => return Err(ParameterError::Body("the body is JSON, but no object".into())),
                Err(error) => return Err(ParameterError::Body(format!("the body is not readable as JSON: {error}"))),
            },
            Some(_) if form_allowed && body.contains(&b'=') => all.take_form(&body),
            Some(_) => return Err(ParameterError::Body("the body is neither a JSON object nor a form".into())),
        }
        Ok(all)
    }

    /// Those of a query alone.
    pub(crate) fn of_query(query: &str) -> Self {
        let mut all = Self::default();
        all.take_form(query.as_bytes());
        all
    }

    /// A parameter as it came.
    pub(crate) fn value(&self, name: &str) -> Option<&serde_json::Value> {
        self.0.get(name)
    }

    fn take_form(&mut self, bytes: &[u8]) {
        for pair in bytes.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            self.0.insert(decoded(name), serde_json::Value::String(decoded(value)));
        }
    }

    /// Text that must be there and not be empty. What is there instead is not told: it may be a secret.
    pub(crate) fn text(&self, name: &'static str) -> Result<String, ParameterError> {
        match self.0.get(name) {
            None | Some(serde_json::Value::Null) => Err(ParameterError::Missing(name)),
            Some(serde_json::Value::String(text)) if text.is_empty() => Err(ParameterError::Missing(name)),
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(serde_json::Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(ParameterError::Wrong { name, expected: "a string", found: kind_of(other).to_owned() }),
        }
    }

    /// Text that may be there; empty is as good as none.
    pub(crate) fn optional(&self, name: &'static str) -> Result<Option<String>, ParameterError> {
        match self.text(name) {
            Ok(text) => Ok(Some(text)),
            Err(ParameterError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A truth value that may be there; false if it is not.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ParameterError> {
        if let Some(serde_json::Value::Bool(value)) = self.0.get(name) {
            return Ok(*value);
        }
        match self.optional(name)?.map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ParameterError::Wrong { name, expected: "true or false", found: other.to_owned() }),
        }
    }

    /// What is signed of a request with this method: all parameters but `signature`.
    pub(crate) fn signed(&self, method: &str) -> String {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let all: Vec<(&String, String)> =
            self.0.iter().filter(|(name, _)| *name != "signature").map(|(name, value)| (name, text(value))).collect();
        berth_core::signed_text(method, all.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// A whole number that must be there; also as text.
    pub(crate) fn integer(&self, name: &'static str) -> Result<i64, ParameterError> {
        let wrong = |found: String| ParameterError::Wrong { name, expected: "a whole number", found };
        match self.0.get(name) {
            Some(serde_json::Value::Number(number)) => {
                let whole = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64);
                number.as_i64().or(whole).ok_or_else(|| wrong(number.to_string()))
            }
            Some(serde_json::Value::Bool(_) | serde_json::Value::Array(_) | serde_json::Value::Object(_)) => {
                Err(wrong(self.0[name].to_string()))
            }
            _ => {
                let text = self.text(name)?;
                text.trim().parse().map_err(|_| wrong(text))
            }
        }
    }
}

/// Undoes the encoding of `application/x-www-form-urlencoded`.
fn decoded(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16);
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                out.push((hex(high).unwrap_or(0) * 16 + hex(low).unwrap_or(0)) as u8);
                rest = after;
            }
            (b'+', _) => {
                out.push(b' ');
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;

    use super::{ParameterError, Parameters, decoded, request_id, token_of};

    async fn parameters(query: &str, body: &str) -> Result<Parameters, ParameterError> {
        let request = Request::builder().uri(format!("/x?{query}")).body(Body::from(body.to_owned())).expect("request");
        Parameters::of(request).await
    }

    #[tokio::test]
    async fn parameters_come_from_anywhere() {
        let all = parameters("a=1&b=x%20y+z", "").await.expect("query");
        assert_eq!((all.integer("a"), all.text("b").as_deref()), (Ok(1), Ok("x y z")));
        let all = parameters("a=1", r#" {"a": 2, "c": "3", "d": 4.0, "e": null, "f": "", "g": [1], "h": true}"#)
            .await
            .expect("json");
        assert_eq!((all.integer("a"), all.integer("c"), all.integer("d")), (Ok(2), Ok(3), Ok(4)));
        assert_eq!(all.text("e"), Err(ParameterError::Missing("e")));
        assert_eq!(all.integer("f"), Err(ParameterError::Missing("f")));
        assert!(matches!(all.integer("g"), Err(ParameterError::Wrong { .. })));
        assert!(matches!(all.integer("h"), Err(ParameterError::Wrong { .. })));
        assert_eq!(all.integer("zz"), Err(ParameterError::Missing("zz")));
        let all = parameters("", "a=5&u=http%3A%2F%2Fx").await.expect("form");
        assert_eq!((all.integer("a"), all.text("u").as_deref()), (Ok(5), Ok("http://x")));
        for wrong in ["{", "[1]", "\"x\"", "{\"a\":"] {
            assert!(matches!(parameters("", wrong).await, Err(ParameterError::Body(_))), "{wrong}");
        }
    }

    #[test]
    fn local_times_are_in_their_zone() {
        assert_eq!(super::local_time(1_453_962_155_999_999_999, "Asia/Shanghai"), "2016-01-28 14:22:35");
        assert_eq!(super::local_time(1_453_962_155_000_000_000, "Europe/Berlin"), "2016-01-28 07:22:35");
    }

    #[test]
    fn encodings_that_are_cut_are_kept() {
        assert_eq!(decoded(b"%4"), "%4");
        assert_eq!(decoded(b"%zz%"), "%zz%");
        assert_eq!(decoded("%E4%BD%A0".as_bytes()), "你");
    }

    #[test]
    fn tokens_are_found_in_any_scheme() {
        let with = |name: &str, value: &str| {
            let mut headers = axum::http::HeaderMap::new();
            headers.insert(
                axum::http::HeaderName::from_bytes(name.as_bytes()).expect("name"),
                value.parse().expect("value"),
            );
            token_of(&headers)
        };
        assert_eq!(with("x-token", "a").as_deref(), Some("a"));
        assert_eq!(with("authorization", "bEARER  a ").as_deref(), Some("a"));
        assert_eq!(with("authorization", "token a").as_deref(), Some("a"));
        assert_eq!(with("authorization", "Basic a"), None);
        assert_eq!(with("authorization", "Bearer "), None);
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = request_id();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
        assert_ne!(id, request_id());
    }
}
