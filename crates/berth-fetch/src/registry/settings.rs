//! How registries are reached.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Addresses that are asked first, in order, such as `https://mirror.example`.
    pub mirrors: Vec<String>,
    /// Whether the registry itself speaks HTTP without TLS.
    pub plain_http: bool,
    /// PEM file of an authority that signed its certificate.
    pub ca_file: Option<PathBuf>,
}

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesSettings {
    /// Seconds without a byte after which a connection to a registry is given up and taken up again where it stood.
    pub stall_s: u64,
    /// Whether registries may be on loopback and private addresses. Link-local and cloud metadata addresses never are. By
    /// redirects, upload locations and token services only registries that are named below, or that are addressed by a
    /// private address, lead to other private addresses; none leads from HTTPS to HTTP.
    pub private_addresses: bool,
    /// By host (and port); `*` holds for all: its mirrors are asked after a registry's own.
    pub hosts: BTreeMap<String, RegistrySettings>,
}

impl Default for RegistriesSettings {
    fn default() -> Self {
        Self { stall_s: 20, private_addresses: true, hosts: BTreeMap::new() }
    }
}
