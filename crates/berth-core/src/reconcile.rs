//! Wanted against observed: woken by the engine's nudges and a timer, given no input.

use std::collections::HashSet;
use std::time::Duration;

use berth_engine::{State, UnitId};
use berth_store::ContainerFilter;
use tokio::sync::broadcast::error::RecvError;

use crate::containers::{Container, ContainerState, container};
use crate::core::Core;
use crate::error::Error;
use crate::policies::RestartPolicy;
use berth_types::now;

/// Everything is looked at so often even if nobody nudges.
const ROUND: Duration = Duration::from_secs(60);
/// Containers that are looked at in a round at the same time.
const AT_ONCE: usize = 16;
const DAY_NS: i64 = 86_400_000_000_000;

/// Brings records and engine together once, then goes on in the background.
pub(crate) async fn begin(core: &Core) -> Result<(), Error> {
    let mut changes = core.inner.engine.changes();
    let rebooted = core.was_rebooted().await?;
    round(core, Some(Beginning { rebooted })).await?;
    // Only now: a server that is killed before has its successor do all of it.
    core.note_boot().await?;
    let weak = std::sync::Arc::downgrade(&core.inner);
    tokio::spawn(async move {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.tick().await;
        // Beside the notifications: a container that hangs holds up its round only.
        let mut under_way: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            let nudged = tokio::select! {
                nudged = changes.recv() => Some(nudged),
                _ = rounds.tick() => None,
            };
            let Some(inner) = weak.upgrade() else { return };
            let core = Core { inner };
            let result = match nudged {
                Some(Ok(id)) => one(&core, &id).await,
                // Too many nudges to count, or none for a while.
                Some(Err(RecvError::Lagged(_))) | None => {
                    if under_way.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                        under_way = Some(tokio::spawn(async move {
                            if let Err(error) = round(&core, None).await {
                                tracing::warn!(error = error.chain(), "containers could not be reconciled");
                            }
                        }));
                    }
                    Ok(())
                }
                Some(Err(RecvError::Closed)) => return,
            };
            if let Err(error) = result {
                tracing::warn!(error = error.chain(), "containers could not be reconciled");
            }
        }
    });
    Ok(())
}

/// The first round of a server.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    /// Whether the host was started since the last server went.
    rebooted: bool,
}

