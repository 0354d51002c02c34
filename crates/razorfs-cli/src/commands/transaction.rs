//! `razorfs transaction`: several changes by programs, all or none of them.
//!
//! A transaction is a branch of what is there now, with a name that tells it from others, and a
//! mount of that. So one that nobody ends, because its program or the daemon has died, is there as
//! a branch, and nothing of it shows in the volume.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::branches::{self, Branches};
use crate::clock;
use crate::commands::{branch, commit, mount, print_json, print_text, snapshot, umount};
use crate::failure::{Failure, ORDINARY, Result, shown};
use crate::mountinfo;
use crate::place;
use crate::points::{self, word};
use crate::signals;
use crate::socket::Points;

mod run;

/// Begins the names of their branches.
const PREFIX: &str = "transaction-";

/// Does several changes all at once, or not at all
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A transaction shows the volume as it was when it began, and what is changed in \
it, which nobody else sees until it is committed. Then all of it is in the volume at once, and on \
the disk. If it is aborted, or its program, the daemon or the host dies before, the volume is as \
if nothing had been done; what nobody ended is listed until it is committed or aborted.

Others may change the volume meanwhile. What both have changed is a conflict: it is listed, \
nothing is done, the exit code is 1, and the transaction is still there.

Examples:
  razorfs transaction run mnt -- make install
  razorfs transaction begin mnt update work
  razorfs transaction commit mnt update
  razorfs transaction abort work"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Begins one, and prints its name
    #[command(
        after_help = "It takes no time that grows with the volume. In the volume it is the branch \
transaction-NAME, which can be compared with `razorfs diff` as any other. Without a directory it \
is not mounted: VOLUME@transaction-NAME can be later.

--json prints one object: schema (1), name, branch, dir (or null).

Examples:
  razorfs transaction begin mnt update work
  name=$(razorfs transaction begin demo.rzfs)"
    )]
    Begin {
        /// A volume or a mount point of one
        place: PathBuf,
        /// Its name; one that is made of the time and the process if none is given
        name: Option<String>,
        /// Where it is mounted; made if it is missing
        dir: Option<PathBuf>,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Does what was changed in one in the volume, and ends it
    #[command(
        after_help = "It is unmounted first, so that nothing is written to it any more; while a \
program uses its directory, nothing is done. What was in the volume before is a snapshot, whose \
name is printed: going back to that one undoes it, and programs that have files open which the \
transaction has replaced read on from there.

After a conflict it is mounted again where it was. --on-conflict branch makes the volume what the \
transaction is, without what was changed by others meanwhile. If it is committed, but its branch \
cannot be deleted, this is told and the exit code is 0: it is still listed, and committing it once \
more changes nothing and deletes it.

--json prints one object: schema (1), name, done (boolean; false also if nothing had changed), \
safety (the snapshot of before, or null), conflicts (array of path and why).

Examples:
  razorfs transaction commit mnt update
  razorfs transaction commit work                 by the directory where it is mounted
  razorfs transaction commit mnt update --no-undo"
    )]
    Commit {
        /// A volume or a mount point; or the directory of the transaction
        place: PathBuf,
        /// Its name, if its directory is not given
        name: Option<String>,
        /// What is done if others have changed the same
        #[arg(long, value_name = "HOW", default_value = "refuse")]
        on_conflict: commit::How,
        /// Keeps no snapshot of what was there before
        #[arg(long)]
        no_undo: bool,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Ends one, and nothing of it was done
    #[command(after_help = "It is unmounted; what was changed in it is gone.

--json prints one object: schema (1), name.

Examples:
  razorfs transaction abort mnt update
  razorfs transaction abort work                  by the directory where it is mounted")]
    Abort {
        /// A volume or a mount point; or the directory of the transaction
        place: PathBuf,
        /// Its name, if its directory is not given
        name: Option<String>,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Lists those that have begun, oldest first
    #[command(
        after_help = "--json prints one object: schema (1), volume, transactions (array of name, \
branch, time (RFC 3339), seconds (since 1970), dir (where it is mounted, or null)).

Examples:
  razorfs transaction list mnt"
    )]
    List {
        /// A volume or a mount point
        place: PathBuf,
        /// Prints one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Runs a command in one: what it did is committed if it succeeds
    #[command(
        after_help = "The command begins in the root of the transaction, which is mounted on a \
directory of its own that only you can reach: RAZORFS_TRANSACTION_DIR in the environment, with its \
name in RAZORFS_TRANSACTION. If the command ends with 0 everything that it did is committed; with \
anything else, or after Ctrl-C, nothing is done. The exit code is that of the command, 128 and \
the number of the signal that ended it, or 1 if it could not be committed: after a conflict the \
transaction is still there, and is not mounted.

Examples:
  razorfs transaction run mnt -- make install
  razorfs transaction run demo.rzfs -- sh -c 'rm -r old && mv new old'"
    )]
    Run {
        /// A volume or a mount point of one
        place: PathBuf,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
        /// Keeps no snapshot of what was there before
        #[arg(long)]
        no_undo: bool,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    match &args.action {
        Action::Begin {
            place,
            name,
            dir,
            json,
        } => {
            signals::note_interrupts()?;
            let begun = Transaction::begin(place, name.as_deref())?;
            let mounted = dir.as_deref().map_or(Ok(()), |dir| begun.mount(dir));
            let outcome = mounted.and_then(|()| signals::check());
            outcome.or_else(|failure| begun.give_up(failure))?;
            let name = &begun.name;
            match json {
                true => print_json(&json!({
                    "schema": 1, "name": name, "branch": begun.branch(),
                    "dir": begun.dir().as_deref().map(shown),
                }))?,
                false => print_text(&format!("{name}\n"))?,
            }
        }
        Action::Commit {
            place,
            name,
            on_conflict,
            no_undo,
            json,
        } => {
            signals::note_interrupts()?;
            let found = Transaction::find("commit", place, name.as_deref())?;
            let take = *on_conflict == commit::How::Branch;
            return show(&found, found.commit(take, *no_undo)?, *json);
        }
        Action::Abort { place, name, json } => {
            signals::note_interrupts()?;
            let found = Transaction::find("abort", place, name.as_deref())?;
            found.abort()?;
            if *json {
                print_json(&json!({"schema": 1, "name": found.name}))?;
            }
        }
        Action::List { place, json } => list(place, *json)?,
        Action::Run {
            place,
            command,
            no_undo,
        } => return run::run(place, command, *no_undo),
    }
    Ok(0)
}

