//! Names of images at registries.

use std::fmt;

use crate::error::Error;
use crate::images::full_name;

/// Where an image is, or goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Host, with its port if it is not the scheme's own; `docker.io` for Docker Hub.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// Tag, or a digest.
    pub reference: String,
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

impl ImageReference {
    /// Reads a name as Docker does: `nginx` is `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(name: &str) -> Result<Self, Error> {
        let full = full_name(name)?;
        let (path, reference) = match full.split_once('@') {
            Some((path, digest)) => (path.to_owned(), digest.to_owned()),
            None => full.rsplit_once(':').map(|(p, t)| (p.to_owned(), t.to_owned())).unwrap_or_default(),
        };
        let is_host = |part: &str| part.contains('.') || part.contains(':') || part == "localhost";
        let (registry, repository) = match path.split_once('/') {
            Some((host, rest)) if is_host(host) => (host.to_owned(), rest.to_owned()),
            _ => ("docker.io".to_owned(), path),
        };
        let hub = matches!(registry.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let registry = if hub { "docker.io".to_owned() } else { registry };
        let repository = if hub && !repository.contains('/') { format!("library/{repository}") } else { repository };
        Ok(Self { registry, repository, reference })
    }
}
