//! Hosts that run containers: what is read from them, what people say about them, and whether they are there.

pub(crate) mod settings;

use berth_engine::HostFacts;

pub use settings::HostSettings;

use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::{Caller, Role};
use berth_types::now;

/// Between two looks at who is there.
const PERIOD: std::time::Duration = std::time::Duration::from_secs(10);

/// A host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Number, never used again.
    pub id: i64,
    /// Its name; people may give it another than its own.
    pub name: String,
    /// Where it stands.
    pub area: String,
    /// Whose network it is in.
    pub operator: String,
    /// What that carries, Mbit/s; 0 if nobody has said.
    pub bandwidth_mbit: i64,
    /// What was read from it.
    pub facts: HostFacts,
    /// Whether it was heard of lately.
    pub ready: bool,
    /// When it was heard of last, nanoseconds since 1970.
    pub heartbeat_at: i64,
    /// Since when it is known, nanoseconds since 1970.
    pub created_at: i64,
}

/// What the containers that run on a host may have, and what they have now.
#[derive(Debug, Clone, Default)]
pub struct HostUse {
    /// Containers that run.
    pub running: u64,
    /// All containers.
    pub containers: u64,
    /// Thousandths of CPUs that those that run may use, of those with a bound.
    pub cpu_milli: u64,
    /// Bytes of memory that those that run may use, of those with a bound.
    pub memory: u64,
    /// How many that run have no bound of CPU time.
    pub without_cpu_bound: u64,
    /// How many that run have no bound of memory.
    pub without_memory_bound: u64,
    /// CPUs that are used now, on average over a tenth of a second.
    pub cpus_used: f64,
    /// Bytes of memory that are used now.
    pub memory_used: u64,
}

/// Time between two readings of CPU use.
const USE_WINDOW: std::time::Duration = std::time::Duration::from_millis(100);

/// What people say about a host; `None` leaves a value as it is.
pub type HostLabels = berth_store::HostLabels;

fn check(labels: &HostLabels, operators: &[String]) -> Result<(), Error> {
    for (field, text) in [(Field::Name, &labels.name), (Field::Area, &labels.area), (Field::Operator, &labels.operator)]
    {
        let wrong = |text: &str| text.chars().count() > 64 || text.chars().any(char::is_control);
        if text.as_deref().is_some_and(wrong) {
            return Err(Error::invalid(field, "at most 64 characters, none of them a control character"));
        }
    }
    if labels.name.as_deref().is_some_and(|name| name.is_empty() || name.contains(',')) {
        return Err(Error::invalid(Field::Name, "must not be empty or contain a comma"));
    }
    let known = |name: &str| name.is_empty() || operators.is_empty() || operators.iter().any(|known| known == name);
    if let Some(operator) = labels.operator.as_deref().filter(|name| !known(name)) {
        return Err(Error::invalid(
            Field::Operator,
            format!("invalid operator {operator:?}: expected one of {}", operators.join(", ")),
        ));
    }
    if labels.bandwidth_mbit.is_some_and(|mbit| !(0..=10_000_000).contains(&mbit)) {
        return Err(Error::invalid(Field::BandwidthMbit, "0 to 10000000"));
    }
    Ok(())
}

impl Core {
    pub(crate) fn host_of_row(&self, row: berth_store::Host) -> Result<Host, Error> {
        let lease = i64::try_from(self.settings().host.lease_s.max(1)).unwrap_or(i64::MAX / 2_000_000_000);
        let facts = serde_json::from_str(&row.facts)
            .map_err(|e| Error::Bug(format!("host {} in the database: {e}", row.id)))?;
        Ok(Host {
            id: row.id,
            name: row.name,
            area: row.area,
            operator: row.operator,
            bandwidth_mbit: row.bandwidth_mbit,
            facts,
            ready: now().saturating_sub(row.heartbeat_at) < lease.saturating_mul(1_000_000_000),
            heartbeat_at: row.heartbeat_at,
            created_at: row.created_at,
        })
    }

    /// All hosts.
    ///
    /// # Errors
    /// The database's own.
    pub async fn hosts(&self) -> Result<Vec<Host>, Error> {
        self.read(|tx| Ok(tx.hosts()?)).await?.into_iter().map(|row| self.host_of_row(row)).collect()
    }

