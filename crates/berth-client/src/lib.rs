//! Typed client of the native API.

mod accounts;
mod error;
mod inspection;
mod services;
mod session;

use berth_api::wire::{
    CommitCreate, Container, ContainerCreate, ContainerUpdate, DiskUse, Ended, Event, ExecCreate, ExecResult, FileStat,
    Host, Image, ImagePull, ImagePush, ImageRemoved, List, LogEntry, LoginCreate, Port, PortList, Problem, PruneAsked,
    Pruned, RegistryLogin, Stats, Traffic, Travel, Volume, VolumeCreate,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::sync::Arc;

use reqwest::{Body, Method, RequestBuilder, Response};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::Error;
pub use services::AuditQuery;
pub use session::{Heard, Session, SessionInput, SessionOutput};

type Result<T> = std::result::Result<T, Error>;

/// Which part of a container's output, and how.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on until the container has ended.
    pub follow: bool,
    /// RFC 3339, or seconds since 1970.
    pub since: Option<String>,
    /// As `since`.
    pub until: Option<String>,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Only lines in which this regular expression is found.
    pub grep: Option<String>,
    /// Number the lines, from the first that the container has written.
    pub numbers: bool,
}

/// Calls one server with one token. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    /// The server's Unix socket, if it is reached by that.
    socket: Option<std::path::PathBuf>,
    /// How a server with TLS is trusted.
    tls: Arc<rustls::ClientConfig>,
    /// The account that an administrator acts for, instead of its own.
    account: Option<String>,
}

