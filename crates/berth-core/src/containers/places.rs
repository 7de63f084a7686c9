//! Places to run: how many containers of an account may run at a time, and what they may have together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{MutexGuard, PoisonError};

use berth_engine::Resources;
use berth_identity::{Caller, Role};
use berth_store::Quota;

use super::{ContainerState, Detail, Spec};
use crate::core::Core;
use crate::error::Error;

/// Containers that are being started and what they are to have: account, container.
pub(crate) type StartingOnes = HashMap<i64, HashMap<i64, Resources>>;

/// A place among the containers of an account that run, while one is being started.
pub(super) struct Starting {
    core: Core,
    account: i64,
    container: i64,
}

impl Starting {
    /// The container that is started, which had no number yet.
    pub(super) fn is(&mut self, container: i64) {
        let mut all = self.core.starting();
        if let Some(own) = all.get_mut(&self.account)
            && let Some(resources) = own.remove(&self.container)
        {
            own.insert(container, resources);
        }
        self.container = container;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut all = self.core.starting();
        if let Some(own) = all.get_mut(&self.account) {
            own.remove(&self.container);
            if own.is_empty() {
                all.remove(&self.account);
            }
        }
    }
}

/// One thing that an account has a bound of.
struct Bounded {
    what: &'static str,
    quota: Option<i64>,
    of: fn(&Resources) -> Option<u64>,
    say: fn(u64) -> String,
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn cpus(milli: u64) -> String {
    format!("{}.{:03} CPUs", milli / 1000, milli % 1000)
}

fn mbit(bits: u64) -> String {
    format!("{}.{:03} Mbit/s", bits / 1_000_000, bits / 1000 % 1000)
}

/// Whether a container may have `own` beside those that run.
fn check<'a>(quota: &Quota, own: &Resources, others: impl Iterator<Item = &'a Resources> + Clone) -> Result<(), Error> {
    let bounds = [
        Bounded { what: "memory", quota: quota.memory, of: |r| r.memory, say: mib },
        Bounded { what: "CPU time", quota: quota.cpu_milli, of: |r| r.cpu_milli, say: cpus },
        Bounded { what: "incoming bandwidth", quota: quota.bandwidth, of: |r| r.rates.ingress, say: mbit },
        Bounded { what: "outgoing bandwidth", quota: quota.bandwidth, of: |r| r.rates.egress, say: mbit },
    ];
    for Bounded { what, quota, of, say } in bounds {
        let Some(quota) = quota.and_then(|quota| u64::try_from(quota).ok()) else { continue };
        let Some(wanted) = of(own) else {
            let quota = say(quota);
            return Err(Error::NoRoom(format!(
                "the account may have {quota} of {what} in all: a container needs a bound of its own"
            )));
        };
        let taken: u64 = others.clone().filter_map(of).sum();
        if taken.saturating_add(wanted) > quota {
            let (wanted, taken, quota) = (say(wanted), say(taken), say(quota));
            return Err(Error::NoRoom(format!(
                "{wanted} of {what} are too much for the account's quota: {taken} of {quota} are taken by containers that run"
            )));
        }
    }
    Ok(())
}

