//! The native API's types. Times are RFC 3339 in UTC with nanoseconds; sizes are bytes.

mod bulk;
mod containers;
mod exec;
mod health;
mod images;
mod inspection;
mod keys;
mod logs;
mod services;
mod sessions;
mod summary;
mod usage;
mod volumes;

use berth_runtime::log::format_time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use berth_types::{Extras, NamedAddress, Ulimit};
pub use bulk::{BulkAction, BulkContainers, BulkResult};
pub use containers::{
    Container, ContainerCreate, ContainerMount, ContainerUpdate, Ended, Port, PortList, Stats, Traffic,
};
pub use exec::{ExecCreate, ExecResult, FileStat, channel};
pub use health::{Health, HealthCheck};
pub use images::{
    CommitCreate, DiskPart, DiskUse, Image, ImagePull, ImagePush, ImageRemoved, LoginCreate, PruneAsked, Pruned, Pull,
    PullLayer, Quota, RegistryLogin, Travel,
};
pub use inspection::{ChangedPath, Process, Rename, Written};
pub use keys::{AccessKey, AuditEntry, KeyCreate, KeyRotate};
pub use logs::{LogCount, LogEntry};
pub(crate) use services::method;
pub use services::{
    Activity, Applied, Apply, Command, Difference, GivenPort, Group, GroupCreate, GroupDeploy, GroupMade, GroupPort,
    GroupRename, GroupRevision, GroupSpec, GroupStart, GroupStop, Package, Service, ServiceCreate,
};
pub use sessions::{Session, SessionCreate};
pub use summary::{ContainerSummary, ContainerSummaryList};
pub use usage::{
    Bandwidth, BandwidthPoint, Finding, HostDisk, HostEntry, HostInterface, HostLabel, HostUse, SshKey, SshKeyCreate,
    Usage, UsagePoint,
};
pub use volumes::{Volume, VolumeCreate};

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `status` and `code` say it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A word for programs: `invalid`, `not_found`, `duplicate`, `wrong_state`, `in_use`, `no_room` …
    pub code: String,
    /// One sentence for people.
    pub detail: String,
    /// The same in English and in parts: a client can say it in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail_parts: Option<Box<Message>>,
}

/// A sentence in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// The sentence in English; the name or number itself where a parameter is no sentence.
    pub text: String,
    /// What all sentences of its kind have in common: English with `{}` for each parameter. Absent for names and numbers, and for a
    /// sentence of no known kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// What stands in the places of the form, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub parameters: Vec<Message>,
}

impl Message {
    /// A sentence of the server, taken apart.
    pub fn of(text: &str) -> Self {
        berth_types::Message::of(text).into()
    }
}

