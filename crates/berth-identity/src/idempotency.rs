//! Idempotency keys: the same request again gets the same answer, and nothing is done twice.

use std::sync::PoisonError;

use berth_types::now;

use crate::error::Error;
use crate::tokens::sha256;
use crate::{Caller, Identity};

/// What is known of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyLookup {
    /// It is this request's now, until [`Identity::idempotency_end`].
    New,
    /// The same request was answered so.
    Answered(String),
    /// The same request made the thing of this id, and a crash kept its answer from being noted. The key is this request's now,
    /// as if it were new.
    Made(String),
    /// The same request is under way.
    UnderWay,
    /// Another request came with it.
    Different,
}

impl Identity {
    /// Takes an idempotency key for a request.
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
        let (account, key) = (caller.account, key.to_owned());
        let request = sha256(&[operation.as_bytes(), b"\n", body].concat());
        let mine = (account, key.clone());
        let under_way = !self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(mine.clone());
        let asked = request.clone();
        let known = self.write(move |tx| Ok(tx.idempotency_begin(account, &key, &asked, now())?)).await;
        let found = known.map(|known| match known {
            None => IdempotencyLookup::New,
            Some(known) if known.request != request => IdempotencyLookup::Different,
            Some(berth_store::Remembered { answer: Some(answer), .. }) => IdempotencyLookup::Answered(answer),
            Some(berth_store::Remembered { about: Some(made), .. }) if !under_way => IdempotencyLookup::Made(made),
            Some(_) => IdempotencyLookup::UnderWay,
        });
        let is_taken = matches!(found, Ok(IdempotencyLookup::New | IdempotencyLookup::Made(_)));
        if !under_way && !is_taken {
            self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&mine);
        }
        found
    }

    /// Keeps the answer, or gives the key back.
    ///
    /// # Errors
    /// The database's own.
    pub async fn idempotency_end(&self, caller: &Caller, key: &str, answer: Option<&str>) -> Result<(), Error> {
        let (account, key, answer) = (caller.account, key.to_owned(), answer.map(str::to_owned));
        let mine = (account, key.clone());
        let ended = self.write(move |tx| Ok(tx.idempotency_end(account, &key, answer.as_deref())?)).await;
        self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&mine);
        ended
    }

    /// Lets go of a key and leaves what is known of it as it is: the request may come again.
    pub fn idempotency_release(&self, caller: &Caller, key: &str) {
        let mine = (caller.account, key.to_owned());
        self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&mine);
    }

    /// At the start of a server: what an earlier one had under way and nothing came of is free again.
    ///
    /// # Errors
    /// The database's own.
    pub async fn forget_unanswered(&self) -> Result<(), Error> {
        self.write(|tx| Ok(tx.idempotency_forget(0, true).map(drop)?)).await
    }
}
