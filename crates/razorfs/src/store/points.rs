//! Snapshots and branches: making one, giving one up, going back to one. Each is one operation of
//! the journal, and durable when the call returns.
//!
//! A snapshot is the end of an epoch. Taking one freezes the memtable, as a checkpoint does; its
//! operation ends the last batch of that epoch, so that a replay freezes at the same place. What is
//! in a batch beside such an operation comes before it, wherever it stands.
//!
//! Where there are branches, each of these operations ends the epochs of all of them, unless nobody
//! has written anything in these, and says which one the head has next: a replay has several epochs
//! in one memtable, and could not tell otherwise whose have come to their end.
//!
//! Going back is a change of what the present shows of the layers, and nothing is moved. Its
//! operation is durable before anybody sees the change: nothing can be done in the new state, and
//! be told elsewhere, that a replay would do in the old one.

use std::sync::Arc;

use razorfs_format::manifest::{ForkMeta, SnapshotMeta};
use razorfs_format::op::{Mutation, OpType};
use razorfs_format::timeline::Timeline;
use razorfs_format::{Branch, Epoch};

use super::batch::OpenBatch;
use super::commit::Waiting;
use super::tx::OVERHEAD;
use super::{Core, CountersAt, Journal, Version, Viewing};
use crate::marks::{self, Mark};
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// How often room is made in the journal for one of these operations.
const ROOM_TRIES: u32 = 4;

