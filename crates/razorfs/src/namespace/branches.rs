//! The branches of a volume that are open: each has names, locks and pins of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use razorfs_format::Branch;
use razorfs_format::manifest::{ForkMeta, SnapshotMeta};

use super::merge::{Base, or_later};
use super::{Namespace, check_name};
use crate::marks::{self, Mark};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Error, Result};

/// All that are open, whoever has opened them.
#[derive(Default)]
pub(super) struct Family {
    open: Mutex<BTreeMap<Branch, Weak<Namespace>>>,
    /// The reaper has branches open that nobody else may have open any more.
    reaping: Mutex<()>,
    /// Whoever holds something from before this process has come.
    have_come: AtomicBool,
}

impl Family {
    /// The branch as somebody has it open, or opens it now: two of one would not know of each
    /// other's locks.
    fn get(
        &self,
        branch: Branch,
        open: impl FnOnce() -> Result<Namespace>,
    ) -> Result<Arc<Namespace>> {
        let mut all = self.open.lock();
        if let Some(there) = all.get(&branch).and_then(Weak::upgrade) {
            return Ok(there);
        }
        all.retain(|_, namespace| namespace.strong_count() > 0);
        let namespace = Arc::new(open()?);
        all.insert(branch, Arc::downgrade(&namespace));
        Ok(namespace)
    }

    /// Whether nobody comes any more who holds something from before this process.
    pub fn have_come(&self) -> bool {
        self.have_come.load(Ordering::Acquire)
    }

    fn all(&self) -> Vec<Arc<Namespace>> {
        let open = self.open.lock();
        open.values().filter_map(Weak::upgrade).collect()
    }
}

impl Namespace {
    /// All have come, here or to branches that are open, who hold something from before this
    /// process.
    pub(crate) fn all_have_come(&self) {
        self.family.have_come.store(true, Ordering::Release);
        if !self.is_visited.load(Ordering::Acquire) {
            self.pins.nobody_is_left();
        }
    }

    fn find_branch(&self, name: &str) -> Result<ForkMeta> {
        let forks = self.store.forks().into_iter();
        let mut named = forks.filter(|meta| *meta.name == *name.as_bytes());
        named.next().ok_or(Error::NotFound)
    }

    /// One of the branches.
    pub(crate) fn branch(&self, name: &str) -> Result<Arc<Self>> {
        let branch = self.find_branch(name)?.id;
        let family = || Arc::clone(&self.family);
        let open = || Self::of(self.store.open_branch(branch)?, family());
        self.family.get(branch, open)
    }

    /// Makes a branch of what this shows.
    pub(crate) fn create_branch(&self, name: &str) -> Result<ForkMeta> {
        check_name(name)?;
        self.store.fork(name.as_bytes(), None)
    }

    /// Takes a snapshot of what a branch was made of.
    pub(crate) fn snapshot_origin(&self, branch: &str, name: &str) -> Result<SnapshotMeta> {
        check_name(name)?;
        let branch = self.find_branch(branch)?.id;
        self.store.take_origin(branch, name.as_bytes())
    }

    /// Ends a branch that nobody has open. Once that is done it is done: what was merged of it goes
    /// at the next opening where it cannot now.
    pub(crate) fn delete_branch(&self, name: &str) -> Result<()> {
        let _reaping = self.family.reaping.lock();
        let id = self.find_branch(name)?.id;
        self.store.end_branch(id)?;
        // What was merged of it is of no use any more.
        for meta in self.store.internal().0 {
            if Base::of(&meta).is_some_and(|base| base.of.0 == id || base.of.1 == id) {
                or_later(self.store.end_branch(meta.id));
            }
        }
        Ok(())
    }

    /// Removes what merges that did not come to their end have left.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        if self.store.check_writable().is_err() {
            return Ok(());
        }
        let (branches, snapshots) = self.store.internal();
        let is_there = |branch| branch == Branch::HEAD || self.store.has_branch(branch);
        for meta in branches {
            let base = Base::of(&meta);
            if base.is_none_or(|base| !is_there(base.of.0) || !is_there(base.of.1)) {
                marks::hit(Mark::MergeLeftover);
                self.store.end_branch(meta.id)?;
            }
        }
        for name in snapshots {
            self.store.give_up(&name)?;
        }
        Ok(())
    }

    /// One step of the reaper, here or in one of the branches that are open.
    pub(crate) fn reap_any(&self) -> Result<bool> {
        if self.reap_step()? {
            return Ok(true);
        }
        let _reaping = self.family.reaping.lock();
        for branch in self.family.all() {
            if branch.reap_step()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
