//! Other OCI runtimes, by name: `runc`, `crun`, or any program with their command line (opencontainers/runtime-spec). The
//! shim mounts the root in a mount namespace of its own, writes `config.json`, has the runtime make and start the container,
//! and is its parent (as a subreaper) for the rest: output, attachment and exit status are the same as with the built-in one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Bundle, Mount, MountKind, Namespace, Rlimit};
use crate::exec::ExecSpec;
use crate::sys::{Cause, Failure, Named, check};
use crate::{mounts, seccomp, socket, users};

/// Names of capabilities by their numbers (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One container of another runtime.
pub(crate) struct Other<'a> {
    program: &'a Path,
    folder: &'a Path,
    bundle: &'a Bundle,
}

/// A process that the runtime made.
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
}

impl<'a> Other<'a> {
    /// The runtime that the bundle names; `None` for the built-in one.
    pub(crate) fn of(folder: &'a Path, bundle: &'a Bundle) -> Option<Self> {
        bundle.runtime.as_deref().map(|program| Self { program, folder, bundle })
    }

    fn oci(&self) -> PathBuf {
        self.folder.join("oci")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.oci().join("state"));
        command.arg("--log").arg(self.oci().join("log")).arg("--log-format").arg("json");
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.without_protection(&mut command);
        command
    }

    /// What comes of the runtime has the container's place before the OOM killer, not the shim's: crun takes a score of 0 for none.
    fn without_protection(&self, command: &mut Command) {
        let score = self.bundle.oom_score_adj.to_string();
        // SAFETY: this process has one thread, so its child may allocate.
        unsafe {
            command.pre_exec(move || {
                let _ = fs::write("/proc/self/oom_score_adj", &score);
                Ok(())
            });
        }
    }

    /// What the runtime's log says last.
    fn complaint(&self) -> String {
        let text = fs::read_to_string(self.oci().join("log")).unwrap_or_default();
        let last = text.lines().rev().find_map(|line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned))?
        });
        last.unwrap_or_else(|| "it does not say why".into())
    }

    /// Runs the runtime. An own signal handling would be in the way of its children.
    fn run(&self, what: &str, command: &mut Command) -> Result<(), Failure> {
        let _ = fs::remove_file(self.oci().join("log"));
        let what = || format!("{what} by {}", self.program.display());
        let status = command.status().named(what)?;
        if status.success() {
            return Ok(());
        }
        let why = self.complaint();
        Err(Failure { what: what(), cause: cause_of(&why), source: io::Error::other(why) })
    }

    /// Makes the container; its program waits for [`start`](Self::start). `netns` must be open in this process.
    pub(crate) fn create(&self, stdio: [OwnedFd; 3], netns: Option<&OwnedFd>) -> Result<Made, Failure> {
        let oci = self.oci();
        match fs::remove_dir_all(&oci) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).named(|| "clear the bundle".into());
            }
            _ => fs::create_dir(&oci).named(|| format!("make {}", oci.display()))?,
        }
        // SAFETY: plain system calls on this single-threaded process.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS).into()).named(|| "unshare mounts".into())?;
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        }
        mounts::detach_from_host()?;
        let root = mounts::root(&self.bundle.rootfs)?;
        let identity = users::resolve_at(&self.bundle.user, &self.bundle.groups, root.as_fd())
            .asked(|| format!("look up user {:?}", self.bundle.user))?;
        let cwd = if self.bundle.cwd.as_os_str().is_empty() { Path::new("/") } else { &self.bundle.cwd };
        if !self.bundle.rootfs.read_only {
            mounts::make_directory(root.as_fd(), cwd)?;
        }
        // The runtime makes places for mounts by itself, but not where something is in the way.
        let placed = |mount: &&Mount| !mount.optional || self.has_place(root.as_fd(), mount);
        let mounts: Vec<&Mount> = self.bundle.mounts.iter().filter(placed).collect();
        let netns = netns.map(|fd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        let config = self.config(&identity, cwd, netns.as_deref(), &mounts);
        drop(root);
        fs::write(oci.join("config.json"), serde_json::to_vec(&config).unwrap_or_default())
            .named(|| "write config.json".into())?;
        let console = self.bundle.terminal.then(|| Console::listen(&oci)).transpose()?;
        let mut command = self.command();
        command.arg("create").arg("--bundle").arg(&oci).arg("--pid-file").arg(oci.join("pid"));
        if console.is_some() {
            command.arg("--console-socket").arg(oci.join(CONSOLE));
        } else {
            let [input, output, errors] = stdio;
            command.stdin(input).stdout(output).stderr(errors);
        }
        self.run("make the container", command.arg(&self.bundle.id))?;
        let terminal = console.map(Console::receive).transpose()?;
        Made::read(&oci.join("pid"), terminal)
    }

    pub(crate) fn start(&self) -> Result<(), Failure> {
        self.run("start the container", self.command().arg("start").arg(&self.bundle.id))
    }

    /// Removes what the runtime keeps of it.
    pub(crate) fn delete(&self) {
        let _ = self.run("delete the container", self.command().arg("delete").arg("--force").arg(&self.bundle.id));
    }

    /// A further process. The caller is its parent from then on.
    pub(crate) fn exec(&self, spec: &ExecSpec, stdio: Vec<OwnedFd>, root: &OwnedFd) -> Result<Made, Failure> {
        // SAFETY: plain system call on this single-threaded process.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        let identity = users::resolve_at(&spec.user, &self.bundle.groups, root.as_fd())
            .asked(|| format!("look up user {:?}", spec.user))?;
        let cwd = if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd };
        let process = self.process(&spec.args, &spec.env, cwd, &identity, spec.terminal.then_some(spec.size));
        // A folder for what belongs to this one only.
        let own = self.oci().join(format!("exec-{}", std::process::id()));
        fs::create_dir(&own).named(|| format!("make {}", own.display()))?;
        let result = (|| {
            let what = || "write process.json".to_owned();
            fs::write(own.join("process.json"), serde_json::to_vec(&process).unwrap_or_default()).named(what)?;
            let console = spec.terminal.then(|| Console::listen(&own)).transpose()?;
            let mut command = Command::new(self.program);
            command.arg("--root").arg(self.oci().join("state"));
            command.arg("--log").arg(own.join("log")).arg("--log-format").arg("json");
            self.without_protection(&mut command);
            command.current_dir("/").arg("exec").arg("--detach");
            command.arg("--process").arg(own.join("process.json")).arg("--pid-file").arg(own.join("pid"));
            match <[OwnedFd; 3]>::try_from(stdio) {
                Ok([input, output, errors]) if console.is_none() => {
                    command.stdin(input).stdout(output).stderr(errors);
                }
                _ => {
                    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    command.arg("--console-socket").arg(own.join(CONSOLE));
                }
            }
            let what =
                || format!("run {:?} by {}", spec.args.first().map_or("", String::as_str), self.program.display());
            let status = command.arg(&self.bundle.id).status().named(what)?;
            if !status.success() {
                let text = fs::read_to_string(own.join("log")).unwrap_or_default();
                let last = text.lines().rev().find_map(|l| {
                    let entry: Value = serde_json::from_str(l).ok()?;
                    entry["msg"].as_str().map(str::to_owned)
                });
                let why = last.unwrap_or_else(|| "it does not say why".into());
                return Err(Failure { what: what(), cause: cause_of(&why), source: io::Error::other(why) });
            }
            let terminal = console.map(Console::receive).transpose()?;
            Made::read(&own.join("pid"), terminal)
        })();
        let _ = fs::remove_dir_all(&own);
        result
    }

    /// `terminal` is its size at first, if it has one of its own.
    fn process(
        &self,
        args: &[String],
        env: &[String],
        cwd: &Path,
        identity: &users::Identity,
        terminal: Option<Option<(u16, u16)>>,
    ) -> Value {
        let env = users::environment(env, &identity.home, &self.bundle.hostname, terminal.is_some());
        let allowed = self.bundle.capabilities;
        let names: Vec<String> = (0..CAPABILITIES.len())
            .filter(|n| allowed & 1 << n != 0)
            .map(|n| format!("CAP_{}", CAPABILITIES[n]))
            .collect();
        let own: &[String] = if identity.uid == 0 { &names } else { &[] };
        let size = terminal.flatten().map(|(rows, columns)| json!({ "height": rows, "width": columns }));
        let limit = |l: &Rlimit| json!({ "type": l.name, "soft": l.soft, "hard": l.hard });
        let limits: Vec<_> = self.bundle.rlimits.iter().map(limit).collect();
        json!({
            "terminal": terminal.is_some(),
            "consoleSize": size,
            "user": { "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups },
            "args": args,
            "env": env,
            "cwd": cwd,
            "capabilities": { "bounding": names, "effective": own, "permitted": own },
            "noNewPrivileges": self.bundle.no_new_privileges,
            // Not the shim's own protection.
            "oomScoreAdj": self.bundle.oom_score_adj,
            "rlimits": limits,
        })
    }

    /// Whether one of the server's own files can be mounted: in the container's root, or in the folder of the host that the client
    /// has mounted above it.
    fn has_place(&self, root: std::os::fd::BorrowedFd<'_>, mount: &Mount) -> bool {
        let above = self
            .bundle
            .mounts
            .iter()
            .rev()
            .find(|other| !other.optional && other.at != mount.at && mount.at.starts_with(&other.at));
        match above.map(|other| (&other.kind, mount.at.strip_prefix(&other.at))) {
            None => mounts::place_for_file(root, &mount.at),
            Some((MountKind::Bind { from }, Ok(rest))) => {
                fs::symlink_metadata(from.join(rest)).is_ok_and(|meta| meta.is_file())
            }
            Some(_) => true,
        }
    }

    /// The container as the specification has it (config.md, config-linux.md).
    fn config(&self, identity: &users::Identity, cwd: &Path, netns: Option<&str>, mounts: &[&Mount]) -> Value {
        let bundle = self.bundle;
        let mount = |at: &str, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
        let shm = format!("size={}", bundle.shm_size);
        let most = format!("max={}", crate::mounts::MOST_TERMINALS);
        let mut all = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", &most],
            ),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ];
        for m in mounts {
            let read_only = if m.read_only { "ro" } else { "rw" };
            all.push(match &m.kind {
                MountKind::Bind { from } => json!({
                    "destination": m.at, "type": "bind", "source": from,
                    "options": ["rbind", "rprivate", "nosuid", "nodev", read_only],
                }),
                MountKind::Tmpfs { size, mode } => json!({
                    "destination": m.at, "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "nodev", format!("size={size}"), format!("mode={mode:o}"), read_only],
                }),
            });
        }
        let mut namespaces =
            vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "mount"})];
        namespaces.push(json!({"type": "cgroup"}));
        if let (Namespace::Given, Some(path)) = (bundle.network, netns) {
            namespaces.push(json!({ "type": "network", "path": path }));
        }
        let limits = &bundle.limits;
        let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        if let Some(memory) = limits.memory {
            let swap = memory.saturating_add(limits.swap.unwrap_or(0)).min(i64::MAX as u64);
            resources["memory"] = json!({ "limit": memory, "swap": swap });
        }
        if let Some(milli) = limits.cpu_milli {
            resources["cpu"] = json!({ "quota": milli * 100, "period": 100_000 });
        }
        if let Some(pids) = limits.pids {
            resources["pids"] = json!({ "limit": pids });
        }
        json!({
            "ociVersion": "1.0.2",
            "hostname": bundle.hostname,
            "root": { "path": bundle.rootfs.at, "readonly": bundle.rootfs.read_only },
            "process": self.process(&bundle.args, &bundle.env, cwd, identity, bundle.terminal.then_some(bundle.size)),
            "mounts": all,
            "linux": {
                "namespaces": namespaces,
                "resources": resources,
                "cgroupsPath": format!("/{}/{}", bundle.cgroup_parent, bundle.id),
                "maskedPaths": mounts::masked(),
                "readonlyPaths": mounts::READ_ONLY,
                "seccomp": if bundle.seccomp { seccomp::as_oci(bundle.capabilities) } else { Value::Null },
            },
        })
    }
}

