//! Codes: three digits of the HTTP status, two of the service, two of the detail.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{FaultKind, Field};
use serde::Serialize;

use crate::http::{AuditMessage, InternalFallback, ParameterError};

/// A code of the document, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u32, &'static str);

pub(super) const INVALID: Code = Code(4_000_001, "Invalid parameters.");
pub(super) const MISSING: Code = Code(4_000_002, "Missing parameters.");
pub(super) const NAME: Code = Code(4_000_121, "Param container name format invalid.");
pub(super) const ENV_SIZE: Code = Code(4_000_123, "Param env size out of limit.");
pub(super) const ENV_KEY: Code = Code(4_000_124, "Param env key format invalid.");
pub(super) const SSH_KEY: Code = Code(4_000_136, "Param ssh key invalid.");
pub(super) const UNAUTHORIZED: Code = Code(4_010_001, "Unauthorized user.");
pub(super) const TOO_OFTEN: Code = Code(4_030_001, "Api freq out of limit.");
pub(super) const QUOTA: Code = Code(4_030_002, "Container quota insufficient.");
pub(super) const STATUS: Code = Code(4_030_010, "Container status abnormal.");
pub(super) const NO_CONTAINER: Code = Code(4_040_002, "No such container.");
pub(super) const NO_KEY: Code = Code(4_040_005, "No such secret key.");
pub(super) const NO_API: Code = Code(4_040_006, "No such api");
pub(super) const NO_SPEC: Code = Code(4_040_118, "No such spec.");
pub(super) const NO_IMAGE: Code = Code(4_040_129, "No such image.");
pub(super) const METHOD: Code = Code(4_050_001, "Http method not allowed.");
pub(super) const TIMEOUT: Code = Code(4_080_001, "Request timeout.");
pub(super) const DUPLICATE: Code = Code(4_090_001, "Duplicate container name.");
pub(super) const UNSUPPORTED: Code = Code(4_150_001, "Unsupported media type.");
pub(super) const UNREADABLE: Code = Code(4_220_001, "Unprocessable entity.");
pub(super) const CREATE: Code = Code(5_000_001, "Create container error.");
pub(super) const DELETE: Code = Code(5_000_002, "Delete container error.");
pub(super) const INTERNAL: Code = Code(5_000_007, "Nce internal server error.");

impl Code {
    /// With which field, or why.
    pub(super) fn with(self, detail: impl std::fmt::Display) -> Error {
        Error { code: self, detail: Some(detail.to_string()) }
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self { code, detail: None }
    }
}

/// An error as this dialect has it.
#[derive(Debug)]
pub(crate) struct Error {
    code: Code,
    detail: Option<String>,
}

#[derive(Serialize)]
struct Failure {
    code: u32,
    message: String,
}

impl Error {
    pub(super) fn unauthorized() -> Self {
        UNAUTHORIZED.into()
    }

    /// Where it is berth's own fault or the host's, by what was asked for.
    pub(super) fn during(self, code: Code) -> Self {
        if self.code == INTERNAL { Self { code, ..self } } else { self }
    }

