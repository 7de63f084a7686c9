//! Control groups, version 1 and 2 (cgroups(7)), by plain files: making, bounding, measuring, ending.
//!
//! Where the controllers are in the version 2 hierarchy that one is used; otherwise each version 1 hierarchy that berth
//! needs. A container's groups are `<hierarchy>/<parent>/<id>`.

mod bpf;
mod devices;
mod traffic;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use crate::bundle::{Limits, Traffic};
use crate::sys::{Failure, Named};

/// Length of the CPU bandwidth period, microseconds; the kernel's and Docker's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// One for each controller (controllers mounted together appear under each name), and the unified one beside them,
    /// where there is one.
    V1(BTreeMap<String, PathBuf>, Option<PathBuf>),
    /// The unified one, with its mount point.
    V2(PathBuf),
}

/// What a container uses, as its cgroup counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// CPU time of all processes, nanoseconds.
    pub cpu_ns: u64,
    /// Memory without the page cache that can be dropped at once, bytes (what Docker and Kubernetes call working set).
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub write_bytes: u64,
    /// Processes that the OOM killer has killed.
    pub oom_kills: u64,
}

/// Controllers of version 1 that containers are put in. Without the rest (cpuset, net_cls …) they stay where the server is.
const V1_CONTROLLERS: [&str; 7] = ["memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio"];

impl Hierarchies {
    /// Reads what is mounted.
    ///
    /// # Errors
    /// The mounts can't be read, or there is neither version with the controllers cpu, memory and pids.
    pub fn detect() -> io::Result<Self> {
        Self::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?, |path| {
            fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    fn from_mountinfo(mounts: &str, controllers_of: impl Fn(&Path) -> String) -> io::Result<Self> {
        let mut v1 = BTreeMap::new();
        let mut unified = None;
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let at = PathBuf::from(before.split(' ').nth(4).unwrap_or_default());
            let mut after = after.split(' ');
            match after.next() {
                Some("cgroup2") => {
                    let controllers = controllers_of(&at);
                    if ["cpu", "memory", "pids"].iter().all(|c| controllers.split_whitespace().any(|have| have == *c)) {
                        return Ok(Self::V2(at));
                    }
                    unified.get_or_insert(at);
                }
                Some("cgroup") => {
                    for option in after.nth(1).unwrap_or_default().split(',') {
                        if V1_CONTROLLERS.contains(&option) {
                            v1.entry(option.to_owned()).or_insert_with(|| at.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        if ["cpu", "memory", "pids", "devices"].iter().all(|c| v1.contains_key(*c)) {
            return Ok(Self::V1(v1, unified));
        }
        Err(io::Error::other("no cgroup hierarchy with the controllers cpu, memory and pids is mounted"))
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        match self {
            Self::V1(..) => 1,
            Self::V2(_) => 2,
        }
    }

    /// Mount points, each once, with the controllers behind it (empty for version 2).
    pub(crate) fn mounts(&self) -> Vec<(PathBuf, Vec<&str>)> {
        match self {
            Self::V2(at) => vec![(at.clone(), Vec::new())],
            Self::V1(all, _) => {
                let mut by_path: BTreeMap<&PathBuf, Vec<&str>> = BTreeMap::new();
                for (name, path) in all {
                    by_path.entry(path).or_default().push(name);
                }
                by_path.into_iter().map(|(path, names)| (path.clone(), names)).collect()
            }
        }
    }

    /// Every mount point that groups of containers may be under.
    fn places(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.mounts().into_iter().map(|(at, _)| at).collect();
        if let Self::V1(_, unified) = self {
            all.extend(unified.clone());
        }
        all
    }

    /// Remounts the version 2 hierarchy with `favordynmods`, other options kept. Without it the first process that joins
    /// a cgroup after a quiet moment waits some 14 ms for an RCU grace period; the lock is global, so version 1 gains too.
    /// Returns whether the option is on now.
    ///
    /// # Errors
    /// What mount(2) said; kernels before 6.0 don't know the option.
    pub fn favor_dynamic_modifications() -> io::Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let Some((at, options)) = mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            (after.next() == Some("cgroup2")).then(|| (before.split(' ').nth(4), after.nth(1)))
        }) else {
            return Ok(false);
        };
        let (Some(at), options) = (at, options.unwrap_or_default()) else { return Ok(false) };
        if options.split(',').any(|o| o == "favordynmods") {
            return Ok(true);
        }
        let mut wanted: Vec<&str> = options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "")).collect();
        wanted.push("favordynmods");
        let (at, data) = (crate::sys::c_string(at)?, crate::sys::c_string(wanted.join(","))?);
        // SAFETY: all strings outlive the call.
        let result = unsafe {
            libc::mount(
                c"cgroup".as_ptr(),
                at.as_ptr(),
                c"cgroup2".as_ptr(),
                libc::MS_REMOUNT | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RELATIME,
                data.as_ptr().cast(),
            )
        };
        crate::sys::check(result.into()).map(|_| true)
    }
}

/// The cgroups of one container.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    name: PathBuf,
}

fn write(path: &Path, value: impl AsRef<str>) -> Result<(), Failure> {
    fs::write(path, value.as_ref()).named(|| format!("write {:?} to {}", value.as_ref(), path.display()))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn make_dir(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.named(|| format!("make cgroup {}", path.display())),
    }
}

/// The groups above those of containers, in each hierarchy that bounds something; they are made.
pub fn parents(hierarchies: &Hierarchies, parent: &str) -> Vec<PathBuf> {
    let all = hierarchies.mounts().into_iter().map(|(at, _)| at.join(parent));
    all.filter(|folder| make_dir(folder).is_ok()).collect()
}

impl Cgroup {
    /// Names the cgroups of container `id` under `parent`; makes nothing.
    pub fn new(hierarchies: Hierarchies, parent: &str, id: &str) -> Self {
        Self { hierarchies, name: Path::new(parent).join(id) }
    }

