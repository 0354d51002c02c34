//! The states of a volume through its door: snapshots, branches, and what they go on from.

use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::manifest::{ForkMeta, SnapshotMeta};
use razorfs_format::stream::{PART, RECEIVING};
use razorfs_format::timeline::Timeline;
use razorfs_format::{Branch, Epoch, Ino};

use super::handle::{Role, is_hidden, is_internal};
use super::{At, Core, Store, Viewing};
use crate::{Error, Result};

/// Rollbacks for which files that are open can be read on.
const LEFT_MOST: usize = 8;

impl Store {
    /// The snapshot that this is.
    pub fn viewed(&self) -> Option<&SnapshotMeta> {
        match &self.role {
            Role::Snapshot(viewing) => Some(&viewing.snapshot),
            Role::Volume | Role::Below | Role::Branch(_) | Role::Past | Role::Moment(_) => None,
        }
    }

    /// Takes a snapshot.
    pub fn take(&self, name: &[u8]) -> Result<SnapshotMeta> {
        self.check_writable()?;
        self.take_snapshot(self.branch(), name)
    }

    /// Takes a snapshot of what a branch was made of.
    pub fn take_origin(&self, branch: Branch, name: &[u8]) -> Result<SnapshotMeta> {
        self.check_writable()?;
        let core = &self.checkpointer.core;
        let origin = |timeline: &Timeline| {
            let epoch = timeline.fork_of(branch)?.meta.epoch;
            let mut all = timeline.snapshots().iter();
            all.find(|s| s.epoch == epoch)
                .map(|s| SnapshotMeta::clone(s))
        };
        // It was given up when it was made, and may go if nothing else goes on from there.
        let held = self
            .checkpointer
            .releasing_none(|| Viewing::of(core, origin));
        self.take_again(&held?.0, name)
    }

    /// Keeps what is shown while a stream is received as a snapshot of this name.
    pub fn keep_covered(&self, name: &[u8]) -> Result<SnapshotMeta> {
        let covered = self.covered.lock();
        self.take_again(covered.as_ref().ok_or(Error::NotFound)?, name)
    }

    /// The volume is what it was before a stream, and what has come is kept. What was before is
    /// none of the snapshots, as it is of a stream that came to its end.
    pub fn put_away_part(&self) -> Result<()> {
        let timeline = Arc::clone(&self.version.load().timeline);
        let before = timeline.find(RECEIVING).ok_or(Error::NotFound)?;
        let is_same = |s: &&Arc<SnapshotMeta>| s.epoch == before.epoch && s.id > before.id;
        for kept in timeline
            .snapshots()
            .iter()
            .filter(is_same)
            .filter(|s| !s.gone)
        {
            self.drop_snapshot(&kept.name)?;
        }
        self.change_places(RECEIVING, PART).map(drop)
    }

    /// Gives a snapshot up. If it is what the volume was before a rollback, files that are gone
    /// since cannot be read on.
    pub fn give_up(&self, name: &[u8]) -> Result<SnapshotMeta> {
        self.check_writable()?;
        let gone = self.drop_snapshot(name)?;
        // Whichever branch was gone back, and through whatever handle.
        let is_other = |store: &Arc<Self>| store.viewed().is_none_or(|s| s.id != gone.id);
        self.befores.lock().retain(|before| {
            let before = before.upgrade();
            before.map(|b| b.write().retain(is_other)).is_some()
        });
        Ok(gone)
    }

    /// Goes back to a snapshot, and answers the one that was taken before. The caller keeps
    /// everybody out who changes anything or remembers what he reads.
    pub fn go_back(&self, to: &[u8], safety: &[u8]) -> Result<SnapshotMeta> {
        self.check_writable()?;
        let taken = self.roll_back(self.branch(), to, safety)?;
        self.leave(safety);
        Ok(taken)
    }

    /// What files that are gone are read on from: the present goes on from before this snapshot.
    pub fn leave(&self, safety: &[u8]) {
        // Whoever deletes it from here on comes by.
        let mut befores = self.befores.lock();
        // Somebody may have deleted it by now: what was open is gone then, and all else is done.
        let Ok(before) = self.snapshot(safety) else {
            return;
        };
        let mut left = self.left.write();
        left.push(Arc::new(before));
        if left.len() > LEFT_MOST {
            left.remove(0);
        }
        let mine = Arc::downgrade(&self.left);
        if befores.iter().all(|before| !before.ptr_eq(&mine)) {
            befores.push(mine);
        }
    }

