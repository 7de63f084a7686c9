//! SIGHUP: the settings are read again, and what can change while the server runs takes effect.

use berth_core::Core;
use berth_fetch::Registries;
use tokio::signal::unix::Signal;

use crate::log::Log;
use crate::service::notify;
use crate::settings::Settings;

/// What takes other settings while it runs.
pub(crate) struct Reloads {
    pub(crate) core: Core,
    pub(crate) registries: Registries,
    pub(crate) certificate: Option<crate::tls::Certificate>,
    pub(crate) log: Log,
    /// What systemd is told when it is done.
    pub(crate) status: String,
}

/// Tables and keys that take effect while the server runs.
const LIVE: [&str; 5] = ["core.", "registries.", "log.level", "https.certificate", "https.key"];
/// Those of them that don't.
const FIXED: [&str; 6] = [
    "core.builds_at_once",
    "core.builds_waiting",
    "core.steps_at_once",
    "core.commands_waiting",
    "core.host.name",
    "core.measure_period_s",
];

/// Whether a key takes effect while the server runs.
pub(crate) fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| key.starts_with(live)) && !FIXED.contains(&key)
}

fn differences(prefix: &str, before: Option<&toml::Value>, after: Option<&toml::Value>, all: &mut Vec<String>) {
    if before == after {
        return;
    }
    let tables = (before.and_then(toml::Value::as_table), after.and_then(toml::Value::as_table));
    let (Some(before), Some(after)) = tables else {
        all.push(prefix.to_owned());
        return;
    };
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        differences(&path, before.get(key), after.get(key), all);
    }
}

/// The keys whose values differ, `core.pids_limit`.
fn changed(before: &Settings, after: &Settings) -> Vec<String> {
    let value = |settings| toml::Value::try_from(settings).ok();
    let mut all = Vec::new();
    differences("", value(before).as_ref(), value(after).as_ref(), &mut all);
    all
}

impl Reloads {
    /// Reads the settings again at each SIGHUP, for as long as it is polled.
    pub(crate) async fn follow(
        &self,
        mut hangups: Signal,
        mut settings: Settings,
        load: impl Fn() -> Result<Settings, String>,
    ) {
        while hangups.recv().await.is_some() {
            notify::reloading();
            match load() {
                Ok(fresh) => {
                    let faults = fresh.faults();
                    if faults.is_empty() {
                        self.take(&settings, &fresh);
                        settings = fresh;
                    } else {
                        tracing::error!("{}: the settings stay as they were", faults.join("; "));
                    }
                }
                Err(error) => tracing::error!("{error}: the settings stay as they were"),
            }
            notify::ready(&self.status);
        }
    }

    fn take(&self, before: &Settings, fresh: &Settings) {
        self.core.reload(crate::serve::of_core(fresh));
        if before.registries != fresh.registries {
            self.registries.reload(fresh.registries.clone());
        }
        if let Err(error) = self.log.reload(fresh) {
            tracing::error!("{error}: what is logged stays as it was");
        }
        if let Some(certificate) = &self.certificate
            && let Err(error) = certificate.reload(&fresh.https)
        {
            tracing::error!("{error}: the certificate stays as it was");
        }
        let tls = self.certificate.is_some();
        let takes_effect = |key: &String| is_live(key) && (tls || !key.starts_with("https."));
        let (live, fixed): (Vec<_>, Vec<_>) = changed(before, fresh).into_iter().partition(takes_effect);
        tracing::info!(changed = live.join(", "), "the settings were read again");
        if !fixed.is_empty() {
            tracing::warn!(keys = fixed.join(", "), "these settings take effect when the server starts again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{changed, is_live};
    use crate::settings::Settings;

    #[test]
    fn what_differs_is_told_key_by_key() {
        let before = Settings::default();
        let mut after = before.clone();
        assert!(changed(&before, &after).is_empty());
        after.core.pids_limit = 7;
        after.drain_s = 1;
        after.core.public_address = Some(std::net::Ipv4Addr::new(192, 0, 2, 1));
        after.registries.hosts.insert("mirror.example:5000".into(), berth_fetch::RegistrySettings::default());
        let all = changed(&before, &after);
        assert_eq!(all, ["core.pids_limit", "core.public_address", "drain_s", "registries.hosts.mirror.example:5000"]);
        assert_eq!(all.iter().filter(|key| !is_live(key)).collect::<Vec<_>>(), ["drain_s"]);
        assert!(!is_live("core.steps_at_once") && !is_live("listen"));
    }
}
