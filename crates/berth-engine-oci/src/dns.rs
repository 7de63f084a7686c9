//! Name service for containers, on the bridge's own address: containers of one tenant find each other by name, everything
//! else is asked of the host's own name servers (RFC 1035).
//!
//! While the server is away nothing answers here, and resolvers go on to the next name server of `resolv.conf`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_net::Subnet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Time that a name server of the host may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Questions of one container under way at a time; what is beyond is not answered, and asked again.
const AT_ONCE: usize = 64;
/// Connections of one container.
const CONNECTIONS: usize = 8;
/// Seconds that an answer about a container may be kept.
const KEPT: u32 = 5;

/// Who is called how.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<(u32, String), Ipv4Addr>,
    tenants: HashMap<Ipv4Addr, u32>,
}

impl Names {
    pub(crate) fn add(&self, tenant: u32, names: &[String], address: Ipv4Addr) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.tenants.insert(address, tenant);
        for name in names {
            known.addresses.insert((tenant, name.to_ascii_lowercase()), address);
        }
    }

    pub(crate) fn remove(&self, tenant: u32, names: &[String], address: Ipv4Addr) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.tenants.remove(&address);
        for name in names {
            let key = (tenant, name.to_ascii_lowercase());
            if known.addresses.get(&key) == Some(&address) {
                known.addresses.remove(&key);
            }
        }
    }

    fn find(&self, asker: Ipv4Addr, name: &str) -> Option<Ipv4Addr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = *known.tenants.get(&asker)?;
        known.addresses.get(&(tenant, name.to_owned())).copied()
    }
}

/// The one question of a query: name, type, and where it ends. `None` for anything else.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let is_query = query.get(2)? & 0xf8 == 0;
    if !is_query || query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Names of a question are not compressed.
        if length > 63 || name.len() > 255 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at..at + length)?).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let class = u16::from_be_bytes(query.get(at + 2..at + 4)?.try_into().ok()?);
    (class == 1).then(|| (name.to_ascii_lowercase(), kind, at + 4))
}

/// The answer to a question about a container; without an address, that there is none of that type.
fn answer(query: &[u8], end: usize, address: Option<Ipv4Addr>) -> Vec<u8> {
    // The same id; a response, authoritative, recursion as desired and available, no error.
    let mut out =
        vec![query[0], query[1], 0x84 | (query[2] & 1), 0x80, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0];
    out.extend_from_slice(&query[12..end]);
    if let Some(address) = address {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        out.extend_from_slice(&KEPT.to_be_bytes());
        out.extend_from_slice(&[0, 4]);
        out.extend_from_slice(&address.octets());
    }
    out
}

/// What is known here; `None` if others must be asked.
fn known(names: &Names, asker: Ipv4Addr, query: &[u8]) -> Option<Vec<u8>> {
    const A: u16 = 1;
    let (name, kind, end) = question(query)?;
    let address = names.find(asker, &name)?;
    Some(answer(query, end, (kind == A).then_some(address)))
}

/// Answers without content (RFC 1035, 4.1.1).
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// An answer that says only why there is none.
fn refusal(query: &[u8], code: u8) -> Vec<u8> {
    vec![query[0], query[1], 0x80 | (query[2] & 0x79), 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// What a container asks, as it is passed on: a query of berth's own with the same question. Only ordinary questions are:
/// nothing of the client's reaches the host's name servers but a name and a type.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordinary {
    /// The question as it stands in the message.
    question: Vec<u8>,
    /// The flags CD and AD.
    checking: u8,
    /// The size and the flags of an OPT record (RFC 6891), if there was one.
    extended: Option<(u16, u32)>,
}

impl Ordinary {
    /// The message with this id.
    fn message(&self, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let additional = u8::from(self.extended.is_some());
        let mut out = vec![high, low, 1, self.checking, 0, 1, 0, 0, 0, 0, 0, additional];
        out.extend_from_slice(&self.question);
        if let Some((size, flags)) = self.extended {
            out.extend_from_slice(&[0, 0, 41]);
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&flags.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
        }
        out
    }

    /// Whether a message answers that one.
    fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        answer.len() >= 12 + self.question.len()
            && answer[..2] == id.to_be_bytes()
            && answer[2] & 0x80 != 0
            && answer[12..12 + self.question.len()].eq_ignore_ascii_case(&self.question)
    }
}

