//! Images from and to registries (OCI distribution specification). What travels is decided here; how, below [`Registry`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_image::{Budget, Digest, import_config, import_layer};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::core::Core;
use crate::error::{Error, Field};
use crate::images::{Image, Origin, full_name};
use berth_identity::Caller;
use berth_types::{now, random_hex};

/// Longest manifest or configuration, bytes; the specification's own bound.
const LONGEST_JSON: u64 = 4 << 20;
/// Layers of one image that travel at a time.
const LAYERS_AT_ONCE: usize = 4;
/// How often a layer whose content turned out wrong is asked for.
const ATTEMPTS: u32 = 3;
/// Between two words about the progress of a layer.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

/// Where an image is, or goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Host, with its port if it is not the scheme's own; `docker.io` for Docker Hub.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// Tag, or a digest.
    pub reference: String,
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

impl ImageReference {
    /// Reads a name as Docker does: `nginx` is `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(name: &str) -> Result<Self, Error> {
        let full = full_name(name)?;
        let (path, reference) = match full.split_once('@') {
            Some((path, digest)) => (path.to_owned(), digest.to_owned()),
            None => full.rsplit_once(':').map(|(p, t)| (p.to_owned(), t.to_owned())).unwrap_or_default(),
        };
        let is_host = |part: &str| part.contains('.') || part.contains(':') || part == "localhost";
        let (registry, repository) = match path.split_once('/') {
            Some((host, rest)) if is_host(host) => (host.to_owned(), rest.to_owned()),
            _ => ("docker.io".to_owned(), path),
        };
        let hub = matches!(registry.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let registry = if hub { "docker.io".to_owned() } else { registry };
        let repository = if hub && !repository.contains('/') { format!("library/{repository}") } else { repository };
        Ok(Self { registry, repository, reference })
    }
}

/// A user's name and password at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User's name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// As whom, and how far, registries are asked.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The login, if there is one.
    pub login: Option<Login>,
    /// Whether a registry that only the client names may be on loopback and private addresses.
    pub private: bool,
}

/// Why a registry did not do what it was asked. Texts are for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The login is missing, wrong, or may not.
    #[error("{0}")]
    Denied(String),
    /// It can't be reached, or breaks off again and again.
    #[error("{0}")]
    Unreachable(String),
    /// What it sends is not what it should be.
    #[error("{0}")]
    Wrong(String),
}

/// A blob on its way in.
#[async_trait]
pub trait Blob: Send {
    /// The next bytes; `None` at the end, when the digest of all was right. Connections that break are taken up again where
    /// they stood.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RegistryError>;
}

/// Reports bytes that have gone out.
pub type Sent<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// What speaks to registries.
#[async_trait]
pub trait Registry: Send + Sync {
    /// A manifest's bytes and media type. `reference` instead of the image's own, if it is given; where that is a digest, it is
    /// the bytes' own.
    async fn manifest(
        &self,
        image: &ImageReference,
        reference: Option<&str>,
        access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError>;

    /// A blob.
    async fn blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        size: u64,
        access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError>;

    /// Puts a blob there, unless it is there already. Whether it had to be sent.
    async fn push_blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        file: &Path,
        access: &Access,
        sent: Sent<'_>,
    ) -> Result<bool, RegistryError>;

    /// Puts a manifest there, under the image's own reference.
    async fn push_manifest(
        &self,
        image: &ImageReference,
        manifest: &[u8],
        media_type: &str,
        access: &Access,
    ) -> Result<(), RegistryError>;

    /// Whether the login is good; `private` as in [`Access`].
    async fn check(&self, registry: &str, login: &Login, private: bool) -> Result<(), RegistryError>;
}

/// How a layer (or the configuration) is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Digest of the blob.
    pub digest: String,
    /// What is done with it.
    pub status: ProgressStatus,
    /// Bytes that have travelled.
    pub current: u64,
    /// Bytes in all; 0 if that is not known.
    pub total: u64,
}

