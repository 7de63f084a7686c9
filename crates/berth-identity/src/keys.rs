//! Access keys: credentials for dialects whose requests are signed. Secrets must be read again, so they are kept encrypted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::Identity;
use crate::error::Error;
use crate::tokens::{Caller, Credential, Role, check_name};
use berth_types::Field;
use berth_types::unhex;
use berth_types::{now, random_hex};

/// The use of a key is noted at most so often.
const NOTED_EVERY_NS: i64 = 60_000_000_000;

/// What a key may be used for; an empty list is no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyBounds {
    /// Dialects by name.
    pub dialects: Vec<String>,
    /// Actions such as `node_start`; `*` at the end stands for anything. `read` is everything that changes nothing.
    pub actions: Vec<String>,
    /// Client addresses, single or with a prefix length: `10.0.0.0/8`.
    pub addresses: Vec<String>,
    /// Whether requests without a signature are taken: for closed networks and for development.
    pub unsigned: bool,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Number.
    pub id: i64,
    /// What its owner calls it.
    pub name: String,
    /// What a request names.
    pub access_key: String,
    /// Whose rights it has.
    pub role: Role,
    /// What it may be used for.
    pub bounds: KeyBounds,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970; never if `None`.
    pub expires_at: Option<i64>,
    /// Until when the secret before the present one is good too, nanoseconds since 1970.
    pub old_until: Option<i64>,
    /// When it was last used, to the minute.
    pub used_at: Option<i64>,
    /// From where.
    pub used_from: String,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What its owner calls it.
    pub name: String,
    /// Whose rights it has.
    pub role: Role,
    /// Name of another account, made if it is new; for administrators.
    pub account: Option<String>,
    /// What it may be used for.
    pub bounds: KeyBounds,
    /// Until it expires.
    pub lifetime: Option<Duration>,
}

/// What a signed request brings along.
#[derive(Debug, Clone)]
pub struct Signed<'a> {
    /// The public half of the key.
    pub access_key: &'a str,
    /// Lower-case hexadecimal HMAC-SHA256 of the text; `None` if there is none.
    pub signature: Option<&'a str>,
    /// What is signed.
    pub text: &'a str,
    /// The path that it is for, which is not signed.
    pub path: &'a str,
    /// The dialect that it came by.
    pub dialect: &'a str,
    /// What it wants to do.
    pub action: &'a str,
    /// Whether that changes nothing.
    pub reads: bool,
    /// Where it comes from.
    pub from: Option<IpAddr>,
}

/// Why a signed request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such key, or it is disabled or has expired.
    UnknownKey,
    /// The signature is missing.
    Unsigned,
    /// The signature is another one.
    Signature,
    /// A change whose signature was used with another path before.
    OtherPath,
    /// The key is not for this dialect.
    Dialect,
    /// The key is not for this action.
    Action,
    /// The key is not for this address.
    Address,
}

fn key(row: berth_store::AccessKey) -> Result<AccessKey, Error> {
    let unreadable = |e: serde_json::Error| Error::Bug(format!("access key {} in the database: {e}", row.id));
    Ok(AccessKey {
        bounds: serde_json::from_str(&row.bounds).map_err(unreadable)?,
        id: row.id,
        name: row.name,
        access_key: row.access_key,
        role: if row.role == "admin" { Role::Admin } else { Role::User },
        disabled: row.disabled,
        created_at: row.created_at,
        expires_at: row.expires_at,
        old_until: row.old_secret.map(|_| row.old_until).filter(|until| *until > now()),
        used_at: row.used_at,
        used_from: row.used_from,
    })
}

/// An address with an optional prefix length.
fn block(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(longest), |p| p.parse().ok())?;
    (prefix <= longest).then_some((address, prefix))
}

fn is_within(address: IpAddr, text: &str) -> bool {
    // One that came over a socket for both families.
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let same = |a: u128, b: u128, bits: u8| bits == 0 || (a ^ b).leading_zeros() >= u32::from(bits);
    match (block(text), address) {
        (Some((IpAddr::V4(net), prefix)), IpAddr::V4(address)) => {
            let wide = |ip: Ipv4Addr| u128::from(u32::from(ip)) << 96;
            same(wide(net), wide(address), prefix)
        }
        (Some((IpAddr::V6(net), prefix)), IpAddr::V6(address)) => {
            let wide = |ip: Ipv6Addr| u128::from(ip);
            same(wide(net), wide(address), prefix)
        }
        _ => false,
    }
}

