//! Standard input of a container, and those who are attached to it. Part of the shim, so that neither ends with the server.
//!
//! ```text
//! client to shim: 0 DATA    standard input        shim to client: 3 TIME  the first message (64 bits, little end first)
//!                 1         end of input                          1 DATA  standard output
//!                 2 ROWS COLUMNS  (16 bits each, little end first) 2 DATA  standard error
//! ```
//! Output waits for the slowest client, for a while; then that client is let go. All output is in the log as well: what was
//! written up to TIME (nanoseconds since 1970) is there and is not sent, what comes later is sent. So a client that wants
//! everything reads the log up to TIME first; and one that was let go, or came at the end, reads the rest there. The hub
//! waits for nobody when the container ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::log::{Stream, Writer, now_ns};
use crate::{socket, terminal};

/// Name of the socket in the container's folder.
pub(crate) const SOCKET: &str = "attach";
/// How long a client may take none of what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most that are attached at a time; the next waits.
const MOST_CLIENTS: usize = 32;
/// Most bytes that wait for one client after the container's end.
const MOST_WAITING: usize = 4 << 20;
/// Longest message.
pub(crate) const LONGEST: usize = 32 * 1024;

struct Client {
    connection: OwnedFd,
    pending: VecDeque<Vec<u8>>,
    /// When it last took something.
    took: Instant,
    gone: bool,
}

pub(crate) struct Hub {
    listener: OwnedFd,
    clients: Vec<Client>,
    /// Standard input's writing end, or the terminal.
    input: Option<File>,
    waiting_input: Vec<u8>,
    /// The input ends when what waits has gone in.
    ends: bool,
    terminal: bool,
}

fn nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: plain system calls on an open descriptor.
    unsafe {
        let flags = crate::sys::check(libc::fcntl(file.as_raw_fd(), libc::F_GETFL).into())?;
        crate::sys::check(libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags as i32 | libc::O_NONBLOCK).into())?;
    }
    Ok(())
}

impl Hub {
    /// `input` is the terminal's master if `terminal`.
    pub(crate) fn open(folder: &Path, input: Option<File>, terminal: bool) -> io::Result<Self> {
        // The terminal's master shares its flags with the end that is read; that is polled before it is read.
        input.as_ref().map(nonblocking).transpose()?;
        Ok(Self {
            listener: socket::listen(folder, SOCKET)?,
            clients: Vec::new(),
            input,
            waiting_input: Vec::new(),
            ends: false,
            terminal,
        })
    }

    /// Whether somebody has not taken what was sent last: no more is to be read from the container meanwhile.
    pub(crate) fn is_blocked(&self) -> bool {
        self.clients.iter().any(|c| !c.pending.is_empty())
    }

    /// What to poll: the listener, the input, then the clients.
    pub(crate) fn polled(&self, entries: &mut Vec<libc::pollfd>) {
        let entry = |fd: i32, events| libc::pollfd { fd, events, revents: 0 };
        let listener = if self.clients.len() < MOST_CLIENTS { self.listener.as_raw_fd() } else { -1 };
        entries.push(entry(listener, libc::POLLIN));
        let waiting = !self.waiting_input.is_empty();
        let input = self.input.as_ref().filter(|_| waiting).map_or(-1, AsRawFd::as_raw_fd);
        entries.push(entry(input, libc::POLLOUT));
        for client in &self.clients {
            // No more input is taken from clients while the program does not take what is there.
            let input = if waiting { 0 } else { libc::POLLIN };
            let output = if client.pending.is_empty() { 0 } else { libc::POLLOUT };
            let events = input | output;
            entries.push(entry(client.connection.as_raw_fd(), events));
        }
    }

