//! The registry below `/v2/`: the specification's requests one by one, and skopeo and berth itself as its clients.

use std::path::PathBuf;
use std::process::Command;

use berth_testkit::{Server, digest_of, done, file, has_program, image, is_root, tar_of};
use serde_json::{Value, json};

/// An answer with its headers.
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of the specification.
    fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().expect("a code").to_owned()
    }
}

/// A client of one account.
struct Client<'a> {
    server: &'a Server,
    token: String,
}

impl Client<'_> {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let url = if path.starts_with("http") { path.to_owned() } else { self.server.url(path) };
        let mut request = berth_testkit::http().request(method, url).basic_auth("anybody", Some(&self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.to_vec()).send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().await.expect("a body").to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    /// Sends a blob in one request; its digest.
    async fn blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest_of(content);
        let answer = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], content).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.header("location"), format!("/v2/{repository}/blobs/{digest}"));
        digest
    }

    async fn manifest(&self, repository: &str, reference: &str, media_type: &str, content: &Value) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.ask("PUT", &path, &[("content-type", media_type)], content.to_string().as_bytes()).await
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(content), "size": content.len() })
}

/// Configuration, layer and manifest of a small image for a machine.
fn small_image(architecture: &str, text: &[u8]) -> (Vec<u8>, Vec<u8>, Value) {
    let layer = tar_of(&[file("hello", text)]);
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": ["/hello"] },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    (config, layer, manifest)
}

fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specifications_requests_are_answered_as_it_says() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "v2", "").await;
    let stranger = Client { server: &server, token: "berth_wrong".into() };
    let refused = stranger.get("/v2/").await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "UNAUTHORIZED"));
    assert!(refused.header("www-authenticate").starts_with("Basic realm="), "{:?}", refused.headers);
    let client = Client { server: &server, token: server.token() };
    for path in ["/v2/", "/v2"] {
        let root = client.get(path).await;
        assert_eq!((root.status, root.header("docker-distribution-api-version")), (200, "registry/2.0"), "{path}");
    }
    uploads(&client).await;
    manifests(&client).await;
    // What is another's is not there.
    let other = Client { server: &server, token: server.tenant("other").await };
    assert_eq!(other.get("/v2/_catalog").await.json(), json!({ "repositories": [] }));
    for path in ["manifests/1", "tags/list", "referrers/x", &format!("blobs/{}", digest_of(b"one"))] {
        assert_ne!(other.get(&format!("/v2/team/app/{path}")).await.status, 200, "{path}");
    }
    let mount = format!("/v2/mine/blobs/uploads/?mount={}&from=team/app", digest_of(b"one"));
    assert_eq!(other.ask("POST", &mount, &[], b"").await.status, 202, "it has to send it");
    // Changes are in the audit log.
    let audit = server.request("GET", "/v1/audit?limit=1000", "").await.text;
    assert!(audit.contains("PUT /v2/team/app/manifests/1"), "{audit}");
    server.finish().await;
}

