//! Archives good and hostile, through the crate's own door.

use std::collections::HashSet;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use berth_image::{Budget, Config, Digest, Error, Store, import_archive, import_rootfs, unpack_code, unpack_zip};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("folder");
        Self(path)
    }

    fn store(&self) -> Store {
        Store::open(&self.0, 0).expect("store")
    }

    /// What an import left: (layers, unfinished work).
    fn left(&self) -> (usize, usize) {
        let count = |name| fs::read_dir(self.0.join(name)).expect("list").count();
        (count("layers"), count("work"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_root() -> bool {
    // SAFETY: plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        assert!(
            std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(),
            "owners, devices and overlayfs' attributes need root"
        );
        println!("skipped: owners, devices and overlayfs' attributes need root");
    }
    root
}

/// Adds an entry whose name is taken as it is, however wrong.
fn add(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_000_000);
    header.set_size(data.len() as u64);
    if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
        header.set_device_major(1).expect("major");
        header.set_device_minor(3).expect("minor");
    }
    header.set_cksum();
    tar.append(&header, data).expect("append");
}

fn tar_of(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    build(&mut tar);
    tar.into_inner().expect("tar")
}

use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

fn layer_one() -> Vec<u8> {
    tar_of(|t| {
        add(t, Directory, "./", "", 0o755, b"");
        add(t, Directory, "etc/", "", 0o750, b"");
        add(t, Regular, "etc/name", "", 0o4644, b"one");
        add(t, Link, "etc/hard", "etc/name", 0o644, b"");
        add(t, Symlink, "etc/soft", "/etc/name", 0o777, b"");
        add(t, Char, "null", "", 0o666, b"");
        add(t, Block, "disk", "", 0o600, b"");
        add(t, Fifo, "pipe", "", 0o600, b"");
        add(t, Directory, "old/", "", 0o755, b"");
        add(t, Regular, "old/gone", "", 0o644, b"x");
        t.append_pax_extensions([
            ("SCHILY.xattr.user.color", &b"red"[..]),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .expect("pax");
        add(t, Regular, "tagged", "", 0o644, b"t");
        let long = format!("deep/{}", "n".repeat(180));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(4);
        t.append_data(&mut header, long, &b"long"[..]).expect("long name");
    })
}

fn layer_two() -> Vec<u8> {
    tar_of(|t| {
        add(t, Regular, "etc/.wh.name", "", 0o600, b"");
        add(t, Regular, "old/.wh..wh..opq", "", 0o600, b"");
        add(t, Regular, "old/new", "", 0o644, b"n");
        add(t, Link, "copied", "tagged", 0o644, b"");
    })
}

fn config_for(layers: &[&[u8]]) -> Vec<u8> {
    let digests: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": digests},
    }))
    .expect("json")
}

/// `docker save` as it was until version 24: a folder a layer, equal layers as links.
fn docker_old(layers: &[&[u8]], config: &[u8]) -> Vec<u8> {
    tar_of(|t| {
        let mut names = Vec::new();
        for (n, layer) in layers.iter().enumerate() {
            let name = format!("{n}/layer.tar");
            match layers[..n].iter().position(|l| l == layer) {
                Some(same) => add(t, Symlink, &name, &format!("../{same}/layer.tar"), 0o777, b""),
                None => add(t, Regular, &name, "", 0o644, layer),
            }
            names.push(name);
        }
        add(t, Regular, "c.json", "", 0o644, config);
        let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["web:1"], "Layers": names}]);
        add(t, Regular, "manifest.json", "", 0o644, manifest.to_string().as_bytes());
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("gzip");
    out.finish().expect("gzip")
}

/// An OCI layout; also `docker save` since version 25, with `manifest.json` beside.
fn oci(layers: &[Vec<u8>], config: &[u8], docker_too: bool) -> Vec<u8> {
    let blob = |b: &[u8]| format!("blobs/sha256/{}", Digest::of(b).hex());
    tar_of(|t| {
        for layer in layers {
            add(t, Regular, &blob(layer), "", 0o644, layer);
        }
        add(t, Regular, &blob(config), "", 0o644, config);
        let descriptors: Vec<_> = layers
            .iter()
            .map(|l| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(l), "size": l.len()}))
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "config": {"digest": Digest::of(config), "size": config.len()}, "layers": descriptors})
            .to_string();
        add(t, Regular, &blob(manifest.as_bytes()), "", 0o644, manifest.as_bytes());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": Digest::of(b"other"), "size": 5, "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": Digest::of(manifest.as_bytes()), "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "1.0"}}]});
        add(t, Regular, "index.json", "", 0o644, index.to_string().as_bytes());
        add(t, Regular, "oci-layout", "", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        if docker_too {
            let names: Vec<_> = layers.iter().map(|l| blob(l)).collect();
            let manifest = serde_json::json!([{"Config": blob(config), "RepoTags": null, "Layers": names}]);
            add(t, Regular, "manifest.json", "", 0o644, manifest.to_string().as_bytes());
        }
    })
}

fn tree(folder: &Folder, store: &Store, digest: &Digest) -> PathBuf {
    folder.0.join("layers").join(store.folder_name(digest).expect("layer"))
}

