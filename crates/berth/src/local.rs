//! Unix sockets by which the command line on the same machine talks to the server: what goes over them can't be listened to, and
//! nobody else can be there in the server's place. The one in the data folder is for whoever can read that folder, and asks for a
//! token as every listener does; the other one is for administrators of the machine, whom its mode lets in.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

/// Name of the socket in the data folder.
const NAME: &str = "berth.sock";
/// Most bytes of a path in a socket's address: `sun_path` (unix(7)) with its end.
const LONGEST: usize = 107;
/// The administrators' socket of the server of this machine.
pub(crate) const STANDARD: &str = "/run/berth/berth.sock";
/// The data folder of the server of this machine.
pub(crate) const STANDARD_DATA: &str = "/var/lib/berth";

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Socket {
    /// Path of a Unix socket for administrators of this machine: whoever may open it has the administrator's rights without a
    /// token. Empty: `/run/berth/berth.sock` for the data folder `/var/lib/berth`, and none for another one. `none`: none.
    pub(crate) path: String,
    /// Group whose members may open that socket, beside root, if there is such a group. Its members have root's rights.
    pub(crate) group: String,
}

impl Default for Socket {
    fn default() -> Self {
        Self { path: String::new(), group: "berth".into() }
    }
}

impl Socket {
    /// Where the administrators' socket of a server with this data folder is.
    pub(crate) fn of(&self, data: &Path) -> Option<PathBuf> {
        match self.path.as_str() {
            "none" => None,
            "" if data == Path::new(STANDARD_DATA) => Some(STANDARD.into()),
            "" => None,
            path => Some(path.into()),
        }
    }
}

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

/// The number of a group of this machine.
pub(crate) fn group(name: &str) -> Option<u32> {
    let all = fs::read_to_string("/etc/group").ok()?;
    let line = all.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Listens for clients on this machine.
pub(crate) struct Listener(UnixListener);

fn bind(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Listener> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        // An earlier server's. Anything else is somebody's file.
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = tokio::net::UnixSocket::new_stream()?;
    // The kernel makes the file with the mode of the socket: nobody gets in before group and mode are right.
    // SAFETY: plain system call on an open descriptor.
    if unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(fitting(path)?)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(1024).map(Listener)
}

impl Listener {
    /// Listens in the data folder. Takes the place of a socket that an earlier server left: the caller holds the lock of the data
    /// folder, which is its owner's alone.
    ///
    /// # Errors
    /// What the file system said.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        bind(&path(data), 0o600, None)
    }

    /// Listens for administrators at `path`, whose folder is made if it is not there.
    ///
    /// # Errors
    /// That others than root may write in its folder, that another server listens there, or what the file system said.
    pub(crate) fn of_administrators(path: &Path, group_name: &str) -> Result<Self, String> {
        let named = |e: &dyn std::fmt::Display| format!("socket.path {}: {e}", path.display());
        if !path.is_absolute() {
            return Err(named(&"not an absolute path"));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|e| named(&e))?;
        let meta = fs::metadata(folder).map_err(|e| named(&e))?;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(named(&"others than root may write in its folder, and put a socket of theirs in its place"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(named(&"another server listens there"));
        }
        let group = group(group_name);
        if group.is_none() && !group_name.is_empty() {
            tracing::info!(group = group_name, "there is no such group: the administrators' socket is root's alone");
        }
        bind(path, if group.is_some() { 0o660 } else { 0o600 }, group).map_err(|e| named(&e))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Socket;

    #[test]
    fn only_the_server_of_the_machine_has_the_standard_socket() {
        let socket = Socket::default();
        assert_eq!(socket.of(Path::new("/var/lib/berth")).as_deref(), Some(Path::new("/run/berth/berth.sock")));
        assert_eq!(socket.of(Path::new("/srv/other")), None);
        assert_eq!(Socket { path: "none".into(), ..socket.clone() }.of(Path::new("/var/lib/berth")), None);
        let own = Socket { path: "/run/other.sock".into(), ..socket };
        assert_eq!(own.of(Path::new("/srv/other")).as_deref(), Some(Path::new("/run/other.sock")));
    }
}