async fn uploads(client: &Client<'_>) {
    // At once, and again.
    let digest = client.blob("team/app", b"one").await;
    client.blob("team/app", b"one").await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let blob = client.get(&path).await;
    assert_eq!((blob.status, blob.body.as_slice(), blob.header("docker-content-digest")), (200, &b"one"[..], &*digest));
    let head = client.ask("HEAD", &path, &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, "3"));
    let part = client.ask("GET", &path, &[("range", "bytes=1-1")], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"n"[..]));
    let beyond = client.ask("GET", &path, &[("range", "bytes=9-")], b"").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */3"));
    let head = client.ask("HEAD", &path, &[("range", "bytes=1-1")], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, "3"), "only GET has parts");
    // In parts.
    let begun = client.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    assert_eq!(begun.status, 202);
    let at = begun.header("location").to_owned();
    let first = client.ask("PATCH", &at, &[("content-range", "0-2")], b"abc").await;
    assert_eq!((first.status, first.header("range")), (202, "0-2"));
    let wrong = client.ask("PATCH", &at, &[("content-range", "5-6")], b"xx").await;
    assert_eq!((wrong.status, wrong.header("range"), wrong.code().as_str()), (416, "0-2", "BLOB_UPLOAD_INVALID"));
    let stands = client.get(&at).await;
    assert_eq!((stands.status, stands.header("range")), (204, "0-2"));
    assert_eq!(client.ask("PATCH", &at, &[("content-range", "3-5")], b"def").await.status, 202);
    let digest = digest_of(b"abcdefgh");
    let done = client.ask("PUT", &format!("{at}?digest={digest}"), &[("content-range", "6-7")], b"gh").await;
    assert_eq!((done.status, done.header("docker-content-digest")), (201, &*digest));
    assert_eq!(client.get(&format!("/v2/team/app/blobs/{digest}")).await.body, b"abcdefgh");
    assert_eq!(client.get(&at).await.code(), "BLOB_UPLOAD_UNKNOWN", "it is over");
    // Another content than told.
    let begun = client.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    let at = begun.header("location").to_owned();
    let wrong = client.ask("PUT", &format!("{at}?digest={}", digest_of(b"other")), &[], b"this").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
    let begun = client.ask("POST", "/v2/team/app/blobs/uploads/", &[], b"").await;
    let at = begun.header("location").to_owned();
    assert_eq!(client.ask("PUT", &at, &[], b"x").await.code(), "DIGEST_INVALID", "no digest");
    assert_eq!(client.ask("DELETE", &at, &[], b"").await.status, 204);
    assert_eq!(client.ask("DELETE", &at, &[], b"").await.status, 404);
    // From a repository of the same account.
    let digest = digest_of(b"one");
    let mounted = client.ask("POST", &format!("/v2/two/blobs/uploads/?mount={digest}&from=team/app"), &[], b"").await;
    assert_eq!((mounted.status, mounted.header("location")), (201, &*format!("/v2/two/blobs/{digest}")));
    assert_eq!(client.get(&format!("/v2/two/blobs/{digest}")).await.body, b"one");
    let unknown = digest_of(b"unknown");
    let sent = client.ask("POST", &format!("/v2/two/blobs/uploads/?mount={unknown}&from=team/app"), &[], b"").await;
    assert_eq!(sent.status, 202);
    // Removed from one, it stays in the other.
    assert_eq!(client.ask("DELETE", &format!("/v2/two/blobs/{digest}"), &[], b"").await.status, 202);
    assert_eq!(client.get(&format!("/v2/two/blobs/{digest}")).await.code(), "BLOB_UNKNOWN");
    assert_eq!(client.get(&format!("/v2/team/app/blobs/{digest}")).await.status, 200);
    for (path, code) in [
        ("/v2/Team/blobs/uploads/", "NAME_INVALID"),
        ("/v2/a..b/blobs/uploads/", "NAME_INVALID"),
        ("/v2/-a/blobs/uploads/", "NAME_INVALID"),
    ] {
        let refused = client.ask("POST", path, &[], b"").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{path}");
    }
    for digest in ["sha256:12", "md5:00", "x"] {
        assert_eq!(client.get(&format!("/v2/team/app/blobs/{digest}")).await.code(), "DIGEST_INVALID");
    }
    assert_eq!(client.ask("POST", "/v2/team/app/manifests/1", &[], b"").await.code(), "UNSUPPORTED");
    assert_eq!(client.get("/v2/team").await.status, 404);
}

async fn refused_manifests(client: &Client<'_>, manifest: &Value) {
    let mut of_negative_size = manifest.clone();
    of_negative_size["layers"][0]["size"] = json!(-1);
    for (reference, media_type, content, code) in [
        ("1", MANIFEST, json!({}), "MANIFEST_INVALID"),
        ("1", MANIFEST, json!({ "schemaVersion": 1 }), "MANIFEST_INVALID"),
        ("1", INDEX, manifest.clone(), "MANIFEST_INVALID"),
        ("1", MANIFEST, of_negative_size, "MANIFEST_INVALID"),
        (&*digest_of(b"x"), MANIFEST, manifest.clone(), "DIGEST_INVALID"),
        ("-x", MANIFEST, manifest.clone(), "MANIFEST_INVALID"),
    ] {
        let refused = client.manifest("team/app", reference, media_type, &content).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, code), "{reference} {content}");
    }
}

