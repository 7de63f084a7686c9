//! `USER` of an image, looked up in the container's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{fs, io};

use crate::sys::openat2_in_root;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Where programs are looked for unless the container says otherwise.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables of a process in a container: those `given`, and what every program may count on, unless it is given.
pub(crate) fn environment(given: &[String], home: &str, hostname: &str, terminal: bool) -> Vec<String> {
    let mut variables = given.to_vec();
    let defaults = [("PATH", PATH), ("HOME", home), ("HOSTNAME", hostname)];
    let terminal = terminal.then_some(("TERM", "xterm"));
    for (key, value) in defaults.into_iter().chain(terminal) {
        if !variables.iter().any(|v| v.split('=').next() == Some(key)) {
            variables.push(format!("{key}={value}"));
        }
    }
    variables
}

/// Resolves `user` (`name`, `uid`, either with `:group` or `:gid`; empty is root). To be called inside the container's
/// root: the files are read by their absolute names.
pub(crate) fn resolve(user: &str, groups: &[String]) -> io::Result<Identity> {
    resolve_by(user, groups, |path| fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path))
}

/// The same from outside, with the container's root.
pub(crate) fn resolve_at(user: &str, groups: &[String], root: BorrowedFd<'_>) -> io::Result<Identity> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    resolve_by(user, groups, |path| openat2_in_root(root, Path::new(path), flags, 0, true).map(fs::File::from))
}

fn resolve_by(user: &str, further: &[String], open: impl Fn(&str) -> io::Result<fs::File>) -> io::Result<Identity> {
    // The image may have a pipe or a link to a device in their place.
    let read = |path| {
        let mut bytes = Vec::new();
        if let Ok(file) =
            open(path).and_then(|f| if f.metadata()?.is_file() { Ok(f) } else { Err(io::ErrorKind::Other.into()) })
        {
            let _ = file.take(1 << 20).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let groups = read("/etc/group");
    let mut identity = resolve_in(user, &read("/etc/passwd"), &groups)?;
    for group in further {
        let number = group_number(group, &groups)?;
        if !identity.groups.contains(&number) {
            identity.groups.push(number);
        }
    }
    Ok(identity)
}

/// A group by name or number.
fn group_number(group: &str, file: &str) -> io::Result<u32> {
    let named = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    };
    let found = file.lines().find_map(named).or_else(|| group.parse().ok()).filter(|number| *number != u32::MAX);
    found.ok_or_else(|| io::Error::other(format!("no group {group:?} in the image")))
}

fn resolve_in(user: &str, passwd: &str, group: &str) -> io::Result<Identity> {
    let unknown = |kind: &str, name: &str| io::Error::other(format!("no {kind} {name:?} in the image"));
    let (user, group_name) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let user = if user.is_empty() { "0" } else { user };
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let by_number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .map(fields)
        .find(|f| f.len() >= 6 && (f[0] == user || by_number.is_some_and(|uid| f[2].parse() == Ok(uid))));
    let (uid, own_gid, name, home) = match (&entry, by_number) {
        (Some(f), _) => (
            f[2].parse().map_err(|_| unknown("user", user))?,
            f[3].parse().unwrap_or(0),
            Some(f[0].clone()),
            f[5].clone(),
        ),
        (None, Some(uid)) => (uid, 0, None, "/".to_owned()),
        (None, None) => return Err(unknown("user", user)),
    };
    let members = |f: &Vec<String>| {
        f.get(3).is_some_and(|m| name.as_deref().is_some_and(|name| m.trim().split(',').any(|m| m == name)))
    };
    let groups = group.lines().map(fields);
    // The kernel takes the number -1 for "leave it as it is", which would be root.
    let meant = |number: u32, kind: &str| {
        if number == u32::MAX {
            Err(io::Error::other(format!("{kind} {number} is not a number of its own")))
        } else {
            Ok(number)
        }
    };
    meant(uid, "user")?;
    Ok(match group_name {
        Some(wanted) if !wanted.is_empty() => {
            let by_name = groups.filter(|f| f.len() >= 3 && f[0] == wanted).find_map(|f| f[2].parse().ok());
            let gid = by_name.or_else(|| wanted.parse().ok()).ok_or_else(|| unknown("group", wanted))?;
            meant(gid, "group")?;
            Identity { uid, gid, groups: Vec::new(), home }
        }
        _ => {
            meant(own_gid, "group")?;
            let groups = groups.filter(members).filter_map(|f| f[2].parse().ok()).filter(|g| *g != u32::MAX).collect();
            Identity { uid, gid: own_gid, groups, home }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Identity, resolve_in};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/var/www:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:40:a,web\n";

    fn user(text: &str) -> Result<Identity, String> {
        resolve_in(text, PASSWD, GROUP).map_err(|e| e.to_string())
    }

    #[test]
    fn further_groups_are_found_by_name_and_number() {
        use super::group_number;
        assert_eq!(group_number("log", GROUP).ok(), Some(40));
        assert_eq!(group_number("100", GROUP).ok(), Some(100));
        assert!(group_number("nobody", GROUP).is_err() && group_number("4294967295", GROUP).is_err());
    }

    #[test]
    fn users_are_found_by_name_number_and_group() {
        let web = Identity { uid: 33, gid: 34, groups: vec![40], home: "/var/www".into() };
        assert_eq!(user("web"), Ok(web.clone()));
        assert_eq!(user("33"), Ok(web.clone()));
        assert_eq!(user("web:log"), Ok(Identity { gid: 40, groups: vec![], ..web.clone() }));
        assert_eq!(user("web:7"), Ok(Identity { gid: 7, groups: vec![], ..web }));
        assert_eq!(user("").map(|i| (i.uid, i.home)), Ok((0, "/root".into())));
        assert_eq!(user("1234").map(|i| (i.uid, i.gid, i.home)), Ok((1234, 0, "/".into())));
        assert!(user("4294967295").is_err() && user("0:4294967295").is_err());
        assert!(user("nobody").is_err_and(|e| e.contains("nobody")));
        assert!(user("web:none").is_err_and(|e| e.contains("none")));
    }
}
