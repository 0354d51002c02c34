//! Looking for damage, for `razorfs verify`: the checker reads the files of the volume by the
//! format alone, never through the engine that wrote them.

use std::path::Path;

use razorfs::Volume;
use razorfs_disk::Disk;
use razorfs_disk::os::OsDisk;
use razorfs_verify::{Progress, Report};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::place;

/// Sees `{"done": n, "total": n, "phase": "…"}`; an error stops the check.
pub type Step<'a> = &'a mut dyn FnMut(&Value) -> Result<()>;

/// Checks a volume at a level from 0 to 4 and answers with the document of `verify --json`.
/// `live` is the volume where the process that checks is the one that has it open: it is held
/// still meanwhile, with everything that was done before on the disk.
pub fn run(path: &Path, level: u8, live: Option<&Volume>, step: Step<'_>) -> Result<Value> {
    let report = match live {
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
    Ok(document(&report))
}

fn check(disk: &dyn Disk, path: &Path, level: u8, step: Step<'_>) -> Result<Report> {
    let mut stopped = None;
    let report = razorfs_verify::verify(disk, level, &mut |at: Progress| {
        if stopped.is_none() {
            let seen = json!({"phase": at.phase, "done": at.done, "total": at.total});
            stopped = step(&seen).err();
        }
    });
    if let Some(failure) = stopped {
        return Err(failure);
    }
    report.map_err(|e| Failure::engine("verify", path, &e.into()))
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

fn document(report: &Report) -> Value {
    let checked = &report.checked;
    json!({
        "schema": 1,
        "level": report.level,
        "clean": report.is_sound(),
        "findings": findings(report),
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