#[test]
fn a_docker_archive_becomes_layers_that_overlayfs_understands() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("docker");
    let store = folder.store();
    let (one, two) = (layer_one(), layer_two());
    let layers: [&[u8]; 3] = [&one, &two, &one];
    let images = import_archive(&store, Cursor::new(docker_old(&layers, &config_for(&layers))), Budget::default())
        .expect("import");
    let image = &images[0];
    // Two layers more than the archive has: what the second and third left to those below.
    assert_eq!((image.names.as_slice(), image.layers.len()), (&["web:1".to_owned()][..], 5));
    assert_eq!(folder.left(), (4, 0), "a layer that comes twice is kept once");

    let lower = tree(&folder, &store, &image.layers[0]);
    let stat = |path: &str| fs::symlink_metadata(lower.join(path)).expect(path);
    assert_eq!(
        (stat("etc/name").mode() & 0o7777, stat("etc/name").uid(), stat("etc/name").mtime()),
        (0o4644, 7, 1_000_000)
    );
    assert_eq!(stat("etc/name").ino(), stat("etc/hard").ino());
    assert_eq!(fs::read_link(lower.join("etc/soft")).expect("link"), Path::new("/etc/name"));
    assert_eq!((stat("etc").mode() & 0o777, stat("etc").mtime()), (0o750, 1_000_000));
    assert!(stat("null").file_type().is_char_device() && stat("disk").file_type().is_block_device());
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!(fs::read(lower.join(format!("deep/{}", "n".repeat(180)))).expect("long"), b"long");
    assert_eq!(xattr(&lower.join("tagged"), c"user.color"), Some(b"red".to_vec()));
    assert_eq!(xattr(&lower.join("tagged"), c"trusted.overlay.opaque"), None, "an image gives overlayfs no orders");

    let upper = tree(&folder, &store, &image.layers[1]);
    let whiteout = fs::symlink_metadata(upper.join("etc/name")).expect("whiteout");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(xattr(&upper.join("old"), c"trusted.overlay.opaque"), Some(b"y".to_vec()));
    let extra = tree(&folder, &store, &image.layers[2]);
    assert_eq!(fs::metadata(extra.join("etc")).expect("etc").mode() & 0o777, 0o750, "implied folders are as below");
    assert_eq!(fs::read(extra.join("copied")).expect("copied"), b"t");
    assert!(!extra.join("old/gone").exists() && !upper.join("copied").exists());

    let again = import_archive(&store, Cursor::new(docker_old(&layers, &config_for(&layers))), Budget::default());
    assert_eq!(again.expect("again")[0].id, image.id);
    let reopened = Store::open(&folder.0, 0).expect("reopen");
    assert!(reopened.layer(&image.layers[1]).is_some());

    assert_eq!(store.retain(&HashSet::new()).expect("retain"), 0, "pinned layers stay");
    let kept = image.layers[1];
    drop(images);
    store.retain(&HashSet::from([kept])).expect("retain");
    assert_eq!(folder.left(), (1, 0));
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let path = std::ffi::CString::new(path.to_str()?).ok()?;
    let mut value = vec![0; 64];
    // SAFETY: strings and buffer outlive the call.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

#[test]
fn oci_layouts_come_in_compressed_and_platforms_are_chosen() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("oci");
    let store = folder.store();
    let (one, two) = (layer_one(), layer_two());
    let config = config_for(&[&one, &two]);
    let packed = vec![gzip(&one), zstd::encode_all(&two[..], 1).expect("zstd")];
    for docker_too in [false, true] {
        let archive = gzip(&oci(&packed, &config, docker_too));
        let images = import_archive(&store, Cursor::new(archive), Budget::default()).expect("import");
        assert_eq!((images.len(), images[0].id), (1, Digest::of(&config)));
        assert_eq!(images[0].names.len(), usize::from(!docker_too));
    }
    assert_eq!(folder.left(), (3, 0));
}

#[test]
fn links_below_lead_nowhere_but_into_layers() {
    if !is_root() {
        return;
    }
    let secret = std::env::temp_dir().join(format!("berth-secret-{}", std::process::id()));
    fs::create_dir_all(&secret).expect("folder");
    fs::write(secret.join("f"), "secret").expect("file");
    let below = tar_of(|t| {
        add(t, Symlink, "out", secret.to_str().expect("path"), 0o777, b"");
        add(t, Regular, "own", "", 0o644, b"own");
    });
    let read = tar_of(|t| add(t, Link, "stolen", "out/f", 0o644, b""));
    let write = tar_of(|t| {
        add(t, Directory, secret.strip_prefix("/").expect("path").to_str().expect("path"), "", 0o755, b"");
        add(t, Symlink, "d", secret.to_str().expect("path"), 0o777, b"");
        add(t, Link, "d/planted", "own", 0o644, b"");
    });
    for (name, layer) in [("read", read), ("write", write)] {
        let folder = Folder::new(name);
        let store = folder.store();
        let layers: [&[u8]; 2] = [&below, &layer];
        let result = import_archive(&store, Cursor::new(docker_old(&layers, &config_for(&layers))), Budget::default());
        assert!(!secret.join("planted").exists(), "{name}");
        if name == "read" {
            assert!(result.expect_err("nothing to link to").to_string().contains("no layer has"));
        }
    }
    fs::remove_dir_all(secret).expect("clean");
}