/// What is done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStatus {
    /// It is on its way in.
    Downloading,
    /// It was wrong, and is asked for once more.
    Retrying,
    /// It is being packed.
    Compressing,
    /// It is on its way out.
    Uploading,
    /// It is there.
    Done,
    /// It was there already.
    Exists,
}

impl ProgressStatus {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Downloading => "downloading",
            Self::Retrying => "retrying",
            Self::Compressing => "compressing",
            Self::Uploading => "uploading",
            Self::Done => "done",
            Self::Exists => "exists",
        }
    }
}

/// Where progress is told; nobody need listen.
pub type Progresses = mpsc::Sender<Progress>;

/// A login without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLogin {
    /// Host and port.
    pub registry: String,
    /// User's name.
    pub username: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<PlatformField>,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// Whether it may be an image, for all that the index says.
    fn may_be_image(&self) -> bool {
        let says_nothing = self.platform.as_ref().is_none_or(|p| p.os.is_empty() && p.architecture.is_empty());
        says_nothing && self.artifact_type.is_none() && !self.annotations.contains_key("vnd.docker.reference.type")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlatformField {
    architecture: String,
    os: String,
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyManifest {
    #[serde(default)]
    schema_version: u32,
    /// Each is read by itself: one that is not understood does not hide the others.
    #[serde(default)]
    manifests: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// `linux/arm64/v8` in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    fn read(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text.filter(|t| !t.is_empty()) else {
            return Ok(Self { os: "linux".into(), architecture: berth_image::architecture().into(), variant: None });
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() < 2 && !os.is_empty() && !architecture.is_empty() => Ok(Self {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: rest.first().map(|v| (*v).to_owned()),
            }),
            _ => Err(Error::invalid(Field::Platform, format!("{text:?} is not os/architecture, such as linux/amd64"))),
        }
    }

    /// How well something fits, the more the better; `None` if it does not.
    fn rank(&self, offered: &PlatformField) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let own = self.architecture == berth_image::architecture();
        berth_image::rank_of_variant(&self.architecture, self.variant.as_deref(), &offered.variant, own)
    }

    /// Whether a configuration is of this platform; one that says nothing is.
    fn is_of(&self, config: &berth_image::ImageConfig) -> bool {
        let same = |have: &str, wanted: &str| have.is_empty() || have == wanted;
        same(&config.architecture, &self.architecture) && same(&config.os, &self.os)
    }
}

/// Bytes that come in by a channel, for a thread that blocks.
struct Incoming {
    chunks: mpsc::Receiver<Result<Vec<u8>, RegistryError>>,
    rest: io::Cursor<Vec<u8>>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.rest.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => self.rest = io::Cursor::new(chunk),
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
    }
}

/// Entries of an index that do not say what they are for, of which as many are looked at.
const MOST_CANDIDATES: usize = 8;

fn wrong(text: impl Into<String>) -> Error {
    Error::Registry(RegistryError::Wrong(text.into()))
}

impl Core {
    async fn access_for(&self, caller: &Caller, registry: &str, given: Option<Login>) -> Result<Access, Error> {
        let login = self.login_for(caller, registry, given).await?;
        Ok(Access { login, private: self.identity().private_allowed(caller).await? })
    }

    /// The login that was given, or the one that is kept for the registry.
    async fn login_for(&self, caller: &Caller, registry: &str, given: Option<Login>) -> Result<Option<Login>, Error> {
        if given.is_some() {
            return Ok(given);
        }
        let account = caller.account;
        let all = self.read(move |tx| Ok(tx.registry_logins(account)?)).await?;
        let Some(kept) = all.into_iter().find(|l| l.registry == registry) else { return Ok(None) };
        let password = self.identity().secrets().open_sealed(&about(account, registry), &kept.secret)?;
        Ok(Some(Login { username: kept.username, password }))
    }

