//! Queries, one file a resource.

pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod idempotency;
pub(crate) mod images;
pub(crate) mod registries;
pub(crate) mod tokens;
pub(crate) mod volumes;
