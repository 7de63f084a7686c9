//! Image archives: `docker save` (old and new layout), an OCI layout as tar, and a bare root file system.
//!
//! Read as a stream, in one pass and bounded memory: layers are unpacked as they come, small files are kept, and when the
//! end is reached the manifest says what belongs together. Nothing is spooled.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use berth_runtime::openat2_in_root;

use crate::builder::{Budget, LayerBuilder, Meta, clean};
use crate::config::{Config, ImageConfig, RootFs, architecture};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Named, bad};
use crate::store::{Layer, Pin, Store};
use crate::unpack::{Compression, Metered, inflate, skip, unpack_layer};

/// Longest manifest or configuration that is read, bytes; the OCI distribution specification's own bound.
const LONGEST_JSON: u64 = 4 << 20;
/// Most images of one archive, and layers of one image (overlayfs' own bound).
const MOST_IMAGES: usize = 64;
/// What overlayfs takes, less those that a container puts on top.
const MOST_LAYERS: usize = 490;
/// Bytes of folder names that a mount's options have room for (a page), less those of a container's own.
const MOST_MOUNTED_NAMES: usize = 4095 - 700;
/// Entries of an index.
const MOST_ENTRIES: usize = 10_000;
/// Most bytes of names of an archive's files.
const MOST_NAMES: usize = 64 << 20;
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
    media_type: String,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Default, Deserialize, Clone)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
    variant: String,
}

#[derive(Deserialize)]
struct OciIndex {
    /// Each is read by itself: one that is not understood does not hide the others.
    manifests: Vec<serde_json::Value>,
}

impl OciIndex {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.manifests.iter().filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    subject: Option<serde::de::IgnoredAny>,
}

impl OciManifest {
    /// Signatures and statements about images look like images, but for what their layers are.
    fn is_image(&self) -> bool {
        let config = ["", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
        let layer = |layer: &Descriptor| {
            let media_type = layer.media_type.as_str();
            media_type.is_empty()
                || media_type.starts_with("application/vnd.oci.image.layer.")
                || media_type.starts_with("application/vnd.docker.image.rootfs.")
        };
        self.artifact_type.is_none()
            && self.subject.is_none()
            && config.contains(&self.config.media_type.as_str())
            && self.layers.iter().all(layer)
    }
}

/// What a file of the archive turned out to be.
enum Found {
    Small(Vec<u8>),
    Layer(Layer),
    /// A link (symbolic or hard) to another file of the archive.
    Link(PathBuf),
    /// Something that lies beside the images, such as a list of what is in them; and why it is neither of the above.
    Other(String),
}

struct Contents<'a> {
    store: &'a Store,
    files: HashMap<PathBuf, Found>,
    pins: Vec<Pin>,
    /// Bytes of names so far.
    named: usize,
}

