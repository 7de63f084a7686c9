//! A token as parameter `token`, as `X-Token`, or in `Authorization`.

use axum::extract::Request;
use berth_core::{Caller, Core};

use super::error::{Error, TOKEN};
use crate::http::{ParameterError, Parameters, Who, token_of};

/// Who calls, and with what. The token is judged before anything else is said about the request.
pub(super) async fn authenticate(core: &Core, request: Request) -> Result<(Caller, Parameters), Error> {
    let in_header = token_of(request.headers());
    let who = request.extensions().get::<Who>().cloned();
    // Judged before the body is read: who may not, can't make this server wait for it.
    if let Some(token) = &in_header
        && core.identity().authenticate(token).await?.is_none()
    {
        return Err(Error { code: TOKEN, message: "the token is unknown, expired or revoked".into() });
    }
    let parameters = Parameters::of(request).await;
    let token = in_header.or_else(|| parameters.as_ref().ok().and_then(|p| p.text("token").ok()));
    let wrong = |message: &str| Error { code: TOKEN, message: message.into() };
    let Some(token) = token else {
        // A body that can't be read may have held it: say what is wrong with the body then.
        return Err(match parameters {
            Err(error @ (ParameterError::Body(_) | ParameterError::Late)) => error.into(),
            _ => wrong("the token is missing: send it as parameter token, X-Token, or Authorization: Bearer"),
        });
    };
    match core.identity().authenticate(&token).await? {
        Some(caller) => {
            if let Some(who) = who {
                who.is(caller);
            }
            Ok((caller, parameters?))
        }
        None => Err(wrong("the token is unknown, expired or revoked")),
    }
}
