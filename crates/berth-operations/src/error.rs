//! Why something about operations failed.

/// Why a use case of this part failed. The text is for the client; the cause, in `source()`, is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such command, or it is another account's.
    #[error("no such {what}: {name}")]
    NotFound {
        /// `command`.
        what: &'static str,
        /// Its id.
        name: String,
    },
    /// It can't be done in the state that the command is in.
    #[error("{0}")]
    WrongState(String),
    /// As many commands wait as may.
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
}

impl From<berth_store::Error> for Error {
    fn from(error: berth_store::Error) -> Self {
        if error.is_full() { Self::NoRoom("the server's disk is full".into()) } else { Self::Store(error) }
    }
}
