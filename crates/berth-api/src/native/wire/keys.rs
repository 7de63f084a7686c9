//! Access keys, and the audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An access key to be made. An empty list is no bound.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyCreate {
    /// What its owner calls it.
    pub name: String,
    /// `user` (default) or `admin`.
    pub role: Option<String>,
    /// Name of another account, made if it is new; administrators only.
    pub account: Option<String>,
    /// Dialects that it may be used for: `acs`, …
    pub dialects: Vec<String>,
    /// Actions that it may be used for, such as `node_start` or `container_*`; `read` is everything that changes nothing.
    pub actions: Vec<String>,
    /// Client addresses that it may be used from, single or as `10.0.0.0/8`.
    pub addresses: Vec<String>,
    /// Requests without a signature are taken.
    pub unsigned: bool,
    /// Seconds until it expires; never if absent, but no later than what makes it.
    pub expires_in: Option<u64>,
}

/// A rotation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyRotate {
    /// Seconds that the secret before goes on being good; a day if absent.
    pub old_for: Option<u64>,
}

/// An access key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AccessKey {
    /// Number.
    pub number: i64,
    /// What its owner calls it.
    pub name: String,
    /// What a request names.
    pub access_key: String,
    /// `user` or `admin`.
    pub role: String,
    /// Dialects that it may be used for; all if empty.
    pub dialects: Vec<String>,
    /// Actions that it may be used for; all if empty.
    pub actions: Vec<String>,
    /// Addresses that it may be used from; all if empty.
    pub addresses: Vec<String>,
    /// Requests without a signature are taken.
    pub unsigned: bool,
    /// It is not taken.
    pub disabled: bool,
    /// When it was made.
    pub created_at: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Until when the secret before the present one is good too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_secret_until: Option<String>,
    /// When it was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_from: Option<String>,
    /// Its secret; only in the answer to its making or rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
}

/// A change that somebody asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Number; grows.
    pub number: i64,
    /// When.
    pub time: String,
    /// The credential: `token 1`, `key 2`; empty if none was good.
    pub who: String,
    /// The client's address.
    pub from: String,
    /// The API that it came by.
    pub dialect: String,
    /// Method and path.
    pub action: String,
    /// HTTP status.
    pub status: u16,
    /// What was said if it failed.
    pub message: String,
    /// Id of the request, as in the log.
    pub request_id: String,
    /// How often the same came of it: repeated failures are one entry.
    #[serde(default)]
    pub count: i64,
    /// When it did last.
    #[serde(default)]
    pub last_time: String,
}
