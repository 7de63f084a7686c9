//! The numbers of a log's lines: the first line that a container ever wrote is line 1, also after its file was deleted by rotation.
//! A line has the number at which its first piece came; pieces of the other stream may lie between its pieces.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Numbers, Reader, Stream, TIME_LENGTH, files, head, parse_time, read_piece};

/// The file that says with which number each file begins: a line a file, its inode, the last number before it, and the numbers of the
/// lines of standard output and standard error that go on in it (0: none). A file that it does not name goes on from the one before.
const BEGINS: &str = "log.lines";
/// Bytes that are read in one go.
const BUFFER: usize = 256 << 10;

/// Numbers the records of a log as they come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbering {
    last: u64,
    open: [Option<u64>; 2],
}

impl Numbering {
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

/// Calls `each` with every whole record of a file and where it begins, until it returns `false`; whether that came.
fn scan(file: &File, mut each: impl FnMut(&[u8], u64) -> bool) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    file.rewind()?;
    let (mut begin, mut at) = (0, 0);
    let mut record = Vec::new();
    loop {
        let read = read_piece(&mut file, &mut record)?;
        if read == 0 {
            return Ok(false);
        }
        at += read as u64;
        if record.last() == Some(&b'\n') {
            if !each(&record, begin) {
                return Ok(true);
            }
            record.clear();
        }
        if record.is_empty() {
            begin = at;
        }
    }
}

/// Counts on over a file, up to the first record that is not older than `until`; whether there is one.
fn count(file: &File, numbering: &mut Numbering, until: Option<i64>) -> io::Result<bool> {
    scan(file, |record, _| {
        let Some((stream, ends)) = head(record) else { return true };
        let time = || record.get(..TIME_LENGTH).and_then(|time| std::str::from_utf8(time).ok()).and_then(parse_time);
        if until.is_some_and(|until| time().is_some_and(|at| at >= until)) {
            return false;
        }
        numbering.next(stream, ends);
        true
    })
}

/// What is known of where files begin, by their inodes.
fn begins(folder: &Path) -> Vec<(u64, Numbering)> {
    let text = fs::read_to_string(folder.join(BEGINS)).unwrap_or_default();
    let of = |line: &str| {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (inode, last, out, err) = (next()?, next()?, next()?, next()?);
        Some((inode, Numbering { last, open: [out, err].map(|number| (number > 0).then_some(number)) }))
    };
    text.lines().filter_map(of).collect()
}

/// Where a file begins, if that is written down.
pub(super) fn begin_of(folder: &Path, file: &File) -> Option<Numbering> {
    let inode = file.metadata().ok()?.ino();
    begins(folder).into_iter().find(|(known, _)| *known == inode).map(|(_, begin)| begin)
}

/// Where each of these files begins, the oldest first.
fn all_begins(folder: &Path, files: &[&File]) -> io::Result<Vec<Numbering>> {
    let known = begins(folder);
    let mut all: Vec<Numbering> = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let inode = file.metadata()?.ino();
        let begin = match (known.iter().find(|(known, _)| *known == inode), index.checked_sub(1)) {
            (Some((_, begin)), _) => begin.clone(),
            (None, None) => Numbering::default(),
            (None, Some(before)) => {
                let mut begin = all[before].clone();
                count(files[before], &mut begin, None)?;
                begin
            }
        };
        all.push(begin);
    }
    Ok(all)
}

/// Writes down where a new file begins that is to follow the newest one.
pub(super) fn note_begin(folder: &Path, fresh: &File) -> io::Result<()> {
    let mut all = files(folder)?;
    all.reverse();
    let files: Vec<&File> = all.iter().map(|(file, _)| file).collect();
    let mut begins = all_begins(folder, &files)?;
    let mut next = begins.last().cloned().unwrap_or_default();
    if let Some(newest) = files.last() {
        count(newest, &mut next, None)?;
    }
    begins.push(next);
    let mut text = String::new();
    for (file, begin) in files.into_iter().chain([fresh]).zip(begins) {
        let [out, err] = begin.open.map(Option::unwrap_or_default);
        text += &format!("{} {} {out} {err}\n", file.metadata()?.ino(), begin.last);
    }
    let new = folder.join("log.lines.new");
    fs::write(&new, text)?;
    fs::rename(new, folder.join(BEGINS))
}

