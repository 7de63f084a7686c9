//! Netlink sockets and messages (RFC 3549): build, send in batches, read every acknowledgement.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a netlink request can fail with. The text names the step, the source is the kernel's own word.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the request.
    #[error("{what}: {source}")]
    Refused {
        /// The step that was refused, with the object it was about.
        what: String,
        /// The errno of the kernel's acknowledgement.
        source: io::Error,
    },
    /// The socket itself failed.
    #[error("{what}")]
    Socket {
        /// The step during which it failed.
        what: String,
        /// What the system call said.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("unexpected netlink answer: {0}")]
    Answer(&'static str),
}

impl Error {
    /// The errno behind the error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Answer(_) => None,
        }
    }

    pub(crate) fn socket(what: impl Into<String>, source: io::Error) -> Self {
        Self::Socket { what: what.into(), source }
    }
}

pub(crate) const NLM_F_REQUEST: u16 = 1;
/// Type and payload of an answer.
type Answered = (u16, Vec<u8>);

/// The list was changed while it was given (netlink(7)).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often a list that changes is asked for.
const DUMPS: usize = 20;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_ECHO: u16 = 8;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// One netlink message under construction: header, family header, attributes, all padded to four bytes.
pub(crate) struct Message {
    buf: Vec<u8>,
    /// What the message is for, in words, for the error when it is refused.
    pub(crate) what: String,
    /// An attribute is longer than its length can say: such a message is not sent.
    too_long: bool,
}

impl Message {
    pub(crate) fn new(what: impl Into<String>, kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut buf = vec![0; HEADER];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        buf.extend_from_slice(family_header);
        let mut message = Self { buf, what: what.into(), too_long: false };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.too_long |= value.len() + 4 > usize::from(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
        self
    }

    /// A zero-terminated string, as rtnetlink and nfnetlink names are.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// An integer in host order (rtnetlink).
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An integer in network order (nfnetlink).
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        let mut message = inside(self);
        let len = u16::try_from(message.buf.len() - start).unwrap_or(u16::MAX);
        message.too_long |= message.buf.len() - start > usize::from(u16::MAX);
        message.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        message.buf[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        message
    }

    /// Bytes without an attribute header: the family header that stands inside some attributes.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Not acknowledged: only its refusal is heard. For batches of more messages than acknowledgements fit a socket.
    pub(crate) fn quiet(mut self) -> Self {
        let flags = u16::from_ne_bytes([self.buf[6], self.buf[7]]) & !NLM_F_ACK;
        self.buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    fn is_acked(&self) -> bool {
        u16::from_ne_bytes([self.buf[6], self.buf[7]]) & NLM_F_ACK != 0
    }

    fn check(&self) -> Result<(), Error> {
        if self.too_long {
            let source = io::Error::from_raw_os_error(libc::EMSGSIZE);
            return Err(Error::Refused { what: self.what.clone(), source });
        }
        Ok(())
    }

    fn seal(&mut self, seq: u32) {
        let len = self.buf.len() as u32;
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
    }
}

/// The attributes of a received message, in order.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A netlink socket. Not shared between threads: sequence numbers are its own.
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    protocol: i32,
    port: u32,
}

/// Protocol and port of every socket that is open.
static OWN_PORTS: Mutex<BTreeSet<(i32, u32)>> = Mutex::new(BTreeSet::new());

fn own_ports() -> MutexGuard<'static, BTreeSet<(i32, u32)>> {
    OWN_PORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a socket of this process has this port, in whatever network namespace.
pub(crate) fn is_own_port(protocol: i32, port: u32) -> bool {
    own_ports().contains(&(protocol, port))
}

impl Drop for Socket {
    fn drop(&mut self) {
        own_ports().remove(&(self.protocol, self.port));
    }
}

/// Has the kernel choose a port for the socket; which it is.
fn port_of(fd: &OwnedFd) -> Result<u32, Error> {
    // SAFETY: the address is a local with its size.
    unsafe {
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        let mut size = size_of::<libc::sockaddr_nl>() as u32;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) != 0
            || libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut size) != 0
        {
            return Err(Error::socket("bind a netlink socket", io::Error::last_os_error()));
        }
        Ok(address.nl_pid)
    }
}

impl Socket {
    pub(crate) fn route() -> Result<Self, Error> {
        Self::open(libc::NETLINK_ROUTE)
    }

