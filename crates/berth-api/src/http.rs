//! What all dialects share of HTTP.

mod body;
mod cookies;
mod language;
mod layers;
mod parameters;
mod times;

pub(crate) use body::{BodyError, LONGEST_BODY, body_within, small_body};
pub(crate) use cookies::{PROTOCOL, csrf_of, is_own_page, is_same_origin, is_secure, session_cookie, sessions_of};
pub(crate) use language::{Chinese, prefers_chinese, prefers_english, with_body_of};
pub(crate) use layers::{
    Abort, AccountNames, AuditDetail, AuditMessage, Client, InternalFallback, RequestLayer, Who, client_address,
    long_head, with_layer,
};
pub use layers::{Draining, Peer};
pub(crate) use parameters::{ParameterError, Parameters, PathText, kind_of, token_of};
pub use times::is_time_zone;
pub(crate) use times::{local_time, local_time_of};
