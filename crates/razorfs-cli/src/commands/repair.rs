//! `razorfs repair`: puts a damaged volume back into a state that is whole.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use razorfs::{Ino, Time};
use razorfs_disk::os::OsDisk;
use razorfs_disk::{Disk, Guard, LockMode};
use razorfs_verify::{
    Loss, Older, Outcome, Progress as Step, RepairError, RepairOptions, Severity, Shown,
};
use serde_json::{Value, json};

use crate::clock::{local, rfc3339};
use crate::commands::{print_json, print_text};
use crate::failure::{DAMAGE, Failure, Result, shown};
use crate::mountinfo::Mount;
use crate::place::{self, Place};
use crate::progress::{Progress, Unit};
use crate::signals;

/// Puts a damaged volume back into a state that is whole
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Without --commit nothing is changed: it is told what was found, what would be \
lost, file by file, and what would be put right. With --commit that is done. The volume must not \
be mounted.

The newest state of which the least is damaged is taken, with the journal over it. What passes its \
checksums and agrees with the rest stays where it is; files whose names are lost get new ones in \
/lost+found; data that are lost read as zeros. The state before is moved to `quarantine` in the \
volume, but for the data: remove it when you are sure that nothing is missing. A crash at any \
moment leaves either the old state or the repaired one.

Snapshots are kept, and what is lost of one is told as for the present. Where the list of the \
volume's files is lost they are lost with it: each is named first, and what can be read of it can \
be copied before, with `razorfs export VOLUME@NAME FILE`.

Where data or the record of a file are lost, and a snapshot shows the file whole, or another one \
that had its name, that version is put beside, as /lost+found/#INODE@SNAPSHOT, unless it is what \
the file shows all the same. The snapshot and its time are told. Nothing is put in the place of a \
file, and the snapshot stays.

What a branch has becomes a snapshot of the branch's name, of which `razorfs clone --branch` makes \
a branch again.

Where a batch of the journal is damaged, those behind it are left out: they build on what is \
missing. --after-gap applies them all the same.

Exit code 0: nothing to repair, or repaired (also where something was lost, which is told); \
4: damage was found and, without --commit, left as it is, or some of it could not be repaired.

--json prints one object: schema (1), needed, healed (groups of shards, by parity), committed (the \
generation, or null), lossless, source {generation, fallback, listed, superblock_lost}, gap (null, \
or batch, batches, operations, first_ns, last_ns, applied), findings (as those of verify), losses \
(array of what, inode, path, from, to, meaning), more_losses, older (array of inode, path, \
inode_then, snapshot, taken (RFC 3339), shown_by (an inode), shown_at (its path)), snapshots \
(array of name, taken, kept, losses, more_losses, fixed), lost_snapshots and branches (arrays of \
names), fixed (object of counts), inodes, bytes, quarantined (array), clean (what a check found \
afterwards, or null).

Examples:
  razorfs repair demo.rzfs
  razorfs repair demo.rzfs --commit
  razorfs repair demo.rzfs --json | jq .losses"
)]
pub struct Args {
    /// A volume that is not mounted
    volume: PathBuf,
    /// Does it
    #[arg(long)]
    commit: bool,
    /// Also applies the batches of the journal behind a damaged one
    #[arg(long)]
    after_gap: bool,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
    /// Shows no progress, and nothing if there is nothing to repair
    #[arg(short, long)]
    quiet: bool,
}

/// What came of it.
pub struct Repaired {
    /// What was found and done.
    pub outcome: Outcome,
    /// Whether the volume is clean now; `None` where nothing was written.
    pub clean: Option<bool>,
    /// Whether what had to be written was.
    written: bool,
}

