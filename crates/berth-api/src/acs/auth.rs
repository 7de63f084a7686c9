//! `accesskey`, `timestamp` and `signature`: lower-case hexadecimal HMAC-SHA256 with the secret key, of the HTTP method, a
//! line feed, and all query and form parameters but `signature`, decoded, sorted by name, as `name=value` joined by `&`; in
//! names and values `%`, `&`, `=` and line feed are percent-encoded first. Path parameters take no part, so the signature of a
//! change is bound to the first path that it was used with, and the same request again gets the same command.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{OriginalUri, Request};
use berth_core::{Caller, Command, Core, Refusal, Signed};

use super::error::Error;
use crate::http::{Parameters, Who, client_address, token_of};

/// Who calls, and with what. Judged before anything else is said about the request.
pub(super) async fn authenticate(core: &Core, request: Request, action: &str) -> Result<(Caller, Parameters), Error> {
    let method = request.method().clone();
    let reads = matches!(method, axum::http::Method::GET | axum::http::Method::HEAD);
    let path = request.extensions().get::<OriginalUri>().map_or_else(|| request.uri().path(), |uri| uri.path());
    let path = path.to_owned();
    let from: Option<IpAddr> = client_address(request.extensions());
    let who = request.extensions().get::<Who>().cloned();
    let token = token_of(request.headers());
    let (caller, parameters) = match token {
        // An account's token works everywhere.
        Some(token) => match core.identity().authenticate(&token).await? {
            Some(caller) => (caller, Parameters::of(request).await?),
            None => return Err(Error::unauthorized("the token is unknown, expired or revoked")),
        },
        None => {
            let parameters = Parameters::of(request).await?;
            let access_key = parameters.optional("accesskey")?;
            let access_key = access_key.ok_or_else(|| Error::unauthorized("parameter accesskey is missing"))?;
            let timestamp = parameters.optional("timestamp")?;
            let timestamp = timestamp.ok_or_else(|| Error::unauthorized("parameter timestamp is missing"))?;
            check_time(&timestamp, core.settings().timestamp_tolerance_s)?;
            let text = parameters.signed(method.as_str());
            let signature = parameters.optional("signature")?;
            let signed = Signed {
                access_key: &access_key,
                signature: signature.as_deref(),
                text: &text,
                path: &path,
                dialect: "acs",
                action,
                reads,
                from,
            };
            let caller = core.identity().authenticate_signed(&signed).await?.map_err(|refusal| match refusal {
                Refusal::UnknownKey => Error::unauthorized("parameter accesskey names no key that is good"),
                Refusal::Unsigned => Error::unauthorized("parameter signature is missing"),
                Refusal::Signature => Error::unauthorized(
                    "parameter signature is not that of this request: HMAC-SHA256, in lower-case hexadecimal, of the \
                     method, a line feed, and the decoded parameters sorted by name as name=value joined by &, with %, \
                     &, = and line feeds in them percent-encoded",
                ),
                Refusal::OtherPath => {
                    Error::unauthorized("parameter signature was used with another path before: sign each change anew")
                }
                Refusal::Dialect => Error::forbidden("this access key is not for the dialect acs"),
                Refusal::Action => Error::forbidden(format!("this access key may not do {action}")),
                Refusal::Address => {
                    let from = from.map_or_else(|| "this address".to_owned(), |from| from.to_string());
                    Error::forbidden(format!("this access key may not be used from {from}"))
                }
            })?;
            (caller, parameters)
        }
    };
    if let Some(who) = who {
        who.is(caller);
    }
    Ok((caller, parameters))
}

/// Who asks for a change, and what came of it if the very same request was signed and sent before.
pub(super) enum Change {
    New(Caller, Parameters),
    Again(Box<Command>),
}

/// [`authenticate`] for a change.
pub(super) async fn enter_change(core: &Core, request: Request, action: &str) -> Result<Change, Error> {
    let (caller, parameters) = authenticate(core, request, action).await?;
    // Before anything is looked up: what the request was about may be gone by now.
    Ok(match core.command_of_request(&caller).await? {
        Some(command) => Change::Again(Box::new(command)),
        None => Change::New(caller, parameters),
    })
}

fn check_time(text: &str, tolerance_s: u64) -> Result<(), Error> {
    let wrong = || Error::unauthorized(format!("parameter timestamp must be milliseconds since 1970, not {text:?}"));
    let told: i64 = text.trim().parse().map_err(|_| wrong())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let off = now.abs_diff(told);
    if off > tolerance_s.saturating_mul(1000) {
        let message = format!("parameter timestamp is off by {} s, {tolerance_s} s are allowed", off / 1000);
        return Err(Error::unauthorized(message));
    }
    Ok(())
}
