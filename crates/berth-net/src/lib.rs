//! The machine's network as berth needs it: one bridge, a veth per workload, NAT to the outside, published ports and
//! byte counters. Everything is raw netlink, synchronous, and done with no external program.
//!
//! This crate knows no container and keeps no state: what exists is asked of the kernel. Every object it makes carries a
//! name handed in by the caller, so that two servers on one machine never touch each other's.
//!
//! Why by hand: the crates that speak nf_tables need a C library, start the `nft` program, or are GPL.

mod bridge;
mod conntrack;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host_firewall;
mod link;
mod netlink;
mod netns;
mod nf_tables;
mod nft;
mod tc;
mod watch;

pub use bridge::{Network, Rates, Subnet};
pub use host_firewall::Accepted;
pub use link::{Link, LinkStats, link_index, link_names, link_stats, link_stats_of};
pub use netlink::Error;
pub use netns::{Netns, in_netns};
pub use nft::{Backends, Member, Protocol, Published};
pub use watch::{Watch, pause_after};
