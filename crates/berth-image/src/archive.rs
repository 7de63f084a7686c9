//! Image archives: `docker save` (old and new layout), an OCI layout as tar, and a bare root file system.
//!
//! Read as a stream, in one pass and bounded memory: layers are unpacked as they come, small files are kept, and when the
//! end is reached the manifest says what belongs together. Nothing is spooled.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::builder::{Budget, clean};
use crate::config::{Config, ImageConfig, RootFs, architecture};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Named, bad};
use crate::store::{Layer, Pin, Store};
use crate::unpack::{inflate, unpack_layer};

/// Longest manifest or configuration that is read, bytes; the OCI distribution specification's own bound.
const LONGEST_JSON: u64 = 4 << 20;
/// All of them together.
const ALL_JSON: u64 = 64 << 20;

/// An image that is in the store now, under no name yet.
#[derive(Debug)]
pub struct Imported {
    /// Digest of the configuration: the image's id.
    pub id: Digest,
    /// The configuration as it came, byte for byte.
    pub raw_config: Vec<u8>,
    /// The configuration, read.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// Names that the archive gives it, `repository:tag`.
    pub names: Vec<String>,
    /// Keeps the layers until the image is written down.
    pub pin: Pin,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct OciManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What a file of the archive turned out to be.
enum Found {
    Small(Vec<u8>),
    Layer(Layer),
    /// A link (symbolic or hard) to another file of the archive.
    Link(PathBuf),
}

struct Contents<'a> {
    store: &'a Store,
    files: HashMap<PathBuf, Found>,
    pins: Vec<Pin>,
}

/// Imports every image of an archive, compressed or not. The budget is for all of it.
///
/// # Errors
/// What is wrong with the archive, or what the disk said; the store is as it was then (layers that were complete go with
/// the next [`Store::retain`]).
pub fn import_archive(store: &Store, input: impl Read, mut budget: Budget) -> Result<Vec<Imported>, Error> {
    let mut contents = Contents { store, files: HashMap::new(), pins: Vec::new() };
    let input = inflate(input).named(|| "read the archive".into())?;
    contents.read(input, &mut budget)?;
    if let Some(manifests) = contents.json::<Vec<DockerManifest>>(Path::new("manifest.json"))? {
        return manifests.iter().map(|manifest| contents.docker_image(manifest)).collect();
    }
    if let Some(index) = contents.json::<OciIndex>(Path::new("index.json"))? {
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            images.extend(contents.oci_image(descriptor, 0)?);
        }
        if images.is_empty() {
            return Err(bad(format!("the archive has no image for linux/{}", architecture())));
        }
        return Ok(images);
    }
    Err(bad("the archive has neither manifest.json (docker save) nor index.json (OCI layout)"))
}

/// Imports a tar of a root file system as an image of one layer that runs as `config` says.
///
/// # Errors
/// As [`import_archive`].
pub fn import_rootfs(store: &Store, input: impl Read, config: Config, mut budget: Budget) -> Result<Imported, Error> {
    let (layer, _pin) = unpack_layer(store, input, None, &mut budget)?;
    let config = ImageConfig {
        architecture: architecture().into(),
        os: "linux".into(),
        created: None,
        config,
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![layer.digest] },
    };
    let raw_config = serde_json::to_vec(&config).map_err(|e| bad(e.to_string()))?;
    assemble(store, raw_config, vec![layer], Vec::new())
}