impl Reader {
    /// Reads lines with their numbers. Two files are read for that at most, but for what is not written down of older ones.
    ///
    /// # Errors
    /// What reading said.
    pub fn numbered(folder: &Path, wanted: &Numbered) -> io::Result<Self> {
        let mut all = files(folder)?;
        all.reverse();
        let files: Vec<&File> = all.iter().map(|(file, _)| file).collect();
        let begins = all_begins(folder, &files)?;
        let mut after = 0;
        if wanted.after.is_some() || wanted.tail.is_some() {
            let last = last(&files, &begins, None)?;
            after = wanted.after.filter(|after| *after <= last).unwrap_or(0);
            if let Some(lines) = wanted.tail {
                let end = if wanted.until.is_some() { self::last(&files, &begins, wanted.until)? } else { last };
                let end = wanted.before.map_or(end, |before| end.min(before.saturating_sub(1)));
                after = after.max(end.saturating_sub(lines as u64));
            }
        }
        let (file, at, numbering) = start(&files, &begins, after)?;
        let mut file = (file < all.len()).then(|| all.swap_remove(file).0).map(BufReader::new);
        if let Some(file) = &mut file {
            file.seek(SeekFrom::Start(at))?;
        }
        let mut reader = Self::at(folder, file);
        reader.open = numbering.open.map(|open| open.is_some());
        reader.numbers = Some(Numbers { numbering, after, before: wanted.before });
        Ok(reader)
    }
}

/// The highest number of the lines that have begun before `until`.
fn last(files: &[&File], begins: &[Numbering], until: Option<i64>) -> io::Result<u64> {
    for (file, begin) in files.iter().zip(begins).rev() {
        let mut numbering = begin.clone();
        let is_later = count(file, &mut numbering, until)?;
        // If its first record is later, the end is in an older file.
        if !is_later || numbering != *begin {
            return Ok(numbering.last);
        }
    }
    Ok(begins.first().map_or(0, |begin| begin.last))
}

/// Where the first line after the one with this number begins: the file, its offset, and the numbers up to there.
fn start(files: &[&File], begins: &[Numbering], after: u64) -> io::Result<(usize, u64, Numbering)> {
    let first = begins.iter().rposition(|begin| begin.last <= after).unwrap_or(0);
    let mut end = (first, 0, begins.get(first).cloned().unwrap_or_default());
    for index in first..files.len() {
        let mut numbering = begins[index].clone();
        let mut at = 0;
        let found = scan(files[index], |record, begin| {
            let before = numbering.clone();
            if head(record).is_some_and(|(stream, ends)| numbering.next(stream, ends) > after) {
                (numbering, at) = (before, begin);
                return false;
            }
            at = begin + record.len() as u64;
            true
        })?;
        end = (index, at, numbering);
        if found {
            break;
        }
    }
    Ok(end)
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
        // What is before a time: the log has reached line 50 all the same.
        let at = |number: u64| {
            let mut reader = Reader::numbered(&folder, &Numbered { after: Some(number - 1), ..Numbered::default() });
            reader.as_mut().expect("open").next().expect("read").expect("a line").at
        };
        if at(41) > at(40) {
            let early = Numbered { after: Some(50), until: Some(at(41)), ..Numbered::default() };
            assert!(read(&folder, early).iter().all(|(number, _)| *number > 50));
            let tail = Numbered { tail: Some(3), until: Some(at(41)), ..Numbered::default() };
            assert_eq!(read(&folder, tail)[..3], lines(38..=40)[..]);
        }
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
