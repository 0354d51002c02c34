//! Who keeps a mount busy: a look through `/proc`.

use std::path::{Path, PathBuf};

/// A process that holds something below a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// How: `its working directory`, `an open file`, ...
    pub how: &'static str,
    /// What it holds.
    pub path: PathBuf,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = crate::failure::shown(&self.path);
        write!(
            f,
            "{} (pid {}) has {path} as {}",
            self.name, self.pid, self.how
        )
    }
}

/// The first process found that holds something in or below `dir`. Processes of other users can
/// only be seen by root.
pub fn of(dir: &Path) -> Option<Holder> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let own = std::process::id();
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .find_map(|pid| held_by(pid, dir))
}

fn held_by(pid: u32, dir: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let holder = |how, path| Holder {
        pid,
        name: name_of(pid).unwrap_or_else(|| "a process".into()),
        how,
        path,
    };
    // readlink only: it asks the kernel, and never the file system that may be hanging.
    let held = |link: &Path| {
        let target = std::fs::read_link(link).ok()?;
        target.starts_with(dir).then_some(target)
    };
    for (link, how) in [
        ("cwd", "its working directory"),
        ("root", "its root directory"),
        ("exe", "its program"),
    ] {
        if let Some(path) = held(&process.join(link)) {
            return Some(holder(how, path));
        }
    }
    for (list, how) in [("fd", "an open file"), ("map_files", "a mapped file")] {
        let Ok(entries) = std::fs::read_dir(process.join(list)) else {
            continue;
        };
        if let Some(path) = entries.flatten().find_map(|e| held(&e.path())) {
            return Some(holder(how, path));
        }
    }
    None
}

/// Whether any thread of a process runs. The first one may have ended before the others, and a
/// process that nobody has waited for yet has none that does.
pub fn is_running(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        // A thread that has ended since it was listed has no such file, and does not run.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    })
}

/// The name of a process.
pub fn name_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_stands_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        assert_eq!(of(&path), None);
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .current_dir(&path)
            .spawn()
            .unwrap();
        let holder = of(&path);
        assert!(is_running(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id()));
        let holder = holder.unwrap();
        assert_eq!(holder.pid, child.id());
        assert_eq!(holder.how, "its working directory");
    }
}
