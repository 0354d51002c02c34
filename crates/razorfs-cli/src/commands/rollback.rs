//! `razorfs rollback`: the whole volume as it was, again.

use std::path::{Path, PathBuf};

use crate::commands::{print_text, snapshot};
use crate::failure::Result;
use crate::points::{self, word};
use crate::socket::Points;

/// Takes the whole volume back to a snapshot
#[derive(clap::Args, Debug)]
#[command(
    after_help = "What the volume is now is kept as a snapshot first, whose name is printed: going \
back to that one undoes it. After a crash it has happened as a whole or not at all. It may be \
mounted: files that programs have open go on with what the snapshot has; those that it does not \
have can be read as they were, and writing to them fails (ESTALE).

Examples:
  razorfs rollback mnt before-import
  razorfs rollback demo.rzfs 20261130T054213Z"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
    /// The snapshot
    name: String,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    points::check_length(&args.place, &args.name)?;
    let answer = snapshot::do_at(&args.place, &Points::Rollback(args.name.clone()))?;
    let safety = snapshot::text(&answer, "safety");
    let undo = format!(
        "razorfs rollback {} {}",
        word(&args.place),
        word(Path::new(safety))
    );
    print_text(&format!(
        "back at {}; what was until now is the snapshot {safety}\nundo it with: {undo}\n",
        args.name
    ))?;
    Ok(0)
}
