//! Words of Docker's command line that berth does not have: what to use instead. And what was meant by a word that is nearly one.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands, and what to use instead.
const COMMANDS: [(&str, &str); 22] = [
    (
        "build",
        "berth builds no images from a Dockerfile: build elsewhere and `berth load` or `berth pull`, or change a container and `berth commit` it",
    ),
    ("buildx", "berth builds no images from a Dockerfile: build elsewhere and `berth load` or `berth pull`"),
    (
        "builder",
        "berth builds no images, so there is no cache of builds; `berth prune` removes images that nothing uses",
    ),
    ("compose", "groups of containers are described in a file for `berth apply -f`; compose files are not read"),
    (
        "network",
        "there is one network: containers of an account reach each other by name, those of others never; --network host and none are possible",
    ),
    ("secret", "there are no secrets as such: pass them with `berth run --env-file` or a volume"),
    (
        "swarm",
        "there is no swarm: `berth group` runs several like containers on this machine, `berth host` lists machines",
    ),
    ("node", "`berth host ls` lists machines that run containers"),
    ("stack", "groups of containers are described in a file for `berth apply -f`"),
    ("plugin", "there are no plugins"),
    ("manifest", "`berth inspect` shows an image; lists of several platforms are fetched by `berth pull --platform`"),
    (
        "checkpoint",
        "containers can't be written to disk as they run; `berth pause` stops their processes, `berth commit` keeps their files",
    ),
    ("scout", "images are not searched for weaknesses"),
    ("trust", "signatures of images are not looked at; name an image by its digest to be sure of its content"),
    ("init", "no files are made for a project; `berth run` and `berth group create` are the way to begin"),
    ("daemon", "the server is `berth serve`, or the service that `berth install` makes"),
    ("dockerd", "the server is `berth serve`, or the service that `berth install` makes"),
    ("desktop", "there is no desktop application; the API's pages are at /docs/ of the server"),
    ("sbom", "lists of what an image contains are not made"),
    ("debug", "`berth exec -it CONTAINER sh` opens a shell in a container"),
    ("model", "models are not managed"),
    ("extension", "there are no extensions"),
];

/// Flags of `run`, `create`, `exec`, `update` …, and what to use instead.
const FLAGS: [(&str, &str); 42] = [
    (
        "--privileged",
        "containers never get all of the host's rights; what is missing is often --new-privileges or a volume",
    ),
    ("--cap-add", "capabilities are Docker's default set and can't be added to"),
    (
        "--cap-drop",
        "capabilities are Docker's default set and can't be taken from it; --user gives a program none of them",
    ),
    ("--device", "devices of the host can't be given to containers"),
    ("--device-cgroup-rule", "devices of the host can't be given to containers"),
    ("--gpus", "GPUs can't be given to containers"),
    ("--runtime", "the runtime is a setting of the server, engine.runtime"),
    ("--ipc", "containers have memory and queues of their own; --shm-size bounds it"),
    ("--pid", "containers have processes of their own; `berth exec` and `berth top` look into one"),
    ("--uts", "containers have a host name of their own; --hostname sets it"),
    ("--cgroupns", "containers have a cgroup namespace of their own"),
    ("--cgroup-parent", "cgroups are berth's own, below berth-ID of its data folder"),
    ("--sysctl", "kernel parameters of a container can't be set"),
    ("--memory-reservation", "there are no soft limits; --memory is a hard one"),
    ("--memory-swappiness", "how much is swapped is the host's setting; --swap bounds it"),
    ("--kernel-memory", "the kernel's memory counts as --memory"),
    ("--oom-kill-disable", "a container that is out of memory is ended; --memory gives it more"),
    ("--cpu-shares", "CPUs are bounded by --cpus, in absolute numbers"),
    ("-c", "CPUs are bounded by --cpus, in absolute numbers"),
    ("--cpu-period", "CPUs are bounded by --cpus"),
    ("--cpu-quota", "CPUs are bounded by --cpus"),
    ("--cpu-rt-runtime", "CPUs are bounded by --cpus"),
    ("--cpuset-cpus", "CPUs are bounded by --cpus, not by their numbers"),
    ("--cpuset-mems", "memory is bounded by --memory, not by nodes"),
    ("--blkio-weight", "block I/O is measured (`berth stats`), not bounded"),
    ("--device-read-bps", "block I/O is measured (`berth stats`), not bounded"),
    ("--device-write-bps", "block I/O is measured (`berth stats`), not bounded"),
    ("--ip", "addresses are chosen by berth and stay for a container's life; `berth inspect` shows them"),
    ("--ip6", "containers have IPv4 addresses, chosen by berth"),
    ("--mac-address", "link addresses are chosen by berth"),
    ("--network-alias", "a container is found by its name, its id and its host name (--hostname)"),
    ("--domainname", "names have no domain; --hostname takes a name with dots"),
    ("--volume-driver", "volumes are folders of the data folder; there are no drivers"),
    ("--isolation", "that is for Windows"),
    ("--disable-content-trust", "signatures of images are not looked at"),
    ("--opt", "volumes are folders of the data folder: they take no options"),
    ("-o", "volumes are folders of the data folder: they take no options"),
    ("--annotation", "--label keeps what is to be known of a container"),
    ("--attach-stdin", "-i keeps standard input open"),
    (
        "--link",
        "a container is found by its name; `run --link CONTAINER:NAME` gives it another one for a new container",
    ),
    ("-l", "a container is found by its name; `run --link CONTAINER:NAME` gives it another one for a new container"),
    ("--use-api-socket", "berth has no Docker Engine API to be given to containers"),
];

