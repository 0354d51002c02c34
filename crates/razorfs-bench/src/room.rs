//! The directory of a run, and everything that could be left behind in it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::system;

const NAME: &str = "razorfs-bench-";

/// A directory that goes away with everything that is mounted in it and serves it.
pub struct Room(PathBuf);

impl Room {
    /// Makes one in `dir`, and clears away those of runs that were killed.
    pub fn make(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).at("make", dir)?;
        let dir = dir.canonicalize().at("find", dir)?;
        for entry in fs::read_dir(&dir).at("list", &dir)?.flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(NAME));
            if let Some(pid) = pid
                && !Path::new("/proc").join(pid).exists()
            {
                drop(Self(entry.path()));
            }
        }
        let room = dir.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&room).at("make", &room)?;
        Ok(Self(room))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes away what a workload that died has left: mounts (loop devices go with them), and
    /// the processes that serve them.
    pub fn sweep(&self) {
        for dir in mounts_below(&self.0) {
            let _ = razorfs_fuse::mount::unmount(&dir, true);
        }
        let watch = Stopwatch::start();
        // A daemon ends by itself when its mount is gone; one that hangs does not.
        while let Some(pid) = processes_of(&self.0).first() {
            if watch.elapsed() > Duration::from_secs(10) {
                system::kill(*pid);
            }
            std::thread::sleep(Duration::from_millis(20));
            if watch.elapsed() > Duration::from_secs(20) {
                break;
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.sweep();
        if let Err(e) = fs::remove_dir_all(&self.0) {
            eprintln!("razorfs-bench: {} is left behind: {e}", self.0.display());
        }
    }
}

/// Mount points below a directory, innermost last mounted first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = table.split(|&b| b == b'\n');
    let points = points.filter_map(|line| line.split(|&b| b == b' ').nth(4));
    let mut points: Vec<PathBuf> = points
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    points
}

/// Undoes the octal escapes of the table of mounts.
fn unescaped(text: &[u8]) -> OsString {
    let mut parts = text.split(|&b| b == b'\\');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let code = part.get(..3).and_then(|c| std::str::from_utf8(c).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(3..).unwrap_or_default());
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part);
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Processes other than this one that were started with a path in `dir`.
fn processes_of(dir: &Path) -> Vec<i32> {
    let own = std::process::id();
    let wanted = dir.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let ours = line.split(|&b| b == 0).any(|word| {
            word.strip_prefix(wanted)
                .is_some_and(|rest| rest.starts_with(b"/"))
        });
        if ours && pid.unsigned_abs() != own {
            found.push(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_table_of_mounts_are_undone() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped(b"/plain"), "/plain");
        assert_eq!(unescaped(b"/odd\\9"), "/odd\\9");
    }

    #[test]
    fn a_room_goes_and_takes_dead_ones_along() {
        let dir = tempfile::tempdir().unwrap();
        // No process has this number.
        let dead = dir.path().join(format!("{NAME}4194305"));
        fs::create_dir(&dead).unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let room = Room::make(dir.path()).unwrap();
        assert!(room.path().is_dir() && !dead.exists());
        drop(room);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path(), other);
    }
}
