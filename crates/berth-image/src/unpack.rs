//! A layer's tar into a [`LayerBuilder`] (OCI image specification, layer.md).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tar::EntryType;

use crate::builder::{Budget, LayerBuilder, Meta, clean};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Named, bad};
use crate::store::{Layer, Pin, Store};

/// Most bytes of one entry that are no file's content and are taken note of.
const MOST_NOTED: usize = 8 << 20;
/// Bytes of headers that an entry has on no account.
const FREE_HEADER: usize = 2048;
/// Most bytes after a tar's end that are nobody's content.
const MOST_PADDING: usize = 16 << 10;
/// Most bytes of headers before an entry: long names, extended attributes.
const LONGEST_HEADER: u64 = 4 << 20;

/// Lets through only so many bytes until it is allowed more: the tar parser reads extended headers into memory, whatever
/// length they claim.
pub(crate) struct Metered<R> {
    inner: R,
    allowance: Allowance,
}

/// What a [`Metered`] may still let through, and what of it is nowhere else.
#[derive(Clone, Default)]
pub(crate) struct Allowance(Rc<Ledger>);

#[derive(Default)]
struct Ledger {
    left: Cell<u64>,
    /// Whether anybody asks for what was let through.
    recording: Cell<bool>,
    /// Whether what comes now is to be taken note of.
    noting: Cell<bool>,
    noted: RefCell<Vec<u8>>,
    overflowed: Cell<bool>,
    /// Bytes of the archive so far.
    position: Cell<u64>,
    /// Whether headers come now, and those of the next entry.
    in_headers: Cell<bool>,
    skipped: Cell<u64>,
    headers: RefCell<Vec<u8>>,
}

impl Allowance {
    /// From now on what is let through is taken note of, but for contents of files.
    fn record(&self) {
        self.0.recording.set(true);
    }

    /// For the headers of the next entry.
    pub(crate) fn for_headers(&self) {
        self.0.left.set(LONGEST_HEADER);
        self.0.noting.set(self.0.recording.get());
        self.0.in_headers.set(true);
        self.0.headers.borrow_mut().clear();
        // What is left of the last entry's last block comes first.
        let padding = (512 - self.0.position.get() % 512) % 512;
        self.0.skipped.set(padding);
    }

    /// For an entry's data, which the budget bounds.
    pub(crate) fn for_data(&self) {
        self.0.left.set(u64::MAX);
        self.0.in_headers.set(false);
    }

    /// The records of the extended headers before the entry, by the lengths that they tell (pax(1)): the parser ends them
    /// at line feeds, which a value may hold.
    fn extensions(&self) -> Result<Extensions, Error> {
        let wrong = || bad("an extended header is malformed");
        let headers = self.0.headers.borrow();
        let mut all = Extensions::new();
        let mut rest = headers.get(self.0.skipped.get() as usize..).unwrap_or_default();
        while let Some((block, after)) = rest.split_first_chunk::<512>() {
            let header = tar::Header::from_byte_slice(block);
            let kind = header.entry_type();
            if !kind.is_pax_local_extensions() && !kind.is_gnu_longname() && !kind.is_gnu_longlink() {
                break;
            }
            let size = usize::try_from(header.entry_size().map_err(|_| wrong())?).map_err(|_| wrong())?;
            let mut records = after.get(..size).ok_or_else(wrong)?;
            rest = after.get(size.next_multiple_of(512)..).unwrap_or_default();
            if !kind.is_pax_local_extensions() {
                continue;
            }
            while !records.is_empty() {
                let digits = records.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
                let length = std::str::from_utf8(&records[..digits]).ok().and_then(|d| d.parse::<usize>().ok());
                let record = length.and_then(|length| records.get(digits + 1..length)).ok_or_else(wrong)?;
                let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
                let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
                all.insert(String::from_utf8_lossy(&record[..equals]).into_owned(), record[equals + 1..].to_vec());
                records = &records[length.unwrap_or(records.len())..];
            }
        }
        Ok(all)
    }

    /// For data that the tree will hold.
    fn for_content(&self) {
        self.0.noting.set(false);
    }

    /// What was let through since the last time, but for contents of files, goes to the builder.
    fn hand_over(&self, builder: &mut LayerBuilder<'_>, budget: &mut Budget) -> Result<(), Error> {
        if self.0.overflowed.get() {
            builder.end_record();
            return Ok(());
        }
        let noted = self.0.noted.take();
        builder.charge(noted.len(), FREE_HEADER, budget)?;
        builder.record(&noted);
        Ok(())
    }
}

