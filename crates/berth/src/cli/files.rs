//! Files in and out: `cp`, `export`.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use berth_client::Client;
use futures_util::StreamExt;
use reqwest::{Body, Response};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// Keep owners and groups
    #[arg(long, short)]
    archive: bool,
    /// What a link at the end of the source leads to, instead of the link
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// No effect here
    #[arg(long, short)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or - for a tar from standard input
    source: String,
    /// CONTAINER:PATH, a path here, or - for a tar to standard output
    destination: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Write to a file instead of standard output
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Container
    id: String,
}

/// `web:/etc/hosts` in its parts; a path here may be written `./a:b`.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (id, path) = text.split_once(':')?;
    (!id.is_empty() && !id.starts_with('.') && !id.contains('/') && !path.is_empty()).then_some((id, path))
}

/// Whether a path ends in `.` or `..`: what is in the folder is meant, not the folder (as `cp -a` has it).
fn means_contents(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("." | ".."))
}

/// Passes a body on to a file or standard output; bytes that went.
pub(super) async fn write_body(response: Response, to: Option<&Path>) -> Result<u64, String> {
    let mut out: Box<dyn Write> = match to {
        Some(path) => Box::new(fs::File::create(path).map_err(|e| format!("{}: {e}", path.display()))?),
        None if std::io::stdout().is_terminal() => {
            return Err("an archive is not for a terminal: use -o FILE, or a pipe".into());
        }
        None => Box::new(std::io::stdout()),
    };
    let mut stream = response.bytes_stream();
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| format!("the server broke off: {e}"))?;
        length += chunk.len() as u64;
        out.write_all(&chunk).map_err(|e| format!("write: {e}"))?;
    }
    out.flush().map_err(|e| format!("write: {e}"))?;
    Ok(length)
}

fn said(error: berth_client::Error) -> String {
    error.to_string()
}