    /// What the volume was before a rollback and had the inode, which it has not any more.
    pub fn left_with(&self, ino: Ino) -> Option<Arc<Self>> {
        let left = self.left.read();
        let key = Key::inode(Branch::HEAD, ino);
        let has = |store: &&Arc<Self>| matches!(store.get(&key), Ok(Some(_)));
        left.iter().rev().find(has).map(Arc::clone)
    }

    /// The snapshots that were not given up, oldest first.
    pub fn snapshots(&self) -> Vec<Arc<SnapshotMeta>> {
        let timeline = Arc::clone(&self.version.load().timeline);
        let live = timeline.snapshots().iter();
        let live = live.filter(|s| !s.gone && !is_hidden(&s.name));
        let mut live: Vec<_> = live.cloned().collect();
        // One that was taken right after a rollback is of an older epoch than that before it.
        live.sort_by_key(|s| s.id);
        live
    }

    /// The branches, in the order in which they were made.
    pub fn forks(&self) -> Vec<ForkMeta> {
        let timeline = Arc::clone(&self.version.load().timeline);
        let list = timeline.forks().list.iter();
        let now = |fork: &razorfs_format::timeline::Fork| {
            let mut meta = ForkMeta::clone(&fork.meta);
            (meta.inodes, meta.bytes) = (self.inodes_of(meta.id), self.sizes_of(meta.id));
            meta
        };
        let seen = list.filter(|fork| !is_internal(&fork.meta.name));
        seen.map(now).collect()
    }

    /// The branches and snapshots that nobody is to see.
    pub fn internal(&self) -> (Vec<ForkMeta>, Vec<Box<[u8]>>) {
        let timeline = Arc::clone(&self.version.load().timeline);
        let forks = timeline.forks().list.iter().map(|f| &f.meta);
        let forks = forks.filter(|meta| is_internal(&meta.name));
        let points = timeline.snapshots().iter();
        let points = points.filter(|s| !s.gone && is_internal(&s.name));
        (
            forks.map(|meta| ForkMeta::clone(meta)).collect(),
            points.map(|s| s.name.clone()).collect(),
        )
    }

    /// Whether there is such a branch.
    pub fn has_branch(&self, branch: Branch) -> bool {
        self.version.load().timeline.fork_of(branch).is_some()
    }

    /// Whether what was written in an epoch is shown by this.
    pub fn shows(&self, epoch: Epoch) -> Result<bool> {
        let at = self.at.load_full();
        Ok(self.version.load().view_at(&at)?.sees(epoch))
    }

    /// What this and another branch go on from.
    pub fn parting(&self, other: &Self) -> Result<Self> {
        let version = self.version.load_full();
        let (mine, theirs) = (self.at.load_full(), other.at.load_full());
        let (a, b) = (version.view_at(&mine)?, version.view_at(&theirs)?);
        let view = version.timeline.view(a.parting(b));
        Ok(self.with_role(At::Snapshot(view), Role::Past))
    }

    /// What was at the snapshot before one, those that were given up among them, or nothing at all
    /// if that is the first.
    pub fn before(&self, name: &[u8]) -> Result<Self> {
        let timeline = Arc::clone(&self.version.load().timeline);
        let snapshot = timeline.find(name).ok_or(Error::NotFound)?;
        let before = timeline.before(snapshot.epoch).unwrap_or(Epoch(0));
        Ok(self.with_role(At::Snapshot(timeline.view(before)), Role::Past))
    }

    /// Makes a branch of what this shows, or of a snapshot.
    pub fn fork(&self, name: &[u8], from: Option<&[u8]>) -> Result<ForkMeta> {
        if self.is_covered() {
            // Of what has come of a stream so far nobody is to see anything.
            self.check_writable()?;
        }
        Core::check_writable(self)?;
        if matches!(self.role, Role::Moment(_)) {
            return Err(Error::Invalid(
                "a branch goes on from a snapshot, or from what is there",
            ));
        }
        let here = self.viewed().map(|snapshot| snapshot.name.clone());
        Core::fork(self, self.branch(), name, from.or(here.as_deref()))
    }

    /// Ends a branch that nobody has open.
    pub fn end_branch(&self, branch: Branch) -> Result<()> {
        Core::check_writable(self)?;
        let tenures = self.tenures.lock();
        if tenures.contains_key(&branch) {
            return Err(Error::BranchInUse);
        }
        Core::prune(self, branch)
    }

    /// Bytes that each snapshot alone holds.
    pub fn held_by_snapshots(&self) -> Result<std::collections::BTreeMap<u64, u64>> {
        self.checkpointer.held_by()
    }
}
