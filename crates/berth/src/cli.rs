//! The command line: docker's habits on the native API. Results go to stdout, everything else to stderr.

mod accounts;
mod change;
mod client;
pub(crate) mod complete;
mod config;
mod containers;
mod contexts;
mod doctor;
mod events;
mod files;
mod filters;
mod format;
mod groups;
mod hosts;
mod images;
mod keys;
pub(crate) mod language;
mod listing;
mod logs;
mod options;
mod output;
mod ports;
mod registries;
mod revisions;
mod scope;
mod services;
mod sessions;
mod shapes;
mod terminal;
mod tokens;
mod unknown;
mod usage;
mod values;
mod volumes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::{EngineKind, Settings};
use client::Connection;
pub(crate) use language::localized;
pub(crate) use output::width;

/// Version and commit, `0.2.0 (1a2b3c4d5e6f)`.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BERTH_COMMIT"), ")");

/// Runs, limits and measures containers on this machine, and speaks the APIs of several container platforms.
#[derive(Debug, Parser)]
#[command(name = "berth", version = VERSION, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Serve),
    /// Make and start a container from an image
    #[command(disable_help_flag = true)]
    Run(Box<options::Run>),
    /// Make a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<options::Create>),
    /// List containers
    Ps(listing::Ps),
    /// Show a container's output
    Logs(logs::Logs),
    /// Show what containers use
    Stats(listing::Stats),
    /// Show what came in and went out over the network in containers' whole lives, to the byte
    Traffic(listing::TrafficOf),
    /// Start containers
    Start(containers::Start),
    /// Stop containers: signal, grace, kill
    Stop(containers::Stop),
    /// Stop and start containers
    Restart(containers::Stop),
    /// Send a signal to containers
    Kill(containers::Kill),
    /// Remove containers
    Rm(containers::Remove),
    /// Wait until containers have ended, and print their exit codes; or until commands are over
    Wait(containers::Ids),
    /// Run a command in a container
    Exec(sessions::Exec),
    /// Take part in what a container's own program reads and writes; Ctrl-P Ctrl-Q lets go
    Attach(sessions::Attach),
    /// Copy files between a container and here
    Cp(files::Copy),
    /// Write a container's file system as a tar
    Export(files::Export),
    /// Make an image of what a container has become
    Commit(change::Commit),
    /// Change bounds and restart policy, at once
    Update(change::Update),
    /// Stop a container's processes where they are
    Pause(containers::Ids),
    /// Resume paused containers
    Unpause(containers::Ids),
    /// Show, add and take back published ports
    Port(change::Ports),
    /// Show who has which port of the machine
    Ports(ports::Ports),
    /// Show everything about a container, image or volume, as JSON or by a template
    Inspect(listing::Inspect),
    /// Give a container another name
    Rename(containers::Rename),
    /// Show a container's processes
    Top(listing::Top),
    /// Show what a container has changed of its image's files
    Diff(listing::Diff),
    /// The same commands by docker's groups
    #[command(subcommand)]
    Container(groups::ContainerGroup),
    /// The same commands by docker's groups
    #[command(subcommand)]
    Image(groups::ImageGroup),
    /// The same commands by docker's groups, and prune of everything
    #[command(subcommand)]
    System(groups::SystemGroup),
    #[command(skip)]
    ContainerPrune(containers::Prune),
    #[command(skip)]
    SystemPrune(groups::SystemPrune),
    /// Show the versions of client and server
    Version(tokens::Version),
    /// List images
    Images(images::List),
    /// Import images from a `docker save` or OCI archive, or an OCI layout folder
    Load(images::Load),
    /// Import the tar of a root file system as an image
    Import(images::Import),
    /// Write images as an archive for `docker load` and OCI tools
    Save(images::Save),
    /// Fetch an image from a registry
    Pull(registries::Pull),
    /// Send an image to a registry
    Push(registries::Push),
    /// Log in at a registry
    Login(registries::Login),
    /// Forget a login
    Logout(registries::Logout),
    /// Give an image one more name
    Tag(images::Tag),
    /// Let every account use an image (make it an official one), or take that back
    Official(images::Official),
    /// Show how an image came about
    History(images::History),
    /// Find images by a part of a name, official ones too
    Search(images::Search),
    /// Remove images that nothing uses
    Prune(images::Prune),
    /// Show how the disk is used
    Df(images::Disk),
    /// Make, list, remove, back up and restore volumes
    #[command(subcommand)]
    Volume(volumes::VolumeCommand),
    /// Make, list, rename and remove services
    #[command(subcommand)]
    Service(services::ServiceCommand),
    /// Make, change, scale, start, stop, deploy to and remove groups of like containers
    #[command(subcommand)]
    Group(services::GroupCommand),
    /// Have groups be as a file says; shows what differs first
    Apply(services::ApplyFile),
    /// List commands, or show, follow and cancel one
    Commands(services::Commands),
    /// Make, list, rotate, disable and remove access keys
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Print a signed curl line for a call of the dialect acs
    Sign(keys::Sign),
    /// Show who changed what
    Audit(keys::Audit),
    /// Make, take, list and remove keys for SSH logins into containers
    #[command(subcommand)]
    SshKey(usage::SshKeyCommand),
    /// Show what containers used in a time, removed ones too
    Usage(usage::Usage),
    /// List and label machines that run containers
    #[command(subcommand)]
    Host(hosts::HostCommand),
    /// Show what containers carried in each five minutes, and the 95th percentile
    Bandwidth(hosts::BandwidthOf),
    /// Remove images
    Rmi(images::Remove),
    /// Show what happens
    Events(events::Events),
    /// Show facts about the machine
    Info(tokens::Info),
    /// Make, list, change, disable and remove accounts, for administrators
    #[command(subcommand)]
    Account(accounts::AccountCommand),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Say what this host can do, and what to do about what is missing
    Doctor(doctor::Doctor),
    /// Make berth a service of this machine: program, settings, group, systemd unit; a second time is an upgrade
    Install(crate::service::install::Install),
    /// Take away what berth install has put here, and berth's bridge, rules and cgroups out of the kernel
    Uninstall(Uninstall),
    /// Write what the server knows (database, keys, settings, volumes) into a folder, while it serves
    Backup(crate::service::backup::Backup),
    /// Put a backup in the place of the data folder; the server must not run
    Restore(crate::service::backup::Restore),
    /// Add, list and choose servers
    #[command(subcommand)]
    Context(contexts::ContextCommand),
    /// Check and show the server's settings, and print an example with every key explained
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the description of an API (OpenAPI 3.1)
    #[command(hide = true)]
    Openapi {
        /// The dialect; the native API without it
        dialect: Option<String>,
    },
    /// Write manual pages into a folder, for packages
    #[command(hide = true)]
    Manuals {
        /// The folder
        folder: PathBuf,
    },
    /// Be a container's first process (inside containers that ask for one)
    #[command(hide = true)]
    InitProcess {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Serve files (inside containers of the runtime `static`)
    #[command(hide = true)]
    StaticServer {
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        port: u16,
    },
}

