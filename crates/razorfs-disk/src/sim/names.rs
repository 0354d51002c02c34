//! The names of a simulated disk: what programs see, what is durable, and the changes between.

use std::collections::{BTreeMap, BTreeSet};

use super::cut::Choose;
use crate::{Dir, Name};

/// A simulated file, whatever its name.
pub(super) type FileId = usize;

#[derive(Clone)]
pub(super) enum Change {
    Create(Name, FileId),
    Rename(Name, Name, FileId),
    Remove(Name),
}

impl Change {
    /// The name or names it changes.
    fn names(&self) -> [&Name; 2] {
        match self {
            Self::Create(name, _) | Self::Remove(name) => [name, name],
            Self::Rename(from, to, _) => [from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<Name, FileId>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Clone)]
struct Pending {
    change: Change,
    /// For each of the change's names, whether its directory was synced since.
    synced: [bool; 2],
}

/// Names as they are now and as they would be after a power cut.
#[derive(Clone, Default)]
pub(super) struct Names {
    live: BTreeMap<Name, FileId>,
    durable: BTreeMap<Name, FileId>,
    pending: Vec<Pending>,
}

impl Names {
    /// Names that are all durable.
    pub(super) fn durable(names: BTreeMap<Name, FileId>) -> Self {
        Self {
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }

    pub(super) fn get(&self, name: &Name) -> Option<FileId> {
        self.live.get(name).copied()
    }

    pub(super) fn live(&self) -> &BTreeMap<Name, FileId> {
        &self.live
    }

    pub(super) fn durable_names(&self) -> &BTreeMap<Name, FileId> {
        &self.durable
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(Pending {
            change,
            synced: [false; 2],
        });
    }

    /// Whether a file could still be named after a power cut, or is named now.
    pub(super) fn reaches(&self, file: FileId) -> bool {
        let pending = |p: &Pending| match p.change {
            Change::Create(_, id) | Change::Rename(_, _, id) => id == file,
            Change::Remove(_) => false,
        };
        self.live.values().any(|id| *id == file)
            || self.durable.values().any(|id| *id == file)
            || self.pending.iter().any(pending)
    }

    /// Makes the changes in `dir` durable. A rename into another directory stays pending until
    /// that one is synced too, unless a later change that is durable now builds on it.
    pub(super) fn sync(&mut self, dir: Dir) {
        let mut needed = BTreeSet::new();
        let mut settled = vec![false; self.pending.len()];
        for (p, settled) in self.pending.iter_mut().zip(&mut settled).rev() {
            let names = p.change.names();
            for (name, synced) in names.iter().zip(&mut p.synced) {
                *synced |= name.dir == dir;
            }
            if p.synced == [true; 2] || names.iter().any(|n| needed.contains(*n)) {
                *settled = true;
                needed.extend(names.map(Name::clone));
            }
        }
        let mut settled = settled.into_iter();
        self.pending.retain(|p| {
            let settled = settled.next() == Some(true);
            if settled {
                p.change.apply(&mut self.durable);
            }
            !settled
        });
    }

    /// The names that a power cut leaves: the durable ones and any pending changes, but none
    /// that builds (by a name) on one that was lost.
    pub(super) fn cut(&self, choose: &mut dyn Choose) -> BTreeMap<Name, FileId> {
        let mut names = self.durable.clone();
        let mut lost = BTreeSet::new();
        for p in &self.pending {
            let touched = p.change.names();
            let possible = !touched.iter().any(|n| lost.contains(*n));
            if possible && choose.choose(2) == 1 {
                p.change.apply(&mut names);
            } else {
                lost.extend(touched);
            }
        }
        names
    }
}
