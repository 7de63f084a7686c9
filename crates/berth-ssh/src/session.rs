//! A session: one process in the container, and the conversation with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use berth_core::{Core, FaultKind, SshEndpoint};
use berth_engine::{ExecInput, ExecOutput, ExecRequest, LogStream};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// How long a login waits for a container that is paused.
const PAUSED_FOR: Duration = Duration::from_secs(20);

/// Variables that a client may set.
fn may_set(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_") || name == "TZ"
}

#[derive(Default)]
struct Asked {
    term: Option<String>,
    size: (u16, u16),
    env: Vec<String>,
}

/// What is run for a login.
enum Program {
    Shell,
    Command(String),
    Sftp,
}

/// Where images keep the program that serves `sftp`.
const SFTP: &str = "for p in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/openssh/sftp-server \
                    /usr/libexec/sftp-server; do [ -x $p ] && exec $p; done; \
                    echo 'this image has no sftp-server' >&2; exit 127";

fn size(rows: u32, columns: u32) -> (u16, u16) {
    let bounded = |n: u32, otherwise: u16| u16::try_from(n).ok().filter(|n| *n > 0).unwrap_or(otherwise);
    (bounded(rows, 24), bounded(columns, 80))
}

/// Takes a session from its opening to its end.
/// `budget` counts what is on its way to the container, over all its sessions.
pub(crate) async fn serve(
    core: Core,
    host: SshEndpoint,
    (place, who): (crate::Place, String),
    budget: Arc<AtomicUsize>,
    mut channel: Channel<Msg>,
    handle: Handle,
) {
    let id = channel.id();
    let mut asked = Asked::default();
    let program = loop {
        let Some(message) = channel.wait().await else { return };
        let accepted = match message {
            ChannelMsg::RequestPty { term, col_width, row_height, .. } => {
                asked.term = Some(term);
                asked.size = size(row_height, col_width);
                true
            }
            ChannelMsg::SetEnv { variable_name, variable_value, .. } => {
                let good = may_set(&variable_name) && !variable_value.contains('\0') && asked.env.len() < 64;
                if good {
                    asked.env.push(format!("{variable_name}={variable_value}"));
                }
                // Not answered: clients don't ask for it, and russh tells no answer apart from that to what comes next.
                continue;
            }
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                asked.size = size(row_height, col_width);
                continue;
            }
            ChannelMsg::RequestShell { .. } => break Program::Shell,
            ChannelMsg::Exec { command, .. } => break Program::Command(String::from_utf8_lossy(&command).into_owned()),
            ChannelMsg::RequestSubsystem { name, .. } if name == "sftp" => break Program::Sftp,
            ChannelMsg::RequestSubsystem { .. } | ChannelMsg::AgentForward { .. } | ChannelMsg::RequestX11 { .. } => {
                false
            }
            ChannelMsg::Close | ChannelMsg::Eof => return,
            _ => continue,
        };
        let told = if accepted { handle.channel_success(id).await } else { handle.channel_failure(id).await };
        if told.is_err() {
            return;
        }
    };
    let shown = match &program {
        Program::Shell => "shell in".to_owned(),
        Program::Sftp => "sftp in".to_owned(),
        Program::Command(command) => format!("exec {} in", command.chars().take(200).collect::<String>()),
    };
    crate::connection::note(&core, &host, &place, &who, &shown, 200, "").await;
    let asked = exec_of(&asked, program);
    let begun = std::time::Instant::now();
    let session = loop {
        let session = core.container_exec(&host.caller(), &host.container_uid, asked.clone()).await;
        // It is while an image is made of it; that takes seconds.
        let resting = session.as_ref().is_err_and(|e| e.kind() == FaultKind::WrongState)
            && core.container(&host.caller(), &host.container_uid).await.is_ok_and(|c| c.state.is_live());
        if !resting || begun.elapsed() > PAUSED_FOR {
            break session;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            let _ = handle.channel_success(id).await;
            let text = format!("berth: {}\r\n", error.public());
            let _ = channel.extended_data_bytes(1, text.into_bytes()).await;
            let _ = channel.exit_status(255).await;
            let _ = channel.eof().await;
            let _ = channel.close().await;
            return;
        }
    };
    if handle.channel_success(id).await.is_err() {
        return;
    }
    let (reader, writer) = channel.split();
    // Either may have to wait for the other side; none for the other. What the client says ends with what the process says.
    let flow = Flow { kept: budget, ..Flow::default() };
    tokio::select! {
        () = answer(session.output, &writer, &flow) => {}
        () = hear(reader, session.input, &flow) => {
            if flow.broken.load(Ordering::Relaxed) {
                let text = b"berth: the session ends: neither side reads what the other says\r\n".to_vec();
                // The client may not take this, either.
                let _ = tokio::time::timeout(Duration::from_millis(100), writer.extended_data_bytes(1, text)).await;
            }
        }
    }
    let _ = writer.close().await;
}

