//! Names of images, as Docker reads them.

use berth_image::Digest;

use crate::error::{Error, Field};

/// `nginx` is `nginx:latest`; a registry's port is no tag.
pub(crate) fn full_name(name: &str) -> Result<String, Error> {
    let wrong = |why: &str| Error::invalid(Field::Image, format!("{name:?} is not an image name: {why}"));
    if name.is_empty() || name.len() > 512 {
        return Err(wrong("1 to 512 characters"));
    }
    if name.starts_with("sha256:") {
        return Err(wrong("that is how digests begin"));
    }
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => {
            digest.parse::<Digest>().map_err(|e| wrong(&e))?;
            (name.rsplit_once(':').filter(|(_, t)| !t.contains('/')).map_or(name, |(n, _)| n), Some(digest))
        }
        None => (name, None),
    };
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let begins = |p: &str| p.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    // Only a registry, which is the first of several parts, has a port.
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let (registry, path) = match repository.split_once('/') {
        Some((first, rest)) => match first.rsplit_once(':') {
            Some((host, port)) if is_port(port) => (Some(host), rest),
            _ => (Some(first), rest),
        },
        None => (None, repository),
    };
    if registry.into_iter().chain(path.split('/')).any(|p| !begins(p) || !p.chars().all(part)) {
        return Err(wrong("lower-case letters, digits, '.', '_', '-' in parts separated by '/'"));
    }
    if tag.is_empty()
        || tag.len() > 128
        || !tag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    {
        return Err(wrong("the tag is 1 to 128 letters, digits, '.', '_', '-'"));
    }
    Ok(digest.map_or_else(|| format!("{repository}:{tag}"), |digest| format!("{repository}@{digest}")))
}

/// The names that a client may mean: as it is, and on Docker Hub, both ways round.
pub(super) fn alternatives(full: &str) -> Vec<String> {
    let mut all = vec![full.to_owned()];
    for prefix in ["docker.io/library/", "docker.io/", "library/"] {
        all.push(format!("{prefix}{full}"));
        all.extend(full.strip_prefix(prefix).map(str::to_owned));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn only_a_registry_has_a_port() {
        assert_eq!(full_name("host:5000/a/b").ok().as_deref(), Some("host:5000/a/b:latest"));
        assert_eq!(full_name("a:1").ok().as_deref(), Some("a:1"));
        for wrong in [
            "a:b:c",
            "a:b:c@sha256:00",
            "host:port/a",
            "host:/a",
            "host:+80/a",
            "a/b:c/d",
            "/a",
            "a//b",
            "host:5000/",
            ":5000/a",
        ] {
            assert!(full_name(wrong).is_err(), "{wrong}");
        }
    }
}
