//! Who calls: accounts and tokens.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use berth_store::AccountChange;
use serde::{Deserialize, Serialize};

use crate::Identity;
use crate::error::Error;
use berth_types::Field;
use berth_types::{now, random_hex};

/// How long a token that was found good is not looked up again; a revocation clears it at once.
const REMEMBERED: Duration = Duration::from_secs(30);

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, for every account.
    Admin,
    /// Everything of its own account.
    User,
}

/// By what a caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A token, by number.
    Token(i64),
    /// An access key, by number.
    Key(i64),
    /// A change that was signed with an access key.
    Signature {
        /// The key's number.
        key: i64,
        /// Digest of what was signed: the same request again has the same.
        request: u128,
    },
    /// A command goes on with what somebody ordered.
    Command,
    /// A user of this machine, by number, on the Unix socket of administrators.
    Local(u32),
}

impl Credential {
    /// When it ends, nanoseconds since 1970: what is made with it must not live longer.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for one that was revoked since the request was let in.
    pub fn end(self, tx: &berth_store::Tx<'_>) -> Result<Option<i64>, Error> {
        let end = match self {
            Self::Token(id) => tx.token_end(id)?,
            Self::Key(id) | Self::Signature { key: id, .. } => {
                tx.access_key_by_id(id)?.filter(|key| !key.disabled).map(|key| key.expires_at)
            }
            Self::Command | Self::Local(_) => Some(None),
        };
        end.ok_or_else(|| Error::Forbidden("what this was asked with was revoked".into()))
    }
}

/// The earlier of two ends, of which `None` is none.
pub(crate) fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Somebody whose token was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account: i64,
    /// What it may do.
    pub role: Role,
    /// By what it is known.
    pub credential: Credential,
}

impl Caller {
    /// What a command does is done for who ordered it.
    pub fn of_command(account: i64, role: Role) -> Self {
        Self { account, role, credential: Credential::Command }
    }
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Number.
    pub id: i64,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970; never if `None`.
    pub expires_at: Option<i64>,
}

/// A token that was just made: the only time its secret is seen.
#[derive(Debug)]
pub struct NewToken {
    /// What is kept of it.
    pub token: Token,
    /// What a client sends.
    pub secret: String,
}

/// The administrator's credentials, made at the first start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Administrator {
    /// For every dialect that takes a token.
    pub token: String,
    /// For dialects that sign.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl Administrator {
    /// New credentials.
    pub fn make() -> Self {
        Self { token: format!("berth_{}", random_hex(24)), access_key: random_hex(10), secret_key: random_hex(20) }
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    berth_types::hex(&sha2::Sha256::digest(bytes))
}

pub(crate) fn hash(secret: &str) -> String {
    sha256(secret.as_bytes())
}

pub(crate) fn role(text: &str) -> Role {
    if text == "admin" { Role::Admin } else { Role::User }
}

fn token(row: berth_store::Token) -> Token {
    Token { id: row.id, name: row.name, role: role(&row.role), created_at: row.created_at, expires_at: row.expires_at }
}

impl Identity {
    /// Whether the first start is over.
    ///
    /// # Errors
    /// The database's own.
    pub async fn has_accounts(&self) -> Result<bool, Error> {
        self.read(|tx| Ok(!tx.accounts()?.is_empty())).await
    }

    /// Makes the first account with this administrator, if there is no account yet. The credentials are to be written down
    /// outside before: an interrupted first start is taken up with the same ones.
    ///
    /// # Errors
    /// The database's own.
    pub async fn administrator(&self, given: Administrator) -> Result<(), Error> {
        self.write(move |tx| {
            if tx.accounts()?.is_empty() {
                let account = tx.account_add("admin", now())?;
                tx.token_add(account, "administrator", &hash(&given.token), "admin", now(), None)?;
            }
            Ok(())
        })
        .await
    }

