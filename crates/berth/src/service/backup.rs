//! `berth backup` and `berth restore`: what a server knows, as a folder of files. The server may serve meanwhile: the database is
//! taken as it was at one moment, volumes as their files are while they are read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::named;

/// Files that are copied as they are: without them the database can't be read, or nobody gets in.
const FILES: [&str; 2] = ["secret.key", "admin.json"];
/// What of the engine keeps containers' network and names of cgroups as they were.
const INSTANCE: &str = "engine/instance.json";
const DATABASE: &str = "berth.db";
const MANIFEST: &str = "manifest.json";
const SETTINGS: &str = "berth.toml";

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// Without the volumes
    #[arg(long)]
    no_volumes: bool,
    /// With all images that have a name, as archives for `berth load`; the server has to serve
    #[arg(long)]
    pub(crate) images: bool,
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// A folder that is not there yet
    pub(crate) folder: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Set data that is there aside, instead of refusing
    #[arg(long, short)]
    force: bool,
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// A folder that `berth backup` made
    folder: PathBuf,
}

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// Version of the program that made it.
    berth: String,
    /// When, RFC 3339.
    made_at: String,
    /// Name of the machine.
    host: String,
    /// SHA-256 of its files.
    files: BTreeMap<String, String>,
}

fn new_file(path: &Path) -> Result<fs::File, String> {
    named(path, fs::File::options().write(true).create_new(true).mode(0o600).open(path))
}

fn digest(path: &Path) -> Result<String, String> {
    let file = named(path, fs::File::open(path))?;
    let digest = named(path, berth_image::Digest::of_reader(file))?;
    Ok(digest.to_string())
}

/// Everything of a folder as a tar, with owners, attributes and holes.
fn pack(folder: &Path, into: &Path) -> Result<(), String> {
    let root = named(folder, fs::File::open(folder))?;
    let mut out = BufWriter::new(new_file(into)?);
    let packed = berth_image::pack_path(root.as_fd(), Path::new("."), Path::new(""), true, &mut out);
    named(into, packed.and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all()))
}

/// Makes a backup of the data folder; the images' archives are the caller's to add before [`seal`].
pub(crate) fn backup(asked: &Backup, data: &Path) -> Result<(), String> {
    let database = data.join(DATABASE);
    if !database.exists() {
        return Err(format!("{} is not there: {} is no data folder of berth", database.display(), data.display()));
    }
    let folder = &asked.folder;
    named(folder, fs::DirBuilder::new().mode(0o700).create(folder))?;
    let snapshot = folder.join(DATABASE);
    // With its mode before there is anything in it.
    drop(new_file(&snapshot)?);
    berth_store::snapshot(&database, &snapshot).map_err(|e| format!("{}: {e}", database.display()))?;
    for name in FILES {
        let (from, to) = (data.join(name), folder.join(name));
        if from.exists() {
            let bytes = named(&from, fs::read(&from))?;
            named(&to, new_file(&to)?.write_all(&bytes))?;
        }
    }
    let instance = data.join(INSTANCE);
    if instance.exists() {
        named(&instance, fs::copy(&instance, folder.join("instance.json")))?;
    }
    if let Some(settings) = crate::settings::Settings::path(asked.config.as_deref()) {
        named(settings, fs::copy(settings, folder.join(SETTINGS)))?;
    }
    for (name, wanted) in [("packages", true), ("volumes", !asked.no_volumes)] {
        let from = data.join(name);
        if wanted && from.is_dir() {
            pack(&from, &folder.join(format!("{name}.tar")))?;
        }
    }
    Ok(())
}

/// Says what is in a backup, last of all: one without this is not whole.
pub(crate) fn seal(folder: &Path) -> Result<(), String> {
    let mut files = BTreeMap::new();
    for entry in named(folder, fs::read_dir(folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, digest(&entry.path())?);
    }
    let manifest = Manifest {
        berth: env!("CARGO_PKG_VERSION").into(),
        made_at: berth_image::rfc3339(berth_core::now()),
        host: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        files,
    };
    let path = folder.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| e.to_string())?;
    named(&path, new_file(&path)?.write_all(&text))?;
    for name in manifest.files.keys() {
        println!("{}", folder.join(name).display());
    }
    println!("{}", path.display());
    Ok(())
}

/// Whether a backup is whole.
fn check(folder: &Path) -> Result<Manifest, String> {
    let path = folder.join(MANIFEST);
    let text = named(&path, fs::read(&path))
        .map_err(|e| format!("{e}; a backup without this file is none, or was broken off"))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for (name, expected) in &manifest.files {
        if name.contains('/') {
            return Err(format!("{}: {name:?} is no name of a file", path.display()));
        }
        let path = folder.join(name);
        if digest(&path)? != *expected {
            return Err(format!("{}: not what it was when the backup was made", path.display()));
        }
    }
    Ok(manifest)
}

