//! Making containers: everything that a request left open is decided here.

use std::path::Path;

use berth_engine::{Mount, MountSource, NetworkMode, PortProtocol, PortRequest, Rates, Resources, UnitId, UnitSpec};
use berth_image::Config;

use super::change::{check_ports, check_resources};
use super::tenant_of;
use super::{Container, Detail, Member, NewContainer, Spec, container, json};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::images::full_name;
use crate::policies::{HealthCheck, HealthTest, RestartPolicy};
use berth_identity::{Caller, Role, check_name};
use berth_types::{now, random_hex};

/// Longest time that a container may have to end by itself, seconds.
const LONGEST_GRACE_S: u64 = 3600;

/// Signals by name and number, for what images and clients write.
pub fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 15] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<i32>().ok()) {
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}

/// A container that is about to be written down.
pub(crate) struct Prepared {
    uid: UnitId,
    name: String,
    new: NewContainer,
}

impl Prepared {
    /// What it is to have, as far as an account's quotas go.
    fn resources(&self) -> Resources {
        let NewContainer { cpu_milli, memory, swap, pids, ingress, egress, .. } = self.new;
        Resources { cpu_milli, memory, swap, pids, rates: Rates { ingress, egress } }
    }
}

/// Where mounts are to be: each at a place of its own, told in one way.
fn check_places(mounts: &mut [Mount]) -> Result<(), Error> {
    for index in 0..mounts.len() {
        // `/a`, `/a/` and `/a//.` are one place.
        let target = &mounts[index].target;
        let place: std::path::PathBuf =
            target.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
        if mounts[..index].iter().any(|other| other.target == place) {
            return Err(Error::invalid(Field::Mounts, format!("duplicate mount target {}", place.display())));
        }
        mounts[index].target = place;
    }
    Ok(())
}

/// Arguments and environment, of the request and the image.
fn program_of(new: &NewContainer, image: &Config) -> Result<(Vec<String>, Vec<String>), Error> {
    let args = match (&new.entrypoint, &new.command) {
        (Some(entrypoint), command) => entrypoint.iter().chain(command.iter().flatten()).cloned().collect::<Vec<_>>(),
        (None, Some(command)) => image.entrypoint.iter().chain(command).cloned().collect(),
        (None, None) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(Field::Command, "command is required: neither the request nor the image has one"));
    }
    let mut env = image.env.clone();
    for variable in &new.env {
        let Some((key, _)) = variable.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Error::invalid(Field::Env, format!("{variable:?} is not KEY=value")));
        };
        env.retain(|have| have.split('=').next() != Some(key));
        env.push(variable.clone());
    }
    if args.iter().chain(&env).any(|text| text.contains('\0')) {
        return Err(Error::invalid(Field::Command, "a zero byte in the command or a variable"));
    }
    let texts = [&new.working_dir, &new.user].into_iter().flatten().map(String::as_str);
    let labels = new.labels.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]);
    if texts.chain(labels).any(|text| text.contains('\0') || text.len() > 4096) {
        return Err(Error::invalid(
            Field::Request,
            "a zero byte, or more than 4096 bytes, in user, working_dir or a label",
        ));
    }
    Ok((args, env))
}

/// The ports that an image exposes, but for those that are published already: each on any port of the host.
fn exposed(image: &Config, published: &[PortRequest]) -> Vec<PortRequest> {
    let mut all = Vec::new();
    for text in image.exposed_ports.keys() {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = if protocol == "udp" { PortProtocol::Udp } else { PortProtocol::Tcp };
        let Ok(port) = port.parse::<u16>() else { continue };
        if !published.iter().any(|has| has.container_port == Some(port) && has.protocol == protocol) {
            all.push(PortRequest { host_ip: None, host_ports: (0, 0), container_port: Some(port), protocol });
        }
    }
    all
}

fn host_name_of(new: &NewContainer, uid: &UnitId) -> Result<String, Error> {
    let host_name = new.hostname.clone().unwrap_or_else(|| uid.to_string());
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host_name.is_empty() || host_name.len() > 63 || !host_name.chars().all(good) {
        return Err(Error::invalid(Field::Hostname, format!("{host_name:?}: 1 to 63 letters, digits, '-', '.', '_'")));
    }
    Ok(host_name)
}

