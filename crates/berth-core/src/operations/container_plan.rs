//! A container's changed plan: charge, description, bandwidth; with another size it is a resize.

use async_trait::async_trait;
use berth_operations::{Done, Work};
use serde::{Deserialize, Serialize};

use super::{Body, MEMBERS, Operation, PlannedStep, StepBody, planned};
use crate::core::Core;
use crate::error::Error;
use crate::plans::PlanChange;
use crate::settings::Settings;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub change: Box<PlanChange>,
    pub resize: bool,
}

/// Has the container be as its changed plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub container: i64,
}

#[async_trait]
impl Body for ContainerPlan {
    fn name(&self) -> &'static str {
        if self.resize { "container_resize" } else { "container_update" }
    }

    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.plans.operation_timeout_s
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Plan { container: command.target })])
    }
}

#[async_trait]
impl StepBody for Plan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let Operation::ContainerPlan(asked) = &work.operation else {
            return Err(Error::Bug("a changed plan without the change".into()));
        };
        core.plan_apply(&work.caller, self.container, &asked.change).await?;
        Ok(Done::success())
    }
}
