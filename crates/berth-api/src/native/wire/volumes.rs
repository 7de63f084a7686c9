//! Volumes.

use std::collections::BTreeMap;

use berth_runtime::log::format_time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A volume to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeCreate {
    /// Unique in the account; made up if absent.
    pub name: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// A named volume.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: String,
    /// Containers that mount it, by name.
    pub used_by: Vec<String>,
    /// Bytes on disk; only where one volume is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Its folder on the host; for administrators, where one volume is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
}

impl From<berth_core::Volume> for Volume {
    fn from(v: berth_core::Volume) -> Self {
        Self {
            name: v.name,
            labels: v.labels,
            created_at: format_time(v.created_at),
            used_by: v.used_by,
            size: v.size,
            mountpoint: None,
        }
    }
}
