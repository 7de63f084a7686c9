//! A session: one process in the container, and the conversation with it.

use berth_core::{Core, SshHost};
use berth_engine::{ExecAsked, LogStream, Said, Told};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

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
pub(crate) async fn serve(core: Core, host: SshHost, mut channel: Channel<Msg>, handle: Handle) {
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
                good
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
    let session = core.container_exec(&host.caller(), &host.container_uid, exec_of(&asked, program)).await;
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
    tokio::select! {
        () = answer(session.output, &writer) => {}
        () = hear(reader, session.input) => {}
    }
    let _ = writer.close().await;
}

fn exec_of(asked: &Asked, program: Program) -> ExecAsked {
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
    ExecAsked {
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
async fn answer(mut output: mpsc::Receiver<Said>, writer: &ChannelWriteHalf<Msg>) {
    let mut out = Box::pin(writer.make_writer());
    let mut err = Box::pin(writer.make_writer_ext(Some(1)));
    while let Some(said) = output.recv().await {
        let written = match said {
            Said::Output(LogStream::Stdout, bytes) => out.write_all(&bytes).await,
            Said::Output(LogStream::Stderr, bytes) => err.write_all(&bytes).await,
            Said::Ended(code) => {
                let _ = writer.exit_status(u32::try_from(code).unwrap_or(255)).await;
                let _ = writer.eof().await;
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// What the client says goes to the process, until it closes the session.
async fn hear(mut reader: ChannelReadHalf, input: mpsc::Sender<Told>) {
    while let Some(message) = reader.wait().await {
        let told = match message {
            ChannelMsg::Data { data } => Told::Input(data.to_vec()),
            ChannelMsg::Eof => Told::EndOfInput,
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                let (rows, columns) = size(row_height, col_width);
                Told::Resize { rows, columns }
            }
            ChannelMsg::Signal { signal } => Told::Signal(number(&signal)),
            ChannelMsg::Close => return,
            _ => continue,
        };
        if input.send(told).await.is_err() {
            // The process has ended or closed its input: its last words are still to be told.
            std::future::pending::<()>().await;
        }
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
