//! Branches of a state of the model: what each shows, and which of them the run is in.
//!
//! All of them are one state, with one history: a cut that keeps an operation of one keeps all
//! earlier ones of all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lines::{self, Knot};
use crate::merges::Merges;
use crate::model::{Errnos, Model, differences, time_differences};
use crate::moments::Origin;
use crate::points::Which;
use crate::rng::{mix, scatter};

/// Number of names that workloads give to branches.
pub const NAMES: u8 = 4;

/// A branch, or the head, which has no name.
pub type Place = Option<u8>;

/// The name that a run gives to a branch.
#[must_use]
pub fn name(n: u8) -> String {
    format!("b{n}")
}

/// A place in words.
#[must_use]
pub fn words(place: Place) -> String {
    place.map_or_else(|| "the head".into(), name)
}

/// The branch of a name.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    name.strip_prefix('b')?.parse().ok()
}

/// Where the run is, and what the other branches show.
#[derive(Clone, Default, Debug)]
pub(crate) struct Branches {
    here: Place,
    /// Trees alone, the head's among them, if the run is in a branch. What is open in one stays so
    /// while the run is elsewhere.
    others: Arc<BTreeMap<Place, Model>>,
    hash: u64,
    merges: Arc<Merges>,
    /// What each was made of, as far as that is known.
    origins: Arc<BTreeMap<u8, Origin>>,
}

impl Branches {
    /// A hash of all trees, of which `tree` is the hash of the one that the run is in. It does not
    /// matter which that is.
    pub(crate) const fn hash(&self, tree: u64) -> u64 {
        self.hash.wrapping_add(weigh(self.here, tree))
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<Place, Model>)) {
        change(Arc::make_mut(&mut self.others));
        let weights = self.others.iter().map(|(at, tree)| weigh(*at, tree.hash()));
        self.hash = weights.fold(0, u64::wrapping_add);
    }
}

const fn weigh(place: Place, hash: u64) -> u64 {
    match place {
        None => hash,
        Some(n) => scatter(mix(hash, 0xb0 + n as u64)),
    }
}

impl Model {
    /// Where the run is.
    #[must_use]
    pub const fn here(&self) -> Place {
        self.branches.here
    }

    /// The branches, by number; the head is none of them.
    #[must_use]
    pub fn branches(&self) -> Vec<u8> {
        let mut all: Vec<u8> = self.branches.others.keys().copied().flatten().collect();
        all.extend(self.here());
        all.sort_unstable();
        all
    }

    /// Whether there is such a branch.
    #[must_use]
    pub fn has_branch(&self, n: u8) -> bool {
        self.here() == Some(n) || self.branches.others.contains_key(&Some(n))
    }

    /// What a branch shows in which the run is not.
    #[must_use]
    pub fn other(&self, place: Place) -> Option<&Self> {
        self.branches.others.get(&place)
    }

    /// The same state for a run that is in the head.
    #[must_use]
    pub fn at_home(&self) -> Self {
        self.seen_from(None)
    }

    /// The same state for a run that is elsewhere, if there is that place.
    #[must_use]
    pub fn seen_from(&self, place: Place) -> Self {
        let mut state = self.clone();
        state.go(place);
        state
    }

    /// Goes to another branch; answers whether there is such a one.
    pub fn go(&mut self, to: Place) -> bool {
        if to == self.here() {
            return true;
        }
        let Some(mut there) = self.branches.others.get(&to).cloned() else {
            return false;
        };
        let mut branches = self.branches.clone();
        let left = self.alone();
        branches.change(|others| {
            others.remove(&to);
            others.insert(self.branches.here, left);
        });
        branches.here = to;
        there.branches = branches;
        there.points = Arc::clone(&self.points);
        there.points_hash = self.points_hash;
        there.set_highest(self.highest().max(there.highest()));
        *self = there;
        true
    }

    /// A branch that a volume shows.
    pub(crate) fn add_branch(&mut self, n: u8, state: Self) {
        self.branches.change(|others| {
            others.insert(Some(n), state);
        });
    }

