//! What few containers ask for. Declared here once: the native API, the records and the engine have it as it is.

use serde::{Deserialize, Serialize};

use crate::Field;

/// What few containers ask for, as Docker has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Extras {
    /// A first process of berth's own, which passes signals on to the command and waits for orphans.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// Bounds of each process, setrlimit(2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Further lines of `/etc/hosts`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<NamedAddress>,
    /// Name servers instead of berth's own; other containers are not found by name then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Domains in which names without a dot are looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Further groups of its user, by name or number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// How readily the kernel ends it when memory is short, 0 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Bytes after which its log is rotated, at least 4096; the setting's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_max_size: Option<u64>,
    /// Files that are kept of its log, 1 to 1000; the setting's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_max_files: Option<u32>,
    /// Bytes that it may write to its root file system, at least 1 MiB. What it has written is measured every two seconds; with more,
    /// it is stopped, and not started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

/// A bound of each process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// `nofile`, `nproc` …: the name of setrlimit(2) in lower case, without `RLIMIT_`.
    pub name: String,
    /// Where the kernel begins to refuse; -1 for no bound.
    pub soft: i64,
    /// How far a process may raise that; -1 for no bound.
    pub hard: i64,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedAddress {
    /// The name.
    pub name: String,
    /// Its address; `host-gateway` is the host as the container reaches it.
    pub address: String,
}

/// Names of bounds and their numbers (the kernel's `asm-generic/resource.h`).
const ULIMITS: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// The address that stands for the host, as Docker has it.
pub const HOST_GATEWAY: &str = "host-gateway";
/// Most entries of each list.
const MOST: usize = 64;

impl Ulimit {
    /// The kernel's number of it; `None` for a name that is none.
    pub fn number(&self) -> Option<u32> {
        ULIMITS.iter().find(|(name, _)| *name == self.name).map(|(_, number)| *number)
    }
}

impl Extras {
    /// What is wrong with them, if anything: the value and the reason.
    pub fn fault(&self) -> Option<(Field, String)> {
        let lengths = [self.ulimits.len(), self.hosts.len(), self.dns.len(), self.dns_search.len(), self.groups.len()];
        if lengths.into_iter().any(|length| length > MOST) {
            return Some((Field::Request, format!("more than {MOST} entries in a list of extras")));
        }
        for limit in &self.ulimits {
            let text = format!("{}={}:{}", limit.name, limit.soft, limit.hard);
            if limit.number().is_none() {
                let known = ULIMITS.map(|(name, _)| name).join(", ");
                return Some((Field::Ulimits, format!("{text}: unknown; known: {known}")));
            }
            if limit.soft < -1 || limit.hard < -1 || (limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard))
            {
                return Some((Field::Ulimits, format!("{text}: the soft bound is at most the hard one, -1 is none")));
            }
        }
        let is_name = |name: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            (1..=253).contains(&name.len()) && name.chars().all(good)
        };
        let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
        for entry in &self.hosts {
            if !is_name(&entry.name) || (entry.address != HOST_GATEWAY && !is_address(&entry.address)) {
                return Some((Field::Hosts, format!("{}:{}: not NAME:ADDRESS", entry.name, entry.address)));
            }
        }
        if let Some(wrong) = self.dns.iter().find(|server| !is_address(server)) {
            return Some((Field::Dns, format!("{wrong:?}: not an address")));
        }
        if let Some(wrong) = self.dns_search.iter().find(|domain| !is_name(domain)) {
            return Some((Field::Dns, format!("{wrong:?}: not a domain")));
        }
        if let Some(wrong) = self.groups.iter().find(|group| !is_name(group)) {
            return Some((Field::User, format!("{wrong:?}: not a group")));
        }
        if self.oom_score_adj.is_some_and(|score| !(0..=1000).contains(&score)) {
            return Some((Field::Memory, "oom_score_adj: expected 0 to 1000".into()));
        }
        if self.log_max_size.is_some_and(|size| !(4096..=1 << 40).contains(&size)) {
            return Some((Field::Log, "log_max_size: expected 4096 bytes to 1 TiB".into()));
        }
        if self.log_max_files.is_some_and(|files| !(1..=1000).contains(&files)) {
            return Some((Field::Log, "log_max_files: expected 1 to 1000".into()));
        }
        if self.disk.is_some_and(|bytes| !(1 << 20..=1 << 50).contains(&bytes)) {
            return Some((Field::Disk, "expected 1048576 bytes (1 MiB) to 1 PiB".into()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Extras, NamedAddress, Ulimit};

    #[test]
    fn what_cannot_be_is_told_with_its_value() {
        let ulimit = |name: &str, soft, hard| Extras {
            ulimits: vec![Ulimit { name: name.into(), soft, hard }],
            ..Extras::default()
        };
        assert!(Extras::default().fault().is_none() && ulimit("nofile", 10, -1).fault().is_none());
        let wrong = |extras: Extras| extras.fault().expect("a fault").1;
        assert!(wrong(ulimit("files", 1, 1)).contains("files=1:1: unknown"));
        assert!(
            wrong(ulimit("nofile", 2, 1)).contains("nofile=2:1") && wrong(ulimit("nofile", -1, 1)).contains("-1:1")
        );
        let host = |name: &str, address: &str| Extras {
            hosts: vec![NamedAddress { name: name.into(), address: address.into() }],
            ..Extras::default()
        };
        assert!(host("a", "1.2.3.4").fault().is_none() && host("a", "host-gateway").fault().is_none());
        assert!(wrong(host("a b", "1.2.3.4")).contains("a b:1.2.3.4") && wrong(host("a", "x")).contains("a:x"));
        assert!(wrong(Extras { dns: vec!["x".into()], ..Extras::default() }).contains("\"x\""));
        assert!(wrong(Extras { oom_score_adj: Some(-1), ..Extras::default() }).contains("0 to 1000"));
        assert!(serde_json::to_string(&Extras::default()).is_ok_and(|text| text == "{}"));
    }
}
