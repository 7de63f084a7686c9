//! Images from and to registries (OCI distribution specification). What travels is decided here; how, below [`Registry`].

pub(crate) mod error;
mod logins;
pub(crate) mod manifests;
mod progress;
mod protocol;
mod pull;
mod pulls;
mod push;
mod reference;

use std::time::Duration;

pub use error::RegistryError;
pub use logins::KnownLogin;
pub use progress::{Progress, ProgressStatus, Progresses};
pub use protocol::{Access, Blob, Login, Registry, Sent};
pub(crate) use pulls::Pulls;
pub use reference::ImageReference;

use crate::error::Error;

/// Longest manifest or configuration, bytes; the specification's own bound.
const LONGEST_JSON: u64 = 4 << 20;
/// Layers of one image that travel at a time.
const LAYERS_AT_ONCE: usize = 4;
/// How often a layer whose content turned out wrong is asked for.
const ATTEMPTS: u32 = 3;
/// Between two words about the progress of a layer.
const PROGRESS_PERIOD: Duration = Duration::from_millis(100);

fn wrong(text: impl Into<String>) -> Error {
    Error::Registry(RegistryError::Wrong(text.into()))
}
