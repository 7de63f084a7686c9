//! The Unix socket in the data folder, by which the command line on the same machine talks to the server: what goes over it
//! can't be listened to, and nobody else can be there in the server's place.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket in the data folder.
const NAME: &str = "berth.sock";
/// Most bytes of a path in a socket's address: `sun_path` (unix(7)) with its end.
const LONGEST: usize = 107;

/// The socket of a server with this data folder.
pub(crate) fn path(data: &Path) -> PathBuf {
    data.join(NAME)
}

/// A path to the same socket that fits into an address. A long one goes by its folder's descriptor, which stays open for as
/// long as this program runs.
pub(crate) fn fitting(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().len() <= LONGEST {
        return Ok(path.to_owned());
    }
    let (folder, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let folder = fs::File::open(folder)?.into_raw_fd();
    Ok(Path::new("/proc/self/fd").join(folder.to_string()).join(name))
}

/// Listens for clients on this machine that may read the data folder.
pub(crate) struct Listener(UnixListener);

impl Listener {
    /// Takes the place of a socket that an earlier server left: the caller holds the lock of the data folder.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let path = path(data);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(fitting(&path)?)?;
        // The folder is its owner's alone already; a socket that is moved elsewhere stays so.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        debug_assert!(listener.as_raw_fd() > 2);
        Ok(Self(listener))
    }
}

impl axum::serve::Listener for Listener {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => return (stream, local_address()),
                Err(error) => {
                    tracing::debug!(%error, "a local connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(local_address())
    }
}

/// What stands for the address of a client on this socket: loopback, with a port that no connection has.
fn local_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
