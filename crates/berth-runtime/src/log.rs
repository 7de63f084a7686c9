//! A container's output on disk: one line a record, in the format of the Kubernetes container runtime interface
//!
//! ```text
//! 2026-11-21T02:00:45.123456789Z stdout F hello
//! 2026-11-21T02:00:45.200000000Z stdout P a beginning without its end,
//! ```
//!
//! `F` ends a line, `P` does not: what a program wrote without a line break is kept as it came, and is seen at once. A
//! record holds at most 16 KiB and is never cut within a UTF-8 character. The current file is `log`, older ones are
//! `log.1`, `log.2`, … upwards.

use std::fs;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

mod numbers;
mod writer;

pub use numbers::Numbered;
use numbers::Numbering;
pub(crate) use writer::Writer;

/// Longest text of one record, bytes.
const LONGEST: usize = 16 * 1024;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Where it came from.
    pub stream: Stream,
    /// Whether the line ends here.
    pub ends: bool,
    /// The text, without its line break; any bytes.
    pub text: Vec<u8>,
    /// The number of its line, if numbers were asked for.
    pub number: Option<u64>,
}

/// Now, in nanoseconds since 1970.
pub fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// `2026-11-21T02:00:45.123456789Z` of nanoseconds since 1970; always 30 bytes for years 1 to 9999.
pub fn format_time(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a civil date in the Gregorian calendar: eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC or with an offset; `None` if it is none.
pub fn parse_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let separators = [(4, "-"), (7, "-"), (13, ":"), (16, ":")];
    if !separators.iter().all(|(at, s)| text.get(*at..*at + 1) == Some(*s))
        || !matches!(text.get(10..11)?, "T" | "t" | " ")
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            let nanos = format!("{:0<9}", &rest[..digits.min(9)]).parse::<i64>().ok()?;
            (nanos, &rest[digits..])
        }
    };
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let digit = |b: &u8| i64::from(b - b'0');
            let minutes = (digit(h1) * 10 + digit(h2)) * 60 + digit(m1) * 10 + digit(m2);
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    (days * 86_400 + hour * 3600 + minute * 60 + second - offset * 60).checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// The file of a log, `age` 0 the current one.
pub fn file_of(folder: &Path, age: u32) -> PathBuf {
    folder.join(if age == 0 { "log".to_owned() } else { format!("log.{age}") })
}

/// Stream and end of a record, without its line break; `None` for one that was torn by a full disk.
fn head(record: &[u8]) -> Option<(Stream, bool)> {
    let stream = match record.get(TIME_LENGTH + 1..FLAG_AT)? {
        b"stdout " => Stream::Stdout,
        b"stderr " => Stream::Stderr,
        _ => return None,
    };
    match record.get(FLAG_AT..TEXT_AT)? {
        b"F " => Some((stream, true)),
        b"P " => Some((stream, false)),
        _ => None,
    }
}

fn parse(record: &[u8]) -> Option<Record> {
    let (stream, ends) = head(record)?;
    let time = std::str::from_utf8(record.get(..TIME_LENGTH)?).ok()?;
    Some(Record { at: parse_time(time)?, stream, ends, text: record.get(TEXT_AT..)?.to_vec(), number: None })
}

/// Reads a log from its oldest file on, and goes on where it stopped: [`next`](Self::next) gives `None` when there is
/// nothing more now, and something again once more was written. Rotation while reading loses and repeats nothing, as long
/// as the reader is not slower than the writer goes through all its files.
pub struct Reader {
    folder: PathBuf,
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
    numbers: Option<Numbers>,
    filter: Option<LineFilter>,
    /// Whether the streams' last records have not ended their lines.
    open: [bool; 2],
}

/// Whether a whole line, without its line break, is wanted.
pub type LineFilter = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Lines that are left out in one step.
const MOST_LEFT_OUT: usize = 50_000;

/// What came of a step.
#[derive(Debug)]
pub enum Step {
    /// The next record.
    Record(Record),
    /// Only lines that are left out, so far.
    LeftOut,
    /// There is nothing more now.
    End,
}

/// Which lines are given, and the numbers so far.
struct Numbers {
    numbering: Numbering,
    /// Only lines with higher numbers.
    after: u64,
    /// Only lines with lower numbers.
    before: Option<u64>,
}

