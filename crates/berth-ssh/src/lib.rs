//! SSH logins into containers whose image has no server for them.
//!
//! For each such container that runs, a socket of this process listens on port 22 *in the container's network*: its published
//! ports, its bandwidth and its counters hold for logins as for everything else. Who may come in is what the container's own
//! `authorized_keys` of root says. A login's process is run in the container as `berth exec` does; nothing of the protocol is
//! done by anything in it.
//!
//! Absent: forwarding of ports, agents and X11, passwords. Files go by `scp -O` or `sftp` as far as the image has their
//! programs, or by a pipe through a command.

mod connection;
mod session;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_core::{Core, Error, SshEndpoint};
use russh::keys::PrivateKey;
use russh::server::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{AbortHandle, JoinSet};

use crate::connection::Connection;

/// Connections of a container at a time that have shown a key.
const KNOWN: usize = 64;
/// When a container that could not be served is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Those that have not; one more pushes out the oldest of the address with the most.
const STRANGERS: usize = 48;
/// Time to show one.
const LOGIN_TIME: Duration = Duration::from_secs(20);

/// Serves the containers that run now, and those that come, until the core goes.
///
/// # Errors
/// The server's own key can't be read or made.
pub async fn begin(core: Core) -> Result<(), Error> {
    let key = core.ssh_own_key().await?;
    let key = PrivateKey::from_openssh(&key).map_err(|e| Error::Bug(format!("the server's key for SSH: {e}")))?;
    let config = Arc::new(Config {
        server_id: russh::SshId::Standard("SSH-2.0-berth".into()),
        methods: [russh::MethodKind::PublicKey].as_slice().into(),
        keys: vec![key],
        auth_rejection_time: Duration::from_millis(300),
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(60)),
        nodelay: true,
        ..Config::default()
    });
    // From here on nothing is missed.
    let mut events = core.event_stream();
    let mut served = Served { config, runs: HashMap::new(), told: HashMap::new(), again: false };
    for host in core.ssh_hosts().await? {
        served.begin(&core, host).await;
    }
    tokio::spawn(async move {
        loop {
            let event = if served.again {
                match tokio::time::timeout(AGAIN_AFTER, events.recv()).await {
                    Ok(event) => event,
                    // Those that could not be served, such as one that a crash left paused, until they can be.
                    Err(_) => Err(RecvError::Lagged(0)),
                }
            } else {
                events.recv().await
            };
            let hosts = match event {
                Ok(event) if ["container.started", "container.resumed"].contains(&event.kind.as_str()) => {
                    match core.ssh_host(&event.subject).await {
                        Ok(host) => host.into_iter().collect(),
                        Err(error) => {
                            tracing::warn!(error = error.chain(), "a container's plan could not be read");
                            continue;
                        }
                    }
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => {
                    served.again = false;
                    core.ssh_hosts().await.unwrap_or_default()
                }
                Err(RecvError::Closed) => return,
            };
            for host in hosts {
                served.begin(&core, host).await;
            }
        }
    });
    Ok(())
}

struct Served {
    config: Arc<Config>,
    /// Container: its run, and who listens in it.
    runs: HashMap<i64, (i64, AbortHandle)>,
    /// Container: the run that could not be served, as the log has it.
    told: HashMap<i64, i64>,
    /// Some could not be served: they are tried again.
    again: bool,
}

impl Served {
    async fn begin(&mut self, core: &Core, host: SshEndpoint) {
        self.runs.retain(|_, (_, task)| !task.is_finished());
        match self.runs.get(&host.container) {
            Some((run, _)) if *run == host.run => return,
            // Its run is over; whoever listens there ends with it.
            Some(_) | None => {}
        }
        let listening = match core.ssh_listen(&host).await {
            Ok(listening) => listening,
            Err(error) => {
                self.again = true;
                if self.told.insert(host.container, host.run) != Some(host.run) {
                    tracing::warn!(container = host.name, error = error.chain(), "nobody answers SSH in a container");
                }
                return;
            }
        };
        let socket = listening.socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(listening.socket));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(container = host.name, %error, "nobody answers SSH in a container");
                return;
            }
        };
        let (core, config, mut ended, id, run) =
            (core.clone(), self.config.clone(), listening.ended, host.container, host.run);
        let task = tokio::spawn(async move {
            let open = Open::default();
            let mut serving = std::pin::pin!(serve(&core, &host, &config, socket, &open));
            tokio::select! {
                () = &mut serving => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
            // While the container's network is there to tell the clients.
            open.shut();
            core.ssh_ended(&host);
            drop(ended);
        });
        self.runs.insert(id, (run, task.abort_handle()));
    }
}

