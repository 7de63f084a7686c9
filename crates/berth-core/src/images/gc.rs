//! Looking after images: names, who may use them, how much disk they take, and which go.

use std::collections::{BTreeMap, HashSet};

use berth_image::Digest;

use super::{Image, Origin, find, full_name, image};
use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::{Caller, Role};
use berth_store::AccountChange;
use berth_types::now;

/// What a prune takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prune {
    /// Images that have names as well, if no container was made from them.
    pub all: bool,
    /// Only those not used for so many seconds.
    pub unused_for_s: u64,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

/// What a prune took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names, or the digests of images that had none.
    pub images: Vec<String>,
    /// Bytes of disk freed.
    pub freed: u64,
}

/// How an account uses the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Images.
    pub images: DiskPart,
    /// What containers wrote.
    pub containers: DiskPart,
    /// Volumes.
    pub volumes: DiskPart,
    /// Bytes that the account's images may take; no bound if `None`.
    pub image_quota: Option<u64>,
    /// Bytes free on the disk, beyond the reserve.
    pub free: u64,
}

/// One kind of use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskPart {
    /// How many there are.
    pub count: u64,
    /// How many are in use.
    pub active: u64,
    /// Bytes; what several share counts once.
    pub size: u64,
    /// Bytes that a prune would free.
    pub reclaimable: u64,
}

impl Core {
    /// Gives an image one more name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for the name.
    pub async fn image_tag(&self, caller: &Caller, reference: &str, name: &str) -> Result<Image, Error> {
        let (account, reference, name) = (caller.account, reference.to_owned(), full_name(name)?);
        if name.contains('@') {
            return Err(Error::invalid(Field::Name, "a name with a digest is given by pulling only"));
        }
        let core = self.clone();
        let (found, event) = self
            .write(move |tx| {
                let mut row = find(tx, account, &reference)?;
                if row.account_id != account {
                    // Another's that is shared: a name of one's own is an image of one's own, with the same layers.
                    row.account_id = account;
                    core.check_quota(tx, &row)?;
                    row.id = tx.image_add(&row)?;
                }
                tx.image_name(account, &name, row.id)?;
                let detail = serde_json::json!({ "name": name }).to_string();
                let event = tx.event_add(now(), account, "image.tagged", &row.digest, &detail)?;
                let names = tx.names_of_image(row.id)?;
                Ok((image(row, names)?, event))
            })
            .await?;
        self.publish(vec![event]);
        Ok(found)
    }

    /// Lets every account use an image (an official one), or its own only. For administrators.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`].
    pub async fn image_share(&self, caller: &Caller, reference: &str, shared: bool) -> Result<Image, Error> {
        if caller.role != Role::Admin {
            return Err(Error::Forbidden("an image is made official by administrators".into()));
        }
        let (account, reference) = (caller.account, reference.to_owned());
        self.write(move |tx| {
            let mut row = find(tx, account, &reference)?;
            tx.image_share(row.id, shared)?;
            row.shared = shared;
            let names = tx.names_of_image(row.id)?;
            image(row, names)
        })
        .await
    }

