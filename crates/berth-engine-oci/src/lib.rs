//! The embedded engine: containers on this machine.
//!
//! ```text
//! instance.json        id and subnet, chosen once: names of bridge, table and cgroup come from the id
//! units/<id>/          one folder a container, complete when it appears (renamed into place)
//!   unit.json          spec and placement        run.json    number and start of the newest run
//!   bundle.json …      see berth-runtime         log, log.1 … output
//!   hosts, hostname, resolv.conf                 upper, work, rootfs
//! fronts.json          host ports that lead to several containers
//! trash/               folders on their way out; emptied in the background
//! ```
//! Memory is a cache of that and of the kernel: after a crash the engine reads the folders, asks which shims live, puts
//! its rules in place again, and goes on. No lock is held across a call to the kernel for another container.
//!
//! # A container's life
//!
//! 1. `create` gives it an address and host ports for its whole life and makes its folder, complete when it appears.
//! 2. `start(run)` makes a network namespace with a veth in it, writes `bundle.json` and `run.json`, and hands the folder to the zygote,
//!    which forks a shim. The shim makes cgroups, clones the first process into new namespaces, and says "running" when execve(2)
//!    has succeeded, or which step failed.
//! 3. Ports are published: one map element each, in one nf_tables table.
//! 4. At the end the shim writes `status.json`, removes the cgroups, and goes. The server hears of it by the shim's pidfd.
//!
//! # Networks and traffic
//!
//! There is one bridge. A table of the bridge family lets a port send only from its own address, and only to ports of the same tenant
//! (the account) and the gateway. Who is where is told to the bridge and the host, not learnt: a container can be reached when its
//! start is answered. The name service listens on the gateway's port 53.
//!
//! Traffic of a container on the bridge is what its link counts, less the Ethernet headers. In the host's network two BPF programs at
//! its cgroup count. A run's last count is read by its shim, which has the network to the end; sums of ended runs are kept in the unit's
//! folder, and a sample every ten seconds stands in where shim, server and host went at once.
//!
//! A load balancer is a map of 840 buckets a port; a new connection draws one by lot. Changing the members is one transaction;
//! connections under way stay where conntrack has them.
//!
//! # What holds against others
//!
//! `rules` knows what the kernel's rules are to be. A thread is told of changes by netlink, ignores its own process's, compares everything
//! every five seconds as well, and restores rules, bridge, address, route, links and settings, the rules in one transaction. What can't be
//! restored shuts the bridge and makes `/readyz` 503. `groups` is told by inotify of processes that are out of memory and of control groups that
//! somebody removed, which it makes anew.

mod abilities;
mod allocator;
mod bundle;
mod dns;
mod engine;
mod exec_io;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod groups;
mod host;
mod inspection;
mod instance;
mod lifecycle;
mod listening;
mod load_balancers;
mod output;
mod rules;
mod traffic_totals;
mod turns;
mod unit;
mod update;

pub use engine::{OciEngine, Options};
pub use instance::{running, uninstall};
