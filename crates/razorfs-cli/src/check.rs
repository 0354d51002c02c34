//! Looking for damage, for `razorfs verify`: the checker reads the files of the volume by the
//! format alone, never through the engine that wrote them.

use std::path::Path;

use razorfs::Volume;
use razorfs_disk::Disk;
use razorfs_disk::os::OsDisk;
use razorfs_verify::{Hit, Progress, Report};
use serde_json::{Value, json};

use crate::commands::repair::losses;
use crate::failure::{Failure, Result, shown_bytes};
use crate::place;

/// Sees `{"done": n, "total": n, "phase": "…"}`; an error stops the check.
pub type Step<'a> = &'a mut dyn FnMut(&Value) -> Result<()>;

/// Checks a volume at a level from 0 to 4 and answers with the document of `verify --json`.
/// `live` is the volume where the process that checks is the one that has it open: it is held
/// still meanwhile, with everything that was done before on the disk.
pub fn run(path: &Path, level: u8, live: Option<&Volume>, step: Step<'_>) -> Result<Value> {
    let (report, hit) = match live {
        Some(volume) => {
            let held = volume.hold_still(|disk| check(disk, path, level, step));
            held.map_err(|e| Failure::engine("verify", path, &e))??
        }
        None => {
            let disk = OsDisk::new(path);
            let guard = place::lock(path, &disk)?;
            let report = check(&disk, path, level, step);
            drop(guard);
            report?
        }
    };
    Ok(document(&report, hit.as_ref()))
}

/// What was found, and which files are hit by it.
type Found = (Report, Option<Hit>);

fn check(disk: &dyn Disk, path: &Path, level: u8, step: Step<'_>) -> Result<Found> {
    let mut stopped = None;
    let mut show = |at: Progress| {
        if stopped.is_none() {
            let seen = json!({"phase": at.phase, "done": at.done, "total": at.total});
            stopped = step(&seen).err();
        }
    };
    let report = razorfs_verify::verify(disk, level, &mut show);
    let found = report.and_then(|report| {
        let hit = razorfs_verify::files_hit(disk, &report, &mut show)?;
        Ok((report, hit))
    });
    if let Some(failure) = stopped {
        return Err(failure);
    }
    found.map_err(|e| Failure::engine("verify", path, &e.into()))
}

/// Which files are hit, as `--json` tells it.
fn files(hit: &Hit) -> Value {
    let moments = hit.moments.iter().map(|moment| {
        let is_branch = hit.branches.contains(&moment.name);
        json!({
            "kind": if is_branch { "branch" } else { "snapshot" },
            "name": moment.name,
            "losses": losses(&moment.losses),
            "more_losses": moment.more_losses,
        })
    });
    json!({
        "losses": losses(&hit.losses),
        "more_losses": hit.more_losses,
        "moments": moments.collect::<Vec<_>>(),
        "untold": hit.untold,
    })
}

/// The files that are hit, for people.
pub fn lines(files: &Value) -> String {
    let mut text = String::new();
    let mut list = |place: &str, of: &Value| {
        let losses = of.get("losses").and_then(Value::as_array);
        for loss in losses.into_iter().flatten() {
            text.push_str(&format!("hit{place}: {}\n", line(loss)));
        }
        let more = of.get("more_losses").and_then(Value::as_u64);
        if let Some(more) = more.filter(|more| *more > 0) {
            text.push_str(&format!("hit{place}: and {more} more\n"));
        }
    };
    list("", files);
    let moments = files.get("moments").and_then(Value::as_array);
    for moment in moments.into_iter().flatten() {
        let word = |key| moment.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = shown_bytes(word("name").as_bytes());
        list(&format!(" in the {} {name}", word("kind")), moment);
    }
    if let Some(why) = files.get("untold").and_then(Value::as_str) {
        text.push_str(&format!("which files are hit cannot be told: {why}\n"));
    } else if text.is_empty() {
        text.push_str("no file is hit beyond what a repair brings back, as far as was looked\n");
    }
    text
}

/// One loss: which file, which bytes of it, and what it means.
fn line(loss: &Value) -> String {
    let number = |key| loss.get(key).and_then(Value::as_u64);
    let ino = number("inode").unwrap_or_default();
    let mut text = match loss.get("path").and_then(Value::as_str) {
        Some(path) => format!("{} (inode {ino})", shown_bytes(path.as_bytes())),
        None => format!("inode {ino}"),
    };
    if let (Some(from), Some(to)) = (number("from"), number("to")) {
        text.push_str(&format!(": bytes {from} to {to}"));
    }
    let meaning = loss.get("meaning").and_then(Value::as_str);
    format!("{text}: {}", meaning.unwrap_or_default())
}

/// The findings of a check, as `--json` tells them.
pub fn findings(report: &Report) -> Vec<Value> {
    let findings = report.findings.iter();
    findings
        .map(|finding| {
            json!({
                "number": finding.number,
                "severity": finding.severity.to_string(),
                "object": finding.object,
                "meaning": finding.meaning,
                "remedy": finding.remedy,
                "detail": finding.detail,
            })
        })
        .collect()
}

fn document(report: &Report, hit: Option<&Hit>) -> Value {
    let checked = &report.checked;
    json!({
        "schema": 1,
        "level": report.level,
        "clean": report.is_sound(),
        "findings": findings(report),
        "files": hit.map(files),
        "checked": {
            "superblock_slots": checked.superblock_slots,
            "manifests": checked.manifests,
            "journal_sectors": checked.journal_sectors,
            "batches": checked.batches,
            "segments": checked.segments,
            "blocks": checked.blocks,
            "records": checked.records,
            "inodes": checked.inodes,
            "dirents": checked.dirents,
            "extents": checked.extents,
            "packs": checked.packs,
            "frames": checked.frames,
            "bytes": checked.bytes,
        },
    })
}
