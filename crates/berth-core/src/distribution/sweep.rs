//! What nobody needs any more is removed: tags whose image is gone, manifests without a tag, blobs without a manifest.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use berth_image::ContentDigest;
use berth_store::{Manifest as Row, ManifestTag, Tx};
use berth_types::now;

use crate::core::Core;
use crate::error::Error;
use crate::images::used_digests;

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

/// An account's repository, and a digest in it.
type Place = (i64, String, String);

/// What of the books is to go.
#[derive(Default)]
struct Doomed {
    tags: Vec<ManifestTag>,
    manifests: Vec<Row>,
    blobs: Vec<berth_store::Blob>,
    /// Images that have lost their names: account and digest.
    images: HashSet<(i64, String)>,
}

/// Images by account and digest, those with names and those without, and the images by their names.
#[derive(Default)]
struct Images {
    named: HashSet<(i64, String)>,
    nameless: HashSet<(i64, String)>,
    by_name: BTreeMap<(i64, String), String>,
}

impl Images {
    fn read(tx: &Tx<'_>) -> Result<Self, Error> {
        let mut found = Self::default();
        for image in tx.images_of_all()? {
            let names = tx.names_of_image(image.id)?;
            let known = if names.is_empty() { &mut found.nameless } else { &mut found.named };
            known.insert((image.account_id, image.digest.clone()));
            found.by_name.extend(names.into_iter().map(|name| ((image.account_id, name), image.digest.clone())));
        }
        Ok(found)
    }
}

/// Finds what nothing needs and nobody has used since `before`. `present` are the digests of the blobs' files.
fn find_doomed(tx: &Tx<'_>, before: i64, present: &HashSet<String>) -> Result<Doomed, Error> {
    let mut doomed = Doomed::default();
    let images = Images::read(tx)?;
    let in_use = used_digests(tx)?;
    let place_of = |row: &Row, digest: &str| (row.account_id, row.repository.clone(), digest.to_owned());
    let blobs =
        tx.blobs()?.into_iter().map(|blob| ((blob.account_id, blob.repository.clone(), blob.digest.clone()), blob));
    let blobs: BTreeMap<Place, berth_store::Blob> = blobs.collect();
    let all: BTreeMap<Place, Row> = tx.manifests()?.into_iter().map(|row| (place_of(&row, &row.digest), row)).collect();
    // An image is packed again where its blobs are gone: a backup has none.
    let is_broken = |row: &Row| {
        let gone = |digest: &str| !blobs.contains_key(&place_of(row, digest)) || !present.contains(digest);
        let missing = |digest: &str| !all.contains_key(&place_of(row, digest));
        row.image.is_some() && (row.blobs.split_whitespace().any(gone) || row.manifests.split_whitespace().any(missing))
    };
    let mut waiting: Vec<&Row> = Vec::new();
    for tag in tx.manifest_tags()? {
        let row = all.get(&(tag.account_id, tag.repository.clone(), tag.digest.clone()));
        let has = images.by_name.get(&(tag.account_id, format!("{}:{}", tag.repository, tag.tag)));
        match row {
            Some(row) if row.image.as_ref().is_none_or(|image| has == Some(image)) => waiting.push(row),
            // Its image has another name now, or is gone.
            _ => doomed.tags.push(tag),
        }
    }
    let mut about: BTreeMap<Place, Vec<&Row>> = BTreeMap::new();
    for row in all.values() {
        if let Some(subject) = &row.subject {
            about.entry(place_of(row, subject)).or_default().push(row);
        }
        let has_name = |image: &String| images.named.contains(&(row.account_id, image.clone()));
        // One that the server made is made again when it is asked for.
        if row.used_at >= before || (!row.made && row.image.as_ref().is_some_and(has_name)) {
            waiting.push(row);
        }
    }
    // What is needed needs others: an index its manifests, a subject what is about it.
    let mut needed: HashSet<Place> = HashSet::new();
    while let Some(row) = waiting.pop() {
        let place = place_of(row, &row.digest);
        if is_broken(row) || !needed.insert(place.clone()) {
            continue;
        }
        waiting.extend(row.manifests.split_whitespace().filter_map(|digest| all.get(&place_of(row, digest))));
        waiting.extend(about.get(&place).into_iter().flatten());
    }
    let mut kept: HashSet<Place> = HashSet::new();
    for (place, row) in &all {
        if needed.contains(place) {
            kept.extend(row.blobs.split_whitespace().map(|digest| place_of(row, digest)));
            continue;
        }
        // Pushed, and its name was given to another push since.
        let image = row.image.clone().filter(|image| !row.made && !in_use.contains(image));
        let image = image.map(|image| (row.account_id, image));
        doomed.images.extend(image.filter(|image| images.nameless.contains(image)));
        doomed.manifests.push(row.clone());
    }
    doomed.blobs.extend(blobs.into_iter().filter_map(|(place, blob)| {
        let stays = present.contains(&blob.digest) && (kept.contains(&place) || blob.used_at >= before);
        (!stays).then_some(blob)
    }));
    Ok(doomed)
}

