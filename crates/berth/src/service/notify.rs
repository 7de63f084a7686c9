//! What systemd is told (sd_notify(3)): that the server is ready, goes, reads its settings again, and that it is alive.

use berth_core::Core;
use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    // Without systemd nothing is told to anybody, which is no error.
    if let Err(error) = sd_notify::notify(states) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| tracing::warn!(%error, "systemd could not be told"));
    }
}

/// Requests are answered from now on.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The settings are read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told"),
    }
}

/// The server goes.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("requests under way are finished, containers run on")]);
}

/// Gives signs of life for as long as it is polled, if systemd waits for them: each when the core has answered whether it is ready,
/// which takes tasks, timers and the threads of the database. That it is not (a full disk, a stalled one) is no reason to begin anew.
pub(crate) async fn watchdog(core: &Core) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let pause = limit / 3;
    loop {
        if let Err(error) = core.ready().await {
            tracing::error!(error = error.chain(), "not ready");
        }
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(pause).await;
    }
}
