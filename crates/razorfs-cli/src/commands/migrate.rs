//! `razorfs migrate`: a volume of an older version, written in the newest one.

use std::path::{Path, PathBuf};

use razorfs_disk::os::OsDisk;
use razorfs_verify::{Outcome, RepairError, RepairOptions};

use crate::commands::{print_text, repair};
use crate::failure::{DAMAGE, Failure, Result, shown};
use crate::place;
use crate::progress::{Progress, Unit};
use crate::signals;

/// How deep the new volume is looked at before the old one goes.
const LEVEL: u8 = razorfs_verify::LEVEL_MAX;

/// Writes a volume of an older version of the format in the newest one
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Every volume of an older version can be used as it is, and has what its version \
has. This gives it what a volume that is created now has. All metadata is written anew, and data \
stay where they are, so it takes the time of `razorfs verify --level 4` and little space. \
Snapshots stay; branches have to be committed or deleted before. The log of what was done begins \
anew.

A crash or Ctrl-C at any moment leaves the old volume or the new one, and the command can be run \
again. The old metadata is kept in VOLUME/quarantine until the new volume has been checked; where \
that finds anything it stays there.

Exit code 0: it is of the newest version, or would be; 4: the new volume has damage, which is \
told.

Examples:
  razorfs migrate demo.rzfs --dry-run
  razorfs migrate demo.rzfs"
)]
pub struct Args {
    /// A volume that is not mounted
    volume: PathBuf,
    /// Tells what would change, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let volume = repair::closed("migrate", &args.volume)?;
    if !place::is_volume(&volume) {
        let remedy = "`razorfs repair` it first";
        return Err(Failure::with("migrate", &volume, "it is damaged", remedy));
    }
    if !args.dry_run {
        // What the journal holds is brought to the segments first, as its own version does it.
        let opened = place::open(&volume, razorfs::Options::default())?;
        let closed = opened.close();
        closed.map_err(|e| Failure::engine("close", &volume, &e))?;
    }
    let disk = OsDisk::new(&volume);
    let guard = repair::lock(&volume, &disk, !args.dry_run)?;
    signals::note_interrupts()?;
    let mut progress = Progress::new("migrate", Unit::Items, args.quiet);
    let outcome = write_anew(&volume, &disk, !args.dry_run, &mut progress)?;
    let (text, code) = match (outcome.needed, outcome.committed) {
        (false, _) => ("it is of the newest version of the format\n".to_owned(), 0),
        (true, None) => (would(&volume, &outcome), 0),
        (true, Some(_)) => settle(&volume, &disk, &outcome, &mut progress)?,
    };
    progress.clear();
    drop(guard);
    print_text(&text)?;
    Ok(code)
}

fn write_anew(
    volume: &Path,
    disk: &OsDisk,
    commit: bool,
    progress: &mut Progress,
) -> Result<Outcome> {
    let options = RepairOptions {
        commit,
        upgrade: true,
        ..RepairOptions::default()
    };
    let mut show = |at: razorfs_verify::Progress| {
        progress.set_total(at.total);
        progress.set(at.done);
        !signals::interrupted()
    };
    let outcome = razorfs_verify::repair(disk, &*crate::env(), &options, &mut show);
    outcome.map_err(|e| match e {
        RepairError::Disk(e) => Failure::engine("migrate", volume, &e.into()),
        e => Failure::at("migrate", volume, e),
    })
}

fn would(volume: &Path, outcome: &Outcome) -> String {
    format!(
        "it is of an older version, without {}; nothing was changed: `razorfs migrate {}` would \
         write the metadata of {} inodes anew, with it, and {} snapshots would stay\n",
        outcome.missing,
        shown(volume),
        outcome.inodes,
        outcome.snapshots.len()
    )
}

/// Checks the new volume; if it is whole the old one goes.
fn settle(
    volume: &Path,
    disk: &OsDisk,
    outcome: &Outcome,
    progress: &mut Progress,
) -> Result<(String, u8)> {
    let report = razorfs_verify::verify(disk, LEVEL, &mut |at| {
        progress.set_total(at.total);
        progress.set(at.done);
    });
    let report = report.map_err(|e| Failure::engine("verify", volume, &e.into()))?;
    if !report.is_sound() {
        let text = format!(
            "written in the newest version, but a check finds damage: run `razorfs verify {}` and \
             report it; the old metadata is in quarantine\n",
            shown(volume)
        );
        return Ok((text, DAMAGE));
    }
    for old in &outcome.set_aside {
        let path = volume.join(old);
        std::fs::remove_file(&path).map_err(|e| Failure::host("remove", &path, &e))?;
    }
    let text = format!(
        "it has {} now; {} inodes and {} snapshots were written anew, and checked\n",
        outcome.missing,
        outcome.inodes,
        outcome.snapshots.len()
    );
    Ok((text, 0))
}
