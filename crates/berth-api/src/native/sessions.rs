//! Sessions of the console: a browser's cookie instead of a token.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{ConsoleLogin, ConsoleSession, Core, NoSession, Role, now};
use berth_runtime::log::format_time;

use super::auth::{Auth, BySession};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Session, SessionCreate};
use crate::http::{Peer, Who, client_address, is_same_origin, is_secure, session_cookie, small_body};

async fn shown(core: &Core, caller: &berth_core::Caller, session: Option<&ConsoleSession>) -> Result<Session, Error> {
    Ok(Session {
        account: core.identity().account_name(caller.account).await?,
        role: if caller.role == Role::Admin { "admin" } else { "user" }.into(),
        csrf: None,
        expires_at: session.map(|session| format_time(session.expires_at)),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// Who asks, and what the console needs to know of it.
#[utoipa::path(get, path = "/v1/session", tag = "sessions", responses((status = 200, body = Session)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    by: BySession,
) -> Result<Json<Session>, Error> {
    Ok(Json(shown(&core, &caller, by.session()).await?))
}

/// Logs in: a token or an access key is exchanged for a cookie and for `csrf`, which every request has to show as header `berth-csrf` beside it.
/// Both last for a day, and as long as what they were made from. Only
/// pages of this server can.
#[utoipa::path(post, path = "/v1/session", request_body = SessionCreate, tag = "sessions", security(()),
    responses((status = 201, body = Session), (status = 401, body = super::wire::Problem), (status = 429, body = super::wire::Problem)))]
pub(super) async fn create(State(core): State<Core>, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    if !is_same_origin(&parts.headers, &parts.uri) {
        return Err(Error::new(StatusCode::FORBIDDEN, "cross_origin", "only a page of this server can log in"));
    }
    let asked: SessionCreate = read_json(&small_body(body).await?)?;
    let login = match (&asked.token, &asked.access_key, &asked.secret_key) {
        (Some(token), None, None) => ConsoleLogin::Token(token.trim()),
        (None, Some(access_key), Some(secret_key)) => {
            ConsoleLogin::Key { access_key: access_key.trim(), secret_key: secret_key.trim() }
        }
        _ => return Err(Error::invalid("either token, or access_key and secret_key are needed")),
    };
    let made = core.identity().console_log_in(login, client_address(&parts.extensions)).await?;
    let made = made.map_err(|why| match why {
        NoSession::Unknown => Error::new(
            StatusCode::UNAUTHORIZED,
            "login_failed",
            "the token or access key is unknown, expired or revoked",
        ),
        NoSession::Bounded => {
            let detail =
                "this access key is bounded: the console takes only keys without bounds on dialects and actions, from the addresses they are for";
            Error::new(StatusCode::FORBIDDEN, "key_bounded", detail)
        }
        NoSession::TooOften => {
            let detail = "too many logins were tried from this address; wait a few seconds";
            Error::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", detail)
        }
    })?;
    if let Some(who) = parts.extensions.get::<Who>() {
        who.is(made.caller);
    }
    let secure = is_secure(parts.extensions.get::<Peer>(), &parts.headers);
    let seconds = (made.expires_at - now()) / 1_000_000_000;
    let body = Session { csrf: Some(made.csrf.clone()), ..shown(&core, &made.caller, Some(&made)).await? };
    let cookie = set_cookie(&session_cookie(&made.cookie, secure, seconds))?;
    Ok((StatusCode::CREATED, cookie, Json(body)).into_response())
}

/// Logs out: the session of the cookie is over.
#[utoipa::path(delete, path = "/v1/session", tag = "sessions", responses((status = 204)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(_caller): Auth,
    by: BySession,
    parts: Parts,
) -> Result<Response, Error> {
    if let Some(session) = by.session() {
        core.identity().console_log_out(&session.cookie).await?;
    }
    let secure = is_secure(parts.extensions.get::<Peer>(), &parts.headers);
    Ok((StatusCode::NO_CONTENT, set_cookie(&session_cookie("", secure, 0))?).into_response())
}

fn set_cookie(text: &str) -> Result<HeaderMap, Error> {
    let value = HeaderValue::from_str(text);
    let value = value.map_err(|e| Error::from(berth_core::Error::Bug(format!("the session's cookie: {e}"))))?;
    Ok(HeaderMap::from_iter([(header::SET_COOKIE, value)]))
}
