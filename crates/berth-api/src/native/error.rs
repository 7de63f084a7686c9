//! Errors as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::FaultKind;

use super::wire::{Message, Problem};
use crate::http::{AuditMessage, BodyError, InternalFallback, with_body_of};

/// An error as the native API has it.
#[derive(Debug)]
pub(crate) struct Error {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Error {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
    }
}

impl Error {
    /// As it is told.
    pub(super) fn problem(&self) -> Problem {
        Problem {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            code: self.code.into(),
            detail: self.detail.clone(),
            detail_parts: Some(Box::new(Message::of(&self.detail))),
        }
    }

    /// As it is told to somebody who wants Chinese, or not.
    pub(super) fn problem_in(&self, chinese: bool) -> Problem {
        let own = self.problem();
        chinese.then(|| in_chinese(own.clone())).flatten().unwrap_or(own)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let mut response = (self.status, Json(problem.clone())).into_response();
        response.extensions_mut().insert(problem);
        response.extensions_mut().insert(AuditMessage(self.detail));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// Tells an error in Chinese to whoever prefers that (`Accept-Language`), as far as its words are known.
pub(super) async fn in_language(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let wanted = crate::http::prefers_chinese(request.headers());
    let mut response = next.run(request).await;
    if !wanted {
        return response;
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>().and_then(in_chinese) else { return response };
    let mut told = with_body_of(response, Json(problem).into_response());
    told.headers_mut().insert(header::CONTENT_LANGUAGE, header::HeaderValue::from_static("zh-CN"));
    told
}

/// A problem in Chinese; none if its words are not known.
fn in_chinese(problem: Problem) -> Option<Problem> {
    Some(Problem { detail: berth_types::in_chinese(&problem.detail)?, ..problem })
}

impl From<berth_core::IdentityError> for Error {
    fn from(error: berth_core::IdentityError) -> Self {
        berth_core::Error::from(error).into()
    }
}

impl From<berth_core::Error> for Error {
    fn from(error: berth_core::Error) -> Self {
        let (status, code) = match error.kind() {
            FaultKind::Invalid => match &error {
                berth_core::Error::Start { code: 127, .. } => (StatusCode::BAD_REQUEST, "program_not_found"),
                berth_core::Error::Start { code: 126, .. } => (StatusCode::BAD_REQUEST, "program_not_executable"),
                berth_core::Error::Start { .. } => (StatusCode::BAD_REQUEST, "start_failed"),
                _ => (StatusCode::BAD_REQUEST, "invalid"),
            },
            FaultKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            FaultKind::Duplicate => (StatusCode::CONFLICT, "duplicate"),
            FaultKind::WrongState => (StatusCode::CONFLICT, "wrong_state"),
            FaultKind::InUse => (StatusCode::CONFLICT, "in_use"),
            FaultKind::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "no_room"),
            FaultKind::TooOften => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            FaultKind::Quota => (StatusCode::FORBIDDEN, "quota"),
            FaultKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            FaultKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            FaultKind::Upstream => match &error {
                berth_core::Error::Registry(berth_core::RegistryError::Denied(_)) => {
                    (StatusCode::BAD_GATEWAY, "registry_denied")
                }
                _ => (StatusCode::BAD_GATEWAY, "upstream"),
            },
            FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "native: the host failed");
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            FaultKind::Bug => {
                tracing::error!(error = error.chain(), "native: internal error");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        Self::new(status, code, error.public())
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 1 MiB")
            }
            BodyError::Late => Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time"),
            BodyError::Broken => Self::invalid("the body could not be read"),
        }
    }
}

pub(crate) async fn no_such_path() -> Error {
    Error::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path; see /docs")
}

pub(super) async fn wrong_method() -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path takes other methods; see /docs")
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    match what {
        InternalFallback::Panic => Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error"),
        InternalFallback::Overload => overload(),
        InternalFallback::LongHead(limit) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            Error::new(status, "too_large", crate::http::long_head(limit))
        }
    }
    .into_response()
}

/// There is no place for one more.
pub(super) fn overload() -> Error {
    let detail = "too many requests are under way; try again later";
    Error::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
}
