//! The log of a volume that was just opened: told from its first entry on, it ends with the names
//! that are there. That these are the beginning of what was done is checked elsewhere, so the log
//! is that, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Ino, LogEntry, Volume};

type Names = BTreeMap<PathBuf, Ino>;

/// Checks it, if the log is whole and has nothing but names in it that follow from each other.
/// Answers what is wrong.
pub fn check(volume: &Volume) -> Option<String> {
    let Ok((entries, _)) = volume.log(0) else {
        // The disk is off, or a fault was planted: who reads the volume next will see it.
        return None;
    };
    let is_whole = entries.first().is_some_and(|first| first.lsn == 1);
    if !is_whole || entries.iter().any(|e| e.what == "rollback") {
        return None;
    }
    let mut there = Names::new();
    walk(volume, Ino::ROOT, Path::new(""), &mut there).ok()?;
    let mut told = Names::new();
    // Branches have names of their own.
    for entry in entries.iter().filter(|entry| entry.branch.is_none()) {
        if !tell(volume, &mut told, entry)? {
            return Some(format!("the log does not follow from itself at {entry:?}"));
        }
    }
    (told != there).then(|| format!("the log tells of {told:?}, and there is {there:?}"))
}

/// Answers whether the entry can follow what was told; none where it does not tell enough.
fn tell(volume: &Volume, told: &mut Names, entry: &LogEntry) -> Option<bool> {
    let names = [
        "create", "mkdir", "symlink", "mknod", "link", "rename", "unlink", "rmdir",
    ];
    if !names.contains(&entry.what) || entry.name.is_none() {
        return Some(true);
    }
    let (Some(path), Some(ino)) = (&entry.path, entry.ino) else {
        return Some(false);
    };
    match (entry.what, &entry.to) {
        ("unlink" | "rmdir", _) => Some(told.remove(path) == Some(ino)),
        ("rename", Some(to)) => {
            let fits = told.remove(path) == Some(ino);
            told.insert(to.clone(), ino);
            let below = |at: &Path| Some(to.join(at.strip_prefix(path).ok()?));
            let moved: Vec<_> = told
                .iter()
                .filter(|(at, _)| *at != path && at.starts_with(path))
                .filter_map(|(at, ino)| Some((at.clone(), below(at)?, *ino)))
                .collect();
            for (from, to, ino) in moved {
                told.remove(&from);
                told.insert(to, ino);
            }
            Some(fits)
        }
        ("rename", None) => {
            // Two were exchanged. What is below a directory went with it.
            let is_file = volume
                .stat(ino)
                .is_ok_and(|s| s.kind() != FileKind::Directory);
            is_file.then(|| told.insert(path.clone(), ino).is_some())
        }
        _ => Some(told.insert(path.clone(), ino).is_none()),
    }
}

fn walk(volume: &Volume, dir: Ino, path: &Path, names: &mut Names) -> razorfs::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let mut dirs = Vec::new();
    volume.collect_children(dir, 0, &mut |entry| {
        let at = path.join(std::ffi::OsStr::from_bytes(&entry.name));
        if entry.kind == FileKind::Directory {
            dirs.push((entry.ino, at.clone()));
        }
        names.insert(at, entry.ino);
        true
    })?;
    dirs.into_iter()
        .try_for_each(|(ino, at)| walk(volume, ino, &at, names))
}
