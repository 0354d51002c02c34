//! A sum of sizes, which may need more than 64 bits: a file of holes alone has up to 2^63 - 1.

use crate::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A sum that many threads add to. It is exact whenever nobody is adding, as when the memtable is
/// frozen; between the two steps of another's carry it is off for a moment.
pub(crate) struct Sum {
    low: AtomicU64,
    high: AtomicI64,
}

impl Sum {
    /// A sum to begin with, at most `i128::MAX`.
    pub fn new(value: u128) -> Self {
        Self {
            low: AtomicU64::new(value as u64),
            high: AtomicI64::new((value >> 64) as i64),
        }
    }

    /// Adds to it.
    pub fn add(&self, delta: i64) {
        let before = self.low.fetch_add(delta as u64, Ordering::Relaxed);
        let carry = match before.checked_add_signed(delta) {
            Some(_) => return,
            None => delta.signum(),
        };
        self.high.fetch_add(carry, Ordering::Relaxed);
    }

    /// Becomes this sum. The caller keeps everybody else from adding.
    pub fn set(&self, value: u128) {
        self.low.store(value as u64, Ordering::Relaxed);
        self.high.store((value >> 64) as i64, Ordering::Relaxed);
    }

    /// The sum; not below zero, where it cannot be but in the middle of a carry.
    pub fn get(&self) -> u128 {
        let high = i128::from(self.high.load(Ordering::Relaxed)) << 64;
        let sum = high | i128::from(self.low.load(Ordering::Relaxed));
        sum.max(0) as u128
    }

    /// The sum, or as much of it as 64 bits can tell.
    pub fn saturated(&self) -> u64 {
        u64::try_from(self.get()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_go_up_and_down() {
        let sum = Sum::new(5);
        for _ in 0..5 {
            sum.add(i64::MAX);
        }
        assert_eq!(sum.get(), 5 * i64::MAX as u128 + 5);
        assert_eq!(sum.saturated(), u64::MAX);
        assert_eq!(Sum::new(sum.get()).get(), sum.get());
        for _ in 0..5 {
            sum.add(-i64::MAX);
        }
        assert_eq!((sum.get(), sum.saturated()), (5, 5));
        sum.add(-5);
        assert_eq!(sum.get(), 0);
    }
}
