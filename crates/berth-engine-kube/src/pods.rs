//! A run as a pod, and a pod as a state.

use berth_engine::{EngineError, Exit, MountSource, NetworkMode, PortBinding, PortProtocol, State, UnitSpec};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cache::{INSTANCE, RUN, UNIT};

/// The name of the only container of a pod.
pub(crate) const MAIN: &str = "main";
/// Seconds between the signal and the kill where a node ends a pod by itself, and the longest grace of a stop.
pub(crate) const GRACE_S: i64 = 30;
/// What Docker leaves to the processes of a container.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Why the kubelet could not make a container, of those that do not pass by waiting.
const BROKEN: [&str; 6] = [
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ImageInspectError",
    "RunContainerError",
];

pub(crate) fn pod_name(spec: &UnitSpec, run: u64) -> String {
    format!("berth-{}-{run}", spec.id)
}

/// User and group by number, as pods have them.
fn user_of(user: &str) -> Option<(Option<u32>, Option<u32>)> {
    if user.is_empty() {
        return Some((None, None));
    }
    let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let group = group.map(str::parse).transpose().ok()?;
    Some((Some(user.parse().ok()?), group))
}

/// Refuses what a cluster can't do, before anything is made.
pub(crate) fn check(spec: &UnitSpec) -> Result<(), EngineError> {
    let refuse = |why: String| Err(EngineError::Refused(format!("on Kubernetes {why}")));
    if spec.image.is_empty() {
        return refuse("a container needs an image that the nodes can pull".into());
    }
    if user_of(&spec.user).is_none() {
        return refuse(format!("a user is given by number, not as {:?}", spec.user));
    }
    if spec.network == NetworkMode::None {
        return refuse("every container has a network".into());
    }
    // Links in it are followed on the node, which nobody checks.
    if !spec.host_network_trusted && spec.network == NetworkMode::Host {
        return refuse("the host's network is for administrators".into());
    }
    for mount in &spec.mounts {
        if mount.target.to_string_lossy().contains(':') {
            return refuse(format!("a mount target has no ':': {}", mount.target.display()));
        }
        match &mount.source {
            MountSource::Bind { .. } if !spec.host_network_trusted => {
                return refuse("folders of the host are for administrators".into());
            }
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => {}
            MountSource::Volume { name, .. } => return refuse(format!("named volumes are not possible yet: {name}")),
            MountSource::Program => return refuse("the server's own program can't be mounted".into()),
        }
    }
    let extras = &spec.extras;
    let unknown = [
        (extras.init, "an init process"),
        (!extras.ulimits.is_empty(), "ulimits"),
        (!extras.groups.is_empty(), "further groups"),
        (extras.oom_score_adj.is_some(), "an OOM score"),
        (!extras.hosts.is_empty(), "further lines of /etc/hosts"),
        (!extras.dns.is_empty() || !extras.dns_search.is_empty(), "name servers and search domains"),
        (extras.disk.is_some(), "a disk limit"),
        (extras.log_max_size.is_some() || extras.log_max_files.is_some(), "the rotation of its log"),
    ];
    match unknown.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => refuse(format!("{what} can't be set")),
        None => Ok(()),
    }
}

