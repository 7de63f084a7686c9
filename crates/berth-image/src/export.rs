//! Images on their way out: archives, compressed layers, and layers made of what a container changed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_runtime::openat2_in_root;
use serde_json::{Value, json};
use tar::EntryType;

use crate::archive::{Imported, assemble};
use crate::builder::Budget;
use crate::config::ImageConfig;
use crate::digest::{Digest, HashingWriter};
use crate::error::{Error, Named, bad};
use crate::pack::{Entry, Packer, pack_difference, pad, write_end, write_header};
use crate::store::{Layer, Pin, Store};
use crate::unpack::{compare_layer, unpack_layer};

/// A layer as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingLayer {
    /// Digest of its uncompressed tar.
    pub digest: Digest,
    /// Bytes of that tar.
    pub size: u64,
    /// The layer in the store.
    kept: Digest,
}

/// An image as it goes out.
#[derive(Debug)]
pub struct Outgoing {
    /// Digest of the configuration.
    pub id: Digest,
    /// The configuration: as it came, unless a layer's tar can't be given back as it came.
    pub config: Vec<u8>,
    /// Layers, lowest first.
    pub layers: Vec<OutgoingLayer>,
    _pin: Pin,
}

/// What an image is called in an archive.
#[derive(Debug)]
pub struct NamedImage<'a> {
    /// The image.
    pub image: &'a Outgoing,
    /// Its names, `repository:tag`.
    pub names: Vec<String>,
}

impl Store {
    /// Prepares an image: `layers` are those that it runs from.
    ///
    /// # Errors
    /// A layer is gone, or can't be read.
    pub fn outgoing(&self, raw_config: &[u8], layers: &[Digest]) -> Result<Outgoing, Error> {
        let pin = self.pin(layers.iter().copied());
        let config: ImageConfig =
            serde_json::from_slice(raw_config).map_err(|e| bad(format!("the image's configuration: {e}")))?;
        let as_it_came = config.rootfs.diff_ids.iter().all(|d| self.has_tar(d));
        if as_it_came {
            let layers = config
                .rootfs
                .diff_ids
                .iter()
                .map(|digest| Ok(OutgoingLayer { digest: *digest, size: self.tar_size(digest)?, kept: *digest }));
            let layers = layers.collect::<Result<_, Error>>()?;
            return Ok(Outgoing { id: Digest::of(raw_config), config: raw_config.to_vec(), layers, _pin: pin });
        }
        let layers = layers.iter().map(|digest| {
            if self.has_tar(digest) {
                return Ok(OutgoingLayer { digest: *digest, size: self.tar_size(digest)?, kept: *digest });
            }
            let mut out = HashingWriter::new(io::sink());
            self.pack_layer(digest, &mut out)?;
            let (packed, size) = out.finish();
            Ok(OutgoingLayer { digest: packed, size, kept: *digest })
        });
        let layers = layers.collect::<Result<Vec<_>, Error>>()?;
        let mut config: Value = serde_json::from_slice(raw_config).map_err(|e| bad(e.to_string()))?;
        config["rootfs"]["diff_ids"] = layers.iter().map(|l| Value::String(l.digest.to_string())).collect();
        // Each of its entries stands for a layer, which no longer fits.
        if let Some(config) = config.as_object_mut() {
            config.remove("history");
        }
        let config = serde_json::to_vec(&config).map_err(|e| bad(e.to_string()))?;
        Ok(Outgoing { id: Digest::of(&config), config, layers, _pin: pin })
    }

    /// The tree of a layer whose own tar was not kept, packed anew; always the same way.
    fn pack_layer(&self, digest: &Digest, out: &mut dyn Write) -> Result<(), Error> {
        let tree = self.tree(digest).ok_or_else(|| bad(format!("layer {digest} is not here")))?;
        pack_difference(&tree, HashSet::new(), out).named(|| format!("pack layer {digest}"))
    }

