//! The core's operations: one file of `operations/` for each kind, with what is asked for, what it comes to, and how it is taken back.
//!
//! An operation is a struct with [`Body`], a step is a struct with [`StepBody`]; each is named once more, in the list below. Their
//! serialization is what is on disk: fields are added with a default, and never renamed.

mod container;
mod container_plan;
mod deployment;
mod file_ready;
mod group_apply;
mod group_delete;
mod group_deploy;
mod group_start;
mod group_stop;
mod members;
mod rollout;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

use async_trait::async_trait;
use berth_operations::{Domain, Done, Method, Outcome, Target, Work};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::error::Error;
use crate::services::spec::{Group, GroupSpec};
use crate::settings::Settings;

pub use container::{ContainerCreate, ContainerDelete, ContainerRestart, ContainerStart, ContainerStop};
pub use container_plan::ContainerPlan;
pub use deployment::{DeploymentCreate, DeploymentDelete, DeploymentUpdate};
pub use file_ready::FileReady;
pub use group_apply::{GroupApply, GroupUndo};
pub use group_delete::GroupDelete;
pub use group_deploy::{GroupHistory, GroupUpload};
pub use group_start::GroupStart;
pub use group_stop::GroupStop;
pub use rollout::{RolloutOperation, RolloutUndo};

use container_plan::Plan;
use deployment::{DeployNew, Succeed, Undeploy};
use file_ready::Ready;
use group_delete::RemoveGroup;
use group_deploy::Fetch;
use members::{Create, Deploy, Ports, Replace, Settle, Update};
use rollout::Move;
use steps::{Delete, Launch, Pull, Restart, Start, Stop, Watch};

pub(crate) type PlannedStep = berth_operations::PlannedStep<Step>;

/// Kinds of targets.
pub(crate) mod target {
    use berth_operations::Target;

    const CONTAINER: &str = "container";
    const GROUP: &str = "group";
    pub(super) const DEPLOYMENT: &str = "deployment";
    const ROLLOUT: &str = "rollout";
    pub(super) const ALL: &[&str] = &[CONTAINER, GROUP, DEPLOYMENT, ROLLOUT];

    /// A container, by number.
    pub(crate) fn container(id: i64) -> Target {
        Target { kind: CONTAINER, id }
    }

    /// A group, by number.
    pub(crate) fn group(id: i64) -> Target {
        Target { kind: GROUP, id }
    }

    /// A deployment, by a number that follows from its name.
    pub(crate) fn deployment(id: i64) -> Target {
        Target { kind: DEPLOYMENT, id }
    }

    /// A roll-out, by a number that follows from its image.
    pub(crate) fn rollout(id: i64) -> Target {
        Target { kind: ROLLOUT, id }
    }
}

/// Stages of a plan: before anything is touched; the containers; what is too many; what took the place of others is watched
/// before it counts; what is written down when all is well.
const PREPARE: i64 = 0;
const MEMBERS: i64 = 1;
const SURPLUS: i64 = 2;
const WATCH: i64 = 3;
const SETTLE: i64 = 4;

/// What an operation asks for, and what it comes to.
#[async_trait]
pub trait Body: Send + Sync {
    /// What users see.
    fn name(&self) -> &'static str;

    fn method(&self) -> Method {
        Method::Parallel
    }

    /// Seconds that it may take.
    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.command_timeout_s
    }

    fn is_undo(&self) -> bool {
        false
    }

    fn is_removal(&self) -> bool {
        false
    }

    /// Goes into the transaction in which a removal is written down.
    fn removal_enqueued(&self, _tx: &berth_store::Tx<'_>, _target: i64) -> Result<(), berth_store::Error> {
        Ok(())
    }

    /// What takes back what the command `of` has replaced, when it ended so.
    fn undo(&self, _of: &str, _outcome: Outcome) -> Option<Operation> {
        None
    }

    /// Textual id of the host that it names.
    fn host(&self) -> Option<&str> {
        None
    }

    /// The steps that it comes to.
    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error>;

    /// Of an operation on a group: what the group is to become.
    fn change_spec(&self, _spec: &mut GroupSpec) {}

    /// Of an operation on a group: the version of its code afterwards.
    async fn version(&self, _core: &Core, group: &Group, _command: i64) -> Result<i64, Error> {
        Ok(group.version)
    }

    /// Of an operation on a group: what the group is desired to be when all is well; `None` leaves it.
    fn desired(&self, _group: &Group) -> Option<&'static str> {
        None
    }

    /// Of an operation on a group: whether its containers are what its specification says when all is well.
    fn comes_to_spec(&self) -> bool {
        !self.is_undo()
    }

    /// Of an operation on a group: whether it brings another version of its code.
    fn deploys(&self) -> bool {
        false
    }
}

/// How a step is done. It may be done twice, and goes on where a crash left it.
#[async_trait]
pub trait StepBody: Send + Sync {
    /// What users see.
    fn name(&self) -> &'static str;

    /// The container that it is about.
    fn container(&self) -> Option<i64> {
        None
    }

    /// Whether it puts a container, or code, in another's place, so that what came of it is to be watched.
    fn replaces(&self) -> bool {
        false
    }

