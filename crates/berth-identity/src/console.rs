//! Sessions of the console: a browser exchanges a token or an access key for a cookie and a second secret, which the console's pages
//! keep. Every request shows both: browsers send a cookie to other ports of its host as well, where a container may listen. A
//! session is good as long as what it was made from is, and for a day at most.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_store::SessionOrigin;
use berth_types::{now, random_hex};

use crate::Identity;
use crate::error::Error;
use crate::keys::{Refusal, Signed};
use crate::sessions::{has_place, unsigned};
use crate::tokens::{Caller, Credential, earlier, hash};

/// How long a session lasts.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Logins from one address that may fail: a second, and at once after a quiet time.
const FAILURES: (u32, u32) = (1, 10);

/// What a session is made from.
#[derive(Clone, Copy)]
pub enum ConsoleLogin<'a> {
    /// A token's secret.
    Token(&'a str),
    /// Both halves of an access key.
    Key {
        /// The public half.
        access_key: &'a str,
        /// The secret half.
        secret_key: &'a str,
    },
}

impl std::fmt::Debug for ConsoleLogin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Key { .. } => "Key",
        })
    }
}

/// A session that was just made, or that a request showed.
#[derive(Clone)]
pub struct ConsoleSession {
    /// What the cookie holds.
    pub cookie: String,
    /// What the console's pages show beside it.
    pub csrf: String,
    /// Whose it is.
    pub caller: Caller,
    /// When it ends, nanoseconds since 1970.
    pub expires_at: i64,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSession {
    /// The token or the key is unknown, expired, revoked or disabled.
    Unknown,
    /// The access key has bounds that leave the console out.
    Bounded,
    /// Too many logins from this address.
    TooOften,
}

impl std::fmt::Debug for ConsoleSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleSession").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// A key without bounds may use the console; one that is bounded to addresses may from there.
fn by_console<'a>(access_key: &'a str, from: Option<IpAddr>) -> Signed<'a> {
    unsigned(access_key, "console", "console", false, from)
}

impl Identity {
    /// Makes a session for a client at `from`.
    ///
    /// # Errors
    /// The database's own.
    pub async fn console_log_in(
        &self,
        login: ConsoleLogin<'_>,
        from: Option<IpAddr>,
    ) -> Result<Result<ConsoleSession, NoSession>, Error> {
        let made = self.console_log_in_unbounded(login, from).await?;
        // Who knows a good credential is let in, however many others behind the same proxy do not.
        let address = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if made.is_err() && !has_place(&self.inner.failed_logins, address, FAILURES.0, FAILURES.1) {
            return Ok(Err(NoSession::TooOften));
        }
        Ok(made)
    }

    async fn console_log_in_unbounded(
        &self,
        login: ConsoleLogin<'_>,
        from: Option<IpAddr>,
    ) -> Result<Result<ConsoleSession, NoSession>, Error> {
        let (caller, origin, secret_end) = match login {
            ConsoleLogin::Token(secret) => match self.authenticate(secret).await? {
                Some(caller @ Caller { credential: Credential::Token(id), .. }) => {
                    (caller, SessionOrigin::Token(id), None)
                }
                _ => return Ok(Err(NoSession::Unknown)),
            },
            ConsoleLogin::Key { access_key, secret_key } => {
                let Some(row) = self.key_row(access_key).await? else { return Ok(Err(NoSession::Unknown)) };
                let Some(secret_end) = self.secret_of(&row, secret_key)? else { return Ok(Err(NoSession::Unknown)) };
                let id = row.id;
                match self.key_allows(row, &by_console(access_key, from)).await? {
                    Ok(caller) => (caller, SessionOrigin::Key(id), secret_end),
                    Err(Refusal::Dialect | Refusal::Action | Refusal::Address) => return Ok(Err(NoSession::Bounded)),
                    Err(_) => return Ok(Err(NoSession::Unknown)),
                }
            }
        };
        let (cookie, csrf) = (random_hex(32), random_hex(16));
        let (hashed, page_hash) = (hash(&cookie), hash(&csrf));
        let longest = now().saturating_add(i64::try_from(LIFETIME.as_nanos()).unwrap_or(i64::MAX));
        let expires_at = self
            .write(move |tx| {
                let end = earlier(Some(longest), earlier(secret_end, caller.credential.end(tx)?)).unwrap_or(longest);
                tx.console_session_add(&hashed, &page_hash, origin, now(), end)?;
                Ok(end)
            })
            .await?;
        Ok(Ok(ConsoleSession { cookie, csrf, caller, expires_at }))
    }

    /// The session of a cookie and of what its page shows, for a client at `from`; `None` for one that is over, or whose token or
    /// access key is not good any more. Looked up each time: a revocation counts at once.
    ///
    /// # Errors
    /// [`Error::TooOften`] if requests of its account come too fast, or the database's own.
    pub async fn console_session(
        &self,
        cookie: &str,
        csrf: &str,
        from: Option<IpAddr>,
    ) -> Result<Option<ConsoleSession>, Error> {
        let (hashed, page_hash) = (hash(cookie), hash(csrf));
        let found = self
            .read(move |tx| {
                let Some((origin, end)) = tx.console_session(&hashed, &page_hash, now())? else { return Ok(None) };
                let (token, key) = match origin {
                    SessionOrigin::Token(id) => (tx.token_by_id(id, now())?, None),
                    SessionOrigin::Key(id) => (None, tx.access_key_by_id(id)?),
                };
                Ok(Some((token, key, end)))
            })
            .await?;
        let caller = match found {
            Some((Some(token), _, end)) => {
                let caller = Caller {
                    account: token.account_id,
                    role: crate::tokens::role(&token.role),
                    credential: Credential::Token(token.id),
                };
                self.check_rate(caller.account)?;
                Some((caller, end))
            }
            Some((None, Some(row), end)) => {
                // By its name: that lookup leaves out keys of accounts that are disabled.
                let Some(row) = self.key_row(&row.access_key).await? else { return Ok(None) };
                let access_key = row.access_key.clone();
                self.key_allows(row, &by_console(&access_key, from)).await?.ok().map(|caller| (caller, end))
            }
            _ => None,
        };
        let (cookie, csrf) = (cookie.to_owned(), csrf.to_owned());
        Ok(caller.map(|(caller, expires_at)| ConsoleSession { cookie, csrf, caller, expires_at }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database's own.
    pub async fn console_log_out(&self, cookie: &str) -> Result<(), Error> {
        let hashed = hash(cookie);
        self.write(move |tx| Ok(tx.console_session_remove(&hashed)?)).await
    }
}
