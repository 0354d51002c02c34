//! Randomness from one number, and the mixing function that state hashes are made of.

use std::ops::Range;

/// A small generator (`SplitMix64`): one seed gives one sequence, on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence that `seed` gives.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed, 0x9e37_79b9_7f4a_7c15))
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scatter(self.0)
    }

    /// A number in `range`, which is not empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.next() % width
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.range(0..end as u64) as usize
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.range(0..100) < percent
    }

    /// One of `items`, if there are any.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len().max(1)))
    }

    /// A weight for [`Rng::weighted`]: one workload does much of a thing and another little.
    pub fn varied(&mut self, weight: u32) -> u32 {
        match self.range(0..6) {
            0 => weight / 4,
            1 => weight * 3,
            _ => weight,
        }
    }

    /// An index, each as likely as its weight says.
    pub fn weighted(&mut self, weights: impl Iterator<Item = u32> + Clone) -> usize {
        let total: u64 = weights.clone().map(u64::from).sum();
        let mut at = self.range(0..total.max(1));
        for (i, w) in weights.enumerate() {
            match at.checked_sub(u64::from(w)) {
                Some(rest) => at = rest,
                None => return i,
            }
        }
        0
    }
}

/// Two numbers folded into one so that each of their bits matters.
#[must_use]
pub const fn mix(a: u64, b: u64) -> u64 {
    let wide = ((a ^ 0xa076_1d64_78bd_642f) as u128) * ((b ^ 0xe703_7ed1_a0b4_28db) as u128);
    (wide as u64) ^ ((wide >> 64) as u64) ^ a.rotate_left(23)
}

/// The finalizer of `SplitMix64`. What is summed up goes through it: sums of [`mix`] alone, which
/// is a product, are often the same where two neighbours have changed their places.
#[must_use]
pub const fn scatter(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of bytes.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut h = mix(bytes.len() as u64, 0x2545_f491_4f6c_dd1d);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        h = mix(h, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    mix(h, u64::from_le_bytes(last))
}
