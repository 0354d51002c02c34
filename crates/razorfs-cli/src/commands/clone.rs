//! `razorfs clone`: another volume with the same files.

use std::path::{Path, PathBuf};

use crate::commands::{branch, create, snapshot};
use crate::failure::{Failure, Result};
use crate::place::{self, Opened, Place, Spot, spot};
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::socket::Points;
use crate::tree::{Copy, CopyOptions, keep_apart, measure};

/// Copies a volume, or what a snapshot of it has, into a new volume; or forks it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "All files are copied, with owners, times, attributes, hard links and holes; the \
snapshots are not. Of a volume that is mounted a snapshot is taken first and deleted in the end, \
so that the copy is the volume at one moment. A copy that fails is removed. With --branch a branch \
is made instead, which is a matter of a moment: see `razorfs help branch`.

Examples:
  razorfs clone demo.rzfs copy.rzfs
  razorfs clone mnt@monday monday.rzfs
  razorfs clone mnt --branch attempt-1"
)]
pub struct Args {
    /// A volume or a mount point; PLACE@SNAPSHOT for what that has
    place: PathBuf,
    /// The new volume
    #[arg(required_unless_present = "branch", conflicts_with = "branch")]
    volume: Option<PathBuf>,
    /// Makes a branch of this name in the volume itself: at once, and without copying anything
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let volume = match (&args.branch, &args.volume) {
        (Some(name), _) => return branch::create(&args.place, name).map(|()| 0),
        (None, Some(volume)) => volume,
        (None, None) => {
            let remedy = "name a new volume, or a --branch";
            return Err(Failure::with(
                "clone",
                &args.place,
                "nothing to make",
                remedy,
            ));
        }
    };
    signals::note_interrupts()?;
    let from = spot(&args.place)?;
    if !from.path.as_os_str().is_empty() {
        let remedy = "name the place alone, or copy a directory with `razorfs cp -r`";
        let cause = "whole volumes are cloned";
        return Err(Failure::with("clone", &args.place, cause, remedy));
    }
    let is_live = matches!(Place::find(&from.place)?, Place::Live(_));
    if !is_live || from.shows()?.is_some() {
        return copy(&from, volume, args.quiet).map(|()| 0);
    }
    let taken = snapshot::do_at(&from.place, &Points::Create(None))?;
    let Some(name) = taken.get("name").and_then(|name| name.as_str()) else {
        let cause = "its daemon does not say which snapshot it took";
        let remedy = "look at `razorfs snapshot list`, and clone that one";
        return Err(Failure::with("clone", &args.place, cause, remedy));
    };
    let name = name.to_owned();
    let of_now = Spot {
        snapshot: Some(name.clone()),
        ..from
    };
    let outcome = copy(&of_now, volume, args.quiet);
    let deleted = snapshot::do_at(&of_now.place, &Points::Delete(name));
    outcome?;
    deleted.map(|_| 0)
}

/// Copies what is there into a new volume.
pub fn copy(from: &Spot, volume: &Path, quiet: bool) -> Result<()> {
    let source = Opened::open(from, false)?;
    let outcome = copy_from(&source, volume, quiet);
    source.close()?;
    if outcome.is_err() {
        // Whatever else went wrong because of it.
        signals::check()?;
    }
    outcome
}

fn copy_from(source: &Opened, volume: &Path, quiet: bool) -> Result<()> {
    let full = place::absolute(volume)?;
    let existed = full.exists();
    create::create(&full, &create::options())?;
    let outcome = fill(source, &full, quiet);
    if outcome.is_err() {
        create::remove(&full, existed);
    }
    outcome
}

fn fill(source: &Opened, volume: &Path, quiet: bool) -> Result<()> {
    let root = Path::new("");
    let target = Opened::open(&spot(volume)?, true)?;
    let mut progress = Progress::new("clone", Unit::Bytes, quiet);
    let options = CopyOptions {
        preserve: true,
        recursive: true,
    };
    let copied = keep_apart(source.tree(), root, target.tree(), root)
        .and_then(|()| measure(source.tree(), root))
        .and_then(|(bytes, _)| {
            progress.set_total(bytes);
            let (from, to) = (source.tree(), target.tree());
            Copy::new(from, to, options, &mut progress).run(root, root)
        })
        .and_then(|()| target.tree().sync());
    let closed = target.close();
    copied?;
    closed?;
    progress.finish();
    Ok(())
}
