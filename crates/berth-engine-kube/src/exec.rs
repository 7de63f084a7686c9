//! Conversations with processes.

use std::time::Duration;

use async_trait::async_trait;
use berth_engine::{EngineError, Exec, ExecInput, ExecOutput, ExecRequest, LogStream, Session, State, UnitId};
use futures_util::{AsyncReadExt, Sink, SinkExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, LogParams, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::engine::KubeEngine;
use crate::errors::failed;
use crate::pods::{MAIN, start_error};

/// Pieces of output that wait to be taken.
const AHEAD: usize = 16;
/// So long a process that says nothing may take to be found to have failed: the API tells of a failure, not of a start.
const FAILS_WITHIN: Duration = Duration::from_millis(300);
const BUFFER: usize = 64 * 1024;

/// The exit code that a process's last word tells; the error if it did not run.
fn code_of(status: Option<Status>) -> Result<i32, EngineError> {
    let Some(status) = status else { return Err(EngineError::Failed("the connection to the node was lost".into())) };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    if status.reason.as_deref() == Some("NonZeroExitCode") {
        let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
        let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
        let code = codes.find_map(|cause| cause.message.as_deref()?.parse().ok());
        return Ok(code.unwrap_or(255));
    }
    Err(start_error(status.message.as_deref().unwrap_or("the process could not be run")))
}

async fn pump(mut from: impl AsyncRead + Unpin, stream: LogStream, to: mpsc::Sender<ExecOutput>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || to.send(ExecOutput::Output(stream, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Passes input on until there is no more.
async fn feed(
    mut told: mpsc::Receiver<ExecInput>,
    mut stdin: Option<impl tokio::io::AsyncWrite + Unpin>,
    mut sizes: Option<impl Sink<TerminalSize> + Unpin>,
) {
    while let Some(input) = told.recv().await {
        match (input, &mut stdin) {
            (ExecInput::Input(bytes), Some(to)) => {
                if to.write_all(&bytes).await.is_err() {
                    stdin = None;
                }
            }
            (ExecInput::EndOfInput, Some(to)) => {
                let _ = to.shutdown().await;
                stdin = None;
            }
            (ExecInput::Resize { rows, columns }, _) => resize(&mut sizes, rows, columns).await,
            // The cluster's API knows no signals.
            (ExecInput::Input(_) | ExecInput::EndOfInput, None) | (ExecInput::Signal(_), _) => {}
        }
    }
}

/// Tells a terminal, if there is one, its size.
async fn resize(sizes: &mut Option<impl Sink<TerminalSize> + Unpin>, rows: u16, columns: u16) {
    if let Some(sizes) = sizes {
        let _ = sizes.send(TerminalSize { height: rows, width: columns }).await;
    }
}

/// The conversation with a process that is connected; `ends` is whether its end is told.
async fn converse(mut process: AttachedProcess, size: Option<(u16, u16)>, ends: bool) -> Result<Session, EngineError> {
    let (said, output) = mpsc::channel(AHEAD);
    let (input, told) = mpsc::channel(AHEAD);
    let mut pumps = tokio::task::JoinSet::new();
    if let Some(stdout) = process.stdout() {
        pumps.spawn(pump(stdout, LogStream::Stdout, said.clone()));
    }
    if let Some(stderr) = process.stderr() {
        pumps.spawn(pump(stderr, LogStream::Stderr, said.clone()));
    }
    let mut sizes = process.terminal_size();
    if let Some((rows, columns)) = size {
        resize(&mut sizes, rows, columns).await;
    }
    let feeding = tokio::spawn(feed(told, process.stdin(), sizes));
    let status = process.take_status();
    let mut status = Box::pin(async move {
        match status {
            Some(status) => status.await,
            None => None,
        }
    });
    let early = if ends { tokio::time::timeout(FAILS_WITHIN, &mut status).await.ok() } else { None };
    let early = early.map(code_of).transpose()?;
    tokio::spawn(async move {
        let code = match early {
            Some(code) => Ok(code),
            None => tokio::select! {
                status = &mut status => code_of(status),
                // Nobody listens any more.
                () = said.closed() => {
                    process.abort();
                    return;
                }
            },
        };
        // All that it wrote comes first.
        while pumps.join_next().await.is_some() {}
        if ends {
            let code = match code {
                Ok(code) | Err(EngineError::Start { code, .. }) => code,
                Err(error) => {
                    tracing::warn!(%error, "the end of a process was not told");
                    255
                }
            };
            let _ = said.send(ExecOutput::Ended(code)).await;
        }
        feeding.abort();
    });
    Ok(Session { output, input })
}

#[async_trait]
impl Exec for KubeEngine {
    async fn exec(&self, id: &UnitId, asked: &ExecRequest) -> Result<Session, EngineError> {
        let pod = self.running_pod(id)?;
        for (is_asked, what) in [
            (!asked.env.is_empty(), "an environment of its own for a process in a container"),
            (asked.working_dir.is_some(), "a working directory of its own for a process in a container"),
            (asked.user.is_some(), "a user of its own for a process in a container"),
        ] {
            if is_asked {
                return Err(EngineError::Unsupported(what));
            }
        }
        let params = AttachParams {
            container: Some(MAIN.into()),
            stdin: asked.stdin,
            stdout: true,
            stderr: !asked.terminal,
            tty: asked.terminal,
            max_stdin_buf_size: Some(BUFFER),
            max_stdout_buf_size: Some(BUFFER),
            max_stderr_buf_size: Some(BUFFER),
        };
        let begun = self.inner.pods.exec(&pod, &asked.args, &params).await;
        let over = || !matches!(self.inner.cache.known().observed(id).state, State::Running { .. });
        let process = begun.map_err(|error| match over() {
            true => EngineError::NotRunning(id.clone()),
            false => failed(format!("run a process in pod {pod}"))(error),
        })?;
        match converse(process, asked.size, true).await {
            Err(_) if over() => Err(EngineError::NotRunning(id.clone())),
            session => session,
        }
    }

    async fn attach(&self, id: &UnitId, from_start: bool) -> Result<Session, EngineError> {
        let record = self.record(id)?;
        let runs = matches!(self.inner.cache.known().observed(id).state, State::Running { .. });
        if !runs && !from_start {
            return Err(EngineError::NotRunning(id.clone()));
        }
        let pod = self.last_pod(id, &record);
        let (stdin, terminal) = (record.spec.stdin, record.spec.terminal);
        if runs && (stdin || terminal) {
            let params = AttachParams {
                container: Some(MAIN.into()),
                stdin,
                stdout: true,
                stderr: !terminal,
                tty: terminal,
                max_stdin_buf_size: Some(BUFFER),
                max_stdout_buf_size: Some(BUFFER),
                max_stderr_buf_size: Some(BUFFER),
            };
            let process = self.inner.pods.attach(&pod, &params).await;
            return converse(process.map_err(failed(format!("attach to pod {pod}")))?, record.spec.size, false).await;
        }
        let since = (!from_start).then(Timestamp::now);
        let params =
            LogParams { container: Some(MAIN.into()), follow: true, since_time: since, ..LogParams::default() };
        let stream = self.inner.pods.log_stream(&pod, &params).await;
        let mut stream = Box::pin(stream.map_err(failed(format!("read the output of pod {pod}")))?);
        let (said, output) = mpsc::channel(AHEAD);
        let (input, _) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut buffer = vec![0; BUFFER];
            while let Ok(count) = stream.read(&mut buffer).await {
                let piece = ExecOutput::Output(LogStream::Stdout, buffer[..count].to_vec());
                if count == 0 || said.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Ok(Session { output, input })
    }
}
