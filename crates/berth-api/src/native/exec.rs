//! Inside a container: processes and files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Json;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_core::{Caller, Core, Permit};
use berth_engine::{ExecInput, ExecOutput, Files, LogStream, Session};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, BySession, Params, Segment};
use super::containers::read_json;
use super::error::Error;
use super::streams::{Kind, StreamLimits, reader, tar, tar_of, written_by};
use super::wire::{ExecCreate, ExecResult, FileStat, List, channel};
use crate::Api;
use crate::http::{AuditDetail, Chinese, Client, PROTOCOL, small_body};
use crate::ranges;

/// Most bytes of each stream that an answer holds.
const MOST_OUTPUT: usize = 1 << 20;
/// Bytes of output for which a place among those of all answers is taken.
const OUTPUT_PLACE: usize = 64 << 10;
/// Bytes of an answer that are handed on at a time.
const PIECE: usize = 32 << 10;
/// Most bytes of a session's message.
const MOST_MESSAGE: usize = 1 << 20;
/// Time that a session's first message may take.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

/// Runs a process in it, and answers with what it said when it has ended; at once if it is detached.
#[utoipa::path(post, path = "/v1/containers/{id}/exec", request_body = ExecCreate, tag = "inside",
    params(("id" = String, Path)), responses((status = 200, body = ExecResult), (status = 409, body = super::wire::Problem)))]
pub(super) async fn exec(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    request: Request,
) -> Result<Response, Error> {
    let _place = places.take(&caller, Kind::Stream)?;
    let asked: ExecCreate = read_json(&small_body(request.into_body()).await?)?;
    if asked.terminal || asked.stdin {
        return Err(Error::invalid("a terminal or standard input needs a session: GET with a WebSocket upgrade"));
    }
    let detach = asked.detach;
    let detail = axum::Extension(AuditDetail(said_of(&asked.command)));
    let mut session = core.container_exec(&caller, &id, asked.into()).await?;
    let mut result = ExecResult::default();
    if detach {
        return Ok((detail, Json(result)).into_response());
    }
    // However many run at a time, what their answers hold is bounded.
    let mut held: Vec<Permit> = Vec::new();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(said) = session.output.recv().await {
        match said {
            ExecOutput::Output(stream, bytes) => {
                let all = out.len() + err.len() + bytes.len();
                while held.len() * OUTPUT_PLACE < all.min(2 * MOST_OUTPUT) {
                    let Some(share) = places.output(&caller) else { break };
                    held.push(share);
                }
                let free = (held.len() * OUTPUT_PLACE).saturating_sub(out.len() + err.len());
                let into = if stream == LogStream::Stdout { &mut out } else { &mut err };
                let room = MOST_OUTPUT.saturating_sub(into.len()).min(free);
                result.truncated |= bytes.len() > room;
                into.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            ExecOutput::Ended(code) => {
                result.exit_code = Some(code);
                break;
            }
        }
    }
    result.stdout = text(out);
    result.stderr = text(err);
    let answer = axum::body::Bytes::from(
        serde_json::to_vec(&result).map_err(|e| Error::from(berth_core::Error::Bug(e.to_string())))?,
    );
    drop(result);
    // The places are given back with the last piece that the client has taken.
    let pieces = futures_util::stream::unfold((answer, held), |(mut rest, held)| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, std::convert::Infallible>(piece), (rest, held)))
    });
    let content_type = [(axum::http::header::CONTENT_TYPE, "application/json")];
    Ok((detail, content_type, axum::body::Body::from_stream(pieces)).into_response())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A command as the audit log shows it.
fn said_of(command: &[String]) -> String {
    command.join(" ").chars().take(200).collect()
}

/// Notes a session in the audit log: its request only reads as far as HTTP goes.
async fn note_session(core: &Core, caller: Caller, from: Client, action: String, error: Option<&Error>) {
    let change = berth_core::Change {
        caller: Some(caller),
        source: from.source,
        dialect: "native",
        action,
        result: error.map_or(101, |error| error.status.as_u16()),
        message: error.map(|error| error.detail.clone()).unwrap_or_default(),
        request_id: from.request_id,
        ..berth_core::Change::default()
    };
    if let Err(error) = core.identity().audit_note(change).await {
        tracing::error!(error = error.chain(), "a session could not be noted in the audit log");
    }
}

pub(super) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

