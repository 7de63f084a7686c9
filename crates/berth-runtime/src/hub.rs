//! Standard input of a container, and those who are attached to it. Part of the shim, so that neither ends with the server.
//!
//! ```text
//! client to shim: 0 DATA    standard input        shim to client: 1 DATA  standard output
//!                 1         end of input                          2 DATA  standard error
//!                 2 ROWS COLUMNS  (16 bits each, little end first)
//! ```
//! Output waits for the slowest client, for a while; then that client is let go. What is written before the first client
//! has come is kept for it, up to a bound: `run -it` attaches after the start and misses nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::log::Stream;
use crate::{socket, terminal};

/// Name of the socket in the container's folder.
pub(crate) const SOCKET: &str = "attach";
/// A run that ends waits for whoever is about to attach if it is no older than this.
const YOUNG: Duration = Duration::from_secs(2);
/// Most bytes kept for the first client.
const EARLY: usize = 64 * 1024;
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
    early: Option<Vec<Vec<u8>>>,
    early_size: usize,
    begun: Instant,
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
            early: Some(Vec::new()),
            early_size: 0,
            begun: Instant::now(),
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

    /// Does what the poll (of [`polled`](Self::polled), same order) has made possible.
    pub(crate) fn serve(&mut self, polled: &[libc::pollfd]) {
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
            while self.clients.len() < MOST_CLIENTS
                && let Some(connection) = socket::accept(self.listener.as_fd())
            {
                let mut client = Client::new(connection);
                // The first one gets what was said so far.
                for message in self.early.take().into_iter().flatten() {
                    client.send(message);
                }
                self.clients.push(client);
            }
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
            if let Some(early) = &mut self.early {
                self.early_size += message.len();
                if self.early_size <= EARLY {
                    early.push(message);
                } else {
                    self.early = None;
                }
                continue;
            }
            for client in &mut self.clients {
                client.send(message.clone());
            }
        }
    }

    /// At the end of the container: what waits is sent if it is taken soon.
    pub(crate) fn close(mut self) {
        if let Some(early) = self.early.take().filter(|_| self.begun.elapsed() < YOUNG) {
            // Somebody may be about to come for it: whoever started it.
            let mut wait = libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, as said.
            unsafe { libc::poll(&raw mut wait, 1, if early.is_empty() { 100 } else { 1000 }) };
            if let Some(connection) = socket::accept(self.listener.as_fd()) {
                let mut client = Client::new(connection);
                early.into_iter().for_each(|message| client.send(message));
                self.clients.push(client);
            }
        }
        let begun = Instant::now();
        while self.is_blocked() && begun.elapsed() < Duration::from_secs(1) {
            let mut entries = Vec::new();
            self.polled(&mut entries);
            // SAFETY: the array and its length.
            unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as u64, 50) };
            self.serve(&entries);
        }
    }
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

    /// What the container wrote next; `None` at its end. Does not block.
    ///
    /// # Errors
    /// `WouldBlock`, or what recvmsg(2) said.
    pub fn output(&self) -> io::Result<Option<(Stream, Vec<u8>)>> {
        let mut buffer = vec![0; LONGEST + 1];
        let (length, _) = socket::receive(self.0.as_fd(), &mut buffer, libc::MSG_DONTWAIT)?;
        if length == 0 {
            return Ok(None);
        }
        let stream = if buffer[0] == 2 { Stream::Stderr } else { Stream::Stdout };
        Ok(Some((stream, buffer[1..length].to_vec())))
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
