//! Writing a log: whole lines, and files that replace each other.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{LONGEST, Stream, file_of, format_time, now_ns, numbers};
use crate::bundle::LogLimits;

/// Writes a log; one for each container, in its shim.
pub(crate) struct Writer {
    folder: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    pending: [Vec<u8>; 2],
}

impl Writer {
    pub(crate) fn open(folder: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(file_of(folder, 0))?;
        let size = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), limits, file, size, pending: Default::default() })
    }

    /// Takes what a program wrote: whole lines go out, a rest waits for its end or for [`flush`](Self::flush).
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let mut records = Vec::with_capacity(bytes.len() + 64);
        let time = format_time(now_ns());
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            pending.extend_from_slice(text);
            while pending.len() > LONGEST {
                let rest = pending.split_off(whole_characters(&pending[..LONGEST]));
                record(&mut records, &time, stream, false, &pending);
                pending = rest;
            }
            if ends {
                record(&mut records, &time, stream, true, &pending);
                pending.clear();
            }
        }
        self.pending[stream as usize] = pending;
        self.write(&records);
    }

    /// Whether a line waits for its end.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.iter().any(|p| !p.is_empty())
    }

    /// Writes the beginnings of lines that have waited; at the `end`, bytes of a cut character too.
    pub(crate) fn flush(&mut self, end: bool) {
        let time = format_time(now_ns());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut pending = std::mem::take(&mut self.pending[stream as usize]);
            let length = if end { pending.len() } else { whole_characters(&pending) };
            let rest = pending.split_off(length);
            if !pending.is_empty() {
                let mut records = Vec::new();
                record(&mut records, &time, stream, false, &pending);
                self.write(&records);
            }
            self.pending[stream as usize] = rest;
        }
    }

    /// A full disk loses lines, never the container: errors end here.
    fn write(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.size > 0 && self.size + records.len() as u64 > self.limits.max_size {
            self.rotate();
        }
        if self.file.write_all(records).is_ok() {
            self.size += records.len() as u64;
        }
    }

    /// A full disk loses older lines, never the container: errors end here.
    fn rotate(&mut self) {
        // Made under another name first, so that it is known where its numbers begin before anybody sees it.
        let fresh = self.folder.join("log.new");
        let _ = fs::remove_file(&fresh);
        let Ok(file) = File::options().append(true).create_new(true).open(&fresh) else { return };
        let _ = numbers::note_begin(&self.folder, &file);
        let last = self.limits.max_files.max(1) - 1;
        if last == 0 {
            // A follower must see a new file, so the old one is replaced rather than cut.
            let _ = fs::remove_file(file_of(&self.folder, 0));
        }
        for age in (0..last).rev() {
            let _ = fs::rename(file_of(&self.folder, age), file_of(&self.folder, age + 1));
        }
        if fs::rename(&fresh, file_of(&self.folder, 0)).is_ok() {
            self.file = file;
            self.size = 0;
        }
    }
}

fn record(out: &mut Vec<u8>, time: &str, stream: Stream, ends: bool, text: &[u8]) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(if ends { b" F " } else { b" P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// How many bytes can be taken without cutting a UTF-8 character at the end.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needed = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if needed > back { at } else { bytes.len() };
    }
    bytes.len()
}
