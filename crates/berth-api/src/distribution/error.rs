//! Errors as the OCI distribution specification has them: `{"errors": [{"code": …, "message": …}]}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{DistributionError, FaultKind};
use serde_json::json;

use crate::http::{AuditMessage, InternalFallback};

#[derive(Debug)]
pub(crate) struct Error {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Where an upload stands, for a client that sent another part.
    stands: Option<u64>,
    /// How long a blob is of which a range was asked for that it does not have.
    length: Option<u64>,
}

impl Error {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), stands: None, length: None }
    }

    pub(super) fn unauthorized() -> Self {
        let message = "a token of berth is needed, as the password of a login or as a Bearer token";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_INVALID", "the specification has no such path")
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this path takes other methods")
    }

    pub(super) fn range(length: u64) -> Self {
        let message = format!("the blob has {length} bytes");
        let error = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", message);
        Self { length: Some(length), ..error }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(AuditMessage(self.message));
        let headers = response.headers_mut();
        headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"berth\""));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS || self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(size) = self.stands
            && let Ok(range) = HeaderValue::from_str(&format!("0-{}", size.saturating_sub(1)))
        {
            headers.insert(header::RANGE, range);
        }
        if let Some(length) = self.length {
            headers.insert(header::CONTENT_RANGE, crate::ranges::no_such_range(length));
        }
        response
    }
}

impl From<DistributionError> for Error {
    fn from(error: DistributionError) -> Self {
        use DistributionError as Of;
        let message = error.to_string();
        let (status, code) = match error {
            Of::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Of::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Of::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Of::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Of::ManifestBlobUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Of::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Of::UploadUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Of::UploadInvalid(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Of::UploadBusy(_) => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
            Of::RangeInvalid(size) => {
                let error = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message);
                return Self { stands: Some(size), ..error };
            }
            Of::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Of::DigestInvalid(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Of::SizeInvalid(_) => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Of::Core(error) => return error.into(),
        };
        Self::new(status, code, message)
    }
}

impl From<berth_core::Error> for Error {
    fn from(error: berth_core::Error) -> Self {
        let (status, code) = match error.kind() {
            FaultKind::Invalid => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            FaultKind::NotFound => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            FaultKind::Duplicate | FaultKind::WrongState | FaultKind::InUse => (StatusCode::CONFLICT, "DENIED"),
            FaultKind::TooOften => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            // A client repeats what gets a status of the server's own, and would send all of it again.
            FaultKind::NoRoom | FaultKind::Quota | FaultKind::Forbidden => (StatusCode::FORBIDDEN, "DENIED"),
            FaultKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "UNSUPPORTED"),
            FaultKind::Upstream => (StatusCode::BAD_GATEWAY, "UNSUPPORTED"),
            FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "registry: the host failed");
                (StatusCode::SERVICE_UNAVAILABLE, "UNSUPPORTED")
            }
            FaultKind::Bug => {
                tracing::error!(error = error.chain(), "registry: internal error");
                (StatusCode::INTERNAL_SERVER_ERROR, "UNSUPPORTED")
            }
        };
        Self::new(status, code, error.public())
    }
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    match what {
        InternalFallback::Panic => Error::new(StatusCode::INTERNAL_SERVER_ERROR, "UNSUPPORTED", "internal error"),
        InternalFallback::Overload => {
            let message = "too many requests are under way; try again later";
            Error::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
        }
        InternalFallback::LongHead(limit) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            Error::new(status, "SIZE_INVALID", crate::http::long_head(limit))
        }
    }
    .into_response()
}