pub(super) fn upgrade(upgrade: Upgrade, most_message: usize) -> Result<WebSocketUpgrade, Error> {
    upgrade
        .map(|u| u.protocols([PROTOCOL]).max_message_size(most_message))
        .map_err(|e| Error::invalid(format!("a WebSocket upgrade is required: {}", e.body_text())))
}

/// A session with a process that is run in it (WebSocket). The client's first message is text: an `ExecCreate`. From then on
/// binary messages go both ways; the first byte is the channel: 0 input, 1 output, 2 errors, 3 status (JSON, the last one),
/// 4 terminal's size (JSON), 255 end of a channel.
#[utoipa::path(get, path = "/v1/containers/{id}/exec", tag = "inside",
    params(("id" = String, Path)), responses((status = 101), (status = 404, body = super::wire::Problem)))]
pub(super) async fn exec_session(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    by: BySession,
    Chinese(chinese): Chinese,
    from: Client,
    socket: Upgrade,
) -> Result<Response, Error> {
    let socket = upgrade(socket, MOST_MESSAGE)?;
    api.core.container(&caller, &id).await?;
    let place = api.places.take(&caller, Kind::Stream)?;
    Ok(socket.on_upgrade(move |mut socket| async move {
        let Ok(first) = tokio::time::timeout(FIRST_MESSAGE, socket.recv()).await else {
            let late = Error::invalid("the first message did not arrive: the command to run, as JSON");
            return refuse(socket, late, chinese).await;
        };
        let asked = match first {
            Some(Ok(Message::Text(text))) => read_json::<ExecCreate>(text.as_bytes()),
            Some(Ok(_)) => Err(Error::invalid("the first message must be text: the command to run, as JSON")),
            _ => return,
        };
        let mut action = format!("GET /v1/containers/{id}/exec");
        let session = match asked {
            Ok(asked) => {
                action = format!("{action}: {}", said_of(&asked.command));
                api.core.container_exec(&caller, &id, asked.into()).await.map_err(Error::from)
            }
            Err(error) => Err(error),
        };
        // On disk before a byte goes either way.
        note_session(&api.core, caller, from, action, session.as_ref().err()).await;
        match session {
            Ok(session) => converse(socket, session, by.gone(&api), None, place).await,
            Err(error) => refuse(socket, error, chinese).await,
        }
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AttachParams {
    /// Whether the session begins with all that the newest run has written so far. One that has ended by now gives just that.
    #[serde(default)]
    from_start: bool,
}

/// A session with its own process (WebSocket); messages as those of `exec`, without the first one.
#[utoipa::path(get, path = "/v1/containers/{id}/attach", tag = "inside",
    params(("id" = String, Path), AttachParams), responses((status = 101), (status = 404, body = super::wire::Problem)))]
pub(super) async fn attach(
    State(api): State<Api>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(asked): Params<AttachParams>,
    by: BySession,
    from: Client,
    socket: Upgrade,
) -> Result<Response, Error> {
    let socket = upgrade(socket, MOST_MESSAGE)?;
    let found = api.core.container(&caller, &id).await?;
    let place = api.places.take(&caller, Kind::Stream)?;
    let followed = api.core.follow(found.id);
    let session = api.core.container_attach(&caller, &id, asked.from_start).await;
    let session = session.map_err(Error::from);
    note_session(&api.core, caller, from, format!("GET /v1/containers/{id}/attach"), session.as_ref().err()).await;
    let session = session?;
    Ok(socket.on_upgrade(move |socket| async move {
        let _followed = followed;
        let core = api.core.clone();
        let ended = async move {
            let exit = core.container_wait(&caller, found.uid.as_str()).await;
            exit.ok().flatten().map_or(255, |e| e.code)
        };
        converse(socket, session, by.gone(&api), Some(Box::pin(ended)), place).await;
    }))
}

/// The last words of a session.
async fn end(socket: &mut (impl Sink<Message> + Unpin), value: &serde_json::Value) {
    let message = [&[channel::STATUS], value.to_string().as_bytes()].concat();
    let _ = socket.send(Message::Binary(message.into())).await;
    let _ = socket.send(Message::Close(None)).await;
}

async fn refuse(mut socket: WebSocket, error: Error, chinese: bool) {
    end(&mut socket, &serde_json::json!({ "error": error.problem_in(chinese) })).await;
    linger(&mut socket).await;
}

/// How long a session that is over waits for its client to close the connection.
const LINGER: Duration = Duration::from_secs(5);

/// Reads on until the client has closed: a connection that is closed while input waits in it is reset, and the last words are
/// lost with it.
async fn linger(from_client: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin)) {
    let _ = tokio::time::timeout(LINGER, async { while let Some(Ok(_)) = from_client.next().await {} }).await;
}

type Ending = std::pin::Pin<Box<dyn Future<Output = i32> + Send>>;

/// Passes on both ways until the process has ended, the client has gone, or `gone` is: server or session. `ending` gives the exit
/// code of one that ends without saying so.
async fn converse(
    socket: WebSocket,
    session: Session,
    gone: impl Future<Output = ()>,
    ending: Option<Ending>,
    _place: Permit,
) {
    let (mut to_client, mut from_client) = socket.split();
    let Session { mut output, input } = session;
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            match told(message) {
                // A process that takes nothing more is no reason to end: it may still have something to say.
                Some(told) => drop(input.send(told).await),
                None => continue,
            }
        }
    };
    let outward = async {
        loop {
            // Only what can't be sent tells that a client has gone without a word.
            let said = match tokio::time::timeout(PING, output.recv()).await {
                Ok(Some(said)) => said,
                Ok(None) => break,
                Err(_) if to_client.send(Message::Ping(Default::default())).await.is_err() => return,
                Err(_) => continue,
            };
            match said {
                ExecOutput::Output(stream, bytes) => {
                    let number = if stream == LogStream::Stdout { channel::STDOUT } else { channel::STDERR };
                    let message = [&[number], bytes.as_slice()].concat();
                    if to_client.send(Message::Binary(message.into())).await.is_err() {
                        return;
                    }
                }
                ExecOutput::Ended(code) => return end(&mut to_client, &serde_json::json!({ "exit_code": code })).await,
            }
        }
        let code = match ending {
            Some(ending) => ending.await,
            None => 255,
        };
        end(&mut to_client, &serde_json::json!({ "exit_code": code })).await;
    };
    let over = tokio::select! {
        () = inward => false,
        () = outward => true,
        () = gone => false,
    };
    if over {
        linger(&mut from_client).await;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// What a client's message tells the process; `None` for what is not understood or is not for it.
fn told(message: Message) -> Option<ExecInput> {
    let Message::Binary(bytes) = message else { return None };
    match (*bytes.first()?, &bytes[1..]) {
        (channel::STDIN, data) => Some(ExecInput::Input(data.to_vec())),
        (channel::RESIZE, json) => {
            let size: Size = serde_json::from_slice(json).ok()?;
            Some(ExecInput::Resize { rows: size.height, columns: size.width })
        }
        (channel::CLOSE, [channel::STDIN]) => Some(ExecInput::EndOfInput),
        _ => None,
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PathParams {
    /// Absolute path in the container.
    path: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchiveParams {
    /// Absolute path in the container.
    path: String,
    /// What a link at the end of the path leads to, instead of the link.
    #[serde(default)]
    follow: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtractParams {
    /// Absolute path of a folder in the container.
    path: String,
    /// Whether things belong to whom the archive says (default), or to root.
    #[serde(default)]
    keep_owner: Option<bool>,
}

fn checked(path: &str) -> Result<PathBuf, Error> {
    if path.is_empty() || path.contains('\0') || path.len() > 4096 {
        return Err(Error::invalid(format!("invalid path {path:?}")));
    }
    Ok(Path::new("/").join(path))
}

/// What the file system of a container said.
fn file_error(error: &io::Error, path: &Path) -> Error {
    let status = match error.kind() {
        io::ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (StatusCode::SERVICE_UNAVAILABLE, "no_room"),
        io::ErrorKind::ReadOnlyFilesystem => (StatusCode::CONFLICT, "wrong_state"),
        _ => (StatusCode::BAD_REQUEST, "invalid"),
    };
    Error::new(status.0, status.1, format!("{}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let at = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&at).map_err(|e| file_error(&e, &at))).await;
    done.unwrap_or_else(|_| Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error")))
}

/// What is at a path of a container; a link is shown itself.
#[utoipa::path(get, path = "/v1/containers/{id}/files/stat", tag = "inside",
    params(("id" = String, Path), PathParams), responses((status = 200, body = FileStat)))]
pub(super) async fn stat(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<PathParams>,
) -> Result<Json<FileStat>, Error> {
    let path = checked(&params.path)?;
    let files = core.container_files(&caller, &id, false).await?;
    Ok(Json(blocking(&path, move |path| files.stat(path)).await?.into()))
}

/// What is in a folder of a container, by name; links are shown themselves.
#[utoipa::path(get, path = "/v1/containers/{id}/files/list", tag = "inside",
    params(("id" = String, Path), PathParams), responses((status = 200, body = List<FileStat>), (status = 404, body = super::wire::Problem)))]
pub(super) async fn list_files(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<PathParams>,
) -> Result<Json<List<FileStat>>, Error> {
    let path = checked(&params.path)?;
    let _place = places.take(&caller, Kind::Archive)?;
    let files = core.container_files(&caller, &id, false).await?;
    let items = blocking(&path, move |path| files.list(path)).await?.into_iter().map(FileStat::from).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// The content of a file. Ranges are served.
#[utoipa::path(get, path = "/v1/containers/{id}/files", tag = "inside",
    params(("id" = String, Path), PathParams, ("Range" = Option<String>, Header, description = "`bytes=FIRST-LAST`")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 206), (status = 404, body = super::wire::Problem)))]
pub(super) async fn download(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<PathParams>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let path = checked(&params.path)?;
    let files = core.container_files(&caller, &id, false).await?;
    let (file, meta) = blocking(&path, move |path| {
        let file = files.open(path)?;
        let meta = file.metadata()?;
        Ok((file, meta))
    })
    .await?;
    let served = ranges::serve(file, &meta, &method, &headers).await.map_err(|e| file_error(&e, &path))?;
    Ok(served.unwrap_or_else(|length| {
        let error = Error::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", format!("the file has {length} bytes"));
        ([(header::CONTENT_RANGE, ranges::no_such_range(length))], error).into_response()
    }))
}

/// What is at a path, as a tar whose entries begin with its name.
#[utoipa::path(get, path = "/v1/containers/{id}/archive", tag = "inside",
    params(("id" = String, Path), ArchiveParams),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), (status = 404, body = super::wire::Problem)))]
