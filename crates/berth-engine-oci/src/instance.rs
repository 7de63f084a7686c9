//! What sets this server's kernel objects apart from those of others on the machine.

use std::net::Ipv4Addr;
use std::path::Path;
use std::{fs, io};

use berth_engine::EngineError;
use berth_net::{Network, Subnet};
use berth_runtime::cgroup::{Cgroup, Hierarchies};
use serde::{Deserialize, Serialize};

/// Chosen at the first start, kept for good.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// Six hexadecimal digits.
    pub(crate) id: String,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) prefix: u8,
}

pub(crate) fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> EngineError {
    let what = what.to_string();
    move |error| EngineError::Failed(format!("{what}: {error}"))
}

/// Refuses what needs `needed` more open files when the server would have too few left to answer anybody.
pub(crate) fn descriptors(needed: usize) -> Result<(), EngineError> {
    let Some((open, limit)) = berth_runtime::open_files() else { return Ok(()) };
    let reserve = (limit / 8).clamp(64, 4096);
    if open + needed as u64 + reserve > limit {
        return Err(EngineError::NoRoom(format!(
            "the server has {open} of {limit} files open, and keeps {reserve} back"
        )));
    }
    Ok(())
}

impl Instance {
    /// Gives the lock as well that keeps another server from choosing the same subnet, until the bridge is up.
    pub(crate) fn load_or_choose(
        folder: &Path,
        subnet: Option<(Ipv4Addr, u8)>,
    ) -> Result<(Self, Option<fs::File>), EngineError> {
        let path = folder.join("instance.json");
        if let Some(known) = Self::load(folder)? {
            return Ok((known, None));
        }
        let lock = fs::File::create("/run/berth-subnet.lock").map_err(failed("open /run/berth-subnet.lock"))?;
        lock.lock().map_err(failed("lock /run/berth-subnet.lock"))?;
        let mut random = [0; 3];
        io::Read::read_exact(&mut fs::File::open("/dev/urandom").map_err(failed("open /dev/urandom"))?, &mut random)
            .map_err(failed("read /dev/urandom"))?;
        let chosen = match subnet {
            Some((gateway, prefix)) => Subnet { gateway, prefix },
            None => {
                // Away from Docker's 172.16/12 and podman's 10.88/16; another berth's is seen by its route.
                let candidates =
                    (210..250).map(|second| Subnet { gateway: Ipv4Addr::new(10, second, 0, 1), prefix: 16 });
                Network::free_subnet(candidates)
                    .map_err(|e| EngineError::Failed(e.to_string()))?
                    .ok_or_else(|| EngineError::NoRoom("no free subnet in 10.210.0.0/16 to 10.249.0.0/16".into()))?
            }
        };
        let id = random.iter().map(|b| format!("{b:02x}")).collect();
        let instance = Self { id, gateway: chosen.gateway, prefix: chosen.prefix };
        let text = serde_json::to_vec_pretty(&instance).map_err(|e| EngineError::Failed(e.to_string()))?;
        let temporary = folder.join("instance.tmp");
        fs::write(&temporary, text).map_err(failed("write instance.json"))?;
        fs::rename(&temporary, &path).map_err(failed("write instance.json"))?;
        Ok((instance, Some(lock)))
    }

    fn load(folder: &Path) -> Result<Option<Self>, EngineError> {
        match fs::read(folder.join("instance.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                EngineError::Failed(format!("{} is not readable: {e}", folder.join("instance.json").display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read instance.json")(error)),
        }
    }

    pub(crate) fn network(&self) -> Network {
        Network {
            bridge: format!("berth-{}", self.id),
            links: format!("b{}", self.id),
            table: format!("berth-{}", self.id),
            subnet: Subnet { gateway: self.gateway, prefix: self.prefix },
        }
    }

    pub(crate) fn cgroup_parent(&self) -> String {
        format!("berth-{}", self.id)
    }

    /// The cgroup of zygote and shims.
    pub(crate) fn shims(&self) -> String {
        format!("berth-{}-shims", self.id)
    }
}

/// How many containers of the engine in `folder` have a cgroup, which those that run have.
///
/// # Errors
/// What can't be read.
pub fn running(folder: &Path) -> Result<usize, EngineError> {
    let Some(instance) = Instance::load(folder)? else { return Ok(0) };
    let hierarchies = Hierarchies::detect().map_err(failed("find the cgroups"))?;
    let parent = instance.cgroup_parent();
    let all = Cgroup::list(&hierarchies, &parent);
    let live = |id: &String| Cgroup::new(hierarchies.clone(), &parent, id).usage().is_some_and(|usage| usage.pids > 0);
    Ok(all.iter().filter(|id| live(id)).count())
}

/// Takes everything out of the kernel that the engine in `folder` keeps there while no container exists: bridge, rules,
/// the cgroup of its containers. For `berth uninstall` and tests; the server must not run.
///
/// # Errors
/// The step that failed.
pub fn uninstall(folder: &Path) -> Result<(), EngineError> {
    let Some(instance) = Instance::load(folder)? else { return Ok(()) };
    let hierarchies = Hierarchies::detect().map_err(failed("find the cgroups"))?;
    for id in Cgroup::list(&hierarchies, &instance.cgroup_parent()) {
        Cgroup::new(hierarchies.clone(), &instance.cgroup_parent(), &id)
            .remove()
            .map_err(|e| EngineError::Failed(e.to_string()))?;
    }
    instance.network().remove().map_err(|e| EngineError::Failed(e.to_string()))?;
    Cgroup::remove_parent(&instance.cgroup_parent());
    Cgroup::remove_parent(&instance.shims());
    Ok(())
}
