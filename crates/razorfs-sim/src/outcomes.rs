//! What a power cut at one place may leave: all of it where that is little, else a sample.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use razorfs_disk::sim::{Choices, SimDisk, SimRng};

use crate::model::Model;
use crate::points::details;
use crate::rng::mix;

/// Which outcomes are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// All of them, where there are no more than this.
    pub all: usize,
    /// So many at random, where there are more.
    pub sample: usize,
}

/// What was found on disks that were recovered from: it depends on nothing but what is on the disk,
/// so that each is looked at once, and then only compared with what may be there.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// By the sum of what is on the disk.
    disks: HashMap<u128, Arc<Model>>,
    /// Each state once, by its hash.
    states: HashMap<u64, Vec<Arc<Model>>>,
}

impl Known {
    /// What was found on this one, if it was recovered from.
    #[must_use]
    pub fn found(&self, disk: u128) -> Option<Arc<Model>> {
        self.0.lock().disks.get(&disk).cloned()
    }

    /// It was recovered from, and nothing was wrong.
    pub fn learn(&self, disk: u128, found: &Model) {
        let mut seen = self.0.lock();
        let alike = seen.states.entry(found.hash()).or_default();
        let same = alike.iter().find(|s| details(found, s).is_empty());
        let state = same.cloned().unwrap_or_else(|| {
            let state = Arc::new(found.clone());
            alike.push(Arc::clone(&state));
            state
        });
        seen.disks.insert(disk, state);
    }

    /// The same disks, as if nothing had been found on them.
    #[cfg(test)]
    pub(crate) fn with_everything_gone(&self) -> Self {
        let seen = self.0.lock();
        let disks = seen.disks.keys().map(|d| (*d, Arc::default())).collect();
        let states = HashMap::new();
        Self(Arc::new(Mutex::new(Seen { disks, states })))
    }
}

/// The outcomes of one cut, one after the other. The run to the cut is repeated for each; every
/// time it is the same, because nothing but the seed decides what the engine does.
#[derive(Clone, Debug)]
pub struct Outcomes(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    effort: Effort,
    seed: u64,
    way: Option<Way>,
    taken: u64,
    exhausted: bool,
}

#[derive(Debug)]
enum Way {
    All(Choices),
    Sample(usize),
}

impl Outcomes {
    /// Those of a cut that nobody has come to yet.
    #[must_use]
    pub fn new(effort: Effort, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            effort,
            seed,
            way: None,
            taken: 0,
            exhausted: false,
        })))
    }

    /// What the next outcome leaves of a disk whose power goes now.
    #[must_use]
    pub fn cut(&self, disk: &SimDisk) -> SimDisk {
        let mut state = self.0.lock();
        let effort = state.effort;
        let (seed, taken) = (state.seed, state.taken);
        state.taken += 1;
        let way = state
            .way
            .get_or_insert_with(|| match count(disk, effort.all) {
                Some(_) => {
                    let mut choices = Choices::default();
                    choices.advance();
                    Way::All(choices)
                }
                None => Way::Sample(effort.sample.max(1)),
            });
        let (after, exhausted) = match way {
            Way::All(choices) => {
                let after = disk.power_cut_with(|n| choices.choose(n));
                (after, !choices.advance())
            }
            Way::Sample(left) => {
                *left -= 1;
                let after = disk.power_cut(&mut SimRng::new(mix(seed, taken)));
                (after, *left == 0)
            }
        };
        state.exhausted = exhausted;
        after
    }

    /// Whether the cut was come to, and there are outcomes that were not taken.
    #[must_use]
    pub fn are_left(&self) -> bool {
        let state = self.0.lock();
        state.taken > 0 && !state.exhausted
    }

    /// Whether each outcome was taken once, and not a sample.
    #[must_use]
    pub fn are_all(&self) -> bool {
        matches!(self.0.lock().way, Some(Way::All(_)))
    }
}

/// Number of outcomes of a cut now; none if it is above `most`.
fn count(disk: &SimDisk, most: usize) -> Option<usize> {
    let mut choices = Choices::default();
    let mut n = 0;
    while choices.advance() {
        n += 1;
        if n > most {
            return None;
        }
        let _ = disk.after_cut_with(|n| choices.choose(n));
    }
    Some(n)
}
