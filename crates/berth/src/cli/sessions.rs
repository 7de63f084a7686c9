//! Sessions: `exec`, `attach`, `run -it`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use berth_api::wire::ExecCreate;
use berth_client::{Client, Error, Heard, Session, SessionInput};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::scope::Scope;
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
    /// Read environment variables from a file, one KEY=value a line
    #[arg(long)]
    env_file: Vec<std::path::PathBuf>,
    /// Working directory
    #[arg(long, short)]
    workdir: Option<String>,
    /// User, as name or uid, with :group
    #[arg(long, short)]
    user: Option<String>,
    /// Keys that let go of it, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = keys_of)]
    detach_keys: Option<Keys>,
    #[command(flatten)]
    scope: Scope,
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
    /// Whether signals to this command are the container's
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,
    /// Keys that let go of it, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = keys_of)]
    detach_keys: Option<Keys>,
    #[command(flatten)]
    scope: Scope,
    /// Container
    id: String,
}

fn refused(error: &Error) -> ExitCode {
    error.exit_code().map_or(ExitCode::FAILURE, ExitCode::from)
}

pub(super) fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Keys that let go of a container.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Vec<u8>);

pub(super) fn keys_of(text: &str) -> Result<Keys, String> {
    super::values::keys(text).map(Keys)
}

impl Default for Keys {
    /// Ctrl-P Ctrl-Q.
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

/// How a session is talked with.
#[derive(Debug, Clone)]
pub(super) struct Talk {
    pub(super) tty: bool,
    pub(super) input: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) keys: Option<Keys>,
}

impl Default for Talk {
    fn default() -> Self {
        Self { tty: false, input: false, stdout: true, stderr: true, keys: None }
    }
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
        env: super::options::environment(&exec.env_file, &exec.env)?,
        working_dir: exec.workdir.clone(),
        user: exec.user.clone(),
        terminal: exec.tty,
        stdin: exec.interactive,
        detach: exec.detach,
    };
    let failed = |error: Error| {
        eprintln!("berth: {}", super::localized(&error.to_string()));
        refused(&error)
    };
    let client = &exec.scope.of_container(client, &exec.id).await.map_err(|e| e.to_string())?;
    if exec.detach {
        let simple = ExecCreate { terminal: false, stdin: false, ..asked };
        return Ok(client.container_exec(&exec.id, &simple).await.map_or_else(failed, |_| ExitCode::SUCCESS));
    }
    let session = match client.container_exec_session(&exec.id, &asked).await {
        Ok(session) => session,
        Err(error) => return Ok(failed(error)),
    };
    let how = Talk { tty: exec.tty, input: exec.interactive, keys: exec.detach_keys.clone(), ..Talk::default() };
    match talk(session, &how).await {
        Ok(Some(ended)) => Ok(code(ended)),
        Ok(None) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(failed(error)),
    }
}

pub(super) async fn attach(client: &Client, attach: &Attach) -> Outcome {
    let client = &attach.scope.of_container(client, &attach.id).await.map_err(|e| e.to_string())?;
    let found = client.container(&attach.id).await.map_err(|e| e.to_string())?;
    let session = client.container_attach(&attach.id).await.map_err(|e| e.to_string())?;
    let listens = (found.stdin || found.terminal) && !attach.no_stdin;
    let passes_on = attach.sig_proxy && !(found.terminal && listens);
    let _passing_on = passes_on.then(|| super::containers::PassingOn::begin(client, &found.id)).transpose()?;
    let how = Talk { tty: found.terminal, input: listens, keys: attach.detach_keys.clone(), ..Talk::default() };
    match talk(session, &how).await.map_err(|e| e.to_string())? {
        Some(ended) => Ok(code(ended)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Passes on both ways until the process has ended; its exit code, or `None` if it was let go of.
pub(super) async fn talk(mut session: Session, how: &Talk) -> Result<Option<i32>, Error> {
    let (tty, input) = (how.tty, how.input);
    let raw = if tty && input { Raw::enter() } else { None };
    let lost = |e: std::io::Error| Error::Connection(format!("watch for signals: {e}"));
    let resized = signal(SignalKind::window_change()).map_err(lost)?;
    if tty && let Some((rows, columns)) = terminal::size() {
        // One that is over by now tells why itself.
        let _ = session.resize(rows, columns).await;
    }
    let (to, mut from) = session.split();
    // Apart from what is heard: a process that waits to be heard takes no input until it is.
    let mut telling =
        tokio::spawn(tell(to, resized, (tty, input), raw.is_some().then(|| how.keys.clone().unwrap_or_default())));
    let mut told = false;
    let result = loop {
        tokio::select! {
            heard = from.next() => match heard {
                Ok(Heard::Stdout(_)) if !how.stdout => {}
                Ok(Heard::Stdout(bytes)) => {
                    let mut out = std::io::stdout();
                    // Whoever read this has gone (`| head`): so does the session.
                    if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                        break Ok(None);
                    }
                }
                Ok(Heard::Stderr(_)) if !how.stderr => {}
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
async fn tell(
    mut to: SessionInput,
    mut resized: Signal,
    (tty, mut listens): (bool, bool),
    keys: Option<Keys>,
) -> InputEnd {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    // What was typed last, as far as it may be the beginning of the keys.
    let mut last: Vec<u8> = Vec::new();
    loop {
        let sent = tokio::select! {
            read = stdin.read(&mut buffer), if listens => match read {
                Ok(0) | Err(_) => {
                    listens = false;
                    to.end_of_input().await
                }
                Ok(length) => {
                    let bytes = &buffer[..length];
                    if let Some(Keys(keys)) = &keys {
                        last.extend_from_slice(bytes);
                        if last.windows(keys.len().max(1)).any(|typed| typed == keys) {
                            return InputEnd::LetGo;
                        }
                        last.drain(..last.len().saturating_sub(keys.len()));
                    }
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
