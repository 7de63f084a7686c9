//! The terminal that this program runs in.

use std::io;
use std::os::fd::AsRawFd;

/// Every key goes to the container, as it is pressed; put back when this is dropped.
pub(super) struct Raw(libc::termios);

impl Raw {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let fd = io::stdin().as_raw_fd();
        // SAFETY: plain system calls on this program's own terminal; the settings are written by the call.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(fd, &raw mut before) != 0 {
                return None;
            }
            let mut raw = before;
            libc::cfmakeraw(&raw mut raw);
            (libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) == 0).then_some(Self(before))
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, &raw const self.0) };
    }
}

/// Lines and columns; `None` where standard output is no terminal.
pub(super) fn size() -> Option<(u16, u16)> {
    // SAFETY: the request writes a winsize.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let asked = libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size);
        (asked == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
    }
}

/// Asks for what is not shown while it is typed.
pub(super) fn secret(prompt: &str) -> Result<String, String> {
    let typed = rpassword::prompt_password(prompt).map_err(|e| format!("read from the terminal: {e}"))?;
    let typed = typed.trim().to_owned();
    if typed.is_empty() { Err("nothing was typed".into()) } else { Ok(typed) }
}

/// Asks for a line.
pub(super) fn line(prompt: &str) -> Result<String, String> {
    use io::Write;
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(|e| format!("read standard input: {e}"))?;
    let typed = typed.trim().to_owned();
    if typed.is_empty() { Err("nothing was typed".into()) } else { Ok(typed) }
}
