//! Images and containers as archives, and containers as images.

use std::collections::BTreeMap;
use std::io::Write;

use berth_engine::State;
use berth_image::{Commit, Digest, NamedImage, Outgoing, commit, prepare_commit, write_archive};
use serde_json::{Value, json};

use super::{Image, Origin, find, full_name};
use crate::core::Core;
use crate::error::{Error, Field};
use berth_identity::Caller;
use berth_types::now;

/// What to make of a container.
#[derive(Debug, Clone, Default)]
pub struct NewCommit {
    /// Name of the new image; none if `None`.
    pub name: Option<String>,
    /// For the history.
    pub comment: String,
    /// For the history.
    pub author: String,
    /// Whether it goes on while it is read.
    pub no_pause: bool,
    /// Instead of the container's own.
    pub command: Option<Vec<String>>,
    /// Instead of the container's own; clears the command.
    pub entrypoint: Option<Vec<String>>,
    /// Over the container's own.
    pub env: Vec<String>,
    /// Over the container's own.
    pub labels: BTreeMap<String, String>,
}

impl Core {
    /// An image, ready to be written.
    pub(crate) async fn image_outgoing(&self, caller: &Caller, reference: &str) -> Result<Outgoing, Error> {
        let (account, reference) = (caller.account, reference.to_owned());
        let row = self.read(move |tx| find(tx, account, &reference)).await?;
        let layers: Vec<Digest> = serde_json::from_str(&row.layers).map_err(|e| Error::Bug(e.to_string()))?;
        let images = self.inner.images.clone();
        let made = tokio::task::spawn_blocking(move || images.outgoing(row.config.as_bytes(), &layers));
        Ok(made.await.map_err(|e| Error::Bug(e.to_string()))??)
    }

    /// What writes these images as an archive that is both `docker save`'s and an OCI layout, for a thread that may block.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image_save(
        &self,
        caller: &Caller,
        references: &[String],
    ) -> Result<impl FnOnce(&mut dyn Write) -> Result<(), Error> + Send + use<>, Error> {
        if references.is_empty() {
            return Err(Error::invalid(Field::Image, "image is required"));
        }
        // An image that was named several times is written once, with those names.
        let mut all: Vec<(Outgoing, Vec<String>)> = Vec::new();
        for reference in references {
            let image = self.image_outgoing(caller, reference).await?;
            let found = self.image(caller, reference).await?;
            let named = full_name(reference).ok().filter(|n| found.names.contains(n) && !n.contains('@'));
            match all.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, names)) => names.extend(named),
                None => {
                    let names = match named {
                        Some(name) => vec![name],
                        // By its digest it goes with all of its names.
                        None => found.names.into_iter().filter(|n| !n.contains('@')).collect(),
                    };
                    all.push((image, names));
                }
            }
        }
        let images = self.inner.images.clone();
        Ok(move |out: &mut dyn Write| {
            let named: Vec<NamedImage<'_>> =
                all.iter().map(|(image, names)| NamedImage { image, names: names.clone() }).collect();
            Ok(write_archive(&images, &named, out)?)
        })
    }

    /// Makes an image of what a container has become. It is paused while it is read.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the disk's word.
    pub async fn container_commit(&self, caller: &Caller, reference: &str, new: NewCommit) -> Result<Image, Error> {
        let name = new.name.as_deref().map(full_name).transpose()?;
        let found = self.container(caller, reference).await?;
        let lock = self.lock(found.id);
        let _busy = lock.lock().await;
        let found = self.container(caller, found.uid.as_str()).await?;
        let (account, digest) = (found.account, found.image_digest.clone());
        let base = self
            .read(move |tx| {
                let images = tx.images_by_digest(account, digest.trim_start_matches("sha256:"))?;
                let own = images.into_iter().find(|i| i.digest == digest);
                let shared =
                    || -> Result<_, Error> { Ok(tx.images_shared()?.into_iter().find(|i| i.digest == digest)) };
                Ok(match own {
                    Some(own) => Some(own),
                    None => shared()?,
                })
            })
            .await?;
        let base: Value = base.and_then(|row| serde_json::from_str(&row.config).ok()).unwrap_or_else(|| json!({}));
        let mut commit_of = Commit {
            config: config_of(&found.spec, found.health_check.as_ref(), &base["config"], &new),
            base,
            layers: found.spec.layers.iter().filter_map(|l| l.parse().ok()).collect(),
            author: new.author,
            comment: new.comment,
            created: berth_image::rfc3339(now()),
        };
        let running =
            matches!(self.inner.engine.observe(&found.uid).await?.state, State::Running { paused: false, .. });
        let pause = running && !new.no_pause && self.inner.engine.abilities().pause.is_some();
        let images = self.inner.images.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let pins = prepare_commit(&images, &mut commit_of)?;
            Ok::<_, Error>((commit_of, pins))
        });
        let (commit_of, _pins) = prepared.await.map_err(|e| Error::Bug(e.to_string()))??;
        let files = self.inner.engine.files(&found.uid, false).await?;
        if pause {
            // Written down first: a server that is killed meanwhile has its successor let it go on.
            let noted = self.noted(found.id).await?;
            self.record(crate::Container { reading: true, ..noted }, None).await?;
            if let Err(error) = self.inner.engine.pause(&found.uid).await {
                let noted = self.noted(found.id).await?;
                self.record(crate::Container { reading: false, ..noted }, None).await?;
                return Err(error.into());
            }
        }
        let images = self.inner.images.clone();
        // It goes on as soon as it is read: what is made of that, and brought to disk, takes longer.
        let (is_read, mut was_read) = tokio::sync::oneshot::channel::<()>();
        let mut making = tokio::task::spawn_blocking(move || -> Result<_, Error> {
            let (read, write) = std::io::pipe().map_err(|e| Error::Bug(e.to_string()))?;
            let reading = std::thread::spawn(move || {
                let mut out = std::io::BufWriter::with_capacity(256 * 1024, write);
                let _is_read = is_read;
                files.difference(&mut out).and_then(|()| out.flush())
            });
            let made = commit(&images, commit_of, read);
            let read = reading.join().map_err(|_| Error::Bug("reading a container was broken off".into()))?;
            // The one that failed first makes the other fail, too: reading is the cause unless its reader went away.
            match (made, read) {
                (Err(error), Err(broken)) if broken.kind() == std::io::ErrorKind::BrokenPipe => Err(error.into()),
                (_, Err(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                    Err(Error::WrongState("this engine can't read what differs from the image".into()))
                }
                (_, Err(error)) => Err(Error::Bug(format!("read a container's files: {error}"))),
                (made, Ok(())) => Ok(made?),
            }
        });
        let early = tokio::select! {
            _ = &mut was_read => None,
            made = &mut making => Some(made),
        };
        if pause && let Err(error) = self.inner.engine.resume(&found.uid).await {
            // It may have been killed meanwhile.
            tracing::warn!(container = %found.uid, %error, "a container that was paused to be read could not go on");
        }
        if pause {
            let noted = self.noted(found.id).await?;
            self.record(crate::Container { reading: false, ..noted }, None).await?;
        }
        let made = match early {
            Some(made) => made,
            None => making.await,
        };
        let imported = made.map_err(|e| Error::Bug(e.to_string()))??;
        self.image_keep(caller, imported, name.into_iter().collect(), Origin::Committed).await
    }

    /// What writes a container's whole file system as a tar, for a thread that may block.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn container_export(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + use<>, Error> {
        let files = self.container_files(caller, reference, false).await?;
        Ok(move |out: &mut dyn Write| files.export(out))
    }
}

