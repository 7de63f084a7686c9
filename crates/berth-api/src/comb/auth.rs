//! `Authorization: Token …`, the scheme in any case.

use axum::extract::Request;
use axum::http::{Method, header};
use berth_core::{Caller, Core, unsigned};

use super::error::{Error, UNSUPPORTED};
use crate::http::{Parameters, Who, client_address, token_of};

/// The parameters of a request. A GET is answered by its query alone if its body can't be read: some clients send one.
pub(super) async fn parameters(request: Request) -> Result<Parameters, Error> {
    let packed = request.headers().get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok());
    if let Some(packed) = packed.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(UNSUPPORTED.with(format!("a body in the encoding {packed}")));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let query = reads.then(|| request.uri().query().unwrap_or_default().to_owned());
    match (Parameters::strict(request).await, query) {
        (Err(_), Some(query)) => Ok(Parameters::of_query(&query)),
        (result, _) => Ok(result?),
    }
}

/// Who calls, and with what. Judged before the body is read.
pub(super) async fn authenticate(core: &Core, request: Request, action: &str) -> Result<(Caller, Parameters), Error> {
    let token = token_of(request.headers()).ok_or_else(Error::unauthorized)?;
    let from = client_address(request.extensions());
    let asked = unsigned("", "comb", action, request.method() == Method::GET && action != super::keys::PRIVATE, from);
    let caller = core.identity().session(&token, &asked).await?.ok_or_else(Error::unauthorized)?;
    if let Some(who) = request.extensions().get::<Who>() {
        who.is(caller);
    }
    if !core.identity().within_rate(&caller) {
        return Err(super::error::TOO_OFTEN.into());
    }
    Ok((caller, parameters(request).await?))
}
