//! The simulator finds what is planted, and nothing where nothing is.

use razorfs::{FileKind, Ino, SetAttributes};

use crate::bits;
use crate::engine::{EngineMachine, Setup};
use crate::farm::{self, Plan};
use crate::flips::{self, Effort};
use crate::model::{Model, Node};
use crate::op::{At, Data, Fault, Op, Ref};
use crate::points::Which;
use crate::repairs;
use crate::run::{Mode, Report, Size, replay, run_seed};
use crate::setup::Choice;
use crate::shrink::shrink;
use crate::toy::{Bug, ToyMachine};

const SIZE: Size = Size { ops: 40, rounds: 5 };

fn run(bug: Bug, seed: u64) -> Report {
    run_seed(ToyMachine::new(bug), seed, Mode::Cuts, SIZE)
}

/// Two names of a directory that had changed places could look as before.
#[test]
fn an_exchange_of_names_is_another_state() {
    let tree = |entries: [(u8, u64); 2]| {
        let mut model = Model::default();
        for (_, ino) in entries {
            let mut node = Node::new(FileKind::Regular, 0o644);
            node.nlink = 1;
            model.insert(Ino(ino), node);
        }
        model.update(Ino::ROOT, |root| {
            root.entries = entries
                .map(|(name, ino)| (name.into(), Ino(ino)))
                .into_iter()
                .collect();
        });
        model.hash()
    };
    for at in [16, 20, 21, 1 << 20, 2_097_178] {
        for other in at + 1..at + 200 {
            for (a, b) in [(0, 1), (0, 3), (6, 7), (1, 200)] {
                let before = tree([(a, at), (b, other)]);
                assert_ne!(before, tree([(b, at), (a, other)]), "{a} {b} {at} {other}");
            }
        }
    }
}

#[test]
fn a_correct_file_system_passes() {
    let mut cuts = 0;
    let mut marks = crate::marks::Marks::default();
    for seed in 0..400 {
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
        "take",
        "delete",
        "rollback",
        "a rollback left what was open",
        "what a rollback left came back",
        "a look at a snapshot compared",
        "fork",
        "prune",
        "went to another branch",
        "commit done",
        "commit with conflicts",
        "commit of what was committed before",
    ] {
        assert!(marks.count(mark) > 0, "{mark} never happened:\n{marks}");
    }
}

#[test]
fn every_planted_bug_is_found_shrunk_and_replayed() {
    for (bug, said) in [
        (Bug::LyingSync, "acknowledged work is lost"),
        (Bug::NotAPrefix, "none of the"),
        (Bug::TornRename, "none of the"),
        (Bug::OldBytes, "bytes"),
        (Bug::LeakedOrphans, "inodes are in use"),
        (Bug::WrongError, "errno 17"),
        (Bug::ReusedInode, "was given before"),
        (Bug::ForgottenNumbers, "was given before"),
        (Bug::FragileRecovery, "acknowledged work is lost"),
        (Bug::Panics, "panic: planted"),
        (Bug::BlindSeek, "is not zero"),
        (Bug::FleetingSnapshot, "acknowledged work is lost"),
        (Bug::UndeadSnapshot, "acknowledged work is lost"),
        (Bug::BlindSnapshot, "snapshot s"),
        (Bug::ForgetfulRollback, "snapshots ["),
        (Bug::RollbackReusesInode, "was given before"),
        (Bug::FleetingBranch, "acknowledged work is lost"),
        (Bug::UndeadBranch, "acknowledged work is lost"),
        (Bug::LooseBranches, "none of the"),
        (Bug::LeakyBranch, "another state than the model"),
        (Bug::FleetingMerge, "acknowledged work is lost"),
        (Bug::BlindMerge, "succeeded"),
    ] {
        let found = (0..400).filter_map(|seed| {
            let report = run(bug, seed);
            let failure = report.failure.clone()?;
            failure.what.contains(said).then_some((report, failure))
        });
        // Some runs come down to few operations only in more tries than anybody waits for.
        let mut lengths = Vec::new();
        let shrunk = found.take(3).find_map(|(report, failure)| {
            let shrunk = shrink(&report.ops, &failure, 2000, |ops| {
                replay(ToyMachine::new(bug), ops).failure
            });
            lengths.push(shrunk.ops.len());
            (shrunk.ops.len() <= 24).then_some(shrunk)
        });
        let Some(shrunk) = shrunk else {
            panic!("{bug:?} is found in runs that shrink to {lengths:?} operations");
        };
        let again = replay(ToyMachine::new(bug), &shrunk.ops).failure;
        assert_eq!(again.map(|f| f.what), Some(shrunk.failure.what), "{bug:?}");
    }
}

