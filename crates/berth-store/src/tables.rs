//! Queries, one file a resource.

pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod idempotency;
pub(crate) mod images;
pub(crate) mod tokens;
