//! Images from and to registries: `pull`, `push`, `login`, `logout`.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;

use berth_api::wire::{Image, ImagePull, ImagePush, LoginCreate, Travel};
use berth_client::{Client, Error};
use futures_util::{Stream, StreamExt};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::files::read_secret;

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// Platform, such as linux/arm64; this host's own if it is missing
    #[arg(long)]
    platform: Option<String>,
    /// Print the digest only
    #[arg(long, short)]
    quiet: bool,
    /// Image, with its registry's host unless that is Docker Hub
    image: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Print the digest only
    #[arg(long, short)]
    quiet: bool,
    /// Image, under the name that says where it goes
    image: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// User's name
    #[arg(long, short)]
    username: Option<String>,
    /// Password; better by --password-stdin
    #[arg(long, short, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// List the logins that the server keeps
    #[arg(long)]
    list: bool,
    /// Registry
    #[arg(default_value = "docker.io")]
    registry: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    /// Registry
    #[arg(default_value = "docker.io")]
    registry: String,
}

/// A bar for each layer on a terminal, a line for each change elsewhere.
struct Bars {
    all: MultiProgress,
    each: HashMap<String, (ProgressBar, String)>,
    terminal: bool,
    quiet: bool,
}

impl Bars {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { all: MultiProgress::new(), each: HashMap::new(), terminal, quiet }
    }

    fn show(&mut self, travel: &Travel) {
        let (Some(layer), Some(status)) = (&travel.layer, &travel.status) else { return };
        if self.quiet {
            return;
        }
        let short: String = layer.trim_start_matches("sha256:").chars().take(12).collect();
        let all = &self.all;
        let (bar, last) = self.each.entry(layer.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(travel.total.unwrap_or(0));
            let style = ProgressStyle::with_template("{prefix} {msg:12} {bar:30} {bytes}/{total_bytes}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(short.clone());
            (all.add(bar), String::new())
        });
        if !self.terminal {
            if last != status {
                eprintln!("{short}: {status}");
                last.clone_from(status);
            }
            return;
        }
        bar.set_length(travel.total.unwrap_or(0));
        bar.set_position(travel.current.unwrap_or(0));
        bar.set_message(status.clone());
        if matches!(status.as_str(), "done" | "exists") {
            bar.abandon();
        }
    }
}

/// What to do when a registry lets nobody in.
fn login_hint(image: &str) -> String {
    let registry = image.split_once('/').map(|(first, _)| first);
    let registry = registry.filter(|first| first.contains(['.', ':']) || *first == "localhost").unwrap_or("docker.io");
    format!("\nLog in first, if that is what is missing: berth login -u USER {registry}")
}

async fn follow(image: &str, words: impl Stream<Item = Result<Travel, Error>>, quiet: bool) -> Result<Travel, String> {
    let mut words = std::pin::pin!(words);
    let mut bars = Bars::new(quiet);
    while let Some(word) = words.next().await {
        let word = word.map_err(|e| e.to_string())?;
        if let Some(problem) = word.error {
            let hint = if problem.code == "registry_denied" { login_hint(image) } else { String::new() };
            return Err(problem.detail + &hint);
        }
        if word.image.is_some() || word.digest.is_some() {
            return Ok(word);
        }
        bars.show(&word);
    }
    Err("the server broke off; it goes on by itself if it still runs".into())
}

pub(super) async fn fetch(
    client: &Client,
    image: &str,
    platform: Option<String>,
    quiet: bool,
) -> Result<Image, String> {
    let asked = ImagePull { image: image.to_owned(), platform, login: None };
    let words = client.image_pull(&asked).await.map_err(|e| e.to_string())?;
    let last = follow(image, words, quiet).await?;
    last.image.map(|i| *i).ok_or_else(|| "the server named no image".into())
}

pub(super) async fn pull(client: &Client, pull: &Pull) -> Outcome {
    let image = fetch(client, &pull.image, pull.platform.clone(), pull.quiet).await?;
    if pull.quiet {
        println!("{}", image.digest)
    } else {
        println!("Pulled: {} {}", pull.image, image.digest)
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn push(client: &Client, push: &Push) -> Outcome {
    let asked = ImagePush { image: push.image.clone(), login: None };
    let words = client.image_push(&asked).await.map_err(|e| e.to_string())?;
    let digest = follow(&push.image, words, push.quiet).await?.digest.unwrap_or_default();
    if push.quiet {
        println!("{digest}")
    } else {
        println!("Pushed: {} {digest}", push.image)
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn login(client: &Client, login: &Login) -> Outcome {
    if login.list {
        for known in client.registry_logins().await.map_err(|e| e.to_string())? {
            println!("{}\t{}", known.registry, known.username);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let asks = std::io::stdin().is_terminal();
    let username = match &login.username {
        Some(username) => username.clone(),
        None if asks => super::terminal::line("Username: ")?,
        None => return Err("whose login? name the user with -u".into()),
    };
    let password = match (&login.password, login.password_stdin) {
        (Some(password), _) => password.clone(),
        (None, true) => read_secret()?,
        (None, false) if asks => super::terminal::secret("Password: ")?,
        (None, false) => {
            return Err("give the password by --password-stdin (or -p, which others on this machine can see)".into());
        }
    };
    let asked = LoginCreate { registry: login.registry.clone(), username, password };
    client.registry_login(&asked).await.map_err(|e| e.to_string())?;
    println!("Logged in at {}", login.registry);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn logout(client: &Client, logout: &Logout) -> Outcome {
    match client.registry_logout(&logout.registry).await {
        Err(error) if error.code() == Some("not_found") => {
            println!("Not logged in at {}", logout.registry);
            return Ok(ExitCode::SUCCESS);
        }
        other => other.map_err(|e| e.to_string())?,
    }
    println!("Logged out at {}", logout.registry);
    Ok(ExitCode::SUCCESS)
}
