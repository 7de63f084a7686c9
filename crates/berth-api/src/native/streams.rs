//! Long bodies: what a thread that blocks writes, read by a client as it comes, and the other way round.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use berth_core::Caller;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<(Kind, i64), usize>>>);

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Places,
    key: (Kind, i64),
}

impl Places {
    pub(super) fn take(&self, caller: &Caller, kind: Kind) -> Result<Place, Error> {
        let key = (kind, caller.account);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.iter().filter(|((k, _), _)| *k == kind).map(|(_, count)| count).sum();
        let own = taken.get(&key).copied().unwrap_or(0);
        let (most_own, most) = kind.most();
        if own >= most_own || all >= most {
            return Err(overload());
        }
        taken.insert(key, own + 1);
        Ok(Place { all: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
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
    place: Place,
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

#[cfg(test)]
mod tests {
    use berth_core::{Caller, Role};

    use super::{Kind, Places};

    #[test]
    fn an_account_takes_only_its_share_and_gives_it_back() {
        let places = Places::default();
        let caller = |account| Caller { account, role: Role::User };
        let (most_own, most) = Kind::Archive.most();
        let mut held: Vec<_> = (0..most_own).map(|_| places.take(&caller(1), Kind::Archive).expect("place")).collect();
        assert!(places.take(&caller(1), Kind::Archive).is_err());
        places.take(&caller(1), Kind::Stream).expect("streams are counted apart");
        held.extend(
            (most_own..most).map(|n| places.take(&caller(2 + (n / most_own) as i64), Kind::Archive).expect("place")),
        );
        assert!(places.take(&caller(99), Kind::Archive).is_err(), "all are taken");
        held.clear();
        places.take(&caller(1), Kind::Archive).expect("given back");
        assert!(places.0.lock().expect("lock").is_empty());
    }
}