/// Reads a query; the code of the refusal if it is none to be passed on, `None` for what is no query at all.
fn ordinary(query: &[u8]) -> Result<Ordinary, Option<u8>> {
    /// The DNSSEC OK flag.
    const DO: u32 = 1 << 15;
    if query.len() < 12 || query[2] & 0x80 != 0 {
        return Err(None);
    }
    if query[2] & 0x78 != 0 {
        return Err(Some(NOT_IMPLEMENTED));
    }
    let count = |at: usize| u16::from_be_bytes([query[at], query[at + 1]]);
    if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 {
        return Err(Some(FORMAT_ERROR));
    }
    let end = end_of_question(query).ok_or(Some(FORMAT_ERROR))?;
    let (kind, class) =
        (u16::from_be_bytes([query[end - 4], query[end - 3]]), u16::from_be_bytes([query[end - 2], query[end - 1]]));
    // Transfers, keys, "everything": not for stub resolvers.
    if class != 1 || matches!(kind, 0 | 41 | 249..=255) {
        return Err(Some(REFUSED));
    }
    let extended = match (count(10), &query[end..]) {
        (0, []) => None,
        (1, [0, 0, 41, s1, s2, f1, 0, f3, f4, l1, l2, options @ ..])
            if options.len() == usize::from(u16::from_be_bytes([*l1, *l2])) =>
        {
            let flags = u32::from_be_bytes([*f1, 0, *f3, *f4]) & DO;
            Some((u16::from_be_bytes([*s1, *s2]).clamp(512, 1232), flags))
        }
        _ => return Err(Some(FORMAT_ERROR)),
    };
    Ok(Ordinary { question: query[12..end].to_vec(), checking: query[3] & 0x30, extended })
}

/// Where the one question of a message ends.
fn end_of_question(query: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Names of a question are not compressed.
        if length > 63 || at + length > 12 + 255 {
            return None;
        }
        at += length;
    }
    (query.len() >= at + 4).then_some(at + 4)
}

/// For fuzz targets: a message of a container, and an answer of a name server to it.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(message: &[u8]) {
    let names = Names::default();
    let asker = Ipv4Addr::new(10, 210, 0, 2);
    names.add(7, &["web".to_owned()], asker);
    let _ = known(&names, asker, message);
    match ordinary(message) {
        Ok(ordinary) => {
            let _ = ordinary.is_answered_by(0, message);
        }
        Err(Some(code)) => drop(refusal(message, code)),
        Err(None) => {}
    }
    let _ = (question(message), end_of_question(message));
}

/// An id that nobody else knows.
fn random_id() -> u16 {
    let mut bytes = [0u8; 2];
    // SAFETY: a buffer with its length.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u16::from_be_bytes(bytes)
}

/// The answer with the id that the client gave its query.
fn with_id(mut answer: Vec<u8>, query: &[u8]) -> Vec<u8> {
    answer[..2].copy_from_slice(&query[..2]);
    answer
}

