//! Parsers that read what containers, clients and registries write. Each target takes any bytes and must neither panic nor take much
//! memory or time. `fuzz/` calls them with libFuzzer; the tests here with the same kinds of input and with what was found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use berth_image::{Budget, Config, ImageConfig, Store};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name; `fuzz/fuzz_targets` and `fuzz/corpus` have the same names.
pub const TARGETS: &[(&str, Target)] = &[
    ("netlink", berth_net::fuzzing::replies),
    ("dns", berth_engine_oci::fuzzing::dns),
    ("layer", layer),
    ("archive", archive),
    ("zip", zip),
    ("image_config", image_config),
    ("manifest", berth_core::fuzzing::manifest),
    ("log", log),
    ("parameters", berth_api::fuzzing::parameters),
    ("signature", signature),
    ("addresses", addresses),
    ("image_name", image_name),
];

/// A folder that goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("berth-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = berth_image::remove_tree(&self.0);
    }
}

/// What a target may unpack: little, so that many inputs can be tried.
fn budget() -> Budget {
    Budget { bytes: 1 << 20, entries: 1000 }
}

fn with_store(work: impl FnOnce(&Store, &Path)) {
    let folder = Folder::new();
    let store = Store::open(&folder.0.join("images"), 0).expect("a store");
    work(&store, &folder.0);
}

/// A layer, or a root file system: tar, compressed perhaps.
fn layer(bytes: &[u8]) {
    with_store(|store, _| drop(berth_image::import_rootfs(store, bytes, Config::default(), budget())));
}

/// An archive of `docker save`, or an OCI layout.
fn archive(bytes: &[u8]) {
    with_store(|store, _| drop(berth_image::import_archive(store, bytes, budget())));
}

/// An application's code.
fn zip(bytes: &[u8]) {
    with_store(|store, folder| {
        let file = folder.join("code.zip");
        fs::write(&file, bytes).expect("write");
        drop(berth_image::unpack_zip(store, &file, Path::new("app"), budget()));
        drop(berth_image::unpack_code(store, &file, "code.zip", Path::new("app"), budget()));
    });
}

fn image_config(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        let _ = serde_json::to_vec(&config);
    }
}

/// A container's log, as a crash, a full disk or somebody else may have left it.
fn log(bytes: &[u8]) {
    use berth_runtime::log::Reader;
    let folder = Folder::new();
    // Two files, the older one cut off anywhere.
    let half = bytes.len() / 2;
    fs::write(berth_runtime::log::file_of(&folder.0, 1), &bytes[..half]).expect("write");
    fs::write(berth_runtime::log::file_of(&folder.0, 0), &bytes[half..]).expect("write");
    let readers = [
        Reader::open(&folder.0),
        Reader::since(&folder.0, 1_000_000_000),
        Reader::tail(&folder.0, 3, None).expect("tail"),
        Reader::tail(&folder.0, 100_000_000, Some(0)).expect("tail"),
    ];
    for mut reader in readers {
        let mut read = 0;
        while let Ok(Some(record)) = reader.next() {
            read += record.text.len() + 1;
            assert!(read <= 2 * bytes.len() + 2, "more was read than there is");
        }
    }
}

/// Names and values that are signed: pairs are divided by U+0001, a name from its value by U+0002.
fn signature(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs: Vec<(&str, &str)> =
        text.split('\u{1}').map(|pair| pair.split_once('\u{2}').unwrap_or((pair, ""))).collect();
    berth_identity::fuzzing::signed(&pairs);
    let signature = berth_identity::signature_of(&text, &text);
    assert!(signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_hexdigit()));
}

fn addresses(bytes: &[u8]) {
    berth_identity::fuzzing::addresses(&String::from_utf8_lossy(bytes));
}

/// A name as a client gives it leads to itself again.
fn image_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = berth_core::ImageReference::read(&text) {
        let again = berth_core::ImageReference::read(&read.to_string());
        assert_eq!(again.ok().as_ref(), Some(&read), "{text:?}");
    }
}
