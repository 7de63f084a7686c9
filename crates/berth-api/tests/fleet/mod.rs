//! Many hosts and many containers on the engine in memory, and everything that is served over them.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::extract::connect_info::MockConnectInfo;
use berth_core::{
    Access, Administrator, Blob, Caller, CommandQuery, Core, Fetch, FetchError, HostLabels, ImageReference, Login,
    Paths, Registry, RegistryError, Sent, Settings,
};
use berth_engine::FakeEngine;
use berth_image::Digest;
use berth_store::Store;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Operators of the document.
pub const OPERATORS: [&str; 3] = ["移动", "联通", "电信"];
/// Some provinces.
pub const AREAS: [&str; 10] = ["江苏", "浙江", "广东", "山东", "河南", "四川", "湖北", "福建", "湖南", "安徽"];
/// Images that the containers are of.
pub const IMAGES: usize = 20;

struct Nowhere;

#[async_trait]
impl Fetch for Nowhere {
    async fn fetch(&self, address: &str, _to: &Path, _limit: u64, _private: bool) -> Result<(), FetchError> {
        Err(FetchError(format!("{address} is not there")))
    }
}

fn none<T>() -> Result<T, RegistryError> {
    Err(RegistryError::NotFound("no registry here".into()))
}

#[async_trait]
impl Registry for Nowhere {
    async fn manifest(
        &self,
        _image: &ImageReference,
        _reference: Option<&str>,
        _access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        none()
    }

