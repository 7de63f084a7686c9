//! Tables for people, times and sizes as people say them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Without what moves a terminal's cursor or rings its bell: names and commands are other people's.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// `Running` of `running`.
pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

/// Columns that a text takes in a terminal: wide characters of East Asian scripts count twice.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|c| if matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd) { 2 } else { 1 }).sum()
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| harmless(cell).replace('\n', "\\n")).collect()).collect();
    let mut widths: Vec<usize> = head.iter().map(|h| width(h)).collect();
    for row in &rows {
        for (have, cell) in widths.iter_mut().zip(row) {
            *have = (*have).max(width(cell));
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, wanted) in cells.zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(wanted - width(cell) + 3));
        }
        println!("{}", text.trim_end());
    };
    line(&mut head.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// Shows that work goes on which takes longer than a second: on a terminal by a line that counts, elsewhere by a line every ten seconds.
pub(super) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    use std::io::IsTerminal;
    const FIRST: Duration = Duration::from_secs(1);
    const NEXT: Duration = Duration::from_secs(10);
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(FIRST, &mut work).await {
        return done;
    }
    if std::io::stderr().is_terminal() {
        let bar = indicatif::ProgressBar::new_spinner().with_message(what.to_owned()).with_elapsed(FIRST);
        if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        let done = work.await;
        bar.finish_and_clear();
        return done;
    }
    let mut seconds = FIRST.as_secs();
    loop {
        eprintln!("{what} ({seconds} s)");
        match tokio::time::timeout(NEXT, &mut work).await {
            Ok(done) => return done,
            Err(_) => seconds += NEXT.as_secs(),
        }
    }
}

/// Asks before something is lost for good; without a terminal to ask at, only `force` will do.
pub(super) fn confirm(what: &str, force: bool) -> Result<(), String> {
    use std::io::{BufRead, IsTerminal, Write};
    if force {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(format!("{what} If that is meant: --force"));
    }
    eprint!("{what} Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| format!("read standard input: {e}"))?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err("nothing was removed".into()) }
}

/// `1.5MiB`.
pub(super) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{n}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}TiB")
}

/// `10Mbit/s`.
pub(super) fn bits(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["bit/s", "kbit/s", "Mbit/s"] {
        if value < 1000.0 {
            return format!("{value}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value}Gbit/s")
}

/// `3 minutes`, of nanoseconds since 1970 until now.
pub(super) fn age(at: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let seconds = berth_runtime::log::parse_time(at).map_or(0, |ns| (now - ns / 1_000_000_000).max(0));
    let (count, unit) = match seconds {
        0 => return "less than a second".into(),
        s @ 1..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..86_400 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Pretty JSON to stdout.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|e| e.to_string())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{bytes, harmless};

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(harmless("a\u{1b}[31m\u{7}\r 容器"), "a\\u{1b}[31m\\u{7}\\r 容器");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 1024, 1_572_864, 5 << 40].map(bytes), ["0B", "1023B", "1.0KiB", "1.5MiB", "5.0TiB"]);
    }
}
