//! Seeded workloads. Each seed draws its own weights ("swarm testing": leaving kinds of operations
//! out finds more than having all of them at once), its own few names, its own habits.

mod branches;
mod merges;
mod moments;
mod points;
mod streams;
mod values;

use razorfs::{AllocateMode, FileKind, Ino, RenameMode, SeekFor, SetAttributes, XattrMode};
use razorfs_format::record::inode_flags;

use crate::model::Model;
use crate::names::{self, NameId};
use crate::op::{At, Data, Op, Ref, Step, Work};
use crate::rng::Rng;

/// Kinds of background work that have nothing to do with snapshots; they are the first.
const STEPS: usize = 8;

/// Deepest path that a workload makes.
const DEPTH: usize = 4;

/// What a workload does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Create,
    Unnamed,
    Link,
    Unlink,
    Rmdir,
    Rename,
    Set,
    Truncate,
    Write,
    Append,
    Allocate,
    Copy,
    Shift,
    SetXattr,
    RemoveXattr,
    Transaction,
    Read,
    Seek,
    List,
    Look,
    Xattr,
    Open,
    Close,
    Sync,
    SyncThen,
    Checkpoint,
    Step,
    CheckAll,
    Reopen,
}

const KINDS: [(Kind, u32); 29] = [
    (Kind::Create, 120),
    (Kind::Unnamed, 8),
    (Kind::Link, 40),
    (Kind::Unlink, 70),
    (Kind::Rmdir, 25),
    (Kind::Rename, 80),
    (Kind::Set, 30),
    (Kind::Truncate, 45),
    (Kind::Write, 140),
    (Kind::Append, 40),
    (Kind::Allocate, 35),
    (Kind::Copy, 50),
    (Kind::Shift, 40),
    (Kind::SetXattr, 30),
    (Kind::RemoveXattr, 12),
    (Kind::Transaction, 25),
    (Kind::Read, 50),
    (Kind::Seek, 20),
    (Kind::List, 12),
    (Kind::Look, 40),
    (Kind::Xattr, 10),
    (Kind::Open, 30),
    (Kind::Close, 12),
    (Kind::Sync, 25),
    (Kind::SyncThen, 10),
    (Kind::Checkpoint, 6),
    (Kind::Step, 60),
    (Kind::CheckAll, 2),
    (Kind::Reopen, 3),
];

/// A stream of operations that one seed gives.
#[derive(Clone, Debug)]
pub struct Workload {
    rng: Rng,
    weights: Vec<u32>,
    steps: [u32; STEPS],
    names: NameId,
    odd_names: bool,
    big_percent: u64,
    huge_offsets: bool,
    /// Flags that forbid changes are set.
    forbids: bool,
    /// What it does with snapshots, if anything; whatever that is, the rest stays the same.
    points: Option<points::Points>,
    /// The same of branches.
    branches: Option<branches::Branches>,
    merges: Option<merges::Merges>,
    moments: Option<moments::Moments>,
    streams: Option<streams::Streams>,
}

