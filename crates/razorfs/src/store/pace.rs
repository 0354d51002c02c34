//! Slowing writers down where they write over data faster than its space is given back.
//!
//! What is written over takes space until two generations were written, and until the pack that
//! holds it was cleaned, if it lies among what is still needed. Where the host, or the
//! limit of the volume, leaves much more than the volume takes, nobody waits; where it does not,
//! each write waits a little, the more the further the garbage is beyond what starts a checkpoint,
//! and the waste beyond what starts cleaning, so that all come to the same rate.

use std::time::Duration;

use super::Core;
use crate::sync::atomic::Ordering;
use crate::sync::thread;

/// Nanoseconds that a write waits at most.
const MOST: u64 = 10_000_000;

impl Core {
    /// Bytes of data that may have become garbage at which a checkpoint is due at once.
    pub fn garbage_most(&self) -> u64 {
        let stored = self.stored.load(Ordering::Relaxed);
        let soon = self.tuning.garbage_soon;
        match self.is_confined() {
            true => (soon / 16).max(stored / 512),
            false => soon.max(stored / 32),
        }
    }

    /// Waits, if writers are to be slowed down. The caller holds no lock.
    pub fn pace(&self) {
        if !self.tuning.threads || self.tuning.journal_only {
            return;
        }
        let most = self.garbage_most();
        let over = self.garbage_since_cut().saturating_sub(most);
        let waste = self.waste_over.load(Ordering::Relaxed);
        if over.max(waste) > 0 && self.is_confined() {
            let stored = self.stored.load(Ordering::Relaxed);
            let nap = pause(over, most).max(pause(waste, stored / 16));
            if nap > 0 {
                thread::park_timeout(Duration::from_nanos(nap));
            }
        }
    }

    /// Whether there is not much more space than what the volume takes.
    pub fn is_confined(&self) -> bool {
        let stored = self.stored.load(Ordering::Relaxed);
        let free = self.host_free.load(Ordering::Relaxed);
        let limit = self.tuning.limit;
        limit.is_some_and(|limit| self.bytes.saturated() > limit / 2)
            || free < i64::try_from(stored.saturating_mul(2)).unwrap_or(i64::MAX)
    }
}

/// How long a write waits with so much garbage beyond what there should be.
fn pause(over: u64, most: u64) -> u64 {
    let most = u128::from(most.max(1));
    let part = u128::from(over).min(most);
    // The square: little beyond costs next to nothing.
    (u128::from(MOST) * part * part / (most * most)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_slowed_down_smoothly_and_by_no_more_than_ten_milliseconds() {
        assert_eq!(pause(0, 1000), 0);
        assert!(pause(10, 1000) < 2000);
        assert_eq!(pause(500, 1000), MOST / 4);
        assert_eq!(pause(1000, 1000), MOST);
        assert_eq!(pause(u64::MAX, 1000), MOST);
        assert_eq!(pause(1, 0), MOST);
        let pauses: Vec<u64> = (0..100).map(|n| pause(n, 90)).collect();
        assert!(pauses.is_sorted());
    }
}