pub(super) async fn export(client: &Client, export: &Export) -> Outcome {
    let response = client.container_export(&export.id).await.map_err(said)?;
    write_body(response, export.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn copy(client: &Client, copy: &Copy) -> Outcome {
    match (remote(&copy.source), remote(&copy.destination)) {
        (Some((id, path)), None) => copy_out(client, copy, id, path).await,
        (None, Some((id, path))) => copy_in(client, copy, id, path).await,
        (Some(_), Some(_)) => Err("one of both must be a path here".into()),
        (None, None) => Err("one of both must be CONTAINER:PATH".into()),
    }
    .map(|()| ExitCode::SUCCESS)
}

async fn copy_out(client: &Client, copy: &Copy, id: &str, path: &str) -> Result<(), String> {
    let response = client.archive(id, path, copy.follow_link).await.map_err(said)?;
    if copy.destination == "-" {
        return write_body(response, None).await.map(drop);
    }
    let destination = PathBuf::from(&copy.destination);
    let contents = means_contents(path);
    let name = Path::new(path).file_name().map(PathBuf::from);
    // A folder that is there takes it in under its own name; anything else is its new name.
    let is_folder = destination.is_dir();
    if !is_folder && copy.destination.ends_with('/') {
        return Err(format!("{} is no folder", destination.display()));
    }
    let (into, renamed) = match (is_folder, destination.parent()) {
        (true, _) => (destination.clone(), None),
        (false, Some(parent)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            (parent.to_owned(), Some(destination.clone()))
        }
        (false, None) => return Err(format!("{} is no place to copy to", destination.display())),
    };
    // Unpacked aside and moved when it is complete: what breaks off leaves nothing.
    let aside = into.join(format!(".berth-cp-{}", std::process::id()));
    fs::create_dir(&aside).map_err(|e| format!("{}: {e}", aside.display()))?;
    let stream = response.bytes_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let tar = SyncIoBridge::new(StreamReader::new(Box::pin(stream)));
    let (at, keep_owner) = (aside.clone(), copy.archive);
    let unpacked = tokio::task::spawn_blocking(move || -> Result<Vec<PathBuf>, String> {
        let root = fs::File::open(&at).map_err(|e| format!("{}: {e}", at.display()))?.into();
        // A container's devices are none of this machine's, unless all is asked for.
        let keep = berth_image::Keep { owner: keep_owner, devices: keep_owner };
        berth_image::unpack_within(root, Path::new(""), tar, keep, berth_image::Budget::default())
            .map_err(|e| e.to_string())
    });
    let result = unpacked.await.map_err(|e| e.to_string()).and_then(|r| r).and_then(|left_out| {
        for device in &left_out {
            eprintln!("berth: left out (a device): {}", super::output::harmless(&device.display().to_string()));
        }
        if name.as_ref().is_some_and(|name| left_out.contains(name)) {
            return Err(format!("{path} is a device"));
        }
        let moved = |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| format!("move to {}: {e}", to.display()));
        match (&name, renamed) {
            (Some(name), Some(new)) => moved(&aside.join(name), &new),
            (Some(name), None) if !contents => merge(&aside.join(name), &into.join(name)),
            (Some(name), None) => merge(&aside.join(name), &into),
            (None, new) => merge(&aside, &new.unwrap_or(into.clone())),
        }
    });
    let _ = berth_image::remove_tree(&aside);
    result
}

/// Moves into a folder that may be there already.
fn merge(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("move to {}: {e}", to.display());
    let both = |p: &Path| fs::symlink_metadata(p).is_ok_and(|m| m.is_dir());
    if !(both(from) && both(to)) {
        return fs::rename(from, to).map_err(failed);
    }
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with(".berth-cp-") {
            merge(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn copy_in(client: &Client, copy: &Copy, id: &str, path: &str) -> Result<(), String> {
    let there = match client.file_stat(id, path).await {
        Ok(stat) => Some(stat.kind),
        Err(error) if error.code() == Some("not_found") => None,
        Err(error) => return Err(said(error)),
    };
    let is_folder = match there.as_deref() {
        Some("folder") => true,
        // What it leads to counts.
        Some("link") => client.file_stat(id, &format!("{path}/.")).await.is_ok_and(|stat| stat.kind == "folder"),
        _ => false,
    };
    if copy.source == "-" {
        let body = Body::wrap_stream(ReaderStream::with_capacity(tokio::io::stdin(), 256 * 1024));
        return client.extract(id, path, copy.archive, body).await.map_err(said);
    }
    let source = PathBuf::from(&copy.source);
    let contents = means_contents(&copy.source);
    let meta = if copy.follow_link { fs::metadata(&source) } else { fs::symlink_metadata(&source) };
    let meta = meta.map_err(|e| format!("{}: {e}", source.display()))?;
    let own = source.canonicalize().ok().and_then(|p| p.file_name().map(PathBuf::from));
    let own = source.file_name().map(PathBuf::from).or(own);
    let (folder, name) = if is_folder {
        let name = if contents { PathBuf::new() } else { own.ok_or("the source has no name")? };
        (path.to_owned(), name)
    } else if meta.is_dir() && there.is_some() {
        return Err(format!("{id}:{path} is no folder: {} can't be copied onto it", copy.source));
    } else if path.ends_with('/') && !meta.is_dir() {
        return Err(format!("{id}:{path} is no folder"));
    } else {
        let target = Path::new("/").join(path.trim_end_matches('/'));
        let parent = target.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        (parent, target.file_name().map(PathBuf::from).ok_or("the destination has no name")?)
    };
    let (writer, reader) = tokio::io::duplex(256 * 1024);
    let follow = copy.follow_link;
    let packing = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut out = std::io::BufWriter::with_capacity(256 * 1024, SyncIoBridge::new(writer));
        // The very thing that was named, whatever folder it is in.
        let root: std::os::fd::OwnedFd = fs::File::open("/")?.into();
        let source = std::path::absolute(&source)?;
        berth_image::pack_path(std::os::fd::AsFd::as_fd(&root), &source, &name, follow, &mut out)?;
        out.flush()
    });
    let body = Body::wrap_stream(ReaderStream::with_capacity(reader, 256 * 1024));
    let sent = client.extract(id, &folder, copy.archive, body).await;
    let packed = packing.await.map_err(|e| e.to_string())?;
    match (sent, packed) {
        (Err(error), Err(broken)) if broken.kind() == std::io::ErrorKind::BrokenPipe => Err(said(error)),
        (_, Err(error)) => Err(format!("{}: {error}", copy.source)),
        (sent, Ok(())) => sent.map_err(said),
    }
}

/// A file, or standard input for `-`, as a body.
pub(super) async fn body_of(path: &Path) -> Result<Body, String> {
    if path == Path::new("-") {
        return Ok(Body::wrap_stream(ReaderStream::with_capacity(tokio::io::stdin(), 256 * 1024)));
    }
    let file = tokio::fs::File::open(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024)))
}

/// A password from standard input, all of it but the last line break.
pub(super) fn read_secret() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| format!("read standard input: {e}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::remote;

    #[test]
    fn containers_are_told_from_paths() {
        assert_eq!(remote("web:/etc/hosts"), Some(("web", "/etc/hosts")));
        assert_eq!(remote("web:a:b"), Some(("web", "a:b")));
        for here in ["/a:b", "./a:b", "../a:b", "a", ":x", "web:", "a/b:c"] {
            assert_eq!(remote(here), None, "{here}");
        }
    }
}