    pub(crate) fn netfilter() -> Result<Self, Error> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    fn open(protocol: i32) -> Result<Self, Error> {
        // SAFETY: plain system call; the returned descriptor is owned from here on.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(Error::socket("netlink socket", io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just returned by socket(2) and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // A whole table goes in one datagram.
        set_option(&fd, libc::SO_SNDBUFFORCE, &(16i32 << 20));
        // A stuck kernel must not hold a thread for ever.
        set_option(&fd, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 10, tv_usec: 0 });
        // Refusals need not repeat what was asked, which may be long.
        set_netlink_option(&fd, libc::NETLINK_CAP_ACK);
        let port = port_of(&fd)?;
        own_ports().insert((protocol, port));
        Ok(Self { fd, seq: 0, protocol, port })
    }

    /// Sends `messages` as one datagram and waits for the acknowledgement of each that asked for one. The first refusal
    /// is the error; the kernel may have carried out the other messages (nf_tables batches are all or nothing).
    pub(crate) fn send(&mut self, mut messages: Vec<Message>) -> Result<(), Error> {
        messages.iter().try_for_each(Message::check)?;
        let first = self.seq + 1;
        let mut datagram = Vec::new();
        let mut waiting = 0;
        for message in &mut messages {
            self.seq += 1;
            message.seal(self.seq);
            waiting += usize::from(message.is_acked());
            datagram.extend_from_slice(&message.buf);
        }
        self.write(&datagram, &messages[0].what)?;
        let mut refused = None;
        let mut buf = vec![0; 32 * 1024];
        while waiting > 0 {
            let len = self.read(&mut buf)?;
            for Piece { kind, seq, payload, .. } in split(&buf[..len]) {
                if kind != NLMSG_ERROR {
                    continue;
                }
                let Some(index) = seq.checked_sub(first).map(|i| i as usize) else { continue };
                let Some(message) = messages.get(index) else { continue };
                let code = i32::from_ne_bytes(
                    payload.get(..4).ok_or(Error::Answer("short acknowledgement"))?.try_into().unwrap_or([0; 4]),
                );
                // A batch begin that is refused is answered although it asked for no acknowledgement.
                if message.is_acked() {
                    waiting -= 1;
                } else if code != 0 {
                    waiting = 0;
                }
                if code != 0 && refused.is_none() {
                    refused = Some(Error::Refused {
                        what: message.what.clone(),
                        source: io::Error::from_raw_os_error(-code),
                    });
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends a dump request and hands each answer's type and payload (after the netlink header) to `each`. A list that changed while it
    /// was read is asked for again: `each` sees no part of it.
    pub(crate) fn dump(&mut self, mut message: Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), Error> {
        message.check()?;
        for _ in 0..DUMPS {
            if let Some(all) = self.dump_once(&mut message)? {
                all.iter().for_each(|(kind, payload)| each(*kind, payload));
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(Error::Answer("the kernel's list changed each time while it was read"))
    }

    /// All answers; `None` if the list changed meanwhile.
    fn dump_once(&mut self, message: &mut Message) -> Result<Option<Vec<Answered>>, Error> {
        self.seq += 1;
        message.seal(self.seq);
        self.write(&message.buf, &message.what)?;
        let mut buf = vec![0; 64 * 1024];
        let (mut all, mut torn) = (Vec::new(), false);
        loop {
            let len = self.read(&mut buf)?;
            for Piece { kind, flags, seq, payload, .. } in split(&buf[..len]) {
                if seq != self.seq {
                    continue;
                }
                torn |= flags & NLM_F_DUMP_INTR != 0;
                if kind != NLMSG_DONE && kind != NLMSG_ERROR {
                    all.push((kind, payload.to_vec()));
                    continue;
                }
                let code = i32::from_ne_bytes(payload.get(..4).and_then(|b| b.try_into().ok()).unwrap_or([0; 4]));
                if code < 0 {
                    let source = io::Error::from_raw_os_error(-code);
                    return Err(Error::Refused { what: message.what.clone(), source });
                }
                return Ok((!torn).then_some(all));
            }
        }
    }

    fn write(&self, bytes: &[u8], what: &str) -> Result<(), Error> {
        // SAFETY: the buffer is valid for its length; the socket is open.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(Error::socket(what, io::Error::last_os_error()));
        }
        Ok(())
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize, Error> {
        loop {
            // SAFETY: the buffer is valid for its length; the socket is open.
            let len = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_TRUNC) };
            if usize::try_from(len).is_ok_and(|len| len > buf.len()) {
                return Err(Error::Answer("an answer is longer than the buffer"));
            }
            if len >= 0 {
                return Ok(len as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::socket("reading a netlink answer", error));
            }
        }
    }
}

/// Sets an option of a socket; where the kernel refuses, the socket works without.
fn set_option<T: Copy>(fd: &OwnedFd, name: i32, value: &T) {
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        );
    }
}

fn set_netlink_option(fd: &OwnedFd, name: i32) {
    let on = 1i32;
    // SAFETY: the pointer and length describe `on`, which outlives the call.
    unsafe {
        let size = size_of::<i32>() as u32;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, name, (&raw const on).cast(), size);
    }
}

