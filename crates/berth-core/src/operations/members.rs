//! A group's containers: what an operation finds, and the steps that make, replace and change them.

use async_trait::async_trait;
use berth_operations::{Done, Step as _, Work};
use berth_types::now;
use serde::{Deserialize, Serialize};

use super::steps::{Delete, done_of, soak};
use super::{MEMBERS, PREPARE, PlannedStep, SETTLE, StepBody, WATCH, planned};
use crate::containers::{Container, ContainerState, Member};
use crate::core::Core;
use crate::error::Error;
use crate::services::revisions::note_revision;
use crate::services::spec::{Group, GroupSpec, group};
use berth_identity::Caller;

/// Time for what is put back to become ready, if its command has none left.
const LAST_CHANCE_NS: i64 = 60_000_000_000;

/// A group as its operation finds it.
pub(super) struct GroupMembers {
    pub(super) group: Group,
    pub(super) members: Vec<berth_store::Container>,
    /// Containers that were to take another's place and have not become ready: nobody's members.
    unready: Vec<i64>,
    /// Whether it, or a part of it, is desired to run: a part may have been started by itself, or by a command that failed half way.
    pub(super) desired_running: bool,
}

impl GroupMembers {
    /// What every plan begins with.
    pub(super) fn begin(&self) -> Vec<PlannedStep> {
        self.unready.iter().map(|id| planned(PREPARE, Delete { container: *id })).collect()
    }

    /// What a plan ends with: members up to `replicas` are made, and it is written down what the group is.
    pub(super) fn end(&self, replicas: u32, start: bool) -> impl Iterator<Item = PlannedStep> {
        let missing = self.members.len()..replicas as usize;
        missing.map(move |_| planned(MEMBERS, Create { start })).chain([planned(SETTLE, Settle {})])
    }
}

/// With what was replaced being watched before it counts.
pub(super) fn watched(core: &Core, mut steps: Vec<PlannedStep>) -> Vec<PlannedStep> {
    if steps.iter().any(|planned| planned.step.replaces()) {
        steps.push(planned(WATCH, soak(core)));
    }
    steps
}

/// What the steps of an operation on a group need.
pub(super) struct GroupContext<'a> {
    caller: &'a Caller,
    group: Group,
    /// What the group is to become.
    spec: GroupSpec,
    /// The code that it is to have; 0 is none.
    version: i64,
    deadline: i64,
}

/// Has the host's ports be those of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {}

/// Takes over bounds that can be changed while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    pub container: i64,
}

/// Makes one more member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    pub start: bool,
}

/// Makes a member anew; the old one stays until the new one is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replace {
    pub container: i64,
    pub start: bool,
}

/// Puts code into a member and starts it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    pub container: i64,
}

/// Writes down what the group is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {}

#[async_trait]
impl StepBody for Ports {
    fn name(&self) -> &'static str {
        "ports"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        core.group_ports(&context.group, &context.spec).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        let found = core.container_by_number(&work.caller, self.container).await?;
        core.container_update(&work.caller, found.uid.as_str(), context.spec.live_update()).await?;
        Ok(Done::success())
    }
}

#[async_trait]
impl StepBody for Create {
    fn name(&self) -> &'static str {
        "create"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        Ok(Done::with(core.make_member(&context, work.row.id, None, self.start).await?.id))
    }
}

#[async_trait]
impl StepBody for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    fn replaces(&self) -> bool {
        self.start
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        let new = core.make_member(&context, work.row.id, Some(self.container), self.start).await?;
        // From here on the new one is the member: a crash ends in the old one's removal, not in the new one's.
        let (id, version, shape) = (new.id, context.version, context.spec.shape());
        core.write(move |tx| Ok(tx.container_settle(id, version, &shape)?)).await?;
        core.refresh_load_balancer(context.group.id).await?;
        core.retire(&work.caller, self.container).await?;
        Ok(Done::with(new.id))
    }
}

#[async_trait]
impl StepBody for Deploy {
    fn name(&self) -> &'static str {
        "deploy"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    fn replaces(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        core.deploy(&context, self.container).await
    }
}

#[async_trait]
impl StepBody for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let context = core.group_context(work).await?;
        let body = work.operation.body();
        let change = berth_store::GroupChange {
            spec: Some(serde_json::to_string(&context.spec).map_err(|e| Error::Bug(e.to_string()))?),
            version: Some(context.version),
            desired: body.desired(&context.group),
            ..Default::default()
        };
        let (id, version, deployed) = (context.group.id, context.version, body.deploys());
        let (comes_to_spec, before, spec) = (body.comes_to_spec(), context.group, context.spec);
        core.write(move |tx| {
            if tx.group(id)?.is_some_and(|row| row.desired != "removed") {
                tx.group_change(id, &change)?;
                if comes_to_spec {
                    note_revision(tx, &before, &spec)?;
                }
                if deployed {
                    tx.package_proven(id, version)?;
                }
            }
            Ok(())
        })
        .await?;
        core.packages_prune(id).await?;
        core.refresh_load_balancer(id).await?;
        Ok(Done::success())
    }
}

