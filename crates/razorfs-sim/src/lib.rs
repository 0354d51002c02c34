//! Deterministic simulation of the whole engine: a reference file system ([`model`], [`posix`]),
//! seeded workloads that collide on few names ([`workload`]), a driver that compares every answer
//! ([`driver`]) and cuts the power at any call of the disk, faults, flipped bits, and a shrinker
//! that leaves the few operations that matter. One number replays a run.

use razorfs_verify::FindingKind;

pub mod attempts;
pub mod bits;
pub mod branches;
pub mod content;
pub mod coverage;
mod crash;
mod doubt;
pub mod driver;
pub mod dump;
pub mod engine;
pub mod farm;
pub mod flags;
pub mod flips;
mod going;
mod left;
mod lines;
mod logged;
pub mod looks;
pub mod marks;
pub mod mended;
mod merges;
mod merging;
mod mirror;
pub mod model;
mod moments;
pub mod names;
pub mod op;
pub mod outcomes;
pub mod panics;
pub mod perform;
mod plant;
pub mod points;
pub mod posix;
pub mod repairs;
pub mod rng;
pub mod rotten;
pub mod run;
pub mod setup;
pub mod short;
pub mod shrink;
#[cfg(test)]
mod sim_tests;
pub mod subject;
mod survey;
mod told;
mod touched;
#[cfg(test)]
mod toy;
pub mod transaction;
pub mod twins;
pub mod workload;

/// The checker that is run after each cut and each clean close.
pub const VERIFY: Option<engine::Verify> = Some(verify);

/// Warnings that nothing explains but a bug: what packs are needed for, what snapshots hold, and
/// how many files and bytes the volume, each branch and each snapshot have, is right in every
/// generation.
const UNEXPECTED: [FindingKind; 6] = [
    FindingKind::PackAccountHigh,
    FindingKind::PackTotal,
    FindingKind::SharedCountHigh,
    FindingKind::HeldMissing,
    FindingKind::CounterInodes,
    FindingKind::CounterBytes,
];

/// All levels, by the format alone; other notes and warnings are no damage.
fn verify(disk: &std::sync::Arc<dyn razorfs_disk::Disk>) -> Result<(), String> {
    let report = razorfs_verify::verify(disk.as_ref(), razorfs_verify::LEVEL_MAX, &mut |_| ())
        .map_err(|e| e.to_string())?;
    let unexpected = |f: &razorfs_verify::Finding| UNEXPECTED.contains(&f.kind);
    if report.is_sound() && !report.findings.iter().any(unexpected) {
        return Ok(());
    }
    Err(report.findings.iter().map(|f| format!("{f}\n")).collect())
}
