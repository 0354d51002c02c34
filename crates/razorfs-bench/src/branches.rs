//! What branches cost: many forks of one tree, work in them, and committing one.

use std::path::{Path, PathBuf};

use razorfs::{Committed, OnConflict, Options, Volume};

use crate::bulk;
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::report;
use crate::room::Room;
use crate::snapshots::{Times, lookups};
use crate::system;

/// Files that are changed in a branch before it is committed.
const CHANGES: u64 = 1000;

/// What is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files of the tree
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    files: u64,
    /// Branches that are made of it
    #[arg(long, value_name = "N", default_value_t = 100)]
    branches: usize,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
}

/// Runs it and prints what was seen.
pub fn run(args: &Args) -> Result<()> {
    let room = Room::make(&args.dir)?;
    let dir = room.path().join("branches");
    bulk::make(&dir, args.files)?;
    let volume = Volume::open(&dir, Options::default()).at("open", &dir)?;
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let head = lookups(&volume, args.files, &dir)?;
    let before = system::used(&dir)?;
    let watch = Stopwatch::start();
    let each = Times::of(args.branches, |i| {
        let made = volume.create_branch(name(i));
        made.map(drop).at("make a branch of", &dir)
    })?;
    let all = watch.seconds() * 1e3;
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let made = system::used(&dir)?.saturating_sub(before);
    let first = volume.branch(name(0)).at("open a branch of", &dir)?;
    let branch = lookups(&first, args.files, &dir)?;
    for i in 0..args.branches {
        let one = volume.branch(name(i)).at("open a branch of", &dir)?;
        change(&one, 1, args.files, &dir)?;
    }
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let worked = lookups(&volume, args.files, &dir)?;
    change(&first, CHANGES, args.files, &dir)?;
    let straight = commit(&volume, &first, &dir)?;
    let second = volume.branch(name(1)).at("open a branch of", &dir)?;
    // What is neither among the files of the tree nor changed in the other one.
    let root = second.root();
    for n in 0..CHANGES {
        root.write(format!("new-{n}"), n.to_le_bytes())
            .at("write to a branch of", &dir)?;
    }
    root.remove_file("changed").at("change a branch of", &dir)?;
    let merged = commit(&volume, &second, &dir)?;
    volume.close().at("close", &dir)?;
    let figures = [
        ("branches", args.branches as f64),
        ("making all of them, ms", all),
        ("making one, p50, ms", each.ms(50)),
        ("bytes of the host for all of them", made as f64),
        ("lookup in the volume without branches, us", head * 1e6),
        ("lookup in a branch, us", branch * 1e6),
        (
            "lookup in the volume, all branches written to, us",
            worked * 1e6,
        ),
        ("commit of 1000 changes, nothing changed here, ms", straight),
        ("commit of 1000 changes to what has changed, ms", merged),
    ];
    report::figures(args.files, &figures, args.json);
    Ok(())
}

fn name(i: usize) -> String {
    format!("branch-{i}")
}

/// Writes over some of the files.
fn change(volume: &Volume, changes: u64, files: u64, dir: &Path) -> Result<()> {
    let root = volume.root();
    for n in 0..changes.min(files) {
        let path = match changes {
            1 => PathBuf::from("changed"),
            _ => bulk::path(n * (files / changes.min(files))),
        };
        root.write(path, n.to_le_bytes()).at("write to", dir)?;
    }
    Ok(())
}

/// Milliseconds of a commit.
fn commit(volume: &Volume, branch: &Volume, dir: &Path) -> Result<f64> {
    let watch = Stopwatch::start();
    let done = volume.commit_branch(branch, OnConflict::Refuse);
    let took = watch.seconds() * 1e3;
    match done.at("commit a branch of", dir)? {
        Committed::Done(_) => Ok(took),
        other => Err(format!("the commit was not done: {other:?}")),
    }
}
