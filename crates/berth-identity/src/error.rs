//! Why something about identity failed.

use berth_types::Field;

/// Why a use case of this part failed. The text is for the client; the cause, in `source()`, is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`berth_types::FaultKind::Invalid`].
    #[error("{field}: {message}")]
    Invalid {
        /// The value.
        field: Field,
        /// What is wrong with it.
        message: String,
    },
    /// See [`berth_types::FaultKind::NotFound`].
    #[error("no such {what}: {name}")]
    NotFound {
        /// `account`, `token` …
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// See [`berth_types::FaultKind::Duplicate`].
    #[error("{0}")]
    Duplicate(String),
    /// See [`berth_types::FaultKind::InUse`].
    #[error("{0}")]
    InUse(String),
    /// See [`berth_types::FaultKind::TooOften`].
    #[error("{0}")]
    TooOften(String),
    /// See [`berth_types::FaultKind::Forbidden`].
    #[error("{0}")]
    Forbidden(String),
    /// See [`berth_types::FaultKind::NoRoom`].
    #[error("{0}")]
    NoRoom(String),
    /// The database failed.
    #[error("the database failed; the server log has the reason")]
    Store(#[source] berth_store::Error),
    /// Something that can't be.
    #[error("internal error")]
    Bug(String),
}

impl Error {
    /// The whole chain, for the log.
    pub fn chain(&self) -> String {
        match self {
            Self::Bug(what) => format!("{self}: {what}"),
            Self::Store(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }

    pub(crate) fn invalid(field: Field, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }
}

impl From<berth_store::Error> for Error {
    fn from(error: berth_store::Error) -> Self {
        match error {
            berth_store::Error::Duplicate(what) => Self::Duplicate(format!("{what} exists already")),
            error if error.is_full() => Self::NoRoom("the server's disk is full".into()),
            other => Self::Store(other),
        }
    }
}
