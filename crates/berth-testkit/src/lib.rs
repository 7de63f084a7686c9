//! A real server for tests, things to feed it, and the check for what it leaves behind on the host.

mod archives;
mod files;
mod kubernetes;
mod leftovers;
mod registry;
mod server;
mod shape;
mod strange_registry;

pub use archives::{
    Entry, digest_of, docker_archive, docker_archive_with, file, folder, hard_link, kept, link, tar_of,
};
pub use files::{FileServer, zip_of};
pub use kubernetes::Cluster;
pub use leftovers::leftovers;
pub use registry::{Fault, Proxy, TestRegistry, has_program};
pub use server::{Answer, Server, done, free_port, http, image, is_root, skip, slow};
pub use shape::same_shape;
pub use strange_registry::{StrangeRegistry, Ways};
