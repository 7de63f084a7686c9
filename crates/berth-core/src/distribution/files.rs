//! Where blobs and uploads are kept.

use std::path::{Path, PathBuf};
use std::{fs, io};

use berth_image::ContentDigest;

use super::Distribution;

impl Distribution {
    /// In this folder, made if it is not there; what an earlier server left unfinished is removed.
    ///
    /// # Errors
    /// The folder that could not be made or cleared.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let uploads = root.join("uploads");
        if uploads.exists() {
            fs::remove_dir_all(&uploads)?;
        }
        fs::create_dir_all(&uploads)?;
        fs::create_dir_all(root.join("blobs"))?;
        Ok(Self { root: root.to_owned(), uploads: Default::default(), gate: Default::default() })
    }

    pub(super) fn blob_path(&self, digest: &ContentDigest) -> PathBuf {
        let (algorithm, hex) = digest.parts();
        self.root.join("blobs").join(&hex[..2]).join(format!("{algorithm}-{hex}"))
    }

    pub(super) fn upload_path(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    /// Moves a file that is on disk, and whose content has this digest, among the blobs. It blocks.
    pub(super) fn adopt(&self, file: &Path, digest: &ContentDigest) -> io::Result<()> {
        let path = self.blob_path(digest);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(file, &path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }

    /// The digests of all blobs, with the files. It blocks.
    pub(super) fn blob_files(&self) -> io::Result<Vec<(ContentDigest, PathBuf)>> {
        let mut all = Vec::new();
        for folder in fs::read_dir(self.root.join("blobs"))? {
            for entry in fs::read_dir(folder?.path())? {
                let entry = entry?;
                if let Ok(digest) = entry.file_name().to_string_lossy().replacen('-', ":", 1).parse() {
                    all.push((digest, entry.path()));
                }
            }
        }
        Ok(all)
    }
}
