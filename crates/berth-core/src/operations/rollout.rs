//! Roll-outs: deployments move to a version batch by batch, each batch is watched, and a failure takes back all that has moved.

use std::collections::BTreeSet;

use async_trait::async_trait;
use berth_operations::{Done, Outcome, Work, has_replaced};
use serde::{Deserialize, Serialize};

use super::steps::{Pull, Watch, soak};
use super::{Body, MEMBERS, Operation, PREPARE, PlannedStep, Step, StepBody, planned};
use crate::core::Core;
pub(crate) use crate::deployments::Move;
use crate::deployments::{Replaced, Rollout, To};
use crate::error::Error;
use crate::settings::Settings;

/// Seconds that a roll-out may take: a week. Each step is bounded by what it waits for.
const LIMIT_S: u64 = 7 * 86_400;

/// Moves deployments to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutOperation {
    pub asked: Rollout,
}

/// Takes back what a roll-out has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutUndo {
    /// That command's UUID.
    pub of: String,
}

#[async_trait]
impl Body for RolloutOperation {
    fn name(&self) -> &'static str {
        "rollout"
    }

    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.command_timeout_s.max(LIMIT_S)
    }

    /// Also one that was cancelled goes back.
    fn undo(&self, of: &str, _outcome: Outcome) -> Option<Operation> {
        Some(RolloutUndo { of: of.to_owned() }.into())
    }

    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let moves = core.rollout_moves(command.account_id, &self.asked).await?;
        if moves.is_empty() {
            return Ok(Vec::new());
        }
        let image = format!("{}:{}", self.asked.image, self.asked.version);
        let mut steps = vec![planned(PREPARE, Pull { image })];
        // A batch is a stage: the next one begins when all of it is ready. Between two batches all that was moved so far is
        // looked at.
        let batch = core.batch_of(moves.len());
        let mut last = MEMBERS;
        for (number, one) in moves.into_iter().enumerate() {
            let stage = MEMBERS + 2 * i64::try_from(number / batch).unwrap_or(i64::MAX / 4);
            if stage != last {
                steps.push(planned(stage - 1, Watch { ms: 0 }));
            }
            last = stage;
            steps.push(planned(stage, one));
        }
        steps.push(planned(last + 1, soak(core)));
        Ok(steps)
    }
}

#[async_trait]
impl Body for RolloutUndo {
    fn name(&self) -> &'static str {
        "rollout_undo"
    }

    fn limit_s(&self, settings: &Settings) -> u64 {
        settings.command_timeout_s.max(LIMIT_S)
    }

    fn is_undo(&self) -> bool {
        true
    }

    /// All that was moved goes back at once.
    async fn plan(&self, core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        let (account, of) = (command.account_id, self.of.clone());
        let done = core
            .read(move |tx| match tx.command_by_uid(account, &of)? {
                Some(row) => Ok(tx.activities(row.id)?),
                None => Ok(Vec::new()),
            })
            .await?;
        let mut steps = Vec::new();
        let mut images = BTreeSet::new();
        for row in done.iter().filter(|row| has_replaced(row)) {
            let step = serde_json::from_str(&row.step);
            match step.map_err(|e| Error::Bug(format!("step {}: {e}", row.id)))? {
                Step::Move(one) => {
                    images.insert(format!("{}:{}", one.image, one.from));
                    steps.push(planned(MEMBERS, one.back()));
                }
                Step::Succeed(one) => {
                    if let Some(back) = one.back(row.container_id) {
                        images.insert(back.image());
                        steps.push(planned(MEMBERS, back));
                    }
                }
                _ => {}
            }
        }
        // Nothing has used them since, perhaps, and they were removed.
        steps.extend(images.into_iter().map(|image| planned(PREPARE, Pull { image })));
        Ok(steps)
    }
}

#[async_trait]
impl StepBody for Move {
    fn name(&self) -> &'static str {
        "move"
    }

    fn replaces(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let (name, deadline) = (&self.name, work.command.deadline);
        let moved = core.deployment_replace(&work.caller, name, To::Moved(self), work.row.id, deadline).await?;
        // What had nothing to do has no container: it is neither watched nor taken back.
        Ok(if let Replaced::By(id) = moved { Done::with(id) } else { Done::success() })
    }
}
