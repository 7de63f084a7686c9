//! Roll-outs of a version over an image's deployments.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{Deployment, number_of};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::operations::{RolloutOperation, target};
use berth_identity::Caller;
use berth_operations::Command;

/// A roll-out of a version over an image's deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Only on hosts of this area; empty is all.
    pub area: String,
    /// Only on hosts in this operator's network; empty is all.
    pub operator: String,
    /// Of a hundred; the same deployments come first when it is raised.
    pub percent: u32,
    /// Image without the version.
    pub image: String,
    /// The version that they are to have.
    pub version: String,
}

/// One change of a roll-out: everything but the version stays as it is at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Move {
    pub(crate) fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone(), ..self.clone() }
    }
}

/// Where a deployment stands among all, the same whatever the others are: who is chosen for a share of a roll-out stays so
/// when the share grows.
fn rank(name: &str, image: &str) -> i64 {
    number_of(&["rank", image, name])
}

impl Core {
    /// The deployments that a roll-out is for, those that come first in front; with each what it is and whether it is in the
    /// share.
    async fn rollout_choice(&self, account: i64, asked: &Rollout) -> Result<Vec<(Deployment, bool)>, Error> {
        let hosts: HashSet<i64> = self
            .hosts()
            .await?
            .into_iter()
            .filter(|m| {
                (asked.area.is_empty() || m.area == asked.area)
                    && (asked.operator.is_empty() || m.operator == asked.operator)
            })
            .map(|m| m.id)
            .collect();
        let filter = berth_store::ContainerFilter { account: Some(account), limit: u32::MAX, ..Default::default() };
        let all = self.read(move |tx| Ok(tx.containers(&filter)?)).await?.into_iter().filter(|row| {
            row.replaces.is_none()
                && row.desired != "removed"
                && hosts.contains(&row.host_id)
                && crate::metering::image_name(&row.image) == asked.image
                // One that is pinned to a digest has no version to be moved to another.
                && !row.image.contains('@')
        });
        let all = all.map(crate::containers::container).collect::<Result<Vec<_>, _>>()?;
        let mut found = self.deployments_of(all).await?;
        // Containers that were made otherwise have ports, commands and networks that a successor would lose.
        found.retain(|d| d.made);
        found.sort_by_key(|d| (rank(&d.container.name, &asked.image), d.container.id));
        let share = (found.len() as u64 * u64::from(asked.percent)).div_ceil(100) as usize;
        Ok(found.into_iter().enumerate().map(|(n, d)| (d, n < share)).collect())
    }

    /// Moves a share of an image's deployments to a version, a batch at a time; halts and takes back what it moved when one
    /// does not become ready.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub async fn rollout(&self, caller: &Caller, asked: Rollout) -> Result<Command, Error> {
        if !(1..=100).contains(&asked.percent) {
            return Err(Error::invalid(Field::Percent, format!("1 to 100, not {}", asked.percent)));
        }
        crate::images::full_name(&format!("{}:{}", asked.image, asked.version))?;
        if asked.version.is_empty() {
            return Err(Error::invalid(Field::Version, "empty"));
        }
        let target = target::rollout(number_of(&["rollout", &caller.account.to_string(), &asked.image]));
        let name = format!("{} {}%", asked.image, asked.percent);
        self.submit(caller, target, name, RolloutOperation { asked }).await
    }

    /// What a roll-out comes to, now that it is its turn.
    pub(crate) async fn rollout_moves(&self, account: i64, asked: &Rollout) -> Result<Vec<Move>, Error> {
        let mut moves = Vec::new();
        for (found, chosen) in self.rollout_choice(account, asked).await? {
            let spec = found.spec.normalized();
            if chosen && spec.version != asked.version {
                let (from, to) = (spec.version, asked.version.clone());
                moves.push(Move { name: found.container.name, image: spec.image, from, to });
            }
        }
        Ok(moves)
    }

    /// Deployments of a batch of a roll-out.
    pub(crate) fn batch_of(&self, count: usize) -> usize {
        let percent = usize::from(self.settings().rollout_batch_percent.clamp(1, 100));
        (count * percent).div_ceil(100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{number_of, rank};

    #[test]
    fn shares_of_a_roll_out_are_stable_and_even() {
        let names: Vec<String> = (0..1000).map(|n| format!("d{n}")).collect();
        let first = |count: usize, names: &[String]| {
            let mut all: Vec<&String> = names.iter().collect();
            all.sort_by_key(|name| rank(name, "app"));
            all.into_iter().take(count).cloned().collect::<std::collections::BTreeSet<_>>()
        };
        let (twenty, fifty) = (first(200, &names), first(500, &names));
        assert!(twenty.is_subset(&fifty), "the same come first");
        assert_ne!(twenty, names.iter().take(200).cloned().collect());
        assert!(number_of(&["a"]) > 0 && number_of(&["a"]) != number_of(&["b"]));
    }
}
