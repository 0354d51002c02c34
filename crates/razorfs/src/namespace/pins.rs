//! Who is held open, and which nameless inodes wait for their removal.
//!
//! An inode whose last name goes while somebody holds it stays until the last holder lets go; then
//! it joins the queue of the reaper. This is RAM only: the orphan records on the disk find the same
//! inodes again after a crash.
//!
//! Where the volume goes on for users whose process before has died, holders from before are not
//! known. Then every inode from before counts as held, and whoever can ask the users does so for
//! those that would go ([`PinTable::doubtful`]). Users may not hold yet what the process had made
//! for them and not told them of: that stays until they ask again, until all have asked again who
//! had no answer, or until they are gone ([`PinTable::untold`]).

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeSet, HashMap, VecDeque};

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
    /// Inodes below this one may have holders that nobody told us of: who counted them has died. 0
    /// if there are none.
    unclear_below: AtomicU64,
    /// The nameless ones among them that would go, if nobody held them.
    doubtful: Mutex<BTreeSet<Ino>>,
    /// Those that turned out not to be held.
    clear: Mutex<BTreeSet<Ino>>,
    /// Those that a request has made whose answer may never have been sent.
    untold: Mutex<BTreeSet<Ino>>,
}

impl PinTable {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            queue: Mutex::default(),
            unclear_below: AtomicU64::new(0),
            doubtful: Mutex::default(),
            clear: Mutex::default(),
            untold: Mutex::default(),
        }
    }

    /// Whoever holds an inode below `first` may have begun before there was anybody to count.
    pub(crate) fn doubt_below(&self, first: Ino) {
        self.unclear_below.store(first.0, Ordering::Release);
    }

    /// Whoever asked for these may not have been told.
    pub(crate) fn untold(&self, made: impl Iterator<Item = Ino>) {
        self.untold.lock().extend(made);
    }

    /// Whoever asked for the inode has been told.
    pub(crate) fn told(&self, ino: Ino) {
        if ino.0 < self.unclear_below.load(Ordering::Acquire) {
            self.untold.lock().remove(&ino);
        }
    }

    /// Everybody has been told of what they had asked for.
    pub(crate) fn all_told(&self) {
        self.untold.lock().clear();
    }

    fn is_unclear(&self, ino: Ino) -> bool {
        ino.0 < self.unclear_below.load(Ordering::Acquire) && !self.clear.lock().contains(&ino)
    }

    /// The nameless inodes of which nobody can tell whether they are held.
    pub(crate) fn doubtful(&self) -> Vec<Ino> {
        self.doubtful.lock().iter().copied().collect()
    }

    /// Nobody holds the inode but those that were counted, and nobody comes to it any more.
    pub(crate) fn not_held(&self, ino: Ino) -> bool {
        let shard = self.shard(ino).lock();
        let pinned = shard.get(&ino).is_some_and(|pin| pin.holders > 0);
        let comes = self.untold.lock().contains(&ino);
        let gone = !pinned && !comes && self.doubtful.lock().remove(&ino);
        if gone {
            self.clear.lock().insert(ino);
        }
        drop(shard);
        if gone {
            self.enqueue(ino);
        }
        gone
    }

    /// Nobody holds anything.
    pub(crate) fn nobody_is_left(&self) {
        self.unclear_below.store(0, Ordering::Release);
        self.untold.lock().clear();
        let doubtful = std::mem::take(&mut *self.doubtful.lock());
        self.queue.lock().extend(doubtful);
    }

    /// A nameless inode has no holder that was counted: it goes, or somebody has to ask.
    fn let_go(&self, ino: Ino) {
        if self.is_unclear(ino) {
            self.doubtful.lock().insert(ino);
        } else {
            self.enqueue(ino);
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
            self.told(ino);
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
            self.let_go(ino);
        }
    }

    /// Somebody holds it, or may do so.
    pub(crate) fn is_pinned(&self, ino: Ino) -> bool {
        if self.is_unclear(ino) {
            return true;
        }
        let shard = self.shard(ino).lock();
        shard.get(&ino).is_some_and(|pin| pin.holders > 0)
    }

    /// It lost its last name: it is removed at once, or when its last holder lets go.
    pub(crate) fn lost_its_name(&self, ino: Ino) {
        if let Some(pin) = self.shard(ino).lock().get_mut(&ino) {
            pin.nameless = true;
            return;
        }
        self.let_go(ino);
    }

    /// It was made without a name: it is removed when its last holder lets go, not before the
    /// first has come.
    pub(crate) fn born_nameless(&self, ino: Ino) {
        self.shard(ino).lock().entry(ino).or_default().nameless = true;
    }

    /// It got a name.
    pub(crate) fn got_a_name(&self, ino: Ino) {
        self.doubtful.lock().remove(&ino);
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
