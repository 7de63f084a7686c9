//! Changes of a container that exists, most of them while it runs.

use berth_engine::{NetworkMode, PortRequest, Resources};
use berth_store::ContainerChange;

use super::{Container, Spec, json};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::policies::RestartPolicy;
use crate::settings::Settings;
use berth_identity::Caller;

/// What is to be changed; `None` leaves a value as it is, `Some(None)` takes a bound away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUpdate {
    /// CPUs in thousandths.
    pub cpu_milli: Option<Option<u64>>,
    /// Bytes.
    pub memory: Option<Option<u64>>,
    /// Bytes of swap beyond memory.
    pub swap: Option<Option<u64>>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bits per second in.
    pub ingress: Option<Option<u64>>,
    /// Bits per second out.
    pub egress: Option<Option<u64>>,
    /// When it is started again by itself.
    pub restart: Option<RestartPolicy>,
}

/// 0.1 Mbit/s to 10 Gbit/s.
const RATES: std::ops::RangeInclusive<u64> = 100_000..=10_000_000_000;

/// Values that every container's bounds must have, at its making and later.
pub(crate) fn check_resources(to: &Resources, network: NetworkMode) -> Result<(), Error> {
    for (field, value, least) in [
        (Field::Memory, to.memory, 4 << 20),
        (Field::Pids, to.pids, 1),
        (Field::Cpus, to.cpu_milli, 10),
        (Field::Swap, to.swap, 0),
    ] {
        if value.is_some_and(|v| v < least || v > i64::MAX as u64) {
            let shown = if field == Field::Cpus { "0.01".into() } else { least.to_string() };
            return Err(Error::invalid(field, format!("expected {shown} to 2^63-1")));
        }
    }
    // The kernel's own bound of process numbers.
    if to.pids.is_some_and(|p| p > 4 << 20) {
        return Err(Error::invalid(Field::Pids, "at most 4194304"));
    }
    for (field, rate) in [(Field::Ingress, to.rates.ingress), (Field::Egress, to.rates.egress)] {
        if rate.is_some_and(|r| !RATES.contains(&r)) {
            return Err(Error::invalid(
                field,
                "expected 100000 (0.1 Mbit/s) to 10000000000 (10 Gbit/s) bits per second",
            ));
        }
        if rate.is_some() && network != NetworkMode::Bridge {
            return Err(Error::invalid(field, "bandwidth can be limited for containers on the bridge only"));
        }
    }
    Ok(())
}

/// Refuses more ports of one container, or of one group, than there may be.
pub(crate) fn check_port_count(count: usize, settings: &Settings) -> Result<(), Error> {
    let most = settings.ports_per_container;
    if count > most {
        return Err(Error::invalid(Field::Ports, format!("{count} ports were asked for; at most {most} are possible")));
    }
    Ok(())
}

/// Completes ports and checks them.
pub(crate) fn check_ports(ports: &mut [PortRequest], network: NetworkMode, settings: &Settings) -> Result<(), Error> {
    check_port_count(ports.len(), settings)?;
    if !ports.is_empty() && network != NetworkMode::Bridge {
        return Err(Error::invalid(Field::Ports, "ports can be published for containers on the bridge only"));
    }
    for port in ports {
        if port.host_ports == (0, 0) {
            port.host_ports = settings.port_range;
        }
        if port.host_ports.0 == 0 || port.host_ports.0 > port.host_ports.1 || port.container_port == Some(0) {
            return Err(Error::invalid(Field::Ports, "ports are 1 to 65535, ranges go upwards"));
        }
    }
    Ok(())
}

