//! Idempotency keys: the same request again gets the same answer, and nothing is done twice.

use std::sync::{MutexGuard, PoisonError};

use berth_types::now;

use crate::error::Error;
use crate::{Caller, Identity, Role};

/// Answers that are kept for an account; with more, the oldest go.
const MAX_KEPT: u32 = 10_000;
/// So many more than that may be there until they are counted again.
const SLACK: u32 = 1000;

/// What is known of an idempotency key.
#[derive(Debug)]
pub enum IdempotencyLookup {
    /// It is this request's now.
    New(KeyGuard),
    /// The same request was answered so.
    Answered(String),
    /// The same request made the thing of this id, and a crash kept its answer from being noted. The key is this request's now,
    /// as if it were new.
    Made(String, KeyGuard),
    /// The same request is under way.
    UnderWay,
    /// Another request came with it.
    Different,
}

/// An idempotency key of a request that is under way: whoever has this is the only one. Dropped without [`end`](Self::end), the key is
/// free for another try.
#[derive(Debug)]
pub struct KeyGuard {
    identity: Identity,
    account: i64,
    key: String,
    is_held: bool,
}

impl KeyGuard {
    /// Keeps the answer, or frees the key without one.
    ///
    /// # Errors
    /// The database's own. A key whose answer could not be written stays under way until the server ends: what was done is not done
    /// again.
    pub async fn end(mut self, answer: Option<&str>) -> Result<(), Error> {
        self.is_held = false;
        let (account, key, answer) = (self.account, self.key.clone(), answer.map(str::to_owned));
        let is_done = answer.is_some();
        let written = self.identity.write(move |tx| Ok(tx.idempotency_end(account, &key, answer.as_deref())?)).await;
        if written.is_ok() || !is_done {
            self.free();
        }
        written
    }

    fn free(&self) {
        self.identity.keys_under_way().remove(&(self.account, self.key.clone()));
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        if self.is_held {
            self.free();
        }
    }
}

impl Identity {
    fn keys_under_way(&self) -> MutexGuard<'_, std::collections::HashSet<(i64, String)>> {
        self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idempotency key for a request: of this caller's rights, with this operation and body.
    ///
    /// # Errors
    /// The database's own.
    pub async fn idempotency_begin(
        &self,
        caller: &Caller,
        key: &str,
        operation: &str,
        body: &[u8],
    ) -> Result<IdempotencyLookup, Error> {
        let role = if caller.role == Role::Admin { "admin" } else { "user" };
        // A body may have a password in it: the digest is of no use without the server's key.
        let request = self.inner.secrets.digest(&[role.as_bytes(), operation.as_bytes(), body]);
        let (account, key) = (caller.account, key.to_owned());
        if !self.keys_under_way().insert((account, key.clone())) {
            // Only who holds the key may write; who does not learns at most how it ended.
            let known = self.read(move |tx| Ok(tx.idempotency(account, &key)?)).await?;
            return Ok(match known {
                Some(known) if known.request != request => IdempotencyLookup::Different,
                Some(berth_store::Remembered { answer: Some(answer), .. }) => IdempotencyLookup::Answered(answer),
                _ => IdempotencyLookup::UnderWay,
            });
        }
        let guard = KeyGuard { identity: self.clone(), account, key: key.clone(), is_held: true };
        let trims = self.counts_answers(account);
        let asked = request.clone();
        let (known, kept) = self
            .write(move |tx| {
                let kept = if trims { Some(tx.idempotency_trim(account, MAX_KEPT)?) } else { None };
                Ok((tx.idempotency_begin(account, &key, &asked, now())?, kept))
            })
            .await?;
        if let Some(kept) = kept {
            self.inner.answers_kept.lock().unwrap_or_else(PoisonError::into_inner).insert(account, kept);
        }
        Ok(match known {
            Some(known) if known.request != request => IdempotencyLookup::Different,
            Some(berth_store::Remembered { answer: Some(answer), .. }) => IdempotencyLookup::Answered(answer),
            Some(berth_store::Remembered { about: Some(made), .. }) => IdempotencyLookup::Made(made, guard),
            // A row without anything: its request ended without an answer, and nothing came of it.
            Some(_) | None => IdempotencyLookup::New(guard),
        })
    }

    /// Counts one more answer of an account; whether it is time to look how many there are.
    fn counts_answers(&self, account: i64) -> bool {
        let mut all = self.inner.answers_kept.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&account) {
            Some(kept) => {
                *kept += 1;
                *kept > MAX_KEPT + SLACK
            }
            None => true,
        }
    }

    /// At the start of a server: what an earlier one had under way and nothing came of is free again.
    ///
    /// # Errors
    /// The database's own.
    pub async fn forget_unanswered(&self) -> Result<(), Error> {
        self.write(|tx| Ok(tx.idempotency_forget(0, true).map(drop)?)).await
    }
}