impl<R: Read> Metered<R> {
    pub(crate) fn new(inner: R) -> (Self, Allowance) {
        let allowance = Allowance::default();
        (Self { inner, allowance: allowance.clone() }, allowance)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.0.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry's headers are too long"));
        }
        let length = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
        let read = self.inner.read(&mut buffer[..length])?;
        self.allowance.0.left.set(left - read as u64);
        self.allowance.0.position.set(self.allowance.0.position.get() + read as u64);
        if self.allowance.0.in_headers.get() {
            self.allowance.0.headers.borrow_mut().extend_from_slice(&buffer[..read]);
        }
        if self.allowance.0.noting.get() {
            let mut noted = self.allowance.0.noted.borrow_mut();
            if noted.len() + read > MOST_NOTED {
                // An entry with that much that is no file's content: such a tar is not kept.
                *noted = Vec::new();
                self.allowance.0.recording.set(false);
                self.allowance.0.noting.set(false);
                self.allowance.0.overflowed.set(true);
            } else {
                noted.extend_from_slice(&buffer[..read]);
            }
        }
        Ok(read)
    }
}

/// Reads what is left of an entry, on the budget.
pub(crate) fn skip(entry: &mut impl Read, budget: &mut Budget) -> Result<(), Error> {
    let read =
        io::copy(&mut entry.take(budget.bytes.saturating_add(1)), &mut io::sink()).named(|| "read the tar".into())?;
    budget.spend(read, String::new)
}

/// Unpacks a (possibly compressed) tar below the folder `at` of a tree that is there already: links on the way are followed
/// inside `root`, what an entry replaces goes, whiteouts are files like any other. Gives the names of the devices that were left
/// out.
///
/// # Errors
/// What is wrong with the archive, or what the disk said; what was unpacked until then stays.
pub fn unpack_within(
    root: OwnedFd,
    at: &Path,
    input: impl Read,
    keep: Keep,
    mut budget: Budget,
) -> Result<Vec<PathBuf>, Error> {
    let mut builder = LayerBuilder::within(root);
    (builder.keep_owner, builder.devices) = (keep.owner, keep.devices);
    let mut input = inflate(input).named(|| "read the archive".into())?;
    unpack(&mut builder, &mut input, &clean(at)?, Becomes::Files, &mut budget)?;
    skip(&mut input, &mut budget)?;
    let mut left_out: Vec<PathBuf> = builder.left_out.drain().collect();
    left_out.sort();
    builder.finish_within().map(|()| left_out)
}

/// What of an archive is kept when it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Owners, and bits that set the user or the group; without, everything belongs to whoever unpacks.
    pub owner: bool,
    /// Device nodes; without, they are left out, and links to them.
    pub devices: bool,
}

impl Keep {
    /// All of it: for places where devices are of no use.
    pub const ALL: Self = Self { owner: true, devices: true };
}

/// Memory that undoing xz may take, bytes: its archives say how much they need.
const XZ_MEMORY: u64 = 256 << 20;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// Told by the first bytes.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or one to be skipped before it (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Some(Self::Bzip2),
            _ => None,
        }
    }
}

/// Undoes gzip, zstd, xz or bzip2, told by the first bytes; anything else is passed on as it is.
pub(crate) fn inflate<'r>(mut input: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut magic = [0; 10];
    let mut have = 0;
    while have < magic.len() {
        match input.read(&mut magic[have..])? {
            0 => break,
            more => have += more,
        }
    }
    let input = Cursor::new(magic[..have].to_vec()).chain(input);
    Ok(match Compression::of(&magic[..have]) {
        Some(Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(input)),
        Some(Compression::Zstd) => Box::new(zstd::Decoder::new(input)?),
        Some(Compression::Xz) => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
        }
        Some(Compression::Bzip2) => Box::new(bzip2::read::MultiBzDecoder::new(input)),
        None => Box::new(input),
    })
}