impl Contents<'_> {
    fn read(&mut self, input: impl Read, budget: &mut Budget) -> Result<(), Error> {
        let mut archive = tar::Archive::new(input);
        let mut small = ALL_JSON;
        for entry in archive.entries().named(|| "read the archive".into())? {
            let mut entry = entry.named(|| "read the archive".into())?;
            budget.entries = budget
                .entries
                .checked_sub(1)
                .ok_or_else(|| Error::TooBig("the archive has too many entries".into()))?;
            let name = clean(Path::new(OsStr::from_bytes(&entry.path_bytes())))?;
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = Path::new(OsStr::from_bytes(&target)).to_owned();
                // A symbolic link is relative to its own folder, a hard link to the archive's root.
                let target = if kind.is_symlink() { beside(&name, &target)? } else { clean(&target)? };
                self.files.insert(name, Found::Link(target));
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            let size = entry.size();
            let mut head = [0; 512];
            let mut have = 0;
            while have < head.len() {
                match entry.read(&mut head[have..]) {
                    Ok(0) => break,
                    Ok(more) => have += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).named(|| format!("read {} from the archive", name.display())),
                }
            }
            let head = &head[..have];
            let blob = blob_digest(&name)?;
            if looks_like_layer(head) {
                let mut input = Hashing::new(Cursor::new(head).chain(&mut entry));
                let (layer, pin) =
                    unpack_layer(self.store, &mut input, None, budget).map_err(|error| within(error, &name))?;
                self.pins.push(pin);
                let digest = input.finish().named(|| format!("read {}", name.display()))?;
                matches_name(blob, digest)?;
                self.files.insert(name, Found::Layer(layer));
            } else if size <= LONGEST_JSON {
                small = small
                    .checked_sub(size)
                    .ok_or_else(|| Error::TooBig("the archive has too many manifests".into()))?;
                let mut bytes = head.to_vec();
                entry.read_to_end(&mut bytes).named(|| format!("read {} from the archive", name.display()))?;
                if bytes.len() as u64 != size {
                    return Err(bad(format!("{} is cut short", name.display())));
                }
                matches_name(blob, Digest::of(&bytes))?;
                self.files.insert(name, Found::Small(bytes));
            } else if head.iter().all(|b| *b == 0) {
                // A layer with nothing in it is an empty tar: zeros.
                return Err(bad(format!("{} is neither a layer nor JSON", name.display())));
            }
        }
        Ok(())
    }

    fn resolve(&self, name: &Path) -> Option<&Found> {
        let mut name = name.to_owned();
        // Links to links: as many as Linux follows.
        for _ in 0..40 {
            match self.files.get(&name)? {
                Found::Link(target) => name = target.clone(),
                found => return Some(found),
            }
        }
        None
    }

    fn small(&self, name: &Path) -> Option<&[u8]> {
        match self.resolve(name) {
            Some(Found::Small(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &Path) -> Result<Option<T>, Error> {
        self.small(name)
            .map(|bytes| {
                serde_json::from_slice(bytes).map_err(|e| bad(format!("{} is not readable: {e}", name.display())))
            })
            .transpose()
    }

    fn layer(&mut self, name: &Path) -> Result<Layer, Error> {
        match self.resolve(name) {
            Some(Found::Layer(layer)) => Ok(layer.clone()),
            // An empty tar is all zeros, and small.
            Some(Found::Small(bytes)) if bytes.iter().all(|b| *b == 0) => {
                let (layer, pin) = unpack_layer(self.store, Cursor::new(bytes), None, &mut Budget::default())?;
                self.pins.push(pin);
                Ok(layer)
            }
            Some(_) => Err(bad(format!("{} is not a layer", name.display()))),
            None => Err(bad(format!("layer {} is missing in the archive", name.display()))),
        }
    }

    fn docker_image(&mut self, manifest: &DockerManifest) -> Result<Imported, Error> {
        let name = clean(Path::new(&manifest.config))?;
        let raw =
            self.small(&name).ok_or_else(|| bad(format!("configuration {} is missing", name.display())))?.to_vec();
        let layers =
            manifest.layers.iter().map(|l| self.layer(&clean(Path::new(l))?)).collect::<Result<Vec<_>, _>>()?;
        assemble(self.store, raw, layers, manifest.repo_tags.clone().unwrap_or_default())
    }

    /// The images behind a descriptor: one for a manifest, those of this machine's platform for an index.
    fn oci_image(&mut self, descriptor: &Descriptor, depth: u32) -> Result<Vec<Imported>, Error> {
        if depth > 4 {
            return Err(bad("indexes are nested too deep"));
        }
        if let Some(platform) = &descriptor.platform
            && (platform.os != "linux" || platform.architecture != architecture())
        {
            return Ok(Vec::new());
        }
        let path = blob_path(&descriptor.digest);
        let raw = self.small(&path).ok_or_else(|| bad(format!("manifest {} is missing", descriptor.digest)))?;
        if let Ok(index) = serde_json::from_slice::<OciIndex>(raw) {
            let mut images = Vec::new();
            for inner in &index.manifests {
                let mut inner = inner.clone();
                if inner.annotations.is_empty() {
                    inner.annotations = descriptor.annotations.clone();
                }
                images.extend(self.oci_image(&inner, depth + 1)?);
            }
            return Ok(images);
        }
        let manifest: OciManifest = serde_json::from_slice(raw)
            .map_err(|e| bad(format!("manifest {} is not readable: {e}", descriptor.digest)))?;
        let config = self
            .small(&blob_path(&manifest.config.digest))
            .ok_or_else(|| bad(format!("configuration {} is missing", manifest.config.digest)))?
            .to_vec();
        let layers =
            manifest.layers.iter().map(|l| self.layer(&blob_path(&l.digest))).collect::<Result<Vec<_>, _>>()?;
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| descriptor.annotations.get(*key))
            .cloned();
        Ok(vec![assemble(self.store, config, layers, names.into_iter().collect())?])
    }
}

fn within(error: Error, name: &Path) -> Error {
    match error {
        Error::Bad(text) => bad(format!("in {}: {text}", name.display())),
        other => other,
    }
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// The digest that a blob's name promises; `None` for files that are not named by one.
fn blob_digest(name: &Path) -> Result<Option<Digest>, Error> {
    match name.strip_prefix("blobs/sha256") {
        Ok(hex) => format!("sha256:{}", hex.display()).parse().map(Some).map_err(bad),
        Err(_) => Ok(None),
    }
}

fn matches_name(promised: Option<Digest>, found: Digest) -> Result<(), Error> {
    match promised {
        Some(promised) if promised != found => Err(bad(format!("blob {promised} has the content {found}"))),
        _ => Ok(()),
    }
}

fn looks_like_layer(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || head.get(257..262) == Some(b"ustar")
        // Before ustar: a checksum at 148 that is right. An octal sum of all bytes with the sum's own field as blanks.
        || (head.len() == 512 && old_tar_checksum(head))
}

fn old_tar_checksum(head: &[u8]) -> bool {
    let field = String::from_utf8_lossy(&head[148..156]);
    let Ok(stated) = u32::from_str_radix(field.trim_matches(|c: char| c == '\0' || c == ' '), 8) else { return false };
    let sum: u32 = head.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    head[0] != 0 && stated == sum
}

/// `target` as seen from the folder of `name`, inside the archive.
fn beside(name: &Path, target: &Path) -> Result<PathBuf, Error> {
    let mut path =
        if target.is_absolute() { PathBuf::new() } else { name.parent().unwrap_or(Path::new("")).to_owned() };
    for component in target.components() {
        match component {
            std::path::Component::Normal(part) => path.push(part),
            std::path::Component::ParentDir if !path.pop() => {
                return Err(bad(format!("link {} leads out of the archive", name.display())));
            }
            _ => {}
        }
    }
    Ok(path)
}

/// Checks that layers and configuration belong together, and completes what layers left to those below them.
fn assemble(store: &Store, raw_config: Vec<u8>, layers: Vec<Layer>, names: Vec<String>) -> Result<Imported, Error> {
    let config: ImageConfig = serde_json::from_slice(&raw_config)
        .map_err(|e| bad(format!("the image's configuration is not readable: {e}")))?;
    let digests: Vec<Digest> = layers.iter().map(|l| l.digest).collect();
    if config.rootfs.diff_ids != digests {
        return Err(bad(format!(
            "the layers' content is {digests:?}, the configuration says {:?}",
            config.rootfs.diff_ids
        )));
    }
    if !config.os.is_empty() && config.os != "linux" {
        return Err(bad(format!("the image is for {}, not for linux", config.os)));
    }
    let pin = store.pin(digests.iter().copied());
    for (position, layer) in layers.iter().enumerate() {
        complete(store, layer, &digests[..position])?;
    }
    Ok(Imported {
        id: Digest::of(&raw_config),
        raw_config,
        config,
        layers: digests,
        size: layers.iter().map(|l| l.size).sum(),
        names,
        pin,
    })
}

/// Folders that a layer only implied get owner and mode from the layer below; hard links to files below become copies.
/// Harmless to repeat.
fn complete(store: &Store, layer: &Layer, below: &[Digest]) -> Result<(), Error> {
    let Some(own) = store.tree(&layer.digest) else { return Ok(()) };
    let find = |path: &Path| {
        below.iter().rev().filter_map(|digest| Some(store.tree(digest)?.join(path))).find_map(|full| {
            let metadata = fs::symlink_metadata(&full).ok()?;
            Some((full, metadata))
        })
    };
    for path in &layer.implied {
        if let Some((_, metadata)) = find(path)
            && metadata.is_dir()
        {
            let target = own.join(path);
            let what = || format!("set owner and mode of {}", path.display());
            chown(&target, Some(metadata.uid()), Some(metadata.gid())).named(what)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(metadata.mode() & 0o7777)).named(what)?;
        }
    }
    for (path, target) in &layer.links_below {
        let to = own.join(path);
        if fs::symlink_metadata(&to).is_ok() {
            continue;
        }
        let Some((from, metadata)) = find(target).filter(|(_, m)| m.is_file()) else {
            return Err(bad(format!("{} is a link to {}, which no layer has", path.display(), target.display())));
        };
        let what = || format!("copy {} for the link {}", target.display(), path.display());
        fs::copy(&from, &to).named(what)?;
        chown(&to, Some(metadata.uid()), Some(metadata.gid())).named(what)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(metadata.mode() & 0o7777)).named(what)?;
    }
    Ok(())
}
