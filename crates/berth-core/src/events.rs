//! What happened.

use tokio::sync::broadcast;

pub(crate) mod event;

pub use event::Event;

use crate::core::Core;
use crate::error::Error;
use berth_identity::Caller;

impl Core {
    /// The account's events after number `after`, oldest first.
    ///
    /// # Errors
    /// The database's own.
    pub async fn events(&self, caller: &Caller, after: i64, limit: u32) -> Result<Vec<Event>, Error> {
        let account = caller.account;
        let rows = self.read(move |tx| Ok(tx.events(account, after, limit)?)).await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }

    /// The number of the newest event: to follow from now on.
    ///
    /// # Errors
    /// The database's own.
    pub async fn event_newest(&self) -> Result<i64, Error> {
        self.read(|tx| Ok(tx.event_newest()?)).await
    }

    /// The account's newest events, of one subject or of all, newest first.
    ///
    /// # Errors
    /// The database's own.
    pub async fn events_recent(
        &self,
        caller: &Caller,
        subject: Option<String>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let account = caller.account;
        let rows = self.read(move |tx| Ok(tx.events_recent(account, subject.as_deref(), limit)?)).await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }

    /// Wakes whoever follows; what they missed is read by [`events`](Self::events).
    pub fn event_stream(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    pub(crate) fn publish(&self, rows: Vec<berth_store::Event>) {
        for row in rows {
            if row.kind == "container.oom" {
                let (container, account) = (&row.subject, row.account_id);
                tracing::warn!(container, account, "processes of a container were out of memory (OOM-killed)");
            }
            // Nobody listening is fine.
            let _ = self.inner.events.send(row.into());
        }
    }
}
