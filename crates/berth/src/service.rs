//! berth as a service of systemd: what is told to it while the server runs, and what is put on a machine for it.

pub(crate) mod backup;
pub(crate) mod files;
pub(crate) mod install;
pub(crate) mod notify;

/// A result of the file system, whose error names the path.
fn named<T>(path: &std::path::Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{}: {e}", path.display()))
}
