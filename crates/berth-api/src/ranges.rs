//! Files as answers, whole or in ranges (RFC 9110, 14).

use std::fs::{File, Metadata};
use std::io::{self, SeekFrom};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// `bytes=5-9`, `bytes=5-` or `bytes=-5` of a file of this length: first byte and how many. `None` where the whole is
/// meant.
fn range(headers: &HeaderMap, length: u64) -> Result<Option<(u64, u64)>, u64> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Ok(None) };
    // What is not understood (several ranges, other units) is answered by the whole (RFC 9110, 14.2).
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else { return Ok(None) };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.min(length.saturating_sub(1))),
        (Some(first), None) if last.trim().is_empty() => (first, length.saturating_sub(1)),
        (None, Some(count)) if first.trim().is_empty() && count > 0 => {
            (length.saturating_sub(count), length.saturating_sub(1))
        }
        _ => return Ok(None),
    };
    if first >= length {
        return Err(length);
    }
    Ok(Some((first, last - first + 1)))
}

/// The `Content-Range` of an answer 416: how long the whole is.
pub(crate) fn no_such_range(length: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes */{length}")).unwrap_or(HeaderValue::from_static("bytes */*"))
}

/// The file, or the part of it that is asked for; its length if there is no such part. Only GET has parts (RFC 9110, 14.2).
pub(crate) async fn serve(
    file: File,
    meta: &Metadata,
    method: &Method,
    headers: &HeaderMap,
) -> io::Result<Result<Response, u64>> {
    let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    let tag = format!("\"{:x}-{:x}\"", modified.as_nanos(), meta.len());
    // A range of a file that has changed since is no part of what the client has.
    let same = headers.get(header::IF_RANGE).is_none_or(|v| v.as_bytes() == tag.as_bytes());
    let part = match if same && *method == Method::GET { range(headers, meta.len()) } else { Ok(None) } {
        Ok(part) => part,
        Err(length) => return Ok(Err(length)),
    };
    let (first, count) = part.unwrap_or((0, meta.len()));
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(first)).await?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(count), 256 * 1024));
    let mut response = body.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(header::CONTENT_LENGTH, count.into());
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    if part.is_some() {
        let shown = format!("bytes {first}-{}/{}", first + count - 1, meta.len());
        if let Ok(shown) = HeaderValue::from_str(&shown) {
            answer.insert(header::CONTENT_RANGE, shown);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(Ok(response))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::range;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        let of = |text: &str, length| {
            let mut headers = HeaderMap::new();
            headers.insert("range", text.parse().expect("value"));
            range(&headers, length)
        };
        assert_eq!(of("bytes=0-4", 10).ok(), Some(Some((0, 5))));
        assert_eq!(of("bytes=5-", 10).ok(), Some(Some((5, 5))));
        assert_eq!(of("bytes=-3", 10).ok(), Some(Some((7, 3))));
        assert_eq!(of("bytes=0-99", 10).ok(), Some(Some((0, 10))));
        assert_eq!(of("bytes=-99", 10).ok(), Some(Some((0, 10))));
        for whole in ["bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2", "bytes=-0"] {
            assert_eq!(of(whole, 10).ok(), Some(None), "{whole}");
        }
        assert!(of("bytes=10-", 10).is_err() && of("bytes=0-0", 0).is_err());
    }
}
