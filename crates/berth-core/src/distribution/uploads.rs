//! Blobs on their way in, and out.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_identity::Caller;
use berth_image::ContentDigest;
use berth_types::now;
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncWriteExt;

use super::{Distribution, DistributionError, digest_of, repository_name};
use crate::core::Core;
use crate::error::Error;

/// Uploads of one account under way at a time.
const MOST_OF_ACCOUNT: usize = 64;
/// Uploads under way at a time.
const MOST: usize = 1024;
/// An upload that nobody has gone on with for so long is given up.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Free space is looked for again after so many bytes.
const LOOK: u64 = 64 << 20;
/// Longest silence in the middle of an upload.
const STALL: Duration = Duration::from_secs(60);

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    account: i64,
    repository: String,
    size: u64,
    touched: Instant,
    /// Whether a request writes to it now.
    busy: bool,
}

/// A blob, opened.
#[derive(Debug)]
pub struct BlobFile {
    /// Its content.
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// Its digest.
    pub digest: ContentDigest,
}

impl Distribution {
    fn under_way(&self) -> MutexGuard<'_, std::collections::HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the account's uploads under way, but for one.
    fn under_way_of(&self, account: i64, but: &str) -> u64 {
        self.under_way().iter().filter(|(id, u)| u.account == account && *id != but).map(|(_, u)| u.size).sum()
    }

    /// Files of uploads that nobody goes on with, taken out of the books.
    pub(super) fn forgotten(&self) -> Vec<PathBuf> {
        let mut all = self.under_way();
        let old: Vec<String> =
            all.iter().filter(|(_, u)| !u.busy && u.touched.elapsed() > FORGOTTEN).map(|(id, _)| id.clone()).collect();
        old.into_iter().filter_map(|id| all.remove(&id).map(|_| self.upload_path(&id))).collect()
    }

    /// Takes an upload for one request; where it stands.
    fn take(&self, account: i64, repository: &str, id: &str) -> Result<u64, DistributionError> {
        let mut all = self.under_way();
        let upload = all.get_mut(id).filter(|u| u.account == account && u.repository == repository);
        let upload = upload.ok_or_else(|| DistributionError::UploadUnknown(id.chars().take(100).collect()))?;
        if upload.busy {
            return Err(DistributionError::UploadBusy(id.to_owned()));
        }
        upload.busy = true;
        Ok(upload.size)
    }

    fn give_back(&self, id: &str, size: Option<u64>) {
        if let Some(upload) = self.under_way().get_mut(id) {
            upload.busy = false;
            upload.touched = Instant::now();
            if let Some(size) = size {
                upload.size = size;
            }
        }
    }
}

/// An upload that is taken by this request.
struct Taken<'a> {
    distribution: &'a Distribution,
    id: &'a str,
    size: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.distribution.give_back(self.id, Some(self.size));
    }
}

fn host(error: &std::io::Error, what: &str) -> DistributionError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Error::NoRoom("the server's disk is full".into()).into();
    }
    Error::Bug(format!("{what}: {error}")).into()
}

impl Core {
    /// Begins an upload; its id.
    ///
    /// # Errors
    /// [`DistributionError::NameInvalid`]; [`Error::NoRoom`], [`Error::TooOften`].
    pub async fn blob_upload_begin(&self, caller: &Caller, repository: &str) -> Result<String, DistributionError> {
        let repository = repository_name(repository)?;
        self.room().await?;
        let id = berth_types::random_hex(16);
        let distribution = &self.inner.distribution;
        {
            let mut all = distribution.under_way();
            if all.len() >= MOST || all.values().filter(|u| u.account == caller.account).count() >= MOST_OF_ACCOUNT {
                return Err(Error::TooOften("too many uploads are under way; try again later".into()).into());
            }
            let upload = Upload { account: caller.account, repository, size: 0, touched: Instant::now(), busy: false };
            all.insert(id.clone(), upload);
        }
        if let Err(error) = tokio::fs::File::create(distribution.upload_path(&id)).await {
            distribution.under_way().remove(&id);
            return Err(host(&error, "make an upload's file"));
        }
        Ok(id)
    }

