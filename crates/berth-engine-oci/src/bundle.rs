//! What a container is made of, for the runtime: its bundle and the files of its network.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use berth_engine::{EngineError, MountSource, NetworkMode, UnitSpec};
use berth_runtime::{
    Bundle, DEFAULT_CAPABILITIES, HOST_NETWORK_CAPABILITIES, Limits, LogLimits, Mount, MountKind, Namespace, Rlimit,
    Rootfs,
};
use berth_types::{HOST_GATEWAY, Ulimit};

use crate::engine::Inner;
use crate::instance::failed;
use crate::unit::Unit;

/// Where the program is in containers that ask for a first process of its own.
const INIT_PROGRAM: &str = "/.berth/init";

/// Arguments with, if it is asked for, berth's own first process in front.
fn program_of(spec: &UnitSpec) -> Vec<String> {
    if !spec.extras.init {
        return spec.args.clone();
    }
    let own = [INIT_PROGRAM, "init-process", "--"].map(str::to_owned);
    own.into_iter().chain(spec.args.iter().cloned()).collect()
}

/// A bound as the runtime has it; -1 is none.
fn rlimit(limit: &Ulimit) -> Option<Rlimit> {
    let value = |bound: i64| u64::try_from(bound).unwrap_or(libc::RLIM_INFINITY);
    Some(Rlimit {
        name: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
        number: limit.number()?,
        soft: value(limit.soft),
        hard: value(limit.hard),
    })
}

fn resolv_conf(host: &str, fallback: &[String], own: Option<Ipv4Addr>) -> String {
    let reachable = |line: &&str| {
        let server = line.strip_prefix("nameserver").map(str::trim);
        server.is_none_or(|s| !s.starts_with("127.") && s != "::1" && !s.contains('%'))
    };
    let mut lines: Vec<String> =
        host.lines().filter(|l| !l.trim_start().starts_with('#')).filter(reachable).map(str::to_owned).collect();
    if !lines.iter().any(|l| l.starts_with("nameserver")) {
        lines.extend(fallback.iter().map(|server| format!("nameserver {server}")));
    }
    if let Some(own) = own {
        lines.insert(0, format!("nameserver {own}"));
    }
    lines.join("\n") + "\n"
}

