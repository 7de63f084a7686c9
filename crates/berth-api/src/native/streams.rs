//! Long bodies: what a thread that blocks writes, read by a client as it comes, and the other way round.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{AccountLimiter, Caller, Permit};
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::error::{Error, overload};

/// Longest silence in the middle of an archive, whichever way it goes.
const STALL: Duration = Duration::from_secs(60);
/// Bytes that are handed on at a time.
const CHUNK: usize = 256 * 1024;

/// What lasts as long as its client likes, and holds something meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An archive in or out, which holds a thread.
    Archive,
    /// A session or a follower, which holds a connection and a few descriptors.
    Stream,
}

impl Kind {
    /// How many there may be of one account, and of all.
    fn most(self) -> (usize, usize) {
        match self {
            // Well below the threads that the runtime has for work that blocks: the rest of it is never kept waiting.
            Self::Archive => (32, 128),
            Self::Stream => (1024, 4096),
        }
    }
}

/// The places for what lasts long.
#[derive(Clone)]
pub(crate) struct StreamLimits(Arc<[AccountLimiter; 2]>, Arc<AccountLimiter>);

impl Default for StreamLimits {
    fn default() -> Self {
        let kinds = [Kind::Archive, Kind::Stream].map(|kind| {
            let (most_own, most) = kind.most();
            AccountLimiter::new(most, most_own)
        });
        // 64 MiB of output in all, 16 MiB of one account.
        Self(Arc::new(kinds), Arc::new(AccountLimiter::new(1024, 256)))
    }
}

impl StreamLimits {
    /// Room for 64 KiB of a process's output, if there is any.
    pub(super) fn output(&self, caller: &Caller) -> Option<Permit> {
        self.1.try_take(caller.account)
    }

    /// A place that is taken until it is dropped.
    pub(super) fn take(&self, caller: &Caller, kind: Kind) -> Result<Permit, Error> {
        self.0[kind as usize].try_take(caller.account).ok_or_else(overload)
    }
}

/// Hands on what is written, in chunks; whoever writes waits for whoever reads.
struct Outgoing {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    runtime: Handle,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + 64 * 1024));
        // A client that stops reading must not hold the thread, and what is read here, for ever.
        match self.runtime.block_on(tokio::time::timeout(STALL, self.chunks.send(Ok(full.into())))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")),
        }
    }
}

/// A body of what `work` writes. If that fails, the body breaks off, which a client can tell from its end.
pub(super) async fn written_by(
    place: Permit,
    work: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> io::Result<Body> {
    let (chunks, mut read) = mpsc::channel::<io::Result<Bytes>>(4);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut out = Outgoing { chunks: chunks.clone(), buffer: Vec::new(), runtime };
        if let Err(error) = work(&mut out).and_then(|()| out.flush()) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::warn!(%error, "an archive was broken off");
            }
            // Dropped, if even that finds no reader: the body ends early all the same.
            let _ = chunks.try_send(Err(error));
        }
    });
    // What fails before anything is written can still be told in form.
    let first = read.recv().await.transpose()?;
    let first = futures_util::stream::iter(first.map(Ok));
    let rest = futures_util::stream::poll_fn(move |context| read.poll_recv(context));
    Ok(Body::from_stream(futures_util::StreamExt::chain(first, rest)))
}

/// The same as an answer; what fails before it begins is the server's own fault.
pub(super) async fn tar_of(
    place: Permit,
    work: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<Response, Error> {
    let body = written_by(place, work).await.map_err(|error| {
        tracing::error!(%error, "an archive could not be written");
        let detail = "the archive can't be read; the server log has the reason";
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })?;
    Ok(tar(body))
}

/// A body that is a tar.
pub(super) fn tar(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-tar")], body).into_response()
}

/// The request's body as something that blocks when read; for threads that unpack.
pub(crate) fn reader(request: Request) -> impl Read + Send + 'static {
    stream_reader(request.into_body().into_data_stream())
}

/// The same of any stream of bytes.
pub(crate) fn stream_reader<E: std::error::Error + Send + Sync + 'static>(
    stream: impl futures_util::Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
) -> impl Read + Send + 'static {
    // A client that stops sending must not hold its thread for ever.
    let stream = futures_util::stream::unfold(stream, async |mut body| {
        let chunk = match tokio::time::timeout(STALL, body.next()).await {
            Ok(chunk) => chunk?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive stopped coming")),
        };
        Some((chunk, body))
    });
    SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
}

#[cfg(test)]
mod tests {
    use berth_core::{Caller, Role};

    use super::{Kind, StreamLimits};

    #[test]
    fn an_account_takes_only_its_share_and_gives_it_back() {
        let places = StreamLimits::default();
        let caller = |account| Caller { account, role: Role::User, credential: berth_core::Credential::Token(1) };
        let (most_own, most) = Kind::Archive.most();
        let mut held: Vec<_> = (0..most_own).map(|_| places.take(&caller(1), Kind::Archive).expect("place")).collect();
        assert!(places.take(&caller(1), Kind::Archive).is_err());
        places.take(&caller(1), Kind::Stream).expect("streams are counted apart");
        held.extend(
            (most_own..most).map(|n| places.take(&caller(2 + (n / most_own) as i64), Kind::Archive).expect("place")),
        );
        assert!(places.take(&caller(99), Kind::Archive).is_err(), "all are taken");
        held.clear();
        held.extend((0..most_own).map(|_| places.take(&caller(1), Kind::Archive).expect("given back")));
    }
}
