//! What the file system below a volume can do.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};

use super::Check;
#[cfg(test)]
use super::State;
use super::host::may_write;
use crate::failure::{Failure, Result, plain};
use crate::ground::Ground;
use crate::{mountinfo, place, size};

/// Bytes that are tried out.
const TRIED: u64 = 1 << 20;
/// Samples of how long a sync takes.
const SYNCS: usize = 9;
/// Milliseconds from which a sync is slow.
const SLOW_SYNC: u64 = 20;

/// What can be told of a place. One thing that is not there hides no other.
pub(super) fn checks(path: &Path) -> Result<Vec<Check>> {
    let mut dir = place::absolute(path)?;
    if let Some(mount) = mountinfo::at(&dir) {
        dir = mount.volume;
    }
    let failed = |e: io::Error| Failure::host("try out", &dir, &e);
    std::fs::metadata(&dir).map_err(failed)?;
    if let Some(failure) = place::no_directory("try out", &dir) {
        return Err(failure);
    }
    let stat = rustix::fs::statfs(&dir).map_err(|e| failed(e.into()))?;
    let mut checks = vec![
        file_system(stat.f_type as u64),
        space(&dir).map_err(failed)?,
    ];
    let (file, unnamed) = match trial(&dir) {
        Ok(trial) => trial,
        Err(check) => {
            checks.push(check);
            return Ok(checks);
        }
    };
    checks.extend([
        Check::ok("writing", "is possible"),
        unnamed,
        fallocate(&file),
        holes(&file),
        direct(&file),
        lock(&file),
    ]);
    checks.push(sync_time(&file).unwrap_or_else(|e| {
        let found = format!("fails ({})", plain(&e));
        Check::problem("sync", found, "see the log of the kernel")
    }));
    Ok(checks)
}

fn file_system(kind: u64) -> Check {
    const NAME: &str = "file system";
    let ground = Ground::of(kind);
    match ground.remedy {
        Some(remedy) => Check::warning(NAME, ground.found, remedy),
        None => Check::ok(NAME, ground.found),
    }
}

/// Bytes below which hardly anything can be done, and below which it is soon over.
const TOO_LITTLE: u64 = 64 << 20;
const LITTLE: u64 = 1 << 30;

fn space(dir: &Path) -> io::Result<Check> {
    let stat = rustix::fs::statvfs(dir)?;
    // Some file systems do not count files.
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Ok(space_of(stat.f_bavail * stat.f_frsize, files))
}

fn space_of(bytes: u64, files: Option<u64>) -> Check {
    const NAME: &str = "space";
    let remedy = "free some, or use another disk";
    let found = format!("{} are free", size::human(bytes));
    if bytes < TOO_LITTLE {
        return Check::problem(NAME, found, remedy);
    }
    match files {
        Some(files) if files < 100 => {
            let found = format!("{found}, and only {files} files may be made");
            Check::problem(NAME, found, remedy)
        }
        _ if bytes < LITTLE => Check::warning(NAME, found, remedy),
        _ => Check::ok(NAME, found),
    }
}

/// A file that is gone with this process at the latest, and whether it never had a name; or why
/// there is none.
fn trial(dir: &Path) -> std::result::Result<(File, Check), Check> {
    const NAME: &str = "O_TMPFILE";
    let refused = |e: &io::Error| {
        let remedy = match e.raw_os_error() {
            Some(libc::EROFS) => "a volume there can only be mounted with -o ro",
            Some(libc::EACCES | libc::EPERM) => "use a directory that you may write to",
            Some(libc::ENOSPC | libc::EDQUOT) => "free some space",
            _ => "see the log of the kernel",
        };
        Check::problem("writing", format!("is refused ({})", plain(e)), remedy)
    };
    if !may_write(TRIED) {
        let found = "was not tried, for the limit to the size of files";
        return Err(Check::problem("writing", found, "raise that first"));
    }
    let (file, check) = match unnamed(dir) {
        Ok(file) => (file, Check::ok(NAME, "is there")),
        Err(e) => {
            let file = named(dir).map_err(|e| refused(&e))?;
            // The engine does without it.
            let found = format!("is not there ({}), and is not needed", plain(&e));
            (file, Check::ok(NAME, found))
        }
    };
    let bytes = vec![1; 64 << 10];
    file.write_all_at(&bytes, 0).map_err(|e| refused(&e))?;
    Ok((file, check))
}

