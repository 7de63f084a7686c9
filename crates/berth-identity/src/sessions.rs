//! Tokens that an access key is exchanged for. They last for a day, and are good only as far as their key is: in its
//! dialects, for its actions, from its addresses, and as long as it is not disabled.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;

use crate::Identity;
use crate::error::Error;
use crate::keys::{Refusal, Signed};
use crate::tokens::{Caller, earlier, hash};
use berth_types::{now, random_hex};

/// How long such a token lasts.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// A token for an access key.
#[derive(Debug)]
pub struct SessionToken {
    /// What a client sends.
    pub secret: String,
    /// How long it is good.
    pub lifetime: Duration,
    /// Whose it is.
    pub caller: Caller,
}

/// Why there is no token.
#[derive(Debug)]
pub enum NoToken {
    /// The key is not good for it.
    Refused(Refusal),
    /// Too many requests of this caller's account.
    TooOften(Caller),
}

impl Identity {
    /// Exchanges an access key and its secret for a token. `asked` says for what; its signature is not looked at.
    ///
    /// # Errors
    /// The database's own.
    pub async fn session_create(
        &self,
        secret_key: &str,
        asked: &Signed<'_>,
    ) -> Result<Result<SessionToken, NoToken>, Error> {
        let Some(row) = self.key_row(asked.access_key).await? else {
            return Ok(Err(NoToken::Refused(Refusal::UnknownKey)));
        };
        let Some(secret_end) = self.secret_of(&row, secret_key)? else {
            return Ok(Err(NoToken::Refused(Refusal::Signature)));
        };
        let caller = match self.key_allows(row.clone(), asked).await? {
            Ok(caller) => caller,
            Err(refusal) => return Ok(Err(NoToken::Refused(refusal))),
        };
        if !self.within_rate(&caller) {
            return Ok(Err(NoToken::TooOften(caller)));
        }
        // As the cloud's were: clients check that there are 32 hexadecimal digits.
        let secret = random_hex(16);
        let hashed = hash(&secret);
        let lifetime = earlier(row.expires_at, secret_end).map_or(LIFETIME, |at| {
            LIFETIME.min(Duration::from_nanos(u64::try_from(at.saturating_sub(now())).unwrap_or(0)))
        });
        let expires = now().saturating_add(i64::try_from(lifetime.as_nanos()).unwrap_or(i64::MAX));
        self.write(move |tx| Ok(tx.token_of_key_add(&row, &hashed, now(), expires)?)).await?;
        Ok(Ok(SessionToken { secret, lifetime, caller }))
    }

    /// Until when this secret half of a key is good, nanoseconds since 1970: `Some(None)` for the present one, whose end is the
    /// key's own; `None` for one that is not the key's.
    pub(crate) fn secret_of(
        &self,
        row: &berth_store::AccessKey,
        secret_key: &str,
    ) -> Result<Option<Option<i64>>, Error> {
        let about = format!("access key {}", row.access_key);
        let same = |sealed: &str| -> Result<bool, Error> {
            let secret = self.inner.secrets.open_sealed(&about, sealed)?;
            // Compared by what they sign: in constant time.
            let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            Ok(hmac::verify(&key(&secret), b"session", hmac::sign(&key(secret_key), b"session").as_ref()).is_ok())
        };
        if same(&row.secret)? {
            return Ok(Some(None));
        }
        let old = row.old_secret.as_deref().filter(|_| row.old_until > now());
        Ok(old.map(same).transpose()?.unwrap_or(false).then_some(Some(row.old_until)))
    }

    /// Whose token this is, in a dialect whose callers exchange keys for tokens: any token, or one of a key that is good for
    /// what is `asked`. Only such a dialect may call this: everywhere else a token of a key is good for nothing, and
    /// [`authenticate`](Self::authenticate) refuses it.
    ///
    /// # Errors
    /// The database's own.
    pub async fn session(&self, secret: &str, asked: &Signed<'_>) -> Result<Option<Caller>, Error> {
        if let Some(caller) = self.authenticate(secret).await? {
            return Ok(Some(caller));
        }
        let wanted = hash(secret);
        let found = self
            .read(move |tx| {
                let Some(token) = tx.token_by_hash(&wanted, now())? else { return Ok(None) };
                Ok(token.key_id.map(|id| tx.access_key_by_id(id)).transpose()?.flatten())
            })
            .await?;
        let Some(row) = found else { return Ok(None) };
        Ok(self.key_allows(row, asked).await?.ok())
    }

    /// Refuses an account whose requests, by whatever dialect, come too fast.
    pub(crate) fn check_rate(&self, account: i64) -> Result<(), Error> {
        let options = self.options();
        let (rate, burst) = (options.account_requests_per_s, options.account_requests_burst);
        if has_place(&self.inner.account_rates, account, rate, burst) {
            return Ok(());
        }
        Err(Error::TooOften(format!("more than {rate} requests a second of this account; try again later")))
    }

    /// Whether an account's requests come slowly enough. Each that does takes one place; places come back with time.
    pub fn within_rate(&self, caller: &Caller) -> bool {
        let options = self.options();
        let (rate, burst) = (options.requests_per_s, options.requests_burst);
        has_place(&self.inner.rates, caller.account, rate, burst)
    }
}

/// Takes one of somebody's places, if there is one; a rate of 0 is no bound.
pub(crate) fn has_place<K: Eq + std::hash::Hash>(
    all: &Mutex<HashMap<K, (f64, Instant)>>,
    whose: K,
    rate: u32,
    burst: u32,
) -> bool {
    if rate == 0 {
        return true;
    }
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() > 10_000 {
        // One that is full again is as good as none.
        all.retain(|_, (_, at)| at.elapsed().as_secs_f64() * f64::from(rate) < f64::from(burst));
    }
    take_place(all.entry(whose).or_insert((f64::from(burst.max(1)), Instant::now())), rate, burst)
}

fn take_place(places: &mut (f64, Instant), rate: u32, burst: u32) -> bool {
    take_place_at(places, rate, burst, Instant::now())
}

pub(crate) fn take_place_at((places, at): &mut (f64, Instant), rate: u32, burst: u32, now: Instant) -> bool {
    *places = (*places + now.duration_since(*at).as_secs_f64() * f64::from(rate)).min(f64::from(burst.max(1)));
    *at = now;
    let free = *places >= 1.0;
    if free {
        *places -= 1.0;
    }
    free
}

/// What a token of a key is asked for; there is no signature.
pub fn unsigned<'a>(
    access_key: &'a str,
    dialect: &'a str,
    action: &'a str,
    reads: bool,
    from: Option<IpAddr>,
) -> Signed<'a> {
    Signed { access_key, signature: None, text: "", path: "", dialect, action, reads, from }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::take_place;

    #[test]
    fn places_are_taken_and_come_back() {
        let mut state = (3.0, Instant::now());
        let taken = (0..10).filter(|_| take_place(&mut state, 1, 3)).count();
        assert_eq!(taken, 3);
        state.1 = Instant::now().checked_sub(Duration::from_secs(2)).expect("an earlier time");
        let taken = (0..10).filter(|_| take_place(&mut state, 1, 3)).count();
        assert_eq!(taken, 2);
        state.1 = Instant::now().checked_sub(Duration::from_secs(3600)).expect("an earlier time");
        assert_eq!((0..10).filter(|_| take_place(&mut state, 1, 3)).count(), 3, "no more than the burst");
    }
}
