//! Containers.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{Charge, Core, NetworkCharge, NewCommit, NewPlanned, Plan, PlanChange};
use serde_json::Value;

use super::auth::authenticate;
use super::error::{CREATE, Code, DELETE, ENV_KEY, Error, INVALID, MISSING, NO_CONTAINER, SSH_KEY};
use super::wire::{Container, Containers, Created, Flow, Tagged, charge, megabytes, network_charge};
use crate::http::{Parameters, PathText, kind_of};

/// A number of the path; what is none names nothing.
pub(super) fn number(text: &str, none: Code) -> Result<i64, Error> {
    text.trim().parse().map_err(|_| none.with(text))
}

/// A whole number that may be there.
fn whole(parameters: &Parameters, name: &'static str) -> Result<Option<i64>, Error> {
    match parameters.optional(name) {
        Ok(None) => Ok(None),
        _ => Ok(Some(parameters.integer(name)?)),
    }
}

fn one_of<T>(parameters: &Parameters, name: &'static str, of: impl Fn(i64) -> Option<T>) -> Result<Option<T>, Error> {
    let Some(number) = whole(parameters, name)? else { return Ok(None) };
    of(number).map(Some).ok_or_else(|| INVALID.with(format!("{name} must be 1 or 2, not {number}")))
}

/// `ssh_key_ids`: an array of numbers, or of numbers as text, or text with commas, as this dialect itself shows it.
fn key_ids(parameters: &Parameters) -> Result<Vec<i64>, Error> {
    let wrong = |what: &Value| SSH_KEY.with(format!("ssh_key_ids holds {what}, which is no number"));
    let of = |value: &Value| match value {
        Value::Number(number) => number.as_i64().ok_or_else(|| wrong(value)),
        Value::String(text) => text.trim().parse().map_err(|_| wrong(value)),
        _ => Err(wrong(value)),
    };
    match parameters.value("ssh_key_ids") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(of).collect(),
        Some(Value::String(text)) => {
            let parts = text.split(',').filter(|part| !part.trim().is_empty());
            parts.map(|part| of(&Value::String(part.to_owned()))).collect()
        }
        Some(other) => Ok(vec![of(other)?]),
    }
}

/// `env_var`: an object of texts; numbers and truth values are taken as they are written.
fn variables(parameters: &Parameters) -> Result<BTreeMap<String, String>, Error> {
    let object = match parameters.value("env_var") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::String(text)) if text.is_empty() => return Ok(BTreeMap::new()),
        Some(Value::Object(object)) => object,
        Some(other) => return Err(INVALID.with(format!("env_var must be an object, not {}", kind_of(other)))),
    };
    let text = |(key, value): (&String, &Value)| match value {
        Value::String(text) if text.contains('\0') => Err(ENV_KEY.with(format!("a zero byte in {key}"))),
        Value::String(text) => Ok((key.clone(), text.clone())),
        Value::Null => Ok((key.clone(), String::new())),
        Value::Number(_) | Value::Bool(_) => Ok((key.clone(), value.to_string())),
        Value::Array(_) | Value::Object(_) => {
            Err(INVALID.with(format!("env_var: {key} must be text, not {}", kind_of(value))))
        }
    };
    object.iter().map(text).collect()
}

/// `POST /api/v1/containers`.
pub(super) async fn create(State(core): State<Core>, request: Request) -> Result<(StatusCode, Json<Created>), Error> {
    let (caller, parameters) = authenticate(&core, request, "container_create").await?;
    let required = |name: &'static str| whole(&parameters, name)?.ok_or_else(|| MISSING.with(name));
    let kind = one_of(&parameters, "charge_type", charge)?.ok_or_else(|| MISSING.with("charge_type"))?;
    let spec = required("spec_id")?;
    let official = match required("image_type")? {
        1 => true,
        2 => false,
        other => return Err(INVALID.with(format!("image_type must be 1 or 2, not {other}"))),
    };
    let image = required("image_id")?;
    let name = parameters.text("name")?;
    let public = match whole(&parameters, "use_public_network")? {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(other) => return Err(INVALID.with(format!("use_public_network must be 0 or 1, not {other}"))),
    };
    let network = one_of(&parameters, "network_charge_type", network_charge)?;
    let (public, network, bandwidth) = connected(kind, public, network, whole(&parameters, "bandwidth")?)?;
    let plan = Plan {
        charge: kind,
        spec,
        image,
        description: parameters.optional("desc")?.unwrap_or_default(),
        ssh_keys: key_ids(&parameters)?,
        env: variables(&parameters)?,
        public,
        network_charge: network,
        bandwidth,
        ssh_by_us: false,
    };
    let made = core.planned_create(&caller, NewPlanned { name, plan, official }).await;
    let made = made.map_err(|error| Error::from(error).during(CREATE))?;
    Ok((StatusCode::CREATED, Json(Created { id: made.id })))
}

/// What a container's network is: a package brings it along, use is told.
fn connected(
    kind: Charge,
    public: Option<bool>,
    network: Option<NetworkCharge>,
    bandwidth: Option<i64>,
) -> Result<(bool, Option<NetworkCharge>, Option<i64>), Error> {
    if kind == Charge::Use {
        let public = public.ok_or_else(|| MISSING.with("use_public_network"))?;
        complete(kind, public, network, bandwidth)?;
        return Ok((public, network, bandwidth));
    }
    Ok(match public {
        Some(false) => (false, network, bandwidth),
        Some(true) | None => (true, network.or(Some(NetworkCharge::Traffic)), bandwidth.or(Some(100))),
    })
}