/// Says what came of a commit.
fn show(what: &Transaction, mut answer: Value, json: bool) -> Result<u8> {
    let conflicts = commit::conflicts(&answer);
    if json {
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("schema".into(), 1.into());
            fields.insert("name".into(), what.name.as_str().into());
            fields.entry("safety").or_insert(Value::Null);
        }
        print_json(&answer)?;
    } else if conflicts.is_empty() {
        print_text(&commit::done(&answer, &what.volume, &what.name, None))?;
    } else {
        print_text(&conflicts.join(""))?;
    }
    if conflicts.is_empty() {
        return Ok(0);
    }
    let cause = format!("{} conflicts, and nothing was done", conflicts.len());
    let remedy = "abort it and begin anew, or use --on-conflict branch";
    Err(what.failure("commit", cause, remedy).code(ORDINARY))
}

fn list(place: &Path, json: bool) -> Result<()> {
    let volume = volume_of(place)?;
    let document = branch::do_at(&volume, &Branches::List)?;
    let all = document.get("branches").and_then(Value::as_array);
    let entry = |one: &Value| {
        let branch = one.get("name")?.as_str()?;
        let dir = dir_of(&volume, branch);
        Some(json!({
            "name": branch.strip_prefix(PREFIX)?,
            "branch": branch,
            "time": one.get("time"),
            "seconds": one.get("seconds"),
            "dir": dir.as_deref().map(shown),
        }))
    };
    let all: Vec<Value> = all.into_iter().flatten().filter_map(entry).collect();
    if json {
        let volume = shown(&volume);
        return print_json(&json!({"schema": 1, "volume": volume, "transactions": all}));
    }
    if all.is_empty() {
        return print_text("no transactions; `razorfs transaction begin` begins one\n");
    }
    let row = |one: &Value| {
        let seconds = one.get("seconds").and_then(Value::as_i64);
        let text = |key| snapshot::text(one, key).to_owned();
        [
            text("name"),
            clock::local(seconds.unwrap_or(0)),
            text("dir"),
        ]
    };
    let rows = all.iter().map(row).collect();
    print_text(&points::columns(["NAME", "BEGUN", "MOUNTED ON"], rows, 3))
}

