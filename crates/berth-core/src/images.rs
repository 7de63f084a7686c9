//! Images of an account.

mod archives;
mod gc;
mod names;

use std::collections::HashSet;
use std::io::Read;

use berth_image::{Budget, Config, Digest, ImageConfig, Imported, Pin, import_archive, import_rootfs};
use berth_store::Tx;

pub use archives::NewCommit;
pub(crate) use gc::used_digests;
pub use gc::{DiskPart, DiskUse, Prune, Pruned};
use names::alternatives;
pub(crate) use names::full_name;

use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::Caller;
use berth_types::now;

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Number.
    pub id: i64,
    /// Digest of its configuration.
    pub digest: Digest,
    /// Its names, `repository:tag`.
    pub names: Vec<String>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes unpacked.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Where it came from.
    pub origin: Origin,
    /// Whether every account may use it.
    pub shared: bool,
    /// When it was last used for a container, nanoseconds since 1970; 0 for never.
    pub used_at: i64,
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A registry: it can be fetched again.
    Pulled,
    /// An archive.
    Loaded,
    /// A container.
    Committed,
}

impl Origin {
    /// The word that is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pulled => "pulled",
            Self::Loaded => "loaded",
            Self::Committed => "committed",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Pulled => "image.pulled",
            Self::Loaded => "image.imported",
            Self::Committed => "image.committed",
        }
    }
}

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names.
    pub names: Vec<String>,
    /// The image itself, if that was its last name.
    pub digest: Option<Digest>,
    /// Bytes of disk that were freed.
    pub freed: u64,
}

fn image(row: berth_store::Image, names: Vec<String>) -> Result<Image, Error> {
    let unreadable = |e: serde_json::Error| Error::Bug(format!("image {} in the database: {e}", row.id));
    Ok(Image {
        id: row.id,
        digest: row.digest.parse().map_err(Error::Bug)?,
        names,
        config: serde_json::from_str(&row.config).map_err(unreadable)?,
        layers: serde_json::from_str(&row.layers).map_err(unreadable)?,
        size: row.size as u64,
        created_at: row.created_at,
        origin: match row.origin.as_str() {
            "pulled" => Origin::Pulled,
            "committed" => Origin::Committed,
            _ => Origin::Loaded,
        },
        shared: row.shared,
        used_at: row.used_at,
    })
}

/// Looks an image up by name, digest, or the beginning of its digest's digits.
pub(crate) fn find(tx: &Tx<'_>, account: i64, reference: &str) -> Result<berth_store::Image, Error> {
    let not_found = || Error::NotFound { what: "image", name: reference.to_owned() };
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    if let Ok(full) = full_name(reference)
        && !reference.starts_with("sha256:")
    {
        for name in alternatives(&full) {
            if let Some(found) = tx.image_by_name(account, &name)? {
                return Ok(found);
            }
        }
        if pushed_artifact(tx, account, &full)?.is_some() {
            // Not to be looked for elsewhere under the same name.
            let why = "was pushed here and is no image that this machine can run: another architecture, or an artifact";
            return Err(Error::invalid(Field::Image, format!("{reference} {why}")));
        }
        for name in alternatives(&full) {
            if let Some(found) = tx.image_shared_by_name(&name)? {
                return Ok(found);
            }
        }
    }
    if hex.len() >= 4 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut found = tx.images_by_digest(account, hex)?;
        if found.len() > 1 {
            return Err(Error::invalid(Field::Image, format!("{reference:?} matches the digests of several images")));
        }
        return found.pop().ok_or_else(not_found);
    }
    Err(not_found())
}

/// Repository and tag of what was pushed under this name and is no image.
fn pushed_artifact(tx: &Tx<'_>, account: i64, full_name: &str) -> Result<Option<(String, String)>, Error> {
    for name in alternatives(full_name) {
        let Some((repository, tag)) = name.rsplit_once(':').filter(|_| !name.contains('@')) else { continue };
        if tx.manifest_by_tag(account, repository, tag)?.is_some_and(|row| row.image.is_none()) {
            return Ok(Some((repository.to_owned(), tag.to_owned())));
        }
    }
    Ok(None)
}

/// Takes the tag of what was pushed and is no image; what nothing needs then is swept away.
fn remove_artifact(tx: &Tx<'_>, account: i64, reference: &str) -> Result<Option<(Removed, berth_store::Event)>, Error> {
    let Ok(full) = full_name(reference) else { return Ok(None) };
    let Some((repository, tag)) = pushed_artifact(tx, account, &full)? else { return Ok(None) };
    tx.manifest_untag(account, &repository, &tag)?;
    let removed = Removed { names: vec![format!("{repository}:{tag}")], ..Removed::default() };
    let detail = serde_json::json!({ "names": removed.names }).to_string();
    let event = tx.event_add(now(), account, "image.removed", "", &detail)?;
    Ok(Some((removed, event)))
}

