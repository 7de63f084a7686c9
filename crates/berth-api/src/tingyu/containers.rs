//! Containers: what berth calls deployments.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Caller, Core, Deployment, FaultKind, Host, NewDeployment, Rollout};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::auth::{authenticate, authenticate_and_read};
use super::error::{Error, said};
use super::wire::{Answer, Asked, Configuration, Done, Found, Item, State as Doing, not_found, text};
use crate::http::{BodyError, Parameters, small_body};

type Batch = Result<Json<Answer<Vec<Item>>>, Error>;

/// Most items of a batch.
const MOST: usize = 1000;
/// Containers of one request that are started, stopped or restarted side by side.
const AT_ONCE: usize = 8;

/// `tingyu-…` as it is in the core.
fn host_id(uuid: &str) -> &str {
    uuid.strip_prefix("tingyu-").unwrap_or(uuid)
}

/// The items of a body: an array of objects.
async fn items(request: Request) -> Result<Vec<Asked>, Error> {
    let body = small_body(request.into_body()).await.map_err(|error| match error {
        BodyError::TooLarge => Error::too_long(),
        BodyError::Broken => Error::invalid("body"),
        BodyError::Late => Error::failed("请求超时!"),
    })?;
    let wrong = |why: String| Error::out_of_bounds("body", &why);
    let parsed: Value = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
    let all = match parsed {
        Value::Array(all) => all,
        // One alone is a batch of one.
        one @ Value::Object(_) => vec![one],
        _ => return Err(Error::invalid("body")),
    };
    if all.is_empty() {
        return Err(Error::missing("body"));
    }
    if all.len() > MOST {
        return Err(wrong(format!("收到{}项", all.len())));
    }
    let object = |item: Value| if item.is_object() { Ok(item) } else { Err(Error::invalid("body")) };
    let all = all.into_iter().map(object).collect::<Result<Vec<_>, _>>()?;
    all.into_iter().map(|item| serde_json::from_value(item).map_err(|error| wrong(error.to_string()))).collect()
}

/// The host of every item; the whole request fails if one is nobody's.
async fn hosts(core: &Core, all: &[Asked]) -> Result<Vec<Host>, Error> {
    let hosts = core.hosts().await?;
    let host = |asked: &Asked| {
        let uuid = text(&asked.uuid, "uuid")?.ok_or_else(|| Error::missing("uuid"))?;
        let found = hosts.iter().find(|m| m.facts.id == host_id(&uuid));
        found.cloned().ok_or_else(Error::no_uuid)
    };
    all.iter().map(host).collect()
}

/// Why an item is not taken: as the platform says it where it does.
fn why(error: &berth_core::Error, name: &str) -> String {
    match error.kind() {
        FaultKind::NotFound => not_found(name),
        FaultKind::Duplicate => already_exists(name),
        _ => said(error),
    }
}

/// [`why`] of what is to be changed: one that is being made is not there yet, and is not unknown.
async fn why_not(core: &Core, caller: &Caller, error: &berth_core::Error, name: &str) -> String {
    let making = error.kind() == FaultKind::NotFound && core.deployment_is_being_made(caller, name).await;
    if making { being_made(name) } else { why(error, name) }
}

fn already_exists(name: &str) -> String {
    format!("名称已存在!(deployments.apps \"{name}\" already exists)")
}

fn being_made(name: &str) -> String {
    format!("容器{name}正在创建,请稍后再试!")
}

/// `POST /container/create`.
pub(super) async fn create(State(core): State<Core>, request: Request) -> Batch {
    let (caller, _) = authenticate(&core, &request).await?;
    let all = items(request).await?;
    let hosts = hosts(&core, &all).await?;
    let mut answers: Vec<Item> = Vec::with_capacity(all.len());
    let mut accepted: Vec<(i64, berth_core::Reservation)> = Vec::new();
    for (asked, host) in all.iter().zip(&hosts) {
        let name = asked.name();
        let spec = match asked.spec() {
            _ if name.is_empty() => Err("缺少参数:deploymentname!".to_owned()),
            _ if !host.ready => Err("Node is not ready".to_owned()),
            _ if accepted.iter().any(|(_, (known, ..))| *known == name) => Err(already_exists(&name)),
            Ok(spec) => Ok(spec),
            Err(error) => Err(error.to_string()),
        };
        let spec = match spec {
            Ok(spec) => spec,
            Err(message) => {
                answers.push(Item::failed(name, message));
                continue;
            }
        };
        let also = accepted.iter().filter(|(id, _)| *id == host.id).map(|(_, asking)| asking.clone()).collect();
        let asks = (host.id, (name.clone(), spec.requests_cpu, spec.requests_memory));
        match core.deployment_create(&caller, host, NewDeployment { name: name.clone(), spec }, also).await {
            Ok(command) => {
                accepted.push(asks);
                answers.push(Item::accepted(name, command.uid));
            }
            Err(error) => answers.push(Item::failed(name.clone(), why(&error, &name))),
        }
    }
    Ok(Json(Answer::of(answers)))
}

