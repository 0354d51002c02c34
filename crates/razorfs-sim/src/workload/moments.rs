//! Going back to moments, and to what branches were made of, in a workload, beside all else that
//! it does.

use super::Workload;
use super::points::MOST;
use crate::model::Model;
use crate::op::Op;
use crate::points::{NAMES, Which};
use crate::rng::{Rng, mix};

/// What a workload does with moments.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    rng: Rng,
    /// Of a thousand operations so many are about moments.
    often: u64,
    sync: u32,
    restore: u32,
    take: u32,
    origin: u32,
}

impl Moments {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 20));
        let often = [10, 30, 60].get(rng.below(3)).copied();
        let mut weight = |weight| rng.varied(weight);
        Self {
            often: often.unwrap_or(30),
            sync: weight(30),
            restore: weight(16),
            take: weight(16),
            origin: weight(16),
            rng,
        }
    }

    /// The next operation, if it is about moments.
    pub(super) fn next(&mut self, model: &Model) -> Option<Op> {
        if self.rng.range(0..1000) >= self.often {
            return None;
        }
        if model.points().len() > MOST {
            return Some(Op::Delete(Which::Safety(self.rng.range(0..3) as u8)));
        }
        let branches = model.branches();
        let branch = self.rng.pick(&branches).copied();
        let origin = branch.map_or(0, |_| self.origin);
        let weights = [self.sync, self.restore, self.take, origin];
        let back = self.rng.range(0..4) as u8;
        let name = self.rng.range(0..NAMES.into()) as u8;
        Some(match self.rng.weighted(weights.into_iter()) {
            0 => Op::Sync,
            1 => Op::Restore(back),
            2 => Op::TakeThen { name, back },
            _ => Op::Origin {
                branch: branch.unwrap_or(0),
                name,
            },
        })
    }
}

impl Workload {
    /// The same workload, with moments that are gone back to among it if it is to have any.
    #[must_use]
    pub fn with_moments(mut self, has: bool, seed: u64) -> Self {
        self.moments = has.then(|| Moments::new(seed));
        self
    }
}
