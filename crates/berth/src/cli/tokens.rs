//! Commands about tokens and the machine.

use std::process::ExitCode;

use berth_api::wire::TokenCreate;
use berth_client::Client;

use super::output;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// Print JSON
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

pub(super) async fn info(client: &Client, info: &Info) -> Outcome {
    let host = client.host().await.map_err(|e| e.to_string())?;
    if info.json {
        output::json(&host)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("host      {}", host.name);
    println!("berth     {}", host.berth);
    println!("system    {}, Linux {}, {}", host.os, host.kernel, host.architecture);
    println!("cpus      {}, load {:.2}", host.cpus, host.load);
    println!("memory    {}, {} available", output::bytes(host.memory), output::bytes(host.memory_available));
    println!("disk      {} free", output::bytes(host.disk_free));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(client: &Client, command: TokenCommand) -> Outcome {
    match command {
        TokenCommand::Create { admin, account, expires_in, name } => {
            let role = admin.then(|| "admin".to_owned());
            let new = TokenCreate { name, role, account, expires_in };
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