/// Unpacks a layer's (possibly compressed) tar. `expected` is the digest that the tar must have once uncompressed.
pub(crate) fn unpack_layer(
    store: &Store,
    input: impl Read,
    expected: Option<Digest>,
    budget: &mut Budget,
) -> Result<(Layer, Pin), Error> {
    let mut builder = LayerBuilder::new(store)?;
    builder.begin_record();
    let mut tar = Hashing::new(inflate(input).named(|| "read the layer".into())?);
    unpack(&mut builder, &mut tar, Path::new(""), Becomes::Layer, budget)?;
    // What follows the end marker belongs to the digest, and to the budget.
    let mut buffer = [0; 8192];
    let mut tail = 0;
    loop {
        let read = tar.read(&mut buffer).named(|| "read the layer's end".into())?;
        if read == 0 {
            break;
        }
        // Writers fill tars up to blocks of 10 KiB; what is more than that is somebody's content.
        builder.charge(read, MOST_PADDING.saturating_sub(tail), budget)?;
        tail += read;
        builder.record(&buffer[..read]);
    }
    let digest = tar.finish().named(|| "read the layer's end".into())?;
    if let Some(expected) = expected
        && expected != digest
    {
        return Err(bad(format!("the layer's content is {digest}, expected was {expected}")));
    }
    builder.tar = true;
    builder.finish(digest)
}

/// Reads a layer that is here already, and compares: whoever names a digest must have the content.
pub(crate) fn compare_layer(input: impl Read, expected: Digest, budget: &mut Budget) -> Result<(), Error> {
    let mut tar = Hashing::new(inflate(input).named(|| "read the layer".into())?);
    let most = budget.bytes.saturating_add(1);
    let read = io::copy(&mut (&mut tar).take(most), &mut io::sink()).named(|| "read the layer".into())?;
    budget.spend(read, || " (in a layer)".into())?;
    let digest = tar.finish().named(|| "read the layer's end".into())?;
    if digest != expected {
        return Err(bad(format!("the layer's content is {digest}, expected was {expected}")));
    }
    Ok(())
}

/// What a tar becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Becomes<'a> {
    /// A layer: some names are whiteouts.
    Layer,
    /// Files of a container.
    Files,
    /// An application's code: files, folders and links that stay inside, all of root; what is below this folder, if there is
    /// one that holds everything.
    Code(Option<&'a Path>),
}

/// The names of a tar, and whether they are folders.
pub(crate) fn names_of(input: &mut dyn Read, budget: &Budget) -> Result<Vec<(PathBuf, bool)>, Error> {
    let (input, allowance) = Metered::new(input);
    let mut archive = tar::Archive::new(input);
    let mut entries = archive.entries().named(|| "read the tar".into())?;
    let mut names = Vec::new();
    let mut left = *budget;
    loop {
        allowance.for_headers();
        let Some(entry) = entries.next() else { return Ok(names) };
        let mut entry = entry.map_err(|error| crate::error::not_a_tar(error, names.is_empty()))?;
        allowance.for_data();
        let folder = entry.header().entry_type() == EntryType::Directory;
        names.push((clean(Path::new(OsStr::from_bytes(&entry.path_bytes())))?, folder));
        if names.len() as u64 > budget.entries {
            return Err(Error::TooBig(format!("the archive has more than {} entries", budget.entries)));
        }
        skip(&mut entry, &mut left)?;
    }
}

/// Whether an entry of a layer stands for what the layer hides (a whiteout); it is done then.
fn hides(builder: &mut LayerBuilder<'_>, name: &Path) -> Result<bool, Error> {
    let Some(hidden) = name.file_name().map(OsStr::as_bytes).and_then(|file| file.strip_prefix(b".wh.")) else {
        return Ok(false);
    };
    let parent = name.parent().unwrap_or(Path::new(""));
    if hidden == b".wh..opq" {
        builder.opaque(parent)?;
    } else if !hidden.starts_with(b".wh.") {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(bad(format!("{} hides no name", name.display())));
        }
        builder.whiteout(&parent.join(OsStr::from_bytes(hidden)))?;
    }
    Ok(true)
}

/// A regular file's content.
fn content<R: Read>(
    builder: &mut LayerBuilder<'_>,
    entry: &mut tar::Entry<'_, R>,
    extensions: &Extensions,
    (name, meta): (&Path, &Meta),
    allowance: &Allowance,
    budget: &mut Budget,
) -> Result<(), Error> {
    if let Some((length, pieces)) = sparse_map(extensions, entry)? {
        builder.sparse_file(name, meta, length, &pieces, entry, budget)?;
    } else {
        let size = entry.size();
        if entry.header().entry_type() == EntryType::GNUSparse {
            // The parser gives its content filled up, not as it is in the archive.
            builder.end_record();
        }
        allowance.for_content();
        allowance.hand_over(builder, budget)?;
        let written = builder.file(name, meta, entry, budget)?;
        if written != size {
            return Err(bad(format!("{} is cut short: {written} of {size} bytes", name.display())));
        }
        builder.record_file(name, size);
    }
    Ok(())
}

