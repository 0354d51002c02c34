//! `razorfs commit --to`: what was changed in a branch, done in a directory of the host.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::branches::Branches;
use crate::commands::{branch, diff, info, snapshot};
use crate::diff::Ends;
use crate::failure::{Failure, Result};
use crate::onto::{Clash, Parts, Sides, Stop, Work, check};
use crate::place::{Opened, Spot};
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::socket::Points;
use crate::tree::{HostTree, keep_apart};

mod passing;

use passing::Passing;

/// What is to be committed.
pub struct Asked<'a> {
    /// The place.
    pub place: &'a Path,
    /// Which branch.
    pub branch: &'a str,
    /// The snapshot since which it counts; else since it was made.
    pub since: Option<&'a str>,
    /// The directory becomes what the branch is.
    pub take: bool,
    /// Without a progress bar.
    pub quiet: bool,
}

/// What came of it.
pub struct Done {
    /// How many paths differ.
    pub changes: usize,
    /// If there are any, nothing was done.
    pub clashes: BTreeSet<Clash>,
    /// The one that came while it was done, and ended it there.
    pub stopped: Option<Clash>,
}

/// Commits to a directory.
pub fn commit(asked: &Asked<'_>, dir: &Path) -> Result<Done> {
    signals::note_interrupts()?;
    let host = HostTree::without_links(dir)?;
    let _alone = alone(dir)?;
    // Both states stay as they are meanwhile, whoever works in the branch.
    passing::sweep(asked.place)?;
    let names = Passing::new()?;
    let (before, after) = (names.name("from"), names.name("to"));
    let of = |name: &str| Spot {
        place: asked.place.to_path_buf(),
        snapshot: Some(name.to_owned()),
        path: "".into(),
    };
    let delete = |name: &str| snapshot::do_at(asked.place, &Points::Delete(name.to_owned()));
    let from = match asked.since {
        Some(since) => since,
        None => {
            let what = Branches::Origin {
                name: asked.branch.to_owned(),
                snapshot: before.clone(),
            };
            branch::do_at(asked.place, &what)?;
            &before
        }
    };
    let taken = snapshot::do_at(
        &of(asked.branch).named(),
        &Points::Create(Some(after.clone())),
    );
    let outcome = match &taken {
        Ok(_) => between(asked, &of(from), &of(&after), dir, &host),
        Err(failure) => Err(failure.clone()),
    };
    let mut gone = Ok(serde_json::Value::Null);
    if taken.is_ok() {
        gone = gone.and(delete(&after));
    }
    if asked.since.is_none() {
        gone = gone.and(delete(&before));
    }
    let done = outcome?;
    gone.map(|_| done)
}

/// Nobody else commits to the directory as long as this is there.
fn alone(dir: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Failure::host("use", dir, &e);
    let file = File::open(dir).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let cause = "another command commits to it";
            let remedy = "try again when that has ended";
            Err(Failure::with("commit to", dir, cause, remedy))
        }
        Err(e) => Err(failed(e.into())),
    }
}

/// Does what differs between two states.
fn between(asked: &Asked<'_>, from: &Spot, to: &Spot, dir: &Path, host: &HostTree) -> Result<Done> {
    let ends = Ends {
        from: from.snapshot.clone(),
        to: to.snapshot.clone(),
    };
    let changes = diff::find(asked.place, &ends)?;
    let document = info::of(asked.place)?;
    let uuid = document.get("uuid").and_then(serde_json::Value::as_str);
    let parts = Parts::of(uuid.ok_or_else(|| {
        let (cause, remedy) = ("its daemon does not tell which one it is", "mount it again");
        Failure::with("use", asked.place, cause, remedy)
    })?);
    let before = Opened::open(from, false)?;
    let after = match before.at(to, false) {
        Some(after) => after,
        None => Opened::open(to, false),
    };
    let outcome = after.and_then(|after| {
        let root = Path::new("");
        keep_apart(after.tree(), root, &HostTree::new(dir), root)?;
        let sides = Sides {
            before: before.tree(),
            after: after.tree(),
        };
        let plan = sides.plan(&changes)?;
        parts.sweep(&plan, host)?;
        let (mut clashes, seen) = check(&sides, &plan, host)?;
        clashes.retain(|clash| clash.stays || !asked.take);
        let mut stopped = None;
        if clashes.is_empty() {
            let mut progress = Progress::new("commit", Unit::Bytes, asked.quiet);
            let mut work = Work {
                sides: &sides,
                plan: &plan,
                host,
                seen,
                parts: &parts,
                progress: &mut progress,
                links: HashMap::new(),
                dressed: HashMap::new(),
                unsynced: BTreeSet::new(),
            };
            match work.run() {
                Ok(()) => {}
                Err(Stop::Clash(clash)) => stopped = Some(clash),
                Err(Stop::Failed(failure)) => return Err(failure),
            }
            progress.finish();
        }
        Ok(Done {
            changes: plan.len(),
            clashes,
            stopped,
        })
    });
    before.close()?;
    outcome
}
