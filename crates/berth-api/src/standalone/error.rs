//! Codes 10001 to 10005.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{FaultKind, Field};

use super::wire::{Answer, Done, Nothing};
use crate::http::{AuditMessage, InternalFallback, ParameterError};

pub(super) const TOKEN: u32 = 10001;
pub(super) const MISSING: u32 = 10002;
pub(super) const WRONG: u32 = 10003;
pub(super) const INTERNAL: u32 = 10004;
pub(super) const LATER: u32 = 10005;

/// An error as this dialect has it.
#[derive(Debug)]
pub(crate) struct Error {
    pub(super) code: u32,
    pub(super) message: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let said = AuditMessage(format!("{}: {}", self.code, self.message));
        let message = Message { code: self.code, option_result: None, text: self.message.clone() };
        let body = Json(Answer { code: self.code, result: Nothing {}, message: Some(self.message) });
        let mut response = if self.code == LATER {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], body).into_response()
        } else {
            body.into_response()
        };
        response.extensions_mut().insert(said);
        response.extensions_mut().insert(message);
        response
    }
}

/// The message of an answer, to be said in the client's language.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) code: u32,
    /// Of an operation that was tried, and failed.
    pub(super) option_result: Option<u8>,
    pub(super) text: String,
}

impl Message {
    fn render(self, text: String) -> Response {
        match self.option_result {
            None => Json(Answer { code: self.code, result: Nothing {}, message: Some(text) }).into_response(),
            Some(option_result) => {
                Json(Answer { code: self.code, result: Done { option_result }, message: Some(text) }).into_response()
            }
        }
    }
}

/// Messages are Chinese, unless the client prefers English: so the document's reader expects it.
pub(super) async fn in_language(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let english = crate::http::prefers_english(request.headers());
    let mut response = next.run(request).await;
    let Some(message) = response.extensions_mut().remove::<Message>() else { return response };
    let Some(chinese) = berth_types::in_chinese(&message.text).filter(|_| !english) else { return response };
    crate::http::with_body_of(response, message.render(chinese))
}

impl From<berth_core::IdentityError> for Error {
    fn from(error: berth_core::IdentityError) -> Self {
        berth_core::Error::from(error).into()
    }
}

impl From<berth_core::Error> for Error {
    fn from(error: berth_core::Error) -> Self {
        let code = match error.kind() {
            FaultKind::Invalid | FaultKind::NotFound | FaultKind::Duplicate => WRONG,
            FaultKind::WrongState | FaultKind::Forbidden => WRONG,
            FaultKind::Quota => LATER,
            // A port that is in use is one that is not free.
            FaultKind::NoRoom | FaultKind::TooOften | FaultKind::InUse | FaultKind::Timeout | FaultKind::Upstream => {
                LATER
            }
            FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "standalone: the host failed");
                LATER
            }
            FaultKind::Bug => {
                tracing::error!(error = error.chain(), "standalone: internal error");
                INTERNAL
            }
        };
        let message = match &error {
            berth_core::Error::Invalid { field: Field::Code, message } => format!("code_address: {message}"),
            berth_core::Error::Invalid { field: Field::Runtime, message } => format!("image_name: {message}"),
            other => other.public(),
        };
        Self { code, message }
    }
}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        match error {
            ParameterError::Missing(name) => Self { code: MISSING, message: format!("parameter {name} is missing") },
            ParameterError::Wrong { name, expected, found } => {
                Self { code: WRONG, message: format!("parameter {name} must be {expected}, not {found:?}") }
            }
            ParameterError::Body(message) => Self { code: WRONG, message },
            ParameterError::TooLong => {
                let message = format!("the body is longer than {} bytes", crate::http::LONGEST_BODY);
                Self { code: WRONG, message }
            }
            ParameterError::Late => Self { code: WRONG, message: "the body did not arrive in time".into() },
        }
    }
}

pub(crate) async fn no_such_path() -> Error {
    Error { code: WRONG, message: "there is no such operation; see /docs".into() }
}

pub(super) async fn wrong_method() -> Error {
    Error { code: WRONG, message: "this operation takes another HTTP method: build is POST, the others are GET".into() }
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    let error = match what {
        InternalFallback::Panic => Error { code: INTERNAL, message: "internal error".into() },
        InternalFallback::Overload => {
            Error { code: LATER, message: "too many requests are under way; try again later".into() }
        }
        InternalFallback::LongHead(limit) => Error { code: WRONG, message: crate::http::long_head(limit) },
    };
    error.into_response()
}
