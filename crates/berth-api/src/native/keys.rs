//! Access keys, and the audit log.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{AuditQuery, Core, KeyBounds, NewKey, Role};
use berth_runtime::log::format_time;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::{page, read_json};
use super::error::Error;
use super::usage;
use super::wire::{AccessKey, AuditEntry, KeyCreate, KeyRotate, List};
use crate::http::small_body;

fn render(key: berth_core::AccessKey, secret: Option<String>) -> AccessKey {
    AccessKey {
        number: key.id,
        name: key.name,
        access_key: key.access_key,
        role: if key.role == Role::Admin { "admin" } else { "user" }.into(),
        dialects: key.bounds.dialects,
        actions: key.bounds.actions,
        addresses: key.bounds.addresses,
        unsigned: key.bounds.unsigned,
        disabled: key.disabled,
        created_at: format_time(key.created_at),
        expires_at: key.expires_at.map(format_time),
        old_secret_until: key.old_until.map(format_time),
        last_used_at: key.used_at.map(format_time),
        last_used_from: Some(key.used_from).filter(|from| !from.is_empty()),
        secret_key: secret,
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Those of all accounts; for administrators.
    #[serde(default)]
    all: bool,
}

/// The account's access keys, without their secrets.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(ListParams), responses((status = 200, body = List<AccessKey>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<AccessKey>>, Error> {
    let items = core.identity().keys(&caller, params.all).await?.into_iter().map(|k| render(k, None)).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes an access key. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/keys", request_body = KeyCreate, tag = "keys", responses((status = 201, body = AccessKey)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<AccessKey>), Error> {
    let asked: KeyCreate = read_json(&small_body(request.into_body()).await?)?;
    let role = match asked.role.as_deref() {
        None | Some("" | "user") => Role::User,
        Some("admin") => Role::Admin,
        Some(other) => return Err(Error::invalid(format!("role {other:?} is not user or admin"))),
    };
    let new = NewKey {
        name: asked.name,
        role,
        account: asked.account,
        bounds: KeyBounds {
            dialects: asked.dialects,
            actions: asked.actions,
            addresses: asked.addresses,
            unsigned: asked.unsigned,
        },
        lifetime: asked.expires_in.map(Duration::from_secs),
    };
    let (key, secret) = core.identity().key_create(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(render(key, Some(secret)))))
}

/// Gives a key another secret; the one before goes on being good for a while.
#[utoipa::path(post, path = "/v1/keys/{key}/rotate", request_body = KeyRotate, tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = AccessKey)))]
pub(super) async fn rotate(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(key): Segment<String>,
    request: Request,
) -> Result<Json<AccessKey>, Error> {
    let bytes = small_body(request.into_body()).await?;
    let asked: KeyRotate = if bytes.is_empty() { KeyRotate::default() } else { read_json(&bytes)? };
    let old_for = Duration::from_secs(asked.old_for.unwrap_or(86_400));
    let (key, secret) = core.identity().key_rotate(&caller, &key, old_for).await?;
    Ok(Json(render(key, Some(secret))))
}

/// Disables a key, at once.
#[utoipa::path(post, path = "/v1/keys/{key}/disable", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = AccessKey)))]
pub(super) async fn disable(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(key): Segment<String>,
) -> Result<Json<AccessKey>, Error> {
    Ok(Json(render(core.identity().key_disable(&caller, &key, true).await?, None)))
}

/// Enables a key.
#[utoipa::path(post, path = "/v1/keys/{key}/enable", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = AccessKey)))]
pub(super) async fn enable(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(key): Segment<String>,
) -> Result<Json<AccessKey>, Error> {
    Ok(Json(render(core.identity().key_disable(&caller, &key, false).await?, None)))
}

/// Removes a key, at once.
#[utoipa::path(delete, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path)), responses((status = 204)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(key): Segment<String>,
) -> Result<StatusCode, Error> {
    core.identity().key_remove(&caller, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    /// Items of a page, 1 to 1000; 100 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// What all accounts did; for administrators.
    #[serde(default)]
    all: bool,
    /// From then on: RFC 3339, or seconds since 1970.
    #[serde(default)]
    since: Option<String>,
    /// Before then.
    #[serde(default)]
    until: Option<String>,
    /// By this credential: `token 1`, `key 2`.
    #[serde(default)]
    who: Option<String>,
    /// In whose method and path this is found.
    #[serde(default)]
    action: Option<String>,
    /// Only what failed.
    #[serde(default)]
    failed: bool,
}

/// Who changed what, from where, and what came of it; newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "keys", params(AuditParams), responses((status = 200, body = List<AuditEntry>)))]
pub(super) async fn audit(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<AuditParams>,
) -> Result<Json<List<AuditEntry>>, Error> {
    let (limit, before) = page(params.limit, params.cursor.as_deref())?;
    let time = |text: Option<&str>| usage::time(text).map(Option::unwrap_or_default);
    let query = AuditQuery {
        all: params.all,
        before,
        since: time(params.since.as_deref())?,
        until: time(params.until.as_deref())?,
        who: params.who.filter(|w| !w.is_empty()),
        action: params.action.filter(|a| !a.is_empty()),
        failed: params.failed,
        limit,
    };
    let found = core.identity().audit(&caller, query).await?;
    let entry = |e: berth_core::AuditEntry| AuditEntry {
        number: e.id,
        time: format_time(e.at),
        who: e.who,
        from: e.source,
        dialect: e.dialect,
        action: e.action,
        status: e.result.parse().unwrap_or(0),
        message: e.message,
        request_id: e.request_id,
        count: e.count,
        last_time: format_time(e.last_at),
    };
    let items = found.items.into_iter().map(entry).collect();
    Ok(Json(List { items, next_cursor: found.next.map(|n| n.to_string()) }))
}
