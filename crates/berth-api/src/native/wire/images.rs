//! Images.

use std::collections::BTreeMap;

use berth_runtime::log::format_time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problem;

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Digest of its configuration.
    pub digest: String,
    /// Number.
    pub number: i64,
    /// Its names, `repository:tag`.
    pub names: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Layers by digest, lowest first.
    pub layers: Vec<String>,
    /// CPU architecture, Go's word.
    pub architecture: String,
    /// How it runs: the image configuration's `config`.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
    /// When it was imported.
    pub imported_at: String,
    /// `pulled`, `loaded` or `committed`.
    pub origin: String,
    /// Whether every account may use it (an official image).
    #[serde(default)]
    pub official: bool,
    /// When it was last used for a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<String>,
}

impl From<berth_core::Image> for Image {
    fn from(i: berth_core::Image) -> Self {
        Self {
            digest: i.digest.to_string(),
            number: i.id,
            names: i.names,
            size: i.size,
            layers: i.layers.iter().map(ToString::to_string).collect(),
            architecture: i.config.architecture,
            config: serde_json::to_value(&i.config.config).unwrap_or_default(),
            imported_at: format_time(i.created_at),
            origin: i.origin.word().into(),
            official: i.shared,
            used_at: (i.used_at > 0).then(|| format_time(i.used_at)),
        }
    }
}

/// What the removal of an image took away.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageRemoved {
    /// Names.
    pub names: Vec<String>,
    /// The image, if that was its last name.
    pub digest: Option<String>,
    /// Bytes of disk freed.
    pub freed: u64,
}

/// A login at a registry.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginCreate {
    /// Host, with its port if it has one; `docker.io` for Docker Hub.
    #[serde(default)]
    pub registry: String,
    /// User's name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// A login that is kept.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegistryLogin {
    /// Host.
    pub registry: String,
    /// User's name.
    pub username: String,
    /// When it was given.
    pub created_at: String,
}

impl From<berth_core::KnownLogin> for RegistryLogin {
    fn from(l: berth_core::KnownLogin) -> Self {
        Self { registry: l.registry, username: l.username, created_at: format_time(l.created_at) }
    }
}

/// An image to be fetched.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImagePull {
    /// Its name, with the registry's host unless that is Docker Hub.
    pub image: String,
    /// `linux/arm64`; this host's own if absent.
    pub platform: Option<String>,
    /// Instead of the login that is kept.
    pub login: Option<LoginCreate>,
}

/// An image to be sent.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImagePush {
    /// Its name here, which says where it goes.
    pub image: String,
    /// Instead of the login that is kept.
    pub login: Option<LoginCreate>,
}

/// A word about an image on its way. The last one has `image`, `digest` or `error`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Travel {
    /// The layer's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// `downloading`, `retrying`, `compressing`, `uploading`, `done` or `exists`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Bytes so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// Bytes in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The image, when it has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Box<Image>>,
    /// Digest of the manifest, when it has been sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it could not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

impl From<berth_core::Progress> for Travel {
    fn from(p: berth_core::Progress) -> Self {
        Self {
            layer: Some(p.digest),
            status: Some(p.status.word().into()),
            current: Some(p.current),
            total: Some(p.total),
            ..Self::default()
        }
    }
}

/// An image that is fetched, or was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pull {
    /// Number, as text; good until the server ends.
    pub id: String,
    /// The image as it was named.
    pub image: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// When it began.
    pub begun_at: String,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Its layers, as far as they are known.
    pub layers: Vec<PullLayer>,
    /// The image, once it is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<Image>>,
    /// Why it could not be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// A layer of an image that is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PullLayer {
    /// Its digest.
    pub digest: String,
    /// `downloading`, `retrying`, `done` or `exists`.
    pub status: String,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What to make of a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CommitCreate {
    /// Name of the new image.
    pub name: Option<String>,
    /// For the history.
    pub comment: String,
    /// For the history.
    pub author: String,
    /// It goes on while it is read.
    pub no_pause: bool,
    /// Command of the new image.
    pub command: Option<Vec<String>>,
    /// Entry point of the new image.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value` over the container's own.
    pub env: Vec<String>,
    /// Labels over the image's own.
    pub labels: BTreeMap<String, String>,
}

impl From<CommitCreate> for berth_core::NewCommit {
    fn from(c: CommitCreate) -> Self {
        let CommitCreate { name, comment, author, no_pause, command, entrypoint, env, labels } = c;
        Self { name, comment, author, no_pause, command, entrypoint, env, labels }
    }
}

/// What is to be pruned.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PruneAsked {
    /// Images with names as well, as long as no container was made from them.
    pub all: bool,
    /// Only what was not used for so many seconds.
    pub unused_for: u64,
    /// Remove nothing: only tell what would be removed.
    pub dry_run: bool,
}

/// What was pruned.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// Names, or digests of images without.
    pub removed: Vec<String>,
    /// Bytes of disk freed.
    pub freed: u64,
}

/// How an account uses the disk.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DiskUse {
    /// Images; layers that several share count once.
    pub images: DiskPart,
    /// What containers wrote.
    pub containers: DiskPart,
    /// Volumes.
    pub volumes: DiskPart,
    /// Bytes that the account's images may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_quota: Option<u64>,
    /// Bytes free.
    pub free: u64,
}

/// One kind of use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DiskPart {
    /// How many there are.
    pub count: u64,
    /// How many are in use.
    pub active: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that a prune would free.
    pub reclaimable: u64,
}

impl From<berth_core::DiskPart> for DiskPart {
    fn from(p: berth_core::DiskPart) -> Self {
        Self { count: p.count, active: p.active, size: p.size, reclaimable: p.reclaimable }
    }
}

impl From<berth_core::DiskUse> for DiskUse {
    fn from(d: berth_core::DiskUse) -> Self {
        Self {
            images: d.images.into(),
            containers: d.containers.into(),
            volumes: d.volumes.into(),
            image_quota: d.image_quota,
            free: d.free,
        }
    }
}

/// Bytes that an account's images may take.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The account's name.
    pub account: String,
    /// Bytes; the settings' default if absent.
    #[serde(default)]
    pub bytes: Option<u64>,
}