/// One that has begun.
struct Transaction {
    /// The volume, by its own path: a mount point may be that of the transaction.
    volume: PathBuf,
    name: String,
}

impl Transaction {
    /// Begins one.
    fn begin(place: &Path, name: Option<&str>) -> Result<Self> {
        let seconds = crate::env().now() / 1_000_000_000;
        let stamp = || clock::stamp(i64::try_from(seconds).unwrap_or(i64::MAX));
        // Of two processes in one second each makes another one.
        let made = || format!("{}-{}", stamp(), std::process::id());
        let begun = Self {
            volume: volume_of(place)?,
            name: name.map_or_else(made, str::to_owned),
        };
        points::check_length(place, &begun.branch())?;
        let what = Branches::Create {
            name: begun.branch(),
            from: None,
        };
        branch::do_at(&begun.volume, &what)?;
        Ok(begun)
    }

    /// The one of this name, or of this directory.
    fn find(doing: &str, place: &Path, name: Option<&str>) -> Result<Self> {
        let full = place::absolute(place)?;
        let by_dir = mountinfo::at(&full).and_then(|mount| {
            let name = mount.shows?.strip_prefix(PREFIX)?.to_owned();
            Some(Self {
                volume: mount.volume,
                name,
            })
        });
        let found = match (by_dir, name) {
            (Some(found), None) => found,
            (Some(found), Some(name)) if found.name == name => found,
            (_, Some(name)) => Self {
                volume: volume_of(place)?,
                name: name.to_owned(),
            },
            (None, None) => {
                let cause = "no transaction is mounted there";
                let remedy = "name one: `razorfs transaction list` shows all";
                return Err(Failure::with(doing, place, cause, remedy));
            }
        };
        let there = branches::names_in(&branch::do_at(&found.volume, &Branches::List)?);
        let mut names = there.iter().filter_map(|name| name.strip_prefix(PREFIX));
        if names.clone().any(|name| name == found.name) {
            return Ok(found);
        }
        let remedy = match points::nearest(&found.name, &mut names) {
            Some(near) => format!("perhaps {near:?} is meant"),
            None => format!("`razorfs transaction list {}` shows all", word(place)),
        };
        Err(found.failure(doing, "there is no such transaction", remedy))
    }

