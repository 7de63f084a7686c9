//! What the kernel's rules are to be, so that they can be put back when another program takes them away.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use berth_engine::EngineError;
use berth_net::{Accepted, Backends, Error, Link, Member, Network, Protocol, Published, Watch};
use berth_runtime::write_json;

use crate::engine::Inner;
use crate::lifecycle::rates_of;
use crate::unit::{RUN, Run, Unit, read_json};

/// How often settings are looked at, which change without a notification.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks although much is heard.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two tries to put back what could not be.
const RETRY: Duration = Duration::from_millis(100);
/// How often everything is compared although nothing was heard, element by element.
const THOROUGH: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Desired {
    members: BTreeMap<Ipv4Addr, Member>,
    ports: HashSet<Published>,
    backends: BTreeMap<(Protocol, u16), Backends>,
}

#[derive(Debug)]
pub(crate) struct Rules {
    network: Network,
    desired: Mutex<Desired>,
    /// Held shared while one element changes, alone while all is put back.
    turn: RwLock<()>,
    /// Why all could not be put back, at the last try.
    broken: Mutex<Option<String>>,
    /// How many rules there were at the first look.
    made: Mutex<Option<usize>>,
    /// Whether nothing is put back any more. Held while something is.
    closed: Mutex<bool>,
    /// Whether it was told that a firewall of the host takes no rules, the last time.
    told_refused: AtomicBool,
}

/// Ends the looking after with the engine: rules that are taken away with a dropped engine stay away.
pub(crate) struct Keeper(pub(crate) Arc<Inner>);

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.0.rules.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

fn is_gone(result: &Result<(), Error>) -> bool {
    result.as_ref().is_err_and(|error| error.errno() == Some(libc::ENOENT))
}

impl Rules {
    pub(crate) fn new(network: Network) -> Self {
        Self {
            network,
            desired: Mutex::default(),
            turn: RwLock::new(()),
            broken: Mutex::default(),
            made: Mutex::default(),
            closed: Mutex::default(),
            told_refused: AtomicBool::default(),
        }
    }

    fn desired(&self) -> MutexGuard<'_, Desired> {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why traffic is held up, if it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All at once, in place of whatever is there.
    pub(crate) fn begin(&self, ports: &[Published], backends: &[Backends], members: &[Member]) -> Result<(), Error> {
        {
            let mut desired = self.desired();
            desired.ports = ports.iter().copied().collect();
            desired.backends = backends.iter().map(|s| ((s.protocol, s.host_port), s.clone())).collect();
            desired.members = members.iter().map(|m| (m.address, m.clone())).collect();
        }
        self.network.ensure(ports, backends, members)
    }

    /// Does it; where the table is gone it is put back, which does it as well.
    fn change(&self, work: impl Fn(&Network) -> Result<(), Error>) -> Result<(), Error> {
        let done = {
            let _turn = self.turn();
            work(&self.network)
        };
        if is_gone(&done) && !self.network.is_whole().unwrap_or(true) {
            return self.restore();
        }
        done
    }

    pub(crate) fn admit(&self, member: &Member) -> Result<(), Error> {
        self.desired().members.insert(member.address, member.clone());
        let done = self.change(|network| network.admit(std::slice::from_ref(member)));
        if done.is_err() {
            self.desired().members.remove(&member.address);
        }
        done
    }

    pub(crate) fn expel(&self, member: &Member) -> Result<(), Error> {
        {
            let mut desired = self.desired();
            if desired.members.get(&member.address) == Some(member) {
                desired.members.remove(&member.address);
            }
        }
        let _turn = self.turn();
        self.network.expel(member)
    }

    pub(crate) fn publish(&self, ports: &[Published]) -> Result<(), Error> {
        let new: Vec<Published> = {
            let mut desired = self.desired();
            ports.iter().filter(|port| desired.ports.insert(**port)).copied().collect()
        };
        let done = self.change(|network| network.publish(ports));
        if done.is_err() {
            let mut desired = self.desired();
            new.iter().for_each(|port| _ = desired.ports.remove(port));
        }
        done
    }