impl From<berth_types::Message> for Message {
    fn from(message: berth_types::Message) -> Self {
        Self {
            text: message.text,
            form: message.form.map(str::to_owned),
            parameters: message.parameters.into_iter().map(Self::from).collect(),
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `cursor` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of berth.
    pub berth: String,
    /// Distribution.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU architecture.
    pub architecture: String,
    /// CPUs.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes available.
    pub memory_available: u64,
    /// Bytes free for images and containers.
    pub disk_free: u64,
    /// Mean number of running tasks in the last minute.
    pub load: f64,
    /// Version of the cgroup hierarchy, 1 or 2.
    #[serde(default)]
    pub cgroup_version: u8,
    /// What runs containers.
    #[serde(default)]
    pub runtime: String,
    /// What is not as it should be.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl From<berth_core::HostInfo> for Host {
    fn from(h: berth_core::HostInfo) -> Self {
        Self {
            name: h.name,
            berth: env!("CARGO_PKG_VERSION").into(),
            os: h.os,
            kernel: h.kernel,
            architecture: h.architecture.into(),
            cpus: h.cpus as u64,
            memory: h.memory,
            memory_available: h.memory_available,
            disk_free: h.disk_free,
            load: h.load,
            cgroup_version: h.cgroup_version,
            runtime: h.runtime,
            warnings: h.warnings,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number; grows. Pass the last one as `cursor` to go on.
    pub number: i64,
    /// When.
    pub time: String,
    /// `container.started` and the like.
    pub kind: String,
    /// Textual id or digest of what it happened to.
    pub subject: String,
    /// More, by kind.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

impl From<berth_core::Event> for Event {
    fn from(e: berth_core::Event) -> Self {
        Self { number: e.id, time: format_time(e.at), kind: e.kind, subject: e.subject, detail: e.detail }
    }
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What its owner calls it.
    pub name: String,
    /// `user` (default) or `admin`.
    #[serde(default)]
    pub role: Option<String>,
    /// Name of another account, made if it is new; administrators only.
    #[serde(default)]
    pub account: Option<String>,
    /// Seconds until it expires; never if absent, but no later than the token that makes it.
    #[serde(default)]
    pub expires_in: Option<u64>,
    /// Whether users of `account` may have containers in the host's network; administrators only.
    #[serde(default)]
    pub host_network: Option<bool>,
}

/// Who owns things.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Number.
    pub number: i64,
    /// Unique name.
    pub name: String,
    /// Whether its users may have containers in the host's network; the setting's default if null.
    pub host_network: Option<bool>,
    /// Whether its downloads may come from private addresses; the setting's default if null.
    pub private_addresses: Option<bool>,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// Whether its credentials are refused.
    #[serde(default)]
    pub disabled: bool,
    /// What it may have; null is no bound.
    #[serde(default)]
    pub quota: AccountQuota,
    /// What it has now; only where one account is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<AccountUsage>,
}

/// What an account may have; null is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccountQuota {
    /// Containers that run at a time.
    pub containers: Option<u64>,
    /// Bytes of memory of all that run. Each needs a bound of its own then; so for CPUs and bandwidth.
    pub memory: Option<u64>,
    /// CPUs of all that run, with fractions.
    pub cpus: Option<f64>,
    /// Bits per second of all that run, in each direction.
    pub bandwidth: Option<u64>,
    /// Bytes that its containers have written and its volumes hold: at or above it no container is started.
    pub disk: Option<u64>,
    /// Bytes of its images; the setting's default if null.
    pub images: Option<u64>,
}

/// What an account has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AccountUsage {
    /// Containers, stopped ones too.
    pub containers: u64,
    /// Containers that run.
    pub running: u64,
    /// Bytes of memory that those that run may use.
    pub memory: u64,
    /// CPUs that those that run may use.
    pub cpus: f64,
    /// Bytes that containers have written and volumes hold.
    pub disk: u64,
    /// Bytes of images.
    pub images: u64,
}

/// A new account.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountCreate {
    /// Unique name.
    pub name: String,
    /// What it may have.
    #[serde(default)]
    pub quota: AccountQuota,
    /// Whether its users may have containers in the host's network; the setting's default if absent.
    #[serde(default)]
    pub host_network: Option<bool>,
    /// Whether its downloads may come from private addresses; the setting's default if absent.
    #[serde(default)]
    pub private_addresses: Option<bool>,
}

/// Changes of what an account may have: what is left out stays, `null` takes a bound away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaChange {
    /// See [`AccountQuota::containers`]; so for the others.
    #[schema(value_type = Option<u64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub containers: Change<u64>,
    /// See [`AccountQuota::memory`].
    #[schema(value_type = Option<u64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub memory: Change<u64>,
    /// See [`AccountQuota::cpus`].
    #[schema(value_type = Option<f64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub cpus: Change<f64>,
    /// See [`AccountQuota::bandwidth`].
    #[schema(value_type = Option<u64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub bandwidth: Change<u64>,
    /// See [`AccountQuota::disk`].
    #[schema(value_type = Option<u64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub disk: Change<u64>,
    /// See [`AccountQuota::images`].
    #[schema(value_type = Option<u64>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub images: Change<u64>,
}

/// A value of a change: left out it stays, `null` makes it the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// As it is.
    #[default]
    Kept,
    /// This, or the default.
    To(Option<T>),
}

impl<T> Change<T> {
    /// The new value, if there is one.
    pub fn given(self) -> Option<Option<T>> {
        match self {
            Self::Kept => None,
            Self::To(value) => Some(value),
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, Self::Kept)
    }
}

impl<T: Serialize> Serialize for Change<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Kept => serializer.serialize_none(),
            Self::To(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::To)
    }
}

/// Changes of an account's rights.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccountChange {
    /// Whether its users may have containers in the host's network; `null` is the setting's default.
    #[schema(value_type = Option<bool>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub host_network: Change<bool>,
    /// Whether its downloads may come from private addresses; `null` is the setting's default.
    #[schema(value_type = Option<bool>)]
    #[serde(skip_serializing_if = "Change::is_kept")]
    pub private_addresses: Change<bool>,
    /// Whether its credentials are refused. Its containers run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// What it may have.
    pub quota: QuotaChange,
}

/// A token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Number.
    pub number: i64,
    /// What its owner calls it.
    pub name: String,
    /// `user` or `admin`.
    pub role: String,
    /// When it was made.
    pub created_at: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Name of its account; in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What a client sends; only in the answer to its making.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
