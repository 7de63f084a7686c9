//! The image configuration (OCI image specification, config.md), read leniently: builders leave out and write null.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;

/// What an image says about itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// CPU architecture, Go's word (`amd64`).
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Operating system, `linux`.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// When it was built, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Config,
    /// Its layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
}

/// Layers by the digest of their uncompressed tar, lowest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// The digests.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// Defaults for a container's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `name`, `uid`, either with `:group`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports the image listens on, `80/tcp`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// `KEY=value`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run, before the command.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Paths that hold data.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Working directory.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free labels.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop, `SIGTERM` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Docker's `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Health>,
}

/// Docker's `HEALTHCHECK`; times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and a line.
    #[serde(default, deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(default)]
    pub interval: Option<i64>,
    /// Of one check.
    #[serde(default)]
    pub timeout: Option<i64>,
    /// Grace at the start.
    #[serde(default)]
    pub start_period: Option<i64>,
    /// Failures in a row until unhealthy.
    #[serde(default)]
    pub retries: Option<i64>,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Go's name of the architecture this program runs on, as image configurations have it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::ImageConfig;

    #[test]
    fn nulls_and_gaps_are_read_as_defaults() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Labels":null,"ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{}]}"#;
        let config: ImageConfig = serde_json::from_str(text).expect("config");
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty() && config.config.exposed_ports.contains_key("80/tcp"));
        assert!(serde_json::from_str::<ImageConfig>("{}").is_ok());
        assert!(serde_json::from_str::<ImageConfig>(r#"{"config":null}"#).is_ok());
    }
}
