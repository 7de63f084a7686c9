//! Inside a container: processes that are run in it, its own, and its files.

use berth_engine::{ExecAsked, Files, Session};

use crate::core::Core;
use crate::error::Error;
use crate::now;
use crate::tokens::Caller;

impl Core {
    /// Runs a further process in it.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run, [`Error::Invalid`] if it has no such program.
    pub async fn container_exec(&self, caller: &Caller, reference: &str, asked: ExecAsked) -> Result<Session, Error> {
        if asked.args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "what is to be run?"));
        }
        let texts = asked.args.iter().chain(&asked.env).chain(&asked.working_dir).chain(&asked.user);
        if texts.into_iter().any(|t| t.contains('\0')) {
            return Err(Error::invalid("command", "a zero byte in the command or a variable"));
        }
        if let Some(wrong) = asked.env.iter().find(|v| v.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
            return Err(Error::invalid("env", format!("{wrong:?} is not KEY=value")));
        }
        let found = self.container(caller, reference).await?;
        let session = self.inner.engine.exec(&found.uid, &asked).await?;
        let (account, uid) = (caller.account, found.uid.to_string());
        let detail = serde_json::json!({ "name": found.name, "command": asked.args, "terminal": asked.terminal });
        let event = self
            .write(move |tx| Ok(tx.event_add(now(), account, "container.exec", &uid, &detail.to_string())?))
            .await?;
        self.tell(vec![event]);
        Ok(if asked.terminal { self.counted(found.id, session) } else { session })
    }

    /// Takes part in the conversation with its own process; with `from_start` from the beginning of its newest run, which may
    /// have ended by now.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run.
    pub async fn container_attach(&self, caller: &Caller, reference: &str, from_start: bool) -> Result<Session, Error> {
        let found = self.container(caller, reference).await?;
        let session = self.inner.engine.attach(&found.uid, from_start).await?;
        Ok(if found.spec.terminal { self.counted(found.id, session) } else { session })
    }

    /// Its files, with `write` also to be changed.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it was never started.
    pub async fn container_files(
        &self,
        caller: &Caller,
        reference: &str,
        write: bool,
    ) -> Result<Box<dyn Files>, Error> {
        if write {
            self.inner.images.room()?;
        }
        let found = self.container(caller, reference).await?;
        Ok(self.inner.engine.files(&found.uid, write).await?)
    }
}
