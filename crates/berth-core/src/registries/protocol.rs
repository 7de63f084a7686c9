//! What the core asks of whoever speaks to registries.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use berth_image::Digest;

use super::error::RegistryError;
use super::reference::ImageReference;

/// A user's name and password at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User's name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// As whom, and how far, registries are asked.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The login, if there is one.
    pub login: Option<Login>,
    /// Whether a registry that only the client names may be on loopback and private addresses.
    pub private: bool,
}

/// A blob on its way in.
#[async_trait]
pub trait Blob: Send {
    /// The next bytes; `None` at the end, when the digest of all was right. Connections that break are taken up again where
    /// they stood.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RegistryError>;
}

/// Reports bytes that have gone out.
pub type Sent<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// What speaks to registries.
#[async_trait]
pub trait Registry: Send + Sync {
    /// A manifest's bytes and media type. `reference` instead of the image's own, if it is given; where that is a digest, it is
    /// the bytes' own.
    async fn manifest(
        &self,
        image: &ImageReference,
        reference: Option<&str>,
        access: &Access,
    ) -> Result<(Vec<u8>, String), RegistryError>;

    /// A blob.
    async fn blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        size: u64,
        access: &Access,
    ) -> Result<Box<dyn Blob>, RegistryError>;

    /// Puts a blob there, unless it is there already. Whether it had to be sent.
    async fn push_blob(
        &self,
        image: &ImageReference,
        digest: &Digest,
        file: &Path,
        access: &Access,
        sent: Sent<'_>,
    ) -> Result<bool, RegistryError>;

    /// Puts a manifest there, under the image's own reference.
    async fn push_manifest(
        &self,
        image: &ImageReference,
        manifest: &[u8],
        media_type: &str,
        access: &Access,
    ) -> Result<(), RegistryError>;

    /// Whether the login is good; `private` as in [`Access`].
    async fn check(&self, registry: &str, login: &Login, private: bool) -> Result<(), RegistryError>;
}
