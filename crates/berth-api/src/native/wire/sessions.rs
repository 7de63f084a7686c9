//! Sessions of the console.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a session is made from: either a token, or an access key and its secret.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionCreate {
    /// A token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The public half of an access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Its secret half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
}

impl std::fmt::Debug for SessionCreate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCreate").finish_non_exhaustive()
    }
}

/// A session, or the caller of a token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Name of the account.
    pub account: String,
    /// `user` or `admin`.
    pub role: String,
    /// What every request by the cookie has to send as header `berth-csrf`; only in the answer to the login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
    /// When the session ends, RFC 3339; of a session by cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Version of berth.
    pub version: String,
}
