//! Docker's groups of commands: `berth container ls` is `berth ps`.

use clap::Subcommand;

use super::{Command, change, containers, events, files, images, listing, logs, options, registries, sessions, tokens};

/// `berth container …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerGroup {
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(listing::Ps),
    /// Make and start a container from an image
    #[command(disable_help_flag = true)]
    Run(Box<options::Run>),
    /// Make a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<options::Create>),
    /// Start containers
    Start(containers::Start),
    /// Stop containers: signal, grace, kill
    Stop(containers::Stop),
    /// Stop and start containers
    Restart(containers::Stop),
    /// Send a signal to containers
    Kill(containers::Kill),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(containers::Remove),
    /// Remove every container that does not run
    Prune(containers::Prune),
    /// Wait until containers have ended, and print their exit codes
    Wait(containers::Ids),
    /// Run a command in a container
    Exec(sessions::Exec),
    /// Take part in what a container's own program reads and writes
    Attach(sessions::Attach),
    /// Copy files between a container and here
    Cp(files::Copy),
    /// Write a container's file system as a tar
    Export(files::Export),
    /// Make an image of what a container has become
    Commit(change::Commit),
    /// Change bounds and restart policy, at once
    Update(change::Update),
    /// Give a container another name
    Rename(containers::Rename),
    /// Stop a container's processes where they are
    Pause(containers::Ids),
    /// Resume paused containers
    Unpause(containers::Ids),
    /// Show, add and take back published ports
    Port(change::Ports),
    /// Show everything about a container
    Inspect(listing::Inspect),
    /// Show a container's output
    Logs(logs::Logs),
    /// Show what containers use
    Stats(listing::Stats),
    /// Show a container's processes
    Top(listing::Top),
    /// Show what a container has changed of its image's files
    Diff(listing::Diff),
}

impl ContainerGroup {
    pub(super) fn command(self) -> Command {
        match self {
            Self::Ls(args) => Command::Ps(args),
            Self::Run(args) => Command::Run(args),
            Self::Create(args) => Command::Create(args),
            Self::Start(args) => Command::Start(args),
            Self::Stop(args) => Command::Stop(args),
            Self::Restart(args) => Command::Restart(args),
            Self::Kill(args) => Command::Kill(args),
            Self::Rm(args) => Command::Rm(args),
            Self::Prune(args) => Command::ContainerPrune(args),
            Self::Wait(args) => Command::Wait(args),
            Self::Exec(args) => Command::Exec(args),
            Self::Attach(args) => Command::Attach(args),
            Self::Cp(args) => Command::Cp(args),
            Self::Export(args) => Command::Export(args),
            Self::Commit(args) => Command::Commit(args),
            Self::Update(args) => Command::Update(args),
            Self::Rename(args) => Command::Rename(args),
            Self::Pause(args) => Command::Pause(args),
            Self::Unpause(args) => Command::Unpause(args),
            Self::Port(args) => Command::Port(args),
            Self::Inspect(args) => Command::Inspect(args.of("container")),
            Self::Logs(args) => Command::Logs(args),
            Self::Stats(args) => Command::Stats(args),
            Self::Top(args) => Command::Top(args),
            Self::Diff(args) => Command::Diff(args),
        }
    }
}

/// `berth image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageGroup {
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::List),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(images::Remove),
    /// Show everything about an image
    Inspect(listing::Inspect),
    /// Show how an image came about
    History(images::History),
    /// Give an image one more name
    Tag(images::Tag),
    /// Write images as an archive
    Save(images::Save),
    /// Import images from an archive
    Load(images::Load),
    /// Import the tar of a root file system as an image
    Import(images::Import),
    /// Fetch an image from a registry
    Pull(registries::Pull),
    /// Send an image to a registry
    Push(registries::Push),
    /// Remove images that nothing uses
    Prune(images::Prune),
}

impl ImageGroup {
    pub(super) fn command(self) -> Command {
        match self {
            Self::Ls(args) => Command::Images(args),
            Self::Rm(args) => Command::Rmi(args),
            Self::Inspect(args) => Command::Inspect(args.of("image")),
            Self::History(args) => Command::History(args),
            Self::Tag(args) => Command::Tag(args),
            Self::Save(args) => Command::Save(args),
            Self::Load(args) => Command::Load(args),
            Self::Import(args) => Command::Import(args),
            Self::Pull(args) => Command::Pull(args),
            Self::Push(args) => Command::Push(args),
            Self::Prune(args) => Command::Prune(args),
        }
    }
}

/// `berth system …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemGroup {
    /// Show how the disk is used
    Df(images::Disk),
    /// Show facts about the machine
    Info(tokens::Info),
    /// Show what happens
    Events(events::Events),
    /// Remove containers that don't run and images that nothing uses
    Prune(SystemPrune),
}

/// What is removed.
#[derive(Debug, clap::Args)]
pub(crate) struct SystemPrune {
    /// Images with names as well, as long as no container was made from them
    #[arg(long, short)]
    pub(super) all: bool,
    /// Anonymous volumes that no container mounts as well
    #[arg(long)]
    pub(super) volumes: bool,
    /// Don't ask
    #[arg(long, short)]
    pub(super) force: bool,
}

impl SystemGroup {
    pub(super) fn command(self) -> Command {
        match self {
            Self::Df(args) => Command::Df(args),
            Self::Info(args) => Command::Info(args),
            Self::Events(args) => Command::Events(args),
            Self::Prune(args) => Command::SystemPrune(args),
        }
    }
}