    /// Does what the poll (of [`polled`](Self::polled), same order) has made possible. `log` has all that was written so far.
    pub(crate) fn serve(&mut self, polled: &[libc::pollfd], log: &mut Writer) {
        if polled.get(1).is_some_and(|p| p.revents != 0) {
            self.pass_input();
        }
        for index in 0..self.clients.len() {
            let events = polled.get(index + 2).map_or(0, |p| p.revents);
            self.clients[index].flush(events & libc::POLLOUT != 0);
            if events & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
                self.hear(index);
            }
        }
        self.clients.retain(|c| !c.gone);
        if polled.first().is_some_and(|p| p.revents != 0) {
            self.accept(log);
        }
    }

    fn accept(&mut self, log: &mut Writer) {
        while self.clients.len() < MOST_CLIENTS
            && let Some(connection) = socket::accept(self.listener.as_fd())
        {
            // The beginning of a line goes to the log now: all that comes after it is later than the time that is told.
            log.flush(true);
            let mut client = Client::new(connection);
            client.send([&[3], now_ns().to_le_bytes().as_slice()].concat());
            self.clients.push(client);
        }
    }

    fn hear(&mut self, index: usize) {
        let mut buffer = vec![0; LONGEST + 1];
        let client = &mut self.clients[index];
        match socket::receive(client.connection.as_fd(), &mut buffer, libc::MSG_DONTWAIT) {
            Ok((length, _)) if length > 0 => match (buffer[0], &buffer[1..length]) {
                (0, data) => {
                    self.waiting_input.extend_from_slice(data);
                    self.pass_input();
                }
                (1, _) if self.terminal => {
                    // What Ctrl-D is on a terminal.
                    self.waiting_input.push(4);
                    self.pass_input();
                }
                (1, _) => {
                    self.ends = true;
                    self.pass_input();
                }
                (2, [r1, r2, c1, c2]) if self.terminal => {
                    if let Some(master) = &self.input {
                        let (rows, columns) = (u16::from_le_bytes([*r1, *r2]), u16::from_le_bytes([*c1, *c2]));
                        let _ = terminal::resize(master, rows, columns);
                    }
                }
                _ => {}
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => client.gone = true,
        }
    }

    fn pass_input(&mut self) {
        let Some(input) = &mut self.input else {
            self.waiting_input.clear();
            return;
        };
        while !self.waiting_input.is_empty() {
            match input.write(&self.waiting_input) {
                Ok(written) => drop(self.waiting_input.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The program has closed its input.
                Err(_) => {
                    self.waiting_input.clear();
                    if !self.terminal {
                        self.input = None;
                    }
                    return;
                }
            }
        }
        if self.ends {
            self.input = None;
        }
    }

    /// Passes on what the container wrote.
    pub(crate) fn tell(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = if stream == Stream::Stdout { 1 } else { 2 };
        for piece in bytes.chunks(LONGEST) {
            let message = [&[kind], piece].concat();
            for client in &mut self.clients {
                client.send(message.clone());
            }
        }
    }

    /// At the end of the container: whoever has connected is told so, and what is taken at once is sent. A socket that is
    /// closed while input waits in it would lose what was sent before, so that is read first.
    pub(crate) fn close(mut self, log: &mut Writer) {
        self.accept(log);
        let mut buffer = vec![0; LONGEST + 1];
        for client in &mut self.clients {
            // SAFETY: a plain system call on an open socket.
            unsafe { libc::shutdown(client.connection.as_raw_fd(), libc::SHUT_RD) };
            while socket::receive(client.connection.as_fd(), &mut buffer, libc::MSG_DONTWAIT).is_ok_and(|(n, _)| n > 0)
            {
            }
            client.flush(true);
        }
    }
}

/// What an attachment hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachMessage {
    /// First of all: what was written up to this time (nanoseconds since 1970) is in the log, what follows is later.
    Hello(i64),
    /// What the container wrote.
    Output(Stream, Vec<u8>),
    /// Nothing more comes this way: the container has ended, or this client was too slow. The log has the rest.
    End,
}

/// The server's end of an attachment.
#[derive(Debug)]
pub struct Attached(OwnedFd);

impl Attached {
    /// Attaches to the container in `folder`; it must run and have a standard input or a terminal.
    ///
    /// # Errors
    /// It does not.
    pub fn to(folder: &Path) -> io::Result<Self> {
        socket::connect(folder, SOCKET).map(Self)
    }

    /// Sends standard input; at most [`MOST_INPUT`] bytes at a time. Does not block.
    ///
    /// # Errors
    /// `WouldBlock`, or that the container has ended.
    pub fn input(&self, bytes: &[u8]) -> io::Result<()> {
        socket::send(self.0.as_fd(), &[&[0], bytes].concat(), &[], libc::MSG_DONTWAIT)
    }

    /// Ends standard input. Does not block.
    ///
    /// # Errors
    /// As [`input`](Self::input).
    pub fn end(&self) -> io::Result<()> {
        socket::send(self.0.as_fd(), &[1], &[], libc::MSG_DONTWAIT)
    }

    /// Sets the terminal's size. Does not block.
    ///
    /// # Errors
    /// As [`input`](Self::input).
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let ([r1, r2], [c1, c2]) = (rows.to_le_bytes(), columns.to_le_bytes());
        socket::send(self.0.as_fd(), &[2, r1, r2, c1, c2], &[], libc::MSG_DONTWAIT)
    }

    /// What comes next. Does not block.
    ///
    /// # Errors
    /// `WouldBlock`, or what recvmsg(2) said.
    pub fn output(&self) -> io::Result<AttachMessage> {
        let mut buffer = vec![0; LONGEST + 1];
        let (length, _) = socket::receive(self.0.as_fd(), &mut buffer, libc::MSG_DONTWAIT)?;
        Ok(match (buffer[0], &buffer[1..length.max(1)]) {
            _ if length == 0 => AttachMessage::End,
            (3, time) => AttachMessage::Hello(time.try_into().map_or(i64::MIN, i64::from_le_bytes)),
            (2, bytes) => AttachMessage::Output(Stream::Stderr, bytes.to_vec()),
            (_, bytes) => AttachMessage::Output(Stream::Stdout, bytes.to_vec()),
        })
    }
}

impl AsRawFd for Attached {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Most bytes of input in one message.
pub const MOST_INPUT: usize = LONGEST;

impl Client {
    fn new(connection: OwnedFd) -> Self {
        Self { connection, pending: VecDeque::new(), took: Instant::now(), gone: false }
    }

    fn send(&mut self, message: Vec<u8>) {
        if self.pending.len() * LONGEST > MOST_WAITING {
            self.gone = true;
            return;
        }
        self.pending.push_back(message);
        if self.pending.len() == 1 {
            self.took = Instant::now();
            self.flush(true);
        }
    }

    fn flush(&mut self, writable: bool) {
        while writable && let Some(message) = self.pending.front() {
            match socket::send(self.connection.as_fd(), message, &[], libc::MSG_DONTWAIT) {
                Ok(()) => {
                    self.pending.pop_front();
                    self.took = Instant::now();
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => break,
                Err(_) => {
                    self.gone = true;
                    self.pending.clear();
                }
            }
        }
        self.gone |= !self.pending.is_empty() && self.took.elapsed() > PATIENCE;
    }
}
