//! `razorfs send`: a snapshot, or what differs from an older one, as a stream.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use razorfs::{Error, Options};
use serde_json::Value;

use crate::failure::{Failure, Result, shown};
use crate::place::{self, Place, spot};
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::socket::Request;
use crate::streams::{self, What};

/// Writes a snapshot to standard output, for another volume to receive
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --from only what differs from an older snapshot is sent, which the receiver \
must have: the time and the bytes that this takes grow with what was changed, not with the volume. \
The stream has names, hard links, attributes, access lists, holes and times as they are, and \
checksums over all of it. It may be kept in a file. The volume may be used, and changed, meanwhile.

Where it broke off, `razorfs receive --resume-token VOLUME` at the receiver prints a token with \
which the rest is sent.

Examples:
  razorfs send mnt@monday > monday.stream
  razorfs send mnt@monday | ssh host razorfs receive backup.rzfs
  razorfs send mnt@tuesday --from mnt@monday | ssh host razorfs receive backup.rzfs
  razorfs send mnt --resume rzt1-00a1b2 | ssh host razorfs receive backup.rzfs"
)]
pub struct Args {
    /// The snapshot, as PLACE@SNAPSHOT; with --resume a volume or a mount point
    place: PathBuf,
    /// An older snapshot that the receiver has, as PLACE@SNAPSHOT or by its name
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Sends the rest of a stream that broke off
    #[arg(long, value_name = "TOKEN")]
    resume: Option<String>,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    if std::io::stdout().is_terminal() {
        let remedy = "send it to a file, or through a pipe to `razorfs receive`";
        let cause = "a stream is not for a terminal";
        return Err(Failure::with("send", &args.place, cause, remedy));
    }
    let (place, what) = what(args)?;
    let mut progress = Progress::new("send", Unit::Bytes, args.quiet);
    match Place::find(&place)? {
        Place::Live(mut live) => {
            let out = std::io::stdout();
            live.ask_about(
                Request::Send(what),
                Some(out.as_fd()),
                &mut |bytes: &Value| {
                    progress.set(bytes.as_u64().unwrap_or(0));
                },
            )?;
        }
        Place::Closed(path) => closed(&path, &what, &mut progress)?,
    }
    progress.finish();
    Ok(0)
}

fn closed(path: &Path, what: &What, progress: &mut Progress) -> Result<()> {
    signals::note_interrupts()?;
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let volume = place::open(path, options)?;
    let mut out = std::io::stdout().lock();
    let sent = streams::send(&volume, path, what, &mut out, &mut |bytes| {
        progress.set(bytes);
        stopped()
    });
    let closed = volume.close();
    sent?;
    closed.map_err(|e| Failure::engine("close", path, &e))
}

/// An error if Ctrl-C came.
pub fn stopped() -> razorfs::Result<()> {
    match signals::interrupted() {
        true => Err(Error::Stream("interrupted".into())),
        false => Ok(()),
    }
}

/// Of which volume, and what.
fn what(args: &Args) -> Result<(PathBuf, What)> {
    let whole = |path: &Path| match path.as_os_str().is_empty() {
        true => Ok(()),
        false => {
            let cause = "whole snapshots are sent, not directories";
            let remedy = "name the place alone, or use `razorfs export`";
            Err(Failure::with("send", &args.place, cause, remedy))
        }
    };
    let new = spot(&args.place)?;
    whole(&new.path)?;
    let (name, token) = match (new.snapshot, &args.resume) {
        (Some(name), None) => (name, None),
        (None, Some(token)) => (String::new(), Some(token)),
        (None, None) => {
            let place = shown(&args.place);
            let cause = "it names no snapshot, and nothing else stays as it is while it is sent";
            let remedy = format!(
                "take one with `razorfs snapshot create {place}`, and name it as \
                                  {place}@NAME"
            );
            return Err(Failure::with("send", &args.place, cause, remedy));
        }
        (Some(_), Some(_)) => {
            let cause = "the token tells which snapshot it is";
            let remedy = format!("name {} alone", shown(&new.place));
            return Err(Failure::with("send", &args.place, cause, remedy));
        }
    };
    if let Some(token) = token {
        return Ok((new.place, What::Rest(token.clone())));
    }
    let from = args
        .from
        .as_deref()
        .map(|from| base(from, &new.place))
        .transpose()?;
    Ok((new.place, What::Snapshot { name, from }))
}

/// The name of the older snapshot, which is one of the same place.
fn base(from: &Path, place: &Path) -> Result<String> {
    let old = spot(from)?;
    let Some(name) = old.snapshot else {
        let name = from.to_str().filter(|name| !name.contains(['/', '@']));
        let cause = "it is neither PLACE@SNAPSHOT nor the name of a snapshot";
        let refused = || Failure::with("send from", from, cause, "see `razorfs snapshot list`");
        return name.map(str::to_owned).ok_or_else(refused);
    };
    if place::absolute(&old.place)? != place::absolute(place)? {
        let cause = format!("{} is another place", shown(&old.place));
        let remedy = "name two snapshots of one volume";
        return Err(Failure::with("send from", from, cause, remedy));
    }
    Ok(name)
}