/// The host's own name servers, those on its loopback included.
fn servers(fallback: &[String]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut all: Vec<IpAddr> =
        text.lines().filter_map(|l| l.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect();
    if all.is_empty() {
        all = fallback.iter().filter_map(|s| s.parse().ok()).collect();
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn ask_others(asked: &Ordinary, servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers.iter().copied() {
        let (id, ordinary) = (random_id(), asked);
        let own: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let asked = async {
            let socket = UdpSocket::bind(own).await?;
            socket.connect(server).await?;
            socket.send(&ordinary.message(id)).await?;
            let mut buffer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut buffer).await?;
                if ordinary.is_answered_by(id, &buffer[..length]) {
                    buffer.truncate(length);
                    return Ok::<_, std::io::Error>(buffer);
                }
            }
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(answer);
        }
    }
    None
}

/// How much each asker has under way.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<HashMap<Ipv4Addr, usize>>>);

/// One of them.
struct Turn(Turns, Ipv4Addr);

impl Turns {
    fn take(&self, asker: Ipv4Addr, most: usize) -> Option<Turn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(asker).or_default();
        (*count < most).then(|| {
            *count += 1;
            Turn(self.clone(), asker)
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// Asks `server` for the address of `name`, as a resolver would; blocks for half a second at most.
pub(crate) fn ask(server: Ipv4Addr, name: &str) -> std::io::Result<()> {
    let mut query = vec![0xbe, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
    query.extend(name.bytes());
    query.extend([0, 0, 1, 0, 1]);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect((server, 53))?;
    socket.send(&query)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    if length > 12 && answer[..2] == query[..2] { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// Answers on `gateway` for as long as `names` is in use elsewhere. Whether it could be listened there.
pub(crate) async fn serve(names: &Arc<Names>, subnet: Subnet, fallback: &[String]) -> std::io::Result<()> {
    let udp = Arc::new(UdpSocket::bind((subnet.gateway, 53)).await?);
    let tcp = TcpListener::bind((subnet.gateway, 53)).await?;
    let (turns, connections) = (Turns::default(), Turns::default());
    let inside = move |from: SocketAddr| match from.ip() {
        // The host may ask as well, for those who look into it.
        IpAddr::V4(ip) if subnet.contains(ip) => Some(ip),
        _ => None,
    };
    let (weak, others, allocator) = (Arc::downgrade(names), fallback.to_vec(), turns);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let Ok((length, from)) = udp.recv_from(&mut buffer).await else { continue };
            let Some(names) = weak.upgrade() else { return };
            let Some(asker) = inside(from).filter(|_| length >= 12) else { continue };
            let query = buffer[..length].to_vec();
            if let Some(answer) = known(&names, asker, &query) {
                let _ = udp.send_to(&answer, from).await;
                continue;
            }
            let asked = match ordinary(&query) {
                Ok(asked) => asked,
                Err(code) => {
                    if let Some(code) = code {
                        let _ = udp.send_to(&refusal(&query, code), from).await;
                    }
                    continue;
                }
            };
            let Some(place) = allocator.take(asker, AT_ONCE) else { continue };
            let (udp, others) = (udp.clone(), others.clone());
            tokio::spawn(async move {
                let answer = ask_others(&asked, &servers(&others)).await;
                let answer = answer.map_or_else(|| refusal(&query, SERVER_FAILURE), |answer| with_id(answer, &query));
                let _ = udp.send_to(&answer, from).await;
                drop(place);
            });
        }
    });
    let (weak, others) = (Arc::downgrade(names), fallback.to_vec());
    tokio::spawn(async move {
        loop {
            let Ok((stream, from)) = tcp.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(names) = weak.upgrade() else { return };
            let Some(asker) = inside(from) else { continue };
            let Some(place) = connections.take(asker, CONNECTIONS) else { continue };
            let others = others.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(PATIENCE * 4, converse(stream, asker, &names, &others)).await;
                drop(place);
            });
        }
    });
    Ok(())
}

async fn converse(mut stream: TcpStream, asker: Ipv4Addr, names: &Names, others: &[String]) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let answer = match known(names, asker, &query) {
            Some(answer) => answer,
            None => match ordinary(&query) {
                Ok(asked) => {
                    let answer = ask_by_tcp(&asked, &servers(others)).await;
                    answer.map_or_else(|| refusal(&query, SERVER_FAILURE), |answer| with_id(answer, &query))
                }
                Err(Some(code)) => refusal(&query, code),
                Err(None) => return Ok(()),
            },
        };
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&answer).await?;
    }
}