fn plan(mode: Mode, runs: u64) -> Plan {
    Plan {
        mode,
        size: Size { ops: 30, rounds: 5 },
        first_seed: 0,
        runs,
        cuts: u64::MAX,
        jobs: 2,
        most_failures: 1,
        shrink_budget: 1000,
        choice: Choice::default(),
        verify: crate::VERIFY,
    }
}

fn passes(mode: Mode, runs: u64) -> farm::Summary {
    let summary = farm::run(&plan(mode, runs), |_| true);
    if let Some(finding) = summary.findings.first() {
        panic!("{finding}");
    }
    summary
}

#[test]
fn the_engine_answers_as_the_reference_does() {
    let summary = passes(Mode::Differential, 60);
    assert!(summary.ops > 5000);
    for mark in [
        "transaction",
        "transaction refused",
        "change forbidden by a flag",
        "change refused by the limit",
    ] {
        let marks = &summary.marks;
        assert!(marks.count(mark) > 0, "{mark} never happened:\n{marks}");
    }
}

#[test]
fn the_engine_survives_power_cuts() {
    let summary = passes(Mode::Cuts, 100);
    assert!(summary.cuts >= 500);
    for mark in [
        "cut: everything survived",
        "cut: something between survived",
        "cut: only what was acknowledged survived",
        "power went during a change",
        "power went again during recovery",
        "step Checkpoint did something",
        "step Compact did something",
        "step Grow did something",
        "step Reap did something",
    ] {
        let marks = &summary.marks;
        assert!(marks.count(mark) > 0, "{mark} never happened:\n{marks}");
    }
}

#[test]
fn the_engine_survives_a_cut_at_every_call_of_a_run() {
    let mut plan = plan(Mode::Cuts, 1);
    plan.size = Size { ops: 25, rounds: 2 };
    for seed in 0..2 {
        let summary = farm::exhaustive(&plan, seed, |_| ());
        if let Some(finding) = summary.findings.first() {
            panic!("{finding}");
        }
        assert!(summary.cuts > 0);
    }
}

#[test]
fn the_engine_survives_faults_of_the_disk() {
    passes(Mode::Faults, 60);
}

#[test]
fn damaged_bytes_are_never_handed_out() {
    for victim in flips::victims(0, Choice::default()).expect("the workload runs") {
        let damages = flips::damages(&victim, Effort::Sample(3000), 1);
        let outcome = flips::run(&victim, &damages, 2, |_| ());
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        assert!(outcome.tried > 300, "{}", outcome.tried);
    }
}

#[test]
fn single_bits_of_a_larger_volume_are_told() {
    let victim = bits::large(1, 3 << 20).expect("the volume is made");
    let looks = bits::looks(&victim, 300, 1);
    let outcome = bits::run(&victim, &looks, 2, |_| ());
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.tried > 290 && looks.len() < 200, "{}", looks.len());
}

#[test]
fn damaged_volumes_are_repaired_and_losses_are_told() {
    let effort = repairs::Effort {
        plants: 12,
        cuts: 2,
        choice: Choice::default(),
    };
    let sum = repairs::run(0..40, effort, 2, |_| true);
    assert!(sum.failures.is_empty(), "{:#?}", sum.failures);
    assert!(sum.marks.count("repaired with losses told") > 20);
    assert!(sum.marks.count("repaired without a loss") > 80);
    assert!(sum.marks.count("cut during the repair") > 20);
    assert!(sum.marks.count("snapshot kept whole") > 50);
    assert!(sum.marks.count("snapshot kept with losses told") > 5);
    assert!(sum.marks.count("gone back after the repair, and compared") > 5);
}

#[test]
fn what_cuts_leave_of_an_operation_is_nothing_or_all_of_it() {
    let effort = crate::outcomes::Effort { all: 8, sample: 3 };
    let rows = crate::short::table(&plan(Mode::Cuts, 1), effort);
    let rows = rows.unwrap_or_else(|finding| panic!("{finding}"));
    assert!(rows.len() > 30, "{}", rows.len());
    for row in &rows {
        let [before, during, after] = row.moments;
        assert!(before.before + before.after > 0, "{}", row.op);
        assert!(during.before + during.after > 0, "{}", row.op);
        assert_eq!((after.before, after.after), (0, 1), "{}", row.op);
    }
}

