//! What berth does, told without protocol, SQL or kernel.
//!
//! A use case is a method of [`Core`]; it takes the [`Caller`] and answers with its own words or an [`Error`], which every
//! dialect translates for itself. What was asked is written down before the engine hears of it; what is true is observed,
//! never assumed: a reconciler compares both, woken by the engine's nudges and by a timer.

mod apps;
mod audit;
mod balancing;
mod bandwidth;
mod commands;
mod containers;
mod core;
mod deployments;
mod downloads;
mod error;
mod events;
mod field;
mod host;
mod hosts;
mod images;
mod keys;
mod limiter;
mod metering;
mod packages;
mod plans;
mod policies;
mod reconcile;
mod registries;
mod runtimes;
mod secrets;
mod services;
mod sessions;
mod settings;
mod ssh;
mod ssh_keys;
mod tokens;
mod volumes;

pub use berth_store::{Account, AccountChange};

pub use apps::{App, Fetch, FetchError, NewApp};
pub use audit::{AuditEntry, AuditQuery, Change};
pub use bandwidth::{Grouped, Series, SeriesPoint};
pub use commands::{Command, CommandQuery, CommandStatus, Method, OperationStep, Outcome, Target};
pub use containers::{
    Container, ContainerPhase, ContainerState, ContainerUpdate, LogFollower, LogQuery, NewContainer, Page, Usage,
};
pub use core::{Core, Paths};
pub use deployments::{Deployment, DeploymentSpec, NewDeployment, Reservation, Rollout};
pub use downloads::Download;
pub use error::{Error, FaultKind, Field};
pub use events::Event;
pub use host::HostInfo;
pub use hosts::{Host, HostLabels, HostSettings};
pub use images::{DiskPart, DiskUse, Image, NewCommit, Origin, Prune, Pruned, Removed};
pub use keys::{AccessKey, KeyBounds, NewKey, Refusal, Signed, signature_of, signed_text};
pub use limiter::{AccountLimiter, Permit};
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
pub use sessions::{NoToken, SessionToken, unsigned};
pub use settings::Settings;
pub use ssh::SshEndpoint;
pub use ssh_keys::{SshKey, SshKeyKind};
pub use tokens::{Administrator, Caller, Credential, IdempotencyLookup, NewToken, Role, Token};
pub use volumes::{NewVolume, Volume};

/// Whether somebody takes connections there, within a second.
pub(crate) async fn takes_connections(address: impl tokio::net::ToSocketAddrs) -> bool {
    let tried = tokio::time::timeout(std::time::Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await;
    matches!(tried, Ok(Ok(_)))
}

/// Random bytes in hexadecimal: ids and secrets.
pub(crate) fn random_hex(bytes: usize) -> String {
    use std::io::Read;
    let mut buffer = vec![0; bytes];
    // /dev/urandom can't fail on Linux once it is open; without it there is no safe way on.
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut buffer))
        .unwrap_or_else(|error| panic!("/dev/urandom: {error}"));
    buffer.iter().map(|b| format!("{b:02x}")).collect()
}

/// Now, nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