impl Core {
    /// Imports every image of an archive that comes as a stream. `name` names the image of an archive with one image.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong with the archive; nothing is kept of it then.
    pub async fn image_import(
        &self,
        caller: &Caller,
        input: impl Read + Send + 'static,
        name: Option<String>,
    ) -> Result<Vec<Image>, Error> {
        // Told before anything is read.
        let name = name.map(|n| full_name(&n)).transpose()?;
        self.image_import_named_later(caller, input, std::future::ready(Ok(name))).await
    }

    /// [`image_import`](Self::image_import) where the name is known only when the archive has been read.
    ///
    /// # Errors
    /// As [`image_import`](Self::image_import); what `name` comes to.
    pub async fn image_import_named_later(
        &self,
        caller: &Caller,
        input: impl Read + Send + 'static,
        name: impl Future<Output = Result<Option<String>, Error>> + Send,
    ) -> Result<Vec<Image>, Error> {
        let images = self.inner.images.clone();
        let imported =
            self.importing(caller.account, move || import_archive(&images, input, Budget::default())).await?;
        let named = name.await.and_then(|name| name.map(|n| full_name(&n)).transpose());
        let name = named.inspect_err(|_| self.collect_layers_soon())?;
        if name.is_some() && imported.len() != 1 {
            self.collect_layers_soon();
            return Err(Error::invalid(
                Field::Name,
                format!("the archive has {} images, a name is for one", imported.len()),
            ));
        }
        let mut all = Vec::new();
        for image in imported {
            // Names that the archive gives are names of images only as far as they follow the rules.
            let names = match &name {
                Some(name) => vec![name.clone()],
                None => image.names.iter().filter_map(|n| full_name(n).ok()).collect(),
            };
            all.push(self.image_keep(caller, image, names, Origin::Loaded).await?);
        }
        Ok(all)
    }

    /// Imports a tar of a root file system as the image `name`.
    ///
    /// # Errors
    /// As [`image_import`](Self::image_import).
    pub async fn image_import_rootfs(
        &self,
        caller: &Caller,
        input: impl Read + Send + 'static,
        name: &str,
        config: Config,
    ) -> Result<Image, Error> {
        let name = full_name(name)?;
        let images = self.inner.images.clone();
        let imported = self
            .importing(caller.account, move || {
                import_rootfs(&images, input, config, Budget::default()).map(|i| vec![i])
            })
            .await?;
        match imported.into_iter().next() {
            Some(image) => self.image_keep(caller, image, vec![name], Origin::Loaded).await,
            None => Err(Error::Bug("an import without an image".into())),
        }
    }

    async fn importing(
        &self,
        account: i64,
        work: impl FnOnce() -> Result<Vec<Imported>, berth_image::Error> + Send + 'static,
    ) -> Result<Vec<Imported>, Error> {
        // Each holds a thread for as long as the client takes to send.
        let Some(_turn) = self.inner.imports.try_take(account) else {
            return Err(Error::NoRoom("too many images are being imported; try again later".into()));
        };
        let result = tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?;
        if result.is_err() {
            // Layers that were complete when it failed belong to nobody.
            self.collect_layers().await?;
        }
        Ok(result?)
    }

    pub(crate) async fn image_keep(
        &self,
        caller: &Caller,
        imported: Imported,
        names: Vec<String>,
        origin: Origin,
    ) -> Result<Image, Error> {
        let pin: Pin = imported.pin;
        let row = berth_store::Image {
            id: 0,
            account_id: caller.account,
            digest: imported.id.to_string(),
            config: String::from_utf8_lossy(&imported.raw_config).into_owned(),
            layers: serde_json::to_string(&imported.layers).map_err(|e| Error::Bug(e.to_string()))?,
            size: i64::try_from(imported.size).unwrap_or(i64::MAX),
            created_at: now(),
            shared: false,
            origin: origin.word().into(),
            used_at: 0,
        };
        let account = caller.account;
        let _gate = self.inner.gate.read().await;
        let core = self.clone();
        let kept = self
            .write(move |tx| {
                core.check_quota(tx, &row)?;
                let id = tx.image_add(&row)?;
                for name in &names {
                    tx.image_name(account, name, id)?;
                }
                let detail = serde_json::json!({ "names": names, "size": row.size }).to_string();
                let event = tx.event_add(now(), account, origin.event(), &row.digest, &detail)?;
                let names = tx.image_names(account)?.into_iter().filter(|n| n.image_id == id).map(|n| n.name).collect();
                Ok((image(berth_store::Image { id, ..row }, names)?, event))
            })
            .await;
        drop(pin);
        if kept.is_err() {
            self.collect_layers_soon();
        }
        let (found, event) = kept?;
        self.publish(vec![event]);
        Ok(found)
    }

