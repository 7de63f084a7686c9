//! Keys for SSH.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Core, SshKeyKind};

use super::auth::enter;
use super::containers::number;
use super::error::{self, Error, INVALID, NO_KEY};
use super::wire::{SecretKey, SecretKeys};

/// Fetching the private half: no mere question, although it is a GET.
pub(super) const PRIVATE: &str = "secret_key_get";

/// `POST /api/v1/secret-keys`: makes a pair, or takes a `public_key` that is there. `key_type` is `ed25519` or `rsa`.
pub(super) async fn create(State(core): State<Core>, request: Request) -> Result<(StatusCode, Json<SecretKey>), Error> {
    let (caller, parameters) = enter(&core, request, "secret_key_create").await?;
    let name = parameters.text("key_name")?;
    let kind = match parameters.optional("key_type")?.map(|kind| kind.to_ascii_lowercase()).as_deref() {
        None | Some("ed25519") => SshKeyKind::Ed25519,
        Some("rsa") => SshKeyKind::Rsa,
        Some(other) => return Err(INVALID.with(format!("key_type must be ed25519 or rsa, not {other:?}"))),
    };
    let made = match parameters.optional("public_key")? {
        Some(public) => core.ssh_key_add(&caller, &name, &public).await?,
        None => core.ssh_key_create(&caller, &name, kind).await?,
    };
    Ok((StatusCode::CREATED, Json(SecretKey::of(made))))
}

/// `GET /api/v1/secret-keys`.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Result<Json<SecretKeys>, Error> {
    let (caller, _) = enter(&core, request, "secret_key_list").await?;
    let secret_keys: Vec<SecretKey> = core.ssh_keys(&caller).await?.into_iter().map(SecretKey::of).collect();
    Ok(Json(SecretKeys { total: secret_keys.len(), secret_keys }))
}

/// `GET /api/v1/secret-keys/{id}`: the private half as PEM, once.
pub(super) async fn private(
    State(core): State<Core>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    // It can be had once: who asks for its size only would lose it.
    if request.method() == Method::HEAD {
        return Ok(error::wrong_method().await.into_response());
    }
    let (caller, _) = enter(&core, request, PRIVATE).await?;
    let id = number(&id, NO_KEY)?;
    let text = core.ssh_key_private(&caller, id).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"key-{id}.pem\"")),
    ];
    Ok((headers, text).into_response())
}

/// `DELETE /api/v1/secret-keys/{id}`.
pub(super) async fn delete(
    State(core): State<Core>,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, Error> {
    let (caller, _) = enter(&core, request, "secret_key_delete").await?;
    core.ssh_key_remove(&caller, number(&id, NO_KEY)?).await?;
    Ok(StatusCode::OK)
}
