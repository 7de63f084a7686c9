//! Registries over HTTP (OCI distribution specification 1.1, Docker's token authentication), with mirrors in front of each.
//!
//! A mirror that fails is left alone for a while, and the next one is asked, the registry itself last. A blob whose
//! connection breaks goes on where it stood, at the same place or another: the digest of the whole decides.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_core::{Blob, ImageReference, Login, Registry, RegistryError, Sent};
use berth_image::Digest;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hickory_resolver::TokioResolver;
use reqwest::header::{self, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::{CONNECT_LIMIT, Guarded, REDIRECTS, check_host, reason};

/// Longest manifest, bytes; the specification's own bound.
const LONGEST_MANIFEST: usize = 4 << 20;
/// How often a request is made before it counts as failed.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A mirror that failed is not asked for so long.
const REST: Duration = Duration::from_secs(60);
/// Bytes of a blob that are sent in one request.
const PORTION: usize = 4 << 20;
/// Time that one such request may take.
const PORTION_LIMIT: Duration = Duration::from_secs(300);
/// Longest answer that is no content: a complaint, a token.
const LONGEST_WORDS: usize = 1 << 20;
/// Time that such an answer may take.
const WORDS_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that a token is kept.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Bytes that a blob must bring in a minute; a connection that brings less is given up.
const LEAST_IN_A_MINUTE: u64 = 60 << 10;
/// A token is used no longer than this if the registry does not say how long it is good.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Addresses that are asked first, in order, such as `https://mirror.example`.
    pub mirrors: Vec<String>,
    /// Whether the registry itself speaks HTTP without TLS.
    pub plain_http: bool,
    /// PEM file of an authority that signed its certificate.
    pub ca_file: Option<PathBuf>,
}

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesSettings {
    /// Seconds without a byte after which a connection is given up and taken up anew.
    pub stall_s: u64,
    /// Whether registries may be on loopback and private addresses. Link-local and metadata addresses never are.
    pub private_addresses: bool,
    /// By host (and port); `*` holds for all: its mirrors are asked after a registry's own.
    pub hosts: BTreeMap<String, RegistrySettings>,
}

impl Default for RegistriesSettings {
    fn default() -> Self {
        Self { stall_s: 20, private_addresses: true, hosts: BTreeMap::new() }
    }
}

/// Speaks to registries.
pub struct HttpRegistry {
    settings: RegistriesSettings,
    resolver: Option<Arc<TokioResolver>>,
    clients: Mutex<HashMap<ClientKey, Client>>,
    tokens: Mutex<HashMap<TokenKey, (String, Instant)>>,
    resting: Mutex<HashMap<String, Instant>>,
}

/// Authority's file, whether for uploads, and the host that it is for.
type ClientKey = (Option<PathBuf>, bool, String);

/// Most clients that are kept.
const MOST_CLIENTS: usize = 256;

/// Address, scope, and a digest of the whole login: who has another password has another key.
type TokenKey = (String, String, Option<Digest>);

impl std::fmt::Debug for HttpRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpRegistry").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One address that serves a registry's content.
#[derive(Clone)]
struct Endpoint {
    base: Url,
    client: Client,
    /// The registry's name, for a mirror to know whose content is meant.
    namespace: Option<String>,
}

impl Endpoint {
    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/{path}"));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Credentials are the registry's own; mirrors don't get them.
    fn login<'l>(&self, login: Option<&'l Login>) -> Option<&'l Login> {
        login.filter(|_| self.namespace.is_none())
    }
}

/// Whether private addresses may be reached.
#[derive(Clone, Copy)]
struct Private {
    /// Under the registry's own name.
    own: bool,
    /// Wherever it sends us.
    elsewhere: bool,
}

impl Private {
    fn of(self, url: &Url, own: &str) -> bool {
        if url.host_str() == Some(own) { self.own } else { self.elsewhere }
    }
}

