//! Another version of a group's code: fetched from an address, or one that was there before.

use async_trait::async_trait;
use berth_operations::{Done, Method, Outcome, Work};
use serde::{Deserialize, Serialize};

use super::group_apply::undo_of_group;
use super::members::{Deploy, GroupMembers, Replace, watched};
use super::steps::Pull;
use super::{Body, MEMBERS, Operation, PREPARE, PlannedStep, StepBody, planned};
use crate::core::Core;
use crate::error::Error;
use crate::services::spec::Group;

/// Code by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUpload {
    pub address: String,
    /// Makes every container anew.
    pub update: bool,
    pub method: Method,
}

/// Code that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHistory {
    pub version: i64,
    /// Makes every container anew.
    pub update: bool,
    pub method: Method,
}

/// Fetches the command's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {}

#[async_trait]
impl Body for GroupUpload {
    fn name(&self) -> &'static str {
        "group_upload"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn undo(&self, of: &str, outcome: Outcome) -> Option<Operation> {
        undo_of_group(of, outcome)
    }

    fn desired(&self, _group: &Group) -> Option<&'static str> {
        Some("running")
    }

    fn deploys(&self) -> bool {
        true
    }

    async fn version(&self, core: &Core, group: &Group, command: i64) -> Result<i64, Error> {
        let all = core.packages_of(group.id).await?;
        Ok(all.iter().find(|package| package.command_id == command).map_or(group.version, |package| package.version))
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        let mut steps = found.begin();
        steps.push(planned(PREPARE, Fetch {}));
        steps.extend(put_into_all(&found, self.update));
        Ok(watched(core, steps))
    }
}

#[async_trait]
impl Body for GroupHistory {
    fn name(&self) -> &'static str {
        "group_history"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn undo(&self, of: &str, outcome: Outcome) -> Option<Operation> {
        undo_of_group(of, outcome)
    }

    fn desired(&self, _group: &Group) -> Option<&'static str> {
        Some("running")
    }

    fn deploys(&self) -> bool {
        true
    }

    async fn version(&self, _core: &Core, _group: &Group, _command: i64) -> Result<i64, Error> {
        Ok(self.version)
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let found = core.group_members(command).await?;
        let known = core.packages_of(found.group.id).await?;
        if !known.iter().any(|package| package.version == self.version) {
            let name = format!("{} of group {}", self.version, found.group.full_name());
            return Err(Error::NotFound { what: "version", name });
        }
        let mut steps = found.begin();
        steps.extend(put_into_all(&found, self.update));
        Ok(watched(core, steps))
    }
}

fn put_into_all(found: &GroupMembers, update: bool) -> Vec<PlannedStep> {
    let spec = &found.group.spec;
    let mut steps = vec![planned(PREPARE, Pull { image: spec.image.clone() })];
    let shape = spec.shape();
    for member in &found.members {
        steps.push(if update || member.shape != shape {
            planned(MEMBERS, Replace { container: member.id, start: true })
        } else {
            planned(MEMBERS, Deploy { container: member.id })
        });
    }
    steps.extend(found.end(spec.replicas, true));
    steps
}

#[async_trait]
impl StepBody for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let Operation::GroupUpload(asked) = &work.operation else {
            return Err(Error::Bug("a fetch without an address".into()));
        };
        let group = core.group_by_number(work.command.target).await?;
        let fetch = core.package_fetch(&work.caller, &group, work.command.id, &asked.address);
        let fetched = tokio::time::timeout(work.time_left(), fetch).await;
        let version = fetched.map_err(|_| Error::Timeout("fetching the code".into()))??;
        Ok(Done { message: format!("version {version}"), ..Done::success() })
    }
}
