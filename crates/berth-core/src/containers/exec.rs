//! Inside a container: processes that are run in it, its own, and its files.

use std::time::Duration;

use berth_engine::{ExecRequest, Files, Session};

use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::Caller;
use berth_types::now;

/// How long a process waits until others of its account have come up.
const EXEC_TURN: Duration = Duration::from_secs(30);
/// Bytes of a command that an event keeps.
const LONGEST_NOTE: usize = 1000;

/// The first arguments, as far as they are to be kept.
fn shortened(args: &[String]) -> Vec<String> {
    let mut left = LONGEST_NOTE;
    let mut kept = Vec::new();
    for arg in args {
        if arg.len() > left {
            kept.push(format!("{}…", &arg[..arg.floor_char_boundary(left)]));
            break;
        }
        left -= arg.len();
        kept.push(arg.clone());
    }
    kept
}

impl Core {
    /// Runs a further process in it.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run, [`Error::Invalid`] if it has no such program.
    pub async fn container_exec(&self, caller: &Caller, reference: &str, asked: ExecRequest) -> Result<Session, Error> {
        if asked.args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid(Field::Command, "command is required"));
        }
        let texts = asked.args.iter().chain(&asked.env).chain(&asked.working_dir).chain(&asked.user);
        if texts.into_iter().any(|t| t.contains('\0')) {
            return Err(Error::invalid(Field::Command, "a zero byte in the command or a variable"));
        }
        if let Some(wrong) = asked.env.iter().find(|v| v.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
            return Err(Error::invalid(Field::Env, format!("{wrong:?} is not KEY=value")));
        }
        let found = self.container(caller, reference).await?;
        let session = {
            // An account waits for itself: what does not come up holds processes and descriptors.
            let turn = tokio::time::timeout(EXEC_TURN, self.inner.execs.take(caller.account)).await;
            let _turn = turn.map_err(|_| {
                Error::NoRoom(
                    "many processes of this account are being started and do not come up; try again later".into(),
                )
            })?;
            self.inner.engine.exec(&found.uid, &asked).await?
        };
        let (account, uid) = (caller.account, found.uid.to_string());
        let command = shortened(&asked.args);
        let detail = serde_json::json!({ "name": found.name, "command": command, "terminal": asked.terminal });
        let event = self
            .write(move |tx| Ok(tx.event_add(now(), account, "container.exec", &uid, &detail.to_string())?))
            .await?;
        self.publish(vec![event]);
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
            self.room().await?;
        }
        let found = self.container(caller, reference).await?;
        Ok(self.inner.engine.files(&found.uid, write).await?)
    }
}