/// Whose permission a request needs.
#[derive(Clone, Copy)]
struct Permission<'a> {
    repository: &'a str,
    push: bool,
    login: Option<&'a Login>,
}

impl Permission<'_> {
    fn scope(&self) -> String {
        if self.repository.is_empty() {
            return String::new();
        }
        format!("repository:{}:{}", self.repository, if self.push { "pull,push" } else { "pull" })
    }
}

fn wrong(text: impl Into<String>) -> RegistryError {
    RegistryError::Wrong(text.into())
}

/// `Bearer realm="…",service="…"` in its parts.
fn challenge(headers: &HeaderMap) -> Option<(String, HashMap<String, String>)> {
    let text = headers.get(header::WWW_AUTHENTICATE)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parameters = HashMap::new();
    let mut rest = rest.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        rest = next.trim_start_matches([',', ' ']);
    }
    Some((scheme.to_ascii_lowercase(), parameters))
}

/// An answer that is to be short.
async fn words(answer: Response) -> Result<Vec<u8>, String> {
    let reading = async {
        let mut bytes = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| reason(&e))?);
            if bytes.len() > LONGEST_WORDS {
                return Err(format!("the answer is longer than {LONGEST_WORDS} bytes"));
            }
        }
        Ok(bytes)
    };
    tokio::time::timeout(WORDS_LIMIT, reading).await.unwrap_or_else(|_| Err("the answer does not end".into()))
}

/// The registry's own words about what is wrong.
async fn complaint(answer: Response, what: &str) -> String {
    let status = answer.status();
    let text = words(answer).await.unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let said = json["errors"][0]["message"].as_str().or_else(|| json["errors"][0]["code"].as_str());
    match said {
        Some(said) => format!("{what}: {status}: {}", said.chars().take(300).collect::<String>()),
        None => format!("{what}: {status}"),
    }
}

fn refused(status: StatusCode, text: String) -> RegistryError {
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound(text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied(text),
        s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => RegistryError::Unreachable(text),
        _ => RegistryError::Wrong(text),
    }
}

