//! Values of flags, as Docker writes them.

use std::path::Path;

use berth_api::wire::{ContainerMount, NamedAddress, Port, Ulimit};

/// `64m`, `1.5g`, bytes without a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        other => return Err(format!("{other:?} is not b, k, m, g or t")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a size"))?;
    if number.is_finite() && number >= 0.0 {
        Ok((number * factor as f64) as u64)
    } else {
        Err(format!("{text:?} is not a size"))
    }
}

pub(super) fn cpus(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| format!("{text:?} is not a number of CPUs"))
}

/// `10mbit`, `1.5gbit`, or bits per second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "bit" | "bps" => 1e0,
        "k" | "kbit" | "kbps" => 1e3,
        "m" | "mbit" | "mbps" => 1e6,
        "g" | "gbit" | "gbps" => 1e9,
        other => return Err(format!("{other:?} is not bit, kbit, mbit or gbit")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no rate"))?;
    if number.is_finite() && number > 0.0 { Ok((number * factor) as u64) } else { Err(format!("{text:?} is no rate")) }
}

/// `2s`, `1m30s`, `500ms`, seconds without a unit; in seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not a time: seconds, or such as 500ms, 2s, 1m30s, 2h");
    if let Ok(plain) = text.parse::<f64>() {
        return if plain.is_finite() && plain >= 0.0 { Ok(plain) } else { Err(wrong()) };
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let (mut rest, mut all) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| digits + at);
        all += number
            * match &rest[digits..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit..];
    }
    Ok(all)
}

/// The same, in whole seconds; parts of one are rounded up.
pub(super) fn whole_seconds(text: &str) -> Result<u64, String> {
    seconds(text).map(|seconds| seconds.ceil() as u64)
}

/// A signal by name or number.
pub(super) fn signal(text: &str) -> Result<i32, String> {
    berth_core::signal_number(text).ok_or_else(|| format!("{text:?} is no signal"))
}

/// Lines from the end; `None` is every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines(pub(super) Option<usize>);

/// A number of lines; `all` is every one.
pub(super) fn lines(text: &str) -> Result<Lines, String> {
    match text {
        "all" | "-1" => Ok(Lines(None)),
        other => {
            other.parse().map(|n| Lines(Some(n))).map_err(|_| format!("{text:?} is no number of lines, and not all"))
        }
    }
}

/// Ports of one flag: a range of both sides is as many ports.
#[derive(Debug, Clone)]
pub(crate) struct Ports(pub(super) Vec<Port>);

/// `[IP:]HOST[-LAST]:CONTAINER[-LAST][/tcp|/udp]`, or `CONTAINER` alone for any port of the host.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    let wrong = || format!("{text:?} is not [IP:]HOST:CONTAINER[/tcp|/udp]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(format!("{text:?}: {protocol} is not tcp or udp"));
    }
    let (ip, rest) = match ports.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, rest) = bracketed.split_once("]:").ok_or_else(wrong)?;
            (Some(ip.to_owned()), rest)
        }
        None if ports.matches(':').count() == 2 => {
            let (ip, rest) = ports.split_once(':').ok_or_else(wrong)?;
            (Some(ip.to_owned()).filter(|ip| !ip.is_empty()), rest)
        }
        None => (None, ports),
    };
    if ip.as_deref().is_some_and(|ip| ip.contains(':')) {
        return Err(format!("{text:?}: ports are published on IPv4 addresses; leave the address away for all of them"));
    }
    let (host, inside) = rest.split_once(':').unwrap_or(("", rest));
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong);
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|one| (one, one)),
    };
    let (first, last) = range(inside)?;
    let host = match host {
        "" | "0" => None,
        host => Some(range(host)?),
    };
    if first > last || host.is_some_and(|(first, last)| first > last) {
        return Err(format!("{text:?}: ranges go upwards"));
    }
    let count = last - first;
    let port = |inside: u16, of: Option<(u16, u16)>| Port {
        container_port: Some(inside),
        host_port: of.map(|(first, _)| first),
        host_port_last: of.filter(|(first, last)| first != last).map(|(_, last)| last),
        host_ip: ip.clone(),
        protocol: protocol.to_owned(),
    };
    match host {
        // One port of the container on any of these of the host.
        Some(all) if count == 0 => Ok(Ports(vec![port(first, Some(all))])),
        Some((low, high)) if high - low != count => Err(format!("{text:?}: both ranges have to be of the same length")),
        Some((low, _)) => Ok(Ports((0..=count).map(|n| port(first + n, Some((low + n, low + n)))).collect())),
        None => Ok(Ports((0..=count).map(|n| port(first + n, None)).collect())),
    }
}

/// One port of a flag that takes no ranges.
pub(super) fn port(text: &str) -> Result<Port, String> {
    match ports(text)?.0.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(format!("{text:?}: one port at a time")),
    }
}

