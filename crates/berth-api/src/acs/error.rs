//! `code` is the HTTP status as text.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::FaultKind;

use super::wire::Failure;
use crate::http::{AuditMessage, InternalFallback, ParameterError};

/// An error as this dialect has it.
#[derive(Debug)]
pub(crate) struct Error {
    status: StatusCode,
    message: String,
    /// `Retry-After`, seconds.
    retry_s: Option<u32>,
}

impl Error {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let retry_s = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5);
        Self { status, message: message.into(), retry_s }
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = Json(Failure { code: self.status.as_u16().to_string(), message: self.message.clone() });
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_s {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(AuditMessage(self.message));
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
        let status = match error.kind() {
            FaultKind::Invalid => StatusCode::BAD_REQUEST,
            FaultKind::NotFound => StatusCode::NOT_FOUND,
            FaultKind::Duplicate | FaultKind::WrongState | FaultKind::InUse => StatusCode::CONFLICT,
            FaultKind::TooOften => StatusCode::TOO_MANY_REQUESTS,
            FaultKind::NoRoom | FaultKind::Timeout | FaultKind::Upstream => StatusCode::SERVICE_UNAVAILABLE,
            FaultKind::Forbidden | FaultKind::Quota => StatusCode::FORBIDDEN,
            FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "acs: the host failed");
                StatusCode::SERVICE_UNAVAILABLE
            }
            FaultKind::Bug => {
                tracing::error!(error = error.chain(), "acs: internal error");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut own = Self::new(status, error.public());
        if error.kind() == FaultKind::TooOften {
            own.retry_s = Some(1);
        }
        own
    }
}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        Self::invalid(match error {
            ParameterError::Missing(name) => format!("parameter {name} is missing"),
            ParameterError::Wrong { name, expected, found } => {
                format!("parameter {name} must be {expected}, not {found:?}")
            }
            ParameterError::Body(message) => message,
            ParameterError::TooLong => format!("the body is longer than {} bytes", crate::http::LONGEST_BODY),
            ParameterError::Late => "the body did not arrive in time".into(),
        })
    }
}

pub(crate) async fn no_such_path() -> Error {
    Error::new(StatusCode::NOT_FOUND, "there is no such operation")
}

pub(super) async fn wrong_method() -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "this operation takes another HTTP method")
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    match what {
        InternalFallback::Panic => Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        InternalFallback::Overload => {
            Error::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are under way; try again later")
        }
        InternalFallback::LongHead(limit) => Error::invalid(crate::http::long_head(limit)),
    }
    .into_response()
}
