//! Who listens in containers for SSH logins.

use std::collections::HashMap;
use std::sync::Mutex;

/// Which runs somebody listens in: a cache, made anew by each server.
#[derive(Default)]
pub(crate) struct Listening(pub(super) Mutex<Served>);

#[derive(Default)]
pub(super) struct Served {
    /// Whether there is anybody who would.
    pub(super) any: bool,
    /// Container, run.
    pub(super) runs: HashMap<i64, i64>,
}
