//! The accounts' images as a registry below `/v2/`: the OCI distribution specification 1.1, which `docker push` and `docker pull`, skopeo,
//! crane and Kubernetes' nodes speak. A caller shows a token of berth as a Bearer token or as the password of a login; the user's name
//! does not matter.

pub(crate) mod error;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, OriginalUri, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use berth_core::{Caller, Core, DistributionError};
use serde_json::json;

use self::error::Error;
use crate::Api;
use crate::http::{BodyError, Peer, Who, body_within, token_of};

/// Longest manifest, bytes; the specification's own bound.
const LONGEST_MANIFEST: usize = 4 << 20;
/// Names of a page, if the client does not say, and at most.
const PAGE: usize = 1000;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

pub(crate) fn router() -> Router<Api> {
    Router::new().fallback(any(handle))
}

/// What changes something that lasts.
pub(crate) fn changes(method: &Method, path: &str) -> bool {
    matches!(*method, Method::PUT | Method::DELETE) && !matches!(Place::read(path), Some(Place::Upload(..)))
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Root,
    Catalog,
    Tags(&'a str),
    Referrers(&'a str, &'a str),
    Manifest(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Blob(&'a str, &'a str),
}

impl<'a> Place<'a> {
    /// Names have slashes in them: it is read from its end.
    fn read(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v2")?;
        if matches!(path, "" | "/") {
            return Some(Self::Root);
        }
        let path = path.strip_prefix('/')?;
        if path == "_catalog" {
            return Some(Self::Catalog);
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some(Self::Tags(name));
        }
        if let Some(name) = path.strip_suffix("/blobs/uploads").or_else(|| path.strip_suffix("/blobs/uploads/")) {
            return Some(Self::Uploads(name));
        }
        let (rest, last) = path.rsplit_once('/')?;
        let (name, kind) = rest.rsplit_once('/')?;
        match kind {
            "manifests" => Some(Self::Manifest(name, last)),
            "referrers" => Some(Self::Referrers(name, last)),
            "blobs" => Some(Self::Blob(name, last)),
            "uploads" => Some(Self::Upload(name.strip_suffix("/blobs")?, last)),
            _ => None,
        }
    }
}

/// The value of a query's parameter.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    all.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The token that a caller shows: as a password, or as everywhere.
fn credential(headers: &HeaderMap) -> Option<String> {
    let basic = || {
        let (scheme, text) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let bytes = data_encoding::BASE64.decode(text.trim().as_bytes()).ok()?;
        let login = String::from_utf8(bytes).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
        Some(login.split_once(':')?.1.to_owned())
    };
    basic().or_else(|| token_of(headers))
}

struct Auth(Caller);

impl FromRequestParts<Api> for Auth {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Error> {
        let identity = api.core.identity();
        let local = parts.extensions.get::<Peer>().and_then(Peer::administrator);
        let found = match (credential(&parts.headers), local) {
            (Some(token), _) => identity.authenticate(&token).await.map_err(berth_core::Error::from)?,
            (None, Some(user)) => Some(identity.local_administrator(user).await.map_err(berth_core::Error::from)?),
            (None, None) => None,
        };
        let caller = found.ok_or_else(Error::unauthorized)?;
        if let Some(who) = parts.extensions.get::<Who>() {
            who.is(caller);
        }
        Ok(Self(caller))
    }
}

async fn handle(State(core): State<Core>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    // What is nested sees the rest of the path only.
    let path = request.extensions().get::<OriginalUri>().map_or_else(|| request.uri().clone(), |uri| uri.0.clone());
    let place = Place::read(path.path()).ok_or_else(Error::no_such_path)?;
    let query = path.query();
    let mut response = match (request.method().clone(), place) {
        (Method::GET | Method::HEAD, Place::Root) => Json(json!({})).into_response(),
        (Method::GET, Place::Catalog) => list(&core, &caller, None, query).await?,
        (Method::GET, Place::Tags(name)) => list(&core, &caller, Some(name), query).await?,
        (Method::GET, Place::Referrers(name, digest)) => referrers(&core, &caller, (name, digest), query).await?,
        (Method::GET | Method::HEAD, Place::Manifest(name, reference)) => {
            manifest(&core, &caller, name, reference).await?
        }
        (Method::PUT, Place::Manifest(name, reference)) => {
            manifest_put(&core, &caller, (name, reference), request).await?
        }
        (Method::DELETE, Place::Manifest(name, reference)) => {
            core.manifest_remove(&caller, name, reference).await?;
            StatusCode::ACCEPTED.into_response()
        }
        (Method::GET | Method::HEAD, Place::Blob(name, digest)) => {
            blob(&core, &caller, (name, digest), (request.method(), request.headers())).await?
        }
        (Method::DELETE, Place::Blob(name, digest)) => {
            core.blob_remove(&caller, name, digest).await?;
            StatusCode::ACCEPTED.into_response()
        }
        (Method::POST, Place::Uploads(name)) => upload(&core, &caller, name, query, request).await?,
        (Method::GET, Place::Upload(name, id)) => {
            let size = core.blob_upload_size(&caller, name, id)?;
            stands(StatusCode::NO_CONTENT, name, id, size)
        }
        (Method::PATCH, Place::Upload(name, id)) => {
            let from = content_range(request.headers())?;
            let body = request.into_body().into_data_stream();
            let size = core.blob_upload_append(&caller, (name, id), from, body).await?;
            stands(StatusCode::ACCEPTED, name, id, size)
        }
        (Method::PUT, Place::Upload(name, id)) => upload_finish(&core, &caller, (name, id), query, request).await?,
        (Method::DELETE, Place::Upload(name, id)) => {
            core.blob_upload_cancel(&caller, name, id).await?;
            StatusCode::NO_CONTENT.into_response()
        }
        _ => return Err(Error::wrong_method()),
    };
    response.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
    Ok(response)
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// Where an upload stands.
fn stands(status: StatusCode, name: &str, id: &str, size: u64) -> Response {
    let headers = [
        (header::LOCATION, text(&format!("/v2/{name}/blobs/uploads/{id}"))),
        (header::RANGE, text(&format!("0-{}", size.saturating_sub(1)))),
        (UPLOAD_ID, text(id)),
    ];
    (status, headers).into_response()
}

/// A blob that is there now.
fn created(name: &str, digest: &str) -> Response {
    let headers = [(header::LOCATION, text(&format!("/v2/{name}/blobs/{digest}"))), (CONTENT_DIGEST, text(digest))];
    (StatusCode::CREATED, headers).into_response()
}

/// The first byte of `Content-Range: 0-99`, which has no unit here.
fn content_range(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let range = value.to_str().ok().map(|v| v.trim_start_matches("bytes").trim()).and_then(|v| v.split_once('-'));
    let first = range.and_then(|(first, last)| {
        let last: u64 = last.split('/').next()?.parse().ok()?;
        first.parse::<u64>().ok().filter(|first| *first <= last)
    });
    match first {
        Some(first) => Ok(Some(first)),
        None => Err(DistributionError::UploadInvalid("Content-Range: expected FIRST-LAST".into()).into()),
    }
}

/// Begins an upload, takes a blob of another repository, or takes the whole blob at once.
async fn upload(
    core: &Core,
    caller: &Caller,
    name: &str,
    query: Option<&str>,
    request: Request,
) -> Result<Response, Error> {
    if let Some(digest) = parameter(query, "mount") {
        let from = parameter(query, "from");
        if let Some(digest) = core.blob_mount(caller, name, &digest, from.as_deref()).await? {
            return Ok(created(name, &digest.to_string()));
        }
        // It is to be sent, then.
        let id = core.blob_upload_begin(caller, name).await?;
        return Ok(stands(StatusCode::ACCEPTED, name, &id, 0));
    }
    let whole = parameter(query, "digest");
    let id = core.blob_upload_begin(caller, name).await?;
    let Some(digest) = whole else { return Ok(stands(StatusCode::ACCEPTED, name, &id, 0)) };
    let body = request.into_body().into_data_stream();
    let done = async {
        core.blob_upload_append(caller, (name, &id), None, body).await?;
        core.blob_upload_finish(caller, (name, &id), &digest).await
    };
    match done.await {
        Ok(digest) => Ok(created(name, &digest.to_string())),
        Err(error) => {
            // Nobody knows of it; it may be gone already.
            let _ = core.blob_upload_cancel(caller, name, &id).await;
            Err(error.into())
        }
    }
}

async fn upload_finish(
    core: &Core,
    caller: &Caller,
    (name, id): (&str, &str),
    query: Option<&str>,
    request: Request,
) -> Result<Response, Error> {
    let Some(digest) = parameter(query, "digest") else {
        return Err(DistributionError::DigestInvalid("the parameter digest is required".into()).into());
    };
    core.check_digest(&digest)?;
    let from = content_range(request.headers())?;
    let body = request.into_body().into_data_stream();
    core.blob_upload_append(caller, (name, id), from, body).await?;
    let digest = core.blob_upload_finish(caller, (name, id), &digest).await?;
    Ok(created(name, &digest.to_string()))
}

async fn blob(
    core: &Core,
    caller: &Caller,
    (name, digest): (&str, &str),
    (method, headers): (&Method, &HeaderMap),
) -> Result<Response, Error> {
    let found = core.blob_open(caller, name, digest).await?;
    let failed = |error: std::io::Error| berth_core::Error::Bug(format!("read blob {digest}: {error}"));
    let meta = found.file.metadata().map_err(failed)?;
    let served = crate::ranges::serve(found.file, &meta, method, headers).await.map_err(failed)?;
    let mut response = served.map_err(Error::range)?;
    response.headers_mut().insert(CONTENT_DIGEST, text(&found.digest.to_string()));
    Ok(response)
}

async fn manifest(core: &Core, caller: &Caller, name: &str, reference: &str) -> Result<Response, Error> {
    let found = core.manifest_get(caller, name, reference).await?;
    let headers = [(header::CONTENT_TYPE, text(&found.media_type)), (CONTENT_DIGEST, text(&found.digest))];
    Ok((headers, found.content).into_response())
}

async fn manifest_put(
    core: &Core,
    caller: &Caller,
    (name, reference): (&str, &str),
    request: Request,
) -> Result<Response, Error> {
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default().to_owned();
    let content = body_within(request.into_body(), LONGEST_MANIFEST).await.map_err(|error| {
        Error::from(match error {
            BodyError::TooLarge => DistributionError::TooLarge(LONGEST_MANIFEST),
            BodyError::Late => DistributionError::ManifestInvalid("it did not arrive in time".into()),
            BodyError::Broken => DistributionError::ManifestInvalid("it broke off".into()),
        })
    })?;
    let put = core.manifest_put(caller, (name, reference), &media_type, content).await?;
    let digest = put.digest.to_string();
    let headers =
        [(header::LOCATION, text(&format!("/v2/{name}/manifests/{digest}"))), (CONTENT_DIGEST, text(&digest))];
    let mut response = (StatusCode::CREATED, headers).into_response();
    if let Some(subject) = put.subject {
        response.headers_mut().insert("oci-subject", text(&subject.to_string()));
    }
    Ok(response)
}

/// Tags of a repository, or the repositories.
async fn list(core: &Core, caller: &Caller, name: Option<&str>, query: Option<&str>) -> Result<Response, Error> {
    let most = match parameter(query, "n") {
        None => PAGE,
        Some(count) => {
            let wrong = || DistributionError::SizeInvalid(format!("n: {count:?} is no number"));
            count.parse::<usize>().map_err(|_| wrong())?.min(PAGE)
        }
    };
    let last = parameter(query, "last").unwrap_or_default();
    let (names, more) = match name {
        Some(name) => core.manifest_tags(caller, name, &last, most).await?,
        None => core.repositories(caller, &last, most).await?,
    };
    let next = names.last().filter(|_| more).map(|last| {
        let path = name.map_or_else(|| "/v2/_catalog".to_owned(), |name| format!("/v2/{name}/tags/list"));
        let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
        format!("<{path}?n={most}&last={last}>; rel=\"next\"")
    });
    let body = match name {
        Some(name) => json!({ "name": name, "tags": names }),
        None => json!({ "repositories": names }),
    };
    let mut response = Json(body).into_response();
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, text(&next));
    }
    Ok(response)
}

async fn referrers(
    core: &Core,
    caller: &Caller,
    (name, digest): (&str, &str),
    query: Option<&str>,
) -> Result<Response, Error> {
    let kind = parameter(query, "artifactType");
    let found = core.referrers(caller, name, digest, kind.as_deref()).await?;
    let manifests: Vec<serde_json::Value> = found
        .into_iter()
        .map(|r| {
            let mut descriptor = json!({ "mediaType": r.media_type, "digest": r.digest, "size": r.size });
            if let Some(kind) = r.artifact_type {
                descriptor["artifactType"] = kind.into();
            }
            if !r.annotations.is_empty() {
                descriptor["annotations"] = json!(r.annotations);
            }
            descriptor
        })
        .collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let body = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if kind.is_some() {
        response.headers_mut().insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn names_may_be_like_the_words_of_paths() {
        assert_eq!(Place::read("/v2/"), Some(Place::Root));
        assert_eq!(Place::read("/v2"), Some(Place::Root));
        assert_eq!(Place::read("/v2/a/b/tags/list"), Some(Place::Tags("a/b")));
        assert_eq!(Place::read("/v2/tags/list/manifests/1"), Some(Place::Manifest("tags/list", "1")));
        assert_eq!(Place::read("/v2/a/blobs/uploads/"), Some(Place::Uploads("a")));
        assert_eq!(Place::read("/v2/a/blobs/uploads/x"), Some(Place::Upload("a", "x")));
        assert_eq!(Place::read("/v2/blobs/manifests/blobs/sha256:0"), Some(Place::Blob("blobs/manifests", "sha256:0")));
        assert_eq!(Place::read("/v2/a/referrers/d"), Some(Place::Referrers("a", "d")));
        assert_eq!(Place::read("/v2/a"), None);
        assert_eq!(Place::read("/v2/a/b"), None);
    }
}