impl KeyBounds {
    pub(crate) fn check(&self, dialects: &[String]) -> Result<(), Error> {
        if let Some(wrong) = self.addresses.iter().find(|text| block(text).is_none()) {
            return Err(Error::invalid(
                Field::Addresses,
                format!("invalid address {wrong:?}: expected an IP address or a network such as 10.0.0.0/8"),
            ));
        }
        if let Some(wrong) = self.dialects.iter().find(|name| !dialects.is_empty() && !dialects.contains(name)) {
            return Err(Error::invalid(Field::Dialects, format!("{wrong:?} is not one of {}", dialects.join(", "))));
        }
        Ok(())
    }

    pub(crate) fn allow(&self, asked: &Signed<'_>) -> Result<(), Refusal> {
        let action = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => asked.action.starts_with(beginning),
            None => pattern == asked.action || pattern == "read" && asked.reads,
        };
        if !self.dialects.is_empty() && !self.dialects.iter().any(|d| d == asked.dialect) {
            return Err(Refusal::Dialect);
        }
        // What a token may be used for is looked at when it is used.
        if !self.actions.is_empty() && asked.action != TOKEN && !self.actions.iter().any(action) {
            return Err(Refusal::Action);
        }
        let from_there = |from: IpAddr| self.addresses.iter().any(|text| is_within(from, text));
        if !self.addresses.is_empty() && !asked.from.is_some_and(from_there) {
            return Err(Refusal::Address);
        }
        Ok(())
    }
}

/// What is signed: the method, a line feed, and the parameters, sorted by name (bytewise), as `name=value` joined by `&`. In
/// names and values `%`, `&`, `=` and line feed are percent-encoded, so that two parameters can't be read from one.
pub fn signed_text<'a>(method: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let plain = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('=', "%3D").replace('\n', "%0A");
    let mut all: Vec<(&str, &str)> = parameters.into_iter().collect();
    all.sort_unstable();
    let pairs: Vec<String> = all.into_iter().map(|(name, value)| format!("{}={}", plain(name), plain(value))).collect();
    format!("{method}\n{}", pairs.join("&"))
}

/// How a signed request is called in the database.
pub fn request_name(request: u128) -> String {
    format!("{request:032x}")
}

/// The signature of a text: lower-case hexadecimal HMAC-SHA256.
pub fn signature_of(secret: &str, text: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    berth_types::hex(tag.as_ref())
}

/// Exchanging a key for a token.
pub(crate) const TOKEN: &str = "token_create";

/// Refuses whoever's credential ends before that of the key: it must not give a way in that is good for longer.
fn refuse_if_it_ends_before(
    tx: &berth_store::Tx<'_>,
    credential: crate::tokens::Credential,
    end: Option<i64>,
) -> Result<(), Error> {
    let own = credential.end(tx)?;
    if own.is_some_and(|own| end.is_none_or(|end| end > own)) {
        return Err(Error::Forbidden("what this was asked with expires before the key does".into()));
    }
    Ok(())
}

impl Identity {
    fn sealed(&self, access_key: &str, secret: &str) -> Result<String, Error> {
        self.inner.secrets.seal(&format!("access key {access_key}"), secret)
    }

    /// Has the administrator's key of the first start be known; `unsigned` requests by it are taken only in development.
    ///
    /// # Errors
    /// The database's own.
    pub async fn administrator_key(&self, access_key: &str, secret: &str, unsigned: bool) -> Result<(), Error> {
        let sealed = self.sealed(access_key, secret)?;
        let public = access_key.to_owned();
        self.write(move |tx| {
            let bounds = KeyBounds { unsigned, ..KeyBounds::default() };
            let bounds = serde_json::to_string(&bounds).map_err(|e| Error::Bug(e.to_string()))?;
            if let Some(known) = tx.access_key(&public)? {
                tx.access_key_bounds(known.id, &bounds)?;
                return Ok(());
            }
            // One that was removed stays so.
            const ADDED: &str = "administrator_key";
            let Some(account) = tx.accounts()?.first().map(|a| a.id) else { return Ok(()) };
            if tx.server_value(ADDED)?.is_some() {
                return Ok(());
            }
            tx.server_value_set(ADDED, &public)?;
            tx.access_key_add(&new_row(account, "administrator", &public, sealed, Role::Admin, bounds, None))?;
            Ok(())
        })
        .await?;
        self.forget_keys();
        Ok(())
    }

