//! Downloads on behalf of clients: what the core asks of whoever does them.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

/// Why code could not be fetched; told to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Gets a file from a web address into a file, within bounds.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Fetches `address` (http or https) into the new file `to`, at most `limit` bytes. Never from link-local or metadata
    /// addresses; from loopback and private ones only if `private` says so. Redirects are held to the same rules.
    async fn fetch(&self, address: &str, to: &Path, limit: u64, private: bool) -> Result<(), FetchError>;
}

/// A file that goes when this does.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), %error, "a downloaded archive could not be removed");
        }
    }
}
