//! What this host can do, and what to do about what is missing.

use std::fs;

use berth_api::wire::Finding;
use berth_runtime::cgroup::Hierarchies;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn finding(what: &'static str, good: bool, found: impl Into<String>, advice: &'static str) -> Finding {
    let state = if good { "ok" } else { "missing" };
    let advice = if good { "" } else { advice };
    Finding { what: what.into(), state: state.into(), found: found.into(), advice: advice.into() }
}

fn warning(what: &'static str, good: bool, found: impl Into<String>, advice: &'static str) -> Finding {
    let mut found = finding(what, good, found, advice);
    if !good {
        found.state = "warning".into();
    }
    found
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    finding(
        "kernel 5.12 or newer",
        version >= (5, 12),
        release,
        "mount_setattr(2) and openat2(2) are needed: install a newer kernel",
    )
}

fn cgroups() -> Finding {
    match Hierarchies::detect() {
        Ok(found) => finding("cgroups", true, format!("version {}", found.version()), ""),
        Err(error) => finding(
            "cgroups",
            false,
            error.to_string(),
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup",
        ),
    }
}

fn favordynmods() -> Finding {
    let mounts = read("/proc/self/mountinfo");
    let on = mounts.lines().any(|l| l.contains(" - cgroup2 ") && l.contains("favordynmods"));
    let found = if on { "on" } else { "off" };
    warning(
        "cgroup favordynmods",
        on,
        found,
        "berth serve turns it on (kernel 6.0 and newer); without it a start after a quiet moment takes 14 ms longer",
    )
}

fn file_system() -> Finding {
    let known = read("/proc/filesystems").lines().any(|l| l.ends_with("overlay"))
        || fs::metadata(format!("/lib/modules/{}/kernel/fs/overlayfs", read("/proc/sys/kernel/osrelease"))).is_ok();
    finding("overlayfs", known, if known { "known to the kernel" } else { "unknown" }, "modprobe overlay")
}

fn nf_tables() -> Finding {
    let network = berth_net::Network {
        links: "bdoctor".into(),
        bridge: "none".into(),
        table: "berth-doctor".into(),
        subnet: berth_net::Subnet { gateway: std::net::Ipv4Addr::LOCALHOST, prefix: 8 },
    };
    match network.published() {
        Ok(_) => finding("nf_tables", true, "answers", ""),
        Err(error) if error.errno() == Some(libc::EPERM) => {
            warning("nf_tables", false, error.to_string(), "only root can find out: run berth doctor as root")
        }
        Err(error) => finding("nf_tables", false, error.to_string(), "modprobe nf_tables nft_chain_nat nft_fib_ipv4"),
    }
}

fn forwarding() -> Finding {
    let on = read("/proc/sys/net/ipv4/ip_forward") == "1";
    warning("IPv4 forwarding", on, if on { "on" } else { "off" }, "berth serve turns it on")
}

fn seccomp() -> Finding {
    let on = berth_runtime::seccomp_supported();
    finding(
        "seccomp filters",
        on,
        if on { "supported" } else { "not supported" },
        "a kernel with CONFIG_SECCOMP_FILTER is needed",
    )
}

fn root() -> Finding {
    // SAFETY: plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    finding("root", root, if root { "yes" } else { "no" }, "run berth serve as root")
}

fn bridge() -> Finding {
    let there = fs::metadata("/sys/module/bridge").is_ok() || fs::metadata("/proc/sys/net/bridge").is_ok();
    warning(
        "bridge",
        there,
        if there { "in the kernel" } else { "not loaded" },
        "modprobe bridge veth (the kernel mostly loads them by itself)",
    )
}

fn certificates() -> Finding {
    let of_host = berth_tls::authorities_of_host();
    let found = match of_host {
        0 => format!("none; the {} that are bundled are used", berth_tls::authorities_bundled()),
        count => count.to_string(),
    };
    let advice =
        "install ca-certificates (your company's own authorities go there, too), or name a ca_file for a registry";
    warning("certificate authorities", of_host > 0, found, advice)
}

/// What this machine can do.
pub(crate) fn examine() -> Vec<Finding> {
    vec![
        root(),
        kernel(),
        cgroups(),
        favordynmods(),
        file_system(),
        nf_tables(),
        bridge(),
        forwarding(),
        seccomp(),
        certificates(),
    ]
}
