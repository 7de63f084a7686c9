//! Who changed what, from where, and what came of it.

use berth_store::{AuditEntry as Row, AuditFilter};

use crate::containers::Page;
use crate::core::Core;
use crate::error::Error;
use crate::now;
use crate::tokens::{Caller, Credential, Role};

/// A change that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Number; grows.
    pub id: i64,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// The credential: `token 1`, `key 2`; empty if none was good.
    pub who: String,
    /// The client's address.
    pub source: String,
    /// The API that it came by.
    pub dialect: String,
    /// Method and path.
    pub action: String,
    /// HTTP status.
    pub result: String,
    /// What was said if it failed.
    pub message: String,
    /// Id of the request.
    pub request_id: String,
}

/// A change to be noted.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Who asked, if that is known.
    pub caller: Option<Caller>,
    /// The client's address.
    pub source: String,
    /// The API that it came by.
    pub dialect: &'static str,
    /// Method and path.
    pub action: String,
    /// HTTP status.
    pub result: u16,
    /// What was said if it failed.
    pub message: String,
    /// Id of the request.
    pub request_id: String,
}

/// Which entries to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Those of all accounts; for administrators.
    pub all: bool,
    /// With numbers below this; 0 is all.
    pub before: i64,
    /// From then on, nanoseconds since 1970.
    pub since: i64,
    /// Before then, nanoseconds since 1970; 0 is no bound.
    pub until: i64,
    /// By this credential.
    pub who: Option<String>,
    /// In whose action this is found.
    pub action: Option<String>,
    /// Only what failed.
    pub failed: bool,
    /// At most so many.
    pub limit: u32,
}

impl Core {
    /// Notes a change; on disk when this returns.
    ///
    /// # Errors
    /// The database's own.
    pub async fn audit_note(&self, change: Change) -> Result<(), Error> {
        let who = match change.caller.map(|c| c.credential) {
            Some(Credential::Token(id)) => format!("token {id}"),
            Some(Credential::Key(id) | Credential::Signature { key: id, .. }) => format!("key {id}"),
            Some(Credential::Command) => "command".into(),
            None => String::new(),
        };
        let row = Row {
            id: 0,
            at: now(),
            account_id: change.caller.map_or(0, |c| c.account),
            who,
            source: change.source,
            dialect: change.dialect.into(),
            action: change.action.chars().take(1000).collect(),
            result: change.result.to_string(),
            message: change.message.chars().take(1000).collect(),
            request_id: change.request_id,
        };
        self.write(move |tx| Ok(tx.audit_add(&row)?)).await
    }

    /// The account's changes, newest first.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for those of all accounts.
    pub async fn audit(&self, caller: &Caller, query: AuditQuery) -> Result<Page<AuditEntry>, Error> {
        if query.all && caller.role != Role::Admin {
            return Err(Error::Forbidden("only an administrator sees what others did".into()));
        }
        let limit = query.limit as usize;
        let filter = AuditFilter {
            account: (!query.all).then_some(caller.account),
            before: query.before,
            since: query.since,
            until: query.until,
            who: query.who,
            action: query.action,
            failed: query.failed,
            limit: query.limit.saturating_add(1),
        };
        let mut rows = self.read(move |tx| Ok(tx.audit(&filter)?)).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id);
        let entry = |row: Row| AuditEntry {
            id: row.id,
            at: row.at,
            who: row.who,
            source: row.source,
            dialect: row.dialect,
            action: row.action,
            result: row.result,
            message: row.message,
            request_id: row.request_id,
        };
        Ok(Page { items: rows.into_iter().map(entry).collect(), next })
    }
}
