//! An application's code as an archive or a single file, put into a layer of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::builder::{Budget, LayerBuilder, Meta, clean};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Named, bad};
use crate::store::{Layer, Pin, Store};
use crate::unpack::{Becomes, inflate, names_of, unpack};

/// Most bytes that one compressed byte may become; beyond it an archive is taken for a bomb (deflate's own bound is 1032).
const RATIO: u64 = 200;
/// Small archives of real code reach high ratios too; below this many bytes the ratio is not looked at.
const RATIO_FROM: u64 = 16 << 20;

/// Unpacks the zip archive below the folder `under` of a new layer. The layer's digest is that of the archive and the
/// folder's name, so equal code is kept once. A single folder at the top that holds everything is stepped into, as
/// archives made from a repository or a folder have it.
///
/// # Errors
/// [`Error::Bad`] for what is no zip archive, is encrypted, or leads out of its folder; [`Error::TooBig`] for what exceeds
/// the budget or inflates beyond reason.
pub fn unpack_zip(store: &Store, path: &Path, under: &Path, mut budget: Budget) -> Result<(Layer, Pin), Error> {
    let file = File::open(path).named(|| "open the downloaded archive".into())?;
    let compressed = file.metadata().named(|| "stat the downloaded archive".into())?.len();
    let content = Hashing::new(file.try_clone().named(|| "open the archive".into())?);
    let content = content.finish().named(|| "read the downloaded archive".into())?;
    let digest = Digest::of(format!("{content} under {}", under.display()).as_bytes());
    if let Some(known) = store.pinned(&digest) {
        return Ok(known);
    }
    check_directory(&file, compressed, &budget)?;
    let mut archive =
        zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| bad(format!("not a zip archive: {e}")))?;
    budget.bytes = budget.bytes.min(compressed.saturating_mul(RATIO).max(RATIO_FROM));
    if archive.len() as u64 > budget.entries {
        return Err(Error::TooBig(format!(
            "the archive has {} entries, {} are allowed",
            archive.len(),
            budget.entries
        )));
    }
    let mut names = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| bad(format!("entry {index} of the archive: {e}")))?;
        if entry.name_raw().starts_with(b"/") || entry.name_raw().contains(&b'\\') && entry.name_raw().contains(&b':') {
            return Err(bad(format!("entry {:?} has an absolute name", String::from_utf8_lossy(entry.name_raw()))));
        }
        // Names are bytes on Linux; archivers of Windows separate them by backslashes.
        let name: Vec<u8> = entry.name_raw().iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        names.push((clean(Path::new(OsStr::from_bytes(&name)))?, entry.is_dir() || name.ends_with(b"/")));
    }
    let wrapper = wrapper(&names);
    let mut builder = LayerBuilder::new(store)?;
    let owner = Meta { mode: 0o755, ..Meta::default() };
    builder.directory(Path::new(""), &owner)?;
    let mut sofar = PathBuf::new();
    for part in under.iter() {
        sofar.push(part);
        builder.directory(&sofar, &owner)?;
    }
    for (index, (name, is_folder)) in names.iter().enumerate() {
        let inside = wrapper.as_ref().map_or(name.as_path(), |top| name.strip_prefix(top).unwrap_or(name));
        if inside.as_os_str().is_empty() {
            continue;
        }
        let target = under.join(inside);
        let mut entry = archive.by_index(index).map_err(|e| bad(format!("{} in the archive: {e}", name.display())))?;
        let mode = entry.unix_mode();
        let permissions = mode.map_or(if *is_folder { 0o755 } else { 0o644 }, |m| m & 0o777);
        let meta = Meta { mode: permissions, ..Meta::default() };
        match mode.map(|m| m & libc::S_IFMT) {
            Some(libc::S_IFLNK) => {
                let mut to = Vec::new();
                entry.by_ref().take(4096).read_to_end(&mut to).map_err(|e| bad(format!("{}: {e}", name.display())))?;
                let to = Path::new(OsStr::from_bytes(&to)).to_owned();
                stays_inside(inside, &to)?;
                builder.symlink(&target, &to, &meta)?;
            }
            _ if *is_folder => builder.directory(&target, &Meta { mode: permissions | 0o700, ..meta })?,
            Some(libc::S_IFREG | 0) | None => {
                let promised = entry.size();
                let written = builder.file(&target, &meta, &mut entry, &mut budget).map_err(|error| match error {
                    Error::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                        bad(format!("{} in the archive: {source}", name.display()))
                    }
                    other => other,
                })?;
                if written != promised {
                    return Err(bad(format!("{} is cut short", name.display())));
                }
            }
            Some(_) => return Err(bad(format!("{} is neither a file, a folder nor a link", name.display()))),
        }
    }
    builder.finish(digest)
}

/// A file or folder of a small layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerFile<'a> {
    /// Relative path; folders come before what is in them.
    pub path: &'a str,
    /// Permissions.
    pub mode: u32,
    /// Content; `None` for a folder.
    pub content: Option<&'a [u8]>,
}