#[test]
fn parts_of_the_short_workloads_are_all_of_them() {
    use crate::short::{Depth, groups};
    let depth = |part| Depth {
        effort: crate::outcomes::Effort { all: 1, sample: 1 },
        nested: 0,
        singles: 1,
        every: 1,
        part,
    };
    let all = depth((0, 1)).chosen(1);
    let count = |chosen: &[(u64, crate::short::Group)]| -> usize {
        chosen.iter().map(|(_, group)| group.workloads.len()).sum()
    };
    assert_eq!(
        count(&all),
        groups().iter().map(|g| g.workloads.len()).sum()
    );
    let mut parts: Vec<_> = (0..7).flat_map(|k| depth((k, 7)).chosen(1)).collect();
    parts.sort_by_key(|(number, _)| *number);
    assert_eq!(count(&parts), count(&all));
    let numbers = |chosen: &[(u64, crate::short::Group)]| -> Vec<u64> {
        chosen.iter().map(|(number, _)| *number).collect()
    };
    assert_eq!(numbers(&parts), numbers(&all));
    // What is left out as known was cut in the same group, earlier.
    for (_, group) in &all {
        for (n, workload) in group.workloads.iter().enumerate() {
            let start = &workload.ops[..workload.shared];
            let earlier = &group.workloads[..n];
            let begins = |w: &crate::short::Workload| w.ops.starts_with(start);
            assert!(workload.shared == 0 || earlier.iter().any(begins));
        }
    }
}

#[test]
fn a_disk_that_is_known_is_still_compared_with_what_may_be_on_it() {
    use crate::outcomes::{Effort, Known, Outcomes};
    let mut ops = crate::short::tree(Op::Sync);
    ops.push(crate::short::operations()[0].clone());
    ops.push(Op::Cut {
        calls: 1,
        seed: 1,
        again: Vec::new(),
    });
    ops.push(Op::Sync);
    let run = |known: &Known| {
        let effort = Effort { all: 16, sample: 8 };
        let machine = EngineMachine::new(Setup::of(1), crate::VERIFY)
            .with_outcomes(Outcomes::new(effort, 1))
            .with_known(known.clone());
        crate::run::replay_to_cut(machine, &ops)
    };
    let known = Known::default();
    let first = run(&known);
    assert!(first.failure.is_none(), "{:?}", first.failure);
    let again = run(&known);
    assert!(again.failure.is_none(), "{:?}", again.failure);
    assert_eq!(again.marks.count(crate::crash::SEEN_BEFORE), again.cuts);
    // As if something else had been found on the same disks.
    let wrong = run(&known.with_everything_gone());
    let what = wrong.failure.map(|f| f.what).unwrap_or_default();
    assert!(what.contains("acknowledged work is lost"), "{what}");
}

#[test]
fn each_outcome_of_a_cut_is_taken_once() {
    let disk = razorfs_disk::sim::SimDisk::new();
    let mut left = std::collections::BTreeSet::new();
    {
        use razorfs_disk::{Dir, Disk as _, Name, OpenHow};
        disk.create_dirs().unwrap();
        Dir::ALL.into_iter().for_each(|d| disk.sync_dir(d).unwrap());
        let file = disk.open(&Name::new(Dir::Root, "f"), OpenHow::CreateNew);
        let file = file.unwrap();
        file.write_at(&[std::io::IoSlice::new(&[7; 1024])], 0)
            .unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Dir::Root).unwrap();
        file.write_at(&[std::io::IoSlice::new(&[8; 1024])], 0)
            .unwrap();
    }
    let effort = crate::outcomes::Effort { all: 4, sample: 1 };
    let outcomes = crate::outcomes::Outcomes::new(effort, 1);
    loop {
        let name = razorfs_disk::Name::new(razorfs_disk::Dir::Root, "f");
        left.insert(outcomes.cut(&disk).image().bytes(&name));
        if !outcomes.are_left() {
            break;
        }
    }
    assert!(outcomes.are_all());
    assert_eq!(left.len(), 4, "two sectors, each old or new");
}

fn holds(ops: &[Op]) {
    let machine = EngineMachine::new(Setup::of(1), None);
    if let Some(failure) = replay(machine, ops).failure {
        panic!("operation {}: {}", failure.at, failure.what);
    }
}

fn file(name: u16) -> Op {
    Op::Create {
        at: At {
            dir: Ref::Path(vec![]),
            name,
        },
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        target: 1,
    }
}

fn write(who: &Ref, offset: u64, len: u32) -> Op {
    Op::Write {
        who: who.clone(),
        offset,
        data: Data { seed: 1, len },
    }
}

fn resize(who: &Ref, size: u64) -> Op {
    let set = SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    };
    Op::Set {
        who: who.clone(),
        set,
    }
}

#[test]
fn a_nameless_file_that_was_truncated_shows_no_old_bytes_when_it_gets_a_name_again() {
    let (at, path, open) = (
        At {
            dir: Ref::Path(vec![]),
            name: 0,
        },
        Ref::Path(vec![0]),
        Ref::Slot(1),
    );
    holds(&[
        file(0),
        write(&path, 0, 1),
        Op::Open {
            slot: 1,
            who: path.clone(),
        },
        write(&open, 267_304_960, 1),
        Op::Unlink(at.clone()),
        resize(&open, 0),
        Op::Link { from: open, to: at },
        write(&path, 229_092_773, 30),
        Op::CheckAll,
    ]);
}

