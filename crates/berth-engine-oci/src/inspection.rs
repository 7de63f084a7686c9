//! Processes and changed files of containers.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use berth_engine::{ChangeKind, EngineError, Inspection, PathChange, ProcessFacts, UnitId};

use crate::engine::OciEngine;
use crate::instance::failed;

/// Ticks of the clock in a second, in which `/proc` counts (proc_pid_stat(5)); Linux has 100 on all machines that we run on.
const TICKS: u64 = 100;

/// When the machine began, seconds since 1970.
fn boot_time() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

/// The terminal of a device number, as `ps` names it.
fn terminal(number: u64) -> String {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    match major {
        0 => String::new(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 => format!("tty{minor}"),
        _ => format!("{major}:{minor}"),
    }
}

/// One process; `None` for one that has ended meanwhile.
fn process(pid: i32, booted: u64) -> Option<ProcessFacts> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name may hold anything, brackets too: what follows the last one is numbers.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(').map_or("", |(_, name)| name);
    let numbers: Vec<u64> = after.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    // Fields 4, 7, 14, 15 and 22 of proc_pid_stat(5); the first here is its third.
    let field = |number: usize| numbers.get(number - 3).copied().unwrap_or(0);
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|b| *b == 0);
    let command = match line.is_empty() {
        true => vec![format!("[{name}]")],
        false => words.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
    };
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())?;
    Some(ProcessFacts {
        uid,
        pid,
        parent: i32::try_from(field(4)).unwrap_or(0),
        cpu_ms: (field(14) + field(15)) * 1000 / TICKS,
        started_at: i64::try_from(booted * 1_000_000_000 + field(22) * (1_000_000_000 / TICKS)).unwrap_or(0),
        terminal: terminal(field(7)),
        command,
    })
}

/// Walks what a container has written.
struct Walk<'a> {
    upper: &'a Path,
    /// Folders of layers, opened.
    layers: Vec<fs::File>,
    most: usize,
    found: Vec<PathChange>,
}

impl Walk<'_> {
    /// Whether the image has it. What one layer hides of those below can be seen all the same, for a list this is good enough:
    /// what the container itself has deleted is found by its own marks.
    fn has_image(&self, path: &Path) -> bool {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let open = |layer: &fs::File| berth_runtime::openat2_in_root(layer.as_fd(), path, flags, 0, true).ok();
        self.layers.iter().any(|layer| {
            open(layer).is_some_and(|fd| {
                let meta = fs::File::from(fd).metadata();
                meta.is_ok_and(|meta| !(meta.file_type().is_char_device() && meta.rdev() == 0))
            })
        })
    }

    fn note(&mut self, path: &Path, kind: ChangeKind) -> Result<(), EngineError> {
        if self.found.len() >= self.most {
            return Err(EngineError::Refused(format!("more than {} paths differ from the image", self.most)));
        }
        self.found.push(PathChange { path: format!("/{}", path.display()), kind });
        Ok(())
    }

    fn folder(&mut self, below: &Path) -> Result<(), EngineError> {
        let at = self.upper.join(below);
        let entries = fs::read_dir(&at).map_err(failed(format!("read {}", at.display())))?;
        let names: BTreeSet<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        for name in names {
            let path = below.join(name);
            let Ok(meta) = fs::symlink_metadata(self.upper.join(&path)) else { continue };
            if meta.file_type().is_char_device() && meta.rdev() == 0 {
                self.note(&path, ChangeKind::Deleted)?;
                continue;
            }
            let kind = if self.has_image(&path) { ChangeKind::Changed } else { ChangeKind::Added };
            self.note(&path, kind)?;
            if meta.is_dir() {
                self.folder(&path)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Inspection for OciEngine {
    async fn processes(&self, id: &UnitId) -> Result<Vec<ProcessFacts>, EngineError> {
        let unit = self.inner.unit(id)?;
        if unit.known().live.is_none() {
            return Err(EngineError::NotRunning(id.clone()));
        }
        self.blocking(move |inner| {
            let booted = boot_time();
            let mut all: Vec<_> =
                inner.cgroup(unit.id()).processes().into_iter().filter_map(|pid| process(pid, booted)).collect();
            all.sort_by_key(|process| process.pid);
            Ok(all)
        })
        .await
    }

    async fn changed_paths(&self, id: &UnitId, most: usize) -> Result<Vec<PathChange>, EngineError> {
        let unit = self.inner.unit(id)?;
        self.blocking(move |inner| {
            let bundle = inner.bundle(&unit)?;
            let open = |name: &String| fs::File::open(bundle.rootfs.layers_in.join(name));
            let layers: Vec<_> = bundle.rootfs.layers.iter().filter_map(|name| open(name).ok()).collect();
            let mut walk = Walk { upper: &bundle.rootfs.upper, layers, most, found: Vec::new() };
            walk.folder(Path::new(""))?;
            Ok(walk.found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::{boot_time, process, terminal};

    #[test]
    fn this_process_is_read() {
        let own = process(std::process::id().cast_signed(), boot_time()).expect("this process");
        assert!(own.command[0].contains("berth_engine_oci") && own.parent > 0, "{own:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now").as_nanos() as i64;
        assert!(own.started_at < now + 2_000_000_000 && own.started_at > now - 3_600_000_000_000, "{own:?}");
        assert!(process(-1, 0).is_none());
    }

    #[test]
    fn terminals_are_named_as_ps_does() {
        assert_eq!((terminal(0).as_str(), terminal(34816).as_str(), terminal(1025).as_str()), ("", "pts/0", "tty1"));
    }
}