/// Reads on to the end of a record, or a part of it; bytes read. What is no log must not fill the memory.
fn read_piece(file: &mut impl BufRead, piece: &mut Vec<u8>) -> io::Result<usize> {
    let read = file.take((LONGEST + 64) as u64).read_until(b'\n', piece)?;
    if piece.len() > LONGEST + 64 && piece.last() != Some(&b'\n') {
        piece.clear();
    }
    Ok(read)
}

fn buffered(file: File) -> BufReader<File> {
    BufReader::with_capacity(32 << 10, file)
}

impl Reader {
    fn at(folder: &Path, file: Option<BufReader<File>>) -> Self {
        Self { folder: folder.to_owned(), file, partial: Vec::new(), numbers: None, filter: None, open: [false; 2] }
    }

    /// Starts at the oldest record.
    pub fn open(folder: &Path) -> Self {
        // Between two renames of a rotation there is a hole: it ends the log only if the next number is missing, too.
        let exists = |age: u32| file_of(folder, age).exists();
        let oldest = (0..).take_while(|age| exists(*age) || exists(*age + 1)).last().unwrap_or(0);
        Self::at(folder, File::open(file_of(folder, oldest)).ok().map(BufReader::new))
    }

    /// Starts at the first record not older than `since` (nanoseconds since 1970). Files that end before are not read.
    pub fn since(folder: &Path, since: i64) -> Self {
        let mut reader = Self::open(folder);
        let newer = |age: u32| {
            let modified = fs::metadata(file_of(folder, age)).ok()?;
            // File times are of the kernel's coarse clock, some milliseconds behind.
            Some((modified.mtime() + 1) * 1_000_000_000 + modified.mtime_nsec() >= since)
        };
        if let Some(oldest) = (0..).map_while(|age| newer(age).map(|n| (age, n))).filter(|(_, n)| *n).last() {
            reader.file = File::open(file_of(folder, oldest.0)).ok().map(BufReader::new);
        } else {
            reader.file = File::open(file_of(folder, 0)).ok().map(BufReader::new);
            if let Some(file) = &mut reader.file {
                let _ = file.seek(SeekFrom::End(0));
            }
        }
        reader
    }

    /// Starts at the last `lines` lines (fewer if there are not so many) of those older than `until`, nanoseconds since 1970;
    /// whatever follows comes after them. The place is looked for from the end on, a block at a time.
    ///
    /// # Errors
    /// What reading said.
    pub fn tail(folder: &Path, lines: usize, until: Option<i64>) -> io::Result<Self> {
        Self::tail_by(folder, lines, until, BLOCK)
    }

    fn tail_by(folder: &Path, lines: usize, until: Option<i64>, block: u64) -> io::Result<Self> {
        let files = files(folder)?;
        let all: u64 = files.iter().map(|(_, length)| length).sum();
        if lines as u64 >= all / SHORTEST_RECORD {
            return Ok(Self::open(folder));
        }
        let mut scan = TailScan { block, lines: lines as u64, until, wanted: None, seen: 0 };
        let mut oldest = None;
        for (file, length) in files {
            let found = scan.file(&file, length)?;
            let mut reader = BufReader::new(file);
            reader.seek(SeekFrom::Start(found.unwrap_or(0)))?;
            oldest = Some(reader);
            if found.is_some() {
                break;
            }
        }
        Ok(Self::at(folder, oldest))
    }

