//! Health checks of containers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use berth_engine::{EngineError, ExecInput, ExecOutput, ExecRequest, NetworkMode, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Container, container};
use crate::core::Core;
use crate::error::Error;
use crate::policies::{HealthCheck, HealthState, HealthStatus, HealthTest};
use berth_types::now;

/// Most bytes of a check's output that are kept.
const KEPT: usize = 4096;
/// Between two checks as long as failures don't count: readiness should be seen soon.
const AT_FIRST: Duration = Duration::from_secs(1);
/// The same in the first second of a run, in which no failure counts: roll-outs wait for the first success.
const AT_ONCE: Duration = Duration::from_millis(50);

impl Core {
    /// Watches over the health of a run, once, if it has a check.
    pub(crate) fn watch_health(&self, target: &Container) {
        let Some(check) = target.health_check.clone() else { return };
        let (id, run) = (target.id, target.runs);
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.get(&id) == Some(&run) {
            return;
        }
        watched.insert(id, run);
        drop(watched);
        let (weak, target) = (Arc::downgrade(&self.inner), target.clone());
        tokio::spawn(async move {
            // A run that an earlier server has watched already goes on where that stood.
            let age = target.started_at.map_or(0, |at| (now() - at).max(0));
            let begun = Instant::now().checked_sub(Duration::from_nanos(age as u64)).unwrap_or_else(Instant::now);
            let mut seen = Seen::of(target.health.as_ref(), check.restart);
            loop {
                let early = begun.elapsed() < check.start_period && !seen.succeeded;
                let first = seen.checks == 0 || early;
                let pause = match begun.elapsed() {
                    young if young < grace(&check) && !seen.succeeded => AT_ONCE,
                    _ if first => check.interval.min(AT_FIRST),
                    _ => check.interval,
                };
                tokio::time::sleep(pause).await;
                let Some(inner) = weak.upgrade() else { return };
                let core = Self { inner };
                match core.check_once(&target, &check, &mut seen, begun).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(container = %target.uid, error = error.chain(), "a health check went wrong");
                    }
                }
            }
            if let Some(inner) = weak.upgrade() {
                let mut watched = inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
                if watched.get(&id) == Some(&run) {
                    watched.remove(&id);
                }
            }
        });
    }

    /// One check, and what follows from it. Whether the run goes on.
    async fn check_once(
        &self,
        target: &Container,
        check: &HealthCheck,
        seen: &mut Seen,
        begun: Instant,
    ) -> Result<bool, Error> {
        let observed = self.inner.engine.observe(&target.uid).await?;
        match observed.state {
            // Nothing answers while it is paused, and nothing should.
            State::Running { paused: true, .. } => return Ok(true),
            State::Running { .. } if observed.run as i64 == target.runs => {}
            _ => return Ok(false),
        }
        let result = self.probe(target, check).await;
        let status = seen.take(result, check, begun.elapsed());
        let Some(status) = status else { return Ok(true) };
        let state =
            HealthState { status, failures: seen.failures, last_failure: seen.last_failure.clone(), since: now() };
        let lock = self.lock(target.id);
        let busy = lock.lock().await;
        let id = target.id;
        let Some(row) = self.read(move |tx| Ok(tx.container(id)?)).await? else { return Ok(false) };
        let wanted = row.desired == "running";
        let mut current = container(row)?;
        // It may have been stopped, removed or started anew while the check was under way.
        let observed = self.inner.engine.observe(&target.uid).await?;
        let same = observed.run as i64 == target.runs && matches!(observed.state, State::Running { .. });
        if !wanted || !same || current.runs != target.runs {
            return Ok(false);
        }
        current.health = Some(state);
        if status == HealthStatus::Healthy && current.trouble == Some(super::FailureReason::RunFailed) {
            current.trouble = None;
        }
        let event = match status {
            HealthStatus::Starting => None,
            HealthStatus::Healthy => Some("container.healthy"),
            HealthStatus::Unhealthy => Some("container.unhealthy"),
        };
        let current = self.record(current, event).await?;
        if status == HealthStatus::Unhealthy && check.restart {
            tracing::info!(container = %current.uid, "an unhealthy container is started anew");
            let mut stopped = current.clone();
            let stop = self.inner.engine.stop(&current.uid, current.stop_signal, current.stop_timeout).await;
            if let Err(error) = stop {
                // The next check tries again.
                seen.status = None;
                return Err(error.into());
            }
            stopped.observe(&self.inner.engine.observe(&current.uid).await?);
            stopped.restarts += 1;
            stopped = self.record(stopped, Some("container.exited")).await?;
            self.start_again(stopped).await?;
            drop(busy);
            return Ok(false);
        }
        Ok(true)
    }

    async fn probe(&self, target: &Container, check: &HealthCheck) -> Result<(), String> {
        let late = || format!("no answer within {:?}", check.timeout);
        match &check.test {
            HealthTest::Exec(args) => self.probe_by_command(target, args, check.timeout).await,
            HealthTest::Tcp { port } => {
                let connected = tokio::time::timeout(check.timeout, TcpStream::connect(address(target, *port)?)).await;
                connected.map_err(|_| late())?.map(drop).map_err(|e| format!("connect to port {port}: {e}"))
            }
            HealthTest::Http { port, path } => {
                let asked = tokio::time::timeout(check.timeout, status_of(address(target, *port)?, path)).await;
                match asked.map_err(|_| late())?.map_err(|e| format!("GET {path} on port {port}: {e}"))? {
                    200..=399 => Ok(()),
                    status => Err(format!("GET {path} on port {port}: status {status}")),
                }
            }
        }
    }

    async fn probe_by_command(&self, target: &Container, args: &[String], limit: Duration) -> Result<(), String> {
        let asked = ExecRequest { args: args.to_vec(), ..ExecRequest::default() };
        let begun = Instant::now();
        let started = tokio::time::timeout(limit, self.inner.engine.exec(&target.uid, &asked)).await;
        let mut session = match started {
            Ok(Ok(session)) => session,
            Ok(Err(error @ EngineError::Start { .. })) => return Err(error.to_string()),
            Ok(Err(error)) => return Err(format!("the check could not be run: {error}")),
            Err(_) => return Err(format!("the check did not begin within {limit:?}")),
        };
        let limit = limit.saturating_sub(begun.elapsed());
        let mut output = Vec::new();
        let heard = async {
            while let Some(said) = session.output.recv().await {
                match said {
                    ExecOutput::Output(_, bytes) => {
                        let room = KEPT.saturating_sub(output.len());
                        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    ExecOutput::Ended(code) => return code,
                }
            }
            255
        };
        let ended = tokio::time::timeout(limit, heard).await;
        if ended.is_err() {
            let _ = session.input.send(ExecInput::Signal(9)).await;
            // Its end is waited for: whoever lets go of the session at once lets go of the signal, too.
            let gone = async { while !matches!(session.output.recv().await, None | Some(ExecOutput::Ended(_))) {} };
            let _ = tokio::time::timeout(Duration::from_secs(2), gone).await;
        }
        let said = String::from_utf8_lossy(&output);
        let said = said.trim();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        match ended {
            Ok(0) => Ok(()),
            Ok(code) => Err(format!("exit code {code}{said}")),
            Err(_) => Err(format!("no end within {:.1} s{said}", limit.as_secs_f64())),
        }
    }
}