/// The pod of a run. `owner` is the uid of the container's Secret.
pub(crate) fn pod(
    spec: &UnitSpec,
    ports: &[PortBinding],
    run: u64,
    (instance, owner): (&str, &str),
    node: Option<&str>,
) -> Result<Pod, EngineError> {
    let env = spec.env.iter().filter_map(|variable| variable.split_once('='));
    let env: Vec<Value> = env.map(|(name, value)| json!({ "name": name, "value": escaped(value) })).collect();
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let shm = json!({ "medium": "Memory", "sizeLimit": spec.shm_size.to_string() });
    let shm = (std::path::PathBuf::from("/dev/shm"), json!({ "emptyDir": shm }), false);
    let asked = spec.mounts.iter().filter_map(|mount| {
        let source = match &mount.source {
            MountSource::Bind { source } => json!({ "hostPath": { "path": source } }),
            MountSource::Tmpfs { size } => json!({ "emptyDir": { "medium": "Memory", "sizeLimit": size.to_string() } }),
            MountSource::Volume { .. } | MountSource::Program => return None,
        };
        Some((mount.target.clone(), source, mount.read_only))
    });
    let has_own_shm = spec.mounts.iter().any(|mount| mount.target == shm.0);
    let shm = (!has_own_shm).then_some(shm);
    for (number, (target, mut source, read_only)) in shm.into_iter().chain(asked).enumerate() {
        let name = format!("v{number}");
        source["name"] = json!(name);
        volumes.push(source);
        mounts.push(json!({ "name": name, "mountPath": target, "readOnly": read_only }));
    }
    let published = ports.iter().map(|port| {
        let protocol = match port.protocol {
            PortProtocol::Tcp => "TCP",
            PortProtocol::Udp => "UDP",
        };
        json!({ "containerPort": port.container_port, "hostPort": port.host_port, "hostIP": port.host_ip, "protocol": protocol })
    });
    let (user, group) = user_of(&spec.user).unwrap_or_default();
    let mut limits = serde_json::Map::new();
    if let Some(memory) = spec.memory {
        limits.insert("memory".into(), json!(memory.to_string()));
    }
    if let Some(cpu) = spec.cpu_milli {
        limits.insert("cpu".into(), json!(format!("{cpu}m")));
    }
    let mut annotations = serde_json::Map::new();
    // Taken by the bandwidth plugin of CNI.
    for (key, rate) in [("ingress", spec.rates.ingress), ("egress", spec.rates.egress)] {
        if let Some(rate) = rate {
            annotations.insert(format!("kubernetes.io/{key}-bandwidth"), json!(rate.to_string()));
        }
    }
    let affinity = node.map(|node| {
        let term = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] });
        json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } })
    });
    let secret = format!("berth-{}", spec.id);
    let text = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(spec, run),
            "labels": labels(spec, instance, Some(run)),
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Secret", "name": secret, "uid": owner }],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_S,
            "hostname": if is_label(&spec.hostname) { Value::from(spec.hostname.as_str()) } else { Value::Null },
            "hostNetwork": spec.network == NetworkMode::Host,
            "affinity": affinity,
            "volumes": volumes,
            "containers": [{
                "name": MAIN,
                "image": spec.image,
                "imagePullPolicy": "IfNotPresent",
                // All of the command: nothing of the image's own is added.
                "command": spec.args.iter().map(|argument| escaped(argument)).collect::<Vec<_>>(),
                "env": env,
                "workingDir": if spec.working_dir.is_empty() { "/" } else { &spec.working_dir },
                "stdin": spec.stdin,
                // The end of what a client sends reaches the program.
                "stdinOnce": spec.stdin && !spec.terminal,
                "tty": spec.terminal,
                "ports": published.collect::<Vec<_>>(),
                "volumeMounts": mounts,
                // Nothing is kept for it that it does not use: as everywhere in berth, a bound is no reservation.
                "resources": { "limits": limits, "requests": { "cpu": "0", "memory": "0" } },
                "securityContext": {
                    "allowPrivilegeEscalation": spec.new_privileges,
                    "capabilities": { "drop": ["ALL"], "add": CAPABILITIES },
                    "seccompProfile": { "type": "RuntimeDefault" },
                    "readOnlyRootFilesystem": spec.read_only,
                    "runAsUser": user,
                    "runAsGroup": group,
                },
            }],
        },
    });
    serde_json::from_value(text).map_err(|error| EngineError::Failed(format!("describe the pod: {error}")))
}

/// Kubernetes replaces `$(NAME)` in commands and variables; `$$` is a dollar.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

/// RFC 1123.
fn is_label(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('-') && !text.ends_with('-')
}

/// The labels of what is the engine's.
pub(crate) fn labels(spec: &UnitSpec, instance: &str, run: Option<u64>) -> Value {
    let mut labels = json!({ "app.kubernetes.io/managed-by": "berth", INSTANCE: instance, UNIT: spec.id.as_str() });
    if let Some(run) = run {
        labels[RUN] = json!(run.to_string());
    }
    labels
}

fn nanoseconds(time: &Time) -> i64 {
    i64::try_from(time.0.as_nanosecond()).unwrap_or(i64::MAX)
}

fn exit(ended: &ContainerStateTerminated) -> Exit {
    Exit {
        code: ended.exit_code,
        signal: ended.signal.filter(|signal| *signal != 0),
        oom_killed: ended.reason.as_deref() == Some("OOMKilled"),
        finished_at: ended.finished_at.as_ref().map(nanoseconds),
    }
}

/// The end of a run that nobody saw.
pub(crate) fn unseen_end() -> Exit {
    Exit { code: 255, signal: None, oom_killed: false, finished_at: None }
}

/// The end of a run that was killed with its pod.
pub(crate) fn killed(at: i64) -> Exit {
    Exit { code: 137, signal: Some(9), oom_killed: false, finished_at: Some(at) }
}

/// What the pod of a run says of it; `None` before its program has run.
pub(crate) fn state(pod: &Pod) -> Option<State> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|container| container.name == MAIN);
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        return Some(State::Exited(exit(ended)));
    }
    // Before its phase: one whose deadline has passed is called failed while it still has its grace.
    if let Some(running) = state.and_then(|state| state.running.as_ref()) {
        let started_at = running.started_at.as_ref().map_or(0, nanoseconds);
        return Some(State::Running { pid: None, started_at, paused: false });
    }
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")).then(|| State::Exited(unseen_end()))
}

