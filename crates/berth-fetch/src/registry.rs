//! Registries over HTTP (OCI distribution specification 1.1, Docker's token authentication), with mirrors in front of each.
//!
//! A mirror that fails is left alone for a while, and the next one is asked, the registry itself last. A blob whose
//! connection breaks goes on where it stood, at the same place or another: the digest of the whole decides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_core::{Access, Blob, ImageReference, Login, Registry, RegistryError, Sent};
use berth_image::Digest;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hickory_resolver::TokioResolver;
use reqwest::header::{self, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use sha2::Digest as _;

mod settings;
mod upload;

pub use settings::{RegistriesSettings, RegistrySettings};
use upload::{PORTION_LIMIT, Part, Upload, arrived, least_part};

use crate::{CONNECT_LIMIT, Guard, Guarded, REDIRECTS, literal, reason};

/// Longest manifest, bytes; the specification's own bound.
const LONGEST_MANIFEST: usize = 4 << 20;
/// How often a request is made before it counts as failed.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A mirror that failed is not asked for so long.
const REST: Duration = Duration::from_secs(60);
/// Longest answer that is no content: a complaint, a token.
const LONGEST_WORDS: usize = 1 << 20;
/// Time that such an answer may take.
const WORDS_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that a token is kept.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Bytes that a blob must bring in a minute; a connection that brings less is given up.
const LEAST_IN_A_MINUTE: u64 = 60 << 10;
/// Seconds that a token is good at least, also if the registry does not say it or says less (the token protocol's own rule).
const SHORTEST_LIFE: u64 = 60;
/// Seconds before its end from which on a token is not used any more.
const LIFE_MARGIN: u64 = 10;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Speaks to registries.
pub struct HttpRegistry {
    settings: RegistriesSettings,
    guard: Guard,
    resolver: Option<Arc<TokioResolver>>,
    clients: Mutex<HashMap<ClientKey, Client>>,
    tokens: Mutex<HashMap<TokenKey, (String, Instant)>>,
    resting: Mutex<HashMap<String, Instant>>,
}

/// Authority's file, whether for uploads, the host that it is for, and whether private addresses may be reached.
type ClientKey = (Option<PathBuf>, bool, String, bool);

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
    private: Private,
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
    access: &'a Access,
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

/// A scheme, and its parameters by name.
type Challenge = (String, HashMap<String, String>);

/// All that a registry offers as ways to log in (RFC 9110, 11.6.1): several headers, and several in one of them. What breaks the
/// grammar ends its header, not the others.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let texts = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(challenges_of).collect()
}

fn challenges_of(text: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = text.trim_start_matches([',', ' ', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', '=', ',', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t']);
        if word.is_empty() {
            break;
        }
        let Some(value) = after.strip_prefix('=').filter(|value| !value.starts_with('=')) else {
            all.push((word.to_ascii_lowercase(), HashMap::new()));
            rest = after.trim_start_matches([',', ' ', '\t', '=']);
            continue;
        };
        let Some((_, parameters)) = all.last_mut() else { break };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => match unquoted(quoted) {
                Some(both) => both,
                None => {
                    all.pop();
                    break;
                }
            },
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        parameters.insert(word.to_ascii_lowercase(), value);
        rest = after.trim_start_matches([',', ' ', '\t']);
    }
    all
}

