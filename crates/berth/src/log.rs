//! The server's own log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::settings::Settings;

/// What is logged can be changed while the server runs.
pub(crate) struct Log(reload::Handle<EnvFilter, Registry>);

/// What is wrong with a level.
pub(crate) fn fault(level: &str) -> Option<String> {
    EnvFilter::try_new(level).err().map(|e| format!("log.level {level:?}: {e}"))
}

/// `BERTH_LOG` goes before the settings.
fn filter(settings: &Settings) -> Result<EnvFilter, String> {
    let directives = std::env::var("BERTH_LOG").unwrap_or_else(|_| settings.log.level.clone());
    EnvFilter::try_new(&directives).map_err(|e| format!("log.level {directives:?}: {e}"))
}

impl Log {
    /// Begins to log. A level that is none counts as `info`.
    pub(crate) fn begin(settings: &Settings) -> Self {
        let wrong = filter(settings).err();
        let (filter, handle) = reload::Layer::new(filter(settings).unwrap_or_else(|_| "info".into()));
        let layer = fmt::layer().with_writer(io::stderr).with_target(false);
        let layer =
            if settings.log.json { layer.json().boxed() } else { layer.with_ansi(io::stderr().is_terminal()).boxed() };
        tracing_subscriber::registry().with(filter).with(layer).init();
        if let Some(wrong) = wrong {
            tracing::warn!("{wrong}; info is logged");
        }
        Self(handle)
    }

    /// Logs what these settings say from now on.
    pub(crate) fn reload(&self, settings: &Settings) -> Result<(), String> {
        self.0.reload(filter(settings)?).map_err(|e| format!("log.level: {e}"))
    }
}
