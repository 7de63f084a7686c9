//! Manifests and tags.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_identity::Caller;
use berth_image::{ContentDigest, Digest};
use berth_store::{ManifestTag, Tx};
use berth_types::{FaultKind, now};
use serde::Deserialize;
use serde_json::Value;

use super::own::Own;
use super::{DistributionError, digest_of, is_tag, repository_name};
use crate::core::Core;
use crate::error::Error;
use crate::images::{find, full_name, used_digests};
use crate::registries::{Access, ImageReference, RegistryError};

/// Media types of configurations that images have.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Manifests of an account.
const MOST_MANIFESTS: i64 = 20_000;

/// A manifest as it was put there, or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Digest of its content.
    pub digest: String,
    /// Media type.
    pub media_type: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What came of putting a manifest there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPut {
    /// Its digest.
    pub digest: ContentDigest,
    /// The digest of the manifest that it is about.
    pub subject: Option<ContentDigest>,
}

/// A manifest that is about another one: the descriptor of the specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Referrer {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: String,
    /// Bytes.
    pub size: usize,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    pub(super) digest: ContentDigest,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    media_type: String,
    /// Where it is instead of here.
    #[serde(default)]
    urls: Vec<String>,
}

/// What of a manifest matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    #[serde(default)]
    pub(super) manifests: Option<Vec<Part>>,
    #[serde(default)]
    subject: Option<Part>,
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
}

impl Manifest {
    pub(super) fn read(content: &[u8]) -> Result<Self, DistributionError> {
        serde_json::from_slice(content).map_err(|error| DistributionError::ManifestInvalid(error.to_string()))
    }

    /// The blobs that the repository has to have.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &ContentDigest> {
        let here = self.layers.iter().filter(|layer| layer.urls.is_empty());
        self.config.iter().chain(here).map(|part| &part.digest)
    }

    /// All that it names.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let others = self.manifests.iter().flatten().chain(&self.subject);
        self.config.iter().chain(&self.layers).chain(others)
    }

    /// The digests of those blobs, separated by spaces.
    pub(super) fn blobs_text(&self) -> String {
        self.blobs().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Whether it may describe an image that can be run.
    fn may_be_image(&self) -> bool {
        let of_image = |config: &Part| IMAGE_CONFIGS.contains(&config.media_type.as_str());
        self.artifact_type.is_none() && (self.manifests.is_some() || self.config.as_ref().is_some_and(of_image))
    }
}

fn unknown(repository: &str, reference: &str) -> DistributionError {
    let reference = reference.chars().take(200).collect();
    DistributionError::ManifestUnknown { repository: repository.to_owned(), reference }
}

/// What a tag stands for.
enum Tagged {
    Manifest(berth_store::Manifest),
    /// An image that has to be packed.
    Image(berth_store::Image),
}

