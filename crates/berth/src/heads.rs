//! Requests whose head is too long for the HTTP library: it answers them itself, with an empty body, before any router has a say.
//! Here its answer becomes that of the dialect.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes of a request in which its path begins.
const KEPT: usize = 2 << 10;
/// Bytes of a request's head.
pub(crate) const LONGEST_HEAD: usize = 128 << 10;
/// The library's own answers are shorter, in bytes, and have no body.
const LIBRARYS_ANSWER: usize = 512;
/// How long what the client still sends is read after the answer: a connection that is closed before that is reset, and the
/// client may never see the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Whether a request of the connection is with the router: what is written meanwhile is its answer, never the library's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Serving(Arc<AtomicBool>);

impl Serving {
    /// A request has reached the router.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The answer to it; when its body is over the connection is free for another request. After a change of protocol it never is.
    pub(crate) fn answer(&self, answer: Response) -> Response {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return answer;
        }
        let end = End(self.clone());
        answer.map(|body| Body::new(Answer { body, _end: end }))
    }
}

struct End(Serving);

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// A body that tells when it is over.
struct Answer {
    body: Body,
    _end: End,
}

impl HttpBody for Answer {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A connection that answers long heads in the dialect's form.
pub(crate) struct Heads<S> {
    inner: S,
    serving: Serving,
    /// How the request begins.
    head: Vec<u8>,
    /// The answer in place of the library's, and how much of it is written.
    answer: Option<(Vec<u8>, usize)>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Heads<S> {
    pub(crate) fn new(inner: S, serving: Serving) -> Self {
        Self { inner, serving, head: Vec::new(), answer: None, linger: None }
    }

    /// Takes note of what is about to be written; whether something else is to be written.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.answer.is_some() {
            return true;
        }
        if self.serving.0.load(Ordering::Acquire) || bytes.len() > LIBRARYS_ANSWER || !bytes.ends_with(b"\r\n\r\n") {
            self.head.clear();
            return false;
        }
        // The library's own bound of an address, and ours of the head.
        let limit = match bytes.get(..13) {
            Some(b"HTTP/1.1 414 ") => 65_534,
            Some(b"HTTP/1.1 431 ") => LONGEST_HEAD,
            _ => {
                self.head.clear();
                return false;
            }
        };
        let path = self.head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let path = String::from_utf8_lossy(path.split(|byte| *byte == b'?').next().unwrap_or_default());
        self.answer = Some((berth_api::head_too_long(&path, limit), 0));
        true
    }
}

impl<S: AsyncWrite + Unpin> Heads<S> {
    fn write_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((answer, written)) = &mut self.answer else { return Poll::Ready(Ok(())) };
        while *written < answer.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &answer[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let room = KEPT.saturating_sub(self.head.len());
        let new = &buf.filled()[before..];
        self.head.extend_from_slice(&new[..new.len().min(room)]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            ready!(self.write_answer(cx))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        all: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(all.first().map_or(&[][..], |first| first)) {
            ready!(self.write_answer(cx))?;
            return Poll::Ready(Ok(all.iter().map(|bytes| bytes.len()).sum()));
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.answer.is_none() {
            return Pin::new(&mut this.inner).poll_shutdown(cx);
        }
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        loop {
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut room = [0; 4096];
            let mut buf = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
