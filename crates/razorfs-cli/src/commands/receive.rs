//! `razorfs receive`: a stream becomes what a volume has.

use std::io::{IsTerminal, Stdin};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use razorfs::{Options, ReceiveOptions};
use serde_json::Value;

use crate::commands::send::stopped;
use crate::commands::{create, print_json, print_text, snapshot};
use crate::failure::{Failure, Result};
use crate::mountinfo;
use crate::place::{self, Place};
use crate::progress::{Progress, Unit};
use crate::signals::{self, Interruptible};
use crate::socket::Request;
use crate::streams;

/// Makes a volume what a stream on standard input brings
#[derive(clap::Args, Debug)]
#[command(
    after_help = "All or nothing: at the end the volume has what was sent, and a snapshot of it \
with the same name; before, and if the stream breaks off or is damaged, it has what it had. While \
a stream comes in the volume can be read, and not written. It may be mounted. A missing volume is \
made.

A stream that was made with --from needs a volume that has received the older snapshot and was \
not changed since, but for times of access; --force goes back to that first, and keeps what is now \
as a snapshot. Any other stream needs an empty volume.

What has come of a stream that broke off is kept: --resume-token prints a token, and with the rest \
that `razorfs send --resume TOKEN` sends the volume goes on. Another stream takes its place, and \
--forget gives its space back.

--json prints one object: schema (1), snapshot, safety (the snapshot of what was before, with \
--force, or null), bytes (of the stream), inodes (new ones, or with other attributes), data (bytes \
of files that came).

Examples:
  razorfs receive backup.rzfs < monday.stream
  ssh host razorfs send work.rzfs@tuesday --from monday | razorfs receive mnt
  razorfs receive --resume-token backup.rzfs
  razorfs receive backup.rzfs --force < tuesday.stream"
)]
pub struct Args {
    /// A volume or a mount point; a volume that is missing is made
    volume: PathBuf,
    /// Goes back first to the snapshot that the stream goes on from
    #[arg(long)]
    force: bool,
    /// Prints where a stream that broke off goes on; nothing if there is none
    #[arg(long, conflicts_with_all = ["force", "json", "forget"])]
    resume_token: bool,
    /// Gives up what has come of a stream that broke off
    #[arg(long, conflicts_with_all = ["force", "json"])]
    forget: bool,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    if args.resume_token || args.forget {
        return part(args).map(|()| 0);
    }
    if std::io::stdin().is_terminal() {
        let remedy = "give it one of `razorfs send` on standard input";
        let cause = "a terminal is no stream";
        return Err(Failure::with("receive into", &args.volume, cause, remedy));
    }
    let mut progress = Progress::new("receive", Unit::Bytes, args.quiet || args.json);
    let received = match find(&args.volume)? {
        Some(Place::Live(mut live)) => {
            snapshot::settle(&live)?;
            let request = Request::Receive(options(args));
            live.ask_about(
                request,
                Some(std::io::stdin().as_fd()),
                &mut |bytes: &Value| {
                    progress.set(bytes.as_u64().unwrap_or(0));
                },
            )?
        }
        Some(Place::Closed(path)) => here(args, &path, false, &mut progress)?,
        None => here(args, &place::absolute(&args.volume)?, true, &mut progress)?,
    };
    if let Some(bytes) = received.get("bytes").and_then(Value::as_u64) {
        progress.set(bytes);
    }
    progress.finish();
    if args.json {
        print_json(&received)?;
        return Ok(0);
    }
    let mut text = format!("received {}\n", snapshot::text(&received, "snapshot"));
    if received.get("safety").is_some_and(Value::is_string) {
        let safety = snapshot::text(&received, "safety");
        text.push_str(&format!("what was until now is the snapshot {safety}\n"));
    }
    print_text(&text)?;
    Ok(0)
}

const fn options(args: &Args) -> ReceiveOptions {
    ReceiveOptions { force: args.force }
}

/// The place; none if a volume is to be made there.
fn find(path: &Path) -> Result<Option<Place>> {
    let full = place::absolute(path)?;
    let is_free = mountinfo::at(&full).is_none()
        && match std::fs::read_dir(&full) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
    match is_free {
        true => Ok(None),
        false => Place::find(path).map(Some),
    }
}

/// Receives into a volume that nobody has open, and makes it first if it is missing.
fn here(args: &Args, path: &Path, is_missing: bool, progress: &mut Progress) -> Result<Value> {
    signals::note_interrupts()?;
    // Before anything is made: it may be no stream at all.
    let input: Interruptible<Stdin> = Interruptible(std::io::stdin());
    let incoming = streams::incoming(path, input)?;
    let existed = path.exists();
    if is_missing {
        create::create(path, &create::options())?;
    }
    let volume = place::open(path, Options::default())?;
    let received = streams::receive(&volume, path, incoming, options(args), &mut |bytes| {
        progress.set(bytes);
        stopped()
    });
    let document = received.map(|received| streams::document(&received));
    let is_empty = is_missing && document.is_err() && matches!(volume.resume_token(), Ok(None));
    let closed = volume.close();
    if is_empty {
        create::remove(path, existed);
    }
    let document = document?;
    closed.map_err(|e| Failure::engine("close", path, &e))?;
    Ok(document)
}

/// Tells or forgets what has come of a stream that broke off.
fn part(args: &Args) -> Result<()> {
    let forget = args.forget;
    let answer = match Place::find(&args.volume)? {
        Place::Live(mut live) => live.ask(Request::Part { forget })?,
        Place::Closed(path) => {
            // Not for reading alone: where a process has died the part has to be put away first.
            let volume = place::open(&path, Options::default())?;
            let answer = streams::part(&volume, &path, forget);
            let closed = volume.close();
            let answer = answer?;
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            answer
        }
    };
    match answer.get("token").and_then(Value::as_str) {
        Some(token) => print_text(&format!("{token}\n")),
        None if forget => Ok(()),
        None => {
            let cause = "no stream has broken off there";
            let remedy = "send one from its beginning";
            Err(Failure::with("go on in", &args.volume, cause, remedy))
        }
    }
}
