//! `razorfs restore`: a volume, or a part of it, as it was at any moment that is known.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use razorfs::When;

use crate::clock;
use crate::commands::{clone, cp, print_text, rm, snapshot};
use crate::failure::{Failure, Result, shown};
use crate::place::{Opened, Spot, spot};
use crate::points::word;
use crate::signals;
use crate::socket::Points;
use crate::tree::{Meta, inner};

/// Takes a volume, a directory or a file back to any moment, or copies what it was
#[derive(clap::Args, Debug)]
#[command(
    after_help = "WHEN is the number of an operation or a time, as `razorfs log` shows them \
(--json has the numbers), or how long ago: 4711, \"2026-11-30 06:42:13\", \
2026-11-30T05:42:13.25Z, 90s, 10m, 2h, 1d. A time means the last that was durable then, and a \
second is meant to its end.

A moment is to be had where a snapshot stands before it and the journal is whole from there on: \
take snapshots, or have them taken (`razorfs mount -o autosnap=10m`), and any moment of the last \
while can be gone back to. The journal is a ring of 3 to 96 MiB, and data that were overwritten \
since that snapshot may be gone; then it says so, and nothing has changed.

Without --to the volume, or this branch of it, is taken back in place, also while it is mounted. \
It happens as a whole or not at all, and what was until then is a snapshot, whose name is printed. \
With a PATH only that file or directory is replaced, after such a snapshot was taken; that does \
not happen at once. With --to it is copied there: the volume to a new one, a PATH to a new name on \
the host.

Examples:
  razorfs restore mnt --at 10m
  razorfs restore mnt src --at \"2026-11-30 06:42:13\"
  razorfs restore mnt src/main.rs --at 4711 --to /tmp/main.rs
  razorfs restore demo.rzfs --at 4711 --to then.rzfs"
)]
pub struct Args {
    /// A volume, a branch of it (VOLUME@BRANCH) or a mount point
    place: PathBuf,
    /// A file or directory in it
    path: Option<PathBuf>,
    /// The moment
    #[arg(long, value_name = "WHEN")]
    at: String,
    /// Copies what was there to a new volume, or to a new name on the host
    #[arg(long, value_name = "TARGET")]
    to: Option<PathBuf>,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// The moment that a word means.
pub fn when(place: &Path, word: &str) -> Result<When> {
    clock::moment(word, crate::env().now()).map_err(|cause| {
        let remedy = "`razorfs log` shows what was done when";
        Failure::with("go back in", place, cause, remedy)
    })
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    signals::note_interrupts()?;
    let when = when(&args.place, &args.at)?;
    let named = spot(&args.place)?;
    let path = match &args.path {
        Some(path) => named
            .path
            .join(inner(path.strip_prefix("/").unwrap_or(path))?),
        None => named.path.clone(),
    };
    let is_whole = path.as_os_str().is_empty();
    let place = Spot {
        path: PathBuf::new(),
        ..named
    };
    let text = text_of(&place);
    // For as long as this runs.
    let name = format!("restoring-{}", crate::env().now());
    snapshot::do_at(&text, &Points::Past(Some(name.clone()), when))?;
    let then = Spot {
        snapshot: Some(name.clone()),
        path: path.clone(),
        ..place.clone()
    };
    let done = match &args.to {
        Some(to) if is_whole => clone::copy(&then, to, args.quiet),
        Some(to) => cp::copy(text_of(&then), to.clone(), args.quiet),
        None if is_whole => snapshot::do_at(&text, &Points::Rollback(name.clone()))
            .and_then(|answer| told(&text, snapshot::text(&answer, "safety"))),
        None => replace(&place, &then, args.quiet),
    };
    let deleted = snapshot::do_at(&text, &Points::Delete(name));
    done?;
    deleted.map(|_| 0)
}

fn told(place: &Path, safety: &str) -> Result<()> {
    let undo = format!(
        "razorfs rollback {} {}",
        word(place),
        word(Path::new(safety))
    );
    print_text(&format!(
        "restored; what was until now is the snapshot {safety}\nundo it with: {undo}\n"
    ))
}

/// A place as commands name it.
fn text_of(spot: &Spot) -> PathBuf {
    let mut text = OsString::from(&spot.place);
    if let Some(name) = &spot.snapshot {
        text.push("@");
        text.push(name);
    }
    if !spot.path.as_os_str().is_empty() {
        text.push(":/");
        text.push(&spot.path);
    }
    text.into()
}

/// Puts what was there in the place of what is there now.
fn replace(place: &Spot, then: &Spot, quiet: bool) -> Result<()> {
    let now = Spot {
        path: then.path.clone(),
        ..place.clone()
    };
    let before = Opened::open(then, false)?;
    let above = above(&before, &then.path);
    before.close()?;
    let Some(above) = above? else {
        let cause = "it was not there then";
        let remedy = "`razorfs log` shows when it was made, and under which names";
        return Err(Failure::with("restore", shown(&now.path), cause, remedy));
    };
    let text = text_of(place);
    let safety = snapshot::do_at(&text, &Points::Create(None))?;
    let safety = snapshot::text(&safety, "name");
    print_text(&format!("what was until now is the snapshot {safety}\n"))?;
    let present = Opened::open(&now, true)?;
    let made = make_way(&present, &now.path, &above);
    present.close()?;
    made?;
    cp::copy(text_of(then), text_of(&now), quiet)?;
    print_text("restored\n")
}

/// The directories that something was in, from the root on; none if it was not there.
fn above(before: &Opened, path: &Path) -> Result<Option<Vec<(PathBuf, Meta)>>> {
    let tree = before.tree();
    if tree.find(path)?.is_none() {
        return Ok(None);
    }
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    // The root is there.
    above.pop();
    let metas = above.into_iter().rev();
    let metas = metas.map(|dir| Ok((dir.to_path_buf(), tree.meta(dir)?)));
    metas.collect::<Result<_>>().map(Some)
}

/// Removes what is there, and makes the directories above if they are gone.
fn make_way(present: &Opened, path: &Path, above: &[(PathBuf, Meta)]) -> Result<()> {
    let tree = present.tree();
    rm::rm(tree, path, (true, true))?;
    for (dir, meta) in above {
        if tree.find(dir)?.is_none() {
            tree.make(dir, meta, Path::new(""))?;
            tree.dress(dir, meta)?;
        }
    }
    Ok(())
}
