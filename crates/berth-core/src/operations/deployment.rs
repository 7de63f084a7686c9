//! Deployments: one container each, replaced by a successor that has to become ready first.

use async_trait::async_trait;
use berth_operations::{Done, Outcome, UNCHANGED, Work};
use serde::{Deserialize, Serialize};

use super::rollout::RolloutUndo;
use super::steps::{Pull, soak};
use super::{Body, MEMBERS, Operation, PREPARE, PlannedStep, StepBody, WATCH, planned};
use crate::core::Core;
use crate::deployments::{DeploymentSpec, Replaced, To};
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentCreate {
    pub host: String,
    pub spec: Box<DeploymentSpec>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentUpdate {
    pub host: String,
    pub spec: Box<DeploymentSpec>,
    /// Only image and version of it.
    #[serde(default)]
    pub inherit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentDelete {
    pub host: String,
}

/// Makes and starts the command's deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployNew {}

/// A successor takes a deployment's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Succeed {
    name: String,
    to: Box<DeploymentSpec>,
    #[serde(default)]
    inherit: bool,
    /// What it was when this was planned: it goes back to that.
    #[serde(default)]
    before: Option<Box<DeploymentSpec>>,
    /// Only in place of this container: what others have put there since stays.
    #[serde(default)]
    instead_of: Option<i64>,
}

impl Succeed {
    /// The step that takes this one back, which has put that container there; `None` where it is not known what was before.
    pub(super) fn back(self, container: i64) -> Option<Self> {
        let to = self.before?;
        Some(Self { name: self.name, to, inherit: false, before: None, instead_of: Some(container) })
    }

    /// The image that it runs from then on.
    pub(super) fn image(&self) -> String {
        self.to.full_image()
    }
}

/// Removes the command's deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeploy {}

#[async_trait]
impl Body for DeploymentCreate {
    fn name(&self) -> &'static str {
        "deployment_create"
    }

    fn host(&self) -> Option<&str> {
        Some(&self.host)
    }

    async fn plan(&self, _core: &Core, _command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(PREPARE, Pull { image: self.spec.full_image() }), planned(MEMBERS, DeployNew {})])
    }
}

#[async_trait]
impl Body for DeploymentUpdate {
    fn name(&self) -> &'static str {
        "deployment_update"
    }

    fn host(&self) -> Option<&str> {
        Some(&self.host)
    }

    /// One that was cancelled, or that a removal has overtaken, leaves what is there.
    fn undo(&self, of: &str, outcome: Outcome) -> Option<Operation> {
        (outcome != Outcome::Superseded).then(|| RolloutUndo { of: of.to_owned() }.into())
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let (name, to) = (command.target_name.clone(), self.spec.clone());
        let there = core.deployment_row(command.account_id, &name).await?;
        let before = there.map(|(id, kept)| DeploymentSpec::kept(&kept, id)).transpose()?.map(Box::new);
        let succeed = Succeed { name, to, inherit: self.inherit, before, instead_of: None };
        let pull = Pull { image: self.spec.full_image() };
        Ok(vec![planned(PREPARE, pull), planned(MEMBERS, succeed), planned(WATCH, soak(core))])
    }
}

#[async_trait]
impl Body for DeploymentDelete {
    fn name(&self) -> &'static str {
        "deployment_delete"
    }

    fn is_removal(&self) -> bool {
        true
    }

    fn host(&self) -> Option<&str> {
        Some(&self.host)
    }

    async fn plan(&self, _core: &Core, _command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Undeploy {})])
    }
}

#[async_trait]
impl StepBody for DeployNew {
    fn name(&self) -> &'static str {
        "deploy_new"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let Operation::DeploymentCreate(asked) = &work.operation else {
            return Err(Error::Bug("a deployment without what is asked for".into()));
        };
        let name = &work.command.target_name;
        Ok(Done::with(core.deployment_make(&work.caller, name, &asked.host, &asked.spec, work.row.id).await?))
    }
}

#[async_trait]
impl StepBody for Succeed {
    fn name(&self) -> &'static str {
        "succeed"
    }

    fn replaces(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let to = if self.inherit { To::Inheriting(&self.to) } else { To::Exactly(&self.to) };
        let deadline = work.command.deadline;
        if let Some(container) = self.instead_of {
            let (account, own) = (work.caller.account, work.row.id);
            let there = core.deployment_row(account, &self.name).await?;
            if !there.is_some_and(|(id, kept)| id == container || kept.activity_id == own) {
                return Ok(Done::success());
            }
        }
        let replaced = core.deployment_replace(&work.caller, &self.name, to, work.row.id, deadline).await?;
        Ok(match replaced {
            Replaced::By(id) => Done::with(id),
            Replaced::Unchanged(_) if self.instead_of.is_some() => {
                let image = self.to.full_image();
                return Err(Error::WrongState(format!(
                    "{image} names other content now: what it was before is not known"
                )));
            }
            Replaced::Unchanged(id) => Done { message: UNCHANGED.into(), ..Done::with(id) },
            Replaced::Nothing => Done::success(),
        })
    }
}

#[async_trait]
impl StepBody for Undeploy {
    fn name(&self) -> &'static str {
        "undeploy"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        core.deployment_remove(&work.caller, &work.command.target_name).await?;
        Ok(Done::success())
    }
}
