//! Who changed what, from where, and what came of it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_store::{AuditEntry as Row, AuditFilter};

use crate::Identity;
use crate::error::Error;
use crate::tokens::{Caller, Credential, Role};
use berth_types::Page;
use berth_types::now;

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
    /// How often the same came of it.
    pub count: i64,
    /// When it did last, nanoseconds since 1970.
    pub last_at: i64,
}

/// A change to be noted.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Who asked, if that is known.
    pub caller: Option<Caller>,
    /// Instead of the caller's credential: the key of an SSH login.
    pub who: Option<String>,
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

/// Failures that were noted lately: the same again is counted, not noted, and so is what is beyond an account's rate.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    recent: HashMap<u64, Recent>,
    /// Places for different failures that accounts have left, and when that was so.
    places: HashMap<i64, (f64, Instant)>,
    /// A task will write the counts down.
    counting: bool,
}

#[derive(Debug)]
struct Recent {
    /// `None` while it is being written down.
    id: Option<i64>,
    since: Instant,
    unwritten: i64,
    last_at: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// To be noted, and under this key when it is.
    New(Option<u64>),
    /// To be noted as one of many.
    TooMany(u64),
    /// Counted; the first since counts were written down.
    Again { first: bool },
}

/// How long the same failure is counted with the first.
const SAME_FOR: Duration = Duration::from_secs(600);
/// Between two writes of counts.
const BETWEEN_COUNTS: Duration = Duration::from_secs(1);
/// Different failures of an account that are noted one by one: a second, and at once.
const DIFFERENT: (u32, u32) = (5, 500);
/// Failures that are remembered.
const MOST_REMEMBERED: usize = 4096;

impl Failures {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, row: &Row, now: Instant) -> Heard {
        let hash = |parts: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            parts(&mut hasher);
            hasher.finish()
        };
        let key = hash(&|h| {
            (row.account_id, &row.who, &row.source, &row.dialect, &row.action, &row.result, &row.message).hash(h);
        });
        let overflow = hash(&|h| (row.account_id, "further").hash(h));
        let mut known = self.known();
        if known.recent.len() >= MOST_REMEMBERED {
            known.recent.retain(|_, recent| recent.unwritten > 0 || now.duration_since(recent.since) < SAME_FOR / 10);
        }
        let again = |known: &mut Known, key: u64| {
            let recent = known.recent.get_mut(&key).filter(|recent| now.duration_since(recent.since) < SAME_FOR)?;
            recent.unwritten += 1;
            recent.last_at = row.at;
            Some(Heard::Again { first: !std::mem::replace(&mut known.counting, true) })
        };
        if let Some(again) = again(&mut known, key) {
            return again;
        }
        let (rate, burst) = DIFFERENT;
        let places = known.places.entry(row.account_id).or_insert((f64::from(burst), now));
        let free = crate::sessions::take_place_at(places, rate, burst, now);
        let key = if free { key } else { overflow };
        if !free && let Some(again) = again(&mut known, overflow) {
            return again;
        }
        known.recent.insert(key, Recent { id: None, since: now, unwritten: 0, last_at: row.at });
        if free { Heard::New(Some(key)) } else { Heard::TooMany(key) }
    }

    fn noted(&self, key: u64, id: i64) {
        if let Some(recent) = self.known().recent.get_mut(&key) {
            recent.id = Some(id);
        }
    }

    fn take_counts(&self) -> Vec<(i64, i64, i64)> {
        let mut known = self.known();
        known.counting = false;
        let taken = |recent: &mut Recent| {
            let id = recent.id.filter(|_| recent.unwritten > 0)?;
            Some((id, std::mem::take(&mut recent.unwritten), recent.last_at))
        };
        known.recent.values_mut().filter_map(taken).collect()
    }
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

/// Characters of an action that are kept: method, path, and what was run.
const LONGEST_ACTION: usize = 400;
/// Characters of a message that are kept.
const LONGEST_MESSAGE: usize = 300;

