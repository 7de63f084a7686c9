//! From an archive of code to a running application: the main job.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_engine::{Mount, MountSource, NetworkMode, PortProtocol, PortRequest, State};
use berth_image::{Budget, Pin, unpack_zip};

use crate::containers::{Container, NewContainer};
use crate::core::Core;
use crate::error::{Error, Field};
use crate::fetch::Temporary;
use crate::runtimes::{APP, PROGRAM, Runtime, RuntimeKind};
use crate::takes_connections;
use berth_identity::Caller;
use berth_types::random_hex;

/// An application to be built.
#[derive(Debug, Clone)]
pub struct NewApp {
    /// Name of the runtime.
    pub runtime: String,
    /// Where its code is: a zip archive by http or https.
    pub code_address: String,
    /// Bytes of memory.
    pub memory: u64,
}

/// An application that runs.
#[derive(Debug, Clone)]
pub struct App {
    /// Its container.
    pub container: Container,
    /// The port of the host that leads to it.
    pub port: u16,
}

impl Core {
    /// Fetches the code, puts it over the runtime's image, makes a container with that memory, publishes one free port of
    /// the settings' range, starts it, and answers when it takes connections (or runs on after the time to wait).
    ///
    /// # Errors
    /// [`Error::Invalid`] of [`Field::Runtime`], [`Field::Code`] or [`Field::Memory`]; [`Error::NoRoom`] when there is no free
    /// port, memory or disk, or too many builds are under way; [`Error::Timeout`]. Nothing is left then.
    pub async fn app_build(&self, caller: &Caller, new: NewApp) -> Result<App, Error> {
        let core = self.clone();
        let caller = *caller;
        let limit = Duration::from_secs(self.settings().build_timeout_s);
        // A task of its own, so that a client that goes away leaves nothing half done behind.
        let building = tokio::spawn(async move { core.build(&caller, new, limit).await });
        building.await.map_err(|e| Error::Bug(e.to_string()))?
    }