    /// Has whole lines left out for which this is false; a line of several pieces is always given.
    #[must_use]
    pub fn only(mut self, filter: LineFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// The next record that is complete on disk.
    ///
    /// # Errors
    /// What reading said.
    #[allow(clippy::should_implement_trait, reason = "an iterator would be fused; this one goes on")]
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            match self.step()? {
                Step::Record(record) => return Ok(Some(record)),
                Step::LeftOut => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// As [`next`](Self::next), for not too long: fifty thousand lines are left out at most.
    ///
    /// # Errors
    /// What reading said.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut left_out = 0;
        loop {
            let Some(file) = &mut self.file else {
                match File::open(file_of(&self.folder, 0)) {
                    Ok(file) => self.file = Some(buffered(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::End),
                    Err(error) => return Err(error),
                }
                continue;
            };
            if read_piece(file, &mut self.partial)? > 0 {
                if self.partial.last() != Some(&b'\n') {
                    continue;
                }
                let taken = self.take();
                self.partial.clear();
                match taken {
                    Step::LeftOut if left_out < MOST_LEFT_OUT => left_out += 1,
                    step => return Ok(step),
                }
                continue;
            }
            // At the end of this file. It is the current one, or it was rotated away and a newer one goes on.
            let Some(newer) = self.newer_file()? else { return Ok(Step::End) };
            let mut rest = [0];
            // Written between the last read and the rotation.
            if self.file.as_mut().is_some_and(|f| f.read(&mut rest).is_ok_and(|n| n == 1)) {
                self.partial.push(rest[0]);
                continue;
            }
            self.partial.clear();
            // Files between the two may be gone already.
            if let Some(numbers) = &mut self.numbers
                && let Some(begin) = numbers::begin_of(&self.folder, &newer)
            {
                numbers.numbering = begin;
            }
            self.file = Some(buffered(newer));
        }
    }

    /// What is to be done with the record that was read.
    fn take(&mut self) -> Step {
        let line = &self.partial[..self.partial.len() - 1];
        let Some((stream, ends)) = head(line) else { return Step::LeftOut };
        let is_whole = ends && !self.open[stream as usize];
        self.open[stream as usize] = !ends;
        let mut number = None;
        if let Some(Numbers { numbering, after, before }) = &mut self.numbers {
            let its = numbering.next(stream, ends);
            match before {
                Some(before) if its >= *before && !numbering.is_open_before(*before) => return Step::End,
                Some(before) if its >= *before => return Step::LeftOut,
                _ if its <= *after => return Step::LeftOut,
                _ => number = Some(its),
            }
        }
        if is_whole && self.filter.as_ref().is_some_and(|wants| !wants(&line[TEXT_AT..])) {
            return Step::LeftOut;
        }
        parse(line).map_or(Step::LeftOut, |record| Step::Record(Record { number, ..record }))
    }

    fn newer_file(&self) -> io::Result<Option<File>> {
        let Some(file) = &self.file else { return Ok(None) };
        let own = file.get_ref().metadata()?;
        let same = |m: &fs::Metadata| m.ino() == own.ino() && m.dev() == own.dev();
        let mut newer = None;
        let mut hole = false;
        for age in 0.. {
            match File::open(file_of(&self.folder, age)) {
                Ok(candidate) if same(&candidate.metadata()?) => return Ok(newer),
                Ok(candidate) => newer = Some(candidate),
                // In the middle of a rotation one number is missing for a moment, and files move up: asked again later.
                Err(_) if !hole => hole = true,
                // Its own file is gone: the oldest there is goes on.
                Err(_) => return Ok(newer),
            }
        }
        Ok(newer)
    }
}

/// The files of a log, the newest first, each with its length in bytes.
fn files(folder: &Path) -> io::Result<Vec<(File, u64)>> {
    let (mut files, mut known) = (Vec::new(), Vec::new());
    let mut holes = 0;
    for age in 0.. {
        match File::open(file_of(folder, age)) {
            Ok(file) => {
                let meta = file.metadata()?;
                // Files move up while they are opened: one may come twice.
                let identity = (meta.dev(), meta.ino());
                if !known.contains(&identity) {
                    known.push(identity);
                    files.push((file, meta.len()));
                }
            }
            Err(_) if holes == 0 => holes += 1,
            Err(_) => break,
        }
    }
    Ok(files)
}

/// The shortest record on disk: time, stream, flag, no text, the end of the line; bytes.
const SHORTEST_RECORD: u64 = 41;
/// Bytes of a record's time, at its beginning.
const TIME_LENGTH: usize = 30;
/// Where a record has the flag that tells whether its line ends with it.
const FLAG_AT: usize = 38;
/// Where its text begins.
const TEXT_AT: usize = 40;
/// Bytes of a log that are looked at in one go from its end on.
const BLOCK: u64 = 256 << 10;

/// Looks for the place where the last lines begin, from the newest record to older ones.
struct TailScan {
    block: u64,
    lines: u64,
    /// Records at or after this time are passed over, until the first older one.
    until: Option<i64>,
    /// Ends of lines that are still among the wanted ones; known from the newest record on.
    wanted: Option<u64>,
    seen: u64,
}

impl TailScan {
    /// Takes note of the next older record; `true` if the wanted lines begin right after it.
    fn ends_at(&mut self, record: &[u8]) -> bool {
        let ends = match record.get(FLAG_AT) {
            Some(b'F') => true,
            Some(b'P') => false,
            // Torn by a full disk: no reader gives it.
            _ => return false,
        };
        if let Some(until) = self.until {
            let time = record.get(..TIME_LENGTH).and_then(|time| std::str::from_utf8(time).ok()).and_then(parse_time);
            if time.is_none_or(|at| at >= until) {
                return false;
            }
            self.until = None;
        }
        // A line that has only begun is a line, too.
        let lines = self.lines;
        let wanted = self.wanted.get_or_insert(if ends { lines } else { lines.saturating_sub(1) });
        self.seen += 1;
        // A program that never ends a line must not be read from its beginning.
        if lines == 0 || self.seen > lines.saturating_add(1).saturating_mul(64) {
            return true;
        }
        if ends && *wanted == 0 {
            return true;
        }
        *wanted -= u64::from(ends);
        false
    }

    /// Where in this file, `length` bytes long, the wanted lines begin; `None` if they begin before it.
    fn file(&mut self, file: &File, length: u64) -> io::Result<Option<u64>> {
        let mut end = length;
        // From `end` on: what belongs to the record that begins before it. What follows the last end of a line is not whole.
        let mut rest: Option<Vec<u8>> = None;
        while end > 0 {
            let begin = end.saturating_sub(self.block);
            let mut block = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut block, begin)?;
            let mut until = match (rest.take(), block.iter().rposition(|byte| *byte == b'\n')) {
                (Some(rest), _) => {
                    block.extend(rest);
                    block.len()
                }
                (None, Some(last)) => last + 1,
                // Nothing whole so far.
                (None, None) => {
                    end = begin;
                    continue;
                }
            };
            loop {
                let before = block[..until - 1].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
                let from = match before {
                    Some(from) => from,
                    None if begin == 0 => 0,
                    None => break,
                };
                if self.ends_at(&block[from..until]) {
                    return Ok(Some(begin + until as u64));
                }
                until = from;
                if from == 0 {
                    break;
                }
            }
            block.truncate(until);
            rest = Some(block);
            end = begin;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::writer::whole_characters;
    use super::{LONGEST, Reader, Stream, Writer, format_time, parse_time};
    use crate::bundle::LogLimits;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("berth-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("folder");
        path
    }

    fn all(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next().expect("read"))
            .map(|r| {
                format!("{}{}{}", r.stream.name(), if r.ends { " " } else { "+" }, String::from_utf8_lossy(&r.text))
            })
            .collect()
    }

    #[test]
    fn times_are_written_and_read_back() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_709_210_096_000_000_001, "2024-02-29T12:34:56.000000001Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(format_time(ns), text);
            assert_eq!(parse_time(text), Some(ns));
        }
        assert_eq!(parse_time("2024-02-29T12:34:56+08:00"), parse_time("2024-02-29T04:34:56Z"));
        for wrong in [
            "",
            "2024",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "２０24-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lines_are_kept_whole_and_beginnings_are_shown() {
        let folder = folder("lines");
        let mut writer = Writer::open(&folder, LogLimits::default()).expect("open");
        let mut reader = Reader::open(&folder);
        writer.take(Stream::Stdout, b"one\ntw");
        writer.take(Stream::Stderr, b"err\n");
        writer.take(Stream::Stdout, b"o\n\xe4\xbd");
        assert_eq!(all(&mut reader), ["stdout one", "stderr err", "stdout two"]);
        writer.take(Stream::Stdout, b"\xa0?\xe4");
        writer.flush(false);
        assert_eq!(all(&mut reader), ["stdout+你?"], "the cut character waits");
        writer.take(Stream::Stdout, b"\xbd\xa0\n");
        assert_eq!(all(&mut reader), ["stdout 你"]);
        writer.take(Stream::Stdout, "好".repeat(LONGEST).as_bytes());
        writer.flush(true);
        let pieces = all(&mut reader);
        assert!(pieces.len() > 2 && pieces.iter().all(|p| !p.contains('\u{fffd}')));
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn a_follower_survives_rotation() {
        let folder = folder("rotate");
        let mut writer = Writer::open(&folder, LogLimits { max_size: 200, max_files: 50 }).expect("open");
        let mut reader = Reader::open(&folder);
        let mut seen = Vec::new();
        for n in 0..100 {
            writer.take(Stream::Stdout, format!("{n}\n").as_bytes());
            if n % 7 == 0 {
                seen.extend(all(&mut reader));
            }
        }
        seen.extend(all(&mut reader));
        assert_eq!(seen, (0..100).map(|n| format!("stdout {n}")).collect::<Vec<_>>());
        assert!(folder.join("log.3").exists());
        let mut after = Reader::tail(&folder, 3, None).expect("tail");
        assert_eq!(all(&mut after), ["stdout 97", "stdout 98", "stdout 99"]);
        writer.take(Stream::Stdout, b"more\n");
        assert_eq!(all(&mut after), ["stdout more"]);
        let mut after = Reader::tail(&folder, 0, None).expect("tail");
        assert!(all(&mut after).is_empty());
        writer.take(Stream::Stdout, b"and more\n");
        assert_eq!(all(&mut after), ["stdout and more"]);
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let folder = folder("tail");
        for (round, max_size) in [60, 200, 5000, 1 << 20].into_iter().enumerate() {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("folder");
            let mut writer = Writer::open(&folder, LogLimits { max_size, max_files: 500 }).expect("open");
            let mut state = 7 + round as u32;
            for n in 0..60 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let stream = if state >> 31 == 0 { Stream::Stdout } else { Stream::Stderr };
                let text = "x".repeat((state >> 20) as usize % 90);
                writer.take(stream, format!("{n}{text}").as_bytes());
                if state >> 29 & 1 == 0 {
                    writer.flush(true);
                }
                if state >> 28 & 3 != 0 {
                    writer.take(stream, b"\n");
                }
            }
            writer.flush(true);
            // Cut by a power failure.
            let log = folder.join("log");
            fs::write(&log, [&fs::read(&log).expect("read")[..], b"2026-01-01T00:0"].concat()).expect("write");
            let whole: Vec<_> = std::iter::from_fn({
                let mut reader = Reader::open(&folder);
                move || reader.next().expect("read")
            })
            .collect();
            let ends = whole.iter().filter(|r| r.ends).count();
            for lines in 0..ends + 3 {
                // The record after the end of the last line that is not wanted.
                let begun = usize::from(whole.last().is_some_and(|r| !r.ends));
                let mut skip = (ends + begun).saturating_sub(lines).min(ends);
                let from = whole.iter().position(|r| {
                    let first = skip == 0;
                    skip -= usize::from(r.ends && skip > 0);
                    first
                });
                let from = if lines == 0 { whole.len() } else { from.unwrap_or(whole.len()) };
                for block in [1, 7, 64, 1000, super::BLOCK] {
                    let mut reader = Reader::tail_by(&folder, lines, None, block).expect("tail");
                    let got: Vec<_> = std::iter::from_fn(|| reader.next().expect("read")).collect();
                    assert_eq!(got, whole[from..], "{lines} lines, files of {max_size}, blocks of {block}");
                }
            }
        }
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn the_last_lines_before_a_time_are_found() {
        let folder = folder("until");
        let mut writer = Writer::open(&folder, LogLimits { max_size: 700, max_files: 500 }).expect("open");
        for n in 0..100 {
            writer.take(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        let mut reader = Reader::open(&folder);
        let whole: Vec<_> = std::iter::from_fn(|| reader.next().expect("read")).collect();
        for until in whole.iter().map(|record| record.at).chain([i64::MIN, i64::MAX]) {
            let older: Vec<_> = whole.iter().filter(|record| record.at < until).cloned().collect();
            for lines in [1, 3, 50, 200] {
                let mut reader = Reader::tail_by(&folder, lines, Some(until), 64).expect("tail");
                let got = std::iter::from_fn(|| reader.next().expect("read")).take_while(|record| record.at < until);
                assert_eq!(
                    got.collect::<Vec<_>>(),
                    older[older.len().saturating_sub(lines)..],
                    "{lines} before {until}"
                );
            }
        }
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn old_files_go() {
        let folder = folder("old");
        let mut writer = Writer::open(&folder, LogLimits { max_size: 100, max_files: 3 }).expect("open");
        for n in 0..100 {
            writer.take(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        let logs = fs::read_dir(&folder)
            .expect("list")
            .filter(|file| file.as_ref().is_ok_and(|file| file.file_name() != "log.lines"));
        assert_eq!(logs.count(), 3);
        fs::remove_dir_all(folder).expect("clean");
    }

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(whole_characters("a你".as_bytes()), 4);
        assert_eq!(whole_characters(&"a你".as_bytes()[..3]), 1);
        assert_eq!(whole_characters(&"😀".as_bytes()[..3]), 0);
        assert_eq!(whole_characters(b"\xff\xff"), 2);
    }
}
