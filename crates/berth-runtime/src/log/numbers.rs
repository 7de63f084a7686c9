//! The numbers of a log's lines: the first line that a container ever wrote is line 1, also after its file was deleted by rotation.
//! A line has the number at which its first piece came; pieces of the other stream may lie between its pieces.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use super::{LONGEST, Reader, Stream, TIME_LENGTH, files, head, parse_time};

/// The file that says how many lines the deleted files held.
const DELETED: &str = "log.deleted";
/// Bytes that are read in one go.
const BUFFER: usize = 256 << 10;

/// Numbers the records of a log as they come.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbering {
    last: u64,
    open: [Option<u64>; 2],
}

impl Numbering {
    fn after(deleted: u64) -> Self {
        Self { last: deleted, open: [None; 2] }
    }

    /// The number of the line that the next record belongs to.
    pub(super) fn next(&mut self, stream: Stream, ends: bool) -> u64 {
        let open = &mut self.open[stream as usize];
        let number = open.unwrap_or(self.last + 1);
        self.last = self.last.max(number);
        *open = (!ends).then_some(number);
        number
    }

    /// Whether a line with a lower number may get another piece.
    pub(super) fn is_open_before(&self, number: u64) -> bool {
        self.open.iter().flatten().any(|open| *open < number)
    }
}

/// Lines by their numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Numbered {
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// The end is before the first record that is not older than this, nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only lines with higher numbers. A number that the log has not reached is of an earlier log: all lines are given.
    pub after: Option<u64>,
    /// Only lines with lower numbers.
    pub before: Option<u64>,
}

/// Calls `each` with every whole record of a file and where it begins, until it returns `false`.
fn scan(file: &File, mut each: impl FnMut(&[u8], u64) -> bool) -> io::Result<()> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    file.rewind()?;
    let mut at = 0;
    let mut record = Vec::new();
    loop {
        record.clear();
        // What is no log must not fill the memory.
        let read = io::Read::take(&mut file, (LONGEST + 64) as u64).read_until(b'\n', &mut record)?;
        if record.last() != Some(&b'\n') || !each(&record, at) {
            return Ok(());
        }
        at += read as u64;
    }
}

