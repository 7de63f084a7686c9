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

mod allocator;
mod dns;
mod engine;
mod exec_io;
mod files;
mod groups;
mod host;
mod instance;
mod lifecycle;
mod listening;
mod load_balancers;
mod output;
mod rules;
mod traffic_totals;
mod unit;
mod update;

pub use engine::{OciEngine, Options};
pub use instance::{running, uninstall};