impl Repaired {
    /// Whether no damage is left.
    pub fn is_whole(&self) -> bool {
        let healed = self.outcome.healed == 0 || self.written;
        healed && !self.outcome.needed || self.clean == Some(true)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let repaired = repair(&args.volume, args.commit, args.after_gap, args.quiet)?;
    if args.json {
        print_json(&document(&repaired))?;
    } else {
        print_text(&text(&repaired, &args.volume, args.quiet))?;
    }
    Ok(if repaired.is_whole() { 0 } else { DAMAGE })
}

/// Repairs for fsck(8), and prints what came of it.
pub fn print(volume: &Path, commit: bool) -> Result<Repaired> {
    let repaired = repair(volume, commit, false, true)?;
    print_text(&text(&repaired, volume, true))?;
    Ok(repaired)
}

/// Repairs a volume that is not mounted.
pub fn repair(path: &Path, commit: bool, after_gap: bool, quiet: bool) -> Result<Repaired> {
    let volume = closed("repair", path)?;
    let disk = OsDisk::new(&volume);
    let guard = lock(&volume, &disk, commit)?;
    signals::note_interrupts()?;
    let meta = std::fs::metadata(&volume).map_err(|e| Failure::host("repair", &volume, &e))?;
    let options = RepairOptions {
        commit,
        after_gap,
        owner: (meta.uid(), meta.gid()),
        ..RepairOptions::default()
    };
    let mut progress = Progress::new("repair", Unit::Items, quiet);
    let mut show = |at: Step| {
        progress.set_total(at.total);
        progress.set(at.done);
        !signals::interrupted()
    };
    let outcome = razorfs_verify::repair(&disk, &*crate::env(), &options, &mut show);
    let outcome = outcome.map_err(|e| match e {
        RepairError::Disk(e) => Failure::engine("repair", &volume, &e.into()),
        e => Failure::at("repair", &volume, e),
    })?;
    let clean = match outcome.committed {
        Some(_) => {
            // Data were read before and have not been written since; what snapshots show of them is
            // looked at by the highest level alone.
            let level = match outcome.snapshots.iter().any(|s| s.kept) {
                true => razorfs_verify::LEVEL_MAX,
                false => 2,
            };
            let report = razorfs_verify::verify(&disk, level, &mut |_| ());
            let report = report.map_err(|e| Failure::engine("verify", &volume, &e.into()))?;
            Some(report.is_sound())
        }
        None => None,
    };
    progress.clear();
    drop(guard);
    Ok(Repaired {
        outcome,
        clean,
        written: commit,
    })
}

/// The volume, if it is not mounted. One that is damaged may not look like one any more.
pub fn closed(what: &str, path: &Path) -> Result<PathBuf> {
    match Place::find(path) {
        Ok(Place::Closed(volume)) => Ok(volume),
        Ok(Place::Live(live)) => {
            let (cause, remedy) = match live.mounts.last() {
                Some(Mount { dir, .. }) => (
                    format!("it is mounted at {}", shown(dir)),
                    format!("`razorfs umount {}` first", shown(&live.volume)),
                ),
                None => (
                    "it is mounted where this process cannot see it".to_owned(),
                    "unmount it there first".to_owned(),
                ),
            };
            Err(Failure::with(what, &live.volume, cause, remedy))
        }
        Err(failure) => {
            let full = place::absolute(path)?;
            if place::is_part(&full) {
                return Ok(full);
            }
            Err(failure)
        }
    }
}

/// The lock. Its file is made again if it is missing, but not by a dry run.
pub fn lock(volume: &Path, disk: &OsDisk, commit: bool) -> Result<Option<Box<dyn Guard>>> {
    let mode = match commit {
        true => LockMode::Exclusive,
        false => LockMode::Shared,
    };
    match disk.lock(mode) {
        Err(e) if e.is_not_found() && !commit => return Ok(None),
        Err(e) if e.is_not_found() => {
            let made = disk.create_dirs();
            made.map_err(|e| Failure::engine("repair", volume, &e.into()))?;
        }
        Ok(guard) => return Ok(Some(guard)),
        // It may be held by a process that is ending.
        Err(_) => {}
    }
    place::lock_as(volume, disk, mode).map(Some)
}

fn document(repaired: &Repaired) -> Value {
    let out = &repaired.outcome;
    let lost = out.snapshots.iter().filter(|s| !s.kept);
    let lost: Vec<&str> = lost.map(|s| &*s.name).collect();
    let gap = out.gap.as_ref().map(|gap| {
        json!({
            "batch": gap.batch.0,
            "batches": gap.batches,
            "operations": gap.operations,
            "first_ns": gap.written.map(|w| w.0),
            "last_ns": gap.written.map(|w| w.1),
            "applied": gap.applied,
        })
    });
    json!({
        "schema": 1,
        "needed": out.needed,
        "healed": out.healed,
        "committed": out.committed.map(|g| g.0),
        "lossless": out.is_lossless(),
        "source": {
            "generation": out.source.0,
            "fallback": out.fallback,
            "listed": out.listed,
            "superblock_lost": out.rekeyed,
        },
        "gap": gap,
        "findings": crate::check::findings(&out.findings),
        "losses": losses(&out.losses),
        "more_losses": out.more_losses,
        "older": older(&out.olders),
        "snapshots": snapshots(&out.snapshots),
        "lost_snapshots": lost,
        "branches": out.branches,
        "fixed": out.fixes,
        "inodes": out.inodes,
        "bytes": u64::try_from(out.bytes).unwrap_or(u64::MAX),
        "quarantined": out.set_aside,
        "clean": repaired.clean,
    })
}

/// What is lost, as `--json` tells it.
pub fn losses(losses: &[Loss]) -> Vec<Value> {
    let document = |loss: &Loss| {
        json!({
            "what": loss.what.word(),
            "inode": loss.ino.0,
            "path": loss.path,
            "from": loss.range.as_ref().map(|r| r.start),
            "to": loss.range.as_ref().map(|r| r.end),
            "meaning": loss.what.meaning(),
        })
    };
    losses.iter().map(document).collect()
}

fn older(olders: &[Older]) -> Vec<Value> {
    let document = |older: &Older| {
        json!({
            "inode": older.ino.0,
            "path": older.path,
            "inode_then": older.of.0,
            "snapshot": older.snapshot,
            "taken": taken(older.time),
            "shown_by": older.shown_by.0,
            "shown_at": older.shown_at,
        })
    };
    olders.iter().map(document).collect()
}

fn snapshots(snapshots: &[Shown]) -> Vec<Value> {
    let document = |shown: &Shown| {
        json!({
            "name": shown.name,
            "taken": taken(shown.time),
            "kept": shown.kept,
            "losses": losses(&shown.losses),
            "more_losses": shown.more_losses,
            "fixed": shown.fixes,
        })
    };
    snapshots.iter().map(document).collect()
}

/// When a snapshot was taken.
fn taken(time: u64) -> String {
    rfc3339(Time::from_unix_nanos(time))
}

/// The document for people.
fn text(repaired: &Repaired, volume: &Path, quiet: bool) -> String {
    let out = &repaired.outcome;
    let healed = match out.healed {
        0 => String::new(),
        n => format!("parity makes up for the damage to {n} groups of shards\n"),
    };
    if !out.needed {
        return match (out.healed, repaired.written) {
            (0, _) if quiet => String::new(),
            (0, _) => "nothing to repair\n".into(),
            (_, true) => format!("{healed}it was healed, and there is nothing else to repair\n"),
            (_, false) => format!(
                "{healed}nothing was changed, and nothing would be lost: `razorfs repair --commit \
                 {}` heals it\n",
                shown(volume)
            ),
        };
    }
    let mut text = healed;
    let damage = out.findings.findings.iter();
    for finding in damage.filter(|f| f.severity >= Severity::Warning) {
        text.push_str(&format!("found: {finding}\n"));
    }
    text.push_str(&origin(out));
    for shown in out.snapshots.iter().filter(|s| !s.kept) {
        text.push_str(&lost_snapshot(&shown.name, volume, repaired.written));
    }
    for loss in &out.losses {
        text.push_str(&format!("lost: {loss}\n"));
    }
    if out.more_losses > 0 {
        text.push_str(&format!("lost: {} more\n", out.more_losses));
    }
    for older in &out.olders {
        text.push_str(&beside(older));
    }
    text.push_str(&kept(&out.snapshots));
    for name in &out.branches {
        text.push_str(&format!("branch: {name} becomes a snapshot of that name\n"));
    }
    for (what, times) in &out.fixes {
        text.push_str(&format!("put right: {times} {what}\n"));
    }
    let files = format!("{} inodes, {} bytes", out.inodes, out.bytes);
    text.push_str(&match (out.committed, repaired.clean) {
        (None, _) => {
            let shown = shown(volume);
            let loss = match out.is_lossless() {
                true => "nothing would be lost",
                false => "what would be lost is told above",
            };
            format!(
                "nothing was changed; {loss}, {files} would be there: \
                 `razorfs repair --commit {shown}` does it\n"
            )
        }
        (Some(generation), Some(true)) => format!(
            "repaired as generation {generation}: {files}; {} files of the state before are in \
             quarantine\n",
            out.set_aside.len()
        ),
        (Some(generation), _) => format!(
            "written as generation {generation}, but not all damage is gone: run `razorfs verify` \
             and report it\n"
        ),
    });
    text
}

/// What a snapshot shows of a file of which something is lost.
fn beside(older: &Older) -> String {
    let name = |path: &Option<String>, ino: Ino| match path {
        Some(path) => format!("{path} (inode {ino})"),
        None => format!("inode {ino}"),
    };
    format!(
        "put beside: {}: {} as the snapshot {} of {} shows it\n",
        name(&older.shown_at, older.shown_by),
        name(&older.path, older.ino),
        older.snapshot.escape_debug(),
        local(Time::from_unix_nanos(older.time).secs)
    )
}

/// The snapshots that are kept, and what is lost of them; what several have lost, once.
fn kept(snapshots: &[Shown]) -> String {
    let mut text = String::new();
    let mut lost: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for shown in snapshots.iter().filter(|s| s.kept) {
        for loss in &shown.losses {
            lost.entry(loss.to_string()).or_default().push(&shown.name);
        }
        let name = shown.name.escape_debug();
        let more = match shown.losses.len() as u64 + shown.more_losses {
            0 => "as it is".to_owned(),
            1 => "but for one loss".to_owned(),
            n => format!("but for {n} losses"),
        };
        text.push_str(&format!("kept: the snapshot {name}, {more}\n"));
    }
    for (loss, names) in lost {
        let names: Vec<String> = names.iter().map(|n| n.escape_debug().to_string()).collect();
        let names = names.join(", ");
        text.push_str(&format!("lost in snapshots: {loss} (in {names})\n"));
    }
    text
}

/// One that is not kept can be copied until that is done.
fn lost_snapshot(name: &str, volume: &Path, written: bool) -> String {
    let lost = format!("lost: the snapshot {}", name.escape_debug());
    match written {
        true => format!("{lost}\n"),
        false => format!(
            "{lost}; `razorfs export {}@{} FILE` copies what can be read of it, before\n",
            shown(volume),
            name.escape_debug()
        ),
    }
}

fn origin(out: &Outcome) -> String {
    let mut text = String::new();
    if out.rekeyed {
        text.push_str(
            "lost: the superblock; limit, compression and sizes become those of a new volume\n",
        );
    }
    if out.listed {
        text.push_str(
            "lost: the list of the volume's files; all metadata that is there is taken, so what \
             was removed lately may be back\n",
        );
    }
    if out.fallback {
        text.push_str(&format!(
            "taken: generation {}, the newest one that can be read, and the journal since\n",
            out.source
        ));
    }
    if let Some(gap) = &out.gap {
        let n = gap.batches;
        let rest = match (gap.written, gap.applied) {
            (None, _) => "nothing stands behind it".to_owned(),
            (Some((first, last)), 0) => format!(
                "{n} batches behind it with {} operations of {} s are left out; \
                 --after-gap applies them",
                gap.operations,
                last.saturating_sub(first) / 1_000_000_000
            ),
            (Some(_), applied) => {
                format!("{applied} of {n} batches behind it are applied all the same")
            }
        };
        text.push_str(&format!(
            "lost: what was done from batch {} of the journal on; {rest}\n",
            gap.batch
        ));
    }
    text
}
