//! What happened.

use tokio::sync::broadcast;

use crate::core::Core;
use crate::error::Error;
use berth_identity::Caller;

/// Something that happened, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number; grows.
    pub id: i64,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Whose it is.
    pub account: i64,
    /// `container.started` and the like.
    pub kind: String,
    /// The textual id of what it happened to.
    pub subject: String,
    /// More, by kind.
    pub detail: serde_json::Value,
}

impl From<berth_store::Event> for Event {
    fn from(row: berth_store::Event) -> Self {
        Self {
            id: row.id,
            at: row.at,
            account: row.account_id,
            kind: row.kind,
            subject: row.subject,
            detail: serde_json::from_str(&row.detail).unwrap_or_default(),
        }
    }
}

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

    /// Wakes whoever follows; what they missed is read by [`events`](Self::events).
    pub fn event_stream(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    pub(crate) fn tell(&self, rows: Vec<berth_store::Event>) {
        for row in rows {
            // Nobody listening is fine.
            let _ = self.inner.events.send(row.into());
        }
    }
}