impl Workload {
    /// The workload of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut weights: Vec<u32> = Vec::new();
        for (kind, weight) in KINDS {
            let factor = match rng.range(0..10) {
                0 | 1 if !matches!(kind, Kind::Create | Kind::Write) => 0,
                2 | 3 => 4,
                _ => 1,
            };
            weights.push(weight * factor);
        }
        let mut steps = [8, 3, 5, 4, 2, 5, 2, 8];
        for step in &mut steps {
            *step *= [0, 1, 1, 3].get(rng.below(4)).copied().unwrap_or(1);
        }
        let wide = rng.chance(8);
        Self {
            weights,
            steps,
            names: if wide {
                names::COUNT
            } else {
                2 + rng.range(0..7) as NameId
            },
            odd_names: rng.chance(30),
            big_percent: [0, 2, 6, 15].get(rng.below(4)).copied().unwrap_or(2),
            huge_offsets: rng.chance(25),
            forbids: rng.chance(25),
            points: None,
            branches: None,
            merges: None,
            moments: None,
            streams: None,
            rng,
        }
    }

    /// One whose volume stays small, and that leaves closing to the caller.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        let mut workload = Self::new(seed);
        workload.big_percent = 1;
        workload.huge_offsets = false;
        for ((kind, _), weight) in KINDS.iter().zip(&mut workload.weights) {
            match kind {
                Kind::Reopen => *weight = 0,
                Kind::Checkpoint | Kind::Step => *weight = (*weight).max(20),
                _ => {}
            }
        }
        workload
    }

    /// The next operation for a file system in this state.
    pub fn next(&mut self, model: &Model) -> Op {
        if let Some(op) = self.moments.as_mut().and_then(|m| m.next(model)) {
            return op;
        }
        if let Some(op) = self.streams.as_mut().and_then(|s| s.next(model)) {
            return op;
        }
        if let Some(op) = self.merges.as_mut().and_then(|m| m.next(model)) {
            return op;
        }
        if let Some(op) = self.branches.as_mut().and_then(|b| b.next(model)) {
            return op;
        }
        if let Some(op) = self.points.as_mut().and_then(|p| p.next(model)) {
            return op;
        }
        let kind = self.rng.weighted(self.weights.iter().copied());
        let kind = KINDS.get(kind).map_or(Kind::Create, |k| k.0);
        match kind {
            Kind::Create => self.create(model),
            Kind::Unnamed => Op::Unnamed {
                dir: self.directory(model),
                slot: self.slot(),
                mode: self.mode(),
            },
            Kind::Link => Op::Link {
                from: self.file(model),
                to: self.place(model, 15),
            },
            Kind::Unlink => Op::Unlink(self.place(model, 90)),
            Kind::Rmdir => Op::Rmdir(self.place_of_directory(model)),
            Kind::Rename => self.rename(model),
            Kind::Set => self.set(model),
            Kind::Truncate => self.truncate(model),
            Kind::Write => {
                let who = self.file(model);
                let offset = self.offset(model, &who);
                Op::Write {
                    who,
                    offset,
                    data: self.data(),
                }
            }
            Kind::Append => Op::Append {
                who: self.file(model),
                data: self.data(),
            },
            Kind::Allocate => self.allocate(model),
            Kind::Copy => self.copy(model),
            Kind::Shift => {
                let who = self.file(model);
                let node = model.resolve(&who).and_then(|i| model.node(i));
                self.shift(who, node.map_or(0, |n| n.size))
            }
            Kind::SetXattr => self.set_xattr(model),
            Kind::RemoveXattr => Op::RemoveXattr {
                who: self.any(model),
                name: self.xattr_name(),
            },
            Kind::Transaction => Op::Transaction {
                steps: (0..self.rng.range(1..5))
                    .map(|_| self.transaction_step(model))
                    .collect(),
                sync: self.rng.chance(20),
            },
            Kind::Open => Op::Open {
                slot: self.slot(),
                who: self.any(model),
            },
            Kind::Close => Op::Close(self.slot()),
            Kind::Sync => Op::Sync,
            Kind::SyncThen => Op::SyncThen,
            Kind::Checkpoint => Op::Checkpoint,
            Kind::Step => self.step(),
            Kind::CheckAll => Op::CheckAll,
            Kind::Reopen => Op::Reopen,
            _ => self.look(kind, model),
        }
    }

    /// A place below a path. Later steps of a transaction often mean what earlier ones made.
    fn path_place(&mut self, model: &Model, percent: u64) -> At {
        loop {
            let at = self.place(model, percent);
            if matches!(at.dir, Ref::Path(_)) {
                return at;
            }
        }
    }

    fn transaction_step(&mut self, model: &Model) -> Step {
        match self.rng.range(0..16) {
            0 | 1 => Step::CreateDir(self.path_place(model, 8)),
            2..8 => Step::Write(self.path_place(model, 50), self.data()),
            8 => Step::RemoveFile(self.path_place(model, 90)),
            9 => Step::RemoveDir(self.path_place(model, 90)),
            10 => Step::RemoveDirAll(self.path_place(model, 90)),
            11..13 => Step::Rename(self.path_place(model, 92), self.path_place(model, 50)),
            13 => Step::HardLink(self.path_place(model, 92), self.path_place(model, 10)),
            14 => {
                let len = 1 + self.rng.range(0..80) as u16;
                Step::Symlink(len, self.path_place(model, 8))
            }
            _ => Step::Mode(self.path_place(model, 95), self.mode()),
        }
    }

    fn step(&mut self) -> Op {
        let step = self.rng.weighted(self.steps.iter().copied());
        Op::Step(Work::ALL.get(step).copied().unwrap_or(Work::Commit))
    }

    fn look(&mut self, kind: Kind, model: &Model) -> Op {
        match kind {
            Kind::Read => {
                let who = self.file(model);
                let offset = self.offset(model, &who);
                Op::Read {
                    who,
                    offset,
                    len: self.len().min(1 << 20) as u32,
                }
            }
            Kind::Seek => {
                let who = self.file(model);
                let offset = self.offset(model, &who);
                let hole = self.rng.chance(50);
                let what = if hole { SeekFor::Hole } else { SeekFor::Data };
                Op::Seek { who, offset, what }
            }
            Kind::List => Op::List {
                who: self.directory(model),
                first: self.rng.range(0..12) as u16,
            },
            Kind::Xattr => {
                if self.rng.chance(40) {
                    Op::ListXattr(self.any(model))
                } else {
                    Op::GetXattr {
                        who: self.any(model),
                        name: self.xattr_name(),
                    }
                }
            }
            _ => match self.rng.range(0..6) {
                0 | 1 => Op::Lookup(self.place(model, 70)),
                2 => Op::Stat(self.any(model)),
                3 => Op::ReadLink(self.any(model)),
                4 => Op::ParentOf(self.directory(model)),
                _ => Op::FindPath(self.walk(model, 0).0),
            },
        }
    }

    fn create(&mut self, model: &Model) -> Op {
        let kind = match self.rng.range(0..20) {
            0..10 => FileKind::Regular,
            10..15 => FileKind::Directory,
            15 | 16 => FileKind::Symlink,
            17 => FileKind::Fifo,
            18 => FileKind::Socket,
            _ if self.rng.chance(50) => FileKind::CharDevice,
            _ => FileKind::BlockDevice,
        };
        let mut mode = self.mode();
        if kind == FileKind::Directory && self.rng.chance(15) {
            mode |= 0o2000;
        }
        let target = match self.rng.range(0..10) {
            0 => 4095,
            1 => 61,
            _ => 1 + self.rng.range(0..40) as u16,
        };
        Op::Create {
            at: self.place(model, 8),
            kind,
            mode,
            uid: self.owner(),
            gid: self.owner(),
            target,
        }
    }

    fn rename(&mut self, model: &Model) -> Op {
        let from = self.place(model, 92);
        let mut to = self.place(model, 50);
        if self.rng.chance(10) {
            to.dir = from.dir.clone();
        }
        if self.rng.chance(6) {
            // Into itself or into something below.
            if let Ref::Path(path) = &from.dir {
                let mut path = path.clone();
                path.push(from.name);
                to.dir = Ref::Path(path);
            }
        }
        let mode = match self.rng.range(0..10) {
            0..6 => RenameMode::Replace,
            6 | 7 => RenameMode::NoReplace,
            _ => RenameMode::Exchange,
        };
        Op::Rename { from, to, mode }
    }

    fn set(&mut self, model: &Model) -> Op {
        let mut set = SetAttributes::default();
        match self.rng.range(0..6) {
            0 => set.mode = Some(self.mode()),
            1 => (set.uid, set.gid) = (Some(self.owner()), Some(self.owner())),
            2 => set.mtime = Some(self.time()),
            3 => (set.atime, set.mtime) = (Some(self.time()), Some(self.time())),
            4 => set.gid = Some(self.owner()),
            _ => {
                let flags = [
                    0,
                    inode_flags::ZSTD,
                    inode_flags::NO_COMPRESSION,
                    inode_flags::APPEND,
                    inode_flags::IMMUTABLE,
                ];
                let most = if self.forbids { flags.len() } else { 3 };
                set.flags = flags.get(self.rng.below(most)).copied();
            }
        }
        let who = if set.flags.is_some() && !self.rng.chance(30) {
            self.file(model)
        } else {
            self.any(model)
        };
        Op::Set { who, set }
    }

    fn truncate(&mut self, model: &Model) -> Op {
        let who = self.file(model);
        let size = match self.rng.range(0..10) {
            0..3 => 0,
            3 => self.len(),
            _ => self.offset(model, &who),
        };
        let set = SetAttributes {
            size: Some(size),
            ..SetAttributes::default()
        };
        Op::Set { who, set }
    }

    fn allocate(&mut self, model: &Model) -> Op {
        let who = self.file(model);
        let offset = self.offset(model, &who);
        let mode = match self.rng.range(0..8) {
            0 => AllocateMode::Extend,
            1 => AllocateMode::KeepSize,
            2..6 => AllocateMode::PunchHole,
            6 => AllocateMode::ZeroExtend,
            _ => AllocateMode::ZeroKeepSize,
        };
        Op::Allocate {
            who,
            mode,
            offset,
            len: self.len(),
        }
    }

    fn copy(&mut self, model: &Model) -> Op {
        let from = self.file(model);
        let to = if self.rng.chance(30) {
            from.clone()
        } else {
            self.file(model)
        };
        // Often much or all of a file, so that whole frames are shared, and shared again.
        let size = model.resolve(&from).and_then(|i| model.node(i));
        let size = size.map_or(0, |n| n.size).min(1 << 20);
        let (from_offset, len) = match self.rng.range(0..4) {
            0 => (0, size),
            1 => (4096 * self.rng.range(0..4), self.rng.range(0..size.max(1))),
            _ => (self.offset(model, &from).min(1 << 30), self.len()),
        };
        Op::Copy {
            from_offset,
            to_offset: self.offset(model, &to),
            from,
            to,
            len: len.max(1),
        }
    }

    fn set_xattr(&mut self, model: &Model) -> Op {
        let mode = match self.rng.range(0..6) {
            0 => XattrMode::Create,
            1 => XattrMode::Replace,
            _ => XattrMode::Set,
        };
        let len = match self.rng.range(0..20) {
            0 => 0,
            1 => 65536,
            2 => 65537,
            3 | 4 => 3000,
            _ => 1 + self.rng.range(0..100) as u32,
        };
        let data = Data {
            seed: self.rng.next() as u32,
            len,
        };
        Op::SetXattr {
            who: self.any(model),
            name: self.xattr_name(),
            data,
            mode,
        }
    }

    /// Goes down from the root, preferably to a thing of the kind that is wanted: 0 anything,
    /// 1 a directory, 2 a regular file.
    fn walk(&mut self, model: &Model, want: u8) -> (Vec<NameId>, Ino) {
        let mut best = (Vec::new(), Ino::ROOT);
        for _ in 0..5 {
            let (mut path, mut ino) = (Vec::new(), Ino::ROOT);
            while let Some(node) = model.node(ino) {
                let stop = match want {
                    1 => 35,
                    _ => 8,
                };
                if path.len() >= DEPTH || node.entries.is_empty() || self.rng.chance(stop) {
                    break;
                }
                let nth = self.rng.below(node.entries.len());
                let Some((name, child)) = node.entries.iter().nth(nth) else {
                    break;
                };
                if want == 1 && model.node(*child).is_some_and(|n| !n.is_dir()) {
                    break;
                }
                path.push(*name);
                ino = *child;
            }
            let kind = model.node(ino).map(|n| n.kind);
            let fits = match want {
                0 => true,
                1 => kind == Some(FileKind::Directory),
                _ => kind == Some(FileKind::Regular),
            };
            best = (path, ino);
            if fits {
                break;
            }
        }
        best
    }

    fn open_slot(&mut self, model: &Model) -> Option<Ref> {
        let slot = self.slot();
        (model.slot(slot).is_some() && self.rng.chance(20)).then_some(Ref::Slot(slot))
    }

    fn any(&mut self, model: &Model) -> Ref {
        match self.open_slot(model) {
            Some(slot) => slot,
            None => Ref::Path(self.walk(model, 0).0),
        }
    }

    fn file(&mut self, model: &Model) -> Ref {
        match self.open_slot(model) {
            Some(slot) => slot,
            None => Ref::Path(self.walk(model, 2).0),
        }
    }

    fn directory(&mut self, model: &Model) -> Ref {
        if self.rng.chance(4) {
            return self.any(model);
        }
        Ref::Path(self.walk(model, 1).0)
    }

    /// A place, with `percent` chances that something is there.
    fn place(&mut self, model: &Model, percent: u64) -> At {
        let dir = self.directory(model);
        let entries = model
            .resolve(&dir)
            .and_then(|i| model.node(i))
            .map(|n| &n.entries);
        let name = match entries {
            Some(entries) if !entries.is_empty() && self.rng.chance(percent) => {
                let nth = self.rng.below(entries.len());
                entries.keys().nth(nth).copied().unwrap_or(0)
            }
            _ => self.name(),
        };
        At { dir, name }
    }

    fn place_of_directory(&mut self, model: &Model) -> At {
        let mut path = self.walk(model, 1).0;
        match path.pop() {
            Some(name) => At {
                dir: Ref::Path(path),
                name,
            },
            None => self.place(model, 70),
        }
    }
}