/// One message of a datagram.
pub(crate) struct Piece<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// The socket that asked for it, or whose request a notification tells of; 0 is the kernel.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram.
pub(crate) fn split(mut bytes: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
        let seq = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let port = u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?);
        let payload = bytes.get(HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Piece { kind, flags, seq, port, payload })
    })
}

#[cfg(test)]
mod tests {
    use super::{Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, Socket, attribute, attributes};

    #[test]
    fn attributes_are_padded_and_read_back() {
        let message = Message::new("t", 1, 0, &[]).text(3, "ab").nest(5, |m| m.u8(1, 7).u32(2, 9));
        let body = &message.buf[16..];
        assert_eq!(body.len() % 4, 0);
        assert_eq!(attribute(body, 3), Some(&b"ab\0"[..]));
        let nested = attribute(body, 5).unwrap_or_default();
        assert_eq!(attributes(nested).count(), 2);
        assert_eq!(attribute(nested, 2), Some(&9u32.to_ne_bytes()[..]));
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let mut socket = Socket::route().expect("a socket");
        let long = Message::new("long", 16, NLM_F_ACK, &[0; 16]).bytes(1, &[0; 70_000]);
        let refused = socket.send(vec![long]).expect_err("too long");
        assert_eq!(refused.errno(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_list_that_changed_is_read_again() {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        let mut ends = [0; 2];
        // SAFETY: the array outlives the call; the descriptors are owned at once.
        let [ours, kernel] = unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()), 0);
            ends.map(|fd| OwnedFd::from_raw_fd(fd))
        };
        let answer = |kind: u16, flags: u16, seq: u32, payload: &[u8]| {
            let mut message = Message::new("answer", kind, flags, payload);
            message.seal(seq);
            message.buf[6..8].copy_from_slice(&flags.to_ne_bytes());
            message.buf
        };
        let says = move |seq: u32, parts: &[(u16, u16, &[u8])]| {
            let mut request = [0u8; 256];
            // SAFETY: a buffer with its length.
            unsafe { libc::recv(kernel.as_raw_fd(), request.as_mut_ptr().cast(), request.len(), 0) };
            for (kind, flags, payload) in parts {
                let bytes = answer(*kind, *flags, seq, payload);
                // SAFETY: as above.
                unsafe { libc::send(kernel.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            }
        };
        let kernel = std::thread::spawn(move || {
            says(1, &[(16, NLM_F_DUMP_INTR, b"half"), (NLMSG_DONE, 0, &[0; 4])]);
            says(2, &[(16, 0, b"all1"), (16, 0, b"all2"), (NLMSG_DONE, 0, &[0; 4])]);
            says(3, &[(NLMSG_DONE, 0, &(-libc::EIO).to_ne_bytes())]);
        });
        let mut socket = Socket { fd: ours, seq: 0, protocol: -1, port: 0 };
        let mut heard = Vec::new();
        let ask = || Message::new("list", 18, NLM_F_DUMP, &[0; 16]);
        socket.dump(ask(), |_, payload| heard.push(payload.to_vec())).expect("the second time");
        assert_eq!(heard, [b"all1".to_vec(), b"all2".to_vec()]);
        let broken = socket.dump(ask(), |_, _| {}).expect_err("it broke off");
        assert_eq!(broken.errno(), Some(libc::EIO));
        kernel.join().expect("kernel");
    }

    #[test]
    fn a_truncated_answer_ends_the_walk() {
        assert_eq!(attributes(&[8, 0, 1]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
    }
}
