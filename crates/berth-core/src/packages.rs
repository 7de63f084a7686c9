//! Code of groups: fetched once, kept by its digest, put into containers as a layer or as files.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use berth_image::{Budget, Digest, Pin, pack_path, unpack_code};

use crate::containers::Container;
use crate::core::Core;
use crate::error::{Error, Field};
use crate::fetch::Temporary;
use crate::services::spec::{Group, GroupSpec};
use berth_identity::Caller;
use berth_types::{now, random_hex};

/// Seconds after which a file that is no version's is nobody's: one that was just fetched is about to be written down.
pub(crate) const SETTLED_S: u64 = 600;

/// A version of a group's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// 1, 2, …
    pub version: i64,
    /// Digest of the file, `sha256:…`.
    pub digest: String,
    /// The file's name at its origin.
    pub name: String,
    /// Bytes of the file.
    pub size: i64,
    /// Where it came from, without a password.
    pub address: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Whether a deployment of it succeeded.
    pub proven: bool,
    pub(crate) command_id: i64,
}

/// The last part of an address's path: `https://x/y/app.zip?z` is `app.zip`.
fn name_of(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let name: String = path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .take(100)
        .collect();
    if name.trim_matches('.').is_empty() { "package".into() } else { name }
}

/// An address that may be shown: what it was asked with, and a password in it, are the owner's.
fn harmless(address: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    match path.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => path.to_owned(),
    }
}

impl Core {
    /// The versions of a group that are kept, oldest first.
    ///
    /// # Errors
    /// The database's own.
    pub async fn packages(&self, found: &Group) -> Result<Vec<Package>, Error> {
        self.packages_of(found.id).await
    }

    pub(crate) async fn packages_of(&self, group: i64) -> Result<Vec<Package>, Error> {
        let rows = self.read(move |tx| Ok(tx.packages(group)?)).await?;
        let package = |row: berth_store::Package| Package {
            version: row.version,
            digest: row.digest,
            name: row.name,
            size: row.size,
            address: row.address,
            created_at: row.created_at,
            proven: row.proven,
            command_id: row.command_id,
        };
        Ok(rows.into_iter().map(package).collect())
    }

    fn package_file(&self, digest: &str) -> PathBuf {
        self.inner.paths.packages.join(digest.replace(':', "-"))
    }

    /// Fetches code as the group's next version; what the same command has fetched already is not fetched again.
    pub(crate) async fn package_fetch(
        &self,
        caller: &Caller,
        group: &Group,
        command: i64,
        address: &str,
    ) -> Result<i64, Error> {
        if let Some(known) = self.packages_of(group.id).await?.into_iter().find(|p| p.command_id == command) {
            return Ok(known.version);
        }
        let settings = self.settings();
        self.room().await?;
        let private = settings.code_from_private_addresses && self.identity().private_allowed(caller).await?;
        let _place = self.inner.imports.take(group.account).await;
        let folder = self.inner.paths.packages.clone();
        tokio::fs::create_dir_all(&folder).await.map_err(|e| Error::Bug(format!("{}: {e}", folder.display())))?;
        let file = Temporary(folder.join(format!("tmp-{}", random_hex(8))));
        self.inner
            .fetch
            .fetch(address, &file.0, settings.code_max_mib << 20, private)
            .await
            .map_err(|error| Error::invalid(Field::Url, error.to_string()))?;
        let (path, name) = (file.0.clone(), name_of(address));
        let digest = tokio::task::spawn_blocking(move || -> io::Result<(Digest, u64)> {
            let mut content = std::fs::File::open(&path)?;
            content.sync_all()?;
            let size = content.metadata()?.len();
            Ok((Digest::of_reader(&mut content)?, size))
        });
        let read = digest.await.map_err(|e| Error::Bug(e.to_string()))?;
        let (digest, size) = read.map_err(|e| Error::Bug(format!("read a downloaded package: {e}")))?;
        // Looked at as a whole before it becomes a version: what can't be unpacked is none.
        let (layer, pin) = self.unpack_package(&file.0, &name, &group.spec.deploy_path).await?;
        let kept = self.package_file(&digest.to_string());
        tokio::fs::rename(&file.0, &kept).await.map_err(|e| Error::Bug(format!("{}: {e}", kept.display())))?;
        let row = berth_store::Package {
            group_id: group.id,
            version: 0,
            digest: digest.to_string(),
            name,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            address: harmless(address),
            command_id: command,
            created_at: now(),
            proven: false,
        };
        let version = self.write(move |tx| Ok(tx.package_add(&row)?)).await;
        drop((layer, pin));
        version
    }

    async fn unpack_package(&self, file: &Path, name: &str, deploy_path: &str) -> Result<(String, Pin), Error> {
        let settings = self.settings();
        let budget = Budget { bytes: settings.code_unpacked_max_mib << 20, entries: settings.code_max_entries };
        let (images, file, name) = (self.inner.images.clone(), file.to_owned(), name.to_owned());
        let under = PathBuf::from(deploy_path.trim_matches('/'));
        let work = tokio::task::spawn_blocking(move || unpack_code(&images, &file, &name, &under, budget));
        let unpacked = work.await.map_err(|e| Error::Bug(e.to_string()))?;
        let (layer, pin) = unpacked.map_err(|error| match Error::from(error) {
            Error::Invalid { message, .. } => Error::invalid(Field::Url, message),
            other => other,
        })?;
        Ok((layer.digest.to_string(), pin))
    }

