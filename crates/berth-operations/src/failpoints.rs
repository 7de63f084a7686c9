//! Points at which tests have something go wrong. Without the feature `failpoints` there are none.

#[cfg(feature = "failpoints")]
mod with {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use crate::Error;

    /// Where a test makes something go wrong: points are hit before and after everything that changes the world.
    #[derive(Debug, Default)]
    pub struct Failpoints {
        hits: AtomicUsize,
        /// The server "is killed" at this point: nothing goes on from there.
        kill_at: AtomicUsize,
        /// The step that begins at this point fails.
        fail_at: AtomicUsize,
        /// The step that begins at this point is done twice.
        repeat_at: AtomicUsize,
        /// Everything that comes to this point waits until it is let go.
        hold_at: AtomicUsize,
        let_go: Notify,
        /// So many events meet a fault of this program, or a panic.
        faults: AtomicUsize,
        panics: AtomicUsize,
    }

    impl Failpoints {
        /// Everything that comes to that point waits for [`let_go`](Self::let_go).
        pub fn hold(&self, at: usize) {
            self.hold_at.store(at, Ordering::SeqCst);
        }

        /// Has what waits go on.
        pub fn let_go(&self) {
            self.let_go.notify_one();
        }

        /// The points at which the server is killed, a step fails, and a step is done twice; 0 is none.
        pub fn set(&self, kill: usize, fail: usize, repeat: usize) {
            self.kill_at.store(kill, Ordering::SeqCst);
            self.fail_at.store(fail, Ordering::SeqCst);
            self.repeat_at.store(repeat, Ordering::SeqCst);
        }

        /// So many events meet a fault of this program, and so many a panic.
        pub fn set_faults(&self, faults: usize, panics: usize) {
            self.faults.store(faults, Ordering::SeqCst);
            self.panics.store(panics, Ordering::SeqCst);
        }

        fn takes(counter: &AtomicUsize) -> bool {
            counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        }

        pub(crate) fn fault(&self) -> Result<(), Error> {
            assert!(!Self::takes(&self.panics), "a panic on purpose");
            if Self::takes(&self.faults) { Err(Error::Bug("a fault on purpose".into())) } else { Ok(()) }
        }

        /// How many points were hit.
        pub fn hits(&self) -> usize {
            self.hits.load(Ordering::SeqCst)
        }

        /// A point; its number.
        pub async fn point(&self) -> usize {
            let number = self.hits.fetch_add(1, Ordering::SeqCst) + 1;
            if number == self.kill_at.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if number == self.hold_at.load(Ordering::SeqCst) {
                self.let_go.notified().await;
            }
            number
        }

        pub(crate) fn fails(&self, number: usize) -> bool {
            number == self.fail_at.load(Ordering::SeqCst)
        }

        pub(crate) fn repeats(&self, number: usize) -> bool {
            number == self.repeat_at.load(Ordering::SeqCst)
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod without {
    use crate::Error;

    /// There are none in this build.
    #[derive(Debug, Default)]
    pub struct Failpoints {}

    #[expect(clippy::unused_self, clippy::unused_async, clippy::unnecessary_wraps, reason = "as with the feature")]
    impl Failpoints {
        /// A point; its number.
        pub async fn point(&self) -> usize {
            0
        }

        pub(crate) fn fault(&self) -> Result<(), Error> {
            Ok(())
        }

        pub(crate) fn fails(&self, _number: usize) -> bool {
            false
        }

        pub(crate) fn repeats(&self, _number: usize) -> bool {
            false
        }
    }
}

#[cfg(feature = "failpoints")]
pub use with::Failpoints;
#[cfg(not(feature = "failpoints"))]
pub use without::Failpoints;
