//! What stands in front of every dialect's routes: request ids, the log line, the audit log, overload and panics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{Notify, Semaphore};

use super::body::Unread;
use crate::Api;
use crate::prometheus::Meters;

/// Requests of one dialect under way at a time; beyond it the answer is "overloaded" at once. Followers count too.
const AT_ONCE: usize = 4096;

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
            (peer.known)(caller.account);
        }
    }
}

/// The other end of a connection; put among a request's extensions by whoever accepts connections.
#[derive(Clone)]
pub struct Peer {
    known: Arc<dyn Fn(i64) + Send + Sync>,
    base: Arc<str>,
    administrator: Option<u32>,
}

impl Peer {
    /// `known` is told the account when a request on the connection has shown a good credential; `base` is the server as the
    /// connection reaches it, such as `https://10.0.0.5:8443`.
    pub fn new(base: &str, known: impl Fn(i64) + Send + Sync + 'static) -> Self {
        Self { known: Arc::new(known), base: base.into(), administrator: None }
    }

    /// The same for a connection that only administrators can make: requests without a token are the administrator's. `user` is
    /// the number of the user of this machine, for the audit log.
    #[must_use]
    pub fn of_administrator(self, user: u32) -> Self {
        Self { administrator: Some(user), ..self }
    }

    /// The user of this machine, if it is an administrator without further ado.
    pub(crate) fn administrator(&self) -> Option<u32> {
        self.administrator
    }

    /// The server as the connection reaches it.
    pub(crate) fn base(&self) -> &str {
        &self.base
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

/// A change that is to go into the audit log when it is known what came of it.
struct AuditGuard {
    core: berth_core::Core,
    who: Who,
    change: berth_core::Change,
}

impl AuditGuard {
    async fn write(mut self, result: u16, message: String) {
        self.change.caller = self.who.0.get().copied();
        self.change.result = result;
        self.change.message = message;
        // Who is nobody's caller changes nothing, and could fill the disk with attempts: only some of them are kept.
        if self.change.caller.is_none() && !attempt_counts() {
            return;
        }
        if let Err(error) = self.core.identity().audit_note(self.change).await {
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
    pub(crate) names: AccountNames,
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
    let id = uuid::Uuid::new_v4().to_string();
    let method = request.method().clone();
    // Without the query: a token may be in it.
    let whole = request.extensions().get::<axum::extract::OriginalUri>().map(|uri| uri.0.path().to_owned());
    let path = shown(whole.unwrap_or_else(|| request.uri().path().to_owned()));
    let peer = request.extensions().get::<Peer>().cloned();
    let source = match peer.as_ref().and_then(Peer::administrator) {
        Some(user) => format!("unix socket, user {user}"),
        None => client_address(request.extensions()).map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let client = source.clone();
    let who = Who(Arc::default(), peer);
    request.extensions_mut().insert(who.clone());
    request.extensions_mut().insert(Client { source: source.clone(), request_id: id.clone() });
    let caller = who.clone();
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
                let (body, unread) = Unread::of(body);
                let response = next.run(Request::from_parts(parts, body)).await;
                // Before it is answered, and whether anybody waits for that or not.
                if let Some(mut note) = note {
                    if let Some(AuditDetail(detail)) = response.extensions().get() {
                        note.change.action = format!("{}: {detail}", note.change.action);
                    }
                    let said = response.extensions().get::<AuditMessage>().map(|said| said.0.clone());
                    note.write(response.status().as_u16(), said.unwrap_or_default()).await;
                }
                drop(place);
                unread.drain(found.0.get().is_some()).await;
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
    let (dialect, ms) = (layer.dialect, elapsed.as_secs_f64() * 1000.0);
    // A dialect may answer with the status of success all the same.
    let reason = response.extensions().get::<AuditMessage>().map(|said| said.0.as_str());
    let reason = reason.map(str::to_owned);
    let account = caller.0.get().map_or(0, |caller| caller.account);
    let account_name = match status >= 400 || reason.is_some() {
        true => layer.names.of(&layer.core, account).await,
        false => String::new(),
    };
    let reason = reason.as_deref();
    match (status, reason) {
        (500.., reason) => {
            let reason = reason.unwrap_or_default();
            tracing::error!(request_id = id, dialect, %method, path, status, account, account_name, client, ms, reason, "request failed");
        }
        (400.., _) | (_, Some(_)) => {
            let reason = reason.unwrap_or_default();
            tracing::warn!(request_id = id, dialect, %method, path, status, account, account_name, client, ms, reason, "request refused");
        }
        _ => tracing::info!(request_id = id, dialect, %method, path, status, account, client, ms, "request"),
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("request-id", value);
    }
    response
}

/// Names of accounts, for lines of the log that people read. An account keeps its name.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccountNames(Arc<Mutex<HashMap<i64, String>>>);

impl AccountNames {
    /// The account's name; empty if it is not known.
    async fn of(&self, core: &berth_core::Core, account: i64) -> String {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if account == 0 {
            return String::new();
        }
        if let Some(name) = known().get(&account) {
            return name.clone();
        }
        let name = core.identity().account_name(account).await.unwrap_or_default();
        if !name.is_empty() {
            known().insert(account, name.clone());
        }
        name
    }
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
