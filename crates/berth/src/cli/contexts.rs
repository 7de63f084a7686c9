//! `berth context`: servers that the command line knows by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_client::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ContextCommand {
    /// Add a server; the first one is used from then on
    #[command(visible_alias = "create")]
    Add {
        /// PEM file with the server's certificate or its authority's; it is copied
        #[arg(long, value_name = "FILE")]
        cacert: Option<PathBuf>,
        /// Read the token from standard input
        #[arg(long)]
        token_stdin: bool,
        /// Don't ask the server whether it knows the token
        #[arg(long)]
        no_check: bool,
        /// What you call it
        name: String,
        /// Its address, such as https://berth.example:8443
        host: String,
    },
    /// List servers
    Ls {
        /// Only names
        #[arg(long, short)]
        quiet: bool,
    },
    /// Use a server from now on; `default` is this machine's own
    Use {
        /// The context
        name: String,
    },
    /// Print the name of the one in use
    Show,
    /// Remove servers from the list
    Rm {
        /// The one in use, too: this machine's own server is used from then on
        #[arg(long, short)]
        force: bool,
        /// The contexts
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// A server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// PEM text of certificates that are trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cacert: Option<String>,
}

/// The file of contexts, readable by its owner only: tokens are in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// Certificates of PEM text.
pub(crate) fn authorities(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|e| format!("certificate: {e}"))
}

fn path() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("berth/contexts.json"))
}

impl Contexts {
    pub(crate) fn load() -> Result<Self, String> {
        let Some(path) = path() else { return Ok(Self::default()) };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn save(&self) -> Result<(), String> {
        let path = path().ok_or("neither XDG_CONFIG_HOME nor HOME says where to keep contexts")?;
        let folder = path.parent().unwrap_or(&path);
        let text = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        fs::create_dir_all(folder)
            .and_then(|()| crate::whole::write(&path, &text, 0o600))
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Context> {
        self.contexts.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once("default").chain(self.contexts.keys().map(String::as_str))
    }

    /// The one that is used where nothing else is said.
    ///
    /// # Errors
    /// That it is not there: another server is never taken instead.
    pub(crate) fn current(&self) -> Result<Option<Context>, String> {
        let Some(name) = &self.current else { return Ok(None) };
        match self.contexts.get(name) {
            Some(context) => Ok(Some(context.clone())),
            None => Err(format!("the context in use, {name:?}, is not there any more: berth context use NAME")),
        }
    }

    fn known(&self, name: &str) -> Result<(), String> {
        if self.names().any(|known| known == name) {
            return Ok(());
        }
        Err(format!("there is no context {name:?}; known: {}", self.names().collect::<Vec<_>>().join(", ")))
    }
}

fn read_token(from_stdin: bool) -> Result<String, String> {
    if !from_stdin {
        if !std::io::stdin().is_terminal() {
            return Err("no token: give it with --token-stdin, or in BERTH_TOKEN".into());
        }
        return super::terminal::secret("Token: ");
    }
    let mut token = String::new();
    std::io::stdin().read_line(&mut token).map_err(|e| format!("read standard input: {e}"))?;
    let token = token.trim().to_owned();
    if token.is_empty() { Err("there is no token on standard input".into()) } else { Ok(token) }
}

async fn add(name: String, context: Context, check: bool) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name == "default" || name.is_empty() || !name.chars().all(good) {
        return Err(format!("context {name:?}: letters, digits, '-', '_', '.', and not \"default\""));
    }
    if !context.host.starts_with("https://") && !context.host.starts_with("http://") {
        return Err(format!(
            "{}: an address begins with https:// (or http://, which shows the token to the network)",
            context.host
        ));
    }
    if check {
        let trusted = context.cacert.as_deref().map(authorities).transpose()?.unwrap_or_default();
        let token = context.token.clone().unwrap_or_default();
        let client = Client::trusting(&context.host, &token, trusted).map_err(|e| e.to_string())?;
        let host = client.host().await.map_err(|e| format!("{e} (--no-check keeps it all the same)"))?;
        eprintln!("{}: berth {} on {}", context.host, host.berth, host.name);
    }
    let mut all = Contexts::load()?;
    if all.contexts.is_empty() {
        all.current = Some(name.clone());
        eprintln!(
            "this context is in use from now on; `berth context use default` goes back to this machine's own server"
        );
    }
    all.contexts.insert(name.clone(), context);
    all.save()?;
    println!("{name}");
    Ok(())
}

pub(super) async fn run(command: ContextCommand, token: Option<String>) -> Result<ExitCode, String> {
    match command {
        ContextCommand::Add { cacert, token_stdin, no_check, name, host } => {
            let cacert = match &cacert {
                Some(path) => {
                    super::client::certificates(path)?;
                    Some(fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?)
                }
                None => None,
            };
            let token = match token.filter(|token| !token.is_empty() && !token_stdin) {
                Some(token) => token,
                None => read_token(token_stdin)?,
            };
            add(name, Context { host: host.trim_end_matches('/').to_owned(), token: Some(token), cacert }, !no_check)
                .await?;
        }
        ContextCommand::Ls { quiet: true } => Contexts::load()?.names().for_each(|name| println!("{name}")),
        ContextCommand::Ls { quiet: false } => {
            let all = Contexts::load()?;
            let current = all.current.as_deref().unwrap_or("default");
            let marked = |name: &str| if name == current { format!("{name}*") } else { name.to_owned() };
            let own = vec![marked("default"), format!("unix://{}", crate::local::STANDARD)];
            let others = all.contexts.iter().map(|(name, context)| vec![marked(name), context.host.clone()]);
            output::table(&["NAME", "SERVER"], &std::iter::once(own).chain(others).collect::<Vec<_>>());
        }
        ContextCommand::Use { name } => {
            let mut all = Contexts::load()?;
            all.known(&name)?;
            all.current = (name != "default").then(|| name.clone());
            all.save()?;
            println!("{name}");
        }
        ContextCommand::Show => println!("{}", Contexts::load()?.current.as_deref().unwrap_or("default")),
        ContextCommand::Rm { force, names } => {
            let mut all = Contexts::load()?;
            for name in names {
                if all.current.as_ref() == Some(&name) && !force {
                    return Err(format!("context {name:?} is in use: use another one, or --force"));
                }
                if all.contexts.remove(&name).is_none() {
                    return Err(format!("there is no context {name:?} that could be forgotten"));
                }
                if all.current.as_ref() == Some(&name) {
                    all.current = None;
                }
                all.save()?;
                println!("{name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