#[test]
fn headers_are_bounded() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("headers");
    let store = folder.store();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'1'));
    let error = import_rootfs(&store, endless, Config::default(), Budget::default()).expect_err("endless");
    assert!(error.is_clients() && folder.left() == (0, 0), "{error}");
}

#[test]
fn what_is_wrong_with_an_archive_is_said_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let one = layer_one();
    let good = docker_old(&[&one], &config_for(&[&one]));
    let wrong_digest = docker_old(&[&one], &config_for(&[b"else"]));
    let mut bad_blob = oci(&[gzip(&one)], &config_for(&[&one]), false);
    let at = bad_blob.windows(3).position(|w| w == [0x1f, 0x8b, 8]).expect("gzip");
    bad_blob[at + 4] ^= 1; // the time field of the gzip header: the tar stays right, the blob does not
    let with = |layer: Vec<u8>| docker_old(&[&layer], &config_for(&[&layer]));
    let up = with(tar_of(|t| add(t, Regular, "../out", "", 0o644, b"x")));
    let up_link = with(tar_of(|t| add(t, Link, "in", "../../etc/passwd", 0o644, b"")));
    let through = with(tar_of(|t| {
        add(t, Symlink, "dir", "/tmp", 0o777, b"");
        add(t, Regular, "dir/berth-escaped", "", 0o644, b"x");
    }));
    let file_as_folder = with(tar_of(|t| {
        add(t, Regular, "a", "", 0o644, b"x");
        add(t, Regular, "a/b", "", 0o644, b"x");
    }));
    let link_nowhere = with(tar_of(|t| add(t, Link, "a", "b", 0o644, b"")));
    let link_loop = tar_of(|t| {
        add(t, Symlink, "l", "l", 0o777, b"");
        let manifest = r#"[{"Config":"l","Layers":["l"]}]"#;
        add(t, Regular, "manifest.json", "", 0o644, manifest.as_bytes());
    });
    let no_manifest = tar_of(|t| add(t, Regular, "a", "", 0o644, b"x"));
    let not_json = tar_of(|t| add(t, Regular, "manifest.json", "", 0o644, b"{"));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut", good[..good.len() / 3].to_vec(), ""),
        ("noise", vec![7; 5000], ""),
        ("empty", Vec::new(), "neither manifest.json"),
        ("wrong digest", wrong_digest, "the configuration says"),
        ("wrong blob", bad_blob, "has the content"),
        ("up", up, "leads out"),
        ("link up", up_link, "leads out"),
        ("through a link", through, "not a folder"),
        ("file as folder", file_as_folder, "not a folder"),
        ("link nowhere", link_nowhere, "no layer has"),
        ("links in a circle", link_loop, "missing"),
        ("no manifest", no_manifest, "neither manifest.json"),
        ("not json", not_json, "not readable"),
        ("cut gzip", gzip(&good)[..200].to_vec(), ""),
    ];
    for (name, archive, said) in cases {
        let folder = Folder::new("hostile");
        let store = folder.store();
        let error = import_archive(&store, Cursor::new(archive), Budget::default()).expect_err(name);
        assert!(error.is_clients(), "{name}: {error:?}");
        assert!(error.to_string().contains(said), "{name}: {error}");
        store.retain(&HashSet::new()).expect("retain");
        assert_eq!(folder.left(), (0, 0), "{name}");
        assert!(!Path::new("/tmp/berth-escaped").exists());
    }
}

#[test]
fn a_budget_stops_bombs() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("bomb");
    let store = folder.store();
    let bomb = gzip(&tar_of(|t| add(t, Regular, "zeros", "", 0o644, &vec![0; 4 << 20])));
    let small = Budget { bytes: 1 << 20, entries: 10 };
    let error = import_rootfs(&store, Cursor::new(&bomb), Config::default(), small).expect_err("bomb");
    assert!(matches!(error, Error::TooBig(_)), "{error:?}");
    let many = tar_of(|t| (0..20).for_each(|n| add(t, Regular, &format!("{n}"), "", 0o644, b"")));
    let error = import_rootfs(&store, Cursor::new(many), Config::default(), small).expect_err("many");
    assert!(matches!(error, Error::TooBig(_)), "{error:?}");
    assert_eq!(folder.left(), (0, 0));
    let image =
        import_rootfs(&store, Cursor::new(bomb), Config::default(), Budget::default()).expect("within the budget");
    let file = fs::metadata(tree(&folder, &store, &image.layers[0]).join("zeros")).expect("file");
    assert_eq!((file.len(), file.blocks()), (4 << 20, 0), "zeros are holes");
}

#[test]
fn sparse_files_of_gnu_tar_are_read() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("sparse");
    let store = folder.store();
    let file = folder.0.join("s");
    let mut out = fs::File::create(&file).expect("file");
    out.write_all(b"head").expect("write");
    out.set_len(3 << 20).expect("length");
    io::Seek::seek(&mut out, io::SeekFrom::Start(2 << 20)).expect("seek");
    out.write_all(b"middle").expect("write");
    for format in ["--format=gnu", "--format=pax --sparse-version=1.0", "--format=pax --sparse-version=0.1"] {
        let made = std::process::Command::new("tar")
            .args(["-C", folder.0.to_str().expect("path"), "--sparse"])
            .args(format.split(' '))
            .args(["-cf", "-", "s"])
            .output()
            .expect("tar");
        let image =
            import_rootfs(&store, Cursor::new(made.stdout), Config::default(), Budget::default()).expect(format);
        let found = tree(&folder, &store, &image.layers[0]).join("s");
        assert_eq!(fs::read(&found).expect("read"), fs::read(&file).expect("read"), "{format}");
        assert!(fs::metadata(&found).expect("stat").blocks() < 1000, "{format}");
    }
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, data) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(mode & 0o777);
        if mode & libc::S_IFMT == libc::S_IFLNK {
            zip.add_symlink(*name, String::from_utf8_lossy(data), options).expect("link");
        } else {
            zip.start_file(*name, options).expect("start");
            zip.write_all(data).expect("write");
        }
    }
    zip.finish().expect("zip").into_inner()
}