impl Core {
    /// The group that a command is about, with its containers.
    pub(super) async fn group_members(&self, command: &berth_store::Command) -> Result<GroupMembers, Error> {
        let target = command.target;
        let found = self
            .read(move |tx| match tx.group(target)? {
                Some(row) => {
                    let members = tx.containers_of_group(target)?;
                    Ok(Some((row, members)))
                }
                None => Ok(None),
            })
            .await?;
        let gone = || Error::NotFound { what: "group", name: command.target_name.clone() };
        let (row, members) = found.ok_or_else(gone)?;
        let desired_running = row.desired != "stopped" && row.desired != "created"
            || members.iter().any(|member| member.desired == "running");
        let (unready, members): (Vec<_>, Vec<_>) =
            members.into_iter().filter(|m| m.desired != "removed").partition(|m| m.replaces.is_some());
        let unready = unready.into_iter().map(|member| member.id).collect();
        Ok(GroupMembers { group: group(row)?, members, unready, desired_running })
    }

    async fn group_context<'a>(&self, work: &'a Work<Self>) -> Result<GroupContext<'a>, Error> {
        let group = self.group_by_number(work.command.target).await?;
        let (body, mut spec) = (work.operation.body(), group.spec.clone());
        body.change_spec(&mut spec);
        let version = body.version(self, &group, work.command.id).await?;
        Ok(GroupContext { caller: &work.caller, group, spec, version, deadline: work.command.deadline })
    }

    /// Makes a member, or finds the one that this step made before a crash; starts it and waits until it is ready. One that
    /// is not is removed.
    async fn make_member(
        &self,
        context: &GroupContext<'_>,
        activity: i64,
        replaces: Option<i64>,
        start: bool,
    ) -> Result<Container, Error> {
        let name = context.group.member_name(activity);
        let made = match self.container(context.caller, &name).await {
            Ok(found) if found.group == Some(context.group.id) => found,
            Ok(_) => return Err(Error::Duplicate(format!("a container named {name:?} exists already"))),
            Err(Error::NotFound { .. }) => {
                let code = self.package_layer(&context.group, &context.spec, context.version).await?;
                let new = context.spec.container(&context.group, name.clone());
                let member =
                    Member { group: context.group.id, shape: context.spec.shape(), version: context.version, replaces };
                let gate = self.inner.gate.read().await;
                let (layers, pin) = code.unzip();
                let made =
                    self.container_make(context.caller, new, layers.into_iter().collect(), false, Some(member)).await;
                drop((gate, pin));
                made?
            }
            Err(error) => return Err(error),
        };
        if !start {
            return Ok(made);
        }
        match self.start_and_await_ready(context.caller, &made, context.deadline).await {
            Ok(started) => Ok(started),
            Err(error) => {
                self.container_remove(context.caller, made.uid.as_str(), true).await?;
                Err(error)
            }
        }
    }

    /// Stops a member, puts the code into it, starts it. If it is not ready then, it gets back what it had.
    async fn deploy(&self, context: &GroupContext<'_>, id: i64) -> Result<Done, Error> {
        let found = self.container_by_number(context.caller, id).await?;
        // After a crash in between it says what was put into it, not what it had.
        let before = if found.version == context.version { context.group.version } else { found.version };
        let result = async {
            self.container_stop(context.caller, found.uid.as_str(), None).await?;
            self.put_code(context, &found, context.version).await?;
            self.start_and_await_ready(context.caller, &found, context.deadline).await
        };
        let Err(error) = result.await else { return Ok(Done::with(id)) };
        if before == context.version || found.state == ContainerState::Created {
            return Err(error);
        }
        let mut done = done_of(&error);
        let back = async {
            self.container_stop(context.caller, found.uid.as_str(), None).await?;
            self.put_code(context, &found, before).await?;
            let limit = now().saturating_add(LAST_CHANCE_NS).max(context.deadline);
            let started = self.start_and_await_ready(context.caller, &found, limit).await;
            started.map(drop)
        };
        match back.await {
            Ok(()) if before > 0 => done.message.push_str(&format!("; it runs with version {before} again")),
            Ok(()) => done.message.push_str("; it runs without code again"),
            Err(error) => done.message.push_str(&format!("; what it had could not be put back: {}", error.public())),
        }
        Ok(done)
    }

    async fn put_code(&self, context: &GroupContext<'_>, into: &Container, version: i64) -> Result<(), Error> {
        let code = self.package_layer(&context.group, &context.spec, version).await?;
        self.code_into(context.caller, into, &context.spec, code.as_ref().map(|(layer, _)| layer.as_str())).await?;
        let (id, shape) = (into.id, into.shape.clone());
        self.write(move |tx| Ok(tx.container_settle(id, version, &shape)?)).await
    }
}
