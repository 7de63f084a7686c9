//! Commands about tokens and the machine.

use std::process::ExitCode;

use berth_api::wire::TokenCreate;
use berth_client::Client;

use super::format::Format;
use super::output;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    #[command(flatten)]
    format: Format,
    /// Print JSON with berth's own names
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print its secret, once
    Create {
        /// Make it for an administrator
        #[arg(long)]
        admin: bool,
        /// Make it for another account, which is made if it is new
        #[arg(long)]
        account: Option<String>,
        /// Seconds until it expires
        #[arg(long)]
        expires_in: Option<u64>,
        /// Let the account's users have containers in the host's network
        #[arg(long, requires = "account")]
        host_network: bool,
        /// What you call it
        name: String,
    },
    /// List tokens, without their secrets
    Ls {
        /// Those of all accounts, for administrators
        #[arg(long, short)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token
    Rm {
        /// Its number
        number: i64,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    #[command(flatten)]
    format: Format,
}

/// Versions of client and, if it answers, server.
pub(super) async fn version(client: Option<&Client>, asked: &Version) -> Outcome {
    let host = match client {
        Some(client) => Some(client.host().await.map_err(|e| e.to_string())?),
        None => None,
    };
    let own = serde_json::json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "GitCommit": env!("BERTH_COMMIT"),
        "Os": std::env::consts::OS,
        "Arch": berth_image::architecture(),
    });
    let server = host.as_ref().map(|host| {
        serde_json::json!({
            "Version": host.berth,
            "Os": "linux",
            "Arch": host.architecture,
            "KernelVersion": host.kernel,
        })
    });
    if asked.format.is_given() {
        asked.format.one(&serde_json::json!({ "Client": own, "Server": server }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "client    berth {} ({}), {}",
        env!("CARGO_PKG_VERSION"),
        env!("BERTH_COMMIT"),
        berth_image::architecture()
    );
    if let Some(host) = host {
        println!("server    berth {}, {}, Linux {}", host.berth, host.architecture, host.kernel);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn info(client: &Client, info: &Info) -> Outcome {
    let said = |e: berth_client::Error| e.to_string();
    let host = client.host().await.map_err(said)?;
    if info.json {
        output::json(&host)?;
        return Ok(ExitCode::SUCCESS);
    }
    let containers = client.containers().await.map_err(said)?;
    let images = client.images().await.map_err(said)?.len();
    let count = |state: &str| containers.iter().filter(|c| c.state == state).count();
    let (running, paused) = (count("running"), count("paused"));
    if info.format.is_given() {
        info.format.one(&serde_json::json!({
            "ServerVersion": host.berth,
            "Name": host.name,
            "OperatingSystem": host.os,
            "OSType": "linux",
            "KernelVersion": host.kernel,
            "Architecture": host.architecture,
            "NCPU": host.cpus,
            "MemTotal": host.memory,
            "Containers": containers.len(),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": containers.len() - running - paused,
            "Images": images,
            "Driver": "overlayfs",
            "CgroupVersion": host.cgroup_version.to_string(),
            "DefaultRuntime": host.runtime,
            "Warnings": host.warnings,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("host        {}", host.name);
    println!("berth       {}", host.berth);
    println!("system      {}, Linux {}, {}", host.os, host.kernel, host.architecture);
    println!("containers  {}, {running} running, {paused} paused", containers.len());
    println!("images      {images}");
    println!("storage     overlayfs, {} free", output::bytes(host.disk_free));
    println!("cgroups     version {}", host.cgroup_version);
    println!("runtime     {}", host.runtime);
    println!("cpus        {}, load {:.2}", host.cpus, host.load);
    println!("memory      {}, {} available", output::bytes(host.memory), output::bytes(host.memory_available));
    for warning in host.warnings {
        println!("warning     {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(client: &Client, command: TokenCommand) -> Outcome {
    match command {
        TokenCommand::Create { admin, account, expires_in, host_network, name } => {
            let role = admin.then(|| "admin".to_owned());
            let new = TokenCreate { name, role, account, expires_in, host_network: host_network.then_some(true) };
            let made = client.token_create(&new).await.map_err(|e| e.to_string())?;
            println!("{}", made.token.unwrap_or_default());
        }
        TokenCommand::Ls { all, json } => {
            let all = client.tokens(all).await.map_err(|e| e.to_string())?;
            if json {
                output::json(&all)?;
            } else {
                let rows: Vec<_> = all
                    .into_iter()
                    .map(|t| {
                        let expires = t.expires_at.unwrap_or_else(|| "never".into());
                        vec![
                            t.number.to_string(),
                            t.account.unwrap_or_default(),
                            t.name,
                            t.role,
                            output::age(&t.created_at) + " ago",
                            expires,
                        ]
                    })
                    .collect();
                output::table(&["NUMBER", "ACCOUNT", "NAME", "ROLE", "MADE", "EXPIRES"], &rows);
            }
        }
        TokenCommand::Rm { number } => {
            client.token_revoke(number).await.map_err(|e| e.to_string())?;
            println!("{number}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
