//! The structure of the source, checked: which crate may use which, no rings of files, no dialect's words below its dialect, no
//! files that are too long, and a picture of the crates in ARCHITECTURE.md that is true. Each message says what to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

fn crates() -> Vec<String> {
    let folders = fs::read_dir(root().join("crates")).expect("crates");
    let mut names: Vec<_> = folders.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The source of a file up to its unit tests.
fn product(path: &Path) -> String {
    let text = read(path);
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text.clone(), |at| text[..at].to_owned())
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// What each crate uses of the others, without what only its tests use.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let of = |name: &String| {
        let manifest = read(&root().join("crates").join(name).join("Cargo.toml"));
        let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        let names = section.lines().filter(|line| line.starts_with("berth-"));
        names.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned()).collect()
    };
    crates().iter().map(|name| (name.clone(), of(name))).collect()
}

/// From the top down: a crate uses crates of lower lines only, but for those that its own line allows.
const LAYERS: &[&[&str]] = &[
    &["berth"],
    &["berth-testkit", "berth-fuzz"],
    &["berth-client"],
    &["berth-api", "berth-ssh", "berth-fetch"],
    &["berth-core"],
    &["berth-operations"],
    &["berth-identity"],
    &["berth-engine-kube", "berth-engine-oci"],
    &["berth-engine", "berth-store", "berth-image"],
    &["berth-net", "berth-runtime", "berth-tls", "berth-types"],
];

#[test]
fn crates_use_only_what_is_below_them() {
    let layer: HashMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(number, names)| names.iter().map(move |name| (*name, number))).collect();
    for (name, used) in uses() {
        let own = layer.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no place in LAYERS: give it one"));
        for other in used {
            let below = layer.get(other.as_str()).unwrap_or_else(|| panic!("{other} has no place in LAYERS"));
            assert!(below > own, "{name} uses {other}, which is not below it: move what both need down");
        }
    }
}

#[test]
fn the_picture_of_the_crates_is_true() {
    let mut picture = String::from("```crates\n");
    for line in LAYERS {
        for name in *line {
            let used = uses().remove(*name).unwrap_or_default();
            let short: Vec<&str> = used.iter().map(|name| name.trim_start_matches("berth-")).collect();
            let text = if short.is_empty() { "nothing of berth".to_owned() } else { short.join(" ") };
            picture.push_str(&format!("{name:<17} -> {text}\n"));
        }
    }
    picture.push_str("```");
    let page = read(&root().join("ARCHITECTURE.md"));
    assert!(page.contains(&picture), "put this into ARCHITECTURE.md instead of what is there:\n{picture}");
}

/// Words of the five documents: what a client writes and reads. Below the dialects things have names of their own.
const WIRE_WORDS: &[&str] = &[
    "\"containerId\"",
    "\"optionResult\"",
    "\"code_address\"",
    "\"image_name\"",
    "\"accesskey\"",
    "\"imageTag\"",
    "\"hostId\"",
    "\"activitys\"",
    "\"resultMsg\"",
    "\"charge_type\"",
    "\"spec_id\"",
    "\"ssh_key_ids\"",
    "\"use_public_network\"",
    "\"network_charge_type\"",
    "\"deploymentname\"",
    "\"deploymentnames\"",
    "\"imageversion\"",
    "\"imageVersion\"",
    "\"requestscpu\"",
    "\"requestsmemory\"",
    "\"limitscpu\"",
    "\"limitsmemory\"",
    "\"filepath\"",
    "\"startDate\"",
    "\"endDate\"",
    "\"bandwith\"",
    "\"env_var\"",
    "\"env_key\"",
    "\"image_url\"",
    "\"podname\"",
    "deployments.apps",
    "Insufficient cpu",
    "Insufficient memory",
    "Node is not ready",
    "移动",
    "联通",
    "电信",
    "TY00",
    "4040002",
    "startDate",
    "from_time",
];