/// The text up to the closing quotation mark, and what is after it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
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
    pub fn new(settings: RegistriesSettings, guard: Guard) -> Self {
        let resolver = TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()).map(Arc::new);
        Self {
            settings,
            guard,
            resolver,
            clients: Mutex::default(),
            tokens: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    fn stall(&self) -> Duration {
        Duration::from_secs(self.settings.stall_s.max(1))
    }

    /// For `uploads` a server may be silent while it is sent to.
    fn client(
        &self,
        base: &Url,
        ca_file: Option<&Path>,
        uploads: bool,
        private: Private,
    ) -> Result<Client, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let own = base.host_str().unwrap_or_default().to_owned();
        let key = (ca_file.map(Path::to_owned), uploads, own.clone(), private.own);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        let (judged, guard) = (own.clone(), self.guard.clone());
        let policy = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error(berth_core::FetchError(format!("more than {REDIRECTS} redirects")));
            }
            let in_clear = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
            if in_clear && attempt.url().scheme() == "http" {
                return attempt.error(berth_core::FetchError("a redirect from HTTPS to HTTP".into()));
            }
            match guard.check_host(attempt.url(), private.of(attempt.url(), &judged)) {
                Ok(()) => attempt.follow(),
                Err(error) => attempt.error(error),
            }
        });
        let guarded = Guarded {
            guard: self.guard.clone(),
            resolver: self.resolver.clone(),
            private: private.elsewhere,
            private_of: private.own.then(|| own.clone()),
        };
        let mut authorities = Vec::new();
        if let Some(path) = ca_file {
            use rustls::pki_types::pem::PemObject;
            let unreadable = |why: String| wrong(format!("the certificate authority {}: {why}", path.display()));
            for certificate in
                rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))?
            {
                authorities.push(certificate.map_err(|e| unreadable(e.to_string()))?);
            }
        }
        let mut builder = berth_tls::builder(authorities)
            .map_err(|e| wrong(format!("certificate authorities for {own}: {e}")))?
            .no_proxy()
            .dns_resolver(Arc::new(guarded))
            .redirect(policy)
            .connect_timeout(CONNECT_LIMIT)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")));
        builder = if uploads { builder.timeout(PORTION_LIMIT) } else { builder.read_timeout(self.stall()) };
        let client = builder.build().map_err(|e| wrong(format!("no HTTP client: {}", reason(&e))))?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Which private addresses may be reached on behalf of a registry or mirror: its own if it is in the settings or whoever
    /// names it may reach such, and others only if it is in the settings or on a private address itself. What a client names must
    /// not send us to where it can't go.
    fn private(&self, base: &Url, access: &Access) -> Private {
        let host = base.host_str().unwrap_or_default();
        let named = self.settings.hosts.iter().any(|(name, settings)| {
            let of_mirror = |m: &String| Url::parse(m).is_ok_and(|m| m.host_str() == Some(host));
            Url::parse(&format!("https://{name}")).is_ok_and(|n| n.host_str() == Some(host))
                || settings.mirrors.iter().any(of_mirror)
        });
        let own = self.settings.private_addresses && (named || access.private);
        let is_private = literal(host).is_some_and(|ip| !self.guard.allowed(ip, false));
        Private { own, elsewhere: own && (named || is_private) }
    }

    fn own(&self, registry: &str, uploads: bool, access: &Access) -> Result<Endpoint, RegistryError> {
        let settings = self.settings.hosts.get(registry);
        let scheme = if settings.is_some_and(|s| s.plain_http) { "http" } else { "https" };
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let base = Url::parse(&format!("{scheme}://{host}")).map_err(|e| wrong(format!("{registry}: {e}")))?;
        let private = self.private(&base, access);
        let client = self.client(&base, settings.and_then(|s| s.ca_file.as_deref()), uploads, private)?;
        Ok(Endpoint { base, client, namespace: None, private })
    }

    /// Where the registry's content is asked for, in order. Those that failed lately come last.
    fn endpoints(&self, registry: &str, access: &Access) -> Result<Vec<Endpoint>, RegistryError> {
        let mut all = Vec::new();
        for settings in [self.settings.hosts.get(registry), self.settings.hosts.get("*")].into_iter().flatten() {
            for mirror in &settings.mirrors {
                let base = Url::parse(mirror).map_err(|e| wrong(format!("mirror {mirror:?}: {e}")))?;
                let private = self.private(&base, access);
                let client = self.client(&base, settings.ca_file.as_deref(), false, private)?;
                all.push(Endpoint { base, client, namespace: Some(registry.to_owned()), private });
            }
        }
        all.push(self.own(registry, false, access)?);
        let now = Instant::now();
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, until| *until > now);
        all.sort_by_key(|e| resting.contains_key(e.base.as_str()));
        Ok(all)
    }

    fn check_reach(&self, endpoint: &Endpoint, url: &Url) -> Result<(), RegistryError> {
        let private = endpoint.private.of(url, endpoint.base.host_str().unwrap_or_default());
        self.guard.check_host(url, private).map_err(|e| wrong(e.0))
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
        let all = challenges(headers);
        let by_password = |login: Option<&Login>| {
            let value = basic(login.filter(|_| all.iter().any(|(scheme, _)| scheme == "basic"))?);
            self.remember(key, &value, Duration::from_secs(3600));
            Some(value)
        };
        let with_token = all.iter().filter(|(scheme, _)| scheme == "bearer");
        let Some((realm, parameters)) = with_token.filter_map(|(_, p)| Some((p.get("realm")?, p))).next() else {
            return Ok(by_password(login));
        };
        let mut url = Url::parse(realm).map_err(|e| wrong(format!("{}: realm {realm:?}: {e}", endpoint.base)))?;
        if let Err(error) = self.check_reach(endpoint, &url) {
            return by_password(login).map(Some).ok_or(error);
        }
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
        let life = json["expires_in"].as_u64().unwrap_or(SHORTEST_LIFE).max(SHORTEST_LIFE) - LIFE_MARGIN;
        let life = Duration::from_secs(life);
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
        let login = endpoint.login(permission.access.login.as_ref());
        let key = (endpoint.base.to_string(), permission.scope(), login.map(digest_of));
        let mut pause = FIRST_PAUSE;
        let mut challenged = false;
        let mut fresh: Option<String> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let unsound = |e: reqwest::Error| wrong(format!("{}: {}", endpoint.base, reason(&e)));
            let mut request = build(&endpoint.client).build().map_err(unsound)?;
            // Registries say where uploads go on; that must not be a way to the inside, nor get what is for the registry.
            self.check_reach(endpoint, request.url())?;
            if let Some(token) = fresh.take().or_else(|| self.known_token(&key))
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
                    fresh = self.answer_challenge(endpoint, answer.headers(), &key, login).await?;
                    if fresh.is_some() {
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
    access: Access,
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
        let endpoints = self.registry.endpoints(&self.image.registry, &self.access)?;
        let mut first_error = None;
        let count = endpoints.len();
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            let url = endpoint.url(&format!("{}/blobs/{}", self.image.repository, self.digest))?;
            let permission = Permission { repository: &self.image.repository, push: false, access: &self.access };
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
pub struct Registries(Arc<arc_swap::ArcSwap<HttpRegistry>>);

impl Registries {
    /// With these settings; `guard` judges where it is led to.
    pub fn new(settings: RegistriesSettings, guard: Guard) -> Self {
        Self(Arc::new(arc_swap::ArcSwap::from_pointee(HttpRegistry::new(settings, guard))))
    }

    fn now(&self) -> Arc<HttpRegistry> {
        self.0.load_full()
    }

    /// Takes other settings for everything that begins from now on.
    pub fn reload(&self, settings: RegistriesSettings) {
        let guard = self.now().guard.clone();
        self.0.store(Arc::new(HttpRegistry::new(settings, guard)));
    }

    /// Where an upload goes on.
    fn location(endpoint: &Endpoint, answer: &Response) -> Result<Url, RegistryError> {
        let text = answer.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
        let text = text.ok_or_else(|| wrong(format!("{}: an upload without a location", endpoint.base)))?;
        answer.url().join(text).map_err(|e| wrong(format!("{}: location {text:?}: {e}", endpoint.base)))
    }
}

#[async_trait]
impl Registry for Registries {
    async fn manifest(
        &self,
        image: &ImageReference,
        reference: Option<&str>,
        access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        let reference = reference.unwrap_or(&image.reference);
        let endpoints = self.now().endpoints(&image.registry, access)?;
        let count = endpoints.len();
        let mut last_error = None;
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            let url = endpoint.url(&format!("{}/manifests/{reference}", image.repository))?;
            let permission = Permission { repository: &image.repository, push: false, access };
            let attempts = HttpRegistry::patience(index + 1 == count);
            let now = self.now();
            let answer =
                now.send(&endpoint, permission, attempts, |c| c.get(url.clone()).header(header::ACCEPT, MANIFESTS));
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
                self.now().rest(&endpoint);
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
        access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError> {
        let mut blob = HttpBlob {
            registry: self.now(),
            image: image.clone(),
            access: access.clone(),
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

    #[expect(clippy::too_many_lines, reason = "one state machine: whole, in parts, anew")]
    async fn push_blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        file: &Path,
        access: &Access,
        sent: Sent<'_>,
    ) -> Result<bool, RegistryError> {
        let endpoint = self.now().own(&image.registry, true, access)?;
        let permission = Permission { repository: &image.repository, push: true, access };
        let what = || format!("send blob {digest} of {image}");
        let disk = |e: std::io::Error| wrong(format!("{}: {e}", what()));
        let there = endpoint.url(&format!("{}/blobs/{digest}", image.repository))?;
        let now = self.now();
        let answer = now.send(&endpoint, permission, ATTEMPTS, |c| c.head(there.clone())).await?;
        match answer.status() {
            status if status.is_success() => return Ok(false),
            StatusCode::NOT_FOUND => {}
            status => return Err(refused(status, complaint(answer, &what()).await)),
        }
        let size = tokio::fs::metadata(file).await.map_err(disk)?.len();
        let uploads = endpoint.url(&format!("{}/blobs/uploads/", image.repository))?;
        let mut upload: Option<Upload> = None;
        // Some take one part and drop all others; then all is sent in one request.
        let mut whole = false;
        let (mut offset, mut failures, mut anew) = (0, 0, 0);
        let done = loop {
            let Some(Upload { at, portion }) = upload.clone() else {
                let begin = |c: &Client| c.post(uploads.clone()).header(header::CONTENT_LENGTH, 0);
                let begun = self.now().send(&endpoint, permission, ATTEMPTS, begin).await?;
                if !begun.status().is_success() {
                    return Err(refused(begun.status(), complaint(begun, &what()).await));
                }
                upload = Some(Upload { at: Self::location(&endpoint, &begun)?, portion: least_part(&begun) });
                offset = 0;
                continue;
            };
            // What would leave too little for a part of its own goes with the one before.
            let rest = size - offset;
            let length = if rest < portion.saturating_mul(2) { rest } else { portion };
            let in_one = offset == 0 && (whole || size <= portion);
            let part = Part { file, offset, length: if in_one { size } else { length } };
            let mut last = at.clone();
            last.query_pairs_mut().append_pair("digest", &digest.to_string());
            if in_one || rest == 0 {
                let put = |c: &Client| {
                    let request = c.put(last.clone()).header(header::CONTENT_TYPE, "application/octet-stream");
                    if in_one { part.of(request) } else { request.header(header::CONTENT_LENGTH, 0) }
                };
                let now = self.now();
                let answer = now.send(&endpoint, permission, if in_one { 1 } else { ATTEMPTS }, put).await;
                match answer {
                    Ok(answer) if answer.status().is_success() => {
                        sent(size);
                        return Ok(true);
                    }
                    Ok(answer) if !in_one || anew + 1 >= ATTEMPTS => break answer,
                    Err(error) if anew + 1 >= ATTEMPTS || matches!(error, RegistryError::Denied(_)) => {
                        return Err(error);
                    }
                    _ => {}
                }
                anew += 1;
                tokio::time::sleep(FIRST_PAUSE * anew).await;
                upload = None;
                continue;
            }
            let end = offset + length;
            let now = self.now();
            let answer = now.send(&endpoint, permission, 1, |client| {
                let request = client.patch(at.clone()).header(header::CONTENT_TYPE, "application/octet-stream");
                part.of(request.header(header::CONTENT_RANGE, format!("{offset}-{}", end - 1)))
            });
            let error = match answer.await {
                Ok(answer) if answer.status().is_success() => {
                    let at = Self::location(&endpoint, &answer).unwrap_or(at.clone());
                    upload = Some(Upload { at, portion });
                    let stands = arrived(&answer).unwrap_or(end).min(size);
                    if stands > offset {
                        offset = stands;
                        failures = 0;
                        sent(offset);
                        continue;
                    }
                    if offset > 0 && !whole {
                        (whole, upload) = (true, None);
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
            let asked = self.now().send(&endpoint, permission, 2, |c| c.get(at.clone())).await;
            match asked {
                Ok(answer) if answer.status().is_success() => {
                    let stands = arrived(&answer).unwrap_or(0).min(size);
                    if stands > offset {
                        failures = 0;
                    }
                    offset = stands;
                    upload = Some(Upload { at: Self::location(&endpoint, &answer).unwrap_or(at), portion });
                }
                _ => {
                    // Each time it loses what it has taken: portions that arrive in between are no progress.
                    anew += 1;
                    if anew >= ATTEMPTS {
                        return Err(error);
                    }
                    upload = None;
                }
            }
        };
        // An answer that was lost: the blob may be there all the same.
        let now = self.now();
        let answer = now.send(&endpoint, permission, ATTEMPTS, |c| c.head(there.clone())).await?;
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
        access: &Access,
    ) -> Result<(), RegistryError> {
        let endpoint = self.now().own(&image.registry, true, access)?;
        let permission = Permission { repository: &image.repository, push: true, access };
        let url = endpoint.url(&format!("{}/manifests/{}", image.repository, image.reference))?;
        let now = self.now();
        let answer = now.send(&endpoint, permission, ATTEMPTS, |client| {
            client.request(Method::PUT, url.clone()).header(header::CONTENT_TYPE, media_type).body(manifest.to_vec())
        });
        let answer = answer.await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(refused(answer.status(), complaint(answer, &format!("send the manifest of {image}")).await))
    }

    async fn check(&self, registry: &str, login: &Login, private: bool) -> Result<(), RegistryError> {
        let access = Access { login: Some(login.clone()), private };
        let endpoint = self.now().own(registry, false, &access)?;
        // A token that an older password got proves nothing.
        let key = (endpoint.base.to_string(), String::new(), Some(digest_of(login)));
        self.now().tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let url = endpoint.url("")?;
        let permission = Permission { repository: "", push: false, access: &access };
        let now = self.now();
        let answer = now.send(&endpoint, permission, 2, |c| c.get(url.clone())).await?;
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

    use super::{Challenge, base64, challenges};

    #[test]
    fn challenges_are_taken_apart() {
        let of = |texts: &[&str]| -> Vec<Challenge> {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, text.parse().expect("value"));
            }
            challenges(&headers)
        };
        let schemes = |texts: &[&str]| of(texts).into_iter().map(|(scheme, _)| scheme).collect::<Vec<_>>();
        let bearer = r#"Bearer realm="https://auth.example/token",service="reg", scope="repository:a/b:pull,push""#;
        let (scheme, parameters) = of(&[bearer]).remove(0);
        assert_eq!(scheme, "bearer");
        assert_eq!(parameters["realm"], "https://auth.example/token");
        assert_eq!((parameters["service"].as_str(), parameters["scope"].as_str()), ("reg", "repository:a/b:pull,push"));
        assert_eq!(of(&["Basic realm=x"])[0].1["realm"], "x");
        assert!(of(&["Bearer realm=\"open"]).is_empty());
        assert_eq!(schemes(&["Negotiate"]), ["negotiate"]);
        assert_eq!(schemes(&["Negotiate", bearer, "Basic realm=\"x\""]), ["negotiate", "bearer", "basic"]);
        let both = of(&[r#"Basic realm="a, b=c", Bearer realm = "https://t/\"q" , service=s"#]);
        assert_eq!((both[0].1["realm"].as_str(), both[1].1["realm"].as_str()), ("a, b=c", "https://t/\"q"));
        assert_eq!(both[1].1["service"], "s");
        assert_eq!(schemes(&["Bearer realm=\"open", "Basic realm=x"]), ["basic"]);
        assert_eq!(schemes(&["Negotiate YWJj==, Basic realm=x"]).last().map(String::as_str), Some("basic"));
    }

    #[test]
    fn base64_is_padded() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
