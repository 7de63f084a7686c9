//! The steps of commands. Each may be done twice, and goes on where a crash left it.

use std::time::Duration;

use berth_engine::LogOptions;
use serde::{Deserialize, Serialize};

use super::{Operation, Outcome};
use crate::containers::{Container, ContainerState, LogQuery, Member, NotReady};
use crate::core::Core;
use crate::deployments::{DeploymentSpec, Move, Replaced, To};
use crate::error::{Error, FaultKind};
use crate::services::{Group, GroupSpec};
use berth_identity::Caller;
use berth_types::now;

/// The message of a step, and of its command, that found everything as it should be.
pub(super) const UNCHANGED: &str = "unchanged";

/// Time for what is put back to become ready, if its command has none left.
const LAST_CHANCE_NS: i64 = 60_000_000_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(super) enum Step {
    Start {
        container: i64,
    },
    Stop {
        container: i64,
    },
    Delete {
        container: i64,
    },
    /// Starts a container for the first time, until those who may log in can.
    Launch {
        container: i64,
    },
    Restart {
        container: i64,
    },
    /// Has it be as its changed plan says.
    Plan {
        container: i64,
    },
    /// Makes and starts the command's deployment.
    DeployNew,
    /// A successor takes a deployment's place.
    Succeed {
        name: String,
        to: Box<DeploymentSpec>,
        #[serde(default)]
        inherit: bool,
    },
    /// One change of a roll-out.
    Move(Move),
    /// Watches for so long what the command's steps have replaced; fails when one of them ends, restarts or becomes unhealthy.
    Watch {
        ms: u64,
    },
    /// Removes the command's deployment.
    Undeploy,
    /// Makes the command's file ready.
    Ready {
        container: i64,
    },
    /// Takes over bounds that can be changed while it runs.
    Update {
        container: i64,
    },
    /// Fetches an image that is not there.
    Pull {
        image: String,
    },
    /// Has the host's ports be those of the specification.
    Ports,
    /// Fetches code.
    Fetch,
    /// Makes one more member.
    Create {
        start: bool,
    },
    /// Makes a member anew; the old one stays until the new one has proven itself.
    Replace {
        container: i64,
        start: bool,
    },
    /// Puts code into a member and starts it again.
    Deploy {
        container: i64,
    },
    /// Writes down what the group is now.
    Settle,
    RemoveGroup,
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Delete { .. } => "delete",
            Self::Launch { .. } => "launch",
            Self::Restart { .. } => "restart",
            Self::Plan { .. } => "plan",
            Self::DeployNew => "deploy_new",
            Self::Succeed { .. } => "succeed",
            Self::Move(_) => "move",
            Self::Watch { .. } => "watch",
            Self::Undeploy => "undeploy",
            Self::Ready { .. } => "ready",
            Self::Update { .. } => "update",
            Self::Pull { .. } => "pull",
            Self::Ports => "ports",
            Self::Fetch => "fetch",
            Self::Create { .. } => "create",
            Self::Replace { .. } => "replace",
            Self::Deploy { .. } => "deploy",
            Self::Settle => "settle",
            Self::RemoveGroup => "remove_group",
        }
    }

    /// Whether it puts a container, or code, in another's place, so that what came of it is to be watched.
    pub(super) fn replaces(&self) -> bool {
        matches!(self, Self::Move(_) | Self::Replace { start: true, .. } | Self::Deploy { .. })
    }

    /// Whether it waits for others' work more than it does work.
    pub(super) fn only_waits(&self) -> bool {
        matches!(self, Self::Watch { .. } | Self::Pull { .. } | Self::Ready { .. })
    }

    pub(super) fn container(&self) -> Option<i64> {
        match self {
            Self::Start { container }
            | Self::Stop { container }
            | Self::Delete { container }
            | Self::Launch { container }
            | Self::Restart { container }
            | Self::Plan { container }
            | Self::Ready { container }
            | Self::Update { container }
            | Self::Replace { container, .. }
            | Self::Deploy { container } => Some(*container),
            Self::DeployNew
            | Self::Succeed { .. }
            | Self::Move(_)
            | Self::Watch { .. }
            | Self::Undeploy
            | Self::Pull { .. }
            | Self::Ports
            | Self::Fetch
            | Self::Create { .. }
            | Self::Settle
            | Self::RemoveGroup => None,
        }
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) message: String,
    /// The container that it was about in the end.
    pub(super) container: Option<i64>,
}

impl Done {
    fn success() -> Self {
        Self { outcome: Outcome::Success, message: "success".into(), container: None }
    }

