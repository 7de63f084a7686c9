//! Watching containers: their end, what they use, what they say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use berth_engine::{Exit, LineFilter, LogLine, LogOptions, LogReader, LogStream, State, Stats, Traffic, UnitId};
use regex::bytes::Regex;

use super::{ContainerState, Usage};
use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::Caller;

impl Core {
    /// Returns when it is not running, with how it ended; at once if it does not run.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container, or it was removed meanwhile.
    pub async fn container_wait(&self, caller: &Caller, reference: &str) -> Result<Option<Exit>, Error> {
        let found = self.container(caller, reference).await?;
        let _followed = self.follow(found.id);
        let mut changes = self.inner.engine.changes();
        loop {
            let observed = self.inner.engine.observe(&found.uid).await?;
            match observed.state {
                State::Running { .. } => {}
                State::Exited(exit) => return Ok(Some(exit)),
                State::Created => return Ok(None),
                State::Absent => return Err(Error::NotFound { what: "container", name: reference.to_owned() }),
            }
            // A nudge, or a while: nudges may be missed when there are many.
            let _ = tokio::time::timeout(Duration::from_secs(5), async {
                while changes.recv().await.is_ok_and(|id| id != found.uid) {}
            })
            .await;
        }
    }

    /// What came in and went out over the network in its whole life, whether it runs or not.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the engine's own.
    pub async fn container_traffic(&self, caller: &Caller, reference: &str) -> Result<Traffic, Error> {
        let found = self.container(caller, reference).await?;
        self.traffic_of(found.id, &found.uid).await
    }

    /// What these containers use, as far as they run; all of the account's if none is named. Takes two readings, `between`
    /// apart, for the CPU.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that is named and is not there.
    pub async fn container_usage(
        &self,
        caller: &Caller,
        references: &[String],
        between: Duration,
    ) -> Result<Vec<Usage>, Error> {
        let mut all = Vec::new();
        if references.is_empty() {
            all = self.containers(caller, Some(ContainerState::Running), 0, 100_000).await?.items;
        } else {
            for reference in references {
                all.push(self.container(caller, reference).await?);
            }
        }
        let ids: Vec<UnitId> = all.iter().map(|c| c.uid.clone()).collect();
        let before: BTreeMap<UnitId, Stats> = self.inner.engine.stats(&ids).await?.into_iter().collect();
        tokio::time::sleep(between).await;
        let after = self.inner.engine.stats(&ids).await?;
        let machine = crate::host::cpus() as f64 * 1000.0;
        let known: BTreeMap<&UnitId, &super::Container> = all.iter().map(|c| (&c.uid, c)).collect();
        let usage = after.into_iter().filter_map(|(uid, stats)| {
            let container = known.get(&uid)?;
            let earlier = before.get(&uid)?;
            let elapsed = (stats.at - earlier.at).max(1) as f64;
            let cpus = stats.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / elapsed;
            let allowed = container.spec.cpu_milli.map_or(machine, |m| (m as f64).min(machine)) / 1000.0;
            Some(Usage {
                uid,
                name: container.name.clone(),
                stats,
                cpu_percent: cpus * 100.0,
                cpu_percent_of_limit: (cpus / allowed * 100.0).min(100.0),
                memory_percent: stats.memory as f64 / stats.memory_limit.max(1) as f64 * 100.0,
            })
        });
        Ok(usage.collect())
    }

    /// How many lines of the container's output there are in which this regular expression is found.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for the expression, or the engine's own.
    pub async fn container_log_count(
        &self,
        caller: &Caller,
        reference: &str,
        options: &LogOptions,
        grep: &str,
    ) -> Result<usize, Error> {
        let found = self.container(caller, reference).await?;
        let grep = expression(grep)?;
        let options = LogOptions { only: Some(only(&grep)), ..options.clone() };
        match self.inner.engine.logs(&found.uid, &options).await {
            Err(berth_engine::EngineError::NoSuchUnit(_)) => Ok(0),
            reader => count(reader?, &grep).await,
        }
    }

