//! Which server, with which token.

use std::path::{Path, PathBuf};

use berth_client::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::contexts::{Context, Contexts};

/// Flags of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which server")]
pub(crate) struct Connection {
    /// The server, such as https://berth.example:8443, http://127.0.0.1:8080 or unix:///run/berth/berth.sock [default: the
    /// current context, else this machine's own server by its Unix socket]
    #[arg(long, short = 'H', env = "BERTH_HOST", global = true)]
    host: Option<String>,
    /// The token; the administrator's from the data folder if it can be read
    #[arg(long, env = "BERTH_TOKEN", global = true, hide_env_values = true)]
    token: Option<String>,
    /// PEM file with the server's certificate or its authority's, trusted beside this machine's authorities
    #[arg(long, env = "BERTH_CACERT", global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// One of the servers that `berth context` knows
    #[arg(long, env = "BERTH_CONTEXT", global = true, value_name = "NAME")]
    context: Option<String>,
    /// Act for another account, with an administrator's rights: its quotas don't bind
    #[arg(long, global = true, value_name = "ACCOUNT")]
    for_account: Option<String>,
    /// Tell which server is talked to
    #[arg(long, short = 'D', global = true)]
    debug: bool,
    /// The server's data folder [default: /var/lib/berth]
    #[arg(long, env = "BERTH_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Certificates that a client trusts beside its machine's authorities.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all = all.map_err(|e| format!("{}: {e}", path.display()))?;
    if all.is_empty() { Err(format!("{}: no certificate in it (PEM)", path.display())) } else { Ok(all) }
}

