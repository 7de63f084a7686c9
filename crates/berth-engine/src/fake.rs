//! An engine in memory: for tests of the core at any scale, and to prove that the contract can be met without a kernel.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast};

use crate::abilities::{Abilities, Signals};
use crate::engine::{Changes, Engine, EngineError, LogReader};
use crate::session::{FileStat, Files};
use crate::types::{
    Exit, HostFacts, LogLine, LogOptions, LogStream, NetworkMode, Observed, Placement, PortBinding, PortRequest, State,
    Traffic, UnitId, UnitSpec,
};

#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) spec: UnitSpec,
    pub(crate) placement: Placement,
    pub(crate) state: State,
    run: u64,
    lines: Vec<LogLine>,
    pub(crate) traffic: Traffic,
    pub(crate) oom_kills: u64,
}

/// Containers that exist only as rows. A program is told by its first argument: `exit N` ends at once with that code,
/// `exit-after N MS` so many milliseconds later, `listen PORT` runs unless another
/// in the host's network has that port (then it ends with 1), `echo …` prints and ends, `missing` can't be started, anything else runs until it is stopped.
///
/// Clones share what is inside, so a "restarted" engine is a clone.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    pub(crate) units: Arc<Mutex<BTreeMap<UnitId, Unit>>>,
    pub(crate) load_balancers: Arc<Mutex<BTreeMap<UnitId, LoadBalancer>>>,
    pub(crate) changes: broadcast::Sender<UnitId>,
    hosts: Arc<Mutex<Vec<HostFacts>>>,
    pub(crate) held_stats: Arc<Mutex<Option<(UnitId, Held)>>>,
    /// How many have run at least since that is counted.
    least: Arc<Mutex<Option<usize>>>,
}

/// The same containers, by an engine that has only the base.
#[derive(Debug, Clone)]
pub struct BareEngine(FakeEngine);

#[async_trait]
impl Engine for BareEngine {
    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError> {
        self.0.hosts().await
    }

    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        self.0.create(spec).await
    }

    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError> {
        self.0.start(id, run).await
    }

    async fn stop(&self, id: &UnitId, signal: i32, grace: Duration) -> Result<(), EngineError> {
        self.0.stop(id, signal, grace).await
    }

    async fn remove(&self, id: &UnitId) -> Result<(), EngineError> {
        self.0.remove(id).await
    }

    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError> {
        self.0.observe(id).await
    }

    async fn list(&self) -> Result<Vec<UnitId>, EngineError> {
        self.0.list().await
    }

    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError> {
        self.0.logs(id, options).await
    }

    fn changes(&self) -> Changes {
        self.0.changes()
    }
}

/// Something that waits until a test lets it go.
#[derive(Debug, Clone, Default)]
pub struct Held(pub(crate) Arc<(Notify, Notify)>);

impl Held {
    /// Waits until it has been come to.
    pub async fn reached(&self) {
        self.0.0.notified().await;
    }

    /// Lets it go.
    pub fn let_go(&self) {
        self.0.1.notify_one();
    }
}

/// Ports, and where they lead.
type LoadBalancer = (Vec<PortBinding>, Vec<UnitId>);

impl Default for FakeEngine {
    fn default() -> Self {
        Self::with_hosts(1)
    }
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

pub(crate) fn missing() -> EngineError {
    EngineError::Start { text: "run \"missing\": no such program in $PATH".into(), code: 127 }
}

pub(crate) fn ended(code: i32, signal: Option<i32>) -> State {
    State::Exited(Exit { code, signal, oom_killed: false, finished_at: Some(now()) })
}

fn running(units: &BTreeMap<UnitId, Unit>) -> usize {
    units.values().filter(|unit| matches!(unit.state, State::Running { .. })).count()
}

impl FakeEngine {
    /// One on so many machines.
    pub fn with_hosts(count: usize) -> Self {
        let host = |number| HostFacts {
            id: format!("{:032x}", number + 1),
            name: format!("host{number}"),
            cpus: 8,
            memory: 64 << 30,
            disks: vec![crate::types::DiskFacts { path: "/".into(), size: 100 << 30, used: 10 << 30 }],
            interfaces: vec![crate::types::InterfaceFacts {
                name: "eth0".into(),
                address: "192.0.2.1".into(),
                real: true,
            }],
            system: "linux".into(),
            distribution: "Fake".into(),
            kernel: "6.0".into(),
            architecture: "amd64".into(),
        };
        let hosts = Arc::new(Mutex::new((0..count).map(host).collect()));
        Self {
            units: Arc::default(),
            load_balancers: Arc::default(),
            changes: broadcast::channel(1024).0,
            hosts,
            held_stats: Arc::default(),
            least: Arc::default(),
        }
    }

