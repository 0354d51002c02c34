//! Which of the engine's rare branches a simulation must have taken.

use razorfs::marks::{Mark, count};

use crate::marks::Marks;
use crate::run::Mode;

/// What only a disk that fails, or is full, leads to.
const OF_FAULTS: [Mark; 14] = [
    Mark::CleanTakenBack,
    Mark::CleanAfterFlush,
    Mark::JournalRescued,
    Mark::JournalRescueFailed,
    Mark::JournalFileRetired,
    Mark::JournalGrowthFailed,
    Mark::CommitHeld,
    Mark::CommitHeldWritten,
    Mark::CheckpointTakenBack,
    Mark::CheckpointNotInstalled,
    Mark::CheckpointOfOlder,
    Mark::GarbageFailed,
    Mark::PackRescued,
    Mark::PackRewound,
];

/// What only disks that lie, lose and misplace lead to.
const OF_ROT: [Mark; 1] = [Mark::ReplayLost];

/// What only damage leads to.
const OF_DAMAGE: [Mark; 4] = [
    Mark::RecoveryGenerationLost,
    Mark::ReplayDamaged,
    Mark::ReplayHeaderDamaged,
    Mark::ParityRead,
];

/// What takes larger volumes than simulations make, or more luck; tests of the engine lead to it.
const OF_TESTS: [Mark; 15] = [
    // No seed goes back to moments by itself.
    Mark::MomentOfGone,
    // Three moves have to meet.
    Mark::MergeCircle,
    // What a pack has dead has to go before anybody asks for it.
    Mark::MomentOverwritten,
    // With two threads.
    Mark::ForkAwaited,
    // With a checkpoint that failed, and what a crash left of the memtable after it.
    Mark::ForkBeganAgain,
    Mark::CleanDamaged,
    Mark::CleanPackUnreadable,
    // A read heals in memory; what the disk has is healed by a step, of which damage has none.
    Mark::ParityHealed,
    Mark::ResumeHeld,
    Mark::CopyUnsteady,
    Mark::JournalSyncForced,
    Mark::EraseSteps,
    Mark::CompactionBuried,
    Mark::JournalTwinReplaced,
    Mark::RecoveryBallast,
];

/// What only commits of branches lead to.
const OF_MERGES: [Mark; 5] = [
    Mark::MergeTheirs,
    Mark::MergeDone,
    Mark::MergeClashes,
    Mark::MergeAgain,
    Mark::MergeLeftover,
];

/// What only the death of a process leads to that leaves memory for redo.
const OF_DEATHS: [Mark; 3] = [
    Mark::AdmitRedoFull,
    Mark::ResumeCheckpointed,
    Mark::ResumeBranch,
];

/// Whether simulations of this mode must take the branch; commits are among what they do if it is
/// said so.
#[must_use]
pub fn is_expected(mark: Mark, mode: Mode, merges: bool) -> bool {
    match mode {
        Mode::Cuts => {
            let others = [&OF_FAULTS[..], &OF_DAMAGE, &OF_ROT, &OF_TESTS, &OF_DEATHS];
            let is_other = others.iter().any(|list| list.contains(&mark));
            !is_other && (merges || !OF_MERGES.contains(&mark))
        }
        Mode::Deaths => OF_DEATHS.contains(&mark),
        Mode::Faults => OF_FAULTS.contains(&mark),
        Mode::Differential => false,
    }
}

/// The branches that this process should have taken by now and has not.
#[must_use]
pub fn missing(mode: Mode, merges: bool) -> Vec<Mark> {
    let all = Mark::ALL.iter().copied();
    all.filter(|mark| is_expected(*mark, mode, merges) && count(*mark) == 0)
        .collect()
}

/// The same for volumes that were damaged.
#[must_use]
pub fn missing_of_damage() -> Vec<Mark> {
    let all = OF_DAMAGE.into_iter();
    all.filter(|mark| count(*mark) == 0).collect()
}

/// The same for disks that lie.
#[must_use]
pub fn missing_of_rot() -> Vec<Mark> {
    let all = OF_ROT.into_iter().chain([Mark::RecoverySlotHealed]);
    all.filter(|mark| count(*mark) == 0).collect()
}

/// How often this process took each branch.
#[must_use]
pub fn taken() -> Marks {
    let mut marks = Marks::default();
    for mark in Mark::ALL {
        marks.add(mark.text(), count(*mark));
    }
    marks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Mark, OF_TESTS};

    /// All that stands in the tests of the engine.
    fn tests_below(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                tests_below(&path, text);
            } else if name.ends_with("tests.rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn what_is_left_to_tests_is_counted_by_one() {
        let mut text = String::new();
        let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("../razorfs/src");
        tests_below(&engine, &mut text);
        // No test is known to lead to this one.
        let known = |mark: &Mark| *mark != Mark::ForkBeganAgain;
        for mark in OF_TESTS.into_iter().filter(known) {
            let counted = format!("Mark::{mark:?})");
            let mut lines = text.lines().filter(|line| line.contains("assert"));
            let is_asserted = lines.any(|line| line.contains(&counted) && line.contains("count("));
            assert!(is_asserted, "no test asserts that it leads to {mark:?}");
        }
    }
}