/// How many lines the files held that were deleted.
fn deleted(folder: &Path) -> u64 {
    fs::read_to_string(folder.join(DELETED)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Takes note of the lines of a file that is about to be deleted. One that goes on in the next file is counted there.
pub(super) fn note_deleted(folder: &Path, file: &Path) -> io::Result<()> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut numbering = Numbering::after(deleted(folder));
    scan(&file, |record, _| {
        if let Some((stream, ends)) = head(record) {
            numbering.next(stream, ends);
        }
        true
    })?;
    let open = numbering.open.iter().flatten().count() as u64;
    let fresh = folder.join("log.deleted.new");
    fs::write(&fresh, format!("{}\n", numbering.last - open))?;
    fs::rename(fresh, folder.join(DELETED))
}

impl Reader {
    /// Reads lines with their numbers. The whole log before them is read for that, without being kept.
    ///
    /// # Errors
    /// What reading said.
    pub fn numbered(folder: &Path, wanted: &Numbered) -> io::Result<Self> {
        let (first, mut all) = loop {
            let first = deleted(folder);
            let all = files(folder)?;
            // Between the two a file may have been deleted.
            if deleted(folder) == first {
                break (first, all);
            }
        };
        all.reverse();
        let files: Vec<&File> = all.iter().map(|(file, _)| file).collect();
        let mut after = wanted.after;
        if after.is_some() || wanted.tail.is_some() {
            let last = last(&files, Numbering::after(first), wanted)?;
            after = after.filter(|after| *after <= last);
            let end = wanted.before.map_or(last, |before| last.min(before.saturating_sub(1)));
            let from_end = wanted.tail.map(|lines| end.saturating_sub(lines as u64));
            after = after.max(from_end);
        }
        let (file, at, numbering) = start(&files, Numbering::after(first), after.unwrap_or(0))?;
        let mut file = (file < all.len()).then(|| all.swap_remove(file).0).map(BufReader::new);
        if let Some(file) = &mut file {
            file.seek(SeekFrom::Start(at))?;
        }
        let mut reader = Self::at(folder, file);
        reader.numbers = Some((numbering, after.unwrap_or(0), wanted.before));
        Ok(reader)
    }
}

/// The highest number, of those lines that have begun before `until`; not beyond what `before` needs.
fn last(files: &[&File], mut numbering: Numbering, wanted: &Numbered) -> io::Result<u64> {
    for file in files {
        let mut over = false;
        scan(file, |record, _| {
            let Some((stream, ends)) = head(record) else { return true };
            if let Some(until) = wanted.until {
                let time = record.get(..TIME_LENGTH).and_then(|time| std::str::from_utf8(time).ok());
                over = time.and_then(parse_time).is_some_and(|at| at >= until);
                if over {
                    return false;
                }
            }
            numbering.next(stream, ends);
            over = wanted.before.is_some_and(|before| numbering.last >= before) && wanted.after.is_none();
            !over
        })?;
        if over {
            break;
        }
    }
    Ok(numbering.last)
}

/// Where the first line after the one with this number begins: the file, its offset, and the numbers up to there.
fn start(files: &[&File], mut numbering: Numbering, after: u64) -> io::Result<(usize, u64, Numbering)> {
    let mut end = (0, 0);
    for (index, file) in files.iter().enumerate() {
        let mut found = None;
        scan(file, |record, at| {
            let before = numbering.clone();
            if head(record).is_some_and(|(stream, ends)| numbering.next(stream, ends) > after) {
                found = Some(at);
                numbering = before;
                return false;
            }
            end = (index, at + record.len() as u64);
            true
        })?;
        if let Some(at) = found {
            return Ok((index, at, numbering));
        }
    }
    Ok((end.0, end.1, numbering))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::{Reader, Stream, Writer};
    use super::Numbered;
    use crate::bundle::LogLimits;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("berth-numbers-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("folder");
        path
    }

    fn read(folder: &Path, wanted: Numbered) -> Vec<(u64, String)> {
        let mut reader = Reader::numbered(folder, &wanted).expect("open");
        rest(&mut reader)
    }

    fn rest(reader: &mut Reader) -> Vec<(u64, String)> {
        std::iter::from_fn(|| reader.next().expect("read"))
            .map(|r| (r.number.expect("a number"), String::from_utf8(r.text).expect("text")))
            .collect()
    }

    fn lines(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
        numbers.map(|n| (n, n.to_string())).collect()
    }

    #[test]
    fn numbers_stay_when_files_are_deleted() {
        for (max_size, max_files) in [(1 << 20, 2), (500, 2), (90, 1), (300, 4)] {
            let folder = folder("stay");
            let mut writer = Writer::open(&folder, LogLimits { max_size, max_files }).expect("open");
            for n in 1..=100 {
                writer.take(Stream::Stdout, format!("{n}\n").as_bytes());
            }
            let all = read(&folder, Numbered::default());
            let first = all.first().expect("lines").0;
            assert!((first > 1) == (max_size < 1000), "{first}");
            assert_eq!(all, lines(first..=100), "{max_size} {max_files}");
            for tail in [0, 1, 3, 1000] {
                let from = (101 - tail).max(first as i64) as u64;
                let tail = Some(tail as usize);
                assert_eq!(read(&folder, Numbered { tail, ..Numbered::default() }), lines(from..=100));
            }
            fs::remove_dir_all(folder).expect("clean");
        }
    }

    #[test]
    fn lines_are_paged_by_their_numbers() {
        let folder = folder("page");
        let mut writer = Writer::open(&folder, LogLimits { max_size: 1000, max_files: 50 }).expect("open");
        for n in 1..=100 {
            writer.take(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        let of = |tail, after, before| read(&folder, Numbered { tail, after, before, until: None });
        assert_eq!(of(Some(10), None, Some(91)), lines(81..=90));
        assert_eq!(of(Some(10), None, Some(5)), lines(1..=4));
        assert_eq!(of(Some(10), None, Some(1)), []);
        assert_eq!(of(Some(10), None, Some(1000)), lines(91..=100));
        assert_eq!(of(None, Some(98), None), lines(99..=100));
        assert_eq!(of(None, Some(40), Some(43)), lines(41..=42));
        assert_eq!(of(Some(2), Some(40), None), lines(99..=100));
        assert_eq!(of(Some(50), Some(90), None), lines(91..=100));
        assert_eq!(of(None, Some(101), None), lines(1..=100), "of an earlier log");
        let mut reader =
            Reader::numbered(&folder, &Numbered { after: Some(100), ..Numbered::default() }).expect("open");
        assert_eq!(rest(&mut reader), []);
        writer.take(Stream::Stdout, b"101\n102\n");
        assert_eq!(rest(&mut reader), lines(101..=102));
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn pieces_of_a_line_have_its_number() {
        let folder = folder("pieces");
        let mut writer = Writer::open(&folder, LogLimits::default()).expect("open");
        writer.take(Stream::Stdout, b"one\ntw");
        writer.flush(false);
        writer.take(Stream::Stderr, b"three\n");
        writer.take(Stream::Stdout, b"o\nfour\n");
        let expected =
            [(1, "one"), (2, "tw"), (3, "three"), (2, "o"), (4, "four")].map(|(n, text)| (n, text.to_owned()));
        assert_eq!(read(&folder, Numbered::default()), expected);
        let before = Numbered { before: Some(3), ..Numbered::default() };
        assert_eq!(read(&folder, before), [expected[0].clone(), expected[1].clone(), expected[3].clone()]);
        let tail = Numbered { tail: Some(2), ..Numbered::default() };
        assert_eq!(read(&folder, tail), [expected[2].clone(), expected[4].clone()]);
        fs::remove_dir_all(folder).expect("clean");
    }
}