#[test]
fn code_archives_are_unpacked_once_and_hostile_ones_refused() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("zip");
    let store = folder.store();
    let unpack = |bytes: &[u8]| {
        let path = folder.0.join("code.zip");
        fs::write(&path, bytes).expect("write");
        unpack_zip(&store, &path, Path::new("app"), Budget { bytes: 64 << 20, entries: 100 })
    };
    let good = zip_of(&[
        ("site/index.html", 0o644, b"hi"),
        ("site/run.sh", 0o755, b"#!"),
        ("site/l", libc::S_IFLNK, b"run.sh"),
    ]);
    let (layer, _pin) = unpack(&good).expect("good");
    let app = tree(&folder, &store, &layer.digest).join("app");
    assert_eq!(fs::read(app.join("index.html")).expect("the wrapping folder is stepped into"), b"hi");
    assert_eq!(fs::metadata(app.join("run.sh")).expect("run").mode() & 0o777, 0o755);
    assert_eq!(unpack(&good).expect("again").0.digest, layer.digest);
    assert_eq!(folder.left(), (1, 0));

    let bomb = zip_of(&[("zeros", 0o644, &vec![0; 40 << 20])]);
    for (name, bytes, said) in [
        ("up", zip_of(&[("../out", 0o644, b"x")]), "leads out"),
        ("absolute", zip_of(&[("x", 0o644, b"x")]).iter().map(|b| if *b == b'x' { b'/' } else { *b }).collect(), ""),
        ("link out", zip_of(&[("a", 0o644, b"x"), ("l", libc::S_IFLNK, b"../../etc/passwd")]), "leads out"),
        ("absolute link", zip_of(&[("a", 0o644, b"x"), ("l", libc::S_IFLNK, b"/etc/passwd")]), "leads out"),
        ("through a link", zip_of(&[("l", libc::S_IFLNK, b"missing"), ("l/x", 0o644, b"x")]), "not a folder"),
        ("bomb", bomb, "more than is allowed"),
        ("cut", good[..good.len() / 2].to_vec(), "not a zip archive"),
        ("no zip", b"hello".to_vec(), "not a zip archive"),
    ] {
        let error = unpack(&bytes).expect_err(name);
        assert!(error.is_clients() && error.to_string().contains(said), "{name}: {error}");
        assert_eq!(folder.left(), (1, 0), "{name}");
    }
}

/// pax(1) tells the length of each record: a value may hold line feeds, as binary attributes and names do.
#[test]
fn records_with_line_feeds_are_read_whole() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("feeds");
    let store = folder.store();
    let tar = tar_of(|t| {
        t.append_pax_extensions([
            ("SCHILY.xattr.user.lines", &b"one\ntwo\n"[..]),
            ("path", b"a\nname with a feed".as_slice()),
        ])
        .expect("pax");
        add(t, Regular, "cut", "", 0o644, b"content");
        t.append_pax_extensions([("linkpath", &b"a\nname with a feed"[..])]).expect("pax");
        add(t, Link, "hard", "cut", 0o644, b"");
    });
    let imported = import_rootfs(&store, tar.as_slice(), Config::default(), Budget::default()).expect("import");
    let root = tree(&folder, &store, &imported.layers[0]);
    let file = root.join("a\nname with a feed");
    assert_eq!(fs::read(&file).expect("read"), b"content");
    assert_eq!(xattr(&file, c"user.lines").as_deref(), Some(&b"one\ntwo\n"[..]));
    assert_eq!(fs::metadata(root.join("hard")).expect("hard").nlink(), 2);
}

