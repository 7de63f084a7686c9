//! Jobs.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Core, FaultKind};

use super::auth::authenticate_and_read;
use super::error::Error;
use super::wire::{Info, Task};

/// Most jobs of one request.
const MOST: usize = 1000;

/// `GET /task/status`: of several jobs, separated by commas.
pub(super) async fn status(State(core): State<Core>, request: Request) -> Result<Json<Info<Vec<Task>>>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let ids = parameters.text("jobid")?;
    let hosts = core.hosts().await?;
    let mut all = Vec::new();
    let ids: Vec<&str> = ids.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if ids.is_empty() {
        return Err(Error::missing("jobid"));
    }
    if ids.len() > MOST {
        return Err(Error::out_of_bounds("jobid", &format!("最多{MOST}个,收到{}个", ids.len())));
    }
    let mut known = false;
    for id in &ids {
        all.push(match core.command(&caller, id).await {
            Ok(command) => {
                known = true;
                Task::of(command, &hosts)
            }
            // The others are told all the same.
            Err(error) if error.kind() == FaultKind::NotFound => Task::unknown(id),
            Err(error) => return Err(error.into()),
        });
    }
    if known { Ok(Json(Info::of(all, None))) } else { Err(Error::no_job(ids[0])) }
}
