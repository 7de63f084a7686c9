//! Commands about access keys, signing, and the audit log.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_api::wire::{AccessKey, KeyCreate};
use berth_client::{AuditQuery, Client};

use super::client::Connection;
use super::output;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an access key and print both its halves; the secret is shown this once
    Create {
        /// What you call it
        name: String,
        /// Make it for an administrator
        #[arg(long)]
        admin: bool,
        /// Make it for another account, which is made if it is new
        #[arg(long)]
        account: Option<String>,
        /// Only for this dialect (repeatable)
        #[arg(long)]
        dialect: Vec<String>,
        /// Only for this action, such as node_start, container_* or read (repeatable)
        #[arg(long)]
        action: Vec<String>,
        /// Only from this address, or block as 10.0.0.0/8 (repeatable)
        #[arg(long)]
        address: Vec<String>,
        /// Take requests without a signature
        #[arg(long)]
        unsigned: bool,
        /// Seconds until it expires
        #[arg(long)]
        expires_in: Option<u64>,
    },
    /// List access keys, without their secrets
    Ls {
        /// Those of all accounts, for administrators
        #[arg(long, short)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a key another secret; the one before goes on being good for a while
    Rotate {
        /// The access key, its name or number
        key: String,
        /// Seconds that the secret before goes on being good [default: a day]
        #[arg(long)]
        old_for: Option<u64>,
    },
    /// Disable a key
    Disable {
        /// The access key, its name or number
        key: String,
    },
    /// Enable a key
    Enable {
        /// The access key, its name or number
        key: String,
    },
    /// Remove a key
    Rm {
        /// The access key, its name or number
        key: String,
    },
}

fn told(error: &berth_client::Error) -> String {
    error.to_string()
}

