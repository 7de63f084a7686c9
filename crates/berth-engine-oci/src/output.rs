//! Reading a container's log.

use std::collections::VecDeque;
use std::path::Path;

use async_trait::async_trait;
use berth_engine::{EngineError, LogLine, LogOptions, LogReader, LogStream};
use berth_runtime::log::{Numbered, Reader, Record, Step, Stream};
use tokio::sync::Semaphore;

/// Lines that are read in one go, so that a long log is not a thread switch a line.
const BATCH: usize = 256;
/// Bytes of text after which a batch ends.
const BATCH_BYTES: usize = 64 << 10;
/// Turns to read: however many read their logs, threads are left for everything else.
static READING: Semaphore = Semaphore::const_new(8);

pub(crate) struct Output {
    /// `None` only while a batch is being read.
    reader: Option<Reader>,
    ahead: VecDeque<Record>,
    since: i64,
    until: i64,
}

impl Output {
    pub(crate) async fn open(folder: &Path, options: &LogOptions) -> Result<Self, EngineError> {
        let (folder, options) = (folder.to_owned(), options.clone());
        let since = options.since.unwrap_or(i64::MIN);
        let _turn = READING.acquire().await.map_err(|_| broken())?;
        let until = options.until.unwrap_or(i64::MAX);
        let only = options.only.clone();
        let opened = tokio::task::spawn_blocking(move || match (options.tail, options.since) {
            _ if options.are_numbered() => {
                let LogOptions { tail, until, after, before, .. } = options;
                Reader::numbered(&folder, &Numbered { tail, until, after, before })
            }
            (Some(lines), _) => Reader::tail(&folder, lines, options.until),
            (None, Some(since)) => Ok(Reader::since(&folder, since)),
            (None, None) => Ok(Reader::open(&folder)),
        });
        let mut reader = opened.await.map_err(|_| broken())?.map_err(|e| failed(&e))?;
        if let Some(only) = only {
            reader = reader.only(only.0);
        }
        Ok(Self { reader: Some(reader), ahead: VecDeque::new(), since, until })
    }
}

fn failed(error: &std::io::Error) -> EngineError {
    EngineError::Failed(format!("read the log: {error}"))
}

fn broken() -> EngineError {
    EngineError::Failed("reading the log was broken off".into())
}

#[async_trait]
impl LogReader for Output {
    async fn next(&mut self) -> Result<Option<LogLine>, EngineError> {
        loop {
            while let Some(record) = self.ahead.pop_front() {
                if record.at >= self.until {
                    // Records are in order, but for the clock being set; a reader that is done stays so.
                    self.ahead.clear();
                    return Ok(None);
                }
                if record.at >= self.since {
                    return Ok(Some(line(record)));
                }
            }
            let mut reader = self.reader.take().ok_or_else(broken)?;
            let _turn = READING.acquire().await.map_err(|_| broken())?;
            let (batch, reader) = tokio::task::spawn_blocking(move || {
                let mut batch = VecDeque::new();
                let mut bytes = 0;
                let mut is_over = false;
                let mut result = Ok(());
                while batch.len() < BATCH && bytes < BATCH_BYTES {
                    match reader.step() {
                        Ok(Step::Record(record)) => {
                            bytes += record.text.len();
                            batch.push_back(record);
                        }
                        // Others have their turns between.
                        Ok(Step::LeftOut) => break,
                        Ok(Step::End) => {
                            is_over = true;
                            break;
                        }
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                (result.map(|()| (batch, is_over)), reader)
            })
            .await
            .map_err(|_| broken())?;
            self.reader = Some(reader);
            let (batch, is_over) = batch.map_err(|e| failed(&e))?;
            self.ahead = batch;
            if self.ahead.is_empty() && is_over {
                return Ok(None);
            }
        }
    }
}

fn line(record: Record) -> LogLine {
    let stream = match record.stream {
        Stream::Stdout => LogStream::Stdout,
        Stream::Stderr => LogStream::Stderr,
    };
    LogLine { at: record.at, stream, ends: record.ends, text: record.text, number: record.number }
}