    pub(crate) fn forget_keys(&self) {
        self.inner.key_changes.fetch_add(1, Ordering::SeqCst);
        self.inner.keys_known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes a key; with it its secret, which is told this once.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Invalid`].
    pub async fn key_create(&self, caller: &Caller, new: NewKey) -> Result<(AccessKey, String), Error> {
        if caller.role != Role::Admin && (new.role == Role::Admin || new.account.is_some()) {
            return Err(Error::Forbidden("only an administrator makes keys for others".into()));
        }
        check_name(Field::Name, &new.name)?;
        if let Some(account) = &new.account {
            check_name(Field::Account, account)?;
        }
        new.bounds.check(&self.options().dialects)?;
        let (public, secret) = (random_hex(10), random_hex(20));
        let sealed = self.sealed(&public, &secret)?;
        let bounds = serde_json::to_string(&new.bounds).map_err(|e| Error::Bug(e.to_string()))?;
        let expires = new.lifetime.map(|l| now().saturating_add(i64::try_from(l.as_nanos()).unwrap_or(i64::MAX)));
        let (own, credential) = (caller.account, caller.credential);
        let row = self
            .write(move |tx| {
                let account = tx.account_for(own, new.account.as_deref(), now())?;
                let expires = crate::tokens::earlier(expires, credential.end(tx)?);
                let mut row = new_row(account, &new.name, &public, sealed, new.role, bounds, expires);
                row.id = tx.access_key_add(&row)?;
                Ok(row)
            })
            .await?;
        Ok((key(row)?, secret))
    }

    /// The account's keys; those of `all` accounts for an administrator.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub async fn keys(&self, caller: &Caller, all: bool) -> Result<Vec<AccessKey>, Error> {
        if all && caller.role != Role::Admin {
            return Err(Error::Forbidden("only an administrator sees the keys of others".into()));
        }
        let account = (!all).then_some(caller.account);
        let rows = self.read(move |tx| Ok(tx.access_keys(account)?)).await?;
        rows.into_iter().map(key).collect()
    }

    /// One that the caller may change: by its public half, name or number.
    async fn key(&self, caller: &Caller, reference: &str) -> Result<AccessKey, Error> {
        let all = self.keys(caller, caller.role == Role::Admin).await?;
        let number = reference.parse::<i64>().ok();
        let found =
            all.iter().find(|k| k.access_key == reference).or_else(|| all.iter().find(|k| Some(k.id) == number));
        let found = match found {
            Some(found) => found,
            None => match all.iter().filter(|k| k.name == reference).collect::<Vec<_>>().as_slice() {
                [one] => one,
                [] => return Err(Error::NotFound { what: "access key", name: reference.into() }),
                _ => return Err(Error::invalid(Field::Key, format!("several keys are named {reference:?}"))),
            },
        };
        if found.role == Role::Admin && caller.role != Role::Admin {
            return Err(Error::Forbidden("only an administrator changes an administrator's key".into()));
        }
        Ok(found.clone())
    }

    /// Gives a key another secret, which is told this once. The one before goes on being good for a while.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`].
    pub async fn key_rotate(
        &self,
        caller: &Caller,
        reference: &str,
        old_for: Duration,
    ) -> Result<(AccessKey, String), Error> {
        let found = self.key(caller, reference).await?;
        let secret = random_hex(20);
        let sealed = self.sealed(&found.access_key, &secret)?;
        let until = now().saturating_add(i64::try_from(old_for.as_nanos()).unwrap_or(i64::MAX));
        let credential = caller.credential;
        self.write(move |tx| {
            refuse_if_it_ends_before(tx, credential, found.expires_at)?;
            tx.access_key_rotate(found.id, &sealed, until)?;
            // Tokens last no longer than the secret that they were given for.
            Ok(tx.tokens_of_key_end(found.id, until)?)
        })
        .await?;
        self.forget_keys();
        Ok((AccessKey { old_until: Some(until).filter(|_| !old_for.is_zero()), ..found }, secret))
    }