    /// The same containers, by an engine that can do nothing beyond the base.
    pub fn without_abilities(&self) -> BareEngine {
        BareEngine(self.clone())
    }

    /// Whether a machine can be reached from now on.
    pub fn set_reached(&self, id: &str, reached: bool) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        match (reached, hosts.iter().position(|host| host.id == id)) {
            (false, Some(index)) => drop(hosts.remove(index)),
            (true, None) => hosts.push(HostFacts { id: id.into(), ..HostFacts::default() }),
            _ => {}
        }
    }

    /// Has a container have sent and received so much more.
    pub fn add_traffic(&self, id: &UnitId, rx_bytes: u64, tx_bytes: u64) {
        let _ = self.with(id, |unit| {
            unit.traffic.rx_bytes += rx_bytes;
            unit.traffic.tx_bytes += tx_bytes;
        });
    }

    pub(crate) fn units(&self) -> MutexGuard<'_, BTreeMap<UnitId, Unit>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn with<T>(&self, id: &UnitId, f: impl FnOnce(&mut Unit) -> T) -> Result<T, EngineError> {
        let mut units = self.units();
        let done = units.get_mut(id).map(f).ok_or_else(|| EngineError::NoSuchUnit(id.clone()));
        if let Some(least) = self.least.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *least = (*least).min(running(&units));
        }
        done
    }

    /// How many containers have run at any moment since this was asked last.
    pub fn least_running(&self) -> usize {
        let running = running(&self.units());
        self.least.lock().unwrap_or_else(PoisonError::into_inner).replace(running).unwrap_or(running)
    }

    pub(crate) fn set_paused(&self, id: &UnitId, to: bool) -> Result<(), EngineError> {
        self.with(id, |unit| match &mut unit.state {
            State::Running { paused, .. } => {
                *paused = to;
                Ok(())
            }
            _ => Err(EngineError::NotRunning(id.clone())),
        })?
        .inspect(|()| drop(self.changes.send(id.clone())))
    }

    /// One of its processes is out of memory; it runs on.
    pub fn oom(&self, id: &UnitId) {
        if self.with(id, |unit| unit.oom_kills += 1).is_ok() {
            let _ = self.changes.send(id.clone());
        }
    }

    /// The next request for counters of `id`, and perhaps others, waits until it is let go.
    pub fn hold_stats(&self, id: &UnitId) -> Held {
        let held = Held::default();
        *self.held_stats.lock().unwrap_or_else(PoisonError::into_inner) = Some((id.clone(), held.clone()));
        held
    }

    /// The containers that a load balancer leads to.
    pub fn load_balancer(&self, id: &UnitId) -> Vec<UnitId> {
        let load_balancers = self.load_balancers.lock().unwrap_or_else(PoisonError::into_inner);
        load_balancers.get(id).map(|(_, to)| to.clone()).unwrap_or_default()
    }

    /// Ports of all load balancers but this one.
    pub(crate) fn held(&self, id: &UnitId) -> Vec<PortBinding> {
        let load_balancers = self.load_balancers.lock().unwrap_or_else(PoisonError::into_inner);
        load_balancers.iter().filter(|(other, _)| *other != id).flat_map(|(_, (ports, _))| ports.clone()).collect()
    }

    /// The port that a unit listens on, if its program is `listen PORT` and it runs.
    pub(crate) fn port_of(unit: &Unit) -> Option<u16> {
        let runs = matches!(unit.state, State::Running { .. });
        match unit.spec.args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["listen", port] if runs => port.parse().ok(),
            _ => None,
        }
    }

    /// Whether another unit in the host's network listens where this one is about to.
    fn is_taken(&self, id: &UnitId) -> bool {
        let units = self.units();
        let Some(["listen", port]) = units.get(id).map(|u| {
            let args: Vec<&str> = u.spec.args.iter().map(String::as_str).collect();
            <[&str; 2]>::try_from(args).unwrap_or_default()
        }) else {
            return false;
        };
        units.iter().any(|(other, unit)| {
            other != id
                && unit.spec.network == NetworkMode::Host
                && Self::port_of(unit).is_some_and(|own| own.to_string() == port)
        })
    }

    /// For the program `exit-after`.
    fn end_later(&self, id: &UnitId, run: u64) {
        let plan = self.with(id, |unit| match unit.spec.args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["exit-after", code, ms] => Some((code.parse().unwrap_or(1), ms.parse().unwrap_or(0))),
            _ => None,
        });
        let Ok(Some((code, ms))) = plan else { return };
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let runs = engine.with(&id, |unit| unit.run == run && matches!(unit.state, State::Running { .. }));
            if matches!(runs, Ok(true)) {
                engine.exit(&id, code);
            }
        });
    }

    /// Ends a container as if its program had exited.
    pub fn exit(&self, id: &UnitId, code: i32) {
        if self.with(id, |unit| unit.state = ended(code, None)).is_ok() {
            let _ = self.changes.send(id.clone());
        }
    }
}

