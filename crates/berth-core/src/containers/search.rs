//! Containers that are looked for, as lists show them.

use std::collections::BTreeMap;

use berth_identity::Caller;
use berth_store::ContainerSearch;

use super::{Container, container};
use crate::core::Core;
use crate::error::Error;

/// Further bounds of a search for containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerOnly {
    /// With this label, and with this value of it if there is one.
    pub label: Option<(String, Option<String>)>,
    /// Running, with this word for its health: `starting`, `healthy` or `unhealthy`.
    pub health: Option<String>,
}

impl ContainerOnly {
    fn matches(&self, container: &Container) -> bool {
        let label = self.label.as_ref().is_none_or(|(key, value)| {
            container.labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| value == own))
        });
        let health = self.health.as_deref().is_none_or(|word| {
            container.state.is_live() && container.health.as_ref().is_some_and(|health| health.status.word() == word)
        });
        label && health
    }
}

impl Core {
    /// A page of the account's containers that match, and how many match in each state, whatever state is asked for.
    ///
    /// # Errors
    /// The database's own.
    pub async fn containers_search(
        &self,
        caller: &Caller,
        asked: ContainerSearch,
        only: &ContainerOnly,
    ) -> Result<(Vec<Container>, BTreeMap<String, u64>), Error> {
        let asked = ContainerSearch { account: caller.account, ..asked };
        if *only != ContainerOnly::default() {
            return self.containers_search_only(asked, only).await;
        }
        let found = self.read(move |tx| Ok(tx.containers_search(&asked)?)).await?;
        let mut items = Vec::with_capacity(found.page.len());
        for row in found.page {
            items.push(self.up_to_date(container(row)?).await?);
        }
        Ok((items, found.states.into_iter().map(|(state, count)| (state, u64::try_from(count).unwrap_or(0))).collect()))
    }

    /// The same with what the database does not know by itself: all that match otherwise are looked at.
    async fn containers_search_only(
        &self,
        asked: ContainerSearch,
        only: &ContainerOnly,
    ) -> Result<(Vec<Container>, BTreeMap<String, u64>), Error> {
        let (state, offset, limit) = (asked.state.clone(), asked.offset as usize, asked.limit as usize);
        let all = ContainerSearch { state: None, offset: 0, limit: u32::MAX, ..asked };
        let found = self.read(move |tx| Ok(tx.containers_search(&all)?)).await?;
        let mut items = Vec::new();
        let mut states = BTreeMap::new();
        for row in found.page {
            let found = container(row)?;
            if !only.matches(&found) {
                continue;
            }
            *states.entry(found.state.word().to_owned()).or_insert(0) += 1;
            if state.as_deref().is_none_or(|state| state == found.state.word()) {
                items.push(found);
            }
        }
        let mut page = Vec::with_capacity(limit.min(items.len()));
        for found in items.into_iter().skip(offset).take(limit) {
            page.push(self.up_to_date(found).await?);
        }
        Ok((page, states))
    }
}