    /// Adds to an upload what the client sends, at `from` if that is told; how many bytes it has then. What had come before a failure
    /// stays.
    ///
    /// # Errors
    /// [`DistributionError::UploadUnknown`], [`DistributionError::RangeInvalid`]; [`Error::Quota`], [`Error::NoRoom`].
    pub async fn blob_upload_append<E: std::fmt::Display>(
        &self,
        caller: &Caller,
        (repository, id): (&str, &str),
        from: Option<u64>,
        content: impl Stream<Item = Result<impl AsRef<[u8]>, E>> + Send,
    ) -> Result<u64, DistributionError> {
        let distribution = &self.inner.distribution;
        let size = distribution.take(caller.account, repository, id)?;
        let mut taken = Taken { distribution, id, size };
        if from.is_some_and(|from| from != size) {
            return Err(DistributionError::RangeInvalid(size));
        }
        let others = distribution.under_way_of(caller.account, id);
        let bound = self.image_budget(caller).await?.bytes.saturating_sub(others);
        let mut room = self.room().await?;
        let file = tokio::fs::File::options().append(true).open(distribution.upload_path(id)).await;
        let mut file = file.map_err(|error| host(&error, "open an upload's file"))?;
        // Part of a piece may have been written before the disk was full.
        file.set_len(size).await.map_err(|error| host(&error, "cut an upload's file"))?;
        let mut content = std::pin::pin!(content);
        let (mut written, mut looked) = (0, 0);
        loop {
            let next = tokio::time::timeout(STALL, content.next()).await;
            let Ok(next) = next else {
                return Err(DistributionError::UploadInvalid(format!("nothing came for {} s", STALL.as_secs())));
            };
            let Some(next) = next else { break };
            let bytes =
                next.map_err(|error| DistributionError::UploadInvalid(format!("the body broke off: {error}")))?;
            let bytes = bytes.as_ref();
            written += bytes.len() as u64;
            if size + written > bound {
                return Err(Error::Quota("the account's images may take no more of the disk".into()).into());
            }
            // Others write meanwhile.
            if written - looked > LOOK {
                (looked, room) = (written, self.room().await?);
            }
            if written - looked > room {
                return Err(Error::NoRoom("not enough disk space on this server".into()).into());
            }
            file.write_all(bytes).await.map_err(|error| host(&error, "write an upload"))?;
            file.flush().await.map_err(|error| host(&error, "write an upload"))?;
            taken.size += bytes.len() as u64;
        }
        Ok(taken.size)
    }

    /// Whether this is a digest.
    ///
    /// # Errors
    /// [`DistributionError::DigestInvalid`].
    pub fn check_digest(&self, digest: &str) -> Result<(), DistributionError> {
        digest_of(digest).map(drop)
    }