    /// The layer with that version's code, unpacked again if it was collected; none for version 0.
    pub(crate) async fn package_layer(
        &self,
        group: &Group,
        spec: &GroupSpec,
        version: i64,
    ) -> Result<Option<(String, Pin)>, Error> {
        if version == 0 {
            return Ok(None);
        }
        let all = self.packages_of(group.id).await?;
        let package = all.into_iter().find(|p| p.version == version).ok_or_else(|| Error::NotFound {
            what: "version",
            name: format!("{version} of group {}", group.full_name()),
        })?;
        let file = self.package_file(&package.digest);
        self.unpack_package(&file, &package.name, &spec.deploy_path).await.map(Some)
    }

    /// Has a container that does not run hold this code, and nothing else, at the deploy path.
    pub(crate) async fn code_into(
        &self,
        caller: &Caller,
        into: &Container,
        spec: &GroupSpec,
        layer: Option<&str>,
    ) -> Result<(), Error> {
        let files = self.container_files(caller, into.uid.as_str(), true).await?;
        let tree = match layer {
            Some(digest) => {
                let digest: Digest = digest.parse().map_err(Error::Bug)?;
                let gone = || Error::Bug("a layer that is pinned is gone".into());
                Some(self.inner.images.tree(&digest).ok_or_else(gone)?)
            }
            None => None,
        };
        let at = PathBuf::from(&spec.deploy_path);
        let work = move || -> io::Result<()> {
            // Folders on the way to it stay as they are, where they are.
            let mut below = PathBuf::from("/");
            match files.stat(&at) {
                Ok(found) if found.kind == "folder" || found.kind == "link" => {
                    files.clear(&at)?;
                    below.clone_from(&at);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let Some(tree) = tree else { return Ok(()) };
            let from = below.clone();
            let (mut reader, writer) = io::pipe()?;
            let packing = std::thread::spawn(move || -> io::Result<()> {
                let root = std::fs::File::open(&tree)?;
                let mut out = io::BufWriter::with_capacity(1 << 16, writer);
                pack_path(root.as_fd(), &from, Path::new(""), true, &mut out)?;
                out.flush()
            });
            let unpacked = files.unpack(&below, &mut reader, true);
            drop(reader);
            let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            unpacked.and(packed)
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?;
        done.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => Error::NoRoom("not enough disk space on this server".into()),
            _ => Error::WrongState(format!("the code could not be put into container {}: {error}", into.name)),
        })
    }

    /// Forgets the oldest versions beyond what is kept; never one that the group or a container of it has.
    pub(crate) async fn packages_prune(&self, group: i64) -> Result<(), Error> {
        let kept = self.settings().packages_kept.max(1);
        let removed = self
            .write(move |tx| {
                let Some(row) = tx.group(group)? else { return Ok(false) };
                let mut used: HashSet<i64> = tx.containers_of_group(group)?.iter().map(|c| c.version).collect();
                used.insert(row.version);
                let all = tx.packages(group)?;
                let many = all.len().saturating_sub(kept);
                // Those that never worked go first.
                let (worked, failed): (Vec<_>, Vec<_>) =
                    all.iter().filter(|p| !used.contains(&p.version)).partition(|p| p.proven);
                for old in failed.into_iter().chain(worked).take(many) {
                    tx.package_remove(group, old.version)?;
                }
                Ok(many > 0)
            })
            .await?;
        if removed { self.packages_sweep(SETTLED_S).await } else { Ok(()) }
    }

    /// Removes files that no version needs and that are so old.
    pub(crate) async fn packages_sweep(&self, settled_s: u64) -> Result<(), Error> {
        let folder = self.inner.paths.packages.clone();
        let inner = self.inner.clone();
        let work = move || -> Result<(), Error> {
            let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
            // Listed before the records are read: what comes in between is in neither.
            let files: Vec<_> = entries.flatten().collect();
            let used: HashSet<String> = inner
                .store
                .read_now(|tx| Ok::<_, Error>(tx.package_digests()?))?
                .into_iter()
                .map(|digest| digest.replace(':', "-"))
                .collect();
            for entry in files {
                let name = entry.file_name().to_string_lossy().into_owned();
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
                // One that was just renamed into place is about to be written down.
                let settled = age.is_some_and(|age| age.as_secs() >= settled_s);
                if !used.contains(&name) && settled {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Bug(e.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use super::{harmless, name_of};

    #[test]
    fn names_come_from_the_address_and_secrets_stay_there() {
        assert_eq!(name_of("https://x.example/a/b/app-1.0.war?sign=1/2"), "app-1.0.war");
        assert_eq!(name_of("http://x.example"), "package");
        assert_eq!(name_of("http://x.example/a/.."), "package");
        assert_eq!(name_of("http://x.example/a/应用.zip"), "应用.zip");
        assert_eq!(harmless("https://u:p@x.example/a.zip?token=t#f"), "https://x.example/a.zip");
    }
}
