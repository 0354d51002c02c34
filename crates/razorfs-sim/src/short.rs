//! All short workloads: one or two operations on a small tree that is durable, then a sync. Each is
//! cut at every call of the disk, and each cut leaves every outcome that it may where there are
//! few. File systems' known crash bugs need no more than three operations on a fresh file system
//! (Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", 2018).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use razorfs::{AllocateMode, Durability, FileKind, RenameMode, SetAttributes, Time, XattrMode};

use crate::crash::CAME_THROUGH;
pub use crate::crash::SEEN_BEFORE;
use crate::engine::{EngineMachine, Setup};
use crate::farm::{Finding, Plan, Summary};
use crate::names::NameId;
use crate::op::{At, Data, Op, Ref, Step, Work};
use crate::outcomes::{Effort, Known, Outcomes};
use crate::rng::mix;
use crate::run::{Report, replay, replay_to_cut};
use crate::shrink::shrink;

/// A file of two pages with a second name, one of a few bytes in a directory, one whose bytes are
/// in packs, an empty directory, a link.
const A: NameId = 0;
const B: NameId = 1;
const C: NameId = 2;
const PACKED: NameId = 3;
const EMPTY: NameId = 4;
const LINK: NameId = 5;
/// Nothing has these names.
const FREE: NameId = 6;
const FREE_TOO: NameId = 7;

/// The mark of a workload.
pub const WORKLOAD: &str = "short workload";

/// What comes after the tree is durable.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The operations.
    pub ops: Vec<Op>,
    /// Of so many operations at its beginning the cuts are those of an earlier workload, which
    /// begins in the same way.
    pub shared: usize,
}

fn root(name: NameId) -> At {
    At {
        dir: Ref::Path(Vec::new()),
        name,
    }
}

fn below(dir: NameId, name: NameId) -> At {
    At {
        dir: Ref::Path(vec![dir]),
        name,
    }
}

fn path(names: &[NameId]) -> Ref {
    Ref::Path(names.to_vec())
}

fn create(at: At, kind: FileKind) -> Op {
    Op::Create {
        at,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        target: 9,
    }
}

const fn data(seed: u32, len: u32) -> Data {
    Data { seed, len }
}

fn write(who: Ref, offset: u64, data: Data) -> Op {
    Op::Write { who, offset, data }
}

fn set(who: Ref, change: impl FnOnce(&mut SetAttributes)) -> Op {
    let mut set = SetAttributes::default();
    change(&mut set);
    Op::Set { who, set }
}

const fn rename(from: At, to: At, mode: RenameMode) -> Op {
    Op::Rename { from, to, mode }
}

const fn allocate(who: Ref, mode: AllocateMode, offset: u64, len: u64) -> Op {
    Op::Allocate {
        who,
        mode,
        offset,
        len,
    }
}

const fn copy(from: Ref, to: Ref, to_offset: u64, len: u64) -> Op {
    Op::Copy {
        from,
        from_offset: 0,
        to,
        to_offset,
        len,
    }
}

/// The tree that every workload begins with, and how it became durable.
#[must_use]
pub fn tree(last: Op) -> Vec<Op> {
    vec![
        create(root(A), FileKind::Regular),
        write(path(&[A]), 0, data(3, 8192)),
        create(root(B), FileKind::Directory),
        create(below(B, C), FileKind::Regular),
        write(path(&[B, C]), 0, data(5, 100)),
        create(root(PACKED), FileKind::Regular),
        write(path(&[PACKED]), 0, data(21, 135_000)),
        create(root(EMPTY), FileKind::Directory),
        create(root(LINK), FileKind::Symlink),
        Op::Link {
            from: path(&[A]),
            to: below(B, A),
        },
        Op::SetXattr {
            who: path(&[A]),
            name: 1,
            data: data(4, 40),
            mode: XattrMode::Set,
        },
        last,
    ]
}

/// The operations that workloads are made of.
#[must_use]
pub fn operations() -> Vec<Op> {
    let (a, packed) = (path(&[A]), path(&[PACKED]));
    let mut all = vec![
        create(root(FREE), FileKind::Regular),
        create(root(FREE), FileKind::Directory),
        create(below(B, FREE), FileKind::Symlink),
        Op::Unnamed {
            dir: path(&[]),
            slot: 0,
            mode: 0o600,
        },
        Op::Link {
            from: a,
            to: root(FREE),
        },
        Op::Link {
            from: Ref::Slot(0),
            to: root(FREE_TOO),
        },
        Op::Unlink(root(A)),
        Op::Unlink(below(B, A)),
        Op::Unlink(below(B, C)),
        Op::Unlink(root(PACKED)),
        Op::Open {
            slot: 0,
            who: packed,
        },
        Op::Rmdir(root(EMPTY)),
        rename(root(A), root(FREE), RenameMode::Replace),
        rename(root(A), below(B, C), RenameMode::Replace),
        rename(below(B, C), root(PACKED), RenameMode::Replace),
        rename(root(B), root(EMPTY), RenameMode::Replace),
        rename(root(B), below(EMPTY, FREE), RenameMode::Replace),
        rename(below(B, C), root(PACKED), RenameMode::Exchange),
        rename(root(B), root(A), RenameMode::Exchange),
    ];
    all.extend(changes_of_files());
    all
}

