//! The machine.

use axum::Json;
use axum::extract::State;
use berth_core::Core;

use super::auth::Auth;
use super::error::Error;
use super::wire::Host;

/// Facts about the machine.
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, body = Host)))]
pub(super) async fn inspect(State(core): State<Core>, Auth(_caller): Auth) -> Result<Json<Host>, Error> {
    Ok(Json(core.host_info().await?.into()))
}
