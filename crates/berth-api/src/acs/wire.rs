//! The shapes of the answers, as documented; misspelt names included.

use berth_core::{Command as CoreCommand, CommandStatus, ContainerPhase, Core, GroupState, Outcome};
use serde::Serialize;

use crate::http::local_time;

/// The number of the only machine.
const THIS_HOST: i64 = 1;

/// `{"code": "0", "message": "success", "data": …}`.
#[derive(Debug, Serialize)]
pub(super) struct Answer<T> {
    code: &'static str,
    message: &'static str,
    data: T,
}

impl<T> Answer<T> {
    pub(super) fn of(data: T) -> Self {
        Self { code: "0", message: "success", data }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    id: i64,
    node_id: i64,
    status: &'static str,
    create_time: String,
    start_time: String,
    stop_time: String,
    host_id: i64,
    cpu: i64,
    mem: u64,
    disk: u64,
    health: &'static str,
}

const MIB: u64 = 1 << 20;

impl Container {
    /// `disk` is what its group says, bytes.
    pub(super) fn of(core: &Core, c: &berth_core::Container, disk: Option<u64>) -> Self {
        let settings = core.settings();
        let zone = &settings.time_zone;
        let time = |at: Option<i64>| at.map(|at| local_time(at, zone)).unwrap_or_default();
        Self {
            id: c.id,
            node_id: c.group.unwrap_or(0),
            status: match core.container_phase(c) {
                ContainerPhase::Allocated => "ALLOCATED",
                ContainerPhase::Starting => "STARTING",
                ContainerPhase::Running => "RUNNING",
                ContainerPhase::Login => "LOGIN",
                ContainerPhase::Failed => "FAIL",
                ContainerPhase::RunFailed => "RUNFAILED",
                ContainerPhase::StartFailed => "STARTFAILED",
                ContainerPhase::Stopping => "STOPPING",
                ContainerPhase::Stopped => "STOPPED",
                ContainerPhase::StopFailed => "STOPFAILED",
            },
            create_time: time(Some(c.created_at)),
            start_time: time(c.started_at),
            stop_time: time(c.exit.as_ref().and_then(|exit| exit.finished_at).or(c.stopped_at)),
            host_id: c.host,
            cpu: c.spec.cpu_milli.map_or(-1, |milli| i64::try_from(milli.div_ceil(1000)).unwrap_or(i64::MAX)),
            mem: c.spec.memory.unwrap_or(0) / MIB,
            disk: disk.unwrap_or(0) / MIB,
            // Of this run: what an earlier one was says nothing.
            health: match (&c.health_check, core.container_phase(c)) {
                (None, _) => "",
                (Some(_), ContainerPhase::Starting) => "starting",
                (Some(_), _) if !c.state.is_live() => "",
                (Some(_), _) => match c.health.as_ref().map(|h| h.status) {
                    Some(berth_core::HealthStatus::Healthy) => "healthy",
                    Some(berth_core::HealthStatus::Unhealthy) => "unhealthy",
                    Some(berth_core::HealthStatus::Starting) | None => "starting",
                },
            },
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    id: i64,
    name: String,
    image_name: String,
    status: &'static str,
    service_id: i64,
    create_time: String,
    containers: Vec<Container>,
}

impl Node {
    pub(super) fn of(core: &Core, group: berth_core::Group, containers: &[berth_core::Container]) -> Self {
        let (disk, state) = (group.spec.disk, group.state_with(containers));
        Self {
            id: group.id,
            name: group.name,
            image_name: group.spec.image,
            status: match state {
                GroupState::Created => "CREATED",
                GroupState::Running => "RUNNING",
                GroupState::Stopped => "STOPPED",
                GroupState::Deleting => "DELETING",
            },
            service_id: group.service_id,
            create_time: local_time(group.created_at, &core.settings().time_zone),
            containers: containers.iter().map(|c| Container::of(core, c, disk)).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Command {
    command_id: String,
    name: String,
    status: &'static str,
    result: &'static str,
    result_msg: String,
    create_time: String,
    end_time: String,
    activitys: Vec<Activity>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Activity {
    activity_id: i64,
    name: String,
    container_id: i64,
    host_id: i64,
    status: &'static str,
    result: &'static str,
    result_msg: String,
    create_time: String,
    end_time: String,
}

fn status(of: CommandStatus) -> &'static str {
    match of {
        CommandStatus::Created => "CREATED",
        CommandStatus::Published => "PUBLISHED",
        CommandStatus::PublishFailed => "PUBLISH_FAILED",
        CommandStatus::Running => "RUNNING",
        CommandStatus::Done => "DONE",
    }
}

fn result(of: Option<Outcome>) -> &'static str {
    match of {
        None => "",
        Some(Outcome::Success) => "200",
        Some(Outcome::Failed) => "500",
        Some(Outcome::NotFound) => "404",
        Some(Outcome::TimedOut) => "408",
        Some(Outcome::Superseded) => "409",
    }
}

/// The name by which this platform knows it.
fn name(core: &str) -> String {
    match core {
        "group_upload" => "node_upload_start".into(),
        "group_history" => "node_history_start".into(),
        other => other.strip_prefix("group_").map_or_else(|| other.to_owned(), |rest| format!("node_{rest}")),
    }
}

impl Command {
    pub(super) fn of(core: &Core, c: CoreCommand) -> Self {
        let zone = &core.settings().time_zone;
        let time = |at: Option<i64>| at.map(|at| local_time(at, zone)).unwrap_or_default();
        let activity = |a: berth_core::OperationStep| Activity {
            activity_id: a.id,
            name: a.name,
            container_id: a.container.unwrap_or(0),
            host_id: THIS_HOST,
            status: status(a.status),
            result: result(a.result),
            result_msg: a.message,
            create_time: time(Some(a.created_at)),
            end_time: time(a.ended_at),
        };
        Self {
            name: name(&c.name),
            status: status(c.status),
            result: result(c.result),
            create_time: time(Some(c.created_at)),
            end_time: time(c.ended_at),
            command_id: c.uid,
            result_msg: c.message,
            activitys: c.activities.into_iter().map(activity).collect(),
        }
    }
}
