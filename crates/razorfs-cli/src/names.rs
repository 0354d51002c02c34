//! The other names that the program answers to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::commands::{mount, repair};
use crate::failure::{DAMAGE, Failure, Result};
use crate::{remount, report, run_line};

/// Exit code of fsck(8) where all damage was repaired.
const FSCK_CORRECTED: u8 = 1;
/// Exit code of fsck(8) where damage was left as it is.
const FSCK_UNCORRECTED: u8 = 4;
/// Exit code of fsck(8) for an operational error.
const FSCK_OPERATIONAL: u8 = 8;

/// Runs a command line as the name of the program says.
pub fn run(line: &[OsString]) -> u8 {
    let name = line.first().map(Path::new).and_then(Path::file_name);
    let rest = line.get(1..).unwrap_or_default();
    match name.and_then(|n| n.to_str()).unwrap_or_default() {
        "mount.razorfs" | "mount.fuse.razorfs" => report(mount_line(rest)),
        "mkfs.razorfs" => run_line(&with_command("create", rest)),
        "fsck.razorfs" => fsck(rest),
        // As mount.fuse calls us for `mount -t fuse.razorfs VOLUME DIR`: no command is a path.
        _ if rest.first().is_some_and(is_path) => report(mount_line(rest)),
        _ => run_line(line),
    }
}

fn is_path(word: &OsString) -> bool {
    Path::new(word).components().count() > 1
}

fn with_command(command: &str, rest: &[OsString]) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["razorfs".into(), command.into()];
    line.extend(rest.iter().cloned());
    line
}

/// `VOLUME DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`, as mount(8) calls its helpers.
fn mount_line(rest: &[OsString]) -> Result<u8> {
    let mut paths = Vec::new();
    let mut options = Vec::new();
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => {
                let list = words.next().and_then(|list| list.to_str());
                let list = list.ok_or_else(|| Failure::new("mount: -o needs options"))?;
                options.push(list.to_owned());
            }
            Some("-N" | "-t") => {
                words.next();
            }
            // A dry run.
            Some("-f") => return Ok(0),
            Some(flag) if flag.starts_with('-') => {}
            _ => paths.push(PathBuf::from(word)),
        }
    }
    let [volume, dir] = paths.as_slice() else {
        let message = "mount: name a volume and a directory: mount.razorfs VOLUME DIR -o OPTIONS";
        return Err(Failure::new(message));
    };
    let words = options.iter().flat_map(|list| list.split(','));
    let words: Vec<&str> = words.map(str::trim).collect();
    if words.contains(&"remount") {
        return remount::run(dir, &words);
    }
    mount::run(&mount::Args::new(volume.clone(), dir.clone(), options))
}

/// `[-aAfnpryV] VOLUME`, as fsck(8) calls its helpers. With `-y` what is damaged is repaired; with
/// `-a` or `-p` damaged metadata only, and only if nothing is lost by that; else it stays as it is.
fn fsck(rest: &[OsString]) -> u8 {
    let is_flag = |word: &&OsString| word.to_string_lossy().starts_with('-');
    let has = |flags: &[char]| {
        let given = rest.iter().filter(is_flag);
        given
            .map(|f| f.to_string_lossy().into_owned())
            .any(|f| f.contains(flags))
    };
    let volumes: Vec<&OsString> = rest.iter().filter(|w| !is_flag(w)).collect();
    let [volume] = volumes.as_slice() else {
        report(Err(Failure::new(
            "fsck: name one volume: fsck.razorfs [-y] VOLUME",
        )));
        return FSCK_OPERATIONAL;
    };
    let verified = verify(volume);
    // At boot nobody waits until all data are read.
    let repairs = has(&['y']) || (verified == FSCK_UNCORRECTED && has(&['a', 'p']));
    if repairs && !has(&['n']) {
        return match fix(Path::new(volume), has(&['y'])) {
            Ok(code) => code,
            failure => {
                report(failure);
                FSCK_OPERATIONAL
            }
        };
    }
    verified
}

fn verify(volume: &OsString) -> u8 {
    let line = with_command("verify", &["--quiet".into(), volume.clone()]);
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

    #[test]
    fn helpers_of_mount_and_fsck_are_understood() {
        assert_eq!(mount_line(&words("/nowhere/v /nowhere/d -f")), Ok(0));
        let failure = mount_line(&words("/nowhere/v -o ro")).unwrap_err();
        assert!(failure.message.contains("name a volume and a directory"));
        let failure = mount_line(&words("/v /nowhere/d -o ro,remount")).unwrap_err();
        assert!(failure.message.contains("no volume is mounted there"));
        let failure = mount_line(&words("/nowhere/v /nowhere/d -n -o frob")).unwrap_err();
        assert!(failure.message.contains("frob"));
        assert_eq!(
            run(&words("/sbin/fsck.razorfs -a /nowhere/v")),
            FSCK_OPERATIONAL
        );
    }

    #[test]
    fn a_path_is_no_command() {
        assert!(is_path(&"/v".into()) && is_path(&"a/b".into()));
        assert!(!is_path(&"mount".into()));
    }
}
