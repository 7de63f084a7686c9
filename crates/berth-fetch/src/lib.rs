//! Downloads on behalf of clients. An address that a client names must not become a way to the inside: names are resolved
//! here and every address is judged before it is connected to, redirects are judged again, proxies of the environment are
//! not used, and what comes is bounded in size and time.

mod registry;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_core::{Fetch, FetchError};
use futures_util::StreamExt;
use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use tokio::io::AsyncWriteExt;

pub use registry::{Registries, RegistriesSettings, RegistrySettings};

const REDIRECTS: usize = 5;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest silence in the middle of a download.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Fetches by HTTP and HTTPS.
#[derive(Debug, Default)]
pub struct HttpFetch(Guard);

impl HttpFetch {
    /// Goes where `guard` lets it.
    pub fn new(guard: Guard) -> Self {
        Self(guard)
    }
}

/// Judges addresses that clients name.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Networks that nobody is led to: the containers' own.
    never: Arc<[(Ipv4Addr, u8)]>,
}

/// What an address is to those who may not reach everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    /// Loopback, the host's own, private ranges, carrier-grade NAT, benchmarking.
    Private,
    /// Link-local, multicast, metadata services of clouds, the containers' network: never.
    Never,
}

impl Reach {
    fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Private, _) | (_, Self::Private) => Self::Private,
            _ => Self::Public,
        }
    }
}

/// Whether this is an address of the host itself: what listens on it may be meant for the host's own network alone.
fn is_of_host(address: IpAddr) -> bool {
    let any = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}/ip_nonlocal_bind"));
    // With that setting every address can be bound, and says nothing.
    let tells = |name: &str| any(name).is_ok_and(|text| text.trim() == "0");
    let tells = if address.is_ipv4() { tells("ipv4") } else { tells("ipv6") };
    tells && std::net::UdpSocket::bind((address, 0)).is_ok()
}

impl Guard {
    /// Lets nobody into these networks (address and prefix length).
    pub fn new(never: impl IntoIterator<Item = (Ipv4Addr, u8)>) -> Self {
        Self { never: never.into_iter().collect() }
    }

    fn is_never(&self, address: Ipv4Addr) -> bool {
        let in_network = |&(network, prefix): &(Ipv4Addr, u8)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        };
        self.never.iter().any(in_network)
    }

    fn reach_v4(&self, address: Ipv4Addr) -> Reach {
        let [a, b, c, _] = address.octets();
        // Metadata services outside link-local: Alibaba, Oracle, Azure's wire server.
        let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&address.octets());
        let nobodys =
            address.is_link_local() || address.is_multicast() || address.is_unspecified() || a >= 240 || a == 0;
        if metadata || nobodys || self.is_never(address) {
            Reach::Never
        } else if address.is_loopback()
            || address.is_private()
            || (a == 100 && b & 0xc0 == 64)
            || (a == 198 && b & 0xfe == 18)
            || (a, b, c) == (192, 0, 0)
        {
            Reach::Private
        } else {
            Reach::Public
        }
    }

    fn reach(&self, address: IpAddr) -> Reach {
        let v6: Ipv6Addr = match address {
            IpAddr::V4(v4) => return self.reach_v4(v4),
            IpAddr::V6(v6) => v6,
        };
        if v6.is_loopback() {
            return Reach::Private;
        }
        let s = v6.segments();
        let embedded = |high: u16, low: u16| self.reach_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
        match s {
            // IPv4-mapped and -compatible, IPv4-translated (RFC 2765), NAT64, 6to4: the IPv4 address inside decides.
            [0, 0, 0, 0, 0, 0xffff | 0, high, low]
            | [0, 0, 0, 0, 0xffff, 0, high, low]
            | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
            [0x2002, high, low, ..] => embedded(high, low),
            // NAT64 of a network's own (RFC 8215): what is inside depends on that network.
            [0x64, 0xff9b, 1, ..] => Reach::Never,
            // Teredo (RFC 4380): the server, and the client with its bits turned.
            [0x2001, 0, high, low, _, _, client_high, client_low] => {
                embedded(high, low).worse(embedded(!client_high, !client_low))
            }
            // Metadata services of AWS, Google and IBM.
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => Reach::Never,
            // Link-local, multicast, discarded (RFC 6666).
            [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 => Reach::Never,
            [0x100, 0, 0, 0, ..] => Reach::Never,
            // Unique local, the former site-local, documentation.
            [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Reach::Private,
            [0x2001, 0xdb8, ..] => Reach::Private,
            [0x3fff, second, ..] if second & 0xf000 == 0 => Reach::Private,
            // ISATAP (RFC 5214).
            [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => embedded(high, low),
            _ => Reach::Public,
        }
    }

    fn allowed(&self, address: IpAddr, private: bool) -> bool {
        match self.reach(address) {
            Reach::Public => private || !is_of_host(address),
            Reach::Private => private,
            Reach::Never => false,
        }
    }

    /// Judges a literal address in a URL, which no resolver sees.
    fn check_host(&self, url: &reqwest::Url, private: bool) -> Result<(), FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError(format!("{:?} is not http or https", url.scheme())));
        }
        let host = url.host_str().unwrap_or_default();
        match literal(host) {
            Some(address) if !self.allowed(address, private) => Err(self.not_reached(host, address, private)),
            _ if host.is_empty() => Err(FetchError("the address names no host".into())),
            _ => Ok(()),
        }
    }

    fn not_reached(&self, host: &str, address: IpAddr, private: bool) -> FetchError {
        let why = match self.reach(address) {
            Reach::Never => "",
            _ if private => "",
            _ => ": private addresses are for administrators and accounts with that right",
        };
        FetchError(format!("{host} may not be reached{why}"))
    }
}

