//! The output of a run, as the kubelet has kept it. It does not tell standard error from standard output.

use async_trait::async_trait;
use berth_engine::{EngineError, LogLine, LogOptions, LogReader, LogStream};
use futures_util::{AsyncBufRead, AsyncBufReadExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use crate::errors::{failed, is_not_found};
use crate::pods::MAIN;

type Stream = std::pin::Pin<Box<dyn AsyncBufRead + Send>>;

/// Reads to the end, and from there on when it is asked again.
pub(crate) struct Reader {
    pods: Api<Pod>,
    /// `None` where the run's pod is gone: its output went with it.
    pod: Option<String>,
    options: LogOptions,
    stream: Option<Stream>,
    /// The time of the last line, and how many lines have come with just that.
    last: Option<(i64, usize)>,
    /// Lines with that time that a new request gives once more.
    skip: usize,
    /// From when on lines are wanted, after a request for the last ones that gave none.
    continue_at: Option<i64>,
    /// Lines that have come so far, if they are numbered.
    number: u64,
}

/// Splits `2026-01-02T03:04:05.6Z text`.
pub(crate) fn line_of(line: &[u8]) -> Option<(i64, &[u8])> {
    let space = line.iter().position(|b| *b == b' ')?;
    let at: Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((i64::try_from(at.as_nanosecond()).ok()?, &line[space + 1..]))
}

impl Reader {
    pub(crate) fn new(pods: Api<Pod>, pod: Option<String>, options: LogOptions) -> Self {
        Self { pods, pod, options, stream: None, last: None, skip: 0, continue_at: None, number: 0 }
    }

    /// Which lines are wanted by their numbers: all are counted once for that.
    async fn find_first(&mut self, pod: &str) -> Result<(), EngineError> {
        if self.options.tail.is_none() && self.options.after.is_none() {
            return Ok(());
        }
        let params = LogParams { container: Some(MAIN.into()), timestamps: true, ..LogParams::default() };
        let Some(mut stream) = request(&self.pods, pod, &params).await? else { return Ok(()) };
        let (mut last, mut last_wanted, mut line) = (0, 0, Vec::new());
        while read_line(&mut stream, &mut line, pod).await? > 0 {
            let Some((at, _)) = line_of(&line) else { continue };
            last += 1;
            if self.options.until.is_none_or(|until| at < until) {
                last_wanted = last;
            }
        }
        let end = self.options.before.map_or(last_wanted, |before| last_wanted.min(before.saturating_sub(1)));
        let from_end = self.options.tail.take().map(|lines| end.saturating_sub(lines as u64));
        let after = self.options.after.filter(|after| *after <= last).max(from_end).unwrap_or(0);
        self.options.after = Some(after);
        Ok(())
    }

    async fn open(&mut self, pod: &str) -> Result<Option<Stream>, EngineError> {
        let numbered = self.options.are_numbered();
        if numbered && self.last.is_none() {
            self.number = 0;
            self.find_first(pod).await?;
        }
        let since = self.last.map(|(at, _)| at).or(self.continue_at).or(self.options.since.filter(|_| !numbered));
        let since_time = since.and_then(|at| Timestamp::from_nanosecond(at.into()).ok());
        let tail = self.options.tail;
        let now = Timestamp::now();
        let params = LogParams {
            container: Some(MAIN.into()),
            timestamps: true,
            since_time,
            tail_lines: tail.map(|lines| i64::try_from(lines).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        self.skip = self.last.map_or(0, |(_, count)| count);
        let stream = request(&self.pods, pod, &params).await?;
        // Of the first request only: what comes from now on is wanted whole.
        if stream.is_some() && self.options.tail.take().is_some() && self.last.is_none() {
            self.continue_at = i64::try_from(now.as_nanosecond()).ok();
        }
        Ok(stream)
    }
}

/// `None` where there is no output yet, or none any more.
async fn request(pods: &Api<Pod>, pod: &str, params: &LogParams) -> Result<Option<Stream>, EngineError> {
    match pods.log_stream(pod, params).await {
        Ok(stream) => Ok(Some(Box::pin(stream))),
        Err(error) if is_not_found(&error) => Ok(None),
        // Its container is not made yet.
        Err(kube::Error::Api(status)) if status.code == 400 => Ok(None),
        Err(error) => Err(failed(format!("read the output of pod {pod}"))(error)),
    }
}

/// Reads the next line without its line break; how many bytes were read.
async fn read_line(stream: &mut Stream, line: &mut Vec<u8>, pod: &str) -> Result<usize, EngineError> {
    line.clear();
    let read = stream.read_until(b'\n', line).await;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    read.map_err(|error| EngineError::Failed(format!("read the output of pod {pod}: {error}")))
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self) -> Result<Option<LogLine>, EngineError> {
        let Some(pod) = self.pod.clone() else { return Ok(None) };
        if self.stream.is_none() {
            self.stream = self.open(&pod).await?;
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut line = Vec::new();
        loop {
            if read_line(stream, &mut line, &pod).await? == 0 {
                self.stream = None;
                return Ok(None);
            }
            let Some((at, text)) = line_of(&line) else { continue };
            // The request knows whole seconds only: lines come again.
            let again = match self.last {
                Some((last, _)) if at == last && self.skip > 0 => {
                    self.skip -= 1;
                    true
                }
                Some((last, _)) => at < last,
                None => false,
            };
            if again {
                continue;
            }
            self.last = match self.last {
                Some((last, count)) if last == at => Some((at, count + 1)),
                _ => Some((at, 1)),
            };
            self.number += 1;
            let LogOptions { since, until, after, before, .. } = self.options;
            let is_wanted = since.is_none_or(|since| at >= since)
                && until.is_none_or(|until| at < until)
                && after.is_none_or(|after| self.number > after)
                && before.is_none_or(|before| self.number < before);
            if is_wanted {
                let number = self.options.are_numbered().then_some(self.number);
                return Ok(Some(LogLine { at, stream: LogStream::Stdout, ends: true, text: text.to_vec(), number }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn lines_are_split_at_their_time() {
        assert_eq!(line_of(b"1970-01-01T00:00:01.5Z a b"), Some((1_500_000_000, &b"a b"[..])));
        assert_eq!(line_of(b"1970-01-01T00:00:01.5Z "), Some((1_500_000_000, &b""[..])));
        assert_eq!(line_of(b"failed to open"), None);
    }
}