    /// Whether it waits for others' work more than it does work.
    fn only_waits(&self) -> bool {
        false
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error>;
}

macro_rules! operations {
    ($($variant:ident($body:ident)),* $(,)?) => {
        /// Everything that a command does.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "do", rename_all = "snake_case")]
        pub enum Operation {
            $($variant($body),)*
        }

        impl Operation {
            pub(crate) fn body(&self) -> &dyn Body {
                match self {
                    $(Self::$variant(body) => body,)*
                }
            }
        }

        $(impl From<$body> for Operation {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

macro_rules! steps {
    ($($step:ident),* $(,)?) => {
        /// Everything that a step does.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "step", rename_all = "snake_case")]
        pub enum Step {
            $($step($step),)*
        }

        impl Step {
            fn body(&self) -> &dyn StepBody {
                match self {
                    $(Self::$step(body) => body,)*
                }
            }
        }

        $(impl From<$step> for Step {
            fn from(body: $step) -> Self {
                Self::$step(body)
            }
        })*
    };
}

operations! {
    ContainerStart(ContainerStart),
    ContainerStop(ContainerStop),
    ContainerDelete(ContainerDelete),
    ContainerCreate(ContainerCreate),
    ContainerRestart(ContainerRestart),
    ContainerPlan(ContainerPlan),
    DeploymentCreate(DeploymentCreate),
    DeploymentUpdate(DeploymentUpdate),
    DeploymentDelete(DeploymentDelete),
    Rollout(RolloutOperation),
    RolloutUndo(RolloutUndo),
    FileReady(FileReady),
    GroupApply(GroupApply),
    GroupStart(GroupStart),
    GroupStop(GroupStop),
    GroupDelete(GroupDelete),
    GroupUpload(GroupUpload),
    GroupUndo(GroupUndo),
    GroupHistory(GroupHistory),
}

steps! {
    Start, Stop, Delete, Launch, Restart, Plan, DeployNew, Succeed, Move, Watch, Undeploy, Ready, Update, Pull, Ports, Fetch,
    Create, Replace, Deploy, Settle, RemoveGroup,
}

/// A step in a stage.
fn planned(stage: i64, step: impl Into<Step>) -> PlannedStep {
    PlannedStep { stage, step: step.into() }
}

impl berth_operations::Operation for Operation {
    fn name(&self) -> &'static str {
        self.body().name()
    }

    fn method(&self) -> Method {
        self.body().method()
    }

    fn is_undo(&self) -> bool {
        self.body().is_undo()
    }

    fn is_removal(&self) -> bool {
        self.body().is_removal()
    }

    fn removal_enqueued(&self, tx: &berth_store::Tx<'_>, target: i64) -> Result<(), berth_store::Error> {
        self.body().removal_enqueued(tx, target)
    }

    fn undo(&self, of: &str, outcome: Outcome) -> Option<Self> {
        self.body().undo(of, outcome)
    }
}

impl berth_operations::Step for Step {
    fn name(&self) -> &'static str {
        self.body().name()
    }

    fn container(&self) -> Option<i64> {
        self.body().container()
    }

    fn replaces(&self) -> bool {
        self.body().replaces()
    }

    fn only_waits(&self) -> bool {
        self.body().only_waits()
    }
}

impl Domain for Core {
    type Operation = Operation;
    type Step = Step;
    const KINDS: &'static [&'static str] = target::ALL;

    fn operations(&self) -> &berth_operations::Operations {
        &self.inner.operations
    }

    fn limit_s(&self, operation: &Operation) -> u64 {
        operation.body().limit_s(&self.settings())
    }

    fn host_of(command: &berth_store::Command) -> Option<String> {
        if command.kind != target::DEPLOYMENT {
            return None;
        }
        let queued: berth_operations::QueuedOperation<Operation> = serde_json::from_str(&command.body).ok()?;
        queued.body.body().host().map(str::to_owned)
    }

    async fn plan(&self, command: &berth_store::Command, operation: &Operation) -> Result<Vec<PlannedStep>, Done> {
        operation.body().plan(self, command).await.map_err(|error| steps::done_of(&error))
    }

    async fn run_step(&self, work: &Work<Self>) -> Done {
        work.step.body().run(self, work).await.unwrap_or_else(|error| steps::done_of(&error))
    }

    fn tell(&self, events: Vec<berth_store::Event>) {
        self.publish(events);
    }
}

impl Core {
    /// Takes on an operation: when this returns it is on disk.
    pub(crate) async fn submit(
        &self,
        caller: &berth_identity::Caller,
        target: Target,
        target_name: String,
        operation: impl Into<Operation>,
    ) -> Result<crate::Command, Error> {
        Ok(self.operations().submit(self, caller, target, target_name, operation.into()).await?)
    }

    /// The command that came of the caller's signed request before, as it was answered then.
    ///
    /// # Errors
    /// The database's own.
    pub async fn command_of_request(&self, caller: &berth_identity::Caller) -> Result<Option<crate::Command>, Error> {
        Ok(self.operations().command_of_request::<Self>(caller).await?)
    }

    /// One command of the caller's account, with its steps.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn command(&self, caller: &berth_identity::Caller, uid: &str) -> Result<crate::Command, Error> {
        Ok(self.operations().command::<Self>(caller, uid).await?)
    }

    /// The account's commands, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub async fn commands(
        &self,
        caller: &berth_identity::Caller,
        query: &crate::CommandQuery,
    ) -> Result<berth_types::Page<crate::Command>, Error> {
        Ok(self.operations().commands::<Self>(caller, query).await?)
    }

    /// Has a command stop: one that waits never begins, one that runs begins no further step.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it has ended.
    pub async fn command_cancel(&self, caller: &berth_identity::Caller, uid: &str) -> Result<crate::Command, Error> {
        Ok(self.operations().cancel(self, caller, uid).await?)
    }

    /// Returns when the command has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn command_wait(&self, caller: &berth_identity::Caller, uid: &str) -> Result<crate::Command, Error> {
        let mut events = self.event_stream();
        loop {
            let found = self.command(caller, uid).await?;
            if found.ended_at.is_some() {
                return Ok(found);
            }
            // An event about it, or a while: events may be missed when there are many.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async {
                while events.recv().await.is_ok_and(|event| event.subject != uid) {}
            })
            .await;
        }
    }
}