#[test]
fn what_an_archive_may_make_us_remember_is_bounded() {
    let folder = Folder::new("remember");
    let store = folder.store();
    let refused = |tar: Vec<u8>, what: &str| {
        let error = import_rootfs(&store, tar.as_slice(), Config::default(), Budget::default()).expect_err(what);
        assert!(matches!(error, Error::TooBig(_) | Error::Bad(_)), "{what}: {error}");
    };
    let long = |t: &mut tar::Builder<Vec<u8>>, name: &str| {
        t.append_pax_extensions([("path", name.as_bytes())]).expect("pax");
    };
    refused(
        tar_of(|t| {
            long(t, &"n".repeat(256));
            add(t, Regular, "x", "", 0o644, b"");
        }),
        "a name that no file system has",
    );
    refused(
        tar_of(|t| {
            long(t, &"d/".repeat(3000));
            add(t, Directory, "x", "", 0o755, b"");
        }),
        "a path that no system call takes",
    );
    // Links to what is not there, each of which is remembered.
    let path = format!("{}/", "d".repeat(250)).repeat(15);
    refused(
        tar_of(|t| {
            for n in 0..2500 {
                t.append_pax_extensions([("linkpath", format!("{path}{n}").as_bytes())]).expect("pax");
                add(t, Link, &format!("l{n}"), "x", 0o644, b"");
            }
        }),
        "links below without end",
    );
    // Headers count like content where there is more of them than entries need.
    let tar = tar_of(|t| {
        for n in 0..20 {
            t.append_pax_extensions([("comment", vec![b'c'; 100_000].as_slice())]).expect("pax");
            add(t, Regular, &format!("f{n}"), "", 0o644, b"");
        }
    });
    let budget = Budget { bytes: 1_000_000, entries: 1000 };
    let error = import_rootfs(&store, tar.as_slice(), Config::default(), budget).expect_err("headers");
    assert!(matches!(error, Error::TooBig(_)), "{error}");
    let whole = import_rootfs(&store, tar.as_slice(), Config::default(), Budget::default());
    if is_root() {
        assert!(whole.expect("import").size > 1_900_000, "what is kept on disk is counted");
    }
    assert_eq!(folder.left().1, 0);
}

/// A hard link in an upper layer to a device in a lower one: the device is looked at, not opened.
#[test]
fn a_link_to_a_device_of_a_layer_below_is_refused_without_opening_it() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("device");
    let store = folder.store();
    // A pipe stands for what does something when it is opened: with a reader, writing to it would succeed.
    let below = tar_of(|t| add(t, Fifo, "w", "", 0o600, b""));
    let above = tar_of(|t| add(t, Link, "x", "w", 0o600, b""));
    let config = config_for(&[&below, &above]);
    let error = import_archive(&store, Cursor::new(docker_old(&[&below, &above], &config)), Budget::default());
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("x is a link to w"), "{error}");
}