fn unnamed(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

/// The same where each file has a name first.
fn named(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".razorfs-doctor-{:016x}", crate::env().random()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600);
    let file = file.open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn fallocate(file: &File) -> Check {
    const NAME: &str = "fallocate";
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, TRIED) {
        Ok(()) => Check::ok(NAME, "is there: space is reserved before it is needed"),
        Err(e) => Check::warning(
            NAME,
            format!(
                "is refused ({}): a full disk is noticed later",
                plain(&e.into())
            ),
            "ext4, xfs, btrfs and tmpfs have it",
        ),
    }
}

fn holes(file: &File) -> Check {
    const NAME: &str = "holes";
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, 0, 32 << 10) {
        Ok(()) => Check::ok(NAME, "can be punched: what is deleted is free at once"),
        Err(e) => Check::warning(
            NAME,
            format!(
                "cannot be punched ({}): what is deleted is free when its pack is cleaned",
                plain(&e.into())
            ),
            "ext4, xfs, btrfs and tmpfs have them",
        ),
    }
}

fn direct(file: &File) -> Check {
    const NAME: &str = "O_DIRECT";
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(_) => Check::ok(NAME, "is there: verify and scrub read from the disk"),
        Err(e) => Check::warning(
            NAME,
            format!(
                "is refused ({}): verify and scrub may read what the host has in memory",
                plain(&e.into())
            ),
            "ext4, xfs and btrfs have it",
        ),
    }
}

fn lock(file: &File) -> Check {
    const NAME: &str = "flock";
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Check::ok(NAME, "is there: a volume is open once"),
        Err(e) => Check::problem(
            NAME,
            format!(
                "is refused ({}), and no volume opens without",
                plain(&e.into())
            ),
            "use another file system, or mount this one with locks",
        ),
    }
}

fn sync_time(file: &File) -> io::Result<Check> {
    const NAME: &str = "sync";
    let env = crate::env();
    let mut times = Vec::new();
    for n in 0..SYNCS {
        file.write_all_at(&[2; 4096], n as u64 * 4096)?;
        let start = env.monotonic();
        file.sync_data()?;
        times.push((env.monotonic() - start) / 1000);
    }
    times.sort_unstable();
    let median = times.get(SYNCS / 2).copied().unwrap_or(0);
    let found = format!("takes {median} us (median of {SYNCS})");
    Ok(if median < SLOW_SYNC * 1000 {
        Check::ok(NAME, found)
    } else {
        let remedy = "each fsync waits for that; a disk with a protected write cache is faster";
        Check::warning(NAME, found, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_a_server_or_in_memory_is_told() {
        assert_eq!(file_system(0xEF53).state, State::Ok);
        assert_eq!(file_system(1).state, State::Ok);
        for kind in [0x6969, 0xFF53_4D42, 0x6573_5546, 0x0102_1994, 0x794C_7630] {
            let check = file_system(kind);
            assert_eq!(check.state, State::Warning, "{kind:#x}");
            assert!(check.remedy.is_some());
        }
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_told() {
        assert_eq!(space_of(0, Some(0)).state, State::Problem);
        assert_eq!(space_of(TOO_LITTLE, None).state, State::Warning);
        assert_eq!(space_of(LITTLE, Some(1 << 20)).state, State::Ok);
        assert_eq!(space_of(LITTLE, Some(3)).state, State::Problem);
        assert_eq!(space_of(LITTLE, None).state, State::Ok);
    }

    #[test]
    fn where_each_file_has_a_name_it_is_gone_at_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = named(dir.path()).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(named(&dir.path().join("none")).is_err());
    }
}