    /// Whose token this is; `None` for one that is unknown, expired or revoked.
    ///
    /// # Errors
    /// The database's own.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Caller>, Error> {
        let hash = hash(secret);
        {
            let known = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((caller, at)) = known.get(&hash)
                && at.elapsed() < REMEMBERED
            {
                let caller = *caller;
                drop(known);
                return self.check_rate(caller.account).map(|()| Some(caller));
            }
        }
        let wanted = hash.clone();
        let revocations = self.inner.revocations.load(Ordering::SeqCst);
        let Some(row) = self.read(move |tx| Ok(tx.token_by_hash(&wanted, now())?)).await? else { return Ok(None) };
        // One that was given for an access key is bounded as that is: only where those bounds are looked at.
        if row.key_id.is_some() {
            return Ok(None);
        }
        let caller = Caller { account: row.account_id, role: role(&row.role), credential: Credential::Token(row.id) };
        self.check_rate(caller.account)?;
        // One that expires soon is looked up each time.
        let lasting = row.expires_at.is_none_or(|at| at > now() + REMEMBERED.as_nanos() as i64);
        if lasting {
            let mut known = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if self.inner.revocations.load(Ordering::SeqCst) != revocations {
                // Revoked since it was looked up, perhaps: the next request looks again.
                return Ok(Some(caller));
            }
            if known.len() > 10_000 {
                known.clear();
            }
            known.insert(hash, (caller, Instant::now()));
        }
        Ok(Some(caller))
    }

    /// Has every token be looked up anew.
    pub(crate) fn forget_tokens(&self) {
        self.inner.revocations.fetch_add(1, Ordering::SeqCst);
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes a token. Only an administrator can give `account` (a name; made if it is new), `rights` to it, or the role of one.
    /// A token lives no longer than the one that makes it.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Invalid`], or the database's own.
    pub async fn token_create(
        &self,
        caller: &Caller,
        name: &str,
        wanted: Role,
        account: Option<String>,
        lifetime: Option<Duration>,
        rights: AccountChange,
    ) -> Result<NewToken, Error> {
        if rights != AccountChange::default() && (caller.role != Role::Admin || account.is_none()) {
            return Err(Error::Forbidden("only an administrator gives rights, to the account that is named".into()));
        }
        if caller.role != Role::Admin && (wanted == Role::Admin || account.is_some()) {
            return Err(Error::Forbidden("only an administrator makes tokens for others".into()));
        }
        check_name(Field::Name, name)?;
        if let Some(account) = &account {
            check_name(Field::Account, account)?;
        }
        let secret = format!("berth_{}", random_hex(24));
        let hashed = hash(&secret);
        let (own, name) = (caller.account, name.to_owned());
        let text = if wanted == Role::Admin { "admin" } else { "user" };
        let expires = lifetime.map(|l| now().saturating_add(i64::try_from(l.as_nanos()).unwrap_or(i64::MAX)));
        let credential = caller.credential;
        let row = self
            .write(move |tx| {
                let id = tx.account_for(own, account.as_deref(), now())?;
                if let Some(account) = &account {
                    tx.account_change(account, &rights)?;
                }
                let expires = earlier(expires, credential.end(tx)?);
                Ok(tx.token_add(id, &name, &hashed, text, now(), expires)?)
            })
            .await?;
        Ok(NewToken { token: token(row), secret })
    }

    /// Whether what this caller names may be on loopback and private addresses.
    ///
    /// # Errors
    /// The database's own.
    pub async fn private_allowed(&self, caller: &Caller) -> Result<bool, Error> {
        if caller.role == Role::Admin {
            return Ok(true);
        }
        let account = caller.account;
        let own = self.read(move |tx| Ok(tx.account(account)?.and_then(|account| account.private_addresses))).await?;
        Ok(own.unwrap_or(self.options().private_addresses_for_users))
    }

    /// Whether the caller may have a container in the host's network.
    ///
    /// # Errors
    /// [`Error::Forbidden`], or the database's own.
    pub fn check_host_network(&self, tx: &berth_store::Tx<'_>, caller: &Caller) -> Result<(), Error> {
        let allowed = || {
            let own = tx.account(caller.account)?.and_then(|account| account.host_network);
            Ok::<_, Error>(own.unwrap_or(self.options().host_network_for_users))
        };
        if caller.role == Role::Admin || allowed()? {
            return Ok(());
        }
        Err(Error::Forbidden("host network is not allowed for this account".into()))
    }

    /// The account's tokens; those of `all` accounts for an administrator. With each the name of its account.
    ///
    /// # Errors
    /// [`Error::Forbidden`], or the database's own.
    pub async fn tokens(&self, caller: &Caller, all: bool) -> Result<Vec<(Token, String)>, Error> {
        if all && caller.role != Role::Admin {
            return Err(Error::Forbidden("only an administrator sees the tokens of others".into()));
        }
        let account = caller.account;
        let (rows, accounts) = self
            .read(move |tx| {
                let rows = if all { tx.tokens_of_all()? } else { tx.tokens(account)? };
                Ok((rows, tx.account_names()?))
            })
            .await?;
        let name = |id| accounts.iter().find(|(a, _)| *a == id).map(|(_, name)| name.clone()).unwrap_or_default();
        let named = |row: berth_store::Token| {
            let account = name(row.account_id);
            (token(row), account)
        };
        Ok(rows.into_iter().map(named).collect())
    }

    /// Revokes a token, at once; an administrator anybody's.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's own.
    pub async fn token_revoke(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let (account, admin) = (caller.account, caller.role == Role::Admin);
        let found = self
            .write(move |tx| {
                let mut all = tx.tokens(account)?;
                let mut account = account;
                if admin && all.iter().all(|t| t.id != id) {
                    let others = tx.tokens_of_all()?;
                    if let Some(other) = others.iter().find(|t| t.id == id) {
                        account = other.account_id;
                        all = others;
                    }
                }
                let admins = all.iter().filter(|t| t.role == "admin").count();
                match all.iter().find(|t| t.id == id) {
                    Some(t) if t.role == "admin" && !admin => {
                        Err(Error::Forbidden("only an administrator revokes an administrator's token".into()))
                    }
                    Some(t) if t.role == "admin" && admins == 1 => {
                        Err(Error::InUse("this is the last administrator's token: make another one first".into()))
                    }
                    _ => Ok(tx.token_revoke(account, id, now())?),
                }
            })
            .await?;
        self.forget_tokens();
        if found { Ok(()) } else { Err(Error::NotFound { what: "token", name: id.to_string() }) }
    }
}

pub(crate) fn only_administrators(caller: &Caller) -> Result<(), Error> {
    if caller.role == Role::Admin {
        return Ok(());
    }
    Err(Error::Forbidden("only an administrator sees and changes accounts".into()))
}

/// Names that people give: 1 to 128 letters, digits, `_`, `.`, `-`, not beginning with a sign. Letters of any script.
///
/// # Errors
/// [`Error::Invalid`] of `field`.
pub fn check_name(field: Field, name: &str) -> Result<(), Error> {
    let length = name.chars().count();
    let good = (1..=128).contains(&length)
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && name.starts_with(char::is_alphanumeric);
    if good {
        return Ok(());
    }
    let rule = "1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit";
    Err(Error::invalid(field, format!("invalid name {name:?}: {rule}")))
}
