//! HTTP connections: how many there may be, of whom, and how long they may do nothing.
//!
//! Whoever has not shown a good credential on a connection yet is a stranger. Strangers are never refused but pushed out, the
//! oldest of the address with the most first: a caller from the same address as an attacker still gets in, says who it is, and is
//! no stranger from then on.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use berth_api::{Draining, Peer};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::Service;

use crate::heads::{Heads, LONGEST_HEAD, Serving};

/// Half of the requests that each dialect serves at a time: they must not take all of its places, which are given before a credential is
/// looked at.
pub(crate) const MOST_STRANGERS: usize = 2048;

/// Bounds of HTTP connections.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Http {
    /// HTTP connections that have shown no good credential yet, of all addresses. One more pushes out the oldest of the
    /// address with the most. 1 to 2048.
    pub(crate) strangers: usize,
    /// The same, of one address (of one /64 of IPv6); only those that are older than a second are pushed out.
    pub(crate) strangers_per_address: usize,
    /// HTTP connections of one account; one more pushes out its oldest idle one.
    pub(crate) connections_per_account: usize,
    /// Seconds in which a connection without a good credential has to have sent a request's head.
    pub(crate) head_s: u64,
    /// Seconds that a connection may be idle.
    pub(crate) idle_s: u64,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            strangers: MOST_STRANGERS,
            strangers_per_address: 256,
            connections_per_account: 1024,
            head_s: 10,
            idle_s: 120,
        }
    }
}

/// Time that a stranger has before others of its address push it out.
const GRACE: Duration = Duration::from_secs(1);
/// Time that a stranger's request may take in all.
const STRANGERS_REQUEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Entry {
    /// An IPv6 client has a whole /64.
    address: IpAddr,
    /// 0 as long as it is nobody's.
    account: AtomicI64,
    busy: AtomicU32,
    since: Mutex<Instant>,
    begun: Instant,
    close: Notify,
}

impl Entry {
    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections of the server.
#[derive(Debug)]
pub(crate) struct Connections {
    bounds: Http,
    /// Time to say who one is before one of the same address may be in the way.
    grace: Duration,
    all: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
}

/// A connection as long as it is open.
struct Ticket {
    number: u64,
    entry: Arc<Entry>,
    of: Arc<Connections>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.of.all().remove(&self.number);
    }
}

fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

impl Connections {
    pub(crate) fn new(bounds: Http) -> Arc<Self> {
        Self::with_grace(bounds, GRACE)
    }