/// Entries go below `at`.
pub(crate) fn unpack(
    builder: &mut LayerBuilder<'_>,
    input: &mut dyn Read,
    at: &Path,
    becomes: Becomes<'_>,
    budget: &mut Budget,
) -> Result<(), Error> {
    let layer = becomes == Becomes::Layer;
    let (input, allowance) = Metered::new(input);
    if layer {
        allowance.record();
    }
    let mut archive = tar::Archive::new(input);
    let mut entries = archive.entries().named(|| "read the tar".into())?;
    let mut first = true;
    // Files of an application's code: only they may have further names.
    let mut files = std::collections::HashSet::new();
    loop {
        allowance.for_headers();
        let Some(entry) = entries.next() else {
            return allowance.hand_over(builder, budget);
        };
        let mut entry = entry.map_err(|error| crate::error::not_a_tar(error, first))?;
        first = false;
        allowance.hand_over(builder, budget)?;
        allowance.for_data();
        budget.entries =
            budget.entries.checked_sub(1).ok_or_else(|| Error::TooBig("the archive has too many entries".into()))?;
        let extensions = allowance.extensions()?;
        let told = |key: &str| extensions.get(key).map(|value| std::str::from_utf8(value).ok().map(str::parse::<u64>));
        if let Some(size) = told("size")
            && size != Some(Ok(entry.size()))
        {
            return Err(bad("an entry's length in its extended header can't be read"));
        }
        let name = match extensions.get("GNU.sparse.name").or_else(|| extensions.get("path")) {
            Some(name) => clean(Path::new(OsStr::from_bytes(name)))?,
            None => clean(Path::new(OsStr::from_bytes(&entry.path_bytes())))?,
        };
        let mut meta = meta(&entry, &extensions)?;
        let told_name = name.clone();
        let mut inside = name;
        if let Becomes::Code(wrapper) = becomes {
            if let Some(within) = wrapper.and_then(|w| inside.strip_prefix(w).ok()) {
                inside = within.to_owned();
            }
            let folder = entry.header().entry_type() == EntryType::Directory;
            let mode = meta.mode & 0o777 | if folder { 0o700 } else { 0 };
            meta = Meta { mode, mtime: meta.mtime, ..Meta::default() };
            refuse_for_code(&entry, &inside, &extensions)?;
            if matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
                files.insert(told_name);
            }
        }
        let is_root = inside.as_os_str().is_empty();
        let name = at.join(inside);
        if layer && hides(builder, &name)? {
            skip(&mut entry, budget)?;
            continue;
        }
        let kind = entry.header().entry_type();
        let device = |entry: &tar::Entry<'_, _>| -> Result<(u32, u32), Error> {
            let number = |n: io::Result<Option<u32>>| n.named(|| format!("device number of {}", name.display()));
            let header = entry.header();
            Ok((number(header.device_major())?.unwrap_or(0), number(header.device_minor())?.unwrap_or(0)))
        };
        let link = |entry: &tar::Entry<'_, _>| {
            let told = extensions.get("linkpath").map(std::borrow::Cow::from);
            let target = told.or_else(|| entry.link_name_bytes()).filter(|t| !t.is_empty());
            let target = target.ok_or_else(|| bad(format!("link {} has no target", name.display())))?;
            Ok::<_, Error>(Path::new(OsStr::from_bytes(&target)).to_owned())
        };
        match kind {
            // Where it is unpacked to is not the archive's own.
            EntryType::Directory if is_root && !layer => {}
            EntryType::Directory => builder.directory(&name, &meta)?,
            _ if is_root => return Err(bad("an entry other than a folder is named like the root")),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                content(builder, &mut entry, &extensions, (&name, &meta), &allowance, budget)?;
            }
            EntryType::Symlink => builder.symlink(&name, &link(&entry)?, &meta)?,
            EntryType::Link => {
                let mut target = clean(&link(&entry)?)?;
                if let Becomes::Code(wrapper) = becomes {
                    if !files.contains(&target) {
                        return Err(bad(format!("{} is a hard link to no file before it", name.display())));
                    }
                    if let Some(within) = wrapper.and_then(|w| target.strip_prefix(w).ok()) {
                        target = within.to_owned();
                    }
                }
                builder.hard_link(&name, &at.join(target))?;
            }
            EntryType::Char | EntryType::Block => {
                let (major, minor) = device(&entry)?;
                let format = if kind == EntryType::Char { libc::S_IFCHR } else { libc::S_IFBLK };
                builder.node(&name, format, major, minor, &meta)?;
            }
            EntryType::Fifo => builder.node(&name, libc::S_IFIFO, 0, 0, &meta)?,
            EntryType::XGlobalHeader => {}
            other => {
                return Err(bad(format!(
                    "{} is of a kind that tar files of images don't have: {other:?}",
                    name.display()
                )));
            }
        }
        skip(&mut entry, budget)?;
    }
}

