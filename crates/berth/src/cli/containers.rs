//! Commands about containers.

use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use berth_api::wire::{Container, ContainerCreate};
use berth_client::{Client, Error, LogQuery};
use futures_util::StreamExt;

use super::filters::{Filters, has_label};
use super::options::{Create, Run};
use super::scope::Scope;
use super::values::{signal, whole_seconds};
use super::{logs, output, registries, sessions};

type Outcome = Result<ExitCode, String>;

fn said(error: Error) -> String {
    error.to_string()
}

/// Containers by id, the beginning of an id, or name.
#[derive(Debug, clap::Args)]
pub(crate) struct Ids {
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Containers, by id, the beginning of an id, or name
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Show its output, and pass signals on
    #[arg(long, short)]
    attach: bool,
    /// Pass standard input on, too
    #[arg(long, short)]
    interactive: bool,
    /// Keys that let go of it, such as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = sessions::keys_of)]
    detach_keys: Option<sessions::Keys>,
    #[command(flatten)]
    scope: Scope,
    /// Containers, by id, the beginning of an id, or name
    #[arg(required = true)]
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Time between the stop signal and the kill: seconds, or such as 1m30s
    #[arg(long, short, value_parser = whole_seconds, alias = "timeout", value_name = "TIME")]
    pub(super) time: Option<u64>,
    /// Signal that asks it to stop, instead of its own
    #[arg(long, short, value_parser = signal)]
    pub(super) signal: Option<i32>,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Signal, by name or number
    #[arg(long, short, default_value = "KILL")]
    pub(super) signal: String,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Kill those that run
    #[arg(long, short)]
    pub(super) force: bool,
    /// Remove its anonymous volumes, too
    #[arg(long, short)]
    pub(super) volumes: bool,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Containers
    #[arg(required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Don't ask
    #[arg(long, short)]
    pub(super) force: bool,
    /// Only those with label=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

impl Prune {
    /// Of all, without a question.
    pub(super) fn forced() -> Self {
        Self { force: true, filters: Vec::new() }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rename {
    /// Container
    pub(super) id: String,
    /// Its new name
    pub(super) name: String,
}

/// Names that a command works on at a time.
const AT_ONCE: usize = 32;

/// Does it for each, several at a time, goes on after failures, tells of each in the order in which they were named, and fails if
/// one did. `doing` is what is shown meanwhile (`stopping`); empty for nothing.
pub(super) async fn each<'a, F: Future<Output = Result<String, Error>>>(
    doing: &str,
    ids: &'a [String],
    act: impl Fn(&'a str) -> F,
) -> Outcome {
    let mut code = ExitCode::SUCCESS;
    let mut all = futures_util::stream::iter(ids).map(|id| act(id)).buffered(AT_ONCE);
    for id in ids {
        let next = async { all.next().await };
        let done = match doing {
            "" => next.await,
            doing => output::with_progress(&format!("{doing} {id}"), next).await,
        };
        match done {
            Some(Ok(line)) => println!("{line}"),
            Some(Err(error)) => {
                eprintln!("berth: {id}: {}", super::language::localized(&error.to_string()));
                code = ExitCode::FAILURE;
            }
            None => {}
        }
    }
    Ok(code)
}

/// Pauses, resumes or starts.
pub(super) async fn act(client: &Client, asked: &Ids, verb: &str, doing: &str) -> Outcome {
    each(doing, &asked.ids, |id| async move {
        let of = asked.scope.of_container(client, id).await?;
        of.container_do(id, verb, None).await.map(|_| id.to_owned())
    })
    .await
}

/// Stops or restarts.
pub(super) async fn stop(client: &Client, asked: &Stop, verb: &str, doing: &str) -> Outcome {
    each(doing, &asked.ids, |id| async move {
        let of = asked.scope.of_container(client, id).await?;
        of.container_do_by(id, verb, asked.time, asked.signal).await.map(|_| id.to_owned())
    })
    .await
}

pub(super) async fn kill(client: &Client, asked: &Kill) -> Outcome {
    each("killing", &asked.ids, |id| async move {
        let of = asked.scope.of_container(client, id).await?;
        of.container_kill(id, &asked.signal).await.map(|()| id.to_owned())
    })
    .await
}

pub(super) async fn remove(client: &Client, asked: &Remove) -> Outcome {
    each("removing", &asked.ids, |id| async move {
        let of = asked.scope.of_container(client, id).await?;
        match asked.volumes {
            true => of.container_remove_with_volumes(id, asked.force).await?,
            false => of.container_remove(id, asked.force).await?,
        }
        Ok(id.to_owned())
    })
    .await
}

/// Removes what does not run.
pub(super) async fn prune(client: &Client, asked: &Prune) -> Outcome {
    let filters = Filters::of(&asked.filters).by_key(&["label"])?;
    output::confirm("This removes every container that does not run, with what it has written.", asked.force)?;
    let labels = filters.get("label").cloned().unwrap_or_default();
    let wanted = |c: &Container| {
        !matches!(c.state.as_str(), "running" | "paused")
            && c.next_start.is_none()
            && labels.iter().all(|label| has_label(&c.labels, label))
    };
    let all: Vec<String> = client.containers().await.map_err(said)?.into_iter().filter(wanted).map(|c| c.id).collect();
    each("removing", &all, |id| async move { client.container_remove(id, false).await.map(|()| id.to_owned()) }).await
}

pub(super) async fn rename(client: &Client, asked: &Rename) -> Outcome {
    client.container_rename(&asked.id, &asked.name).await.map_err(said)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn start(client: &Client, asked: &Start) -> Outcome {
    if !asked.attach && !asked.interactive {
        let ids = Ids { scope: asked.scope.clone(), ids: asked.ids.clone() };
        return act(client, &ids, "start", "starting").await;
    }
    let [id] = asked.ids.as_slice() else {
        return Err("--attach and --interactive are for one container at a time".into());
    };
    let client = asked.scope.of_container(client, id).await.map_err(said)?;
    let made = client.container_do(id, "start", None).await.map_err(said)?;
    let input = asked.interactive && (made.stdin || made.terminal);
    let _passing_on = (!(made.terminal && input)).then(|| PassingOn::begin(&client, &made.id)).transpose()?;
    let session = client.container_attach_from_start(&made.id).await.map_err(said)?;
    let talk =
        sessions::Talk { tty: made.terminal, input, keys: asked.detach_keys.clone(), ..sessions::Talk::default() };
    match sessions::talk(session, &talk).await.map_err(said)? {
        Some(code) => Ok(sessions::code(code)),
        None => Ok(ExitCode::SUCCESS),
    }
}

pub(super) async fn wait(client: &Client, asked: &Ids) -> Outcome {
    each("", &asked.ids, |id| async move {
        let of = asked.scope.of_container(client, id).await?;
        // The same one, should another take the name meanwhile.
        let id = of.container(id).await?.id;
        let mut gone_since: Option<std::time::Instant> = None;
        loop {
            let asked = std::time::Instant::now();
            match of.container_wait(&id).await {
                Err(error) if error.is_away() => {
                    // One that was waited at for a while was there.
                    if asked.elapsed() > Duration::from_secs(1) {
                        gone_since = None;
                    }
                    let since = *gone_since.get_or_insert_with(std::time::Instant::now);
                    if since.elapsed() > logs::SERVER_PATIENCE {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                ended => return ended.map(|e| e.exit_code.unwrap_or(0).to_string()),
            }
        }
    })
    .await
}

pub(super) async fn create(client: &Client, create: Create) -> Outcome {
    let pull = create.pull.clone();
    let (quiet, cidfile) = (create.quiet, create.cidfile.clone());
    let request = create.request(client, false).await?;
    let made = make(client, &request, &pull, quiet).await.map_err(|unmade| unmade.message)?;
    note_id(cidfile.as_deref(), &made.id)?;
    println!("{}", made.id);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run(client: &Client, run: Run) -> Outcome {
    let (remove, pull) = (run.create.rm, run.create.pull.clone());
    let (tty, interactive) = (run.create.tty, run.create.interactive);
    if tty && interactive && !run.detach && !std::io::stdin().is_terminal() {
        return Err("standard input is no terminal: leave -t away".into());
    }
    let (quiet, cidfile) = (run.create.quiet, run.create.cidfile.clone());
    let talk = sessions::Talk {
        tty,
        input: interactive,
        stdout: run.attach.is_empty() || run.attach.iter().any(|a| a.eq_ignore_ascii_case("stdout")),
        stderr: run.attach.is_empty() || run.attach.iter().any(|a| a.eq_ignore_ascii_case("stderr")),
        keys: run.detach_keys,
    };
    let mut request = run.create.request(client, true).await?;
    request.attended = remove && !run.detach;
    let made = match make(client, &request, &pull, quiet).await {
        Ok(made) => made,
        Err(Unmade { message, exit_code }) => {
            eprintln!("berth: {}", super::language::localized(&message));
            return Ok(ExitCode::from(exit_code));
        }
    };
    note_id(cidfile.as_deref(), &made.id)?;
    let passes_on = run.sig_proxy && !(run.detach || tty && interactive);
    let _passing_on = passes_on.then(|| PassingOn::begin(client, &made.id)).transpose()?;
    if run.detach {
        println!("{}", made.id);
        return Ok(ExitCode::SUCCESS);
    }
    if (tty || interactive)
        && let Ok(session) = client.container_attach_from_start(&made.id).await
    {
        let Some(ended) = sessions::talk(session, &talk).await.map_err(said)? else {
            // Let go of: it goes on.
            return Ok(ExitCode::SUCCESS);
        };
        if remove {
            remove_ended(client, &made.id).await?;
        }
        return Ok(sessions::code(ended));
    }
    let ended = async {
        let shown = logs::Shown::of(talk.stdout, talk.stderr);
        logs::follow_log(client, &made.id, &LogQuery { follow: true, ..LogQuery::default() }, &shown).await?;
        client.container_wait(&made.id).await.map_err(said)
    };
    // Only what is known to have ended: a broken connection says nothing about the container.
    let ended = ended.await?;
    if remove {
        remove_ended(client, &made.id).await?;
    }
    if ended.oom_killed {
        eprintln!("berth: {}", super::localized("the container was out of memory (OOM-killed)"));
    }
    Ok(ExitCode::from(u8::try_from(ended.exit_code.unwrap_or(0)).unwrap_or(1)))
}

/// Writes a container's id where scripts look for it.
fn note_id(file: Option<&std::path::Path>, id: &str) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, id).map_err(|e| format!("--cidfile {}: {e}", file.display()))
}

/// Removes what the server removes by itself a while later.
async fn remove_ended(client: &Client, id: &str) -> Result<(), String> {
    match client.container_remove_with_volumes(id, true).await {
        Err(error) if error.code() == Some("not_found") => Ok(()),
        other => other.map_err(said),
    }
}

/// Signals to this program are the container's, as long as this lives.
pub(super) struct PassingOn(tokio::task::JoinHandle<()>);

impl PassingOn {
    pub(super) fn begin(client: &Client, id: &str) -> Result<Self, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("TERM", 15)] {
            let watched = signal(SignalKind::from_raw(number)).map_err(|e| format!("watch for {name}: {e}"))?;
            let told = told.clone();
            tokio::spawn(async move {
                let mut watched = watched;
                while watched.recv().await.is_some() && told.send(name).is_ok() {}
            });
        }
        let (client, id) = (client.clone(), id.to_owned());
        Ok(Self(tokio::spawn(async move {
            let mut interrupts = 0;
            while let Some(name) = heard.recv().await {
                interrupts += u32::from(name == "INT");
                // Who presses Ctrl-C again means it: first processes don't heed what they have no handler for.
                let name = match (name, interrupts) {
                    ("INT", 2) => "TERM",
                    ("INT", 3..) => "KILL",
                    (name, _) => name,
                };
                let _ = client.container_kill(&id, name).await;
            }
        })))
    }
}

impl Drop for PassingOn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a container was not made, and the exit code that Docker has for it: 126 and 127 for programs that can't be run, 125 for
/// all else.
struct Unmade {
    message: String,
    exit_code: u8,
}

impl From<String> for Unmade {
    fn from(message: String) -> Self {
        Self { message, exit_code: 125 }
    }
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self { exit_code: error.exit_code().unwrap_or(125), message: error.to_string() }
    }
}

/// Makes a container, and fetches its image before, as far as that is wanted.
async fn make(client: &Client, request: &ContainerCreate, pull: &str, quiet: bool) -> Result<Container, Unmade> {
    if pull == "always" {
        registries::fetch(client, &request.image, None, quiet).await?;
    }
    match output::with_progress("starting", client.container_create(request)).await {
        Err(error) if pull == "missing" && error.code() == Some("not_found") => {
            if !quiet {
                eprintln!("{}", super::localized(&format!("image {} is not here: it is fetched", request.image)));
            }
            registries::fetch(client, &request.image, None, quiet).await.map_err(|fetching| {
                format!("{error}, and it could not be fetched: {fetching}; `berth load` imports images from archives")
            })?;
            Ok(output::with_progress("starting", client.container_create(request)).await?)
        }
        other => Ok(other?),
    }
}
