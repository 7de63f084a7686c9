//! The six operations.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, Container, ContainerState, Core, NewApp};

use super::auth::authenticate;
use super::error::{Error, LATER, Message, WRONG};
use super::wire::{Answer, Built, Count, Done, Load};

type Reply<T> = Result<Json<Answer<T>>, Error>;

/// Smallest memory that the engine accepts, MiB.
const LEAST_MEMORY: i64 = 4;
/// Time between the two readings that the CPU percentage is made of.
const CPU_WINDOW: Duration = Duration::from_millis(200);

fn answer<T>(result: T) -> Json<Answer<T>> {
    Json(Answer { code: 0, result, message: None })
}

/// `POST /container/build`: fetches code, answers when it runs.
pub(super) async fn build(State(core): State<Core>, request: Request) -> Reply<Built> {
    let (caller, parameters) = authenticate(&core, request).await?;
    let runtime = parameters.text("image_name")?;
    let code_address = parameters.text("code_address")?;
    let memory = parameters.integer("memory")?;
    let wrong = |message: String| Error { code: WRONG, message };
    if memory < LEAST_MEMORY {
        return Err(wrong(format!("parameter memory must be at least {LEAST_MEMORY} (MiB), not {memory}")));
    }
    let Some(bytes) = (memory as u64).checked_mul(1 << 20).filter(|b| *b < 1 << 60) else {
        return Err(wrong(format!("parameter memory is too large: {memory}")));
    };
    if bytes > core.host_info().await?.memory {
        return Err(Error { code: LATER, message: format!("this host has less memory than {memory} MiB") });
    }
    let app = core.app_build(&caller, NewApp { runtime, code_address, memory: bytes }).await?;
    Ok(answer(Built { container_id: app.container.uid.to_string(), port: app.port }))
}

fn done(result: Result<(), berth_core::Error>) -> Response {
    match result {
        Ok(()) => answer(Done { option_result: 0 }).into_response(),
        Err(error) => {
            if matches!(error.kind(), berth_core::FaultKind::Bug | berth_core::FaultKind::Unavailable) {
                tracing::error!(error = error.chain(), "standalone: operation failed");
            }
            let text = error.public();
            let message = Message { code: 0, option_result: Some(1), text: text.clone() };
            let answer = Json(Answer { code: 0, result: Done { option_result: 1 }, message: Some(text) });
            (axum::Extension(message), answer).into_response()
        }
    }
}

/// The container with exactly this id: a beginning of one, or a name, is no id here.
async fn exact(core: &Core, caller: &Caller, id: &str) -> Result<Container, berth_core::Error> {
    let found = core.container(caller, id).await?;
    if found.uid.as_str() == id {
        Ok(found)
    } else {
        Err(berth_core::Error::NotFound { what: "container", name: id.into() })
    }
}

/// `GET /container/start`.
pub(super) async fn start(State(core): State<Core>, request: Request) -> Result<Response, Error> {
    let (caller, parameters) = authenticate(&core, request).await?;
    let id = parameters.text("containerId")?;
    let work = async {
        let found = exact(&core, &caller, &id).await?;
        core.container_start(&caller, found.uid.as_str()).await.map(drop)
    };
    Ok(done(work.await))
}

/// `GET /container/stop`.
pub(super) async fn stop(State(core): State<Core>, request: Request) -> Result<Response, Error> {
    let (caller, parameters) = authenticate(&core, request).await?;
    let id = parameters.text("containerId")?;
    let work = async {
        let found = exact(&core, &caller, &id).await?;
        core.container_stop(&caller, found.uid.as_str(), None).await.map(drop)
    };
    Ok(done(work.await))
}

/// `GET /container/remove`, of a running one too.
pub(super) async fn remove(State(core): State<Core>, request: Request) -> Result<Response, Error> {
    let (caller, parameters) = authenticate(&core, request).await?;
    let id = parameters.text("containerId")?;
    let work = async {
        let found = exact(&core, &caller, &id).await?;
        core.container_remove(&caller, found.uid.as_str(), true).await
    };
    Ok(done(work.await))
}

/// `GET /container/analy`: how many containers the account has here.
pub(super) async fn analy(State(core): State<Core>, request: Request) -> Reply<Count> {
    let (caller, _) = authenticate(&core, request).await?;
    Ok(answer(Count { count: core.container_count(&caller).await? }))
}

/// `GET /container/stats`: percent of what the container may use; zero while it does not run.
pub(super) async fn stats(State(core): State<Core>, request: Request) -> Reply<Load> {
    let (caller, parameters) = authenticate(&core, request).await?;
    let id = parameters.text("containerId")?;
    let found = exact(&core, &caller, &id).await?;
    if found.state != ContainerState::Running {
        return Ok(answer(Load { cpu: 0.0, memory: 0.0 }));
    }
    let usage = core.container_usage(&caller, &[found.uid.to_string()], CPU_WINDOW).await?;
    let load = usage.first().map_or(Load { cpu: 0.0, memory: 0.0 }, |u| Load {
        cpu: hundredths(u.cpu_percent_of_limit),
        memory: hundredths(u.memory_percent),
    });
    Ok(answer(load))
}

fn hundredths(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}