type Extensions = HashMap<String, Vec<u8>>;

/// Code is files, folders, and links that lead to something within it.
fn refuse_for_code(entry: &tar::Entry<'_, impl Read>, name: &Path, extensions: &Extensions) -> Result<(), Error> {
    match entry.header().entry_type() {
        EntryType::Symlink => {
            let told = extensions.get("linkpath").map(std::borrow::Cow::from);
            let target = told.or_else(|| entry.link_name_bytes()).unwrap_or_default();
            crate::code::stays_inside(name, Path::new(OsStr::from_bytes(&target)))
        }
        EntryType::Directory | EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Ok(()),
        EntryType::Link | EntryType::XGlobalHeader => Ok(()),
        _ => Err(bad(format!("{} is neither a file, a folder nor a link", name.display()))),
    }
}

fn meta(entry: &tar::Entry<'_, impl Read>, extensions: &Extensions) -> Result<Meta, Error> {
    let header = entry.header();
    let text = |key: &str| extensions.get(key).and_then(|v| std::str::from_utf8(v).ok());
    let number = |key: &str, plain: io::Result<u64>| -> Result<u32, Error> {
        let value = match text(key).and_then(|v| v.parse().ok()) {
            Some(value) => value,
            None => plain.named(|| format!("read {key}"))?,
        };
        u32::try_from(value).map_err(|_| bad(format!("{key} {value} is too large")))
    };
    let mtime = match text("mtime") {
        Some(value) => {
            let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
            let nanos: i64 = format!("{fraction:0<9}").get(..9).and_then(|f| f.parse().ok()).unwrap_or(0);
            let seconds = seconds.parse().unwrap_or(0);
            // Before 1970 the fraction is of the magnitude.
            if value.starts_with('-') && nanos > 0 { (seconds - 1, 1_000_000_000 - nanos) } else { (seconds, nanos) }
        }
        None => (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
    };
    let xattrs = extensions
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), value.clone())))
        .collect();
    Ok(Meta {
        uid: number("uid", header.uid())?,
        gid: number("gid", header.gid())?,
        mode: header.mode().named(|| "read a mode".into())?,
        mtime,
        xattrs,
    })
}

type SparseMap = Option<(u64, Vec<(u64, u64)>)>;

/// The map of a file in one of GNU tar's PAX sparse formats (the older header format is the tar crate's own work).
fn sparse_map(extensions: &Extensions, entry: &mut impl Read) -> Result<SparseMap, Error> {
    let text = |key: &str| extensions.get(key).and_then(|v| std::str::from_utf8(v).ok());
    let wrong = || bad("a sparse file's map is wrong");
    let numbers: Vec<u64>;
    let length: u64;
    if text("GNU.sparse.major") == Some("1") {
        length = text("GNU.sparse.realsize").and_then(|v| v.parse().ok()).ok_or_else(wrong)?;
        // Decimal lines at the head of the data, filled up to whole blocks of 512.
        let mut block = [0; 512];
        let mut digits = String::new();
        let mut read = Vec::new();
        let mut wanted = 1;
        while read.len() < wanted {
            entry.read_exact(&mut block).named(|| "read a sparse map".into())?;
            for byte in block {
                match byte {
                    b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(byte)),
                    b'\n' => {
                        read.push(std::mem::take(&mut digits).parse().map_err(|_| wrong())?);
                        if read.len() == 1 {
                            wanted = usize::try_from(read[0]).ok().filter(|n| *n < 1 << 20).ok_or_else(wrong)? * 2 + 1;
                        }
                        if read.len() == wanted {
                            break;
                        }
                    }
                    _ => return Err(wrong()),
                }
            }
        }
        numbers = read[1..].to_vec();
    } else if let Some(map) = text("GNU.sparse.map") {
        length = text("GNU.sparse.size").and_then(|v| v.parse().ok()).ok_or_else(wrong)?;
        numbers = map.split(',').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    } else {
        return Ok(None);
    }
    Ok(Some((length, numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())))
}
