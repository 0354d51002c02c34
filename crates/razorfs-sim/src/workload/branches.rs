//! Branches in a workload, beside all else that it does.

use super::Workload;
use crate::branches::NAMES;
use crate::model::Model;
use crate::op::Op;
use crate::points::{self, Which};
use crate::rng::{Rng, mix};

/// More than that are not kept, as each is compared after every cut.
const MOST: usize = 3;

/// What a workload does with branches.
#[derive(Clone, Debug)]
pub(super) struct Branches {
    rng: Rng,
    /// Of a thousand operations so many are about branches.
    often: u64,
    fork: u32,
    prune: u32,
    go: u32,
}

impl Branches {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 12));
        let often = [20, 60, 120, 250].get(rng.below(4)).copied();
        let mut weight = |weight| rng.varied(weight);
        Self {
            often: often.unwrap_or(60),
            fork: weight(20),
            prune: weight(8),
            go: weight(60),
            rng,
        }
    }

    /// The next operation, if it is about branches.
    pub(super) fn next(&mut self, model: &Model) -> Option<Op> {
        if self.rng.range(0..1000) >= self.often {
            return None;
        }
        let branches = model.branches().len();
        let fork = if branches < MOST { self.fork } else { 0 };
        let [prune, go] = match branches {
            0 => [1, 1],
            _ => [self.prune, self.go],
        };
        let which = self.which(model);
        Some(match self.rng.weighted([fork, prune, go].into_iter()) {
            0 => Op::Fork {
                name: self.name(),
                from: self.from(),
            },
            1 => Op::Prune(which),
            _ => Op::Go {
                to: self.rng.chance(65).then_some(which),
                closes: self.rng.chance(30),
            },
        })
    }

    fn name(&mut self) -> u8 {
        self.rng.range(0..NAMES.into()) as u8
    }

    /// Mostly one that is there.
    fn which(&mut self, model: &Model) -> u8 {
        let all = model.branches();
        match self.rng.chance(90) {
            true => self.rng.pick(&all).copied(),
            false => None,
        }
        .unwrap_or_else(|| self.name())
    }

    /// A snapshot, or the present.
    fn from(&mut self) -> Option<Which> {
        match self.rng.range(0..10) {
            0..6 => None,
            6..9 => Some(Which::Named(self.rng.range(0..points::NAMES.into()) as u8)),
            _ => Some(Which::Safety(self.rng.range(0..3) as u8)),
        }
    }
}

impl Workload {
    /// The same workload, with branches among it if it is to have any.
    #[must_use]
    pub fn with_branches(mut self, has: bool, seed: u64) -> Self {
        self.branches = has.then(|| Branches::new(seed));
        self
    }
}