fn row(key: AccessKey) -> Vec<String> {
    let all = |list: Vec<String>| if list.is_empty() { "all".to_owned() } else { list.join(",") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    let expired = key.expires_at.as_deref().and_then(berth_runtime::log::parse_time).is_some_and(|at| at <= now);
    let state = match (key.disabled, key.unsigned) {
        _ if expired => "expired",
        (true, _) => "disabled",
        (false, true) => "unsigned",
        (false, false) => "good",
    };
    let used = match (key.last_used_at, key.last_used_from) {
        (Some(at), from) => format!("{} ago from {}", output::age(&at), from.unwrap_or_else(|| "?".into())),
        (None, _) => "never".into(),
    };
    vec![
        key.number.to_string(),
        key.name,
        key.access_key,
        key.role,
        state.into(),
        all(key.dialects),
        all(key.actions),
        all(key.addresses),
        used,
    ]
}

pub(super) async fn run(client: &Client, command: KeyCommand) -> Outcome {
    let halves = |key: AccessKey| {
        println!("access_key {}\nsecret_key {}", key.access_key, key.secret_key.unwrap_or_default());
    };
    match command {
        KeyCommand::Create { name, admin, account, dialect, action, address, unsigned, expires_in } => {
            let role = admin.then(|| "admin".to_owned());
            let new = KeyCreate {
                name,
                role,
                account,
                dialects: dialect,
                actions: action,
                addresses: address,
                unsigned,
                expires_in,
            };
            halves(client.key_create(&new).await.map_err(|e| told(&e))?);
        }
        KeyCommand::Ls { all, json } => {
            let all = client.keys(all).await.map_err(|e| told(&e))?;
            if json {
                output::json(&all)?;
            } else {
                let head =
                    ["NUMBER", "NAME", "ACCESS KEY", "ROLE", "STATE", "DIALECTS", "ACTIONS", "ADDRESSES", "LAST USED"];
                output::table(&head, &all.into_iter().map(row).collect::<Vec<_>>());
            }
        }
        KeyCommand::Rotate { key, old_for } => {
            let rotated = client.key_rotate(&key, old_for).await.map_err(|e| told(&e))?;
            if let Some(until) = &rotated.old_secret_until {
                eprintln!("the secret before is good until {until}");
            }
            halves(rotated);
        }
        KeyCommand::Disable { key } => {
            println!("{}", client.key_disable(&key, true).await.map_err(|e| told(&e))?.access_key);
        }
        KeyCommand::Enable { key } => {
            println!("{}", client.key_disable(&key, false).await.map_err(|e| told(&e))?.access_key);
        }
        KeyCommand::Rm { key } => {
            client.key_remove(&key).await.map_err(|e| told(&e))?;
            println!("{key}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Print a signed curl line for a call of the dialect acs
#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// HTTP method
    method: String,
    /// Path, such as /api/v1/node/1/start
    path: String,
    /// Parameters
    #[arg(value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Access key [default: the administrator's, from the data folder]
    #[arg(long, env = "BERTH_ACCESS_KEY")]
    access_key: Option<String>,
    /// Its secret
    #[arg(long, env = "BERTH_SECRET_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// Print the address only
    #[arg(long)]
    url: bool,
    /// Milliseconds since 1970 [default: now]
    #[arg(long)]
    timestamp: Option<u64>,
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Needs no server: only its address and a key.
pub(super) fn sign(connection: &Connection, asked: &Sign) -> Outcome {
    let (host, admin) = (connection.address(), |key: &str| connection.admin(key));
    let missing = || {
        "no access key: set BERTH_ACCESS_KEY and BERTH_SECRET_KEY, or BERTH_DATA_DIR to the server's data folder"
            .to_owned()
    };
    let access_key = asked.access_key.clone().or_else(|| admin("access_key")).ok_or_else(missing)?;
    let secret_key = asked.secret_key.clone().or_else(|| admin("secret_key")).ok_or_else(missing)?;
    let method = asked.method.to_ascii_uppercase();
    if !asked.path.starts_with("/api/v1/") || asked.path.contains('?') {
        return Err(format!(
            "{:?} is no path of the dialect acs, such as /api/v1/node; parameters come after it",
            asked.path
        ));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut all: Vec<(String, String)> = Vec::new();
    for parameter in &asked.parameters {
        let (name, value) = parameter.split_once('=').ok_or_else(|| format!("{parameter:?} is not NAME=VALUE"))?;
        all.push((name.to_owned(), value.to_owned()));
    }
    all.push(("accesskey".into(), access_key));
    all.push(("timestamp".into(), asked.timestamp.unwrap_or(now).to_string()));
    if method != "GET" && !all.iter().any(|(name, _)| name == "nonce") {
        // Two changes of one millisecond with equal parameters would have one signature, which is good for one path.
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        all.push(("nonce".into(), format!("{:x}{nonce:08x}", std::process::id())));
    }
    all.sort();
    let text = berth_core::signed_text(&method, all.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let signature = berth_core::signature_of(&secret_key, &text);
    all.push(("signature".into(), signature));
    let query = all.iter().map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect::<Vec<_>>().join("&");
    let url = format!("{host}{}?{query}", asked.path);
    if asked.url {
        println!("{url}");
    } else {
        println!("curl -sS -X {method} '{url}'");
    }
    Ok(ExitCode::SUCCESS)
}

/// Show who changed what, from where, and what came of it
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    /// What all accounts did, for administrators
    #[arg(long, short)]
    all: bool,
    /// From then on: RFC 3339, or seconds since 1970
    #[arg(long)]
    since: Option<String>,
    /// Before then
    #[arg(long)]
    until: Option<String>,
    /// By this credential: "token 1", "key 2"
    #[arg(long)]
    who: Option<String>,
    /// In whose method and path this is found
    #[arg(long)]
    action: Option<String>,
    /// Only what failed
    #[arg(long)]
    failed: bool,
    /// How many of the newest
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn audit(client: &Client, asked: &Audit) -> Outcome {
    let query = AuditQuery {
        all: asked.all,
        since: asked.since.clone(),
        until: asked.until.clone(),
        who: asked.who.clone(),
        action: asked.action.clone(),
        failed: asked.failed,
        limit: asked.limit,
    };
    let all = client.audit(&query).await.map_err(|e| told(&e))?;
    if asked.json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|e| {
            let who = if e.who.is_empty() { "nobody known".into() } else { e.who };
            let status = if e.count > 1 { format!("{} x{}", e.status, e.count) } else { e.status.to_string() };
            let time = e.time.chars().take(19).collect::<String>() + "Z";
            vec![time, who, e.from, e.dialect, e.action, status, e.message.chars().take(60).collect()]
        })
        .collect();
    output::table(&["TIME", "WHO", "FROM", "API", "ACTION", "STATUS", "MESSAGE"], &rows);
    Ok(ExitCode::SUCCESS)
}