impl Identity {
    /// Notes a change; on disk when this returns.
    ///
    /// # Errors
    /// The database's own.
    pub async fn audit_note(&self, change: Change) -> Result<(), Error> {
        let credential = change.caller.map(|c| c.credential).filter(|_| change.who.is_none());
        let who = match credential {
            Some(Credential::Token(id)) => format!("token {id}"),
            Some(Credential::Key(id) | Credential::Signature { key: id, .. }) => format!("key {id}"),
            Some(Credential::Command) => "command".into(),
            Some(Credential::Local(user)) => format!("local user {user}"),
            None => change.who.unwrap_or_default(),
        };
        let row = Row {
            id: 0,
            at: now(),
            account_id: change.caller.map_or(0, |c| c.account),
            who,
            source: change.source,
            dialect: change.dialect.into(),
            action: change.action.chars().take(LONGEST_ACTION).collect(),
            result: change.result.to_string(),
            message: change.message.chars().take(LONGEST_MESSAGE).collect(),
            request_id: change.request_id,
            ..Row::default()
        };
        let failed = change.result >= 400 || !row.message.is_empty();
        match if failed { self.inner.failures.heard(&row, Instant::now()) } else { Heard::New(None) } {
            Heard::New(key) => {
                let id = self.write(move |tx| Ok(tx.audit_add(&row)?)).await?;
                if let Some(key) = key {
                    self.inner.failures.noted(key, id);
                }
            }
            Heard::TooMany(key) => {
                let row = Row {
                    who: String::new(),
                    source: String::new(),
                    action: "further failed requests".into(),
                    message: String::new(),
                    request_id: String::new(),
                    ..row
                };
                let id = self.write(move |tx| Ok(tx.audit_add(&row)?)).await?;
                self.inner.failures.noted(key, id);
            }
            Heard::Again { first } => {
                if first {
                    let identity = self.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(BETWEEN_COUNTS).await;
                        if let Err(error) = identity.audit_flush().await {
                            tracing::error!(
                                error = error.chain(),
                                "repeated failures could not be counted in the audit log"
                            );
                        }
                    });
                }
            }
        }
        Ok(())
    }

    /// Writes down how often failures have come again.
    ///
    /// # Errors
    /// The database's own.
    pub async fn audit_flush(&self) -> Result<(), Error> {
        let counts = self.inner.failures.take_counts();
        if counts.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            counts.iter().try_for_each(|(id, more, at)| tx.audit_repeat(*id, *more, *at))?;
            Ok(())
        })
        .await
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
            count: row.count,
            last_at: row.last_at.max(row.at),
        };
        Ok(Page { items: rows.into_iter().map(entry).collect(), next })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use berth_store::AuditEntry as Row;

    use super::{Failures, Heard};

    #[test]
    fn the_same_failure_is_counted_and_many_different_ones_are_one() {
        let failures = Failures::default();
        let now = Instant::now();
        let row = |action: &str, account_id| Row { action: action.into(), account_id, at: 7, ..Row::default() };
        let Heard::New(Some(key)) = failures.heard(&row("a", 1), now) else { panic!("it is new") };
        assert_eq!(failures.heard(&row("a", 1), now), Heard::Again { first: true });
        assert!(failures.take_counts().is_empty(), "not while it is being written down");
        failures.noted(key, 3);
        assert_eq!(failures.heard(&row("a", 1), now), Heard::Again { first: true });
        assert_eq!(failures.heard(&row("a", 1), now), Heard::Again { first: false });
        assert_eq!(failures.take_counts(), [(3, 3, 7)]);
        assert!(matches!(failures.heard(&row("a", 2), now), Heard::New(_)), "another account's");
        let later = now + Duration::from_secs(601);
        assert!(matches!(failures.heard(&row("a", 1), later), Heard::New(_)), "after a while it is noted again");
        // Different ones: as many as the rate allows, then one row for the rest.
        let heard: Vec<_> = (0..2000).map(|n| failures.heard(&row(&format!("x{n}"), 5), now)).collect();
        let count = |wanted: fn(&Heard) -> bool| heard.iter().filter(|h| wanted(h)).count();
        assert_eq!(count(|h| matches!(h, Heard::New(_))), 500);
        assert_eq!(count(|h| matches!(h, Heard::TooMany(_))), 1);
    }
}