    /// Checks a login and keeps it, encrypted.
    ///
    /// # Errors
    /// That the registry refuses it, or can't be reached.
    pub async fn registry_login(&self, caller: &Caller, registry: &str, login: Login) -> Result<(), Error> {
        let registry = registry_name(registry)?;
        if login.username.is_empty() || login.username.contains(':') {
            return Err(Error::invalid(Field::Username, "a name without ':' is required"));
        }
        let private = self.identity().private_allowed(caller).await?;
        self.inner.registry.check(&registry, &login, private).await?;
        let row = berth_store::RegistryLogin {
            account_id: caller.account,
            secret: self.identity().secrets().seal(&about(caller.account, &registry), &login.password)?,
            registry,
            username: login.username,
            created_at: now(),
        };
        self.write(move |tx| Ok(tx.registry_login_put(&row)?)).await
    }

    /// The account's logins.
    ///
    /// # Errors
    /// The database's own.
    pub async fn registry_logins(&self, caller: &Caller) -> Result<Vec<KnownLogin>, Error> {
        let account = caller.account;
        let all = self.read(move |tx| Ok(tx.registry_logins(account)?)).await?;
        let known = |l: berth_store::RegistryLogin| KnownLogin {
            registry: l.registry,
            username: l.username,
            created_at: l.created_at,
        };
        Ok(all.into_iter().map(known).collect())
    }

