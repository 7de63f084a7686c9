//! A registry on loopback that keeps the protocol in ways of its own, as some of the large ones do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::archives::digest_of;

/// Its ways.
#[derive(Debug, Clone)]
pub struct Ways {
    /// Parts of uploads that are not the last must be at least so long, bytes; it says so.
    pub least_part: usize,
    /// The status of a part that was taken.
    pub part_status: u16,
    /// Whether parts after the first are dropped, as if they had been taken.
    pub first_part_only: bool,
    /// Seconds that it says its tokens last; without, nobody need log in.
    pub token_life: Option<u64>,
    /// What it says beside its own challenge, each in a header.
    pub challenges: Vec<String>,
}

impl Default for Ways {
    fn default() -> Self {
        Self { least_part: 0, part_status: 202, first_part_only: false, token_life: None, challenges: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Kept {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and reference.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    begun: usize,
    refused: Vec<String>,
}

/// The registry; its thread ends with the test process.
#[derive(Debug)]
pub struct StrangeRegistry {
    port: u16,
    kept: Arc<Mutex<Kept>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    authorization: Option<String>,
    media_type: String,
    body: Vec<u8>,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request = Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        authorization: None,
        media_type: String::new(),
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => request.authorization = Some(value.trim().to_owned()),
            "content-type" => request.media_type = value.trim().to_owned(),
            _ => {}
        }
    }
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

fn answer(request: &Request, ways: &Ways, port: u16, kept: &mut Kept) -> Answer {
    let header = |name: &str, value: String| (name.to_owned(), value);
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    if let Some(life) = ways.token_life {
        if parts == ["token"] {
            let body = format!("{{\"token\": \"good\", \"expires_in\": {life}}}");
            return (200, Vec::new(), body.into_bytes());
        }
        if request.authorization.as_deref() != Some("Bearer good") {
            let own = format!("Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"strange\"");
            let mut headers: Vec<_> =
                ways.challenges.iter().map(|text| header("WWW-Authenticate", text.clone())).collect();
            headers.push(header("WWW-Authenticate", own));
            return (401, headers, Vec::new());
        }
    }
    let digest = request.query.split_once("digest=").map(|(_, digest)| digest.replace("%3A", ":"));
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["v2", ""]) => (200, Vec::new(), b"{}".to_vec()),
        (method @ ("HEAD" | "GET"), ["v2", _, "blobs", digest]) => match kept.blobs.get(*digest) {
            Some(blob) => (200, Vec::new(), if method == "GET" { blob.clone() } else { Vec::new() }),
            None => (404, Vec::new(), Vec::new()),
        },
        ("POST", ["v2", repository, "blobs", "uploads", ""]) => {
            kept.begun += 1;
            let id = format!("u{}", kept.begun);
            let mut headers = vec![header("Location", format!("/v2/{repository}/blobs/uploads/{id}"))];
            if ways.least_part > 0 {
                headers.push(header("OCI-Chunk-Min-Length", ways.least_part.to_string()));
            }
            kept.uploads.insert(id, Vec::new());
            (202, headers, Vec::new())
        }
        ("PATCH", ["v2", _, "blobs", "uploads", id]) => {
            let upload = kept.uploads.entry((*id).to_owned()).or_default();
            if upload.is_empty() || !ways.first_part_only {
                upload.extend_from_slice(&request.body);
            }
            if request.body.len() < ways.least_part {
                // Only as the last one: the end of the upload shows whether it was.
                kept.refused.push(format!("a part of {} bytes", request.body.len()));
            }
            let range = format!("0-{}", upload.len().saturating_sub(1));
            (ways.part_status, vec![header("Location", request.path.clone()), header("Range", range)], Vec::new())
        }
        ("GET", ["v2", _, "blobs", "uploads", id]) => {
            let length = kept.uploads.get(*id).map_or(0, Vec::len);
            (204, vec![header("Range", format!("0-{}", length.saturating_sub(1)))], Vec::new())
        }
        ("PUT", ["v2", _, "blobs", "uploads", id]) => {
            let mut blob = kept.uploads.remove(*id).unwrap_or_default();
            blob.extend_from_slice(&request.body);
            let found = digest_of(&blob);
            if digest.as_deref() != Some(found.as_str()) {
                kept.refused.push(format!("an upload that is {found}, not {digest:?}"));
                return (400, Vec::new(), Vec::new());
            }
            kept.blobs.insert(found, blob);
            (201, Vec::new(), Vec::new())
        }
        ("PUT", ["v2", repository, "manifests", reference]) => {
            let manifest = (request.media_type.clone(), request.body.clone());
            kept.manifests.insert(format!("{repository}:{}", digest_of(&request.body)), manifest.clone());
            kept.manifests.insert(format!("{repository}:{reference}"), manifest);
            (201, Vec::new(), Vec::new())
        }
        ("GET", ["v2", repository, "manifests", reference]) => {
            match kept.manifests.get(&format!("{repository}:{reference}")) {
                Some((media_type, body)) => (200, vec![header("Content-Type", media_type.clone())], body.clone()),
                None => (404, Vec::new(), Vec::new()),
            }
        }
        _ => (404, Vec::new(), Vec::new()),
    }
}

impl StrangeRegistry {
    /// Starts it.
    pub fn start(ways: Ways) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a registry");
        let port = listener.local_addr().expect("own address").port();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (ways, kept) = (ways.clone(), shared.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let (status, headers, body) =
                        answer(&request, &ways, port, &mut kept.lock().unwrap_or_else(PoisonError::into_inner));
                    let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
                    for (name, value) in headers {
                        text += &format!("{name}: {value}\r\n");
                    }
                    let length = if request.method == "HEAD" { 1 } else { body.len() };
                    text += &format!("Content-Length: {length}\r\n\r\n");
                    let _ = (&stream).write_all(text.as_bytes()).and_then(|()| (&stream).write_all(&body));
                });
            }
        });
        Self { port, kept }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did not like.
    pub fn refused(&self) -> Vec<String> {
        self.kept().refused.clone()
    }

    /// Uploads that were begun.
    pub fn uploads(&self) -> usize {
        self.kept().begun
    }

    /// Puts a blob there; its digest.
    pub fn blob(&self, content: &[u8]) -> String {
        let digest = digest_of(content);
        self.kept().blobs.insert(digest.clone(), content.to_vec());
        digest
    }

    /// Puts a manifest there under a reference and its digest; the digest.
    pub fn manifest(&self, repository: &str, reference: &str, media_type: &str, content: &[u8]) -> String {
        let digest = digest_of(content);
        for reference in [reference, &digest] {
            let kept = (media_type.to_owned(), content.to_vec());
            self.kept().manifests.insert(format!("{repository}:{reference}"), kept);
        }
        digest
    }

    /// Puts an image there whose configuration has these layers, and whose manifest has those blobs; its manifest's digest.
    pub fn image(
        &self,
        repository: &str,
        tag: &str,
        diff_ids: &[&str],
        blobs: &[&[u8]],
        config: serde_json::Value,
    ) -> String {
        let mut config = config;
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
        let config = config.to_string();
        let layers: Vec<_> = blobs
            .iter()
            .map(|blob| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": self.blob(blob), "size": blob.len(),
                })
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": layers,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.blob(config.as_bytes()), "size": config.len(),
            },
        });
        self.manifest(repository, tag, media_type, manifest.to_string().as_bytes())
    }
}