    /// Writes the uncompressed tar of a layer, and checks that it is what it is called.
    ///
    /// # Errors
    /// What reading or writing said, or that the layer on disk has changed.
    pub fn write_layer(&self, layer: &OutgoingLayer, out: &mut dyn Write) -> Result<(), Error> {
        let mut hashed = HashingWriter::new(out);
        if self.has_tar(&layer.kept) {
            self.write_tar(&layer.kept, &mut hashed)?;
        } else {
            self.pack_layer(&layer.kept, &mut hashed)?;
        }
        let (digest, _) = hashed.finish();
        if digest == layer.digest {
            return Ok(());
        }
        Err(bad(format!("layer {} was changed on this server's disk: its content is {digest}", layer.digest)))
    }

    /// Writes a layer compressed by gzip into the file `to`; digest and size of what was written.
    ///
    /// # Errors
    /// As [`write_layer`](Self::write_layer).
    pub fn compress_layer(&self, layer: &OutgoingLayer, to: &Path) -> Result<(Digest, u64), Error> {
        let what = || format!("write {}", to.display());
        let file = HashingWriter::new(BufWriter::with_capacity(256 * 1024, File::create(to).named(what)?));
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::new(5));
        self.write_layer(layer, &mut gzip)?;
        let mut file = gzip.finish().named(what)?;
        file.flush().named(what)?;
        Ok(file.finish())
    }
}

fn file_entry(name: &Path, size: u64) -> Entry<'_> {
    Entry {
        name,
        kind: EntryType::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: (0, 0),
        link: None,
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn blob(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// Writes an archive that is both `docker save`'s and an OCI layout.
///
/// # Errors
/// What reading or writing said.
pub fn write_archive(store: &Store, images: &[NamedImage<'_>], out: &mut dyn Write) -> Result<(), Error> {
    let what = || "write the archive".to_owned();
    let mut written = HashSet::new();
    let mut docker = Vec::new();
    let mut manifests = Vec::new();
    let small = |out: &mut dyn Write, name: &Path, bytes: &[u8]| {
        write_header(out, &file_entry(name, bytes.len() as u64))
            .and_then(|()| out.write_all(bytes))
            .and_then(|()| pad(out, bytes.len() as u64))
            .named(what)
    };
    small(out, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for NamedImage { image, names } in images {
        for layer in &image.layers {
            if !written.insert(layer.digest) {
                continue;
            }
            write_header(out, &file_entry(&blob(&layer.digest), layer.size)).named(what)?;
            store.write_layer(layer, out)?;
            pad(out, layer.size).named(what)?;
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": image.id.to_string(),
                "size": image.config.len(),
            },
            "layers": image.layers.iter().map(|l| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": l.digest.to_string(),
                "size": l.size,
            })).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).map_err(|e| bad(e.to_string()))?;
        let digest = Digest::of(&manifest);
        for (digest, bytes) in [(image.id, image.config.as_slice()), (digest, manifest.as_slice())] {
            if written.insert(digest) {
                small(out, &blob(&digest), bytes)?;
            }
        }
        docker.push(json!({
            "Config": blob(&image.id),
            "RepoTags": names,
            "Layers": image.layers.iter().map(|l| blob(&l.digest)).collect::<Vec<_>>(),
        }));
        let described = |annotations: Value| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest.to_string(),
                "size": manifest.len(),
                "annotations": annotations,
            })
        };
        if names.is_empty() {
            manifests.push(described(json!({})));
        }
        manifests.extend(names.iter().map(|name| {
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            described(json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag }))
        }));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    for (name, value) in [("manifest.json", Value::Array(docker)), ("index.json", index)] {
        small(out, Path::new(name), &serde_json::to_vec(&value).map_err(|e| bad(e.to_string()))?)?;
    }
    write_end(out).named(what)
}

/// Unpacks a layer that has the digest `expected` once uncompressed. One that is here already is not unpacked again; what comes in
/// is read all the same, and must have that digest.
///
/// # Errors
/// What is wrong with it; nothing of it is kept then.
pub fn import_layer(
    store: &Store,
    input: impl Read,
    expected: Digest,
    budget: &mut Budget,
) -> Result<(Layer, Pin), Error> {
    match store.pinned(&expected) {
        Some((layer, pin)) if layer.tar => compare_layer(input, expected, budget).map(|()| (layer, pin)),
        _ => unpack_layer(store, input, Some(expected), budget),
    }
}

