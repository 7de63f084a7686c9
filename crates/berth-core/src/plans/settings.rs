//! Settings of plans.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a container of a plan may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanSpec {
    /// CPUs, fractions allowed.
    pub cpus: f64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk, GiB; shown, not enforced.
    pub disk_gib: u64,
}

/// What an administrator says about an image, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageNote {
    /// A line about it; its label `org.opencontainers.image.description` if empty.
    pub description: String,
    /// Where it stands among others: higher is first.
    pub weight: i64,
    /// Least and greatest spec of a container that is charged as a package; both or none.
    pub packages: Option<(i64, i64)>,
    /// Least and greatest spec of a container that is charged by use; both or none.
    pub specs: Option<(i64, i64)>,
}

/// Settings of plans.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlanSettings {
    /// Containers that an account may have before the dialect `comb` makes it no more; 0: no bound.
    pub container_quota: u64,
    /// Seconds that making or changing a container may take in it, from when it was accepted. A restart under way is not cut
    /// off.
    pub operation_timeout_s: u64,
    /// Bytes that all variables of a container may take in it.
    pub env_max_bytes: usize,
    /// Specs by number.
    pub specs: BTreeMap<String, PlanSpec>,
    /// Notes on images, by name and tag.
    pub images: BTreeMap<String, ImageNote>,
}

impl Default for PlanSettings {
    fn default() -> Self {
        let spec = |cpus, memory_mib, disk_gib| PlanSpec { cpus, memory_mib, disk_gib };
        let specs = [
            ("1", spec(0.5, 512, 20)),
            ("10", spec(1.0, 1024, 20)),
            ("20", spec(2.0, 2048, 20)),
            ("30", spec(2.0, 4096, 40)),
            ("40", spec(4.0, 8192, 80)),
            ("50", spec(8.0, 16384, 160)),
        ];
        Self {
            container_quota: 0,
            operation_timeout_s: 600,
            env_max_bytes: 32 << 10,
            specs: specs.into_iter().map(|(number, spec)| (number.to_owned(), spec)).collect(),
            images: BTreeMap::new(),
        }
    }
}