async fn manifests(client: &Client<'_>) {
    let server = client.server;
    let (config, layer, manifest) = small_image(own_architecture(), b"amd");
    let missing = client.manifest("team/app", "1", MANIFEST, &manifest).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    client.blob("team/app", &config).await;
    client.blob("team/app", &layer).await;
    let bytes = manifest.to_string();
    let digest = digest_of(bytes.as_bytes());
    let put = client.manifest("team/app", "1", MANIFEST, &manifest).await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, &*digest));
    // It comes back as it went, by tag and by digest, and is an image of the account's.
    for reference in ["1", &digest] {
        let got = client.get(&format!("/v2/team/app/manifests/{reference}")).await;
        assert_eq!((got.status, got.header("content-type"), got.body.as_slice()), (200, MANIFEST, bytes.as_bytes()));
        let head = client.ask("HEAD", &format!("/v2/team/app/manifests/{reference}"), &[], b"").await;
        assert_eq!((head.status, head.header("docker-content-digest"), head.body.len()), (200, &*digest, 0));
    }
    let image = server.request("GET", "/v1/images/team%2Fapp:1", "").await.json();
    assert_eq!(image["digest"], digest_of(&config));
    refused_manifests(client, &manifest).await;
    assert_eq!(client.get("/v2/team/app/manifests/none").await.code(), "MANIFEST_UNKNOWN");
    // For several machines: the index comes back, and this machine's image can be run.
    let (other_config, other_layer, other_manifest) = small_image("s390x", b"ibm");
    for blob in [&other_config, &other_layer] {
        client.blob("team/app", blob).await;
    }
    let other_bytes = other_manifest.to_string();
    let put = client.manifest("team/app", &digest_of(other_bytes.as_bytes()), MANIFEST, &other_manifest).await;
    assert_eq!(put.status, 201);
    let of = |bytes: &str, architecture: &str| {
        let mut entry = descriptor(MANIFEST, bytes.as_bytes());
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [of(&other_bytes, "s390x"), of(&bytes, own_architecture())] });
    assert_eq!(client.manifest("team/app", "all", INDEX, &index).await.status, 201);
    let got = client.get("/v2/team/app/manifests/all").await;
    assert_eq!((got.header("content-type"), got.json()), (INDEX, index));
    assert_eq!(server.request("GET", "/v1/images/team%2Fapp:all", "").await.json()["digest"], digest_of(&config));
    // For another machine alone: kept, no image here; the name is not that of an older image any more.
    assert_eq!(client.manifest("team/app", "1", MANIFEST, &other_manifest).await.status, 201);
    assert_eq!(client.get("/v2/team/app/manifests/1").await.body, other_bytes.as_bytes());
    assert_eq!(server.request("GET", "/v1/images/team%2Fapp:1", "").await.status, 400);
    let (code, _, error) = server.cli(&["run", "--rm", "team/app:1"]);
    assert!(code == 125 && error.contains("team/app:1 was pushed here and is no image"), "{code}: {error}");
    done(server, &["rmi", "team/app:1"]);
    assert_eq!(client.get("/v2/team/app/manifests/1").await.status, 404);
    assert_eq!(client.manifest("team/app", "1", MANIFEST, &manifest).await.status, 201);
    // What is about it.
    let empty = b"{}";
    client.blob("team/app", empty).await;
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", empty),
        "layers": [descriptor("application/vnd.oci.empty.v1+json", empty)],
        "subject": descriptor(MANIFEST, bytes.as_bytes()), "annotations": { "by": "us" } });
    let own = digest_of(signature.to_string().as_bytes());
    let put = client.manifest("team/app", &own, MANIFEST, &signature).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, &*digest));
    let about = client.get(&format!("/v2/team/app/referrers/{digest}")).await;
    assert_eq!(about.header("content-type"), INDEX);
    let entry = &about.json()["manifests"][0];
    assert_eq!(
        (&entry["digest"], &entry["artifactType"], &entry["annotations"]["by"]),
        (&json!(own), &json!("application/x-signature"), &json!("us"))
    );
    let filtered = client.get(&format!("/v2/team/app/referrers/{digest}?artifactType=none")).await;
    assert_eq!(
        (filtered.header("oci-filters-applied"), filtered.json()["manifests"].clone()),
        ("artifactType", json!([]))
    );
    // Lists, page by page.
    assert_eq!(client.get("/v2/team/app/tags/list").await.json(), json!({ "name": "team/app", "tags": ["1", "all"] }));
    let page = client.get("/v2/team/app/tags/list?n=1").await;
    assert_eq!(
        (page.json()["tags"].clone(), page.header("link")),
        (json!(["1"]), "</v2/team/app/tags/list?n=1&last=1>; rel=\"next\"")
    );
    let page = client.get("/v2/team/app/tags/list?n=1&last=1").await;
    assert_eq!((page.json()["tags"].clone(), page.header("link")), (json!(["all"]), ""));
    assert_eq!(client.get("/v2/_catalog").await.json(), json!({ "repositories": ["team/app"] }));
    assert_eq!(client.get("/v2/nobody/tags/list").await.code(), "NAME_UNKNOWN");
    // A tag follows the image's name: given to another image here, it is that one.
    done(server, &["tag", "team/app:1", "team/app:2"]);
    assert_eq!(client.get("/v2/team/app/manifests/2").await.header("docker-content-digest"), digest);
    done(server, &["rmi", "team/app:2"]);
    assert_eq!(client.get("/v2/team/app/manifests/2").await.status, 404);
    // Removal: of a tag, then of the manifest.
    assert_eq!(client.ask("DELETE", "/v2/team/app/manifests/all", &[], b"").await.status, 202);
    assert_eq!(client.get("/v2/team/app/manifests/all").await.status, 404);
    assert_eq!(client.ask("DELETE", &format!("/v2/team/app/manifests/{digest}"), &[], b"").await.status, 202);
    for reference in ["1", &digest] {
        assert_eq!(client.get(&format!("/v2/team/app/manifests/{reference}")).await.status, 404, "{reference}");
    }
    assert_eq!(server.request("GET", "/v1/images/team%2Fapp:1", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_bounds_are_those_of_the_accounts_images() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "v2-names", "").await;
    let client = Client { server: &server, token: server.token() };
    let push = async |repository: &str, tag: &str, text: &[u8]| {
        let (config, layer, manifest) = small_image(own_architecture(), text);
        client.blob(repository, &config).await;
        client.blob(repository, &layer).await;
        assert_eq!(client.manifest(repository, tag, MANIFEST, &manifest).await.status, 201);
        (digest_of(manifest.to_string().as_bytes()), digest_of(&config))
    };
    let image_of = async |name: &str| {
        let answer = server.request("GET", &format!("/v1/images/{}", name.replace('/', "%2F")), "").await;
        (answer.status == 200).then(|| answer.json()["digest"].as_str().expect("a digest").to_owned())
    };
    // An old push is removed by its digest: the image that has the name since stays.
    let (old, _) = push("app", "1", b"old").await;
    let (_, newer) = push("other", "1", b"newer").await;
    done(&server, &["tag", "other:1", "app:1"]);
    assert_eq!(client.ask("DELETE", &format!("/v2/app/manifests/{old}"), &[], b"").await.status, 202);
    assert_eq!(image_of("app:1").await, Some(newer.clone()));
    // By the digest that a client was told, all names of the image in that repository go, and no others.
    let told = client.get("/v2/app/manifests/1").await.header("docker-content-digest").to_owned();
    assert_eq!(client.ask("DELETE", &format!("/v2/app/manifests/{told}"), &[], b"").await.status, 202);
    assert_eq!((image_of("app:1").await, image_of("other:1").await), (None, Some(newer.clone())));
    // What only looks like a name, a digest, or another spelling of a name removes nothing.
    for path in [format!("sha256/manifests/{}", &newer[7..17]), "library/other/manifests/1".to_owned()] {
        assert_eq!(client.ask("DELETE", &format!("/v2/{path}"), &[], b"").await.status, 404, "{path}");
    }
    assert_eq!(image_of("other:1").await, Some(newer));
    // A chart under the name of an official image is the chart.
    done(&server, &["official", "other:1"]);
    let tenant = Client { server: &server, token: server.tenant("shop").await };
    assert_eq!(tenant.get("/v2/other/manifests/1").await.status, 200, "official");
    tenant.blob("other", b"{}").await;
    let part = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let chart =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "x/chart", "config": part, "layers": [] });
    assert_eq!(tenant.manifest("other", "1", MANIFEST, &chart).await.status, 201);
    assert_eq!(tenant.get("/v2/other/manifests/1").await.json(), chart);
    assert_eq!(tenant.ask("DELETE", "/v2/other/manifests/1", &[], b"").await.status, 202);
    // Two manifests of one image: the removal of one leaves the other's tag.
    let (config, layer, manifest) = small_image(own_architecture(), b"twice");
    for blob in [&config, &layer] {
        client.blob("twice", blob).await;
    }
    let mut annotated = manifest.clone();
    annotated["annotations"] = json!({ "a": "b" });
    assert_eq!(client.manifest("twice", "a", MANIFEST, &manifest).await.status, 201);
    assert_eq!(client.manifest("twice", "b", MANIFEST, &annotated).await.status, 201);
    let first = digest_of(manifest.to_string().as_bytes());
    assert_eq!(client.ask("DELETE", &format!("/v2/twice/manifests/{first}"), &[], b"").await.status, 202);
    assert_eq!(client.get("/v2/twice/manifests/b").await.json(), annotated);
    assert_eq!(client.get("/v2/twice/manifests/a").await.status, 404);
    // Another layer than the configuration tells of makes no image, although that image is known.
    client.blob("twice", b"no layer").await;
    let mut foreign = manifest.clone();
    foreign["layers"] = json!([descriptor("application/vnd.oci.image.layer.v1.tar", b"no layer")]);
    assert_eq!(client.manifest("twice", "c", MANIFEST, &foreign).await.status, 201);
    assert_eq!(image_of("twice:c").await, None);
    // A blob that is given up is not on the disk any more.
    let gone = client.blob("gone", b"given up").await;
    let file = server.data.join(format!("registry/blobs/{}/{}", &gone[7..9], gone.replace(':', "-")));
    assert!(file.exists(), "{}", file.display());
    assert_eq!(client.ask("DELETE", &format!("/v2/gone/blobs/{gone}"), &[], b"").await.status, 202);
    assert!(!file.exists());
    // Uploads count while they are under way; what is too large is told as such.
    done(&server, &["account", "set", "shop", "--images", "64k"]);
    let begin = async || tenant.ask("POST", "/v2/big/blobs/uploads/", &[], b"").await.header("location").to_owned();
    let (one, two, half) = (begin().await, begin().await, vec![7; 40_000]);
    assert_eq!(tenant.ask("PATCH", &one, &[], &half).await.status, 202);
    let refused = tenant.ask("PATCH", &two, &[], &half).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "DENIED"));
    assert_eq!(tenant.ask("DELETE", &one, &[], b"").await.status, 204);
    assert_eq!(tenant.ask("PATCH", &two, &[], &half[..20_000]).await.status, 202);
    let long = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "x": "x".repeat(5 << 20) });
    let refused = tenant.manifest("big", "1", MANIFEST, &long).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "SIZE_INVALID"));
    // No name of a repository hides a change from the audit log.
    let hidden = "/v2/x/blobs/uploads/y/manifests/1";
    assert_eq!(client.ask("DELETE", hidden, &[], b"").await.status, 404);
    assert!(server.request("GET", "/v1/audit?limit=1000", "").await.text.contains(hidden));
    server.finish().await;
}