    fn branch(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Where it is mounted.
    fn dir(&self) -> Option<PathBuf> {
        dir_of(&self.volume, &self.branch())
    }

    fn mount(&self, dir: &Path) -> Result<()> {
        let mut source: OsString = self.volume.clone().into();
        source.push(format!("@{}", self.branch()));
        mount::run(&mount::Args::new(source.into(), dir.into(), Vec::new())).map(|_| ())
    }

    fn unmount(&self) -> Result<Option<PathBuf>> {
        let dir = self.dir();
        if let Some(dir) = &dir {
            umount::run(&umount::Args::new(dir.clone()))?;
        }
        Ok(dir)
    }

    /// Does what was changed in it in the volume, and ends it, unless there are conflicts.
    fn commit(&self, take: bool, no_undo: bool) -> Result<Value> {
        self.commit_and(take, no_undo, &|left| self.delete(left))
    }

    /// The same; `delete` puts away what is left of it then.
    fn commit_and(
        &self,
        take: bool,
        no_undo: bool,
        delete: &dyn Fn(Left<'_>) -> Result<()>,
    ) -> Result<Value> {
        let dir = self.unmount()?;
        let what = Branches::Commit {
            name: self.branch(),
            onto: None,
            take,
        };
        let outcome = branch::do_at(&self.volume, &what);
        let is_done = |answer: &Value| commit::conflicts(answer).is_empty();
        if !outcome.as_ref().is_ok_and(is_done) {
            if let Some(dir) = &dir {
                self.mount(dir)?;
            }
            return outcome;
        }
        let mut answer = outcome?;
        // It is committed, whatever becomes of what is left of it.
        let told = |left: Left<'_>| {
            let deleted = delete(left);
            if let Err(failure) = &deleted {
                eprintln!(
                    "razorfs: the transaction {:?} is committed and nothing of it is left to \
                     commit, but {} is still there: {failure}",
                    self.name,
                    left.named()
                );
            }
            deleted.is_ok()
        };
        told(Left::Branch);
        let safety = answer.get("safety").and_then(Value::as_str);
        let is_gone = no_undo && safety.is_some_and(|safety| told(Left::Snapshot(safety)));
        if is_gone && let Some(fields) = answer.as_object_mut() {
            fields.insert("safety".into(), Value::Null);
        }
        Ok(answer)
    }

    fn delete(&self, left: Left<'_>) -> Result<()> {
        let deleted = match left {
            Left::Branch => branch::do_at(&self.volume, &Branches::Delete(self.branch())),
            Left::Snapshot(name) => snapshot::do_at(&self.volume, &Points::Delete(name.to_owned())),
        };
        deleted.map(|_| ())
    }

    fn abort(&self) -> Result<()> {
        self.unmount()?;
        self.delete(Left::Branch)
    }

    /// What could not be begun leaves nothing.
    fn give_up(&self, failure: Failure) -> Result<()> {
        match self.abort() {
            Ok(()) => Err(failure),
            Err(other) => Err(Failure::new(format!("{failure}; and {other}"))),
        }
    }

    fn failure(
        &self,
        doing: &str,
        cause: impl std::fmt::Display,
        remedy: impl std::fmt::Display,
    ) -> Failure {
        let what = format!("{doing} the transaction {:?} of", self.name);
        Failure::with(&what, &self.volume, cause, remedy)
    }
}

/// What is left of one that was committed.
#[derive(Clone, Copy)]
enum Left<'a> {
    Branch,
    /// Of what was there before.
    Snapshot(&'a str),
}

impl Left<'_> {
    fn named(self) -> &'static str {
        match self {
            Self::Branch => "its branch, which `razorfs transaction abort` deletes,",
            Self::Snapshot(_) => "the snapshot of what was before",
        }
    }
}

/// Where a branch is mounted.
fn dir_of(volume: &Path, branch: &str) -> Option<PathBuf> {
    let mut mounts = mountinfo::of(volume).into_iter().rev();
    let found = mounts.find(|mount| mount.shows.as_deref() == Some(branch));
    found.map(|mount| mount.dir)
}

/// The volume of which a transaction is: that as it is now.
fn volume_of(place: &Path) -> Result<PathBuf> {
    let spot = place::spot(place)?;
    if spot.shows()?.is_some() || !spot.path.as_os_str().is_empty() {
        let cause = "a transaction is of a volume as it is now";
        let remedy = "name the volume; `razorfs branch create` forks anything else";
        return Err(Failure::with("use", place, cause, remedy));
    }
    let full = place::absolute(&spot.place)?;
    Ok(mountinfo::at(&full).map_or(full, |mount| mount.volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_no_failure_if_what_is_left_of_it_cannot_be_deleted() {
        let room = tempfile::tempdir().unwrap();
        let volume = room.path().canonicalize().unwrap().join("v.rzfs");
        let line = |words: &[&str], place: &str| {
            let mut line: Vec<OsString> = vec!["razorfs".into()];
            line.extend(words.iter().map(OsString::from));
            line.push(format!("{}{place}", volume.display()).into());
            assert_eq!(crate::run_line(&line), 0, "{words:?}");
        };
        line(&["create"], "");
        let begun = Transaction::begin(&volume, Some("up")).unwrap();
        line(&["mkdir"], "@transaction-up:/made");
        let refuse = |_: Left<'_>| Err(Failure::new("it cannot be deleted"));
        let answer = begun.commit_and(false, true, &refuse).unwrap();
        assert_eq!(answer["done"], true);
        assert!(answer["safety"].is_string(), "{answer}");
        line(&["ls"], ":/made");
        // It is there still, and nothing of it is left to commit.
        let found = Transaction::find("commit", &volume, Some("up")).unwrap();
        let answer = found.commit(false, true).unwrap();
        assert_eq!(
            (&answer["done"], &answer["safety"]),
            (&false.into(), &Value::Null)
        );
        assert!(Transaction::find("commit", &volume, Some("up")).is_err());
    }
}
