//! What the volume was between two snapshots: what a snapshot shows, and what the journal still has
//! of what was done after it, done again over that.
//!
//! A moment is the end of a batch, which is a state that a crash could have left. Nothing holds
//! what was written after the snapshot and overwritten since: where it has gone a reader is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::op::{Mutation, decode_ops};
use razorfs_format::timeline::{Timeline, View};
use razorfs_format::{BatchSeq, Branch, Epoch, Ino, Lsn, Place};

use super::handle::Role;
use super::read::Moment;
use super::{At, Core, CountersAt, Store, Viewing};
use crate::journal::Batch;
use crate::tree::memtable::Memtable;
use crate::{Error, Result, VolumeSpace};

/// A moment in the life of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum When {
    /// When this operation became durable, and what became so with it, as
    /// [`crate::Volume::log`] counts them.
    Lsn(u64),
    /// This time, in nanoseconds since 1970: the last batch of the journal that was not written
    /// later.
    Time(u64),
}

/// A moment that one can go back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Reached {
    /// The last operation that had been done.
    pub lsn: u64,
    /// When that became durable, in nanoseconds since 1970.
    pub time: u64,
}

impl Reached {
    fn of(batch: &Batch) -> Self {
        let next = batch.first_lsn.0.saturating_add(batch.n_ops.into());
        Self {
            lsn: next.saturating_sub(1),
            time: batch.wall_ns,
        }
    }
}

/// What a moment was made of.
pub(crate) struct Replayed {
    pub reached: Reached,
    /// The snapshot below; none if all was done since the volume was made.
    base: Option<Viewing>,
    counters: CountersAt,
}

impl Replayed {
    /// As if nothing more fitted in.
    pub fn space(&self) -> VolumeSpace {
        VolumeSpace {
            total: u64::try_from(self.counters.bytes).unwrap_or(u64::MAX),
            free: 0,
            inodes: self.counters.inodes,
        }
    }

    /// The snapshot below, which may be given up.
    pub fn base(&self) -> Option<&Viewing> {
        self.base.as_ref()
    }
}

/// What a moment is counted from.
enum Base {
    /// It is not known what was there.
    Unknown,
    /// Nothing: the volume was made then.
    Nothing,
    Snapshot(SnapshotMeta),
}

/// The way to a moment.
struct Way<'a> {
    branch: Branch,
    /// The snapshots that are there, those that were given up and not released among them.
    snapshots: BTreeMap<u64, &'a SnapshotMeta>,
    base: Base,
    since: Memtable,
    counters: CountersAt,
}

impl<'a> Way<'a> {
    fn new(branch: Branch, snapshots: impl Iterator<Item = &'a SnapshotMeta>) -> Self {
        Self {
            branch,
            snapshots: snapshots.map(|s| (s.id, s)).collect(),
            base: Base::Unknown,
            since: Memtable::new(Epoch(0)),
            counters: CountersAt {
                inodes: 0,
                bytes: 0,
                next_ino: Ino(0),
                lsn: Lsn(0),
                forks: BTreeMap::new(),
            },
        }
    }

    /// Before the first operation that is known.
    fn begin(&mut self, first: Lsn) {
        if first.0 == 1 && self.branch == Branch::HEAD {
            self.base = Base::Nothing;
            return;
        }
        let before = first.0.saturating_sub(1);
        self.stand_on(before, self.branch);
    }

    /// From here on everything follows what a snapshot shows, if that is there and of this branch.
    fn stand_on(&mut self, id: u64, of: Branch) {
        let known = self.snapshots.get(&id).filter(|s| s.branch == of);
        self.base = match known {
            Some(snapshot) => {
                let (inodes, bytes) = (snapshot.inodes, snapshot.bytes);
                self.counters.set(Branch::HEAD, inodes, bytes);
                Base::Snapshot(SnapshotMeta::clone(snapshot))
            }
            None => Base::Unknown,
        };
        self.since = Memtable::new(Epoch(0));
    }

    fn follow(&mut self, batch: &Batch) -> Result<()> {
        // The batch passed its checksums; the place names the journal for what they cannot catch.
        let place = Place::new(FileName::Journal(0), 0);
        for op in decode_ops(&batch.payload, place)? {
            for mutation in op.mutations {
                self.redo(mutation);
            }
        }
        Ok(())
    }