/// Runs skopeo.
fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).output().expect("skopeo");
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_between_skopeo_another_berth_and_here() {
    let Some(rootfs) = image("busybox").filter(|_| is_root() && has_program("skopeo")) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "v2-clients", "").await;
    server.import(&rootfs, "base", &["GREETING=hello"]);
    done(&server, &["run", "--name", "maker", "base", "sh", "-c", "echo made here > /made; rm /bin/vi"]);
    done(&server, &["commit", "maker", "team/app:1"]);
    let host = server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (creds, folder) = (format!("me:{}", server.token()), server.data.join("copied"));
    let (creds, folder) = (creds.as_str(), folder.to_str().expect("a path"));
    let from = ["copy", "--src-tls-verify=false", "--src-creds", creds];
    let to = ["copy", "--dest-tls-verify=false", "--dest-creds", creds];
    // An image that was made here, to skopeo, and from there back under another name: the same manifest.
    let inspect = |name: &str| {
        let image = format!("docker://{host}/{name}");
        skopeo(&["inspect", "--tls-verify=false", "--creds", creds, "--format", "{{.Digest}}", &image])
    };
    let digest = inspect("team/app:1");
    skopeo(&[&from[..], &[&format!("docker://{host}/team/app:1"), &format!("oci:{folder}:1")]].concat());
    skopeo(&[&to[..], &[&format!("oci:{folder}:1"), &format!("docker://{host}/copied:back")]].concat());
    assert_eq!(inspect("copied:back"), digest);
    let script = "cat /made; echo $GREETING; test ! -e /bin/vi";
    assert_eq!(done(&server, &["run", "--rm", "copied:back", "sh", "-c", script]), "made here\nhello\n");
    // What docker saves.
    let archive: PathBuf = server.data.join("app.tar");
    let archive = archive.to_str().expect("a path");
    done(&server, &["save", "-o", archive, "team/app:1"]);
    skopeo(&[&to[..], &[&format!("docker-archive:{archive}"), &format!("docker://{host}/from/archive:2")]].concat());
    assert_eq!(done(&server, &["run", "--rm", "from/archive:2", "cat", "/made"]), "made here\n");
    // Another berth pulls and pushes.
    let settings = format!("[registries.hosts.\"{host}\"]\nplain_http = true\n");
    let second = Server::start(env!("CARGO_BIN_EXE_berth"), "v2-second", &settings).await;
    let password = format!("{}\n", server.token());
    assert_eq!(second.cli_with(&["login", "-u", "me", "--password-stdin", &host], password.as_bytes()).0, 0);
    let name = format!("{host}/team/app:1");
    done(&second, &["pull", &name]);
    assert_eq!(done(&second, &["run", "--rm", &name, "cat", "/made"]), "made here\n");
    done(&second, &["run", "--name", "more", &name, "sh", "-c", "echo more > /more"]);
    done(&second, &["commit", "more", &format!("{host}/team/app:2")]);
    done(&second, &["push", &format!("{host}/team/app:2")]);
    assert_eq!(done(&server, &["run", "--rm", "team/app:2", "cat", "/made", "/more"]), "made here\nmore\n");
    assert!(
        skopeo(&["list-tags", "--tls-verify=false", "--creds", creds, &format!("docker://{host}/team/app")])
            .contains("\"2\"")
    );
    skopeo(&["delete", "--tls-verify=false", "--creds", creds, &format!("docker://{host}/team/app:2")]);
    assert_eq!(server.request("GET", "/v1/images/team%2Fapp:2", "").await.status, 404);
    // A quota of images holds for what is pushed.
    let token = server.tenant("small").await;
    done(&server, &["account", "set", "small", "--images", "64k"]);
    let archive_of = format!("docker-archive:{archive}");
    let refused = Command::new("skopeo")
        .args(["copy", "--dest-tls-verify=false", "--dest-creds", &format!("small:{token}"), &archive_of])
        .arg(format!("docker://{host}/big:1"))
        .output()
        .expect("skopeo");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("may take"), "{said}");
    second.finish().await;
    done(&server, &["rm", "maker"]);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    if !is_root() {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "v2-off", "[dialects]\nregistry = false\n").await;
    let client = Client { server: &server, token: server.token() };
    assert_eq!(client.get("/v2/").await.status, 404);
    server.finish().await;
}
