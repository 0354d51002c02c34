//! Branches: lines that are open besides the head.
//!
//! A fork goes on from a point of its parent's, as a rollback does, but nothing is hidden from the
//! parent: both lines are open. Epochs are given to whoever writes, so those of several lines
//! stand between each other; what is not given to a branch belongs to the head.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Span, Timeline, View};
use crate::ids::{Branch, Epoch};
use crate::manifest::{ForkMeta, SnapshotMeta};

/// What the names of snapshots and branches begin with that nobody is to see, and nobody can give.
pub const INTERNAL: &str = "-";

/// A branch, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fork {
    /// What it is.
    pub meta: Arc<ForkMeta>,
    /// The line that is written to in it, which may have no epoch yet.
    pub line: u64,
    /// The point that the line goes on from; 0 if it does not go on from any.
    pub base: Epoch,
}

/// All branches but the head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forks {
    /// The number of the next one.
    pub next: Branch,
    /// By number.
    pub list: Vec<Fork>,
}

impl Default for Forks {
    fn default() -> Self {
        Self {
            next: Branch::HEAD.next(),
            list: Vec::new(),
        }
    }
}

impl Forks {
    /// Whether there never was one.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        *self == Self::default()
    }

    fn find(&self, branch: Branch) -> Option<&Fork> {
        let at = self.list.binary_search_by_key(&branch, |f| f.meta.id);
        self.list.get(at.ok()?)
    }

    fn find_mut(&mut self, branch: Branch) -> Option<&mut Fork> {
        let at = self.list.binary_search_by_key(&branch, |f| f.meta.id);
        self.list.get_mut(at.ok()?)
    }
}

