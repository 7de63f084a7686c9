//! The container's file systems. Runs in the container's first process, in its own mount namespace, before the root is
//! changed. Every target is resolved by openat2 inside the root and mounted by descriptor, so that a link in the image or
//! in a shared volume leads nowhere else.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::{fs, io};

use crate::bundle::{Bundle, MountKind, Rootfs};
use crate::cgroup::Hierarchies;
use crate::sys::{
    Failure, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, Named, c_path, c_string, check,
    fsconfig_flag, fsconfig_string, fsmount, fsopen, mount_setattr, move_mount, open_tree_clone, openat2_in_root,
};

type Step = Result<(), Failure>;

/// Paths that would show or change the kernel's own state; hidden, or read-only (as Docker and runc have them).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
pub(crate) const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All that is hidden on this machine: also how often each of its processors was slowed down for heat, which tells containers
/// about each other.
pub(crate) fn masked() -> Vec<String> {
    let processors = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let throttling = processors.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.is_dir());
    let throttling = throttling.map(|path| path.to_string_lossy().into_owned());
    MASKED.iter().map(|path| (*path).to_owned()).chain(throttling).collect()
}

const NO_EXEC: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Takes the namespace out of the host's propagation: what the host unmounts goes here too, what is mounted here stays here.
pub(crate) fn detach_from_host() -> Step {
    // SAFETY: constant strings, null pointers where mount(2) ignores them.
    let result = unsafe {
        libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), libc::MS_REC | libc::MS_SLAVE, std::ptr::null())
    };
    check(result.into()).map(drop).named(|| "make / a slave mount".into())
}

/// Mounts the overlay and gives its root.
pub(crate) fn root(rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
    // Names relative to their folder: mount(2) takes one page of options, which fits some 500 layers this way.
    std::env::set_current_dir(&rootfs.layers_in).named(|| format!("enter {}", rootfs.layers_in.display()))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{}",
        rootfs.layers.join(":"),
        escaped(&rootfs.upper),
        escaped(&rootfs.work),
        plain_overlay()
    );
    overlay(rootfs, &options, 0)
}

/// The same to be read only, and beside another mount of it: what was written is one more layer.
pub(crate) fn root_to_read(rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
    std::env::set_current_dir(&rootfs.layers_in).named(|| format!("enter {}", rootfs.layers_in.display()))?;
    let options = format!("lowerdir={}:{}{}", escaped(&rootfs.upper), rootfs.layers.join(":"), plain_overlay());
    overlay(rootfs, &options, libc::MS_RDONLY)
}

/// Layers and what is written on top must mean the same to whoever reads the folders themselves (commit, copies): no
/// renamed folders by reference, no metadata without its data, whatever the kernel's defaults. A kernel that was built
/// without one of these takes no option for it.
fn plain_overlay() -> &'static str {
    static OPTIONS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    OPTIONS.get_or_init(|| {
        let known = |name: &&str| Path::new("/sys/module/overlay/parameters").join(name).exists();
        ["redirect_dir", "metacopy", "index"].iter().filter(|n| known(n)).map(|n| format!(",{n}=off")).collect()
    })
}

fn overlay(rootfs: &Rootfs, options: &str, flags: u64) -> Result<OwnedFd, Failure> {
    let (at, data) =
        (c_path(&rootfs.at).named(|| "root path".into())?, c_string(options).named(|| "overlay options".into())?);
    // SAFETY: all strings outlive the call.
    let mounted = unsafe {
        libc::mount(c"overlay".as_ptr(), at.as_ptr(), c"overlay".as_ptr(), libc::MS_NODEV | flags, data.as_ptr().cast())
    };
    check(mounted.into()).named(|| format!("mount the overlay of {} layers", rootfs.layers.len()))?;
    open_directory(&rootfs.at).named(|| format!("open {}", rootfs.at.display()))
}

