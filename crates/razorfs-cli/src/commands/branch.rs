//! `razorfs branch`: forks of a volume, in the volume.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use razorfs::Options;
use serde_json::Value;

use crate::branches::{self, Branches};
use crate::commands::snapshot::settle;
use crate::commands::{print_json, print_text};
use crate::failure::{Failure, Result};
use crate::place::{self, Place};
use crate::points;
use crate::socket::Request;

/// Makes, lists and deletes branches: forks that can be written to
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A branch begins as what it was forked from and goes on by itself: nothing of \
what is done in it shows anywhere else, nor the other way round. It takes no time that grows with \
the volume, and no space but for what is changed. It is mounted as VOLUME@NAME, next to the volume \
and other branches; what was changed in it is brought back with `razorfs commit`, compared with \
`razorfs diff`, and it can have snapshots of its own.

Examples:
  razorfs branch create mnt attempt-1
  razorfs mount demo.rzfs@attempt-1 work1
  razorfs commit demo.rzfs@attempt-1
  razorfs branch delete mnt attempt-1"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Makes a branch
    #[command(
        after_help = "It is on the disk when the command returns. `razorfs clone PLACE --branch \
NAME` is the same.

Examples:
  razorfs branch create mnt attempt-1                of what is there now
  razorfs branch create mnt@before-import again      of a snapshot, or of another branch"
    )]
    Create {
        /// A volume or a mount point; PLACE@NAME for a snapshot or a branch of it
        place: PathBuf,
        /// Its name: as that of a snapshot, and none that a snapshot has
        name: String,
    },
    /// Lists the branches, in the order in which they were made
    #[command(
        after_help = "BYTES are those of the files, those that others have too included.

--json prints one object: schema (1), volume, branches (array of name, id, time (RFC 3339), \
seconds (since 1970), files (with directories and the like), bytes (of its files)).

Examples:
  razorfs branch list mnt
  razorfs branch list demo.rzfs --json | jq -r '.branches[].name'"
    )]
    List {
        /// A volume or a mount point
        place: PathBuf,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Deletes branches
    #[command(
        after_help = "What only they have is given back in the background; their snapshots stay. A \
branch that is mounted is not deleted. If one of them does not exist none is deleted.

Examples:
  razorfs branch delete mnt attempt-1 attempt-2"
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
        Action::Create { place, name } => create(place, name)?,
        Action::List { place, json } => {
            let document = do_at(place, &Branches::List)?;
            match json {
                true => print_json(&document)?,
                false => print_text(&branches::table(&document))?,
            }
        }
        Action::Delete { place, names } => delete(place, names)?,
    }
    Ok(0)
}

/// All of them, or none if one is not there.
fn delete(place: &Path, names: &[String]) -> Result<()> {
    let there = branches::names_in(&do_at(place, &Branches::List)?);
    for name in names {
        if !there.contains(name) {
            let there = there.iter().map(String::as_str);
            return Err(branches::missing(place, "delete", name, there));
        }
    }
    let names: BTreeSet<&String> = names.iter().collect();
    for name in names {
        do_at(place, &Branches::Delete(name.clone()))?;
    }
    Ok(())
}

/// Makes a branch of a place, and prints its name.
pub fn create(place: &Path, name: &str) -> Result<()> {
    points::check_length(place, name)?;
    let spot = place::spot(place)?;
    let what = Branches::Create {
        name: name.to_owned(),
        from: spot.shows()?,
    };
    do_at(&spot.place, &what)?;
    print_text(&format!("{name}\n"))
}

/// Has the process that has the volume open do it: its daemon, or this one.
pub fn do_at(place: &Path, what: &Branches) -> Result<Value> {
    match Place::find(place)? {
        Place::Live(mut live) => {
            if what.needs_all() {
                settle(&live)?;
            }
            live.ask(Request::Branches(what.clone()))
        }
        Place::Closed(path) => {
            let options = Options {
                read_only: *what == Branches::List,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let answer = branches::answer(&volume, &path, what);
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            answer
        }
    }
}
