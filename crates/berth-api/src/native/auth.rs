//! `Authorization: Bearer …` or `X-Token`.

use axum::extract::{FromRef, FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use berth_core::{Caller, Core, csrf_token};
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::http::{Peer, Who, client_address, is_own_page, is_secure, session_of, token_of};

/// Names the account that an administrator acts for, instead of its own.
pub(crate) const ACCOUNT: &str = "berth-account";

/// A caller whose token was good.
pub(super) struct Auth(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Auth
where
    Core: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let core = Core::from_ref(state);
        let local = parts.extensions.get::<Peer>().and_then(Peer::administrator);
        let secure = is_secure(parts.extensions.get::<Peer>(), &parts.headers);
        let cookie = session_of(&parts.headers, secure);
        let found = match (token_of(&parts.headers), local, cookie) {
            (Some(token), ..) => core.identity().authenticate(&token).await?,
            (None, Some(user), _) => Some(core.identity().local_administrator(user).await?),
            (None, None, Some(secret)) => by_session(&core, parts, secret).await?,
            (None, None, None) => {
                return Err(refused(
                    "a token is needed: Authorization: Bearer …; the first start wrote one to admin.json",
                ));
            }
        };
        let account = account_of(parts);
        let found = match (found, account) {
            (Some(caller), Some(Ok(account))) => Some(core.identity().on_behalf(caller, &account).await?),
            (Some(_), Some(Err(_))) => return Err(Error::invalid(format!("{ACCOUNT}: not a name"))),
            (found, _) => found,
        };
        match found {
            Some(caller) => {
                if let Some(who) = parts.extensions.get::<Who>() {
                    who.is(caller);
                }
                Ok(Self(caller))
            }
            None => Err(refused("the token is unknown, expired or revoked")),
        }
    }
}

fn refused(detail: &str) -> Error {
    Error::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// Whose session of the console it is.
async fn by_session(core: &Core, parts: &Parts, secret: &str) -> Result<Option<Caller>, Error> {
    let from = client_address(&parts.extensions);
    let Some(session) = core.identity().console_session(secret, from).await? else {
        return Err(refused("the session of the console is over: log in again"));
    };
    if !is_own_page(&parts.method, &parts.headers, &parts.uri, &csrf_token(secret)) {
        let detail = "a request by cookie has to come from a page of this server: its Origin, and the header berth-csrf \
                      for a change";
        return Err(Error::new(StatusCode::FORBIDDEN, "cross_origin", detail));
    }
    Ok(Some(session.caller))
}

/// The account that is named: by the header, or, as browsers can't set headers of a WebSocket's request, by its address.
fn account_of(parts: &Parts) -> Option<Result<String, std::string::FromUtf8Error>> {
    if let Some(value) = parts.headers.get(ACCOUNT) {
        return Some(String::from_utf8(value.as_bytes().to_vec()));
    }
    parts.headers.get(header::UPGRADE)?;
    let query = parts.uri.query()?.as_bytes();
    form_urlencoded::parse(query).find(|(name, _)| name == "account").map(|(_, value)| Ok(value.into_owned()))
}

/// Query parameters; what is wrong with them is told as a problem.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Error::invalid(rejection.body_text())),
        }
    }
}

/// A part of the path.
pub(super) struct Segment<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Error::invalid(rejection.body_text())),
        }
    }
}