/// Imports every image of an archive, compressed or not. The budget is for all of it.
///
/// # Errors
/// What is wrong with the archive, or what the disk said; the store is as it was then (layers that were complete go with
/// the next [`Store::retain`]).
pub fn import_archive(store: &Store, input: impl Read, mut budget: Budget) -> Result<Vec<Imported>, Error> {
    let mut contents = Contents { store, files: HashMap::new(), pins: Vec::new(), named: 0 };
    let input = inflate(input).named(|| "read the archive".into())?;
    contents.read(input, &mut budget)?;
    if let Some(manifests) = contents.json::<Vec<DockerManifest>>(Path::new("manifest.json"))? {
        if manifests.len() > MOST_IMAGES {
            return Err(Error::TooBig(format!("the archive has more than {MOST_IMAGES} images")));
        }
        return manifests.iter().map(|manifest| contents.docker_image(manifest, &mut budget)).collect();
    }
    if let Some(index) = contents.json::<OciIndex>(Path::new("index.json"))? {
        let mut found = Vec::new();
        // Why something that looked like one could not be read; told if there is no image at all.
        let mut trouble = None;
        for descriptor in &index.descriptors() {
            contents.oci_manifests(descriptor, 0, &mut found, &mut trouble)?;
        }
        let images = found.iter().map(|d| contents.oci_image(d, &mut budget)).collect::<Result<Vec<_>, _>>()?;
        if images.is_empty() {
            return Err(
                trouble.unwrap_or_else(|| bad(format!("the archive has no image for linux/{}", architecture())))
            );
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
    let mut raw_config = serde_json::to_value(&config).map_err(|e| bad(e.to_string()))?;
    raw_config["history"] = serde_json::json!([{ "created_by": "berth import" }]);
    let raw_config = serde_json::to_vec(&raw_config).map_err(|e| bad(e.to_string()))?;
    assemble(store, raw_config, vec![layer], Vec::new(), &mut budget)
}

impl Contents<'_> {
    fn read(&mut self, input: impl Read, budget: &mut Budget) -> Result<(), Error> {
        let (input, allowance) = Metered::new(input);
        let mut archive = tar::Archive::new(input);
        let mut small = ALL_JSON;
        let mut entries = archive.entries().named(|| "read the archive".into())?;
        let mut first = true;
        loop {
            allowance.for_headers();
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(|error| crate::error::not_a_tar(error, first))?;
            first = false;
            allowance.for_data();
            budget.entries = budget
                .entries
                .checked_sub(1)
                .ok_or_else(|| Error::TooBig("the archive has too many entries".into()))?;
            self.named = self.named.saturating_add(64 + entry.path_bytes().len());
            self.named = self.named.saturating_add(entry.link_name_bytes().map_or(0, |l| l.len()));
            if self.named > MOST_NAMES {
                return Err(Error::TooBig("the archive has too many names".into()));
            }
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
            let blob = blob_digest(&name);
            if looks_like_layer(head) {
                let mut input = Hashing::new(Cursor::new(head).chain(&mut entry));
                let found = match unpack_layer(self.store, &mut input, None, budget) {
                    Ok((layer, pin)) => {
                        self.pins.push(pin);
                        Found::Layer(layer)
                    }
                    // It may be no layer at all, only compressed. If an image names it, this is why it can't be.
                    Err(error) if error.is_clients() && !matches!(error, Error::TooBig(_)) => {
                        let mut rest = io::copy(&mut input, &mut io::sink());
                        if matches!(&rest, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                            rest = io::copy(&mut input, &mut io::sink());
                        }
                        rest.named(|| format!("read {} from the archive", name.display()))?;
                        Found::Other(within(error, &name).to_string())
                    }
                    Err(error) => return Err(within(error, &name)),
                };
                let digest = input.finish().named(|| format!("read {}", name.display()))?;
                matches_name(blob, digest)?;
                self.files.insert(name, found);
            } else if size <= small && may_be_small(head, size, blob.is_some()) {
                small -= size;
                let mut bytes = head.to_vec();
                entry.read_to_end(&mut bytes).named(|| format!("read {} from the archive", name.display()))?;
                if bytes.len() as u64 != size {
                    return Err(bad(format!("{} is cut short", name.display())));
                }
                matches_name(blob, Digest::of(&bytes))?;
                self.files.insert(name, Found::Small(bytes));
            } else {
                let mut input = Hashing::new(Cursor::new(head).chain(&mut entry));
                let read = io::copy(&mut input, &mut io::sink());
                let read = read.named(|| format!("read {} from the archive", name.display()))?;
                if read != size {
                    return Err(bad(format!("{} is cut short", name.display())));
                }
                matches_name(blob, input.finish().named(|| format!("read {}", name.display()))?)?;
                budget.spend(size, || format!(" (in {})", name.display()))?;
                let why = format!("{} is neither a layer nor a manifest", name.display());
                self.files.insert(name, Found::Other(why));
            }
            skip(&mut entry, budget)?;
        }
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
            Some(Found::Other(why)) => Err(bad(why.clone())),
            Some(_) => Err(bad(format!("{} is not a layer", name.display()))),
            None => Err(bad(format!("layer {} is missing in the archive", name.display()))),
        }
    }

    fn docker_image(&mut self, manifest: &DockerManifest, budget: &mut Budget) -> Result<Imported, Error> {
        let name = clean(Path::new(&manifest.config))?;
        let raw =
            self.small(&name).ok_or_else(|| bad(format!("configuration {} is missing", name.display())))?.to_vec();
        not_too_many(manifest.layers.len())?;
        let layers =
            manifest.layers.iter().map(|l| self.layer(&clean(Path::new(l))?)).collect::<Result<Vec<_>, _>>()?;
        assemble(self.store, raw, layers, manifest.repo_tags.clone().unwrap_or_default(), budget)
    }

    /// The manifests behind a descriptor: itself, or the best for this machine of an index. What is no image is passed over.
    fn oci_manifests(
        &self,
        descriptor: &Descriptor,
        depth: u32,
        found: &mut Vec<Descriptor>,
        trouble: &mut Option<Error>,
    ) -> Result<(), Error> {
        if depth > 4 || found.len() >= MOST_IMAGES {
            return Err(Error::TooBig(format!("indexes are nested too deep, or name more than {MOST_IMAGES} images")));
        }
        let is_other =
            descriptor.artifact_type.is_some() || descriptor.annotations.contains_key("vnd.docker.reference.type");
        if is_other || rank(descriptor).is_none() {
            return Ok(());
        }
        let path = blob_path(&descriptor.digest);
        let Some(raw) = self.small(&path) else {
            trouble.get_or_insert_with(|| bad(format!("manifest {} is missing", descriptor.digest)));
            return Ok(());
        };
        let Ok(index) = serde_json::from_slice::<OciIndex>(raw) else {
            match serde_json::from_slice::<OciManifest>(raw) {
                Ok(manifest) if manifest.is_image() => found.push(descriptor.clone()),
                Ok(_) => {}
                Err(error) => {
                    trouble
                        .get_or_insert_with(|| bad(format!("manifest {} is not readable: {error}", descriptor.digest)));
                }
            }
            return Ok(());
        };
        let all = index.descriptors();
        if all.len() > MOST_ENTRIES {
            return Err(Error::TooBig(format!(
                "an index has {} entries, at most {MOST_ENTRIES} are possible",
                all.len()
            )));
        }
        // Of those that say what they are for, the first of the best; the others may be for this machine, too.
        let ranks = all.iter().filter(|d| d.platform.is_some()).filter_map(rank);
        let best = ranks.max();
        let mut taken = false;
        for mut inner in all {
            if inner.platform.is_some() {
                if taken || rank(&inner) != best {
                    continue;
                }
                taken = true;
            }
            if inner.annotations.is_empty() {
                inner.annotations = descriptor.annotations.clone();
            }
            self.oci_manifests(&inner, depth + 1, found, trouble)?;
        }
        Ok(())
    }

    /// The image that a manifest describes.
    fn oci_image(&mut self, descriptor: &Descriptor, budget: &mut Budget) -> Result<Imported, Error> {
        let path = blob_path(&descriptor.digest);
        let raw = self.small(&path).ok_or_else(|| bad(format!("manifest {} is missing", descriptor.digest)))?;
        let manifest: OciManifest = serde_json::from_slice(raw)
            .map_err(|e| bad(format!("manifest {} is not readable: {e}", descriptor.digest)))?;
        let config = self
            .small(&blob_path(&manifest.config.digest))
            .ok_or_else(|| bad(format!("configuration {} is missing", manifest.config.digest)))?
            .to_vec();
        not_too_many(manifest.layers.len())?;
        let layers =
            manifest.layers.iter().map(|l| self.layer(&blob_path(&l.digest))).collect::<Result<Vec<_>, _>>()?;
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| descriptor.annotations.get(*key))
            .cloned();
        assemble(self.store, config, layers, names.into_iter().collect(), budget)
    }
}

