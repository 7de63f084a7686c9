//! Commands about accounts, for administrators.

use std::process::ExitCode;

use berth_api::wire::{Account, AccountChange, AccountCreate, AccountQuota, Change, QuotaChange, TokenCreate};
use berth_client::Client;

use super::output;
use super::values::{cpus, rate, size};

type Outcome = Result<ExitCode, String>;

fn said(error: berth_client::Error) -> String {
    error.to_string()
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

    fn value(right: Option<Self>) -> Option<bool> {
        match right {
            Some(Self::Yes) => Some(true),
            Some(Self::No) => Some(false),
            Some(Self::Default) | None => None,
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

/// A bound: a value, or `none`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<T>(Option<T>);

fn bound<T>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<Bound<T>, String> {
    if text == "none" { Ok(Bound(None)) } else { read(text).map(|value| Bound(Some(value))) }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Quotas {
    /// Containers that run at a time; none for no bound
    #[arg(long, value_name = "N", value_parser = |t: &str| bound(t, number))]
    containers: Option<Bound<u64>>,
    /// Memory of all that run, such as 8g; each container needs a limit of its own then (so for --cpus and --bandwidth)
    #[arg(long, short, value_name = "SIZE", value_parser = |t: &str| bound(t, size))]
    memory: Option<Bound<u64>>,
    /// CPUs of all that run
    #[arg(long, value_name = "CPUS", value_parser = |t: &str| bound(t, cpus))]
    cpus: Option<Bound<f64>>,
    /// Bandwidth of all that run, in each direction, such as 100mbit
    #[arg(long, value_name = "RATE", value_parser = |t: &str| bound(t, rate))]
    bandwidth: Option<Bound<u64>>,
    /// What its containers have written and its volumes hold; above it no container is started
    #[arg(long, value_name = "SIZE", value_parser = |t: &str| bound(t, size))]
    disk: Option<Bound<u64>>,
    /// Its images
    #[arg(long, value_name = "SIZE", value_parser = |t: &str| bound(t, size))]
    images: Option<Bound<u64>>,
}

impl Quotas {
    fn change(&self) -> QuotaChange {
        fn of<T: Copy>(bound: Option<Bound<T>>) -> Change<T> {
            bound.map_or(Change::Kept, |bound| Change::To(bound.0))
        }
        QuotaChange {
            containers: of(self.containers),
            memory: of(self.memory),
            cpus: of(self.cpus),
            bandwidth: of(self.bandwidth),
            disk: of(self.disk),
            images: of(self.images),
        }
    }

    fn quota(&self) -> AccountQuota {
        AccountQuota {
            containers: self.containers.and_then(|b| b.0),
            memory: self.memory.and_then(|b| b.0),
            cpus: self.cpus.and_then(|b| b.0),
            bandwidth: self.bandwidth.and_then(|b| b.0),
            disk: self.disk.and_then(|b| b.0),
            images: self.images.and_then(|b| b.0),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rights {
    /// Whether its users may have containers in the host's network
    #[arg(long)]
    host_network: Option<Right>,
    /// Whether its downloads may come from private addresses
    #[arg(long)]
    private_addresses: Option<Right>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccountCommand {
    /// Make an account, and print its first token
    Create {
        #[command(flatten)]
        quotas: Quotas,
        #[command(flatten)]
        rights: Rights,
        /// Make no token
        #[arg(long)]
        no_token: bool,
        /// The account's name
        name: String,
    },
    /// List accounts with their rights
    Ls {
        /// Print names only
        #[arg(long, short)]
        quiet: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show accounts as JSON, with what they may have and what they have
    Inspect {
        /// Accounts
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change an account's rights and quotas
    Set {
        #[command(flatten)]
        quotas: Quotas,
        #[command(flatten)]
        rights: Rights,
        /// The account's name
        name: String,
    },
    /// Refuse accounts' credentials; their containers run on
    Disable {
        /// Accounts
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Enable accounts again
    Enable {
        /// Accounts
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove accounts that have nothing any more
    Rm {
        /// With their containers, volumes and images
        #[arg(long, short)]
        force: bool,
        /// Accounts
        #[arg(required = true)]
        names: Vec<String>,
    },
}

fn show(all: Vec<Account>) {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let row = |a: Account| {
        let quota = a.quota;
        vec![
            a.name,
            if a.disabled { "disabled" } else { "enabled" }.into(),
            Right::word(a.host_network).into(),
            Right::word(a.private_addresses).into(),
            or_dash(quota.containers.map(|n| n.to_string())),
            or_dash(quota.memory.map(output::bytes)),
            or_dash(quota.cpus.map(|n| n.to_string())),
            or_dash(quota.bandwidth.map(output::bits)),
            or_dash(quota.disk.map(output::bytes)),
            or_dash(quota.images.map(output::bytes)),
        ]
    };
    let head = [
        "ACCOUNT",
        "STATE",
        "HOST NETWORK",
        "PRIVATE ADDRESSES",
        "CONTAINERS",
        "MEMORY",
        "CPUS",
        "BANDWIDTH",
        "DISK",
        "IMAGES",
    ];
    output::table(&head, &all.into_iter().map(row).collect::<Vec<_>>());
}

/// Removes all that an account has, as far as it can be removed one by one.
async fn empty(client: &Client, name: &str) -> Result<(), String> {
    let account = client.account(name).await.map_err(said)?;
    if account.number == 1 {
        return Err(format!("account {name} is the administrator's: it can't be removed"));
    }
    let of = client.on_behalf(name);
    let services = of.services().await.map_err(said)?;
    if !services.is_empty() {
        let names: Vec<_> = services.into_iter().map(|service| service.name).collect();
        return Err(format!("account {name} has services ({}): remove their groups and them first", names.join(", ")));
    }
    for container in of.containers().await.map_err(said)? {
        of.container_remove(&container.id, true).await.map_err(said)?;
    }
    for volume in of.volumes().await.map_err(said)? {
        of.volume_remove(&volume.name).await.map_err(said)?;
    }
    for image in of.images().await.map_err(said)? {
        // Those that others let everybody use are not its own.
        match of.image_remove(&image.digest, true).await {
            Err(error) if matches!(error.code(), Some("not_found" | "forbidden")) => {}
            other => drop(other.map_err(said)?),
        }
    }
    Ok(())
}

pub(super) async fn run(client: &Client, command: AccountCommand) -> Outcome {
    match command {
        AccountCommand::Create { quotas, rights, no_token, name } => {
            let new = AccountCreate {
                name: name.clone(),
                quota: quotas.quota(),
                host_network: Right::value(rights.host_network),
                private_addresses: Right::value(rights.private_addresses),
            };
            client.account_create(&new).await.map_err(said)?;
            if no_token {
                println!("{name}");
                return Ok(ExitCode::SUCCESS);
            }
            let token = TokenCreate {
                name: "first".into(),
                role: None,
                account: Some(name),
                expires_in: None,
                host_network: None,
            };
            println!("{}", client.token_create(&token).await.map_err(said)?.token.unwrap_or_default());
        }
        AccountCommand::Ls { quiet, json } => {
            let all = client.accounts().await.map_err(said)?;
            match (quiet, json) {
                (_, true) => output::json(&all)?,
                (true, _) => all.iter().for_each(|account| println!("{}", account.name)),
                _ => show(all),
            }
        }
        AccountCommand::Inspect { names } => {
            let mut all = Vec::new();
            for name in &names {
                all.push(client.account(name).await.map_err(said)?);
            }
            output::json(&all)?;
        }
        AccountCommand::Set { quotas, rights, name } => {
            let change = AccountChange {
                host_network: Right::change(rights.host_network),
                private_addresses: Right::change(rights.private_addresses),
                disabled: None,
                quota: quotas.change(),
            };
            show(vec![client.account_change(&name, &change).await.map_err(said)?]);
        }
        AccountCommand::Disable { names } => return able(client, &names, true).await,
        AccountCommand::Enable { names } => return able(client, &names, false).await,
        AccountCommand::Rm { force, names } => {
            for name in &names {
                if force {
                    empty(client, name).await?;
                }
                client.account_remove(name).await.map_err(said)?;
                println!("{name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn able(client: &Client, names: &[String], disabled: bool) -> Outcome {
    for name in names {
        let change = AccountChange { disabled: Some(disabled), ..AccountChange::default() };
        client.account_change(name, &change).await.map_err(said)?;
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}
