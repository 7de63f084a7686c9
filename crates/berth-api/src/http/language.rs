//! The language that a client prefers.

use axum::http::{HeaderMap, header};
use axum::response::Response;

/// How much `Accept-Language` (RFC 9110, 12.5.4) wants Chinese and English, 0 to 1; the one that it names first a little more.
fn weights(headers: &HeaderMap) -> (f32, f32) {
    let text = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = text.trim_start().to_ascii_lowercase();
    let weight = |language: &str| {
        let ranges = text.split(',').map(|range| range.split_once(';').unwrap_or((range, "")));
        let of_it = ranges.filter(|(range, _)| {
            let range = range.trim().to_ascii_lowercase();
            range == language || range.strip_prefix(language).is_some_and(|rest| rest.starts_with('-'))
        });
        let weights = of_it.map(|(_, quality)| {
            let quality = quality.trim().strip_prefix("q=").map(str::trim);
            quality.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0))
        });
        weights.fold(0.0, f32::max)
    };
    let of = |language: &str| match weight(language) {
        weight if weight > 0.0 && first.starts_with(language) => weight + 0.0001,
        weight => weight,
    };
    (of("zh"), of("en"))
}

/// Whether a client wants Chinese rather than English.
pub(crate) fn prefers_chinese(headers: &HeaderMap) -> bool {
    let (chinese, english) = weights(headers);
    chinese > english
}

/// Whether a client wants English rather than Chinese.
pub(crate) fn prefers_english(headers: &HeaderMap) -> bool {
    let (chinese, english) = weights(headers);
    english > chinese
}

/// An answer with the body of another: the same answer in other words.
pub(crate) fn with_body_of(answer: Response, other: Response) -> Response {
    Response::from_parts(answer.into_parts().0, other.into_body())
}

/// Whether a WebSocket's client wants Chinese: by the parameter `language`, as its request can have no headers, or by those of its
/// browser.
pub(crate) struct Chinese(pub(crate) bool);

impl<S: Sync> axum::extract::FromRequestParts<S> for Chinese {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let asked = form_urlencoded::parse(query).find(|(name, _)| name == "language").map(|(_, value)| value);
        Ok(Self(asked.map_or_else(|| prefers_chinese(&parts.headers), |language| language.starts_with("zh"))))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::{prefers_chinese, prefers_english};

    #[test]
    fn the_better_language_is_taken() {
        for (text, chinese) in [
            ("zh-CN,zh;q=0.9,en;q=0.8", true),
            ("zh", true),
            ("en-US,en;q=0.9,zh;q=0.8", false),
            ("en;q=0.3, zh-Hans;q=0.5", true),
            ("zh;q=0", false),
            ("", false),
            ("de", false),
            ("zha", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(text))]);
            assert_eq!(prefers_chinese(&headers), chinese, "{text:?}");
            assert_eq!(prefers_english(&headers), text.starts_with("en") && !chinese, "{text:?}");
        }
    }
}
