//! Manifests and indexes, as far as a pull reads them, and the platform that is chosen.

use std::collections::BTreeMap;

use berth_image::Digest;
use serde::Deserialize;

use crate::error::{Error, Field};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<PlatformField>,
    #[serde(default)]
    pub(super) urls: Vec<String>,
    #[serde(default)]
    pub(super) artifact_type: Option<String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// Whether it may be an image, for all that the index says.
    pub(super) fn may_be_image(&self) -> bool {
        let says_nothing = self.platform.as_ref().is_none_or(|p| p.os.is_empty() && p.architecture.is_empty());
        says_nothing && self.artifact_type.is_none() && !self.annotations.contains_key("vnd.docker.reference.type")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PlatformField {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnyManifest {
    #[serde(default)]
    pub(super) schema_version: u32,
    /// Each is read by itself: one that is not understood does not hide the others.
    #[serde(default)]
    pub(super) manifests: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Option<Vec<Descriptor>>,
}

/// `linux/arm64/v8` in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: Option<String>,
}

impl Platform {
    pub(super) fn read(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text.filter(|t| !t.is_empty()) else {
            return Ok(Self { os: "linux".into(), architecture: berth_image::architecture().into(), variant: None });
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() < 2 && !os.is_empty() && !architecture.is_empty() => Ok(Self {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: rest.first().map(|v| (*v).to_owned()),
            }),
            _ => Err(Error::invalid(Field::Platform, format!("{text:?} is not os/architecture, such as linux/amd64"))),
        }
    }

    /// How well something fits, the more the better; `None` if it does not.
    pub(super) fn rank(&self, offered: &PlatformField) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let own = self.architecture == berth_image::architecture();
        berth_image::rank_of_variant(&self.architecture, self.variant.as_deref(), &offered.variant, own)
    }

    /// Whether a configuration is of this platform; one that says nothing is.
    pub(super) fn is_of(&self, config: &berth_image::ImageConfig) -> bool {
        let same = |have: &str, wanted: &str| have.is_empty() || have == wanted;
        same(&config.architecture, &self.architecture) && same(&config.os, &self.os)
    }
}

/// For fuzz targets: reads a manifest and chooses from it.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(bytes: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<AnyManifest>(bytes) else { return };
    let Ok(platform) = Platform::read(None) else { return };
    for one in manifest.manifests.into_iter().flatten() {
        if let Ok(descriptor) = serde_json::from_value::<Descriptor>(one) {
            let _ = (descriptor.may_be_image(), descriptor.platform.as_ref().and_then(|p| platform.rank(p)));
        }
    }
}