    /// The host with this textual id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn host_by_uid(&self, uid: &str) -> Result<Host, Error> {
        let wanted = uid.to_owned();
        let row = self.read(move |tx| Ok(tx.host_by_uid(&wanted)?)).await?;
        self.host_of_row(row.ok_or_else(|| Error::NotFound { what: "host", name: uid.to_owned() })?)
    }

    /// What containers on a host have and use: those of all accounts for an administrator, else the account's own.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the engine's own.
    pub async fn host_use(&self, caller: &Caller, reference: &str) -> Result<HostUse, Error> {
        let host = self.host_by(reference).await?.id;
        let account = (caller.role != Role::Admin).then_some(caller.account);
        let rows = self.read(move |tx| Ok(tx.containers_on_host(account, host)?)).await?;
        let mut found = HostUse { containers: rows.len() as u64, ..HostUse::default() };
        let mut ids = Vec::new();
        for row in rows {
            let container = crate::containers::container(row)?;
            if !container.state.is_live() {
                continue;
            }
            found.running += 1;
            match container.spec.cpu_milli {
                Some(milli) => found.cpu_milli = found.cpu_milli.saturating_add(milli),
                None => found.without_cpu_bound += 1,
            }
            match container.spec.memory {
                Some(bytes) => found.memory = found.memory.saturating_add(bytes),
                None => found.without_memory_bound += 1,
            }
            ids.push(container.uid);
        }
        let before: std::collections::BTreeMap<_, _> = self.inner.engine.stats(&ids).await?.into_iter().collect();
        tokio::time::sleep(USE_WINDOW).await;
        for (uid, now) in self.inner.engine.stats(&ids).await? {
            found.memory_used = found.memory_used.saturating_add(now.memory);
            if let Some(before) = before.get(&uid) {
                let time = (now.at - before.at).max(1) as f64;
                found.cpus_used += now.cpu_ns.saturating_sub(before.cpu_ns) as f64 / time;
            }
        }
        Ok(found)
    }

    /// Says something about a host, found by its number, textual id or name; for administrators.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Invalid`].
    pub async fn host_label(&self, caller: &Caller, reference: &str, labels: HostLabels) -> Result<Host, Error> {
        if caller.role != Role::Admin {
            return Err(Error::Forbidden("hosts are labelled by administrators".into()));
        }
        check(&labels, &self.settings().operators)?;
        let found = self.host_by(reference).await?;
        self.write(move |tx| Ok(tx.host_label(found.id, &labels)?)).await?;
        self.host_by_uid(&found.facts.id).await
    }

    /// A host by its number, textual id or name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] if several are called so.
    pub async fn host_by(&self, reference: &str) -> Result<Host, Error> {
        let wanted = reference.to_owned();
        let mut found = self
            .read(move |tx| {
                let mut exact = tx.host_by_uid(&wanted)?;
                if let (None, Ok(id)) = (&exact, wanted.parse()) {
                    exact = tx.host(id)?;
                }
                Ok(match exact {
                    Some(row) => vec![row],
                    None => tx.hosts_named(&wanted)?,
                })
            })
            .await?;
        if found.len() > 1 {
            return Err(Error::invalid(Field::Host, format!("several hosts are called {reference:?}")));
        }
        self.host_of_row(found.pop().ok_or_else(|| Error::NotFound { what: "host", name: reference.to_owned() })?)
    }

    /// Looks who is there, once.
    pub(crate) async fn register_hosts(&self) -> Result<(), Error> {
        let all = self.inner.engine.hosts().await?;
        let own = self.settings().host.clone();
        let mut heard = Vec::with_capacity(all.len());
        for facts in all {
            let text = serde_json::to_string(&facts).map_err(|e| Error::Bug(e.to_string()))?;
            heard.push((facts.id, facts.name, text));
        }
        check(
            &HostLabels {
                name: Some(own.name.clone()).filter(|name| !name.is_empty()),
                area: Some(own.area.clone()),
                operator: Some(own.operator.clone()),
                bandwidth_mbit: Some(own.bandwidth_mbit),
            },
            &self.settings().operators,
        )?;
        self.write(move |tx| {
            let at = now();
            for (number, (id, name, text)) in heard.iter().enumerate() {
                tx.host_heard(id, name, text, at)?;
                if number > 0 {
                    continue;
                }
                // What the settings say goes before what was said by hand.
                let said = |text: &String| (!text.is_empty()).then(|| text.clone());
                let labels = HostLabels {
                    name: said(&own.name),
                    area: said(&own.area),
                    operator: said(&own.operator),
                    bandwidth_mbit: (own.bandwidth_mbit > 0).then_some(own.bandwidth_mbit),
                };
                if labels != HostLabels::default()
                    && let Some(row) = tx.host_by_uid(id)?
                {
                    tx.host_label(row.id, &labels)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Looks again and again.
    pub(crate) fn begin_registering_hosts(&self) {
        let weak = std::sync::Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                let Some(inner) = weak.upgrade() else { return };
                let core = Self { inner };
                if let Err(error) = core.register_hosts().await {
                    tracing::warn!(error = error.chain(), "hosts could not be looked for");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::HostSettings;

    #[test]
    fn what_is_not_set_is_as_documented() {
        let some: HostSettings = serde_json::from_str(r#"{"area": "x"}"#).expect("settings");
        assert_eq!((some.area.as_str(), some.lease_s), ("x", 40));
    }
}
