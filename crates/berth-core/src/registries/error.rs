//! Why a registry did not do what it was asked.

/// Why a registry did not do what it was asked. Texts are for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The login is missing, wrong, or may not.
    #[error("{0}")]
    Denied(String),
    /// It can't be reached, or breaks off again and again.
    #[error("{0}")]
    Unreachable(String),
    /// What it sends is not what it should be.
    #[error("{0}")]
    Wrong(String),
}
