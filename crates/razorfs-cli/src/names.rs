//! The other names that the program answers to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use crate::commands::{create, mount, repair};
use crate::failure::{DAMAGE, Result};
use crate::{parse, remount, report, run_line};

/// Exit code of fsck(8) where all damage was repaired.
const FSCK_CORRECTED: u8 = 1;
/// Exit code of fsck(8) where damage was left as it is.
const FSCK_UNCORRECTED: u8 = 4;
/// Exit code of fsck(8) for an operational error.
const FSCK_OPERATIONAL: u8 = 8;

/// Mounts a volume on a directory, for mount(8) and fstab
#[derive(Parser, Debug)]
#[command(
    name = "mount.razorfs",
    version,
    after_help = "The options are those of `razorfs mount`, and those of all file systems. What \
is for mount(8) and the system alone is understood and does nothing here: defaults, auto, noauto, \
user, users, owner, group, nofail, _netdev, comment=TEXT, x-systemd.automount and everything else \
that begins with x-. With the option remount the flags of a mount that is there are changed.

Examples:
  mount -t razorfs /srv/demo.rzfs /mnt -o durability=sync
  mount -t fuse.razorfs /srv/demo.rzfs /mnt
  mount -o remount,ro /mnt

In /etc/fstab:
  /srv/demo.rzfs /mnt fuse.razorfs noatime,nofail 0 0
  /srv/demo.rzfs /mnt fuse.razorfs noauto,x-systemd.automount,_netdev 0 0
  /home/ann/demo.rzfs /home/ann/mnt fuse.razorfs noauto,user 0 0"
)]
struct Mount {
    /// The volume, or VOLUME@NAME for a branch or a snapshot
    volume: PathBuf,
    /// The mount point
    dir: PathBuf,
    /// Options, separated by commas
    #[arg(short, value_name = "OPT,...")]
    options: Vec<String>,
    /// Mounts nothing
    #[arg(short)]
    fake: bool,
    /// Does nothing: an option that is not known is refused all the same
    #[arg(short)]
    sloppy: bool,
    /// Does nothing
    #[arg(short)]
    no_mtab: bool,
    /// Does nothing
    #[arg(short)]
    verbose: bool,
    /// Does nothing
    #[arg(short, value_name = "TYPE")]
    types: Option<OsString>,
    /// Does nothing: mount(8) is in the namespace already
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
}

/// Creates an empty volume, for mkfs(8)
#[derive(Parser, Debug)]
#[command(
    name = "mkfs.razorfs",
    version,
    after_help = "Examples:
  mkfs -t razorfs /srv/demo.rzfs
  mkfs.razorfs --limit 10G --parity /srv/demo.rzfs"
)]
struct Mkfs {
    #[command(flatten)]
    args: create::Args,
}

/// Checks a volume and repairs it, for fsck(8)
#[derive(Parser, Debug)]
#[command(
    name = "fsck.razorfs",
    version,
    after_help = "All metadata is checked, as by `razorfs verify`; file data is not read. Without \
an option that says so nothing is changed. A volume that is mounted can be checked, and not \
repaired.

Exit codes: 0 clean; 1 damage was found and repaired; 4 damage was found and is still there; 8 it \
could not be checked or repaired, or the command line is wrong.

Examples:
  fsck.razorfs /srv/demo.rzfs
  fsck.razorfs -a /srv/demo.rzfs      as at boot
  fsck.razorfs -y /srv/demo.rzfs      whatever is lost by that"
)]
struct Fsck {
    /// The volume
    volume: PathBuf,
    /// Repairs damaged metadata if nothing is lost by that
    #[arg(short)]
    automatic: bool,
    /// The same
    #[arg(short = 'p')]
    preen: bool,
    /// Repairs what is damaged, whatever is lost by that, which is told
    #[arg(short)]
    yes: bool,
    /// Changes nothing, whatever else is asked for
    #[arg(short)]
    no: bool,
    /// Does nothing: every volume is checked, also one that was closed properly
    #[arg(short)]
    force: bool,
    /// Does nothing: nobody is asked, and without -a, -p or -y nothing is changed
    #[arg(short = 'r')]
    interactive: bool,
    /// Does nothing
    #[arg(short)]
    verbose: bool,
    /// Does nothing: no progress is shown
    #[arg(short = 'C', value_name = "FD")]
    progress: Option<OsString>,
}

/// The command lines of the other names, for their manual pages.
pub fn commands() -> [clap::Command; 3] {
    [Mount::command(), Mkfs::command(), Fsck::command()]
}

/// Runs a command line as the name of the program says.
pub fn run(line: &[OsString]) -> u8 {
    let name = line.first().map(Path::new).and_then(Path::file_name);
    let rest = line.get(1..).unwrap_or_default();
    match name.and_then(|n| n.to_str()).unwrap_or_default() {
        "mount.razorfs" | "mount.fuse.razorfs" => mount(rest),
        "mkfs.razorfs" => match parse::<Mkfs>(&named("mkfs.razorfs", rest)) {
            Ok(mkfs) => report(create::run(&mkfs.args)),
            Err(code) => code,
        },
        // fsck(8) looks for a name that is made of the type in fstab.
        "fsck.razorfs" | "fsck.fuse.razorfs" => match parse(&named("fsck.razorfs", rest)) {
            Ok(asked) => fsck(&asked),
            Err(0) => 0,
            Err(_) => FSCK_OPERATIONAL,
        },
        // As mount.fuse calls us for `mount -t fuse.razorfs VOLUME DIR`: no command is a path.
        _ if rest.first().is_some_and(is_path) => mount(rest),
        _ => run_line(line),
    }
}