impl HttpRegistry {
    /// With these settings. Nothing is connected to yet.
    pub fn new(settings: RegistriesSettings) -> Self {
        let resolver = TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()).map(Arc::new);
        Self { settings, resolver, clients: Mutex::default(), tokens: Mutex::default(), resting: Mutex::default() }
    }

    fn stall(&self) -> Duration {
        Duration::from_secs(self.settings.stall_s.max(1))
    }

    /// For `uploads` a server may be silent while it is sent to.
    fn client(&self, base: &Url, ca_file: Option<&Path>, uploads: bool) -> Result<Client, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let own = base.host_str().unwrap_or_default().to_owned();
        let key = (ca_file.map(Path::to_owned), uploads, own.clone());
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        let private = self.private(base);
        let judged = own.clone();
        let policy = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error(berth_core::FetchError(format!("more than {REDIRECTS} redirects")));
            }
            let in_clear = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
            if in_clear && attempt.url().scheme() == "http" {
                return attempt.error(berth_core::FetchError("a redirect from HTTPS to HTTP".into()));
            }
            match check_host(attempt.url(), private.of(attempt.url(), &judged)) {
                Ok(()) => attempt.follow(),
                Err(error) => attempt.error(error),
            }
        });
        let guarded = Guarded {
            resolver: self.resolver.clone(),
            private: private.elsewhere,
            private_of: private.own.then(|| own.clone()),
        };
        let mut builder = Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(guarded))
            .redirect(policy)
            .connect_timeout(CONNECT_LIMIT)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")));
        builder = if uploads { builder.timeout(PORTION_LIMIT) } else { builder.read_timeout(self.stall()) };
        if let Some(path) = ca_file {
            let unreadable = |why: String| wrong(format!("the certificate authority {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| unreadable(reason(&e)))?;
            builder = builder.tls_certs_merge(all);
        }
        let client = builder.build().map_err(|e| wrong(format!("no HTTP client: {}", reason(&e))))?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Which private addresses may be reached on behalf of a registry or mirror: its own, and others only if it is in the
    /// settings or on a private address itself. What a client names must not send us to where it can't go.
    fn private(&self, base: &Url) -> Private {
        let own = self.settings.private_addresses;
        let host = base.host_str().unwrap_or_default();
        let named = self.settings.hosts.iter().any(|(name, settings)| {
            let of_mirror = |m: &String| Url::parse(m).is_ok_and(|m| m.host_str() == Some(host));
            Url::parse(&format!("https://{name}")).is_ok_and(|n| n.host_str() == Some(host))
                || settings.mirrors.iter().any(of_mirror)
        });
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        Private { own, elsewhere: own && (named || literal.is_ok_and(|ip| !crate::allowed(ip, false))) }
    }

    fn own(&self, registry: &str, uploads: bool) -> Result<Endpoint, RegistryError> {
        let settings = self.settings.hosts.get(registry);
        let scheme = if settings.is_some_and(|s| s.plain_http) { "http" } else { "https" };
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let base = Url::parse(&format!("{scheme}://{host}")).map_err(|e| wrong(format!("{registry}: {e}")))?;
        let client = self.client(&base, settings.and_then(|s| s.ca_file.as_deref()), uploads)?;
        Ok(Endpoint { base, client, namespace: None })
    }

    /// Where the registry's content is asked for, in order. Those that failed lately come last.
    fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mut all = Vec::new();
        for settings in [self.settings.hosts.get(registry), self.settings.hosts.get("*")].into_iter().flatten() {
            for mirror in &settings.mirrors {
                let base = Url::parse(mirror).map_err(|e| wrong(format!("mirror {mirror:?}: {e}")))?;
                let client = self.client(&base, settings.ca_file.as_deref(), false)?;
                all.push(Endpoint { base, client, namespace: Some(registry.to_owned()) });
            }
        }
        all.push(self.own(registry, false)?);
        let now = Instant::now();
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, until| *until > now);
        all.sort_by_key(|e| resting.contains_key(e.base.as_str()));
        Ok(all)
    }

    fn may_reach(&self, endpoint: &Endpoint, url: &Url) -> bool {
        self.private(&endpoint.base).of(url, endpoint.base.host_str().unwrap_or_default())
    }

    fn rest(&self, endpoint: &Endpoint) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.insert(endpoint.base.to_string(), Instant::now() + REST);
    }

    fn known_token(&self, key: &TokenKey) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    /// Does what a challenge asks for; the value of `Authorization`.
    async fn answer_challenge(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        key: &TokenKey,
        login: Option<&Login>,
    ) -> Result<Option<String>, RegistryError> {
        let Some((scheme, parameters)) = challenge(headers) else { return Ok(None) };
        if scheme == "basic" {
            let Some(login) = login else { return Ok(None) };
            let value = basic(login);
            self.remember(key, &value, Duration::from_secs(3600));
            return Ok(Some(value));
        }
        let Some(realm) = parameters.get("realm").filter(|_| scheme == "bearer") else { return Ok(None) };
        let mut url = Url::parse(realm).map_err(|e| wrong(format!("{}: realm {realm:?}: {e}", endpoint.base)))?;
        check_host(&url, self.may_reach(endpoint, &url)).map_err(|e| wrong(e.0))?;
        if login.is_some() && url.scheme() == "http" && endpoint.base.scheme() == "https" {
            return Err(wrong(format!(
                "{}: its tokens come from {realm}, which would get the password in clear",
                endpoint.base
            )));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = parameters.get("service") {
                query.append_pair("service", service);
            }
            let scope = if key.1.is_empty() { parameters.get("scope").map_or("", String::as_str) } else { &key.1 };
            if !scope.is_empty() {
                query.append_pair("scope", scope);
            }
        }
        let mut request = endpoint.client.get(url);
        if let Some(login) = login {
            request = request.header(header::AUTHORIZATION, basic(login));
        }
        let what = format!("ask {realm} for a token");
        let answer = request.send().await.map_err(|e| RegistryError::Unreachable(format!("{what}: {}", reason(&e))))?;
        if !answer.status().is_success() {
            let status = answer.status();
            return Err(refused(status, complaint(answer, &what).await));
        }
        let text = words(answer).await.map_err(|e| wrong(format!("{what}: {e}")))?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("{what}: {e}")))?;
        let token = json["token"].as_str().or_else(|| json["access_token"].as_str());
        let token = token.ok_or_else(|| wrong(format!("{what}: the answer has none")))?;
        let life = json["expires_in"].as_u64().map_or(TOKEN_LIFE, |s| Duration::from_secs(s.saturating_sub(10)));
        let value = format!("Bearer {token}");
        self.remember(key, &value, life.min(LONGEST_LIFE));
        Ok(Some(value))
    }

    fn remember(&self, key: &TokenKey, value: &str, life: Duration) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() > 1000 {
            tokens.clear();
        }
        tokens.insert(key.clone(), (value.to_owned(), Instant::now() + life));
    }

    /// Sends a request until it is answered by other than a passing trouble.
    async fn send(
        &self,
        endpoint: &Endpoint,
        permission: Permission<'_>,
        attempts: u32,
        build: impl Fn(&Client) -> reqwest::RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let login = endpoint.login(permission.login);
        let key = (endpoint.base.to_string(), permission.scope(), login.map(digest_of));
        let mut pause = FIRST_PAUSE;
        let mut challenged = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let unsound = |e: reqwest::Error| wrong(format!("{}: {}", endpoint.base, reason(&e)));
            let mut request = build(&endpoint.client).build().map_err(unsound)?;
            // Registries say where uploads go on; that must not be a way to the inside, nor get what is for the registry.
            check_host(request.url(), self.may_reach(endpoint, request.url())).map_err(|e| wrong(e.0))?;
            if let Some(token) = self.known_token(&key)
                && same_origin(request.url(), &endpoint.base)
                && let Ok(token) = header::HeaderValue::from_str(&token)
            {
                request.headers_mut().insert(header::AUTHORIZATION, token);
            }
            let trouble = match endpoint.client.execute(request).await {
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    attempt -= 1;
                    self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                    if self.answer_challenge(endpoint, answer.headers(), &key, login).await?.is_some() {
                        continue;
                    }
                    return Ok(answer);
                }
                Ok(answer) if answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    let asked = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                    if let Some(seconds) = asked {
                        pause = pause.max(Duration::from_secs(seconds).min(Duration::from_secs(30)));
                    }
                    if attempt >= attempts {
                        return Ok(answer);
                    }
                    String::new()
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let why = reason(&error);
                    let host = endpoint.base.host_str().unwrap_or_default();
                    let port = endpoint.base.port().map(|p| format!(":{p}")).unwrap_or_default();
                    // What HTTP looks like to a TLS client.
                    if endpoint.base.scheme() == "https" && why.contains("InvalidContentType") {
                        return Err(wrong(format!(
                            "{host}{port} does not speak TLS; if that is meant: [registries.hosts.\"{host}{port}\"] plain_http = true"
                        )));
                    }
                    why
                }
            };
            if attempt >= attempts {
                return Err(RegistryError::Unreachable(format!("{}: {trouble}", endpoint.base)));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// How often a request is made where there are others to ask, and where not.
    fn patience(last: bool) -> u32 {
        if last { ATTEMPTS } else { 2 }
    }
}