/// Takes it out of the books, but for what was used meanwhile; the digests of the blobs that some repository has.
fn take_out(tx: &Tx<'_>, doomed: &Doomed, before: i64) -> Result<HashSet<String>, Error> {
    for tag in &doomed.tags {
        let now = tx.manifest_by_tag(tag.account_id, &tag.repository, &tag.tag)?;
        if now.is_none_or(|now| now.digest == tag.digest) {
            tx.manifest_untag(tag.account_id, &tag.repository, &tag.tag)?;
        }
    }
    for row in &doomed.manifests {
        let now = tx.manifest(row.account_id, &row.repository, &row.digest)?;
        if now.is_some_and(|now| now.used_at == row.used_at) {
            tx.manifest_remove(row.account_id, &row.repository, &row.digest)?;
        }
    }
    for blob in &doomed.blobs {
        let now = tx.blob(blob.account_id, Some(&blob.repository), &blob.digest)?;
        if now.is_some_and(|now| now.used_at == blob.used_at) {
            tx.blob_remove(blob.account_id, &blob.repository, &blob.digest)?;
        }
    }
    for (account, digest) in &doomed.images {
        let found = tx.images_by_digest(*account, digest.trim_start_matches("sha256:"))?;
        for image in found.into_iter().filter(|image| image.digest == *digest && image.used_at < before) {
            if tx.names_of_image(image.id)?.is_empty() && !used_digests(tx)?.contains(digest) {
                tx.image_remove(image.id)?;
            }
        }
    }
    Ok(tx.blobs()?.into_iter().map(|blob| blob.digest).collect())
}

impl Core {
    /// Removes what nothing needs and nobody has used since `before`, nanoseconds since 1970.
    pub(crate) async fn distribution_sweep(&self, before: i64) -> Result<(), Error> {
        let distribution = &self.inner.distribution;
        let mut gone = distribution.forgotten();
        // Beside those who write: what is found is looked at again before it goes.
        let present = self.blob_files().await?.into_iter().map(|(digest, _)| digest.to_string()).collect();
        let doomed = self.read(move |tx| find_doomed(tx, before, &present)).await?;
        {
            // Nobody puts a blob there meanwhile. To set aside is quick; it is removed later.
            let _gate = distribution.gate.write().await;
            let files = self.blob_files().await?;
            let kept = self.write(move |tx| take_out(tx, &doomed, before)).await?;
            for (digest, path) in files.into_iter().filter(|(digest, _)| !kept.contains(&digest.to_string())) {
                let aside = distribution.upload_path(&format!("gone-{}", berth_types::random_hex(8)));
                match tokio::fs::rename(&path, &aside).await {
                    Ok(()) => gone.push(aside),
                    Err(error) => tracing::warn!(%digest, %error, "a blob that nothing needs could not be set aside"),
                }
            }
        }
        for file in gone {
            if let Err(error) = tokio::fs::remove_file(&file).await {
                tracing::warn!(file = %file.display(), %error, "what nothing needs of the registry could not be removed");
            }
        }
        self.collect_layers_soon();
        Ok(())
    }

    async fn blob_files(&self) -> Result<Vec<(ContentDigest, std::path::PathBuf)>, Error> {
        let core = self.clone();
        let files = Self::aside(move || core.inner.distribution.blob_files()).await?;
        files.map_err(|error| Error::Bug(format!("list the blobs: {error}")))
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

    /// Pushes an image of one layer; its digest.
    async fn image(world: &World, tag: &str, text: &'static [u8]) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, "file", text).expect("tar");
        let layer: &'static [u8] = tar.into_inner().expect("tar").leak();
        let config = json!({ "architecture": berth_image::architecture(), "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] } });
        let config: &'static [u8] = config.to_string().into_bytes().leak();
        let part = |media_type: &str, digest: String, size: usize| json!({ "mediaType": media_type, "digest": digest, "size": size });
        let content = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "config": part("application/vnd.oci.image.config.v1+json", blob(world, config).await, config.len()),
            "layers": [part("application/vnd.oci.image.layer.v1.tar", blob(world, layer).await, layer.len())] });
        let content = content.to_string().into_bytes();
        world.core.manifest_put(&world.caller, ("art", tag), MANIFEST, content).await.expect("put");
        Digest::of(config).to_string()
    }

    #[test]
    fn what_was_pushed_and_replaced_goes_and_what_is_used_stays() {
        let world = World::new("replaced");
        world.block_on(async {
            let (core, caller) = (&world.core, &world.caller);
            let (first, second) = (image(&world, "latest", b"first").await, image(&world, "latest", b"second").await);
            assert_ne!(first, second);
            assert!(core.image(caller, &first).await.is_ok() && core.image(caller, "art:latest").await.is_ok());
            core.distribution_sweep(now() + 1).await.expect("sweep");
            assert!(core.image(caller, &first).await.is_err(), "it lost its name to the second");
            assert_eq!(core.image(caller, "art:latest").await.expect("the second").digest.to_string(), second);
            // A pull counts as use.
            let digest = core.manifest_get(caller, "app", "1").await.expect("packed").digest;
            let (account, of) = (caller.account, digest.clone());
            let long_ago = now() - 2 * super::super::USE_NOTED_NS;
            core.write(move |tx| Ok(tx.manifest_used(account, "app", &of, long_ago)?)).await.expect("old");
            core.manifest_get(caller, "app", "1").await.expect("pulled");
            core.distribution_sweep(now() - super::super::USE_NOTED_NS).await.expect("sweep");
            let kept = core.read(move |tx| Ok(tx.manifest(account, "app", &digest)?)).await.expect("read");
            assert!(kept.is_some_and(|row| row.used_at > long_ago), "it was pulled a moment ago");
            // Without its blobs, as after a restore, a pushed image is packed anew.
            for (_, file) in core.inner.distribution.blob_files().expect("files") {
                std::fs::remove_file(file).expect("remove");
            }
            core.distribution_sweep(now() - super::KEPT_NS).await.expect("sweep");
            let again = core.manifest_get(caller, "art", "latest").await.expect("packed");
            let read = super::super::manifests::Manifest::read(&again.content).expect("a manifest");
            for digest in read.blobs() {
                assert!(core.blob_open(caller, "art", &digest.to_string()).await.is_ok(), "{digest}");
            }
        });
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