pub(super) async fn archive(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<ArchiveParams>,
) -> Result<Response, Error> {
    let path = checked(&params.path)?;
    let place = places.take(&caller, Kind::Archive)?;
    let follow = params.follow;
    let files = core.container_files(&caller, &id, false).await?;
    // Looked at before the answer begins: afterwards an error can only break it off.
    let (files, _) = blocking(&path, move |path| {
        let stat = files.stat(path)?;
        Ok((files, stat))
    })
    .await?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let at = path.clone();
    let body = written_by(place, move |out| files.pack(&path, &name, follow, out)).await;
    Ok(tar(body.map_err(|e| file_error(&e, &at))?))
}

/// Unpacks a tar (plain, gzip or zstd) below a folder.
#[utoipa::path(put, path = "/v1/containers/{id}/archive", tag = "inside",
    params(("id" = String, Path), ExtractParams), request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 204), (status = 404, body = super::wire::Problem)))]
pub(super) async fn extract(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
    Params(params): Params<ExtractParams>,
    request: Request,
) -> Result<StatusCode, Error> {
    let path = checked(&params.path)?;
    let keep_owner = params.keep_owner.unwrap_or(true);
    let _place = places.take(&caller, Kind::Archive)?;
    let files: Box<dyn Files> = core.container_files(&caller, &id, true).await?;
    let mut input = reader(request);
    blocking(&path, move |path| files.unpack(path, &mut input, keep_owner)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Its whole file system as a tar.
#[utoipa::path(get, path = "/v1/containers/{id}/export", tag = "inside", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>)))]
pub(super) async fn export(
    State(core): State<Core>,
    State(places): State<StreamLimits>,
    Auth(caller): Auth,
    Segment(id): Segment<String>,
) -> Result<Response, Error> {
    let place = places.take(&caller, Kind::Archive)?;
    let write = core.container_export(&caller, &id).await?;
    tar_of(place, write).await
}

#[cfg(test)]
mod tests {
    use axum::extract::ws::Message;
    use berth_engine::ExecInput;

    use super::told;

    #[test]
    fn messages_are_understood_or_passed_over() {
        let of = |bytes: &[u8]| told(Message::Binary(bytes.to_vec().into()));
        assert_eq!(of(b"\0abc"), Some(ExecInput::Input(b"abc".to_vec())));
        assert_eq!(of(b"\x04{\"Width\":80,\"Height\":24}"), Some(ExecInput::Resize { rows: 24, columns: 80 }));
        assert_eq!(of(&[255, 0]), Some(ExecInput::EndOfInput));
        for other in [&b""[..], b"\x04x", b"\x07", &[255, 1]] {
            assert_eq!(of(other), None);
        }
        assert_eq!(told(Message::Text("x".into())), None);
    }
}
