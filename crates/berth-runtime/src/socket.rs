//! Messages with descriptors over sockets that keep their boundaries (unix(7), SOCK_SEQPACKET).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::sys::check;

/// Most descriptors of one message.
const MOST: usize = 6;

/// Room for [`MOST`] descriptors, aligned as a control message must be.
type Control = [u64; 6];

/// A pair of connected sockets, both close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors, which are owned as soon as they exist.
    unsafe {
        check(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()).into())?;
        Ok((OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])))
    }
}

/// Sends one message; `flags` beyond MSG_NOSIGNAL.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[i32], flags: i32) -> io::Result<()> {
    debug_assert!(fds.len() <= MOST);
    let mut control: Control = [0; 6];
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to locals that outlive the call; the control buffer has room for the descriptors.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        }
        check(libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | flags) as i64).map(drop)
    }
}

/// Receives one message; a length of 0 is the end.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: i32) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; 6];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to locals that outlive the call; descriptors received are owned from here on.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_CMSG_CLOEXEC | flags;
        let length = check(libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) as i64)?;
        let mut fds = Vec::new();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
            for index in 0..count {
                let fd = libc::CMSG_DATA(header).cast::<i32>().add(index).read_unaligned();
                fds.push(OwnedFd::from_raw_fd(fd));
            }
        }
        Ok((length as usize, fds))
    }
}

/// The address of a socket in a folder. By the folder's descriptor: a path may be longer than an address holds.
fn address(folder: &OwnedFd, name: &str) -> io::Result<(libc::sockaddr_un, u32)> {
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    // SAFETY: plain data.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    if path.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    Ok((address, (size_of::<libc::sa_family_t>() + path.len() + 1) as u32))
}

fn socket(kind: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: plain system call; the descriptor is owned at once.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0).into())? as i32)) }
}

/// A listening socket `name` in `folder`, in place of an older one.
pub(crate) fn listen(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    listen_as(folder, name, libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK)
}

/// The same for a stream of bytes, which waits for whoever connects.
pub(crate) fn listen_stream(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    listen_as(folder, name, libc::SOCK_STREAM)
}

fn listen_as(folder: &Path, name: &str, kind: i32) -> io::Result<OwnedFd> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder: OwnedFd = std::fs::File::open(folder)?.into();
    let (address, length) = address(&folder, name)?;
    let listener = socket(kind)?;
    // SAFETY: an address on the stack with its length.
    unsafe {
        check(libc::bind(listener.as_raw_fd(), (&raw const address).cast(), length).into())?;
        check(libc::listen(listener.as_raw_fd(), 16).into())?;
    }
    Ok(listener)
}

/// The next connection, not blocking; `None` if there is none.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no address is asked for; the descriptor is owned at once.
    unsafe {
        let fd = libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// Connects to the socket `name` in `folder`, and never waits: `WouldBlock` where too many wait to be let in.
pub(crate) fn connect(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let folder: OwnedFd = std::fs::File::open(folder)?.into();
    let (address, length) = address(&folder, name)?;
    let connection = socket(libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
    // SAFETY: an address on the stack with its length.
    check(unsafe { libc::connect(connection.as_raw_fd(), (&raw const address).cast(), length) }.into())?;
    Ok(connection)
}