/// What is to be done.
enum Change<'a> {
    Take(&'a [u8]),
    /// Takes one of what the one of this number shows, be that given up.
    Again(&'a [u8], u64),
    Drop(&'a [u8]),
    Back {
        to: &'a [u8],
        /// Name of the snapshot that is taken before.
        safety: &'a [u8],
        /// Whether the snapshot that it goes back to is given up.
        drops: bool,
    },
    /// Takes one that was received, and gives up the one that was taken before that began.
    Received {
        name: &'a [u8],
        time: u64,
        before: &'a [u8],
    },
    /// A branch of that name begins.
    Fork {
        name: &'a [u8],
        /// The snapshot that it goes on from, or the present.
        from: Option<&'a [u8]>,
    },
    /// The branch ends.
    Prune,
}

/// What becomes of the volume.
struct Planned {
    /// The operation.
    mutations: Vec<u8>,
    timeline: Timeline,
    /// The active memtable is frozen.
    freezes: bool,
    /// The counters of the branch, unless they stay.
    counters: Option<(u64, u128)>,
    /// The snapshot that it is about.
    snapshot: SnapshotMeta,
    /// The branch that begins.
    forked: Option<ForkMeta>,
}

impl Planned {
    /// What is done to the snapshots by these operations.
    fn new(mutations: &[Mutation], timeline: Timeline, snapshot: SnapshotMeta) -> Self {
        let mut encoded = Vec::new();
        for mutation in mutations {
            mutation.encode(&mut encoded);
        }
        Self {
            mutations: encoded,
            timeline,
            freezes: false,
            counters: None,
            snapshot,
            forked: None,
        }
    }
}

/// While there is one, writers leave the open batch small: what was written before an operation on
/// snapshots is durable when that returns, and should be no more than what was there when it began.
struct Announced<'a>(&'a Core);

impl<'a> Announced<'a> {
    fn new(core: &'a Core) -> Self {
        core.points.fetch_add(1, Ordering::Relaxed);
        Self(core)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.points.fetch_sub(1, Ordering::Relaxed);
        // Under the lock, so that no writer misses it between look and wait.
        let _open = self.0.open.lock();
        self.0.signals.room.notify_all();
    }
}

impl Core {
    /// Whether somebody waits for an operation on snapshots, and the open batch would have more
    /// with so many bytes of data than goes to the journal in one flush.
    pub(super) fn is_left_small(&self, open: &OpenBatch, data: usize) -> bool {
        let enough = self.limits.inline_sync();
        self.points.load(Ordering::Relaxed) > 0
            && (open.journal_bytes > enough || open.dirty_bytes + data > enough)
    }

    /// Takes a snapshot of the present of a branch under a name that no other has. On the disk when
    /// this returns.
    pub fn take_snapshot(&self, branch: Branch, name: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(branch, &Change::Take(name))
            .map(|planned| planned.snapshot)
    }

    /// Takes another snapshot of what one shows, which somebody looks at. On the disk when this
    /// returns.
    pub fn take_again(&self, of: &Viewing, name: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(Branch::HEAD, &Change::Again(name, of.snapshot.id))
            .map(|planned| planned.snapshot)
    }

    /// Gives a snapshot up; what only it holds is given back in the background. On the disk when
    /// this returns.
    pub fn drop_snapshot(&self, name: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(Branch::HEAD, &Change::Drop(name))
            .map(|planned| planned.snapshot)
    }

    /// A branch goes back to a snapshot, after one was taken of its present, which is answered. On
    /// the disk when this returns. The caller keeps everybody out who has read what is gone then.
    pub fn roll_back(&self, branch: Branch, to: &[u8], safety: &[u8]) -> Result<SnapshotMeta> {
        let drops = false;
        self.change_points(branch, &Change::Back { to, safety, drops })
            .map(|planned| planned.snapshot)
    }

    /// The head goes to a snapshot and gives it up, after one was taken of the present, which is
    /// answered: the two change places.
    pub fn change_places(&self, to: &[u8], safety: &[u8]) -> Result<SnapshotMeta> {
        let drops = true;
        self.change_points(Branch::HEAD, &Change::Back { to, safety, drops })
            .map(|planned| planned.snapshot)
    }

    /// Takes a snapshot of the head as one of this time, and gives up another.
    pub fn take_received(&self, name: &[u8], time: u64, before: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(Branch::HEAD, &Change::Received { name, time, before })
            .map(|planned| planned.snapshot)
    }

    /// Makes a branch that goes on from a snapshot, or from the present of another branch, under a
    /// name that no snapshot or branch has. On the disk when this returns.
    pub fn fork(&self, parent: Branch, name: &[u8], from: Option<&[u8]>) -> Result<ForkMeta> {
        let planned = self.change_points(parent, &Change::Fork { name, from })?;
        match planned.forked {
            Some(meta) => Ok(meta),
            None => unreachable!("a fork makes a branch"),
        }
    }

    /// Ends a branch, which nobody has open; what only it holds is given back in the background.
    /// On the disk when this returns.
    pub fn prune(&self, branch: Branch) -> Result<()> {
        self.change_points(branch, &Change::Prune).map(drop)
    }

    fn change_points(&self, branch: Branch, change: &Change<'_>) -> Result<Planned> {
        let _announced = Announced::new(self);
        for _ in 0..ROOM_TRIES {
            let mut journal = self.journal();
            let mut waiting = Waiting::default();
            let changed = self.change_locked(&mut journal, branch, change, &mut waiting);
            drop(journal);
            let told = changed.as_ref().map(|_| true).map_err(Clone::clone);
            waiting.answer(&told);
            match changed? {
                Some(planned) => return Ok(planned),
                None => {
                    marks::hit(Mark::PointWaitsForRoom);
                    self.checkpoint_for_room()?;
                }
            }
        }
        Err(Error::Invalid("the journal has no room for it; try again"))
    }

    /// Does it; nothing if the journal has no room.
    fn change_locked(
        &self,
        journal: &mut Journal,
        branch: Branch,
        change: &Change<'_>,
        waiting: &mut Waiting,
    ) -> Result<Option<Planned>> {
        self.check_writable()?;
        // The bulk first: if the host has no room for it nothing has changed yet.
        let gate = self.shut_without_bulk(journal, waiting)?;
        let version = self.version.load_full();
        let mut open = self.open.lock();
        let planned = self.plan(branch, change, &version, &open)?;
        let size = planned.mutations.len() + OVERHEAD;
        // What needs no pack needs no room on the host: from here on it is done, or the volume
        // stops.
        if !self
            .limits
            .fits_point(open.journal_bytes + size, open.dirty_bytes)
        {
            return Ok(None);
        }
        open.append(OpType::Snapshot, &planned.mutations);
        open.is_used = true;
        open.journal_bytes += size;
        let mut sealed = self.seal_over(&mut open, Arc::clone(&version.active));
        waiting.now.append(&mut sealed.waiters);
        let (cut, lsn) = (open.seq, open.first_lsn);
        if let Some((inodes, bytes)) = planned.counters {
            // The gate stays shut until it is durable; whatever goes wrong, the journal decides.
            drop(open);
            self.write_sealed(journal, sealed, true)
                .inspect_err(|e| self.fail(e))?;
            self.set_tally(branch, inodes, bytes);
            self.publish_points(&version, &planned, cut, lsn);
            drop(gate);
        } else {
            if let Some(meta) = &planned.forked {
                self.forked.store(sealed.seq.0, Ordering::Release);
                self.set_tally(meta.id, meta.inodes, meta.bytes);
            }
            self.publish_points(&version, &planned, cut, lsn);
            drop(open);
            drop(gate);
            self.write_sealed(journal, sealed, true)?;
        }
        match change {
            // Space comes back once a generation knows of it.
            Change::Prune => {
                self.forget_tally(branch);
                self.want_checkpoint();
            }
            Change::Drop(_) | Change::Back { drops: true, .. } | Change::Received { .. } => {
                self.want_checkpoint();
            }
            _ => self.wake_maintenance(),
        }
        Ok(Some(planned))
    }

    fn plan(
        &self,
        branch: Branch,
        change: &Change<'_>,
        version: &Version,
        open: &OpenBatch,
    ) -> Result<Planned> {
        let mut timeline = Timeline::clone(&version.timeline);
        let find = |name: &[u8]| version.timeline.find(name).cloned().ok_or(Error::NotFound);
        let tip = tip(version, branch)?;
        match change {
            Change::Take(name) => {
                let taken = self.taken(branch, open, name, tip);
                plan_take(version, timeline, taken, None)
            }
            Change::Again(name, id) => {
                let mut all = timeline.snapshots().iter();
                let of = all.find(|s| s.id == *id).ok_or(Error::NotFound)?;
                let mut taken = self.taken(Branch::NONE, open, name, of.epoch);
                (taken.inodes, taken.bytes) = (of.inodes, of.bytes);
                plan_take(version, timeline, taken, None)
            }
            Change::Received { name, time, before } => {
                let mut taken = self.taken(branch, open, name, tip);
                taken.time = *time;
                plan_take(version, timeline, taken, Some(find(before)?.id))
            }
            Change::Drop(name) => {
                let dropped = find(name)?;
                let id = dropped.id;
                timeline.give_up(id);
                let mutations = vec![Mutation::Drop { id }];
                Ok(Planned::new(&mutations, timeline, dropped))
            }
            Change::Back { to, safety, drops } => {
                let to = find(to)?;
                check_free(version, safety)?;
                let end = match branch {
                    // Also where nothing was written: the head has this epoch.
                    Branch::HEAD => version.active.epoch,
                    _ => tip,
                };
                let taken = self.taken(branch, open, safety, end);
                timeline.add(taken.clone());
                if !timeline.roll_back(branch, to.epoch, end) {
                    return Err(Error::Invalid(
                        "the snapshot is not on the way to the present",
                    ));
                }
                let take = Mutation::Take(taken.clone());
                let id = to.id;
                let mut mutations = vec![take, Mutation::Back { branch, id, end }];
                if *drops {
                    mutations.push(Mutation::Drop { id });
                    timeline.give_up(id);
                }
                let freezes = branch == Branch::HEAD;
                let mut planned = plan_end(version, mutations, timeline, taken, freezes);
                planned.counters = Some((to.inodes, to.bytes));
                Ok(planned)
            }
            Change::Fork { name, from } => {
                check_free(version, name)?;
                let from = from.map(find).transpose()?;
                let parent = (branch, tip);
                self.plan_fork(version, parent, name, from, timeline, open)
            }
            Change::Prune => {
                let mut taken = self.taken(branch, open, b"", tip);
                taken.gone = true;
                timeline.add(taken.clone());
                timeline.prune(branch);
                let take = Mutation::Take(taken.clone());
                let mutations = vec![take, Mutation::Prune { branch }];
                Ok(plan_end(version, mutations, timeline, taken, false))
            }
        }
    }

    /// A branch that goes on from a snapshot, or from the tip of its parent.
    fn plan_fork(
        &self,
        version: &Version,
        (parent, tip): (Branch, Epoch),
        name: &[u8],
        from: Option<SnapshotMeta>,
        mut timeline: Timeline,
        open: &OpenBatch,
    ) -> Result<Planned> {
        let freezes = from.is_none() && tip == version.active.epoch;
        // It stays as long as something goes on from it, and nobody sees it.
        let mut point = self.taken(parent, open, b"", tip);
        point.gone = true;
        let parent = from.as_ref().map_or(parent, |from| from.branch);
        if let Some(from) = from {
            // Of no branch: what any of them shows now is something else.
            (point.epoch, point.branch) = (from.epoch, Branch::NONE);
            (point.inodes, point.bytes) = (from.inodes, from.bytes);
        }
        let meta = ForkMeta {
            id: timeline.forks().next,
            parent,
            epoch: point.epoch,
            time: point.time,
            inodes: point.inodes,
            bytes: point.bytes,
            name: name.into(),
        };
        timeline.add(point.clone());
        if !timeline.fork(meta.clone()) {
            return Err(Error::Invalid("the volume takes no more branches"));
        }
        let mutations = vec![Mutation::Take(point.clone()), Mutation::Fork(meta.clone())];
        let mut planned = plan_end(version, mutations, timeline, point, freezes);
        planned.forked = Some(meta);
        Ok(planned)
    }

    /// The snapshot that is taken of the present.
    fn taken(&self, branch: Branch, open: &OpenBatch, name: &[u8], epoch: Epoch) -> SnapshotMeta {
        SnapshotMeta {
            // The number of its operation, which no other has.
            id: open.first_lsn.0 + u64::from(open.n_ops),
            branch,
            epoch,
            gone: false,
            time: self.env.now(),
            inodes: self.inodes_of(branch),
            bytes: self.sizes_of(branch),
            name: name.into(),
        }
    }

    /// Everybody sees it from now on. The caller has the gate for itself.
    fn publish_points(
        &self,
        version: &Version,
        planned: &Planned,
        cut: razorfs_format::BatchSeq,
        lsn: razorfs_format::Lsn,
    ) {
        let timeline = Arc::new(planned.timeline.clone());
        if planned.freezes {
            let counters = self.counters_at(lsn);
            self.push_frozen(version, cut, counters, timeline);
            self.begin_cut();
            return;
        }
        self.version
            .store(Arc::new(version.with_timeline(timeline)));
    }
}

/// The newest epoch of what a branch shows now.
fn tip(version: &Version, branch: Branch) -> Result<Epoch> {
    let active = &version.active;
    if branch != Branch::HEAD {
        return version.timeline.newest_of(branch).ok_or(Error::BranchGone);
    }
    // Where nothing has changed since, the epoch before shows the same.
    let is_idle = active.is_empty() && !active.has_forks();
    let before = Epoch(active.epoch.0.saturating_sub(1));
    let before = version.head.newest(before);
    let before = before.filter(|epoch| is_idle && epoch.0 > 0);
    Ok(before.unwrap_or(active.epoch))
}

/// The plan of a snapshot of the present, with which another one is given up or none.
fn plan_take(
    version: &Version,
    mut timeline: Timeline,
    taken: SnapshotMeta,
    gone: Option<u64>,
) -> Result<Planned> {
    check_free(version, &taken.name)?;
    timeline.add(taken.clone());
    let mut mutations = vec![Mutation::Take(taken.clone())];
    if let Some(id) = gone {
        timeline.give_up(id);
        mutations.push(Mutation::Drop { id });
    }
    let freezes = taken.epoch == version.active.epoch;
    Ok(plan_end(version, mutations, timeline, taken, freezes))
}

/// The plan of an operation that ends epochs: that of the head if it `freezes`, and where there are
/// branches, all that are in use.
fn plan_end(
    version: &Version,
    mut mutations: Vec<Mutation>,
    timeline: Timeline,
    snapshot: SnapshotMeta,
    freezes: bool,
) -> Planned {
    let active = &version.active;
    let mut freezes = freezes;
    if !timeline.forks().is_trivial() {
        freezes |= !active.is_empty() || active.has_forks();
        let epoch = match freezes {
            true => active.last_epoch().next(),
            false => active.epoch,
        };
        let branch = Branch::HEAD;
        mutations.insert(0, Mutation::Begin { branch, epoch });
    }
    let mut planned = Planned::new(&mutations, timeline, snapshot);
    planned.freezes = freezes;
    planned
}

/// Fails if a snapshot or a branch has the name.
fn check_free(version: &Version, name: &[u8]) -> Result<()> {
    let timeline = &version.timeline;
    match timeline.find(name).is_some() || timeline.find_fork(name).is_some() {
        true => Err(Error::Exists),
        false => Ok(()),
    }
}

/// What a replay does to the snapshots at the end of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    Take(SnapshotMeta),
    Drop(u64),
    Back {
        branch: Branch,
        id: u64,
        end: Epoch,
    },
    Fork(ForkMeta),
    Prune(Branch),
    /// The head writes in this epoch or a later one, and whatever is before is older.
    Next(Epoch),
}