    /// Images that the account may use, its own and the official ones, whose names hold `word` (all if it is empty) and
    /// that have these labels.
    ///
    /// # Errors
    /// The database's own.
    pub async fn image_search(
        &self,
        caller: &Caller,
        word: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Image>, Error> {
        let (account, word, labels) = (caller.account, word.to_lowercase(), labels.clone());
        self.read(move |tx| {
            let mut rows = tx.images(account, 0, u32::MAX)?;
            let own: HashSet<String> = rows.iter().map(|r| r.digest.clone()).collect();
            rows.extend(
                tx.images_shared()?.into_iter().filter(|r| r.account_id != account && !own.contains(&r.digest)),
            );
            let mut found = Vec::new();
            for row in rows {
                let names = tx.names_of_image(row.id)?;
                let named = word.is_empty() || names.iter().any(|n| n.to_lowercase().contains(&word));
                let image = image(row, names)?;
                let have = &image.config.config.labels;
                if named && labels.iter().all(|(k, v)| have.get(k).is_some_and(|h| v.is_empty() || h == v)) {
                    found.push(image);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Takes away the names of an image of the account's own, all its versions or one, and the images with their last names.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] if a container was made of one; nothing is done then.
    pub async fn image_versions_remove(
        &self,
        caller: &Caller,
        image: &str,
        version: Option<&str>,
    ) -> Result<(), Error> {
        let account = caller.account;
        let wanted = match version {
            Some(version) => Some(super::full_name(&format!("{image}:{version}"))?),
            None => None,
        };
        let name = image.to_owned();
        let mut names: Vec<String> =
            self.read(move |tx| Ok(tx.image_names(account)?.into_iter().map(|n| n.name).collect())).await?;
        names.retain(|full| match &wanted {
            Some(wanted) => full == wanted,
            None => crate::metering::image_name(full) == name,
        });
        if names.is_empty() {
            let name = wanted.unwrap_or(image.to_owned());
            return Err(Error::NotFound { what: "image", name });
        }
        let used = self.containers(caller, None, 0, u32::MAX - 1).await?.items;
        let user = used.iter().find(|c| super::full_name(&c.image).is_ok_and(|full| names.contains(&full)));
        if let Some(user) = user {
            return Err(Error::InUse(format!("container {} was made of image {}", user.name, user.image)));
        }
        for name in names {
            self.image_remove(caller, &name, false).await?;
        }
        Ok(())
    }

    /// Imports the one image of an archive at an address.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the address or the archive.
    pub async fn image_fetch(&self, caller: &Caller, address: &str, name: Option<String>) -> Result<Vec<Image>, Error> {
        let settings = self.settings();
        let file = self.inner.images.work_folder().join(format!("upload-{}.tar", berth_types::random_hex(8)));
        let file = crate::fetch::Temporary(file);
        let bound = settings.image_fetch_max_mib << 20;
        self.room().await?;
        let private = settings.code_from_private_addresses && self.identity().private_allowed(caller).await?;
        let fetched = self.inner.fetch.fetch(address, &file.0, bound, private).await;
        fetched.map_err(|error| Error::invalid(Field::ImageUrl, error.to_string()))?;
        let content = tokio::fs::File::open(&file.0).await;
        let content = content.map_err(|e| Error::Bug(format!("a downloaded archive: {e}")))?.into_std().await;
        self.image_import(caller, content, name).await
    }

    /// How an image came about, as its configuration has it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image_history(&self, caller: &Caller, reference: &str) -> Result<Vec<serde_json::Value>, Error> {
        let (account, reference) = (caller.account, reference.to_owned());
        let row = self.read(move |tx| find(tx, account, &reference)).await?;
        let config: serde_json::Value = serde_json::from_str(&row.config).map_err(|e| Error::Bug(e.to_string()))?;
        let mut history = config["history"].as_array().cloned().unwrap_or_default();
        // Entries that made a layer get its size.
        let layers: Vec<Digest> =
            serde_json::from_value(config["rootfs"]["diff_ids"].clone()).map_err(|e| Error::Bug(e.to_string()))?;
        let mut layers = layers.iter();
        for entry in &mut history {
            if entry["empty_layer"] != true
                && let Some(digest) = layers.next()
            {
                entry["size"] = self.inner.images.layer(digest).map_or(0, |l| l.size).into();
                entry["layer"] = digest.to_string().into();
            }
        }
        Ok(history)
    }

    /// Whether one more image fits its account's quota.
    pub(crate) fn check_quota(&self, tx: &berth_store::Tx<'_>, new: &berth_store::Image) -> Result<(), Error> {
        let (account, more) = (new.account_id, u64::try_from(new.size).unwrap_or(0));
        let hex = new.digest.trim_start_matches("sha256:");
        if !tx.images_by_digest(account, hex)?.is_empty() {
            return Ok(());
        }
        let Some((used, quota)) = self.quota(tx, account)? else { return Ok(()) };
        if used.saturating_add(more) <= quota {
            return Ok(());
        }
        Err(Error::NoRoom(format!(
            "the account's images may take {quota} bytes: {used} are taken, and this one needs {more}"
        )))
    }

    /// Whether the account may push so many bytes more.
    pub(crate) fn check_pushed(&self, tx: &berth_store::Tx<'_>, account: i64, more: u64) -> Result<(), Error> {
        match self.quota(tx, account)? {
            Some((used, quota)) if used.saturating_add(more) > quota => Err(Error::Quota(format!(
                "the account's images may take {quota} bytes: {used} are taken, and this needs {more}"
            ))),
            _ => Ok(()),
        }
    }

    /// What one more image of the account may unpack to.
    pub(crate) async fn image_budget(&self, caller: &Caller) -> Result<berth_image::Budget, Error> {
        let (account, core) = (caller.account, self.clone());
        let bound = self.read(move |tx| core.quota(tx, account)).await?;
        let mut budget = berth_image::Budget::default();
        if let Some((used, quota)) = bound {
            budget.bytes = budget.bytes.min(quota.saturating_sub(used));
        }
        Ok(budget)
    }

    /// Bytes that the account's images take, and may take; `None` without a bound.
    fn quota(&self, tx: &berth_store::Tx<'_>, account: i64) -> Result<Option<(u64, u64)>, Error> {
        let Some(quota) = self.quota_of(tx.account_image_quota(account)?) else { return Ok(None) };
        let used = tx.image_bytes(account)?.saturating_add(tx.pushed_bytes(account)?);
        Ok(Some((u64::try_from(used).unwrap_or(0), quota)))
    }

    fn quota_of(&self, own: Option<i64>) -> Option<u64> {
        let default = self.settings().image_quota_mib << 20;
        own.map(|q| q as u64).or((default > 0).then_some(default))
    }

    /// Sets how many bytes an account's images may take; `None` for the settings' default. For administrators.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`].
    pub async fn account_image_quota(&self, caller: &Caller, name: &str, bytes: Option<u64>) -> Result<(), Error> {
        if caller.role != Role::Admin {
            return Err(Error::Forbidden("quotas are set by administrators".into()));
        }
        let (wanted, bytes) = (name.to_owned(), bytes.and_then(|b| i64::try_from(b).ok()));
        let change = AccountChange { images: Some(bytes), ..AccountChange::default() };
        if self.write(move |tx| Ok(tx.account_change(&wanted, &change)?)).await? {
            Ok(())
        } else {
            Err(Error::NotFound { what: "account", name: name.to_owned() })
        }
    }

    /// Removes images that no container was made from: those without names, or `all`.
    ///
    /// # Errors
    /// The database's own.
    pub async fn image_prune(&self, caller: &Caller, prune: Prune) -> Result<Pruned, Error> {
        let account = caller.account;
        let unused = i64::try_from(prune.unused_for_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let before = now().saturating_sub(unused);
        let (images, event) = self
            .write(move |tx| {
                let used = used_digests(tx)?;
                let mut removed = Vec::new();
                for row in tx.images(account, 0, u32::MAX)? {
                    let names = tx.names_of_image(row.id)?;
                    let old = row.used_at.max(row.created_at) <= before;
                    if used.contains(&row.digest) || row.shared || !old || !(prune.all || names.is_empty()) {
                        continue;
                    }
                    if !prune.dry_run {
                        tx.image_remove(row.id)?;
                    }
                    if names.is_empty() { removed.push(row.digest) } else { removed.extend(names) }
                }
                let detail = serde_json::json!({ "images": removed }).to_string();
                let event = (!removed.is_empty() && !prune.dry_run)
                    .then(|| tx.event_add(now(), account, "image.pruned", "", &detail))
                    .transpose()?;
                Ok((removed, event))
            })
            .await?;
        self.publish(event.into_iter().collect());
        let freed = if prune.dry_run { 0 } else { self.collect_layers().await? };
        Ok(Pruned { images, freed })
    }

    /// How the account uses the disk.
    ///
    /// # Errors
    /// The database's or the engine's own.
    pub async fn disk_use(&self, caller: &Caller) -> Result<DiskUse, Error> {
        let account = caller.account;
        let (rows, used, quota, pushed) = self
            .read(move |tx| {
                let rows = tx.images(account, 0, u32::MAX)?;
                Ok((rows, used_digests(tx)?, tx.account_image_quota(account)?, tx.pushed_bytes(account)?))
            })
            .await?;
        let mut part = DiskPart { count: rows.len() as u64, ..DiskPart::default() };
        let (mut all, mut needed) = (HashSet::new(), HashSet::new());
        for row in rows {
            let layers: Vec<Digest> = serde_json::from_str(&row.layers).map_err(|e| Error::Bug(e.to_string()))?;
            all.extend(layers.iter().copied());
            if used.contains(&row.digest) {
                part.active += 1;
                needed.extend(layers);
            }
        }
        let size = |digests: &mut dyn Iterator<Item = &Digest>| -> u64 {
            digests.filter_map(|d| self.inner.images.layer(d)).map(|l| l.size).sum()
        };
        part.size = size(&mut all.iter()) + u64::try_from(pushed).unwrap_or(0);
        part.reclaimable = size(&mut all.difference(&needed));
        let containers = self.containers(caller, None, 0, 1_000_000).await?.items;
        let ids: Vec<_> = containers.iter().map(|c| c.uid.clone()).collect();
        let mut written = DiskPart { count: ids.len() as u64, ..DiskPart::default() };
        for (id, bytes) in self.inner.engine.disk(&ids).await? {
            written.size += bytes;
            if containers.iter().any(|c| c.uid == id && c.state.is_live()) {
                written.active += 1;
            } else {
                written.reclaimable += bytes;
            }
        }
        let mut volumes = DiskPart::default();
        for volume in self.volumes(caller).await? {
            let size = self.volume(caller, &volume.name).await?.size.unwrap_or(0);
            volumes.count += 1;
            volumes.size += size;
            if volume.used_by.is_empty() { volumes.reclaimable += size } else { volumes.active += 1 }
        }
        Ok(DiskUse {
            images: part,
            containers: written,
            volumes,
            image_quota: self.quota_of(quota),
            free: self.room().await.unwrap_or(0),
        })
    }

    /// When the disk is fuller than the high mark: removes pulled images that no container uses, the longest unused first,
    /// until it is below the low one. What can't be pulled again is never removed by itself.
    pub(crate) async fn free_disk_by_watermark(&self) -> Result<(), Error> {
        let settings = self.settings();
        if settings.disk_high_percent == 0 || self.disk_percent().await? < settings.disk_high_percent {
            return Ok(());
        }
        let (mut candidates, used) = self.read(|tx| Ok((tx.images_of_all()?, used_digests(tx)?))).await?;
        candidates.retain(|row| row.origin == Origin::Pulled.word() && !row.shared && !used.contains(&row.digest));
        candidates.sort_by_key(|row| row.used_at.max(row.created_at));
        for row in candidates {
            if self.disk_percent().await? < settings.disk_low_percent {
                break;
            }
            tracing::info!(image = row.digest, "the disk is nearly full: an image that nothing uses is removed");
            let id = row.id;
            let event = self
                .write(move |tx| {
                    // Somebody may have made a container from it since, or made it an official one.
                    let still = tx.images_of_all()?.into_iter().find(|now| now.id == id);
                    if still.is_none_or(|now| now.shared) || used_digests(tx)?.contains(&row.digest) {
                        return Ok(None);
                    }
                    tx.image_remove(id)?;
                    Ok(Some(tx.event_add(now(), row.account_id, "image.collected", &row.digest, "{}")?))
                })
                .await?;
            self.publish(event.into_iter().collect());
            self.collect_layers().await?;
        }
        Ok(())
    }

    /// How full the disk is, percent, the reserve of root left out.
    async fn disk_percent(&self) -> Result<u8, Error> {
        let folder = self.inner.images.layers_folder();
        Self::aside(move || berth_image::disk_percent(&folder).unwrap_or(0)).await
    }
}

pub(crate) fn used_digests(tx: &berth_store::Tx<'_>) -> Result<HashSet<String>, Error> {
    let filter = berth_store::ContainerFilter { limit: u32::MAX, ..berth_store::ContainerFilter::default() };
    Ok(tx.containers(&filter)?.into_iter().map(|c| c.image_digest).collect())
}