    /// The publisher's text, and after it once what is to be said beside.
    fn message(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.code.1),
            None => self.code.1.to_owned(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = u16::try_from(self.code.0 / 10_000).ok().and_then(|s| StatusCode::from_u16(s).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = self.message();
        let said = AuditMessage(format!("{}: {message}", self.code.0));
        let mut response = (status, Json(Failure { code: self.code.0, message })).into_response();
        if self.code == TOO_OFTEN {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(said);
        response
    }
}

impl From<berth_core::IdentityError> for Error {
    fn from(error: berth_core::IdentityError) -> Self {
        berth_core::Error::from(error).into()
    }
}

impl From<berth_core::Error> for Error {
    fn from(error: berth_core::Error) -> Self {
        let code = match error.kind() {
            FaultKind::Invalid => match &error {
                berth_core::Error::Invalid { field: Field::Name, .. } => NAME,
                berth_core::Error::Invalid { field: Field::EnvSize, .. } => ENV_SIZE,
                berth_core::Error::Invalid { field: Field::EnvKey, .. } => ENV_KEY,
                _ => INVALID,
            },
            FaultKind::NotFound => match &error {
                berth_core::Error::NotFound { what: "spec", .. } => NO_SPEC,
                berth_core::Error::NotFound { what: "image", .. } => NO_IMAGE,
                berth_core::Error::NotFound { what: "ssh key", .. } => SSH_KEY,
                berth_core::Error::NotFound { what: "secret key", .. } => NO_KEY,
                _ => NO_CONTAINER,
            },
            FaultKind::Duplicate => DUPLICATE,
            FaultKind::WrongState | FaultKind::InUse => STATUS,
            FaultKind::Quota => QUOTA,
            FaultKind::Forbidden => INVALID,
            FaultKind::Timeout => TIMEOUT,
            FaultKind::TooOften => TOO_OFTEN,
            FaultKind::NoRoom | FaultKind::Upstream => INTERNAL,
            FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "comb: the host failed");
                INTERNAL
            }
            FaultKind::Bug => {
                tracing::error!(error = error.chain(), "comb: internal error");
                INTERNAL
            }
        };
        match error {
            // The text says it, and the path which.
            berth_core::Error::NotFound { .. } if [NO_CONTAINER, NO_KEY].contains(&code) => code.into(),
            berth_core::Error::NotFound { name, .. } => code.with(name),
            berth_core::Error::Duplicate(_) => code.into(),
            berth_core::Error::Invalid { field, message } => code.with(format!("{}: {message}", name_of(field))),
            other => code.with(other.public()),
        }
    }
}

/// What the document calls a value.
fn name_of(field: Field) -> &'static str {
    match field {
        Field::Description => "desc",
        Field::Plan => "spec_id",
        Field::SshKeys => "ssh_key_ids",
        Field::SshKeyName => "key_name",
        Field::Env | Field::EnvKey | Field::EnvSize => "env_var",
        Field::FlowEnd => "to_time",
        other => other.as_str(),
    }
}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        match error {
            ParameterError::Missing(name) => MISSING.with(name),
            ParameterError::Wrong { name, expected, found } => {
                INVALID.with(format!("{name} must be {expected}, not {found:?}"))
            }
            ParameterError::Body(message) => UNREADABLE.with(message),
            ParameterError::TooLong => {
                INVALID.with(format!("the body is longer than {} bytes", crate::http::LONGEST_BODY))
            }
            ParameterError::Late => TIMEOUT.with("the body did not arrive in time"),
        }
    }
}

pub(crate) async fn no_such_path() -> Error {
    NO_API.into()
}

pub(super) async fn wrong_method() -> Error {
    METHOD.into()
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    match what {
        InternalFallback::Panic => Error::from(INTERNAL),
        InternalFallback::Overload => TOO_OFTEN.with("too many requests are under way"),
        InternalFallback::LongHead(limit) => INVALID.with(crate::http::long_head(limit)),
    }
    .into_response()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::{Error, INTERNAL, MISSING, UNAUTHORIZED};

    #[test]
    fn the_status_is_in_the_code() {
        assert_eq!(Error::from(UNAUTHORIZED).into_response().status(), 401);
        assert_eq!(MISSING.with("name").into_response().status(), 400);
        let error = Error::from(berth_core::Error::Duplicate("x".into()));
        assert_eq!((error.code.0, error.message().as_str()), (4_090_001, "Duplicate container name."));
        let error = Error::from(berth_core::Error::NotFound { what: "container", name: "77".into() });
        assert_eq!(error.message(), "No such container.");
        assert_eq!(MISSING.with("name").message(), "Missing parameters.: name");
        assert_eq!(Error::from(INTERNAL).during(super::CREATE).code.0, 5_000_001);
    }
}
