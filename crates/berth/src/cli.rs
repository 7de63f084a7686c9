//! The command line: docker's habits on the native API. Results go to stdout, everything else to stderr.

mod change;
mod client;
mod containers;
mod files;
mod hosts;
mod images;
mod keys;
mod options;
mod output;
mod registries;
mod services;
mod sessions;
mod terminal;
mod tokens;
mod usage;
mod volumes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::settings::Settings;
use client::Connection;

/// Runs, limits and measures containers on this machine, and speaks the APIs of several container platforms.
#[derive(Debug, Parser)]
#[command(name = "berth", version, propagate_version = true)]
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
    Run(Box<options::Run>),
    /// Make a container without starting it
    Create(Box<options::Create>),
    /// List containers
    Ps(containers::Ps),
    /// Show a container's output
    Logs(containers::Logs),
    /// Show what containers use
    Stats(containers::Stats),
    /// Show what came in and went out over the network in containers' whole lives, to the byte
    Traffic(containers::TrafficOf),
    /// Start containers
    Start(containers::Ids),
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
    /// Let them go on
    Unpause(containers::Ids),
    /// Show, add and take back published ports
    Port(change::Ports),
    /// Show everything about a container or image, as JSON
    Inspect(containers::Ids),
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
    Events(containers::Events),
    /// Show facts about the machine
    Info(tokens::Info),
    /// List accounts and change their rights, for administrators
    #[command(subcommand)]
    Account(tokens::AccountCommand),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Say what this host can do, and what to do about what is missing
    Doctor(crate::doctor::Doctor),
    /// Take berth's bridge, rules and cgroups out of the kernel; the server must not run
    Uninstall(Uninstall),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
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

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where the HTTP API listens, such as 127.0.0.1:8080
    #[arg(long)]
    listen: Option<std::net::SocketAddr>,
    /// For development: the administrator's access key is taken without a signature; loopback listeners only
    #[arg(long)]
    dev: bool,
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Uninstall {
    /// Also while containers run, which are killed
    #[arg(long, short)]
    force: bool,
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

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    // A pipe that is closed early (`berth ps | head`) ends the program quietly, as it does for other tools.
    // SAFETY: sets a disposition before any thread exists; the server sets it back.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(serve) => serve_command(&serve, &cli.connection),
        Command::StaticServer { root, port } => crate::static_server::run(root, port).map(|()| ExitCode::SUCCESS),
        Command::Doctor(doctor) => crate::doctor::run(&doctor).map(ExitCode::from),
        Command::Uninstall(uninstall) => settings(uninstall.config.as_deref(), &cli.connection)
            .and_then(|s| uninstall_command(&s.data_dir, uninstall.force)),
        Command::Sign(asked) => keys::sign(&cli.connection, &asked),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "berth", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        command => client_command(command, &cli.connection),
    };
    result.unwrap_or_else(|message| {
        eprintln!("berth: {}", output::harmless(&message));
        ExitCode::FAILURE
    })
}