impl Point {
    /// Of a mutation, if it is one of those.
    pub fn of(mutation: &Mutation) -> Option<Self> {
        Some(match mutation {
            Mutation::Take(snapshot) => Self::Take(snapshot.clone()),
            Mutation::Drop { id } => Self::Drop(*id),
            Mutation::Back { branch, id, end } => Self::Back {
                branch: *branch,
                id: *id,
                end: *end,
            },
            Mutation::Fork(meta) => Self::Fork(meta.clone()),
            Mutation::Prune { branch } => Self::Prune(*branch),
            Mutation::Begin {
                branch: Branch::HEAD,
                epoch,
            } => Self::Next(*epoch),
            _ => return None,
        })
    }

    /// What it makes of the snapshots, and of the counters. Answers why not, if it cannot be.
    pub fn redo(
        self,
        timeline: &mut Timeline,
        counters: &mut CountersAt,
    ) -> std::result::Result<(), &'static str> {
        match self {
            Self::Take(snapshot) => {
                if timeline.line(snapshot.epoch).is_none() {
                    return Err("a snapshot of an epoch that is no part of the volume");
                }
                timeline.add(snapshot);
            }
            Self::Drop(id) => {
                // It may have been released since.
                timeline.give_up(id);
            }
            Self::Back { branch, id, end } => {
                let to = timeline.snapshots().iter().find(|s| s.id == id).cloned();
                let to = to.ok_or("a rollback to a snapshot that is not there")?;
                if !timeline.roll_back(branch, to.epoch, end) {
                    return Err("a rollback to what is not before it");
                }
                counters.set(branch, to.inodes, to.bytes);
            }
            Self::Fork(meta) => {
                let (id, inodes, bytes) = (meta.id, meta.inodes, meta.bytes);
                if !timeline.fork(meta) {
                    return Err("a branch that goes on from nothing, or that is there already");
                }
                counters.set(id, inodes, bytes);
            }
            Self::Prune(branch) => {
                if !timeline.prune(branch) {
                    return Err("the end of a branch that is not there");
                }
                counters.forks.remove(&branch);
            }
            // The memtable's matter.
            Self::Next(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "points_tests.rs"]
mod tests;