    fn with(container: i64) -> Self {
        Self { container: Some(container), ..Self::success() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, message: message.into(), container: None }
    }

    pub(super) fn timed_out(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::TimedOut, message: message.into(), container: None }
    }

    pub(super) fn of(error: &Error) -> Self {
        let outcome = match error.kind() {
            FaultKind::NotFound => Outcome::NotFound,
            FaultKind::Timeout => Outcome::TimedOut,
            FaultKind::Bug | FaultKind::Unavailable => {
                tracing::error!(error = error.chain(), "a command's step failed");
                Outcome::Failed
            }
            FaultKind::Invalid
            | FaultKind::Duplicate
            | FaultKind::WrongState
            | FaultKind::InUse
            | FaultKind::NoRoom
            | FaultKind::TooOften
            | FaultKind::Quota
            | FaultKind::Forbidden
            | FaultKind::Upstream => Outcome::Failed,
        };
        Self { outcome, message: error.public(), container: None }
    }
}

/// What all steps of a command on a group need.
struct GroupContext<'a> {
    caller: &'a Caller,
    group: Group,
    /// What the group is to become.
    spec: GroupSpec,
    /// The code that it is to have; 0 is none.
    version: i64,
    deadline: i64,
}

impl Core {
    pub(super) async fn do_step(
        &self,
        caller: &Caller,
        command: &berth_store::Command,
        body: &Operation,
        activity: &berth_store::OperationStep,
        step: &Step,
    ) -> Done {
        let done = self.try_step(caller, command, body, activity, step).await;
        done.unwrap_or_else(|error| Done::of(&error))
    }

