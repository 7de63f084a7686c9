//! Entry points for fuzz targets.

/// A manifest or an index of a registry.
pub fn manifest(bytes: &[u8]) {
    crate::registries::manifests::read(bytes);
}
