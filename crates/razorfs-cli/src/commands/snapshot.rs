//! `razorfs snapshot`: the whole volume as it was, kept.

use std::path::{Path, PathBuf};

use razorfs::Options;
use serde_json::Value;

use crate::commands::{print_json, print_text, restore};
use crate::failure::{Failure, Result};
use crate::place::{self, Live, Place};
use crate::points;
use crate::shows::Shows;
use crate::socket::{Points, Request};

/// Keeps the whole volume as it is, lists what is kept, and gives it up
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A snapshot takes no time that grows with the volume, and no space but for what \
is changed or removed later. Programs may write meanwhile: what they had written when the command \
began is in it. It can be read as PLACE@NAME, mounted with `razorfs mount --snapshot`, and gone \
back to with `razorfs rollback`.

Examples:
  razorfs snapshot create mnt before-import
  razorfs snapshot list mnt
  razorfs snapshot delete mnt before-import
  razorfs ls demo.rzfs@before-import:/photos"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Takes a snapshot, and prints its name
    #[command(
        after_help = "What the kernel still held goes to the daemon first. The snapshot is \
on the disk when the command returns.

Examples:
  razorfs snapshot create mnt before-import
  razorfs snapshot create demo.rzfs     named by the time, such as 20261130T054213Z
  razorfs snapshot create mnt earlier --at 10m"
    )]
    Create {
        /// A volume or a mount point
        place: PathBuf,
        /// Its name: 1 to 255 bytes without `/`, `@` and control characters, and no `-` in front
        name: Option<String>,
        /// As it was then: the number of an operation, or a time, as `razorfs log` shows them, or
        /// how long ago, such as 10m; see `razorfs help restore`
        #[arg(long, value_name = "WHEN")]
        at: Option<String>,
    },
    /// Lists the snapshots, oldest first
    #[command(
        after_help = "HOLDS ALONE is what deleting that one would give back; what several \
hold is given back with the last of them.

--json prints one object: schema (1), volume, snapshots (array, oldest first, of name, id, time \
(RFC 3339), seconds (since 1970), files (with directories and the like), bytes (of its files), \
held (bytes of data, as they are stored, that it alone holds)).

Examples:
  razorfs snapshot list mnt
  razorfs snapshot list demo.rzfs --json | jq -r '.snapshots[].name'"
    )]
    List {
        /// A volume or a mount point
        place: PathBuf,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Deletes snapshots
    #[command(
        after_help = "What only they held is given back in the background. If one of them \
does not exist none is deleted.

Examples:
  razorfs snapshot delete mnt before-import
  razorfs snapshot delete demo.rzfs monday tuesday"
    )]
    Delete {
        /// A volume or a mount point
        place: PathBuf,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    match &args.action {
        Action::Create { place, name, at } => {
            if let Some(name) = name {
                points::check_length(place, name)?;
            }
            let answer = match at {
                Some(at) => do_at(
                    place,
                    &Points::Past(name.clone(), restore::when(place, at)?),
                )?,
                None => do_at(place, &Points::Create(name.clone()))?,
            };
            print_text(&format!("{}\n", text(&answer, "name")))?;
        }
        Action::List { place, json } => {
            let document = do_at(place, &Points::List)?;
            match json {
                true => print_json(&document)?,
                false => print_text(&points::table(&document))?,
            }
        }
        Action::Delete { place, names } => delete(place, names)?,
    }
    Ok(0)
}

/// Has the process that has the volume open do it: its daemon, or this one. A place may be that of
/// a branch.
pub fn do_at(place: &Path, points: &Points) -> Result<Value> {
    let spot = place::spot(place)?;
    let needs_present = points.needs_present();
    // There is one list of snapshots for a volume and all its branches.
    let found = match needs_present {
        true => Place::find(&spot.place)?,
        false => Place::find(place)?,
    };
    match found {
        Place::Live(mut live) => {
            let of = spot.snapshot.or_else(|| live.shows().map(str::to_owned));
            if needs_present {
                settle(&live)?;
            }
            live.ask(Request::Snapshots(points.clone(), of))
        }
        Place::Closed(path) => {
            let options = Options {
                read_only: *points == Points::List,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let shows = Shows::named(spot.snapshot.as_deref()).in_volume(&volume);
            let answer = points::answer_for(&volume, &path, &shows, points);
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            answer
        }
    }
}

/// Brings what programs have written, and only the kernel has yet, to the daemon. The daemon cannot
/// ask for it, and without it a snapshot would lack what was written before it was asked for; after
/// a rollback the kernel would write it over what was gone back to.
pub fn settle(live: &Live) -> Result<()> {
    if live.mounts.is_empty() {
        return Err(place::out_of_sight(&live.volume));
    }
    // Of snapshots there is nothing to be written, which takes no time.
    for mount in &live.mounts {
        let flushed = std::fs::File::open(&mount.dir).and_then(|d| Ok(rustix::fs::syncfs(d)?));
        flushed.map_err(|e| Failure::host("sync", &mount.dir, &e))?;
    }
    Ok(())
}

/// All of them, or none if one is not there.
fn delete(place: &Path, names: &[String]) -> Result<()> {
    let document = do_at(place, &Points::List)?;
    let there = points::names_in(&document);
    for name in names {
        if !there.contains(name) {
            let there = there.iter().map(String::as_str);
            return Err(points::missing(place, "delete", name, there));
        }
    }
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    for name in names {
        do_at(place, &Points::Delete(name))?;
    }
    Ok(())
}

/// A text of an answer.
pub fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or("-")
}
