//! Named volumes: folders of an account that outlive containers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_engine::{Mount, MountSource};
use berth_image::{Budget, Keep, disk_usage, pack_path, unpack_within};
use berth_store::{ContainerFilter, Tx};

use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::{Caller, check_name};
use berth_types::{now, random_hex};

/// A volume to be made.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Unique in the account; made up if `None`.
    pub name: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Names of the containers that mount it.
    pub used_by: Vec<String>,
    /// Bytes on disk, where they were asked for.
    pub size: Option<u64>,
    folder: String,
}

fn not_found(name: &str) -> Error {
    Error::NotFound { what: "volume", name: name.to_owned() }
}

/// Names of the account's containers by the volumes that they mount.
fn users(tx: &Tx<'_>, account: i64) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let filter = ContainerFilter { account: Some(account), limit: u32::MAX, ..ContainerFilter::default() };
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in tx.containers(&filter)? {
        for mount in crate::containers::container(row.clone())?.spec.mounts {
            if let MountSource::Volume { name, .. } = mount.source {
                all.entry(name).or_default().push(row.name.clone());
            }
        }
    }
    Ok(all)
}

fn volume(row: berth_store::Volume, users: &BTreeMap<String, Vec<String>>) -> Volume {
    Volume {
        used_by: users.get(&row.name).cloned().unwrap_or_default(),
        labels: serde_json::from_str(&row.labels).unwrap_or_default(),
        name: row.name,
        created_at: row.created_at,
        size: None,
        folder: row.folder,
    }
}

/// Label of a volume that nobody named: it goes with its container where that is removed with its volumes.
pub(crate) const ANONYMOUS: &str = "berth.anonymous";

impl Core {
    /// Removes the volumes of a container that nobody named and nobody else uses. Those that can't be removed are left, and told of.
    pub(crate) async fn remove_anonymous(&self, account: i64, mounts: &[Mount]) {
        let caller = Caller::of_command(account, berth_identity::Role::User);
        for mount in mounts {
            let MountSource::Volume { name, anonymous: true, .. } = &mount.source else { continue };
            let removed = async {
                let found = self.find_volume(&caller, name).await?;
                if found.used_by.is_empty() {
                    self.volume_remove(&caller, name).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = removed.await {
                tracing::warn!(volume = name, error = error.chain(), "a container's volume could not be removed");
            }
        }
    }

    fn volume_path(&self, folder: &str) -> PathBuf {
        self.inner.paths.volumes.join(folder)
    }

    /// Where a volume is on the host; for administrators.
    pub fn volume_folder(&self, caller: &Caller, volume: &Volume) -> Option<PathBuf> {
        (caller.role == berth_identity::Role::Admin).then(|| self.volume_path(&volume.folder))
    }

    /// Removes folders that no volume has: a server was killed in the middle of making or removing one.
    pub(crate) async fn sweep_volumes(&self) -> Result<(), Error> {
        let known: Vec<String> =
            self.read(|tx| Ok(tx.volumes(None)?.into_iter().map(|row| row.folder).collect())).await?;
        let folder = self.inner.paths.volumes.clone();
        let sweep = move || {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // A server died while the beginning of a volume was put into it: the next start goes on with that.
                let begun = name.strip_suffix(".copied").is_some_and(|stem| known.iter().any(|k| k == stem));
                if !known.contains(&name)
                    && !begun
                    && let Err(error) = berth_image::remove_tree(&entry.path())
                {
                    tracing::warn!(folder = %entry.path().display(), %error, "a folder that is no volume's is still there");
                }
            }
        };
        Self::aside(sweep).await
    }

    /// Makes a volume; one of that name that is there already is given as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name, or the disk's word.
    pub async fn volume_create(&self, caller: &Caller, new: NewVolume) -> Result<Volume, Error> {
        let name = new.name.unwrap_or_else(|| random_hex(16));
        check_name(Field::Name, &name)?;
        let account = caller.account;
        let labels = serde_json::to_string(&new.labels).map_err(|e| Error::Bug(e.to_string()))?;
        let folder = random_hex(8);
        // The folder first: a row always has one.
        let path = self.volume_path(&folder);
        let (all, new) = (self.inner.paths.volumes.clone(), path.clone());
        let made = Self::aside(move || {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(all)?;
            fs::DirBuilder::new().mode(0o755).create(new)
        });
        made.await?.map_err(|e: std::io::Error| Error::Bug(format!("make a volume: {e}")))?;
        let made = self
            .write(move |tx| {
                if let Some(row) = tx.volume(account, &name)? {
                    return Ok((volume(row, &users(tx, account)?), None));
                }
                let mut row =
                    berth_store::Volume { id: 0, account_id: account, name, folder, labels, created_at: now() };
                row.id = tx.volume_add(&row)?;
                let event = tx.event_add(row.created_at, account, "volume.created", &row.name, "{}")?;
                Ok((volume(row, &BTreeMap::new()), Some(event)))
            })
            .await;
        if !matches!(&made, Ok((_, Some(_)))) {
            let _ = tokio::fs::remove_dir(&path).await;
        }
        let (made, event) = made?;
        self.publish(event.into_iter().collect());
        Ok(made)
    }

    /// The account's volumes.
    ///
    /// # Errors
    /// The database's own.
    pub async fn volumes(&self, caller: &Caller) -> Result<Vec<Volume>, Error> {
        let account = caller.account;
        self.read(move |tx| {
            let users = users(tx, account)?;
            Ok(tx.volumes(Some(account))?.into_iter().map(|row| volume(row, &users)).collect())
        })
        .await
    }

    /// One volume, with its size.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn volume(&self, caller: &Caller, name: &str) -> Result<Volume, Error> {
        let mut found = self.find_volume(caller, name).await?;
        let path = self.volume_path(&found.folder);
        let size = tokio::task::spawn_blocking(move || disk_usage(&path));
        found.size = Some(size.await.map_err(|e| Error::Bug(e.to_string()))?);
        Ok(found)
    }