    fn with_grace(bounds: Http, grace: Duration) -> Arc<Self> {
        Arc::new(Self { bounds, grace, all: Mutex::default(), next: AtomicU64::new(1) })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Ticket {
        let address = whose(address);
        let entry = Arc::new(Entry {
            address,
            account: AtomicI64::new(0),
            busy: AtomicU32::new(0),
            since: Mutex::new(Instant::now()),
            begun: Instant::now(),
            close: Notify::new(),
        });
        let mut all = self.all();
        let mut strangers: HashMap<IpAddr, usize> = HashMap::new();
        for entry in all.values().filter(|entry| entry.account.load(Ordering::Relaxed) == 0) {
            *strangers.entry(entry.address).or_default() += 1;
        }
        let of = |entry: &Entry, address| entry.account.load(Ordering::Relaxed) == 0 && entry.address == address;
        if strangers.values().sum::<usize>() >= self.bounds.strangers.max(1) {
            if let Some((most, _)) = strangers.iter().max_by_key(|(_, count)| **count) {
                push_out(&mut all, |entry| of(entry, *most));
            }
        } else if strangers.get(&address).is_some_and(|count| *count >= self.bounds.strangers_per_address.max(1)) {
            // Many that come at once may all be about to say who they are: a proxy, a test of load.
            let mut too_many = strangers[&address] + 1 - self.bounds.strangers_per_address.max(1);
            while too_many > 0 && push_out(&mut all, |entry| of(entry, address) && entry.begun.elapsed() > self.grace) {
                too_many -= 1;
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        all.insert(number, entry.clone());
        Ticket { number, entry, of: self.clone() }
    }

    /// The connection is an account's from now on.
    fn known(&self, entry: &Entry, account: i64) {
        if entry.account.swap(account, Ordering::Relaxed) == account {
            return;
        }
        let mut all = self.all();
        let is_own = |other: &Entry| other.account.load(Ordering::Relaxed) == account;
        if all.values().filter(|other| is_own(other)).count() > self.bounds.connections_per_account.max(1) {
            push_out(&mut all, |other| is_own(other) && !std::ptr::eq(other, entry));
        }
    }
}

/// Closes the oldest of these connections, one that does nothing if there is one; whether there was any.
fn push_out(all: &mut HashMap<u64, Arc<Entry>>, of: impl Fn(&Entry) -> bool) -> bool {
    let oldest = all
        .iter()
        .filter(|(_, entry)| of(entry))
        .min_by_key(|(number, entry)| (entry.busy.load(Ordering::Relaxed) > 0, **number))
        .map(|(number, _)| *number);
    match oldest.and_then(|number| all.remove(&number)) {
        Some(entry) => {
            entry.close.notify_one();
            true
        }
        None => false,
    }
}

/// How a connection reaches the server, and who makes it.
pub(crate) struct Reached {
    /// The server's address for this client, `https://10.0.0.5:8443`.
    pub(crate) base: String,
    /// The user of this machine, on a socket that only administrators can open.
    pub(crate) administrator: Option<u32>,
}

/// Serves what comes in at a listener until the server goes, and what is under way to its end. `reached` tells of each
/// connection. Without `connections` there are no bounds: for a listener that only friends reach.
pub(crate) async fn serve<L>(
    mut listener: L,
    router: Router,
    draining: Draining,
    bounds: Http,
    connections: Option<Arc<Connections>>,
    reached: impl Fn(&L::Io) -> Reached,
) where
    L: Listener<Addr = SocketAddr>,
{
    let mut tasks = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = draining.begun() => break,
        };
        let ticket = connections.as_ref().map(|all| all.enter(from.ip()));
        let reached = reached(&stream);
        tasks.spawn(attend(stream, (from, reached), router.clone(), draining.clone(), bounds, ticket));
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn attend(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    (from, reached): (SocketAddr, Reached),
    router: Router,
    draining: Draining,
    bounds: Http,
    ticket: Option<Ticket>,
) {
    let entry = ticket.as_ref().map(|ticket| ticket.entry.clone());
    let known = ticket.as_ref().map(|ticket| (ticket.of.clone(), ticket.entry.clone()));
    let mut peer = Peer::new(&reached.base, move |account| {
        if let Some((all, entry)) = &known {
            all.known(entry, account);
        }
    });
    if let Some(user) = reached.administrator {
        peer = peer.of_administrator(user);
    }
    let of_requests = entry.clone();
    let serving = Serving::default();
    let requests = serving.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        request.extensions_mut().insert(peer.clone());
        let entry = of_requests.clone();
        let mut router = router.clone();
        let serving = requests.clone();
        serving.begin();
        if let Some(entry) = &entry {
            *entry.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            entry.busy.fetch_add(1, Ordering::Relaxed);
        }
        async move {
            let answer = router.call(request).await;
            if let Some(entry) = &entry {
                *entry.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                entry.busy.fetch_sub(1, Ordering::Relaxed);
            }
            answer.map(|answer| serving.answer(answer))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(bounds.idle_s.max(1)))
        .max_buf_size(LONGEST_HEAD);
    let connection = builder.serve_connection(TokioIo::new(Heads::new(stream, serving)), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let too_long = async {
        let Some(entry) = &entry else { return std::future::pending().await };
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if entry.account.load(Ordering::Relaxed) != 0 {
                // How long those may be idle is the connection's own timer.
                tokio::time::sleep(Duration::from_secs(5)).await;
                continue;
            }
            let busy = entry.busy.load(Ordering::Relaxed) > 0;
            let most = if busy { STRANGERS_REQUEST } else { Duration::from_secs(bounds.head_s.max(1)) };
            if entry.since().elapsed() > most {
                return;
            }
        }
    };
    let pushed_out = async {
        match &entry {
            Some(entry) => entry.close.notified().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = &mut connection => {}
        () = too_long => {}
        () = pushed_out => {}
        () = draining.begun() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::{Connections, Http};

    #[test]
    fn strangers_push_out_each_other_and_nobody_known() {
        let all = Http { strangers: 4, strangers_per_address: 3, connections_per_account: 2, ..Http::default() };
        let all = Connections::with_grace(all, std::time::Duration::ZERO);
        let (here, there) = ("10.0.0.1".parse().expect("ip"), "10.0.0.2".parse().expect("ip"));
        let known = all.enter(here);
        all.known(&known.entry, 7);
        let mut of_here: Vec<_> = (0..3).map(|_| all.enter(here)).collect();
        of_here[0].entry.busy.store(1, Ordering::Relaxed);
        // A fourth of the address: the oldest that does nothing goes.
        let fourth = all.enter(here);
        assert!(!all.all().contains_key(&of_here[1].number) && all.all().contains_key(&of_here[0].number));
        // Of another address: there is room for one, then the address with the most loses.
        let others = [all.enter(there), all.enter(there)];
        assert!(others.iter().all(|other| all.all().contains_key(&other.number)));
        assert!(!all.all().contains_key(&of_here[2].number) && all.all().contains_key(&fourth.number));
        assert!(all.all().contains_key(&known.number), "whoever is known stays");
        of_here.clear();
        // An account pushes out its own.
        let more: Vec<_> = (0..2).map(|_| all.enter(there)).collect();
        more.iter().for_each(|ticket| all.known(&ticket.entry, 7));
        assert!(!all.all().contains_key(&known.number));
    }
}
