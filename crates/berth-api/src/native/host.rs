//! The machine.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use berth_core::{Core, Role};

use super::auth::Auth;
use super::error::Error;
use super::wire::{Finding, Host, List};
use crate::Api;
use crate::http::prefers_chinese;

/// Facts about the machine.
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, body = Host)))]
pub(super) async fn inspect(State(core): State<Core>, Auth(_caller): Auth) -> Result<Json<Host>, Error> {
    Ok(Json(core.host_info().await?.into()))
}

/// What this machine can do, what is missing and what to do about it, as `berth doctor` says; for administrators. All but `state` is
/// in the language of `Accept-Language`.
#[utoipa::path(get, path = "/v1/doctor", tag = "host",
    responses((status = 200, body = List<Finding>), (status = 403, body = super::wire::Problem)))]
pub(super) async fn doctor(
    State(api): State<Api>,
    Auth(caller): Auth,
    headers: HeaderMap,
) -> Result<Json<List<Finding>>, Error> {
    if caller.role != Role::Admin {
        return Err(berth_core::Error::Forbidden("only an administrator sees what the machine lacks".into()).into());
    }
    let examine = api.doctor.0;
    // It reads files and asks the kernel.
    let mut items = tokio::task::spawn_blocking(examine)
        .await
        .map_err(|error| berth_core::Error::Bug(format!("the examination of the machine: {error}")))?;
    if prefers_chinese(&headers) {
        for finding in &mut items {
            for text in [&mut finding.what, &mut finding.found, &mut finding.advice] {
                if let Some(chinese) = berth_types::in_chinese(text) {
                    *text = chinese;
                }
            }
        }
    }
    Ok(Json(List { items, next_cursor: None }))
}