/// Overlayfs splits its options at commas and colons.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:")
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    fs::File::open(path).map(OwnedFd::from)
}

/// The process file system, and what is set in it while nothing of the client's is mounted yet.
pub(crate) fn proc(root: BorrowedFd<'_>, own_network: bool) -> Step {
    mount_new(root, "/proc", c"proc", &[], NO_EXEC, false)?;
    if own_network {
        // As in Docker: any user of the container may ping and use low ports; the namespace is the container's own.
        for (path, value) in [
            ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
            ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ] {
            if let Ok(file) = openat2_in_root(root, Path::new(path), libc::O_WRONLY, 0, false) {
                let _ = std::io::Write::write_all(&mut fs::File::from(file), value.as_bytes());
            }
        }
    }
    Ok(())
}

/// Terminals of one container: the kernel's number of them (`kernel.pty.max`) is for all containers together.
pub(crate) const MOST_TERMINALS: &str = "64";

/// All mounts below the root but the cgroups, which need the container's own cgroup namespace first. Gives the null device of
/// the container's own `/dev`, opened before anything of the client's could stand in its place.
pub(crate) fn populate(root: BorrowedFd<'_>, bundle: &Bundle) -> Result<OwnedFd, Failure> {
    mount_new(root, "/dev", c"tmpfs", &[("mode", "755"), ("size", "65536k")], MOUNT_ATTR_NOSUID, false)?;
    let null = device_nodes(root)?;
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5"), ("max", MOST_TERMINALS)];
    mount_new(root, "/dev/pts", c"devpts", &pts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, false)?;
    let shm = bundle.shm_size.to_string();
    mount_new(root, "/dev/shm", c"tmpfs", &[("mode", "1777"), ("size", &shm)], NO_EXEC, false)?;
    mount_new(root, "/dev/mqueue", c"mqueue", &[], NO_EXEC, false)?;
    mount_new(root, "/sys", c"sysfs", &[], NO_EXEC | MOUNT_ATTR_RDONLY, false)?;
    for mount in &bundle.mounts {
        match &mount.kind {
            MountKind::Bind { from } if mount.optional => bind_if_possible(root, from, &mount.at)?,
            MountKind::Bind { from } => bind(root, from, &mount.at, mount.read_only)?,
            MountKind::Tmpfs { size, mode } => {
                let options = [("size", size.to_string()), ("mode", format!("{mode:o}"))];
                let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
                let read_only = if mount.read_only { MOUNT_ATTR_RDONLY } else { 0 };
                let at = mount.at.to_str().ok_or_else(|| not_text(&mount.at))?;
                mount_new(root, at, c"tmpfs", &options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only, true)?;
            }
        }
    }
    Ok(null)
}

fn not_text(path: &Path) -> Failure {
    Failure::request(format!("mount at {}", path.display()), io::Error::from_raw_os_error(libc::EILSEQ))
}

/// The container's own cgroups, read-only, so that programs (the JVM above all) see their limits.
pub(crate) fn cgroups(root: BorrowedFd<'_>, hierarchies: &Hierarchies) -> Step {
    let attributes = NO_EXEC | MOUNT_ATTR_RDONLY;
    match hierarchies {
        Hierarchies::V2(_) => mount_new(root, "/sys/fs/cgroup", c"cgroup2", &[], attributes, false),
        Hierarchies::V1(..) => {
            mount_new(root, "/sys/fs/cgroup", c"tmpfs", &[("mode", "755")], NO_EXEC, false)?;
            for (at, controllers) in hierarchies.mounts() {
                let name = at.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                let options: Vec<(&str, &str)> = controllers.iter().map(|c| (*c, "")).collect();
                mount_new(root, &format!("/sys/fs/cgroup/{name}"), c"cgroup", &options, attributes, false)?;
                for alias in controllers.iter().filter(|c| **c != name) {
                    symlink_in(root, &name, Path::new(&format!("/sys/fs/cgroup/{alias}")))?;
                }
            }
            let target = open_in(root, Path::new("/sys/fs/cgroup"), libc::O_PATH)?;
            mount_setattr(target.as_fd(), attributes, 0, false).named(|| "make /sys/fs/cgroup read-only".into())
        }
    }
}

