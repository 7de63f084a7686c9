//! What is known of load balancers and is in no record.

use std::collections::HashSet;
use std::sync::Mutex;

/// What is known of members beyond the records; a cache.
#[derive(Default)]
pub(crate) struct Balancing {
    /// Containers that are about to be stopped.
    pub(super) draining: Mutex<HashSet<i64>>,
    /// Runs of containers without a health check that take connections: container, run.
    pub(super) ready: Mutex<HashSet<(i64, i64)>>,
}
