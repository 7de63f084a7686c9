//! Health checks.

use std::time::Duration;

use berth_core::{Error as CoreError, Field, HealthTest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::containers::invalid;

/// A health check. One of `command`, `http` and `tcp` says how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// A command in the container that ends with 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Port and path, `8080/healthz`: GET is answered by a status from 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// A port that accepts connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// Seconds between two checks; 30 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<f64>,
    /// Seconds that one may take; 30 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Failures in a row until it counts as unhealthy; 3 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Seconds after the start in which failures don't count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<f64>,
    /// An unhealthy container is started anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

impl TryFrom<HealthCheck> for berth_core::HealthCheck {
    type Error = CoreError;

    fn try_from(h: HealthCheck) -> Result<Self, CoreError> {
        let test = match (h.command, h.http, h.tcp) {
            (Some(command), None, None) => HealthTest::Exec(command),
            (None, Some(http), None) => {
                let (port, path) = http.split_once('/').unwrap_or((&http, ""));
                let port = port.trim_start_matches(':').parse();
                let port = port.map_err(|_| invalid(Field::Health, format!("http {http:?} is not PORT/path")))?;
                HealthTest::Http { port, path: format!("/{path}") }
            }
            (None, None, Some(port)) => HealthTest::Tcp { port },
            _ => return Err(invalid(Field::Health, "one of command, http and tcp is needed")),
        };
        let seconds = |value: Option<f64>, otherwise: Duration| match value {
            None => Ok(otherwise),
            Some(s) if (0.0..=1e6).contains(&s) => Ok(Duration::from_secs_f64(s)),
            Some(s) => Err(invalid(Field::Health, format!("{s} is no number of seconds"))),
        };
        let check = Self::new(test);
        Ok(Self {
            interval: seconds(h.interval, check.interval)?,
            timeout: seconds(h.timeout, check.timeout)?,
            start_period: seconds(h.start_period, check.start_period)?,
            retries: h.retries.unwrap_or(check.retries),
            restart: h.restart,
            test: check.test,
        })
    }
}

impl From<berth_core::HealthCheck> for HealthCheck {
    fn from(h: berth_core::HealthCheck) -> Self {
        let (command, http, tcp) = match h.test {
            HealthTest::Exec(command) => (Some(command), None, None),
            HealthTest::Http { port, path } => (None, Some(format!("{port}{path}")), None),
            HealthTest::Tcp { port } => (None, None, Some(port)),
        };
        Self {
            command,
            http,
            tcp,
            interval: Some(h.interval.as_secs_f64()),
            timeout: Some(h.timeout.as_secs_f64()),
            retries: Some(h.retries),
            start_period: Some(h.start_period.as_secs_f64()),
            restart: h.restart,
        }
    }
}

/// What a container's health checks have shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failures: u32,
    /// What the last check that failed said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Since when.
    pub since: String,
}