/// Those that change one file, or do background work.
fn changes_of_files() -> Vec<Op> {
    let (a, packed) = (path(&[A]), path(&[PACKED]));
    let time = Time {
        secs: -3,
        nanos: 999_999_999,
    };
    vec![
        write(path(&[FREE]), 0, data(9, 5000)),
        write(a.clone(), 100, data(10, 50)),
        write(a.clone(), 4000, data(11, 9000)),
        write(packed.clone(), 70_000, data(8, 100_000)),
        Op::Append {
            who: path(&[B, C]),
            data: data(12, 600),
        },
        Op::Append {
            who: packed.clone(),
            data: data(13, 20),
        },
        set(a.clone(), |s| s.size = Some(0)),
        set(packed.clone(), |s| s.size = Some(70_001)),
        set(path(&[B, C]), |s| s.size = Some(300_000)),
        set(a.clone(), |s| (s.mode, s.uid) = (Some(0o600), Some(7))),
        set(path(&[B]), |s| s.mtime = Some(time)),
        allocate(packed.clone(), AllocateMode::PunchHole, 10_000, 80_000),
        allocate(a.clone(), AllocateMode::ZeroExtend, 5000, 40_000),
        allocate(a.clone(), AllocateMode::KeepSize, 0, 100_000),
        copy(packed.clone(), a.clone(), 8192, 100_000),
        copy(packed.clone(), path(&[B, C]), 0, 150_000),
        copy(packed.clone(), packed.clone(), 200_000, 150_000),
        Op::Collapse {
            who: packed.clone(),
            offset: 4096,
            len: 8192,
        },
        Op::Insert {
            who: packed,
            offset: 65_536,
            len: 131_072,
        },
        Op::SetXattr {
            who: a.clone(),
            name: 2,
            data: data(14, 3000),
            mode: XattrMode::Set,
        },
        Op::RemoveXattr { who: a, name: 1 },
        Op::Transaction {
            steps: vec![
                Step::CreateDir(root(FREE)),
                Step::Rename(below(B, C), below(FREE, C)),
                Step::Write(below(FREE, FREE), data(15, 700)),
                Step::RemoveFile(root(PACKED)),
            ],
            sync: false,
        },
        Op::Step(Work::Compact),
        Op::Step(Work::Reap),
    ]
}

/// Every workload of one operation, then every one of two, with all that may be between them.
#[must_use]
pub fn workloads() -> Vec<Workload> {
    let operations = operations();
    let lasts = [Op::Sync, Op::Checkpoint];
    let mut all = Vec::new();
    for op in &operations {
        for last in &lasts {
            all.push(Workload {
                ops: vec![op.clone(), last.clone()],
                shared: 0,
            });
        }
    }
    let between = [
        None,
        Some(Op::Step(Work::Commit)),
        Some(Op::Sync),
        Some(Op::Checkpoint),
    ];
    for first in &operations {
        for (n, second) in operations.iter().enumerate() {
            for between in &between {
                for (m, last) in lasts.iter().enumerate() {
                    let mut ops = vec![first.clone()];
                    ops.extend(between.clone());
                    let shared = match (n, m) {
                        (0, 0) => 0,
                        (_, 0) => ops.len(),
                        _ => ops.len() + 1,
                    };
                    ops.extend([second.clone(), last.clone()]);
                    all.push(Workload { ops, shared });
                }
            }
        }
    }
    all
}

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
}

/// What is run on, and with which seed.
struct Job<'a> {
    plan: &'a Plan,
    depth: Depth,
    seed: u64,
}

/// Runs the workloads. `tick` sees the sum after each, and says whether to go on.
pub fn run(plan: &Plan, depth: Depth, tick: impl Fn(&Summary) -> bool + Sync) -> Summary {
    let single = operations().len() * 2;
    let chosen: Vec<(usize, Workload)> = workloads()
        .into_iter()
        .enumerate()
        .filter(|(i, _)| {
            let of = if *i < single {
                depth.singles
            } else {
                depth.every
            };
            mix(plan.first_seed, *i as u64).is_multiple_of(of.max(1) as u64)
        })
        .collect();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let sum = Arc::new(Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((number, workload)) = chosen.get(at) else {
                        return;
                    };
                    let job = Job {
                        plan,
                        depth,
                        seed: mix(plan.first_seed, *number as u64),
                    };
                    let mut here = Summary::default();
                    job.workload(workload, *number < single, &mut here);
                    let mut sum = sum.lock();
                    sum.add(here);
                    if !tick(&sum) || sum.findings.len() >= plan.most_failures {
                        stop.store(true, Ordering::Relaxed);
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
/// was wrong.
pub fn table(plan: &Plan, effort: Effort) -> Result<Vec<Row>, Box<Finding>> {
    let depth = Depth {
        effort,
        nested: 0,
        singles: 1,
        every: 1,
    };
    let job = Job {
        plan,
        depth,
        seed: plan.first_seed,
    };
    let operations = operations();
    let changes = operations.into_iter().filter(Op::changes);
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
        EngineMachine::new(setup, self.plan.verify)
    }

    /// One workload, on a tree in the journal and on one in segments.
    fn workload(&self, workload: &Workload, is_single: bool, sum: &mut Summary) {
        sum.marks.hit(WORKLOAD);
        // Where only a part of the workloads is run, the earlier one may not be among them.
        let shared = if self.depth.every == 1 {
            workload.shared
        } else {
            0
        };
        for base in [Op::Sync, Op::Checkpoint] {
            let mut ops = tree(base);
            let calls = |ops: &[Op]| replay(self.machine(), ops).calls;
            let before = calls(&ops);
            let at = ops.len();
            ops.push(Op::CheckAll);
            ops.extend(workload.ops.iter().cloned());
            let first_calls = match shared {
                0 => 1,
                _ => calls(ops.get(..=at + shared).unwrap_or(&ops)) - before + 1,
            };
            let known = Known::default();
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
                if self.outcomes(&ops, seed, Some(&known), sum) {
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
