//! Jobs.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::Core;

use super::auth::enter_with;
use super::error::Error;
use super::wire::{Info, Task};

/// `GET /task/status`: of several jobs, separated by commas.
pub(super) async fn status(State(core): State<Core>, request: Request) -> Result<Json<Info<Vec<Task>>>, Error> {
    let (caller, parameters) = enter_with(&core, request, "task_status").await?;
    let ids = parameters.text("jobid")?;
    let hosts = core.machines().await?;
    let mut all = Vec::new();
    for id in ids.split(',').map(str::trim).filter(|id| !id.is_empty()) {
        all.push(Task::of(core.command(&caller, id).await?, &hosts));
    }
    Ok(Json(Info::of(all, None)))
}