    /// The container's output; followed it goes on until the container has ended, over restarts by its policy too.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for the expression, or the engine's own.
    pub async fn container_logs(
        &self,
        caller: &Caller,
        reference: &str,
        query: &LogQuery,
    ) -> Result<LogFollower, Error> {
        let found = self.container(caller, reference).await?;
        let grep = query.grep.as_deref().map(expression).transpose()?;
        let mut options = query.options.clone();
        options.only = grep.as_ref().map(only);
        // The last lines that match are among all lines.
        let last = grep.as_ref().and_then(|_| options.tail.take());
        // Two readings, so that lines need not be kept: the first finds where the last ones that match begin.
        let mut skip = query.skip;
        if let (Some(last), Some(grep)) = (last, &grep) {
            let numbered = LogOptions { numbered: true, ..options.clone() };
            match self.inner.engine.logs(&found.uid, &numbered).await {
                Err(berth_engine::EngineError::NoSuchUnit(_)) => {}
                reader if last > MOST_NUMBERS => skip = count(reader?, grep).await?.saturating_sub(last),
                reader => options.after = before_last(reader?, grep, last).await?.or(options.after),
            }
        }
        let reader = match self.inner.engine.logs(&found.uid, &options).await {
            Err(berth_engine::EngineError::NoSuchUnit(_)) => None,
            other => Some(other?),
        };
        let left = last.filter(|_| !query.follow).or(query.head);
        Ok(LogFollower {
            skip,
            left,
            core: self.clone(),
            id: found.id,
            uid: found.uid,
            reader,
            follow: query.follow,
            numbered: query.options.are_numbered(),
            _followed: query.follow.then(|| self.follow(found.id)),
            ended: false,
            grep,
            lines: Lines::default(),
            ahead: VecDeque::new(),
        })
    }
}

/// Which part of a container's output, and how.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Which part.
    pub options: LogOptions,
    /// Only lines in which this regular expression is found.
    pub grep: Option<String>,
    /// Go on until the container has ended.
    pub follow: bool,
    /// At most so many lines from the beginning of that part; whole lines are counted, not pieces.
    pub head: Option<usize>,
    /// So many lines of that part are left out at its beginning.
    pub skip: usize,
}

/// An engine need not give what does not match.
fn only(grep: &Regex) -> LineFilter {
    let grep = grep.clone();
    LineFilter(std::sync::Arc::new(move |line| grep.is_match(line)))
}

fn expression(text: &str) -> Result<Regex, Error> {
    // A large expression costs memory and time; these bounds fit what people search logs for.
    let built = regex::bytes::RegexBuilder::new(text).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
    built.map_err(|e| Error::invalid(Field::Grep, e.to_string()))
}

/// Longest line that is held together to be searched, bytes.
const LONGEST_LINE: usize = 1 << 20;

/// Pieces of lines that have not ended yet, by stream.
#[derive(Default)]
struct Lines([(Vec<LogLine>, usize); 2]);

/// Pieces of one line that are held together.
const MOST_PIECES: usize = 4096;

impl Lines {
    /// The whole line, once it has ended.
    fn take(&mut self, piece: LogLine) -> Option<Vec<LogLine>> {
        let waiting = &mut self.0[usize::from(piece.stream == LogStream::Stderr)];
        let ends = piece.ends;
        waiting.1 += piece.text.len();
        waiting.0.push(piece);
        let long = waiting.1 > LONGEST_LINE || waiting.0.len() >= MOST_PIECES;
        (ends || long).then(|| std::mem::take(waiting).0)
    }

    fn rest(&mut self) -> impl Iterator<Item = Vec<LogLine>> {
        self.0.iter_mut().map(|line| std::mem::take(line).0).filter(|line| !line.is_empty())
    }
}

fn matches(grep: &Regex, line: &[LogLine]) -> bool {
    match line {
        [one] => grep.is_match(&one.text),
        several => grep.is_match(&several.iter().flat_map(|p| p.text.iter().copied()).collect::<Vec<u8>>()),
    }
}

/// Numbers of lines that are held to find where the last ones that match begin; more are counted and passed over.
const MOST_NUMBERS: usize = 10_000;

/// The number before the first of the `last` lines that match; `None` if there are not more lines that do.
async fn before_last(mut reader: Box<dyn LogReader>, grep: &Regex, last: usize) -> Result<Option<u64>, Error> {
    let mut lines = Lines::default();
    // Lines of two streams end in another order than they begin.
    let mut found = BTreeSet::new();
    let mut is_cut = false;
    let mut note = |line: &[LogLine]| {
        if !matches(grep, line) {
            return;
        }
        found.insert(line.first().and_then(|piece| piece.number).unwrap_or_default());
        if found.len() > last {
            found.pop_first();
            is_cut = true;
        }
    };
    let mut newest = 0;
    while let Some(piece) = reader.next().await? {
        newest = newest.max(piece.number.unwrap_or_default());
        if let Some(line) = lines.take(piece) {
            note(&line);
        }
    }
    lines.rest().for_each(|line| note(&line));
    Ok(is_cut.then(|| found.first().map_or(newest, |first| first.saturating_sub(1))))
}