/// After the root was changed: hides and protects what the kernel shows of itself. Files are hidden by `null`, which must be
/// the null device itself and no file that the client has put in its place.
pub(crate) fn protect(root: BorrowedFd<'_>, null: BorrowedFd<'_>, root_read_only: bool) -> Step {
    for path in READ_ONLY {
        if let Some(target) = open_if_there(root, path)? {
            let copy = open_tree_clone(target.as_fd(), true).named(|| format!("copy mount {path}"))?;
            mount_setattr(copy.as_fd(), MOUNT_ATTR_RDONLY, 0, true).named(|| format!("make {path} read-only"))?;
            move_mount(&copy, target.as_fd()).named(|| format!("mount {path} read-only"))?;
        }
    }
    for path in &masked() {
        if let Some(target) = open_if_there(root, path)? {
            let cover = if is_directory(target.as_fd()) {
                let fs = fsopen(c"tmpfs").named(|| "open tmpfs".into())?;
                fsconfig_string(&fs, "size", "0").named(|| "tmpfs size".into())?;
                fsmount(&fs, NO_EXEC | MOUNT_ATTR_RDONLY)
            } else {
                open_tree_clone(null, false)
            };
            let cover = cover.named(|| format!("cover for {path}"))?;
            move_mount(&cover, target.as_fd()).named(|| format!("mask {path}"))?;
        }
    }
    if root_read_only {
        let target = open_in(root, Path::new("/"), libc::O_PATH | libc::O_DIRECTORY)?;
        mount_setattr(target.as_fd(), MOUNT_ATTR_RDONLY, 0, false).named(|| "make / read-only".into())?;
    }
    Ok(())
}

fn is_directory(fd: BorrowedFd<'_>) -> bool {
    fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).is_ok_and(|m| m.is_dir())
}

fn open_in(root: BorrowedFd<'_>, path: &Path, flags: i32) -> Result<OwnedFd, Failure> {
    openat2_in_root(root, path, flags, 0, true).named(|| format!("open {} in the container", path.display()))
}

fn open_if_there(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Failure> {
    match openat2_in_root(root, Path::new(path), libc::O_PATH, 0, false) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::host(format!("open {path} in the container"), source)),
    }
}

/// Opens the folder, making what is missing of it. Links are followed inside the root, as the container would.
pub(crate) fn make_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    let what = || format!("make folder {} in the container", path.display());
    if let Ok(fd) = openat2_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY, 0, true) {
        return Ok(fd);
    }
    let mut sofar = std::path::PathBuf::from("/");
    let mut current = openat2_in_root(root, &sofar, libc::O_PATH | libc::O_DIRECTORY, 0, true).named(what)?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            if component == Component::ParentDir {
                return Err(Failure::request(what(), io::Error::from_raw_os_error(libc::EINVAL)));
            }
            continue;
        };
        sofar.push(name);
        let name = c_path(Path::new(name)).asked(what)?;
        // SAFETY: the name outlives the call.
        let made = check(unsafe { libc::mkdirat(current.as_raw_fd(), name.as_ptr(), 0o755) }.into());
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(Failure::request(what(), error));
        }
        current = openat2_in_root(root, &sofar, libc::O_PATH | libc::O_DIRECTORY, 0, true).asked(what)?;
    }
    Ok(current)
}

fn parent_and_name(path: &Path) -> Result<(&Path, &std::ffi::OsStr), Failure> {
    path.parent().zip(path.file_name()).ok_or_else(|| {
        Failure::request(format!("use {} as a mount point", path.display()), io::Error::from_raw_os_error(libc::EINVAL))
    })
}