#[test]
fn a_copy_to_the_end_of_its_own_source_ends_where_the_source_ended() {
    let path = Ref::Path(vec![0]);
    let copy = Op::Copy {
        from: path.clone(),
        from_offset: 5255,
        to: path.clone(),
        to_offset: 401_408,
        len: 79,
    };
    holds(&[file(0), write(&path, 0, 5300), copy, Op::CheckAll]);
}

#[test]
fn sizes_whose_sum_is_beyond_64_bits_are_counted_all_the_same() {
    let (a, b) = (Ref::Path(vec![0]), Ref::Path(vec![1]));
    holds(&[
        file(0),
        file(1),
        file(2),
        resize(&a, i64::MAX as u64),
        resize(&b, i64::MAX as u64),
        resize(&Ref::Path(vec![2]), i64::MAX as u64),
        Op::Checkpoint,
        resize(&a, 0),
        resize(&b, 7),
        Op::CheckAll,
        Op::Reopen,
    ]);
}

/// In mode sync a write that finds the host full is told so, and shows; also where the file has no
/// name, so that listing the tree does not show it.
#[test]
fn a_change_of_a_nameless_file_that_failed_and_yet_happened_is_seen() {
    let mut setup = Setup::of(0);
    setup.durability = razorfs::Durability::Sync;
    setup.compression = razorfs::Compression::None;
    let at = At {
        dir: Ref::Path(vec![]),
        name: 0,
    };
    let open = Op::Open {
        slot: 1,
        who: Ref::Path(vec![0]),
    };
    let ops = [
        file(0),
        open,
        Op::Unlink(at),
        Op::Fault(Fault::Capacity(4096)),
        write(&Ref::Slot(1), 0, 100_000),
        Op::Read {
            who: Ref::Slot(1),
            offset: 0,
            len: 1000,
        },
    ];
    let report = replay(EngineMachine::new(setup, None), &ops);
    if let Some(failure) = report.failure {
        panic!("operation {}: {}", failure.at, failure.what);
    }
    assert_eq!(report.marks.count("change failed and yet happened"), 1);
}

/// What failed and shows may be a time, which is no part of what states are compared by.
#[test]
fn a_time_that_was_set_in_vain_and_yet_shows_is_seen() {
    let set = |n: i64| Op::Set {
        who: Ref::Path(vec![0]),
        set: SetAttributes {
            mtime: Some(razorfs::Time { secs: n, nanos: 7 }),
            ..SetAttributes::default()
        },
    };
    let mut seen = 0;
    for seed in 0..40 {
        let mut setup = Setup::of(seed);
        setup.durability = razorfs::Durability::Sync;
        let ops = [
            file(0),
            set(1),
            Op::Fault(Fault::ShortWrite(0)),
            Op::Fault(Fault::ShortWrite(1)),
            set(2),
            Op::Stat(Ref::Path(vec![0])),
        ];
        let report = replay(EngineMachine::new(setup, None), &ops);
        if let Some(failure) = report.failure {
            panic!("seed {seed}, operation {}: {}", failure.at, failure.what);
        }
        seen += report.marks.count("change failed and yet happened");
    }
    assert!(seen > 0);
}

#[test]
fn a_rollback_that_failed_is_there_after_a_cut_or_is_not() {
    let name = Ref::Path(vec![0]);
    let mut marks = crate::marks::Marks::default();
    for seed in 0..60 {
        let mut setup = Setup::of(seed);
        setup.durability = razorfs::Durability::Async;
        let machine = EngineMachine::new(setup, crate::VERIFY);
        let mut ops = vec![file(0), Op::Take(0), write(&name, 0, 5000), Op::Sync];
        // The first, and one of those of the file that the batch is written to then: it may be
        // durable there all the same.
        ops.extend([0, 1 + seed % 3].map(|n| Op::Fault(Fault::SyncFails(n))));
        ops.extend([
            Op::Rollback(Which::Named(0)),
            Op::Cut {
                calls: 0,
                seed,
                again: Vec::new(),
            },
            // Only if it happened there is one.
            Op::Delete(Which::Safety(0)),
            Op::Rollback(Which::Named(0)),
            Op::Reopen,
        ]);
        let report = replay(machine, &ops);
        if let Some(failure) = report.failure {
            panic!("seed {seed}, operation {}: {}", failure.at, failure.what);
        }
        marks.merge(&report.marks);
    }
    let failed = marks.count(crate::left::MAY_SHOW);
    let happened = marks.count("delete") - (60 - failed);
    assert!(happened > 2 && happened + 2 < failed, "{happened}, {marks}");
}
