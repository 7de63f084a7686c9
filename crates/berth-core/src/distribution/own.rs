//! This server's own store in the place of a registry, for what packs and unpacks images.

use std::path::Path;

use async_trait::async_trait;
use berth_image::{ContentDigest, Digest};
use berth_types::now;
use tokio::io::AsyncReadExt;

use crate::core::Core;
use crate::registries::{Access, Blob, ImageReference, Login, Registry, RegistryError, Sent};

/// The repositories of one account.
pub(super) struct Own {
    pub(super) core: Core,
    pub(super) account: i64,
    /// The image whose manifest is put there.
    pub(super) image: Option<String>,
}

fn gone(what: impl std::fmt::Display) -> RegistryError {
    RegistryError::NotFound(format!("{what} is not in the repository"))
}

fn broken(error: impl std::fmt::Display) -> RegistryError {
    RegistryError::Unreachable(format!("the server's own registry: {error}"))
}

struct OwnBlob {
    file: tokio::fs::File,
}

#[async_trait]
impl Blob for OwnBlob {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RegistryError> {
        let mut bytes = vec![0; 256 * 1024];
        // It was checked when it came in.
        let count = self.file.read(&mut bytes).await.map_err(broken)?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

#[async_trait]
impl Registry for Own {
    async fn manifest(
        &self,
        image: &ImageReference,
        reference: Option<&str>,
        _access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        let (account, repository) = (self.account, image.repository.clone());
        let digest = reference.unwrap_or(&image.reference).to_owned();
        let what = digest.clone();
        let found = self.core.read(move |tx| Ok(tx.manifest(account, &repository, &digest)?)).await;
        let found = found.map_err(broken)?.ok_or_else(|| gone(format!("manifest {what}")))?;
        Ok((found.content, found.media_type))
    }

    async fn blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        _size: u64,
        _access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError> {
        let (account, repository, text) = (self.account, image.repository.clone(), digest.to_string());
        let known = self.core.read(move |tx| Ok(tx.blob(account, Some(&repository), &text)?)).await.map_err(broken)?;
        if known.is_none() {
            return Err(gone(format!("blob {digest}")));
        }
        let file = tokio::fs::File::open(self.core.inner.distribution.blob_path(&(*digest).into())).await;
        let file = file.map_err(|error| gone(format!("blob {digest} ({error})")))?;
        Ok(Box::new(OwnBlob { file }))
    }

    async fn push_blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        file: &Path,
        _access: &Access,
        _sent: Sent<'_>,
    ) -> Result<bool, RegistryError> {
        let (read, file) = (file.to_owned(), file.to_owned());
        let size = Core::aside(move || {
            let file = std::fs::File::open(read)?;
            file.sync_all()?;
            Ok::<_, std::io::Error>(file.metadata()?.len())
        });
        let size = size.await.map_err(broken)?.map_err(broken)?;
        let (repository, digest) = (image.repository.clone(), ContentDigest::from(*digest));
        let kept = self.core.blob_adopt(self.account, repository, &digest, file, (size, true)).await;
        kept.map_err(broken)?;
        Ok(true)
    }

    async fn push_manifest(
        &self,
        image: &ImageReference,
        manifest: &[u8],
        media_type: &str,
        _access: &Access,
    ) -> Result<(), RegistryError> {
        let row = berth_store::Manifest {
            account_id: self.account,
            repository: image.repository.clone(),
            digest: Digest::of(manifest).to_string(),
            media_type: media_type.to_owned(),
            content: manifest.to_vec(),
            blobs: super::manifests::Manifest::read(manifest).map_err(broken)?.blobs_text(),
            manifests: String::new(),
            subject: None,
            image: self.image.clone(),
            made: true,
            used_at: now(),
        };
        self.core.write(move |tx| Ok(tx.manifest_put(&row)?)).await.map_err(broken)
    }

    async fn check(&self, _registry: &str, _login: &Login, _private: bool) -> Result<(), RegistryError> {
        Ok(())
    }
}
