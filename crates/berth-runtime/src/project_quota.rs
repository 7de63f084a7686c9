//! Project quotas: a bound of the file system's own on what lies below a folder (ext4 with the features `quota` and `project` mounted with
//! `prjquota`, XFS mounted with `prjquota`).
//!
//! Overlayfs writes to its upper folder without `CAP_SYS_RESOURCE`, so the bound holds for every process of a container.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    reserved: [u8; 8],
}

/// `struct if_dqblk` of `linux/quota.h`. Blocks are of 1 KiB.
#[repr(C)]
#[derive(Default)]
struct Quota {
    block_hard_limit: u64,
    block_soft_limit: u64,
    used_bytes: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    used_inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// What is made in the folder belongs to its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const PRJQUOTA: u32 = 2;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_XGETQSTATV: u32 = 0x5808;
const QIF_BLIMITS: u32 = 1;
/// `FS_QSTATV_VERSION1`.
const STATE_VERSION: u8 = 1;
/// Project quotas are enforced.
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;

/// `quotactl_fd(2)`, Linux 5.14.
fn quotactl(folder: &File, command: u32, id: u32, argument: *mut libc::c_void) -> io::Result<()> {
    let command = (command << 8) | PRJQUOTA;
    // SAFETY: an open descriptor; the caller's argument is of the command's type and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, id, argument) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file system of the folder holds anybody to project quotas.
fn enforced(folder: &File) -> bool {
    // struct fs_quota_statv: version, padding, flags; more than its 160 bytes, for what later kernels add.
    let mut state = [0u8; 512];
    state[0] = STATE_VERSION;
    quotactl(folder, Q_XGETQSTATV, 0, state.as_mut_ptr().cast()).is_ok()
        && u16::from_ne_bytes([state[2], state[3]]) & FS_QUOTA_PDQ_ENFD != 0
}

fn assign(folder: &File, project: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: an open descriptor, and a struct of the kernel's layout that outlives the calls.
    unsafe {
        if libc::ioctl(folder.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) != 0 {
            return Err(io::Error::last_os_error());
        }
        attributes.project = project;
        attributes.flags |= FS_XFLAG_PROJINHERIT;
        if libc::ioctl(folder.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn set_bound(folder: &File, project: u32, bytes: u64) -> io::Result<()> {
    let mut quota = Quota { block_hard_limit: bytes / 1024, valid: QIF_BLIMITS, ..Quota::default() };
    quotactl(folder, Q_SETQUOTA, project, (&raw mut quota).cast())
}

/// Has the file system refuse (`EDQUOT`, `ENOSPC` on XFS) what is written below these empty folders, together, beyond `bytes`. Whether it
/// does: `false` where it knows no project quotas or does not enforce them.
///
/// # Errors
/// What the kernel said to a file system that enforces them.
pub fn bound_by_project(folders: &[&Path], project: u32, bytes: u64) -> io::Result<bool> {
    let open = folders.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
    let Some(first) = open.first().filter(|first| enforced(first)) else { return Ok(false) };
    set_bound(first, project, bytes)?;
    for folder in &open {
        if let Err(error) = assign(folder, project) {
            let _ = set_bound(first, project, 0);
            return Err(error);
        }
    }
    Ok(true)
}

/// Forgets the bound of a project whose folder this was.
///
/// # Errors
/// What the kernel said.
pub fn forget_project(folder: &Path, project: u32) -> io::Result<()> {
    set_bound(&File::open(folder)?, project, 0)
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Quota, bound_by_project};

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!((size_of::<Attributes>(), size_of::<Quota>()), (28, 72));
    }

    #[test]
    fn a_file_system_without_project_quotas_is_told_apart() {
        let folder = std::path::Path::new("/proc/self");
        assert!(!bound_by_project(&[folder], 1 << 30, 1 << 20).expect("no quotas"));
        assert!(bound_by_project(&[std::path::Path::new("/no/such/folder")], 1, 1).is_err());
    }
}
