//! Removes a group with its containers.

use async_trait::async_trait;
use berth_operations::{Done, Work};
use serde::{Deserialize, Serialize};

use super::steps::Delete;
use super::{Body, MEMBERS, PlannedStep, SETTLE, StepBody, planned};
use crate::core::Core;
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDelete {}

/// Removes what is left of a group: its load balancer, its code, its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveGroup {}

#[async_trait]
impl Body for GroupDelete {
    fn name(&self) -> &'static str {
        "group_delete"
    }

    fn is_removal(&self) -> bool {
        true
    }

    fn removal_enqueued(&self, tx: &berth_store::Tx<'_>, target: i64) -> Result<(), berth_store::Error> {
        let change = berth_store::GroupChange { desired: Some("removed"), ..Default::default() };
        tx.group_change(target, &change).map(drop)
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        let mut steps = found.begin();
        steps.extend(found.members.iter().map(|member| planned(MEMBERS, Delete { container: member.id })));
        steps.push(planned(SETTLE, RemoveGroup {}));
        Ok(steps)
    }
}

#[async_trait]
impl StepBody for RemoveGroup {
    fn name(&self) -> &'static str {
        "remove_group"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        core.group_erase(work.command.target).await?;
        Ok(Done::success())
    }
}