fn unix(path: &Path, token: &str) -> Result<Client, String> {
    let path = crate::local::fitting(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Client::unix(&path, token).map_err(|e| e.to_string())
}

/// The socket of an address `unix:///run/berth/berth.sock`.
fn socket_of(host: &str) -> Option<&Path> {
    let path = host.strip_prefix("unix:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

/// An address with a scheme.
fn address(host: &str) -> Result<String, String> {
    let host = host.trim_end_matches('/');
    match host.split_once("://") {
        Some(("http" | "https", _)) => Ok(host.to_owned()),
        // As Docker writes it.
        Some(("tcp", rest)) => Ok(format!("http://{rest}")),
        Some((scheme, _)) => Err(format!("{host}: {scheme}:// is not http://, https:// or unix://")),
        None => Ok(format!("http://{host}")),
    }
}

/// Whether this user may talk to a socket.
fn opens(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

impl Connection {
    fn given(value: Option<&String>) -> Option<&str> {
        value.map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A flag of the line itself: what the environment says gives way to it.
    fn of_line<'a>(value: Option<&'a String>, variable: &str) -> Option<&'a str> {
        Self::given(value).filter(|value| std::env::var(variable).ok().as_deref() != Some(value))
    }

    fn data(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| crate::local::STANDARD_DATA.into())
    }

    fn field(&self, file: &str, key: &str) -> Option<String> {
        let bytes = std::fs::read(self.data().join(file)).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        json[key].as_str().map(str::to_owned)
    }

    /// A part of the administrator's credentials, if they can be read.
    pub(crate) fn admin(&self, key: &str) -> Option<String> {
        self.field("admin.json", key)
    }

    /// The token that was given.
    pub(crate) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// The context that is meant, if any. A flag goes before the environment, and in it BERTH_HOST before BERTH_CONTEXT, as docker has
    /// it; the current context is for whoever says nothing else.
    fn context(&self) -> Result<Option<Context>, String> {
        let host = Self::of_line(self.host.as_ref(), "BERTH_HOST");
        let name = Self::of_line(self.context.as_ref(), "BERTH_CONTEXT");
        if host.is_some() && name.is_some() {
            return Err("--host and --context both say which server is meant: leave one away".into());
        }
        let named = |name: &str| {
            let contexts = Contexts::load()?;
            let known = || contexts.names().collect::<Vec<_>>().join(", ");
            match name {
                "default" => Ok(None),
                name => match contexts.get(name) {
                    Some(context) => Ok(Some(context.clone())),
                    None => Err(format!("there is no context {name:?}; known: {}", known())),
                },
            }
        };
        if let Some(name) = name {
            return named(name);
        }
        if Self::given(self.host.as_ref()).is_some() || self.data_dir.is_some() {
            return Ok(None);
        }
        match Self::given(self.context.as_ref()) {
            Some(name) => named(name),
            None => Contexts::load()?.current(),
        }
    }

    /// The host that is meant where no context is.
    fn host(&self) -> Option<&str> {
        // `--context default` is this machine's own server, whatever the environment says.
        let own = Self::of_line(self.context.as_ref(), "BERTH_CONTEXT").is_some();
        Self::given(self.host.as_ref()).filter(|_| !own)
    }

    /// Where the server is, for lines that are printed.
    pub(crate) fn address(&self) -> String {
        let of_context = self.context().ok().flatten().map(|context| context.host);
        let host = of_context.or_else(|| self.host().map(str::to_owned));
        let host = host.filter(|host| socket_of(host).is_none()).or_else(|| self.field("server.json", "url"));
        let host = host.unwrap_or_else(|| "http://127.0.0.1:8080".into());
        address(&host).unwrap_or(host)
    }

    fn remote(&self, host: &str, token: &str, context: Option<&Context>) -> Result<Client, String> {
        if let Some(path) = socket_of(host) {
            return unix(path, token);
        }
        let authorities = match (&self.cacert, context.and_then(|context| context.cacert.as_deref())) {
            (Some(path), _) => certificates(path)?,
            (None, Some(text)) => super::contexts::authorities(text)?,
            (None, None) => Vec::new(),
        };
        Client::trusting(&address(host)?, token, authorities).map_err(|e| e.to_string())
    }

    /// Who names no server talks to this machine's own by a Unix socket, and by nothing else: on a loopback port anybody could
    /// listen in the server's place while it is down, and would be told the token.
    pub(crate) fn client(&self) -> Result<Client, String> {
        let client = self.of_server()?;
        if self.debug {
            eprintln!("berth: talks to {}", client.server());
        }
        Ok(match Self::given(self.for_account.as_ref()) {
            Some(account) => client.on_behalf(account),
            None => client,
        })
    }

    fn of_server(&self) -> Result<Client, String> {
        let of_line = Self::of_line(self.token.as_ref(), "BERTH_TOKEN").map(str::to_owned);
        let given = Self::given(self.token.as_ref()).map(str::to_owned);
        if let Some(context) = self.context()? {
            // The environment's token may be another server's.
            let token = of_line.or_else(|| context.token.clone()).or(given).unwrap_or_default();
            return self.remote(&context.host, &token, Some(&context));
        }
        let own = crate::local::path(&self.data());
        if let Some(host) = self.host() {
            // The administrator's token is for the server of the data folder, and is told to nobody else.
            let is_own = socket_of(host) == Some(own.as_path())
                || self.field("server.json", "url").is_some_and(|url| address(host).is_ok_and(|host| host == url));
            let token = given.or_else(|| self.admin("token").filter(|_| is_own));
            // On its socket an administrator needs none.
            return match (token, socket_of(host)) {
                (Some(token), _) => self.remote(host, &token, None),
                (None, Some(path)) => unix(path, ""),
                (None, None) => Err(format!("no token for {host}: set BERTH_TOKEN, or --token")),
            };
        }
        let explicit = given.clone();
        let standard = Path::new(crate::local::STANDARD);
        // The administrators' socket needs no token, and the data folder's may have been revoked.
        if explicit.is_none() && self.data_dir.is_none() && opens(standard) {
            return unix(standard, "");
        }
        if let Some(token) = given.or_else(|| self.admin("token"))
            && own.try_exists().unwrap_or(false)
        {
            return unix(&own, &token);
        }
        if let Some(token) = explicit {
            if self.data_dir.is_none() && opens(standard) {
                return unix(standard, &token);
            }
            return self.remote(&self.address(), &token, None);
        }
        if self.admin("token").is_some() {
            return Err(format!("no server answers: {} is not there; is berth serve running?", own.display()));
        }
        Err(self.no_token())
    }

    fn no_token(&self) -> String {
        let standard = Path::new(crate::local::STANDARD);
        if self.data_dir.is_none() && standard.exists() {
            return format!(
                "{} is for root and the group berth: `sudo usermod -aG berth $USER`, then log in again; or set BERTH_TOKEN",
                standard.display()
            );
        }
        format!(
            "no token: set BERTH_TOKEN, or BERTH_DATA_DIR to the server's data folder ({} has no admin.json that can be read), or \
             name a server once with `berth context add`",
            self.data().display()
        )
    }
}
