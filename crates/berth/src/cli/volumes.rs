//! Commands about volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_api::wire::VolumeCreate;
use berth_client::Client;

use super::containers::each;
use super::files::{body_of, write_body};
use super::output;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create {
        /// Label KEY=value
        #[arg(long, short)]
        label: Vec<String>,
        /// Name; made up if it is missing
        name: Option<String>,
    },
    /// List volumes
    Ls {
        /// Print names only
        #[arg(long, short)]
        quiet: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show volumes as JSON, with their sizes
    Inspect {
        /// Volumes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes with all that is in them
    Rm {
        /// Volumes
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove the volumes that no container mounts
    Prune {
        /// Don't ask
        #[arg(long, short)]
        force: bool,
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

pub(super) async fn run(client: &Client, command: VolumeCommand) -> Outcome {
    let said = |e: berth_client::Error| e.to_string();
    match command {
        VolumeCommand::Create { label, name } => {
            let labels: BTreeMap<String, String> = label
                .iter()
                .map(|l| l.split_once('=').unwrap_or((l, "")))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            println!("{}", client.volume_create(&VolumeCreate { name, labels }).await.map_err(said)?.name);
        }
        VolumeCommand::Ls { quiet, json } => {
            let all = client.volumes().await.map_err(said)?;
            if json {
                output::json(&all)?;
            } else if quiet {
                all.iter().for_each(|v| println!("{}", v.name));
            } else {
                let row = |v: &berth_api::wire::Volume| {
                    vec![v.name.clone(), format!("{} ago", output::age(&v.created_at)), v.used_by.join(", ")]
                };
                output::table(&["NAME", "CREATED", "USED BY"], &all.iter().map(row).collect::<Vec<_>>());
            }
        }
        VolumeCommand::Inspect { names } => {
            let mut all = Vec::new();
            for name in &names {
                all.push(client.volume(name).await.map_err(said)?);
            }
            output::json(&all)?;
        }
        VolumeCommand::Rm { names } => {
            return each("removing", &names, |name| async move {
                client.volume_remove(name).await.map(|()| name.to_owned())
            })
            .await;
        }
        VolumeCommand::Prune { force } => {
            super::output::confirm(
                "This removes every volume that no container mounts, with all that is in it.",
                force,
            )?;
            client.volume_prune().await.map_err(said)?.removed.iter().for_each(|name| println!("{name}"));
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
