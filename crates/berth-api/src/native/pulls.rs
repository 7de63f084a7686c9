//! Pulls of images as objects: begun by one request, looked at and followed by others, also after a page was loaded anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, now};
use berth_runtime::log::format_time;
use tokio::sync::{Notify, mpsc, watch};

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Image, ImagePull, List, Pull, PullLayer};
use crate::Api;
use crate::http::small_body;

/// Pulls of an account that are remembered; the oldest that is over goes for a new one.
const MOST_OF_ACCOUNT: usize = 50;

/// One pull, and whose it is.
struct PullEntry {
    account: i64,
    now: watch::Receiver<Pull>,
    /// Ends it.
    cancel: Arc<Notify>,
}

/// The pulls that this server has begun since its start, by number.
#[derive(Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<(u64, BTreeMap<u64, PullEntry>)>>);

impl Pulls {
    fn add(&self, caller: &Caller, image: &str) -> Result<(Pull, watch::Sender<Pull>, Arc<Notify>), Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<u64> =
            all.1.iter().filter(|(_, entry)| entry.account == caller.account).map(|(n, _)| *n).collect();
        if own.len() >= MOST_OF_ACCOUNT {
            let over = own.iter().find(|number| all.1[*number].now.borrow().is_over()).copied();
            let Some(over) = over else {
                let detail = format!("{MOST_OF_ACCOUNT} pulls of this account are under way");
                return Err(Error::new(StatusCode::TOO_MANY_REQUESTS, "too_many_pulls", detail));
            };
            all.1.remove(&over);
        }
        all.0 += 1;
        let number = all.0;
        let pull = Pull {
            id: number.to_string(),
            image: image.to_owned(),
            state: "running".into(),
            begun_at: format_time(now()),
            ended_at: None,
            layers: Vec::new(),
            result: None,
            error: None,
        };
        let (tell, seen) = watch::channel(pull.clone());
        let cancel = Arc::new(Notify::new());
        all.1.insert(number, PullEntry { account: caller.account, now: seen, cancel: cancel.clone() });
        drop(all);
        Ok((pull, tell, cancel))
    }

    fn of(&self, caller: &Caller) -> Vec<Pull> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.values().rev().filter(|e| e.account == caller.account).map(|e| e.now.borrow().clone()).collect()
    }

    /// The pull with this id, to be followed.
    pub(super) fn watch(&self, caller: &Caller, id: &str) -> Result<watch::Receiver<Pull>, Error> {
        self.find(caller, id, |entry| entry.now.clone())
    }

    fn find<T>(&self, caller: &Caller, id: &str, what: impl Fn(&PullEntry) -> T) -> Result<T, Error> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = id.parse().ok().and_then(|number: u64| all.1.get(&number));
        let found = found.filter(|entry| entry.account == caller.account).map(what);
        drop(all);
        found.ok_or_else(|| Error::new(StatusCode::NOT_FOUND, "not_found", format!("there is no pull {id:?}")))
    }
}

/// The account's pulls since the server's start, newest first.
#[utoipa::path(get, path = "/v1/pulls", tag = "registries", responses((status = 200, body = List<Pull>)))]
pub(super) async fn list(State(api): State<Api>, Auth(caller): Auth) -> Json<List<Pull>> {
    Json(List { items: api.pulls.of(&caller), next_cursor: None })
}

/// One pull.
#[utoipa::path(get, path = "/v1/pulls/{id}", tag = "registries", params(("id" = String, Path)),
    responses((status = 200, body = Pull), (status = 404, body = super::wire::Problem)))]
pub(super) async fn inspect(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Pull>, Error> {
    let pull = api.pulls.watch(&caller, &id)?.borrow().clone();
    Ok(Json(pull))
}

/// Ends a pull that is under way; what has been fetched of it is dropped.
#[utoipa::path(post, path = "/v1/pulls/{id}/cancel", tag = "registries", params(("id" = String, Path)),
    responses((status = 200, body = Pull), (status = 404, body = super::wire::Problem), (status = 409, body = super::wire::Problem)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Json<Pull>, Error> {
    let (mut now, cancel) = api.pulls.find(&caller, &id, |entry| (entry.now.clone(), entry.cancel.clone()))?;
    if now.borrow().is_over() {
        let detail = format!("pull {id:?} is over: {}", now.borrow().state);
        return Err(Error::new(StatusCode::CONFLICT, "wrong_state", detail));
    }
    cancel.notify_one();
    // It fails only if the pull's task is gone; that is its end, too.
    let _ = now.wait_for(Pull::is_over).await;
    let pull = now.borrow().clone();
    Ok(Json(pull))
}

/// Begins to fetch an image from its registry, and answers at once. `/v1/watch` follows it.
#[utoipa::path(post, path = "/v1/pulls", request_body = ImagePull, tag = "registries",
    responses((status = 202, body = Pull), (status = 400, body = super::wire::Problem)))]
pub(super) async fn create(State(api): State<Api>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    let asked: ImagePull = read_json(&small_body(request.into_body()).await?)?;
    if asked.image.is_empty() {
        return Err(Error::invalid("image: it must not be empty"));
    }
    let (pull, tell, cancel) = api.pulls.add(&caller, &asked.image)?;
    let login = super::registries::login(asked.login);
    let (progress, mut steps) = mpsc::channel(super::registries::AHEAD);
    let core = api.core.clone();
    let entry = PullState(tell);
    tokio::spawn(async move {
        let told = async {
            while let Some(step) = steps.recv().await {
                entry.0.send_modify(|pull| pull.note(step));
            }
        };
        let work = core.image_pull_until(&caller, &asked.image, asked.platform.as_deref(), login, progress, cancel);
        let (end, ()) = tokio::join!(work, told);
        entry.0.send_modify(|pull| match end {
            Ok(None) => pull.end("cancelled", None, None),
            Ok(Some(image)) => pull.end("done", Some(Box::new(Image::from(image))), None),
            Err(error) => pull.end("failed", None, Some(Error::from(error).problem())),
        });
    });
    Ok((StatusCode::ACCEPTED, Json(pull)).into_response())
}

/// A pull's state as its task tells it. However the task ends, the pull does.
struct PullState(watch::Sender<Pull>);

impl Drop for PullState {
    fn drop(&mut self) {
        self.0.send_if_modified(|pull| {
            let broken = !pull.is_over();
            if broken {
                pull.end(
                    "failed",
                    None,
                    Some(Error::from(berth_core::Error::Bug("a pull broke off".into())).problem()),
                );
            }
            broken
        });
    }
}

impl Pull {
    fn end(&mut self, state: &str, result: Option<Box<Image>>, error: Option<super::wire::Problem>) {
        self.state = state.to_owned();
        self.ended_at = Some(format_time(now()));
        self.result = result;
        self.error = error;
    }

    /// Whether nothing about it will change any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    fn note(&mut self, step: berth_core::Progress) {
        let layer = PullLayer {
            digest: step.digest,
            status: step.status.word().into(),
            current: step.current,
            total: step.total,
        };
        match self.layers.iter_mut().find(|known| known.digest == layer.digest) {
            Some(known) => *known = layer,
            None => self.layers.push(layer),
        }
    }
}
