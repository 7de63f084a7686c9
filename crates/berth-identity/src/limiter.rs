//! What all accounts have a share of: so many at a time, and so many of one account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places that are taken for a while.
pub struct AccountLimiter {
    all: Arc<Semaphore>,
    of_one: usize,
    own: Mutex<HashMap<i64, Weak<Semaphore>>>,
}

/// A place that is taken until this is dropped.
pub struct Permit(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl AccountLimiter {
    /// `all` places, of which one account has `of_one` at most.
    pub fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_one, own: Mutex::default() }
    }

    fn of(&self, account: i64) -> Arc<Semaphore> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = own.get(&account).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(self.of_one));
        own.insert(account, Arc::downgrade(&places));
        places
    }

    /// Waits for a place, first among the account's own: whoever has many under way waits for himself.
    pub async fn take(&self, account: i64) -> Option<Permit> {
        let own = self.of(account).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit([own, all]))
    }

    /// A place, if there is one now.
    pub fn try_take(&self, account: i64) -> Option<Permit> {
        let own = self.of(account).try_acquire_owned().ok()?;
        let all = self.all.clone().try_acquire_owned().ok()?;
        Some(Permit([own, all]))
    }
}

#[cfg(test)]
mod tests {
    use super::AccountLimiter;

    #[tokio::test]
    async fn one_account_leaves_the_others_theirs() {
        let shares = AccountLimiter::new(3, 2);
        let (first, second) = (shares.try_take(1), shares.try_take(1));
        assert!(first.is_some() && second.is_some() && shares.try_take(1).is_none());
        let other = shares.take(2).await;
        assert!(other.is_some() && shares.try_take(3).is_none(), "all are taken");
        drop(first);
        assert!(shares.try_take(1).is_some());
        drop((second, other));
        assert!(shares.own.lock().expect("lock").values().all(|places| places.strong_count() == 0), "all given back");
    }
}
