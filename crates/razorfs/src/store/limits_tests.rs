//! What was taken fits in the ring: in files that batches do not fill, while batches wait to be
//! written, while files grow, and after a sync has failed.

use std::sync::Arc;

use razorfs_disk::Disk;
use razorfs_disk::sim::{SimDisk, SimRng};
use razorfs_format::{BatchSeq, Generation, Lsn, VolumeId};

use super::Limits;
use crate::journal::{Batch, JournalGeometry, Ring};

/// A ring, its limits, and the batches of a store that keeps to them.
struct World {
    disk: SimDisk,
    ring: Ring,
    limits: Limits,
    rng: SimRng,
    seq: u64,
    /// Bytes that were taken since the last batch was sealed.
    open: usize,
    rescues: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let disk = SimDisk::new();
        disk.create_dirs().unwrap();
        let initial_files = 3 + rng.below(4) as u32;
        let initial_file = [256 << 10, 1 << 20][rng.below(2) as usize];
        let geometry = JournalGeometry {
            initial_file,
            max_file: initial_file << rng.below(2),
            initial_files,
            max_files: initial_files + rng.below(2) as u32,
            copies: 1,
        };
        let made = Ring::create(Arc::new(disk.clone()), VolumeId(7), geometry);
        let world = Self {
            disk,
            ring: made.unwrap().0,
            limits: Limits::default(),
            rng,
            seq: 0,
            open: 0,
            rescues: 0,
            seed,
        };
        world.limits.note(&world.ring);
        world
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n.max(1) as u64) as usize
    }

    /// Takes something of this size, if the store would; answers whether there is no room for it.
    fn take(&mut self, size: usize) -> bool {
        if self.open > 0 && self.open + size > self.limits.soft_batch() {
            return false;
        }
        let fits = self.limits.fits(self.open + size);
        if fits {
            self.open += size;
        }
        !fits
    }

    fn take_some(&mut self) -> bool {
        let (most, soft) = (self.limits.most(), self.limits.soft_batch());
        let size = match self.below(4) {
            0 => 1 + self.below(500),
            1 => most - self.below(most / 50),
            2 => 1 + self.below(most),
            _ => 1 + self.below(soft),
        };
        self.take(size)
    }

    /// Does an operation on snapshots, which ends the batch, if the store would.
    fn take_point(&mut self) -> bool {
        let size = 1 + self.below(300);
        let fits = self.limits.fits_point(self.open + size, 0);
        if fits {
            self.open += size;
            self.commit();
        }
        fits
    }

    /// Writes the open batch, as far as it is taken, with as much data inline as there may be;
    /// meanwhile others come.
    fn commit(&mut self) {
        let sealed = std::mem::take(&mut self.open);
        if sealed == 0 {
            return;
        }
        let inline = self.limits.hold(sealed);
        for _ in 0..self.below(4) {
            self.take_some();
        }
        self.seq += 1;
        let payload = vec![self.seq as u8; sealed + self.below(inline + 1)];
        let appended = self.ring.append(&Batch {
            seq: BatchSeq(self.seq),
            first_lsn: Lsn(self.seq),
            n_ops: 1,
            durable: BatchSeq(0),
            generation: Generation(1),
            wall_ns: 0,
            payload,
        });
        let (limits, ring) = (&self.limits, &self.ring);
        assert!(
            appended.is_ok(),
            "seed {}: {sealed}: {appended:?}, {limits:?}, {:?}",
            self.seed,
            ring.places()
        );
        self.limits.written(&self.ring);
        if self.below(3) == 0 {
            self.sync();
        }
    }

    fn sync(&mut self) {
        if self.below(30) == 0 {
            self.disk.fail_sync_at(self.disk.counts().syncs);
        }
        let had = self.ring.rescues();
        self.ring.sync().unwrap();
        self.rescues += self.ring.rescues() - had;
        self.disk.clear_faults();
        self.limits.note(&self.ring);
    }

    /// Goes on in another file, if what was taken may.
    fn turn(&mut self) {
        let Some(places) = self.ring.places_after_turn() else {
            return;
        };
        if self.limits.give_up(self.open, places) {
            if self.below(10) == 0 {
                self.disk.fail_sync_at(self.disk.counts().syncs);
            }
            self.ring.turn().unwrap();
            self.disk.clear_faults();
            self.limits.note(&self.ring);
        }
    }

    /// A step of growing, if what was taken does not need the file.
    fn grow(&mut self) -> bool {
        if let Some(places) = self.ring.places_while_growing()
            && !self.limits.give_up(self.open, places)
        {
            return false;
        }
        let grown = self.ring.grow().unwrap();
        self.limits.note(&self.ring);
        grown
    }

    /// What a checkpoint does: all that was taken is written, and what comes meanwhile.
    fn checkpoint(&mut self) {
        while self.open > 0 {
            self.commit();
        }
        self.ring.sync().unwrap();
        let keep = match self.below(3) {
            0 => 1 + self.below(5) as u64,
            _ => 0,
        };
        self.ring
            .release(BatchSeq((self.seq + 1).saturating_sub(keep)));
        self.limits.note(&self.ring);
        let steps = self.below(4);
        for _ in 0..steps {
            self.grow();
        }
    }
}

