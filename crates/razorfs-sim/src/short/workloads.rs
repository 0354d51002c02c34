//! What short workloads there are: a tree, and one or two operations on it.

use razorfs::{AllocateMode, FileKind, RenameMode, SetAttributes, Time, XattrMode};

use crate::names::NameId;
use crate::op::{At, Data, Op, Ref, Step, Work};
use crate::points::Which;

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
        Op::Take(0),
        Op::Rollback(Which::Named(0)),
        Op::Delete(Which::Named(0)),
        Op::Fork {
            name: 0,
            from: None,
        },
        Op::Prune(0),
    ]
}

/// Workloads that begin in the same way, and are run one after the other: what was seen of one is
/// known to the next.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many operations each of them has before the last sync.
    pub operations: usize,
    /// They, in an order in which only the first is on its own.
    pub workloads: Vec<Workload>,
}

impl Group {
    /// Each workload as a group of its own, which shares nothing.
    pub fn alone(self) -> impl Iterator<Item = Self> {
        let operations = self.operations;
        self.workloads.into_iter().map(move |workload| Self {
            operations,
            workloads: vec![Workload {
                shared: 0,
                ..workload
            }],
        })
    }
}

/// What makes everything durable at last.
const LASTS: [Op; 2] = [Op::Sync, Op::Checkpoint];

/// Every workload of one operation, then every one of two, with all that may be between them, then
/// those of one operation after a snapshot that is gone back to, or deleted, then those of an
/// operation that is done in the head and in a branch, and in a branch that is deleted.
#[must_use]
pub fn groups() -> Vec<Group> {
    let operations = operations();
    let single = |op: &Op| Group {
        operations: 1,
        workloads: group(Vec::new(), std::slice::from_ref(op)),
    };
    let mut all: Vec<Group> = operations.iter().map(single).collect();
    let between = [
        None,
        Some(Op::Step(Work::Commit)),
        Some(Op::Sync),
        Some(Op::Checkpoint),
    ];
    for first in &operations {
        all.extend(between.iter().map(|between| {
            let mut ops = vec![first.clone()];
            ops.extend(between.clone());
            Group {
                operations: 2,
                workloads: group(ops, &operations),
            }
        }));
    }
    let ends = [Op::Rollback(Which::Named(0)), Op::Delete(Which::Named(0))];
    all.extend(operations.iter().map(|op| Group {
        operations: 3,
        workloads: group(vec![Op::Take(0), op.clone()], &ends),
    }));
    all.extend(operations.iter().flat_map(in_a_branch));
    all
}

/// Those of an operation in a branch.
fn in_a_branch(op: &Op) -> [Group; 2] {
    let fork = Op::Fork {
        name: 1,
        from: None,
    };
    let go = |to, closes| Op::Go { to, closes };
    let both = vec![fork.clone(), op.clone(), go(Some(1), false)];
    let deleted = vec![fork, go(Some(1), false), op.clone(), go(None, true)];
    [
        Group {
            operations: 3,
            workloads: group(both, std::slice::from_ref(op)),
        },
        Group {
            operations: 3,
            workloads: group(deleted, &[Op::Prune(1)]),
        },
    ]
}

/// The workloads that begin with `start` and have one operation more.
fn group(start: Vec<Op>, operations: &[Op]) -> Vec<Workload> {
    let mut all = Vec::new();
    for op in operations {
        for (n, last) in LASTS.iter().enumerate() {
            let mut ops = start.clone();
            ops.push(op.clone());
            // What comes before the last sync was cut with the other one.
            let shared = match (all.is_empty(), n) {
                (true, _) => 0,
                (false, 0) => start.len(),
                (false, _) => ops.len(),
            };
            ops.push(last.clone());
            all.push(Workload { ops, shared });
        }
    }
    all
}
