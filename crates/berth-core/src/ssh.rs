//! SSH for containers whose image has no server for it: who listens in them, and who may come in. The protocol is elsewhere.

pub(crate) mod listening;

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use listening::Served;

use crate::containers::{Container, container};
use crate::core::Core;
use crate::error::Error;
use crate::plans::{Plan, SSH};
use berth_identity::{Caller, Role};

/// How long a container's start waits until logins are possible.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest `authorized_keys` that is read, bytes.
const LONGEST_FILE: u64 = 256 << 10;

/// A container that is to be listened in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshEndpoint {
    /// Its number.
    pub container: i64,
    /// Its textual id.
    pub container_uid: String,
    /// Its account.
    pub account: i64,
    /// Number of its run.
    pub run: i64,
    /// Its name.
    pub name: String,
}

impl SshEndpoint {
    /// Whoever was let in by the container's own keys acts for its account.
    pub fn caller(&self) -> Caller {
        Caller::of_command(self.account, Role::User)
    }
}

impl Core {
    fn ssh_served(&self) -> std::sync::MutexGuard<'_, Served> {
        self.inner.ssh.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The containers that run and are to be listened in; calling this says that somebody does.
    ///
    /// # Errors
    /// The database's own.
    pub async fn ssh_hosts(&self) -> Result<Vec<SshEndpoint>, Error> {
        self.ssh_served().any = true;
        self.read(|tx| {
            let filter = berth_store::ContainerFilter { limit: u32::MAX, ..Default::default() };
            let mut all = Vec::new();
            for row in tx.containers(&filter)?.into_iter().filter(|row| row.desired == "running") {
                let Some(plan) = tx.plan(row.id)? else { continue };
                let plan: Plan = serde_json::from_str(&plan.plan).map_err(|e| Error::Bug(e.to_string()))?;
                if plan.ssh_by_us {
                    all.extend(host_of(&container(row)?));
                }
            }
            Ok(all)
        })
        .await
    }

    /// The container of an event, if it runs and is to be listened in.
    ///
    /// # Errors
    /// The database's own.
    pub async fn ssh_host(&self, uid: &str) -> Result<Option<SshEndpoint>, Error> {
        let wanted = uid.to_owned();
        self.read(move |tx| {
            let Some(row) = tx.container_by_uid(&wanted)? else { return Ok(None) };
            let Some(plan) = tx.plan(row.id)? else { return Ok(None) };
            let plan: Plan = serde_json::from_str(&plan.plan).map_err(|e| Error::Bug(e.to_string()))?;
            if plan.ssh_by_us { Ok(host_of(&container(row)?)) } else { Ok(None) }
        })
        .await
    }

    /// A socket that listens in the container, on the port for SSH.
    ///
    /// # Errors
    /// That it does not run, or that the port is taken in it.
    pub async fn ssh_listen(&self, host: &SshEndpoint) -> Result<berth_engine::Listening, Error> {
        let found = self.noted(host.container).await?;
        let listener = self.inner.engine.listen(&found.uid, SSH).await?;
        self.ssh_served().runs.insert(host.container, host.run);
        Ok(listener)
    }

    /// Nobody listens in it any more.
    pub fn ssh_ended(&self, host: &SshEndpoint) {
        let mut served = self.ssh_served();
        if served.runs.get(&host.container) == Some(&host.run) {
            served.runs.remove(&host.container);
        }
    }

    /// The lines of the container's own `authorized_keys` of root.
    ///
    /// # Errors
    /// That it does not run.
    pub async fn ssh_authorized(&self, host: &SshEndpoint) -> Result<Vec<String>, Error> {
        let found = self.noted(host.container).await?;
        let account = found.account;
        if self.read(move |tx| Ok(tx.account(account)?)).await?.is_none_or(|owner| owner.disabled_at.is_some()) {
            return Ok(Vec::new());
        }
        let files = self.inner.engine.files(&found.uid, false).await?;
        let read = move || {
            use std::io::Read;
            let mut text = String::new();
            let file = files.open(Path::new("/root/.ssh/authorized_keys"))?;
            file.take(LONGEST_FILE).read_to_string(&mut text).map(|_| text)
        };
        let text = tokio::task::spawn_blocking(read).await.map_err(|e| Error::Bug(e.to_string()))?;
        // No such file, or none that is text: nobody may come in.
        Ok(text.unwrap_or_default().lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
    }

    /// Returns when logins into a container that was just started are possible, or after a while.
    pub(crate) async fn await_ssh(&self, id: i64) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let found = self.noted(id).await?;
            let wanted = match self.ssh_host(found.uid.as_str()).await? {
                Some(host) => host,
                None => return Ok(()),
            };
            {
                let served = self.ssh_served();
                if !served.any || served.runs.get(&id) == Some(&wanted.run) {
                    return Ok(());
                }
            }
            if begun.elapsed() > PATIENCE {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The server's own key for SSH, in OpenSSH's form; made if it is not there.
    ///
    /// # Errors
    /// The database's own.
    pub async fn ssh_own_key(&self) -> Result<String, Error> {
        const KEY: &str = "ssh_host_key";
        if let Some(sealed) = self.read(|tx| Ok(tx.server_value(KEY)?)).await? {
            return Ok(self.identity().secrets().open_sealed(KEY, &sealed)?);
        }
        let text = berth_identity::own_key()?;
        let sealed = self.identity().secrets().seal(KEY, &text)?;
        self.write(move |tx| Ok(tx.server_value_set(KEY, &sealed)?)).await?;
        Ok(text)
    }
}

fn host_of(found: &Container) -> Option<SshEndpoint> {
    // One that is paused is served when it goes on.
    found.state.is_live().then(|| SshEndpoint {
        container: found.id,
        container_uid: found.uid.to_string(),
        account: found.account,
        run: found.runs,
        name: found.name.clone(),
    })
}
