//! Tokens.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use berth_core::{Core, NoToken, unsigned};

use super::auth::parameters;
use super::error::{Error, TOO_OFTEN};
use super::wire::Token;
use crate::http::{Who, client_address};

/// `POST /api/v1/token`: an access key and its secret for a token that is good for a day.
pub(super) async fn create(State(core): State<Core>, request: Request) -> Result<(StatusCode, Json<Token>), Error> {
    let from = client_address(request.extensions());
    let who = request.extensions().get::<Who>().cloned();
    let parameters = parameters(request).await?;
    let (key, secret) = (parameters.text("app_key")?, parameters.text("app_secret")?);
    // What a token may be used for is looked at when it is.
    let asked = unsigned(&key, "comb", "token_create", true, from);
    let made = core.identity().session_create(&secret, &asked).await?;
    let caller = match &made {
        Ok(token) => Some(token.caller),
        Err(NoToken::TooOften(caller)) => Some(*caller),
        Err(NoToken::Refused(_)) => None,
    };
    if let Some((who, caller)) = who.zip(caller) {
        who.is(caller);
    }
    let token = made.map_err(|why| match why {
        NoToken::TooOften(_) => TOO_OFTEN.into(),
        NoToken::Refused(_) => Error::unauthorized(),
    })?;
    Ok((StatusCode::CREATED, Json(Token { token: token.secret, expires_in: token.lifetime.as_secs().to_string() })))
}