/// How well something fits this machine; one that does not say what it is for does.
fn rank(descriptor: &Descriptor) -> Option<u32> {
    match &descriptor.platform {
        Some(platform) if !(platform.os.is_empty() && platform.architecture.is_empty()) => {
            let fits = platform.os == "linux" && platform.architecture == architecture();
            if fits { crate::platform::rank_of_variant(architecture(), None, &platform.variant, true) } else { None }
        }
        _ => Some(0),
    }
}

/// Before they are looked at one by one.
pub(crate) fn not_too_many(layers: usize) -> Result<(), Error> {
    if layers > MOST_LAYERS {
        return Err(Error::TooBig(format!("the image has {layers} layers, at most {MOST_LAYERS} are possible")));
    }
    Ok(())
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
fn blob_digest(name: &Path) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("blobs/sha256").ok()?.display()).parse().ok()
}

fn matches_name(promised: Option<Digest>, found: Digest) -> Result<(), Error> {
    match promised {
        Some(promised) if promised != found => Err(bad(format!("blob {promised} has the content {found}"))),
        _ => Ok(()),
    }
}

/// Whether a file is kept to be read as a manifest or a configuration: lists of what is in an image can be of any size, and are not.
fn may_be_small(head: &[u8], size: u64, is_blob: bool) -> bool {
    let begins = |byte: u8| head.iter().find(|b| !b.is_ascii_whitespace()).is_none_or(|first| *first == byte);
    let zeros = head.iter().all(|byte| *byte == 0);
    size <= LONGEST_JSON && (!is_blob || begins(b'{') || begins(b'[') || zeros)
}

