//! `Authorization: Bearer …` or `X-Token`.

use axum::extract::{FromRef, FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use berth_core::{Caller, Core};
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::http::{Peer, Who, token_of};

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
        let refused = |detail: &str| Error::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        let core = Core::from_ref(state);
        let local = parts.extensions.get::<Peer>().and_then(Peer::administrator);
        let found = match (token_of(&parts.headers), local) {
            (Some(token), _) => core.identity().authenticate(&token).await?,
            (None, Some(user)) => Some(core.identity().local_administrator(user).await?),
            (None, None) => {
                return Err(refused(
                    "a token is needed: Authorization: Bearer …; the first start wrote one to admin.json",
                ));
            }
        };
        let account = parts.headers.get(ACCOUNT).map(|value| String::from_utf8(value.as_bytes().to_vec()));
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