#[test]
fn what_was_taken_fits_whatever_is_left_at_the_ends_of_files() {
    let (mut batches, mut rescues) = (0, 0);
    // With the last one the ring grew under an open batch, and more went inline than was counted.
    for seed in (0..120).chain([439]) {
        let mut w = World::new(seed);
        for _ in 0..60 {
            let full = w.take_some();
            match w.below(9) {
                0..4 => w.commit(),
                4 => w.turn(),
                5 => {
                    w.grow();
                }
                6 => {
                    w.take_point();
                }
                _ if full => w.checkpoint(),
                _ => {}
            }
        }
        (batches, rescues) = (batches + w.seq, rescues + w.rescues);
    }
    assert!(batches > 1000 && rescues > 3, "{batches} {rescues}");
}

/// However full the file in use is, what may be taken at most has room once the others are free.
#[test]
fn the_largest_transaction_has_room_after_a_checkpoint() {
    for seed in 0..100 {
        let mut w = World::new(seed);
        for _ in 0..30 {
            w.take_some();
            w.commit();
            if w.below(3) == 0 {
                w.checkpoint();
            }
        }
        w.checkpoint();
        w.ring.release(BatchSeq(w.seq + 1));
        w.limits.note(&w.ring);
        while w.grow() {}
        assert!(w.limits.is_roomy(), "seed {seed}");
    }
}

/// A batch that waits for room on the host is written after the ring has grown: what may go inline
/// is what was counted, and not what a look at the ring would say by then.
#[test]
fn no_more_goes_inline_than_was_counted_when_the_batch_was_sealed() {
    for seed in 0..20 {
        let mut w = World::new(seed);
        let inline = w.limits.hold(1000);
        let before = w.ring.capacity();
        while w.grow() {}
        let held = w.limits.ahead.lock().held;
        assert_eq!(held, Some(1000 + inline), "seed {seed}");
        if w.ring.capacity() > before && inline < super::INLINE_SYNC as usize {
            assert!(w.limits.inline_beside(1000) > inline, "seed {seed}");
        }
    }
}

#[test]
fn operations_on_snapshots_have_room_where_writers_have_none() {
    for seed in 0..40 {
        let mut w = World::new(seed);
        while !w.take(500) {
            w.commit();
        }
        w.commit();
        if w.rescues > 0 {
            // What was kept for that day is used up, and the room for these with it.
            continue;
        }
        let mut points = 0;
        // No more of others: the room is for these.
        while w.limits.fits_point(300, 0) && points < 100 {
            w.open = 300;
            let inline = w.limits.hold(w.open);
            w.seq += 1;
            let appended = w.ring.append(&Batch {
                seq: BatchSeq(w.seq),
                first_lsn: Lsn(w.seq),
                n_ops: 1,
                durable: BatchSeq(0),
                generation: Generation(1),
                wall_ns: 0,
                payload: vec![1; w.open + inline.min(100)],
            });
            appended.unwrap();
            w.limits.written(&w.ring);
            points += 1;
        }
        // Each takes a unit, whatever its size.
        let least = w.limits.for_points() / razorfs_format::journal::UNIT / 4;
        assert!(points >= least, "seed {seed}: {points} of {least}");
    }
}
