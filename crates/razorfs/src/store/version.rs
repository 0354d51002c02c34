//! What is visible: the layers of the tree, and what of them each branch shows.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use razorfs_format::timeline::{Timeline, View};
use razorfs_format::{BatchSeq, Branch, Ino, Lsn};

use crate::tree::Levels;
use crate::tree::memtable::Memtable;

/// A frozen memtable on its way to the segments, with the state of the volume at its end.
pub(crate) struct Frozen {
    pub memtable: Arc<Memtable>,
    /// The first batch that it does not hold.
    pub cut: BatchSeq,
    pub counters: CountersAt,
    /// The snapshots at its end, one of that end among them.
    pub timeline: Arc<Timeline>,
}

/// The counters of the volume between two batches.
#[derive(Clone, Debug)]
pub(crate) struct CountersAt {
    pub inodes: u64,
    pub bytes: u128,
    pub next_ino: Ino,
    pub lsn: Lsn,
    /// Inodes and bytes of each branch.
    pub forks: BTreeMap<Branch, (u64, u128)>,
}

/// What is visible: the layers of the tree, newest first.
pub(crate) struct Version {
    pub active: Arc<Memtable>,
    /// Newest first.
    pub frozen: Vec<Arc<Frozen>>,
    pub levels: Levels,
    /// The snapshots, and the lines that they stand on.
    pub timeline: Arc<Timeline>,
    /// What of the layers the present shows.
    pub head: View,
    /// What of them each branch shows, once somebody has looked: an image may have very many, each
    /// with a view as long as the list of lines.
    forks: Arc<BTreeMap<Branch, OnceLock<View>>>,
}

impl Version {
    /// Of these layers.
    pub fn new(
        active: Arc<Memtable>,
        frozen: Vec<Arc<Frozen>>,
        levels: Levels,
        timeline: Arc<Timeline>,
    ) -> Self {
        let head = timeline.head();
        let forks = timeline.forks().list.iter();
        let forks = forks.map(|fork| (fork.meta.id, OnceLock::new()));
        Self {
            active,
            frozen,
            levels,
            head,
            forks: Arc::new(forks.collect()),
            timeline,
        }
    }

    /// What a branch shows, if it is there.
    pub fn fork(&self, branch: Branch) -> Option<&View> {
        let view = self.forks.get(&branch)?;
        match view.get() {
            Some(view) => Some(view),
            None => {
                let found = self.timeline.view_of(branch)?;
                Some(view.get_or_init(|| found))
            }
        }
    }

    /// How many branches somebody has looked at.
    #[cfg(test)]
    pub fn fork_views(&self) -> usize {
        self.forks
            .values()
            .filter(|view| view.get().is_some())
            .count()
    }

    /// The same layers with another timeline.
    pub fn with_timeline(&self, timeline: Arc<Timeline>) -> Self {
        let (frozen, levels) = (self.frozen.clone(), self.levels.clone());
        Self::new(Arc::clone(&self.active), frozen, levels, timeline)
    }

    /// Other layers with the same timeline.
    pub fn with_layers(
        &self,
        active: Arc<Memtable>,
        frozen: Vec<Arc<Frozen>>,
        levels: Levels,
    ) -> Self {
        Self {
            active,
            frozen,
            levels,
            timeline: Arc::clone(&self.timeline),
            head: self.head.clone(),
            forks: Arc::clone(&self.forks),
        }
    }

    /// The memtables, newest first, those of lines that were left among them.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.frozen.iter().map(|f| &f.memtable))
    }
}
