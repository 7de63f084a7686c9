//! What a shell offers when TAB is pressed: the program answers it itself, with the names that the server knows.

use std::ffi::OsStr;
use std::time::Duration;

use berth_client::Client;
use clap::{Command, CommandFactory as _, Parser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;

use super::client::Connection;

/// The variable in which a shell's script says that it asks.
const VARIABLE: &str = "BERTH_COMPLETE";
/// Somebody waits for the key that was pressed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whose names are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Containers,
    Images,
    Volumes,
    Groups,
    Services,
}

/// What an argument of a command names. `path` is the command's, such as `volume rm`.
fn names_of(path: &str, argument: &str) -> Option<Names> {
    let of_volumes = path.starts_with("volume ") && path != "volume create";
    let of_images = path.starts_with("image ");
    match argument {
        "names" | "name" if of_volumes => Some(Names::Volumes),
        "image" | "images" => Some(Names::Images),
        "group" | "groups" if path.starts_with("group ") && path != "group create" => Some(Names::Groups),
        "service" => Some(Names::Services),
        "name" if ["service rm", "service rename"].contains(&path) => Some(Names::Services),
        "id" | "ids" | "container" | "containers" if !of_volumes && !of_images && path != "commands" => {
            let of_containers = !path.contains(' ') || path.starts_with("container ");
            of_containers.then_some(Names::Containers)
        }
        _ => None,
    }
}

/// For a client without a command line: what the environment says.
#[derive(Debug, Parser)]
struct FromEnvironment {
    #[command(flatten)]
    connection: Connection,
}

async fn ask(client: &Client, names: Names) -> Result<Vec<(String, String)>, berth_client::Error> {
    Ok(match names {
        Names::Containers => {
            client.containers().await?.into_iter().map(|c| (c.name, format!("{} ({})", c.image, c.state))).collect()
        }
        Names::Images => {
            let all = client.images().await?.into_iter();
            all.flat_map(|image| image.names.into_iter().map(|name| (name, String::new()))).collect()
        }
        Names::Volumes => client.volumes().await?.into_iter().map(|volume| (volume.name, String::new())).collect(),
        Names::Groups => {
            let all = client.groups().await?.into_iter();
            all.map(|group| (format!("{}/{}", group.service, group.name), group.spec.image)).collect()
        }
        Names::Services => client.services().await?.into_iter().map(|s| (s.name, String::new())).collect(),
    })
}

/// Names that begin so; none if the server can't be asked: a shell has no place for a message.
fn candidates(names: Names, begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let Ok(client) = FromEnvironment::try_parse_from(["berth"]).map(|parsed| parsed.connection.client()) else {
        return Vec::new();
    };
    let Ok(client) = client else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&client, names)).await });
    // A name that is looked up would be waited for.
    runtime.shutdown_background();
    let Ok(Ok(found)) = answered else { return Vec::new() };
    let matching = found.into_iter().filter(|(name, _)| name.starts_with(begun));
    matching.map(|(name, help)| CompletionCandidate::new(name).help((!help.is_empty()).then(|| help.into()))).collect()
}

/// The command line with completers.
fn with_names(command: Command, path: &str) -> Command {
    let command = command.mut_args(|argument| match names_of(path, argument.get_id().as_str()) {
        Some(names) => argument.add(ArgValueCompleter::new(move |begun: &OsStr| candidates(names, begun))),
        None => argument,
    });
    command.mut_subcommands(|below| {
        let path = if path.is_empty() { below.get_name().to_owned() } else { format!("{path} {}", below.get_name()) };
        with_names(below, &path)
    })
}

/// Answers a shell that asks for completions, and ends the program then.
pub(super) fn answer() {
    clap_complete::CompleteEnv::with_factory(|| with_names(super::Cli::command(), "")).var(VARIABLE).complete();
}

/// The completion script of a shell: it asks this program.
pub(crate) fn script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&shell.to_string()) {
        // Writing to memory does not fail.
        let _ = shell.write_registration(VARIABLE, "berth", "berth", "berth", &mut script);
    }
    script
}

#[cfg(test)]
mod tests {
    use super::{Names, names_of};

    #[test]
    fn arguments_are_known_by_their_commands() {
        for (path, argument, names) in [
            ("stop", "ids", Some(Names::Containers)),
            ("container stop", "ids", Some(Names::Containers)),
            ("exec", "id", Some(Names::Containers)),
            ("exec", "command", None),
            ("run", "image", Some(Names::Images)),
            ("rmi", "images", Some(Names::Images)),
            ("volume rm", "names", Some(Names::Volumes)),
            ("volume create", "name", None),
            ("group deploy", "group", Some(Names::Groups)),
            ("token revoke", "id", None),
            ("commands", "id", None),
            ("service rm", "name", Some(Names::Services)),
        ] {
            assert_eq!(names_of(path, argument), names, "{path} {argument}");
        }
    }
}