/// What people type and what they don't: `run` of `rnu`, but nothing that removes or ends anything.
fn near<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const DANGEROUS: [&str; 8] = ["rm", "rmi", "kill", "prune", "stop", "uninstall", "restore", "logout"];
    let most = if word.len() <= 4 { 1 } else { 2 };
    let nearest =
        known.map(|name| (strsim::osa_distance(word, name), name)).filter(|(distance, _)| *distance <= most).min();
    nearest.map(|(_, name)| name).filter(|name| !DANGEROUS.contains(name))
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// The exit code of a command line that can't be understood: what made no container is 125, as docker has it.
pub(super) fn exit_code(arguments: &[String]) -> u8 {
    let runs = |words: &[String]| {
        // The first word that is neither a flag of all commands nor the value of one.
        let mut words = words.iter().map(String::as_str);
        let mut first = words.next();
        while let Some(flag) = first.filter(|word| word.starts_with('-')) {
            let takes_value =
                matches!(flag, "-H" | "--host" | "--token" | "--cacert" | "--context" | "--for-account" | "--data-dir");
            first = if takes_value { words.nth(1) } else { words.next() };
        }
        let made = |word: Option<&str>| matches!(word, Some("run" | "create"));
        made(first) || first == Some("container") && made(words.next())
    };
    if runs(arguments.get(1..).unwrap_or_default()) { 125 } else { 2 }
}

/// The command that the words name, and how it is called.
fn command_of<'a>(top: &'a clap::Command, arguments: &[String]) -> (&'a clap::Command, String) {
    let (mut of, mut path) = (top, "berth".to_owned());
    for word in arguments.iter().skip(1).filter(|word| !word.starts_with('-')) {
        let Some(next) = of.find_subcommand(word) else { break };
        of = next;
        path = format!("{path} {}", of.get_name());
    }
    (of, path)
}

/// What is said instead of the parser's own words, with the exit code; `None` where those are good.
pub(super) fn answer(error: &clap::Error, top: &clap::Command, arguments: &[String]) -> Option<(String, u8)> {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = context(error, ContextKind::InvalidSubcommand)?;
            // Of which command: the words before it.
            let before: Vec<_> = arguments.iter().skip(1).take_while(|a| a.as_str() != word).collect();
            let mut of = top;
            for name in before {
                of = of.find_subcommand(name).unwrap_or(of);
            }
            let at_top = of.get_name() == top.get_name();
            if at_top && let Some((_, instead)) = COMMANDS.iter().find(|(name, _)| *name == word) {
                return Some((format!("there is no `berth {word}`: {instead}"), 1));
            }
            let names = || of.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name);
            let path = if at_top { "berth".to_owned() } else { format!("berth {}", of.get_name()) };
            let hint = match near(word, names()) {
                Some(name) => format!("did you mean `{path} {name}`?"),
                None if at_top => "`berth --help` lists the commands".to_owned(),
                None => format!("known: {}", names().filter(|n| *n != "help").collect::<Vec<_>>().join(", ")),
            };
            Some((format!("there is no `{path} {word}`: {hint}"), 2))
        }
        ErrorKind::UnknownArgument => {
            let flag = context(error, ContextKind::InvalidArg)?;
            let name = flag.split(['=', ' ']).next().unwrap_or(flag);
            if let Some((_, instead)) = FLAGS.iter().find(|(known, _)| *known == name) {
                return Some((format!("{name}: {instead}"), exit_code(arguments)));
            }
            let (of, path) = command_of(top, arguments);
            if !name.starts_with('-') {
                let text = format!("{name} is one word too many; `{path} --help` says what is taken");
                return Some((text, exit_code(arguments)));
            }
            let known = of.get_arguments().filter(|a| !a.is_hide_set()).filter_map(clap::Arg::get_long);
            let hint = match near(name.trim_start_matches('-'), known) {
                Some(known) => format!("did you mean `--{known}`?"),
                None => format!("`{path} --help` lists the options"),
            };
            Some((format!("there is no option {name}: {hint}"), exit_code(arguments)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn only_near_and_harmless_names_are_suggested() {
        let known = || ["run", "rm", "rmi", "ps", "prune", "images", "inspect", "stop", "start"].into_iter();
        assert_eq!(near("rnu", known()), Some("run"));
        assert_eq!(near("image", known()), Some("images"));
        assert_eq!(near("strat", known()), Some("start"));
        // What ends or removes things is never what was meant, perhaps.
        assert_eq!(near("rmm", known()), None);
        assert_eq!(near("pune", known()), None);
        assert_eq!(near("network", known()), None);
    }
}
