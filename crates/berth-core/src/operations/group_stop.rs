//! Stops all containers of a group.

use async_trait::async_trait;
use berth_operations::Method;
use serde::{Deserialize, Serialize};

use super::members::Settle;
use super::steps::Stop;
use super::{Body, MEMBERS, PlannedStep, SETTLE, planned};
use crate::core::Core;
use crate::error::Error;
use crate::services::spec::Group;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStop {
    pub method: Method,
}

#[async_trait]
impl Body for GroupStop {
    fn name(&self) -> &'static str {
        "group_stop"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn comes_to_spec(&self) -> bool {
        false
    }

    fn desired(&self, _group: &Group) -> Option<&'static str> {
        Some("stopped")
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        let mut steps = found.begin();
        steps.extend(found.members.iter().map(|member| planned(MEMBERS, Stop { container: member.id })));
        steps.push(planned(SETTLE, Settle {}));
        Ok(steps)
    }
}
