//! A session with a process in a container, over a WebSocket.

use berth_api::wire::{ExecCreate, Problem, channel};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use reqwest::Url;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{Client, Error, Result};

/// What a session goes over.
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + std::fmt::Debug + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + std::fmt::Debug + Send + Unpin> Io for T {}

type Socket = WebSocketStream<Box<dyn Io>>;

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// On standard output, or its terminal.
    Stdout(Vec<u8>),
    /// On standard error.
    Stderr(Vec<u8>),
    /// It has ended with this exit code.
    Ended(i32),
}

/// A session.
#[derive(Debug)]
pub struct Session {
    to: SessionInput,
    from: SessionOutput,
}

/// The half of a session that speaks to the process.
#[derive(Debug)]
pub struct SessionInput(SplitSink<Socket, Message>);

/// The half of a session that hears the process. Whoever waits to send must go on to hear: a process that is not heard
/// takes no input either.
#[derive(Debug)]
pub struct SessionOutput(SplitStream<Socket>);

/// A connection to the server, with TLS if its address says so.
async fn connect(client: &Client, address: &Url) -> Result<Box<dyn Io>> {
    let unreachable =
        |e: &dyn std::fmt::Display| Error::Connection(format!("no server answers at {} ({e})", client.base));
    let (host, port) = (address.host_str().unwrap_or_default(), address.port_or_known_default().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.map_err(|e| unreachable(&e))?;
    // What is typed goes out at once.
    let _ = stream.set_nodelay(true);
    if address.scheme() != "https" {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| unreachable(&e))?;
    let stream = TlsConnector::from(client.tls.clone()).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| match berth_tls::explain(&error) {
        Some(why) => Error::Connection(format!("the server at {} can't be trusted: {why}", client.base)),
        None => unreachable(&error),
    })?))
}

fn broken(error: &tungstenite::Error) -> Error {
    Error::Connection(error.to_string())
}

impl Session {
    pub(crate) async fn open(client: &Client, path: &str) -> Result<Self> {
        let address = Url::parse(&format!("{}{path}", client.base));
        let address = address.map_err(|e| Error::Connection(format!("{}: {e}", client.base)))?;
        let authority = address.authority();
        let query = address.query().map(|query| format!("?{query}")).unwrap_or_default();
        let below = format!("{}{query}", address.path());
        let mut request = format!("ws://{authority}{below}").into_client_request().map_err(|e| broken(&e))?;
        if !client.token.is_empty() {
            let bearer = format!("Bearer {}", client.token);
            let bearer = bearer.parse().map_err(|_| Error::Connection("the token is no token".into()))?;
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        if let Some(account) = &client.account {
            let name = HeaderValue::from_bytes(account.as_bytes());
            let name = name.map_err(|_| Error::Connection(format!("{account:?} is not an account's name")))?;
            request.headers_mut().insert(crate::ACCOUNT, name);
        }
        let stream: Box<dyn Io> = match &client.socket {
            Some(socket) => {
                let stream = UnixStream::connect(socket).await;
                Box::new(stream.map_err(|e| Error::Connection(format!("unix:{}: {e}", socket.display())))?)
            }
            None => connect(client, &address).await?,
        };
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => {
                let (to, from) = socket.split();
                Ok(Self { to: SessionInput(to), from: SessionOutput(from) })
            }
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                Err(match serde_json::from_slice::<Problem>(&body) {
                    Ok(problem) => Error::Refused(problem),
                    Err(_) => Error::Answer(format!("{}", answer.status())),
                })
            }
            Err(error) => Err(broken(&error)),
        }
    }

    pub(crate) async fn begin(&mut self, exec: &ExecCreate) -> Result<()> {
        let text = serde_json::to_string(exec).map_err(|e| Error::Answer(e.to_string()))?;
        self.to.0.send(Message::text(text)).await.map_err(|e| broken(&e))
    }

    /// Both halves, for tasks of their own.
    pub fn split(self) -> (SessionInput, SessionOutput) {
        (self.to, self.from)
    }

    /// Sends input.
    ///
    /// # Errors
    /// The connection broke; so for every call.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.input(bytes).await
    }

    /// Says that there is no more input.
    pub async fn end_of_input(&mut self) -> Result<()> {
        self.to.end_of_input().await
    }

    /// Tells the terminal's size.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.to.resize(rows, columns).await
    }

    /// What the process says next. An end of the connection without an end of the process is an error.
    pub async fn next(&mut self) -> Result<Heard> {
        self.from.next().await
    }
}

impl SessionInput {
    async fn send(&mut self, number: u8, bytes: &[u8]) -> Result<()> {
        let message = [&[number], bytes].concat();
        self.0.send(Message::binary(message)).await.map_err(|e| broken(&e))
    }

    /// Sends input.
    ///
    /// # Errors
    /// The connection broke; so for every call.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        self.send(channel::STDIN, bytes).await
    }

    /// Says that there is no more input.
    pub async fn end_of_input(&mut self) -> Result<()> {
        self.send(channel::CLOSE, &[channel::STDIN]).await
    }

    /// Tells the terminal's size.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        let size = serde_json::json!({ "Width": columns, "Height": rows }).to_string();
        self.send(channel::RESIZE, size.as_bytes()).await
    }
}

impl SessionOutput {
    /// What the process says next. An end of the connection without an end of the process is an error.
    pub async fn next(&mut self) -> Result<Heard> {
        loop {
            let message = match self.0.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    return Err(Error::Connection(format!(
                        "the connection to the server was lost ({error}); the process may go on"
                    )));
                }
                None => return Err(Error::Connection("the server has gone; the process may go on".into())),
            };
            let Message::Binary(bytes) = message else { continue };
            match (bytes.first(), bytes.get(1..).unwrap_or_default()) {
                (Some(&channel::STDOUT), data) => return Ok(Heard::Stdout(data.to_vec())),
                (Some(&channel::STDERR), data) => return Ok(Heard::Stderr(data.to_vec())),
                (Some(&channel::STATUS), json) => {
                    let status: serde_json::Value =
                        serde_json::from_slice(json).map_err(|e| Error::Answer(e.to_string()))?;
                    if let Ok(problem) = serde_json::from_value::<Problem>(status["error"].clone()) {
                        return Err(Error::Refused(problem));
                    }
                    let code = status["exit_code"].as_i64().and_then(|c| i32::try_from(c).ok());
                    return Ok(Heard::Ended(code.unwrap_or(255)));
                }
                _ => {}
            }
        }
    }
}