fn uninstall_command(data: &std::path::Path, force: bool) -> Result<ExitCode, String> {
    let engine = data.join("engine");
    if !engine.join("instance.json").exists() {
        println!("nothing in {} says that berth has anything in the kernel", data.display());
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = crate::serve::take_lock(data).map_err(|e| format!("{e}; stop it first"))?;
    let running = berth_engine_oci::running(&engine).map_err(|e| e.to_string())?;
    if running > 0 && !force {
        return Err(format!("{running} containers run; stop them first, or --force, which kills them"));
    }
    berth_engine_oci::uninstall(&engine).map_err(|e| e.to_string())?;
    println!("berth's bridge, rules and cgroups are out of the kernel; {} is as it was", data.display());
    Ok(ExitCode::SUCCESS)
}

fn serve_command(serve: &Serve, connection: &Connection) -> Result<ExitCode, String> {
    // Whatever the caller's: folders of volumes have to be readable in containers, files of the data folder are nobody else's to
    // write. What is secret has modes of its own. Inherited by zygote and shims.
    // SAFETY: before any thread exists.
    unsafe { libc::umask(0o022) };
    // When the host runs out of memory a container is to end, not what looks after all of them. Without the right it stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    let mut settings = settings(serve.config.as_deref(), connection)?;
    if let Some(listen) = serve.listen {
        settings.listen = listen;
    }
    settings.dev = serve.dev;
    // SAFETY: as in `run`: one thread so far. A client that goes away is an error of its connection only.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::serve::begin_log(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(crate::serve::serve(settings));
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
        let client = connection.client()?;
        match command {
            // As Docker has it: what berth itself could not do is 125, so that no script takes it for the program's own code.
            Command::Run(run) => Ok(containers::run(&client, *run).await.unwrap_or_else(|message| {
                eprintln!("berth: {}", output::harmless(&message));
                ExitCode::from(125)
            })),
            Command::Create(create) => containers::create(&client, *create).await,
            Command::Ps(ps) => containers::ps(&client, &ps).await,
            Command::Logs(logs) => containers::logs(&client, &logs).await,
            Command::Stats(stats) => containers::stats(&client, &stats).await,
            Command::Traffic(asked) => containers::traffic(&client, &asked).await,
            Command::Start(ids) => {
                containers::each("starting", &ids.ids, |id| containers::act(&client, id, "start", None)).await
            }
            Command::Stop(stop) => {
                containers::each("stopping", &stop.ids, |id| containers::act(&client, id, "stop", stop.time)).await
            }
            Command::Restart(stop) => {
                containers::each("restarting", &stop.ids, |id| containers::act(&client, id, "restart", stop.time)).await
            }
            Command::Kill(kill) => {
                containers::each("killing", &kill.ids, |id| containers::kill(&client, id, &kill.signal)).await
            }
            Command::Rm(rm) => {
                containers::each("removing", &rm.ids, |id| containers::remove(&client, id, rm.force)).await
            }
            Command::Wait(ids) => {
                if ids.ids.iter().all(|id| services::is_command(id)) {
                    for id in &ids.ids {
                        services::follow_id(&client, id).await?;
                    }
                    return Ok(ExitCode::SUCCESS);
                }
                containers::each("", &ids.ids, |id| containers::wait(&client, id)).await
            }
            Command::Exec(exec) => sessions::exec(&client, &exec).await,
            Command::Attach(attach) => sessions::attach(&client, &attach).await,
            Command::Cp(copy) => files::copy(&client, &copy).await,
            Command::Export(export) => files::export(&client, &export).await,
            Command::Commit(commit) => change::commit(&client, &commit).await,
            Command::Update(update) => change::update(&client, &update).await,
            Command::Pause(ids) => {
                containers::each("pausing", &ids.ids, |id| containers::act(&client, id, "pause", None)).await
            }
            Command::Unpause(ids) => {
                containers::each("resuming", &ids.ids, |id| containers::act(&client, id, "resume", None)).await
            }
            Command::Port(ports) => change::ports(&client, &ports).await,
            Command::Save(save) => images::save(&client, &save).await,
            Command::Pull(pull) => registries::pull(&client, &pull).await,
            Command::Push(push) => registries::push(&client, &push).await,
            Command::Login(login) => registries::login(&client, &login).await,
            Command::Logout(logout) => registries::logout(&client, &logout).await,
            Command::Tag(tag) => images::tag(&client, &tag).await,
            Command::Official(official) => images::official(&client, &official).await,
            Command::History(history) => images::history(&client, &history).await,
            Command::Search(search) => images::search(&client, &search).await,
            Command::Prune(prune) => images::prune(&client, &prune).await,
            Command::Df(disk) => images::disk(&client, &disk).await,
            Command::Volume(volume) => volumes::run(&client, volume).await,
            Command::Inspect(ids) => containers::inspect(&client, &ids.ids).await,
            Command::Images(list) => images::list(&client, &list).await,
            Command::Load(load) => images::load(&client, &load).await,
            Command::Import(import) => images::import(&client, &import).await,
            Command::Rmi(remove) => images::remove(&client, &remove).await,
            Command::Events(events) => containers::events(&client, &events).await,
            Command::Service(service) => services::service(&client, service).await,
            Command::Group(group) => services::group(&client, group).await,
            Command::Apply(asked) => services::apply(&client, &asked).await,
            Command::Commands(asked) => services::commands(&client, &asked).await,
            Command::Key(key) => keys::run(&client, key).await,
            Command::Audit(asked) => keys::audit(&client, &asked).await,
            Command::SshKey(key) => usage::ssh_key(&client, key).await,
            Command::Usage(asked) => usage::usage(&client, &asked).await,
            Command::Host(host) => hosts::run(&client, host).await,
            Command::Bandwidth(asked) => hosts::bandwidth(&client, &asked).await,
            Command::Info(info) => tokens::info(&client, &info).await,
            Command::Token(token) => tokens::run(&client, token).await,
            Command::Account(account) => tokens::account(&client, account).await,
            Command::Serve(_)
            | Command::Sign(_)
            | Command::StaticServer { .. }
            | Command::Doctor(_)
            | Command::Uninstall(_)
            | Command::Completion { .. } => Ok(ExitCode::SUCCESS),
        }
    });
    // A thread may still wait for a key.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
