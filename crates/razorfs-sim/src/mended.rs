//! Which of the rare branches of a repair were taken, told by what it says that it has done: what
//! it took the volume from, what it lost, what it put right and beside.

use razorfs_verify::{Lose, Outcome};

use crate::marks::Marks;

/// Every kind of loss.
const LOSSES: [Lose; 10] = [
    Lose::Data,
    Lose::Unsure,
    Lose::Inode,
    Lose::Old,
    Lose::Name,
    Lose::Link,
    Lose::OldName,
    Lose::Names,
    Lose::Entry,
    Lose::Attributes,
];

/// What else must have happened in a run. What takes bytes that are damaged and have right
/// checksums, or the loss of all manifests, is left to the tests of the repair, which plant each.
const OTHERS: [&str; 10] = [
    FALLBACK,
    REKEYED,
    GAP,
    HEALED,
    BESIDE,
    SET_ASIDE,
    SNAPSHOT_HARMED,
    "repair: put right: attributes of nothing",
    "repair: put right: link counts",
    "repair: put right: entry counts",
];

const FALLBACK: &str = "repair: from an older generation";
const LISTED: &str = "repair: from all segments that are there";
const REKEYED: &str = "repair: without a superblock";
const GAP: &str = "repair: up to a damaged batch";
const HEALED: &str = "repair: parity healed";
const BESIDE: &str = "repair: an older version was put beside";
const SET_ASIDE: &str = "repair: files were set aside";
const SNAPSHOT_LOST: &str = "repair: a snapshot was lost";
const SNAPSHOT_HARMED: &str = "repair: a snapshot lost something";

/// The mark of a loss.
fn lost(what: Lose) -> String {
    format!("repair: lost: {}", what.word())
}

/// Counts what a repair did.
pub fn note(outcome: &Outcome, marks: &mut Marks) {
    let harmed = |s: &razorfs_verify::Shown| s.kept && !s.losses.is_empty();
    let happened = [
        (FALLBACK, outcome.fallback),
        (LISTED, outcome.listed),
        (REKEYED, outcome.rekeyed),
        (GAP, outcome.gap.is_some()),
        (HEALED, outcome.healed > 0),
        (BESIDE, !outcome.olders.is_empty()),
        (SET_ASIDE, !outcome.set_aside.is_empty()),
        (SNAPSHOT_LOST, outcome.snapshots.iter().any(|s| !s.kept)),
        (SNAPSHOT_HARMED, outcome.snapshots.iter().any(harmed)),
    ];
    for (mark, _) in happened.iter().filter(|(_, happened)| *happened) {
        marks.hit(mark);
    }
    let past = outcome.snapshots.iter().flat_map(|s| &s.losses);
    for loss in outcome.losses.iter().chain(past) {
        marks.hit(&lost(loss.what));
    }
    for (what, times) in &outcome.fixes {
        marks.add(&format!("repair: put right: {what}"), *times);
    }
}

/// What should have happened and has not.
#[must_use]
pub fn missing(marks: &Marks) -> Vec<String> {
    let losses = LOSSES.into_iter().map(lost);
    let all = losses.chain(OTHERS.into_iter().map(str::to_owned));
    all.filter(|mark| marks.count(mark) == 0).collect()
}
