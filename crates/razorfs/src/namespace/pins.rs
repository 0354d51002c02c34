//! Who is held open, and which nameless inodes wait for their removal.
//!
//! An inode whose last name goes while somebody holds it stays until the last holder lets go; then
//! it joins the queue of the reaper. This is RAM only: the orphan records on the disk find the same
//! inodes again after a crash.

use std::collections::{HashMap, VecDeque};

use razorfs_format::Ino;

use crate::sync::Mutex;

const SHARDS: usize = 64;

#[derive(Default)]
struct Pin {
    holders: u64,
    /// It has no name: whoever lets go last hands it to the reaper.
    nameless: bool,
}

pub(crate) struct PinTable {
    shards: Box<[Mutex<HashMap<Ino, Pin>>]>,
    queue: Mutex<VecDeque<Ino>>,
}

impl PinTable {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            queue: Mutex::default(),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Pin>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// `n` more holders.
    pub(crate) fn pin(&self, ino: Ino, n: u64) {
        if n > 0 {
            self.shard(ino).lock().entry(ino).or_default().holders += n;
        }
    }

    /// `n` holders fewer. Letting go of more than was held is the same as of all.
    pub(crate) fn unpin(&self, ino: Ino, n: u64) {
        let mut shard = self.shard(ino).lock();
        let Some(pin) = shard.get_mut(&ino) else {
            return;
        };
        pin.holders = pin.holders.saturating_sub(n);
        if pin.holders > 0 {
            return;
        }
        let nameless = pin.nameless;
        shard.remove(&ino);
        drop(shard);
        if nameless {
            self.enqueue(ino);
        }
    }

    /// Somebody holds it.
    pub(crate) fn is_pinned(&self, ino: Ino) -> bool {
        let shard = self.shard(ino).lock();
        shard.get(&ino).is_some_and(|pin| pin.holders > 0)
    }

    /// It lost its last name: it is removed at once, or when its last holder lets go.
    pub(crate) fn lost_its_name(&self, ino: Ino) {
        if let Some(pin) = self.shard(ino).lock().get_mut(&ino) {
            pin.nameless = true;
            return;
        }
        self.enqueue(ino);
    }

    /// It was made without a name: it is removed when its last holder lets go, not before the
    /// first has come.
    pub(crate) fn born_nameless(&self, ino: Ino) {
        self.shard(ino).lock().entry(ino).or_default().nameless = true;
    }

    /// It got a name.
    pub(crate) fn got_a_name(&self, ino: Ino) {
        let mut shard = self.shard(ino).lock();
        if let Some(pin) = shard.get_mut(&ino) {
            pin.nameless = false;
            if pin.holders == 0 {
                shard.remove(&ino);
            }
        }
    }

    /// Hands an inode to the reaper.
    pub(crate) fn enqueue(&self, ino: Ino) {
        self.queue.lock().push_back(ino);
    }

    /// The next inode for the reaper.
    pub(crate) fn dequeue(&self) -> Option<Ino> {
        self.queue.lock().pop_front()
    }

    /// Number of inodes that wait for the reaper.
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().len()
    }
}
