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
}

/// Splits `2026-01-02T03:04:05.6Z text`.
pub(crate) fn line_of(line: &[u8]) -> Option<(i64, &[u8])> {
    let space = line.iter().position(|b| *b == b' ')?;
    let at: Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((i64::try_from(at.as_nanosecond()).ok()?, &line[space + 1..]))
}

impl Reader {
    pub(crate) fn new(pods: Api<Pod>, pod: Option<String>, options: LogOptions) -> Self {
        Self { pods, pod, options, stream: None, last: None, skip: 0, continue_at: None }
    }

    async fn open(&mut self, pod: &str) -> Result<Option<Stream>, EngineError> {
        let since = self.last.map(|(at, _)| at).or(self.continue_at).or(self.options.since);
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
        match self.pods.log_stream(pod, &params).await {
            Ok(stream) => {
                // Of the first request only: what comes from now on is wanted whole.
                if self.options.tail.take().is_some() && self.last.is_none() {
                    self.continue_at = i64::try_from(now.as_nanosecond()).ok();
                }
                Ok(Some(Box::pin(stream)))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            // Its container is not made yet.
            Err(kube::Error::Api(status)) if status.code == 400 => Ok(None),
            Err(error) => Err(failed(format!("read the output of pod {pod}"))(error)),
        }
    }
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
            line.clear();
            let read = stream.read_until(b'\n', &mut line).await;
            let read = read.map_err(|error| EngineError::Failed(format!("read the output of pod {pod}: {error}")))?;
            if read == 0 {
                self.stream = None;
                return Ok(None);
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let Some((at, text)) = line_of(text) else { continue };
            // The request knows whole seconds only.
            let old =
                self.last.is_some_and(|(last, _)| at < last) || self.options.since.is_some_and(|since| at < since);
            let again = self.last.is_some_and(|(last, _)| at == last) && self.skip > 0;
            if again {
                self.skip -= 1;
            }
            if old || again || self.options.until.is_some_and(|until| at >= until) {
                continue;
            }
            self.last = match self.last {
                Some((last, count)) if last == at => Some((at, count + 1)),
                _ => Some((at, 1)),
            };
            return Ok(Some(LogLine { at, stream: LogStream::Stdout, ends: true, text: text.to_vec() }));
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