impl Inner {
    pub(crate) fn bundle(&self, unit: &Unit) -> Result<Bundle, EngineError> {
        let record = unit.record();
        let spec = &record.spec;
        let folder = &unit.folder;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for layer in spec.layers.iter().rev() {
            let name = layer.parse().ok().and_then(|digest| self.images.folder_name(&digest));
            let name = name.ok_or_else(|| {
                EngineError::Refused(format!(
                    "layer {layer} of its image is not on this host: load or pull the image again (a backup has images only if it is asked for them)"
                ))
            })?;
            // An image may name a layer twice (an empty one, often), overlayfs refuses that with ELOOP. The uppermost decides
            // alone: whatever the lower one would add, the upper one has as well.
            if !layers.contains(&name) {
                layers.push(name);
            }
        }
        let bind = |from: PathBuf, at: &Path, read_only| Mount {
            at: at.to_owned(),
            kind: MountKind::Bind { from },
            read_only,
            optional: false,
        };
        let mut mounts: Vec<Mount> = ["hosts", "hostname", "resolv.conf"]
            .iter()
            .map(|name| Mount { optional: true, ..bind(folder.join(name), &Path::new("/etc").join(name), false) })
            .collect();
        for mount in &spec.mounts {
            mounts.push(match &mount.source {
                MountSource::Bind { source } => bind(source.clone(), &mount.target, mount.read_only),
                MountSource::Tmpfs { size } => Mount {
                    at: mount.target.clone(),
                    kind: MountKind::Tmpfs { size: *size, mode: 0o1777 },
                    read_only: mount.read_only,
                    optional: false,
                },
                MountSource::Volume { source, .. } => bind(source.clone(), &mount.target, mount.read_only),
                MountSource::Program => bind(self.program.clone(), &mount.target, true),
            });
        }
        if spec.extras.init {
            mounts.push(bind(self.program.clone(), Path::new(INIT_PROGRAM), true));
        }
        // What is mounted on a folder would hide what was mounted below it before, whatever order the client gave.
        mounts.sort_by_key(|mount| mount.at.components().count());
        Ok(Bundle {
            id: spec.id.to_string(),
            hostname: spec.hostname.clone(),
            args: program_of(spec),
            env: spec.env.clone(),
            cwd: PathBuf::from(&spec.working_dir),
            user: spec.user.clone(),
            rootfs: Rootfs {
                at: folder.join("rootfs"),
                layers_in: self.images.layers_folder(),
                layers,
                upper: folder.join("upper"),
                work: folder.join("work"),
                read_only: spec.read_only,
            },
            mounts,
            shm_size: spec.shm_size,
            capabilities: match spec.network {
                NetworkMode::Host if !spec.host_network_trusted => DEFAULT_CAPABILITIES & !HOST_NETWORK_CAPABILITIES,
                NetworkMode::Host | NetworkMode::Bridge | NetworkMode::None => DEFAULT_CAPABILITIES,
            },
            no_new_privileges: !spec.new_privileges,
            seccomp: true,
            network: if spec.network == NetworkMode::Host { Namespace::Host } else { Namespace::Given },
            limits: Limits { cpu_milli: spec.cpu_milli, memory: spec.memory, swap: spec.swap, pids: spec.pids },
            cgroup_parent: self.instance.cgroup_parent(),
            log: LogLimits {
                max_size: spec.extras.log_max_size.unwrap_or(self.options.log.max_size),
                max_files: spec.extras.log_max_files.unwrap_or(self.options.log.max_files),
            },
            groups: spec.extras.groups.clone(),
            rlimits: spec.extras.ulimits.iter().filter_map(rlimit).collect(),
            oom_score_adj: spec.extras.oom_score_adj.unwrap_or(0),
            stdin: spec.stdin,
            terminal: spec.terminal,
            size: spec.size,
            runtime: self.options.runtime.clone(),
        })
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, made anew for every run but for what the container itself
    /// wrote into them since.
    pub(crate) fn network_files(&self, unit: &Unit) -> Result<(), EngineError> {
        let record = unit.record();
        let spec = &record.spec;
        let own = unit.record().placement.address.map(|a| format!("{a}\t{}\n", spec.hostname)).unwrap_or_default();
        let gateway = self.network.subnet.gateway.to_string();
        let further: String = (spec.extras.hosts.iter())
            .map(|entry| {
                let address = if entry.address == HOST_GATEWAY { &gateway } else { &entry.address };
                format!("{address}\t{}\n", entry.name)
            })
            .collect();
        let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}{further}");
        let host_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolv = if !spec.extras.dns.is_empty() {
            spec.extras.dns.iter().map(|server| format!("nameserver {server}\n")).collect()
        } else if spec.network == NetworkMode::Host {
            host_resolv
        } else {
            let own = self.serves_names.load(Ordering::Relaxed).then_some(self.network.subnet.gateway);
            resolv_conf(&host_resolv, &self.options.dns, own.filter(|_| spec.network == NetworkMode::Bridge))
        };
        let resolv = match spec.extras.dns_search.as_slice() {
            [] => resolv,
            domains => {
                let kept = resolv.lines().filter(|line| !line.starts_with("search") && !line.starts_with("domain"));
                format!("search {}\n{}\n", domains.join(" "), kept.collect::<Vec<_>>().join("\n"))
            }
        };
        for (name, text) in [("hosts", hosts), ("hostname", format!("{}\n", spec.hostname)), ("resolv.conf", resolv)] {
            let path = unit.folder.join(name);
            if !path.exists() {
                fs::write(&path, text).map_err(failed(format!("write {name}")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::resolv_conf;

    #[test]
    fn name_servers_on_the_hosts_loopback_are_replaced() {
        let fallback = ["223.5.5.5".to_owned()];
        assert_eq!(
            resolv_conf("# stub\nnameserver 127.0.0.53\nsearch lan\n", &fallback, None),
            "search lan\nnameserver 223.5.5.5\n"
        );
        let own = Some("10.1.0.1".parse().expect("address"));
        assert_eq!(resolv_conf("nameserver 10.0.0.2\n", &fallback, own), "nameserver 10.1.0.1\nnameserver 10.0.0.2\n");
    }
}
