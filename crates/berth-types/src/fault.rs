//! Kinds of failures.

/// The kinds that dialects translate. A match over them has no `_`: each dialect decides anew when one is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A value is missing, of the wrong form, or out of range.
    Invalid,
    /// There is no such thing, or it is another account's.
    NotFound,
    /// A name is taken.
    Duplicate,
    /// It can't be done in the state that the thing is in.
    WrongState,
    /// Something else still uses it.
    InUse,
    /// The host has no room, or too much is under way.
    NoRoom,
    /// The account asks too often.
    TooOften,
    /// The account has as much as it may have.
    Quota,
    /// The caller may not.
    Forbidden,
    /// It took too long.
    Timeout,
    /// Another server, such as a registry, failed or refused.
    Upstream,
    /// The host failed, not the client: it can't do this now.
    Unavailable,
    /// berth's own fault.
    Bug,
}