    /// How many bytes an upload has.
    ///
    /// # Errors
    /// [`DistributionError::UploadUnknown`].
    pub fn blob_upload_size(&self, caller: &Caller, repository: &str, id: &str) -> Result<u64, DistributionError> {
        let all = self.inner.distribution.under_way();
        let found = all.get(id).filter(|u| u.account == caller.account && u.repository == repository);
        found.map(|u| u.size).ok_or_else(|| DistributionError::UploadUnknown(id.chars().take(100).collect()))
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// [`DistributionError::UploadUnknown`].
    pub async fn blob_upload_cancel(
        &self,
        caller: &Caller,
        repository: &str,
        id: &str,
    ) -> Result<(), DistributionError> {
        let distribution = &self.inner.distribution;
        distribution.take(caller.account, repository, id)?;
        distribution.under_way().remove(id);
        let removed = tokio::fs::remove_file(distribution.upload_path(id)).await;
        removed.map_err(|error| host(&error, "remove an upload"))
    }

    /// Ends an upload: what came is the blob with this digest from now on.
    ///
    /// # Errors
    /// [`DistributionError::UploadUnknown`]; [`DistributionError::DigestInvalid`] if it is another: then the upload is given up.
    pub async fn blob_upload_finish(
        &self,
        caller: &Caller,
        (repository, id): (&str, &str),
        digest: &str,
    ) -> Result<ContentDigest, DistributionError> {
        let digest = digest_of(digest)?;
        let repository = repository_name(repository)?;
        let distribution = &self.inner.distribution;
        let size = distribution.take(caller.account, &repository, id)?;
        let taken = Taken { distribution, id, size };
        let (path, expected) = (distribution.upload_path(id), digest.clone());
        let read = path.clone();
        let found = Self::aside(move || {
            let file = File::open(&read)?;
            // Before it can be found by its digest: a manifest that is answered outlives a power cut.
            file.sync_all()?;
            expected.same_of_reader(file)
        });
        let found = found.await?.map_err(|error| host(&error, "read an upload"))?;
        let kept = if found == digest {
            let noted = self.blob_adopt(caller.account, repository, &digest, path.clone(), (size, false)).await;
            if noted.is_err() {
                self.blob_drop(&digest).await?;
            }
            noted.map_err(DistributionError::from)
        } else {
            Err(DistributionError::DigestInvalid(format!("what came has the digest {found}, not {digest}")))
        };
        drop(taken);
        distribution.under_way().remove(id);
        if kept.is_err() {
            let _ = tokio::fs::remove_file(path).await;
        }
        kept.map(|()| digest)
    }

    /// Takes a file among the blobs, and writes down that the repository has it. `size` goes with whether the server made it of a layer of
    /// its own; what a client sent has to be within the account's quota.
    pub(super) async fn blob_adopt(
        &self,
        account: i64,
        repository: String,
        digest: &ContentDigest,
        file: PathBuf,
        (size, made): (u64, bool),
    ) -> Result<(), Error> {
        // What the books don't have is swept away.
        let _gate = self.inner.distribution.gate.read().await;
        let (core, adopted) = (self.clone(), digest.clone());
        let moved = Self::aside(move || core.inner.distribution.adopt(&file, &adopted)).await?;
        moved.map_err(|error| Error::Bug(format!("keep blob {digest}: {error}")))?;
        let blob = berth_store::Blob {
            account_id: account,
            repository,
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            made,
            used_at: now(),
        };
        let core = self.clone();
        self.write(move |tx| {
            let known = tx.blob(account, None, &blob.digest)?.is_some_and(|known| !known.made);
            if !made && !known {
                core.check_pushed(tx, account, size)?;
            }
            Ok(tx.blob_put(&blob)?)
        })
        .await
    }

    /// Lets a repository have a blob of another one (`None`: of any) of the same account; whether that has it.
    ///
    /// # Errors
    /// [`DistributionError::NameInvalid`], [`DistributionError::DigestInvalid`].
    pub async fn blob_mount(
        &self,
        caller: &Caller,
        repository: &str,
        digest: &str,
        from: Option<&str>,
    ) -> Result<Option<ContentDigest>, DistributionError> {
        let (repository, digest) = (repository_name(repository)?, digest_of(digest)?);
        // From a name that is none, nothing can be taken: then it is sent.
        let Ok(from) = from.map(repository_name).transpose() else { return Ok(None) };
        let (account, wanted) = (caller.account, digest.to_string());
        let mounted = self
            .write(move |tx| {
                let Some(known) = tx.blob(account, from.as_deref(), &wanted)? else { return Ok(false) };
                tx.blob_put(&berth_store::Blob { repository, used_at: now(), ..known })?;
                Ok(true)
            })
            .await?;
        Ok(mounted.then_some(digest))
    }

    /// A blob of a repository.
    ///
    /// # Errors
    /// [`DistributionError::BlobUnknown`].
    pub async fn blob_open(
        &self,
        caller: &Caller,
        repository: &str,
        digest: &str,
    ) -> Result<BlobFile, DistributionError> {
        let (repository, digest) = (repository_name(repository)?, digest_of(digest)?);
        let (account, wanted) = (caller.account, digest.to_string());
        let of = repository.clone();
        let known = self.read(move |tx| Ok(tx.blob(account, Some(&of), &wanted)?)).await?;
        let Some(known) = known else { return Err(DistributionError::BlobUnknown(digest)) };
        // A client that finds it does not send it.
        if known.used_at < now() - super::USE_NOTED_NS {
            self.write(move |tx| Ok(tx.blob_used(account, &repository, &known.digest, now())?)).await?;
        }
        let path = self.inner.distribution.blob_path(&digest);
        let opened = Self::aside(move || File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)))).await?;
        match opened {
            Ok((size, file)) => Ok(BlobFile { file, size, digest }),
            // A backup has no blobs.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(DistributionError::BlobUnknown(digest)),
            Err(error) => Err(host(&error, "open a blob")),
        }
    }

    /// Takes a blob from a repository.
    ///
    /// # Errors
    /// [`DistributionError::BlobUnknown`].
    pub async fn blob_remove(&self, caller: &Caller, repository: &str, digest: &str) -> Result<(), DistributionError> {
        let (repository, digest) = (repository_name(repository)?, digest_of(digest)?);
        let (account, wanted) = (caller.account, digest.to_string());
        let removed = self.write(move |tx| Ok(tx.blob_remove(account, &repository, &wanted)?)).await?;
        if !removed {
            return Err(DistributionError::BlobUnknown(digest));
        }
        self.blob_drop(&digest).await?;
        Ok(())
    }

    /// Removes a blob's file if no repository has it: whoever gives up a blob gets its disk space back for others, too.
    async fn blob_drop(&self, digest: &ContentDigest) -> Result<(), Error> {
        let _gate = self.inner.distribution.gate.write().await;
        let wanted = digest.to_string();
        if self.read(move |tx| Ok(tx.blob_is_needed(&wanted)?)).await? {
            return Ok(());
        }
        match tokio::fs::remove_file(self.inner.distribution.blob_path(digest)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Bug(format!("remove blob {digest}: {error}")))
            }
            _ => Ok(()),
        }
    }
}
