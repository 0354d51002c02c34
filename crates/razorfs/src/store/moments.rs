//! What the volume was between two snapshots: what a snapshot shows, and what the journal still has
//! of what was done after it, done again over that.
//!
//! A moment is the end of a batch, which is a state that a crash could have left. Nothing holds
//! what was written after the snapshot and overwritten since: where it has gone a reader is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
    /// Nothing: the volume was made then.
    Nothing,
    Snapshot(SnapshotMeta),
}

/// The way back from a moment to what it is counted from: the journal from its end to its
/// beginning, along the branch.
struct Way<'a> {
    /// The snapshots that are there, those that were given up and not released among them.
    snapshots: BTreeMap<u64, &'a SnapshotMeta>,
    /// The branch; none before it began, or went to a snapshot that is gone.
    line: Option<Branch>,
    /// What is to be done over it, the last first.
    since: Vec<Mutation>,
}

impl<'a> Way<'a> {
    fn new(branch: Branch, snapshots: impl Iterator<Item = &'a SnapshotMeta>) -> Self {
        Self {
            snapshots: snapshots.map(|s| (s.id, s)).collect(),
            line: Some(branch),
            since: Vec::new(),
        }
    }

    /// Goes back, until it is found what everything is counted from.
    fn back(&mut self, batches: &[Batch]) -> Result<Option<Base>> {
        // The batches passed their checksums; the place names the journal for what they cannot
        // catch.
        let place = Place::new(FileName::Journal(0), 0);
        for batch in batches.iter().rev() {
            let ops = decode_ops(&batch.payload, place)?.into_iter().rev();
            for mutation in ops.flat_map(|op| op.mutations.into_iter().rev()) {
                let Some(line) = self.line else {
                    return Ok(None);
                };
                if let Some(base) = self.step(line, mutation) {
                    return Ok(Some(base));
                }
            }
        }
        // A snapshot that was taken by the operation before these is no base: that may have gone
        // back to another one with it.
        let is_first = |batch: &Batch| batch.first_lsn == Lsn(1);
        let is_all = self.line == Some(Branch::HEAD) && batches.first().is_some_and(is_first);
        Ok(is_all.then_some(Base::Nothing))
    }

    fn step(&mut self, line: Branch, mutation: Mutation) -> Option<Base> {
        match mutation {
            // Of what that shows there is nothing more to be made again. One of what was before is
            // of no branch.
            Mutation::Take(taken) if taken.branch == line => {
                self.snapshots.get(&taken.id).map(|s| Base::of(s))
            }
            Mutation::Back { branch, id, .. } if branch == line => {
                self.line = None;
                self.snapshots.get(&id).map(|s| Base::of(s))
            }
            Mutation::Fork(fork) if fork.id == line => {
                self.line = None;
                let mut all = self.snapshots.values();
                // Where the snapshot is gone, what stands for it is of no branch.
                let of = [fork.parent, Branch::NONE];
                let from = all.find(|s| of.contains(&s.branch) && s.epoch == fork.epoch);
                from.map(|s| Base::of(s))
            }
            mutation if branch_of(&mutation) == Some(line) => {
                self.since.push(mutation);
                None
            }
            // Of other branches, or of snapshots, which change nothing of what is there.
            _ => None,
        }
    }

    /// What is to be done over what everything is counted from, as that of the present.
    fn again(self, counters: &mut CountersAt) -> Memtable {
        let since = Memtable::new(Epoch(0));
        for mutation in self.since.into_iter().rev() {
            Core::redo(&since, on_head(mutation), counters);
        }
        since
    }
}

impl Base {
    fn of(snapshot: &SnapshotMeta) -> Self {
        Self::Snapshot(snapshot.clone())
    }
}

/// The branch that a change of a record or a counter is of.
fn branch_of(mutation: &Mutation) -> Option<Branch> {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Del { key } | Mutation::Patch { key, .. } => {
            Some(key.branch())
        }
        Mutation::Count { branch, .. } => Some(*branch),
        Mutation::Take(_)
        | Mutation::Drop { .. }
        | Mutation::Back { .. }
        | Mutation::Fork(_)
        | Mutation::Prune { .. }
        | Mutation::Begin { .. }
        | Mutation::Who { .. } => None,
    }
}

fn on_head(mut mutation: Mutation) -> Mutation {
    match &mut mutation {
        Mutation::Put { key, .. } | Mutation::Del { key } | Mutation::Patch { key, .. } => {
            *key = key.on(Branch::HEAD);
        }
        Mutation::Count { branch, .. } => *branch = Branch::HEAD,
        _ => {}
    }
    mutation
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
        if let (When::Lsn(lsn), Some(first)) = (when, batches.first())
            && lsn < first.first_lsn.0
        {
            let first = first.first_lsn;
            return Err(unknown(format_args!(
                "the journal goes back to operation {first} only"
            )));
        }
        let timeline = Arc::clone(&self.version.load().timeline);
        let there = timeline.snapshots().iter();
        let mut way = Way::new(self.branch(), there.map(|s| &**s));
        let base = way.back(batches.get(..until).unwrap_or_default())?;
        let base = base.ok_or_else(|| {
            unknown("no snapshot stands before that from which the journal is whole")
        })?;
        let mut counters = CountersAt {
            inodes: 0,
            bytes: 0,
            next_ino: Ino(0),
            lsn: Lsn(0),
            forks: BTreeMap::new(),
        };
        let (base, view) = match base {
            Base::Nothing => (None, View::up_to(Epoch(0))),
            Base::Snapshot(snapshot) => {
                counters.set(Branch::HEAD, snapshot.inodes, snapshot.bytes);
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
        let since = Arc::new(way.again(&mut counters));
        let moment = Moment { view, since };
        let replayed = Replayed {
            reached,
            base,
            counters,
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
