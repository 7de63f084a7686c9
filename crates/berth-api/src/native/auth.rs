//! `Authorization: Bearer …` or `X-Token`.

use axum::extract::{FromRef, FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use berth_core::{Caller, ConsoleSession, Core};
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::http::{Peer, Who, client_address, csrf_of, is_own_page, is_secure, sessions_of, token_of};

/// Names the account that an administrator acts for, instead of its own.
pub(crate) const ACCOUNT: &str = "berth-account";

/// A caller whose token was good.
pub(super) struct Auth(pub(super) Caller);

/// Among a request's extensions: whose it is, as a layer has found out.
#[derive(Clone, Copy)]
pub(super) struct Authenticated(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Auth
where
    Core: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        if let Some(Authenticated(caller)) = parts.extensions.get() {
            return Ok(Self(*caller));
        }
        let core = Core::from_ref(state);
        let local = parts.extensions.get::<Peer>().and_then(Peer::administrator);
        let found = match (token_of(&parts.headers), local) {
            (Some(token), _) => core.identity().authenticate(&token).await?,
            (None, Some(user)) => Some(core.identity().local_administrator(user).await?),
            (None, None) => Some(by_session(&core, parts).await?),
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

/// Whose session of the console it is; the session goes among the request's extensions.
async fn by_session(core: &Core, parts: &mut Parts) -> Result<Caller, Error> {
    let secure = is_secure(parts.extensions.get::<Peer>(), &parts.headers);
    let cookies = sessions_of(&parts.headers, secure);
    if cookies.is_empty() {
        return Err(refused("a token is needed: Authorization: Bearer …; the first start wrote one to admin.json"));
    }
    let csrf = csrf_of(&parts.headers).filter(|_| is_own_page(&parts.method, &parts.headers, &parts.uri));
    let Some(csrf) = csrf else {
        let detail =
            "a request by cookie has to come from a page of this server: with its Origin, and the header berth-csrf";
        return Err(Error::new(StatusCode::FORBIDDEN, "cross_origin", detail));
    };
    let from = client_address(&parts.extensions);
    for cookie in cookies {
        if let Some(session) = core.identity().console_session(cookie, csrf, from).await? {
            let caller = session.caller;
            parts.extensions.insert(session);
            return Ok(caller);
        }
    }
    Err(refused("the session of the console is over: log in again"))
}

/// The console's session that let a request in, behind [`Auth`]; none if a token did.
pub(super) struct BySession(Option<(ConsoleSession, Option<std::net::IpAddr>)>);

impl<S: Sync> FromRequestParts<S> for BySession {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let from = client_address(&parts.extensions);
        Ok(Self(parts.extensions.get::<ConsoleSession>().cloned().map(|session| (session, from))))
    }
}

/// How often a session is looked at while something by it goes on.
const SESSION_PERIOD: std::time::Duration = std::time::Duration::from_millis(500);

impl BySession {
    /// Returns when the session is over. What a token began goes on to its end.
    async fn over(&self, core: &Core) {
        let Some((session, from)) = &self.0 else { return std::future::pending().await };
        loop {
            tokio::time::sleep(SESSION_PERIOD).await;
            // One that can't be looked up now is no session that is over.
            if matches!(core.identity().console_session(&session.cookie, &session.csrf, *from).await, Ok(None)) {
                return;
            }
        }
    }

    /// Returns when what lasts has to end: with the session, or with the server.
    pub(super) async fn gone(&self, api: &crate::Api) {
        tokio::select! {
            () = self.over(&api.core) => {}
            () = api.draining.begun() => {}
        }
    }

    pub(super) fn session(&self) -> Option<&ConsoleSession> {
        self.0.as_ref().map(|(session, _)| session)
    }
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
