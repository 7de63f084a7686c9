//! Long bodies: what a thread that blocks writes, read by a client as it comes, and the other way round.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Longest silence in the middle of an archive that comes in.
const STALL: Duration = Duration::from_secs(60);
/// Bytes that are handed on at a time.
const CHUNK: usize = 256 * 1024;

/// Hands on what is written, in chunks; whoever writes waits for whoever reads.
struct Outgoing {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
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
        self.chunks.blocking_send(Ok(full.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A body of what `work` writes. If that fails, the body breaks off, which a client can tell from its end.
pub(super) fn written_by(work: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Body {
    let (chunks, mut read) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        let mut out = Outgoing { chunks: chunks.clone(), buffer: Vec::new() };
        if let Err(error) = work(&mut out).and_then(|()| out.flush()) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::warn!(%error, "an archive was broken off");
            }
            let _ = chunks.blocking_send(Err(error));
        }
    });
    Body::from_stream(futures_util::stream::poll_fn(move |context| read.poll_recv(context)))
}

/// The request's body as something that blocks when read; for threads that unpack.
pub(super) fn reader(request: Request) -> impl Read + Send + 'static {
    // A client that stops sending must not hold its thread for ever.
    let stream = futures_util::stream::unfold(request.into_body().into_data_stream(), async |mut body| {
        let chunk = match tokio::time::timeout(STALL, body.next()).await {
            Ok(chunk) => chunk?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive stopped coming")),
        };
        Some((chunk, body))
    });
    SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
}
