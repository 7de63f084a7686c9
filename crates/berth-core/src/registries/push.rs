//! Images to registries.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use berth_identity::Caller;
use berth_image::Digest;
use berth_types::random_hex;
use serde_json::json;
use tokio::sync::Semaphore;

use super::protocol::{Access, Login, Registry};
use super::{ImageReference, PROGRESS_PERIOD, Progress, ProgressStatus, Progresses};
use crate::core::Core;
use crate::error::{Error, Field};

impl Core {
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
        let outgoing = self.image_outgoing(caller, name).await?;
        self.send_image(self.inner.registry.clone(), &reference, outgoing, access, &progress).await
    }

    /// Packs an image into a registry; its manifest's digest.
    ///
    /// # Errors
    /// What the registry said, or that there is no room to pack it.
    pub(crate) async fn send_image(
        &self,
        registry: Arc<dyn Registry>,
        reference: &ImageReference,
        outgoing: berth_image::Outgoing,
        access: Access,
        progress: &Progresses,
    ) -> Result<Digest, Error> {
        let outgoing = Arc::new(outgoing);
        let turns = Arc::new(Semaphore::new(2));
        let mut tasks = tokio::task::JoinSet::new();
        let mut begun = HashSet::new();
        for layer in outgoing.layers.iter().filter(|layer| begun.insert(layer.digest)).cloned() {
            let (core, registry, reference, access) =
                (self.clone(), registry.clone(), reference.clone(), access.clone());
            let (turns, progress, kept) = (turns.clone(), progress.clone(), outgoing.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire().await;
                let of = layer.digest;
                let pushed = core.push_layer(&*registry, &reference, layer, &access, &progress).await;
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
        registry.push_blob(reference, &outgoing.id, &file.0, &access, &|_| {}).await?;
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
        registry.push_manifest(reference, &manifest, media_type, &access).await?;
        Ok(Digest::of(&manifest))
    }

    pub(crate) fn work_file(&self, what: &str) -> crate::fetch::Temporary {
        crate::fetch::Temporary(self.inner.images.work_folder().join(format!("{what}-{}", random_hex(8))))
    }

    async fn push_layer(
        &self,
        registry: &dyn Registry,
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
        let was_sent = registry.push_blob(image, &digest, &file.0, access, &sent).await?;
        tell(&layer.digest, if was_sent { ProgressStatus::Done } else { ProgressStatus::Exists }, size, size);
        Ok((digest, size))
    }
}
