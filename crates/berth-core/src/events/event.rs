//! An event.

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
