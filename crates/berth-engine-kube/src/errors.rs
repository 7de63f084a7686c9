//! What the API server says, as errors of an engine.

use std::time::Duration;

use berth_engine::EngineError;
use kube::Error;

/// How long a request is repeated that the API server was too busy or not there for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one request may take: a connection may be dead and nobody says so.
const ONE_REQUEST: Duration = Duration::from_secs(10);

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

pub(crate) fn is_not_found(error: &Error) -> bool {
    status(error) == Some(404)
}

fn has_reason(error: &Error, reason: &str) -> bool {
    matches!(error, Error::Api(status) if status.code == 409 && status.reason == reason)
}

/// Something of that name is there already.
pub(crate) fn is_there(error: &Error) -> bool {
    has_reason(error, "AlreadyExists")
}

/// It has changed since it was read; or a quota has, which others use at the same time.
pub(crate) fn is_conflict(error: &Error) -> bool {
    has_reason(error, "Conflict")
}

/// Whether the same request may succeed a moment later: too many, the server's own trouble, no connection.
fn is_transient(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.code == 429 || status.code >= 500,
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => true,
        _ => false,
    }
}

pub(crate) fn failed(what: impl std::fmt::Display) -> impl FnOnce(Error) -> EngineError {
    move |error| match error {
        // A quota of the namespace, or an admission rule: the administrator of the cluster decides that.
        Error::Api(status) if status.code == 403 || status.code == 422 => {
            EngineError::Refused(format!("the cluster refuses to {what}: {}", status.message))
        }
        Error::Api(status) => EngineError::Failed(format!("{what}: {} ({})", status.message, status.code)),
        other => EngineError::Failed(format!("{what}: {other}")),
    }
}

/// Repeats a request while its failure may pass, with growing pauses. The request must be one that may be sent twice.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, Error> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(50);
    loop {
        let answer = tokio::time::timeout(ONE_REQUEST, request()).await;
        match answer.unwrap_or_else(|_| Err(Error::Service("the API server did not answer in time".into()))) {
            Err(error) if is_transient(&error) && tokio::time::Instant::now() + pause < until => {
                tracing::warn!(%error, "the API server did not take a request; it is repeated");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            answer => return answer,
        }
    }
}
