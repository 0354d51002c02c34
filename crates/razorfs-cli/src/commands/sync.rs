//! `razorfs sync`: everything written so far is on the disk when it returns.

use std::path::PathBuf;

use crate::failure::{Failure, Result};
use crate::mountinfo::Mount;
use crate::place::{self, Place};
use crate::socket::Request;

/// Puts everything written so far on the disk
#[derive(clap::Args, Debug)]
#[command(
    after_help = "sync(1) does not reach a mount of FUSE; this command does.

Examples:
  razorfs sync mnt
  razorfs sync demo.rzfs"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    match Place::find(&args.place)? {
        Place::Live(mut live) => {
            // What the kernel still holds goes to the daemon first.
            for Mount { dir, .. } in &live.mounts {
                let flushed = std::fs::File::open(dir).and_then(|d| Ok(rustix::fs::syncfs(d)?));
                flushed.map_err(|e| Failure::host("sync", dir, &e))?;
            }
            live.ask(Request::Sync)?;
        }
        // Nobody writes to it. Opening recovers what a crash left, and closing makes it durable.
        Place::Closed(volume) => {
            let opened = place::open(&volume, razorfs::Options::default())?;
            let closed = opened.close();
            closed.map_err(|e| Failure::engine("sync", &volume, &e))?;
        }
    }
    Ok(0)
}
