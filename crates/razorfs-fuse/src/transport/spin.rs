//! How long to look for the next request before going to sleep.
//!
//! Waking a sleeping thread on another core is most of what a FUSE request costs, and requests of
//! one program come in a row; so whoever has answered one looks for the next for a while. The while
//! grows with success and shrinks to nothing without, so that an idle or a busy machine pays
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// The longest that is ever spun, in nanoseconds.
const LONGEST: u64 = 100_000;
/// Below this it is not worth the trouble.
const SHORTEST: u64 = 4_000;
/// What spinning begins with, and goes back to when a sleep turns out to have been short.
const START: u64 = 50_000;
/// A sleep shorter than this would have been worth spinning: a wake-up takes half of it.
const SHORT_SLEEP: u64 = 150_000;

/// The present length of a spin. Races only make it somewhat longer or shorter.
#[derive(Debug)]
pub(super) struct Spin {
    budget: AtomicU64,
    longest: u64,
}

impl Spin {
    /// Spins for up to `longest` nanoseconds; 0 never spins.
    pub(super) fn new(longest: Option<u64>) -> Self {
        let longest = longest.unwrap_or(LONGEST);
        Self {
            budget: AtomicU64::new(longest.min(START)),
            longest,
        }
    }

    /// Nanoseconds to spin for now; 0 for not at all.
    pub(super) fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// A request came while spinning.
    pub(super) fn paid(&self) {
        let budget = self.budget();
        if budget < self.longest {
            self.set((budget + budget / 4).min(self.longest));
        }
    }

    /// None came, or somebody else needed the core.
    pub(super) fn in_vain(&self) {
        let budget = self.budget() / 2;
        self.set(if budget < SHORTEST { 0 } else { budget });
    }

    /// A request ended a sleep of this many nanoseconds.
    pub(super) fn slept(&self, nanos: u64) {
        if nanos < SHORT_SLEEP && self.budget() < START {
            self.set(START.min(self.longest));
        }
    }

    fn set(&self, budget: u64) {
        self.budget.store(budget, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_in_vain_ends_soon_and_short_sleeps_bring_it_back() {
        let spin = Spin::new(None);
        let mut spent = 0;
        while spin.budget() > 0 {
            spent += spin.budget();
            spin.in_vain();
        }
        assert!(spent < 2 * START);
        spin.slept(10 * SHORT_SLEEP);
        assert_eq!(spin.budget(), 0);
        spin.slept(SHORT_SLEEP / 2);
        assert_eq!(spin.budget(), START);
        for _ in 0..10 {
            spin.paid();
        }
        assert_eq!(spin.budget(), LONGEST);
    }

    #[test]
    fn spinning_that_is_off_stays_off() {
        let spin = Spin::new(Some(0));
        spin.slept(1);
        spin.paid();
        assert_eq!(spin.budget(), 0);
    }
}