/// Makes a layer of these files, owned by root. Equal files are kept once.
///
/// # Errors
/// The disk's word.
pub fn layer_of_files(store: &Store, files: &[LayerFile<'_>]) -> Result<(Layer, Pin), Error> {
    let mut described = Vec::new();
    for file in files {
        let kind = if file.content.is_some() { "file" } else { "folder" };
        let content = Digest::of(file.content.unwrap_or_default());
        described.extend_from_slice(format!("{kind} {:o} {} {content}\n", file.mode, file.path).as_bytes());
    }
    let digest = Digest::of(&described);
    if let Some(known) = store.pinned(&digest) {
        return Ok(known);
    }
    let mut builder = LayerBuilder::new(store)?;
    builder.directory(Path::new(""), &Meta { mode: 0o755, ..Meta::default() })?;
    for file in files {
        let meta = Meta { mode: file.mode, ..Meta::default() };
        match file.content {
            Some(mut content) => {
                builder.file(Path::new(file.path), &meta, &mut content, &mut Budget::default())?;
            }
            None => builder.directory(Path::new(file.path), &meta)?,
        }
    }
    builder.finish(digest)
}

/// Looks at the end record (and its 64 bit form) before the directory is read into memory.
fn check_directory(mut file: &File, length: u64, budget: &Budget) -> Result<(), Error> {
    const LONGEST_END: u64 = 22 + 65_535 + 20;
    const LONGEST_DIRECTORY: u64 = 64 << 20;
    let from = length.saturating_sub(LONGEST_END);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.take(LONGEST_END).read_to_end(&mut tail))
        .and_then(|_| file.seek(SeekFrom::Start(0)))
        .named(|| "read the archive's end".into())?;
    let Some(end) = tail.windows(4).rposition(|w| w == b"PK\x05\x06") else {
        return Err(bad("not a zip archive: it has no end record"));
    };
    let number = |bytes: &[u8], at: usize, size: usize| -> u64 {
        bytes.get(at..at + size).unwrap_or_default().iter().rev().fold(0, |all, b| all << 8 | u64::from(*b))
    };
    let mut entries = number(&tail[end..], 10, 2);
    let mut directory = number(&tail[end..], 12, 4);
    if (entries == 0xffff || directory == 0xffff_ffff) && end >= 20 && tail[end - 20..].starts_with(b"PK\x06\x07") {
        let at = number(&tail[end - 20..], 8, 8);
        let mut record = [0; 56];
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(&mut record))
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(|_| bad("not a zip archive: its end record leads nowhere"))?;
        entries = number(&record, 32, 8);
        directory = number(&record, 40, 8);
    }
    if entries > budget.entries || directory > LONGEST_DIRECTORY {
        return Err(Error::TooBig(format!("the archive has {entries} entries, {} are allowed", budget.entries)));
    }
    Ok(())
}

/// The one folder that everything lies in, if there is one.
fn wrapper(names: &[(PathBuf, bool)]) -> Option<PathBuf> {
    let top = names.first()?.0.iter().next().map(PathBuf::from)?;
    let inside = names.iter().all(|(name, is_folder)| name.starts_with(&top) && (*name != top || *is_folder));
    // A web application's own folders are not a wrapper: something must lie directly in it.
    let has_file = names.iter().any(|(name, is_folder)| !is_folder && name.parent() == Some(&top));
    (inside && has_file).then_some(top)
}

/// Puts code below the folder `under` of a new layer: a zip or a tar (plain, gzip, zstd) unpacked, as [`unpack_zip`] does; a
/// `.war` or `.jar`, told by `name`, as it is. Where `under` itself ends like that it is the file.
///
/// # Errors
/// As [`unpack_zip`].
pub fn unpack_code(
    store: &Store,
    path: &Path,
    name: &str,
    under: &Path,
    mut budget: Budget,
) -> Result<(Layer, Pin), Error> {
    let single = |text: &str| [".war", ".jar"].iter().any(|ending| text.to_ascii_lowercase().ends_with(ending));
    let opened = || File::open(path).named(|| "open the downloaded archive".into());
    let mut magic = [0; 4];
    let begins = opened()?.read_exact(&mut magic).is_ok();
    let is_zip = begins && matches!(&magic, b"PK\x03\x04" | b"PK\x05\x06");
    let as_file = under.to_str().is_some_and(single);
    let file = as_file || single(name);
    if is_zip && !file {
        return unpack_zip(store, path, under, budget);
    }
    if file && !is_zip {
        return Err(bad(format!("{name} is no war or jar: those are zip archives")));
    }
    let compressed = opened()?.metadata().named(|| "stat the downloaded archive".into())?.len();
    let content = Hashing::new(opened()?).finish().named(|| "read the downloaded archive".into())?;
    let target = if as_file { under.to_owned() } else { under.join(if file { name } else { "" }) };
    let digest = Digest::of(format!("{content} at {}", target.display()).as_bytes());
    if let Some(known) = store.pinned(&digest) {
        return Ok(known);
    }
    let mut builder = LayerBuilder::new(store)?;
    let owner = Meta { mode: 0o755, ..Meta::default() };
    builder.directory(Path::new(""), &owner)?;
    let mut sofar = PathBuf::new();
    for part in (if as_file { under.parent().unwrap_or(Path::new("")) } else { under }).iter() {
        sofar.push(part);
        builder.directory(&sofar, &owner)?;
    }
    if file {
        builder.file(&target, &Meta { mode: 0o644, ..Meta::default() }, &mut opened()?, &mut budget)?;
    } else {
        budget.bytes = budget.bytes.min(compressed.saturating_mul(RATIO).max(RATIO_FROM));
        let inflated = || inflate(opened()?).named(|| "read the downloaded archive".into());
        let names = names_of(&mut inflated()?, &budget)?;
        if names.is_empty() {
            return Err(bad("the archive is empty, or neither zip nor tar"));
        }
        unpack(&mut builder, &mut inflated()?, under, Becomes::Code(wrapper(&names).as_deref()), &mut budget)?;
    }
    builder.finish(digest)
}

/// A link of the archive must lead to something within it.
pub(crate) fn stays_inside(link: &Path, target: &Path) -> Result<(), Error> {
    let mut depth = link.components().count() as i64 - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => depth = -1,
        }
        if depth < 0 {
            return Err(bad(format!("link {} leads out of the archive, to {}", link.display(), target.display())));
        }
    }
    Ok(())
}
