//! The simulator finds what is planted, and nothing where nothing is.

use crate::run::{Mode, Report, Size, replay, run_seed};
use crate::shrink::shrink;
use crate::toy::{Bug, ToyMachine};

const SIZE: Size = Size { ops: 40, rounds: 5 };

fn run(bug: Bug, seed: u64) -> Report {
    run_seed(ToyMachine::new(bug), seed, Mode::Cuts, SIZE)
}

#[test]
fn a_correct_file_system_passes() {
    crate::panics::keep_quiet();
    let mut cuts = 0;
    let mut marks = crate::marks::Marks::default();
    for seed in 0..200 {
        let report = run(Bug::None, seed);
        if let Some(failure) = report.failure {
            panic!("seed {seed}, operation {}: {}", failure.at, failure.what);
        }
        cuts += report.cuts;
        marks.merge(&report.marks);
    }
    assert!(cuts >= 1000, "{cuts}");
    for mark in [
        "cut: everything survived",
        "cut: something between survived",
        "cut: only what was acknowledged survived",
        "power went during a change",
        "power went again during recovery",
        "clean close",
    ] {
        assert!(marks.count(mark) > 0, "{mark} never happened:\n{marks}");
    }
}

#[test]
fn every_planted_bug_is_found_shrunk_and_replayed() {
    crate::panics::keep_quiet();
    for (bug, said) in [
        (Bug::LyingSync, "acknowledged work is lost"),
        (Bug::NotAPrefix, "none of the"),
        (Bug::TornRename, "none of the"),
        (Bug::OldBytes, "bytes"),
        (Bug::LeakedOrphans, "inodes are in use"),
        (Bug::WrongError, "errno 17"),
        (Bug::ReusedInode, "was given before"),
        (Bug::FragileRecovery, "acknowledged work is lost"),
        (Bug::Panics, "panic: planted"),
        (Bug::BlindSeek, "is not zero"),
    ] {
        let found = (0..400).find_map(|seed| {
            let report = run(bug, seed);
            let failure = report.failure.clone()?;
            failure
                .what
                .contains(said)
                .then_some((seed, report, failure))
        });
        let Some((seed, report, failure)) = found else {
            panic!("{bug:?} was not found");
        };
        let shrunk = shrink(&report.ops, &failure, 2000, |ops| {
            replay(ToyMachine::new(bug), ops).failure
        });
        assert!(
            shrunk.ops.len() <= 16,
            "{bug:?} (seed {seed}) needs {} operations:\n{:#?}",
            shrunk.ops.len(),
            shrunk.ops
        );
        let again = replay(ToyMachine::new(bug), &shrunk.ops).failure;
        assert_eq!(again.map(|f| f.what), Some(shrunk.failure.what), "{bug:?}");
    }
}