impl Core {
    fn starting(&self) -> MutexGuard<'_, StartingOnes> {
        self.inner.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place to run for a container of the caller's account, by number (`None`: it is not made yet) and what it is to have; to
    /// be held until its record says that it runs. One that waits to be started again by its policy keeps its place. An
    /// administrator needs none.
    ///
    /// # Errors
    /// [`Error::NoRoom`] with the bound that is reached.
    pub(super) async fn place_to_run(
        &self,
        caller: &Caller,
        container: Option<i64>,
        own: Resources,
    ) -> Result<Option<Starting>, Error> {
        static UNNUMBERED: AtomicI64 = AtomicI64::new(-1);
        if caller.role == Role::Admin {
            return Ok(None);
        }
        let account = caller.account;
        let container = container.unwrap_or_else(|| UNNUMBERED.fetch_sub(1, Ordering::Relaxed));
        let found = self.read(move |tx| Ok(tx.account(account)?)).await?;
        let quota = found.map(|account| account.quota).unwrap_or_default();
        self.check_disk(caller, &quota).await?;
        let bound = self.settings().running_per_account as usize;
        let bound = if bound == 0 { usize::MAX } else { bound };
        let bound = quota.containers.and_then(|own| usize::try_from(own).ok()).map_or(bound, |own| own.min(bound));
        // One after the other: of two that want the last place one gets it.
        let _turn = self.inner.placing.lock().await;
        // Before the records: one that has started meanwhile is in them, or still here.
        let mut all = self.starting().get(&account).cloned().unwrap_or_default();
        let rows = self.read(move |tx| Ok(tx.containers_running_of(account)?)).await?;
        let bug = |e: serde_json::Error| Error::Bug(e.to_string());
        for row in rows {
            let counts = match ContainerState::of(&row.state) {
                ContainerState::Running | ContainerState::Paused => true,
                ContainerState::Exited => {
                    serde_json::from_str::<Detail>(&row.detail).map_err(bug)?.next_start.is_some()
                }
                ContainerState::Created => false,
            };
            if counts {
                let spec: Spec = serde_json::from_str(&row.spec).map_err(bug)?;
                all.insert(row.id, spec.unit.resources());
            }
        }
        all.remove(&container);
        if all.len() >= bound {
            let running = all.len();
            return Err(Error::NoRoom(format!("{running} containers of the account run, of {bound} that may")));
        }
        check(&quota, &own, all.values())?;
        let mut starting = self.starting();
        starting.entry(account).or_default().insert(container, own);
        drop(starting);
        Ok(Some(Starting { core: self.clone(), account, container }))
    }

    /// Whether the account's containers and volumes hold less than they may. What is on disk is looked at for accounts with such a
    /// bound only.
    async fn check_disk(&self, caller: &Caller, quota: &Quota) -> Result<(), Error> {
        let Some(quota) = quota.disk.and_then(|quota| u64::try_from(quota).ok()) else { return Ok(()) };
        let used = self.disk_use(caller).await?;
        let held = used.containers.size + used.volumes.size;
        if held < quota {
            return Ok(());
        }
        let (held, quota) = (mib(held), mib(quota));
        Err(Error::NoRoom(format!("the account's containers and volumes hold {held} of {quota} on disk")))
    }

    /// A place for other bounds of a container of the caller's account that runs; to be held until they are written down. Less of
    /// everything may be had always.
    pub(super) async fn check_change(
        &self,
        caller: &Caller,
        container: i64,
        before: &Resources,
        own: Resources,
    ) -> Result<Option<Starting>, Error> {
        let most = |value: Option<u64>| value.unwrap_or(u64::MAX);
        let of: [fn(&Resources) -> Option<u64>; 4] =
            [|r| r.memory, |r| r.cpu_milli, |r| r.rates.ingress, |r| r.rates.egress];
        if of.iter().all(|of| most(of(&own)) <= most(of(before))) {
            return Ok(None);
        }
        self.place_to_run(caller, Some(container), own).await
    }
}

#[cfg(test)]
mod tests {
    use berth_engine::{Rates, Resources};
    use berth_store::Quota;

    use super::check;

    #[test]
    fn what_runs_and_what_is_wanted_fit_into_the_quota_together() {
        let rates = Rates { ingress: Some(10_000_000), egress: Some(5_000_000) };
        let one = Resources { memory: Some(64 << 20), cpu_milli: Some(500), rates, ..Resources::default() };
        let none = Quota::default();
        assert!(check(&none, &Resources::default(), [].iter()).is_ok(), "no quota needs no bounds");
        let quota = Quota { memory: Some(128 << 20), ..none };
        assert!(check(&quota, &one, [one].iter()).is_ok());
        let error = check(&quota, &one, [one, one].iter()).expect_err("too much").to_string();
        assert!(error.contains("64 MiB of memory") && error.contains("128 MiB of 128 MiB"), "{error}");
        let unbounded = Resources { memory: None, ..one };
        let error = check(&quota, &unbounded, [].iter()).expect_err("no bound").to_string();
        assert!(error.contains("a container needs a bound of its own"), "{error}");
        let quota = Quota { cpu_milli: Some(900), ..none };
        assert!(check(&quota, &one, [one].iter()).expect_err("cpus").to_string().contains("0.500 CPUs"));
        let quota = Quota { bandwidth: Some(10_000_000), ..none };
        assert!(check(&quota, &one, [].iter()).is_ok());
        assert!(check(&quota, &one, [one].iter()).expect_err("rates").to_string().contains("incoming bandwidth"));
    }
}
