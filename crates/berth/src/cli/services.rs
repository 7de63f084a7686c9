//! Commands about services and groups.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_api::wire::{
    Apply, Command, GroupCreate, GroupDeploy, GroupPort, GroupSpec, GroupStart, GroupStop, HealthCheck,
};
use berth_client::Client;
use futures_util::StreamExt;

use super::output;
use super::revisions::{self, RollbackTarget};

type Outcome = Result<ExitCode, String>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ServiceCommand {
    /// Make a service
    Create {
        /// Its name
        name: String,
    },
    /// List services
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a service another name
    Rename {
        /// As it is called
        service: String,
        /// As it is to be called
        name: String,
    },
    /// Remove services that have no group
    Rm {
        /// Their names
        #[arg(required = true)]
        services: Vec<String>,
    },
}

/// What a group's containers are to be; what is not given stays, or comes from the image.
#[derive(Debug, clap::Args)]
pub(crate) struct Spec {
    /// How many containers
    #[arg(long, short = 'n')]
    replicas: Option<u32>,
    /// Image
    #[arg(long, short)]
    image: Option<String>,
    /// A host port that leads to all containers: HOST:CONTAINER[/udp], or CONTAINER for any host port
    #[arg(long, short = 'p', value_name = "PORT", value_parser = port)]
    publish: Vec<GroupPort>,
    /// Environment variable KEY=value; KEY= alone with update takes it away
    #[arg(long, short)]
    env: Vec<String>,
    /// Memory limit of each, with b, k, m or g
    #[arg(long, short, value_parser = super::values::size)]
    memory: Option<u64>,
    /// CPUs of each, with fractions
    #[arg(long)]
    cpus: Option<f64>,
    /// Disk that each is meant to use, with b, k, m or g; told to clients, not enforced
    #[arg(long, value_parser = super::values::size)]
    disk: Option<u64>,
    /// Folder that code is put into
    #[arg(long)]
    deploy_path: Option<String>,
    /// Restart policy
    #[arg(long)]
    restart: Option<String>,
    /// Health check by HTTP: PORT/path
    #[arg(long)]
    health_http: Option<String>,
    /// Health check by TCP: PORT
    #[arg(long)]
    health_tcp: Option<u16>,
    /// Health check by a shell command in the container
    #[arg(long)]
    health_cmd: Option<String>,
    /// Seconds between two checks
    #[arg(long)]
    health_interval: Option<f64>,
    /// Failures in a row until it counts as unhealthy
    #[arg(long)]
    health_retries: Option<u32>,
    /// Seconds after the start in which failures don't count
    #[arg(long)]
    health_start_period: Option<f64>,
    /// Seconds that connections may take to end before a container is stopped
    #[arg(long)]
    drain: Option<u64>,
    /// Seconds between the stop signal and the kill
    #[arg(long)]
    stop_timeout: Option<u64>,
    /// Command and arguments instead of the image's
    #[arg(last = true)]
    command: Vec<String>,
}

/// How a command is gone through, and whether it is waited for.
#[derive(Debug, clap::Args)]
pub(crate) struct Way {
    /// One container after another, each only when the one before is well
    #[arg(long, short)]
    sequential: bool,
    /// Print the command's id and don't wait for it
    #[arg(long, short)]
    detach: bool,
}