/// Whose matter a runtime's complaint is: it is a text, and runc and crun have their own words.
fn cause_of(complaint: &str) -> Cause {
    let complaint = complaint.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
    let of_program =
        has(&["exec: ", "executable file", "open executable", "exec user process", "exec container process"]);
    if of_program && has(&["executable file not found", "no such file or directory", "not found in $path"]) {
        Cause::Missing
    } else if of_program && has(&["permission denied", "is a directory", "exec format error"]) {
        Cause::Denied
    } else if has(&["mounting", "mount "]) && has(&["not a directory", "no such file"]) {
        Cause::Request
    } else {
        Cause::Host
    }
}

impl Made {
    fn read(path: &Path, terminal: Option<OwnedFd>) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).named(|| "read the runtime's pid file".into())?;
        let pid: i32 = text.trim().parse().map_err(io::Error::other).named(|| format!("read pid {text:?}"))?;
        // It is this process's child by now, and was not waited for: the number is still its own.
        // SAFETY: plain system call; the descriptor is owned at once.
        let pidfd = unsafe {
            let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0)).named(|| format!("open process {pid}"))?;
            OwnedFd::from_raw_fd(fd as i32)
        };
        Ok(Self { pid, pidfd, terminal })
    }
}

const CONSOLE: &str = "console";