fn looks_like_layer(head: &[u8]) -> bool {
    Compression::of(head).is_some() || head.get(257..262) == Some(b"ustar")
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
pub(crate) fn assemble(
    store: &Store,
    raw_config: Vec<u8>,
    layers: Vec<Layer>,
    names: Vec<String>,
    budget: &mut Budget,
) -> Result<Imported, Error> {
    not_too_many(layers.len())?;
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
    let mut all = Vec::with_capacity(layers.len());
    let mut pins = vec![store.pin(digests.iter().copied())];
    let mut size = 0;
    let mut counted = std::collections::HashSet::new();
    for layer in &layers {
        // One that is named twice is on disk once.
        size += if counted.insert(layer.digest) { layer.size } else { 0 };
        all.push(layer.digest);
        if let Some((extra, pin)) = completion(store, layer, &all, budget)? {
            size += extra.size;
            all.push(extra.digest);
            pins.push(pin);
        }
    }
    let pin = store.pin(all.iter().copied());
    drop(pins);
    // Each is mounted once, by a short name.
    let distinct: std::collections::HashSet<&Digest> = all.iter().collect();
    let names_mounted: usize =
        distinct.iter().filter_map(|d| store.folder_name(d)).map(|name| name.to_string().len() + 1).sum();
    if distinct.len() > MOST_LAYERS || names_mounted > MOST_MOUNTED_NAMES {
        return Err(Error::TooBig(format!(
            "the image has {} layers ({} folders with what they leave to those below them), which is more than can be mounted",
            layers.len(),
            distinct.len()
        )));
    }
    Ok(Imported { id: Digest::of(&raw_config), raw_config, config, layers: all, size, names, pin })
}

/// What a layer left to those below it (folders that it only implied, hard links to their files), as a layer of its own on
/// top of it. The layer itself is shared with other images and stays as it is.
fn completion(
    store: &Store,
    layer: &Layer,
    chain: &[Digest],
    budget: &mut Budget,
) -> Result<Option<(Layer, Pin)>, Error> {
    if layer.implied.is_empty() && layer.links_below.is_empty() || chain.len() < 2 && layer.links_below.is_empty() {
        return Ok(None);
    }
    let digest = Digest::of(format!("completion of {chain:?}").as_bytes());
    if let Some(known) = store.pinned(&digest) {
        return Ok(Some(known));
    }
    let trees: Vec<Tree> = chain.iter().rev().filter_map(|d| Tree::open(&store.tree(d)?).ok()).collect();
    let (own, below) = trees.split_first().ok_or_else(|| bad("a layer is gone"))?;
    let implied: std::collections::HashSet<&Path> = layer.implied.iter().map(PathBuf::as_path).collect();
    // The attributes of a folder: the layer's own if it describes it, else of the topmost below that has it.
    let folder = |path: &Path| {
        let implied = implied.contains(path);
        let mine = if implied { None } else { own.folder(path) };
        mine.or_else(|| below.iter().find_map(|tree| tree.folder(path))).or_else(|| own.folder(path))
    };
    let mut builder = LayerBuilder::new(store)?;
    let mut done = std::collections::BTreeSet::new();
    let parents = layer.links_below.iter().filter_map(|(path, _)| path.parent().map(Path::to_owned));
    for path in layer.implied.iter().cloned().chain(parents) {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if done.insert(ancestor.to_owned())
                && let Some(meta) = folder(ancestor)
            {
                builder.directory(ancestor, &meta)?;
            }
        }
    }
    // Where a link's target was made here already: further links are to that.
    let mut made: HashMap<PathBuf, PathBuf> = HashMap::new();
    for (path, target) in &layer.links_below {
        let nobody = || bad(format!("{} is a link to {}, which no layer has", path.display(), target.display()));
        if let Some(first) = made.get(target) {
            builder.hard_link(path, first)?;
            made.insert(path.clone(), first.clone());
            continue;
        }
        let (resolved, found) = find(below, target).ok_or_else(nobody)?;
        if let Some(first) = made.get(&resolved) {
            builder.hard_link(path, first)?;
        } else {
            match found {
                Target::File(mut data, meta) => drop(builder.file(path, &meta, &mut data, budget)?),
                Target::Link(to, meta) => builder.symlink(path, &to, &meta)?,
            }
            made.insert(resolved, path.clone());
            made.insert(target.clone(), path.clone());
        }
        made.insert(path.clone(), path.clone());
    }
    builder.finish(digest).map(Some)
}

