//! Sessions of the console: a browser's cookie instead of a token.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{ConsoleLogin, Core, NoSession, Role, csrf_token, now};
use berth_runtime::log::format_time;

use super::auth::Auth;
use super::containers::read_json;
use super::error::Error;
use super::wire::{Session, SessionCreate};
use crate::http::{Peer, Who, client_address, is_same_origin, is_secure, session_cookie, session_of, small_body};

async fn session(core: &Core, caller: &berth_core::Caller, secret: Option<&str>, end: Option<i64>) -> Session {
    let account = core.identity().account_name(caller.account).await.unwrap_or_default();
    Session {
        account,
        role: if caller.role == Role::Admin { "admin" } else { "user" }.into(),
        csrf: secret.map(csrf_token),
        expires_at: end.map(format_time),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Who asks, and what the console needs to know of it.
#[utoipa::path(get, path = "/v1/session", tag = "sessions", responses((status = 200, body = Session)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    parts: Parts,
) -> Result<Json<Session>, Error> {
    let secret = session_of(&parts.headers, is_secure(parts.extensions.get::<Peer>(), &parts.headers));
    let end = match secret {
        Some(secret) => {
            let found = core.identity().console_session(secret, client_address(&parts.extensions)).await?;
            found.map(|found| found.expires_at)
        }
        None => None,
    };
    Ok(Json(session(&core, &caller, secret.filter(|_| end.is_some()), end).await))
}

/// Logs in: a token or an access key is exchanged for a cookie, which lasts for a day, and as long as what it was made from. Only
/// pages of this server can.
#[utoipa::path(post, path = "/v1/session", request_body = SessionCreate, tag = "sessions",
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
                "this access key is bounded: the console takes only keys without bounds on dialects and actions";
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
    let body = session(&core, &made.caller, Some(&made.secret), Some(made.expires_at)).await;
    let cookie = set_cookie(&session_cookie(&made.secret, secure, seconds))?;
    Ok((StatusCode::CREATED, cookie, Json(body)).into_response())
}

/// Logs out: the session of the cookie is over.
#[utoipa::path(delete, path = "/v1/session", tag = "sessions", responses((status = 204)))]
pub(super) async fn remove(State(core): State<Core>, Auth(_caller): Auth, parts: Parts) -> Result<Response, Error> {
    let secure = is_secure(parts.extensions.get::<Peer>(), &parts.headers);
    if let Some(secret) = session_of(&parts.headers, secure) {
        core.identity().console_log_out(secret).await?;
    }
    Ok((StatusCode::NO_CONTENT, set_cookie(&session_cookie("", secure, 0))?).into_response())
}

fn set_cookie(text: &str) -> Result<HeaderMap, Error> {
    let value = HeaderValue::from_str(text);
    let value = value.map_err(|e| Error::from(berth_core::Error::Bug(format!("the session's cookie: {e}"))))?;
    Ok(HeaderMap::from_iter([(header::SET_COOKIE, value)]))
}