impl Way {
    fn method(&self) -> String {
        if self.sequential { "sequential" } else { "parallel" }.to_owned()
    }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// Make a group of like containers and start them; the service is made if it is not there
    Create {
        /// SERVICE/GROUP
        group: String,
        #[command(flatten)]
        spec: Box<Spec>,
        #[command(flatten)]
        way: Way,
    },
    /// List groups
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show everything about a group, as JSON
    Inspect {
        /// SERVICE/GROUP
        group: String,
    },
    /// Change what a group's containers are to be
    Update {
        /// SERVICE/GROUP
        group: String,
        #[command(flatten)]
        spec: Box<Spec>,
        #[command(flatten)]
        way: Way,
    },
    /// Change how many containers a group has
    Scale {
        /// SERVICE/GROUP
        group: String,
        /// How many
        replicas: u32,
        #[command(flatten)]
        way: Way,
    },
    /// Start a group
    Start {
        /// SERVICE/GROUP
        group: String,
        /// Make the containers anew; the old one stays until the new one is ready
        #[arg(long)]
        update: bool,
        /// From this image from now on
        #[arg(long)]
        image: Option<String>,
        #[command(flatten)]
        way: Way,
    },
    /// Stop a group, each container when its connections have ended
    Stop {
        /// SERVICE/GROUP
        group: String,
        #[command(flatten)]
        way: Way,
    },
    /// Deploy code (zip, tar, tar.gz, war, jar) from a web address as the next version
    Deploy {
        /// SERVICE/GROUP
        group: String,
        /// http or https address
        url: String,
        /// Make the containers anew; the old one stays until the new one is ready
        #[arg(long)]
        update: bool,
        #[command(flatten)]
        way: Way,
    },
    /// Bring a group back: to a version of its code, or to a revision of what its containers are; one step unless told
    Rollback {
        /// SERVICE/GROUP
        group: String,
        /// Version of the code
        #[arg(value_name = "VERSION")]
        to: Option<i64>,
        /// Revision of what its containers are: image, command, environment, limits, ports
        #[arg(long, conflicts_with = "to")]
        revision: Option<i64>,
        /// Make the containers anew; the old one stays until the new one is ready
        #[arg(long, conflicts_with = "revision")]
        update: bool,
        #[command(flatten)]
        way: Way,
    },
    /// Show what a group's containers were, revision by revision
    Revisions {
        /// SERVICE/GROUP
        group: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the versions of a group's code
    History {
        /// SERVICE/GROUP
        group: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a group with its containers
    Rm {
        /// SERVICE/GROUP
        group: String,
        #[command(flatten)]
        way: Way,
    },
}

/// Have groups be as a file says
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyFile {
    /// YAML or TOML (.toml); - reads YAML from standard input
    #[arg(long, short)]
    file: PathBuf,
    /// Only show what differs
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    way: Way,
}

/// `HOST:CONTAINER[/udp]`.
fn port(text: &str) -> Result<GroupPort, String> {
    let wrong = || format!("{text:?} is not HOST:CONTAINER[/udp] or CONTAINER[/udp]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (host, container) = match ports.split_once(':') {
        Some((host, container)) => (Some(host.parse().map_err(|_| wrong())?), container),
        None => (None, ports),
    };
    let container_port = container.parse().map_err(|_| wrong())?;
    Ok(GroupPort { container_port, host_port: host, protocol: protocol.to_owned() })
}

impl Spec {
    fn change(&self, spec: &mut GroupSpec) -> Result<(), String> {
        fn set<T: Clone>(to: &mut T, given: Option<&T>) {
            if let Some(given) = given {
                to.clone_from(given);
            }
        }
        set(&mut spec.replicas, self.replicas.as_ref());
        set(&mut spec.image, self.image.as_ref());
        set(&mut spec.deploy_path, self.deploy_path.as_ref());
        set(&mut spec.restart, self.restart.as_ref());
        set(&mut spec.drain, self.drain.as_ref());
        spec.memory = self.memory.or(spec.memory);
        spec.cpus = self.cpus.or(spec.cpus);
        spec.disk = self.disk.or(spec.disk);
        spec.stop_timeout = self.stop_timeout.or(spec.stop_timeout);
        if !self.publish.is_empty() {
            spec.ports.clone_from(&self.publish);
        }
        for variable in &self.env {
            let (key, value) = variable.split_once('=').ok_or_else(|| format!("{variable:?} is not KEY=value"))?;
            if value.is_empty() && spec.env.contains_key(key) {
                spec.env.remove(key);
            } else {
                spec.env.insert(key.to_owned(), value.to_owned());
            }
        }
        if !self.command.is_empty() {
            spec.command = Some(self.command.clone());
        }
        let asked = self.health_http.is_some() || self.health_tcp.is_some() || self.health_cmd.is_some();
        if asked {
            spec.health = Some(HealthCheck {
                http: self.health_http.clone(),
                tcp: self.health_tcp,
                command: self.health_cmd.as_ref().map(|c| vec!["/bin/sh".into(), "-c".into(), c.clone()]),
                ..HealthCheck::default()
            });
        }
        if let Some(health) = &mut spec.health {
            health.interval = self.health_interval.or(health.interval);
            health.retries = self.health_retries.or(health.retries);
            health.start_period = self.health_start_period.or(health.start_period);
        } else if self.health_interval.is_some() || self.health_retries.is_some() {
            return Err("what is checked? --health-http, --health-tcp or --health-cmd".into());
        }
        Ok(())
    }
}

fn names(group: &str) -> Result<(&str, &str), String> {
    group.split_once('/').ok_or_else(|| format!("{group:?} is not SERVICE/GROUP"))
}

fn told(error: &berth_client::Error) -> String {
    error.to_string()
}

/// Follows a command to its end and tells how it goes; the exit code is its result.
pub(super) async fn follow(client: &Client, command: &Command, way: &Way) -> Outcome {
    if way.detach {
        println!("{}", command.id);
        return Ok(ExitCode::SUCCESS);
    }
    follow_id(client, &command.id).await
}

pub(super) async fn follow_id(client: &Client, id: &str) -> Outcome {
    let mut events = client.command_events(Some(id)).await.map_err(|e| told(&e))?;
    let mut shown = std::collections::BTreeSet::new();
    let mut last = None;
    let mut doing = "waiting for its turn".to_owned();
    while let Some(event) = output::with_progress(&doing, events.next()).await {
        let command = event.map_err(|e| told(&e))?;
        for step in command.activities.iter().filter(|step| step.status == "done") {
            if shown.insert(step.number) {
                let container = step.container.map(|c| format!(" container {c}")).unwrap_or_default();
                eprintln!("{}{container}: {}", step.name, output::harmless(&step.message));
            }
        }
        let running: Vec<String> = command
            .activities
            .iter()
            .filter(|step| step.status == "running")
            .map(|step| step.name.clone() + &step.container.map(|c| format!(" container {c}")).unwrap_or_default())
            .collect();
        doing = match running.as_slice() {
            [] => "waiting".to_owned(),
            [one] => one.clone(),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        };
        last = Some(command);
    }
    let command = match last {
        Some(command) if command.status == "done" => command,
        // The server went; the command goes on with the next one.
        _ => return Err(format!("the connection ended before command {id}; berth commands {id} shows it")),
    };
    println!("{} {} {}", command.id, command.name, command.target);
    if command.result.as_deref() == Some("success") {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{}: {}", command.result.unwrap_or_default(), command.message))
}

pub(super) async fn service(client: &Client, command: ServiceCommand) -> Outcome {
    match command {
        ServiceCommand::Create { name } => {
            println!("{}", client.service_create(&name).await.map_err(|e| told(&e))?.name);
        }
        ServiceCommand::Ls { json } => {
            let all = client.services().await.map_err(|e| told(&e))?;
            if json {
                output::json(&all)?;
            } else {
                let rows: Vec<_> = all
                    .into_iter()
                    .map(|s| vec![s.number.to_string(), s.name, output::age(&s.created_at) + " ago"])
                    .collect();
                output::table(&["NUMBER", "NAME", "MADE"], &rows);
            }
        }
        ServiceCommand::Rename { service, name } => {
            println!("{}", client.service_rename(&service, &name).await.map_err(|e| told(&e))?.name);
        }
        ServiceCommand::Rm { services } => {
            for service in services {
                client.service_remove(&service).await.map_err(|e| told(&e))?;
                println!("{service}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn group(client: &Client, command: GroupCommand) -> Outcome {
    match command {
        GroupCommand::Create { group, spec, way } => {
            let (service, name) = names(&group)?;
            let mut new = GroupCreate { name: name.to_owned(), spec: GroupSpec::default() };
            spec.change(&mut new.spec)?;
            match client.service_create(service).await {
                Ok(_) => {}
                Err(error) if error.code() == Some("duplicate") => {}
                Err(error) => return Err(told(&error)),
            }
            let made = client.group_create(service, &new).await.map_err(|e| told(&e))?;
            follow(client, &made.command, &way).await
        }
        GroupCommand::Ls { json } => list(client, json).await,
        GroupCommand::Inspect { group } => {
            let (service, name) = names(&group)?;
            output::json(&client.group(service, name).await.map_err(|e| told(&e))?)?;
            Ok(ExitCode::SUCCESS)
        }
        GroupCommand::Update { group, spec, way } => {
            let (service, name) = names(&group)?;
            let mut wanted = client.group(service, name).await.map_err(|e| told(&e))?.spec;
            spec.change(&mut wanted)?;
            let command = client.group_apply(service, name, &wanted, &way.method()).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
        GroupCommand::Scale { group, replicas, way } => {
            let (service, name) = names(&group)?;
            let mut wanted = client.group(service, name).await.map_err(|e| told(&e))?.spec;
            wanted.replicas = replicas;
            let command = client.group_apply(service, name, &wanted, &way.method()).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
        GroupCommand::Start { group, update, image, way } => {
            let (service, name) = names(&group)?;
            let start = GroupStart { update, image, method: Some(way.method()) };
            let command = client.group_start(service, name, &start).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
        GroupCommand::Stop { group, way } => {
            let (service, name) = names(&group)?;
            let stop = GroupStop { method: Some(way.method()) };
            let command = client.group_stop(service, name, &stop).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
        GroupCommand::Deploy { group, url, update, way } => {
            let (service, name) = names(&group)?;
            let deploy = GroupDeploy { url: Some(url), update, method: Some(way.method()), ..GroupDeploy::default() };
            let command = client.group_deploy(service, name, &deploy).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
        GroupCommand::Rollback { group, to, revision, update, way } => {
            let target = match (to, revision) {
                (Some(version), _) => RollbackTarget::Version(version),
                (None, Some(revision)) => RollbackTarget::Revision(revision),
                (None, None) => RollbackTarget::Previous,
            };
            let command = revisions::roll_back(client, names(&group)?, target, update, way.method()).await?;
            follow(client, &command, &way).await
        }
        GroupCommand::Revisions { group, json } => revisions::list(client, names(&group)?, json).await,
        GroupCommand::History { group, json } => revisions::versions(client, names(&group)?, json).await,
        GroupCommand::Rm { group, way } => {
            let (service, name) = names(&group)?;
            let command = client.group_remove(service, name).await.map_err(|e| told(&e))?;
            follow(client, &command, &way).await
        }
    }
}

async fn list(client: &Client, json: bool) -> Outcome {
    let all = client.groups().await.map_err(|e| told(&e))?;
    if json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|g| {
            let running = g.containers.iter().filter(|c| c.state == "running").count();
            let live = g.containers.iter().filter(|c| c.state == "running");
            let well = live.filter_map(|c| c.health.as_ref()).filter(|h| h.status == "healthy").count();
            let checked = g.containers.iter().any(|c| c.health_check.is_some());
            let health = if checked { format!(", {well} healthy") } else { String::new() };
            let ports: Vec<_> =
                g.ports.iter().map(|p| format!("{}->{}/{}", p.host_port, p.container_port, p.protocol)).collect();
            vec![
                g.number.to_string(),
                format!("{}/{}", g.service, g.name),
                g.spec.image.clone(),
                g.state,
                format!("{running}/{}{health}", g.spec.replicas),
                if g.version == 0 { "-".into() } else { g.version.to_string() },
                ports.join(", "),
            ]
        })
        .collect();
    output::table(&["NUMBER", "GROUP", "IMAGE", "STATE", "RUNNING", "VERSION", "PORTS"], &rows);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn apply(client: &Client, asked: &ApplyFile) -> Outcome {
    let path = &asked.file;
    let shown = path.display();
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).map_err(|e| format!("standard input: {e}"))?
    } else {
        std::fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))?
    };
    let wanted: Apply = if path.extension().is_some_and(|e| e == "toml") {
        toml::from_str(&text).map_err(|e| format!("{shown}: {e}"))?
    } else {
        serde_yaml_ng::from_str(&text).map_err(|e| format!("{shown}: {e}"))?
    };
    let method = asked.way.method();
    let plan = client.apply(&wanted, &method, true).await.map_err(|e| told(&e))?;
    for group in &plan {
        match group.action.as_str() {
            "none" => println!("  {}", group.group),
            "create" => println!("+ {}", group.group),
            _ => println!("~ {}", group.group),
        }
        for difference in &group.differences {
            let value = |v: &Option<serde_json::Value>| v.as_ref().map_or_else(|| "-".into(), ToString::to_string);
            let line = format!("{}: {} -> {}", difference.field, value(&difference.from), value(&difference.to));
            println!("    {}", output::harmless(&line));
        }
    }
    let changes = plan.iter().filter(|group| group.action != "none").count();
    if asked.dry_run || changes == 0 {
        eprintln!("{changes} of {} groups differ", plan.len());
        return Ok(ExitCode::SUCCESS);
    }
    let done = client.apply(&wanted, &method, false).await.map_err(|e| told(&e))?;
    let mut failures = BTreeMap::new();
    for group in done {
        if let Some(command) = &group.command
            && let Err(error) = follow(client, command, &asked.way).await
        {
            failures.insert(group.group, error);
        }
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(failures.iter().map(|(group, error)| format!("{group}: {error}")).collect::<Vec<_>>().join("\n"))
}

/// List commands, or show one with its steps
#[derive(Debug, clap::Args)]
pub(crate) struct Commands {
    /// A command's id
    id: Option<String>,
    /// Follow it, or all of them
    #[arg(long, short)]
    follow: bool,
    /// Have it stop before its next step
    #[arg(long, requires = "id")]
    cancel: bool,
    /// Only those that are not over
    #[arg(long)]
    open: bool,
    /// How many of the newest
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn line(c: &Command) -> Vec<String> {
    let message = c.message.lines().next().unwrap_or_default().chars().take(60).collect();
    let state = c.result.clone().unwrap_or_else(|| c.status.clone());
    vec![c.id.clone(), c.name.clone(), c.target.clone(), state, output::age(&c.created_at) + " ago", message]
}

const COLUMNS: [&str; 6] = ["ID", "COMMAND", "TARGET", "STATE", "ACCEPTED", "MESSAGE"];

pub(super) async fn commands(client: &Client, asked: &Commands) -> Outcome {
    match &asked.id {
        Some(id) if asked.cancel => {
            client.command_cancel(id).await.map_err(|e| told(&e))?;
            follow_id(client, id).await
        }
        Some(id) if asked.follow => follow_id(client, id).await,
        Some(id) => {
            let found = client.command(id).await.map_err(|e| told(&e))?;
            if asked.json {
                output::json(&found)?;
                return Ok(ExitCode::SUCCESS);
            }
            output::table(&COLUMNS, &[line(&found)]);
            if !found.message.is_empty() {
                println!("\n{}", output::harmless(&found.message));
            }
            let rows: Vec<_> = found
                .activities
                .iter()
                .map(|a| {
                    let container = a.container.map(|c| c.to_string()).unwrap_or_default();
                    let state = a.result.clone().unwrap_or_else(|| a.status.clone());
                    vec![a.name.clone(), container, state, a.message.lines().next().unwrap_or_default().to_owned()]
                })
                .collect();
            println!();
            output::table(&["STEP", "CONTAINER", "STATE", "MESSAGE"], &rows);
            Ok(ExitCode::SUCCESS)
        }
        None if asked.follow => {
            let mut events = client.command_events(None).await.map_err(|e| told(&e))?;
            while let Some(event) = events.next().await {
                let c = event.map_err(|e| told(&e))?;
                let state = c.result.unwrap_or(c.status);
                println!(
                    "{} {} {} {} {}",
                    c.id,
                    c.name,
                    output::harmless(&c.target),
                    state,
                    output::harmless(&c.message)
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let all = client.commands(asked.limit, asked.open).await.map_err(|e| told(&e))?;
            if asked.json {
                output::json(&all)?;
            } else {
                output::table(&COLUMNS, &all.iter().map(line).collect::<Vec<_>>());
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether text has the form of a command's id.
pub(super) fn is_command(id: &str) -> bool {
    id.len() == 36 && id.bytes().filter(|b| *b == b'-').count() == 4
}
