//! What berth does, told without protocol, SQL or kernel.
//!
//! A use case is a method of [`Core`]; it takes the [`Caller`] and answers with its own words or an [`Error`], which every
//! dialect translates for itself. What was asked is written down before the engine hears of it; what is true is observed,
//! never assumed: a reconciler compares both, woken by the engine's nudges and by a timer.

mod apps;
mod balancing;
mod bandwidth;
mod containers;
mod core;
mod deployments;
mod downloads;
mod error;
mod events;
mod host;
mod hosts;
mod images;
mod metering;
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

pub use berth_identity::Error as IdentityError;
pub use berth_identity::{
    AccessKey, AccountLimiter, Administrator, AuditEntry, AuditQuery, Caller, Change, Credential, IdempotencyLookup,
    Identity, KeyBounds, NewKey, NewToken, NoToken, Permit, Refusal, Role, SessionToken, Signed, SshKey, SshKeyKind,
    Token, signature_of, signed_text, unsigned,
};
pub use berth_store::{Account, AccountChange};
pub use berth_types::Page;

pub use apps::{App, Fetch, FetchError, NewApp};
pub use bandwidth::{Grouped, Series, SeriesPoint};
pub use berth_operations::{Command, CommandQuery, CommandStatus, Method, OperationStep, Outcome, Target};
pub use containers::{
    Container, ContainerPhase, ContainerState, ContainerUpdate, LogFollower, LogQuery, NewContainer, Usage,
};
pub use core::{Core, Paths};
pub use deployments::{Deployment, DeploymentSpec, NewDeployment, Reservation, Rollout};
pub use downloads::Download;
pub use error::{Error, FaultKind, Field};
pub use events::Event;
pub use host::HostInfo;
pub use hosts::{Host, HostLabels, HostSettings};
pub use images::{DiskPart, DiskUse, Image, NewCommit, Origin, Prune, Pruned, Removed};
pub use metering::Usage as MeteredUsage;
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
pub use services::{Applied, ContainerOrder, Difference, Group, GroupPort, GroupSpec, GroupState, Service};
pub use settings::Settings;
pub use ssh::SshEndpoint;
pub use volumes::{NewVolume, Volume};

/// Whether somebody takes connections there, within a second.
pub(crate) async fn takes_connections(address: impl tokio::net::ToSocketAddrs) -> bool {
    let tried = tokio::time::timeout(std::time::Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await;
    matches!(tried, Ok(Ok(_)))
}
