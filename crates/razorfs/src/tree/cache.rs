//! The block cache: decompressed, checked blocks of all tables under one budget.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use razorfs_format::SegmentId;

use crate::Result;

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
pub struct BlockCache(Cache<BlockId, Cached, Weight>);

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
        Self(Cache::with_options(
            options,
            Weight,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ))
    }

    /// Bytes in use, of the budget.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.weight()
    }

    /// Number of blocks held.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// The block, from `load` if it is not here; concurrent loads of one block become one.
    pub(super) fn get(
        &self,
        id: BlockId,
        load: impl FnOnce() -> Result<Box<[u8]>>,
    ) -> Result<Cached> {
        self.0.get_or_insert_with(&id, || load().map(Arc::new))
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
        }
    }
}