    fn folder(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1(all, _) => all.get(controller).map(|at| at.join(&self.name)),
            Hierarchies::V2(at) => Some(at.join(&self.name)),
        }
    }

    /// The group in the version 2 hierarchy; beside version 1 it exists only for containers whose traffic it counts.
    fn unified(&self) -> Option<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1(_, unified) => unified.as_ref().map(|at| at.join(&self.name)),
            Hierarchies::V2(at) => Some(at.join(&self.name)),
        }
    }

    /// Begins to count what the group's processes send and receive, those of the host's network too.
    ///
    /// # Errors
    /// There is no version 2 hierarchy, or the kernel refused the programs.
    pub fn count_traffic(&self) -> Result<(), Failure> {
        let folder = self.unified().ok_or_else(|| {
            Failure::host(
                "find a version 2 cgroup hierarchy to count traffic in",
                io::Error::from_raw_os_error(libc::ENOENT),
            )
        })?;
        if let Some(parent) = folder.parent() {
            make_dir(parent)?;
        }
        make_dir(&folder)?;
        let opened = fs::File::open(&folder).named(|| format!("open {}", folder.display()))?.into();
        traffic::attach(&opened).named(|| "attach the programs that count traffic".into())
    }

    /// What [`count_traffic`](Self::count_traffic) has counted; `None` if nothing counts.
    pub fn traffic(&self) -> Option<Traffic> {
        traffic::read(&fs::File::open(self.unified()?).ok()?.into())
    }

    /// Stops or continues all processes of the group. Returns when it is so.
    ///
    /// # Errors
    /// The file that could not be written, or that processes would not stop within two seconds (they go on then).
    pub fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        let (file, value, state, reached) = match &self.hierarchies {
            Hierarchies::V1(..) if frozen => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            Hierarchies::V1(..) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            Hierarchies::V2(_) if frozen => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            Hierarchies::V2(_) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let folder = self
            .folder("freezer")
            .ok_or_else(|| Failure::host("find the freezer cgroup", io::Error::from_raw_os_error(libc::ENOENT)))?;
        write(&folder.join(file), value)?;
        let mut pause = Duration::from_micros(50);
        let mut waited = Duration::ZERO;
        while !fs::read_to_string(folder.join(state)).unwrap_or_default().contains(reached) {
            if waited > Duration::from_secs(2) {
                if frozen {
                    self.freeze(false)?;
                }
                return Err(Failure::host(format!("wait for {value}"), io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(10));
            // A process that came in meanwhile makes version 1 forget.
            write(&folder.join(file), value)?;
        }
        Ok(())
    }

    /// Whether [`freeze`](Self::freeze) holds the group.
    pub fn frozen(&self) -> bool {
        let (file, word) = match &self.hierarchies {
            Hierarchies::V1(..) => ("freezer.state", "FROZEN"),
            Hierarchies::V2(_) => ("cgroup.freeze", "1"),
        };
        let text = self.folder("freezer").and_then(|f| fs::read_to_string(f.join(file)).ok());
        text.is_some_and(|t| t.trim() == word)
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.mounts().into_iter().map(|(at, _)| at.join(&self.name))
    }

    /// Makes the groups (empty ones that exist are taken over), bounds devices and resources.
    ///
    /// # Errors
    /// The file that could not be written, with the value.
    pub fn create(&self, limits: &Limits) -> Result<(), Failure> {
        if let Hierarchies::V2(at) = &self.hierarchies {
            let parent = self.name.parent().map_or_else(|| at.clone(), |p| at.join(p));
            make_dir(&parent)?;
            for folder in [at, &parent] {
                let have = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
                for controller in ["cpu", "memory", "pids", "io"] {
                    if !have.split_whitespace().any(|c| c == controller) {
                        let result = write(&folder.join("cgroup.subtree_control"), format!("+{controller}"));
                        // Some hosts keep io to themselves; then block I/O is not counted, nothing else suffers.
                        if controller != "io" {
                            result?;
                        }
                    }
                }
            }
        }
        for folder in self.folders() {
            if let Some(parent) = folder.parent() {
                make_dir(parent)?;
            }
            make_dir(&folder)?;
        }
        devices::restrict(self)?;
        self.update(limits)
    }

    /// The descriptor to be born in (version 2 only).
    pub(crate) fn birth_place(&self) -> Result<Option<OwnedFd>, Failure> {
        match &self.hierarchies {
            Hierarchies::V1(..) => Ok(None),
            Hierarchies::V2(at) => {
                let path = at.join(&self.name);
                fs::File::open(&path).named(|| format!("open {}", path.display())).map(|f| Some(f.into()))
            }
        }
    }

    /// Puts a process into the groups (version 1; in version 2 it was born there).
    pub(crate) fn join(&self, pid: i32) -> Result<(), Failure> {
        if matches!(self.hierarchies, Hierarchies::V2(_)) {
            return Ok(());
        }
        let counting = self.unified().filter(|folder| folder.exists());
        self.folders().chain(counting).try_for_each(|folder| write(&folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Puts a process into the group that counts its traffic, if there is one beside those of version 1.
    pub(crate) fn join_counting(&self, pid: i32) -> Result<(), Failure> {
        match self.unified().filter(|folder| self.hierarchies.version() == 1 && folder.exists()) {
            Some(folder) => write(&folder.join("cgroup.procs"), pid.to_string()),
            None => Ok(()),
        }
    }

    /// Whether all its groups are there.
    pub fn is_whole(&self) -> bool {
        self.folders().all(|folder| folder.exists())
    }

    /// Puts all processes of the pid namespace of `first`, a container's first process, into the groups.
    ///
    /// # Errors
    /// The first group that did not take a process which is still there; the others are put in all the same.
    pub fn adopt(&self, first: i32) -> Result<(), Failure> {
        let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(own) = space(first) else { return Ok(()) };
        if fs::read_link("/proc/self/ns/pid").is_ok_and(|ours| ours == own) {
            // It has ended, and its number is another process's of the host.
            return Ok(());
        }
        let counting = self.unified().filter(|folder| folder.exists());
        let folders: Vec<PathBuf> = self.folders().chain(counting).collect();
        let mut failed = None;
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            if space(pid).as_ref() != Some(&own) {
                continue;
            }
            for folder in &folders {
                match write(&folder.join("cgroup.procs"), pid.to_string()) {
                    Err(failure) if failure.source.raw_os_error() != Some(libc::ESRCH) => {
                        failed = failed.or(Some(failure))
                    }
                    _ => {}
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sets all bounds anew, live.
    ///
    /// # Errors
    /// The file that could not be written, with the value.
    pub fn update(&self, limits: &Limits) -> Result<(), Failure> {
        let quota = limits.cpu_milli.map(|milli| milli * CPU_PERIOD_US / 1000);
        let text = |n: Option<u64>, none: &str| n.map_or_else(|| none.to_owned(), |n| n.to_string());
        match &self.hierarchies {
            Hierarchies::V2(at) => {
                let folder = at.join(&self.name);
                write(&folder.join("cpu.max"), format!("{} {CPU_PERIOD_US}", text(quota, "max")))?;
                write(&folder.join("memory.max"), text(limits.memory, "max"))?;
                let swap = limits.memory.map(|_| limits.swap.unwrap_or(0));
                if folder.join("memory.swap.max").exists() {
                    write(&folder.join("memory.swap.max"), text(swap, "max"))?;
                }
                write(&folder.join("pids.max"), text(limits.pids, "max"))
            }
            Hierarchies::V1(..) => {
                if let Some(folder) = self.folder("cpu") {
                    write(&folder.join("cpu.cfs_quota_us"), text(quota, "-1"))?;
                }
                if let Some(folder) = self.folder("memory") {
                    let (own, both) =
                        (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
                    let memory = text(limits.memory, "-1");
                    let with_swap = text(
                        limits.memory.map(|m| m.saturating_add(limits.swap.unwrap_or(0)).min(i64::MAX as u64)),
                        "-1",
                    );
                    if both.exists() {
                        // Memory must never exceed memory with swap, also on the way: one of the two orders works.
                        if write(&own, &memory).is_err() {
                            write(&both, &with_swap)?;
                            write(&own, &memory)?;
                        }
                        write(&both, &with_swap)?;
                    } else {
                        write(&own, &memory)?;
                        // No swap accounting: at least keep the kernel from preferring swap.
                        let _ = write(&folder.join("memory.swappiness"), "0");
                    }
                }
                if let Some(folder) = self.folder("pids") {
                    write(&folder.join("pids.max"), text(limits.pids, "max"))?;
                }
                Ok(())
            }
        }
    }

    /// What is used now; `None` when the container has no cgroup.
    pub fn usage(&self) -> Option<Usage> {
        match &self.hierarchies {
            Hierarchies::V2(at) => {
                let folder = at.join(&self.name);
                let current = read_number(&folder.join("memory.current"))?;
                let reclaimable = read_key(&folder.join("memory.stat"), "inactive_file").unwrap_or(0);
                let (read_bytes, write_bytes) =
                    io_stat(&fs::read_to_string(folder.join("io.stat")).unwrap_or_default());
                Some(Usage {
                    cpu_ns: read_key(&folder.join("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
                    memory: current.saturating_sub(reclaimable),
                    pids: read_number(&folder.join("pids.current")).unwrap_or(0),
                    read_bytes,
                    write_bytes,
                    oom_kills: self.oom_kills(),
                })
            }
            Hierarchies::V1(..) => {
                let memory = self.folder("memory")?;
                let current = read_number(&memory.join("memory.usage_in_bytes"))?;
                let reclaimable = read_key(&memory.join("memory.stat"), "total_inactive_file").unwrap_or(0);
                let number = |controller, file| self.folder(controller).and_then(|f| read_number(&f.join(file)));
                let blkio = self
                    .folder("blkio")
                    .and_then(|f| fs::read_to_string(f.join("blkio.throttle.io_service_bytes_recursive")).ok())
                    .unwrap_or_default();
                let sum = |kind: &str| {
                    blkio
                        .lines()
                        .filter_map(|line| line.split_once(' ')?.1.strip_prefix(kind)?.trim().parse::<u64>().ok())
                        .sum()
                };
                Some(Usage {
                    cpu_ns: number("cpuacct", "cpuacct.usage").unwrap_or(0),
                    memory: current.saturating_sub(reclaimable),
                    pids: number("pids", "pids.current").unwrap_or(0),
                    read_bytes: sum("Read "),
                    write_bytes: sum("Write "),
                    oom_kills: self.oom_kills(),
                })
            }
        }
    }

    /// The file that the kernel tells of a change when a process of the container is out of memory (`memory.events`); version 1 has
    /// none.
    pub fn memory_events(&self) -> Option<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1(..) => None,
            Hierarchies::V2(_) => self.folder("memory").map(|folder| folder.join("memory.events")),
        }
    }

    /// Processes of the container that the OOM killer has killed so far.
    pub fn oom_kills(&self) -> u64 {
        let file = match &self.hierarchies {
            Hierarchies::V1(..) => "memory.oom_control",
            Hierarchies::V2(_) => "memory.events",
        };
        self.folder("memory").and_then(|f| read_key(&f.join(file), "oom_kill")).unwrap_or(0)
    }

    /// The pids of all processes in the container.
    pub fn processes(&self) -> Vec<i32> {
        let text =
            self.folder("pids").and_then(|f| fs::read_to_string(f.join("cgroup.procs")).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills what is left inside and removes the groups. Groups that are gone already are no error.
    ///
    /// # Errors
    /// The group that the kernel would not remove within a second.
    pub fn remove(&self) -> Result<(), Failure> {
        let counting = self.unified().filter(|_| self.hierarchies.version() == 1);
        for folder in self.folders().chain(counting) {
            // A group stays busy for some moments after its last process was reaped.
            let mut pause = Duration::from_micros(50);
            let mut waited = Duration::ZERO;
            loop {
                match fs::remove_dir(&folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && waited < Duration::from_secs(1) => {
                        self.kill_all(&folder);
                        std::thread::sleep(pause);
                        waited += pause;
                        pause = (pause * 2).min(Duration::from_millis(10));
                    }
                    Err(source) => return Err(Failure::host(format!("remove cgroup {}", folder.display()), source)),
                }
            }
        }
        Ok(())
    }

    /// Groups below this one, if the container made any, go first; then every process is killed.
    fn kill_all(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.kill_all(&entry.path());
                let _ = fs::remove_dir(entry.path());
            }
        }
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
            // SAFETY: plain system call; the pid was just read from the container's own group.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Ids of the containers that have a group under `parent`.
    pub fn list(hierarchies: &Hierarchies, parent: &str) -> Vec<String> {
        let mut all: Vec<String> = hierarchies
            .places()
            .iter()
            .filter_map(|at| fs::read_dir(at.join(parent)).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Bounds the memory of all containers together, bytes; `None` takes the bound away. What they use without droppable page cache
    /// stays allowed: a bound below it would kill.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn bound_parent(hierarchies: &Hierarchies, parent: &str, memory: Option<u64>) -> Result<(), Failure> {
        let (folder, used, dropped, bound, none) = match hierarchies {
            Hierarchies::V1(all, _) => match all.get("memory") {
                Some(at) => {
                    (at.join(parent), "memory.usage_in_bytes", "total_inactive_file", "memory.limit_in_bytes", "-1")
                }
                None => return Ok(()),
            },
            Hierarchies::V2(at) => {
                let have = fs::read_to_string(at.join("cgroup.subtree_control")).unwrap_or_default();
                if !have.split_whitespace().any(|controller| controller == "memory") {
                    write(&at.join("cgroup.subtree_control"), "+memory")?;
                }
                (at.join(parent), "memory.current", "inactive_file", "memory.max", "max")
            }
        };
        make_dir(&folder)?;
        let used = read_number(&folder.join(used)).unwrap_or(0);
        let dropped = read_key(&folder.join("memory.stat"), dropped).unwrap_or(0);
        let memory = memory.map(|memory| memory.max(used.saturating_sub(dropped)));
        write(&folder.join(bound), memory.map_or_else(|| none.to_owned(), |memory| memory.to_string()))
    }

    /// Removes the group `parent` itself, when the server is uninstalled; it must be empty.
    ///
    /// In every hierarchy of this machine: other runtimes use more of them than the built-in one.
    pub fn remove_parent(parent: &str) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().filter(|l| l.contains(" - cgroup")) {
            let at = Path::new(line.split(' ').nth(4).unwrap_or_default());
            let _ = fs::remove_dir(at.join(parent));
        }
    }
}

/// Moves a process into the group `name` below the root of the hierarchies that service managers look at; where that can't be it stays
/// where it is.
pub(crate) fn stand_apart(pid: i32, name: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_services = |line: &&str| {
        line.contains(" - cgroup2 ")
            || line.contains(" - cgroup ")
                && line.rsplit(' ').next().is_some_and(|options| options.contains("name=systemd"))
    };
    for line in mounts.lines().filter(of_services) {
        let at = Path::new(line.split(' ').nth(4).unwrap_or_default()).join(name);
        let _ = fs::create_dir(&at);
        let _ = fs::write(at.join("cgroup.procs"), pid.to_string());
    }
}

/// Sums over all devices of `io.stat`: bytes read and written.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum();
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Hierarchies, io_stat};

    #[test]
    fn both_versions_are_told_from_the_mounts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let v2 = Hierarchies::from_mountinfo(unified, |_| "cpuset cpu io memory pids".into()).expect("v2");
        assert_eq!(v2, Hierarchies::V2("/sys/fs/cgroup".into()));
        let hybrid = "1 0 0:1 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n2 0 0:2 / /c/memory rw - cgroup cgroup rw,memory\n\
            3 0 0:3 / /c/pids rw - cgroup cgroup rw,pids\n5 0 0:5 / /c/devices rw - cgroup cgroup rw,devices\n4 0 0:4 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let v1 = Hierarchies::from_mountinfo(hybrid, |_| "hugetlb".into()).expect("v1");
        assert_eq!(v1.version(), 1);
        let mounts = v1.mounts();
        assert_eq!(mounts.len(), 4, "controllers mounted together are one mount");
        assert_eq!(mounts[0], (PathBuf::from("/c/cpu,cpuacct"), vec!["cpu", "cpuacct"]));
        let none = Hierarchies::from_mountinfo("1 0 0:1 / / rw - ext4 /dev/vda rw\n", |_: &Path| String::new());
        assert!(none.is_err());
    }

    #[test]
    fn block_io_is_summed_over_devices() {
        let text = "254:0 rbytes=4096 wbytes=10 rios=1 wios=1 dbytes=0 dios=0\n254:16 rbytes=4 wbytes=2 rios=1\n";
        assert_eq!(io_stat(text), (4100, 12));
    }
}
