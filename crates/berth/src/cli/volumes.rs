//! Commands about volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_api::wire::{Volume, VolumeCreate};
use berth_client::Client;

use super::containers::each;
use super::files::{body_of, write_body};
use super::filters::{Filters, has_label};
use super::format::{self, Format};
use super::scope::Scope;
use super::{listing, output, shapes};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create {
        /// Label KEY=value
        #[arg(long, short)]
        label: Vec<String>,
        /// local: there are no others
        #[arg(long, short, value_parser = ["local"])]
        driver: Option<String>,
        /// As the name that follows
        #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
        named: Option<String>,
        /// Name; made up if it is missing
        name: Option<String>,
    },
    /// List volumes
    Ls {
        /// Print names only
        #[arg(long, short)]
        quiet: bool,
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        format: Format,
        /// Print JSON with berth's own names
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        scope: Scope,
    },
    /// Show volumes as JSON, with their sizes
    Inspect {
        /// A template, such as '{{.Name}}'
        #[arg(long, short, value_name = "TEMPLATE")]
        format: Option<String>,
        /// Volumes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes with all that is in them
    #[command(visible_alias = "remove")]
    Rm {
        /// Those that are not there are no error
        #[arg(long, short)]
        force: bool,
        /// Volumes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove the anonymous volumes that no container mounts; with -a those with a name, too
    Prune {
        /// Don't ask
        #[arg(long, short)]
        force: bool,
        /// Volumes with a name, too
        #[arg(long, short)]
        all: bool,
    },
    /// Write a volume's content as a tar
    Backup {
        /// Write to a file instead of standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Volume
        name: String,
    },
    /// Unpack a tar into a volume
    Restore {
        /// Volume
        name: String,
        /// The tar, plain, gzip or zstd; - for standard input
        #[arg(default_value = "-")]
        archive: PathBuf,
    },
}

/// Removes volumes that no container mounts: those that nobody named, or all.
pub(super) async fn prune(client: &Client, all: bool) -> Outcome {
    let is_unused = |v: &Volume| v.used_by.is_empty() && (all || v.labels.contains_key(ANONYMOUS));
    let found = client.volumes().await.map_err(|e| e.to_string())?;
    let names: Vec<String> = found.into_iter().filter(is_unused).map(|v| v.name).collect();
    each("removing", &names, |name| async move { client.volume_remove(name).await.map(|()| name.to_owned()) }).await
}

/// Label that the server gives a volume that nobody named.
const ANONYMOUS: &str = "berth.anonymous";

pub(super) async fn run(client: &Client, command: VolumeCommand) -> Outcome {
    let said = |e: berth_client::Error| e.to_string();
    match command {
        VolumeCommand::Create { label, name, named, driver: _ } => {
            let name = name.or(named);
            let labels: BTreeMap<String, String> = label
                .iter()
                .map(|l| l.split_once('=').unwrap_or((l, "")))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            println!("{}", client.volume_create(&VolumeCreate { name, labels }).await.map_err(said)?.name);
        }
        VolumeCommand::Ls { quiet, filters, format, json, scope } => {
            let filters = filters.by_key(&["dangling", "name", "label", "driver"])?;
            let wanted = |v: &Volume| {
                filters.iter().all(|(key, values)| match *key {
                    "dangling" => values.iter().any(|value| (value == "true") == v.used_by.is_empty()),
                    "name" => values.iter().any(|value| v.name.contains(value.as_str())),
                    "label" => values.iter().all(|value| has_label(&v.labels, value)),
                    _ => values.iter().any(|value| value == "local"),
                })
            };
            let (mut all, mut rows) = (Vec::new(), Vec::new());
            for (account, client) in scope.clients(client).await? {
                let found: Vec<_> = client.volumes().await.map_err(said)?.into_iter().filter(wanted).collect();
                rows.extend(found.iter().map(|v| shapes::volume(v, &account)));
                all.extend(found);
            }
            if json {
                output::json(&all)?;
            } else if quiet {
                all.iter().for_each(|v| println!("{}", v.name));
            } else {
                let mut columns = vec![("NAME", "Name"), ("CREATED", "Created"), ("USED BY", "UsedBy")];
                if scope.shows_accounts() {
                    columns.insert(0, ("ACCOUNT", "Account"));
                }
                format::print(&format, &rows, &columns)?;
            }
        }
        VolumeCommand::Inspect { format, names } => {
            let asked = listing::Inspect::of_volumes(format, names);
            return listing::inspect(client, &asked).await;
        }
        VolumeCommand::Rm { force, names } => {
            return each("removing", &names, |name| async move {
                match client.volume_remove(name).await {
                    Err(error) if force && error.code() == Some("not_found") => Ok(name.to_owned()),
                    other => other.map(|()| name.to_owned()),
                }
            })
            .await;
        }
        VolumeCommand::Prune { force, all } => {
            let which = if all { "volume" } else { "anonymous volume" };
            output::confirm(
                &format!("This removes every {which} that no container mounts, with all that is in it."),
                force,
            )?;
            return prune(client, all).await;
        }
        VolumeCommand::Backup { output, name } => {
            write_body(client.volume_backup(&name).await.map_err(said)?, output.as_deref()).await?;
        }
        VolumeCommand::Restore { name, archive } => {
            client.volume_restore(&name, body_of(&archive).await?).await.map_err(said)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
