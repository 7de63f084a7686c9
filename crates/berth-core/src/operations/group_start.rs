//! Starts a group, with another image perhaps.

use async_trait::async_trait;
use berth_operations::{Method, Outcome};
use serde::{Deserialize, Serialize};

use super::group_apply::undo_of_group;
use super::members::{Replace, watched};
use super::steps::{Pull, Start};
use super::{Body, MEMBERS, Operation, PREPARE, PlannedStep, planned};
use crate::core::Core;
use crate::error::Error;
use crate::services::spec::{Group, GroupSpec};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStart {
    /// Makes every container anew.
    pub update: bool,
    pub image: Option<String>,
    pub method: Method,
}

#[async_trait]
impl Body for GroupStart {
    fn name(&self) -> &'static str {
        "group_start"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn undo(&self, of: &str, outcome: Outcome) -> Option<Operation> {
        undo_of_group(of, outcome)
    }

    fn change_spec(&self, spec: &mut GroupSpec) {
        if let Some(image) = &self.image {
            spec.image.clone_from(image);
        }
    }

    fn desired(&self, _group: &Group) -> Option<&'static str> {
        Some("running")
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        let mut spec = found.group.spec.clone();
        self.change_spec(&mut spec);
        let mut steps = found.begin();
        steps.push(planned(PREPARE, Pull { image: spec.image.clone() }));
        let shape = spec.shape();
        for member in &found.members {
            // Another image is another root file system: no container keeps its own over that. One whose code is not the
            // group's, by a deployment that failed, is made anew, too.
            let current = member.shape == shape && member.version == found.group.version;
            steps.push(if self.update || !current {
                planned(MEMBERS, Replace { container: member.id, start: true })
            } else {
                planned(MEMBERS, Start { container: member.id })
            });
        }
        steps.extend(found.end(spec.replicas, true));
        Ok(watched(core, steps))
    }
}
