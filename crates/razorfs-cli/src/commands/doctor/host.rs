//! What this process may do on this host.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use razorfs_fuse::Obstacle;
use razorfs_fuse::transport::rings_available;
use rustix::fs::StatVfsMountFlags;
use rustix::process::{Resource, getrlimit};

use super::Check;
#[cfg(test)]
use super::State;
use crate::failure::{plain, shown};
use crate::size;

const INSTALL: &str = "install the package fuse3";

/// All of them.
pub(super) fn checks() -> Vec<Check> {
    let is_root = rustix::process::geteuid().is_root();
    let conf = match std::fs::read("/etc/fuse.conf") {
        // Without it nothing is allowed beyond the default.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        conf => conf.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    };
    vec![
        device(),
        mounting(Obstacle::of_this_process(), is_root),
        helper(is_root),
        allow_other(conf.as_ref().map(String::as_str), is_root),
        kernel(),
        io_uring(),
        read_ahead(is_root),
        file_size(getrlimit(Resource::Fsize).current),
        clock(crate::env().now() / 1_000_000_000),
    ]
}

fn device() -> Check {
    const NAME: &str = "/dev/fuse";
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    let Err(e) = opened else {
        return Check::ok(NAME, "can be opened");
    };
    match e.raw_os_error().and_then(Obstacle::of_device) {
        Some(obstacle) => Check::problem(NAME, obstacle.found, obstacle.remedy),
        None => Check::problem(NAME, plain(&e), "see the log of the kernel"),
    }
}

fn mounting(obstacle: Option<Obstacle>, is_root: bool) -> Check {
    const NAME: &str = "mounting";
    match obstacle {
        Some(obstacle) => Check::problem(NAME, obstacle.found, obstacle.remedy),
        None if is_root => Check::ok(NAME, "is allowed, as root"),
        None => Check::ok(NAME, "is done by fusermount3"),
    }
}

fn helper(is_root: bool) -> Check {
    const NAME: &str = "fusermount3";
    let found = std::env::var_os("PATH").and_then(|path| {
        let mut dirs = std::env::split_paths(&path).map(|dir| dir.join(NAME));
        dirs.find(|path| path.is_file())
    });
    let Some(path) = found else {
        return if is_root {
            let found = "is not installed: root mounts without it, other users cannot";
            Check::warning(NAME, found, INSTALL)
        } else {
            Check::problem(NAME, "is not installed: only root can mount", INSTALL)
        };
    };
    let found = format!("is {}", shown(&path));
    let Some((why, remedy)) = why_not_root(&path) else {
        return Check::ok(NAME, found);
    };
    if is_root {
        Check::warning(NAME, format!("{found}, {why}: only root can mount"), remedy)
    } else {
        Check::problem(NAME, format!("{found}, {why}: you cannot mount"), remedy)
    }
}

/// Why a program does not run as root for others, and what to do.
fn why_not_root(path: &Path) -> Option<(&'static str, &'static str)> {
    let meta = std::fs::metadata(path);
    if !meta.is_ok_and(|meta| meta.mode() & 0o4000 != 0 && meta.uid() == 0) {
        return Some((
            "not setuid root",
            "have root reinstall the package fuse3, or run `chmod u+s` on it",
        ));
    }
    let flags = rustix::fs::statvfs(path).map(|stat| stat.f_flag);
    let has_no_effect = flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::NOSUID));
    has_no_effect.then_some((
        "on a file system that is mounted nosuid",
        "have root mount that without nosuid, or install fuse3 elsewhere",
    ))
}

/// Whether `-o allow_other` is, by what /etc/fuse.conf says.
fn allow_other(conf: Result<&str, &std::io::Error>, is_root: bool) -> Check {
    const NAME: &str = "allow_other";
    let mut lines = match conf {
        Ok(conf) => conf.lines(),
        Err(e) => {
            let found = format!("cannot be told: /etc/fuse.conf: {}", plain(e));
            return Check::warning(NAME, found, "have root make that file readable for all");
        }
    };
    let is_there = lines.any(|line| line.trim() == "user_allow_other");
    match (is_there, is_root) {
        (true, _) => Check::ok(NAME, "is there for all, by /etc/fuse.conf"),
        (false, true) => Check::ok(NAME, "is there for root only, by /etc/fuse.conf"),
        (false, false) => Check::warning(
            NAME,
            "is refused to you: nobody else could use your mount",
            "to have it, have root add the line `user_allow_other` to /etc/fuse.conf",
        ),
    }
}

fn kernel() -> Check {
    kernel_of(&rustix::system::uname().release().to_string_lossy())
}

fn kernel_of(release: &str) -> Check {
    const NAME: &str = "kernel";
    let found = format!("is Linux {release}");
    match version(release) {
        None => Check::warning(NAME, found, "its version cannot be told; use 6.14 or newer"),
        Some(version) if version < (5, 4) => Check::problem(
            NAME,
            format!("{found}, whose FUSE is too old"),
            "use Linux 5.4 or newer",
        ),
        Some(version) if version < (6, 9) => Check::warning(
            NAME,
            format!(
                "{found}: it does not send requests again, so nobody goes on when the daemon \
                 dies, and has no FUSE over io_uring"
            ),
            "use Linux 6.9 or newer, 6.14 for io_uring",
        ),
        Some(version) if version < (6, 14) => Check::warning(
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
            Check::warning(NAME, format!("carries no requests: {why}"), stays)
        }
    }
}