/// Query parameters.
type Query<'a> = &'a [(&'a str, String)];

fn tls(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<rustls::ClientConfig>> {
    berth_tls::config(authorities).map(Arc::new).map_err(|e| Error::Connection(format!("certificate authorities: {e}")))
}

fn builder(tls: &rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_backend_preconfigured(tls.clone()).no_proxy()
}

/// Names the account that an administrator acts for.
pub(crate) const ACCOUNT: &str = "berth-account";

fn segment(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Client {
    /// A client of the server at `base` (`http://127.0.0.1:8080`).
    ///
    /// # Errors
    /// That no HTTP client could be made.
    pub fn new(base: &str, token: &str) -> Result<Self> {
        Self::trusting(base, token, Vec::new())
    }

    /// The same for a server that may also show one of these certificates, or one that they signed.
    ///
    /// # Errors
    /// A certificate that is none, or that no HTTP client could be made.
    pub fn trusting(base: &str, token: &str, authorities: Vec<CertificateDer<'static>>) -> Result<Self> {
        let tls = tls(authorities)?;
        let http = builder(&tls).build()?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            socket: None,
            tls,
            account: None,
        })
    }

    /// A client of the server that listens on a Unix socket; with an empty token as whoever the socket is for.
    ///
    /// # Errors
    /// That no HTTP client could be made.
    pub fn unix(socket: &std::path::Path, token: &str) -> Result<Self> {
        let tls = tls(Vec::new())?;
        let http = builder(&tls).unix_socket(socket).build()?;
        let socket = Some(socket.to_owned());
        Ok(Self { http, base: "http://localhost".into(), token: token.to_owned(), socket, tls, account: None })
    }

    /// The same for an administrator who acts for another account.
    #[must_use]
    pub fn on_behalf(&self, account: &str) -> Self {
        Self { account: Some(account.to_owned()), ..self.clone() }
    }

    /// Where the server is, for people.
    pub fn server(&self) -> String {
        match &self.socket {
            Some(socket) => format!("unix:{}", socket.display()),
            None => self.base.clone(),
        }
    }

    /// A failed request: by a socket the address in it says nothing.
    fn failed(&self, error: reqwest::Error) -> Error {
        match &self.socket {
            Some(socket) if error.is_connect() => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(next) = cause.source() {
                    cause = next;
                }
                Error::Connection(format!("no server answers at unix:{} ({cause}); is it running?", socket.display()))
            }
            _ => error.into(),
        }
    }

    async fn session(&self, path: &str) -> Result<Session> {
        Session::open(self, path).await
    }

    fn request(&self, method: Method, path: &str, query: Query<'_>) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).query(query);
        let request = match &self.account {
            Some(account) => request.header(ACCOUNT, account.as_bytes()),
            None => request,
        };
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let request = response.headers().get("request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let text = response.text().await?;
        match serde_json::from_str::<Problem>(&text) {
            Ok(mut problem) => {
                // The server's log has the rest under it.
                if let Some(id) = request.filter(|_| matches!(problem.code.as_str(), "internal" | "unavailable")) {
                    problem.detail = format!("{} (Request-Id {id})", problem.detail);
                }
                Err(Error::Refused(problem))
            }
            Err(_) => Err(Error::Answer(format!("{status}: {}", text.chars().take(200).collect::<String>()))),
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let bytes = self.send(request).await?.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Answer(e.to_string()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<T> {
        self.json(self.request(Method::GET, path, query)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, query: Query<'_>, body: &impl Serialize) -> Result<T> {
        self.json(self.request(Method::POST, path, query).json(body)).await
    }

    /// All pages of a list.
    async fn all<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let mut query = query.to_vec();
            query.extend(cursor.map(|c: String| ("cursor", c)));
            let page: List<T> = self.get(path, &query).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// The objects of a body with one on each line.
    async fn lines<T: DeserializeOwned + 'static>(
        &self,
        path: &str,
        query: Query<'_>,
    ) -> Result<impl Stream<Item = Result<T>> + use<T>> {
        self.lines_of(self.request(Method::GET, path, query)).await
    }

    async fn lines_of<T: DeserializeOwned + 'static>(
        &self,
        request: RequestBuilder,
    ) -> Result<impl Stream<Item = Result<T>> + use<T>> {
        let response = self.send(request).await?;
        let chunks = response.bytes_stream().map_err(Error::from).boxed();
        let lines = futures_util::stream::try_unfold((chunks, Vec::new()), |(mut chunks, mut rest)| async move {
            loop {
                if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let item = serde_json::from_slice(&line).map_err(|e| Error::Answer(e.to_string()))?;
                    return Ok(Some((item, (chunks, rest))));
                }
                match chunks.next().await {
                    Some(chunk) => rest.extend_from_slice(&chunk?),
                    None => return Ok(None),
                }
            }
        });
        Ok(lines.boxed())
    }

    /// The account's containers.
    ///
    /// # Errors
    /// See [`Error`]; so for every call.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        self.all("/v1/containers", &[("limit", "1000".into())]).await
    }

    /// Makes a container.
    pub async fn container_create(&self, new: &ContainerCreate) -> Result<Container> {
        self.post("/v1/containers", &[], new).await
    }

    /// One container.
    pub async fn container(&self, id: &str) -> Result<Container> {
        // It may be an image's name, which is no path of a container.
        self.get(&format!("/v1/containers/{}", segment(id).replace('/', "%2F")), &[]).await
    }

    /// Starts, stops or restarts it (`verb`); `timeout` in seconds is for the stop.
    pub async fn container_do(&self, id: &str, verb: &str, timeout: Option<u64>) -> Result<Container> {
        self.container_do_by(id, verb, timeout, None).await
    }

    /// The same with another signal than its own for the stop.
    pub async fn container_do_by(
        &self,
        id: &str,
        verb: &str,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<Container> {
        let timeout = timeout.map(|t| ("timeout", t.to_string()));
        let query: Vec<_> = timeout.into_iter().chain(signal.map(|s| ("signal", s.to_string()))).collect();
        self.json(self.request(Method::POST, &format!("/v1/containers/{}/{verb}", segment(id)), &query)).await
    }

    /// Sends a signal.
    pub async fn container_kill(&self, id: &str, signal: &str) -> Result<()> {
        let path = format!("/v1/containers/{}/kill", segment(id));
        self.send(self.request(Method::POST, &path, &[("signal", signal.into())])).await.map(drop)
    }

    /// Removes it.
    pub async fn container_remove(&self, id: &str, force: bool) -> Result<()> {
        let path = format!("/v1/containers/{}", segment(id));
        self.send(self.request(Method::DELETE, &path, &[("force", force.to_string())])).await.map(drop)
    }

    /// Removes it with the volumes that nobody named.
    pub async fn container_remove_with_volumes(&self, id: &str, force: bool) -> Result<()> {
        let path = format!("/v1/containers/{}", segment(id));
        let query = [("force", force.to_string()), ("volumes", "true".into())];
        self.send(self.request(Method::DELETE, &path, &query)).await.map(drop)
    }

    /// Returns when it is not running.
    pub async fn container_wait(&self, id: &str) -> Result<Ended> {
        self.get(&format!("/v1/containers/{}/wait", segment(id)), &[]).await
    }

    /// Its output.
    pub async fn container_logs(
        &self,
        id: &str,
        query: &LogQuery,
    ) -> Result<impl Stream<Item = Result<LogEntry>> + use<>> {
        let mut all = vec![("follow", query.follow.to_string())];
        all.extend(query.since.clone().map(|s| ("since", s)));
        all.extend(query.until.clone().map(|s| ("until", s)));
        all.extend(query.tail.map(|t| ("tail", t.to_string())));
        all.extend(query.grep.clone().map(|g| ("grep", g)));
        all.extend(query.numbers.then(|| ("numbers", "true".into())));
        self.lines(&format!("/v1/containers/{}/logs", segment(id)), &all).await
    }

    /// Changes bounds and restart policy.
    pub async fn container_update(&self, id: &str, update: &ContainerUpdate) -> Result<Container> {
        let path = format!("/v1/containers/{}", segment(id));
        self.json(self.request(Method::PATCH, &path, &[]).json(update)).await
    }

    /// Has exactly these ports published.
    pub async fn container_ports(&self, id: &str, ports: Vec<Port>) -> Result<Container> {
        let path = format!("/v1/containers/{}/ports", segment(id));
        self.json(self.request(Method::PUT, &path, &[]).json(&PortList { ports })).await
    }

    /// What came in and went out over the network in its whole life.
    pub async fn container_traffic(&self, id: &str) -> Result<Traffic> {
        self.get(&format!("/v1/containers/{}/traffic", segment(id)), &[]).await
    }

    /// Runs a process in it and waits for its end, unless it is detached.
    pub async fn container_exec(&self, id: &str, exec: &ExecCreate) -> Result<ExecResult> {
        self.post(&format!("/v1/containers/{}/exec", segment(id)), &[], exec).await
    }

    /// A session with a process that is run in it.
    pub async fn container_exec_session(&self, id: &str, exec: &ExecCreate) -> Result<Session> {
        let mut session = self.session(&format!("/v1/containers/{}/exec", segment(id))).await?;
        session.begin(exec).await?;
        Ok(session)
    }

    /// A session with its own process.
    pub async fn container_attach(&self, id: &str) -> Result<Session> {
        self.session(&format!("/v1/containers/{}/attach", segment(id))).await
    }

    /// The same from the beginning of the newest run, which may have ended by now.
    ///
    /// # Errors
    /// As every call.
    pub async fn container_attach_from_start(&self, id: &str) -> Result<Session> {
        let path = format!("/v1/containers/{}/attach?from_start=true", segment(id));
        self.session(&path).await
    }

    /// What is at a path of it.
    pub async fn file_stat(&self, id: &str, path: &str) -> Result<FileStat> {
        let query = [("path", path.to_owned())];
        self.get(&format!("/v1/containers/{}/files/stat", segment(id)), &query).await
    }

    /// What is at a path of it, as a tar.
    pub async fn archive(&self, id: &str, path: &str, follow: bool) -> Result<Response> {
        let query = [("path", path.to_owned()), ("follow", follow.to_string())];
        self.send(self.request(Method::GET, &format!("/v1/containers/{}/archive", segment(id)), &query)).await
    }

    /// Unpacks a tar below a folder of it.
    pub async fn extract(&self, id: &str, path: &str, keep_owner: bool, tar: Body) -> Result<()> {
        let query = [("path", path.to_owned()), ("keep_owner", keep_owner.to_string())];
        let path = format!("/v1/containers/{}/archive", segment(id));
        self.send(self.request(Method::PUT, &path, &query).body(tar)).await.map(drop)
    }

    /// Its whole file system as a tar.
    pub async fn container_export(&self, id: &str) -> Result<Response> {
        self.send(self.request(Method::GET, &format!("/v1/containers/{}/export", segment(id)), &[])).await
    }

    /// Makes an image of what it has become.
    pub async fn container_commit(&self, id: &str, commit: &CommitCreate) -> Result<Image> {
        self.post(&format!("/v1/containers/{}/commit", segment(id)), &[], commit).await
    }

    /// Gives an image one more name.
    pub async fn image_tag(&self, image: &str, name: &str) -> Result<Image> {
        let query = [("image", image.to_owned()), ("name", name.to_owned())];
        self.json(self.request(Method::POST, "/v1/images/tag", &query)).await
    }

    /// Makes an image an official one, or takes that back.
    pub async fn image_share(&self, image: &str, official: bool) -> Result<Image> {
        let query = [("image", image.to_owned()), ("official", official.to_string())];
        self.json(self.request(Method::POST, "/v1/images/share", &query)).await
    }

    /// Images by a word in a name and a label, official ones too.
    pub async fn image_search(&self, word: &str, label: Option<&str>) -> Result<Vec<Image>> {
        let mut query = vec![("search", word.to_owned())];
        query.extend(label.map(|l| ("label", l.to_owned())));
        self.get::<List<Image>>("/v1/images", &query).await.map(|list| list.items)
    }

    /// How an image came about.
    pub async fn image_history(&self, image: &str) -> Result<Vec<serde_json::Value>> {
        let query = [("image", image.to_owned())];
        self.get::<List<serde_json::Value>>("/v1/images/history", &query).await.map(|list| list.items)
    }

    /// Images as one archive.
    pub async fn image_save(&self, images: &[String]) -> Result<Response> {
        let query = [("images", images.join(","))];
        self.send(self.request(Method::GET, "/v1/images/archive", &query)).await
    }

    /// Fetches an image from its registry.
    pub async fn image_pull(&self, pull: &ImagePull) -> Result<impl Stream<Item = Result<Travel>> + use<>> {
        self.lines_of(self.request(Method::POST, "/v1/images/pull", &[]).json(pull)).await
    }

    /// Sends an image to its registry.
    pub async fn image_push(&self, push: &ImagePush) -> Result<impl Stream<Item = Result<Travel>> + use<>> {
        self.lines_of(self.request(Method::POST, "/v1/images/push", &[]).json(push)).await
    }

    /// Removes images that nothing uses.
    pub async fn image_prune(&self, prune: &PruneAsked) -> Result<Pruned> {
        self.post("/v1/images/prune", &[], prune).await
    }

    /// How the account uses the disk.
    pub async fn disk(&self) -> Result<DiskUse> {
        self.get("/v1/disk", &[]).await
    }

    /// Logins at registries.
    pub async fn registry_logins(&self) -> Result<Vec<RegistryLogin>> {
        self.get::<List<RegistryLogin>>("/v1/registries", &[]).await.map(|list| list.items)
    }

    /// Checks a login and keeps it.
    pub async fn registry_login(&self, login: &LoginCreate) -> Result<()> {
        self.send(self.request(Method::POST, "/v1/registries", &[]).json(login)).await.map(drop)
    }

    /// Forgets a login.
    pub async fn registry_logout(&self, registry: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/registries/{}", segment(registry)), &[])).await.map(drop)
    }

    /// The account's volumes.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        self.get::<List<Volume>>("/v1/volumes", &[]).await.map(|list| list.items)
    }

    /// Makes a volume.
    pub async fn volume_create(&self, new: &VolumeCreate) -> Result<Volume> {
        self.post("/v1/volumes", &[], new).await
    }

    /// One volume, with its size.
    pub async fn volume(&self, name: &str) -> Result<Volume> {
        self.get(&format!("/v1/volumes/{}", segment(name)), &[]).await
    }

    /// Removes a volume.
    pub async fn volume_remove(&self, name: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/volumes/{}", segment(name)), &[])).await.map(drop)
    }

    /// Removes the volumes that no container mounts.
    pub async fn volume_prune(&self) -> Result<Pruned> {
        self.json(self.request(Method::POST, "/v1/volumes/prune", &[])).await
    }

    /// A volume's content as a tar.
    pub async fn volume_backup(&self, name: &str) -> Result<Response> {
        self.send(self.request(Method::GET, &format!("/v1/volumes/{}/archive", segment(name)), &[])).await
    }

    /// Unpacks a tar into a volume.
    pub async fn volume_restore(&self, name: &str, tar: Body) -> Result<()> {
        let path = format!("/v1/volumes/{}/archive", segment(name));
        self.send(self.request(Method::PUT, &path, &[]).body(tar)).await.map(drop)
    }

    /// What it uses, read once.
    pub async fn container_stats(&self, id: &str) -> Result<Stats> {
        self.get(&format!("/v1/containers/{}/stats", segment(id)), &[]).await
    }

    /// What all running containers use.
    pub async fn stats(&self) -> Result<Vec<Stats>> {
        self.get::<List<Stats>>("/v1/stats", &[]).await.map(|list| list.items)
    }

    /// The account's images.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.all("/v1/images", &[("limit", "1000".into())]).await
    }

    /// One image.
    pub async fn image(&self, reference: &str) -> Result<Image> {
        self.get(&format!("/v1/images/{}", segment(reference)), &[]).await
    }

    /// Imports an archive that comes as a stream.
    pub async fn image_load(&self, archive: Body, name: Option<&str>) -> Result<Vec<Image>> {
        let query: Vec<_> = name.map(|n| ("name", n.to_owned())).into_iter().collect();
        let list: List<Image> = self.json(self.request(Method::POST, "/v1/images", &query).body(archive)).await?;
        Ok(list.items)
    }

    /// Imports a root file system as an image; `config` is the image configuration's `config` as JSON.
    pub async fn image_import(&self, rootfs: Body, name: &str, config: &str) -> Result<Image> {
        let query = [("name", name.to_owned()), ("config", config.to_owned())];
        self.json(self.request(Method::POST, "/v1/images/rootfs", &query).body(rootfs)).await
    }

    /// Removes an image or one of its names.
    pub async fn image_remove(&self, reference: &str, force: bool) -> Result<ImageRemoved> {
        let path = format!("/v1/images/{}", segment(reference));
        self.json(self.request(Method::DELETE, &path, &[("force", force.to_string())])).await
    }

    /// Facts about the machine.
    pub async fn host(&self) -> Result<Host> {
        self.get("/v1/host", &[]).await
    }

    /// What happened so far.
    pub async fn events(&self) -> Result<Vec<Event>> {
        self.all("/v1/events", &[("limit", "1000".into())]).await
    }

    /// What happens from now on.
    pub async fn events_follow(&self) -> Result<impl Stream<Item = Result<Event>> + use<>> {
        self.lines("/v1/events", &[("follow", "true".into())]).await
    }
}