/// `PUT /container/updateByName`.
pub(super) async fn update_by_name(State(core): State<Core>, request: Request) -> Batch {
    let (caller, _) = authenticate(&core, &request).await?;
    let all = items(request).await?;
    let hosts = hosts(&core, &all).await?;
    let mut answers = Vec::with_capacity(all.len());
    for (asked, host) in all.iter().zip(&hosts) {
        let name = asked.name();
        let result = match asked.spec() {
            _ if !host.ready => Err("Node is not ready".to_owned()),
            Err(error) => Err(error.to_string()),
            Ok(spec) => {
                let updated =
                    core.deployment_update(&caller, host, NewDeployment { name: name.clone(), spec }, false).await;
                match updated {
                    Ok(command) => Ok(command),
                    Err(error) => Err(why_not(&core, &caller, &error, &name).await),
                }
            }
        };
        answers.push(match result {
            Ok(command) => Item::accepted(name, command.uid),
            Err(message) => Item::failed(name, message),
        });
    }
    Ok(Json(Answer::of(answers)))
}

/// `POST /container/inheritUpdate`: another image and version of some, everything else as it is.
pub(super) async fn inherit_update(State(core): State<Core>, request: Request) -> Batch {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let names = split(&parameters, "deploymentnames")?;
    let image = parameters.text("image")?;
    // The version may stand in the image's name.
    let told = image.contains('@') || image.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
    let version = if told { parameters.optional("imageversion")? } else { Some(parameters.text("imageversion")?) };
    let version = version.unwrap_or_default();
    let hosts = core.hosts().await?;
    let mut answers = Vec::new();
    for name in names {
        let found = match core.deployment(&caller, &name).await {
            Ok(found) => found,
            Err(error) if error.kind() == FaultKind::NotFound => {
                let making = core.deployment_is_being_made(&caller, &name).await;
                let message = if making { being_made(&name) } else { "Get Deploymentname Fail".to_owned() };
                answers.push(Item::failed(name, message));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(host) = hosts.iter().find(|m| m.id == found.container.host && m.ready) else {
            answers.push(Item::failed(name, "Node is not ready"));
            continue;
        };
        let spec =
            berth_core::DeploymentSpec { image: image.clone(), version: version.clone(), ..found.spec }.normalized();
        answers.push(
            match core.deployment_update(&caller, host, NewDeployment { name: name.clone(), spec }, true).await {
                Ok(command) => Item::accepted(name, command.uid),
                Err(error) => Item::failed(name.clone(), why(&error, &name)),
            },
        );
    }
    Ok(Json(Answer::of(answers)))
}

/// `PUT /container/updateByInherit`: a share of an image's deployments in an area and an operator's network.
pub(super) async fn update_by_inherit(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Answer<Option<()>>>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let operator = parameters.text("operator")?;
    if !super::OPERATORS.contains(&operator.as_str()) {
        return Err(Error::operator());
    }
    let percent = parameters.integer("percent")?;
    let asked = Rollout {
        area: parameters.text("area")?,
        operator,
        percent: u32::try_from(percent).map_err(|_| Error::out_of_bounds("percent", &format!("收到:{percent}")))?,
        image: parameters.text("image")?,
        version: parameters.text("imageversion")?,
    };
    core.rollout(&caller, asked).await?;
    Ok(Json(Answer::of(None)))
}

/// Names that are joined by commas; one at least.
fn split(parameters: &Parameters, field: &'static str) -> Result<Vec<String>, Error> {
    let names = parameters.text(field)?;
    let names: Vec<_> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() { Err(Error::missing(field)) } else { Ok(names) }
}

async fn named(
    core: &Core,
    caller: &Caller,
    parameters: &Parameters,
) -> Result<Vec<Result<Deployment, String>>, Error> {
    let mut all = Vec::new();
    for name in split(parameters, "name")? {
        all.push(match core.deployment(caller, &name).await {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == FaultKind::NotFound => Err(name),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(all)
}

/// `POST /container/get`.
pub(super) async fn get(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Answer<Vec<Found<Configuration>>>>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let all = named(&core, &caller, &parameters).await?.into_iter();
    let all = all.map(|found| found.map_or_else(Found::none, |found| Found::one(Configuration::of(found))));
    Ok(Json(Answer::of(all.collect())))
}

/// `POST /container/info`.
pub(super) async fn info(State(core): State<Core>, request: Request) -> Result<Json<Answer<Vec<Found<Doing>>>>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let all = named(&core, &caller, &parameters).await?.into_iter();
    let all = all.map(|found| found.map_or_else(Found::none, |found| Found::one(Doing::of(&core, found.container))));
    Ok(Json(Answer::of(all.collect())))
}

/// `POST /container/list`: the configurations of all on a host.
pub(super) async fn list(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Answer<Vec<Configuration>>>, Error> {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let uuid = parameters.text("uuid")?;
    let host = core.host_by_uid(host_id(&uuid)).await?;
    let all = core.deployments_on(&caller, host.id).await?;
    Ok(Json(Answer::of(all.into_iter().map(Configuration::of).collect())))
}

/// `DELETE /container/delete`.
pub(super) async fn remove(State(core): State<Core>, request: Request) -> Batch {
    let (caller, parameters) = authenticate_and_read(&core, request).await?;
    let mut answers = Vec::new();
    for name in split(&parameters, "name")? {
        answers.push(match core.deployment_delete(&caller, &name).await {
            Ok(command) => Item::accepted(name, command.uid),
            Err(error) => Item::failed(name.clone(), why(&error, &name)),
        });
    }
    Ok(Json(Answer::of(answers)))
}

/// All that are named; one that is nobody's fails the call, before anything is done.
async fn each(core: &Core, request: Request) -> Result<(Caller, Vec<Deployment>), Error> {
    let (caller, parameters) = authenticate_and_read(core, request).await?;
    let all = named(core, &caller, &parameters).await?;
    let all: Result<Vec<_>, String> = all.into_iter().collect();
    match all {
        Ok(all) => Ok((caller, all)),
        Err(name) if core.deployment_is_being_made(&caller, &name).await => Err(Error::failed(being_made(&name))),
        Err(name) => Err(Error::no_container(&name)),
    }
}

#[derive(Clone, Copy)]
enum Act {
    Start,
    Stop,
    Restart,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "启动",
            Self::Stop => "停止",
            Self::Restart => "重启",
        }
    }
}

/// Does it to all of them, some at a time; those that fail are named when all are done.
async fn at_once(core: &Core, caller: Caller, all: Vec<Deployment>, act: Act) -> Result<(), Error> {
    let works = all.into_iter().map(|found| {
        let (core, name) = (core.clone(), found.container.name);
        async move {
            let result = match act {
                Act::Start => core.deployment_start(&caller, &name).await,
                Act::Stop => core.deployment_stop(&caller, &name).await,
                Act::Restart => core.deployment_restart(&caller, &name).await,
            };
            (name, result)
        }
    });
    let results: Vec<_> = futures_util::stream::iter(works).buffered(AT_ONCE).collect().await;
    let failed: Vec<String> = results
        .into_iter()
        .filter_map(|(name, result)| result.err().map(|error| format!("{name}:{}", why(&error, &name))))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("{}失败:{}", act.word(), failed.join(";"))))
}

/// `POST /container/start`.
pub(super) async fn start(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, all) = each(&core, request).await?;
    at_once(&core, caller, all, Act::Start).await?;
    Ok(Json(Done::said("启动成功!")))
}

/// `POST /container/stop`.
pub(super) async fn stop(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, all) = each(&core, request).await?;
    at_once(&core, caller, all, Act::Stop).await?;
    Ok(Json(Done::said("停止成功!")))
}

/// `POST /container/restart`.
pub(super) async fn restart(State(core): State<Core>, request: Request) -> Result<Json<Done>, Error> {
    let (caller, all) = each(&core, request).await?;
    at_once(&core, caller, all, Act::Restart).await?;
    Ok(Json(Done::said("重启成功!")))
}