/// A client's mount must not cover what the kernel shows of itself, on which this program and others rely.
fn refuse_kernel_files(target: BorrowedFd<'_>, at: &Path) -> Step {
    // SAFETY: an open descriptor; the buffer is written by the call.
    let kind = unsafe {
        let mut stats: libc::statfs = std::mem::zeroed();
        check(libc::fstatfs(target.as_raw_fd(), &raw mut stats).into()).named(|| format!("stat {}", at.display()))?;
        stats.f_type
    };
    if [libc::PROC_SUPER_MAGIC, SYSFS_MAGIC, libc::CGROUP_SUPER_MAGIC, libc::CGROUP2_SUPER_MAGIC].contains(&kind) {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        return Err(Failure::request(format!("mount at {} (within /proc or /sys)", at.display()), source));
    }
    Ok(())
}

const SYSFS_MAGIC: i64 = 0x6265_6572;

fn mount_new(
    root: BorrowedFd<'_>,
    at: &str,
    kind: &'static CStr,
    options: &[(&str, &str)],
    attributes: u64,
    clients: bool,
) -> Step {
    let what = || format!("mount {} at {at}", kind.to_string_lossy());
    let target = make_directory(root, Path::new(at))?;
    if clients {
        refuse_kernel_files(target.as_fd(), Path::new(at))?;
    }
    let fs = fsopen(kind).named(what)?;
    for (key, value) in options {
        if value.is_empty() { fsconfig_flag(&fs, key) } else { fsconfig_string(&fs, key, value) }
            .named(|| format!("{} (option {key}={value})", what()))?;
    }
    let mount = fsmount(&fs, attributes).named(what)?;
    let moved = move_mount(&mount, target.as_fd());
    if clients { moved.asked(what) } else { moved.named(what) }
}

pub(crate) fn bind(root: BorrowedFd<'_>, from: &Path, at: &Path, read_only: bool) -> Step {
    let what = || format!("bind {} at {}", from.display(), at.display());
    // The path was made canonical when it was allowed: a link in it now was put there since, to lead elsewhere.
    let host = open_directory(Path::new("/")).named(what)?;
    let source = openat2_in_root(host.as_fd(), from, libc::O_PATH, 0, false).asked(what)?;
    let target = if is_directory(source.as_fd()) {
        make_directory(root, at)?
    } else {
        let (parent, _) = parent_and_name(at)?;
        make_directory(root, parent)?;
        match openat2_in_root(root, at, libc::O_PATH, 0, true) {
            Ok(fd) => fd,
            Err(_) => {
                openat2_in_root(root, at, libc::O_CREAT | libc::O_WRONLY, 0o644, true).asked(what)?;
                open_in(root, at, libc::O_PATH)?
            }
        }
    };
    refuse_kernel_files(target.as_fd(), at)?;
    let copy = open_tree_clone(source.as_fd(), true).named(what)?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    mount_setattr(copy.as_fd(), attributes, libc::MS_PRIVATE, true).named(what)?;
    move_mount(&copy, target.as_fd()).asked(what)
}

/// Binds a file of the server's own, where there is a place for it.
pub(crate) fn bind_if_possible(root: BorrowedFd<'_>, from: &Path, at: &Path) -> Step {
    if place_for_file(root, at) { bind(root, from, at, false) } else { Ok(()) }
}

