//! Names that were looked up, in RAM: a part of the tree of names, so that walking a path does not
//! search the layers of the store at each step.
//!
//! It is exact. An entry, or that there is none, is remembered by whoever holds its directory's
//! lock, shared or exclusive, and has just read it; it is forgotten by whoever changes it, under
//! the exclusive lock and before the change becomes visible. So what is here is in the store too.
//! It is bounded in bytes; what it has no room for is looked up in the store.
//!
//! Names that are not there are remembered since a program, or the kernel for it, looks before it
//! creates: the second search is spared.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use razorfs_format::Ino;

use super::directory::Slot;

/// A directory and the hash of a name, as the first cookie of that hash.
type Spot = (Ino, u64);

/// A name, and where it is or could be.
struct Dentry {
    name: Box<[u8]>,
    slot: Slot,
}

/// What an entry costs beside its name: keys, counts, and the cache's own share.
const OVERHEAD: u64 = 160;
/// The budget, in bytes.
const BYTES: u64 = 32 << 20;
/// Parts that have a lock of their own.
const SHARDS: usize = 16;
/// Entries for which there is room from the start.
const FEW: usize = 1024;

#[derive(Clone)]
struct Weight;

impl Weighter<Spot, Arc<Dentry>> for Weight {
    fn weight(&self, _: &Spot, dentry: &Arc<Dentry>) -> u64 {
        let held = match &dentry.slot {
            Slot::Taken(_, dirent) => dirent.name.len(),
            Slot::Free(_) => 0,
        };
        (dentry.name.len() + held) as u64 + OVERHEAD
    }
}

/// The entries that were looked up.
pub(super) struct Dentries(Cache<Spot, Arc<Dentry>, Weight>);

impl Dentries {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(BYTES)
            .estimated_items_capacity(FEW)
            .shards(SHARDS)
            .build();
        let Ok(options) = options else {
            unreachable!("capacity and number of items are given");
        };
        let (hash, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self(Cache::with_options(options, Weight, hash, lifecycle))
    }

    /// Where `name`, whose hash begins at `first`, is in `dir`, or could be.
    pub(super) fn get(&self, dir: Ino, first: u64, name: &[u8]) -> Option<Slot> {
        let dentry = self.0.get(&(dir, first))?;
        // Two names can have one hash; the one that was looked up last is here.
        (*dentry.name == *name).then(|| dentry.slot.clone())
    }

    /// The caller holds the lock of `dir` and has just read it.
    pub(super) fn remember(&self, dir: Ino, first: u64, name: &[u8], slot: &Slot) {
        let (name, slot) = (name.into(), slot.clone());
        self.0.insert((dir, first), Arc::new(Dentry { name, slot }));
    }

    /// The caller holds the locks of all directories, and everything has changed.
    pub(super) fn forget_all(&self) {
        self.0.clear();
    }

    /// The caller holds the lock of `dir` exclusively and is about to change the entry at
    /// `cookie`.
    pub(super) fn forget(&self, dir: Ino, cookie: u64) {
        self.0.remove(&(dir, cookie & !0xff));
    }
}