/// How many whole lines match.
async fn count(mut reader: Box<dyn LogReader>, grep: &Regex) -> Result<usize, Error> {
    let mut lines = Lines::default();
    let mut count = 0;
    while let Some(piece) = reader.next().await? {
        count += usize::from(lines.take(piece).is_some_and(|line| matches(grep, &line)));
    }
    // A last line that has not ended is one, too.
    Ok(count + lines.rest().filter(|line| matches(grep, line)).count())
}

/// Pieces of a container's output, as they come.
pub struct LogFollower {
    core: Core,
    id: i64,
    uid: UnitId,
    reader: Option<Box<dyn LogReader>>,
    follow: bool,
    /// Whether whoever asked wants numbers: a search needs them in any case.
    numbered: bool,
    _followed: Option<super::state::Followed>,
    ended: bool,
    grep: Option<Regex>,
    lines: Lines,
    /// Lines that match and are left out first; and how many are given after that, if that is known.
    skip: usize,
    left: Option<usize>,
    ahead: VecDeque<LogLine>,
}

impl std::fmt::Debug for LogFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFollower").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl LogFollower {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        let numbered = self.numbered;
        let piece = self.next_piece().await?;
        Ok(piece.map(|piece| LogLine { number: piece.number.filter(|_| numbered), ..piece }))
    }

    async fn next_piece(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            if let Some(piece) = self.ahead.pop_front() {
                return Ok(Some(piece));
            }
            // All lines that were asked for are given.
            if self.left == Some(0) {
                self.lines = Lines::default();
                self.reader = None;
            }
            let Some(reader) = &mut self.reader else { return Ok(None) };
            if let Some(piece) = reader.next().await? {
                let Some(grep) = &self.grep else {
                    if self.skip > 0 {
                        self.skip -= usize::from(piece.ends);
                        continue;
                    }
                    self.left = self.left.map(|left| left - usize::from(piece.ends));
                    return Ok(Some(piece));
                };
                let Some(line) = self.lines.take(piece).filter(|line| matches(grep, line)) else { continue };
                if self.skip > 0 {
                    self.skip -= 1;
                    continue;
                }
                self.left = self.left.map(|left| left - 1);
                self.ahead.extend(line);
                continue;
            }
            if !self.follow || self.ended {
                if let Some(grep) = &self.grep {
                    let most = self.left.unwrap_or(usize::MAX);
                    let rest = self.lines.rest().filter(|line| matches(grep, line)).skip(self.skip).take(most);
                    self.ahead.extend(rest.flatten());
                }
                self.reader = None;
                continue;
            }
            let observed = self.core.inner.engine.observe(&self.uid).await?;
            // What was written before the end is read once more.
            self.ended = !matches!(observed.state, State::Running { .. }) && !comes_again(&self.core, self.id).await?;
            if !self.ended {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whether its policy is about to start it again.
async fn comes_again(core: &Core, id: i64) -> Result<bool, Error> {
    let row = core.read(move |tx| Ok(tx.container(id)?)).await?;
    let Some(row) = row.filter(|row| row.desired == "running") else { return Ok(false) };
    let found = super::container(row)?;
    // Its end may not be written down yet.
    Ok(found.next_start.is_some() || found.state.is_live() && found.restart != crate::RestartPolicy::No)
}

#[cfg(test)]
mod tests {
    use berth_engine::{LogLine, LogStream};

    use super::{Lines, expression, matches};

    #[test]
    fn lines_are_searched_whole() {
        let piece =
            |text: &str, ends| LogLine { at: 0, stream: LogStream::Stdout, ends, text: text.into(), number: None };
        let mut lines = Lines::default();
        assert!(lines.take(piece("one needle in two pie", false)).is_none());
        let line = lines.take(piece("ces", true)).expect("a line");
        assert!(matches(&expression("two pieces$").expect("expression"), &line));
        assert!(!matches(&expression("^ces").expect("expression"), &line));
        assert!(matches(&expression("(?i)NEEDLE").expect("expression"), &line));
        assert!(expression("(").is_err() && expression(&"a{1000}{1000}".repeat(9)).is_err());
    }
}
