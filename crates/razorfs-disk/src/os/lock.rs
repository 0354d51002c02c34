//! The volume's lock: `flock` on the file `LOCK`, which tells in text who holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{failed, own, retry};
use crate::{DiskOp, Guard, LockMode, Result};

/// The kernel lets go of the lock when the last copy of the descriptor is closed, however the
/// process ends. A child that is being started has copies for a moment, hence the unlocking at
/// drop; it follows that a process that forks must drop the guard in one of the two only.
struct OsGuard {
    /// Missing on a read-only host that has no `LOCK`: there nobody can write.
    file: Option<File>,
    /// Whether we wrote the text.
    named: bool,
}

/// Open `LOCK` files besides the guard's.
#[derive(Debug, Default)]
pub(super) struct LockFile {
    /// What another process has locked.
    pub(super) handed_over: Option<OwnedFd>,
    /// A copy of what was locked last.
    pub(super) locked: Option<OwnedFd>,
}

impl Guard for OsGuard {}

impl Drop for OsGuard {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        if self.named {
            // Text that stays is harmless: it counts only while its process lives.
            let _left = file.set_len(0);
        }
        let _closed_next = retry(|| rustix::fs::flock(file, FlockOperation::Unlock));
    }
}

/// Takes the lock at `real`, which is called `path`, or fails at once. What another process
/// has handed over is used once; a copy of what is locked is kept beside it.
pub(super) fn take(
    path: &Path,
    real: &Path,
    mode: LockMode,
    shared: &mut LockFile,
) -> Result<Box<dyn Guard>> {
    let error = |e: io::Error| failed(DiskOp::Lock, path, e);
    let file = match shared.handed_over.take() {
        Some(fd) => adopt(fd, real).map(Some),
        None => open(real, mode),
    };
    let Some(file) = file.map_err(error)? else {
        let (file, named) = (None, false);
        return Ok(Box::new(OsGuard { file, named }));
    };
    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match retry(|| rustix::fs::flock(&file, operation)) {
        Ok(()) => {}
        Err(e) => {
            let mut error = error(e.into());
            if e == Errno::WOULDBLOCK {
                error.holder = holder(&file);
            }
            return Err(error);
        }
    }
    let named = mode == LockMode::Exclusive;
    if named {
        // The text is a courtesy: a full host must not keep us out.
        let text = Holder::ourselves().text();
        let _written = file
            .set_len(0)
            .and_then(|()| file.write_all_at(text.as_bytes(), 0));
    }
    shared.locked = file.try_clone().ok().map(OwnedFd::from);
    let file = Some(file);
    Ok(Box::new(OsGuard { file, named }))
}

/// The `LOCK` that another process had open, if it is the one of this volume.
fn adopt(fd: OwnedFd, path: &Path) -> io::Result<File> {
    let file = File::from(fd);
    let (theirs, ours) = (file.metadata()?, std::fs::metadata(path)?);
    if (theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()) {
        let text = "what was handed over is the lock of another volume";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

/// Opens `LOCK`, making it if it is missing; nothing if it is and a reader cannot make it.
fn open(path: &Path, mode: LockMode) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let denied = match own::open(path, &options, OFlags::empty()) {
        Ok(file) => return Ok(Some(file)),
        Err(e) => e,
    };
    let read_only = matches!(
        denied.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    );
    if mode == LockMode::Exclusive || !read_only {
        return Err(denied);
    }
    match own::open(path, OpenOptions::new().read(true), OFlags::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// Who holds a lock.
#[derive(PartialEq, Eq, Debug)]
struct Holder {
    pid: u32,
    /// Of the host's life: after a reboot numbers of processes mean others.
    boot: String,
    host: String,
    command: String,
    since: String,
}

fn read_line(path: &str) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn boot_id() -> String {
    read_line("/proc/sys/kernel/random/boot_id")
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

fn command_of(pid: u32) -> String {
    read_line(&format!("/proc/{pid}/comm"))
}

impl Holder {
    fn ourselves() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            boot: boot_id(),
            host: host_name(),
            command: command_of(pid),
            since: utc(clock_gettime(ClockId::Realtime).tv_sec),
        }
    }

    fn text(&self) -> String {
        format!(
            "pid {}\nboot {}\nhost {}\ncommand {}\nsince {}\n",
            self.pid, self.boot, self.host, self.command, self.since
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let value = lines.find_map(|(k, value)| (k == key).then_some(value));
            value.map(|v| v.chars().filter(|c| !c.is_control()).collect::<String>())
        };
        Some(Self {
            pid: field("pid")?.parse().ok()?,
            boot: field("boot")?,
            host: field("host")?,
            command: field("command")?,
            since: field("since")?,
        })
    }

    /// Whether it may hold the lock still: on another host we cannot know.
    fn may_live(&self) -> bool {
        if self.host != host_name() {
            return true;
        }
        self.boot == boot_id() && Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// Tells who holds the lock of `file`: what the holder wrote, or what the kernel knows.
fn holder(file: &File) -> Option<String> {
    let mut text = [0; 512];
    let n = file.read_at(&mut text, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..n).unwrap_or_default()).into_owned();
    if let Some(h) = Holder::parse(&text).filter(Holder::may_live) {
        return Some(format!(
            "process {} ({}) on host {} since {}",
            h.pid, h.command, h.host, h.since
        ));
    }
    let inode = file.metadata().ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| lock_of(line, inode))?;
    let command = command_of(pid);
    Some(format!("process {pid} ({command}), reading"))
}

/// The process of a line of `/proc/locks` if that is a `flock` on `inode`.
fn lock_of(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let at = fields.iter().position(|field| *field == "FLOCK")?;
    let pid = fields.get(at + 3)?.parse().ok().filter(|pid| *pid != 0)?;
    let (_, number) = fields.get(at + 4)?.rsplit_once(':')?;
    (number.parse() == Ok(inode)).then_some(pid)
}

/// Seconds since 1970 as date and time of day (UTC).
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (mut year, mut day) = (1970, days);
    loop {
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let in_year = if leap { 366 } else { 365 };
        if (0..in_year).contains(&day) {
            let (month, day) = month_and_day(day, leap);
            let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
            return format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z");
        }
        if day < 0 {
            return format!("{seconds} s after 1970");
        }
        day -= in_year;
        year += 1;
    }
}

/// Month and day, from 1, of a day of the year, from 0.
fn month_and_day(mut day: i64, leap: bool) -> (u32, i64) {
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, len) in (1..).zip(lengths) {
        if day < len {
            return (month, day + 1);
        }
        day -= len;
    }
    (12, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn text_of_a_holder_reads_back() {
        let us = Holder::ourselves();
        assert_eq!(Holder::parse(&us.text()), Some(us));
        assert_eq!(Holder::parse("pid x\n"), None);
        assert_eq!(Holder::parse(""), None);
    }
}
