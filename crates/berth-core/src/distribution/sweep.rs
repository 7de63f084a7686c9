//! What nobody needs any more is removed: tags whose image is gone, manifests without a tag, blobs without a manifest.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use berth_image::ContentDigest;
use berth_store::{Manifest as Row, Tx};
use berth_types::now;

use super::manifests::Manifest;
use crate::core::Core;
use crate::error::Error;

/// How often.
const PERIOD: Duration = Duration::from_secs(600);
/// What nothing refers to is kept for so long: its push may be under way, or it is asked for again soon.
const KEPT_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Sweeps from now on, until the core is gone.
pub(crate) fn begin(core: &Core) {
    let weak = std::sync::Arc::downgrade(&core.inner);
    tokio::spawn(async move {
        loop {
            let Some(inner) = weak.upgrade() else { return };
            if let Err(error) = (Core { inner }).distribution_sweep(now() - KEPT_NS).await {
                tracing::warn!(error = error.chain(), "what was pushed could not be swept");
            }
            tokio::time::sleep(PERIOD).await;
        }
    });
}

/// By account and repository.
type Key = (i64, String);

/// Removes tags that stand for nothing, then manifests that nothing needs and nobody has used since `before`; the blobs that are still
/// needed.
fn sweep_manifests(tx: &Tx<'_>, before: i64) -> Result<BTreeMap<Key, HashSet<String>>, Error> {
    let mut names: BTreeMap<i64, BTreeMap<String, String>> = BTreeMap::new();
    let mut images: HashSet<(i64, String)> = HashSet::new();
    for image in tx.images_of_all()? {
        for name in tx.names_of_image(image.id)? {
            names.entry(image.account_id).or_default().insert(name, image.digest.clone());
        }
        images.insert((image.account_id, image.digest));
    }
    let all = tx.manifests()?;
    let image_of: BTreeMap<(i64, &str, &str), &str> = all
        .iter()
        .filter_map(|row| Some(((row.account_id, row.repository.as_str(), row.digest.as_str()), row.image.as_deref()?)))
        .collect();
    let mut needed: HashSet<(i64, String, String)> = HashSet::new();
    for tag in tx.manifest_tags(None)? {
        let image = image_of.get(&(tag.account_id, tag.repository.as_str(), tag.digest.as_str()));
        let name = format!("{}:{}", tag.repository, tag.tag);
        let has = names.get(&tag.account_id).and_then(|names| names.get(&name));
        if image.is_some_and(|image| has.is_none_or(|has| has != image)) {
            tx.manifest_untag(tag.account_id, &tag.repository, &tag.tag)?;
        } else {
            needed.insert((tag.account_id, tag.repository, tag.digest));
        }
    }
    let key = |row: &Row| (row.account_id, row.repository.clone(), row.digest.clone());
    for row in &all {
        let lives = row.image.as_ref().is_some_and(|image| images.contains(&(row.account_id, image.clone())));
        // One that the server made is made again when it is asked for.
        if row.used_at >= before || (lives && !row.made) {
            needed.insert(key(row));
        }
    }
    // What is needed needs others: an index its manifests, a subject what is about it.
    loop {
        let count = needed.len();
        for row in &all {
            if needed.contains(&key(row)) {
                let parts = Manifest::read(&row.content).ok().and_then(|read| read.manifests).unwrap_or_default();
                needed
                    .extend(parts.into_iter().map(|p| (row.account_id, row.repository.clone(), p.digest.to_string())));
            }
            if let Some(subject) = &row.subject
                && needed.contains(&(row.account_id, row.repository.clone(), subject.clone()))
            {
                needed.insert(key(row));
            }
        }
        if needed.len() == count {
            break;
        }
    }
    let mut blobs: BTreeMap<Key, HashSet<String>> = BTreeMap::new();
    for row in all {
        if !needed.contains(&key(&row)) {
            tx.manifest_remove(row.account_id, &row.repository, &row.digest)?;
        } else if let Ok(manifest) = Manifest::read(&row.content) {
            let digests = manifest.blobs().map(ToString::to_string);
            blobs.entry((row.account_id, row.repository)).or_default().extend(digests);
        }
    }
    Ok(blobs)
}