/// The kernel's limits for a mount, which root changes when it is made.
fn read_ahead(is_root: bool) -> Check {
    const NAME: &str = "read-ahead";
    let writable = is_root && are_attributes_writable();
    if writable {
        return Check::ok(NAME, "can be raised to 1 MiB when a mount is made");
    }
    let remedy = "after mounting, as root run `echo 1024 > /sys/class/bdi/$(mountpoint -d DIR)/\
                  read_ahead_kb`";
    Check::warning(NAME, "stays at what the kernel has (128 KiB)", remedy)
}

/// Whether /sys is writable, which it is not in most containers.
fn are_attributes_writable() -> bool {
    let flags = rustix::fs::statvfs("/sys").map(|stat| stat.f_flag);
    flags.is_ok_and(|flags| !flags.contains(StatVfsMountFlags::RDONLY))
}

/// Files of a volume may become as large as this.
const LARGEST_FILE: u64 = 1 << 30;

fn file_size(limit: Option<u64>) -> Check {
    const NAME: &str = "file size";
    let remedy = "raise the limit, as with `ulimit -f unlimited`, or LimitFSIZE= of systemd";
    match limit {
        None => Check::ok(NAME, "is not limited"),
        Some(bytes) if bytes < LARGEST_FILE => {
            let found = format!("is limited to {}: writing fails then", size::human(bytes));
            Check::problem(NAME, found, remedy)
        }
        Some(bytes) => {
            let found = format!(
                "is limited to {}, also for what is on a mount",
                size::human(bytes)
            );
            Check::warning(NAME, found, remedy)
        }
    }
}

/// Whether this process may write a file of so many bytes: the signal for one that is too large
/// would end it.
pub(super) fn may_write(bytes: u64) -> bool {
    getrlimit(Resource::Fsize)
        .current
        .is_none_or(|limit| bytes <= limit)
}

/// The first second of 2020.
const Y2020: u64 = 1_577_836_800;

/// `now` is in seconds since 1970.
fn clock(now: u64) -> Check {
    const NAME: &str = "clock";
    let found = format!(
        "says {} UTC",
        size::date(i64::try_from(now).unwrap_or(i64::MAX))
    );
    if now >= Y2020 {
        return Check::ok(NAME, found);
    }
    let found = format!("{found}: so will the times of files");
    Check::warning(
        NAME,
        found,
        "set it, as with `timedatectl set-ntp true` as root",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_told() {
        for (release, state) in [
            ("4.19.0", State::Problem),
            ("5.3.18", State::Problem),
            ("5.4.0-26-generic", State::Warning),
            ("6.8.12", State::Warning),
            ("6.9.1", State::Warning),
            ("6.13.9", State::Warning),
            ("6.14.0", State::Ok),
            ("7.0-rc1", State::Ok),
            ("x", State::Warning),
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
    fn who_lacks_privileges_is_told() {
        let obstacle = Obstacle {
            found: "x",
            remedy: "y",
        };
        assert_eq!(mounting(Some(obstacle), true).state, State::Problem);
        assert_eq!(mounting(None, true).state, State::Ok);
        assert_eq!(mounting(None, false).state, State::Ok);
    }

    #[test]
    fn a_line_of_fuse_conf_allows_others_and_a_comment_does_not() {
        let unreadable = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for (conf, is_root, state) in [
            (Ok("# a\n user_allow_other \n"), false, State::Ok),
            (Ok("#user_allow_other\n"), false, State::Warning),
            (Ok("mount_max = 9\n"), false, State::Warning),
            (Ok(""), false, State::Warning),
            (Ok(""), true, State::Ok),
            (Err(&unreadable), true, State::Warning),
        ] {
            assert_eq!(allow_other(conf, is_root).state, state, "{conf:?}");
        }
    }

    #[test]
    fn limits_and_a_clock_that_was_never_set_are_told() {
        assert_eq!(file_size(None).state, State::Ok);
        assert_eq!(file_size(Some(512)).state, State::Problem);
        assert_eq!(file_size(Some(100 << 30)).state, State::Warning);
        assert_eq!(clock(0).state, State::Warning);
        assert!(clock(0).found.contains("1970-01-01"));
        assert_eq!(clock(Y2020 - 1).state, State::Warning);
        assert_eq!(clock(Y2020).state, State::Ok);
    }

    #[test]
    fn a_program_that_is_not_setuid_is_not_root() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("fusermount3");
        std::fs::write(&path, b"x").unwrap();
        let (why, _) = why_not_root(&path).unwrap();
        assert_eq!(why, "not setuid root");
        assert!(why_not_root(&dir.path().join("none")).is_some());
    }
}
