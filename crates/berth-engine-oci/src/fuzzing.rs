//! Entry points for fuzz targets.

/// What a container sends to the name service.
pub fn dns(message: &[u8]) {
    crate::dns::read(message);
}