/// An image whose layers are all in the store.
///
/// # Errors
/// One is not, or the configuration is not readable.
pub fn import_config(store: &Store, raw_config: Vec<u8>, names: Vec<String>) -> Result<Imported, Error> {
    let config: ImageConfig =
        serde_json::from_slice(&raw_config).map_err(|e| bad(format!("the image's configuration: {e}")))?;
    crate::archive::not_too_many(config.rootfs.diff_ids.len())?;
    let layers = config.rootfs.diff_ids.iter();
    let layers = layers.map(|d| store.layer(d).ok_or_else(|| bad(format!("layer {d} is not here"))));
    let layers = layers.collect::<Result<_, _>>()?;
    assemble(store, raw_config, layers, names, &mut Budget::default())
}

/// What a new image is made of, beside the files.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The configuration of the image that the container was made from; an empty one will do.
    pub base: Value,
    /// The layers that the container runs from.
    pub layers: Vec<Digest>,
    /// How the new image is run, instead of what the base says.
    pub config: Value,
    /// For the history.
    pub author: String,
    /// For the history.
    pub comment: String,
    /// RFC 3339.
    pub created: String,
}

/// Makes layers of their own tars of what the container has beyond its image and was not made from a tar (code, keys): only they
/// can be named in an image. To be done before the container is paused. They are kept as long as the pins live.
///
/// # Errors
/// A layer is gone, or what reading or writing said.
pub fn prepare_commit(store: &Store, commit: &mut Commit) -> Result<Vec<Pin>, Error> {
    let base: ImageConfig = serde_json::from_value(commit.base.clone()).unwrap_or_default();
    let layer = |d: &Digest| store.layer(d).ok_or_else(|| bad(format!("layer {d} is gone")));
    let chain = base.rootfs.diff_ids.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    let known = if chain.is_empty() { 0 } else { completed(store, &chain)? };
    let mut pins = vec![store.pin(commit.layers.iter().copied())];
    for digest in commit.layers.iter_mut().skip(known) {
        if layer(digest)?.tar {
            continue;
        }
        let (read, write) = io::pipe().named(|| "make a pipe".into())?;
        let (packed, unpacked) = std::thread::scope(|scope| {
            let from = *digest;
            let packing = scope.spawn(move || {
                let mut out = io::BufWriter::with_capacity(256 << 10, write);
                store.pack_layer(&from, &mut out)?;
                out.flush().named(|| format!("pack layer {from}"))
            });
            let unpacked = unpack_layer(store, read, None, &mut Budget::default());
            (packing.join(), unpacked)
        });
        packed.map_err(|_| bad(format!("packing layer {digest} was broken off")))??;
        let (made, pin) = unpacked?;
        *digest = made.digest;
        pins.push(pin);
    }
    Ok(pins)
}

/// Makes an image of `commit.layers` and one more, whose tar comes in by `difference`.
///
/// # Errors
/// What reading said.
pub fn commit(store: &Store, commit: Commit, difference: impl Read) -> Result<Imported, Error> {
    let _pin = store.pin(commit.layers.iter().copied());
    let (top, _top) = unpack_layer(store, difference, None, &mut Budget::default())?;
    let base: ImageConfig = serde_json::from_value(commit.base.clone()).unwrap_or_default();
    // Those of the image, without what was completed in them; then what the container has beyond.
    let mut chain = base.rootfs.diff_ids.clone();
    let mut layers = chain
        .iter()
        .map(|d| store.layer(d).ok_or_else(|| bad(format!("layer {d} is gone"))))
        .collect::<Result<Vec<_>, _>>()?;
    let known = if chain.is_empty() { 0 } else { completed(store, &layers)? };
    for digest in commit.layers.iter().skip(known) {
        layers.push(store.layer(digest).ok_or_else(|| bad(format!("layer {digest} is gone")))?);
        chain.push(*digest);
    }
    layers.push(top.clone());
    chain.push(top.digest);
    let mut config = commit.base;
    if !config.is_object() {
        config = json!({});
    }
    let default = |config: &mut Value, key: &str, value: &str| {
        if !config[key].is_string() {
            config[key] = Value::String(value.to_owned());
        }
    };
    default(&mut config, "architecture", crate::config::architecture());
    default(&mut config, "os", "linux");
    config["created"] = Value::String(commit.created.clone());
    config["config"] = commit.config;
    config["rootfs"] = json!({ "type": "layers", "diff_ids": chain });
    let mut history = config["history"].as_array().cloned().unwrap_or_default();
    history.push(json!({
        "created": commit.created, "author": commit.author, "created_by": "berth commit", "comment": commit.comment,
    }));
    config["history"] = Value::Array(history);
    let raw = serde_json::to_vec(&config).map_err(|e| bad(e.to_string()))?;
    assemble(store, raw, layers, Vec::new(), &mut Budget::default())
}

