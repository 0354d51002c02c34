//! The block cache: decompressed, checked blocks of all tables under one budget.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use razorfs_format::SegmentId;

use crate::Result;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A block of a segment: identities are never reused, so a block never goes stale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct BlockId {
    pub(super) segment: SegmentId,
    pub(super) offset: u32,
}

/// The raw bytes of a block.
pub(super) type Cached = Arc<Box<[u8]>>;

/// What a block costs beside its bytes: the cache's own entry and the counts of the `Arc`.
const OVERHEAD: u64 = 96;
/// Budget for each part of the cache that has a lock of its own.
const SHARD_BYTES: u64 = 4 << 20;

#[derive(Clone)]
struct Weight;

impl Weighter<BlockId, Cached> for Weight {
    fn weight(&self, _: &BlockId, block: &Cached) -> u64 {
        block.len() as u64 + OVERHEAD
    }
}

/// Decompressed blocks of segments, weighted by their bytes, never more than the budget.
pub struct BlockCache {
    blocks: Cache<BlockId, Cached, Weight>,
    budget: u64,
    lookups: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    /// A cache of at most `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity((bytes / (8 << 10)).clamp(1, 1 << 24) as usize)
            .shards((bytes / SHARD_BYTES).clamp(1, 64) as usize)
            .build();
        let Ok(options) = options else {
            unreachable!("capacity and number of items are given");
        };
        let blocks = Cache::with_options(
            options,
            Weight,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        Self {
            blocks,
            budget: bytes,
            lookups: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Bytes in use, of the budget.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.blocks.weight()
    }

    /// Number of blocks held.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The budget, in bytes.
    #[must_use]
    pub const fn budget(&self) -> u64 {
        self.budget
    }

    /// How often a block was asked for, and how often it had to be read for that.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let [lookups, misses] = [&self.lookups, &self.misses].map(|n| n.load(Ordering::Relaxed));
        (lookups, misses)
    }

    /// The block, from `load` if it is not here; concurrent loads of one block become one.
    pub(super) fn get(
        &self,
        id: BlockId,
        load: impl FnOnce() -> Result<Box<[u8]>>,
    ) -> Result<Cached> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let mut is_missing = false;
        let found = self.blocks.get_or_insert_with(&id, || {
            is_missing = true;
            load().map(Arc::new)
        });
        if is_missing {
            // Not while others wait for the block: the scheduler of the tests does not know of
            // that, and may go to one of them.
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_strict() {
        for budget in [0u64, 100 << 10, 5 << 20] {
            let cache = BlockCache::new(budget);
            for i in 0..2000u32 {
                let id = BlockId {
                    segment: SegmentId(u64::from(i) % 7),
                    offset: i,
                };
                let size = 1 + (i as usize * 7919) % (32 << 10);
                let block = cache.get(id, || Ok(vec![1; size].into())).unwrap();
                assert_eq!(block.len(), size);
                assert!(cache.used() <= budget, "{} of {budget}", cache.used());
            }
            assert!(cache.used() >= budget / 2, "{} of {budget}", cache.used());
            assert_eq!(cache.budget(), budget);
        }
    }

    #[test]
    fn what_is_there_is_no_miss() {
        let cache = BlockCache::new(1 << 20);
        for (offset, misses) in [(1, 1), (1, 1), (2, 2), (1, 2)] {
            let segment = SegmentId(1);
            let block = cache.get(BlockId { segment, offset }, || Ok(vec![1].into()));
            assert_eq!(block.unwrap().len(), 1);
            assert_eq!(cache.counts().1, misses);
        }
        assert_eq!(cache.counts(), (4, 2));
    }
}