    /// The account's images after number `after`.
    ///
    /// # Errors
    /// The database's own.
    pub async fn images(&self, caller: &Caller, after: i64, limit: u32) -> Result<Vec<Image>, Error> {
        let account = caller.account;
        self.read(move |tx| {
            let names = tx.image_names(account)?;
            let of = |id| names.iter().filter(|n| n.image_id == id).map(|n| n.name.clone()).collect();
            tx.images(account, after, limit)?
                .into_iter()
                .map(|row| {
                    let names = of(row.id);
                    image(row, names)
                })
                .collect()
        })
        .await
    }

    /// One image, by name or digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn image(&self, caller: &Caller, reference: &str) -> Result<Image, Error> {
        let (account, reference) = (caller.account, reference.to_owned());
        self.read(move |tx| {
            let row = find(tx, account, &reference)?;
            let names = tx.names_of_image(row.id)?;
            image(row, names)
        })
        .await
    }

    /// Removes a name, and the image with its last name (or when it is named by digest). Layers go when nothing uses them:
    /// a container keeps its own.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] if a container was made from it and `force` is not set.
    pub async fn image_remove(&self, caller: &Caller, reference: &str, force: bool) -> Result<Removed, Error> {
        let (account, reference) = (caller.account, reference.to_owned());
        let (mut removed, event) = self
            .write(move |tx| {
                let row = match find(tx, account, &reference) {
                    Err(error) => return remove_artifact(tx, account, &reference)?.ok_or(error),
                    Ok(row) => row,
                };
                if row.account_id != account {
                    return Err(Error::Forbidden(format!("{reference} is an official image; its owner removes it")));
                }
                let names: Vec<String> =
                    tx.image_names(account)?.into_iter().filter(|n| n.image_id == row.id).map(|n| n.name).collect();
                let named = full_name(&reference)
                    .ok()
                    .and_then(|full| alternatives(&full).into_iter().find(|n| names.contains(n)));
                let mut removed = Removed::default();
                match named {
                    Some(name) if names.len() > 1 => {
                        tx.image_unname(account, &name)?;
                        removed.names.push(name);
                    }
                    _ => {
                        let filter = berth_store::ContainerFilter {
                            account: Some(account),
                            limit: u32::MAX,
                            ..berth_store::ContainerFilter::default()
                        };
                        let user = tx.containers(&filter)?.into_iter().find(|c| c.image_digest == row.digest);
                        if let Some(user) = user
                            && !force
                        {
                            return Err(Error::InUse(format!(
                                "container {} was made from image {reference}; remove it first, or force",
                                user.name
                            )));
                        }
                        tx.image_remove(row.id)?;
                        removed.names = names;
                        removed.digest = row.digest.parse().ok();
                    }
                }
                let detail = serde_json::json!({ "names": removed.names }).to_string();
                let event = tx.event_add(now(), account, "image.removed", &row.digest, &detail)?;
                Ok((removed, event))
            })
            .await?;
        self.publish(vec![event]);
        removed.freed = self.collect_layers().await?;
        Ok(removed)
    }

    /// Removes layers that neither an image nor a container uses; returns the bytes freed.
    pub(crate) async fn collect_layers(&self) -> Result<u64, Error> {
        let _gate = self.inner.gate.write().await;
        let inner = self.inner.clone();
        let work = move || -> Result<u64, Error> {
            let used = inner.store.read_now(|tx| Ok::<_, Error>(tx.layers_used()?))?;
            let mut digests = HashSet::new();
            for layers in used {
                let layers: Vec<Digest> = serde_json::from_str(&layers).map_err(|e| Error::Bug(e.to_string()))?;
                digests.extend(layers);
            }
            Ok(inner.images.retain(&digests)?)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use super::{alternatives, full_name};

    #[test]
    fn names_are_completed_and_wrong_ones_refused() {
        assert_eq!(full_name("nginx").ok().as_deref(), Some("nginx:latest"));
        assert_eq!(full_name("host:5000/a/b").ok().as_deref(), Some("host:5000/a/b:latest"));
        assert_eq!(full_name("a/b:v1.0").ok().as_deref(), Some("a/b:v1.0"));
        for wrong in ["", "A", "a b", "a//b", "a:", "a:b c", "/a", "a/", "../x"] {
            assert!(full_name(wrong).is_err(), "{wrong}");
        }
        assert!(alternatives("docker.io/library/php:5").contains(&"php:5".to_owned()));
    }
}