    /// Disables or enables a key, at once.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`].
    pub async fn key_disable(&self, caller: &Caller, reference: &str, disabled: bool) -> Result<AccessKey, Error> {
        let found = self.key(caller, reference).await?;
        let credential = caller.credential;
        self.write(move |tx| {
            if !disabled {
                refuse_if_it_ends_before(tx, credential, found.expires_at)?;
            }
            Ok(tx.access_key_disable(found.id, disabled)?)
        })
        .await?;
        self.forget_keys();
        Ok(AccessKey { disabled, ..found })
    }

    /// Removes a key, at once.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`].
    pub async fn key_remove(&self, caller: &Caller, reference: &str) -> Result<AccessKey, Error> {
        let found = self.key(caller, reference).await?;
        self.write(move |tx| Ok(tx.access_key_remove(found.id)?)).await?;
        self.forget_keys();
        Ok(found)
    }

    /// Who signed a request; noted as a use of the key.
    ///
    /// # Errors
    /// The database's own.
    pub async fn authenticate_signed(&self, asked: &Signed<'_>) -> Result<Result<Caller, Refusal>, Error> {
        let Some(row) = self.key_row(asked.access_key).await? else { return Ok(Err(Refusal::UnknownKey)) };
        let about = format!("access key {}", row.access_key);
        match asked.signature {
            None if key(row.clone())?.bounds.unsigned => {}
            None => return Ok(Err(Refusal::Unsigned)),
            Some(signature) => {
                let good = |sealed: &str| -> Result<bool, Error> {
                    let secret = self.inner.secrets.open_sealed(&about, sealed)?;
                    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                    // In constant time.
                    Ok(unhex(signature).is_some_and(|tag| hmac::verify(&key, asked.text.as_bytes(), &tag).is_ok()))
                };
                let old = row.old_secret.as_deref().filter(|_| row.old_until > now());
                if !good(&row.secret)? && !old.map(good).transpose()?.unwrap_or(false) {
                    return Ok(Err(Refusal::Signature));
                }
            }
        }
        let caller = match self.key_allows(row, asked).await? {
            Ok(caller) if !asked.reads && asked.signature.is_some() => caller,
            other => return Ok(other),
        };
        let Credential::Key(id) = caller.credential else { return Ok(Ok(caller)) };
        // By what was signed, not by the signature: that can be written in several ways.
        let digest = crate::tokens::sha256(format!("{id}\n{}", asked.text).as_bytes());
        let request = u128::from_str_radix(&digest[..32], 16).map_err(|e| Error::Bug(e.to_string()))?;
        let path = asked.path.to_owned();
        // Kept for a day at least: a larger tolerance after the next start must not make it good for another path.
        let kept = i64::try_from(2 * self.options().timestamp_tolerance_s.min(1 << 31)).unwrap_or(0).max(86_400);
        let expires_at = now().saturating_add(kept * 1_000_000_000);
        let first =
            self.write(move |tx| Ok(tx.signed_request_bind(&request_name(request), &path, expires_at)?)).await?;
        if first != asked.path {
            return Ok(Err(Refusal::OtherPath));
        }
        Ok(Ok(Caller { credential: Credential::Signature { key: id, request }, ..caller }))
    }

    /// The key of a public half.
    pub(crate) async fn key_row(&self, access_key: &str) -> Result<Option<berth_store::AccessKey>, Error> {
        let known = {
            let kept = self.inner.keys_known.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(access_key).cloned()
        };
        if known.is_some() {
            return Ok(known);
        }
        let changes = self.inner.key_changes.load(Ordering::SeqCst);
        let wanted = access_key.to_owned();
        let Some(row) = self.read(move |tx| Ok(tx.access_key(&wanted)?)).await? else { return Ok(None) };
        let mut kept = self.inner.keys_known.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() > 10_000 {
            kept.clear();
        }
        // Changed since it was read, perhaps: the next request looks again.
        if self.inner.key_changes.load(Ordering::SeqCst) == changes {
            kept.insert(access_key.to_owned(), row.clone());
        }
        Ok(Some(row))
    }