    /// Forgets a login.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn registry_logout(&self, caller: &Caller, registry: &str) -> Result<(), Error> {
        let (account, registry) = (caller.account, registry_name(registry)?);
        let name = registry.clone();
        if self.write(move |tx| Ok(tx.registry_login_remove(account, &name)?)).await? {
            Ok(())
        } else {
            Err(Error::NotFound { what: "login", name: registry })
        }
    }

    /// Fetches an image that the settings name, wherever it is.
    pub(crate) async fn image_pull_named_here(&self, caller: &Caller, name: &str) -> Result<Image, Error> {
        let registry = ImageReference::read(name)?.registry;
        let access = Access { login: self.login_for(caller, &registry, None).await?, private: true };
        self.image_pull_with(caller, name, None, access, mpsc::channel(1).0).await
    }

    /// Fetches an image. It is fetched to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// What the registry said, or that there is no room for it.
    pub async fn image_pull(
        &self,
        caller: &Caller,
        name: &str,
        platform: Option<&str>,
        login: Option<Login>,
        progress: Progresses,
    ) -> Result<Image, Error> {
        let access = self.access_for(caller, &ImageReference::read(name)?.registry, login).await?;
        self.image_pull_with(caller, name, platform, access, progress).await
    }

    async fn image_pull_with(
        &self,
        caller: &Caller,
        name: &str,
        platform: Option<&str>,
        access: Access,
        progress: Progresses,
    ) -> Result<Image, Error> {
        let reference = ImageReference::read(name)?;
        let (full, platform) = (full_name(name)?, Platform::read(platform)?);
        let (core, caller) = (self.clone(), *caller);
        let work = tokio::spawn(async move {
            // One of a kind at a time: the next finds what the first has fetched.
            let turn = core.inner.pulls.turn(&reference);
            let _turn = turn.lock().await;
            // Each layer that comes in holds a thread for as long as the registry takes.
            let _place = core.inner.pulls_at_once.take(caller.account).await;
            core.pull(&caller, &reference, full, &platform, &access, &progress).await
        });
        work.await.map_err(|e| Error::Bug(e.to_string()))?
    }

    async fn pull(
        &self,
        caller: &Caller,
        image: &ImageReference,
        name: String,
        platform: &Platform,
        access: &Access,
        progress: &Progresses,
    ) -> Result<Image, Error> {
        let manifest = self.find_manifest(image, platform, access).await?;
        let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
            return Err(wrong(format!("{image} is no image: its manifest has no configuration or no layers")));
        };
        let raw = self.small_blob(image, &config, access).await?;
        let read: berth_image::ImageConfig =
            serde_json::from_slice(&raw).map_err(|e| wrong(format!("the configuration of {image}: {e}")))?;
        if !platform.is_of(&read) {
            let (wanted, have) = (&platform.architecture, &read.architecture);
            let text = format!("{image} is not there for {}/{wanted}, but for {}/{have}", platform.os, read.os);
            return Err(Error::Registry(RegistryError::NotFound(text)));
        }
        if read.rootfs.diff_ids.len() != layers.len() {
            let have = read.rootfs.diff_ids.len();
            return Err(wrong(format!("{image} has {} layers, its configuration tells of {have}", layers.len())));
        }
        let diff_ids = read.rootfs.diff_ids;
        let images = self.inner.images.clone();
        // From here on nobody collects what comes in.
        let pin = images.pin(diff_ids.iter().copied());
        let budget = self.image_budget(caller).await?;
        let known = self.layers_known(caller.account).await?;
        let turns = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        let mut tasks = tokio::task::JoinSet::new();
        // One that is named twice is fetched once.
        let mut begun = HashSet::new();
        for (layer, diff_id) in layers.into_iter().zip(diff_ids) {
            if !begun.insert(diff_id) {
                continue;
            }
            let known = known.contains(&diff_id);
            let (core, image, access) = (self.clone(), image.clone(), access.clone());
            let (turns, progress) = (turns.clone(), progress.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire().await;
                core.pull_layer(&image, &layer, (diff_id, known), &access, budget, &progress).await
            });
        }
        let mut result = Ok(());
        while let Some(done) = tasks.join_next().await {
            if let Err(error) = done.map_err(|e| Error::Bug(e.to_string())).and_then(|r| r)
                && result.is_ok()
            {
                result = Err(error);
                tasks.abort_all();
            }
        }
        let kept = match result {
            Ok(()) => {
                let images = self.inner.images.clone();
                let made = tokio::task::spawn_blocking(move || import_config(&images, raw, Vec::new()));
                let imported = made.await.map_err(|e| Error::Bug(e.to_string()))??;
                self.image_keep(caller, imported, vec![name], Origin::Pulled).await
            }
            Err(error) => Err(error),
        };
        drop(pin);
        if kept.is_err() {
            self.collect_layers_soon();
        }
        kept
    }

    /// The manifest for the platform, through an index if there is one.
    async fn find_manifest(
        &self,
        image: &ImageReference,
        platform: &Platform,
        access: &Access,
    ) -> Result<AnyManifest, Error> {
        let mut reference: Option<String> = None;
        for _ in 0..4 {
            let (bytes, _) = self.inner.registry.manifest(image, reference.as_deref(), access).await?;
            let manifest: AnyManifest =
                serde_json::from_slice(&bytes).map_err(|e| wrong(format!("the manifest of {image}: {e}")))?;
            if manifest.schema_version == 1 {
                return Err(wrong(format!("{image} has a manifest of schema 1, which is too old to be verified")));
            }
            let Some(manifests) = &manifest.manifests else { return Ok(manifest) };
            let manifests: Vec<Descriptor> =
                manifests.iter().filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect();
            let ranked = manifests.iter().filter_map(|d| Some((platform.rank(d.platform.as_ref()?)?, d)));
            // The first of those that fit best.
            let best = ranked.fold(None, |best: Option<(u32, &Descriptor)>, next| match best {
                Some(best) if best.0 >= next.0 => Some(best),
                _ => Some(next),
            });
            let fitting = match best {
                Some((_, fitting)) => Some(fitting),
                // Some do not say what they are for: their configurations do.
                None => {
                    let mut found = None;
                    for candidate in manifests.iter().filter(|d| d.may_be_image()).take(MOST_CANDIDATES) {
                        if self.is_image_for(image, &candidate.digest, platform, access).await? {
                            found = Some(candidate);
                            break;
                        }
                    }
                    found
                }
            };
            let Some(fitting) = fitting else {
                let offered: Vec<String> = manifests
                    .iter()
                    .filter_map(|d| d.platform.as_ref())
                    .filter(|p| !matches!(p.os.as_str(), "unknown" | ""))
                    .map(|p| [&p.os, &p.architecture, &p.variant].map(String::as_str).join("/"))
                    .map(|name| name.trim_end_matches('/').to_owned())
                    .collect();
                let mut wanted = format!("{}/{}", platform.os, platform.architecture);
                if let Some(variant) = &platform.variant {
                    wanted = format!("{wanted}/{variant}");
                }
                let text = format!("{image} is not there for {wanted}, but for {}", offered.join(", "));
                return Err(Error::Registry(RegistryError::NotFound(text)));
            };
            reference = Some(fitting.digest.to_string());
        }
        Err(wrong(format!("{image}: indexes are nested too deep")))
    }

    /// Whether a manifest of an index is an image of that platform, by its configuration; an index in it counts.
    async fn is_image_for(
        &self,
        image: &ImageReference,
        digest: &Digest,
        platform: &Platform,
        access: &Access,
    ) -> Result<bool, Error> {
        let (bytes, _) = self.inner.registry.manifest(image, Some(&digest.to_string()), access).await?;
        let Ok(manifest) = serde_json::from_slice::<AnyManifest>(&bytes) else { return Ok(false) };
        if manifest.manifests.is_some() {
            return Ok(true);
        }
        let (Some(config), Some(_)) = (manifest.config, manifest.layers) else { return Ok(false) };
        let raw = self.small_blob(image, &config, access).await?;
        Ok(serde_json::from_slice::<berth_image::ImageConfig>(&raw).is_ok_and(|config| platform.is_of(&config)))
    }

    /// Layers that images of the account have, and those that all accounts share.
    async fn layers_known(&self, account: i64) -> Result<HashSet<Digest>, Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Rootfs {
            diff_ids: Vec<Digest>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Config {
            rootfs: Rootfs,
        }
        self.read(move |tx| {
            let mut images = tx.images(account, 0, u32::MAX)?;
            images.extend(tx.images_shared()?);
            let configs = images.iter().filter_map(|row| serde_json::from_str::<Config>(&row.config).ok());
            Ok(configs.flat_map(|config| config.rootfs.diff_ids).collect())
        })
        .await
    }

    async fn small_blob(
        &self,
        image: &ImageReference,
        descriptor: &Descriptor,
        access: &Access,
    ) -> Result<Vec<u8>, Error> {
        if descriptor.size > LONGEST_JSON {
            return Err(wrong(format!("the configuration of {image} is longer than {LONGEST_JSON} bytes")));
        }
        let read = async || -> Result<Vec<u8>, Error> {
            let mut blob = self.inner.registry.blob(image, &descriptor.digest, descriptor.size, access).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = blob.next().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > LONGEST_JSON {
                    return Err(wrong(format!("the configuration of {image} is longer than {LONGEST_JSON} bytes")));
                }
            }
            Ok(bytes)
        };
        let mut attempt = 1;
        loop {
            match read().await {
                // Wrong content: another mirror may have it right.
                Err(Error::Registry(RegistryError::Wrong(_))) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    async fn pull_layer(
        &self,
        image: &ImageReference,
        layer: &Descriptor,
        (diff_id, known): (Digest, bool),
        access: &Access,
        budget: Budget,
        progress: &Progresses,
    ) -> Result<(), Error> {
        let tell = |status, current| {
            let told = Progress { digest: layer.digest.to_string(), status, current, total: layer.size };
            // A listener who is slow misses a word, nothing else.
            let _ = progress.try_send(told);
        };
        // Whoever names a digest need not have the content: only what the account has already is not asked for.
        if known && self.inner.images.has_layer_of_tar(&diff_id) {
            tell(ProgressStatus::Exists, layer.size);
            return Ok(());
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.pull_once(image, layer, diff_id, access, budget, &tell).await {
                Ok(()) => {
                    tell(ProgressStatus::Done, layer.size);
                    return Ok(());
                }
                Err(error) => error,
            };
            // Content that is wrong may be right from another mirror, or another time. The disk's troubles stay.
            let again = matches!(&error, Error::Invalid { .. } | Error::Registry(RegistryError::Wrong(_)));
            if !again || attempt >= ATTEMPTS {
                let foreign = ["foreign", "nondistributable"].iter().any(|kind| layer.media_type.contains(kind));
                return Err(match error {
                    Error::Registry(RegistryError::NotFound(text)) if foreign => wrong(format!(
                        "layer {} of {image} is kept elsewhere than in the registry ({}): {text}",
                        layer.digest,
                        layer.urls.join(", ")
                    )),
                    Error::Invalid { message, .. } => wrong(format!("layer {} of {image}: {message}", layer.digest)),
                    other => other,
                });
            }
            tell(ProgressStatus::Retrying, 0);
        }
    }

    async fn pull_once(
        &self,
        image: &ImageReference,
        layer: &Descriptor,
        diff_id: Digest,
        access: &Access,
        mut budget: Budget,
        tell: &(impl Fn(ProgressStatus, u64) + Sync),
    ) -> Result<(), Error> {
        let mut blob = self.inner.registry.blob(image, &layer.digest, layer.size, access).await?;
        let (chunks, incoming) = mpsc::channel(32);
        let images = self.inner.images.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let input = Incoming { chunks: incoming, rest: io::Cursor::default() };
            import_layer(&images, input, diff_id, &mut budget).map(drop)
        });
        let mut told = Instant::now();
        let mut current = 0;
        let mut failed = None;
        loop {
            match blob.next().await {
                Ok(Some(chunk)) => {
                    current += chunk.len() as u64;
                    if told.elapsed() > PROGRESS_PERIOD {
                        told = Instant::now();
                        tell(ProgressStatus::Downloading, current);
                    }
                    if chunks.send(Ok(chunk)).await.is_err() {
                        // Unpacking has ended early; it says why.
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = chunks.send(Err(error.clone())).await;
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(chunks);
        let unpacked = unpacking.await.map_err(|e| Error::Bug(e.to_string()))?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(unpacked?),
        }
    }

    /// Sends an image to a registry, under the name that it has here.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what the registry said.
    pub async fn image_push(
        &self,
        caller: &Caller,
        name: &str,
        login: Option<Login>,
        progress: Progresses,
    ) -> Result<Digest, Error> {
        let reference = ImageReference::read(name)?;
        if reference.reference.contains(':') {
            return Err(Error::invalid(Field::Image, "an image is pushed under a tag, not under a digest"));
        }
        let access = self.access_for(caller, &reference.registry, login).await?;
        let _place = self.inner.pushes_at_once.take(caller.account).await;
        let outgoing = Arc::new(self.image_outgoing(caller, name).await?);
        let turns = Arc::new(Semaphore::new(2));
        let mut tasks = tokio::task::JoinSet::new();
        let mut begun = HashSet::new();
        for layer in outgoing.layers.iter().filter(|layer| begun.insert(layer.digest)).cloned() {
            let (core, reference, access) = (self.clone(), reference.clone(), access.clone());
            let (turns, progress, kept) = (turns.clone(), progress.clone(), outgoing.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire().await;
                let of = layer.digest;
                let pushed = core.push_layer(&reference, layer, &access, &progress).await;
                drop(kept);
                pushed.map(|sent| (of, sent))
            });
        }
        let mut sent = HashMap::new();
        while let Some(done) = tasks.join_next().await {
            let (of, blob) = done.map_err(|e| Error::Bug(e.to_string()))??;
            sent.insert(of, blob);
        }
        // One that the image names twice was sent once.
        let layers: Vec<(Digest, u64)> =
            outgoing.layers.iter().filter_map(|layer| sent.get(&layer.digest).copied()).collect();
        let file = self.work_file("config");
        let written = tokio::fs::write(&file.0, &outgoing.config).await;
        written.map_err(|e| Error::Bug(format!("write a configuration: {e}")))?;
        self.inner.registry.push_blob(&reference, &outgoing.id, &file.0, &access, &|_| {}).await?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": outgoing.id.to_string(),
                "size": outgoing.config.len(),
            },
            "layers": layers.iter().map(|(digest, size)| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest.to_string(),
                "size": size,
            })).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).map_err(|e| Error::Bug(e.to_string()))?;
        self.inner.registry.push_manifest(&reference, &manifest, media_type, &access).await?;
        Ok(Digest::of(&manifest))
    }

    pub(crate) fn work_file(&self, what: &str) -> crate::apps::Temporary {
        crate::apps::Temporary(self.inner.images.work_folder().join(format!("{what}-{}", random_hex(8))))
    }

    async fn push_layer(
        &self,
        image: &ImageReference,
        layer: berth_image::OutgoingLayer,
        access: &Access,
        progress: &Progresses,
    ) -> Result<(Digest, u64), Error> {
        self.room().await?;
        let file = self.work_file("push");
        let (images, path, packed) = (self.inner.images.clone(), file.0.clone(), layer.clone());
        let tell = |digest: &Digest, status, current, total| {
            let _ = progress.try_send(Progress { digest: digest.to_string(), status, current, total });
        };
        tell(&layer.digest, ProgressStatus::Compressing, 0, layer.size);
        let compressing = tokio::task::spawn_blocking(move || images.compress_layer(&packed, &path));
        let (digest, size) = compressing.await.map_err(|e| Error::Bug(e.to_string()))??;
        let told = Mutex::new(Instant::now());
        let sent = |bytes: u64| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() > PROGRESS_PERIOD {
                *told = Instant::now();
                tell(&layer.digest, ProgressStatus::Uploading, bytes, size);
            }
        };
        let was_sent = self.inner.registry.push_blob(image, &digest, &file.0, access, &sent).await?;
        tell(&layer.digest, if was_sent { ProgressStatus::Done } else { ProgressStatus::Exists }, size, size);
        Ok((digest, size))
    }
}