fn source_of(source: &str) -> Result<(String, String), String> {
    // As Docker tells them apart: a path has a slash, or begins with a dot.
    if !source.contains('/') && !source.starts_with('.') {
        return Ok(("volume".into(), source.to_owned()));
    }
    let path = std::path::absolute(source).map_err(|e| format!("{source}: {e}"))?;
    Ok(("bind".into(), path.to_string_lossy().into_owned()))
}

/// `NAME:/container[:OPTIONS]`, `/host:/container[:OPTIONS]`, or `/container` for a volume without a name.
pub(super) fn volume(text: &str) -> Result<ContainerMount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] if target.starts_with('/') => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(format!("{text:?} is not NAME:/container[:ro] or /host:/container[:ro]")),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux, consistency on other systems, and what is so in any case.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "rprivate" | "private" | "nocopy" => {}
            other => return Err(format!("{text:?}: {other} is not possible here; ro and rw are")),
        }
    }
    let (kind, source) = match source {
        Some(source) => {
            let (kind, source) = source_of(source)?;
            (kind, Some(source))
        }
        None => ("volume".into(), None),
    };
    Ok(ContainerMount { kind, target: target.into(), source, size: None, read_only })
}

/// `type=bind|volume|tmpfs,source=…,target=…[,readonly][,tmpfs-size=…]`.
pub(super) fn mount(text: &str) -> Result<ContainerMount, String> {
    let (mut kind, mut source, mut target, mut size_of, mut read_only) = ("volume".to_owned(), None, None, None, false);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "type" => kind = value.to_owned(),
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "readonly" | "ro" => read_only = matches!(value, "" | "true" | "1"),
            "tmpfs-size" => size_of = Some(size(value)?),
            "tmpfs-mode" | "volume-driver" | "consistency" | "volume-nocopy" if value != "nfs" => {}
            other => return Err(format!("--mount {text}: {other} is not possible here")),
        }
    }
    let target = target.ok_or_else(|| format!("--mount {text}: target= is missing"))?;
    let source = match (kind.as_str(), source) {
        ("bind", None) => return Err(format!("--mount {text}: a bind mount needs source=")),
        ("bind", Some(source)) => {
            let path = std::path::absolute(&source).map_err(|e| format!("{source}: {e}"))?;
            if !path.exists() && Path::new(&source).is_relative() {
                return Err(format!("--mount {text}: {} is not there", path.display()));
            }
            Some(path.to_string_lossy().into_owned())
        }
        ("volume" | "tmpfs", source) => source,
        (other, _) => return Err(format!("--mount {text}: {other} is not bind, volume or tmpfs")),
    };
    Ok(ContainerMount { kind, target, source, size: size_of, read_only })
}

/// `/container[:rw,size=64m,mode=1777,…]`.
pub(super) fn tmpfs(text: &str) -> Result<ContainerMount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size_of, mut read_only) = (None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size_of = Some(size(value)?),
            None if option == "ro" => read_only = true,
            // It is so: sticky and for everybody, without devices and set-user-id programs.
            Some(("mode", "1777" | "01777")) => {}
            None if matches!(option, "rw" | "nosuid" | "nodev" | "exec") => {}
            _ => return Err(format!("--tmpfs {text}: {option} is not possible here; size=, ro and rw are")),
        }
    }
    Ok(ContainerMount { kind: "tmpfs".into(), target: target.into(), source: None, size: size_of, read_only })
}

