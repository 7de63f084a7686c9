//! The language that a client prefers.

use axum::http::{HeaderMap, header};

/// Whether `Accept-Language` (RFC 9110, 12.5.4) puts Chinese before English.
pub(crate) fn prefers_chinese(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
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
    let (chinese, english) = (weight("zh"), weight("en"));
    chinese > english
        || chinese > 0.0 && (chinese - english).abs() < f32::EPSILON && text.trim_start().starts_with("zh")
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::prefers_chinese;

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
        }
    }
}
