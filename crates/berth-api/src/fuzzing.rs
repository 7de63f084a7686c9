//! Entry points for fuzz targets.

use axum::body::Body;
use axum::extract::Request;

use crate::http::Parameters;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Parameters of a dialect: the first line is the query, the rest the body.
pub fn parameters(bytes: &[u8]) {
    let (query, body) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()));
    let query = String::from_utf8_lossy(query);
    read(&Parameters::of_query(&query));
    for strict in [false, true] {
        let request = Request::new(Body::from(body.to_vec()));
        let parsed = RUNTIME.with(|runtime| {
            runtime.block_on(async {
                if strict { Parameters::strict(request).await } else { Parameters::of(request).await }
            })
        });
        if let Ok(parsed) = parsed {
            read(&parsed);
        }
    }
}

fn read(parameters: &Parameters) {
    for name in ["a", "b", "memory", "name"] {
        let _ = (parameters.text(name), parameters.optional(name), parameters.flag(name), parameters.integer(name));
    }
    let _ = parameters.signed("GET");
}
