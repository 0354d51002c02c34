//! How much the journal takes: room is reserved when an operation comes, so that writing a batch,
//! and sealing the one that a checkpoint cuts at, never finds the journal full.

use razorfs_format::journal::UNIT;

use crate::journal::{Places, Ring};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of data up to which a batch that somebody waits for is journaled inline: one flush.
const INLINE_SYNC: u64 = 64 * 1024;
/// Bytes of a large ring that only operations on snapshots take.
const FOR_POINTS: u64 = 256 * 1024;
/// Journal bytes at which a batch of a large ring is sealed without waiting longer.
const SOFT_BATCH: u64 = 1 << 20;

/// What the ring takes, readable without its lock.
#[derive(Default, Debug)]
pub(crate) struct Limits {
    room: AtomicU64,
    capacity: AtomicU64,
    max_batch: AtomicUsize,
    ahead: Mutex<Ahead>,
}

/// What is ahead of whoever comes; seen as one, or a batch that is just being written would count
/// neither as one that waits nor as one that is there.
#[derive(Default, Debug)]
struct Ahead {
    places: Places,
    /// Bytes that a sealed batch takes which is not written yet; there is at most one.
    held: Option<usize>,
}

impl Limits {
    /// Looks at the ring.
    pub fn note(&self, ring: &Ring) {
        self.look(ring);
        self.ahead.lock().places = ring.places();
    }

    fn look(&self, ring: &Ring) {
        self.room.store(ring.room(), Ordering::Relaxed);
        self.capacity.store(ring.capacity(), Ordering::Relaxed);
        self.max_batch.store(ring.max_batch(), Ordering::Relaxed);
    }

    /// A batch was sealed that will take so many bytes; answers how many bytes of data it may have
    /// inline besides, if somebody waits for it.
    pub fn hold(&self, bytes: usize) -> usize {
        let inline = self.inline_beside(bytes);
        self.ahead.lock().held = Some(bytes + inline);
        inline
    }

    /// It was written.
    pub fn written(&self, ring: &Ring) {
        self.look(ring);
        let places = ring.places();
        *self.ahead.lock() = Ahead { places, held: None };
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Bytes of data up to which a batch that somebody waits for is journaled inline.
    pub fn inline_sync(&self) -> usize {
        INLINE_SYNC.min(self.capacity() / 16) as usize
    }

    /// The same for a batch that takes `bytes` without: the ring may have grown since that was
    /// taken in, and then more goes inline than was counted with, but a batch lies in one file.
    fn inline_beside(&self, bytes: usize) -> usize {
        let batch = self.max_batch.load(Ordering::Relaxed);
        self.inline_sync().min(batch.saturating_sub(bytes))
    }

    /// Journal bytes at which the open batch is sealed.
    pub fn soft_batch(&self) -> usize {
        let batch = self.max_batch.load(Ordering::Relaxed) / 2;
        batch.min(SOFT_BATCH.min(self.capacity() / 16) as usize)
    }

    /// The largest transaction: half of the ring is free after two checkpoints, however full the
    /// file in use is. Batches end in a unit of which the rest stays empty.
    pub fn most(&self) -> usize {
        let half = (self.capacity() / 2) as usize;
        let batch = self.max_batch.load(Ordering::Relaxed);
        half.saturating_sub(self.inline_sync() + self.spare() + self.for_points() + 3 * UNIT)
            .min(batch.saturating_sub(self.inline_sync()))
    }

    /// What must be left beside a batch, for the one that a checkpoint seals after it.
    fn spare(&self) -> usize {
        2 * self.soft_batch()
    }

    /// What must be left beside that for operations on snapshots, which come one by one, each in
    /// a batch of its own: where writers have filled the journal these need not wait for a
    /// checkpoint.
    fn for_points(&self) -> usize {
        FOR_POINTS.min(self.capacity() / 16) as usize
    }

    /// Whether a batch of `bytes` fits, with the data that a sync puts inline.
    pub fn fits(&self, bytes: usize) -> bool {
        let ahead = self.ahead.lock();
        self.fit(bytes, ahead.held, &ahead.places)
    }

    /// The same for a batch that ends with an operation on snapshots, and has `data` bytes of data
    /// which all go inline.
    pub fn fits_point(&self, bytes: usize, data: usize) -> bool {
        if data > self.inline_beside(bytes) {
            return false;
        }
        let ahead = self.ahead.lock();
        let next = [bytes + self.inline_sync(), self.spare()];
        ahead.places.take(ahead.held.into_iter().chain(next))
    }

    fn fit(&self, bytes: usize, held: Option<usize>, places: &Places) -> bool {
        let next = [bytes + self.inline_sync(), self.spare(), self.for_points()];
        places.take(held.into_iter().chain(next))
    }

    /// Counts on no more than `places` from now on, unless the open batch of `bytes` needs more.
    /// Answers whether it does not; the caller keeps others from adding to it.
    pub fn give_up(&self, bytes: usize, places: Places) -> bool {
        let mut ahead = self.ahead.lock();
        let fits = self.fit(bytes, ahead.held, &places);
        if fits {
            ahead.places = places;
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

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
