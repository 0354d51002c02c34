//! Commits of branches in a workload, beside all else that it does.

use super::Workload;
use super::points::MOST;
use crate::branches::Place;
use crate::model::Model;
use crate::op::{Op, Work};
use crate::points::Which;
use crate::rng::{Rng, mix};

/// What a workload does with commits.
#[derive(Clone, Debug)]
pub(super) struct Merges {
    rng: Rng,
    /// Of a thousand operations so many are about commits.
    often: u64,
    merge: u32,
    release: u32,
}

impl Merges {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 15));
        let often = [10, 30, 60].get(rng.below(3)).copied();
        Self {
            often: often.unwrap_or(30),
            merge: rng.varied(40),
            release: rng.varied(8),
            rng,
        }
    }

    /// The next operation, if it is about commits.
    pub(super) fn next(&mut self, model: &Model) -> Option<Op> {
        if self.rng.range(0..1000) >= self.often {
            return None;
        }
        let from = self.from(model)?;
        if model.points().len() > MOST {
            return Some(Op::Delete(Which::Safety(self.rng.range(0..3) as u8)));
        }
        let weights = [self.merge, self.release];
        Some(match self.rng.weighted(weights.into_iter()) {
            0 => Op::Merge {
                from,
                force: self.rng.chance(15),
            },
            _ => Op::Step(Work::Release),
        })
    }

    /// Where the run is not, if there is such a place.
    fn from(&mut self, model: &Model) -> Option<Place> {
        let branches = model.branches().into_iter().map(Some);
        let all: Vec<Place> = branches
            .chain([None])
            .filter(|place| *place != model.here())
            .collect();
        self.rng.pick(&all).copied()
    }
}

impl Workload {
    /// The same workload, with commits of its branches if it is to have any.
    #[must_use]
    pub fn with_merges(mut self, has: bool, seed: u64) -> Self {
        self.merges = has.then(|| Merges::new(seed));
        self
    }
}
