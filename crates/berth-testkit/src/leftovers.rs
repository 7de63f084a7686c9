//! What a server left behind on the host.

use std::fs;
use std::path::Path;

use berth_net::{Network, Subnet};
use berth_runtime::cgroup::{Cgroup, Hierarchies};

/// Everything of the server with this data folder that is still on the host, in words. Empty is clean.
pub fn leftovers(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let text = data.to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&text)).map(|line| format!("mount {line}")));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let holds = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(data)));
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("process {pid} ({})", name.trim()));
        }
    }
    let instance = fs::read(data.join("engine/instance.json")).ok();
    let instance = instance.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    let Some(id) = instance.as_ref().and_then(|i| i["id"].as_str()) else { return found };
    let name = format!("berth-{id}");
    let subnet = Subnet { gateway: std::net::Ipv4Addr::new(10, 0, 0, 1), prefix: 16 };
    let network = Network { bridge: name.clone(), links: format!("b{id}"), table: name.clone(), subnet };
    found.extend(network.traces().unwrap_or_else(|e| vec![format!("network: {e}")]));
    // The kernel removes a veth some time after its namespace.
    let own = format!("b{id}");
    let mut patience = 500;
    loop {
        let links: Vec<String> =
            berth_net::link_names().unwrap_or_default().into_iter().filter(|l| l.starts_with(&own)).collect();
        if links.is_empty() {
            break;
        }
        patience -= 1;
        if patience == 0 {
            found.extend(links.into_iter().map(|l| format!("link {l}")));
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    if let Ok(hierarchies) = Hierarchies::detect() {
        found.extend(Cgroup::list(&hierarchies, &name).into_iter().map(|c| format!("cgroup {name}/{c}")));
    }
    for (folder, what) in [("engine/units", "unit"), ("engine/trash", "trash"), ("images/work", "work")] {
        for entry in fs::read_dir(data.join(folder)).into_iter().flatten().flatten() {
            found.push(format!("{what} {}", entry.path().display()));
        }
    }
    found
}