/// Code as a tar or a single file: as deployed to groups.
#[test]
fn code_comes_as_tar_or_war_within_the_same_bounds_as_a_zip() {
    if !is_root() {
        assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "needs root");
        println!("skipped: needs root");
        return;
    }
    let folder = Folder::new("code");
    let store = folder.store();
    type Entry<'a> = (&'a str, tar::EntryType, &'a str, usize);
    let made = |entries: &[Entry<'_>]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, target, size) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.set_uid(1000);
            header.set_gid(1000);
            header.set_mtime(1);
            header.set_size(*size as u64);
            if !target.is_empty() {
                header.set_link_name_literal(target).expect("target");
            }
            let bytes = header.as_gnu_mut().expect("gnu");
            bytes.name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, io::repeat(7).take(*size as u64)).expect("append");
        }
        archive.into_inner().expect("tar")
    };
    let unpacked = |name: &str, bytes: &[u8], under: &str| {
        let path = folder.0.join("archive");
        fs::write(&path, bytes).expect("write");
        unpack_code(&store, &path, name, Path::new(under), Budget { bytes: 64 << 20, entries: 100 })
            .map(|(layer, pin)| (store.tree(&layer.digest).expect("tree"), pin))
    };
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    let good: &[Entry<'_>] = &[
        ("site/", Directory, "", 0),
        ("site/large", Regular, "", 9 << 20),
        ("site/again", Link, "site/large", 0),
        ("site/link", Symlink, "large", 0),
    ];
    let plain = made(good);
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(&plain).expect("gzip");
    for (name, bytes) in [("a.tar", plain), ("a.tar.gz", zipped.finish().expect("gzip"))] {
        let (tree, _pin) = unpacked(name, &bytes, "app").unwrap_or_else(|e| panic!("{name}: {e}"));
        let metadata = fs::metadata(tree.join("app/large")).expect("the folder around everything is stepped into");
        assert_eq!((metadata.len(), metadata.mode() & 0o7777, metadata.uid()), (9 << 20, 0o755, 0), "{name}");
        assert_eq!(fs::metadata(tree.join("app/again")).expect("hard link").ino(), metadata.ino());
    }
    let wrong: [(&[Entry<'_>], &str); 6] = [
        (&[("../x", Regular, "", 1)], "x"),
        (&[("a", Symlink, "/etc/passwd", 0)], "leads out"),
        (&[("a/b", Symlink, "../../etc", 0)], "leads out"),
        (&[("h", Link, "/etc/passwd", 0)], "no file before it"),
        (&[("l", Symlink, "x", 0), ("h", Link, "l", 0)], "no file before it"),
        (&[("d", Char, "", 0)], "neither"),
    ];
    for (entries, what) in wrong {
        let error = unpacked("a.tar", &made(entries), "app").err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(error.to_string().contains(what) && error.is_clients(), "{what}: {error}");
    }
    let bomb = made(&[("zeros", Regular, "", 70 << 20)]);
    assert!(unpacked("a.tar", &bomb, "app").is_err_and(|e| e.is_clients()), "more than is allowed");
    for (name, bytes) in [("a.tar", &b""[..]), ("a.zip", b"hello"), ("a.war", b"hello")] {
        assert!(unpacked(name, bytes, "app").is_err_and(|e| e.is_clients()), "{name}");
    }
    let mut war = zip::ZipWriter::new(Cursor::new(Vec::new()));
    war.start_file("WEB-INF/web.xml", zip::write::SimpleFileOptions::default()).expect("file");
    let war = war.finish().expect("war").into_inner();
    let (tree, _pin) = unpacked("app-1.0.war", &war, "usr/web").expect("war");
    assert_eq!(fs::read(tree.join("usr/web/app-1.0.war")).expect("as it is"), war);
    let (tree, _pin) = unpacked("app-1.0.war", &war, "usr/web/ROOT.war").expect("war");
    assert_eq!(fs::read(tree.join("usr/web/ROOT.war")).expect("by the path's name"), war);
}

/// An image's layers, imported with what lies beside it.
fn imported(store: &Store, layers: &[&[u8]]) -> Result<berth_image::Imported, Error> {
    import_archive(store, Cursor::new(docker_old(layers, &config_for(layers))), Budget::default())
        .map(|mut all| all.remove(0))
}

#[test]
fn what_lies_beside_an_image_is_ignored() {
    if !is_root() {
        return;
    }
    let layer = tar_of(|t| add(t, Regular, "f", "", 0o644, b"f"));
    let config = config_for(&[&layer]);
    let sbom = format!("{{\"files\": \"{}\"}}", "x".repeat(6 << 20)).into_bytes();
    let small_sbom = br#"{"spdxVersion": "SPDX-2.3"}"#.to_vec();
    let statement = gzip(b"{\"statement\": 1}");
    let text = vec![b'a'; 9 << 20];
    let signature = serde_json::json!({
        "schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"{}").to_string()},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": Digest::of(&small_sbom).to_string()}],
    })
    .to_string()
    .into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": {"digest": Digest::of(&config).to_string()}, "layers": [{"digest": Digest::of(&layer).to_string()}],
    })
    .to_string()
    .into_bytes();
    let strange =
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/x", "blobs": []}).to_string().into_bytes();
    let entry = |bytes: &[u8]| serde_json::json!({"digest": Digest::of(bytes).to_string()});
    let index = serde_json::json!({"manifests": [
        {"digest": "sha512:00"},
        {"digest": Digest::of(b"nowhere").to_string()},
        entry(&signature),
        entry(&strange),
        {"digest": Digest::of(&sbom).to_string(), "platform": {}},
        {"digest": Digest::of(&statement).to_string(), "platform": {"os": "unknown", "architecture": "unknown"}},
        entry(&manifest),
    ]});
    let blobs: [&[u8]; 9] = [&sbom, &small_sbom, &statement, &text, &signature, &strange, &layer, &config, &manifest];
    let archive = tar_of(|t| {
        for blob in blobs {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(blob.len() as u64);
            t.append_data(&mut header, format!("blobs/sha256/{}", Digest::of(blob).hex()), blob).expect("append");
        }
        add(t, Regular, "blobs/sha256/readme", "", 0o644, b"no digest");
        add(t, Regular, "index.json", "", 0o644, index.to_string().as_bytes());
    });
    let folder = Folder::new("beside");
    let store = folder.store();
    let images = import_archive(&store, Cursor::new(archive), Budget::default()).expect("imported");
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].layers, [Digest::of(&layer)]);
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    if !is_root() {
        return;
    }
    let lower = tar_of(|t| {
        add(t, Directory, "d/", "", 0o755, b"");
        add(t, Regular, "d/a", "", 0o644, b"lower");
        add(t, Regular, "x", "", 0o644, b"lower");
    });
    type Names<'a> = &'a [&'a str];
    let cases: &[(Names<'_>, Names<'_>)] = &[
        (&["x", ".wh.x"], &["x=upper"]),
        (&[".wh.x", "x"], &["x=upper"]),
        (&["d/", "d/b", ".wh.d"], &["d/ opaque", "d/b=upper"]),
        (&[".wh.d", "d/", "d/b"], &["d/ opaque", "d/b=upper"]),
        (&[".wh.d", "d/b"], &["d/ opaque", "d/b=upper"]),
        (&["d/b", ".wh.d"], &["d/ opaque", "d/b=upper"]),
        (&["d/.wh.a", ".wh.d"], &["d hidden"]),
        (&[".wh.d", ".wh.d"], &["d hidden"]),
        (&["d/.wh.a", "d/a"], &["d/a=upper"]),
    ];
    for (number, (entries, expected)) in cases.iter().enumerate() {
        let upper = tar_of(|t| {
            for name in *entries {
                match name.strip_suffix('/') {
                    Some(_) => add(t, Directory, name, "", 0o755, b""),
                    None if name.contains(".wh.") => add(t, Regular, name, "", 0o600, b""),
                    None => add(t, Regular, name, "", 0o644, b"upper"),
                }
            }
        });
        let folder = Folder::new(&format!("white{number}"));
        let store = folder.store();
        let image = imported(&store, &[&lower, &upper]).unwrap_or_else(|e| panic!("{entries:?}: {e}"));
        let digest = image.config.rootfs.diff_ids[1];
        let at = tree(&folder, &store, &digest);
        for what in *expected {
            if let Some((name, content)) = what.split_once('=') {
                assert_eq!(fs::read(at.join(name)).expect(name), content.as_bytes(), "{entries:?}");
            } else if let Some(name) = what.strip_suffix("/ opaque") {
                let opaque = xattr(&at.join(name), c"trusted.overlay.opaque");
                assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{entries:?}");
            } else if let Some(name) = what.strip_suffix(" hidden") {
                let meta = fs::symlink_metadata(at.join(name)).expect(name);
                assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{entries:?}");
            }
        }
        // The tar that it came as is given back.
        let config = config_for(&[&lower, &upper]);
        let outgoing = store.outgoing(&config, &image.layers).expect("outgoing");
        if let Some(kept) = outgoing.layers.iter().find(|layer| layer.digest == digest) {
            let mut out = Vec::new();
            store.write_layer(kept, &mut out).expect("write");
            assert_eq!(Digest::of(&out), digest, "{entries:?}");
        } else {
            assert!(entries.len() == 2 && entries[0] == entries[1], "{entries:?} lost its tar");
        }
    }
}