fn is_path(word: &OsString) -> bool {
    Path::new(word).components().count() > 1
}

fn named(name: &str, rest: &[OsString]) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec![name.into()];
    line.extend(rest.iter().cloned());
    line
}

/// As mount(8) calls its helpers.
fn mount(rest: &[OsString]) -> u8 {
    match parse::<Mount>(&named("mount.razorfs", rest)) {
        // A dry run.
        Ok(asked) if asked.fake => 0,
        Ok(asked) => report(asked.run()),
        Err(code) => code,
    }
}

impl Mount {
    fn run(self) -> Result<u8> {
        let words = self.options.iter().flat_map(|list| list.split(','));
        let words: Vec<&str> = words.map(str::trim).collect();
        if words.contains(&"remount") {
            return remount::run(&self.dir, &words);
        }
        mount::run(&mount::Args::new(self.volume, self.dir, self.options))
    }
}

/// With `-y` what is damaged is repaired; with `-a` or `-p` damaged metadata only, and only if
/// nothing is lost by that; else it stays as it is.
fn fsck(asked: &Fsck) -> u8 {
    let verified = verify(&asked.volume);
    let boot = asked.automatic || asked.preen;
    // At boot nobody waits until all data are read.
    let repairs = asked.yes || (verified == FSCK_UNCORRECTED && boot);
    if repairs && !asked.no {
        return match fix(&asked.volume, asked.yes) {
            Ok(code) => code,
            failure => {
                report(failure);
                FSCK_OPERATIONAL
            }
        };
    }
    verified
}

fn verify(volume: &Path) -> u8 {
    let line = ["razorfs", "verify", "--quiet", "--"].map(OsString::from);
    let line: Vec<OsString> = line.into_iter().chain([volume.into()]).collect();
    match run_line(&line) {
        0 => 0,
        DAMAGE => FSCK_UNCORRECTED,
        _ => FSCK_OPERATIONAL,
    }
}

/// Repairs: whatever is lost by that, or only where nothing is.
fn fix(volume: &Path, whatever: bool) -> Result<u8> {
    if !whatever {
        let dry = repair::repair(volume, false, false, true)?.outcome;
        if !dry.needed {
            return Ok(0);
        }
        if !dry.is_lossless() {
            repair::print(volume, false)?;
            return Ok(FSCK_UNCORRECTED);
        }
    }
    let repaired = repair::print(volume, true)?;
    Ok(match (repaired.outcome.needed, repaired.is_whole()) {
        (false, _) => 0,
        (true, true) => FSCK_CORRECTED,
        (true, false) => FSCK_UNCORRECTED,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn mount_of(line: &str) -> Mount {
        parse(&named("mount.razorfs", &words(line))).unwrap()
    }

    #[test]
    fn the_command_lines_of_the_helpers_are_sound() {
        for command in commands() {
            assert!(command.get_after_help().is_some());
            command.debug_assert();
        }
    }

    #[test]
    fn helpers_of_mount_are_called_as_mount_does() {
        assert_eq!(
            run(&words("/sbin/mount.razorfs /nowhere/v /nowhere/d -sfv")),
            0
        );
        for line in [
            "mount.razorfs /nowhere/v -o ro",
            "mount.fuse.razorfs",
            "mount.razorfs /v /nowhere/d -o ro,remount",
            "mount.razorfs /nowhere/v /nowhere/d --frob",
            "razorfs /nowhere/v /nowhere/d -o frob",
        ] {
            assert_eq!(run(&words(line)), 1, "{line}");
        }
        let failure = mount_of("/v /nowhere/d -o ro -o remount")
            .run()
            .unwrap_err();
        assert!(failure.message.contains("no volume is mounted there"));
        let failure = mount_of("/nowhere/v /nowhere/d -n -t fuse.razorfs -o frob").run();
        assert!(failure.unwrap_err().message.contains("frob"));
    }

    #[test]
    fn a_check_is_asked_for_as_fsck_does() {
        let asked = |line| parse::<Fsck>(&named("fsck.razorfs", &words(line)));
        let boot = asked("-a -f -C0 /v").unwrap();
        assert!(boot.automatic && boot.force && !boot.yes && !boot.no);
        let together = asked("-fpnv /v").unwrap();
        assert!(together.preen && together.no && !together.yes);
        assert!(asked("/v -y").unwrap().yes);
        for line in [
            // Words with the letters of flags in them are no flags.
            "--any /nowhere/v",
            "--yes /nowhere/v",
            "-z /nowhere/v",
            "-a /nowhere/v /nowhere/w",
            "-a",
            "-a /nowhere/v",
        ] {
            for name in ["fsck.razorfs", "/sbin/fsck.fuse.razorfs"] {
                let code = run(&named(name, &words(line)));
                assert_eq!(code, FSCK_OPERATIONAL, "{line}");
            }
        }
        assert_eq!(run(&words("fsck.razorfs --help")), 0);
    }

    #[test]
    fn a_path_is_no_command() {
        assert!(is_path(&"/v".into()) && is_path(&"a/b".into()));
        assert!(!is_path(&"mount".into()));
    }
}
