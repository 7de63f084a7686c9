//! Commands about images.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use berth_api::wire::{DiskPart, Image, PruneAsked};
use berth_client::Client;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Body;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::files::write_body;
use super::filters::Filters;
use super::format::{self, Format};
use super::scope::Scope;
use super::{output, shapes};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// No effect here: those without a name are always shown
    #[arg(long, short)]
    all: bool,
    /// Print digests only
    #[arg(long, short)]
    quiet: bool,
    /// Print digests whole
    #[arg(long)]
    no_trunc: bool,
    /// Show digests beside the short ones
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    format: Format,
    /// Print JSON with berth's own names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
    /// Only images with this name, a tag may follow; * and ? stand for any letters
    reference: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// Name for the archive's one image
    #[arg(long)]
    name: Option<String>,
    /// The archive, also with -i; standard input if it is missing or -
    #[arg(value_name = "ARCHIVE")]
    path: Option<PathBuf>,
    /// The archive
    #[arg(long, short, conflicts_with = "path")]
    input: Option<PathBuf>,
    /// Print names only
    #[arg(long, short)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Command of the image
    #[arg(long, num_args = 1, value_name = "LINE")]
    cmd: Option<String>,
    /// Environment variable KEY=value of the image
    #[arg(long, short)]
    env: Vec<String>,
    /// Working directory of the image
    #[arg(long, short)]
    workdir: Option<String>,
    /// The tar of a root file system, plain, gzip or zstd; - for standard input
    path: PathBuf,
    /// Name of the image
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Although containers were made from it
    #[arg(long, short)]
    force: bool,
    /// Images, by name, digest, or the beginning of a digest
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// Write to a file instead of standard output
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Images, by name or digest
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    /// Image, by name or digest
    image: String,
    /// The name that it gets as well
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Official {
    /// Only its own account may use it again
    #[arg(long)]
    undo: bool,
    /// Images, by name or digest
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// Print commands whole
    #[arg(long)]
    no_trunc: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Image
    image: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// Only with this label, KEY or KEY=value
    #[arg(long, short)]
    label: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A part of a name
    #[arg(default_value = "")]
    word: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Images with names as well, as long as no container was made from them
    #[arg(long, short)]
    all: bool,
    /// Only those not used for so many hours
    #[arg(long, value_name = "HOURS", default_value_t = 0)]
    unused_for: u64,
    /// Volumes that no container mounts as well
    #[arg(long)]
    pub(super) volumes: bool,
    /// Don't ask before volumes are removed
    #[arg(long, short)]
    pub(super) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Disk {
    #[command(flatten)]
    format: Format,
    /// Print JSON with berth's own names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scope: Scope,
}

pub(super) async fn save(client: &Client, save: &Save) -> Outcome {
    let response = client.image_save(&save.images).await.map_err(|e| e.to_string())?;
    write_body(response, save.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn official(client: &Client, official: &Official) -> Outcome {
    for image in &official.images {
        client.image_share(image, !official.undo).await.map_err(|e| format!("{image}: {e}"))?;
        println!("{image}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn tag(client: &Client, tag: &Tag) -> Outcome {
    client.image_tag(&tag.image, &tag.name).await.map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn history(client: &Client, history: &History) -> Outcome {
    let all = client.image_history(&history.image).await.map_err(|e| e.to_string())?;
    if history.json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = all
        .iter()
        .rev()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let most = if history.no_trunc { usize::MAX } else { 60 };
            let made: String = text("created_by").chars().take(most).collect();
            vec![
                match text("created") {
                    at if at.is_empty() => at,
                    at => output::age(&at) + " ago",
                },
                made,
                output::bytes(entry["size"].as_u64().unwrap_or(0)),
                text("comment"),
            ]
        })
        .collect();
    output::table(&["CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn search(client: &Client, search: &Search) -> Outcome {
    let mut all = client.image_search(&search.word, search.label.as_deref()).await.map_err(|e| e.to_string())?;
    all.truncate(search.limit.unwrap_or(usize::MAX));
    if search.json {
        output::json(&all)?
    } else {
        let rows: Vec<_> = all.iter().rev().flat_map(|image| shapes::image_rows(image, "", false)).collect();
        format::print(&Format::default(), &rows, &COLUMNS)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn prune(client: &Client, prune: &Prune) -> Outcome {
    if prune.volumes {
        super::output::confirm("Volumes that no container mounts are removed, with all that is in them.", prune.force)?;
    }
    let asked = PruneAsked { all: prune.all, unused_for: prune.unused_for * 3600, dry_run: false };
    let pruned = output::with_progress("removing", client.image_prune(&asked)).await.map_err(|e| e.to_string())?;
    pruned.removed.iter().for_each(|name| println!("{name}"));
    if prune.volumes {
        client
            .volume_prune()
            .await
            .map_err(|e| e.to_string())?
            .removed
            .iter()
            .for_each(|name| println!("volume {name}"));
    }
    println!("{} freed", output::bytes(pruned.freed));
    Ok(ExitCode::SUCCESS)
}

/// Writes the images of every account that have a name into a folder, an archive for each account.
pub(super) async fn save_all(client: &Client, folder: &Path) -> Result<(), String> {
    let said = |e: berth_client::Error| e.to_string();
    for account in client.accounts().await.map_err(said)? {
        let of = client.on_behalf(&account.name);
        let mut names: Vec<String> = Vec::new();
        for image in of.images().await.map_err(said)? {
            // What another account lets everybody use is in that one's archive.
            if !image.official || account.number == 1 {
                names.extend(image.names);
            }
        }
        if !names.is_empty() {
            let path = folder.join(format!("images-{}.tar", account.name.replace('/', "_")));
            write_body(of.image_save(&names).await.map_err(said)?, Some(&path)).await?;
        }
    }
    Ok(())
}

/// Removes containers that don't run, images that nothing uses and, if asked, volumes that nobody mounts.
pub(super) async fn prune_all(client: &Client, asked: &super::groups::SystemPrune) -> Outcome {
    let what = match (asked.all, asked.volumes) {
        (false, false) => {
            "every container that does not run, and every image without a name that no container was made from"
        }
        (true, false) => "every container that does not run, and every image that no container was made from",
        (false, true) => {
            "every container that does not run, every image without a name, and every anonymous volume that no container mounts"
        }
        (true, true) => {
            "every container that does not run, every unused image, and every anonymous volume that no container mounts"
        }
    };
    output::confirm(&format!("This removes {what}."), asked.force)?;
    let stopped = super::containers::Prune::forced();
    super::containers::prune(client, &stopped).await?;
    if asked.volumes {
        super::volumes::prune(client, false).await?;
    }
    let images = Prune { all: asked.all, unused_for: 0, volumes: false, force: true };
    prune(client, &images).await
}

/// What is shown of images.
const COLUMNS: [(&str, &str); 5] =
    [("NAME", "Name"), ("DIGEST", "ID"), ("IMPORTED", "CreatedSince"), ("ORIGIN", "Origin"), ("SIZE", "Size")];

pub(super) async fn disk(client: &Client, disk: &Disk) -> Outcome {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for (account, client) in disk.scope.clients(client).await? {
        let found = client.disk().await.map_err(|e| e.to_string())?;
        let row = |name: &str, part: &DiskPart| {
            serde_json::json!({
                "Type": name,
                "TotalCount": part.count.to_string(),
                "Active": part.active.to_string(),
                "Size": output::bytes(part.size),
                "Reclaimable": output::bytes(part.reclaimable),
                "Account": account,
            })
        };
        rows.extend([
            row("Images", &found.images),
            row("Containers", &found.containers),
            row("Volumes", &found.volumes),
        ]);
        all.push(found);
    }
    if disk.json {
        match all.as_slice() {
            [one] => output::json(one)?,
            all => output::json(&all)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = vec![
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    if disk.scope.shows_accounts() {
        columns.insert(0, ("ACCOUNT", "Account"));
    }
    format::print(&disk.format, &rows, &columns)?;
    if disk.format.is_given() {
        return Ok(ExitCode::SUCCESS);
    }
    if let [one] = all.as_slice()
        && let Some(quota) = one.image_quota
    {
        println!("Images may take {}", output::bytes(quota));
    }
    if let Some(any) = all.first() {
        println!("Free on the disk: {}", output::bytes(any.free));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a name is what is asked for: a repository, with a tag or not, in which `*` and `?` stand for any letters.
fn matches(name: &str, wanted: &str) -> bool {
    fn like(text: &[u8], pattern: &[u8]) -> bool {
        match (text, pattern) {
            (_, [b'*', rest @ ..]) => (0..=text.len()).any(|at| like(&text[at..], rest)),
            ([_, text @ ..], [b'?', rest @ ..]) => like(text, rest),
            ([a, text @ ..], [b, rest @ ..]) => a == b && like(text, rest),
            ([], []) => true,
            _ => false,
        }
    }
    let repository =
        name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(repository, _)| repository);
    [name, repository, &format!("{name}:latest")].iter().any(|text| like(text.as_bytes(), wanted.as_bytes()))
}

pub(super) async fn list(client: &Client, list: &List) -> Outcome {
    let filters = list.filters.by_key(&["dangling", "reference", "since", "before"])?;
    let mut rows = Vec::new();
    let mut images = Vec::new();
    for (account, client) in list.scope.clients(client).await? {
        let all = client.images().await.map_err(|e| e.to_string())?;
        let made = |key: &str| {
            let named = filters.get(key).and_then(|all| all.first())?;
            all.iter().find(|i| i.names.iter().any(|n| matches(n, named))).map(|i| i.imported_at.clone())
        };
        let (since, before) = (made("since"), made("before"));
        let wanted = |image: &&Image| {
            let named = |wanted: &String| image.names.iter().any(|name| matches(name, wanted));
            list.reference.as_ref().is_none_or(named)
                && filters.get("reference").is_none_or(|all| all.iter().any(named))
                && filters.get("dangling").is_none_or(|all| all.iter().any(|v| (v == "true") == image.names.is_empty()))
                && since.as_ref().is_none_or(|at| image.imported_at > *at)
                && before.as_ref().is_none_or(|at| image.imported_at < *at)
        };
        for image in all.iter().filter(wanted).rev() {
            let wanted = |row: &serde_json::Value| {
                list.reference.as_ref().is_none_or(|wanted| matches(row["Name"].as_str().unwrap_or_default(), wanted))
            };
            rows.extend(shapes::image_rows(image, &account, list.no_trunc).into_iter().filter(wanted));
        }
        images.extend(all.into_iter().filter(|image| wanted(&image)));
    }
    if list.json {
        output::json(&images)?;
        return Ok(ExitCode::SUCCESS);
    }
    if list.quiet {
        images.iter().for_each(|i| println!("{}", i.digest));
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = COLUMNS.to_vec();
    if list.digests {
        columns.insert(2, ("WHOLE DIGEST", "Digest"));
    }
    if list.scope.shows_accounts() {
        columns.insert(0, ("ACCOUNT", "Account"));
    }
    format::print(&list.format, &rows, &columns)?;
    Ok(ExitCode::SUCCESS)
}

/// A bar of `length` bytes (a spinner if it is not known) on a terminal, nothing elsewhere.
fn bar(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = match length {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The bytes of a file, of standard input, or of a folder as tar, with a bar.
async fn archive(path: Option<&Path>) -> Result<(Body, ProgressBar), String> {
    let path = match path {
        Some(path) if path != Path::new("-") => path,
        _ => {
            if std::io::stdin().is_terminal() {
                return Err("name an archive, or send one by standard input".into());
            }
            let bar = bar(None);
            return Ok((body(bar.wrap_async_read(tokio::io::stdin())), bar));
        }
    };
    let named = |e: std::io::Error| format!("{}: {e}", path.display());
    let metadata = tokio::fs::metadata(path).await.map_err(named)?;
    if metadata.is_dir() {
        let bar = bar(None);
        let (writer, reader) = tokio::io::duplex(256 * 1024);
        let folder = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut tar = tar::Builder::new(tokio_util::io::SyncIoBridge::new(writer));
            tar.follow_symlinks(false);
            // An error ends the stream early, which the server sees as a cut archive.
            if let Err(error) = tar.append_dir_all(".", &folder).and_then(|()| tar.finish()) {
                eprintln!("berth: {}: {error}", folder.display());
            }
        });
        return Ok((body(bar.wrap_async_read(reader)), bar));
    }
    let file = tokio::fs::File::open(path).await.map_err(named)?;
    let bar = bar(metadata.is_file().then_some(metadata.len()));
    Ok((body(bar.wrap_async_read(file)), bar))
}

fn body(reader: impl AsyncRead + Send + 'static) -> Body {
    Body::wrap_stream(ReaderStream::with_capacity(reader, 256 * 1024))
}

pub(super) async fn load(client: &Client, load: &Load) -> Outcome {
    let (body, bar) = archive(load.path.as_deref().or(load.input.as_deref())).await?;
    let result = client.image_load(body, load.name.as_deref()).await;
    bar.finish_and_clear();
    let all = result.map_err(|e| e.to_string())?;
    if load.json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    for image in all {
        let names = if image.names.is_empty() { image.digest.clone() } else { image.names.join(", ") };
        let said = if load.quiet { "" } else { "Loaded image: " };
        println!("{said}{names}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn import(client: &Client, import: &Import) -> Outcome {
    let words: Vec<&str> = import.cmd.as_deref().map(|c| c.split_whitespace().collect()).unwrap_or_default();
    let config = serde_json::json!({
        "Cmd": words,
        "Env": import.env,
        "WorkingDir": import.workdir.clone().unwrap_or_default(),
    });
    let (body, bar) = archive(Some(&import.path)).await?;
    let result = client.image_import(body, &import.name, &config.to_string()).await;
    bar.finish_and_clear();
    println!("{}", result.map_err(|e| e.to_string())?.digest);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn remove(client: &Client, remove: &Remove) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    for image in &remove.images {
        match client.image_remove(image, remove.force).await {
            Ok(removed) => {
                removed.names.iter().for_each(|name| println!("Untagged: {name}"));
                if let Some(digest) = removed.digest {
                    println!("Deleted: {digest} ({} freed)", output::bytes(removed.freed));
                }
            }
            Err(error) => {
                eprintln!("berth: {image}: {}", super::language::localized(&error.to_string()));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn names_are_found_with_and_without_their_tags() {
        assert!(matches("busybox:latest", "busybox") && matches("busybox:1", "busybox:1"));
        assert!(matches("host:5000/a:1", "host:5000/a") && matches("busybox:1", "busy*") && matches("ab:1", "a?:1"));
        assert!(!matches("busybox:1", "busybox:2") && !matches("busybox:1", "box") && matches("a", "a:latest"));
    }
}