    pub(crate) fn unpublish(&self, ports: &[Published]) -> Result<(), Error> {
        {
            let mut desired = self.desired();
            ports.iter().for_each(|port| _ = desired.ports.remove(port));
        }
        let _turn = self.turn();
        self.network.unpublish(ports)
    }

    pub(crate) fn backends(&self, before: Option<&Backends>, after: &Backends) -> Result<(), Error> {
        let key = (after.protocol, after.host_port);
        let was = {
            let mut desired = self.desired();
            match after.to.is_empty() {
                true => desired.backends.remove(&key),
                false => desired.backends.insert(key, after.clone()),
            }
        };
        let done = self.change(|network| network.backends(before, after));
        if done.is_err() {
            let mut desired = self.desired();
            match was {
                Some(was) => desired.backends.insert(key, was),
                None => desired.backends.remove(&key),
            };
        }
        done
    }

    /// Whether what is heard of a link is as it is to be; `None` is a link that is gone or has left its bridge.
    fn is_in_order(&self, name: &str, link: Option<&Link>) -> bool {
        if name == self.network.bridge {
            return link.is_some_and(|link| link.up);
        }
        let bridge = || berth_net::link_index(&self.network.bridge);
        // The usual case costs no search.
        link.is_some_and(|link| link.up && Some(link.master) == bridge())
            || !self.desired().members.values().any(|member| member.link == name)
    }

    /// What is not as it is to be, in words; with `thorough` element by element.
    fn damage(&self, thorough: bool) -> Result<Vec<String>, Error> {
        // Nothing changes meanwhile but by others.
        let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let (members, ports) = {
            let desired = self.desired();
            let members: Vec<Member> = desired.members.values().cloned().collect();
            (members, thorough.then(|| desired.ports.iter().copied().collect::<Vec<_>>()))
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        self.network.damage(&members, ports.as_deref(), &mut made)
    }

    /// Puts everything back in one transaction, then what is around it.
    pub(crate) fn restore(&self) -> Result<(), Error> {
        let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let (ports, backends, members) = {
            let desired = self.desired();
            let ports: Vec<_> = desired.ports.iter().copied().collect();
            let backends: Vec<_> = desired.backends.values().cloned().collect();
            (ports, backends, desired.members.values().cloned().collect::<Vec<_>>())
        };
        self.network.restore(&ports, &backends, &members)
    }
}

impl Inner {
    /// Puts back what others have taken away; what it was, in words.
    fn heal(&self, thorough: bool) -> Result<Vec<String>, Error> {
        let closed = self.rules.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Ok(Vec::new());
        }
        let damage = self.rules.damage(thorough)?;
        if damage.is_empty() {
            self.pass_host_firewalls();
            return Ok(damage);
        }
        self.rules.restore()?;
        self.pass_host_firewalls();
        let names = berth_net::link_names()?;
        let units: Vec<Arc<Unit>> = self.units().values().cloned().collect();
        for unit in units {
            if let Err(error) = self.link_again(&unit, &names) {
                tracing::error!(container = %unit.id(), %error, "a container's link was deleted and could not be made again");
            }
        }
        Ok(damage)
    }

    /// Has the host's own firewalls accept the containers' packets. Where that fails the network's own rules stand all the same.
    fn pass_host_firewalls(&self) {
        let passed = match self.network.pass_host_firewalls() {
            Ok(passed) => passed,
            Err(error) => Accepted { added: Vec::new(), refused: vec![error.to_string()] },
        };
        for chain in passed.added {
            tracing::info!(chain, "rules for the containers' packets were added to the host's firewall");
        }
        let refused = !passed.refused.is_empty();
        let told = self.rules.told_refused.swap(refused, Ordering::Relaxed);
        if refused && !told {
            tracing::error!(
                why = passed.refused.join(", "),
                "no rules for the containers' packets could be added to the host's firewall, which may drop them. For a \
                 firewalld that owns its table: NftablesTableOwner=no in /etc/firewalld/firewalld.conf, then restart firewalld and berth"
            );
        }
    }