/// Time after the start in which no failure counts.
fn grace(check: &HealthCheck) -> Duration {
    check.interval.min(AT_FIRST)
}

/// What the checks of one run have shown so far.
#[derive(Debug, Default)]
struct Seen {
    checks: u64,
    succeeded: bool,
    failures: u32,
    last_failure: Option<String>,
    status: Option<HealthStatus>,
}

impl Seen {
    /// With `restart`, one that is unhealthy by now has yet to be started anew: whoever was about to is gone.
    fn of(known: Option<&HealthState>, restart: bool) -> Self {
        known.map_or_else(Self::default, |k| Self {
            succeeded: k.status != HealthStatus::Starting,
            failures: k.failures,
            last_failure: k.last_failure.clone(),
            status: Some(k.status).filter(|status| !restart || *status != HealthStatus::Unhealthy),
            ..Self::default()
        })
    }

    /// Takes note of one check; the status, if it has changed.
    fn take(&mut self, result: Result<(), String>, check: &HealthCheck, since_start: Duration) -> Option<HealthStatus> {
        self.checks += 1;
        let before = self.status;
        match result {
            Ok(()) => {
                self.succeeded = true;
                self.failures = 0;
                self.status = Some(HealthStatus::Healthy);
            }
            Err(why) => {
                self.last_failure = Some(why);
                if self.succeeded || since_start >= check.start_period.max(grace(check)) {
                    self.failures += 1;
                }
                if self.failures >= check.retries {
                    self.status = Some(HealthStatus::Unhealthy);
                } else if self.status.is_none() {
                    self.status = Some(HealthStatus::Starting);
                }
            }
        }
        (self.status != before).then_some(self.status)?
    }
}

/// Where the container listens: on the bridge its own address and no other, in the host's network (a right) loopback.
fn address(target: &Container, port: u16) -> Result<SocketAddr, String> {
    let ip = match target.spec.network {
        NetworkMode::Bridge => target.address.ok_or("the container has no address")?,
        NetworkMode::Host => Ipv4Addr::LOCALHOST,
        NetworkMode::None => return Err("the container has no network".into()),
    };
    Ok(SocketAddr::new(IpAddr::V4(ip), port))
}

/// The status that a server answers with. As much of HTTP as that needs.
async fn status_of(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: berth-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut buffer = [0; 512];
    while head.len() < 12 {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|s| s.parse().ok());
    status.ok_or_else(|| std::io::Error::other("what answers is not HTTP"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Seen;
    use crate::policies::{HealthCheck, HealthStatus, HealthTest};

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        let mut check = HealthCheck::new(HealthTest::Tcp { port: 80 });
        check.retries = 2;
        check.start_period = Duration::from_secs(5);
        let mut seen = Seen::default();
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(6));
        let bad = || Err("down".to_owned());
        assert_eq!(seen.take(bad(), &check, early), Some(HealthStatus::Starting));
        for _ in 0..10 {
            assert_eq!(seen.take(bad(), &check, early), None);
        }
        assert_eq!(seen.take(bad(), &check, late), None);
        assert_eq!(seen.take(Ok(()), &check, late), Some(HealthStatus::Healthy));
        assert_eq!(seen.take(bad(), &check, late), None);
        assert_eq!(seen.take(bad(), &check, late), Some(HealthStatus::Unhealthy));
        assert_eq!(seen.take(bad(), &check, late), None);
        assert_eq!(seen.take(Ok(()), &check, late), Some(HealthStatus::Healthy));
        assert_eq!(seen.failures, 0);
    }
}