fn exec_of(asked: &Asked, program: Program) -> ExecRequest {
    // The shell that the image has for root; then the one that every image with a shell has.
    const SHELL: &str = "s=$(sed -n 's/^root:.*://p' /etc/passwd 2>/dev/null | head -n 1); [ -x \"$s\" ] || s=/bin/sh; \
                         export SHELL=\"$s\"; cd \"$HOME\" 2>/dev/null; ";
    let script = match &program {
        Program::Shell => format!("{SHELL}exec \"$s\" -l"),
        Program::Command(_) => format!("{SHELL}exec \"$s\" -c \"$1\""),
        Program::Sftp => SFTP.to_owned(),
    };
    let mut args = vec!["/bin/sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    if let Program::Command(command) = program {
        args.push(command);
    }
    let mut env = vec!["HOME=/root".to_owned(), "USER=root".to_owned(), "LOGNAME=root".to_owned()];
    env.extend(asked.env.iter().cloned());
    if let Some(term) = &asked.term {
        env.push(format!("TERM={}", if term.is_empty() || term.contains('\0') { "xterm" } else { term }));
    }
    ExecRequest {
        args,
        env,
        working_dir: Some("/".to_owned()),
        user: Some("0:0".to_owned()),
        terminal: asked.term.is_some(),
        size: asked.term.is_some().then_some(asked.size),
        stdin: true,
        detached: false,
    }
}

/// What the process says goes to the client, as fast as that takes it.
async fn answer(mut output: mpsc::Receiver<ExecOutput>, writer: &ChannelWriteHalf<Msg>, flow: &Flow) {
    let mut out = Box::pin(writer.make_writer());
    let mut err = Box::pin(writer.make_writer_ext(Some(1)));
    while let Some(said) = output.recv().await {
        flow.waits.store(true, Ordering::Relaxed);
        let written = match said {
            ExecOutput::Output(LogStream::Stdout, bytes) => out.write_all(&bytes).await,
            ExecOutput::Output(LogStream::Stderr, bytes) => err.write_all(&bytes).await,
            ExecOutput::Ended(code) => {
                let _ = writer.exit_status(u32::try_from(code).unwrap_or(255)).await;
                let _ = writer.eof().await;
                return;
            }
        };
        flow.waits.store(false, Ordering::Relaxed);
        if written.is_err() {
            return;
        }
    }
}

/// Bytes that sessions of one container may have on their way to its processes. A process that is slower than its client is
/// waited for then, with the whole connection.
const ON_THE_WAY: usize = 32 << 20;
/// How long that may last while the client is not told anything, either: it would not end by itself.
const STANDSTILL: Duration = Duration::from_secs(10);

/// How the two directions of a session do.
#[derive(Default)]
struct Flow {
    /// Bytes on their way to the container's processes.
    kept: Arc<AtomicUsize>,
    /// Something is being said to the client.
    waits: AtomicBool,
    /// Both sides wait for each other.
    broken: AtomicBool,
}

