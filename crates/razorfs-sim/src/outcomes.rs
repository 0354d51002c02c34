//! What a power cut at one place may leave: all of it where that is little, else a sample.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use razorfs_disk::sim::{Choices, SimDisk, SimRng};

use crate::rng::mix;

/// Which outcomes are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// All of them, where there are no more than this.
    pub all: usize,
    /// So many at random, where there are more.
    pub sample: usize,
}

/// What disks were recovered from, each with the operation up to which all was acknowledged. What
/// may be found on a disk only grows with the run, so that it need not be looked at again.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<HashSet<(u128, usize)>>>);

impl Known {
    /// Whether this one was known before; it is from now on.
    #[must_use]
    pub fn knows(&self, disk: &SimDisk, acknowledged: usize) -> bool {
        !self.0.lock().insert((disk.image().sum(), acknowledged))
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
