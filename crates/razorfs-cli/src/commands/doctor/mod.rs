//! `razorfs doctor`: what a mount needs on this host, and what it could have besides.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use razorfs_fuse::transport::rings_available;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use serde_json::{Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::{Failure, Result, plain, shown};
use crate::{mountinfo, place};

/// Looks at what a mount needs on this host, and what it could have besides
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each line begins with `ok`, `better` (it works, and could be better) or \
`missing`, and says what to do. With a PLACE, a volume or the directory that is to hold one, also \
what the file system below it can do; nothing is left there. The exit code is 1 if something is \
missing.

--json prints one object: schema (1), state (the worst), checks (array of {name, state, found, \
remedy (or null)}).

Examples:
  razorfs doctor
  razorfs doctor /srv/demo.rzfs
  razorfs doctor --json | jq '.checks[] | select(.state != \"ok\")'"
)]
pub struct Args {
    /// A volume, its mount point, or a directory
    place: Option<PathBuf>,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Ok,
    Better,
    Missing,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Better => "better",
            Self::Missing => "missing",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn better(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Better,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Missing,
            ..Self::better(name, found, remedy)
        }
    }

    fn document(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state.name(),
            "found": self.found,
            "remedy": self.remedy,
        })
    }

    fn line(&self) -> String {
        let (state, name) = (self.state.name(), self.name);
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}"));
        let remedy = remedy.unwrap_or_default();
        format!("{state:<8} {name:<12} {}{remedy}", self.found)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let mut checks = vec![device(), helper(), kernel(), io_uring(), read_ahead()];
    if let Some(path) = &args.place {
        checks.extend(of_place(path)?);
    }
    let worst = checks.iter().map(|check| check.state).max();
    let worst = worst.unwrap_or(State::Ok);
    if args.json {
        let checks: Vec<Value> = checks.iter().map(Check::document).collect();
        print_json(&json!({"schema": 1, "state": worst.name(), "checks": checks}))?;
    } else {
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        print_text(&format!("{}\n", lines.join("\n")))?;
    }
    Ok(u8::from(worst == State::Missing))
}

fn device() -> Check {
    const NAME: &str = "/dev/fuse";
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    match opened {
        Ok(_) => Check::ok(NAME, "can be opened"),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let remedy = "as root run `chmod 666 /dev/fuse`, as it is on most systems";
            Check::missing(NAME, "you may not open it", remedy)
        }
        Err(e) => {
            let remedy = "load the module `fuse`, or start the container with --device /dev/fuse";
            Check::missing(NAME, plain(&e), remedy)
        }
    }
}

fn helper() -> Check {
    const NAME: &str = "fusermount3";
    let install = "install the package fuse3";
    let found = std::env::var_os("PATH").and_then(|path| {
        let mut dirs = std::env::split_paths(&path).map(|dir| dir.join(NAME));
        dirs.find(|path| path.is_file())
    });
    let is_root = rustix::process::geteuid().is_root();
    match found {
        None if is_root => {
            let found = "is not installed: root mounts without it, other users cannot";
            Check::better(NAME, found, install)
        }
        None => Check::missing(NAME, "is not installed: only root can mount", install),
        Some(path) => {
            let meta = std::fs::metadata(&path);
            let is_setuid = meta.is_ok_and(|meta| meta.mode() & 0o4000 != 0 && meta.uid() == 0);
            let found = format!("is {}", shown(&path));
            match (is_setuid, is_root) {
                (true, _) => Check::ok(NAME, found),
                (false, true) => {
                    let found = format!("{found}, not setuid root: only root can mount");
                    Check::better(NAME, found, "reinstall the package fuse3")
                }
                (false, false) => {
                    let found = format!("{found}, not setuid root: you cannot mount");
                    Check::missing(NAME, found, "have root reinstall the package fuse3")
                }
            }
        }
    }
}

fn kernel() -> Check {
    kernel_of(&rustix::system::uname().release().to_string_lossy())
}

