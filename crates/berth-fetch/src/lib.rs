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
pub struct HttpFetch;

/// What an address is to those who may not reach everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    /// Loopback, private ranges, carrier-grade NAT, benchmarking.
    Private,
    /// Link-local, multicast, metadata services of clouds: never.
    Never,
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, ..] = address.octets();
    // Metadata services outside link-local: Alibaba, Oracle, Azure's wire server.
    let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&address.octets());
    if metadata || address.is_link_local() || address.is_multicast() || address.is_unspecified() || a >= 240 || a == 0 {
        Reach::Never
    } else if address.is_loopback()
        || address.is_private()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 198 && b & 0xfe == 18)
    {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach(address: IpAddr) -> Reach {
    let v6: Ipv6Addr = match address {
        IpAddr::V4(v4) => return reach_v4(v4),
        IpAddr::V6(v6) => v6,
    };
    if v6.is_loopback() {
        return Reach::Private;
    }
    let s = v6.segments();
    let embedded = |high: u16, low: u16| reach_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // IPv4-mapped and -compatible, NAT64, 6to4: the IPv4 address inside decides.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // AWS' metadata service.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Reach::Never,
        [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00 => Reach::Never,
        [first, ..] if first & 0xfe00 == 0xfc00 => Reach::Private,
        _ => Reach::Public,
    }
}

fn allowed(address: IpAddr, private: bool) -> bool {
    match reach(address) {
        Reach::Public => true,
        Reach::Private => private,
        Reach::Never => false,
    }
}

/// Resolves names and lets only allowed addresses through, so that what was judged is what is connected to.
struct Guarded {
    resolver: Option<Arc<TokioResolver>>,
    private: bool,
    /// A name that may be on a private address although others may not.
    private_of: Option<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let own = self.private_of.as_deref() == Some(name.as_str());
        let (resolver, private) = (self.resolver.clone(), self.private || own);
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
            found.retain(|address| allowed(*address, private));
            if found.is_empty() {
                return Err(FetchError(format!("{name} leads to an address that may not be reached")).into());
            }
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// Judges a literal address in a URL, which no resolver sees.
fn check_host(url: &reqwest::Url, private: bool) -> Result<(), FetchError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(FetchError(format!("{:?} is not http or https", url.scheme())));
    }
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match literal {
        Ok(address) if !allowed(address, private) => Err(FetchError(format!("{address} may not be reached"))),
        _ if host.is_empty() => Err(FetchError("the address names no host".into())),
        _ => Ok(()),
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
        check_host(&url, private)?;
        let resolver = TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()).map(Arc::new);
        let policy = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error(FetchError(format!("more than {REDIRECTS} redirects")));
            }
            match check_host(attempt.url(), private) {
                Ok(()) => attempt.follow(),
                Err(error) => attempt.error(error),
            }
        });
        let client = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(Guarded { resolver, private, private_of: None }))
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
    use super::{Reach, check_host, reach};

    #[test]
    fn addresses_are_judged_in_every_disguise() {
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
        ] {
            assert_eq!(reach(text.parse().expect(text)), expected, "{text}");
        }
    }

    #[test]
    fn literal_addresses_in_urls_are_judged_too() {
        let judged = |text: &str, private| check_host(&reqwest::Url::parse(text).expect(text), private).is_ok();
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
