//! `razorfs umount`: unmounts and waits until the last commit is on the disk.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result, shown};
use crate::place::{self, Place};
use crate::socket::Request;
use crate::unmount::{self, Outcome};
use crate::{holders, mountinfo};

/// Unmounts, and returns when everything is on the disk
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs umount mnt
  razorfs umount demo.rzfs      all mounts of the volume")]
pub struct Args {
    /// The mount point; or the volume, of which all mounts are meant
    dir: PathBuf,
}

impl Args {
    /// For other commands.
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let dir = place::absolute(&args.dir)?;
    if let Some(mount) = mountinfo::at(&dir)
        && place::is_dead(&dir)
    {
        return detach_dead(&dir, &mount.volume).map(|()| 0);
    }
    if mountinfo::at(&dir).is_none() && !place::is_volume(&dir) && dir.exists() {
        let (cause, remedy) = ("no volume is mounted there", "check the path");
        return Err(Failure::with("unmount", &args.dir, cause, remedy));
    }
    match Place::find(&dir)? {
        Place::Live(live) if !live.answers() => {
            if unmount::plainly(&dir)? == Outcome::Busy {
                return Err(busy(&dir));
            }
            eprintln!(
                "razorfs: the daemon of {} takes no commands from here; it ends when everything \
                 is on the disk",
                shown(&dir)
            );
            Ok(0)
        }
        Place::Live(mut live) => {
            let answer = live.ask(Request::Umount(live.named.clone()))?;
            // Others of the volume are mounted.
            if answer.get("stays").is_some() {
                return Ok(0);
            }
            let processes = answer.get("processes").and_then(|v| v.as_array());
            let processes = processes.into_iter().flatten().filter_map(|v| v.as_u64());
            let processes: Vec<u32> = processes.filter_map(|n| n.try_into().ok()).collect();
            live.wait_for_end(&processes);
            Ok(0)
        }
        Place::Closed(volume) => {
            let mut dead = mountinfo::of(&volume);
            dead.retain(|mount| place::is_dead(&mount.dir));
            if dead.is_empty() {
                let remedy = "nothing is left to do";
                return Err(Failure::with(
                    "unmount",
                    &args.dir,
                    "it is not mounted",
                    remedy,
                ));
            }
            for mount in dead {
                detach_dead(&mount.dir, &volume)?;
            }
            Ok(0)
        }
    }
}

/// Removes a mount whose daemon is gone. What was in use there only gets errors anyway.
pub fn detach_dead(dir: &Path, volume: &Path) -> Result<()> {
    unmount::lazily(dir)?;
    eprintln!(
        "razorfs: the daemon of {} had ended without unmounting; the next mount of {} recovers \
         what was synced",
        shown(dir),
        shown(volume)
    );
    Ok(())
}

/// What is said of a mount that is in use.
pub fn busy(dir: &Path) -> Failure {
    let shown = shown(dir);
    let message = match holders::of(dir) {
        Some(holder) => format!(
            "cannot unmount {shown}: {holder}; end it, or let it go elsewhere, and try again"
        ),
        None => format!(
            "cannot unmount {shown}: a process that this user cannot see uses it; find it with \
             `sudo fuser -vm {shown}`, and try again"
        ),
    };
    Failure::new(message)
}
