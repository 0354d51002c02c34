//! All short workloads: one or two operations on a small tree that is durable, then a sync; and one
//! between a snapshot and going back to it, or its deletion. Each is cut at every call of the disk,
//! and each cut leaves every outcome that it may where there are few. File systems' known crash
//! bugs need no more than three operations on a fresh file system (Mohan et al., "Finding
//! Crash-Consistency Bugs with Bounded Black-Box Crash Testing", 2018).

mod workloads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use razorfs::Durability;

use crate::crash::CAME_THROUGH;
pub use crate::crash::SEEN_BEFORE;
use crate::engine::{EngineMachine, Setup};
use crate::farm::{Finding, Plan, Summary};
use crate::op::Op;
use crate::outcomes::{Effort, Known, Outcomes};
use crate::rng::mix;
use crate::run::{Report, replay, replay_to_cut};
use crate::shrink::shrink;
pub use workloads::{Group, Workload, groups, operations, tree};

/// The mark of a workload.
pub const WORKLOAD: &str = "short workload";

/// How thoroughly.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Outcomes of each cut.
    pub effort: Effort,
    /// Outcomes from which recovery itself is cut at every call, twice: none for not at all.
    pub nested: usize,
    /// Of the workloads of one operation one of so many is run.
    pub singles: usize,
    /// Of those of two.
    pub every: usize,
    /// Which part of them, and of how many that are all together.
    pub part: (usize, usize),
}

impl Depth {
    /// What is to be run, each with the number that its seed is made of.
    pub(crate) fn chosen(&self, seed: u64) -> Vec<(u64, Group)> {
        let (part, parts) = self.part;
        let mut chosen = Vec::new();
        let mut number = 0;
        for (n, group) in groups().into_iter().enumerate() {
            let first = number;
            number += group.workloads.len() as u64;
            let of = match group.operations {
                1 => self.singles,
                _ => self.every,
            };
            if n % parts.max(1) != part {
                continue;
            }
            if of <= 1 {
                chosen.push((first, group));
                continue;
            }
            // The ones before it in its group may not be run.
            let alone = (first..).zip(group.alone());
            chosen.extend(alone.filter(|(n, _)| mix(seed, *n).is_multiple_of(of as u64)));
        }
        chosen
    }
}

/// What is run on, and with which seed.
struct Job<'a> {
    plan: &'a Plan,
    depth: Depth,
    seed: u64,
    known: Known,
}

/// Runs the workloads. `tick` sees the sum after each, and says whether to go on.
pub fn run(plan: &Plan, depth: Depth, tick: impl Fn(&Summary) -> bool + Sync) -> Summary {
    let chosen = depth.chosen(plan.first_seed);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let sum = Arc::new(Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((number, group)) = chosen.get(at) else {
                        return;
                    };
                    let job = Job {
                        plan,
                        depth,
                        seed: mix(plan.first_seed, *number),
                        known: Known::default(),
                    };
                    for workload in &group.workloads {
                        let mut here = Summary::default();
                        job.workload(workload, group.operations == 1, &mut here);
                        let mut sum = sum.lock();
                        sum.add(here);
                        if !tick(&sum) || sum.findings.len() >= plan.most_failures {
                            stop.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            });
        }
    });
    Arc::try_unwrap(sum)
        .map(Mutex::into_inner)
        .unwrap_or_default()
}

/// How many outcomes of cuts showed an operation not at all, and how many wholly.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The state before it.
    pub before: u64,
    /// The state after it.
    pub after: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.before, self.after) {
            (before, 0) => write!(f, "not at all ({before})"),
            (0, after) => write!(f, "wholly ({after})"),
            (before, after) => write!(f, "not at all ({before}) or wholly ({after})"),
        }
    }
}

/// What cuts leave of one operation.
#[derive(Clone, Debug)]
pub struct Row {
    /// The operation.
    pub op: Op,
    /// Cuts before a sync is asked for, during it, after it was acknowledged.
    pub moments: [Seen; 3],
}

/// What cuts leave of each operation that changes the tree, in the order of [`operations`]; or what
/// was wrong. What is durable when it returns, as what snapshots take is, needs no sync.
pub fn table(plan: &Plan, effort: Effort) -> Result<Vec<Row>, Box<Finding>> {
    let depth = Depth {
        effort,
        nested: 0,
        singles: 1,
        every: 1,
        part: (0, 1),
    };
    let job = Job {
        plan,
        depth,
        seed: plan.first_seed,
        known: Known::default(),
    };
    let operations = operations();
    let changes = operations
        .into_iter()
        .filter(|op| op.changes() && !op.is_of_points());
    changes.filter_map(|op| job.row(op).transpose()).collect()
}