fn about(account: i64, registry: &str) -> String {
    format!("login of account {account} at {registry}")
}

fn registry_name(text: &str) -> Result<String, Error> {
    let name = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if name.is_empty() || name.len() > 255 || !name.chars().all(good) {
        return Err(Error::invalid(Field::Registry, format!("invalid registry {text:?}: expected host or host:port")));
    }
    Ok(if name == "index.docker.io" { "docker.io".into() } else { name.to_ascii_lowercase() })
}

/// Who fetches what.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<ImageReference, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl Pulls {
    fn turn(&self, image: &ImageReference) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = all.get(image).and_then(std::sync::Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        all.insert(image.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageReference, Platform, registry_name};

    #[test]
    fn names_lead_to_registries_as_dockers_do() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("ghcr.io/a/b@{digest}");
        for (name, shown) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("a/b:v1", "docker.io/a/b:v1"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b/c:2", "127.0.0.1:5000/a/b/c:2"),
            (by_digest.as_str(), by_digest.as_str()),
        ] {
            assert_eq!(ImageReference::read(name).map(|r| r.to_string()).ok().as_deref(), Some(shown));
        }
        assert!(ImageReference::read("a b").is_err() && ImageReference::read("x@sha256:12").is_err());
        assert_eq!(registry_name("https://Host:5000/").ok().as_deref(), Some("host:5000"));
        assert!(registry_name("a/b").is_err());
        assert!(Platform::read(Some("linux")).is_err());
        let arm = Platform::read(Some("linux/arm/v7")).expect("platform");
        assert_eq!((arm.architecture.as_str(), arm.variant.as_deref()), ("arm", Some("v7")));
    }
}