/// A layer's tree, looked into without ever leaving it.
struct Tree(OwnedFd);

impl Tree {
    fn open(path: &Path) -> io::Result<Self> {
        fs::File::open(path).map(|f| Self(f.into()))
    }

    fn at(&self, path: &Path, flags: i32) -> Option<(fs::File, Meta)> {
        let fd = openat2_in_root(self.0.as_fd(), path, flags | libc::O_NOFOLLOW, 0, true).ok()?;
        let file = fs::File::from(fd);
        let m = file.metadata().ok()?;
        let mtime = (m.mtime(), m.mtime_nsec());
        Some((file, Meta { uid: m.uid(), gid: m.gid(), mode: m.mode(), mtime, xattrs: Vec::new() }))
    }

    fn folder(&self, path: &Path) -> Option<Meta> {
        self.at(path, libc::O_RDONLY | libc::O_DIRECTORY).map(|(_, meta)| meta)
    }

    /// What is at a path itself; nothing of it is opened, only looked at.
    fn seen(&self, path: &Path) -> Option<(OwnedFd, Meta, fs::Metadata)> {
        let (file, meta) = self.at(path, libc::O_PATH)?;
        let metadata = file.metadata().ok()?;
        Some((file.into(), meta, metadata))
    }
}

/// What a hard link may be to.
enum Target {
    File(fs::File, Meta),
    Link(PathBuf, Meta),
}

/// Symbolic links on the way to something, as many as Linux follows.
const MOST_HOPS: u32 = 40;

/// What a container that has these layers (topmost first) sees at `path`, links on the way followed and one at the end not;
/// and where that is. A file that is hidden is not there.
fn find(trees: &[Tree], path: &Path) -> Option<(PathBuf, Target)> {
    let mut waiting: Vec<std::ffi::OsString> = path.iter().rev().map(std::ffi::OsStr::to_owned).collect();
    let mut at = PathBuf::new();
    let mut visible: Vec<&Tree> = trees.iter().collect();
    let mut hops = 0;
    while let Some(name) = waiting.pop() {
        if name == ".." {
            at.pop();
            visible = seen_folder(trees, &at)?;
            continue;
        }
        if matches!(name.as_bytes(), b"" | b"." | b"/") {
            continue;
        }
        let next = at.join(&name);
        let mut folders = Vec::new();
        let mut other = None;
        for tree in &visible {
            let Some((fd, meta, metadata)) = tree.seen(&next) else { continue };
            if metadata.is_dir() {
                folders.push(*tree);
                if crate::pack::is_opaque(&fd) {
                    break;
                }
                continue;
            }
            let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            if folders.is_empty() && !whiteout {
                other = Some((fd, meta, metadata));
            }
            break;
        }
        if let Some((fd, mut meta, metadata)) = other {
            if metadata.is_symlink() {
                let to = crate::pack::read_link(&fd).ok()?;
                if waiting.is_empty() {
                    return Some((next, Target::Link(to, meta)));
                }
                hops += 1;
                if hops > MOST_HOPS {
                    return None;
                }
                if to.is_absolute() {
                    at = PathBuf::new();
                    visible = trees.iter().collect();
                }
                waiting.extend(to.iter().rev().map(std::ffi::OsStr::to_owned));
                continue;
            }
            if !waiting.is_empty() || !metadata.is_file() {
                return None;
            }
            meta.xattrs = crate::pack::xattrs(&fd);
            return Some((next, Target::File(crate::pack::reopen(&fd, false).ok()?, meta)));
        }
        if folders.is_empty() {
            return None;
        }
        (at, visible) = (next, folders);
    }
    None
}

/// The layers whose content of a folder is seen, from the root on.
fn seen_folder<'t>(trees: &'t [Tree], path: &Path) -> Option<Vec<&'t Tree>> {
    let mut visible: Vec<&Tree> = trees.iter().collect();
    let mut at = PathBuf::new();
    for name in path {
        at.push(name);
        let mut folders = Vec::new();
        for tree in visible {
            let Some((fd, _, metadata)) = tree.seen(&at) else { continue };
            if !metadata.is_dir() {
                break;
            }
            folders.push(tree);
            if crate::pack::is_opaque(&fd) {
                break;
            }
        }
        if folders.is_empty() {
            return None;
        }
        visible = folders;
    }
    Some(visible)
}