impl Job<'_> {
    /// What cuts leave of an operation; nothing if it was refused.
    fn row(&self, op: Op) -> Result<Option<Row>, Box<Finding>> {
        let mut ops = tree(Op::Sync);
        let at = ops.len();
        ops.push(Op::CheckAll);
        let calls = |ops: &[Op]| replay(self.machine(), ops).calls;
        let start = calls(&ops);
        ops.push(op.clone());
        if replay(self.machine(), &ops).marks.count(&op.word())
            == replay(self.machine(), ops.get(..at).unwrap_or_default())
                .marks
                .count(&op.word())
        {
            return Ok(None);
        }
        let asked = calls(&ops);
        ops.push(Op::Sync);
        let end = calls(&ops);
        ops.push(cut(0, self.seed, Vec::new()));
        let mut moments = [Seen::default(); 3];
        // The one that is cut before its first call, and before anybody asks for a sync.
        let mut unsynced = ops.clone();
        unsynced.remove(at + 2);
        let [before, during, after] = &mut moments;
        self.see(&unsynced, before)?;
        for calls in 1..end - start {
            if let Some(first) = ops.get_mut(at) {
                *first = cut(calls, mix(self.seed, calls), Vec::new());
            }
            let seen = match calls <= asked - start {
                true => &mut *before,
                false => &mut *during,
            };
            self.see(&ops, seen)?;
        }
        if let Some(first) = ops.get_mut(at) {
            *first = Op::CheckAll;
        }
        self.see(&ops, after)?;
        Ok(Some(Row { op, moments }))
    }

    /// Adds what all outcomes of the cut in a run show.
    fn see(&self, ops: &[Op], seen: &mut Seen) -> Result<(), Box<Finding>> {
        let mut sum = Summary::default();
        if self.outcomes(ops, self.seed, None, &mut sum)
            && let Some(finding) = sum.findings.pop()
        {
            return Err(Box::new(finding));
        }
        seen.after += sum.marks.count("cut: everything survived");
        seen.before += sum.marks.count("cut: only what was acknowledged survived");
        Ok(())
    }

    fn machine(&self) -> EngineMachine {
        let mut setup = Setup::of(self.plan.first_seed);
        setup.durability = Durability::Async;
        setup.limit = None;
        // None of them fills it, and all of it is read after each cut.
        setup.geometry.journal_initial_file = 48 << 10;
        EngineMachine::new(setup, self.plan.verify)
    }

    /// One workload, on a tree in the journal and on one in segments.
    fn workload(&self, workload: &Workload, is_single: bool, sum: &mut Summary) {
        sum.marks.hit(WORKLOAD);
        for base in [Op::Sync, Op::Checkpoint] {
            let mut ops = tree(base);
            let calls = |ops: &[Op]| replay(self.machine(), ops).calls;
            let before = calls(&ops);
            let at = ops.len();
            ops.push(Op::CheckAll);
            ops.extend(workload.ops.iter().cloned());
            let first_calls = match workload.shared {
                0 => 1,
                shared => calls(ops.get(..=at + shared).unwrap_or(&ops)) - before + 1,
            };
            let calm = replay(self.machine(), &ops);
            if self.count(&ops, false, calm.clone(), sum) {
                return;
            }
            ops.push(cut(0, 0, Vec::new()));
            for calls in first_calls..=calm.calls.saturating_sub(before) {
                let seed = mix(self.seed, calls);
                if let Some(first) = ops.get_mut(at) {
                    *first = cut(calls, seed, Vec::new());
                }
                if self.outcomes(&ops, seed, Some(&self.known), sum) {
                    return;
                }
                if is_single && self.nested(&mut ops, at, calls, sum) {
                    return;
                }
            }
        }
    }

    /// Everything that a cut may leave; whether that was too much.
    fn outcomes(&self, ops: &[Op], seed: u64, known: Option<&Known>, sum: &mut Summary) -> bool {
        let outcomes = Outcomes::new(self.depth.effort, seed);
        let mut machine = self.machine().with_outcomes(outcomes.clone());
        if let Some(known) = known {
            machine = machine.with_known(known.clone());
        }
        let report = replay_to_cut(machine, ops);
        sum.marks.hit(if outcomes.are_all() {
            "cut with all of its outcomes"
        } else {
            "cut with a sample of its outcomes"
        });
        self.count(ops, true, report, sum)
    }

    /// Recovery cut at each of its calls, and that of the recovery after it.
    fn nested(&self, ops: &mut [Op], at: usize, calls: u64, sum: &mut Summary) -> bool {
        for outcome in 0..self.depth.nested as u64 {
            let seed = mix(mix(self.seed, calls), outcome);
            for first in 0.. {
                let again = vec![first, mix(seed, first) % 12];
                // Where the workload ends before the armed cut, it is the last operation's.
                let last = cut(0, seed, again.clone());
                if let Some(op) = ops.last_mut() {
                    *op = last;
                }
                if let Some(op) = ops.get_mut(at) {
                    *op = cut(calls, seed, again);
                }
                let report = replay_to_cut(self.machine(), ops);
                let over = report.marks.count(CAME_THROUGH) > 0;
                if self.count(ops, false, report, sum) {
                    return true;
                }
                if over {
                    break;
                }
            }
        }
        false
    }

    /// Adds a run to the sum; whether it failed.
    fn count(&self, ops: &[Op], explored: bool, report: Report, sum: &mut Summary) -> bool {
        sum.runs += 1;
        sum.cuts += report.cuts;
        sum.ops += report.ops.len() as u64;
        sum.calls += report.calls;
        sum.marks.merge(&report.marks);
        let Some(failure) = report.failure else {
            return false;
        };
        let shrunk = shrink(ops, &failure, self.plan.shrink_budget, |ops| {
            let machine = match explored {
                true => self
                    .machine()
                    .with_outcomes(Outcomes::new(self.depth.effort, self.seed)),
                false => self.machine(),
            };
            replay_to_cut(machine, ops).failure
        });
        sum.findings.push(Finding {
            seed: self.plan.first_seed,
            first: failure,
            length: ops.len(),
            ops: shrunk.ops,
            failure: shrunk.failure,
        });
        true
    }
}

const fn cut(calls: u64, seed: u64, again: Vec<u64>) -> Op {
    Op::Cut { calls, seed, again }
}
