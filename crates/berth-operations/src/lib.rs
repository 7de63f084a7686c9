//! Operations: what is slower than a query, written down before it begins and followed to its end.
//!
//! The row is the truth, memory a cache. The rules are in `progress` (pure), what is on disk in `queue`, and `runner` brings both
//! together: one command of a target at a time, in the order accepted; a removal supersedes what waits. What an operation comes
//! to and how a step is done is the [`Domain`]'s; this part knows none.

mod domain;
mod error;
mod failpoints;
mod progress;
mod queue;
mod runner;
mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_identity::AccountLimiter;
use berth_store::{Store, Tx};

pub use domain::{Domain, Operation, Step, Work};
pub use error::Error;
pub use failpoints::Failpoints;
pub use queue::{Enqueued, QueuedOperation};
pub use runner::{UNCHANGED, has_replaced};
pub use types::{Command, CommandQuery, CommandStatus, Done, Method, OperationStep, Outcome, PlannedStep, Target};

/// What an administrator can set of this part.
#[derive(Debug, Clone)]
pub struct Options {
    /// Steps that are under way at a time; of one account a fourth of them.
    pub steps_at_once: usize,
    /// Commands of an account that are not over; another one is refused.
    pub commands_waiting: u32,
}

struct Inner {
    store: Store,
    options: Options,
    driving: runner::Driving,
    cancels: runner::Cancels,
    failpoints: Failpoints,
    durations: berth_types::Outcomes,
    steps_at_once: AccountLimiter,
    /// Set when the server goes: no command takes a further step.
    closing: AtomicBool,
}

/// This part of the core. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operations").finish_non_exhaustive()
    }
}

impl Operations {
    /// Nothing is driven before [`resume`](Self::resume).
    pub fn new(store: Store, options: Options) -> Self {
        let steps_at_once = AccountLimiter::new(options.steps_at_once.max(1), (options.steps_at_once / 4).max(1));
        let inner = Inner {
            store,
            options,
            driving: runner::Driving::default(),
            cancels: runner::Cancels::default(),
            failpoints: Failpoints::default(),
            durations: berth_types::Outcomes::default(),
            steps_at_once,
            closing: false.into(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Points at which tests have something go wrong.
    pub fn failpoints(&self) -> &Failpoints {
        &self.inner.failpoints
    }

    /// How long commands took, from when they were accepted to their end.
    pub fn durations(&self) -> &berth_types::Outcomes {
        &self.inner.durations
    }

    /// Places of steps that are under way.
    pub fn steps_at_once(&self) -> &AccountLimiter {
        &self.inner.steps_at_once
    }

    /// The server goes: commands stay where they are, for the next one to go on with. What a step comes to from now on may be
    /// the end of this server's threads, and is not written down.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
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