    fn redo(&mut self, mutation: Mutation) {
        match mutation {
            // The state is what the snapshot shows: it need not be made again. One of what was
            // before is of no branch.
            Mutation::Take(taken)
                if taken.branch == self.branch && self.snapshots.contains_key(&taken.id) =>
            {
                self.stand_on(taken.id, self.branch);
            }
            Mutation::Back { branch, id, .. } if branch == self.branch => {
                let of = self.snapshots.get(&id).map(|s| s.branch);
                self.stand_on(id, of.unwrap_or(branch));
            }
            Mutation::Fork(fork) if fork.id == self.branch => {
                let mut all = self.snapshots.values();
                let from = all.find(|s| s.branch == fork.parent && s.epoch == fork.epoch);
                self.stand_on(from.map_or(0, |s| s.id), fork.parent);
            }
            _ if matches!(self.base, Base::Unknown) => {}
            Mutation::Put { key, value, new } if self.is_ours(&key) => {
                let key = key.on(Branch::HEAD);
                self.again(Mutation::Put { key, value, new });
            }
            Mutation::Del { key } if self.is_ours(&key) => {
                let key = key.on(Branch::HEAD);
                self.again(Mutation::Del { key });
            }
            Mutation::Patch { key, fragment } if self.is_ours(&key) => {
                let key = key.on(Branch::HEAD);
                self.again(Mutation::Patch { key, fragment });
            }
            Mutation::Count {
                branch,
                counter,
                delta,
            } if branch == self.branch => {
                let branch = Branch::HEAD;
                self.again(Mutation::Count {
                    branch,
                    counter,
                    delta,
                });
            }
            // Of other branches, or of snapshots, which change nothing of what is there.
            Mutation::Put { .. }
            | Mutation::Del { .. }
            | Mutation::Patch { .. }
            | Mutation::Count { .. }
            | Mutation::Take(_)
            | Mutation::Drop { .. }
            | Mutation::Back { .. }
            | Mutation::Fork(_)
            | Mutation::Prune { .. }
            | Mutation::Begin { .. }
            | Mutation::Who { .. } => {}
        }
    }

    fn is_ours(&self, key: &Key) -> bool {
        key.branch() == self.branch
    }

    fn again(&mut self, mutation: Mutation) {
        Core::redo(&self.since, mutation, &mut self.counters);
    }
}

/// Why a moment is not to be had.
fn unknown(why: impl fmt::Display) -> Error {
    let remedy = "`razorfs log` shows what there is; snapshots are kept until they are deleted";
    Error::NoMoment(format!("{why}; {remedy}").into())
}

impl Store {
    /// What a branch was at a moment, for reading. The snapshot that it rests on stays at least
    /// until this is dropped.
    pub fn moment(&self, when: When) -> Result<Self> {
        let batches = self.history(BatchSeq(0))?;
        let until = match when {
            When::Lsn(lsn) => batches.partition_point(|b| Reached::of(b).lsn < lsn) + 1,
            When::Time(time) => batches
                .iter()
                .rposition(|b| b.wall_ns <= time)
                .map_or(0, |n| n + 1),
        };
        let reached = until.checked_sub(1).and_then(|last| batches.get(last));
        let Some(reached) = reached.map(Reached::of) else {
            return Err(match (when, batches.first(), batches.last()) {
                (When::Lsn(lsn), _, Some(last)) => unknown(format_args!(
                    "operation {lsn} was not done yet; the last one is {}",
                    Reached::of(last).lsn
                )),
                _ => unknown("the journal does not go back so far"),
            });
        };
        let timeline = Arc::clone(&self.version.load().timeline);
        let there = timeline.snapshots().iter();
        let mut way = Way::new(self.branch(), there.map(|s| &**s));
        if let Some(first) = batches.first() {
            if matches!(when, When::Lsn(lsn) if lsn < first.first_lsn.0) {
                return Err(unknown(format_args!(
                    "the journal goes back to operation {} only",
                    first.first_lsn
                )));
            }
            way.begin(first.first_lsn);
        }
        for batch in batches.iter().take(until) {
            way.follow(batch)?;
        }
        let (base, view) = match way.base {
            Base::Unknown => {
                return Err(unknown(
                    "no snapshot stands before that from which the journal is whole",
                ));
            }
            Base::Nothing => (None, View::up_to(Epoch(0))),
            Base::Snapshot(snapshot) => {
                let core = &self.checkpointer.core;
                let find = |timeline: &Timeline| {
                    let mut all = timeline.snapshots().iter();
                    all.find(|s| s.id == snapshot.id)
                        .map(|s| SnapshotMeta::clone(s))
                };
                let held = self.checkpointer.releasing_none(|| Viewing::of(core, find));
                let (viewing, view) = held.map_err(|e| match e {
                    Error::NotFound => unknown("the snapshot before that was deleted just now"),
                    e => e,
                })?;
                (Some(viewing), view)
            }
        };
        let moment = Moment {
            view,
            since: Arc::new(way.since),
        };
        let replayed = Replayed {
            reached,
            base,
            counters: way.counters,
        };
        Ok(self.with_role(At::Moment(Arc::new(moment)), Role::Moment(replayed)))
    }

    /// Whether it is for reading what was.
    pub fn is_past(&self) -> bool {
        matches!(self.role, Role::Snapshot(_) | Role::Moment(_))
    }

    /// The moment that this is, if it is one.
    pub fn replayed(&self) -> Option<&Replayed> {
        match &self.role {
            Role::Moment(replayed) => Some(replayed),
            _ => None,
        }
    }
}
