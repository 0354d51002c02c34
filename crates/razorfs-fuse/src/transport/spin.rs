//! How long to look for the next request before going to sleep.
//!
//! Waking a sleeping thread on another core is most of what a FUSE request costs, and requests of
//! one program come in a row; so whoever has answered one looks for the next for a while. The while
//! grows with success and shrinks to nothing without, so that an idle or a busy machine pays
//! nothing. When another program needed the core meanwhile, spinning stops for longer and longer:
//! whoever sleeps is put back on the core at once when a request comes, but whoever spins has to
//! wait for his turn.

use std::sync::atomic::{AtomicU64, Ordering};

/// The longest that is ever spun, in nanoseconds.
const LONGEST: u64 = 100_000;
/// Below this it is not worth the trouble.
const SHORTEST: u64 = 4_000;
/// What spinning begins with, and goes back to when a sleep turns out to have been short.
const START: u64 = 50_000;
/// A sleep shorter than this would have been worth spinning: a wake-up takes half of it.
const SHORT_SLEEP: u64 = 150_000;
/// For how long there is no spinning after a disturbance, at least and at most.
const SHORTEST_PAUSE: u64 = 50_000_000;
const LONGEST_PAUSE: u64 = 2_000_000_000;

/// The present length of a spin. Races only make it somewhat longer or shorter.
#[derive(Debug)]
pub(super) struct Spin {
    budget: AtomicU64,
    longest: u64,
    /// No spinning before this moment.
    paused_until: AtomicU64,
    pause: AtomicU64,
}

impl Spin {
    /// Spins for up to `longest` nanoseconds; 0 never spins.
    pub(super) fn new(longest: Option<u64>) -> Self {
        let longest = longest.unwrap_or(LONGEST);
        Self {
            budget: AtomicU64::new(longest.min(START)),
            longest,
            paused_until: AtomicU64::new(0),
            pause: AtomicU64::new(0),
        }
    }

    /// Nanoseconds to spin for; 0 for not at all.
    pub(super) fn budget_at(&self, now: u64) -> u64 {
        if now < self.paused_until.load(Ordering::Relaxed) {
            return 0;
        }
        self.budget()
    }

    fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// Somebody else needed the core.
    pub(super) fn disturbed(&self, now: u64) {
        let pause = self.pause.load(Ordering::Relaxed) * 2;
        let pause = pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.pause.store(pause, Ordering::Relaxed);
        self.paused_until.store(now + pause, Ordering::Relaxed);
    }

    /// A request came while spinning.
    pub(super) fn paid(&self) {
        let budget = self.budget();
        if budget < self.longest {
            // It takes some success to trust the machine again.
            self.pause
                .store(self.pause.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            self.set((budget + budget / 4).min(self.longest));
        }
    }

    /// None came.
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
    fn a_busy_machine_is_left_alone_for_longer_and_longer() {
        let spin = Spin::new(None);
        let mut now = 1;
        for _ in 0..10 {
            spin.disturbed(now);
            spin.slept(1);
            assert_eq!(spin.budget_at(now + SHORTEST_PAUSE - 1), 0);
            now += LONGEST_PAUSE;
        }
        assert_eq!(spin.budget_at(now - 1), 0);
        assert_eq!(spin.budget_at(now), START);
    }

    #[test]
    fn spinning_that_is_off_stays_off() {
        let spin = Spin::new(Some(0));
        spin.slept(1);
        spin.paid();
        assert_eq!(spin.budget_at(0), 0);
    }
}