    async fn build(&self, caller: &Caller, new: NewApp, limit: Duration) -> Result<App, Error> {
        let settings = self.settings();
        let runtime = settings.runtimes.get(&new.runtime).cloned().ok_or_else(|| {
            let known = settings.runtimes.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::invalid(Field::Runtime, format!("{:?} is not one of {known}", new.runtime))
        })?;
        if !new.code_address.starts_with("http://") && !new.code_address.starts_with("https://") {
            return Err(Error::invalid(
                Field::Code,
                format!("invalid address {:?}: expected an http or https URL", new.code_address),
            ));
        }
        let Some(_queued) = self.inner.builds_waiting.try_take(caller.account) else {
            return Err(Error::NoRoom("too many applications wait to be built; try again later".into()));
        };
        let begun = Instant::now();
        let left = || limit.saturating_sub(begun.elapsed());
        // Asked before anything is downloaded for nothing.
        if !runtime.image.is_empty() {
            match self.image(caller, &runtime.image).await {
                Err(Error::NotFound { .. }) => {
                    // What does not arrive in time goes on arriving, for the next build.
                    // The administrator names it, in the settings.
                    let pull = self.image_pull_named_here(caller, &runtime.image);
                    let pulled = tokio::time::timeout(left(), pull).await;
                    let pulled = pulled.map_err(|_| Error::Timeout(format!("fetching image {}", runtime.image)))?;
                    pulled.map_err(|error| match error {
                        Error::Registry(error) => Error::NoRoom(format!(
                            "image {} of runtime {} is not on this server and can't be fetched ({error}); an administrator can load it (berth load) or name another in the settings",
                            runtime.image, new.runtime
                        )),
                        other => other,
                    })?;
                }
                other => drop(other?),
            }
        }
        let turn = tokio::time::timeout(left(), self.inner.builds.take(caller.account)).await;
        let _turn = turn.map_err(|_| Error::Timeout("waiting for a turn to build".into()))?;
        self.room().await?;
        let prepared = tokio::time::timeout(left(), self.code(caller, &new.code_address, runtime.clone())).await;
        let prepared = prepared.map_err(|_| {
            self.collect_layers_soon();
            Error::Timeout("fetching the code".into())
        });
        let (layer, command, pin) = prepared??;
        let asked = container_for(&runtime, &new, command, settings.port_range);
        let gate = self.inner.gate.read().await;
        let made = self.container_make(caller, asked, vec![layer], false, None).await;
        drop((gate, pin));
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                self.collect_layers_soon();
                return Err(error);
            }
        };
        match tokio::time::timeout(left(), self.start_app(caller, &made, &runtime)).await {
            Ok(Ok(container)) => {
                let port = container.ports.first().map(|p| p.host_port);
                port.map(|port| App { container, port })
                    .ok_or_else(|| Error::Bug("an application without a port".into()))
            }
            failed => {
                self.container_remove(caller, made.uid.as_str(), true).await?;
                match failed {
                    Ok(Err(error)) => Err(error),
                    _ => Err(Error::Timeout("starting the application".into())),
                }
            }
        }
    }

    /// The layer with the code, and the command that starts it.
    async fn code(
        &self,
        caller: &Caller,
        address: &str,
        runtime: Runtime,
    ) -> Result<(String, Vec<String>, Pin), Error> {
        let settings = self.settings();
        let private = settings.code_from_private_addresses && self.identity().private_allowed(caller).await?;
        let file = Temporary(self.inner.images.work_folder().join(format!("code-{}.zip", random_hex(8))));
        let bound = settings.code_max_mib << 20;
        self.inner
            .fetch
            .fetch(address, &file.0, bound, private)
            .await
            .map_err(|error| Error::invalid(Field::Code, error.to_string()))?;
        let images = self.inner.images.clone();
        let budget = Budget { bytes: settings.code_unpacked_max_mib << 20, entries: settings.code_max_entries };
        let unpacked =
            tokio::task::spawn_blocking(move || {
                let (layer, pin) = unpack_zip(&images, &file.0, Path::new(APP.trim_start_matches('/')), budget)
                    .map_err(|error| match Error::from(error) {
                        Error::Invalid { message, .. } => Error::invalid(Field::Code, message),
                        other => other,
                    })?;
                let folder = images
                    .tree(&layer.digest)
                    .ok_or_else(|| Error::Bug("a layer that was just made is gone".into()))?
                    .join(APP.trim_start_matches('/'));
                Ok((layer.digest.to_string(), runtime.start(&folder)?, pin))
            });
        let result = unpacked.await.map_err(|e| Error::Bug(e.to_string()))?;
        if result.is_err() {
            self.collect_layers_soon();
        }
        result
    }

    async fn start_app(&self, caller: &Caller, made: &Container, runtime: &Runtime) -> Result<Container, Error> {
        // A task of its own: when the time is up the start is waited for no longer, but done to its end, and the removal
        // that follows comes after it.
        let (core, caller_copy, uid) = (self.clone(), *caller, made.uid.clone());
        let starting = tokio::spawn(async move { core.container_start(&caller_copy, uid.as_str()).await });
        let started = starting.await.map_err(|e| Error::Bug(e.to_string()))??;
        let ready_by = Instant::now() + Duration::from_secs(self.settings().ready_wait_s);
        let Some(address) = started.address else { return Ok(started) };
        while Instant::now() < ready_by {
            if let State::Exited(exit) = self.inner.engine.observe(&started.uid).await?.state {
                let said = self.last_lines(caller, made).await;
                let why = if exit.oom_killed { ", out of memory (OOM-killed)" } else { "" };
                let message = format!("the application ended at once with exit code {}{why}{said}", exit.code);
                return Err(Error::invalid(Field::Code, message));
            }
            if takes_connections((address, runtime.port)).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.container(caller, made.uid.as_str()).await
    }
}

fn container_for(runtime: &Runtime, new: &NewApp, command: Vec<String>, ports: (u16, u16)) -> NewContainer {
    let mut mounts = Vec::new();
    if runtime.kind == RuntimeKind::Static {
        mounts.push(Mount { target: PROGRAM.into(), source: MountSource::Program, read_only: true });
    }
    NewContainer {
        image: runtime.image.clone(),
        entrypoint: Some(command),
        env: vec![format!("PORT={}", runtime.port)],
        working_dir: Some(APP.to_owned()),
        memory: Some(new.memory),
        mounts,
        network: NetworkMode::Bridge,
        ports: vec![PortRequest {
            protocol: PortProtocol::Tcp,
            host_ip: None,
            host_ports: ports,
            container_port: Some(runtime.port),
        }],
        labels: [("berth.runtime".to_owned(), new.runtime.clone())].into(),
        ..NewContainer::default()
    }
}