/// What the client says goes to the process, until it closes the session. The connection is read on while the process is slow:
/// what the client says of its own room comes the same way.
async fn hear(mut reader: ChannelReadHalf, input: mpsc::Sender<ExecInput>, flow: &Flow) {
    let (queue, mut queued) = mpsc::unbounded_channel::<ExecInput>();
    let size_of = |told: &ExecInput| if let ExecInput::Input(bytes) = told { bytes.len() } else { 0 };
    let own = AtomicUsize::new(0);
    let listen = async {
        while let Some(message) = reader.wait().await {
            let told = match message {
                ChannelMsg::Data { data } => ExecInput::Input(data.to_vec()),
                ChannelMsg::Eof => ExecInput::EndOfInput,
                ChannelMsg::WindowChange { col_width, row_height, .. } => {
                    let (rows, columns) = size(row_height, col_width);
                    ExecInput::Resize { rows, columns }
                }
                ChannelMsg::Signal { signal } => ExecInput::Signal(number(&signal)),
                ChannelMsg::Close => return,
                _ => continue,
            };
            let bytes = size_of(&told);
            own.fetch_add(bytes, Ordering::Relaxed);
            flow.kept.fetch_add(bytes, Ordering::Relaxed);
            if queue.send(told).is_err() {
                break;
            }
            let mut still = Duration::ZERO;
            while flow.kept.load(Ordering::Relaxed) > ON_THE_WAY && own.load(Ordering::Relaxed) > 0 {
                const PAUSE: Duration = Duration::from_millis(20);
                let before = own.load(Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
                let moved = own.load(Ordering::Relaxed) < before || !flow.waits.load(Ordering::Relaxed);
                still = if moved { Duration::ZERO } else { still + PAUSE };
                if still > STANDSTILL {
                    flow.broken.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
        // The client has gone, or its process has: its last words are still to be told.
        std::future::pending::<()>().await;
    };
    let pass_on = async {
        while let Some(told) = queued.recv().await {
            let bytes = size_of(&told);
            let sent = input.send(told).await;
            own.fetch_sub(bytes, Ordering::Relaxed);
            flow.kept.fetch_sub(bytes, Ordering::Relaxed);
            if sent.is_err() {
                // The process has ended or closed its input.
                break;
            }
        }
        queued.close();
        std::future::pending::<()>().await;
    };
    let _returned = Returned { own: &own, kept: &flow.kept };
    tokio::select! {
        () = listen => {}
        () = pass_on => {}
    }
}

/// What is still on its way when a session ends is not.
struct Returned<'a> {
    own: &'a AtomicUsize,
    kept: &'a AtomicUsize,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.own.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn number(signal: &Sig) -> i32 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ABRT => 6,
        Sig::KILL => 9,
        Sig::ALRM => 14,
        Sig::USR1 => 10,
        _ => 15,
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Program, exec_of, may_set, size};

    #[test]
    fn logins_run_a_shell_and_commands_are_its_argument() {
        let asked =
            Asked { term: Some("xterm-256color".into()), size: (40, 100), env: vec!["LANG=zh_CN.UTF-8".into()] };
        let shell = exec_of(&asked, Program::Shell);
        assert!(
            shell.terminal && shell.size == Some((40, 100)) && shell.env.contains(&"TERM=xterm-256color".to_owned())
        );
        let command = exec_of(&Asked::default(), Program::Command("echo \"$HOME\"; exit 3".into()));
        assert!(!command.terminal && command.args.last().is_some_and(|last| last == "echo \"$HOME\"; exit 3"));
        assert_eq!(command.user.as_deref(), Some("0:0"));
        assert!(may_set("LC_ALL") && may_set("LANG") && !may_set("LD_PRELOAD") && !may_set("PATH"));
        assert_eq!((size(0, 0), size(70_000, 5)), ((24, 80), (24, 5)));
    }
}
