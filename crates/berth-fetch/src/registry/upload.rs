//! Uploads in parts.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Response, Url, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes of a blob that are sent in one request; some registries take no smaller parts (5 MiB at Amazon's). One may ask for more.
pub(super) const PORTION: u64 = 5 << 20;
/// Time that a request of so many bytes may take.
pub(super) const PORTION_LIMIT: Duration = Duration::from_secs(300);

/// An upload that is under way.
#[derive(Clone)]
pub(super) struct Upload {
    pub(super) at: Url,
    /// Bytes of a part, but for the last.
    pub(super) portion: u64,
}

/// Bytes that a part has at least, as the registry says (`OCI-Chunk-Min-Length`).
pub(super) fn least_part(answer: &Response) -> u64 {
    let text = answer.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0).max(PORTION)
}

/// A part of a file.
pub(super) struct Part<'a> {
    pub(super) file: &'a Path,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Part<'_> {
    /// The request with this as its body, read as it is sent.
    pub(super) fn of(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let (path, offset, length) = (self.file.to_owned(), self.offset, self.length);
        let open = async move {
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(std::io::SeekFrom::Start(offset)).await?;
            Ok::<_, std::io::Error>(file.take(length))
        };
        let pieces = futures_util::stream::once(open).flat_map(|opened| match opened {
            Ok(file) => tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).boxed(),
            Err(error) => futures_util::stream::once(std::future::ready(Err(error))).boxed(),
        });
        let time = PORTION_LIMIT * u32::try_from(length / PORTION).unwrap_or(u32::MAX).max(1);
        let body = reqwest::Body::wrap_stream(pieces);
        request.header(header::CONTENT_LENGTH, length).timeout(time).body(body)
    }
}

/// How many bytes of an upload have arrived, as the registry says (`Range: 0-41`).
pub(super) fn arrived(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::RANGE)?.to_str().ok()?;
    let last: u64 = text.trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
    // Some answer "0-0" for nothing at all; the digest would tell if it were one byte.
    Some(if last == 0 { 0 } else { last + 1 })
}