impl Core {
    fn decide(
        &self,
        caller: &Caller,
        new: &NewContainer,
        uid: &UnitId,
        name: &str,
        image: &Config,
        layers: Vec<String>,
    ) -> Result<Spec, Error> {
        let settings = self.settings();
        let (args, env) = program_of(new, image)?;
        if new.stop_signal.is_some_and(|s| !(1..=64).contains(&s)) {
            return Err(Error::invalid(Field::StopSignal, "expected a signal number from 1 to 64"));
        }
        if new.stop_timeout_s.is_some_and(|seconds| seconds > LONGEST_GRACE_S) {
            return Err(Error::invalid(Field::StopTimeout, format!("expected 0 to {LONGEST_GRACE_S} seconds")));
        }
        if caller.role != Role::Admin && new.new_privileges {
            return Err(Error::Forbidden("new_privileges is for administrators".into()));
        }
        let resources = Resources {
            cpu_milli: new.cpu_milli,
            memory: new.memory,
            swap: new.swap,
            pids: Some(new.pids.unwrap_or(settings.pids_limit)),
            rates: Rates { ingress: new.ingress, egress: new.egress },
        };
        check_resources(&resources, new.network)?;
        if new.shm_size.is_some_and(|v| !(4096..=i64::MAX as u64).contains(&v)) {
            return Err(Error::invalid(Field::ShmSize, "expected 4096 to 2^63-1 bytes"));
        }
        if new.auto_remove && new.restart != RestartPolicy::No {
            return Err(Error::invalid(
                Field::Restart,
                "a container that is removed when it has ended can't be started again",
            ));
        }
        let health = match &new.health {
            Some(own) => own.clone(),
            None => image.healthcheck.as_ref().and_then(HealthCheck::of_image),
        };
        if let Some(Some(check)) = &new.health {
            check.check()?;
            if new.network == NetworkMode::None && !matches!(check.test, HealthTest::Exec(_)) {
                return Err(Error::invalid(
                    Field::Health,
                    "a container without a network needs a command as its health check",
                ));
            }
        }
        let host_name = host_name_of(new, uid)?;
        if let Some((field, message)) = new.extras.fault() {
            return Err(Error::invalid(field, message));
        }
        // With these a process gets processor time before all others of the machine, whatever its CPU limit is.
        let over_others = |limit: &&berth_types::Ulimit| matches!(limit.name.as_str(), "rtprio" | "nice");
        if caller.role != Role::Admin
            && let Some(limit) = new.extras.ulimits.iter().find(over_others)
        {
            return Err(Error::Forbidden(format!("ulimit {} is for administrators", limit.name)));
        }
        let mut ports = new.ports.clone();
        if new.publish_all {
            ports.extend(exposed(image, &new.ports));
        }
        check_ports(&mut ports, new.network, &settings)?;
        // The name by which it was made, its own id, and what it calls itself.
        let mut names = vec![name.to_owned(), uid.to_string(), host_name.clone()];
        names.dedup();
        let image_signal = image.stop_signal.as_deref().and_then(signal_number);
        Ok(Spec {
            unit: UnitSpec {
                id: uid.clone(),
                host: new.host.as_ref().map(|(_, uid)| uid.clone()).unwrap_or_default(),
                image: full_name(&new.image).unwrap_or_else(|_| new.image.clone()),
                layers,
                args,
                env,
                working_dir: new.working_dir.clone().unwrap_or_else(|| image.working_dir.clone()),
                user: new.user.clone().unwrap_or_else(|| image.user.clone()),
                hostname: host_name,
                cpu_milli: resources.cpu_milli,
                memory: resources.memory,
                swap: resources.swap,
                pids: resources.pids,
                shm_size: new.shm_size.unwrap_or(64 << 20),
                read_only: new.read_only,
                new_privileges: new.new_privileges,
                mounts: new.mounts.clone(),
                network: new.network,
                ports,
                tenant: tenant_of(caller.account),
                names,
                rates: resources.rates,
                stdin: new.stdin,
                terminal: new.terminal,
                extras: new.extras.clone(),
                size: new.size,
                host_network_trusted: caller.role == Role::Admin,
            },
            labels: new.labels.clone(),
            stop_signal: new.stop_signal.or(image_signal).unwrap_or(15),
            stop_timeout_s: new.stop_timeout_s.unwrap_or(settings.stop_timeout_s).min(LONGEST_GRACE_S),
            auto_remove: new.auto_remove,
            attended: new.attended,
            restart: new.restart,
            health,
        })
    }