#[test]
fn no_dialects_words_are_below_the_dialects() {
    let below = [
        "berth-core",
        "berth-operations",
        "berth-identity",
        "berth-types",
        "berth-store",
        "berth-engine",
        "berth-engine-oci",
        "berth-image",
        "berth-net",
        "berth-runtime",
        "berth-fetch",
        "berth-ssh",
    ];
    for name in below {
        for file in rust_files(&root().join("crates").join(name).join("src")) {
            for (number, line) in product(&file).lines().enumerate() {
                let code = line.trim_start();
                if code.starts_with("//") {
                    continue;
                }
                for word in WIRE_WORDS {
                    assert!(
                        !code.contains(word),
                        "{}:{}: {word} is a dialect's word: use a Field, and name it in the dialect's error.rs",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

/// Lines of a product file, without its unit tests.
const LONGEST: usize = 600;

/// Files that are longer: they only get shorter.
const LEFT_LONG: &[(&str, usize)] = &[
    ("berth-api/src/native/wire/containers.rs", 672),
    ("berth-engine-oci/src/engine.rs", 784),
    ("berth-engine-oci/src/lifecycle.rs", 663),
    ("berth-fetch/src/registry.rs", 1021),
    ("berth-image/src/archive.rs", 744),
    ("berth-image/src/builder.rs", 772),
    ("berth-image/src/pack.rs", 781),
    ("berth-net/src/nft.rs", 705),
    ("berth-runtime/src/cgroup.rs", 621),
    ("berth-store/src/tables/points.rs", 711),
    ("berth/src/cli/services.rs", 636),
];

#[test]
fn product_files_are_not_too_long() {
    for name in crates() {
        for file in rust_files(&root().join("crates").join(&name).join("src")).iter().filter(|file| !is_test(file)) {
            let lines = product(file).lines().count();
            let most = LEFT_LONG.iter().find(|(left, _)| file.ends_with(left)).map_or(LONGEST, |(_, most)| most + 1);
            assert!(lines < most, "{} has {lines} lines: split it by what it is about", file.display());
        }
    }
}

/// The module that a file of a crate is, as the parts of its path.
fn module(source: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source).expect("below the source").with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    if parts == ["lib"] || parts == ["main"] { Vec::new() } else { parts }
}

/// Paths that begin with `crate`, `super` or `self` in a text, their lists unfolded.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = ["crate::", "super::", "self::"].iter().filter_map(|start| rest.find(start)).min() {
        let before = rest[..at].chars().next_back();
        let whole = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let tail = &rest[at..];
        let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(tail.len());
        let head: Vec<String> = tail[..end].split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect();
        if whole && tail[end..].starts_with('{') && tail[..end].ends_with("::") {
            let list = tail[end + 1..].split_once("};").map_or(tail, |(list, _)| list);
            for item in list.split([',', '{', '}']) {
                let item = item.trim().split(" as ").next().unwrap_or_default();
                if !item.is_empty() {
                    all.push(head.iter().cloned().chain(item.split("::").map(str::to_owned)).collect());
                }
            }
        } else if whole {
            all.push(head);
        }
        rest = &tail[end.max(1)..];
    }
    all
}

/// Files that use each other in a ring, of more than one file. By `crate`, `super` and `self`: what a file uses of the files that it
/// is divided into is not counted, they are one topic.
fn rings(source: &Path) -> Vec<BTreeSet<String>> {
    let files: Vec<PathBuf> = rust_files(source).into_iter().filter(|file| !is_test(file)).collect();
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module(source, file)).collect();
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in &files {
        let own = module(source, file);
        let code: String =
            product(file).lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for path in paths(&code) {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let start = match path[0].as_str() {
                "crate" => Vec::new(),
                "self" => own.clone(),
                _ => own[..own.len().saturating_sub(ups)].to_vec(),
            };
            let skip = if ups > 0 { ups } else { 1 };
            let mut full: Vec<String> = start.into_iter().chain(path.into_iter().skip(skip)).collect();
            while !modules.contains(&full) && !full.is_empty() {
                full.pop();
            }
            if full != own && !full.is_empty() {
                edges.entry(own.clone()).or_default().insert(full);
            }
        }
    }
    // A file is in a ring with another if each can be reached from the other.
    let reach = |from: &Vec<String>| {
        let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(one) = next.pop() {
            for to in edges.get(&one).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<_, _> = modules.iter().map(|one| (one.clone(), reach(one))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (one, reached) in &all {
        let ring: BTreeSet<String> =
            reached.iter().filter(|other| all[*other].contains(one)).map(|other| other.join("/")).collect();
        if ring.len() > 1 {
            found.insert(ring);
        }
    }
    found.into_iter().collect()
}

/// Rings of more than three files that are left, with the most files that they may have: they only get smaller.
const LEFT: &[(&str, usize)] = &[("berth-engine-oci", 8)];

#[test]
fn no_ring_of_files_has_more_than_three() {
    for name in crates() {
        let most = LEFT.iter().find(|(left, _)| *left == name).map_or(3, |(_, most)| *most);
        for ring in rings(&root().join("crates").join(&name).join("src")) {
            let count = ring.len();
            assert!(count <= most, "{name}: {count} files use each other in a ring, {most} may: {ring:?}");
        }
    }
}

/// A test that is skipped says `skipped`, and fails where `BERTH_TESTS_REQUIRE_ALL` is set.
#[test]
fn ci_skips_nothing() {
    let ci = read(&root().join(".ci/run"));
    assert!(ci.contains("BERTH_TESTS_REQUIRE_ALL=1"), ".ci/run does not require every test to run");
}