    /// Makes a branch of what is here, or of a snapshot. What is open without a name is not in it.
    pub(crate) fn fork(&mut self, n: u8, from: Option<Which>) -> Result<(), Errnos> {
        if from.is_some_and(|which| self.snapshot(which).is_none()) {
            return Err(&[libc::ENOENT]);
        }
        if self.has_branch(n) {
            return Err(&[libc::EEXIST]);
        }
        let mut state = match from {
            None => {
                self.tie();
                self.alone()
            }
            Some(which) => {
                let point = self.snapshot(which).ok_or(&[libc::ENOENT] as Errnos)?;
                point.state.clone()
            }
        };
        state.close_all();
        if let Some(knot) = state.line.clone() {
            let stamp = lines::stamp();
            let origins = Arc::make_mut(&mut self.branches.origins);
            origins.insert(n, Origin { knot, stamp });
        }
        self.add_branch(n, state);
        Ok(())
    }

    /// Deletes a branch in which the run is not.
    pub(crate) fn prune(&mut self, n: u8) -> Result<(), Errnos> {
        if self.here() == Some(n) {
            return Err(&[libc::EBUSY]);
        }
        if !self.has_branch(n) {
            return Err(&[libc::ENOENT]);
        }
        self.branches.change(|others| {
            others.remove(&Some(n));
        });
        Arc::make_mut(&mut self.branches.origins).remove(&n);
        self.forget_merges_of(n);
        Ok(())
    }

    /// What a branch was made of, if that is known.
    pub(crate) fn origin(&self, n: u8) -> Option<&Origin> {
        self.branches.origins.get(&n)
    }

    /// Whether there is such a place.
    pub(crate) fn has_place(&self, place: Place) -> bool {
        place.is_none_or(|n| self.has_branch(n))
    }

    /// The trees of all places where the run is not.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Self> {
        self.branches.others.values()
    }

    pub(crate) fn merges(&self) -> &Merges {
        &self.branches.merges
    }

    pub(crate) fn change_merges(&mut self, change: impl FnOnce(&mut Merges)) {
        change(Arc::make_mut(&mut self.branches.merges));
    }

    /// From here on more than a branch in which the run is not may go on from what that has now.
    pub(crate) fn tie_other(&mut self, place: Place) -> Option<Arc<Knot>> {
        let tree = Arc::make_mut(&mut self.branches.others).get_mut(&place)?;
        Some(tree.tie())
    }

    pub(crate) fn blur_others(&mut self, other: &Self) {
        self.branches.change(|others| {
            for (place, tree) in others {
                if let Some(other) = other.other(*place) {
                    tree.blur_tree(other);
                }
            }
        });
    }

    /// Nothing is open any more in a branch in which the run is not.
    pub(crate) fn close_other(&mut self, place: Place) {
        self.branches.change(|others| {
            if let Some(tree) = others.get_mut(&place) {
                tree.close_all();
            }
        });
    }

    pub(crate) fn close_others(&mut self) {
        self.branches
            .change(|others| others.values_mut().for_each(Self::close_all));
    }

    /// The other branches as another state has them.
    #[cfg(test)]
    pub(crate) fn take_others_of(&mut self, other: &Self) {
        self.branches = other.branches.clone();
    }
}

/// How the branches of two states that are at home differ, in words.
pub(crate) fn branch_differences(expected: &Model, found: &Model, out: &mut Vec<String>) {
    if expected.branches() != found.branches() {
        let (found, expected) = (found.branches(), expected.branches());
        out.push(format!("branches {found:?}, expected {expected:?}"));
        return;
    }
    for n in expected.branches() {
        if let (Some(want), Some(got)) = (expected.other(Some(n)), found.other(Some(n))) {
            let words = differences(want, got);
            out.extend(words.iter().map(|w| format!("branch {}: {w}", name(n))));
        }
    }
}

/// Times in branches that differ.
pub(crate) fn branch_times(expected: &Model, found: &Model) -> Vec<String> {
    let mut out = Vec::new();
    for n in expected.branches() {
        if let (Some(want), Some(got)) = (expected.other(Some(n)), found.other(Some(n))) {
            let times = time_differences(want, got);
            out.extend(times.iter().map(|w| format!("branch {}: {w}", name(n))));
        }
    }
    out
}
