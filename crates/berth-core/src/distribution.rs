//! The accounts' images as a registry (OCI distribution specification 1.1): what the server's side of `docker push` and `docker pull` does.
//!
//! A repository belongs to an account. `team/app` with the tag `1` is the account's image `team/app:1`: an image that is pushed is unpacked
//! when its manifest comes, and can be run; an image that came in another way (imported, committed, built) is packed when it is asked for
//! first. What else is pushed (indexes, signatures, charts, images for other machines) is kept as it came.
//!
//! ```text
//! blobs/ab/sha256-ab12…   a blob, by its digest: one file, however many repositories have it
//! uploads/…               uploads under way; emptied at start, as their clients begin anew
//! ```
//! Which repository has which blob, manifests and tags are in the database. The names of images go before tags: a tag whose image has
//! another name now, or is gone, is gone as well.

mod files;
mod manifests;
mod own;
mod sweep;
mod uploads;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use berth_image::ContentDigest;

use crate::error::Error;

pub use manifests::{ManifestPut, Referrer, StoredManifest};
pub(crate) use sweep::begin;
pub use uploads::BlobFile;

/// Why a request to the registry failed; each has a code in the specification.
#[derive(Debug, thiserror::Error)]
pub enum DistributionError {
    /// `NAME_INVALID`.
    #[error(
        "{0:?} is not a repository name: lower-case letters, digits, '.', '_', '-' in parts separated by '/', at most 255"
    )]
    NameInvalid(String),
    /// `NAME_UNKNOWN`.
    #[error("no repository {0}")]
    NameUnknown(String),
    /// `MANIFEST_UNKNOWN`.
    #[error("no manifest {reference} in {repository}")]
    ManifestUnknown {
        /// Where.
        repository: String,
        /// Tag or digest.
        reference: String,
    },
    /// `MANIFEST_INVALID`.
    #[error("the manifest is not valid: {0}")]
    ManifestInvalid(String),
    /// `MANIFEST_BLOB_UNKNOWN`.
    #[error("the manifest names {0}, which the repository does not have")]
    ManifestBlobUnknown(ContentDigest),
    /// `BLOB_UNKNOWN`.
    #[error("no blob {0} in the repository")]
    BlobUnknown(ContentDigest),
    /// `BLOB_UPLOAD_UNKNOWN`.
    #[error("no upload {0}: it was finished, given up, or is of a server that was started anew since")]
    UploadUnknown(String),
    /// `BLOB_UPLOAD_INVALID`.
    #[error("{0}")]
    UploadInvalid(String),
    /// Another request writes to the upload; `BLOB_UPLOAD_INVALID` with status 409.
    #[error("another request writes to upload {0}")]
    UploadBusy(String),
    /// A range that does not begin where the upload stands; `BLOB_UPLOAD_INVALID` with status 416.
    #[error("the upload stands at {0} bytes")]
    RangeInvalid(u64),
    /// `SIZE_INVALID` with status 413.
    #[error("a manifest has at most {0} bytes")]
    TooLarge(usize),
    /// `DIGEST_INVALID`.
    #[error("{0}")]
    DigestInvalid(String),
    /// `SIZE_INVALID`.
    #[error("{0}")]
    SizeInvalid(String),
    /// `DENIED`: a bound, or a right.
    #[error(transparent)]
    Core(#[from] Error),
}

impl From<berth_store::Error> for DistributionError {
    fn from(error: berth_store::Error) -> Self {
        Self::Core(error.into())
    }
}

/// How exact it is known when something was used last.
const USE_NOTED_NS: i64 = 3600 * 1_000_000_000;

/// Files and what is under way.
#[derive(Debug)]
pub(crate) struct Distribution {
    root: PathBuf,
    uploads: Mutex<HashMap<String, uploads::Upload>>,
    /// Held shared while a blob goes from a file to the books, alone while those that nothing needs are taken out of both.
    gate: tokio::sync::RwLock<()>,
}

/// A repository's name as the specification has it.
///
/// # Errors
/// [`DistributionError::NameInvalid`].
fn repository_name(name: &str) -> Result<String, DistributionError> {
    let part_is_good = |part: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let separators: Vec<&str> = part.split(alphanumeric).filter(|between| !between.is_empty()).collect();
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && separators.iter().all(|s| matches!(*s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
    };
    if name.len() <= 255 && name.split('/').all(part_is_good) {
        return Ok(name.to_owned());
    }
    Err(DistributionError::NameInvalid(name.chars().take(100).collect()))
}

fn is_tag(reference: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&reference.len())
        && reference.starts_with(word)
        && reference.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn digest_of(text: &str) -> Result<ContentDigest, DistributionError> {
    text.parse().map_err(|why: String| DistributionError::DigestInvalid(why))
}

#[cfg(test)]
mod tests {
    use super::{is_tag, repository_name};

    #[test]
    fn names_are_the_specifications() {
        for good in ["a", "team/app", "a.b_c__d---e/f0", "docker.io/library/nginx"] {
            assert!(repository_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(256);
        for wrong in ["", "/", "a/", "/a", "A", "a..b", "a___b", "a._b", "-a", "a-", "a b", "../x", "a/../b", &long] {
            assert!(repository_name(wrong).is_err(), "{wrong}");
        }
        assert!(is_tag("1.2-rc_3") && is_tag("_x") && !is_tag("-x") && !is_tag("") && !is_tag(&"x".repeat(129)));
    }
}
