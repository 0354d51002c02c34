//! Snapshots: taking one, giving one up, going back to one. Each is one operation of the journal,
//! and durable when the call returns.
//!
//! A snapshot is the end of an epoch. Taking one freezes the memtable, as a checkpoint does; its
//! operation ends the last batch of that epoch, so that a replay freezes at the same place. What is
//! in a batch beside such an operation comes before it, wherever it stands.
//!
//! Going back is a change of what the present shows of the layers, and nothing is moved. Its
//! operation is durable before anybody sees the change: nothing can be done in the new state, and
//! be told elsewhere, that a replay would do in the old one.

use std::sync::Arc;

use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::op::{Mutation, OpType};
use razorfs_format::timeline::{Timeline, View};
use razorfs_format::{Branch, Epoch};

use super::batch::OpenBatch;
use super::tx::OVERHEAD;
use super::{Core, CountersAt, Journal, Version, Waiter};
use crate::marks::{self, Mark};
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// How often room is made in the journal for one of these operations.
const ROOM_TRIES: u32 = 4;

/// What is to be done.
enum Change<'a> {
    Take(&'a [u8]),
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
}

/// What becomes of the volume.
struct Planned {
    /// The operation.
    mutations: Vec<u8>,
    timeline: Timeline,
    /// The active memtable is frozen.
    freezes: bool,
    /// The counters, unless they stay.
    counters: Option<(u64, u128)>,
    /// The snapshot that it is about.
    snapshot: SnapshotMeta,
}

impl Core {
    /// Takes a snapshot of the present under a name that no other has. On the disk when this
    /// returns.
    pub fn take_snapshot(&self, name: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(&Change::Take(name))
    }

    /// Gives a snapshot up; what only it holds is given back in the background. On the disk when
    /// this returns.
    pub fn drop_snapshot(&self, name: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(&Change::Drop(name))
    }

    /// Goes back to a snapshot, after taking one of the present, which is answered. On the disk
    /// when this returns. The caller keeps everybody out who has read what is gone then.
    pub fn roll_back(&self, to: &[u8], safety: &[u8]) -> Result<SnapshotMeta> {
        let drops = false;
        self.change_points(&Change::Back { to, safety, drops })
    }

    /// Goes to a snapshot and gives it up, after taking one of the present, which is answered: the
    /// two change places.
    pub fn change_places(&self, to: &[u8], safety: &[u8]) -> Result<SnapshotMeta> {
        let drops = true;
        self.change_points(&Change::Back { to, safety, drops })
    }

    /// Takes a snapshot of the present as one of this time, and gives up another.
    pub fn take_received(&self, name: &[u8], time: u64, before: &[u8]) -> Result<SnapshotMeta> {
        self.change_points(&Change::Received { name, time, before })
    }

