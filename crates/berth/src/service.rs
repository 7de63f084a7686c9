//! berth as a service of systemd: what is told to it while the server runs, and what is put on a machine for it.

pub(crate) mod backup;
pub(crate) mod files;
pub(crate) mod install;
pub(crate) mod notify;
