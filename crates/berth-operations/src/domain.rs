//! What a domain gives: its operations, their plans and their steps.

use std::future::Future;
use std::time::Duration;

use berth_identity::Caller;
use berth_store::Tx;
use berth_types::now;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Operations;
use crate::types::{Done, Method, Outcome, PlannedStep};

/// Something durable that is done in steps; the stored form is its serialization.
pub trait Operation: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// What users see: `group_start`.
    fn name(&self) -> &'static str;

    /// How the steps of a stage are gone through.
    fn method(&self) -> Method {
        Method::Parallel
    }

    /// Whether a step that fails holds up no other: as much as can be is taken back.
    fn is_undo(&self) -> bool {
        false
    }

    /// Whether it supersedes what waits for the same target.
    fn is_removal(&self) -> bool {
        false
    }

    /// Goes into the transaction in which a removal is written down.
    ///
    /// # Errors
    /// The database's own.
    fn removal_enqueued(&self, tx: &Tx<'_>, target: i64) -> Result<(), berth_store::Error> {
        let _ = (tx, target);
        Ok(())
    }

    /// What takes back this operation, the command `of`, when it ended so after it had replaced something.
    fn undo(&self, of: &str, outcome: Outcome) -> Option<Self> {
        let _ = (of, outcome);
        None
    }
}

/// A step; the stored form is its serialization. Each may run twice, and goes on where a crash left it.
pub trait Step: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// What users see: `replace`.
    fn name(&self) -> &'static str;

    /// The container that it is about.
    fn container(&self) -> Option<i64> {
        None
    }

    /// Whether it puts a thing in another's place: such a command is undone when it fails.
    fn replaces(&self) -> bool {
        false
    }

    /// Whether it waits for others' work more than it does work: it takes no place among the steps under way.
    fn only_waits(&self) -> bool {
        false
    }
}

/// A step that is to be done, with all that is known of it.
#[derive(Debug, Clone)]
pub struct Work<D: Domain> {
    /// For whom.
    pub caller: Caller,
    /// The command.
    pub command: berth_store::Command,
    /// What the command does.
    pub operation: D::Operation,
    /// The step's row.
    pub row: berth_store::OperationStep,
    /// The step.
    pub step: D::Step,
}

impl<D: Domain> Work<D> {
    /// Time that the command has left.
    pub fn time_left(&self) -> Duration {
        Duration::from_nanos((self.command.deadline - now()).max(0) as u64)
    }
}

/// What operations are of.
pub trait Domain: Clone + Send + Sync + 'static {
    /// Its operations.
    type Operation: Operation;
    /// Their steps.
    type Step: Step;
    /// Kinds of targets.
    const KINDS: &'static [&'static str];

    /// Where its operations are kept and run.
    fn operations(&self) -> &Operations;

    /// Seconds that an operation may take.
    fn limit_s(&self, operation: &Self::Operation) -> u64;

    /// The host that a command names, if it does.
    fn host_of(command: &berth_store::Command) -> Option<String> {
        let _ = command;
        None
    }

    /// What a command comes to; an error ends the command.
    fn plan(
        &self,
        command: &berth_store::Command,
        operation: &Self::Operation,
    ) -> impl Future<Output = Result<Vec<PlannedStep<Self::Step>>, Done>> + Send;

    /// Does a step.
    fn run_step(&self, work: &Work<Self>) -> impl Future<Output = Done> + Send
    where
        Self: Sized;

    /// Tells whoever listens of events that are on disk.
    fn tell(&self, events: Vec<berth_store::Event>);
}