/// Whether what the backup calls its bridge and cgroups by is another data folder's on this machine: its containers would be taken for
/// leftovers, and ended. The copy gets names of its own then.
fn is_elsewhere(from: &Path, data: &Path) -> bool {
    let id = |path: PathBuf| {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        json["id"].as_str().map(str::to_owned)
    };
    let Some(of_backup) = id(from.join("instance.json")) else { return false };
    let in_kernel = Path::new("/sys/class/net").join(format!("berth-{of_backup}")).exists();
    in_kernel && id(data.join(INSTANCE)).as_ref() != Some(&of_backup)
}

/// Where data that was there is set aside.
fn aside(data: &Path) -> PathBuf {
    let at = berth_core::now() / 1_000_000_000;
    data.with_file_name(format!("{}.before-{at}", data.file_name().unwrap_or_default().to_string_lossy()))
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), String> {
    named(folder, fs::DirBuilder::new().mode(0o700).create(folder))?;
    let root = named(folder, fs::File::open(folder))?;
    let input = named(archive, fs::File::open(archive))?;
    let keep = berth_image::Keep { owner: true, devices: true };
    let budget = berth_image::Budget { bytes: u64::MAX / 4, entries: u64::MAX / 4 };
    let unpacked = berth_image::unpack_within(root.into(), Path::new(""), input, keep, budget);
    unpacked.map(drop).map_err(|e| format!("{}: {e}", archive.display()))
}

/// Puts a backup in the place of a data folder. The server must not run.
pub(crate) fn restore(asked: &Restore, data: &Path) -> Result<(), String> {
    let from = &asked.folder;
    let manifest = check(from)?;
    let making = data.with_file_name(format!("{}.restoring", data.file_name().unwrap_or_default().to_string_lossy()));
    if making.exists() {
        named(&making, fs::remove_dir_all(&making))?;
    }
    named(&making, fs::DirBuilder::new().mode(0o700).recursive(true).create(&making))?;
    for name in [DATABASE].into_iter().chain(FILES) {
        let (source, to) = (from.join(name), making.join(name));
        if source.exists() {
            let bytes = named(&source, fs::read(&source))?;
            named(&to, new_file(&to)?.write_all(&bytes))?;
        }
    }
    // Of an older version it is brought forward, of a newer one it is refused: before anything is replaced.
    berth_store::Store::open(&making.join(DATABASE)).map(drop).map_err(|e| {
        let _ = fs::remove_dir_all(&making);
        format!("{}: {e}", from.join(DATABASE).display())
    })?;
    if from.join("instance.json").exists() && !is_elsewhere(from, data) {
        let to = making.join(INSTANCE);
        named(&making, fs::DirBuilder::new().mode(0o700).create(making.join("engine")))?;
        named(&to, fs::copy(from.join("instance.json"), &to))?;
    }
    for name in ["packages", "volumes"] {
        let archive = from.join(format!("{name}.tar"));
        if archive.exists() {
            unpack(&archive, &making.join(name))?;
        }
    }
    if data.exists() {
        let _lock = crate::serve::take_lock(data).map_err(|e| format!("{e}; stop it first"))?;
        let used = data.join(DATABASE).exists();
        if used && !asked.force {
            let _ = fs::remove_dir_all(&making);
            return Err(format!("{} has data already; --force sets it aside", data.display()));
        }
        let kept = aside(data);
        named(data, fs::rename(data, &kept))?;
        if used {
            println!("what was there is now in {}", kept.display());
        } else {
            let _ = fs::remove_dir_all(&kept);
        }
    }
    named(&making, fs::rename(&making, data))?;
    println!("{} is as {} was at {} (berth {})", data.display(), manifest.host, manifest.made_at, manifest.berth);
    let settings = Path::new(super::files::SETTINGS);
    if from.join(SETTINGS).exists() {
        println!(
            "the settings are in {}; those of this machine ({}) stay as they are",
            from.join(SETTINGS).display(),
            settings.display()
        );
    }
    if fs::read_dir(from)
        .is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("images-"))))
    {
        println!(
            "when the server runs, for each account: berth --for-account ACCOUNT load -i {}/images-ACCOUNT.tar",
            from.display()
        );
    }
    println!(
        "start the server; containers are made anew when they are started, without what they wrote outside their volumes; ports that"
    );
    println!(
        "berth chose may be others, and applications that were built from a zip (dialect standalone) have to be built again"
    );
    Ok(())
}
