//! Snapshots that are sent to another volume, in a workload, beside all else that it does.

use super::Workload;
use super::points::MOST;
use crate::model::Model;
use crate::op::{Ending, Fault, Op};
use crate::points::{NAMES, Which};
use crate::rng::{Rng, mix};

/// What a workload does with streams.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    rng: Rng,
    /// Of a thousand operations so many are about streams.
    often: u64,
}

impl Streams {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 17));
        let often = [5, 15, 30].get(rng.below(3)).copied();
        Self {
            often: often.unwrap_or(15),
            rng,
        }
    }

    /// The next operation, if it is about streams.
    pub(super) fn next(&mut self, model: &Model) -> Option<Op> {
        if self.rng.range(0..1000) >= self.often {
            return None;
        }
        let which = self.which(model);
        let few = model.points().len() < MOST;
        let Some(which) = which.filter(|_| !few || self.rng.chance(70)) else {
            return Some(Op::Take(self.rng.range(0..NAMES.into()) as u8));
        };
        let ending = match self.rng.range(0..12) {
            0..4 => Ending::Whole,
            4..6 => Ending::Broken(self.rng.next()),
            6 => Ending::Flipped(self.rng.next()),
            7..11 => Ending::Cut(self.rng.range(0..24)),
            _ => Ending::Fault(self.fault()),
        };
        Some(Op::Carry {
            which,
            force: self.rng.chance(75),
            ending,
            seed: self.rng.next(),
        })
    }

    fn fault(&mut self) -> Fault {
        match self.rng.range(0..4) {
            0 => Fault::SyncFails(self.rng.range(0..4)),
            1 => Fault::Full(self.rng.range(0..30)),
            2 => Fault::Capacity(self.rng.range(0..300_000)),
            _ => Fault::ShortWrite(self.rng.range(0..10)),
        }
    }

    fn which(&mut self, model: &Model) -> Option<Which> {
        let named = (0..NAMES).map(Which::Named);
        let all = named.chain((0..3).map(Which::Safety));
        let all: Vec<Which> = all.filter(|w| model.snapshot(*w).is_some()).collect();
        self.rng.pick(&all).copied()
    }
}

impl Workload {
    /// The same workload, with snapshots that are sent among it if it is to have any.
    #[must_use]
    pub fn with_streams(mut self, has: bool, seed: u64) -> Self {
        self.streams = has.then(|| Streams::new(seed));
        self
    }
}
