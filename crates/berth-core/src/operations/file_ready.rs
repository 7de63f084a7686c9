//! Makes a file of a container ready to be fetched.

use async_trait::async_trait;
use berth_operations::{Done, Work};
use serde::{Deserialize, Serialize};

use super::{Body, MEMBERS, Operation, PlannedStep, StepBody, planned};
use crate::core::Core;
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReady {
    pub path: String,
}

/// Makes the command's file ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    container: i64,
}

#[async_trait]
impl Body for FileReady {
    fn name(&self) -> &'static str {
        "file_ready"
    }

    async fn plan(&self, _core: &Core, command: &berth_store::Command) -> Result<Vec<PlannedStep>, Error> {
        Ok(vec![planned(MEMBERS, Ready { container: command.target })])
    }
}

#[async_trait]
impl StepBody for Ready {
    fn name(&self) -> &'static str {
        "ready"
    }

    fn container(&self) -> Option<i64> {
        Some(self.container)
    }

    fn only_waits(&self) -> bool {
        true
    }

    async fn run(&self, core: &Core, work: &Work<Core>) -> Result<Done, Error> {
        let Operation::FileReady(asked) = &work.operation else {
            return Err(Error::Bug("a file without a path".into()));
        };
        core.download_make(&work.caller, self.container, &work.command.uid, &asked.path).await?;
        Ok(Done::success())
    }
}
