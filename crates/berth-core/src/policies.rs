//! What becomes of a container by itself: when it is started again, and how it is told whether it is well.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use berth_image::Health;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Field};

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed, so often at the most.
    OnFailure(Option<u32>),
    /// Always; after a restart of the host also if it had been stopped.
    Always,
    /// Always, unless somebody stopped it.
    UnlessStopped,
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "no" | "" => Self::No,
            "on-failure" => Self::OnFailure(None),
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            _ => {
                let most = text.strip_prefix("on-failure:").and_then(|n| n.parse().ok());
                let wrong = || format!("{text:?} is not no, on-failure, on-failure:N, always or unless-stopped");
                Self::OnFailure(Some(most.ok_or_else(wrong)?))
            }
        })
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl RestartPolicy {
    /// Whether a container that ended with this code, and was started again `restarts` times by itself, is started again.
    pub fn applies(self, code: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => code != 0 && most.is_none_or(|most| restarts < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

/// A run of this length makes the next pause the shortest again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The pause before the next start: doubled from the last, up to `longest`.
pub(crate) fn pause_after(last: Duration, ran: Duration, longest: Duration) -> Duration {
    if ran >= LONG_ENOUGH || last.is_zero() { FIRST_PAUSE } else { last * 2 }.min(longest)
}

/// How a container is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthTest {
    /// A command in it that ends with 0.
    Exec(Vec<String>),
    /// `GET` of this path is answered by a status from 200 to 399.
    Http {
        /// Port inside.
        port: u16,
        /// Path with its query.
        path: String,
    },
    /// Something accepts connections.
    Tcp {
        /// Port inside.
        port: u16,
    },
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// How it is asked.
    pub test: HealthTest,
    /// Between two checks.
    pub interval: Duration,
    /// Time that one may take.
    pub timeout: Duration,
    /// Failures in a row until it counts as unhealthy.
    pub retries: u32,
    /// Failures so soon after the start don't count.
    pub start_period: Duration,
    /// Whether an unhealthy container is started anew.
    pub restart: bool,
}

impl HealthCheck {
    /// With Docker's defaults for everything but the test.
    pub fn new(test: HealthTest) -> Self {
        Self {
            test,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            restart: false,
        }
    }

    /// What an image's `HEALTHCHECK` says; `None` where it says that there is none.
    pub fn of_image(health: &Health) -> Option<Self> {
        let test = match health.test.split_first()? {
            (kind, rest) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
            (kind, [line]) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            _ => return None,
        };
        let mut check = Self::new(HealthTest::Exec(test));
        let time = |ns: Option<i64>| ns.filter(|n| *n > 0).map(|n| Duration::from_nanos(n as u64));
        check.interval = time(health.interval).unwrap_or(check.interval);
        check.timeout = time(health.timeout).unwrap_or(check.timeout);
        check.start_period = time(health.start_period).unwrap_or(check.start_period);
        check.retries = health.retries.and_then(|r| u32::try_from(r).ok()).filter(|r| *r > 0).unwrap_or(check.retries);
        Some(check)
    }

    /// As an image has it; images can only have commands run.
    pub(crate) fn as_image(&self) -> Option<Health> {
        let HealthTest::Exec(args) = &self.test else { return None };
        let time = |time: Duration| i64::try_from(time.as_nanos()).ok().filter(|ns| *ns > 0);
        Some(Health {
            test: std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect(),
            interval: time(self.interval),
            timeout: time(self.timeout),
            start_period: time(self.start_period),
            retries: Some(i64::from(self.retries)),
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::invalid(Field::Health, why));
        match &self.test {
            HealthTest::Exec(args) if args.first().is_none_or(String::is_empty) => return wrong("a command is needed"),
            HealthTest::Exec(args) if args.iter().any(|a| a.contains('\0')) => return wrong("a zero byte"),
            HealthTest::Http { path, .. } if !path.starts_with('/') || path.contains(char::is_whitespace) => {
                return wrong("a path begins with '/' and has no blanks");
            }
            HealthTest::Http { port: 0, .. } | HealthTest::Tcp { port: 0 } => return wrong("a port is 1 to 65535"),
            _ => {}
        }
        let day = Duration::from_secs(86_400);
        if self.interval < Duration::from_millis(100)
            || self.interval > day
            || self.timeout.is_zero()
            || self.timeout > day
        {
            return wrong("interval and timeout are 0.1 s to a day");
        }
        if self.retries == 0 || self.retries > 1000 || self.start_period > day {
            return wrong("retries are 1 to 1000, the start period is a day at most");
        }
        Ok(())
    }
}

/// What the checks have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// None has succeeded yet, and not enough have failed.
    Starting,
    /// The last one succeeded, or not enough have failed since.
    Healthy,
    /// Enough have failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A container's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// What it amounts to.
    pub status: HealthStatus,
    /// Failures in a row up to now.
    pub failures: u32,
    /// What the last check that failed said.
    pub last_failure: Option<String>,
    /// When the last change was, nanoseconds since 1970.
    pub since: i64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_image::Health;

    use super::{HealthCheck, HealthTest, RestartPolicy, pause_after};

    #[test]
    fn policies_are_read_and_decide() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().map(|p| p.to_string()).as_deref(), Ok(text));
        }
        assert!("sometimes".parse::<RestartPolicy>().is_err() && "on-failure:x".parse::<RestartPolicy>().is_err());
        assert!(!RestartPolicy::No.applies(1, 0));
        assert!(RestartPolicy::Always.applies(0, 1000));
        let thrice = RestartPolicy::OnFailure(Some(3));
        assert!(thrice.applies(1, 2) && !thrice.applies(1, 3) && !thrice.applies(0, 0));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut pause = Duration::ZERO;
        let mut all = Vec::new();
        for _ in 0..6 {
            pause = pause_after(pause, ms(50), ms(1000));
            all.push(pause.as_millis());
        }
        assert_eq!(all, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pause_after(pause, Duration::from_secs(11), ms(1000)), ms(100));
    }

    #[test]
    fn an_images_check_is_taken_over() {
        let health = |test: &[&str]| Health {
            test: test.iter().map(|t| (*t).to_owned()).collect(),
            interval: Some(5_000_000_000),
            retries: Some(0),
            ..Health::default()
        };
        let check = HealthCheck::of_image(&health(&["CMD-SHELL", "curl -f localhost"])).expect("a check");
        assert_eq!(check.test, HealthTest::Exec(vec!["/bin/sh".into(), "-c".into(), "curl -f localhost".into()]));
        assert_eq!((check.interval, check.retries), (Duration::from_secs(5), 3));
        assert!(HealthCheck::of_image(&health(&["NONE"])).is_none());
        assert!(HealthCheck::of_image(&health(&[])).is_none());
    }
}