impl Command {
    /// The command behind docker's groups.
    fn ungrouped(self) -> Self {
        match self {
            Self::Container(group) => group.command(),
            Self::Image(group) => group.command(),
            Self::System(group) => group.command(),
            other => other,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where the HTTP API listens, such as 127.0.0.1:8080
    #[arg(long)]
    listen: Option<std::net::SocketAddr>,
    /// For development: the administrator's access key is taken without a signature; loopback listeners only
    #[arg(long)]
    dev: bool,
    /// What runs the containers; the setting `engine.kind` if it is not given
    #[arg(long, value_enum)]
    engine: Option<EngineKind>,
    /// The cluster's address and credentials, with `--engine kubernetes`
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the cluster, with `--engine kubernetes`
    #[arg(long)]
    namespace: Option<String>,
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Uninstall {
    /// Also while containers run, which are killed
    #[arg(long, short)]
    force: bool,
    /// Also the settings and all data: containers, images, volumes
    #[arg(long)]
    purge: bool,
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    config: Option<PathBuf>,
}

fn settings(config: Option<&std::path::Path>, connection: &Connection) -> Result<Settings, String> {
    let mut settings = Settings::load(config)?;
    if let Some(data) = &connection.data_dir {
        settings.data_dir = data.clone();
    }
    Ok(settings)
}

fn parse(arguments: &[std::ffi::OsString]) -> Result<Cli, clap::Error> {
    if !language::is_chinese() {
        return Cli::try_parse_from(arguments);
    }
    let found = language::in_chinese(Cli::command()).try_get_matches_from(arguments)?;
    clap::FromArgMatches::from_arg_matches(&found)
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    // A pipe that is closed early (`berth ps | head`) ends the program quietly, as it does for other tools.
    // SAFETY: sets a disposition before any thread exists; the server sets it back.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    complete::answer();
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    // As docker has it, beside -V.
    let cli = match arguments.get(1).map(String::as_str) {
        Some("-v") if arguments.len() == 2 => parse(&["berth".into(), "--version".into()]),
        _ => parse(std::env::args_os().collect::<Vec<_>>().as_slice()),
    };
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => match unknown::answer(&error, &Cli::command(), &arguments) {
            Some((text, code)) => {
                eprintln!("berth: {}", language::localized(&text));
                return ExitCode::from(code);
            }
            None if error.use_stderr() => {
                match language::is_chinese().then(|| language::refusal(&error)).flatten() {
                    Some(text) => eprintln!("berth: {}", output::harmless(&text)),
                    None => drop(error.print()),
                }
                return ExitCode::from(unknown::exit_code(&arguments));
            }
            None => error.exit(),
        },
    };
    let cli = Cli { command: cli.command.ungrouped(), ..cli };
    let result = match cli.command {
        Command::Serve(serve) => serve_command(&serve, &cli.connection),
        Command::StaticServer { root, port } => crate::static_server::run(root, port).map(|()| ExitCode::SUCCESS),
        Command::InitProcess { command } => crate::init_process::run(&command).map(sessions::code),
        Command::Doctor(doctor) => doctor::run(&doctor).map(ExitCode::from),
        Command::Install(install) => crate::service::install::install(&install).map(|()| ExitCode::SUCCESS),
        Command::Restore(restore) => settings(restore.config.as_deref(), &cli.connection)
            .and_then(|s| crate::service::backup::restore(&restore, &s.data_dir))
            .map(|()| ExitCode::SUCCESS),
        Command::Backup(backup) => backup_command(&backup, &cli.connection),
        Command::Config(config) => config::run(&config, &cli.connection),
        Command::Uninstall(uninstall) => uninstall_command(&uninstall, &cli.connection),
        Command::Sign(asked) => keys::sign(&cli.connection, &asked),
        Command::Completion { shell } => {
            let written = std::io::Write::write_all(&mut std::io::stdout(), &complete::script(shell));
            written.map(|()| ExitCode::SUCCESS).map_err(|e| e.to_string())
        }
        Command::Openapi { dialect } => description(dialect.as_deref()).map(|document| {
            println!("{document:#}");
            ExitCode::SUCCESS
        }),
        Command::Manuals { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| format!("{}: {e}", folder.display())),
        command => client_command(command, &cli.connection),
    };
    result.unwrap_or_else(|message| {
        eprintln!("berth: {}", language::localized(&message));
        ExitCode::FAILURE
    })
}

fn description(dialect: Option<&str>) -> Result<serde_json::Value, String> {
    let Some(dialect) = dialect else { return Ok(berth_api::openapi()) };
    let documents = berth_api::dialect_documents();
    let found = documents.iter().find(|(name, _)| *name == dialect).map(|(_, document)| document.clone());
    found.ok_or_else(|| {
        let names: Vec<&str> = documents.iter().map(|(name, _)| *name).collect();
        format!("there is no dialect {dialect:?}: there are {}", names.join(", "))
    })
}

fn backup_command(asked: &crate::service::backup::Backup, connection: &Connection) -> Result<ExitCode, String> {
    use crate::service::backup;
    let data = settings(asked.config.as_deref(), connection)?.data_dir;
    // Before anything is written: whether the server can be asked for images at all.
    let client = if asked.images { Some(connection.client()?) } else { None };
    backup::backup(asked, &data)?;
    if let Some(client) = client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(images::save_all(&client, &asked.folder))?;
    }
    backup::seal(&asked.folder)?;
    Ok(ExitCode::SUCCESS)
}

fn uninstall_command(uninstall: &Uninstall, connection: &Connection) -> Result<ExitCode, String> {
    use crate::service::install;
    let data = settings(uninstall.config.as_deref(), connection)?.data_dir;
    // Who names another server's data means what that one has in the kernel, and nothing else.
    let whole = install::is_installed() && connection.data_dir.is_none() && uninstall.config.is_none();
    let engine = data.join("engine");
    let in_kernel = engine.join("instance.json").exists();
    if in_kernel {
        let running = berth_engine_oci::running(&engine).map_err(|e| e.to_string())?;
        if running > 0 && !uninstall.force {
            return Err(match running {
                1 => "1 container runs; stop it first, or --force, which kills it".into(),
                more => format!("{more} containers run; stop them first, or --force, which kills them"),
            });
        }
    }
    if whole {
        install::stop_service()?;
    }
    if in_kernel {
        let _lock = crate::serve::take_lock(&data).map_err(|e| format!("{e}; stop it first"))?;
        berth_engine_oci::uninstall(&engine).map_err(|e| e.to_string())?;
        println!("berth's bridge, rules and cgroups are out of the kernel; {} is as it was", data.display());
    } else if !whole {
        println!("nothing in {} says that berth has anything in the kernel", data.display());
    }
    if whole {
        install::remove_files(uninstall.purge, &data)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Serve {
    /// The settings' file, with what the command line says over it.
    fn settings(&self, connection: &Connection) -> Result<Settings, String> {
        let mut settings = settings(self.config.as_deref(), connection)?;
        settings.dev = self.dev;
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.engine.kind = self.engine.unwrap_or(settings.engine.kind);
        if let Some(kubeconfig) = &self.kubeconfig {
            settings.kubernetes.kubeconfig = kubeconfig.clone();
        }
        if let Some(namespace) = &self.namespace {
            settings.kubernetes.namespace = namespace.clone();
        }
        Ok(settings)
    }
}

fn serve_command(serve: &Serve, connection: &Connection) -> Result<ExitCode, String> {
    // Whatever the caller's: folders of volumes have to be readable in containers, files of the data folder are nobody else's to
    // write. What is secret has modes of its own. Inherited by zygote and shims.
    // SAFETY: before any thread exists.
    unsafe { libc::umask(0o022) };
    // When the host runs out of memory a container is to end, not what looks after all of them. Without the right it stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    let settings = serve.settings(connection)?;
    // SAFETY: as in `run`: one thread so far. A client that goes away is an error of its connection only.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let log = crate::log::Log::begin(&settings);
    let load = || serve.settings(connection);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(crate::serve::serve(settings, log, load));
    // Threads that still read a stuck disk must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result.map(|()| ExitCode::SUCCESS)
}

fn client_command(command: Command, connection: &Connection) -> Result<ExitCode, String> {
    // A server that goes away is an error to be told. A reader that goes away (`berth ps | head`) is none: print! panics.
    // SAFETY: as in `run`: one thread so far.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") {
            std::process::exit(128 + libc::SIGPIPE);
        }
        usual(info);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let outcome = runtime.block_on(async {
        let command = match command {
            Command::Context(context) => return contexts::run(context, connection.token()).await,
            other => other,
        };
        let client = match (connection.client(), &command) {
            (Ok(client), _) => client,
            (Err(error), Command::Version(asked)) => {
                tokens::version(None, asked).await?;
                return Err(error);
            }
            (Err(error), _) => return Err(error),
        };
        about_containers(&client, command).await
    });
    // A thread may still wait for a key.
    runtime.shutdown_background();
    outcome
}

/// Does what a command about containers says.
async fn about_containers(client: &berth_client::Client, command: Command) -> Result<ExitCode, String> {
    match command {
        // As Docker has it: what berth itself could not do is 125, so that no script takes it for the program's own code.
        Command::Run(run) => Ok(containers::run(client, *run).await.unwrap_or_else(|message| {
            eprintln!("berth: {}", language::localized(&message));
            ExitCode::from(125)
        })),
        Command::Create(create) => containers::create(client, *create).await,
        Command::Ps(ps) => listing::ps(client, &ps).await,
        Command::Logs(logs) => logs::logs(client, &logs).await,
        Command::Stats(stats) => listing::stats(client, &stats).await,
        Command::Traffic(asked) => listing::traffic(client, &asked).await,
        Command::Start(start) => containers::start(client, &start).await,
        Command::Stop(stop) => containers::stop(client, &stop, "stop", "stopping").await,
        Command::Restart(stop) => containers::stop(client, &stop, "restart", "restarting").await,
        Command::Kill(kill) => containers::kill(client, &kill).await,
        Command::Rm(rm) => containers::remove(client, &rm).await,
        Command::Rename(rename) => containers::rename(client, &rename).await,
        Command::Top(top) => listing::top(client, &top).await,
        Command::Diff(diff) => listing::diff(client, &diff).await,
        Command::ContainerPrune(prune) => containers::prune(client, &prune).await,
        Command::SystemPrune(prune) => images::prune_all(client, &prune).await,
        Command::Version(version) => tokens::version(Some(client), &version).await,
        Command::Wait(asked) => {
            if asked.ids.iter().all(|id| services::is_command(id)) {
                for id in &asked.ids {
                    services::follow_id(client, id).await?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            containers::wait(client, &asked).await
        }
        Command::Exec(exec) => sessions::exec(client, &exec).await,
        Command::Attach(attach) => sessions::attach(client, &attach).await,
        Command::Cp(copy) => output::with_progress("copying", files::copy(client, &copy)).await,
        Command::Export(export) => output::with_progress("exporting", files::export(client, &export)).await,
        Command::Commit(commit) => change::commit(client, &commit).await,
        Command::Update(update) => change::update(client, &update).await,
        Command::Pause(ids) => containers::act(client, &ids, "pause", "pausing").await,
        Command::Unpause(ids) => containers::act(client, &ids, "resume", "resuming").await,
        Command::Port(ports) => change::ports(client, &ports).await,
        other => about_the_rest(client, other).await,
    }
}

/// Does what any other command says that needs a server.
async fn about_the_rest(client: &berth_client::Client, command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Save(save) => output::with_progress("saving", images::save(client, &save)).await,
        Command::Pull(pull) => registries::pull(client, &pull).await,
        Command::Push(push) => registries::push(client, &push).await,
        Command::Login(login) => registries::login(client, &login).await,
        Command::Logout(logout) => registries::logout(client, &logout).await,
        Command::Tag(tag) => images::tag(client, &tag).await,
        Command::Official(official) => images::official(client, &official).await,
        Command::History(history) => images::history(client, &history).await,
        Command::Search(search) => images::search(client, &search).await,
        Command::Prune(prune) => images::prune(client, &prune).await,
        Command::Df(disk) => images::disk(client, &disk).await,
        Command::Volume(volume) => volumes::run(client, volume).await,
        Command::Inspect(asked) => listing::inspect(client, &asked).await,
        Command::Images(list) => images::list(client, &list).await,
        Command::Load(load) => images::load(client, &load).await,
        Command::Import(import) => images::import(client, &import).await,
        Command::Rmi(remove) => output::with_progress("removing", images::remove(client, &remove)).await,
        Command::Events(events) => events::events(client, &events).await,
        Command::Service(service) => services::service(client, service).await,
        Command::Group(group) => services::group(client, group).await,
        Command::Apply(asked) => services::apply(client, &asked).await,
        Command::Commands(asked) => services::commands(client, &asked).await,
        Command::Key(key) => keys::run(client, key).await,
        Command::Audit(asked) => keys::audit(client, &asked).await,
        Command::SshKey(key) => usage::ssh_key(client, key).await,
        Command::Usage(asked) => usage::usage(client, &asked).await,
        Command::Host(host) => hosts::run(client, host).await,
        Command::Bandwidth(asked) => hosts::bandwidth(client, &asked).await,
        Command::Info(info) => tokens::info(client, &info).await,
        Command::Token(token) => tokens::run(client, token).await,
        Command::Account(account) => accounts::run(client, account).await,
        Command::Ports(asked) => ports::run(client, &asked).await,
        // What needs no server was done before.
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