async fn ask_by_tcp(ordinary: &Ordinary, servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers.iter().copied() {
        let id = random_id();
        let query = ordinary.message(id);
        let asked = async {
            let mut stream = TcpStream::connect(server).await?;
            stream.write_u16(u16::try_from(query.len()).unwrap_or(u16::MAX)).await?;
            stream.write_all(&query).await?;
            let length = stream.read_u16().await?;
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await
            && ordinary.is_answered_by(id, &answer)
        {
            return Some(answer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Names, known, ordinary, question};

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for part in name.split('.') {
            out.push(part.len() as u8);
            out.extend(part.bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    #[test]
    fn only_ordinary_queries_are_passed_on_and_as_ones_of_our_own() {
        let plain = query("example.org", 1);
        let asked = ordinary(&plain).expect("ordinary");
        assert_eq!(asked.message(0x0102)[..2], [1, 2]);
        assert_eq!(asked.message(0x0708)[12..], plain[12..]);
        let mut extended = plain.clone();
        extended[11] = 1;
        // Size 4096, DO, and a cookie, which is the client's own.
        extended.extend([0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 4, 0, 10, 0, 0]);
        let asked = ordinary(&extended).expect("ordinary");
        assert_eq!(asked.message(1)[plain.len()..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        let with = |at: usize, byte: u8| {
            let mut changed = plain.clone();
            changed[at] = byte;
            ordinary(&changed)
        };
        assert_eq!(with(2, 0x81), Err(None), "an answer");
        assert_eq!(with(2, 0x28), Err(Some(super::NOT_IMPLEMENTED)), "UPDATE");
        assert_eq!(with(5, 2), Err(Some(super::FORMAT_ERROR)), "two questions");
        assert_eq!(with(7, 1), Err(Some(super::FORMAT_ERROR)), "an answer in a question");
        assert_eq!(with(plain.len() - 1, 3), Err(Some(super::REFUSED)), "CHAOS");
        for kind in [252, 251, 255, 249, 250] {
            assert_eq!(ordinary(&query("example.org", kind)), Err(Some(super::REFUSED)), "{kind}");
        }
        assert_eq!(ordinary(&[plain.clone(), vec![1]].concat()), Err(Some(super::FORMAT_ERROR)), "what follows");
        let compressed = [&plain[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert_eq!(ordinary(&compressed), Err(Some(super::FORMAT_ERROR)));
        for length in 0..plain.len() {
            assert!(ordinary(&plain[..length]).is_err());
        }
        // An answer to another question, or with another id, is none.
        let asked = ordinary(&plain).expect("ordinary");
        let mut answer = asked.message(9);
        answer[2] |= 0x80;
        assert!(asked.is_answered_by(9, &answer) && !asked.is_answered_by(8, &answer));
        answer[14] ^= 1;
        assert!(!asked.is_answered_by(9, &answer));
    }

    #[test]
    fn tenants_find_their_own_and_nobody_elses() {
        let names = Names::default();
        let (web, db, other) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4));
        names.add(1, &["web".into()], web);
        names.add(1, &["DB".into()], db);
        names.add(2, &["web".into()], other);
        let found = known(&names, db, &query("Web", 1)).expect("its own tenant's");
        assert!(found.ends_with(&[10, 0, 0, 2]) && found[..4] == [7, 8, 0x85, 0x80] && found[7] == 1);
        assert!(known(&names, other, &query("web", 1)).expect("its own").ends_with(&[10, 0, 0, 4]));
        assert_eq!(known(&names, other, &query("db", 1)), None, "another tenant's");
        assert_eq!(known(&names, Ipv4Addr::new(10, 9, 9, 9), &query("web", 1)), None);
        assert_eq!(known(&names, web, &query("db", 28)).expect("no such type")[7], 0);
        names.remove(1, &["DB".into()], db);
        assert_eq!(known(&names, web, &query("db", 1)), None);
        for length in 0..query("db", 1).len() {
            assert_eq!(question(&query("db", 1)[..length]), None);
        }
    }
}
