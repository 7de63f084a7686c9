//! `berth install` and `berth uninstall`: this program as a service of the machine, and away with it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{files, named};

/// Where `berth install` puts what a package would have in `/usr`.
const PROGRAM: &str = "/usr/local/bin/berth";
const UNIT: &str = "/etc/systemd/system/berth.service";
const TMPFILES: &str = "/etc/tmpfiles.d/berth.conf";
const SYSUSERS: &str = "/etc/sysusers.d/berth.conf";
const COMPLETION: &str = "/usr/local/share/bash-completion/completions/berth";

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// Don't start the service, and don't have it start when the machine does
    #[arg(long)]
    no_start: bool,
}

/// Writes a file as a whole or not at all; whether it was different before.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<bool, String> {
    if fs::read(path).is_ok_and(|there| there == content) && fs::metadata(path).is_ok_and(|m| m.mode() & 0o777 == mode)
    {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    named(folder, fs::create_dir_all(folder))?;
    named(path, crate::whole::write(path, content, mode))?;
    println!("wrote {}", path.display());
    Ok(true)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let done = Command::new(program).args(arguments).output().map_err(|e| format!("{}: {e}", line()))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{}: {}, {}", line(), done.status, said.trim()))
}

/// Whether systemd looks after this machine (sd_booted(3)).
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn is_root() -> bool {
    // SAFETY: plain system call.
    unsafe { libc::geteuid() == 0 }
}

fn make_group() -> Result<(), String> {
    const GROUP: &str = "berth";
    if crate::local::group(GROUP).is_some() {
        return Ok(());
    }
    if put(Path::new(SYSUSERS), files::SYSUSERS.as_bytes(), 0o644).is_ok()
        && run("systemd-sysusers", &[SYSUSERS]).is_ok()
        || run("groupadd", &["--system", GROUP]).is_ok()
        || run("addgroup", &["-S", GROUP]).is_ok()
    {
        println!("made the group {GROUP}: its members may use berth without a token, and so have root's rights");
        return Ok(());
    }
    println!("the group {GROUP} could not be made: only root may use berth without a token");
    Ok(())
}

/// Puts this program, its settings and its service on the machine. A second time it is an upgrade: containers run on.
pub(crate) fn install(install: &Install) -> Result<(), String> {
    if !is_root() {
        return Err("berth install writes to /etc and /usr/local: run it as root".into());
    }
    if Path::new(files::PACKAGED).exists() {
        let package = Path::new("/var/lib/dpkg/info/berth.list").exists();
        let by = if package { "the Debian package" } else { "somebody else" };
        return Err(format!("{} is there, from {by}: two installations would be in each other's way", files::PACKAGED));
    }
    let settings = Path::new(files::SETTINGS);
    if settings.exists() {
        // Before anything is replaced: what this program can't read, the one that runs may.
        crate::settings::Settings::load(Some(settings))?;
        println!("kept {}", settings.display());
    } else {
        put(settings, crate::settings::describe::example(crate::cli::language::is_chinese()).as_bytes(), 0o644)?;
    }
    let own = named(Path::new("/proc/self/exe"), fs::read("/proc/self/exe"))?;
    put(Path::new(PROGRAM), &own, 0o755)?;
    make_group()?;
    put(Path::new(COMPLETION), &crate::cli::complete::script(clap_complete::Shell::Bash), 0o644)?;
    if !has_systemd() {
        println!("systemd does not run here: have whatever starts services run `{PROGRAM} serve` as root");
        return Ok(());
    }
    put(Path::new(TMPFILES), files::TMPFILES.as_bytes(), 0o644)?;
    let unit = format!("{MARK}\n{}", files::UNIT.replace(files::PACKAGED, PROGRAM));
    put(Path::new(UNIT), unit.as_bytes(), 0o644)?;
    run("systemctl", &["daemon-reload"])?;
    if install.no_start {
        println!("start it with: systemctl enable --now berth");
        return Ok(());
    }
    run("systemctl", &["enable", "berth"])?;
    // Returns when the server has said that it is ready. Containers run on over that.
    run("systemctl", &["restart", "berth"])
        .map_err(|e| format!("{e}; `journalctl -u berth -n 50` and `berth doctor` say why"))?;
    println!("berth runs, and starts with the machine; `berth doctor` and `systemctl status berth` say how it is");
    Ok(())
}

/// What is not taken away, and how it would be.
fn left(purge: bool, data: &Path) {
    if purge {
        println!("left: the group berth (groupdel berth removes it)");
    } else {
        println!(
            "left: {} and {} (berth uninstall --purge removes them), the group berth",
            files::SETTINGS,
            data.display()
        );
    }
}

/// The first line of the unit that [`install`] writes: one without it is an operator's own, or a package's.
const MARK: &str = "# Made by berth install";

fn is_own_unit() -> bool {
    fs::read_to_string(UNIT).is_ok_and(|text| text.starts_with(MARK))
}

/// Whether there is something of `berth install` on this machine.
pub(crate) fn is_installed() -> bool {
    Path::new(PROGRAM).exists() || is_own_unit()
}

/// Ends the service, so that nobody else holds its data.
pub(crate) fn stop_service() -> Result<(), String> {
    if has_systemd() && is_own_unit() {
        run("systemctl", &["disable", "--now", "berth"])?;
        println!("stopped the service");
    }
    Ok(())
}

/// Takes away what [`install`] has put on the machine. With `purge` its settings and all data, too.
pub(crate) fn remove_files(purge: bool, data: &Path) -> Result<(), String> {
    if !is_root() {
        return Err("berth uninstall removes files of /etc and /usr/local: run it as root".into());
    }
    let unit = is_own_unit();
    for path in [UNIT, TMPFILES, SYSUSERS, COMPLETION, PROGRAM].map(PathBuf::from) {
        if path == Path::new(UNIT) && !unit {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => println!("removed {}", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    if has_systemd() {
        run("systemctl", &["daemon-reload"])?;
    }
    let _ = fs::remove_file(crate::local::STANDARD);
    let _ = fs::remove_dir("/run/berth");
    if purge {
        for path in [Path::new("/etc/berth"), data] {
            if path.exists() {
                named(path, fs::remove_dir_all(path))?;
                println!("removed {}", path.display());
            }
        }
    }
    left(purge, data);
    Ok(())
}
