//! The command line: docker's habits on the native API. Results go to stdout, everything else to stderr.

mod client;
mod containers;
mod images;
mod options;
mod output;
mod tokens;

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
    /// Wait until containers have ended, and print their exit codes
    Wait(containers::Ids),
    /// Show everything about a container or image, as JSON
    Inspect(containers::Ids),
    /// List images
    Images(images::List),
    /// Import images from a `docker save` or OCI archive, or an OCI layout folder
    Load(images::Load),
    /// Import the tar of a root file system as an image
    Import(images::Import),
    /// Remove images
    Rmi(images::Remove),
    /// Show what happens
    Events(containers::Events),
    /// Show facts about the machine
    Info(tokens::Info),
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
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Uninstall {
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
            .and_then(|s| berth_engine_oci::uninstall(&s.data_dir.join("engine")).map_err(|e| e.to_string()))
            .map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "berth", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        command => client_command(command, &cli.connection),
    };
    result.unwrap_or_else(|message| {
        eprintln!("berth: {message}");
        ExitCode::FAILURE
    })
}

fn serve_command(serve: &Serve, connection: &Connection) -> Result<ExitCode, String> {
    let mut settings = settings(serve.config.as_deref(), connection)?;
    if let Some(listen) = serve.listen {
        settings.listen = listen;
    }
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let client = connection.client()?;
        match command {
            Command::Run(run) => containers::run(&client, *run).await,
            Command::Create(create) => containers::create(&client, *create).await,
            Command::Ps(ps) => containers::ps(&client, &ps).await,
            Command::Logs(logs) => containers::logs(&client, &logs).await,
            Command::Stats(stats) => containers::stats(&client, &stats).await,
            Command::Start(ids) => containers::each(&ids.ids, |id| containers::act(&client, id, "start", None)).await,
            Command::Stop(stop) => {
                containers::each(&stop.ids, |id| containers::act(&client, id, "stop", stop.time)).await
            }
            Command::Restart(stop) => {
                containers::each(&stop.ids, |id| containers::act(&client, id, "restart", stop.time)).await
            }
            Command::Kill(kill) => containers::each(&kill.ids, |id| containers::kill(&client, id, &kill.signal)).await,
            Command::Rm(rm) => containers::each(&rm.ids, |id| containers::remove(&client, id, rm.force)).await,
            Command::Wait(ids) => containers::each(&ids.ids, |id| containers::wait(&client, id)).await,
            Command::Inspect(ids) => containers::inspect(&client, &ids.ids).await,
            Command::Images(list) => images::list(&client, &list).await,
            Command::Load(load) => images::load(&client, &load).await,
            Command::Import(import) => images::import(&client, &import).await,
            Command::Rmi(remove) => images::remove(&client, &remove).await,
            Command::Events(events) => containers::events(&client, &events).await,
            Command::Info(info) => tokens::info(&client, &info).await,
            Command::Token(token) => tokens::run(&client, token).await,
            Command::Serve(_)
            | Command::StaticServer { .. }
            | Command::Doctor(_)
            | Command::Uninstall(_)
            | Command::Completion { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