/// Connections that are open, to be closed from outside: their own tasks may be busy.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<HashMap<u64, Held>>>);

struct Held {
    stream: std::net::TcpStream,
    from: IpAddr,
    known: bool,
}

/// Takes a connection out when it has ended.
struct Entered(Open, u64);

impl Open {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of a stranger, which is closed by [`shut`](Self::shut).
    fn enter(&self, stream: TcpStream, number: u64, from: IpAddr) -> std::io::Result<(TcpStream, Entered)> {
        let stream = stream.into_std()?;
        let mut all = self.all();
        let strangers: Vec<(u64, IpAddr)> = all.iter().filter(|(_, h)| !h.known).map(|(n, h)| (*n, h.from)).collect();
        if strangers.len() >= STRANGERS
            && let Some(out) = victim(&strangers)
            && let Some(held) = all.remove(&out)
        {
            let _ = held.stream.shutdown(std::net::Shutdown::Both);
        }
        all.insert(number, Held { stream: stream.try_clone()?, from, known: false });
        drop(all);
        let entered = Entered(self.clone(), number);
        Ok((TcpStream::from_std(stream)?, entered))
    }

    fn shut(&self) {
        for (_, held) in self.all().drain() {
            let _ = held.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// It has shown a key; `false` if it was pushed out meanwhile, or too many have.
    fn know(&self, number: u64) -> bool {
        let mut all = self.all();
        let known = all.values().filter(|held| held.known).count();
        match all.get_mut(&number) {
            Some(held) if held.known || known < KNOWN => {
                held.known = true;
                true
            }
            _ => false,
        }
    }
}

/// Who makes room: the oldest of the address with the most.
fn victim(strangers: &[(u64, IpAddr)]) -> Option<u64> {
    let count = |address: IpAddr| strangers.iter().filter(|(_, from)| *from == address).count();
    strangers.iter().max_by_key(|(number, from)| (count(*from), std::cmp::Reverse(*number))).map(|(number, _)| *number)
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.all().remove(&self.1);
    }
}

/// A connection among those of its container.
#[derive(Clone)]
pub(crate) struct Place {
    open: Open,
    number: u64,
    pub(crate) from: IpAddr,
}

impl Place {
    /// See [`Open::know`].
    pub(crate) fn know(&self) -> bool {
        self.open.know(self.number)
    }
}

async fn serve(core: &Core, host: &SshEndpoint, config: &Arc<Config>, socket: TcpListener, open: &Open) {
    let kept = Arc::new(AtomicUsize::new(0));
    // Ends with this: a connection must not hold the network of a container that has ended.
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok((stream, from)) => (stream, from.ip()),
            Err(error) => {
                tracing::debug!(container = host.name, %error, "an SSH connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        number += 1;
        let Ok((stream, entered)) = open.enter(stream, number, from) else { continue };
        let (core, host, config, kept) = (core.clone(), host.clone(), config.clone(), kept.clone());
        connections.spawn(async move {
            if let Err(error) = attend(core, &host, config, stream, (entered, from), kept).await {
                tracing::debug!(container = host.name, %error, "an SSH connection ended");
            }
        });
    }
}

async fn attend(
    core: Core,
    host: &SshEndpoint,
    config: Arc<Config>,
    stream: TcpStream,
    (entered, from): (Entered, IpAddr),
    kept: Arc<AtomicUsize>,
) -> Result<(), russh::Error> {
    let _ = stream.set_nodelay(true);
    let known = Arc::new(AtomicBool::new(false));
    let place = Place { open: entered.0.clone(), number: entered.1, from };
    let connection = Connection::new(core, host.clone(), known.clone(), place, kept);
    let begin = tokio::time::timeout(LOGIN_TIME, russh::server::run_stream(config, stream, connection));
    let running = begin.await.map_err(|_| russh::Error::ConnectionTimeout)??;
    let handle = running.handle();
    let mut running = std::pin::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = tokio::time::sleep(LOGIN_TIME) => {}
    }
    if !known.load(Ordering::SeqCst) {
        let _ =
            handle.disconnect(russh::Disconnect::ByApplication, "no key was shown in time".into(), String::new()).await;
        return Ok(());
    }
    running.await
}

#[cfg(test)]
mod tests {
    use super::victim;

    #[test]
    fn the_address_with_the_most_makes_room() {
        let address = |last: u8| std::net::IpAddr::from([10, 0, 0, last]);
        let strangers = [(4, address(1)), (2, address(2)), (9, address(1)), (1, address(3))];
        assert_eq!(victim(&strangers), Some(4));
        assert_eq!(victim(&[]), None);
    }
}