fn digest_of(login: &Login) -> Digest {
    Digest::of(format!("{}\0{}", login.username, login.password).as_bytes())
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

fn basic(login: &Login) -> String {
    format!("Basic {}", base64(format!("{}:{}", login.username, login.password).as_bytes()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// A blob that comes in.
struct HttpBlob {
    registry: Arc<HttpRegistry>,
    image: ImageReference,
    login: Option<Login>,
    digest: Digest,
    size: u64,
    hash: sha2::Sha256,
    offset: u64,
    stream: Option<(Endpoint, BoxStream<'static, reqwest::Result<bytes::Bytes>>)>,
    /// Bytes that come again before what is new.
    skip: u64,
    failures: u32,
    /// The minute that is counted, and what has come in it.
    minute: Instant,
    in_minute: u64,
    /// It has been too slow since the last minute that was good.
    slow: bool,
}

impl HttpBlob {
    /// Opens the rest of it, wherever it can be had.
    async fn open(&mut self) -> Result<(), RegistryError> {
        let endpoints = self.registry.endpoints(&self.image.registry)?;
        let mut first_error = None;
        let count = endpoints.len();
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            let url = endpoint.url(&format!("{}/blobs/{}", self.image.repository, self.digest))?;
            let permission = Permission { repository: &self.image.repository, push: false, login: self.login.as_ref() };
            let offset = self.offset;
            let attempts = HttpRegistry::patience(index + 1 == count);
            let answer = self.registry.send(&endpoint, permission, attempts, |client| {
                let request = client.get(url.clone());
                if offset > 0 { request.header(header::RANGE, format!("bytes={offset}-")) } else { request }
            });
            let error = match answer.await {
                Ok(answer) if answer.status().is_success() => {
                    // Whoever knows no ranges sends all of it.
                    self.skip = if answer.status() == StatusCode::PARTIAL_CONTENT { 0 } else { offset };
                    self.stream = Some((endpoint, answer.bytes_stream().boxed()));
                    return Ok(());
                }
                Ok(answer) => {
                    let status = answer.status();
                    refused(status, complaint(answer, &format!("blob {} of {}", self.digest, self.image)).await)
                }
                Err(error) => error,
            };
            if !matches!(error, RegistryError::NotFound(_)) {
                self.registry.rest(&endpoint);
            }
            first_error = Some(error);
        }
        Err(first_error.unwrap_or_else(|| wrong("no address to ask")))
    }

    /// The connection broke: it is taken up again, unless nothing has come for too long.
    async fn broke(&mut self, why: String) -> Result<(), RegistryError> {
        if let Some((endpoint, _)) = self.stream.take() {
            self.registry.rest(&endpoint);
        }
        self.failures += 1;
        if self.failures > ATTEMPTS {
            let text = format!("blob {} of {} broke off at byte {}: {why}", self.digest, self.image, self.offset);
            return Err(RegistryError::Unreachable(text));
        }
        tokio::time::sleep(FIRST_PAUSE * self.failures).await;
        Ok(())
    }
}

#[async_trait]
impl Blob for HttpBlob {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RegistryError> {
        loop {
            if self.size > 0 && self.offset == self.size {
                let found = self.hash.clone().finalize();
                let found: String = found.iter().map(|b| format!("{b:02x}")).collect();
                if found == self.digest.hex() {
                    return Ok(None);
                }
                if let Some((endpoint, _)) = self.stream.take() {
                    self.registry.rest(&endpoint);
                }
                return Err(wrong(format!("blob {} of {} has the content sha256:{found}", self.digest, self.image)));
            }
            if self.stream.is_none() {
                self.open().await?;
            }
            let stall = self.registry.stall();
            let Some((_, stream)) = &mut self.stream else { continue };
            match tokio::time::timeout(stall, stream.next()).await {
                Ok(Some(Ok(chunk))) => {
                    let known = usize::try_from(self.skip).map_or(chunk.len(), |s| s.min(chunk.len()));
                    self.skip -= known as u64;
                    let chunk = &chunk[known..];
                    if chunk.is_empty() {
                        continue;
                    }
                    self.offset += chunk.len() as u64;
                    if self.size > 0 && self.offset > self.size {
                        if let Some((endpoint, _)) = self.stream.take() {
                            self.registry.rest(&endpoint);
                        }
                        return Err(wrong(format!("blob {} of {} is longer than announced", self.digest, self.image)));
                    }
                    self.hash.update(chunk);
                    let chunk = chunk.to_vec();
                    self.in_minute += chunk.len() as u64;
                    if self.minute.elapsed() > Duration::from_secs(60) {
                        let enough = self.in_minute >= LEAST_IN_A_MINUTE;
                        (self.minute, self.in_minute) = (Instant::now(), 0);
                        self.slow = !enough;
                        if !enough {
                            self.broke(format!("fewer than {LEAST_IN_A_MINUTE} bytes came in a minute")).await?;
                            return Ok(Some(chunk));
                        }
                    }
                    // What trickles is no progress that makes up for failures.
                    if !self.slow {
                        self.failures = 0;
                    }
                    return Ok(Some(chunk));
                }
                // Nobody said how long it is: its end is its end.
                Ok(None) if self.size == 0 => self.size = self.offset.max(1),
                Ok(None) => self.broke("the connection ended early".into()).await?,
                Ok(Some(Err(error))) => self.broke(reason(&error)).await?,
                Err(_) => self.broke(format!("nothing came for {} s", stall.as_secs())).await?,
            }
        }
    }
}

/// Shared by what it hands out.
#[derive(Debug, Clone)]
pub struct Registries(Arc<HttpRegistry>);

impl Registries {
    /// With these settings.
    pub fn new(settings: RegistriesSettings) -> Self {
        Self(Arc::new(HttpRegistry::new(settings)))
    }

    /// Where an upload goes on.
    fn location(endpoint: &Endpoint, answer: &Response) -> Result<Url, RegistryError> {
        let text = answer.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
        let text = text.ok_or_else(|| wrong(format!("{}: an upload without a location", endpoint.base)))?;
        answer.url().join(text).map_err(|e| wrong(format!("{}: location {text:?}: {e}", endpoint.base)))
    }
}

/// How many bytes of an upload have arrived, as the registry says (`Range: 0-41`).
fn arrived(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::RANGE)?.to_str().ok()?;
    let last: u64 = text.trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
    // Some answer "0-0" for nothing at all; the digest would tell if it were one byte.
    Some(if last == 0 { 0 } else { last + 1 })
}

#[async_trait]
impl Registry for Registries {
    async fn manifest(
        &self,
        image: &ImageReference,
        reference: Option<&str>,
        login: Option<&Login>,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        let reference = reference.unwrap_or(&image.reference);
        let endpoints = self.0.endpoints(&image.registry)?;
        let count = endpoints.len();
        let mut last_error = None;
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            let url = endpoint.url(&format!("{}/manifests/{reference}", image.repository))?;
            let permission = Permission { repository: &image.repository, push: false, login };
            let attempts = HttpRegistry::patience(index + 1 == count);
            let answer =
                self.0.send(&endpoint, permission, attempts, |c| c.get(url.clone()).header(header::ACCEPT, MANIFESTS));
            let error = match answer.await {
                Ok(answer) if answer.status().is_success() => match read_manifest(answer, image).await {
                    Ok(read) => match reference.parse::<Digest>() {
                        Ok(expected) if expected != Digest::of(&read.0) => {
                            let found = Digest::of(&read.0);
                            wrong(format!("{image}: manifest {expected} has the content {found}"))
                        }
                        _ => return Ok(read),
                    },
                    Err(error) => error,
                },
                Ok(answer) => {
                    let status = answer.status();
                    refused(status, complaint(answer, &format!("image {image}")).await)
                }
                Err(error) => error,
            };
            if !matches!(error, RegistryError::NotFound(_)) {
                self.0.rest(&endpoint);
            }
            last_error = Some(error);
        }
        Err(last_error.unwrap_or_else(|| wrong("no address to ask")))
    }

    async fn blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        size: u64,
        login: Option<&Login>,
    ) -> Result<Box<dyn Blob>, RegistryError> {
        let mut blob = HttpBlob {
            registry: self.0.clone(),
            image: image.clone(),
            login: login.cloned(),
            digest: *digest,
            size,
            hash: sha2::Sha256::new(),
            offset: 0,
            stream: None,
            skip: 0,
            failures: 0,
            minute: Instant::now(),
            in_minute: 0,
            slow: false,
        };
        blob.open().await?;
        Ok(Box::new(blob))
    }

    async fn push_blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        file: &Path,
        login: Option<&Login>,
        sent: Sent<'_>,
    ) -> Result<bool, RegistryError> {
        let endpoint = self.0.own(&image.registry, true)?;
        let permission = Permission { repository: &image.repository, push: true, login };
        let what = || format!("send blob {digest} of {image}");
        let disk = |e: std::io::Error| wrong(format!("{}: {e}", what()));
        let there = endpoint.url(&format!("{}/blobs/{digest}", image.repository))?;
        let answer = self.0.send(&endpoint, permission, ATTEMPTS, |c| c.head(there.clone())).await?;
        match answer.status() {
            status if status.is_success() => return Ok(false),
            StatusCode::NOT_FOUND => {}
            status => return Err(refused(status, complaint(answer, &what()).await)),
        }
        let size = tokio::fs::metadata(file).await.map_err(disk)?.len();
        let mut file = tokio::fs::File::open(file).await.map_err(disk)?;
        let uploads = endpoint.url(&format!("{}/blobs/uploads/", image.repository))?;
        let mut location: Option<Url> = None;
        let (mut offset, mut failures, mut anew) = (0, 0, 0);
        while offset < size || location.is_none() {
            let Some(at) = location.clone() else {
                let begun = self
                    .0
                    .send(&endpoint, permission, ATTEMPTS, |c| {
                        c.post(uploads.clone()).header(header::CONTENT_LENGTH, 0)
                    })
                    .await?;
                if begun.status() != StatusCode::ACCEPTED {
                    return Err(refused(begun.status(), complaint(begun, &what()).await));
                }
                location = Some(Self::location(&endpoint, &begun)?);
                offset = 0;
                continue;
            };
            let length = usize::try_from(size - offset).map_or(PORTION, |l| l.min(PORTION));
            let mut portion = vec![0; length];
            file.seek(std::io::SeekFrom::Start(offset)).await.map_err(disk)?;
            file.read_exact(&mut portion).await.map_err(disk)?;
            let portion = bytes::Bytes::from(portion);
            let end = offset + length as u64;
            let answer = self.0.send(&endpoint, permission, 1, |client| {
                client
                    .patch(at.clone())
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(header::CONTENT_RANGE, format!("{offset}-{}", end - 1))
                    .body(portion.clone())
            });
            let error = match answer.await {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    location = Some(Self::location(&endpoint, &answer)?);
                    let stands = arrived(&answer).unwrap_or(end).min(size);
                    if stands > offset {
                        offset = stands;
                        failures = 0;
                        sent(offset);
                        continue;
                    }
                    offset = stands;
                    RegistryError::Wrong(format!("{}: nothing of a portion has arrived", what()))
                }
                Ok(answer) => {
                    let status = answer.status();
                    refused(status, complaint(answer, &what()).await)
                }
                Err(error) => error,
            };
            failures += 1;
            if failures >= ATTEMPTS || matches!(error, RegistryError::Denied(_)) {
                return Err(error);
            }
            tokio::time::sleep(FIRST_PAUSE * failures).await;
            // Where it stands is the registry's word; where it knows nothing of it any more, it begins anew.
            let asked = self.0.send(&endpoint, permission, 2, |c| c.get(at.clone())).await;
            match asked {
                Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
                    let stands = arrived(&answer).unwrap_or(0).min(size);
                    if stands > offset {
                        failures = 0;
                    }
                    offset = stands;
                    location = Self::location(&endpoint, &answer).ok().or(Some(at));
                }
                _ => {
                    // Each time it loses what it has taken: portions that arrive in between are no progress.
                    anew += 1;
                    if anew >= ATTEMPTS {
                        return Err(error);
                    }
                    location = None;
                }
            }
        }
        let Some(mut at) = location else { return Err(wrong(what())) };
        at.query_pairs_mut().append_pair("digest", &digest.to_string());
        let done = self.0.send(&endpoint, permission, ATTEMPTS, |c| {
            c.put(at.clone()).header(header::CONTENT_TYPE, "application/octet-stream").header(header::CONTENT_LENGTH, 0)
        });
        let done = done.await?;
        if done.status() == StatusCode::CREATED || done.status() == StatusCode::NO_CONTENT {
            sent(size);
            return Ok(true);
        }
        // An answer that was lost: the blob may be there all the same.
        let answer = self.0.send(&endpoint, permission, ATTEMPTS, |c| c.head(there.clone())).await?;
        if answer.status().is_success() {
            return Ok(true);
        }
        Err(refused(done.status(), complaint(done, &what()).await))
    }

    async fn push_manifest(
        &self,
        image: &ImageReference,
        manifest: &[u8],
        media_type: &str,
        login: Option<&Login>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.0.own(&image.registry, true)?;
        let permission = Permission { repository: &image.repository, push: true, login };
        let url = endpoint.url(&format!("{}/manifests/{}", image.repository, image.reference))?;
        let answer = self.0.send(&endpoint, permission, ATTEMPTS, |client| {
            client.request(Method::PUT, url.clone()).header(header::CONTENT_TYPE, media_type).body(manifest.to_vec())
        });
        let answer = answer.await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(refused(answer.status(), complaint(answer, &format!("send the manifest of {image}")).await))
    }

    async fn check(&self, registry: &str, login: &Login) -> Result<(), RegistryError> {
        let endpoint = self.0.own(registry, false)?;
        // A token that an older password got proves nothing.
        let key = (endpoint.base.to_string(), String::new(), Some(digest_of(login)));
        self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let url = endpoint.url("")?;
        let permission = Permission { repository: "", push: false, login: Some(login) };
        let answer = self.0.send(&endpoint, permission, 2, |c| c.get(url.clone())).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(refused(answer.status(), complaint(answer, &format!("log in at {registry}")).await))
    }
}

