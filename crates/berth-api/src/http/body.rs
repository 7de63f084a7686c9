//! Bodies: small ones are read as a whole within bounds, and what a handler leaves unread is drained.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody, to_bytes};
use futures_util::StreamExt;

/// Longest JSON or form body, bytes.
pub(crate) const LONGEST_BODY: usize = 1 << 20;
/// Time that a small body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(20);

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    Broken,
    /// It did not arrive in time.
    Late,
}

/// The whole of a small body.
pub(crate) async fn small_body(body: Body) -> Result<Vec<u8>, BodyError> {
    body_within(body, LONGEST_BODY).await
}

/// The whole of a body of at most so many bytes.
pub(crate) async fn body_within(body: Body, most: usize) -> Result<Vec<u8>, BodyError> {
    let Ok(read) = tokio::time::timeout(BODY_TIME, to_bytes(body, most)).await else {
        return Err(BodyError::Late);
    };
    match read {
        Ok(bytes) => Ok(bytes.into()),
        // axum's own error hides which of the two it was; its text tells.
        Err(error) if error.to_string().contains("length limit") => Err(BodyError::TooLarge),
        Err(_) => Err(BodyError::Broken),
    }
}

/// What a handler left unread of a request's body. A connection that is answered and closed while the client still sends is
/// reset, and the client never sees the answer; so the rest is read and forgotten, within bounds.
pub(super) struct Unread(Arc<Mutex<BodyDataStream>>);

const DRAIN_BYTES: usize = 1 << 30;
const DRAIN_TIME: Duration = Duration::from_secs(20);
/// Whoever sends a little more than a small body may have hears so.
const STRANGERS_BYTES: usize = 4 << 20;
const STRANGERS_TIME: Duration = Duration::from_secs(1);

impl Unread {
    pub(super) fn of(body: Body) -> (Body, Self) {
        if body.is_end_stream() {
            return (body, Self(Arc::new(Mutex::new(Body::empty().into_data_stream()))));
        }
        let shared = Arc::new(Mutex::new(body.into_data_stream()));
        let handed = shared.clone();
        let next = move |context: &mut std::task::Context<'_>| {
            handed.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
        };
        (Body::from_stream(futures_util::stream::poll_fn(next)), Self(shared))
    }

    /// Reads the rest: of a known caller for long, of anybody else not.
    pub(super) async fn drain(self, known: bool) {
        let (most, limit) = if known { (DRAIN_BYTES, DRAIN_TIME) } else { (STRANGERS_BYTES, STRANGERS_TIME) };
        let next = |context: &mut std::task::Context<'_>| {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
        };
        let mut rest = futures_util::stream::poll_fn(next);
        let mut read = 0;
        let work = async {
            while let Some(Ok(chunk)) = rest.next().await {
                read += chunk.len();
                if read > most {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, work).await;
    }
}
