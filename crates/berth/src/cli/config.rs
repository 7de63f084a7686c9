//! `berth config`: the settings of the server on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use super::client::Connection;
use crate::settings::{Settings, describe};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the settings; 1 if anything is
    Check(From),
    /// Print the settings in force, defaults included
    Show(From),
    /// Print a settings file with every key in a comment
    Example,
}

#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Settings file; /etc/berth/berth.toml if it is there
    #[arg(long, short)]
    config: Option<PathBuf>,
}

pub(super) fn run(command: &ConfigCommand, connection: &Connection) -> Result<ExitCode, String> {
    match command {
        ConfigCommand::Check(from) => {
            let settings = super::settings(from.config.as_deref(), connection)?;
            let wrong = settings.faults();
            for fault in &wrong {
                eprintln!("berth: {fault}");
            }
            if !wrong.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            match Settings::path(from.config.as_deref()) {
                Some(path) => println!("{}: good", path.display()),
                None => println!("no settings file: the defaults are in force"),
            }
        }
        ConfigCommand::Show(from) => {
            let settings = super::settings(from.config.as_deref(), connection)?;
            print!("{}", toml::to_string(&settings).map_err(|e| e.to_string())?);
        }
        ConfigCommand::Example => print!("{}", describe::example(super::language::is_chinese())),
    }
    Ok(ExitCode::SUCCESS)
}