/// What must be there beside what is.
fn complete(kind: Charge, public: bool, network: Option<NetworkCharge>, bandwidth: Option<i64>) -> Result<(), Error> {
    if kind != Charge::Use || !public {
        return Ok(());
    }
    match (network, bandwidth) {
        (None, _) => Err(MISSING.with("network_charge_type")),
        (Some(NetworkCharge::Bandwidth), None) => Err(MISSING.with("bandwidth")),
        _ => Ok(()),
    }
}

/// `PUT /api/v1/containers/{containerId}`.
pub(super) async fn update(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<StatusCode, Error> {
    let (caller, parameters) = authenticate(&core, request, "container_update").await?;
    let id = number(&id, NO_CONTAINER)?;
    let known = core.planned(&caller, id).await?;
    let change = PlanChange {
        charge: one_of(&parameters, "charge_type", charge)?,
        spec: whole(&parameters, "spec_id")?,
        // An empty text is a description, too.
        description: match parameters.value("desc") {
            Some(Value::String(text)) => Some(text.clone()),
            _ => parameters.optional("desc")?,
        },
        network_charge: one_of(&parameters, "network_charge_type", network_charge)?,
        bandwidth: whole(&parameters, "bandwidth")?,
    };
    complete(
        change.charge.unwrap_or(known.plan.charge),
        known.plan.public,
        change.network_charge.or(known.plan.network_charge),
        change.bandwidth.or(known.plan.bandwidth),
    )?;
    core.planned_change(&caller, id, change).await?;
    Ok(StatusCode::OK)
}

/// `GET /api/v1/containers`: `limit` from 1 to 30, `offset` from 0.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Result<Json<Containers>, Error> {
    let (caller, parameters) = authenticate(&core, request, "container_list").await?;
    let limit = whole(&parameters, "limit")?.unwrap_or(20);
    let offset = whole(&parameters, "offset")?.unwrap_or(0);
    if !(1..=30).contains(&limit) {
        return Err(INVALID.with(format!("limit must be 1 to 30, not {limit}")));
    }
    if offset < 0 {
        return Err(INVALID.with(format!("offset must be at least 0, not {offset}")));
    }
    let (all, total) = core.planned_page(&caller, offset, limit).await?;
    Ok(Json(Containers { total, containers: all.into_iter().map(|p| Container::of(&core, p)).collect() }))
}

/// `GET /api/v1/containers/{containerId}`.
pub(super) async fn inspect(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<Json<Container<String>>, Error> {
    let (caller, _) = authenticate(&core, request, "container_get").await?;
    let found = core.planned(&caller, number(&id, NO_CONTAINER)?).await?;
    Ok(Json(Container::of(&core, found).alone()))
}

/// `DELETE /api/v1/containers/{containerId}`.
pub(super) async fn delete(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<StatusCode, Error> {
    let (caller, _) = authenticate(&core, request, "container_delete").await?;
    let ordered = core.planned_delete(&caller, number(&id, NO_CONTAINER)?).await;
    ordered.map_err(|error| Error::from(error).during(DELETE))?;
    Ok(StatusCode::OK)
}

/// `PUT /api/v1/containers/{containerId}/actions/restart`.
pub(super) async fn restart(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<StatusCode, Error> {
    let (caller, _) = authenticate(&core, request, "container_restart").await?;
    core.planned_restart(&caller, number(&id, NO_CONTAINER)?).await?;
    Ok(StatusCode::OK)
}

/// `POST /api/v1/containers/{containerId}/tag`: its files as an image of the account's own.
pub(super) async fn tag(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<(StatusCode, Json<Tagged>), Error> {
    let (caller, parameters) = authenticate(&core, request, "container_tag").await?;
    let id = number(&id, NO_CONTAINER)?;
    let (repository, tag) = (parameters.text("repo_name")?, parameters.text("tag")?);
    if repository.contains(['@', ':']) || tag.contains(['@', ':', '/']) {
        return Err(INVALID.with("repo_name or tag holds a sign that separates them"));
    }
    let found = core.container_by_number(&caller, id).await?;
    let new = NewCommit { name: Some(format!("{repository}:{tag}")), ..NewCommit::default() };
    let image = core.container_commit(&caller, found.uid.as_str(), new).await.map_err(|error| match error {
        // An image's name is no container's.
        berth_core::Error::Invalid { message, .. } => INVALID.with(message),
        other => other.into(),
    })?;
    Ok((StatusCode::CREATED, Json(Tagged { image_id: image.id.to_string() })))
}

/// Milliseconds of a time that is seconds or milliseconds since 1970; a negative one is none.
fn moment(value: Option<i64>) -> Option<i64> {
    const FIRST_IN_MILLISECONDS: i64 = 100_000_000_000;
    let value = value.filter(|value| *value >= 0)?;
    Some(if value < FIRST_IN_MILLISECONDS { value * 1000 } else { value })
}

/// `GET /api/v1/containers/{containerId}/flow`.
pub(super) async fn flow(
    State(core): State<Core>,
    PathText(id): PathText,
    request: Request,
) -> Result<Json<Flow>, Error> {
    let (caller, parameters) = authenticate(&core, request, "container_flow").await?;
    let id = number(&id, NO_CONTAINER)?;
    let time = |name| whole(&parameters, name).map(moment);
    let traffic = core.container_flow(&caller, id, time("from_time")?, time("to_time")?).await?;
    Ok(Json(Flow { container_up_flow: megabytes(traffic.tx_bytes), container_down_flow: megabytes(traffic.rx_bytes) }))
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn times_are_seconds_or_milliseconds() {
        assert_eq!(moment(Some(1_458_366_257)), Some(1_458_366_257_000));
        assert_eq!(moment(Some(1_458_366_257_000)), Some(1_458_366_257_000));
        assert_eq!((moment(Some(-1)), moment(None), moment(Some(0))), (None, None, Some(0)));
    }
}
