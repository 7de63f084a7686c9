//! Which server, with which token.

use std::path::PathBuf;

use berth_client::Client;

/// Flags of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The server, such as http://127.0.0.1:8080 or unix:///var/lib/berth/berth.sock [default: the data folder's socket]
    #[arg(long, short = 'H', env = "BERTH_HOST", global = true)]
    host: Option<String>,
    /// The token; the administrator's from the data folder if it can be read
    #[arg(long, env = "BERTH_TOKEN", global = true, hide_env_values = true)]
    token: Option<String>,
    /// The server's data folder [default: /var/lib/berth]
    #[arg(long, env = "BERTH_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

impl Connection {
    fn field(&self, file: &str, key: &str) -> Option<String> {
        let data = self.data_dir.clone().unwrap_or_else(|| "/var/lib/berth".into());
        let bytes = std::fs::read(data.join(file)).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        json[key].as_str().map(str::to_owned)
    }

    /// A part of the administrator's credentials, if they can be read.
    pub(crate) fn admin(&self, key: &str) -> Option<String> {
        self.field("admin.json", key)
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> String {
        let given = self.host.clone().filter(|v| !v.is_empty());
        let host = given.or_else(|| self.field("server.json", "url"));
        let host = host.unwrap_or_else(|| "http://127.0.0.1:8080".into());
        let host = if host.contains("://") { host } else { format!("http://{host}") };
        host.trim_end_matches('/').to_owned()
    }

    /// Who names no server talks to the one of the data folder by its Unix socket, and by nothing else: on a loopback port
    /// anybody could listen in the server's place while it is down, and would be told the token.
    pub(crate) fn client(&self) -> Result<Client, String> {
        let data = self.data_dir.clone().unwrap_or_else(|| "/var/lib/berth".into());
        let given = self.token.clone().filter(|v| !v.is_empty());
        let explicit = given.is_some();
        let token = given.or_else(|| self.admin("token")).ok_or_else(|| {
            format!(
                "no token: set BERTH_TOKEN, or BERTH_DATA_DIR to the server's data folder ({} has no admin.json that can be read)",
                data.display()
            )
        })?;
        let unix = |path: &std::path::Path| {
            let path = crate::local::fitting(path).map_err(|e| format!("{}: {e}", path.display()))?;
            Client::unix(&path, &token).map_err(|e| e.to_string())
        };
        match self.host.as_deref().filter(|v| !v.is_empty()) {
            Some(host) => match host.strip_prefix("unix:") {
                Some(path) => unix(std::path::Path::new(path.strip_prefix("//").unwrap_or(path))),
                None => Client::new(&self.address(), &token).map_err(|e| e.to_string()),
            },
            None => {
                let socket = crate::local::path(&data);
                match socket.try_exists() {
                    Ok(true) => unix(&socket),
                    _ if explicit => Client::new(&self.address(), &token).map_err(|e| e.to_string()),
                    _ => Err(format!("no server answers: {} is not there; is berth serve running?", socket.display())),
                }
            }
        }
    }
}