    fn change_points(&self, change: &Change<'_>) -> Result<SnapshotMeta> {
        for _ in 0..ROOM_TRIES {
            let mut journal = self.journal();
            let mut waiters = Vec::new();
            let changed = self.change_locked(&mut journal, change, &mut waiters);
            drop(journal);
            let told = changed.as_ref().map(|_| true).map_err(Clone::clone);
            super::commit::answer(waiters, &told);
            match changed? {
                Some(snapshot) => return Ok(snapshot),
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
        change: &Change<'_>,
        waiters: &mut Vec<Waiter>,
    ) -> Result<Option<SnapshotMeta>> {
        self.check_writable()?;
        // The bulk first: if the host has no room for it nothing has changed yet.
        self.commit_locked(journal, false, waiters)?;
        let gate = self.gate.write();
        let version = self.version.load_full();
        let mut open = self.open.lock();
        let planned = self.plan(change, &version, &open)?;
        let size = planned.mutations.len() + OVERHEAD;
        if !self.limits.fits(open.journal_bytes + size) {
            return Ok(None);
        }
        open.append(OpType::Snapshot, &planned.mutations);
        open.is_used = true;
        open.journal_bytes += size;
        let mut sealed = self.seal_over(&mut open, Arc::clone(&version.active));
        waiters.append(&mut sealed.waiters);
        let (cut, lsn) = (open.seq, open.first_lsn);
        let snapshot = planned.snapshot.clone();
        if let Some((inodes, bytes)) = planned.counters {
            // The gate stays shut until it is durable; whatever goes wrong, the journal decides.
            drop(open);
            self.write_sealed(journal, sealed, true)
                .inspect_err(|e| self.fail(e))?;
            self.inodes.store(inodes as i64, Ordering::Relaxed);
            self.bytes.set(bytes);
            self.publish_points(&version, planned, cut, lsn);
            drop(gate);
        } else {
            self.publish_points(&version, planned, cut, lsn);
            drop(open);
            drop(gate);
            self.write_sealed(journal, sealed, true)?;
        }
        match change {
            // Space comes back once a generation knows of it.
            Change::Drop(_) | Change::Back { drops: true, .. } | Change::Received { .. } => {
                self.want_checkpoint();
            }
            _ => self.wake_maintenance(),
        }
        Ok(Some(snapshot))
    }

    fn plan(&self, change: &Change<'_>, version: &Version, open: &OpenBatch) -> Result<Planned> {
        let mut timeline = Timeline::clone(&version.timeline);
        let mut mutations = Vec::new();
        let find = |name: &[u8]| version.timeline.find(name).cloned().ok_or(Error::NotFound);
        let (snapshot, freezes, counters) = match change {
            Change::Take(name) => {
                let (epoch, freezes) = end_of_present(version);
                let taken = self.taken(version, open, name, epoch)?;
                Mutation::Take(taken.clone()).encode(&mut mutations);
                timeline.add(taken.clone());
                (taken, freezes, None)
            }
            Change::Received { name, time, before } => {
                let before = find(before)?;
                let (epoch, freezes) = end_of_present(version);
                let mut taken = self.taken(version, open, name, epoch)?;
                taken.time = *time;
                Mutation::Take(taken.clone()).encode(&mut mutations);
                Mutation::Drop { id: before.id }.encode(&mut mutations);
                timeline.add(taken.clone());
                timeline.give_up(before.id);
                (taken, freezes, None)
            }
            Change::Drop(name) => {
                let dropped = find(name)?;
                Mutation::Drop { id: dropped.id }.encode(&mut mutations);
                timeline.give_up(dropped.id);
                (dropped, false, None)
            }
            Change::Back { to, safety, drops } => {
                let to = find(to)?;
                let end = version.active.epoch;
                let taken = self.taken(version, open, safety, end)?;
                let (id, inodes, bytes) = (to.id, to.inodes, to.bytes);
                Mutation::Take(taken.clone()).encode(&mut mutations);
                Mutation::Back { id, end }.encode(&mut mutations);
                timeline.add(taken.clone());
                if !timeline.roll_back(to.epoch, end) {
                    return Err(Error::Invalid(
                        "the snapshot is not on the way to the present",
                    ));
                }
                if *drops {
                    Mutation::Drop { id }.encode(&mut mutations);
                    timeline.give_up(id);
                }
                (taken, true, Some((inodes, bytes)))
            }
        };
        Ok(Planned {
            mutations,
            timeline,
            freezes,
            counters,
            snapshot,
        })
    }

    /// The snapshot that is taken of the present.
    fn taken(
        &self,
        version: &Version,
        open: &OpenBatch,
        name: &[u8],
        epoch: Epoch,
    ) -> Result<SnapshotMeta> {
        if version.timeline.find(name).is_some() {
            return Err(Error::Exists);
        }
        Ok(SnapshotMeta {
            // The number of its operation, which no other has.
            id: open.first_lsn.0 + u64::from(open.n_ops),
            branch: Branch::HEAD,
            epoch,
            gone: false,
            time: self.env.now(),
            inodes: self.inodes.load(Ordering::Relaxed).max(0) as u64,
            bytes: self.bytes.get(),
            name: name.into(),
        })
    }

    /// Everybody sees it from now on. The caller has the gate for itself.
    fn publish_points(
        &self,
        version: &Version,
        planned: Planned,
        cut: razorfs_format::BatchSeq,
        lsn: razorfs_format::Lsn,
    ) {
        let timeline = Arc::new(planned.timeline);
        if planned.freezes {
            let counters = self.counters_at(lsn);
            self.push_frozen(version, cut, counters, timeline);
            self.begin_cut();
            return;
        }
        let head = timeline.head();
        self.version.store(Arc::new(Version {
            active: Arc::clone(&version.active),
            frozen: version.frozen.clone(),
            levels: version.levels.clone(),
            timeline,
            head,
        }));
    }
}

/// The epoch of a snapshot of the present, and whether the memtable is frozen for it: where nothing
/// has changed since, the epoch before shows the same.
fn end_of_present(version: &Version) -> (Epoch, bool) {
    let now = version.active.epoch;
    let before = version.head.newest(Epoch(now.0 - 1));
    match before.filter(|epoch| epoch.0 > 0 && version.active.is_empty()) {
        Some(before) => (before, false),
        None => (now, true),
    }
}

/// Somebody looks at a snapshot: until this is dropped it is not released.
pub(crate) struct Viewing {
    core: Arc<Core>,
    pub snapshot: SnapshotMeta,
}

impl Viewing {
    /// Of a snapshot that was not given up.
    pub fn new(core: &Arc<Core>, name: &[u8]) -> Result<(Self, View)> {
        let mut viewed = core.viewed.lock();
        // Under the lock: whoever gives it up from here on finds it in use.
        let timeline = Arc::clone(&core.version.load().timeline);
        let snapshot = timeline.find(name).cloned().ok_or(Error::NotFound)?;
        *viewed.entry(snapshot.id).or_default() += 1;
        drop(viewed);
        let view = timeline.view(snapshot.epoch);
        let core = Arc::clone(core);
        Ok((Self { core, snapshot }, view))
    }
}

impl Drop for Viewing {
    fn drop(&mut self) {
        let mut viewed = self.core.viewed.lock();
        if let Some(n) = viewed.get_mut(&self.snapshot.id) {
            *n -= 1;
            if *n == 0 {
                viewed.remove(&self.snapshot.id);
            }
        }
    }
}

impl Core {
    /// Whether somebody looks at a snapshot.
    pub fn is_viewed(&self, id: u64) -> bool {
        self.viewed.lock().contains_key(&id)
    }
}

/// What a replay does to the snapshots at the end of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    Take(SnapshotMeta),
    Drop(u64),
    Back { id: u64, end: Epoch },
}

impl Point {
    /// Of a mutation, if it is one of those.
    pub fn of(mutation: &Mutation) -> Option<Self> {
        Some(match mutation {
            Mutation::Take(snapshot) => Self::Take(snapshot.clone()),
            Mutation::Drop { id } => Self::Drop(*id),
            Mutation::Back { id, end } => Self::Back { id: *id, end: *end },
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
            Self::Back { id, end } => {
                let to = timeline.snapshots().iter().find(|s| s.id == id).cloned();
                let to = to.ok_or("a rollback to a snapshot that is not there")?;
                if !timeline.roll_back(to.epoch, end) {
                    return Err("a rollback to what is not before it");
                }
                (counters.inodes, counters.bytes) = (to.inodes, to.bytes);
            }
        }
        Ok(())
    }
}
