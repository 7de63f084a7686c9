//! Keys for SSH.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Core, SshKeyKind};

use super::auth::authenticate;
use super::containers::number;
use super::error::{self, Error, INVALID, NO_KEY};
use super::wire::SecretKey;
use crate::http::PathText;
use crate::{Api, PrivateKeys};

/// Fetching the private half: no mere question, although it is a GET.
pub(super) const PRIVATE: &str = "secret_key_get";

/// `POST /api/v1/secret-keys`: makes a pair, or takes a `public_key` that is there. `key_type` is `rsa` (default) or `ed25519`.
pub(super) async fn create(State(core): State<Core>, request: Request) -> Result<(StatusCode, Json<SecretKey>), Error> {
    let (caller, parameters) = authenticate(&core, request, "secret_key_create").await?;
    let name = parameters.optional("key_name")?;
    let kind = match parameters.optional("key_type")?.map(|kind| kind.to_ascii_lowercase()).as_deref() {
        None | Some("rsa") => SshKeyKind::Rsa,
        Some("ed25519") => SshKeyKind::Ed25519,
        Some(other) => return Err(INVALID.with(format!("key_type must be ed25519 or rsa, not {other:?}"))),
    };
    let made = match parameters.optional("public_key")? {
        Some(public) => core.identity().ssh_key_add(&caller, name.as_deref(), &public).await?,
        None => core.identity().ssh_key_create(&caller, name.as_deref(), kind).await?,
    };
    Ok((StatusCode::CREATED, Json(SecretKey::of(made))))
}

/// `GET /api/v1/secret-keys`: an array, newest first.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Result<Json<Vec<SecretKey>>, Error> {
    let (caller, _) = authenticate(&core, request, "secret_key_list").await?;
    Ok(Json(core.identity().ssh_keys(&caller).await?.into_iter().rev().map(SecretKey::of).collect()))
}

/// `GET /api/v1/secret-keys/{id}`: the private half as PEM; once only, if `comb.private_keys` says so.
pub(super) async fn private(
    State(api): State<Api>,
    PathText(id): PathText,
    request: Request,
) -> Result<Response, Error> {
    let once = api.comb.private_keys == PrivateKeys::Once;
    // Who asks for its size only would lose it.
    if once && request.method() == Method::HEAD {
        return Ok(error::wrong_method().await.into_response());
    }
    let (caller, _) = authenticate(&api.core, request, PRIVATE).await?;
    let id = number(&id, NO_KEY)?;
    let text = api.core.identity().ssh_key_private(&caller, id, once).await?;
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
    PathText(id): PathText,
    request: Request,
) -> Result<StatusCode, Error> {
    let (caller, _) = authenticate(&core, request, "secret_key_delete").await?;
    core.identity().ssh_key_remove(&caller, number(&id, NO_KEY)?).await?;
    Ok(StatusCode::OK)
}
