//! Queries, one file a resource.

pub(crate) mod access_keys;
pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod commands;
pub(crate) mod console_sessions;
pub(crate) mod containers;
pub(crate) mod deployments;
pub(crate) mod distribution;
pub(crate) mod events;
pub(crate) mod hosts;
pub(crate) mod idempotency;
pub(crate) mod images;
pub(crate) mod meters;
pub(crate) mod plans;
pub(crate) mod points;
pub(crate) mod registries;
pub(crate) mod revisions;
pub(crate) mod services;
pub(crate) mod signed_requests;
pub(crate) mod ssh_keys;
pub(crate) mod tokens;
pub(crate) mod volumes;
