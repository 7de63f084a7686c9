//! Bounds of what a container may write to its root file system. Few file systems have a quota of a folder in force, by which the engine
//! bounds it. What was written is measured as well: who has written more is stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_engine::UnitId;

use super::places::mib;
use super::{Container, container};
use crate::core::Core;
use crate::error::Error;

/// Least time between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// Looks take no more than one part in so many of the time.
const SHARE: u32 = 20;

/// Looks after the bounds from now on, until the core is gone.
pub(crate) fn begin(core: &Core) {
    let weak = std::sync::Arc::downgrade(&core.inner);
    tokio::spawn(async move {
        let mut pause = PERIOD;
        loop {
            tokio::time::sleep(pause).await;
            let Some(inner) = weak.upgrade() else { return };
            let begun = Instant::now();
            if let Err(error) = look(&Core { inner }).await {
                tracing::warn!(error = error.chain(), "what containers have written could not be measured");
            }
            pause = PERIOD.max(begun.elapsed() * SHARE);
        }
    });
}

async fn look(core: &Core) -> Result<(), Error> {
    let rows = core.read(|tx| Ok(tx.containers_with_disk_limit()?)).await?;
    let all = rows.into_iter().map(container).collect::<Result<Vec<Container>, _>>()?;
    let ids: Vec<UnitId> = all.iter().map(|found| found.uid.clone()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let disk: BTreeMap<UnitId, u64> = core.inner.engine.disk(&ids).await?.into_iter().collect();
    for found in all {
        let (Some(limit), Some(&written)) = (found.spec.extras.disk, disk.get(&found.uid)) else { continue };
        if written > limit
            && let Err(error) = core.stop_over_disk_limit(found.id, written, limit).await
        {
            tracing::warn!(container = %found.uid, error = error.chain(), "a container above its disk limit could not be stopped");
        }
    }
    Ok(())
}

impl Core {
    /// Bytes that a container has written to its root file system.
    pub(super) async fn written(&self, target: &Container) -> Result<u64, Error> {
        let all = self.inner.engine.disk(std::slice::from_ref(&target.uid)).await?;
        Ok(all.into_iter().map(|(_, bytes)| bytes).sum())
    }

    async fn stop_over_disk_limit(&self, id: i64, written: u64, limit: u64) -> Result<(), Error> {
        let lock = self.lock(id);
        let _busy = lock.lock().await;
        let Some(row) = self.read(move |tx| Ok(tx.container(id)?)).await? else { return Ok(()) };
        let found = container(row)?;
        // It was stopped or removed meanwhile.
        if !found.state.is_live() || !found.desired_running {
            return Ok(());
        }
        // At once: in a time of grace it could fill the disk.
        let mut stopped = self.stop_locked(found, Some(Duration::ZERO), None).await?;
        let (has, may) = (mib(written), mib(limit));
        tracing::warn!(container = %stopped.uid, account = stopped.account, written, limit, "stopped: above its disk limit");
        stopped.error = Some(format!("stopped: it has written {has} of the {may} of disk that it may"));
        self.record(stopped, Some("container.disk_limit")).await?;
        Ok(())
    }

    /// Whether a container may be started as far as its disk goes.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if it has written as much as it may.
    pub(super) async fn check_disk_limit(&self, target: &Container) -> Result<(), Error> {
        let Some(limit) = target.spec.extras.disk else { return Ok(()) };
        let written = self.written(target).await?;
        // With a quota it may have all of it.
        if written <= limit {
            return Ok(());
        }
        let (name, has, may) = (&target.name, mib(written), mib(limit));
        Err(Error::NoRoom(format!(
            "container {name} has written {has} of the {may} of disk that it may; commit or copy what is needed, and make it anew"
        )))
    }
}
