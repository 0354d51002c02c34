//! `razorfs log`: what was done, as the journal has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use razorfs::Options;
use serde_json::{Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::{Failure, Result, shown_bytes};
use crate::history::{self, Asked};
use crate::place::{self, Live, Place, spot};
use crate::socket::Request;
use crate::tree::inner;

/// How long a follower waits before it asks again.
const PAUSE: Duration = Duration::from_millis(250);

/// Shows what was done in a volume, as its journal has it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each line has a time, the operation, the path as it was then and, of what came \
through a mount, the user and the process that asked: of one with several threads, the thread. The \
time is that of the batch that the operation became durable with, at most a tenth of a second \
later. Data that the kernel wrote back later has no process. A path that is not known any more \
shows as ?; so does a part of it.

What was done in branches (PLACE@BRANCH shows one alone) has @BRANCH before the path.

The journal is a ring: what a checkpoint has made unneeded is written over, the oldest first.

With a PATH only what was done to that file, or in that directory and below, is shown, under the \
name that it had, and which versions of it snapshots have; `razorfs cp PLACE@SNAPSHOT:/PATH` \
fetches one.

--json prints one object: schema (1), entries: an array, oldest first, of lsn, time, seconds, \
operation, branch, path, name, to, ino, bytes, uid, gid, pid (null where there is none), and \
versions: an array of snapshot, ino, size, mtime. With --follow each entry is a document on a \
line of its own.

Examples:
  razorfs log mnt
  razorfs log mnt src/main.rs
  razorfs log mnt --follow
  razorfs log demo.rzfs --json | jq -r '.entries[] | select(.operation == \"unlink\") | .path'"
)]
pub struct Args {
    /// The volume
    #[arg(value_name = "PLACE")]
    place: PathBuf,
    /// A file or directory in it
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Goes on with what is done from now on, of a volume that is mounted
    #[arg(long)]
    follow: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let (place, asked) = asked(args)?;
    match Place::find(&place)? {
        Place::Live(live) if args.follow => follow(live, asked, args.json),
        Place::Live(mut live) => {
            let mut entries = Vec::new();
            let rest =
                live.ask_with(Request::Log(asked), &mut |some| gather(&mut entries, some))?;
            show(&entries, &rest, args.json)
        }
        Place::Closed(path) if args.follow => Err(Failure::with(
            "follow",
            &path,
            "it is not mounted: nothing is done in it",
            "mount it first, or leave out --follow",
        )),
        Place::Closed(path) => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let mut entries = Vec::new();
            let rest = history::find(&volume, &path, &asked, &mut |some| {
                gather(&mut entries, &some);
                Ok(())
            });
            let closed = volume.close();
            let rest = rest?;
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            show(&entries, &rest, args.json)
        }
    }
}

/// The place, and what is asked of it: `PLACE PATH` or `PLACE:/PATH`.
fn asked(args: &Args) -> Result<(PathBuf, Asked)> {
    let named = spot(&args.place)?;
    let path = match &args.path {
        Some(path) => named.path.join(inner(&relative(path))?),
        None => named.path,
    };
    let path = shown_bytes(path.as_os_str().as_encoded_bytes());
    let path = (!path.is_empty()).then_some(path);
    let asked = Asked {
        from: 0,
        path,
        branch: named.snapshot,
    };
    Ok((named.place, asked))
}

/// Paths begin at the root of the volume, with a slash or without.
fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_path_buf()
}

fn gather(entries: &mut Vec<Value>, some: &Value) {
    entries.extend(some.as_array().into_iter().flatten().cloned());
}

fn show(entries: &[Value], rest: &Value, json: bool) -> Result<u8> {
    let versions = rest.get("versions").cloned().unwrap_or(json!([]));
    if json {
        print_json(&json!({"schema": 1, "entries": entries, "versions": versions}))?;
        return Ok(0);
    }
    for entry in entries {
        print_text(&format!("{}\n", history::line(entry)))?;
    }
    // Without a path there are none.
    let versions = versions.as_array().map(Vec::as_slice).unwrap_or_default();
    if !versions.is_empty() {
        print_text("\nversions that can be fetched:\n")?;
    }
    for version in versions {
        let word = |key: &str| version.get(key).and_then(Value::as_str).unwrap_or("-");
        let size = version.get("size").and_then(Value::as_u64).unwrap_or(0);
        let size = crate::size::human(size);
        print_text(&format!(
            "{}  {size}  @{}\n",
            word("mtime"),
            word("snapshot")
        ))?;
    }
    Ok(0)
}

/// Shows what there is, and then what comes, until the volume is unmounted.
fn follow(mut live: Live, mut asked: Asked, json: bool) -> Result<u8> {
    // Which is still one when nothing is mounted any more.
    let volume = live.volume.clone();
    loop {
        let mut entries = Vec::new();
        let request = Request::Log(asked.clone());
        let rest = live.ask_with(request, &mut |some| gather(&mut entries, some))?;
        for entry in &entries {
            match json {
                true => crate::commands::print(format!("{entry}\n").as_bytes())?,
                false => print_text(&format!("{}\n", history::line(entry)))?,
            }
        }
        let next = rest.get("next").and_then(Value::as_u64);
        // From 1 on, so that only the first time waits for a flush.
        asked.from = next.unwrap_or(asked.from).max(1);
        std::thread::sleep(PAUSE);
        // The daemon answers one request a connection.
        live = match Place::find(&volume)? {
            Place::Live(live) => live,
            Place::Closed(_) => return Ok(0),
        };
    }
}