    async fn find_volume(&self, caller: &Caller, name: &str) -> Result<Volume, Error> {
        let (account, name) = (caller.account, name.to_owned());
        self.read(move |tx| {
            let row = tx.volume(account, &name)?.ok_or_else(|| not_found(&name))?;
            Ok(volume(row, &users(tx, account)?))
        })
        .await
    }

    /// Removes a volume with all that is in it.
    ///
    /// # Errors
    /// [`Error::InUse`] while a container mounts it.
    pub async fn volume_remove(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let (account, wanted) = (caller.account, name.to_owned());
        let (folder, event) = self
            .write(move |tx| {
                let row = tx.volume(account, &wanted)?.ok_or_else(|| not_found(&wanted))?;
                if let Some(users) = users(tx, account)?.get(&wanted) {
                    return Err(Error::InUse(format!("volume {wanted} is mounted by {}", users.join(", "))));
                }
                tx.volume_remove(row.id)?;
                let event = tx.event_add(now(), account, "volume.removed", &wanted, "{}")?;
                Ok((row.folder, event))
            })
            .await?;
        self.publish(vec![event]);
        let path = self.volume_path(&folder);
        let removing = tokio::task::spawn_blocking(move || berth_image::remove_tree(&path));
        removing
            .await
            .map_err(|e| Error::Bug(e.to_string()))?
            .map_err(|e| Error::Bug(format!("remove the files of volume {name}: {e}")))
    }

    /// Removes the account's volumes that no container mounts; their names.
    ///
    /// # Errors
    /// The database's own.
    pub async fn volume_prune(&self, caller: &Caller) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for found in self.volumes(caller).await? {
            if found.used_by.is_empty() {
                match self.volume_remove(caller, &found.name).await {
                    Ok(()) => removed.push(found.name),
                    // Mounted, or removed, since it was looked at.
                    Err(Error::InUse(_) | Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(removed)
    }

    /// Writes the volume's content as a tar. Returns what does it, for a thread that may block.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn volume_backup(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + use<>, Error> {
        let path = self.volume_path(&self.find_volume(caller, name).await?.folder);
        Ok(move |out: &mut dyn Write| {
            let root: OwnedFd = fs::File::open(&path)?.into();
            pack_path(root.as_fd(), Path::new("."), Path::new(""), true, out)
        })
    }

    /// Unpacks a tar into the volume, over what is there. Returns what does it, for a thread that may block.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what is wrong with the tar.
    pub async fn volume_restore(
        &self,
        caller: &Caller,
        name: &str,
        tar: Box<dyn Read + Send>,
    ) -> Result<impl FnOnce() -> Result<(), Error> + Send + use<>, Error> {
        self.room().await?;
        let path = self.volume_path(&self.find_volume(caller, name).await?.folder);
        Ok(move || {
            let root = fs::File::open(&path).map_err(|e| Error::Bug(format!("open a volume: {e}")))?.into();
            Ok(unpack_within(root, Path::new(""), tar, Keep::ALL, Budget::default()).map(drop)?)
        })
    }

    /// Finds the folders of volumes that are to be mounted, and makes volumes that are not there yet.
    pub(crate) async fn mount_volumes(&self, caller: &Caller, mounts: &mut [Mount]) -> Result<(), Error> {
        for mount in mounts {
            if let MountSource::Volume { name, source, anonymous } = &mut mount.source {
                let mut new = NewVolume::default();
                *anonymous = name.is_empty();
                if *anonymous {
                    *name = random_hex(32);
                    new.labels.insert(ANONYMOUS.into(), "true".into());
                }
                new.name = Some(name.clone());
                *source = self.volume_path(&self.volume_create(caller, new).await?.folder);
            }
        }
        Ok(())
    }
}