/// Ports for what was asked; those that the container `has` are kept where they fit.
pub(crate) fn give(
    units: &BTreeMap<UnitId, Unit>,
    id: &UnitId,
    has: &[PortBinding],
    asked: &[PortRequest],
    held: &[PortBinding],
) -> Result<Vec<PortBinding>, EngineError> {
    let mut ports: Vec<PortBinding> = Vec::new();
    for asked in asked {
        if let Some(kept) = has.iter().find(|p| p.answers(asked) && !ports.contains(p)) {
            ports.push(*kept);
            continue;
        }
        let (first, last) = asked.host_ports;
        let taken = |port| {
            let given = |p: &PortBinding| p.host_port == port && p.protocol == asked.protocol;
            let others = units.iter().filter(|(other, _)| *other != id);
            ports.iter().chain(held).any(given)
                || others.into_iter().any(|(_, unit)| unit.placement.ports.iter().any(given))
        };
        let host_port = (first..=last).find(|port| !taken(*port)).ok_or(if first == last {
            EngineError::PortInUse(asked.protocol, first)
        } else {
            EngineError::NoFreePort(first, last)
        })?;
        ports.push(PortBinding {
            protocol: asked.protocol,
            host_ip: asked.host_ip,
            host_port,
            container_port: asked.container_port.unwrap_or(host_port),
        });
    }
    Ok(ports)
}

/// A file system with one file.
pub(crate) struct OneFile {
    pub(crate) content: String,
    pub(crate) writable: bool,
}