    /// Whether a key whose owner has proven to be that may do what is asked; noted as a use of it.
    pub(crate) async fn key_allows(
        &self,
        row: berth_store::AccessKey,
        asked: &Signed<'_>,
    ) -> Result<Result<Caller, Refusal>, Error> {
        let (id, used_at, account) = (row.id, row.used_at, row.account_id);
        let found = key(row)?;
        if found.disabled || found.expires_at.is_some_and(|at| at <= now()) {
            return Ok(Err(Refusal::UnknownKey));
        }
        if let Err(refusal) = found.bounds.allow(asked) {
            return Ok(Err(refusal));
        }
        self.check_rate(account)?;
        let at = now();
        if used_at.is_none_or(|last| at - last > NOTED_EVERY_NS) {
            let from = asked.from.map(|from| from.to_string()).unwrap_or_default();
            if let Some(kept) =
                self.inner.keys_known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&found.access_key)
            {
                kept.used_at = Some(at);
            }
            self.write(move |tx| Ok(tx.access_key_used(id, at, &from)?)).await?;
        }
        Ok(Ok(Caller { account, role: found.role, credential: Credential::Key(id) }))
    }
}

fn new_row(
    account: i64,
    name: &str,
    access_key: &str,
    secret: String,
    role: Role,
    bounds: String,
    expires_at: Option<i64>,
) -> berth_store::AccessKey {
    berth_store::AccessKey {
        id: 0,
        account_id: account,
        name: name.to_owned(),
        access_key: access_key.to_owned(),
        secret,
        old_secret: None,
        old_until: 0,
        role: if role == Role::Admin { "admin" } else { "user" }.into(),
        bounds,
        disabled: false,
        created_at: now(),
        expires_at,
        used_at: None,
        used_from: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyBounds, Refusal, Signed, is_within, signature_of, signed_text};

    #[test]
    fn signatures_are_hmac_sha256() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature_of("Jefe", "what do ya want for nothing?"), expected);
    }

    #[test]
    fn bounds_bind() {
        let asked = |action, from: &str| Signed {
            access_key: "k",
            signature: None,
            text: "",
            path: "",
            dialect: "acs",
            action,
            reads: action == "node_list",
            from: from.parse().ok(),
        };
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let bounds = KeyBounds {
            dialects: texts(&["acs"]),
            actions: texts(&["read", "container_*"]),
            addresses: texts(&["10.0.0.0/8", "::1"]),
            unsigned: false,
        };
        assert!(bounds.allow(&asked("node_list", "10.1.2.3")).is_ok());
        assert!(bounds.allow(&asked("container_stop", "::1")).is_ok());
        assert_eq!(bounds.allow(&asked("node_stop", "10.1.2.3")), Err(Refusal::Action));
        assert_eq!(bounds.allow(&asked("node_list", "11.0.0.1")), Err(Refusal::Address));
        let elsewhere = Signed { dialect: "comb", ..asked("node_list", "10.1.2.3") };
        assert_eq!(bounds.allow(&elsewhere), Err(Refusal::Dialect));
        assert!(KeyBounds::default().allow(&elsewhere).is_ok());
        assert!(is_within("::ffff:10.9.9.9".parse().expect("address"), "10.0.0.0/8"));
        assert!(!is_within("10.0.0.2".parse().expect("address"), "10.0.0.1") && block_of_nonsense());
    }

    #[test]
    fn no_two_parameters_are_read_from_one() {
        let one = signed_text("POST", [("a", "1&b=2")]);
        assert_eq!(one, "POST\na=1%26b%3D2");
        assert_ne!(one, signed_text("POST", [("b", "2"), ("a", "1")]));
        assert_eq!(signed_text("GET", [("z", "%\n"), ("a=", "")]), "GET\na%3D=&z=%25%0A");
    }

    fn block_of_nonsense() -> bool {
        KeyBounds { addresses: vec!["10.0.0.0/33".into()], ..KeyBounds::default() }.check(&[]).is_err()
    }
}
