//! Typed client of the native API.

use berth_api::wire::{
    Container, ContainerCreate, Ended, Event, Host, Image, ImageRemoved, List, LogEntry, Problem, Stats, Token,
    TokenCreate,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no, and why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The server could not be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// The answer is not what this client knows.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
}

impl Error {
    /// The server's word for programs, where there is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Self::Connection(text)
    }
}

type Result<T> = std::result::Result<T, Error>;

/// Calls one server with one token. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// Query parameters.
type Query<'a> = &'a [(&'a str, String)];

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
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    fn request(&self, method: Method, path: &str, query: Query<'_>) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token).query(query)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await?;
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(Error::Refused(problem)),
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
        let response = self.send(self.request(Method::GET, path, query)).await?;
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
        self.get(&format!("/v1/containers/{}", segment(id)), &[]).await
    }

    /// Starts, stops or restarts it (`verb`); `timeout` in seconds is for the stop.
    pub async fn container_do(&self, id: &str, verb: &str, timeout: Option<u64>) -> Result<Container> {
        let query: Vec<_> = timeout.map(|t| ("timeout", t.to_string())).into_iter().collect();
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

    /// Returns when it is not running.
    pub async fn container_wait(&self, id: &str) -> Result<Ended> {
        self.get(&format!("/v1/containers/{}/wait", segment(id)), &[]).await
    }

    /// Its output.
    pub async fn container_logs(
        &self,
        id: &str,
        follow: bool,
        since: Option<String>,
        tail: Option<usize>,
    ) -> Result<impl Stream<Item = Result<LogEntry>> + use<>> {
        let mut query = vec![("follow", follow.to_string())];
        query.extend(since.map(|s| ("since", s)));
        query.extend(tail.map(|t| ("tail", t.to_string())));
        self.lines(&format!("/v1/containers/{}/logs", segment(id)), &query).await
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

    /// The account's tokens.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        self.get::<List<Token>>("/v1/tokens", &[]).await.map(|list| list.items)
    }

    /// Makes a token.
    pub async fn token_create(&self, new: &TokenCreate) -> Result<Token> {
        self.post("/v1/tokens", &[], new).await
    }

    /// Revokes a token.
    pub async fn token_revoke(&self, number: i64) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/tokens/{number}"), &[])).await.map(drop)
    }
}
