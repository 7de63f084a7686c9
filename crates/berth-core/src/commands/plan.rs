//! What a command comes to: its steps, by stage.

use std::collections::BTreeSet;

use super::steps::Step;
use super::{Operation, Outcome};
use crate::containers::container;
use crate::core::Core;
use crate::error::Error;
use crate::services::{GroupSpec, group};

pub(super) struct PlannedStep {
    pub(super) stage: i64,
    pub(super) step: Step,
}

/// Before anything is touched; the containers; what is too many; what is written down when all is well.
const PREPARE: i64 = 0;
const MEMBERS: i64 = 1;
const SURPLUS: i64 = 2;
/// What took the place of others is watched before it counts.
const WATCH: i64 = 3;
const SETTLE: i64 = 4;

impl Core {
    pub(super) async fn plan(
        &self,
        command: &berth_store::Command,
        body: &Operation,
    ) -> Result<Vec<PlannedStep>, Error> {
        let target = command.target;
        let single = |step| vec![PlannedStep { stage: MEMBERS, step }];
        match body {
            Operation::ContainerStart => return Ok(single(Step::Start { container: target })),
            Operation::ContainerStop => return Ok(single(Step::Stop { container: target })),
            Operation::ContainerDelete => return Ok(single(Step::Delete { container: target })),
            Operation::ContainerCreate => return Ok(single(Step::Launch { container: target })),
            Operation::ContainerRestart => return Ok(single(Step::Restart { container: target })),
            Operation::ContainerPlan { .. } => return Ok(single(Step::Plan { container: target })),
            Operation::FileReady { .. } => return Ok(single(Step::Ready { container: target })),
            Operation::DeploymentDelete { .. } => return Ok(single(Step::Undeploy)),
            Operation::DeploymentCreate { spec, .. } | Operation::DeploymentUpdate { spec, .. } => {
                let pull = Step::Pull { image: spec.full_image() };
                let make = match body {
                    Operation::DeploymentUpdate { inherit, .. } => {
                        Step::Succeed { name: command.target_name.clone(), to: spec.clone(), inherit: *inherit }
                    }
                    _ => Step::DeployNew,
                };
                return Ok(vec![
                    PlannedStep { stage: PREPARE, step: pull },
                    PlannedStep { stage: MEMBERS, step: make },
                ]);
            }
            Operation::Rollout { asked } => {
                let moves = self.rollout_moves(command.account_id, asked).await?;
                let mut steps = Vec::new();
                if !moves.is_empty() {
                    let image = format!("{}:{}", asked.image, asked.version);
                    steps.push(PlannedStep { stage: PREPARE, step: Step::Pull { image } });
                }
                // A batch is a stage: the next one begins when all of it has proven itself.
                let batch = self.batch_of(moves.len());
                let mut last = MEMBERS;
                for (number, one) in moves.into_iter().enumerate() {
                    // Between two batches all that was moved so far is looked at.
                    let stage = MEMBERS + 2 * i64::try_from(number / batch).unwrap_or(i64::MAX / 4);
                    if stage != last {
                        steps.push(PlannedStep { stage: stage - 1, step: Step::Watch { ms: 0 } });
                    }
                    last = stage;
                    steps.push(PlannedStep { stage, step: Step::Move(one) });
                }
                if !steps.is_empty() {
                    steps.push(PlannedStep { stage: last + 1, step: self.soak() });
                }
                return Ok(steps);
            }
            Operation::RolloutUndo { of } => return self.plan_undo(command.account_id, of).await,
            _ => {}
        }
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
        // A part of it may have been started by itself, or by a command that failed half way.
        let wanted_running = row.wanted != "stopped" && row.wanted != "created"
            || members.iter().any(|member| member.wanted == "running");
        let group = group(row)?;
        let mut steps = Vec::new();
        let mut add = |stage, step| steps.push(PlannedStep { stage, step });
        // A container that was to take another's place and has not proven itself is nobody's member.
        let (unproven, members): (Vec<_>, Vec<_>) =
            members.into_iter().filter(|m| m.wanted != "removed").partition(|m| m.replaces.is_some());
        for left in &unproven {
            add(PREPARE, Step::Delete { container: left.id });
        }
        let pull = |spec: &GroupSpec| Step::Pull { image: spec.image.clone() };
        match body {
            Operation::GroupApply { .. } | Operation::GroupUndo { .. } => {
                let spec = match body {
                    Operation::GroupApply { spec, .. } => spec,
                    // What the group is written down to be: a command that failed has not changed that.
                    _ => &group.spec,
                };
                spec.check(&self.inner.settings)?;
                add(PREPARE, Step::Ports);
                add(PREPARE, pull(spec));
                let shape = spec.shape();
                let running = wanted_running || group.members_never_made;
                let (kept, surplus) = members.split_at(members.len().min(spec.replicas as usize));
                for member in kept {
                    let current = member.shape == shape && member.version == group.version;
                    let known = container(member.clone())?;
                    if !current {
                        add(MEMBERS, Step::Replace { container: member.id, start: running });
                    } else if !spec.live_part_is(&known) {
                        add(MEMBERS, Step::Update { container: member.id });
                    }
                }
                for _ in members.len()..spec.replicas as usize {
                    add(MEMBERS, Step::Create { start: running });
                }
                for member in surplus.iter().rev() {
                    add(SURPLUS, Step::Delete { container: member.id });
                }
                add(SETTLE, Step::Settle);
            }
            Operation::GroupStart { update, image, .. } => {
                let mut spec = group.spec.clone();
                if let Some(image) = image {
                    spec.image.clone_from(image);
                }
                add(PREPARE, pull(&spec));
                let shape = spec.shape();
                for member in &members {
                    // Another image is another root file system: no container keeps its own over that. One whose code is not
                    // the group's, by a deployment that failed, is made anew, too.
                    if *update || member.shape != shape || member.version != group.version {
                        add(MEMBERS, Step::Replace { container: member.id, start: true });
                    } else {
                        add(MEMBERS, Step::Start { container: member.id });
                    }
                }
                for _ in members.len()..spec.replicas as usize {
                    add(MEMBERS, Step::Create { start: true });
                }
                add(SETTLE, Step::Settle);
            }
            Operation::GroupStop { .. } => {
                for member in &members {
                    add(MEMBERS, Step::Stop { container: member.id });
                }
                add(SETTLE, Step::Settle);
            }
            Operation::GroupDelete => {
                for member in &members {
                    add(MEMBERS, Step::Delete { container: member.id });
                }
                add(SETTLE, Step::RemoveGroup);
            }
            Operation::GroupUpload { update, .. } | Operation::GroupHistory { update, .. } => {
                match body {
                    Operation::GroupHistory { version, .. } => {
                        let known = self.packages_of(group.id).await?;
                        if !known.iter().any(|p| p.version == *version) {
                            let name = format!("{version} of group {}", group.full_name());
                            return Err(Error::NotFound { what: "version", name });
                        }
                    }
                    _ => add(PREPARE, Step::Fetch),
                }
                add(PREPARE, pull(&group.spec));
                let shape = group.spec.shape();
                for member in &members {
                    if *update || member.shape != shape {
                        add(MEMBERS, Step::Replace { container: member.id, start: true });
                    } else {
                        add(MEMBERS, Step::Deploy { container: member.id });
                    }
                }
                for _ in members.len()..group.spec.replicas as usize {
                    add(MEMBERS, Step::Create { start: true });
                }
                add(SETTLE, Step::Settle);
            }
            Operation::ContainerStart
            | Operation::ContainerStop
            | Operation::ContainerDelete
            | Operation::ContainerCreate
            | Operation::ContainerRestart
            | Operation::ContainerPlan { .. }
            | Operation::DeploymentCreate { .. }
            | Operation::DeploymentUpdate { .. }
            | Operation::DeploymentDelete { .. }
            | Operation::Rollout { .. }
            | Operation::RolloutUndo { .. }
            | Operation::FileReady { .. } => {}
        }
        // What an undo puts back is as good as it was before.
        if !matches!(body, Operation::GroupUndo { .. }) && steps.iter().any(|planned| planned.step.replaces()) {
            steps.push(PlannedStep { stage: WATCH, step: self.soak() });
        }
        Ok(steps)
    }