impl OneFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }

    fn check(path: &Path) -> io::Result<()> {
        if path == Path::new("/etc/hostname") { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl Files for OneFile {
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        Self::check(path)?;
        Ok(FileStat {
            name: "hostname".into(),
            kind: "file".into(),
            size: self.content.len() as u64,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            target: None,
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FileStat>> {
        if path == Path::new("/etc") {
            return Ok(vec![self.stat(Path::new("/etc/hostname"))?]);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn open(&self, path: &Path) -> io::Result<std::fs::File> {
        Self::check(path)?;
        // A pipe holds so little at once.
        let (content, mut end) = io::pipe()?;
        end.write_all(self.content.as_bytes())?;
        Ok(std::os::fd::OwnedFd::from(content).into())
    }

    fn pack(&self, path: &Path, _name: &Path, _follow: bool, _out: &mut dyn io::Write) -> io::Result<()> {
        Self::check(path)?;
        Err(io::ErrorKind::Unsupported.into())
    }

    fn clear(&self, _path: &Path) -> io::Result<()> {
        self.check_writable()
    }

    fn unpack(&self, _path: &Path, tar: &mut dyn io::Read, _keep_owner: bool) -> io::Result<()> {
        self.check_writable()?;
        io::copy(tar, &mut io::sink()).map(drop)
    }

    fn export(&self, _out: &mut dyn io::Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Nothing differs: the end of a tar.
    fn difference(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&[0; 1024])
    }
}

struct Lines(std::vec::IntoIter<LogLine>);

#[async_trait]
impl LogReader for Lines {
    async fn next(&mut self) -> Result<Option<LogLine>, EngineError> {
        Ok(self.0.next())
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn abilities(&self) -> Abilities<'_> {
        Abilities {
            exec: Some(self),
            files: Some(self),
            signals: Some(self),
            pause: Some(self),
            inbound: Some(self),
            live_update: Some(self),
            ports: Some(self),
            load_balancing: Some(self),
            traffic: Some(self),
            usage: Some(self),
            naming: Some(self),
            inspection: None,
        }
    }

    async fn hosts(&self) -> Result<Vec<HostFacts>, EngineError> {
        Ok(self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn create(&self, spec: &UnitSpec) -> Result<Placement, EngineError> {
        let mut units = self.units();
        if let Some(unit) = units.get(&spec.id) {
            return Ok(unit.placement.clone());
        }
        let ports = give(&units, &spec.id, &[], &spec.ports, &self.held(&spec.id))?;
        let number = u32::try_from(units.len()).unwrap_or(0) + 2;
        let address = (spec.network == NetworkMode::Bridge).then(|| Ipv4Addr::from(0x0a00_0000 + number));
        let placement = Placement { address, ports };
        let unit = Unit {
            spec: spec.clone(),
            placement: placement.clone(),
            state: State::Created,
            run: 0,
            lines: Vec::new(),
            traffic: Traffic::default(),
            oom_kills: 0,
        };
        units.insert(spec.id.clone(), unit);
        Ok(placement)
    }

    async fn start(&self, id: &UnitId, run: u64) -> Result<(), EngineError> {
        let taken = self.is_taken(id);
        let result = self.with(id, |unit| {
            if unit.run >= run || matches!(unit.state, State::Running { .. }) {
                return Ok(());
            }
            let program = unit.spec.args.first().map(String::as_str).unwrap_or_default();
            if program == "missing" {
                return Err(missing());
            }
            unit.run = run;
            unit.oom_kills = 0;
            let argument = unit.spec.args.get(1).map(String::as_str).unwrap_or_default();
            if taken && unit.spec.network == NetworkMode::Host {
                unit.state = ended(1, None);
                return Ok(());
            }
            unit.state = match program {
                "exit" => ended(argument.parse().unwrap_or(1), None),
                "echo" => {
                    let text = argument.as_bytes().to_vec();
                    unit.lines.push(LogLine { at: now(), stream: LogStream::Stdout, ends: true, text, number: None });
                    ended(0, None)
                }
                _ => State::Running { pid: None, started_at: now(), paused: false },
            };
            Ok(())
        })?;
        let _ = self.changes.send(id.clone());
        self.end_later(id, run);
        result
    }

    async fn stop(&self, id: &UnitId, signal: i32, _grace: Duration) -> Result<(), EngineError> {
        match Signals::signal(self, id, signal).await {
            Err(EngineError::NotRunning(_)) => Ok(()),
            other => other,
        }
    }

    async fn remove(&self, id: &UnitId) -> Result<(), EngineError> {
        self.units().remove(id);
        let _ = self.changes.send(id.clone());
        Ok(())
    }

    async fn observe(&self, id: &UnitId) -> Result<Observed, EngineError> {
        Ok(match self.units().get(id) {
            None => Observed::new(State::Absent, 0),
            Some(unit) => Observed { oom_kills: unit.oom_kills, ..Observed::new(unit.state.clone(), unit.run) },
        })
    }

    async fn list(&self) -> Result<Vec<UnitId>, EngineError> {
        Ok(self.units().keys().cloned().collect())
    }

    async fn logs(&self, id: &UnitId, options: &LogOptions) -> Result<Box<dyn LogReader>, EngineError> {
        let mut lines = self.with(id, |unit| unit.lines.clone())?;
        if options.are_numbered() {
            let last = lines.len() as u64;
            for (line, number) in lines.iter_mut().zip(1..) {
                line.number = Some(number);
            }
            lines.retain(|line| options.after.is_none_or(|after| after > last || line.number > Some(after)));
            lines.retain(|line| options.before.is_none_or(|before| line.number < Some(before)));
        }
        lines.retain(|line| options.since.is_none_or(|since| line.at >= since));
        lines.retain(|line| options.until.is_none_or(|until| line.at < until));
        let skipped = options.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        Ok(Box::new(Lines(lines.split_off(skipped).into_iter())))
    }

    fn changes(&self) -> Changes {
        self.changes.subscribe()
    }
}
