//! `Authorization: Bearer …` or `Token …`, `X-Token`, or `token` in the query.

use axum::extract::Request;
use berth_core::{Caller, Core};

use super::error::Error;
use crate::http::{Parameters, Who, token_of};

/// Who calls. Judged before the body is read; what the request says is taken before anything is waited for.
pub(super) fn authenticate<'a>(
    core: &'a Core,
    request: &Request,
) -> impl Future<Output = Result<(Caller, Parameters), Error>> + Send + use<'a> {
    let query = Parameters::of_query(request.uri().query().unwrap_or_default());
    let token = token_of(request.headers()).or_else(|| query.text("token").ok());
    let who = request.extensions().get::<Who>().cloned();
    async move {
        let token = token.ok_or_else(Error::unauthorized)?;
        let caller = core.identity().authenticate(&token).await?.ok_or_else(Error::unauthorized)?;
        if let Some(who) = who {
            who.is(caller);
        }
        Ok((caller, query))
    }
}

/// Who calls, and with what, wherever that is.
pub(super) async fn authenticate_and_read(core: &Core, request: Request) -> Result<(Caller, Parameters), Error> {
    let (caller, _) = authenticate(core, &request).await?;
    Ok((caller, Parameters::of(request).await?))
}
