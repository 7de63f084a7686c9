//! Operations on one container: start, stop, restart, removal, and the first start of one that was just made.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::steps::{Delete, Launch, Restart, Start, Stop};
use super::{Body, MEMBERS, PlannedStep, planned};
use crate::core::Core;
use crate::error::Error;
use crate::settings::Settings;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStart {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStop {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDelete {}

/// Brings up a container that was written down with this command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerCreate {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRestart {}

#[async_trait]
impl Body for ContainerStart {
    fn name(&self) -> &'static str {
        "container_start"
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Start { container: command.target })])
    }
}

#[async_trait]
impl Body for ContainerStop {
    fn name(&self) -> &'static str {
        "container_stop"
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Stop { container: command.target })])
    }
}

#[async_trait]
impl Body for ContainerDelete {
    fn name(&self) -> &'static str {
        "container_delete"
    }

    fn is_removal(&self) -> bool {
        true
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Delete { container: command.target })])
    }
}

#[async_trait]
impl Body for ContainerCreate {
    fn name(&self) -> &'static str {
        "container_create"
    }

    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.plans.operation_timeout_s
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Launch { container: command.target })])
    }
}

#[async_trait]
impl Body for ContainerRestart {
    fn name(&self) -> &'static str {
        "container_restart"
    }

    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.plans.operation_timeout_s
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Restart { container: command.target })])
    }
}
