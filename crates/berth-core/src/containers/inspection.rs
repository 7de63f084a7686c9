//! Looking into containers, and renaming them.

use berth_engine::{EngineError, Inspection, PathChange, ProcessFacts};
use berth_identity::{Caller, check_name};

use super::{Container, Spec, json};
use crate::core::Core;
use crate::error::{Error, Field};

/// Most paths of a container that are told to differ from its image's.
const MOST_PATHS: usize = 100_000;

impl Core {
    fn inspection(&self) -> Result<&dyn Inspection, Error> {
        let found = self.inner.engine.inspection();
        found.ok_or_else(|| EngineError::Unsupported("looking into containers").into())
    }

    /// The processes of a container that runs.
    ///
    /// # Errors
    /// That it does not run, or that this engine can't tell.
    pub async fn container_processes(&self, caller: &Caller, reference: &str) -> Result<Vec<ProcessFacts>, Error> {
        let found = self.container(caller, reference).await?;
        Ok(self.inspection()?.processes(&found.uid).await?)
    }

    /// Bytes that a container has written to its root file system.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn container_written(&self, caller: &Caller, reference: &str) -> Result<u64, Error> {
        let found = self.container(caller, reference).await?;
        self.written(&found).await
    }

    /// What a container has changed of its image's files, by path.
    ///
    /// # Errors
    /// That it is too much for a list, or that this engine can't tell.
    pub async fn container_changed_paths(&self, caller: &Caller, reference: &str) -> Result<Vec<PathChange>, Error> {
        let found = self.container(caller, reference).await?;
        Ok(self.inspection()?.changed_paths(&found.uid, MOST_PATHS).await?)
    }

    /// Gives a container another name, by which the account's others find it from now on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name, [`Error::Duplicate`] if another one has it.
    pub async fn container_rename(&self, caller: &Caller, reference: &str, name: &str) -> Result<Container, Error> {
        check_name(Field::Name, name)?;
        let found = self.container(caller, reference).await?;
        if found.group.is_some() {
            return Err(Error::WrongState("a container of a group has its group's name".into()));
        }
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        let before: Spec = found.stored();
        let mut after = before.clone();
        // The first one is its name; it may have the same as its host name, too.
        match after.unit.names.first_mut() {
            Some(own) => name.clone_into(own),
            None => after.unit.names.push(name.to_owned()),
        }
        let hostname = after.unit.hostname.clone();
        if !after.unit.names.contains(&hostname) {
            after.unit.names.push(hostname);
        }
        let (id, wanted, text) = (found.id, name.to_owned(), json(&after)?);
        self.write(move |tx| Ok(tx.container_rename(id, &wanted, &text)?)).await?;
        match self.inner.engine.rename(&found.uid, &after.unit.names).await {
            // Made when it is started.
            Ok(()) | Err(EngineError::NoSuchUnit(_)) => {}
            Err(error) => {
                let (name, text) = (found.name.clone(), json(&before)?);
                self.write(move |tx| Ok(tx.container_rename(id, &name, &text)?)).await?;
                return Err(error.into());
            }
        }
        self.container(caller, found.uid.as_str()).await
    }
}