/// What was changed in the records when the last server died, and perhaps not in the engine.
async fn bring_up_to_date(core: &Core, known: &Container) -> Result<Container, Error> {
    let engine = &core.inner.engine;
    let done = async {
        if known.reading {
            // It was paused to be read when the server died.
            match engine.resume(&known.uid).await {
                Ok(()) | Err(berth_engine::EngineError::NotRunning(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(told) = core.traffic_told(known.id).await {
            engine.keep_traffic(&known.uid, told).await?;
        }
        let able = engine.abilities();
        if let Some(live_update) = able.live_update {
            live_update.update(&known.uid, known.spec.resources()).await?;
        }
        match able.ports {
            Some(ports) => ports.set_ports(&known.uid, &known.spec.ports).await.map(Some),
            None => Ok(None),
        }
    };
    match done.await {
        Ok(placement) if placement.as_ref().is_some_and(|p| p.ports != known.ports) || known.reading => {
            let ports = placement.map_or_else(|| known.ports.clone(), |placement| placement.ports);
            let known = Container { ports, reading: false, ..known.clone() };
            core.record(known, None).await
        }
        Ok(_) | Err(berth_engine::EngineError::NoSuchUnit(_)) => Ok(known.clone()),
        Err(error) => {
            // Refused then as it is now; the container itself is not to suffer.
            tracing::warn!(container = %known.uid, %error, "a change that a crash interrupted could not be made");
            Ok(known.clone())
        }
    }
}

async fn one(core: &Core, id: &UnitId) -> Result<(), Error> {
    let uid = id.to_string();
    let row = core.read(move |tx| Ok(tx.container_by_uid(&uid)?)).await?;
    if let Some(row) = row {
        // A task of its own: this one may have to wait for whoever works on the container, others must not.
        let core = core.clone();
        tokio::spawn(async move {
            if let Err(error) = settle(&core, row.id, None, true).await {
                tracing::warn!(container = row.uid, error = error.chain(), "a container could not be reconciled");
            }
        });
    }
    Ok(())
}

/// All containers; at the start also what a crash left half done and what nobody owns.
async fn round(core: &Core, start: Option<Beginning>) -> Result<(), Error> {
    let all =
        core.read(|tx| Ok(tx.containers(&ContainerFilter { limit: u32::MAX, ..ContainerFilter::default() })?)).await?;
    // Several at a time: one that is slow is not waited for by all others.
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut settling = tokio::task::JoinSet::new();
    for row in &all {
        let turn = turns.clone().acquire_owned().await.map_err(|e| Error::Bug(e.to_string()))?;
        let (core, id, uid) = (core.clone(), row.id, row.uid.clone());
        settling.spawn(async move {
            let _turn = turn;
            if let Err(error) = settle(&core, id, start, start.is_some()).await {
                tracing::warn!(container = uid, error = error.chain(), "a container could not be reconciled");
            }
        });
    }
    while let Some(settled) = settling.join_next().await {
        if let Err(error) = settled {
            tracing::error!(%error, "the look at a container broke off");
        }
    }
    if start.is_some() {
        let known: HashSet<String> = all.into_iter().map(|row| row.uid).collect();
        for id in core.inner.engine.list().await? {
            if !known.contains(id.as_str()) {
                tracing::info!(container = %id, "the engine has a container that nobody owns; it is removed");
                core.inner.engine.remove(&id).await?;
            }
        }
        core.collect_layers().await?;
    }
    core.free_disk_by_watermark().await?;
    core.packages_sweep(crate::packages::SETTLED_S).await?;
    core.downloads_sweep().await?;
    let settings = core.settings();
    let (days, command_days) = (i64::from(settings.event_days), i64::from(settings.command_days));
    let (audit_days, audit_rows) = (i64::from(settings.audit_days), i64::from(settings.audit_max_rows));
    core.write(move |tx| {
        tx.events_forget(now() - days * DAY_NS)?;
        tx.idempotency_forget(now() - DAY_NS, false)?;
        tx.commands_forget(now() - command_days * DAY_NS)?;
        tx.audit_forget(now() - audit_days * DAY_NS)?;
        tx.audit_trim(audit_rows)?;
        tx.signed_requests_forget(now())?;
        Ok(())
    })
    .await
}

/// Brings one container's record in line with what is the case, and finishes what a crash interrupted.
/// With `wait` it waits for whoever works on the container; without, it is left to them.
async fn settle(core: &Core, id: i64, start: Option<Beginning>, wait: bool) -> Result<(), Error> {
    let lock = core.lock(id);
    let _busy = if wait {
        lock.lock().await
    } else {
        let Ok(busy) = lock.try_lock() else { return Ok(()) };
        busy
    };
    let Some(row) = core.read(move |tx| Ok(tx.container(id)?)).await? else { return Ok(()) };
    let wanted = row.desired.clone();
    let mut before = container(row)?;
    if wanted == "removed" {
        return core.erase(&before).await;
    }
    let observed = core.inner.engine.observe(&before.uid).await?;
    if start.is_some() {
        before = bring_up_to_date(core, &before).await?;
    }
    if start.is_some() && wanted == "running" && (observed.run as i64) < before.runs {
        // Acknowledged, or about to be, when the server died: it is done now.
        if before.restart != RestartPolicy::No {
            return core.start_again(before).await;
        }
        let placement = core.inner.engine.create(&before.spec).await;
        let done = match placement {
            Ok(placement) => {
                core.run(Container { address: placement.address, ports: placement.ports, ..before }).await.map(drop)
            }
            Err(error) => core.set_desired(id, "stopped").await.and(Err(error.into())),
        };
        if let Err(error) = done {
            tracing::warn!(error = error.chain(), "a container that was being started could not be");
        }
        return Ok(());
    }
    let mut after = before.clone();
    after.observe(&observed);
    if after.exit.is_none() && after.state == ContainerState::Exited {
        // The engine lost it: its folder is gone.
        after.error = Some("the container's files are gone".into());
    }
    let auto_remove = after.auto_remove && matches!(observed.state, State::Exited(_));
    let ended = before.state.is_live() && after.state == ContainerState::Exited;
    let again = ended && start.is_none() && wanted == "running" && core.plan_restart(&mut after).await?;
    if after != before {
        let event = match (before.state, after.state) {
            (ContainerState::Exited, ContainerState::Exited) | (_, ContainerState::Created) => None,
            (_, ContainerState::Exited) => Some(after.ending()),
            (ContainerState::Running | ContainerState::Paused, ContainerState::Running | ContainerState::Paused) => {
                let known = if before.started_at == after.started_at { before.oom_kills } else { 0 };
                (after.oom_kills > known).then_some("container.oom")
            }
            (_, ContainerState::Running | ContainerState::Paused) => Some("container.started"),
        };
        after = core.record(after, event).await?;
    }
    // A start that was planned and did not come about (a full disk, a busy moment) is tried again.
    let overdue = start.is_none() && after.next_start.is_some_and(|at| at < now() - 1_000_000_000);
    if again || (overdue && wanted == "running" && after.state == ContainerState::Exited) {
        core.restart_in_time(&after);
    }
    if after.state.is_live() {
        core.watch_health(&after);
    } else if let Some(beginning) = start {
        core.resume_after_start(&mut after, &wanted, beginning.rebooted).await?;
    }
    if auto_remove && let Some(due) = core.removal_due(&after) {
        if let Ok(wait @ 1..) = u64::try_from(due - now()) {
            // Its due is looked at again by then.
            let core = core.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_nanos(wait)).await;
                look_at(&core, id).await;
            });
            return Ok(());
        }
        core.erase(&after).await?;
        core.remove_anonymous(after.account, &after.spec.mounts).await;
        core.collect_layers_soon();
    }
    Ok(())
}

/// Looks at a container that was not removed at its end because of somebody who followed it.
pub(crate) fn look_at(core: &Core, id: i64) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
    Box::pin(remove_if_due(core, id))
}

async fn remove_if_due(core: &Core, id: i64) {
    let kept = core.read(move |tx| Ok(tx.container(id)?)).await.ok().flatten().and_then(|row| container(row).ok());
    if kept.is_some_and(|kept| kept.auto_remove && kept.state == ContainerState::Exited)
        && let Err(error) = settle(core, id, None, true).await
    {
        tracing::warn!(container = id, error = error.chain(), "a container could not be removed at its end");
    }
}
