//! What of a layer's tar is not in its tree: headers, padding, order. Kept beside the tree, it gives the tar back byte for
//! byte, so that an image goes out under the digest that it came in with, and no archive need be kept.
//!
//! A zstd stream of pieces: `0`, length, bytes as they are; or `1`, length of a file's content, length of its path, path.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use berth_runtime::openat2_in_root;

use crate::digest::Digest;
use crate::error::{Error, Named, bad};
use crate::store::Store;

/// Longest piece of raw bytes that is held in memory.
const LONGEST: usize = 256 * 1024;

/// Takes note of a tar while it is unpacked.
pub(crate) struct Recorder {
    out: zstd::Encoder<'static, File>,
    raw: Vec<u8>,
}

impl Recorder {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: zstd::Encoder::new(File::create(path)?, 1)?, raw: Vec::new() })
    }

    /// Bytes that are nowhere else.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= LONGEST { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.out.write_all(&[0])?;
            self.out.write_all(&(self.raw.len() as u64).to_le_bytes())?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    /// Here comes the content of the file at `path` of the tree.
    pub(crate) fn file(&mut self, path: &Path, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.flush()?;
        let path = path.as_os_str().as_bytes();
        self.out.write_all(&[1])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&(path.len() as u32).to_le_bytes())?;
        self.out.write_all(path)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.finish().map(drop)
    }
}

/// The name of the file beside a layer's tree.
pub(crate) const FILE: &str = "split.zst";

impl Store {
    /// Whether the layer's tar can be given back as it came.
    pub fn has_tar(&self, digest: &Digest) -> bool {
        self.tree(digest).map(|tree| tree.with_file_name(FILE)).is_some_and(|path| path.exists())
    }

    /// Bytes of the layer's uncompressed tar.
    pub(crate) fn tar_size(&self, digest: &Digest) -> Result<u64, Error> {
        let mut size = 0;
        self.pieces(digest, |piece, split| {
            size += piece.length;
            if piece.file.is_none() {
                io::copy(&mut split.take(piece.length), &mut io::sink()).map(drop)
            } else {
                Ok(())
            }
        })?;
        Ok(size)
    }

    /// Writes the layer's uncompressed tar, byte for byte as it came.
    ///
    /// # Errors
    /// What reading or writing said. The caller compares the digest of what was written.
    pub fn write_tar(&self, digest: &Digest, out: &mut dyn Write) -> Result<(), Error> {
        let tree = self.tree(digest).ok_or_else(|| bad(format!("layer {digest} is not here")))?;
        let root: OwnedFd = File::open(&tree).named(|| format!("open layer {digest}"))?.into();
        let mut buffer = vec![0; LONGEST];
        self.pieces(digest, |piece, split| {
            let Some(path) = &piece.file else { return copy(split, piece.length, &mut buffer, out) };
            let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
            let mut file: File = openat2_in_root(root.as_fd(), path, flags, 0, true)?.into();
            copy(&mut file, piece.length, &mut buffer, out)
        })
    }

    fn pieces(
        &self,
        digest: &Digest,
        mut each: impl FnMut(&Piece, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), Error> {
        let tree = self.tree(digest).ok_or_else(|| bad(format!("layer {digest} is not here")))?;
        let what = || format!("give back the tar of layer {digest}");
        let split = File::open(tree.with_file_name(FILE)).named(what)?;
        let mut split = BufReader::new(zstd::Decoder::new(split).named(what)?);
        loop {
            let mut kind = [0];
            match split.read_exact(&mut kind) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other.named(what)?,
            }
            let (mut number, mut size) = ([0; 8], [0; 4]);
            split.read_exact(&mut number).named(what)?;
            let mut piece = Piece { length: u64::from_le_bytes(number), file: None };
            if kind[0] == 1 {
                split.read_exact(&mut size).named(what)?;
                let mut path = vec![0; u32::from_le_bytes(size) as usize];
                split.read_exact(&mut path).named(what)?;
                piece.file = Some(PathBuf::from(std::ffi::OsString::from_vec(path)));
            }
            each(&piece, &mut split).named(what)?;
        }
    }
}

struct Piece {
    length: u64,
    /// `None`: the bytes follow.
    file: Option<PathBuf>,
}

fn copy(from: &mut dyn Read, length: u64, buffer: &mut [u8], out: &mut dyn Write) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).map_or(buffer.len(), |l| l.min(buffer.len()));
        let read = match from.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        out.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}