async fn read_manifest(answer: Response, image: &ImageReference) -> Result<(Vec<u8>, String), RegistryError> {
    let media_type =
        answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|e| RegistryError::Unreachable(format!("the manifest of {image}: {}", reason(&e))))?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_MANIFEST {
            return Err(wrong(format!("the manifest of {image} is longer than {LONGEST_MANIFEST} bytes")));
        }
    }
    Ok((bytes, media_type))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

    use super::{base64, challenge};

    #[test]
    fn challenges_are_taken_apart() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, text.parse().expect("value"));
            challenge(&headers)
        };
        let (scheme, parameters) =
            of(r#"Bearer realm="https://auth.example/token",service="reg", scope="repository:a/b:pull,push""#)
                .expect("bearer");
        assert_eq!(scheme, "bearer");
        assert_eq!(parameters["realm"], "https://auth.example/token");
        assert_eq!((parameters["service"].as_str(), parameters["scope"].as_str()), ("reg", "repository:a/b:pull,push"));
        assert_eq!(of("Basic realm=x").map(|(s, p)| (s, p["realm"].clone())), Some(("basic".into(), "x".into())));
        assert!(of("Bearer realm=\"open").is_none());
        assert_eq!(of("Negotiate").map(|(s, _)| s).as_deref(), Some("negotiate"));
    }

    #[test]
    fn base64_is_padded() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
