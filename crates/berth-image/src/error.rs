//! What can be wrong with an image.

use std::io;

/// Why an import failed. Nothing of it is left in the store then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive breaks its format or tries what no archive may: told to the client as it is.
    #[error("{0}")]
    Bad(String),
    /// More than the limits allow.
    #[error("{0}")]
    TooBig(String),
    /// The disk is too full to go on.
    #[error("not enough disk space: {available} bytes are free, {reserve} are kept in reserve")]
    DiskFull {
        /// Bytes free now.
        available: u64,
        /// Bytes that are never used for images.
        reserve: u64,
    },
    /// The file system has too few inodes to go on.
    #[error("not enough inodes on the disk: {available} are free, {reserve} are kept in reserve")]
    InodesFull {
        /// Inodes free now.
        available: u64,
        /// Inodes that are never used for images.
        reserve: u64,
    },
    /// The client's stream or the disk failed.
    #[error("{what}: {source}")]
    Io {
        /// The step.
        what: String,
        /// The system's word.
        source: io::Error,
    },
}

impl Error {
    /// Whether the disk is full.
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::InodesFull { .. } => true,
            Self::Io { source, .. } => matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)),
            Self::Bad(_) | Self::TooBig(_) => false,
        }
    }

    /// Whether the fault is in what the client sent.
    pub fn is_clients(&self) -> bool {
        match self {
            Self::Bad(_) | Self::TooBig(_) => true,
            // What the system refuses has a number; without one it is a parser's word about the stream. Some names that an
            // archive asks for can't exist.
            Self::Io { source, .. } => {
                matches!(
                    source.raw_os_error(),
                    None | Some(
                        libc::ENAMETOOLONG
                            | libc::ELOOP
                            | libc::EINVAL
                            | libc::ENOENT
                            | libc::ENOTDIR
                            | libc::EISDIR
                            | libc::EEXIST
                            | libc::EMLINK
                            | libc::EPERM
                            | libc::E2BIG
                            | libc::ERANGE
                    )
                )
            }
            Self::DiskFull { .. } | Self::InodesFull { .. } => false,
        }
    }
}

pub(crate) fn bad(text: impl Into<String>) -> Error {
    Error::Bad(text.into())
}

pub(crate) trait Named<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

/// Why an entry of a tar can't be read. What has no first entry is no tar: the parser's words about it are of no use to anybody.
pub(crate) fn not_a_tar(error: std::io::Error, first: bool) -> Error {
    let parsers = matches!(error.kind(), std::io::ErrorKind::Other | std::io::ErrorKind::UnexpectedEof);
    if first && parsers {
        return bad("this is no tar archive, plain or compressed by gzip, zstd, xz or bzip2");
    }
    Error::Io { what: "read the tar".into(), source: error }
}
