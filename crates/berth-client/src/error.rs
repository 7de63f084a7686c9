//! Why a call failed, in words and for programs.

use berth_api::wire::Problem;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no, and why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The server could not be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// The answer is not what this client knows.
    #[error("unexpected answer of the server: {0}")]
    Answer(String),
}

impl Error {
    /// The exit code that Docker gives to a program that could not be run; `None` for other errors.
    pub fn exit_code(&self) -> Option<u8> {
        match self.code() {
            Some("program_not_found") => Some(127),
            Some("program_not_executable") => Some(126),
            Some("start_failed") => Some(125),
            _ => None,
        }
    }

    /// Whether the server is away, or about to go: the same may be asked of the next one.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Connection(_)) || matches!(self.code(), Some("draining" | "overloaded"))
    }

    /// The server's word for programs, where there is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        if error.is_connect() {
            let url = error.url().map(|u| u.origin().ascii_serialization()).unwrap_or_default();
            if let Some(why) = berth_tls::explain(&error) {
                return Self::Connection(format!("the server at {url} can't be trusted: {why}"));
            }
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            return Self::Connection(format!("no server answers at {url} ({cause}); is it running?"));
        }
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Self::Connection(text)
    }
}