    /// Folders below which an account may mount; `{account}` in a setting is its name.
    fn bind_prefixes(&self, caller: &Caller) -> Result<Vec<String>, Error> {
        let all = &self.settings().bind_prefixes;
        if caller.role == Role::Admin || !all.iter().any(|prefix| prefix.contains("{account}")) {
            return Ok(all.clone());
        }
        let accounts = self.inner.store.read_now(|tx| Ok::<_, Error>(tx.accounts()?))?;
        let name = accounts.into_iter().find(|a| a.id == caller.account).map(|a| a.name);
        let name = name.ok_or_else(|| Error::Bug(format!("account {} is gone", caller.account)))?;
        // As a part of a path it must be one, whatever accounts may be called.
        if name.contains('/') || name.starts_with('.') {
            return Ok(all.iter().filter(|prefix| !prefix.contains("{account}")).cloned().collect());
        }
        Ok(all.iter().map(|prefix| prefix.replace("{account}", &name)).collect())
    }

    pub(crate) fn check_mounts(&self, caller: &Caller, mounts: &mut [Mount]) -> Result<(), Error> {
        check_places(mounts)?;
        let prefixes = self.bind_prefixes(caller)?;
        for mount in mounts {
            let plain = |path: &Path| {
                path.is_absolute() && !path.components().any(|c| matches!(c, std::path::Component::ParentDir))
            };
            if !plain(&mount.target) || mount.target == Path::new("/") {
                return Err(Error::invalid(Field::Mounts, format!("invalid mount target {}", mount.target.display())));
            }
            if matches!(mount.source, MountSource::Tmpfs { size } if size == 0 || size > i64::MAX as u64) {
                return Err(Error::invalid(
                    Field::Mounts,
                    format!("invalid tmpfs size {}: expected 1 to 2^63-1 bytes", mount.target.display()),
                ));
            }
            if let MountSource::Bind { source } = &mut mount.source {
                if !plain(source) {
                    return Err(Error::invalid(Field::Mounts, format!("{} is not an absolute path", source.display())));
                }
                let allowed = caller.role == Role::Admin || prefixes.iter().any(|p| source.starts_with(p));
                if !allowed {
                    return Err(Error::Forbidden(format!("{} may not be mounted by this account", source.display())));
                }
                // A link below an allowed folder could lead anywhere. The engine is given the path without links, and
                // refuses one that has any by the time of the start.
                let real = std::fs::canonicalize(&*source)
                    .map_err(|e| Error::invalid(Field::Mounts, format!("{}: {e}", source.display())))?;
                if caller.role != Role::Admin && !prefixes.iter().any(|p| real.starts_with(p)) {
                    return Err(Error::Forbidden(format!("{} leads out of what may be mounted", source.display())));
                }
                *source = real;
            }
        }
        Ok(())
    }

    /// Makes a container; with `start` it is started, too. `layers_above` go on top of the image's (an application's code).
    ///
    /// # Errors
    /// What is wrong with the request, that a name or port is taken, or that there is no room. Nothing is left then.
    pub async fn container_create(&self, caller: &Caller, new: NewContainer, start: bool) -> Result<Container, Error> {
        self.container_make(caller, new, Vec::new(), start, None).await
    }

    /// What can be decided of a container before it is written down.
    pub(crate) async fn container_prepare(&self, caller: &Caller, mut new: NewContainer) -> Result<Prepared, Error> {
        let uid: UnitId = random_hex(6).parse().map_err(Error::Bug)?;
        let name = match &new.name {
            Some(name) => {
                check_name(Field::Name, name)?;
                name.clone()
            }
            None => uid.to_string(),
        };
        check_places(&mut new.mounts)?;
        self.mount_volumes(caller, &mut new.mounts).await?;
        if !new.mounts.is_empty() {
            // Looks at the host's files, which may hang: neither this thread nor the database's writer may wait for it.
            let mut mounts = std::mem::take(&mut new.mounts);
            let (checking, caller) = (self.clone(), *caller);
            let checked =
                tokio::task::spawn_blocking(move || checking.check_mounts(&caller, &mut mounts).map(|()| mounts));
            new.mounts = checked.await.map_err(|e| Error::Bug(e.to_string()))??;
        }
        Ok(Prepared { uid, name, new })
    }