impl Core {
    /// Changes bounds and policy, at once if it runs. All of it or nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values that can't be, or that the kernel refuses (less memory than is used).
    pub async fn container_update(
        &self,
        caller: &Caller,
        reference: &str,
        update: ContainerUpdate,
    ) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        let before = found.stored();
        let mut after = before.clone();
        let mut to = before.unit.resources();
        to.cpu_milli = update.cpu_milli.unwrap_or(to.cpu_milli);
        to.memory = update.memory.unwrap_or(to.memory);
        to.swap = update.swap.unwrap_or(to.swap);
        to.pids = update.pids.or(to.pids);
        to.rates.ingress = update.ingress.unwrap_or(to.rates.ingress);
        to.rates.egress = update.egress.unwrap_or(to.rates.egress);
        check_resources(&to, after.unit.network)?;
        after.unit.set_resources(to);
        after.restart = update.restart.unwrap_or(after.restart);
        if after.auto_remove && after.restart != RestartPolicy::No {
            return Err(Error::invalid(
                Field::Restart,
                "a container that is removed when it has ended can't be started again",
            ));
        }
        // One that waits to be started again has its place as well.
        let _place = match found.state.is_live() || found.next_start.is_some() {
            true => self.check_change(caller, found.id, &before.unit.resources(), to).await?,
            false => None,
        };
        self.change_spec(&found, &before, after, async |core, spec| {
            match core.inner.engine.update(&found.uid, spec.unit.resources()).await {
                // Made when it is started.
                Err(berth_engine::EngineError::NoSuchUnit(_)) => Ok(()),
                other => Ok(other?),
            }
        })
        .await?;
        if update.restart == Some(RestartPolicy::No) {
            let mut noted = self.noted(found.id).await?;
            if noted.next_start.take().is_some() {
                self.record(noted, None).await?;
            }
        }
        self.container(caller, found.uid.as_str()).await
    }

    /// Has exactly these ports published, at once if it runs. Those that it has already are kept.
    ///
    /// # Errors
    /// That a port is taken; nothing is changed then.
    pub async fn container_ports(
        &self,
        caller: &Caller,
        reference: &str,
        ports: Vec<PortRequest>,
    ) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        let before = found.stored();
        let mut after = before.clone();
        after.unit.ports = ports;
        check_ports(&mut after.unit.ports, after.unit.network, &self.settings())?;
        let mut given = None;
        self.change_spec(&found, &before, after, async |core, spec| {
            match core.inner.engine.set_ports(&found.uid, &spec.unit.ports).await {
                Err(berth_engine::EngineError::NoSuchUnit(_)) => Ok(()),
                Ok(placement) => {
                    given = Some(placement.ports);
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        if let Some(ports) = given {
            // Only the ports: an end that nobody has noted yet is the reconciler's to note.
            let mut noted = self.noted(found.id).await?;
            noted.ports = ports;
            self.record(noted, Some("container.ports")).await?;
        }
        self.container(caller, found.uid.as_str()).await
    }

    /// Written down, done, and written back if it could not be done.
    async fn change_spec(
        &self,
        target: &Container,
        before: &Spec,
        after: Spec,
        act: impl AsyncFnOnce(&Self, &Spec) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.write_spec(target.id, &after).await?;
        let done = act(self, &after).await;
        if done.is_err() {
            self.write_spec(target.id, before).await?;
        }
        done
    }

    /// The container as it is written down, whatever the engine sees.
    pub(crate) async fn noted(&self, id: i64) -> Result<Container, Error> {
        let row = self.read(move |tx| Ok(tx.container(id)?)).await?;
        let row = row.ok_or_else(|| Error::NotFound { what: "container", name: id.to_string() })?;
        super::container(row)
    }

    async fn write_spec(&self, id: i64, spec: &Spec) -> Result<(), Error> {
        let spec = Some(json(spec)?);
        self.write(move |tx| {
            tx.container_change(id, &ContainerChange { spec, ..ContainerChange::default() })?;
            Ok(())
        })
        .await
    }

    /// Stops its processes where they are.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run.
    pub async fn container_pause(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        self.set_paused(caller, reference, true).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run.
    pub async fn container_resume(&self, caller: &Caller, reference: &str) -> Result<Container, Error> {
        self.set_paused(caller, reference, false).await
    }

    async fn set_paused(&self, caller: &Caller, reference: &str, paused: bool) -> Result<Container, Error> {
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let engine = &self.inner.engine;
        if paused { engine.pause(&found.uid).await } else { engine.resume(&found.uid).await }?;
        let observed = engine.observe(&found.uid).await?;
        if !matches!(observed.state, berth_engine::State::Running { .. }) {
            return self.container(caller, found.uid.as_str()).await;
        }
        let mut noted = self.noted(found.id).await?;
        noted.observe(&observed);
        self.record(noted, Some(if paused { "container.paused" } else { "container.resumed" })).await
    }
}
