//! Facts about this machine.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_engine::{DiskFacts, EngineError, HostFacts, InterfaceFacts};
use berth_image::{Digest, architecture};

use crate::instance::failed;

/// Containers see a copy of the program, never the file that the host's root runs: whatever becomes of the one, the other stays.
pub(crate) fn private_copy(program: &Path, folder: &Path) -> Result<PathBuf, EngineError> {
    use std::os::unix::fs::PermissionsExt;
    let (copy, making) = (folder.join("program"), folder.join("program.new"));
    let copied = (|| {
        let (of, now) = (fs::metadata(program)?, fs::metadata(&copy).ok());
        let same =
            |now: fs::Metadata| Ok::<_, std::io::Error>(now.len() == of.len() && now.modified()? == of.modified()?);
        if now.map(same).transpose()?.unwrap_or(false) {
            return Ok(());
        }
        let _ = fs::remove_file(&making);
        fs::copy(program, &making)?;
        fs::set_permissions(&making, fs::Permissions::from_mode(0o555))?;
        fs::File::open(&making)?.set_modified(of.modified()?)?;
        // Those that run keep the one that they have.
        fs::rename(&making, &copy)
    })();
    copied.map_err(failed(format!("copy {} for containers", program.display())))?;
    Ok(copy)
}

/// Bytes of memory of the machine, and available now.
pub(crate) fn host_memory() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
    };
    Some((field("MemTotal:")? * 1024, field("MemAvailable:")? * 1024))
}

/// What there is to know. `folder` is the engine's, for machines that have no id of their own.
pub(crate) fn facts(folder: &Path) -> HostFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let os = read("/etc/os-release");
    let distribution = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    HostFacts {
        id: id(folder),
        name: read("/proc/sys/kernel/hostname").trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory: host_memory().map_or(0, |(total, _)| total),
        disks: disks(&read("/proc/self/mounts")),
        interfaces: interfaces(),
        system: "linux".into(),
        distribution: distribution.to_owned(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        architecture: architecture().to_owned(),
    }
}

/// Not the machine's id itself, which machine-id(5) asks to keep to oneself, but a digest that follows from it.
fn id(folder: &Path) -> String {
    let own = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    let own = own.iter().filter_map(|path| fs::read_to_string(path).ok()).find(|text| text.trim().len() >= 32);
    let own = own.unwrap_or_else(|| fs::read_to_string(folder.join("instance.json")).unwrap_or_default());
    Digest::of(format!("berth host {}", own.trim()).as_bytes()).hex().chars().take(32).collect()
}

/// File systems that are kept on a block device, each once, with its first place.
fn disks(mounts: &str) -> Vec<DiskFacts> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(path)) = (fields.next(), fields.next()) else { continue };
        if !device.starts_with("/dev/") || !seen.insert(device) {
            continue;
        }
        let path = path.replace("\\040", " ");
        if let Some((size, used)) = space(Path::new(&path)) {
            all.push(DiskFacts { path, size, used });
        }
    }
    all
}

/// Bytes of a file system, and those taken.
fn space(path: &Path) -> Option<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: a path that outlives the call, which writes the buffer.
    let stats = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut stats) == 0).then_some(stats)?
    };
    let bytes = |blocks: u64| blocks.saturating_mul(stats.f_frsize);
    Some((bytes(stats.f_blocks), bytes(stats.f_blocks.saturating_sub(stats.f_bfree))))
}

/// Links with an IPv4 address, but for the loopback.
fn interfaces() -> Vec<InterfaceFacts> {
    let mut all = Vec::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list is the kernel's answer in memory of libc's, read as its types say, and freed once.
    unsafe {
        if libc::getifaddrs(&raw mut list) != 0 {
            return all;
        }
        let mut entry = list;
        while let Some(found) = entry.as_ref() {
            entry = found.ifa_next;
            let Some(address) = found.ifa_addr.as_ref() else { continue };
            if i32::from(address.sa_family) != libc::AF_INET || found.ifa_flags & libc::IFF_LOOPBACK as u32 != 0 {
                continue;
            }
            let v4 = *found.ifa_addr.cast::<libc::sockaddr_in>();
            let name = std::ffi::CStr::from_ptr(found.ifa_name).to_string_lossy().into_owned();
            let real = Path::new("/sys/class/net").join(&name).join("device").exists();
            let address = std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).to_string();
            all.push(InterfaceFacts { name, address, real });
        }
        libc::freeifaddrs(list);
    }
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_tells_of_itself() {
        let facts = super::facts(std::path::Path::new("/nowhere"));
        assert!(facts.id.len() == 32 && facts.id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(facts.cpus > 0 && facts.memory > 0 && !facts.kernel.is_empty());
        assert!(facts.disks.iter().all(|disk| disk.used <= disk.size && disk.path.starts_with('/')));
        assert_eq!(super::disks("tmpfs /tmp tmpfs rw 0 0\n/dev/nope /no\\040where ext4 rw 0 0\n"), []);
    }
}
