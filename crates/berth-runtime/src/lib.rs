//! One container and the kernel.
//!
//! The server never forks: it asks its **zygote**, a single-threaded process of the same program, which forks a **shim**
//! for every start. The shim makes the container, keeps its output in rotated files, waits for its end and writes the
//! exit status to disk before it goes. It outlives server and zygote.
//!
//! ```text
//! server --(SEQPACKET: bundle path + netns, report pipe)--> zygote --fork--> shim --clone3--> init of the container
//!    ^                                                                        |                  | stdout, stderr
//!    +------------------- "running PID" or "failed WHY" ----------------------+ <----------------+
//! ```
//!
//! Everything a restarted server needs is in the container's folder: [`Bundle`], [`Process`] of shim and init,
//! [`ExitStatus`], logs. Words are those of the OCI runtime specification.
//!
//! **exec**: the zygote forks an attendant, which enters the container's namespaces and cgroups, applies what the container's own process
//! got (capabilities, seccomp, limits), and reports by a SEQPACKET socket. The shim has no part in it. Input and output go from the
//! process's pipes or terminal straight to the server.
//!
//! **attach**: the shim serves a socket in the container's folder. It never waits for a client longer than a moment; the log comes first.
//!
//! **Files** (copies, archives, export, commit) are reached through the container's root and its volumes by descriptor, and every path is
//! resolved by openat2 within one of them. Mounts are crossed by table, not by path. Nothing of the container runs for it.
//!
//! **What a container writes** to its root file system is bounded by a project quota where the file system enforces them.
//!
//! **System calls**: `seccomp/table.rs` is an allow-list, rendered as BPF and as OCI JSON; a test compares both inside containers.
//!
//! **Other runtimes** stand where our init stands: the shim calls them, all else (network, parent cgroup, logs, exit) stays the same.

mod attach;
mod bundle;
pub mod cgroup;
mod exec;
mod init;
mod limits;
pub mod log;
mod mounts;
mod oci;
mod process;
mod project_quota;
mod remove;
mod seccomp;
mod shim;
mod socket;
mod sys;
mod terminal;
mod users;
mod view;
mod zygote;

pub use attach::{AttachMessage, Attached, MOST_INPUT};
pub use bundle::{
    Bundle, DEFAULT_CAPABILITIES, ExitStatus, HOST_NETWORK_CAPABILITIES, Limits, LogLimits, Mount, MountKind,
    Namespace, Rlimit, Rootfs, Traffic, write_json,
};
pub use exec::{ExecReport, ExecSpec};
pub use limits::{open_files, raise_open_files};
pub use process::{PidFd, Process, delivers_signal};
pub use project_quota::{bound_by_project, forget_project};
pub use remove::remove_tree;
pub use seccomp::supported as seccomp_supported;
pub use shim::files;
pub use sys::{Cause, Failure, is_no_room, openat2_in_root};
pub use terminal::{USUAL_SIZE, resize};
pub use view::{View, root_of};
pub use zygote::{Asked, Coming, Exec, StartError, Started, Zygote, zygote_main};
