//! Who calls, and what they may do: accounts and their rights, tokens, access keys and the tokens of keys, SSH keys, requests a
//! second, idempotency keys, the audit log, and the secrets that have to be read again.
//!
//! This part knows nothing of containers, images or hosts. A credential is looked up once and remembered for a short while; what
//! revokes it clears what is remembered (`revocations`, `key_changes`), so that it ends at once.

mod accounts;
mod audit;
mod console;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod idempotency;
mod keys;
mod limiter;
mod secrets;
mod sessions;
mod ssh_keys;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use berth_store::{Store, Tx};

pub use audit::{AuditEntry, AuditQuery, Change};
pub use console::{ConsoleLogin, ConsoleSession, NoSession};
pub use error::Error;
pub use idempotency::{IdempotencyLookup, KeyGuard};
pub use keys::{AccessKey, KeyBounds, NewKey, Refusal, Signed, request_name, signature_of, signed_text};
pub use limiter::{AccountLimiter, Permit};
pub use secrets::Secrets;
pub use sessions::{NoToken, SessionToken, unsigned};
pub use ssh_keys::{SshKey, SshKeyKind, own_key};
pub use tokens::{Administrator, Caller, Credential, NewToken, Role, Token, check_name};

/// What an administrator can set of this part.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether users may have containers in the host's network, unless their account says otherwise.
    pub host_network_for_users: bool,
    /// Whether what users name may be on loopback and private addresses, unless their account says otherwise.
    pub private_addresses_for_users: bool,
    /// Seconds that the timestamp of a signed request may be off.
    pub timestamp_tolerance_s: u64,
    /// Requests of an account a second, by any dialect, that go on for long; 0 for no bound.
    pub account_requests_per_s: u32,
    /// Requests of an account at once, by any dialect.
    pub account_requests_burst: u32,
    /// Requests a second of an account with tokens of access keys; 0 is no bound.
    pub requests_per_s: u32,
    /// Such requests at once after a quiet time.
    pub requests_burst: u32,
    /// Dialects that an access key may be bounded to; empty: any.
    pub dialects: Vec<String>,
}

/// Requests that an account may make at once, and when that was so.
type Rates = Mutex<HashMap<i64, (f64, Instant)>>;

struct Inner {
    store: Store,
    options: arc_swap::ArcSwap<Options>,
    secrets: Secrets,
    /// Tokens that were found good, by hash, and when.
    tokens: Mutex<HashMap<String, (Caller, Instant)>>,
    /// Grows with every revocation of a token.
    revocations: AtomicU64,
    /// Access keys that were used lately.
    keys_known: Mutex<HashMap<String, berth_store::AccessKey>>,
    /// Grows with every change of an access key.
    key_changes: AtomicU64,
    rates: Rates,
    account_rates: Rates,
    /// Logins to the console from an address that may fail at once, and when that was so.
    failed_logins: Mutex<HashMap<std::net::IpAddr, (f64, Instant)>>,
    /// Pairs of keys that are made at the same time.
    key_pairs: AccountLimiter,
    /// Idempotency keys of requests that this very server has under way: account, key.
    under_way: Mutex<HashSet<(i64, String)>>,
    /// Answers that are kept for idempotency keys, by account: at most this many.
    answers_kept: Mutex<HashMap<i64, u32>>,
    failures: audit::Failures,
}

/// This part of the core. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the key that secrets are encrypted with, or makes it.
    ///
    /// # Errors
    /// The key's file can't be read or written.
    pub fn open(store: Store, secret_key: &Path, options: Options) -> Result<Self, Error> {
        let inner = Inner {
            store,
            options: arc_swap::ArcSwap::from_pointee(options),
            secrets: Secrets::open(secret_key)?,
            tokens: Mutex::default(),
            revocations: 0.into(),
            keys_known: Mutex::default(),
            key_changes: 0.into(),
            rates: Mutex::default(),
            account_rates: Mutex::default(),
            failed_logins: Mutex::default(),
            key_pairs: AccountLimiter::new(2, 1),
            under_way: Mutex::default(),
            answers_kept: Mutex::default(),
            failures: audit::Failures::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn options(&self) -> Arc<Options> {
        self.inner.options.load_full()
    }

    /// Takes other options for everything that begins from now on.
    pub fn reload(&self, options: Options) {
        self.inner.options.store(Arc::new(options));
    }

    /// What encrypts secrets that have to be read again.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.store.write(work).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.inner.store.read(work).await
    }
}
