//! Commands about machines, and what containers on them carry.

use std::process::ExitCode;

use berth_api::wire::{HostEntry, HostLabel};
use berth_client::Client;

use super::output;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum HostCommand {
    /// List machines that run containers
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show everything about a machine, as JSON
    Inspect {
        // Not `host`: that is the server to talk to.
        /// Its number, id or name
        #[arg(value_name = "HOST")]
        machine: String,
    },
    /// Say where a machine stands, and in whose network
    Label {
        // Not `host`: that is the server to talk to.
        /// Its number, id or name
        #[arg(value_name = "HOST")]
        machine: String,
        /// What it is called
        #[arg(long)]
        name: Option<String>,
        /// Where it stands
        #[arg(long)]
        area: Option<String>,
        /// Whose network it is in: 移动, 联通, 电信
        #[arg(long)]
        operator: Option<String>,
        /// What that carries, Mbit/s
        #[arg(long, value_name = "MBIT")]
        bandwidth: Option<i64>,
    },
}

/// Show what containers carried in each five minutes, and what the trade bills by
#[derive(Debug, clap::Args)]
pub(crate) struct BandwidthOf {
    /// By account, host, image, version or container
    #[arg(long, default_value = "image", value_parser = ["account", "host", "image", "version", "container"])]
    by: String,
    /// Of one host (its number), image, or image and version; of which container
    key: Option<String>,
    /// From then on: RFC 3339, or seconds since 1970 [default: a day ago]
    #[arg(long)]
    from: Option<String>,
    /// Until then [default: now]
    #[arg(long)]
    to: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV, with bytes
    #[arg(long)]
    csv: bool,
}

fn row(host: HostEntry) -> Vec<String> {
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        host.number.to_string(),
        host.name,
        if host.ready { "ready" } else { "not ready" }.into(),
        dash(host.area),
        dash(host.operator),
        if host.bandwidth_mbit > 0 { format!("{} Mbit/s", host.bandwidth_mbit) } else { "-".into() },
        host.cpus.to_string(),
        output::bytes(host.memory),
        output::age(&host.heartbeat_at) + " ago",
    ]
}

pub(super) async fn run(client: &Client, command: HostCommand) -> Outcome {
    match command {
        HostCommand::Ls { json } => {
            let all = client.hosts().await.map_err(|e| e.to_string())?;
            if json {
                output::json(&all)?;
            } else {
                let rows: Vec<_> = all.into_iter().map(row).collect();
                let names = ["NUMBER", "NAME", "STATE", "AREA", "OPERATOR", "BANDWIDTH", "CPUS", "MEMORY", "HEARD OF"];
                output::table(&names, &rows);
            }
        }
        HostCommand::Inspect { machine: host } => {
            output::json(&client.host_entry(&host).await.map_err(|e| e.to_string())?)?
        }
        HostCommand::Label { machine: host, name, area, operator, bandwidth } => {
            let label = HostLabel { name, area, operator, bandwidth_mbit: bandwidth };
            println!("{}", client.host_label(&host, &label).await.map_err(|e| e.to_string())?.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn bandwidth(client: &Client, asked: &BandwidthOf) -> Outcome {
    let (key, from, to) = (asked.key.as_deref(), asked.from.as_deref(), asked.to.as_deref());
    if asked.csv {
        print!("{}", client.bandwidth_csv(&asked.by, key, from, to).await.map_err(|e| e.to_string())?);
        return Ok(ExitCode::SUCCESS);
    }
    let found = client.bandwidth(&asked.by, key, from, to).await.map_err(|e| e.to_string())?;
    if asked.json {
        output::json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.points.is_empty() {
        eprintln!(
            "no figures of that time: a point is there some six minutes after traffic began, when its five minutes are added up"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found
        .points
        .iter()
        .map(|p| {
            let time = p.time.chars().take(16).collect::<String>() + "Z";
            let number = |value: f64| format!("{value:.3}");
            vec![time, p.key.clone(), p.containers.to_string(), number(p.up_mbit), number(p.down_mbit)]
        })
        .collect();
    output::table(&["TIME", "OF", "CONTAINERS", "UP MBIT/S", "DOWN MBIT/S"], &rows);
    println!("95th percentile: {:.3} Mbit/s", found.p95_mbit);
    Ok(ExitCode::SUCCESS)
}