/// How many layers these are once completed.
fn completed(store: &Store, layers: &[Layer]) -> Result<usize, Error> {
    let raw = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| l.digest).collect::<Vec<_>>() } });
    let raw = serde_json::to_vec(&raw).map_err(|e| bad(e.to_string()))?;
    Ok(assemble(store, raw, layers.to_vec(), Vec::new(), &mut Budget::default())?.layers.len())
}

/// Copies what an image has at `path` into an empty folder, with the folder's own attributes: how a new volume begins. The
/// folder itself stays the one it is, for it may be mounted somewhere. What is broken off half way is gone on with by
/// [`finish_copy`], which comes before the next one. Nothing happens if the image has no such folder.
///
/// # Errors
/// What reading or writing said.
pub fn copy_folder(from: &OwnedFd, path: &Path, to: &Path) -> Result<(), Error> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let Ok(fd) = openat2_in_root(from.as_fd(), path, flags, 0, true) else { return Ok(()) };
    let meta = File::from(fd.try_clone().named(|| "copy a descriptor".into())?)
        .metadata()
        .named(|| format!("stat {}", path.display()))?;
    let (mut read, write) = io::pipe().named(|| "make a pipe".into())?;
    let packing = std::thread::spawn(move || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(256 * 1024, write);
        Packer::new(&mut out).add(&fd, Path::new("."))?;
        write_end(&mut out)?;
        out.flush()
    });
    let filling = to.with_extension("filling");
    if filling.exists() {
        berth_runtime::remove_tree(&filling).named(|| format!("clear {}", filling.display()))?;
    }
    fs::create_dir(&filling).named(|| format!("make {}", filling.display()))?;
    let root: OwnedFd = File::open(&filling).named(|| format!("open {}", filling.display()))?.into();
    crate::unpack::unpack_within(root, Path::new(""), &mut read, crate::Keep::ALL, Budget::default())?;
    drop(read);
    packing.join().map_err(|_| bad("copying was broken off"))?.named(|| format!("read {}", path.display()))?;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    chown(to, Some(meta.uid()), Some(meta.gid())).named(|| format!("set the owner of {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
        .named(|| format!("set the mode of {}", to.display()))?;
    let copied = to.with_extension("copied");
    fs::rename(&filling, &copied).named(|| format!("name {}", copied.display()))?;
    finish_copy(to)
}

/// Puts what [`copy_folder`] has copied in its place. Nothing to be put there is no error. What is there by now stays.
///
/// # Errors
/// What the disk said.
pub fn finish_copy(to: &Path) -> Result<(), Error> {
    let copied = to.with_extension("copied");
    let Ok(entries) = fs::read_dir(&copied) else { return Ok(()) };
    for entry in entries {
        let entry = entry.named(|| format!("list {}", copied.display()))?;
        let place = to.join(entry.file_name());
        if fs::symlink_metadata(&place).is_err() {
            fs::rename(entry.path(), &place).named(|| format!("fill {}", place.display()))?;
        }
    }
    berth_runtime::remove_tree(&copied).named(|| format!("clear {}", copied.display()))
}
