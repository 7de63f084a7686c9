//! The sample application that `berth serve` shows with: a web page, as a zip.

use std::io::{Cursor, Write};
use std::sync::OnceLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("sample/index.html");

fn build() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let written = zip.start_file("index.html", options).is_ok() && zip.write_all(PAGE.as_bytes()).is_ok();
    match zip.finish() {
        Ok(done) if written => done.into_inner(),
        _ => Vec::new(),
    }
}

/// `GET /samples/hello.zip`.
pub(crate) async fn hello() -> Response {
    static ZIP: OnceLock<Vec<u8>> = OnceLock::new();
    ([(header::CONTENT_TYPE, "application/zip")], ZIP.get_or_init(build).as_slice()).into_response()
}
