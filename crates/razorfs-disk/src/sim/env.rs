//! The simulated clock and randomness.

use std::sync::Arc;

use parking_lot::Mutex;

use super::SimRng;
use crate::Env;

/// The moment at which every simulated clock starts: 2026-01-01 00:00 UTC.
const START_NS: u64 = 1_767_225_600 * 1_000_000_000;

struct State {
    elapsed: u64,
    tick: u64,
    rng: SimRng,
}

/// A clock that the test moves, and random bits that follow from a seed. Cloning gives another
/// handle to the same clock.
#[derive(Clone)]
pub struct SimEnv {
    state: Arc<Mutex<State>>,
}

impl SimEnv {
    /// A clock at its start; each look at it moves it by a microsecond, so that no two moments
    /// are the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            elapsed: 0,
            tick: 1000,
            rng: SimRng::new(seed),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Moves the clock by `ns` nanoseconds.
    pub fn advance(&self, ns: u64) {
        self.state.lock().elapsed += ns;
    }

    /// How far each look at the clock moves it, in nanoseconds.
    pub fn set_tick(&self, ns: u64) {
        self.state.lock().tick = ns;
    }

    fn look(&self) -> u64 {
        let mut state = self.state.lock();
        state.elapsed += state.tick;
        state.elapsed
    }
}

impl Env for SimEnv {
    fn now(&self) -> u64 {
        START_NS + self.look()
    }

    fn monotonic(&self) -> u64 {
        self.look()
    }

    fn random(&self) -> u64 {
        self.state.lock().rng.next_u64()
    }
}
