//! What berth does, without protocol, SQL or kernel.
//!
//! A use case is a method of [`Core`]; it takes the [`Caller`] and answers with its own types or an [`Error`], which every
//! dialect translates for itself. What was asked is written down before the engine is called; what is true is observed,
//! never assumed. A reconciler compares both, woken by the engine's nudges and by a timer.
//!
//! # Groups
//!
//! A group is a specification and the containers made from it. A container knows the digest of the part that can't be changed while it
//! runs (its *shape*) and the version of its code; what differs is changed in place or made anew. A successor is made beside the old
//! container (`replaces` in its row says so), becomes ready, is settled in one write, and only then the old one is drained and removed. Its
//! name comes from the step's number: a step that runs twice finds what it made. A version of code is a layer above the image's for a
//! new container, or files in one that exists.
//!
//! The core decides which containers a load balancer leads to: those that run, are healthy (or take connections, without a check), and
//! are not about to be stopped. A container is drained by leaving the load balancer first, then as long as connections are open, bounded
//! by the group's setting.
//!
//! # Deployments and roll-outs
//!
//! A deployment is a container in its host's network, known by its name, with the specification that was asked for beside it. Both it and
//! its successor may bind the same port, so the old one is stopped while the new one starts, and started again if that does not become
//! ready. Whether it is to run is written down with the successor: a server that is killed in between must not take the pause for a
//! request to stop.
//!
//! A roll-out orders its deployments by a digest of their names, so a larger share contains the smaller one. It is one command with a step
//! for each deployment and a stage for each batch. A step changes the version and nothing else, and only of a deployment that is as the
//! roll-out found it. When a stage fails or the command is cancelled, what it moved goes back by a command of its own.
//!
//! # Metering
//!
//! A sampler reads all counters every ten seconds. The reading and the point that it adds are written in one transaction, so points of a
//! container follow each other without gap or overlap. Rows of `rounds` hold readings as they came; after five minutes they are sorted by
//! container into `segments` and added up, to five minutes and to hours. Sums by host, image and version are made in the transaction that
//! makes the five-minute points, from the same points. A container that is removed is ended first, read, and then removed.

mod apps;
mod balancing;
mod bandwidth;
mod containers;
mod core;
mod deployments;
mod distribution;
mod downloads;
mod error;
mod events;
mod fetch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod hosts;
mod images;
mod metering;
mod open;
mod operations;
mod packages;
mod plans;
mod policies;
mod reconcile;
mod registries;
mod runtimes;
mod services;
mod settings;
mod ssh;
mod volumes;
mod watching;

pub use berth_identity::Error as IdentityError;
pub use berth_identity::{
    AccessKey, AccountLimiter, Administrator, AuditEntry, AuditQuery, Caller, Change, ConsoleLogin, ConsoleSession,
    Credential, IdempotencyLookup, Identity, KeyBounds, KeyGuard, NewKey, NewToken, NoSession, NoToken, Permit,
    Refusal, Role, SessionToken, Signed, SshKey, SshKeyKind, Token, signature_of, signed_text, unsigned,
};
pub use berth_store::{Account, AccountChange, ContainerSearch, ContainerSort, Quota};
pub use berth_types::{Page, now};

pub use apps::{App, NewApp};
pub use bandwidth::{Grouped, Series, SeriesPoint};
pub use berth_operations::{Command, CommandQuery, CommandStatus, Method, OperationStep, Outcome, Target};
pub use containers::{
    Container, ContainerOnly, ContainerPhase, ContainerState, ContainerUpdate, LogFollower, LogQuery, NewContainer,
    Usage, signal_number,
};
pub use core::{Core, Paths};
pub use deployments::{Deployment, DeploymentSpec, NewDeployment, Reservation, Rollout};
pub use distribution::{BlobFile, DistributionError, ManifestPut, Referrer, StoredManifest};
pub use downloads::Download;
pub use error::{Error, FaultKind, Field};
pub use events::Event;
pub use fetch::{Fetch, FetchError};
pub use host::HostInfo;
pub use hosts::{Host, HostLabels, HostSettings, HostUse};
pub use images::{DiskPart, DiskUse, Image, NewCommit, Origin, Prune, Pruned, Removed};
pub use metering::{Usage as MeteredUsage, UsagePoint};
pub use packages::Package;
pub use plans::{
    Charge, ImageNote, NetworkCharge, NewPlanned, Plan, PlanChange, PlanOperation, PlanProgress, PlanSettings,
    PlanSpec, Planned,
};
pub use policies::{HealthCheck, HealthState, HealthStatus, HealthTest, RestartPolicy};
pub use registries::{
    Access, Blob, ImageReference, KnownLogin, Login, Progress, ProgressStatus, Progresses, Registry, RegistryError,
    Sent,
};
pub use runtimes::{Runtime, RuntimeKind};
pub use services::{
    Applied, ContainerOrder, Difference, Group, GroupPort, GroupRevision, GroupSpec, GroupState, Service,
};
pub use settings::Settings;
pub use ssh::SshEndpoint;
pub use volumes::{NewVolume, Volume};
pub use watching::{Meters, Watched};

/// Whether somebody takes connections there, within a second.
pub(crate) async fn takes_connections(address: impl tokio::net::ToSocketAddrs) -> bool {
    let tried = tokio::time::timeout(std::time::Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await;
    matches!(tried, Ok(Ok(_)))
}
