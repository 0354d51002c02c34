//! Snapshots in a workload, beside all else that it does.

use super::Workload;
use crate::model::Model;
use crate::op::{Op, Work};
use crate::points::{NAMES, Which};
use crate::rng::{Rng, mix};

/// More than that are not kept, as each is compared after every cut.
pub(super) const MOST: usize = 5;

/// What a workload does with snapshots.
#[derive(Clone, Debug)]
pub(super) struct Points {
    rng: Rng,
    /// Of a thousand operations so many are about snapshots.
    often: u64,
    take: u32,
    delete: u32,
    roll_back: u32,
    view: u32,
    release: u32,
}

impl Points {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 11));
        let often = [10, 30, 60, 120].get(rng.below(4)).copied();
        let mut weight = |weight| rng.varied(weight);
        Self {
            often: often.unwrap_or(60),
            take: weight(40),
            delete: weight(24),
            roll_back: weight(16),
            view: weight(12),
            release: weight(24),
            rng,
        }
    }

    /// The next operation, if it is about snapshots.
    pub(super) fn next(&mut self, model: &Model) -> Option<Op> {
        if self.rng.range(0..1000) >= self.often {
            return None;
        }
        let points = model.points().len();
        let take = if points < MOST { self.take } else { 0 };
        let weights = [take, self.delete, self.roll_back, self.view, self.release];
        let which = self.which(model);
        Some(match self.rng.weighted(weights.into_iter()) {
            0 => Op::Take(self.name()),
            1 => Op::Delete(which),
            2 if points <= MOST => Op::Rollback(which),
            2 => Op::Delete(which),
            3 => Op::View(which),
            _ => Op::Step(Work::Release),
        })
    }

    fn name(&mut self) -> u8 {
        self.rng.range(0..NAMES.into()) as u8
    }

    /// Mostly one that is there.
    fn which(&mut self, model: &Model) -> Which {
        for _ in 0..4 {
            let which = match self.rng.chance(30) {
                true => Which::Safety(self.rng.range(0..3) as u8),
                false => Which::Named(self.name()),
            };
            if model.snapshot(which).is_some() {
                return which;
            }
        }
        Which::Named(self.name())
    }
}

impl Workload {
    /// The same workload, with snapshots among it if it is to have any.
    #[must_use]
    pub fn with_snapshots(mut self, has: bool, seed: u64) -> Self {
        self.points = has.then(|| Points::new(seed));
        self
    }
}