impl Timeline {
    /// From what a manifest lists, branches among it. Answers why not, if it cannot be.
    pub fn with_forks(
        snapshots: Vec<SnapshotMeta>,
        spans: Vec<Span>,
        forks: Forks,
    ) -> Result<Self, &'static str> {
        if forks.list.windows(2).any(|w| match w {
            [a, b] => a.meta.id >= b.meta.id,
            _ => false,
        }) {
            return Err("branches in order");
        }
        let mut timeline = Self::unforked(snapshots, spans)?;
        let mut lines = BTreeSet::from([timeline.head_line()]);
        let mut names = BTreeSet::new();
        // An image may have very many of both.
        let mut begins: BTreeMap<u64, Epoch> = BTreeMap::new();
        for span in &timeline.spans {
            begins.entry(span.line).or_insert(span.parent);
        }
        for fork in &forks.list {
            let meta = &fork.meta;
            if meta.id == Branch::HEAD || meta.id >= forks.next {
                return Err("branches that were numbered");
            }
            if !lines.insert(fork.line) {
                return Err("a line for each branch");
            }
            if !names.insert(&*meta.name) {
                return Err("a name for each branch");
            }
            let is_rooted = match begins.get(&fork.line) {
                Some(parent) => *parent == fork.base,
                None => timeline.count_at(fork.base) > 0,
            };
            if !is_rooted {
                return Err("branches that go on from snapshots");
            }
        }
        timeline.open = forks.list.iter().map(|fork| fork.line).collect();
        timeline.forks = forks;
        Ok(timeline)
    }

    /// The branches, by number; the head is none of them.
    #[must_use]
    pub fn forks(&self) -> &Forks {
        &self.forks
    }

    /// A branch.
    #[must_use]
    pub fn fork_of(&self, branch: Branch) -> Option<&Fork> {
        self.forks.find(branch)
    }

    /// The branch of this name.
    #[must_use]
    pub fn find_fork(&self, name: &[u8]) -> Option<&Fork> {
        let mut all = self.forks.list.iter();
        all.find(|fork| *fork.meta.name == *name)
    }

    /// The line that the head writes to.
    #[must_use]
    pub fn head_line(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.line)
    }

    /// Whether a line is written to.
    pub(super) fn is_open(&self, line: u64) -> bool {
        line == self.head_line() || self.open.contains(&line)
    }

    /// The branch that writes to the line of an epoch, if one does.
    #[must_use]
    pub fn writer(&self, epoch: Epoch) -> Option<Branch> {
        let line = self.line(epoch)?;
        if line == self.head_line() {
            return Some(Branch::HEAD);
        }
        let fork = self.forks.list.iter().find(|f| f.line == line);
        fork.map(|f| f.meta.id)
    }

    /// What a branch shows; nothing if there is no such one.
    #[must_use]
    pub fn view_of(&self, branch: Branch) -> Option<View> {
        if branch == Branch::HEAD {
            return Some(self.head());
        }
        self.newest_of(branch).map(|epoch| self.view(epoch))
    }

    /// The newest epoch that a branch shows.
    #[must_use]
    pub fn newest_of(&self, branch: Branch) -> Option<Epoch> {
        if branch == Branch::HEAD {
            return Some(Span::OPEN);
        }
        let fork = self.forks.find(branch)?;
        Some(self.tip(fork.line).unwrap_or(fork.base))
    }

    pub(super) fn next_line(&self) -> u64 {
        let lines = self.spans.iter().map(|s| s.line);
        let forked = self.forks.list.iter().map(|f| f.line);
        lines.chain(forked).max().unwrap_or(0) + 1
    }

    /// Adds a branch that goes on from the point of its epoch. Answers false if it cannot be.
    pub fn fork(&mut self, meta: ForkMeta) -> bool {
        let is_new = meta.id >= self.forks.next && self.find_fork(&meta.name).is_none();
        if !is_new || meta.id == Branch(u32::MAX) || self.count_at(meta.epoch) == 0 {
            return false;
        }
        self.forks.next = meta.id.next();
        let fork = Fork {
            line: self.next_line(),
            base: meta.epoch,
            meta: Arc::new(meta),
        };
        self.open.insert(fork.line);
        self.forks.list.push(fork);
        true
    }

    /// All branches end, each with a snapshot of what it shows now, which `taken` makes of what the
    /// branch is and the newest epoch that it shows.
    pub fn prune_all(&mut self, mut taken: impl FnMut(&ForkMeta, Epoch) -> SnapshotMeta) {
        // An image may have very many of both.
        let tips: BTreeMap<u64, Epoch> = self.spans.iter().map(|s| (s.line, s.last)).collect();
        self.open.clear();
        for fork in std::mem::take(&mut self.forks.list) {
            let newest = tips.get(&fork.line).copied().unwrap_or(fork.base);
            self.snapshots.push(Arc::new(taken(&fork.meta, newest)));
        }
        self.snapshots.sort_by_key(|s| (s.epoch, s.id));
        self.find_points();
    }

    /// A branch ends. What it alone shows is released with the last of its snapshots, of which the
    /// caller has made one of what it shows now. Answers whether there was such a branch.
    pub fn prune(&mut self, branch: Branch) -> bool {
        let Ok(at) = self.forks.list.binary_search_by_key(&branch, |f| f.meta.id) else {
            return false;
        };
        let fork = self.forks.list.remove(at);
        self.open.remove(&fork.line);
        true
    }

    /// Gives an epoch that is newer than all that were given to a branch. Answers false if it
    /// cannot be.
    pub fn begin(&mut self, branch: Branch, epoch: Epoch) -> bool {
        let Some(fork) = self.forks.find(branch).cloned() else {
            return false;
        };
        let Some(head) = self.spans.pop() else {
            return false;
        };
        if epoch < head.first || epoch <= fork.base || epoch >= Span::OPEN || epoch == Epoch(0) {
            self.spans.push(head);
            return false;
        }
        if head.first < epoch {
            self.spans.push(Span {
                last: Epoch(epoch.0 - 1),
                ..head
            });
        }
        match self.spans.last_mut() {
            Some(last) if last.line == fork.line && last.last.next() == epoch => last.last = epoch,
            _ => self.spans.push(Span {
                first: epoch,
                last: epoch,
                line: fork.line,
                parent: fork.base,
            }),
        }
        self.spans.push(Span {
            first: epoch.next(),
            ..head
        });
        true
    }

    /// A branch goes on from the point `to`. Answers false if it cannot.
    pub(super) fn roll_fork_back(&mut self, branch: Branch, to: Epoch) -> bool {
        let line = self.next_line();
        let Some(fork) = self.forks.find_mut(branch) else {
            return false;
        };
        self.open.remove(&fork.line);
        self.open.insert(line);
        (fork.line, fork.base) = (line, to);
        true
    }

    /// Writes down how much a branch has.
    pub fn count_fork(&mut self, branch: Branch, inodes: u64, bytes: u128) {
        if let Some(fork) = self.forks.find_mut(branch)
            && (fork.meta.inodes, fork.meta.bytes) != (inodes, bytes)
        {
            let meta = Arc::make_mut(&mut fork.meta);
            (meta.inodes, meta.bytes) = (inodes, bytes);
        }
    }
}
