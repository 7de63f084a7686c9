//! One thing done with many containers by one request.

use std::collections::HashSet;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use berth_core::{Caller, Change, Core, signal_number};
use futures_util::{StreamExt, stream};

use super::auth::Auth;
use super::containers::read_json;
use super::error::Error;
use super::wire::{BulkAction, BulkContainers, BulkResult, List};
use crate::http::{AuditDetail, Client, prefers_chinese, small_body};

const MAX_CONTAINERS: usize = 1000;
/// Longest name that a container may be asked for by, characters.
const LONGEST_NAME: usize = 128;
/// So many containers are worked on at a time. Most of a stop is waiting for its grace time.
const AT_ONCE: usize = 100;

/// What is done, checked.
struct Action {
    asked: BulkContainers,
    grace: Option<Duration>,
    signal: Option<i32>,
}

impl Action {
    fn of(asked: BulkContainers) -> Result<Self, Error> {
        let many = asked.containers.len();
        if !(1..=MAX_CONTAINERS).contains(&many) {
            return Err(Error::invalid(format!("containers: expected 1 to {MAX_CONTAINERS}, not {many}")));
        }
        let mut seen = HashSet::new();
        for name in &asked.containers {
            if name.chars().count() > LONGEST_NAME {
                let begin: String = name.chars().take(20).collect();
                return Err(Error::invalid(format!("container {begin}…: at most {LONGEST_NAME} characters")));
            }
            if !seen.insert(name) {
                return Err(Error::invalid(format!("container {name} is named twice")));
            }
        }
        let (word, is_removal) = (asked.action.word(), asked.action == BulkAction::Remove);
        let stops = matches!(asked.action, BulkAction::Stop | BulkAction::Restart);
        let misfits = [
            ("force", asked.force && !is_removal),
            ("volumes", asked.volumes && !is_removal),
            ("timeout", asked.timeout.is_some() && !stops),
            ("signal", asked.signal.is_some() && !stops && asked.action != BulkAction::Kill),
        ];
        if let Some((field, _)) = misfits.into_iter().find(|(_, misfit)| *misfit) {
            return Err(Error::invalid(format!("{field} does not go with the action {word}")));
        }
        if let Some(seconds) = asked.timeout.filter(|seconds| *seconds > 3600) {
            return Err(Error::invalid(format!("timeout {seconds}: at most 3600 seconds")));
        }
        let unknown = |text: &str| Error::invalid(format!("invalid signal {text:?}"));
        let number = |text: &str| signal_number(text).ok_or_else(|| unknown(text));
        let signal = asked.signal.as_deref().map(number).transpose()?;
        Ok(Self { grace: asked.timeout.map(Duration::from_secs), signal, asked })
    }

    async fn with(&self, core: &Core, caller: &Caller, name: &str) -> Result<(), Error> {
        match self.asked.action {
            BulkAction::Start => core.container_start(caller, name).await.map(drop)?,
            BulkAction::Stop => core.container_stop_by(caller, name, self.grace, self.signal).await.map(drop)?,
            BulkAction::Restart => core.container_restart_by(caller, name, self.grace, self.signal).await.map(drop)?,
            BulkAction::Kill => {
                core.container_kill(caller, name, self.asked.signal.as_deref().unwrap_or("KILL")).await?
            }
            BulkAction::Pause => core.container_pause(caller, name).await.map(drop)?,
            BulkAction::Resume => core.container_resume(caller, name).await.map(drop)?,
            BulkAction::Remove if self.asked.volumes => {
                core.container_remove_with_volumes(caller, name, self.asked.force).await?;
            }
            BulkAction::Remove => core.container_remove(caller, name, self.asked.force).await?,
        }
        Ok(())
    }
}

/// Starts, stops, restarts, kills, pauses, resumes or removes many containers. One that fails does not keep the others from being done.
#[utoipa::path(post, path = "/v1/bulk/containers", request_body = BulkContainers, tag = "containers",
    responses((status = 200, body = List<BulkResult>)))]
pub(super) async fn containers(
    State(core): State<Core>,
    Auth(caller): Auth,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<(Extension<AuditDetail>, Json<List<BulkResult>>), Error> {
    let action = Action::of(read_json(&small_body(request.into_body()).await?)?)?;
    let chinese = prefers_chinese(&headers);
    let one = |name: String| {
        let (core, caller, action, client) = (&core, &caller, &action, &client);
        async move {
            let error = action.with(core, caller, &name).await.err();
            note(core, caller, client, action, &name, error.as_ref()).await;
            BulkResult { container: name, error: error.map(|error| error.problem_in(chinese)) }
        }
    };
    let items: Vec<BulkResult> =
        stream::iter(action.asked.containers.clone()).map(one).buffered(AT_ONCE).collect().await;
    let failed = items.iter().filter(|item| item.error.is_some()).count();
    let detail = format!("{} of {} containers, {failed} failed", action.asked.action.word(), items.len());
    Ok((Extension(AuditDetail(detail)), Json(List { items, next_cursor: None })))
}

/// Each container has its own entry in the audit log, besides the request's.
async fn note(core: &Core, caller: &Caller, client: &Client, action: &Action, name: &str, error: Option<&Error>) {
    let change = Change {
        caller: Some(*caller),
        source: client.source.clone(),
        dialect: "native",
        action: format!("POST /v1/bulk/containers: {} {name}", action.asked.action.word()),
        result: error.map_or(200, |error| error.status.as_u16()),
        message: error.map(|error| error.detail.clone()).unwrap_or_default(),
        request_id: client.request_id.clone(),
        ..Change::default()
    };
    if let Err(error) = core.identity().audit_note(change).await {
        tracing::error!(%error, container = name, "an entry of the audit log was not written");
    }
}
