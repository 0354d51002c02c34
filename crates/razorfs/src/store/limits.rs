//! How much the journal takes: room is reserved when an operation comes, so that writing a batch,
//! and sealing the one that a checkpoint cuts at, never finds the journal full.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use razorfs_format::journal::UNIT;

use crate::journal::Ring;

/// Bytes of data up to which a batch that somebody waits for is journaled inline: one flush.
const INLINE_SYNC: u64 = 64 * 1024;
/// Journal bytes at which a batch of a large ring is sealed without waiting longer.
const SOFT_BATCH: u64 = 1 << 20;

/// What the ring takes, readable without its lock.
#[derive(Default, Debug)]
pub(crate) struct Limits {
    room: AtomicU64,
    capacity: AtomicU64,
    max_batch: AtomicUsize,
    /// Bytes that a sealed batch takes which is not written yet; there is at most one.
    held: AtomicU64,
}

impl Limits {
    /// Looks at the ring.
    pub fn note(&self, ring: &Ring) {
        self.room.store(ring.room(), Ordering::Relaxed);
        self.capacity.store(ring.capacity(), Ordering::Relaxed);
        self.max_batch.store(ring.max_batch(), Ordering::Relaxed);
    }

    /// A batch was sealed that will take so many bytes.
    pub fn hold(&self, bytes: usize) {
        // Data that a sync puts inline, and the rest of a unit that the batch ends in.
        let bytes = bytes + self.inline_sync() + UNIT;
        self.held.store(bytes as u64, Ordering::Relaxed);
    }

    /// It was written.
    pub fn written(&self, ring: &Ring) {
        self.note(ring);
        self.held.store(0, Ordering::Relaxed);
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes of data up to which a batch that somebody waits for is journaled inline.
    pub fn inline_sync(&self) -> usize {
        INLINE_SYNC.min(self.capacity() / 16) as usize
    }

    /// Journal bytes at which the open batch is sealed.
    pub fn soft_batch(&self) -> usize {
        let batch = self.max_batch.load(Ordering::Relaxed) / 2;
        batch.min(SOFT_BATCH.min(self.capacity() / 16) as usize)
    }

    /// The largest transaction: half of the ring is free after two checkpoints, however full the
    /// file in use is.
    pub fn most(&self) -> usize {
        let half = (self.capacity() / 2) as usize;
        let batch = self.max_batch.load(Ordering::Relaxed);
        half.saturating_sub(self.spare())
            .min(batch.saturating_sub(self.inline_sync()))
    }

    /// What must be left beside a batch: for the data that a sync puts inline, and for the batch
    /// that a checkpoint seals after it.
    fn spare(&self) -> usize {
        self.inline_sync() + 2 * self.soft_batch()
    }

    /// Whether a batch of `bytes` fits.
    pub fn fits(&self, bytes: usize) -> bool {
        self.fits_in(bytes, self.room.load(Ordering::Relaxed))
    }

    fn fits_in(&self, bytes: usize, room: u64) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        (bytes + self.spare()) as u64 + held <= room
    }

    /// Counts on no more than `room` from now on, unless the open batch of `bytes` needs more.
    /// Answers whether it does not; the caller keeps others from adding to it.
    pub fn give_up(&self, bytes: usize, room: u64) -> bool {
        let fits = self.fits_in(bytes, room);
        if fits {
            self.room.store(room, Ordering::Relaxed);
        }
        fits
    }

    /// Whether the largest transaction fits.
    pub fn is_roomy(&self) -> bool {
        self.fits(self.most())
    }

    /// Whether less than a third of the ring is free: time for a checkpoint.
    pub fn tight(&self) -> bool {
        self.room.load(Ordering::Relaxed) < self.capacity() / 3
    }

    /// Whether more than half of the ring is in use: it should grow.
    pub fn pressed(&self) -> bool {
        self.room.load(Ordering::Relaxed) < self.capacity() / 2
    }
}
