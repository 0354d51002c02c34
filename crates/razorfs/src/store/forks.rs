//! Branches: what each of them has, and which epoch it writes in.

use std::collections::BTreeMap;
use std::sync::Arc;

use razorfs_format::op::{Counter, Mutation, OpType};
use razorfs_format::timeline::Timeline;
use razorfs_format::{Branch, Ino};

use super::batch::OpenBatch;
use super::sum::Sum;
use super::{Core, CountersAt};
use crate::marks::{self, Mark};
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::{Error, Result};

/// How much a branch has.
pub(super) struct Tally {
    pub inodes: AtomicI64,
    pub bytes: Sum,
}

impl Tally {
    pub fn new(inodes: u64, bytes: u128) -> Self {
        Self {
            inodes: AtomicI64::new(i64::try_from(inodes).unwrap_or(i64::MAX)),
            bytes: Sum::new(bytes),
        }
    }

    fn add(&self, counter: Counter, delta: i64) {
        match counter {
            Counter::Inodes => {
                self.inodes.fetch_add(delta, Ordering::Relaxed);
            }
            Counter::Bytes => self.bytes.add(delta),
            Counter::NextIno => {}
        }
    }

    fn now(&self) -> (u64, u128) {
        let inodes = self.inodes.load(Ordering::Relaxed).max(0) as u64;
        (inodes, self.bytes.get())
    }
}

/// What each branch has, to be counted on.
pub(super) fn tallies(forks: BTreeMap<Branch, (u64, u128)>) -> BTreeMap<Branch, Arc<Tally>> {
    let tally = |(branch, (inodes, bytes))| (branch, Arc::new(Tally::new(inodes, bytes)));
    forks.into_iter().map(tally).collect()
}

impl CountersAt {
    /// Counts what an operation of a branch has changed.
    pub fn add(&mut self, branch: Branch, counter: Counter, delta: i64) {
        let (inodes, bytes) = match branch {
            Branch::HEAD => (&mut self.inodes, &mut self.bytes),
            _ => {
                let (inodes, bytes) = self.forks.entry(branch).or_default();
                (inodes, bytes)
            }
        };
        match counter {
            Counter::Inodes => *inodes = inodes.saturating_add_signed(delta),
            Counter::Bytes => *bytes = bytes.saturating_add_signed(delta.into()),
            Counter::NextIno => {
                self.next_ino = Ino(self.next_ino.0.saturating_add_signed(delta));
            }
        }
    }

    /// A branch has so much now.
    pub fn set(&mut self, branch: Branch, inodes: u64, bytes: u128) {
        match branch {
            Branch::HEAD => (self.inodes, self.bytes) = (inodes, bytes),
            _ => {
                self.forks.insert(branch, (inodes, bytes));
            }
        }
    }
}

/// Somebody has a branch open: until this is dropped it does not end.
pub(crate) struct Tenure {
    core: Arc<Core>,
    pub branch: Branch,
}

impl Tenure {
    /// Of a branch that is there.
    pub fn new(core: &Arc<Core>, branch: Branch) -> Result<Self> {
        let mut tenures = core.tenures.lock();
        // Under the lock: whoever ends it from here on finds it in use.
        if core.version.load().timeline.fork_of(branch).is_none() {
            return Err(Error::BranchGone);
        }
        *tenures.entry(branch).or_default() += 1;
        drop(tenures);
        let tenure = Self {
            core: Arc::clone(core),
            branch,
        };
        // It may show before it is on the disk. What is done in it could not be done again where
        // it is not, and would be acknowledged.
        let forked = core.forked.load(Ordering::Acquire);
        if core.durable.load(Ordering::Acquire) < forked {
            marks::hit(Mark::ForkAwaited);
            match core.sync() {
                // Nothing is acknowledged any more, and what there is can be read.
                Err(_) if core.failure().is_some() => {}
                synced => synced?,
            }
        }
        Ok(tenure)
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        let mut tenures = self.core.tenures.lock();
        if let Some(n) = tenures.get_mut(&self.branch) {
            *n -= 1;
            if *n == 0 {
                tenures.remove(&self.branch);
            }
        }
    }
}