    async fn context<'a>(
        &self,
        caller: &'a Caller,
        command: &berth_store::Command,
        body: &Operation,
    ) -> Result<GroupContext<'a>, Error> {
        let group = self.group_by_number(command.target).await?;
        let mut spec = group.spec.clone();
        match body {
            Operation::GroupApply { spec: to, .. } => spec = GroupSpec::clone(to),
            Operation::GroupStart { image: Some(image), .. } => spec.image.clone_from(image),
            _ => {}
        }
        let version = match body {
            Operation::GroupHistory { version, .. } => *version,
            Operation::GroupUpload { .. } => {
                let all = self.packages_of(group.id).await?;
                all.iter().find(|p| p.command_id == command.id).map_or(group.version, |p| p.version)
            }
            _ => group.version,
        };
        Ok(GroupContext { caller, group, spec, version, deadline: command.deadline })
    }

    async fn try_step(
        &self,
        caller: &Caller,
        command: &berth_store::Command,
        body: &Operation,
        activity: &berth_store::OperationStep,
        step: &Step,
    ) -> Result<Done, Error> {
        match step {
            Step::Start { container } => {
                let started = self.container_start_number(caller, *container).await;
                match started {
                    Ok(started) if started.group.is_none() => {}
                    // A member has to prove itself; what failed is told with its last words.
                    Ok(found) => drop(self.start_and_await_ready(caller, &found, command.deadline).await?),
                    Err(error @ Error::NotFound { .. }) => return Err(error),
                    Err(error) => match self.member(caller, *container).await {
                        Ok(found) if found.group.is_some() => {
                            self.start_and_await_ready(caller, &found, command.deadline).await?;
                        }
                        _ => return Err(error),
                    },
                }
                Ok(Done::success())
            }
            Step::Stop { container } => {
                let found = self.member(caller, *container).await?;
                self.container_stop(caller, found.uid.as_str(), None).await?;
                Ok(Done::success())
            }
            Step::Delete { container } => {
                match self.member(caller, *container).await {
                    Ok(found) => self.retire(caller, &found).await?,
                    // Done already, by this very step perhaps.
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
                Ok(Done::success())
            }
            Step::Launch { container } => {
                self.container_start_number(caller, *container).await?;
                self.await_ssh(*container).await?;
                Ok(Done::success())
            }
            Step::Restart { container } => {
                let found = self.member(caller, *container).await?;
                self.container_restart(caller, found.uid.as_str(), None).await?;
                Ok(Done::success())
            }
            Step::Plan { container } => {
                let Operation::ContainerPlan { change, .. } = body else {
                    return Err(Error::Bug("a changed plan without the change".into()));
                };
                self.plan_apply(caller, *container, change).await?;
                Ok(Done::success())
            }
            Step::DeployNew => {
                let Operation::DeploymentCreate { host, spec } = body else {
                    return Err(Error::Bug("a deployment without what is asked for".into()));
                };
                Ok(Done::with(self.deployment_make(caller, &command.target_name, host, spec, activity.id).await?))
            }
            Step::Succeed { name, to, inherit } => {
                let to = if *inherit { To::Inheriting(to) } else { To::Exactly(to) };
                let replaced = self.deployment_replace(caller, name, to, activity.id, command.deadline).await?;
                Ok(match replaced {
                    Replaced::By(id) => Done::with(id),
                    Replaced::Unchanged(id) => Done { message: UNCHANGED.into(), ..Done::with(id) },
                    Replaced::Nothing => Done::success(),
                })
            }
            Step::Move(asked) => {
                let to = To::Moved(asked);
                let moved = self.deployment_replace(caller, &asked.name, to, activity.id, command.deadline).await?;
                // What had nothing to do has no container: it is neither watched nor taken back.
                Ok(if let Replaced::By(id) = moved { Done::with(id) } else { Done::success() })
            }
            Step::Watch { ms } => {
                let replaced = self.replaced_by(command.id).await?;
                self.stay_ready(caller, &replaced, Duration::from_millis(*ms)).await?;
                Ok(Done::success())
            }
            Step::Undeploy => {
                self.deployment_remove(caller, &command.target_name).await?;
                Ok(Done::success())
            }
            Step::Ready { container } => {
                let Operation::FileReady { path } = body else {
                    return Err(Error::Bug("a file without a path".into()));
                };
                self.download_make(caller, *container, &command.uid, path).await?;
                Ok(Done::success())
            }
            Step::Update { container } => {
                let context = self.context(caller, command, body).await?;
                let found = self.member(caller, *container).await?;
                self.container_update(caller, found.uid.as_str(), context.spec.live_update()).await?;
                Ok(Done::success())
            }
            Step::Pull { image } => {
                if matches!(self.image(caller, image).await, Err(Error::NotFound { .. })) {
                    let pull = self.image_pull(caller, image, None, None, tokio::sync::mpsc::channel(1).0);
                    let left = Duration::from_nanos((command.deadline - now()).max(0) as u64);
                    let pulled = tokio::time::timeout(left, pull).await;
                    pulled.map_err(|_| Error::Timeout(format!("fetching image {image}")))??;
                }
                Ok(Done::success())
            }
            Step::Ports => {
                let context = self.context(caller, command, body).await?;
                self.group_ports(&context.group, &context.spec).await?;
                Ok(Done::success())
            }
            Step::Fetch => {
                let Operation::GroupUpload { address, .. } = body else {
                    return Err(Error::Bug("a fetch without an address".into()));
                };
                let group = self.group_by_number(command.target).await?;
                let left = Duration::from_nanos((command.deadline - now()).max(0) as u64);
                let fetched = tokio::time::timeout(left, self.package_fetch(caller, &group, command.id, address)).await;
                let version = fetched.map_err(|_| Error::Timeout("fetching the code".into()))??;
                Ok(Done { message: format!("version {version}"), ..Done::success() })
            }
            Step::Create { start } => {
                let context = self.context(caller, command, body).await?;
                let made = self.make_member(&context, activity.id, None, *start).await?;
                Ok(Done::with(made.id))
            }
            Step::Replace { container, start } => {
                let context = self.context(caller, command, body).await?;
                self.replace(&context, activity.id, *container, *start).await
            }
            Step::Deploy { container } => {
                let context = self.context(caller, command, body).await?;
                self.deploy(&context, *container).await
            }
            Step::Settle => {
                let context = self.context(caller, command, body).await?;
                self.settle_group(&context, body).await?;
                Ok(Done::success())
            }
            Step::RemoveGroup => {
                self.group_erase(command.target).await?;
                Ok(Done::success())
            }
        }
    }

    /// The containers that a command's steps have put in others' places so far.
    async fn replaced_by(&self, command: i64) -> Result<Vec<i64>, Error> {
        let steps = self.read(move |tx| Ok(tx.activities(command)?)).await?;
        let mut replaced = Vec::new();
        for row in steps {
            // One that had nothing to do has no container.
            if Outcome::of(&row.result) == Some(Outcome::Success) && row.container_id > 0 {
                let step: Step =
                    serde_json::from_str(&row.step).map_err(|e| Error::Bug(format!("activity {}: {e}", row.id)))?;
                if step.replaces() {
                    replaced.push(row.container_id);
                }
            }
        }
        Ok(replaced)
    }

    async fn member(&self, caller: &Caller, id: i64) -> Result<Container, Error> {
        self.container_by_number(caller, id).await
    }

    /// Takes a container out of its group's load balancer, lets its connections end, and removes it.
    async fn retire(&self, caller: &Caller, found: &Container) -> Result<(), Error> {
        if found.state.is_live() {
            // What can't be stopped is killed.
            if let Err(error) = self.container_stop(caller, found.uid.as_str(), None).await {
                tracing::warn!(container = %found.uid, error = error.chain(), "a container could not be stopped");
            }
        }
        match self.container_remove(caller, found.uid.as_str(), true).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Makes a member, or finds the one that this activity made before a crash; starts it and has it prove itself. One that
    /// does not is removed.
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

    /// Starts a container and waits until it has proven itself; what failed is told with its last words.
    async fn start_and_await_ready(
        &self,
        caller: &Caller,
        found: &Container,
        deadline: i64,
    ) -> Result<Container, Error> {
        let failed = |why: String| Error::WrongState(format!("container {} ({}) {why}", found.name, found.id));
        let started = match self.container_start(caller, found.uid.as_str()).await {
            Ok(started) => started,
            Err(error @ Error::NotFound { .. }) => return Err(error),
            Err(error) => {
                let said = self.last_lines(caller, found).await;
                return Err(failed(format!("could not be started: {}{said}", error.public())));
            }
        };
        match self.await_ready(&started, deadline).await {
            Ok(()) => {
                self.forget_trouble(found.id).await?;
                self.member_is_ready(&started).await?;
                self.container(caller, found.uid.as_str()).await
            }
            Err(why) => {
                let said = self.last_lines(caller, found).await;
                self.note_trouble(found.id).await?;
                if why == NotReady::TimedOut {
                    return Err(Error::Timeout(format!("starting container {} ({}){said}", found.name, found.id)));
                }
                Err(failed(format!("{why}{said}")))
            }
        }
    }

    async fn replace(&self, context: &GroupContext<'_>, activity: i64, old: i64, start: bool) -> Result<Done, Error> {
        let new = self.make_member(context, activity, Some(old), start).await?;
        // From here on the new one is the member: a crash ends in the old one's removal, not in the new one's.
        let (id, version, shape) = (new.id, context.version, context.spec.shape());
        self.write(move |tx| Ok(tx.container_settle(id, version, &shape)?)).await?;
        self.refresh_load_balancer(context.group.id).await?;
        match self.member(context.caller, old).await {
            Ok(found) => self.retire(context.caller, &found).await?,
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Done::with(new.id))
    }

    /// Stops a member, puts the code into it, starts it. If it does not prove itself then, it gets back what it had.
    async fn deploy(&self, context: &GroupContext<'_>, id: i64) -> Result<Done, Error> {
        let found = self.member(context.caller, id).await?;
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
        let mut done = Done::of(&error);
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

    async fn settle_group(&self, context: &GroupContext<'_>, body: &Operation) -> Result<(), Error> {
        let wanted = match body {
            Operation::GroupStop { .. } => Some("stopped"),
            Operation::GroupStart { .. } | Operation::GroupUpload { .. } | Operation::GroupHistory { .. } => {
                Some("running")
            }
            Operation::GroupApply { .. } if context.group.members_never_made => Some("running"),
            _ => None,
        };
        let change = berth_store::GroupChange {
            spec: Some(serde_json::to_string(&context.spec).map_err(|e| Error::Bug(e.to_string()))?),
            version: Some(context.version),
            wanted,
            ..Default::default()
        };
        let (id, version) = (context.group.id, context.version);
        let deployed = matches!(body, Operation::GroupUpload { .. } | Operation::GroupHistory { .. });
        self.write(move |tx| {
            if tx.group(id)?.is_some_and(|row| row.wanted != "removed") {
                tx.group_change(id, &change)?;
                if deployed {
                    tx.package_proven(id, version)?;
                }
            }
            Ok(())
        })
        .await?;
        self.packages_prune(id).await?;
        self.refresh_load_balancer(id).await
    }

    /// The end of a container's output, for the message about its failure.
    pub(crate) async fn last_lines(&self, caller: &Caller, of: &Container) -> String {
        let options = LogOptions { tail: Some(5), ..LogOptions::default() };
        let query = LogQuery { options, ..LogQuery::default() };
        let Ok(mut log) = self.container_logs(caller, of.uid.as_str(), &query).await else {
            return String::new();
        };
        let mut said = String::new();
        while let Ok(Some(line)) = log.next().await {
            said.push_str(&String::from_utf8_lossy(&line.text));
            said.push(if line.ends { '\n' } else { ' ' });
            if said.len() > 8000 {
                break;
            }
        }
        let said: String = said.trim().chars().take(2000).collect();
        if said.is_empty() { said } else { format!("; it said: {said}") }
    }
}