/// The configuration of an image made of a container: how that was run, with what was asked for on top.
fn config_of(
    unit: &berth_engine::UnitSpec,
    health: Option<&crate::policies::HealthCheck>,
    base: &Value,
    new: &NewCommit,
) -> Value {
    let mut config = if base.is_object() { base.clone() } else { json!({}) };
    let had_entrypoint = base["Entrypoint"].as_array().is_some_and(|e| !e.is_empty());
    let entrypoint: Vec<String> = serde_json::from_value(base["Entrypoint"].clone()).unwrap_or_default();
    // What was run: the image's entry point if that is how it begins, all of it as a command otherwise.
    if had_entrypoint && unit.args.starts_with(&entrypoint) {
        config["Cmd"] = json!(unit.args[entrypoint.len()..]);
    } else {
        config["Entrypoint"] = Value::Null;
        config["Cmd"] = json!(unit.args);
    }
    if let Some(entrypoint) = &new.entrypoint {
        config["Entrypoint"] = json!(entrypoint);
        config["Cmd"] = Value::Null;
    }
    if let Some(command) = &new.command {
        config["Cmd"] = json!(command);
    }
    let mut env = unit.env.clone();
    for variable in &new.env {
        env.retain(|have| have.split('=').next() != variable.split('=').next());
        env.push(variable.clone());
    }
    config["Env"] = json!(env);
    config["WorkingDir"] = json!(unit.working_dir);
    config["User"] = json!(unit.user);
    if let Some(health) = health.and_then(crate::policies::HealthCheck::as_image) {
        config["Healthcheck"] = json!(health);
    }
    let mut labels: BTreeMap<String, String> = serde_json::from_value(base["Labels"].clone()).unwrap_or_default();
    labels.extend(new.labels.clone());
    config["Labels"] = json!(labels);
    config
}

#[cfg(test)]
mod tests {
    use berth_engine::contract::plain;
    use serde_json::json;

    use super::{NewCommit, config_of};
    use crate::policies::{HealthCheck, HealthTest};

    #[test]
    fn the_way_a_container_was_run_becomes_its_images() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut unit = plain("a", &[], &words("/start serve --fast"));
        unit.env = vec!["A=1".into()];
        let base = json!({ "Entrypoint": ["/start"], "Cmd": ["serve"], "Labels": { "x": "1" }, "Healthcheck": { "Test": ["NONE"] } });
        let new =
            NewCommit { env: vec!["A=2".into()], labels: [("y".into(), "2".into())].into(), ..NewCommit::default() };
        let config = config_of(&unit, None, &base, &new);
        assert_eq!(config["Entrypoint"], json!(["/start"]));
        assert_eq!(config["Cmd"], json!(["serve", "--fast"]));
        assert_eq!(config["Env"], json!(["A=2"]));
        assert_eq!(config["Labels"], json!({ "x": "1", "y": "2" }));
        assert_eq!(config["Healthcheck"]["Test"], json!(["NONE"]));
        unit.args = words("sh");
        assert_eq!(config_of(&unit, None, &base, &NewCommit::default())["Entrypoint"], json!(null));
        let other = NewCommit { entrypoint: Some(words("/new")), ..NewCommit::default() };
        assert_eq!(config_of(&unit, None, &base, &other)["Cmd"], json!(null));
        let check = HealthCheck::new(HealthTest::Exec(words("test -e /ok")));
        let config = config_of(&unit, Some(&check), &base, &NewCommit::default());
        let kept = serde_json::from_value(config["Healthcheck"].clone()).expect("as an image has it");
        assert_eq!(HealthCheck::of_image(&kept), Some(check));
    }
}
