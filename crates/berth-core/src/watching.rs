//! What the core tells whoever watches it: how long things take, and what each container uses.

use berth_engine::Stats;
use berth_types::Outcomes;

use crate::containers::{Container, container};
use crate::core::Core;
use crate::error::Error;
use berth_identity::{Caller, Role};
use berth_store::ContainerFilter;

/// How long things took since this server began.
#[derive(Debug, Default)]
pub struct Meters {
    /// Starts of containers, until their program runs.
    pub starts: Outcomes,
    /// Images that were fetched from registries.
    pub pulls: Outcomes,
}

/// A container as it is watched.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Name of its account.
    pub account: String,
    /// The container.
    pub container: Container,
    /// What it uses, if it runs.
    pub stats: Option<Stats>,
}

impl Core {
    /// How long things took.
    pub fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// How long commands took, from when they were accepted to their end.
    pub fn command_durations(&self) -> &Outcomes {
        self.inner.operations.durations()
    }

    /// What the database has to do.
    pub fn database_load(&self) -> &berth_store::Load {
        self.inner.store.load()
    }

    /// Containers with what they use; for an administrator those of all accounts.
    ///
    /// # Errors
    /// The database's or the engine's own.
    pub async fn watched(&self, caller: &Caller) -> Result<Vec<Watched>, Error> {
        let account = (caller.role != Role::Admin).then_some(caller.account);
        let filter = ContainerFilter { account, state: None, after: 0, limit: u32::MAX };
        let (rows, names) = self.read(move |tx| Ok((tx.containers(&filter)?, tx.account_names()?))).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| row.desired != "removed") {
            let name = names.iter().find(|(id, _)| *id == row.account_id).map(|(_, name)| name.clone());
            all.push(Watched { account: name.unwrap_or_default(), container: container(row)?, stats: None });
        }
        let live: Vec<_> =
            all.iter().filter(|w| w.container.state.is_live()).map(|w| w.container.uid.clone()).collect();
        let mut stats: std::collections::BTreeMap<_, _> = self.inner.engine.stats(&live).await?.into_iter().collect();
        for watched in &mut all {
            watched.stats = stats.remove(&watched.container.uid);
        }
        Ok(all)
    }
}