fn kernel_of(release: &str) -> Check {
    const NAME: &str = "kernel";
    let found = format!("is Linux {release}");
    match version(release) {
        None => Check::better(NAME, found, "its version cannot be told; use 6.14 or newer"),
        Some(version) if version < (5, 4) => Check::missing(
            NAME,
            format!("{found}, whose FUSE is too old"),
            "use Linux 5.4 or newer",
        ),
        Some(version) if version < (6, 9) => Check::better(
            NAME,
            format!(
                "{found}: it does not send requests again, so nobody goes on when the daemon \
                 dies, and has no FUSE over io_uring"
            ),
            "use Linux 6.9 or newer, 6.14 for io_uring",
        ),
        Some(version) if version < (6, 14) => Check::better(
            NAME,
            format!("{found}: it has no FUSE over io_uring"),
            "use Linux 6.14 or newer",
        ),
        Some(_) => Check::ok(NAME, found),
    }
}

/// Major and minor number of a kernel.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    next().zip(next())
}

fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    match rings_available() {
        Ok(()) => Check::ok(NAME, "can carry requests (-o transport)"),
        Err(why) => {
            let stays = "to have it so after the next start: `options fuse enable_uring=1` in a \
                         file in /etc/modprobe.d, or fuse.enable_uring=1 on the kernel's command \
                         line where fuse is built in";
            Check::better(NAME, format!("carries no requests: {why}"), stays)
        }
    }
}

/// The kernel's limits for a mount, which root changes when it is made.
fn read_ahead() -> Check {
    const NAME: &str = "read-ahead";
    let writable = rustix::process::geteuid().is_root() && are_attributes_writable();
    if writable {
        return Check::ok(NAME, "can be raised to 1 MiB when a mount is made");
    }
    let remedy = "after mounting, as root run `echo 1024 > /sys/class/bdi/$(mountpoint -d DIR)/\
                  read_ahead_kb`";
    Check::better(NAME, "stays at what the kernel has (128 KiB)", remedy)
}

/// Whether /sys is writable, which it is not in most containers.
fn are_attributes_writable() -> bool {
    let flags = rustix::fs::statvfs("/sys").map(|stat| stat.f_flag);
    flags.is_ok_and(|flags| !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Samples of how long a sync takes.
const SYNCS: usize = 9;
/// Milliseconds from which a sync is slow.
const SLOW_SYNC: u64 = 20;

/// What the file system below a volume can do.
fn of_place(path: &Path) -> Result<[Check; 3]> {
    let mut dir = place::absolute(path)?;
    if let Some(mount) = mountinfo::at(&dir) {
        dir = mount.volume;
    }
    let failed = |e: io::Error| Failure::host("try out", &dir, &e);
    // Without a name: it is gone with this process at the latest.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(&dir, flags, mode).map_err(|e| failed(e.into()))?;
    let file = File::from(file);
    file.write_all_at(&vec![1; 64 << 10], 0).map_err(failed)?;
    let direct = rustix::fs::open(&dir, flags | OFlags::DIRECT, mode);
    Ok([
        holes(&file),
        match direct {
            Ok(_) => Check::ok("O_DIRECT", "is there"),
            Err(e) => Check::better(
                "O_DIRECT",
                format!("is refused ({})", plain(&e.into())),
                "syncs are slower without it; ext4, xfs and btrfs have it",
            ),
        },
        sync_time(&file).map_err(failed)?,
    ])
}

fn holes(file: &File) -> Check {
    const NAME: &str = "holes";
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, 0, 32 << 10) {
        Ok(()) => Check::ok(NAME, "can be punched: what is deleted is free at once"),
        Err(e) => Check::better(
            NAME,
            format!(
                "cannot be punched ({}): what is deleted is free when its pack is cleaned",
                plain(&e.into())
            ),
            "ext4, xfs, btrfs and tmpfs have them",
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
        Check::better(NAME, found, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_told() {
        for (release, state) in [
            ("4.19.0", State::Missing),
            ("5.3.18", State::Missing),
            ("5.4.0-26-generic", State::Better),
            ("6.8.12", State::Better),
            ("6.9.1", State::Better),
            ("6.13.9", State::Better),
            ("6.14.0", State::Ok),
            ("7.0-rc1", State::Ok),
            ("x", State::Better),
        ] {
            let check = kernel_of(release);
            assert_eq!(check.state, state, "{release}");
            assert_eq!(check.remedy.is_some(), state != State::Ok, "{release}");
        }
        assert!(
            kernel_of("6.8.1")
                .found
                .contains("does not send requests again")
        );
        assert!(
            !kernel_of("6.9.1")
                .found
                .contains("does not send requests again")
        );
    }

    #[test]
    fn the_worst_state_is_the_greatest() {
        assert!(State::Missing > State::Better && State::Better > State::Ok);
    }
}
