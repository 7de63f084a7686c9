//! Keys for SSH logins into containers.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{Core, SshKeyKind};
use berth_runtime::log::format_time;

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{List, SshKey, SshKeyCreate};
use crate::http::small_body;

fn render(key: berth_core::SshKey) -> SshKey {
    SshKey {
        number: key.id,
        name: key.name,
        fingerprint: key.fingerprint,
        public_key: key.public,
        private_key_to_fetch: key.has_private,
        created_at: format_time(key.created_at),
        private_key: None,
    }
}

/// The account's keys.
#[utoipa::path(get, path = "/v1/ssh-keys", tag = "keys", responses((status = 200, body = List<SshKey>)))]
pub(super) async fn list(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<SshKey>>, Error> {
    let items = core.identity().ssh_keys(&caller).await?.into_iter().map(render).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Takes a public key, or makes a pair: the private half is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/ssh-keys", request_body = SshKeyCreate, tag = "keys", responses((status = 201, body = SshKey)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<SshKey>), Error> {
    let asked: SshKeyCreate = read_json(&small_body(request.into_body()).await?)?;
    let kind = match asked.kind.as_deref() {
        None | Some("" | "ed25519") => SshKeyKind::Ed25519,
        Some("rsa") => SshKeyKind::Rsa,
        Some(other) => return Err(Error::invalid(format!("kind {other:?} is not ed25519 or rsa"))),
    };
    let made = match asked.public_key.filter(|text| !text.is_empty()) {
        Some(public) => render(core.identity().ssh_key_add(&caller, Some(&asked.name), &public).await?),
        None => {
            let made = core.identity().ssh_key_create(&caller, Some(&asked.name), kind).await?;
            let private_key = Some(core.identity().ssh_key_private(&caller, made.id, true).await?);
            SshKey { private_key, private_key_to_fetch: false, ..render(made) }
        }
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes a key. Containers that were made with it keep it.
#[utoipa::path(delete, path = "/v1/ssh-keys/{number}", tag = "keys", params(("number" = i64, Path)),
    responses((status = 204), (status = 404, body = super::wire::Problem)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(number): Segment<i64>,
) -> Result<StatusCode, Error> {
    core.identity().ssh_key_remove(&caller, number).await?;
    Ok(StatusCode::NO_CONTENT)
}