impl Core {
    /// Removes what nothing needs and nobody has used since `before`, nanoseconds since 1970.
    pub(crate) async fn distribution_sweep(&self, before: i64) -> Result<(), Error> {
        for file in self.inner.distribution.forgotten() {
            if let Err(error) = tokio::fs::remove_file(&file).await {
                tracing::warn!(file = %file.display(), %error, "an upload that was given up could not be removed");
            }
        }
        // Nobody puts a blob there meanwhile.
        let _gate = self.inner.gate.write().await;
        let core = self.clone();
        let files = Self::aside(move || core.inner.distribution.blob_files()).await?;
        let files = files.map_err(|error| Error::Bug(format!("list the blobs: {error}")))?;
        let present: HashSet<String> = files.iter().map(|(digest, _)| digest.to_string()).collect();
        let kept = self
            .write(move |tx| {
                let needed = sweep_manifests(tx, before)?;
                let mut kept: HashSet<String> = HashSet::new();
                for blob in tx.blobs()? {
                    let is_needed = needed
                        .get(&(blob.account_id, blob.repository.clone()))
                        .is_some_and(|digests| digests.contains(&blob.digest));
                    // After a restore of a backup, which has no blobs, the file may be missing.
                    if present.contains(&blob.digest) && (is_needed || blob.used_at >= before) {
                        kept.insert(blob.digest);
                    } else {
                        tx.blob_remove(blob.account_id, &blob.repository, &blob.digest)?;
                    }
                }
                // A manifest that the server made and whose blobs are gone is made again.
                for row in tx.manifests()?.into_iter().filter(|row| row.made) {
                    let manifest = Manifest::read(&row.content).ok();
                    if manifest
                        .is_none_or(|manifest| manifest.blobs().any(|digest| !kept.contains(&digest.to_string())))
                    {
                        tx.manifest_remove(row.account_id, &row.repository, &row.digest)?;
                    }
                }
                Ok(kept)
            })
            .await?;
        let doomed: Vec<(ContentDigest, _)> =
            files.into_iter().filter(|(digest, _)| !kept.contains(&digest.to_string())).collect();
        Self::aside(move || {
            for (digest, path) in doomed {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(%digest, %error, "a blob that nothing needs could not be removed");
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use berth_image::Digest;
    use berth_types::now;
    use futures_util::stream;
    use serde_json::json;

    use crate::operations::tests::World;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    /// Sends a blob; its digest.
    async fn blob(world: &World, content: &'static [u8]) -> String {
        let id = world.core.blob_upload_begin(&world.caller, "art").await.expect("begin");
        let body = stream::iter([Ok::<_, std::io::Error>(content)]);
        world.core.blob_upload_append(&world.caller, ("art", &id), None, body).await.expect("append");
        let digest = Digest::of(content).to_string();
        world.core.blob_upload_finish(&world.caller, ("art", &id), &digest).await.expect("finish").to_string()
    }

    /// Puts a manifest of one blob; its digest.
    async fn manifest(world: &World, reference: Option<&str>, blob: &str, subject: Option<&str>) -> String {
        let part = json!({ "mediaType": "x/y", "digest": blob, "size": 1 });
        let mut content = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": part, "layers": [] });
        if let Some(subject) = subject {
            content["subject"] = json!({ "mediaType": MANIFEST, "digest": subject, "size": 1 });
        }
        let content = content.to_string().into_bytes();
        let digest = Digest::of(&content).to_string();
        let reference = reference.unwrap_or(&digest);
        world.core.manifest_put(&world.caller, ("art", reference), MANIFEST, content).await.expect("put");
        digest
    }

    #[test]
    fn what_is_needed_stays_and_what_is_not_goes() {
        let world = World::new("sweep");
        world.block_on(async {
            let (core, caller) = (&world.core, &world.caller);
            let there = async |digest: &str| core.manifest_get(caller, "art", digest).await.is_ok();
            let has = async |digest: &str| core.blob_open(caller, "art", digest).await.is_ok();
            let (kept, loose, lonely) =
                (blob(&world, b"kept").await, blob(&world, b"loose").await, blob(&world, b"lonely").await);
            let signed = blob(&world, b"signed").await;
            let tagged = manifest(&world, Some("1"), &kept, None).await;
            let signature = manifest(&world, None, &signed, Some(&tagged)).await;
            let untagged = manifest(&world, None, &loose, None).await;
            // An image of the account's that somebody pulls.
            let packed = core.manifest_get(caller, "app", "1").await.expect("it is packed").digest;
            // Of a push that may be under way, nothing goes.
            core.distribution_sweep(now() - super::KEPT_NS).await.expect("sweep");
            assert!(there(&untagged).await && has(&lonely).await);
            core.distribution_sweep(now() + 1).await.expect("sweep");
            assert!(there("1").await && there(&signature).await && has(&kept).await && has(&signed).await);
            assert!(!there(&untagged).await && !has(&loose).await && !has(&lonely).await);
            let again = core.manifest_get(caller, "app", "1").await.expect("it is packed again").digest;
            assert_eq!(again, packed, "the same bytes");
            // With its tag goes what is about it.
            core.manifest_remove(caller, "art", "1").await.expect("untag");
            core.distribution_sweep(now() + 1).await.expect("sweep");
            assert!(!there(&tagged).await && !there(&signature).await && !has(&kept).await && !has(&signed).await);
            // With its image a packed one goes at once, and its files.
            core.image_remove(caller, "app:1", true).await.expect("remove");
            core.distribution_sweep(now() + 1).await.expect("sweep");
            assert!(core.manifest_get(caller, "app", "1").await.is_err());
            assert!(core.inner.distribution.blob_files().expect("files").is_empty());
        });
    }
}