/// `nofile=1024[:2048]`.
pub(super) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || format!("{text:?} is not NAME=SOFT[:HARD]");
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub(super) fn host_entry(text: &str) -> Result<NamedAddress, String> {
    let found = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = found.ok_or_else(|| format!("{text:?} is not NAME:ADDRESS"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok(NamedAddress { name: name.to_owned(), address: address.to_owned() })
}

/// A key and a value, which may be missing.
pub(super) fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// Bytes of keys that let go of a container: `ctrl-p,ctrl-q`.
pub(super) fn keys(text: &str) -> Result<Vec<u8>, String> {
    let key = |key: &str| match key.strip_prefix("ctrl-") {
        Some(letter) if letter.len() == 1 => match letter.as_bytes()[0] {
            letter @ b'a'..=b'z' => Ok(letter - b'a' + 1),
            b'@' => Ok(0),
            b'[' => Ok(27),
            b'\\' => Ok(28),
            b']' => Ok(29),
            b'^' => Ok(30),
            b'_' => Ok(31),
            _ => Err(format!("{text:?}: {key} is no key")),
        },
        None if key.len() == 1 => Ok(key.as_bytes()[0]),
        _ => Err(format!("{text:?}: {key} is no key; such as ctrl-p,ctrl-q")),
    };
    text.split(',').map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::{Lines, host_entry, keys, lines, mount, port, ports, rate, seconds, size, tmpfs, ulimit, volume};

    #[test]
    fn sizes_rates_and_times() {
        assert_eq!((size("64m"), size("1.5G"), size("10")), (Ok(64 << 20), Ok(3 << 29), Ok(10)));
        assert_eq!((size("64mb"), size("64MiB"), size("0.5g")), (Ok(64 << 20), Ok(64 << 20), Ok(1 << 29)));
        assert!(size("x").is_err() && size("5q").is_err() && size("-1").is_err());
        assert_eq!((rate("10mbit"), rate("1.5G"), rate("100000")), (Ok(10_000_000), Ok(1_500_000_000), Ok(100_000)));
        assert!(rate("x").is_err() && rate("5parsec").is_err() && rate("-1").is_err());
        assert_eq!((seconds("2"), seconds("2s"), seconds("1m30s")), (Ok(2.0), Ok(2.0), Ok(90.0)));
        assert_eq!((seconds("500ms"), seconds("1.5h"), seconds("0")), (Ok(0.5), Ok(5400.0), Ok(0.0)));
        assert!(["", "s", "1x", "-1", "1m30", "nan"].iter().all(|text| seconds(text).is_err()));
        assert_eq!((lines("all"), lines("5")), (Ok(Lines(None)), Ok(Lines(Some(5)))));
        assert!(super::cpus("nan").is_err() && super::signal("SIGINT") == Ok(2) && super::signal("hup") == Ok(1));
        assert!(super::signal("NONE").is_err());
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let p = port("127.0.0.1:8080:80/udp").expect("port");
        assert_eq!(
            (p.host_ip.as_deref(), p.host_port, p.container_port, p.protocol.as_str()),
            (Some("127.0.0.1"), Some(8080), Some(80), "udp")
        );
        let p = port("8000-8010:80").expect("range");
        assert_eq!((p.host_port, p.host_port_last), (Some(8000), Some(8010)));
        assert_eq!(port("80").expect("any").host_port, None);
        assert_eq!(port("0:80").expect("any").host_port, None);
        assert_eq!(port("127.0.0.1::80").expect("any of an address").host_ip.as_deref(), Some("127.0.0.1"));
        let both = ports("18991-18992:80-81").expect("two ranges").0;
        assert_eq!(
            both.iter().map(|p| (p.host_port, p.container_port)).collect::<Vec<_>>(),
            [(Some(18991), Some(80)), (Some(18992), Some(81))]
        );
        for wrong in ["a:b", "1:2:3:4", "1:0", "1-3:80-81", "3-1:80", "80/sctp", "[::1]:80:80"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        assert!(volume("/a:/b:ro").is_ok_and(|v| v.read_only && v.kind == "bind"));
        assert!(volume("/a:/b:z").is_ok_and(|v| !v.read_only) && volume("/a:/b:ro,Z").is_ok_and(|v| v.read_only));
        assert!(volume("data:/b").is_ok_and(|v| v.kind == "volume" && v.source.as_deref() == Some("data")));
        assert!(volume("/a").is_ok_and(|v| v.kind == "volume" && v.source.is_none()));
        assert!(volume("a").is_err() && volume("/a:/b:rslave").is_err());
        let bind = mount("type=bind,source=/a,target=/b,readonly").expect("bind");
        assert_eq!((bind.kind.as_str(), bind.source.as_deref(), bind.read_only), ("bind", Some("/a"), true));
        assert!(mount("type=volume,src=v,dst=/b").is_ok_and(|m| m.source.as_deref() == Some("v")));
        assert!(mount("type=tmpfs,target=/t,tmpfs-size=1k").is_ok_and(|m| m.size == Some(1024)));
        assert!(mount("type=bind,target=/b").is_err() && mount("type=npipe,target=/b").is_err());
        assert_eq!(tmpfs("/x:rw,size=1k").expect("tmpfs").size, Some(1024));
        assert!(tmpfs("/x:noexec").is_err());
    }

    #[test]
    fn the_rest() {
        assert!(ulimit("nofile=1024").is_ok_and(|l| (l.soft, l.hard) == (1024, 1024)));
        assert!(ulimit("nofile=1:2").is_ok_and(|l| (l.soft, l.hard) == (1, 2)) && ulimit("nofile").is_err());
        assert!(host_entry("a:1.2.3.4").is_ok_and(|h| h.address == "1.2.3.4"));
        assert!(host_entry("a:[::1]").is_ok_and(|h| h.address == "::1") && host_entry("a").is_err());
        assert_eq!((keys("ctrl-p,ctrl-q"), keys("ctrl-x")), (Ok(vec![16, 17]), Ok(vec![24])));
        assert!(keys("ctrl-xx").is_err());
    }
}
