//! Images from registries.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;

use berth_identity::Caller;
use berth_image::{Budget, Digest, import_config, import_layer};
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::manifests::{AnyManifest, Descriptor, Platform};
use super::protocol::{Access, Login, Registry};
use super::{
    ATTEMPTS, ImageReference, LAYERS_AT_ONCE, LONGEST_JSON, PROGRESS_PERIOD, Progress, ProgressStatus, Progresses,
    RegistryError, wrong,
};
use crate::core::Core;
use crate::error::Error;
use crate::images::{Image, Origin, full_name};

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

/// Where an image comes from.
#[derive(Clone)]
struct Source {
    registry: Arc<dyn Registry>,
    access: Access,
    /// Whether somebody has pushed it to this server.
    pushed: bool,
}

/// What `work` gives, unless `cancel` is notified first.
async fn unless<T>(cancel: &Notify, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = cancel.notified() => None,
        done = work => Some(done),
    }
}

impl Core {
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

    /// Like [`Core::image_pull`], but ends when `cancel` is notified while it is being fetched: then it is `None`, and what was
    /// fetched is dropped.
    ///
    /// # Errors
    /// As for [`Core::image_pull`].
    pub async fn image_pull_until(
        &self,
        caller: &Caller,
        name: &str,
        platform: Option<&str>,
        login: Option<Login>,
        progress: Progresses,
        cancel: Arc<Notify>,
    ) -> Result<Option<Image>, Error> {
        let access = self.access_for(caller, &ImageReference::read(name)?.registry, login).await?;
        self.run_pull(caller, name, platform, access, progress, cancel).await
    }

    async fn image_pull_with(
        &self,
        caller: &Caller,
        name: &str,
        platform: Option<&str>,
        access: Access,
        progress: Progresses,
    ) -> Result<Image, Error> {
        let never = Arc::new(Notify::new());
        let pulled = self.run_pull(caller, name, platform, access, progress, never).await?;
        pulled.ok_or_else(|| Error::Bug("a pull that nobody cancels was cancelled".into()))
    }

    async fn run_pull(
        &self,
        caller: &Caller,
        name: &str,
        platform: Option<&str>,
        access: Access,
        progress: Progresses,
        cancel: Arc<Notify>,
    ) -> Result<Option<Image>, Error> {
        let reference = ImageReference::read(name)?;
        let (full, platform) = (full_name(name)?, Platform::read(platform)?);
        let (core, caller) = (self.clone(), *caller);
        let work = tokio::spawn(async move {
            // One of a kind at a time: the next finds what the first has fetched.
            let turn = core.inner.pulls.turn(&reference);
            let Some(_turn) = unless(&cancel, turn.lock()).await else { return Ok(None) };
            // Each layer that comes in holds a thread for as long as the registry takes.
            let place = core.inner.pulls_at_once.take(caller.account);
            let Some(_place) = unless(&cancel, place).await else { return Ok(None) };
            let begun = std::time::Instant::now();
            let source = Source { registry: core.inner.registry.clone(), access, pushed: false };
            let fetching = core.fetch_image(&caller, &reference, &platform, &source, &progress);
            let Some(fetched) = unless(&cancel, fetching).await else {
                core.collect_layers_soon();
                return Ok(None);
            };
            // From here on it is short, and not cancelled: the image is there as a whole, or is not.
            let pulled = match fetched {
                Ok((raw, pin)) => core.keep_fetched(&caller, full, raw, pin, Origin::Pulled).await,
                Err(error) => Err(error),
            };
            if pulled.is_err() {
                core.collect_layers_soon();
            }
            core.inner.meters.pulls.observe(pulled.is_ok(), begun.elapsed());
            if let Err(error) = &pulled {
                tracing::warn!(image = %reference, error = error.chain(), "an image could not be fetched");
            }
            pulled.map(Some)
        });
        work.await.map_err(|e| Error::Bug(e.to_string()))?
    }

    /// Makes an image for this machine of what `registry` has, and gives it a name.
    ///
    /// # Errors
    /// What is wrong with it: [`FaultKind::Upstream`](crate::FaultKind) or [`FaultKind::NotFound`](crate::FaultKind); that there is no room.
    pub(crate) async fn image_from(
        &self,
        registry: Arc<dyn Registry>,
        caller: &Caller,
        image: &ImageReference,
        name: String,
    ) -> Result<Image, Error> {
        let _place = self.inner.pulls_at_once.take(caller.account).await;
        let source = Source { registry, access: Access::default(), pushed: true };
        let nobody = mpsc::channel(1).0;
        let kept = match self.fetch_image(caller, image, &Platform::read(None)?, &source, &nobody).await {
            Ok((raw, pin)) => self.keep_fetched(caller, name, raw, pin, Origin::Loaded).await,
            Err(error) => Err(error),
        };
        if kept.is_err() {
            self.collect_layers_soon();
        }
        kept
    }