impl Core {
    fn tally(&self, branch: Branch) -> Option<Arc<Tally>> {
        self.forks.read().get(&branch).cloned()
    }

    /// Inodes of a branch.
    pub fn inodes_of(&self, branch: Branch) -> u64 {
        match branch {
            Branch::HEAD => self.inodes.load(Ordering::Relaxed).max(0) as u64,
            _ => self.tally(branch).map_or(0, |tally| tally.now().0),
        }
    }

    /// Sum of the sizes of a branch's files.
    pub fn sizes_of(&self, branch: Branch) -> u128 {
        match branch {
            Branch::HEAD => self.bytes.get(),
            _ => self.tally(branch).map_or(0, |tally| tally.now().1),
        }
    }

    /// The same, as far as 64 bits take it.
    pub fn bytes_of(&self, branch: Branch) -> u64 {
        u64::try_from(self.sizes_of(branch)).unwrap_or(u64::MAX)
    }

    /// Sum of the sizes of all files of all branches.
    pub fn bytes_in_all(&self) -> u64 {
        let forks = self.forks.read();
        let sums = forks.values().map(|tally| tally.bytes.saturated());
        sums.fold(self.bytes.saturated(), u64::saturating_add)
    }

    /// A branch has so much now.
    pub(super) fn set_tally(&self, branch: Branch, inodes: u64, bytes: u128) {
        if branch == Branch::HEAD {
            let inodes = i64::try_from(inodes).unwrap_or(i64::MAX);
            self.inodes.store(inodes, Ordering::Relaxed);
            self.bytes.set(bytes);
            return;
        }
        let tally = Arc::new(Tally::new(inodes, bytes));
        self.forks.write().insert(branch, tally);
    }

    /// A branch is gone.
    pub(super) fn forget_tally(&self, branch: Branch) {
        self.forks.write().remove(&branch);
    }

    /// What all branches have.
    pub(super) fn fork_counts(&self) -> BTreeMap<Branch, (u64, u128)> {
        let forks = self.forks.read();
        let now = |(branch, tally): (&Branch, &Arc<Tally>)| (*branch, tally.now());
        forks.iter().map(now).collect()
    }

    pub(super) fn count(&self, branch: Branch, counter: Counter, delta: i64) {
        if branch != Branch::HEAD {
            if let Some(tally) = self.tally(branch) {
                tally.add(counter, delta);
            }
            return;
        }
        match counter {
            Counter::Inodes => {
                self.inodes.fetch_add(delta, Ordering::Relaxed);
            }
            Counter::Bytes => self.bytes.add(delta),
            Counter::NextIno => {}
        }
    }

    /// Gives a branch an epoch in the active memtable, if it has none yet. Under the lock of the
    /// open batch, to which that is journaled before what the branch does; and under the gate,
    /// which keeps everybody out who makes another version but those that come by here.
    pub(super) fn begin_on(&self, open: &mut OpenBatch, branch: Branch) {
        let version = self.version.load_full();
        // What it writes is born in the memtable's epoch. After a replay that may be younger than
        // what the branch had: a snapshot of it would not hold what is born from here on.
        let now = version.active.epoch_of(branch);
        if now.is_some_and(|now| now > version.active.epoch) {
            return;
        }
        if now.is_some() {
            marks::hit(Mark::ForkBeganAgain);
        }
        marks::hit(Mark::ForkBegan);
        let epoch = version.active.last_epoch().next();
        let mut timeline = Timeline::clone(&version.timeline);
        // The caller has seen that there is such a branch, and epochs only grow.
        let begun = timeline.begin(branch, epoch);
        debug_assert!(begun, "an epoch for branch {branch}");
        let mut mutations = Vec::new();
        Mutation::Begin { branch, epoch }.encode(&mut mutations);
        open.append(OpType::Branch, &mutations);
        version.active.begin(branch, epoch);
        let next = version.with_timeline(Arc::new(timeline));
        self.version.store(Arc::new(next));
    }

    /// Writes to the journal what no operation does.
    #[cfg(test)]
    pub fn journal_unchecked(&self, mutation: &Mutation) {
        let mut mutations = Vec::new();
        mutation.encode(&mut mutations);
        self.open.lock().append(OpType::Transaction, &mutations);
        self.sync().unwrap();
    }
}