/// The address that a URL's host is, if it is one.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Resolves names and lets only allowed addresses through, so that what was judged is what is connected to.
struct Guarded {
    guard: Guard,
    resolver: Option<Arc<TokioResolver>>,
    private: bool,
    /// A name that may be on a private address although others may not.
    private_of: Option<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let own = self.private_of.as_deref() == Some(name.as_str());
        let (guard, resolver, private) = (self.guard.clone(), self.resolver.clone(), self.private || own);
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let mut found: Vec<IpAddr> = Vec::new();
            if name == "localhost" || name.ends_with(".localhost") {
                found.push(Ipv4Addr::LOCALHOST.into());
            } else if let Some(resolver) = resolver {
                let answer = resolver.lookup_ip(format!("{}.", name.trim_end_matches('.'))).await;
                found.extend(
                    answer
                        .map_err(|e| {
                            let why = if e.is_no_records_found() {
                                "there is no such name"
                            } else {
                                "no name server answers"
                            };
                            FetchError(format!("{name} can't be resolved: {why}"))
                        })?
                        .iter(),
                );
            } else {
                return Err(FetchError(format!("{name} can't be resolved: the host has no name server")).into());
            }
            let first = found.first().copied();
            found.retain(|address| guard.allowed(*address, private));
            if found.is_empty() {
                let of = |address| guard.not_reached(&format!("{name} leads to an address that"), address, private);
                return Err(first.map_or_else(|| FetchError(format!("{name} has no address")), of).into());
            }
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// The deepest reason, which says more than "error sending request".
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self, address: &str, to: &Path, limit: u64, private: bool) -> Result<(), FetchError> {
        let url = reqwest::Url::parse(address).map_err(|e| FetchError(format!("no address: {e}")))?;
        // What it was asked with, and a password in it, are the client's secrets: errors are kept and shown.
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let address = shown.as_str();
        self.0.check_host(&url, private)?;
        let resolver = TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()).map(Arc::new);
        let guard = self.0.clone();
        let policy = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error(FetchError(format!("more than {REDIRECTS} redirects")));
            }
            match guard.check_host(attempt.url(), private) {
                Ok(()) => attempt.follow(),
                Err(error) => attempt.error(error),
            }
        });
        let client = berth_tls::builder(Vec::new())
            .map_err(|e| FetchError(format!("no HTTP client: {e}")))?
            .no_proxy()
            .dns_resolver(Arc::new(Guarded { guard: self.0.clone(), resolver, private, private_of: None }))
            .redirect(policy)
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(STALL_LIMIT)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| FetchError(format!("no HTTP client: {}", reason(&e))))?;
        let failed = |e: reqwest::Error| FetchError(format!("{address} could not be fetched: {}", reason(&e)));
        let answer = client.get(url).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(FetchError(format!("{address} answered {}", answer.status())));
        }
        let too_large = || FetchError(format!("{address} is larger than {} MiB", limit >> 20));
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let disk = |e: std::io::Error| FetchError(format!("the download could not be stored: {}", e.kind()));
        let mut file = tokio::fs::File::create_new(to).await.map_err(disk)?;
        let mut stream = answer.bytes_stream();
        let mut length = 0u64;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(failed)?;
            length += chunk.len() as u64;
            if length > limit {
                return Err(too_large());
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::{Guard, Reach};

    #[test]
    fn addresses_are_judged_in_every_disguise() {
        let guard = Guard::new([(std::net::Ipv4Addr::new(10, 210, 0, 0), 16)]);
        for (text, expected) in [
            ("1.1.1.1", Reach::Public),
            ("127.0.0.1", Reach::Private),
            ("10.0.0.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("169.254.169.254", Reach::Never),
            ("100.100.100.200", Reach::Never),
            ("0.0.0.0", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("::1", Reach::Private),
            ("::ffff:169.254.169.254", Reach::Never),
            ("::ffff:127.0.0.1", Reach::Private),
            ("64:ff9b::a9fe:a9fe", Reach::Never),
            ("2002:a9fe:a9fe::1", Reach::Never),
            ("fe80::1", Reach::Never),
            ("fd00:ec2::254", Reach::Never),
            ("fd12::1", Reach::Private),
            ("2606:4700::1111", Reach::Public),
            ("::ffff:0:127.0.0.1", Reach::Private),
            ("::ffff:0:169.254.169.254", Reach::Never),
            ("64:ff9b:1::7f00:1", Reach::Never),
            ("64:ff9b:1:a9fe:a9:fe00::", Reach::Never),
            ("fec0::1", Reach::Private),
            ("feff::1", Reach::Private),
            ("2001:0:808:808::5601:5601", Reach::Never),
            ("2001:0:808:808::f7f7:f7f7", Reach::Public),
            ("2606:4700::5efe:7f00:1", Reach::Private),
            ("10.209.255.255", Reach::Private),
            ("10.210.0.5", Reach::Never),
            ("::ffff:10.210.0.5", Reach::Never),
            ("64:ff9b::ad2:5", Reach::Never),
            ("2002:ad2:5::1", Reach::Never),
            ("10.211.0.0", Reach::Private),
        ] {
            assert_eq!(guard.reach(text.parse().expect(text)), expected, "{text}");
        }
    }

    #[test]
    fn literal_addresses_in_urls_are_judged_too() {
        let judged =
            |text: &str, private| Guard::default().check_host(&reqwest::Url::parse(text).expect(text), private).is_ok();
        // URL parsing itself turns odd spellings of IPv4 into the plain one.
        for never in [
            "http://169.254.169.254/",
            "http://0xa9fea9fe/",
            "http://2852039166/x",
            "http://[fe80::1]/",
            "ftp://1.1.1.1/",
        ] {
            assert!(!judged(never, true), "{never}");
        }
        assert!(judged("http://127.0.0.1:80/a.zip", true) && !judged("http://127.0.0.1/a.zip", false));
        assert!(!judged("http://017700000001/", false), "octal loopback");
        assert!(judged("https://example.com/a.zip", false));
    }
}