#[test]
fn archives_come_in_every_compression() {
    if !is_root() {
        return;
    }
    let layer = tar_of(|t| add(t, Regular, "f", "", 0o644, &[7; 100_000]));
    let xz = |bytes: &[u8]| {
        let mut out = liblzma::write::XzEncoder::new(Vec::new(), 6);
        out.write_all(bytes).expect("xz");
        out.finish().expect("xz")
    };
    let bzip2 = |bytes: &[u8]| {
        let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        out.write_all(bytes).expect("bzip2");
        out.finish().expect("bzip2")
    };
    let skippable = |bytes: &[u8]| {
        let frame = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        [&frame[..], &zstd::encode_all(bytes, 3).expect("zstd")].concat()
    };
    type Compress<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let kinds: [(&str, Compress<'_>); 4] = [("xz", &xz), ("bzip2", &bzip2), ("skippable", &skippable), ("gzip", &gzip)];
    for (name, compress) in kinds {
        let folder = Folder::new(&format!("compressed-{name}"));
        let store = folder.store();
        let digest = Digest::of(&layer);
        let compressed = compress(&layer);
        let whole = compress(&docker_old(&[&layer], &config_for(&[&layer])));
        let images =
            import_archive(&store, Cursor::new(whole), Budget::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(images[0].layers, [digest], "{name}: the archive");
        let inner = docker_old(&[&compressed], &config_for(&[&layer]));
        let images =
            import_archive(&store, Cursor::new(inner), Budget::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(images[0].layers, [digest], "{name}: a layer");
        let rootfs =
            import_rootfs(&store, Cursor::new(&compressed), Config::default(), Budget::default()).expect("rootfs");
        assert_eq!(rootfs.layers, [digest], "{name}: a root file system");
        let cut = import_rootfs(
            &store,
            Cursor::new(&compressed[..compressed.len() / 2]),
            Config::default(),
            Budget::default(),
        );
        assert!(cut.is_err_and(|e| e.is_clients()), "{name}: cut short");
        // A bomb is stopped by the budget.
        let zeros = compress(&tar_of(|t| add(t, Regular, "zeros", "", 0o644, &vec![0; 4 << 20])));
        let budget = Budget { bytes: 1 << 20, entries: 10 };
        assert!(
            matches!(import_rootfs(&store, Cursor::new(zeros), Config::default(), budget), Err(Error::TooBig(_))),
            "{name}"
        );
    }
}

#[test]
fn hard_links_reach_lower_layers_as_a_container_would() {
    if !is_root() {
        return;
    }
    let first = tar_of(|t| {
        add(t, Directory, "usr/", "", 0o755, b"");
        add(t, Directory, "usr/lib/", "", 0o755, b"");
        add(t, Regular, "usr/lib/x", "", 0o644, b"x");
        add(t, Symlink, "s", "usr/lib/x", 0o777, b"");
        add(t, Regular, "hidden", "", 0o644, b"secret");
    });
    let second = tar_of(|t| {
        add(t, Symlink, "lib", "usr/lib", 0o777, b"");
        add(t, Regular, ".wh.hidden", "", 0o600, b"");
    });
    let third = tar_of(|t| {
        add(t, Link, "l1", "s", 0o777, b"");
        add(t, Link, "l2", "lib/x", 0o644, b"");
        add(t, Link, "l3", "l2", 0o644, b"");
        add(t, Link, "l4", "usr/lib/x", 0o644, b"");
    });
    let folder = Folder::new("links-below");
    let store = folder.store();
    let image = imported(&store, &[&first, &second, &third]).expect("imported");
    let at = tree(&folder, &store, image.layers.last().expect("a completion"));
    assert_eq!(fs::read_link(at.join("l1")).expect("a link"), Path::new("usr/lib/x"));
    let inode = |name: &str| fs::symlink_metadata(at.join(name)).expect(name).ino();
    assert_eq!(fs::read(at.join("l2")).expect("l2"), b"x");
    assert_eq!((inode("l2"), inode("l2")), (inode("l3"), inode("l4")), "one file, as it was");
    let wrong = tar_of(|t| add(t, Link, "l", "hidden", 0o644, b""));
    let refused = imported(&store, &[&first, &second, &wrong]);
    assert!(refused.is_err_and(|e| e.to_string().contains("which no layer has")), "what is hidden is not there");
}

#[test]
fn too_many_layers_are_refused_with_their_number() {
    if !is_root() {
        return;
    }
    let layers: Vec<Vec<u8>> =
        (0..600).map(|n| tar_of(|t| add(t, Regular, &format!("f{n}"), "", 0o644, b"x"))).collect();
    let folder = Folder::new("many");
    let store = folder.store();
    let of = |count: usize| layers[..count].iter().map(Vec::as_slice).collect::<Vec<_>>();
    let refused = imported(&store, &of(600)).map(|_| ());
    assert!(
        matches!(&refused, Err(Error::TooBig(text)) if text.contains("600") && text.contains("490")),
        "{refused:?}"
    );
    assert_eq!(imported(&store, &of(490)).expect("as many as possible").layers.len(), 490);
}

#[test]
fn deep_folders_go_out() {
    let folder = Folder::new("deep");
    let mut at: std::os::fd::OwnedFd = fs::File::open(&folder.0).expect("folder").into();
    const DEPTH: usize = 3000;
    for _ in 0..DEPTH {
        use std::os::fd::{AsRawFd, FromRawFd};
        // SAFETY: open folders and constant names; the descriptor is owned at once.
        at = unsafe {
            assert_eq!(libc::mkdirat(at.as_raw_fd(), c"d".as_ptr(), 0o755), 0);
            let fd = libc::openat(at.as_raw_fd(), c"d".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
            std::os::fd::OwnedFd::from_raw_fd(fd)
        };
    }
    fs::write(format!("/proc/self/fd/{}/f", std::os::fd::AsRawFd::as_raw_fd(&at)), "deep").expect("write");
    let mut out = Vec::new();
    berth_image::pack_difference(&folder.0, HashSet::new(), &mut out).expect("packed");
    let mut archive = tar::Archive::new(Cursor::new(out));
    let names: Vec<usize> = archive.entries().expect("entries").map(|e| e.expect("entry").path_bytes().len()).collect();
    assert_eq!((names.len(), names.last()), (DEPTH + 2, Some(&(2 * DEPTH + 1))));
    berth_runtime::remove_tree(&folder.0).expect("removed");
}

#[test]
fn holes_stay_holes() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::FileExt;
    let folder = Folder::new("holes");
    let tree_of = folder.0.join("tree");
    fs::create_dir(&tree_of).expect("folder");
    const LENGTH: u64 = 20 << 30;
    let file = fs::File::create(tree_of.join("sparse")).expect("file");
    file.set_len(LENGTH).expect("length");
    for (at, text) in [(0, "head"), (2 << 20, "middle"), (LENGTH - 4, "tail")] {
        file.write_all_at(text.as_bytes(), at).expect("write");
    }
    let only = fs::File::create(tree_of.join("only-a-hole")).expect("file");
    only.set_len(LENGTH).expect("length");
    fs::write(tree_of.join("plain"), vec![0; 3 << 20]).expect("write");
    // Many holes that are too short to be told of: all of it is data.
    let short = fs::File::create(tree_of.join("short-holes")).expect("file");
    for n in 0..200 {
        short.write_all_at(&[7; 4096], n * 36_864).expect("write");
    }
    let copied = folder.0.join("copied");
    let copy = fs::File::create(&copied).expect("file");
    let short = fs::File::open(tree_of.join("short-holes")).expect("file");
    berth_image::copy_file(&short, &copy, &mut |_| Ok(())).expect("copied");
    assert!(fs::read(&copied).expect("read") == fs::read(tree_of.join("short-holes")).expect("read"));
    let begun = std::time::Instant::now();
    let mut tar = Vec::new();
    berth_image::pack_difference(&tree_of, HashSet::new(), &mut tar).expect("packed");
    assert!(tar.len() < 13 << 20, "{} bytes", tar.len());
    let store = folder.store();
    let image = import_rootfs(&store, Cursor::new(&tar), Config::default(), Budget::default()).expect("imported");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(image.size < 9 << 20, "{} bytes are counted", image.size);
    let at = tree(&folder, &store, &image.layers[0]);
    for name in ["sparse", "only-a-hole"] {
        let meta = fs::metadata(at.join(name)).expect(name);
        assert_eq!(meta.len(), LENGTH);
        assert!(meta.blocks() < 1000, "{name}: {} blocks", meta.blocks());
    }
    assert!(fs::read(at.join("short-holes")).expect("read") == fs::read(&copied).expect("read"));
    let unpacked = fs::File::open(at.join("sparse")).expect("file");
    for (from, text) in [(0, "head"), (2 << 20, "middle"), (LENGTH - 4, "tail")] {
        let mut read = vec![0; text.len()];
        unpacked.read_exact_at(&mut read, from).expect("read");
        assert_eq!(read, text.as_bytes());
    }
    // GNU tar reads it, too.
    let out = folder.0.join("out");
    fs::create_dir(&out).expect("folder");
    fs::write(folder.0.join("all.tar"), &tar).expect("write");
    let done = std::process::Command::new("tar").arg("-xf").arg(folder.0.join("all.tar")).arg("-C").arg(&out).output();
    let done = done.expect("tar");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let meta = fs::metadata(out.join("sparse")).expect("there");
    assert!(meta.len() == LENGTH && meta.blocks() < 1000);
    // What goes out is what came in.
    let outgoing = store.outgoing(&image.raw_config, &image.layers).expect("outgoing");
    let mut again = Vec::new();
    store.write_layer(&outgoing.layers[0], &mut again).expect("write");
    assert_eq!((outgoing.layers[0].digest, Digest::of(&again)), (Digest::of(&tar), Digest::of(&tar)));
}