/// Why a pod will not run, if that is known; with the code that Docker would give.
pub(crate) fn failure(pod: &Pod) -> Option<EngineError> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|container| container.name == MAIN);
    let state = container.and_then(|container| container.state.as_ref())?;
    if let Some(ended) = &state.terminated
        && matches!(ended.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
    {
        return Some(start_error(ended.message.as_deref().unwrap_or("the program can't be run")));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let message = waiting.message.as_deref().unwrap_or_default();
    match reason {
        _ if BROKEN.contains(&reason) => Some(start_error(&format!("{reason}: {message}"))),
        // Tried once more by the kubelet, after a pause: whoever starts it is told at once.
        "ImagePullBackOff" | "ErrImagePull" => {
            Some(EngineError::Start { text: format!("pull the image: {message}"), code: 125 })
        }
        _ => None,
    }
}

/// What a runtime says of a program that it could not run.
pub(crate) fn start_error(message: &str) -> EngineError {
    let code = match message {
        _ if message.contains("executable file not found") || message.contains("no such file or directory") => 127,
        _ if message.contains("permission denied") || message.contains("exec format error") => 126,
        _ => 125,
    };
    EngineError::Start { text: message.to_owned(), code }
}

/// Why no node takes a pod.
pub(crate) fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let mut conditions = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    let condition = conditions.find(|c| c.reason.as_deref() == Some("Unschedulable"))?;
    Some(condition.message.clone().unwrap_or_default())
}

/// The name of the node with this machine id.
pub(crate) fn node_of<'a>(mut nodes: impl Iterator<Item = &'a Node>, machine: &str) -> Option<String> {
    nodes.find(|node| crate::nodes::machine_id(node).as_deref() == Some(machine)).map(ResourceExt::name_any)
}

#[cfg(test)]
mod tests {
    use berth_engine::contract::plain;
    use berth_engine::{EngineError, State};
    use serde_json::json;

    use super::{check, failure, pod, start_error, state};

    fn spec() -> berth_engine::UnitSpec {
        let mut spec = plain("web1", &[], &["/bin/sh".to_owned(), "-c".to_owned(), "echo $(HOME) $$".to_owned()]);
        spec.image = "registry/app:1".into();
        spec
    }

    #[test]
    fn a_pod_runs_the_command_and_nothing_else() {
        let made = pod(&spec(), &[], 3, ("here", "uid-1"), Some("node-1")).expect("pod");
        let made = serde_json::to_value(&made).expect("json");
        assert_eq!(made["metadata"]["name"], "berth-web1-3");
        assert_eq!(made["metadata"]["labels"]["berth.io/run"], "3");
        let container = &made["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["/bin/sh", "-c", "echo $$(HOME) $$$$"]), "{container}");
        assert_eq!(made["spec"]["restartPolicy"], "Never");
        let fields = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
        assert_eq!(made.pointer(fields), Some(&json!("node-1")));
    }

    #[test]
    fn what_a_cluster_can_not_do_is_refused_with_its_name() {
        assert!(check(&spec()).is_ok());
        let mut named = spec();
        named.user = "www-data".into();
        let mut alone = spec();
        alone.network = berth_engine::NetworkMode::None;
        let mut nothing = spec();
        nothing.image = String::new();
        for (wrong, says) in [(named, "www-data"), (alone, "network"), (nothing, "image")] {
            let refused = check(&wrong).expect_err(says);
            assert!(matches!(&refused, EngineError::Refused(text) if text.contains(says)), "{refused}");
        }
    }

    fn with_state(state: serde_json::Value) -> k8s_openapi::api::core::v1::Pod {
        let status = json!({ "phase": "Running", "containerStatuses": [{ "name": "main", "state": state, "image": "x", "imageID": "x",
            "ready": true, "restartCount": 0 }] });
        serde_json::from_value(json!({ "metadata": { "name": "x" }, "status": status })).expect("pod")
    }

    #[test]
    fn states_and_failures_are_read() {
        let ended =
            json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-02T03:04:05Z" } });
        let found = state(&with_state(ended)).expect("a state");
        let State::Exited(exit) = found else { panic!("{found:?}") };
        assert_eq!((exit.code, exit.oom_killed, exit.finished_at), (137, true, Some(1_767_323_045_000_000_000)));
        let running = state(&with_state(json!({ "running": { "startedAt": "2026-01-02T03:04:05Z" } })));
        assert!(matches!(running, Some(State::Running { started_at: 1_767_323_045_000_000_000, .. })), "{running:?}");
        assert_eq!(state(&with_state(json!({ "waiting": { "reason": "ContainerCreating" } }))), None);
        let broken =
            failure(&with_state(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such host" } })));
        assert!(matches!(broken, Some(EngineError::Start { code: 125, .. })), "{broken:?}");
        assert!(failure(&with_state(json!({ "waiting": { "reason": "ContainerCreating" } }))).is_none());
        let missing = start_error("exec: \"missing\": executable file not found in $PATH: unknown");
        assert!(matches!(missing, EngineError::Start { code: 127, .. }));
    }
}