    /// Writes a container down, and the event that tells of it.
    pub(crate) fn container_add(
        &self,
        tx: &berth_store::Tx<'_>,
        caller: &Caller,
        prepared: Prepared,
        layers_above: Vec<String>,
        start: bool,
        member: Option<Member>,
    ) -> Result<(Container, berth_store::Event), Error> {
        let Prepared { uid, name, new } = prepared;
        let account = caller.account;
        // No image at all (the layers above are everything) is for runtimes that bring their own program.
        let (image_name, digest, config, mut layers) = if new.image.is_empty() && !layers_above.is_empty() {
            (String::new(), String::new(), Config::default(), Vec::new())
        } else {
            let row = match new.image_number {
                Some(id) => tx.image(id)?.filter(|row| row.shared || row.account_id == account),
                None => Some(crate::images::find(tx, account, &new.image)?),
            };
            let row = row.ok_or_else(|| Error::NotFound { what: "image", name: new.image.clone() })?;
            let unreadable = |e: serde_json::Error| Error::Bug(format!("image {}: {e}", row.id));
            let config: berth_image::ImageConfig = serde_json::from_str(&row.config).map_err(unreadable)?;
            let layers: Vec<String> = serde_json::from_str(&row.layers).map_err(unreadable)?;
            tx.image_used(row.id, now())?;
            (new.image.clone(), row.digest.clone(), config.config, layers)
        };
        layers.extend(layers_above);
        if layers.is_empty() {
            return Err(Error::invalid(Field::Image, "the image has no layers"));
        }
        // What was found before this transaction may have been removed since.
        for mount in &new.mounts {
            if let MountSource::Volume { name, source, .. } = &mount.source {
                let row = tx.volume(account, name)?;
                if row.is_none_or(|row| !source.ends_with(&row.folder)) {
                    return Err(Error::WrongState(format!("volume {name} was removed in the meantime")));
                }
            }
        }
        if new.network == NetworkMode::Host {
            self.identity().check_host_network(tx, caller)?;
        }
        let spec = self.decide(caller, &new, &uid, &name, &config, layers.clone())?;
        // A group that is gone, or going, gets no more members.
        if let Some(member) = &member
            && tx.group(member.group)?.is_none_or(|group| group.desired == "removed")
        {
            return Err(Error::NotFound { what: "group", name: member.group.to_string() });
        }
        let mut row = berth_store::Container {
            id: 0,
            uid: uid.to_string(),
            account_id: account,
            name,
            image: image_name,
            image_digest: digest,
            layers: json(&layers)?,
            spec: json(&spec)?,
            desired: if start { "running" } else { "stopped" }.into(),
            state: "created".into(),
            run: i64::from(start),
            detail: json(&Detail::default())?,
            created_at: now(),
            group_id: member.as_ref().map(|m| m.group),
            shape: member.as_ref().map(|m| m.shape.clone()).unwrap_or_default(),
            version: member.as_ref().map_or(0, |m| m.version),
            replaces: member.as_ref().and_then(|m| m.replaces).or(new.replaces),
            host_id: new.host.as_ref().map_or(1, |(id, _)| *id),
        };
        row.id = tx.container_add(&row)?;
        if let Some(key) = &new.key {
            tx.idempotency_about(account, key, &row.uid)?;
        }
        let detail = serde_json::json!({ "name": row.name, "image": row.image, "group": row.group_id }).to_string();
        let event = tx.event_add(row.created_at, account, "container.created", &row.uid, &detail)?;
        Ok((container(row)?, event))
    }

    pub(crate) async fn container_make(
        &self,
        caller: &Caller,
        new: NewContainer,
        layers_above: Vec<String>,
        start: bool,
        member: Option<Member>,
    ) -> Result<Container, Error> {
        let prepared = self.container_prepare(caller, new).await?;
        let place = if start { self.place_to_run(caller, None, prepared.resources()).await } else { Ok(None) };
        let mut place = match place {
            Ok(place) => place,
            Err(error) => {
                self.remove_anonymous(caller.account, &prepared.new.mounts).await;
                return Err(error);
            }
        };
        let (core, caller) = (self.clone(), *caller);
        let mounts = prepared.new.mounts.clone();
        let made = self.write(move |tx| core.container_add(tx, &caller, prepared, layers_above, start, member)).await;
        let (made, event) = match made {
            Ok(made) => made,
            Err(error) => {
                self.remove_anonymous(caller.account, &mounts).await;
                return Err(error);
            }
        };
        if let Some(place) = &mut place {
            place.is(made.id);
        }
        let lock = self.lock(made.id);
        let _busy = lock.lock().await;
        self.publish(vec![event]);
        // Somebody may have removed it before this one had the lock.
        let id = made.id;
        if self.read(move |tx| Ok(tx.container(id)?)).await?.is_none_or(|row| row.desired == "removed") {
            return Err(Error::NotFound { what: "container", name: made.name });
        }
        let placed = self.inner.engine.create(&made.spec).await;
        let result = match placed {
            Ok(placement) if start => {
                self.run(Container { address: placement.address, ports: placement.ports, ..made.clone() }).await
            }
            Ok(placement) => {
                let placed = Container { address: placement.address, ports: placement.ports, ..made.clone() };
                self.record(placed, None).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            self.set_desired(made.id, "removed").await?;
            self.erase(&made).await?;
            self.remove_anonymous(made.account, &made.spec.mounts).await;
            return Err(error);
        }
        result
    }
}
