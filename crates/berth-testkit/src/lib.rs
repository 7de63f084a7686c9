//! A real server for tests, things to feed it, and the check for what it leaves behind on the host.

mod files;
mod leftovers;
mod registry;
mod server;
mod shape;

pub use files::{FileServer, zip_of};
pub use leftovers::leftovers;
pub use registry::{Mischief, Proxy, TestRegistry, has_program};
pub use server::{Answer, Server, done, free_port, image, is_root};
pub use shape::same_shape;
