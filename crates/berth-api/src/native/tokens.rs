//! Tokens.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{Core, Role};
use berth_runtime::log::format_time;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{List, Token, TokenCreate};
use crate::http::small_body;

fn render(token: berth_core::Token, secret: Option<String>) -> Token {
    Token {
        number: token.id,
        name: token.name,
        role: if token.role == Role::Admin { "admin" } else { "user" }.into(),
        created_at: format_time(token.created_at),
        expires_at: token.expires_at.map(format_time),
        account: None,
        token: secret,
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

/// The account's tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(ListParams), responses((status = 200, body = List<Token>)))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<ListParams>,
) -> Result<Json<List<Token>>, Error> {
    let all = core.identity().tokens(&caller, params.all).await?;
    let items = all.into_iter().map(|(t, account)| Token { account: Some(account), ..render(t, None) }).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes a token. Its secret is in this answer and nowhere else, so it takes no `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/tokens", request_body = TokenCreate, tag = "tokens",
    responses((status = 201, body = Token), (status = 403, body = super::wire::Problem)))]
pub(super) async fn create(
    State(core): State<Core>,
    Auth(caller): Auth,
    request: Request,
) -> Result<(StatusCode, Json<Token>), Error> {
    let asked: TokenCreate = read_json(&small_body(request.into_body()).await?)?;
    let role = match asked.role.as_deref() {
        None | Some("" | "user") => Role::User,
        Some("admin") => Role::Admin,
        Some(other) => return Err(Error::invalid(format!("role {other:?} is not user or admin"))),
    };
    let lifetime = asked.expires_in.map(Duration::from_secs);
    let rights = berth_core::AccountChange { host_network: asked.host_network.map(Some), ..Default::default() };
    let made = core.identity().token_create(&caller, &asked.name, role, asked.account, lifetime, rights).await?;
    Ok((StatusCode::CREATED, Json(render(made.token, Some(made.secret)))))
}

/// Revokes a token, at once; an administrator anybody's.
#[utoipa::path(delete, path = "/v1/tokens/{number}", tag = "tokens",
    params(("number" = i64, Path)), responses((status = 204), (status = 404, body = super::wire::Problem)))]
pub(super) async fn revoke(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(number): Segment<i64>,
) -> Result<StatusCode, Error> {
    core.identity().token_revoke(&caller, number).await?;
    Ok(StatusCode::NO_CONTENT)
}