/// Whether a file can be mounted at a path, after what stands there in its way has been removed: a link that leads nowhere, to
/// a folder, or in circles; a device; an empty folder. Nothing is removed from another mount than the root: what is in a volume
/// is its owner's.
pub(crate) fn place_for_file(root: BorrowedFd<'_>, at: &Path) -> bool {
    let mode_of = |fd: BorrowedFd<'_>| {
        fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok().map(|meta| (meta.is_file(), meta.dev()))
    };
    if let Ok(found) = openat2_in_root(root, at, libc::O_PATH, 0, true)
        && mode_of(found.as_fd()).is_some_and(|(is_file, _)| is_file)
    {
        return true;
    }
    let Ok((parent, name)) = parent_and_name(at) else { return false };
    let Ok(folder) = make_directory(root, parent) else { return false };
    let Ok(name) = c_path(Path::new(name)) else { return false };
    let same_mount = mode_of(root).map(|(_, dev)| dev) == mode_of(folder.as_fd()).map(|(_, dev)| dev);
    if same_mount {
        // SAFETY: an open folder and a name that outlives the calls. A folder that is not empty stays.
        unsafe {
            if libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0) != 0 {
                libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR);
            }
        }
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: as above; the descriptor is owned at once.
    let made = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags, 0o644) };
    if made < 0 {
        return false;
    }
    // SAFETY: just opened.
    drop(unsafe { OwnedFd::from_raw_fd(made) });
    true
}

fn symlink_in(root: BorrowedFd<'_>, to: &str, at: &Path) -> Step {
    let (parent, name) = parent_and_name(at)?;
    let folder = open_in(root, parent, libc::O_PATH)?;
    let what = || format!("link {} to {to}", at.display());
    let (to_c, name) = (c_string(to).named(what)?, c_path(Path::new(name)).named(what)?);
    // SAFETY: the strings outlive the call.
    check(unsafe { libc::symlinkat(to_c.as_ptr(), folder.as_raw_fd(), name.as_ptr()) }.into()).map(drop).named(what)
}

/// Makes the devices and links of `/dev`; gives the null device.
fn device_nodes(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let dev = open_in(root, Path::new("/dev"), libc::O_PATH)?;
    for (name, major, minor) in
        [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)]
    {
        let what = || format!("make /dev/{}", name.to_string_lossy());
        let device = libc::makedev(major, minor);
        // SAFETY: constant names, an open folder.
        unsafe {
            check(libc::mknodat(dev.as_raw_fd(), name.as_ptr(), libc::S_IFCHR | 0o666, device).into()).named(what)?;
            // mknod's mode is cut by the umask.
            check(libc::fchmodat(dev.as_raw_fd(), name.as_ptr(), 0o666, 0).into()).named(what)?;
        }
    }
    for (at, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/core", "/proc/kcore"),
    ] {
        symlink_in(root, to, Path::new(at))?;
    }
    // SAFETY: a constant name; the descriptor is owned at once. The folder is our own: nobody else has written into it.
    let null = unsafe {
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let fd = check(libc::openat(dev.as_raw_fd(), c"null".as_ptr(), flags).into());
        OwnedFd::from_raw_fd(fd.named(|| "open /dev/null".into())? as i32)
    };
    Ok(null)
}

/// Shows the container's terminal as `/dev/console`.
pub(crate) fn console(root: BorrowedFd<'_>, slave: &OwnedFd) -> Step {
    let what = || "mount the terminal at /dev/console".to_owned();
    let at = Path::new("/dev/console");
    openat2_in_root(root, at, libc::O_CREAT | libc::O_WRONLY, 0o600, false).named(what)?;
    let target = open_in(root, at, libc::O_PATH)?;
    let copy = open_tree_clone(slave.as_fd(), false).named(what)?;
    move_mount(&copy, target.as_fd()).named(what)
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
pub(crate) fn change_root(root: BorrowedFd<'_>) -> Step {
    // SAFETY: constant strings and an open folder. pivot_root(".", ".") puts the old root on top of the new one, from
    // where it is detached (pivot_root(2), notes).
    unsafe {
        check(libc::fchdir(root.as_raw_fd()).into()).named(|| "enter the root".into())?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr())).named(|| "pivot_root".into())?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into()).named(|| "detach the host's root".into())?;
        check(libc::chdir(c"/".as_ptr()).into()).map(drop).named(|| "enter /".into())
    }
}