    /// Gives a container whose link was deleted a new one, with the same address; what the old one counted stays.
    fn link_again(&self, unit: &Unit, names: &[String]) -> Result<(), EngineError> {
        // Whoever starts or ends it just now takes care of its link.
        let Ok(_busy) = unit.busy.try_lock() else { return Ok(()) };
        let live = unit.known().live.clone();
        let Some(live) = live.filter(|live| live.link.is_some() && !*live.ended.borrow()) else { return Ok(()) };
        let failed = |what: &str, error: &dyn std::fmt::Display| EngineError::Failed(format!("{what}: {error}"));
        let run = read_json::<Run>(&unit.folder.join(RUN)).map_err(|e| failed("read the run", &e))?;
        let (Some(mut run), Some(netns)) = (run, &live.netns) else { return Ok(()) };
        let fixed = unit.record();
        let (Some(before), Some(address)) = (unit.member(&run), fixed.placement.address) else { return Ok(()) };
        if names.contains(&run.link_name) {
            return Ok(());
        }
        if live.init.as_ref().is_none_or(|init| init.ended()) {
            return Ok(());
        }
        run.link_name = self.link_name();
        let index = self.network.attach(netns, &run.link_name, address).map_err(|e| failed("attach", &e))?;
        run.link = Some(index);
        unit.counted.cut(&unit.folder, run.number);
        write_json(&unit.folder.join(RUN), &run).map_err(|e| failed("note the run", &e))?;
        if let Some(live) = &mut unit.known().live {
            live.link = Some(index);
        }
        let rates = rates_of(fixed.spec.rates);
        if rates != berth_net::Rates::default() {
            Network::limit(netns, index, rates).map_err(|e| failed("bound the traffic", &e))?;
        }
        self.rules.expel(&before).map_err(|e| failed("take the old place back", &e))?;
        if let Some(member) = unit.member(&run) {
            self.rules.admit(&member).map_err(|e| failed("let it take part", &e))?;
        }
        Ok(())
    }

    fn note_trouble(&self, trouble: Option<String>) {
        *self.rules.broken.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Looks after the rules for as long as the engine lives, in the network namespace of the caller.
pub(crate) fn look_after(inner: &Arc<Inner>) -> Result<(), EngineError> {
    let mut watch = Watch::open().map_err(|e| EngineError::Failed(e.to_string()))?;
    let weak = Arc::downgrade(inner);
    let work = move || {
        let mut thorough: Option<Instant> = None;
        let mut told: Option<Instant> = None;
        let mut broken = false;
        loop {
            let heard = watch.wait(if broken { RETRY } else { LOOK }, |name, link| {
                weak.upgrade().is_none_or(|inner| inner.rules.is_in_order(name, link))
            });
            let Some(inner) = weak.upgrade() else { return };
            let now_thorough = broken || thorough.is_none_or(|at| at.elapsed() > THOROUGH);
            if !heard && !now_thorough && inner.network.settings_damage().is_empty() {
                continue;
            }
            if now_thorough {
                thorough = Some(Instant::now());
            }
            match inner.heal(now_thorough) {
                Ok(damage) => {
                    if !damage.is_empty() && told.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                        told = Some(Instant::now());
                        tracing::error!(
                            what = damage.join(", "),
                            "the network was changed by another program, and put back"
                        );
                    }
                    if broken {
                        tracing::info!("the network is whole again");
                    }
                    broken = false;
                    inner.note_trouble(None);
                }
                Err(error) => {
                    if !broken {
                        tracing::error!(%error, "the network was changed by another program, and can't be put back yet: nothing passes the bridge");
                    }
                    broken = true;
                    // Rather nothing than what no rule has seen.
                    let _ = inner.network.shut();
                    inner.note_trouble(Some(error.to_string()));
                }
            }
            drop(inner);
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new()
        .name("network-watch".into())
        .spawn(work)
        .map(drop)
        .map_err(|e| EngineError::Failed(format!("start a thread: {e}")))
}
