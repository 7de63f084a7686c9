//! Sessions: `exec`, `attach`, `run -it`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use berth_api::wire::ExecCreate;
use berth_client::{Client, Error, Heard, Session, SessionInput};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::terminal::{self, Raw};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// Keep standard input open
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Leave it to itself
    #[arg(long, short)]
    detach: bool,
    /// Environment variable KEY=value, or KEY from here
    #[arg(long, short)]
    env: Vec<String>,
    /// Working directory
    #[arg(long, short)]
    workdir: Option<String>,
    /// User, as name or uid, with :group
    #[arg(long, short)]
    user: Option<String>,
    /// Container
    id: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Don't pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Container
    id: String,
}

fn refused(error: &Error) -> ExitCode {
    error.exit_code().map_or(ExitCode::FAILURE, ExitCode::from)
}

pub(super) fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

pub(super) fn variables(given: &[String]) -> Vec<String> {
    let resolve = |v: &String| match v.contains('=') {
        true => Some(v.clone()),
        false => std::env::var(v).ok().map(|value| format!("{v}={value}")),
    };
    given.iter().filter_map(resolve).collect()
}

pub(super) async fn exec(client: &Client, exec: &Exec) -> Outcome {
    if exec.tty && exec.interactive && !std::io::stdin().is_terminal() {
        return Err("standard input is no terminal: leave -t away".into());
    }
    let size = if exec.tty { terminal::size() } else { None };
    let asked = ExecCreate {
        rows: size.map(|(rows, _)| rows),
        columns: size.map(|(_, columns)| columns),
        command: exec.command.clone(),
        env: variables(&exec.env),
        working_dir: exec.workdir.clone(),
        user: exec.user.clone(),
        terminal: exec.tty,
        stdin: exec.interactive,
        detach: exec.detach,
    };
    let failed = |error: Error| {
        eprintln!("berth: {error}");
        refused(&error)
    };
    if exec.detach {
        let simple = ExecCreate { terminal: false, stdin: false, ..asked };
        return Ok(client.container_exec(&exec.id, &simple).await.map_or_else(failed, |_| ExitCode::SUCCESS));
    }
    let session = match client.container_exec_session(&exec.id, &asked).await {
        Ok(session) => session,
        Err(error) => return Ok(failed(error)),
    };
    match talk(session, exec.tty, exec.interactive).await {
        Ok(Some(ended)) => Ok(code(ended)),
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(failed(error)),
    }
}

pub(super) async fn attach(client: &Client, attach: &Attach) -> Outcome {
    let found = client.container(&attach.id).await.map_err(|e| e.to_string())?;
    let session = client.container_attach(&attach.id).await.map_err(|e| e.to_string())?;
    let listens = (found.stdin || found.terminal) && !attach.no_stdin;
    match talk(session, found.terminal, listens).await.map_err(|e| e.to_string())? {
        Some(ended) => Ok(code(ended)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Ctrl-P Ctrl-Q lets go of a container's terminal, which goes on.
const LET_GO: [u8; 2] = [16, 17];

/// Passes on both ways until the process has ended; its exit code, or `None` if it was let go of.
pub(super) async fn talk(mut session: Session, tty: bool, input: bool) -> Result<Option<i32>, Error> {
    let raw = if tty && input { Raw::enter() } else { None };
    let lost = |e: std::io::Error| Error::Connection(format!("watch for signals: {e}"));
    let resized = signal(SignalKind::window_change()).map_err(lost)?;
    if tty && let Some((rows, columns)) = terminal::size() {
        // One that is over by now tells why itself.
        let _ = session.resize(rows, columns).await;
    }
    let (to, mut from) = session.split();
    // Apart from what is heard: a process that waits to be heard takes no input until it is.
    let mut telling = tokio::spawn(tell(to, resized, tty, input, raw.is_some()));
    let mut told = false;
    let result = loop {
        tokio::select! {
            heard = from.next() => match heard {
                Ok(Heard::Stdout(bytes)) => {
                    let mut out = std::io::stdout();
                    // Whoever read this has gone (`| head`): so does the session.
                    if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                        break Ok(None);
                    }
                }
                Ok(Heard::Stderr(bytes)) => drop(std::io::stderr().write_all(&bytes)),
                Ok(Heard::Ended(code)) => break Ok(Some(code)),
                Err(error) => break Err(error),
            },
            end = &mut telling, if !told => match end {
                Ok(InputEnd::LetGo) => break Ok(None),
                // The other half knows better why.
                Ok(InputEnd::Broken) | Err(_) => told = true,
            }
        }
    };
    telling.abort();
    drop(raw);
    result
}

/// Why nothing more is told.
enum InputEnd {
    LetGo,
    Broken,
}

/// Tells the process what is typed, and its terminal's size.
async fn tell(mut to: SessionInput, mut resized: Signal, tty: bool, mut listens: bool, raw: bool) -> InputEnd {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    let mut last = 0;
    loop {
        let sent = tokio::select! {
            read = stdin.read(&mut buffer), if listens => match read {
                Ok(0) | Err(_) => {
                    listens = false;
                    to.end_of_input().await
                }
                Ok(length) => {
                    let bytes = &buffer[..length];
                    let let_go = |pair: &[u8]| pair == LET_GO;
                    if raw && (bytes.windows(2).any(let_go) || (last == LET_GO[0] && bytes[0] == LET_GO[1])) {
                        return InputEnd::LetGo;
                    }
                    last = bytes[length - 1];
                    to.input(bytes).await
                }
            },
            _ = resized.recv(), if tty => match terminal::size() {
                Some((rows, columns)) => to.resize(rows, columns).await,
                None => Ok(()),
            },
            else => return std::future::pending().await,
        };
        if sent.is_err() {
            return InputEnd::Broken;
        }
    }
}