/// Where a runtime hands over the terminal's master.
struct Console(OwnedFd);

impl Console {
    fn listen(folder: &Path) -> Result<Self, Failure> {
        socket::listen_stream(folder, CONSOLE).map(Self).named(|| "listen for the terminal".into())
    }

    fn receive(self) -> Result<OwnedFd, Failure> {
        let what = || "get the terminal from the runtime".to_owned();
        let none = || Failure::host(what(), io::Error::other("none came"));
        let connection = socket::accept(self.0.as_fd()).ok_or_else(none)?;
        let (_, fds) = socket::receive(connection.as_fd(), &mut [0; 256], 0).named(what)?;
        fds.into_iter().next().ok_or_else(none)
    }
}

/// The root of a container of another runtime, for its users and groups.
pub(crate) fn root_of(pid: i32) -> Result<OwnedFd, Failure> {
    File::open(format!("/proc/{pid}/root")).map(OwnedFd::from).named(|| "open the container's root".into())
}

#[cfg(test)]
mod tests {
    use super::{CAPABILITIES, cause_of};
    use crate::bundle::DEFAULT_CAPABILITIES;
    use crate::sys::Cause;

    #[test]
    fn capabilities_have_their_names() {
        let of = |n: usize| CAPABILITIES[n];
        assert_eq!(
            (of(0), of(13), of(21), of(27), of(31), of(40)),
            ("CHOWN", "NET_RAW", "SYS_ADMIN", "MKNOD", "SETFCAP", "CHECKPOINT_RESTORE")
        );
        assert_eq!(DEFAULT_CAPABILITIES.count_ones(), 14);
    }

    #[test]
    fn complaints_of_runtimes_are_told_apart() {
        for (complaint, cause) in [
            ("exec: \"nope\": executable file not found in $PATH: unknown", Cause::Missing),
            ("executable file `nope` not found in $PATH: No such file or directory", Cause::Missing),
            ("exec container process (missing dynamic library?) `/x`: No such file or directory", Cause::Missing),
            ("exec: \"/etc\": permission denied", Cause::Denied),
            ("open executable: Permission denied", Cause::Denied),
            ("exec container process `/bin/x`: Exec format error", Cause::Denied),
            ("error mounting \"/a\" to rootfs at \"/b\": not a directory", Cause::Request),
            ("cgroups: out of luck", Cause::Host),
        ] {
            assert_eq!(cause_of(complaint), cause, "{complaint}");
        }
    }
}