    async fn blob(
        &self,
        _image: &ImageReference,
        _digest: &Digest,
        _size: u64,
        _access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError> {
        none()
    }

    async fn push_blob(
        &self,
        _image: &ImageReference,
        _digest: &Digest,
        _file: &Path,
        _access: &Access,
        _sent: Sent<'_>,
    ) -> Result<bool, RegistryError> {
        none()
    }

    async fn push_manifest(
        &self,
        _image: &ImageReference,
        _manifest: &[u8],
        _media_type: &str,
        _access: &Access,
    ) -> Result<(), RegistryError> {
        none()
    }

    async fn check(&self, _registry: &str, _login: &Login, _private: bool) -> Result<(), RegistryError> {
        none()
    }
}

/// Hosts, their containers, and a server's parts.
pub struct Fleet {
    pub engine: FakeEngine,
    pub core: Core,
    pub store: Store,
    pub caller: Caller,
    pub router: axum::Router,
    pub token: String,
    pub folder: PathBuf,
}

/// What a request was answered.
pub struct Answer {
    pub status: u16,
    pub request_id: String,
    pub text: String,
    /// Null if the text is no JSON.
    pub json: Value,
}

/// Name of the image that a container is of, without the version.
pub fn image(number: usize) -> String {
    format!("edge{:02}", number % IMAGES)
}

impl Fleet {
    /// So many hosts with labels, and images of version 1 that run and of version `bad` that end at once.
    pub async fn new(name: &str, hosts: usize, settings: Settings) -> Self {
        let folder = std::env::temp_dir().join(format!("berth-fleet-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        let engine = FakeEngine::with_hosts(hosts);
        let store = Store::open(&folder.join("berth.db")).expect("store");
        let images = berth_image::Store::open(&folder.join("images"), 0).expect("images");
        let paths = Paths {
            volumes: folder.join("volumes"),
            packages: folder.join("packages"),
            downloads: folder.join("downloads"),
            distribution: folder.join("registry"),
            secret_key: folder.join("secret.key"),
        };
        let (fetch, registry) = (Arc::new(Nowhere), Arc::new(Nowhere));
        let core = Core::open(store.clone(), Arc::new(engine.clone()), images, fetch, registry, paths, settings);
        let core = core.await.expect("core");
        let admin = Administrator::make();
        core.identity().administrator(admin.clone()).await.expect("administrator");
        let caller = core.identity().authenticate(&admin.token).await.expect("read").expect("caller");
        for number in 0..IMAGES {
            for (version, command) in [("1", vec!["serve"]), ("2", vec!["serve"]), ("bad", vec!["exit", "7"])] {
                let config = berth_image::Config {
                    cmd: command.into_iter().map(str::to_owned).collect(),
                    env: vec![format!("V={number}-{version}")],
                    ..Default::default()
                };
                let name = format!("{}:{version}", image(number));
                core.image_import_rootfs(&caller, Cursor::new(empty_tar()), &name, config).await.expect("image");
            }
        }
        for (number, machine) in core.hosts().await.expect("hosts").into_iter().enumerate() {
            let labels = HostLabels {
                area: Some(AREAS[number % AREAS.len()].into()),
                operator: Some(OPERATORS[number % OPERATORS.len()].into()),
                ..HostLabels::default()
            };
            core.host_label(&caller, &machine.facts.id, labels).await.expect("label");
        }
        let draining = berth_api::Draining::default();
        let router = berth_api::router(core.clone(), draining, berth_api::Settings::default())
            .layer(MockConnectInfo(std::net::SocketAddr::from(([127, 0, 0, 1], 1))));
        Self { engine, core, store, caller, router, token: admin.token, folder }
    }

    /// A request as it stands.
    pub async fn send(&self, token: Option<&str>, method: &str, path: &str, body: Vec<u8>) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(axum::body::Body::from(body)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let answer = self.router.clone().oneshot(request).await.expect("answer");
        let id = answer.headers().get("request-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status, request_id: id, json: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }

    /// What the administrator is answered.
    pub async fn json(&self, method: &str, path: &str, body: Value) -> Value {
        self.timed(method, path, body).await.0
    }

    /// A request to the native API that succeeds.
    pub async fn native(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.send(Some(&self.token), method, path, body.to_string().into_bytes()).await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        answer.json
    }

    /// A request; its answer, how long that is in bytes, and how long it took.
    pub async fn timed(&self, method: &str, path: &str, body: Value) -> (Value, usize, Duration) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .body(axum::body::Body::from(body))
            .expect("request");
        let begun = Instant::now();
        let answer = self.router.clone().oneshot(request).await.expect("answer");
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("body");
        let took = begun.elapsed();
        (serde_json::from_slice(&bytes).unwrap_or(Value::Null), bytes.len(), took)
    }

    /// A request to the dialect `tingyu`.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.timed(method, &format!("/tingyu{path}"), body).await.0
    }

    /// So many containers on each host, by requests of a hundred; the ids of the jobs.
    pub async fn deploy(self: &Arc<Self>, on_each: usize) -> Vec<String> {
        let machines = self.core.hosts().await.expect("hosts");
        let items: Vec<Value> = (0..machines.len() * on_each)
            .map(|number| {
                json!({
                    "uuid": format!("tingyu-{}", machines[number / on_each].facts.id),
                    "image": image(number), "imageversion": "1", "deploymentname": format!("d{number}"),
                    "requestscpu": 0.1, "requestsmemory": 64, "limitscpu": 1, "limitsmemory": 256,
                    "env": [{"key": "NUMBER", "value": number.to_string()}],
                })
            })
            .collect();
        let mut jobs = Vec::new();
        let mut batches = tokio::task::JoinSet::new();
        let mut waiting = items.chunks(100).map(<[Value]>::to_vec);
        loop {
            while batches.len() < 16
                && let Some(batch) = waiting.next()
            {
                let fleet = self.clone();
                batches.spawn(async move { fleet.call("POST", "/container/create", Value::Array(batch)).await });
            }
            let Some(answer) = batches.join_next().await else { break };
            let answer = answer.expect("answer");
            for item in answer["data"].as_array().unwrap_or_else(|| panic!("{answer}")) {
                jobs.push(item["jobid"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned());
            }
        }
        self.settle().await;
        jobs
    }

    /// Waits until no command is under way.
    pub async fn settle(&self) {
        let query = CommandQuery { open: true, limit: 1, ..CommandQuery::default() };
        let begun = Instant::now();
        loop {
            let open = self.core.commands(&self.caller, &query).await.expect("commands").items;
            if open.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "{open:?} does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn empty_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "etc/x", std::io::empty()).expect("tar");
    tar.into_inner().expect("tar")
}
