//! Removing a tree that somebody else made.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::sys::{c_path, check};

/// Removes a folder and all below; one that is gone is no error. However deep it is, two descriptors are open and nothing
/// recurses: sub-folders are first moved up to the top, so a tree is flat by the time it is emptied. Links are not followed.
///
/// # Errors
/// What the system said about the first thing that could not be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let open = |path: &Path| fs::File::options().read(true).custom_flags_of(flags).open(path);
    let top = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => OwnedFd::from(other?),
    };
    let seen = PathBuf::from(format!("/proc/self/fd/{}", top.as_raw_fd()));
    let mut moved = 0u64;
    loop {
        let mut empty = true;
        for entry in fs::read_dir(&seen)? {
            let entry = entry?;
            empty = false;
            let name = c_path(Path::new(&entry.file_name()))?;
            if !entry.file_type()?.is_dir() {
                unlink(&top, &name, 0)?;
                continue;
            }
            let inner = OwnedFd::from(open(&seen.join(entry.file_name()))?);
            for child in fs::read_dir(format!("/proc/self/fd/{}", inner.as_raw_fd()))? {
                let child = child?;
                let child_name = c_path(Path::new(&child.file_name()))?;
                if child.file_type()?.is_dir() {
                    raise(&inner, &child_name, &top, &mut moved)?;
                } else {
                    unlink(&inner, &child_name, 0)?;
                }
            }
            unlink(&top, &name, libc::AT_REMOVEDIR)?;
        }
        if empty {
            break;
        }
    }
    fs::remove_dir(path)
}

trait CustomFlags {
    fn custom_flags_of(&mut self, flags: i32) -> &mut Self;
}

impl CustomFlags for fs::OpenOptions {
    fn custom_flags_of(&mut self, flags: i32) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, flags)
    }
}

fn unlink(folder: &OwnedFd, name: &std::ffi::CStr, flags: i32) -> io::Result<()> {
    // SAFETY: an open folder and a name that outlives the call.
    match check(unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), flags) }.into()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Moves a sub-folder up to the top, under a name that is free there.
fn raise(from: &OwnedFd, name: &std::ffi::CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    const RENAME_NOREPLACE: u32 = 1;
    loop {
        *moved += 1;
        let free = crate::sys::c_string(std::ffi::OsStr::new(&format!(".berth-{moved}")).as_bytes())?;
        // SAFETY: open folders and names that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                from.as_raw_fd(),
                name.as_ptr(),
                top.as_raw_fd(),
                free.as_ptr(),
                RENAME_NOREPLACE,
            )
        };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::remove_tree;

    #[test]
    fn trees_of_any_depth_go_and_links_are_not_followed() {
        let base = std::env::temp_dir().join(format!("berth-remove-{}", std::process::id()));
        let outside = base.join("outside");
        let top = base.join("top");
        fs::create_dir_all(&outside).expect("folder");
        fs::write(outside.join("kept"), "x").expect("file");
        fs::create_dir_all(top.join("a/b")).expect("folder");
        std::os::unix::fs::symlink(&outside, top.join("a/link")).expect("link");
        std::os::unix::fs::symlink(&outside, top.join("link")).expect("link");
        // Deeper than any path may be long: built from the bottom up.
        for n in 0..3000 {
            let next = base.join(format!("n{n}"));
            fs::create_dir(&next).expect("folder");
            fs::rename(top.join("a/b"), next.join("d")).expect("nest");
            fs::rename(&next, top.join("a/b")).expect("nest");
        }
        remove_tree(&top).expect("remove");
        remove_tree(&top).expect("again");
        assert!(!top.exists() && outside.join("kept").exists());
        fs::remove_dir_all(base).expect("clean");
    }
}
