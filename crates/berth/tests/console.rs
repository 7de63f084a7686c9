//! The console in a real Chromium: `console/test/browser.mjs` drives it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use berth_testkit::{Server, has_program, image, is_root, skip};

#[tokio::test(flavor = "multi_thread")]
async fn the_console_works_in_a_browser() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../console");
    if !["node", "chromium"].into_iter().all(has_program)
        || !std::path::Path::new(folder).join("dist/index.html").exists()
    {
        return skip("the console's test needs node, chromium and the bundle (make console)");
    }
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "console", "").await;
    server.import(&rootfs, "busybox", &[]);
    let mut browser = Command::new("node")
        .arg("test/browser.mjs")
        .args([server.url("").trim_end_matches('/'), &server.token()])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start node");
    let mut answers = browser.stdin.take().expect("standard input");
    let asked = BufReader::new(browser.stdout.take().expect("standard output"));
    for line in asked.lines() {
        match line.expect("read").as_str() {
            "kill" => server.kill(),
            "start" => drop(server.up().await),
            other => panic!("the browser's test asks for {other:?}"),
        }
        answers.write_all(b"done\n").expect("answer");
    }
    let status = browser.wait().expect("wait for node");
    assert!(status.success(), "the browser's test failed: {status}\n{}", server.log());
    server.finish().await;
}

/// The described API, as generators of clients and the console's own build read it.
#[test]
fn the_description_in_the_docs_is_that_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let made = format!("{:#}\n", berth_api::openapi());
    if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
        std::fs::write(path, made).expect("write");
        return;
    }
    assert!(std::fs::read_to_string(path).expect("read") == made, "stale: BERTH_WRITE_DOCS=1 writes docs/openapi.json");
}
