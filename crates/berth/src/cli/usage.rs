//! Commands about what containers used, and about keys for SSH.

use std::process::ExitCode;

use berth_api::wire::SshKeyCreate;
use berth_client::Client;

use super::output;

type Outcome = Result<ExitCode, String>;

/// Show what containers used, removed ones too
#[derive(Debug, clap::Args)]
pub(crate) struct Usage {
    /// From then on: RFC 3339, or seconds since 1970 [default: the beginning]
    #[arg(long)]
    from: Option<String>,
    /// Until then [default: now]
    #[arg(long)]
    to: Option<String>,
    /// Of all accounts, for administrators
    #[arg(long, short)]
    all: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV, everything to the byte
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SshKeyCommand {
    /// Make a key pair and print the private half, this once; or take a public key
    Create {
        /// What you call it
        name: String,
        /// File with a public key to take instead (`-` for standard input)
        #[arg(long)]
        public_key: Option<String>,
        /// An RSA key, for old clients
        #[arg(long, conflicts_with = "public_key")]
        rsa: bool,
    },
    /// List keys
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a key; containers that were made with it keep it
    Rm {
        /// Its number
        number: i64,
    },
}

pub(super) async fn usage(client: &Client, asked: &Usage) -> Outcome {
    let (from, to) = (asked.from.as_deref(), asked.to.as_deref());
    if asked.csv {
        print!("{}", client.usage_csv(from, to, asked.all).await.map_err(|e| e.to_string())?);
        return Ok(ExitCode::SUCCESS);
    }
    let all = client.usage(from, to, asked.all).await.map_err(|e| e.to_string())?;
    if asked.json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|u| {
            let hours = |ms: f64| format!("{:.2} h", ms / 3.6e6);
            let charge = match (u.charge, u.spec) {
                (Some(charge), Some(spec)) => format!("{charge} {spec}"),
                _ => "-".into(),
            };
            vec![
                u.account,
                u.name,
                u.image,
                charge,
                if u.removed_at.is_some() { "removed" } else { "" }.into(),
                hours(u.ran_ms as f64),
                format!("{:.1} s", u.cpu_us as f64 / 1e6),
                format!("{:.2} GiB h", u.memory_mib_ms as f64 / 3.6e6 / 1024.0),
                format!("{} / {}", output::bytes(u.rx_bytes), output::bytes(u.tx_bytes)),
            ]
        })
        .collect();
    output::table(&["ACCOUNT", "NAME", "IMAGE", "PLAN", "", "RAN", "CPU", "MEMORY", "NET IN / OUT"], &rows);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn ssh_key(client: &Client, command: SshKeyCommand) -> Outcome {
    match command {
        SshKeyCommand::Create { name, public_key, rsa } => {
            let public_key = match public_key.as_deref() {
                None => None,
                Some("-") => Some(std::io::read_to_string(std::io::stdin()).map_err(|e| e.to_string())?),
                Some(path) => Some(std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?),
            };
            let new = SshKeyCreate { name, public_key, kind: rsa.then(|| "rsa".into()) };
            let made = client.ssh_key_create(&new).await.map_err(|e| e.to_string())?;
            eprintln!("key {} {}", made.number, made.fingerprint);
            print!("{}", made.private_key.unwrap_or_default());
        }
        SshKeyCommand::Ls { json } => {
            let all = client.ssh_keys().await.map_err(|e| e.to_string())?;
            if json {
                output::json(&all)?;
                return Ok(ExitCode::SUCCESS);
            }
            let rows: Vec<_> = all
                .into_iter()
                .map(|k| vec![k.number.to_string(), k.name, k.fingerprint, output::age(&k.created_at) + " ago"])
                .collect();
            output::table(&["NUMBER", "NAME", "FINGERPRINT (MD5)", "MADE"], &rows);
        }
        SshKeyCommand::Rm { number } => {
            client.ssh_key_remove(number).await.map_err(|e| e.to_string())?;
            println!("{number}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
