//! Pulls of images as objects: begun by one request, looked at and followed by others, also after a page was loaded anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, now};
use berth_runtime::log::format_time;
use tokio::sync::{mpsc, watch};

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Image, ImagePull, List, Pull, PullLayer};
use crate::Api;
use crate::http::small_body;

/// Pulls of an account that are remembered; the oldest that is over goes for a new one.
const MOST_OF_ACCOUNT: usize = 50;
/// Words about layers that wait; what is beyond is not told.
const AHEAD: usize = 256;

/// One pull, whose it is, and its task.
struct Known {
    account: i64,
    now: watch::Receiver<Pull>,
}

/// The pulls that this server has begun since its start, by number.
#[derive(Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<(u64, BTreeMap<u64, Known>)>>);

impl Pulls {
    fn add(&self, caller: &Caller, image: &str) -> Result<(Pull, watch::Sender<Pull>), Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<u64> =
            all.1.iter().filter(|(_, known)| known.account == caller.account).map(|(n, _)| *n).collect();
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
        all.1.insert(number, Known { account: caller.account, now: seen });
        drop(all);
        Ok((pull, tell))
    }

    fn of(&self, caller: &Caller) -> Vec<Pull> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.values().rev().filter(|k| k.account == caller.account).map(|k| k.now.borrow().clone()).collect()
    }

    /// The pull with this id, to be followed.
    pub(super) fn watch(&self, caller: &Caller, id: &str) -> Result<watch::Receiver<Pull>, Error> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = id.parse().ok().and_then(|number: u64| all.1.get(&number));
        let found = found.filter(|known| known.account == caller.account).map(|known| known.now.clone());
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

/// Begins to fetch an image from its registry, and answers at once. `/v1/watch` follows it.
#[utoipa::path(post, path = "/v1/pulls", request_body = ImagePull, tag = "registries",
    responses((status = 202, body = Pull), (status = 400, body = super::wire::Problem)))]
pub(super) async fn create(State(api): State<Api>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    let asked: ImagePull = read_json(&small_body(request.into_body()).await?)?;
    if asked.image.is_empty() {
        return Err(Error::invalid("image: it must not be empty"));
    }
    let (pull, tell) = api.pulls.add(&caller, &asked.image)?;
    let login = super::registries::login(asked.login);
    let (progress, mut words) = mpsc::channel(AHEAD);
    let core = api.core.clone();
    tokio::spawn(async move {
        let told = async {
            while let Some(word) = words.recv().await {
                tell.send_modify(|pull| pull.note(word));
            }
        };
        let work = core.image_pull(&caller, &asked.image, asked.platform.as_deref(), login, progress);
        let (end, ()) = tokio::join!(work, told);
        tell.send_modify(|pull| {
            pull.ended_at = Some(format_time(now()));
            match end {
                Ok(image) => {
                    pull.state = "done".into();
                    pull.result = Some(Box::new(Image::from(image)));
                }
                Err(error) => {
                    pull.state = "failed".into();
                    pull.error = Some(Error::from(error).problem());
                }
            }
        });
    });
    Ok((StatusCode::ACCEPTED, Json(pull)).into_response())
}

impl Pull {
    /// Whether nothing about it will change any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    fn note(&mut self, word: berth_core::Progress) {
        let layer = PullLayer {
            digest: word.digest,
            status: word.status.word().into(),
            current: word.current,
            total: word.total,
        };
        match self.layers.iter_mut().find(|known| known.digest == layer.digest) {
            Some(known) => *known = layer,
            None => self.layers.push(layer),
        }
    }
}
