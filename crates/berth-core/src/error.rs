//! What can go wrong.

use berth_engine::EngineError;

pub use berth_types::{FaultKind, Field};

/// Why a use case failed. The text is for the client; the cause, in `source()`, is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`FaultKind::Invalid`].
    #[error("{field}: {message}")]
    Invalid {
        /// The value.
        field: Field,
        /// What is wrong with it.
        message: String,
    },
    /// See [`FaultKind::NotFound`].
    #[error("no such {what}: {name}")]
    NotFound {
        /// `container`, `image` …
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// See [`FaultKind::Duplicate`].
    #[error("{0}")]
    Duplicate(String),
    /// See [`FaultKind::WrongState`].
    #[error("{0}")]
    WrongState(String),
    /// See [`FaultKind::InUse`].
    #[error("{0}")]
    InUse(String),
    /// See [`FaultKind::NoRoom`].
    #[error("{0}")]
    NoRoom(String),
    /// A host has less left than is requested; see [`FaultKind::NoRoom`].
    #[error("insufficient {resource} on the host: {requested} requested, {left} left")]
    Insufficient {
        /// `cpu` (in cores) or `memory`.
        resource: &'static str,
        /// How much is requested, with its unit.
        requested: String,
        /// How much there is, in the same unit.
        left: String,
    },
    /// See [`FaultKind::TooOften`].
    #[error("{0}")]
    TooOften(String),
    /// See [`FaultKind::Quota`].
    #[error("{0}")]
    Quota(String),
    /// See [`FaultKind::Forbidden`].
    #[error("{0}")]
    Forbidden(String),
    /// See [`FaultKind::Timeout`].
    #[error("timed out: {0}")]
    Timeout(String),
    /// See [`FaultKind::Upstream`]; what a registry does not have is [`FaultKind::NotFound`].
    #[error("{0}")]
    Registry(#[from] crate::registries::error::RegistryError),
    /// A program could not be run, or a container not be made as asked: [`FaultKind::Invalid`].
    #[error("start: {text}")]
    Start {
        /// The step that failed, with the value.
        text: String,
        /// The exit code that Docker gives it: 127 there is no such program, 126 it can't be run, 125 anything else.
        code: i32,
    },
    /// The engine failed; see [`FaultKind::Unavailable`].
    #[error("the host failed; the server log has the reason")]
    Engine(#[source] EngineError),
    /// The database failed.
    #[error("the database failed; the server log has the reason")]
    Store(#[source] berth_store::Error),
    /// The image store failed.
    #[error("the image store failed; the server log has the reason")]
    Image(#[source] berth_image::Error),
    /// Something that can't be.
    #[error("internal error")]
    Bug(String),
}

impl Error {
    /// Which kind it is.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Invalid { .. } => FaultKind::Invalid,
            Self::NotFound { .. } => FaultKind::NotFound,
            Self::Duplicate(_) => FaultKind::Duplicate,
            Self::WrongState(_) => FaultKind::WrongState,
            Self::InUse(_) => FaultKind::InUse,
            Self::NoRoom(_) | Self::Insufficient { .. } => FaultKind::NoRoom,
            Self::TooOften(_) => FaultKind::TooOften,
            Self::Quota(_) => FaultKind::Quota,
            Self::Forbidden(_) => FaultKind::Forbidden,
            Self::Timeout(_) => FaultKind::Timeout,
            Self::Registry(crate::registries::error::RegistryError::NotFound(_)) => FaultKind::NotFound,
            Self::Registry(_) => FaultKind::Upstream,
            Self::Start { .. } => FaultKind::Invalid,
            Self::Engine(_) => FaultKind::Unavailable,
            Self::Store(_) | Self::Image(_) | Self::Bug(_) => FaultKind::Bug,
        }
    }

    /// What a client may read: no path, SQL or backtrace.
    pub fn public(&self) -> String {
        self.to_string()
    }

    /// The whole chain, for the log.
    pub fn chain(&self) -> String {
        let mut text = match self {
            Self::Bug(what) => format!("{self}: {what}"),
            _ => self.to_string(),
        };
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
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

impl From<berth_identity::Error> for Error {
    fn from(error: berth_identity::Error) -> Self {
        use berth_identity::Error as Of;
        match error {
            Of::Invalid { field, message } => Self::Invalid { field, message },
            Of::NotFound { what, name } => Self::NotFound { what, name },
            Of::Duplicate(what) => Self::Duplicate(what),
            Of::InUse(why) => Self::InUse(why),
            Of::TooOften(why) => Self::TooOften(why),
            Of::Forbidden(why) => Self::Forbidden(why),
            Of::NoRoom(why) => Self::NoRoom(why),
            Of::Store(error) => Self::Store(error),
            Of::Bug(what) => Self::Bug(what),
        }
    }
}

impl From<berth_operations::Error> for Error {
    fn from(error: berth_operations::Error) -> Self {
        use berth_operations::Error as Of;
        match error {
            Of::NotFound { what, name } => Self::NotFound { what, name },
            Of::WrongState(why) => Self::WrongState(why),
            Of::NoRoom(why) => Self::NoRoom(why),
            Of::Store(error) => Self::Store(error),
            Of::Bug(what) => Self::Bug(what),
        }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoSuchUnit(id) => Self::NotFound { what: "container", name: id.to_string() },
            EngineError::NotRunning(_) | EngineError::Paused(_) | EngineError::Unsupported(_) => {
                Self::WrongState(error.to_string())
            }
            EngineError::PortInUse(..) => Self::InUse(error.to_string()),
            EngineError::NoFreePort(..) | EngineError::NoRoom(_) => Self::NoRoom(error.to_string()),
            EngineError::Start { text, code } => Self::Start { text, code },
            EngineError::Refused(text) => Self::WrongState(text),
            EngineError::Timeout(what) => Self::Timeout(what),
            EngineError::Failed(_) => Self::Engine(error),
        }
    }
}

impl From<berth_image::Error> for Error {
    fn from(error: berth_image::Error) -> Self {
        if error.is_no_room() {
            return Self::NoRoom("not enough disk space on this server".into());
        }
        if error.is_clients() { Self::invalid(Field::Archive, error.to_string()) } else { Self::Image(error) }
    }
}
