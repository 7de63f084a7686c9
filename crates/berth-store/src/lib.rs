//! What berth remembers.
//!
//! SQLite in WAL mode; the writing thread syncs the log: what a write has answered survives a power cut. One thread writes; it
//! takes all writes that wait into one transaction, each in its own savepoint, and answers them after the commit, so that
//! durability costs one disk flush for all of them (measured: 43,000 writes a second against 3,300 one by one). What is observed again
//! after a power failure (states, readings that nobody was told) does not wait for the disk; it is there a tenth of a second later.
//!
//! Written so that PostgreSQL can follow: numbered parameters, `ON CONFLICT … RETURNING`, times as integers (nanoseconds
//! since 1970), JSON as text, and all SQL in this crate, behind methods of [`Tx`], one file a resource.

mod database;
mod tables;

pub use database::{Error, Load, Store, Tx, snapshot};
pub use tables::access_keys::AccessKey;
pub use tables::accounts::{Account, AccountChange, Belongings, Quota};
pub use tables::audit::{AuditEntry, AuditFilter};
pub use tables::commands::{Command, CommandFilter, OperationStep};
pub use tables::console_sessions::SessionOrigin;
pub use tables::containers::{Container, ContainerChange, ContainerFilter, ContainerSearch, ContainerSort};
pub use tables::deployments::{Deployment, Download};
pub use tables::distribution::{Blob, Manifest, ManifestTag};
pub use tables::events::Event;
pub use tables::hosts::{Host, HostLabels};
pub use tables::idempotency::Remembered;
pub use tables::images::{Image, ImageName};
pub use tables::meters::{KnownMeter, Measured, Meter, MeterReading};
pub use tables::plans::Plan;
pub use tables::points::{Horizons, Point, Recent, Sum, SumKind, Used};
pub use tables::registries::RegistryLogin;
pub use tables::revisions::Revision;
pub use tables::services::{Group, GroupChange, Package, Service};
pub use tables::ssh_keys::SshKey;
pub use tables::tokens::Token;
pub use tables::volumes::Volume;
