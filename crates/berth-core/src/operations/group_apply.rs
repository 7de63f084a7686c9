//! Brings a group to a specification: containers made, changed, made anew, removed; and back to it after a failure.

use async_trait::async_trait;
use berth_operations::{Method, Outcome};
use serde::{Deserialize, Serialize};

use super::members::{GroupMembers, Ports, Replace, Update, watched};
use super::steps::{Delete, Pull};
use super::{Body, MEMBERS, Operation, PREPARE, PlannedStep, SURPLUS, planned};
use crate::containers::container;
use crate::core::Core;
use crate::error::Error;
use crate::services::spec::{Group, GroupSpec};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupApply {
    pub spec: Box<GroupSpec>,
    pub method: Method,
}

/// Brings a group back to what it is written down to be: a command that failed has not changed that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUndo {
    /// That command's UUID.
    pub of: String,
}

/// What takes back a group's command. One that was cancelled, or gave way to a removal, leaves the group as it is.
pub(super) fn undo_of_group(of: &str, outcome: Outcome) -> Option<Operation> {
    (outcome != Outcome::Superseded).then(|| GroupUndo { of: of.to_owned() }.into())
}

#[async_trait]
impl Body for GroupApply {
    fn name(&self) -> &'static str {
        "group_apply"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn undo(&self, of: &str, outcome: Outcome) -> Option<Operation> {
        undo_of_group(of, outcome)
    }

    fn change_spec(&self, spec: &mut GroupSpec) {
        spec.clone_from(&self.spec);
    }

    fn desired(&self, group: &Group) -> Option<&'static str> {
        group.members_never_made.then_some("running")
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        Ok(watched(core, bring_to(core, &found, &self.spec)?))
    }
}

#[async_trait]
impl Body for GroupUndo {
    fn name(&self) -> &'static str {
        "group_undo"
    }

    fn is_undo(&self) -> bool {
        true
    }

    /// What it puts back is as good as it was before: it is not watched.
    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        bring_to(core, &found, &found.group.spec)
    }
}

fn bring_to(core: &Core, found: &GroupMembers, spec: &GroupSpec) -> Result<Vec<PlannedStep>, Error> {
    spec.check(&core.settings())?;
    let mut steps = found.begin();
    steps.push(planned(PREPARE, Ports {}));
    steps.push(planned(PREPARE, Pull { image: spec.image.clone() }));
    let (shape, replicas) = (spec.shape(), spec.replicas as usize);
    let start = found.desired_running || found.group.members_never_made;
    let (kept, surplus) = found.members.split_at(found.members.len().min(replicas));
    for member in kept {
        let current = member.shape == shape && member.version == found.group.version;
        if !current {
            steps.push(planned(MEMBERS, Replace { container: member.id, start }));
        } else if !spec.live_part_is(&container(member.clone())?) {
            steps.push(planned(MEMBERS, Update { container: member.id }));
        }
    }
    // Either some are too many or some are missing.
    steps.extend(surplus.iter().rev().map(|member| planned(SURPLUS, Delete { container: member.id })));
    steps.extend(found.end(spec.replicas, start));
    Ok(steps)
}