    /// Fetches an image's layers; its configuration, and what holds the layers until somebody names them.
    async fn fetch_image(
        &self,
        caller: &Caller,
        image: &ImageReference,
        platform: &Platform,
        source: &Source,
        progress: &Progresses,
    ) -> Result<(Vec<u8>, berth_image::Pin), Error> {
        let manifest = self.find_manifest(image, platform, source).await?;
        let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
            return Err(wrong(format!("{image} is no image: its manifest has no configuration or no layers")));
        };
        let raw = self.small_blob(image, &config, source).await?;
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
            let (core, image, source) = (self.clone(), image.clone(), source.clone());
            let (turns, progress) = (turns.clone(), progress.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire().await;
                core.pull_layer(&image, &layer, (diff_id, known), &source, budget, &progress).await
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
        result.map(|()| (raw, pin))
    }

    async fn keep_fetched(
        &self,
        caller: &Caller,
        name: String,
        raw: Vec<u8>,
        _pin: berth_image::Pin,
        origin: Origin,
    ) -> Result<Image, Error> {
        let images = self.inner.images.clone();
        let made = tokio::task::spawn_blocking(move || import_config(&images, raw, Vec::new()));
        let imported = made.await.map_err(|e| Error::Bug(e.to_string()))??;
        self.image_keep(caller, imported, vec![name], origin).await
    }

    /// The manifest for the platform, through an index if there is one.
    async fn find_manifest(
        &self,
        image: &ImageReference,
        platform: &Platform,
        source: &Source,
    ) -> Result<AnyManifest, Error> {
        let mut reference: Option<String> = None;
        for _ in 0..4 {
            let (bytes, _) = source.registry.manifest(image, reference.as_deref(), &source.access).await?;
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
                        if self.is_image_for(image, &candidate.digest, platform, source).await? {
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
        source: &Source,
    ) -> Result<bool, Error> {
        let (bytes, _) = source.registry.manifest(image, Some(&digest.to_string()), &source.access).await?;
        let Ok(manifest) = serde_json::from_slice::<AnyManifest>(&bytes) else { return Ok(false) };
        if manifest.manifests.is_some() {
            return Ok(true);
        }
        let (Some(config), Some(_)) = (manifest.config, manifest.layers) else { return Ok(false) };
        let raw = self.small_blob(image, &config, source).await?;
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
        source: &Source,
    ) -> Result<Vec<u8>, Error> {
        if descriptor.size > LONGEST_JSON {
            return Err(wrong(format!("the configuration of {image} is longer than {LONGEST_JSON} bytes")));
        }
        let read = async || -> Result<Vec<u8>, Error> {
            let mut blob = source.registry.blob(image, &descriptor.digest, descriptor.size, &source.access).await?;
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
        source: &Source,
        budget: Budget,
        progress: &Progresses,
    ) -> Result<(), Error> {
        let tell = |status, current| {
            let told = Progress { digest: layer.digest.to_string(), status, current, total: layer.size };
            // A listener who is slow misses a word, nothing else.
            let _ = progress.try_send(told);
        };
        // Whoever names a digest need not have the content: only what the account has already is not asked for.
        // Nor is what was pushed here believed: its layers may be others than its configuration says.
        if known && !source.pushed && self.inner.images.has_layer_of_tar(&diff_id) {
            tell(ProgressStatus::Exists, layer.size);
            return Ok(());
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.pull_once(image, layer, diff_id, source, budget, &tell).await {
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
        source: &Source,
        mut budget: Budget,
        tell: &(impl Fn(ProgressStatus, u64) + Sync),
    ) -> Result<(), Error> {
        let mut blob = source.registry.blob(image, &layer.digest, layer.size, &source.access).await?;
        let (chunks, incoming) = mpsc::channel(32);
        let images = self.inner.images.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let input = Incoming { chunks: incoming, rest: io::Cursor::default() };
            import_layer(&images, input, diff_id, &mut budget).map(drop)
        });
        let mut current = 0;
        let mut told = None;
        let mut beat = tokio::time::interval(PROGRESS_PERIOD);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed = None;
        loop {
            // Told while nothing comes, too: so that a registry that stalls shows.
            let next = {
                let mut next = std::pin::pin!(blob.next());
                loop {
                    tokio::select! {
                        next = &mut next => break next,
                        _ = beat.tick() => {
                            if told.replace(current) != Some(current) {
                                tell(ProgressStatus::Downloading, current);
                            }
                        }
                    }
                }
            };
            match next {
                Ok(Some(chunk)) => {
                    current += chunk.len() as u64;
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
            None => Ok(unpacked.map_err(|error| match error {
                // Another try would be as large.
                berth_image::Error::TooBig(text) => Error::Quota(text),
                other => other.into(),
            })?),
        }
    }
}
