//! Archives, and a web server that serves them on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// A zip of files (name, content).
pub fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(0o644);
        zip.start_file(*name, options).expect("start a file");
        zip.write_all(content).expect("write a file");
    }
    zip.finish().expect("finish the zip").into_inner()
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Serves what it was given under `/<name>`; a name that begins with `redirect:` answers 302 to its content. The thread
/// ends with the test process.
#[derive(Debug)]
pub struct FileServer {
    port: u16,
    files: Files,
}

impl Default for FileServer {
    fn default() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a file server");
        let port = listener.local_addr().expect("own address").port();
        let files = Files::default();
        let served = files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || answer(stream, &served));
            }
        });
        Self { port, files }
    }
}

fn answer(stream: std::net::TcpStream, files: &Files) {
    let mut reader = BufReader::new(&stream);
    let mut first = String::new();
    let _ = reader.read_line(&mut first);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let name = first.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = &stream;
    let _ = match (files.get(&name), files.get(&format!("redirect:{name}"))) {
        (Some(body), _) => out
            .write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes(),
            )
            .and_then(|()| out.write_all(body)),
        (None, Some(to)) => {
            let to = String::from_utf8_lossy(to);
            out.write_all(
                format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
        }
        (None, None) => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
}

impl FileServer {
    /// Serves `content` from now on; the address it is at.
    pub fn serve(&self, name: &str, content: Vec<u8>) -> String {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), content);
        format!("http://127.0.0.1:{}/{}", self.port, name.trim_start_matches("redirect:"))
    }
}