    /// Watches what was replaced for the soak time.
    fn soak(&self) -> Step {
        Step::Watch { ms: self.inner.settings.soak_time_ms }
    }

    /// Back at once, all that a roll-out has moved.
    async fn plan_undo(&self, account: i64, of: &str) -> Result<Vec<PlannedStep>, Error> {
        let wanted = of.to_owned();
        let done = self
            .read(move |tx| match tx.command_by_uid(account, &wanted)? {
                Some(row) => Ok(tx.activities(row.id)?),
                None => Ok(Vec::new()),
            })
            .await?;
        let mut steps = Vec::new();
        let mut images = BTreeSet::new();
        // One that had nothing to do has no container.
        let moved = |row: &&berth_store::OperationStep| {
            Outcome::of(&row.result) == Some(Outcome::Success) && row.container_id > 0
        };
        for activity in done.iter().filter(moved) {
            let step = serde_json::from_str(&activity.step);
            if let Step::Move(one) = step.map_err(|e| Error::Bug(format!("activity {}: {e}", activity.id)))? {
                images.insert(format!("{}:{}", one.image, one.from));
                steps.push(PlannedStep { stage: MEMBERS, step: Step::Move(one.back()) });
            }
        }
        // Nothing has used them since, perhaps, and they were cleared away.
        steps.extend(images.into_iter().map(|image| PlannedStep { stage: PREPARE, step: Step::Pull { image } }));
        Ok(steps)
    }
}
