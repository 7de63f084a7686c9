//! `berth ports`: who has which port of this machine.

use std::process::ExitCode;

use berth_client::Client;
use serde_json::{Value, json};

use super::format::{self, Format};
use super::scope::Scope;

#[derive(Debug, clap::Args)]
pub(crate) struct Ports {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    scope: Scope,
    /// Only this port
    port: Option<u16>,
}

pub(super) async fn run(client: &Client, asked: &Ports) -> Result<ExitCode, String> {
    let said = |e: berth_client::Error| e.to_string();
    let mut rows: Vec<(u16, Value)> = Vec::new();
    for (account, client) in asked.scope.clients(client).await? {
        let mut note = |port: Option<u16>, protocol: &str, ip: Option<String>, kind: &str, of: &str, state: &str| {
            let Some(port) = port.filter(|port| asked.port.is_none_or(|wanted| wanted == *port)) else { return };
            let row = json!({
                "Port": format!("{port}/{protocol}"), "Address": ip.unwrap_or_else(|| "0.0.0.0".into()),
                "Kind": kind, "Of": of, "State": state, "Account": account,
            });
            rows.push((port, row));
        };
        for c in client.containers().await.map_err(said)? {
            for p in &c.ports {
                note(p.host_port, &p.protocol, p.host_ip.clone(), "container", &c.name, &c.state);
            }
        }
        for g in client.groups().await.map_err(said)? {
            for p in &g.ports {
                note(Some(p.host_port), &p.protocol, None, "group", &format!("{}/{}", g.service, g.name), &g.state);
            }
        }
    }
    rows.sort_by_key(|(port, _)| *port);
    if let (Some(port), true) = (asked.port, rows.is_empty()) {
        return Err(format!(
            "no container or group has port {port}; another program may: ss -ltnup 'sport = :{port}' on the server's machine"
        ));
    }
    let mut columns =
        vec![("PORT", "Port"), ("ADDRESS", "Address"), ("KIND", "Kind"), ("OF", "Of"), ("STATE", "State")];
    if asked.scope.shows_accounts() {
        columns.insert(0, ("ACCOUNT", "Account"));
    }
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    format::print(&asked.format, &rows, &columns)?;
    Ok(ExitCode::SUCCESS)
}