/// What a tag stands for: the account's image of that name goes before what was pushed. Where there is neither, an official image, or
/// one by another spelling of its name.
fn tagged(tx: &Tx<'_>, account: i64, repository: &str, tag: &str) -> Result<Option<Tagged>, Error> {
    let row = tx.manifest_by_tag(account, repository, tag)?;
    let name = format!("{repository}:{tag}");
    let image = match (&row, tx.image_by_name(account, &name)?) {
        (_, Some(image)) => Some(image),
        // A reference like `sha256:abcd` would be a digest's beginning.
        (None, None) if repository != "sha256" => match find(tx, account, &name) {
            Ok(image) => Some(image),
            Err(error) if matches!(error.kind(), FaultKind::NotFound | FaultKind::Invalid) => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    Ok(match (row, image) {
        (Some(row), None) if row.image.is_none() => Some(Tagged::Manifest(row)),
        (Some(row), Some(image)) if row.image.as_ref() == Some(&image.digest) => Some(Tagged::Manifest(row)),
        // Another image has the name since.
        (_, Some(image)) => Some(match tx.manifest_of_image(account, repository, &image.digest)? {
            Some(known) => Tagged::Manifest(known),
            None => Tagged::Image(image),
        }),
        (_, None) => None,
    })
}

/// The account's tags by repository.
fn tags_of(tx: &Tx<'_>, account: i64) -> Result<BTreeMap<String, BTreeSet<String>>, Error> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let names: BTreeMap<String, String> = tx.image_names_and_digests(account)?.into_iter().collect();
    for (repository, tag, image) in tx.manifest_tags_of(account)? {
        if image.is_none() || names.get(&format!("{repository}:{tag}")) == image.as_ref() {
            all.entry(repository).or_default().insert(tag);
        }
    }
    for name in names.keys().filter(|name| !name.contains('@')) {
        // A name with a digest is no tag; a registry's port is not in a repository's name.
        if let Some((repository, tag)) = name.rsplit_once(':')
            && repository_name(repository).is_ok()
        {
            all.entry(repository.to_owned()).or_default().insert(tag.to_owned());
        }
    }
    Ok(all)
}

/// Takes a name from the image that has it, and removes the image if that was its last one and no container was made from it.
fn forget_name(tx: &Tx<'_>, account: i64, name: &str) -> Result<(), Error> {
    let Some(image) = tx.image_by_name(account, name)? else { return Ok(()) };
    tx.image_unname(account, name)?;
    if tx.names_of_image(image.id)?.is_empty() && !used_digests(tx)?.contains(&image.digest) {
        tx.image_remove(image.id)?;
    }
    Ok(())
}

impl Core {
    /// A manifest by tag or digest. An image that was not pushed is packed for it first.
    ///
    /// # Errors
    /// [`DistributionError::ManifestUnknown`].
    pub async fn manifest_get(
        &self,
        caller: &Caller,
        repository: &str,
        reference: &str,
    ) -> Result<StoredManifest, DistributionError> {
        let repository = repository_name(repository)?;
        let unknown = || unknown(&repository, reference);
        let (account, of, asked) = (caller.account, repository.clone(), reference.to_owned());
        let found = if reference.contains(':') {
            let digest = digest_of(reference)?.to_string();
            self.read(move |tx| Ok(tx.manifest(account, &of, &digest)?.map(Tagged::Manifest))).await?
        } else if is_tag(reference) {
            self.read(move |tx| tagged(tx, account, &of, &asked)).await?
        } else {
            return Err(unknown());
        };
        let row = match found.ok_or_else(unknown)? {
            Tagged::Manifest(row) => row,
            Tagged::Image(image) => self.manifest_make(caller, &repository, &image).await?,
        };
        if row.used_at < now() - super::USE_NOTED_NS {
            let digest = row.digest.clone();
            self.write(move |tx| Ok(tx.manifest_used(account, &repository, &digest, now())?)).await?;
        }
        Ok(StoredManifest { digest: row.digest, media_type: row.media_type, content: row.content })
    }

    /// What happens to one image or tag of a repository one after the other.
    fn turn(&self, caller: &Caller, repository: &str, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        // No registry has such a name: nobody pulls from it.
        let registry = format!("account {}", caller.account);
        self.inner.pulls.turn(&ImageReference {
            registry,
            repository: repository.to_owned(),
            reference: what.to_owned(),
        })
    }

    /// Packs an image: its layers become blobs of the repository.
    async fn manifest_make(
        &self,
        caller: &Caller,
        repository: &str,
        image: &berth_store::Image,
    ) -> Result<berth_store::Manifest, DistributionError> {
        let turn = self.turn(caller, repository, &image.digest);
        let _one_at_a_time = turn.lock().await;
        let _place = self.inner.pushes_at_once.take(caller.account).await;
        let (account, of, digest) = (caller.account, repository.to_owned(), image.digest.clone());
        let made = async || {
            let (of, digest) = (of.clone(), digest.clone());
            self.read(move |tx| Ok(tx.manifest_of_image(account, &of, &digest)?)).await
        };
        if let Some(made) = made().await? {
            return Ok(made);
        }
        let layers: Vec<Digest> = serde_json::from_str(&image.layers).map_err(|e| Error::Bug(e.to_string()))?;
        let (images, config) = (self.inner.images.clone(), image.config.clone());
        let outgoing = Self::aside(move || images.outgoing(config.as_bytes(), &layers)).await?.map_err(Error::from)?;
        let own = Own { core: self.clone(), account, image: Some(digest.clone()) };
        let reference =
            ImageReference { registry: String::new(), repository: of.clone(), reference: "latest".to_owned() };
        let nobody = tokio::sync::mpsc::channel(1).0;
        self.send_image(Arc::new(own), &reference, outgoing, Access::default(), &nobody).await?;
        made().await?.ok_or_else(|| Error::Bug(format!("the manifest of {digest} was made and is not there")).into())
    }

    /// Puts a manifest there. One of an image for this machine under a tag makes it an image of the account's.
    ///
    /// # Errors
    /// [`DistributionError::ManifestInvalid`], [`DistributionError::ManifestBlobUnknown`], [`DistributionError::DigestInvalid`];
    /// [`Error::Quota`], [`Error::NoRoom`].
    pub async fn manifest_put(
        &self,
        caller: &Caller,
        (repository, reference): (&str, &str),
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<ManifestPut, DistributionError> {
        let repository = repository_name(repository)?;
        let (digest, tag) = if reference.contains(':') {
            let asked = digest_of(reference)?;
            let digest = asked.same_of(&content);
            if asked != digest {
                return Err(DistributionError::DigestInvalid(format!("the manifest's digest is {digest}")));
            }
            (digest, None)
        } else if is_tag(reference) {
            (ContentDigest::from(Digest::of(&content)), Some(reference.to_owned()))
        } else {
            return Err(DistributionError::ManifestInvalid(format!("{reference:?} is neither a tag nor a digest")));
        };
        let manifest = Manifest::read(&content)?;
        if let Some(part) = manifest.parts().find(|part| part.size < 0) {
            let why = format!("{} is said to have {} bytes", part.digest, part.size);
            return Err(DistributionError::ManifestInvalid(why));
        }
        if manifest.schema_version != 2 {
            return Err(DistributionError::ManifestInvalid("schemaVersion must be 2".into()));
        }
        let media_type = match manifest.media_type.as_deref() {
            Some(own) if media_type.is_empty() => own,
            Some(own) if own != media_type => {
                let why = format!("its mediaType is {own}, the request's Content-Type {media_type}");
                return Err(DistributionError::ManifestInvalid(why));
            }
            _ => media_type,
        };
        let subject = manifest.subject.as_ref().map(|part| part.digest.clone());
        let parts = manifest.manifests.iter().flatten().map(|part| part.digest.to_string());
        let row = berth_store::Manifest {
            blobs: manifest.blobs_text(),
            manifests: parts.collect::<Vec<_>>().join(" "),
            account_id: caller.account,
            repository: repository.clone(),
            digest: digest.to_string(),
            media_type: media_type.to_owned(),
            content,
            subject: subject.as_ref().map(ToString::to_string),
            image: None,
            made: false,
            used_at: now(),
        };
        let may_be_image = manifest.may_be_image();
        let Some(tag) = tag else {
            self.manifest_write(row).await?;
            return Ok(ManifestPut { digest, subject });
        };
        let turn = self.turn(caller, &repository, &tag);
        let _one_at_a_time = turn.lock().await;
        self.manifest_write(row.clone()).await?;
        let image = if may_be_image { self.image_of_manifest(caller, &repository, &tag, &digest).await? } else { None };
        let account = caller.account;
        self.write(move |tx| {
            let name = format!("{repository}:{tag}");
            if image.is_none() && full_name(&name).is_ok() {
                // What had the name before is not what the tag stands for any more.
                tx.image_unname(account, &name)?;
            }
            let tag = ManifestTag { account_id: account, repository, tag, digest: row.digest.clone() };
            tx.manifest_put(&berth_store::Manifest { image, ..row })?;
            Ok(tx.manifest_tag(&tag)?)
        })
        .await?;
        Ok(ManifestPut { digest, subject })
    }

    /// Writes a manifest down, untagged, if all that it names is there.
    async fn manifest_write(&self, row: berth_store::Manifest) -> Result<(), DistributionError> {
        let core = self.clone();
        let missing = self
            .write(move |tx| {
                let (account, repository) = (row.account_id, row.repository.as_str());
                let missing_blob =
                    |digest: &&str| Ok::<_, Error>(tx.blob(account, Some(repository), digest)?.is_none());
                for digest in row.blobs.split_whitespace() {
                    if missing_blob(&digest)? {
                        return Ok(Some(digest.to_owned()));
                    }
                }
                for digest in row.manifests.split_whitespace() {
                    if tx.manifest(account, repository, digest)?.is_none() {
                        return Ok(Some(digest.to_owned()));
                    }
                }
                match tx.manifest(account, repository, &row.digest)? {
                    // What it describes stays known until that is found out anew.
                    Some(known) => tx.manifest_put(&berth_store::Manifest { image: known.image, ..row })?,
                    None => {
                        if tx.manifest_count(account)? >= MOST_MANIFESTS {
                            return Err(Error::Quota(format!("the account has {MOST_MANIFESTS} manifests")));
                        }
                        core.check_pushed(tx, account, row.content.len() as u64)?;
                        tx.manifest_put(&row)?;
                    }
                }
                Ok(None)
            })
            .await?;
        match missing {
            Some(digest) => Err(DistributionError::ManifestBlobUnknown(digest_of(&digest)?)),
            None => Ok(()),
        }
    }

    /// Makes the image that a manifest describes, and gives it the name; its digest. None if it is no image for this machine.
    async fn image_of_manifest(
        &self,
        caller: &Caller,
        repository: &str,
        tag: &str,
        digest: &ContentDigest,
    ) -> Result<Option<String>, DistributionError> {
        let Ok(name) = full_name(&format!("{repository}:{tag}")) else { return Ok(None) };
        let own = Own { core: self.clone(), account: caller.account, image: None };
        let reference = ImageReference {
            registry: String::new(),
            repository: repository.to_owned(),
            reference: digest.to_string(),
        };
        match self.image_from(Arc::new(own), caller, &reference, name).await {
            Ok(image) => Ok(Some(image.digest.to_string())),
            // For another machine, or no image at all: it is kept as it is.
            Err(
                error @ (Error::Registry(RegistryError::Wrong(_) | RegistryError::NotFound(_)) | Error::Invalid { .. }),
            ) => {
                tracing::info!(repository, tag, why = error.public(), "what was pushed is no image for this machine");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a tag, or by its digest a manifest with its tags. The image goes with its last name, unless containers were made from it.
    ///
    /// # Errors
    /// [`DistributionError::ManifestUnknown`].
    pub async fn manifest_remove(
        &self,
        caller: &Caller,
        repository: &str,
        reference: &str,
    ) -> Result<(), DistributionError> {
        let repository = repository_name(repository)?;
        let account = caller.account;
        let digest =
            reference.contains(':').then(|| digest_of(reference)).transpose()?.map(|digest| digest.to_string());
        let (of, asked) = (repository.clone(), reference.to_owned());
        let removed = self
            .write(move |tx| {
                let Some(digest) = digest else {
                    let tag = tx.manifest_untag(account, &of, &asked)?;
                    let name = format!("{of}:{asked}");
                    let image = tx.image_by_name(account, &name)?.is_some();
                    forget_name(tx, account, &name)?;
                    return Ok(tag || image);
                };
                let Some(row) = tx.manifest(account, &of, &digest)? else { return Ok(false) };
                if let Some(image) = &row.image {
                    // The names that the image has in this repository, however it came by them, but for those whose tag stands for
                    // another manifest of it.
                    let begins = format!("{of}:");
                    for (name, has) in tx.image_names_and_digests(account)? {
                        let Some(tag) = name.strip_prefix(&begins).filter(|_| has == *image) else { continue };
                        let stands_for = tx.manifest_by_tag(account, &of, tag)?;
                        if stands_for.is_none_or(|other| other.digest == digest || other.image.as_ref() != Some(image))
                        {
                            forget_name(tx, account, &name)?;
                        }
                    }
                }
                Ok(tx.manifest_remove(account, &of, &digest)?)
            })
            .await?;
        if !removed {
            return Err(unknown(&repository, reference));
        }
        self.collect_layers_soon();
        Ok(())
    }

    /// The tags of a repository in their order, after `last`, at most `most`; and whether there are more.
    ///
    /// # Errors
    /// [`DistributionError::NameUnknown`].
    pub async fn manifest_tags(
        &self,
        caller: &Caller,
        repository: &str,
        last: &str,
        most: usize,
    ) -> Result<(Vec<String>, bool), DistributionError> {
        let repository = repository_name(repository)?;
        let (account, of) = (caller.account, repository.clone());
        let tags = self.read(move |tx| Ok(tags_of(tx, account)?.remove(&of))).await?;
        let tags = tags.ok_or(DistributionError::NameUnknown(repository))?;
        Ok(page(tags.into_iter(), last, most))
    }

    /// The account's repositories in their order, after `last`, at most `most`; and whether there are more.
    ///
    /// # Errors
    /// The database's own.
    pub async fn repositories(
        &self,
        caller: &Caller,
        last: &str,
        most: usize,
    ) -> Result<(Vec<String>, bool), DistributionError> {
        let account = caller.account;
        let all = self.read(move |tx| tags_of(tx, account)).await?;
        Ok(page(all.into_keys(), last, most))
    }

    /// The manifests that are about this one, of one kind of artifact or of all.
    ///
    /// # Errors
    /// [`DistributionError::DigestInvalid`].
    pub async fn referrers(
        &self,
        caller: &Caller,
        repository: &str,
        digest: &str,
        kind: Option<&str>,
    ) -> Result<Vec<Referrer>, DistributionError> {
        let (repository, digest) = (repository_name(repository)?, digest_of(digest)?);
        let account = caller.account;
        let about = self.read(move |tx| Ok(tx.manifests_about(account, &repository, &digest.to_string())?)).await?;
        let referrer = |row: berth_store::Manifest| {
            let manifest = Manifest::read(&row.content).ok()?;
            let artifact_type = manifest.artifact_type.or(manifest.config.map(|config| config.media_type));
            Some(Referrer {
                media_type: row.media_type,
                digest: row.digest,
                size: row.content.len(),
                artifact_type,
                annotations: manifest.annotations,
            })
        };
        let all = about.into_iter().filter_map(referrer);
        Ok(all.filter(|r| kind.is_none_or(|kind| r.artifact_type.as_deref() == Some(kind))).collect())
    }
}

/// A page of what is in order, and whether there is more.
fn page(all: impl Iterator<Item = String>, last: &str, most: usize) -> (Vec<String>, bool) {
    let mut rest = all.filter(|each| each.as_str() > last);
    let page: Vec<String> = rest.by_ref().take(most).collect();
    (page, rest.next().is_some())
}
