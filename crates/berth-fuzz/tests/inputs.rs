//! The inputs that fuzzing has found, and random changes of good ones.

use std::io::{Cursor, Write};
use std::path::Path;

use berth_fuzz::TARGETS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("read")).collect()
}

/// Good inputs beside those of the corpus, made here: archives.
fn good(name: &str) -> Vec<Vec<u8>> {
    let tar = || {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        for path in ["a/b", "a/.wh.c", "a/.wh..wh..opq", "manifest.json"] {
            tar.append_data(&mut header, path, &b"hello"[..]).expect("tar");
        }
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "a/link", "../b").expect("tar");
        tar.into_inner().expect("tar")
    };
    match name {
        "layer" | "archive" => vec![tar()],
        "zip" => {
            let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file("app.py", options).expect("zip");
            zip.write_all(b"print()").expect("zip");
            zip.add_directory("static", options).expect("zip");
            vec![zip.finish().expect("zip").into_inner(), tar()]
        }
        _ => Vec::new(),
    }
}

#[test]
fn what_was_found_is_read() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
        inputs.iter().chain(&good(name)).for_each(|input| target(input));
        target(b"");
    }
}

/// Some bytes of an input put in other places, repeated, cut off or replaced.
fn changed(inputs: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..5u8);
    (prop::sample::select(inputs), prop::collection::vec(change, 1..12)).prop_map(|(mut bytes, changes)| {
        for (at, other, value, kind) in changes {
            if bytes.is_empty() {
                bytes.push(value);
            }
            let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, value),
                _ => {
                    let (from, to) = (at.min(other), at.max(other));
                    let piece = bytes[from..to].to_vec();
                    bytes.splice(other..other, piece);
                }
            }
        }
        bytes
    })
}

#[test]
fn changed_and_random_inputs_are_read() {
    for (name, target) in TARGETS {
        let cases = if ["layer", "archive", "zip", "log"].contains(name) { 1024 } else { 20_000 };
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let inputs: Vec<Vec<u8>> = corpus(name).into_iter().chain(good(name)).collect();
        let random = prop::collection::vec(any::<u8>(), 0..512);
        let strategy = prop_oneof![3 => changed(inputs).boxed(), 1 => random.boxed()];
        let result = runner.run(&strategy, |bytes| {
            target(&bytes);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}: put the input into fuzz/corpus/{name}"));
    }
}

/// Each target can be run with cargo-fuzz, too.
#[test]
fn every_target_is_a_fuzz_target() {
    for (name, _) in TARGETS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(text.contains(&format!("\"{name}\"")), "{} runs another target", file.display());
    }
}
