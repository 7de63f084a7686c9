//! Commands about tokens and the machine.

use std::process::ExitCode;

use berth_api::wire::{AccountChange, Change, TokenCreate};
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

/// A right as it is told on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Right {
    /// They may
    Yes,
    /// They may not
    No,
    /// As the server's settings say
    Default,
}

impl Right {
    fn change(right: Option<Self>) -> Change<bool> {
        match right {
            None => Change::Kept,
            Some(Self::Yes) => Change::To(Some(true)),
            Some(Self::No) => Change::To(Some(false)),
            Some(Self::Default) => Change::To(None),
        }
    }

    fn word(of: Option<bool>) -> &'static str {
        match of {
            Some(true) => "yes",
            Some(false) => "no",
            None => "default",
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccountCommand {
    /// List accounts with their rights
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change an account's rights
    Set {
        /// Whether its users may have containers in the host's network
        #[arg(long)]
        host_network: Option<Right>,
        /// Whether its downloads may come from private addresses
        #[arg(long)]
        private_addresses: Option<Right>,
        /// The account's name
        name: String,
    },
}

pub(super) async fn account(client: &Client, command: AccountCommand) -> Outcome {
    let all = match command {
        AccountCommand::Ls { json: true } => {
            output::json(&client.accounts().await.map_err(|e| e.to_string())?)?;
            return Ok(ExitCode::SUCCESS);
        }
        AccountCommand::Ls { json: false } => client.accounts().await,
        AccountCommand::Set { host_network, private_addresses, name } => {
            let change = AccountChange {
                host_network: Right::change(host_network),
                private_addresses: Right::change(private_addresses),
            };
            client.account_change(&name, &change).await.map(|changed| vec![changed])
        }
    };
    let row = |a: berth_api::wire::Account| {
        let rights = [a.host_network, a.private_addresses].map(|right| Right::word(right).to_owned());
        [vec![a.name], rights.to_vec()].concat()
    };
    let rows: Vec<_> = all.map_err(|e| e.to_string())?.into_iter().map(row).collect();
    output::table(&["ACCOUNT", "HOST NETWORK", "PRIVATE ADDRESSES"], &rows);
    Ok(ExitCode::SUCCESS)
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
