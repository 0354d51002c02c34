//! Entries of directories that were looked up, in RAM: a part of the tree of names, so that
//! walking a path does not search the layers of the store at each step.
//!
//! It is exact. An entry is remembered by whoever holds its directory's lock, shared or exclusive,
//! and has just read it; it is forgotten by whoever changes it, under the exclusive lock and
//! before the change becomes visible. So what is here is in the store too. It is bounded in bytes;
//! what it has no room for is looked up in the store.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use razorfs_format::Ino;
use razorfs_format::record::Dirent;

/// A directory and the hash of a name, as the first cookie of that hash.
type Spot = (Ino, u64);

/// An entry with its cookie.
pub(super) struct Dentry {
    pub(super) cookie: u64,
    pub(super) dirent: Dirent,
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
        dentry.dirent.name.len() as u64 + OVERHEAD
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

    /// The entry `name` of `dir`, whose name's hash begins at `first`.
    pub(super) fn get(&self, dir: Ino, first: u64, name: &[u8]) -> Option<Arc<Dentry>> {
        let dentry = self.0.get(&(dir, first))?;
        // Two names can have one hash; the one that was looked up last is here.
        (*dentry.dirent.name == *name).then_some(dentry)
    }

    /// The caller holds the lock of `dir` and has just read the entry.
    pub(super) fn remember(&self, dir: Ino, first: u64, cookie: u64, dirent: &Dirent) {
        let dirent = dirent.clone();
        let dentry = Arc::new(Dentry { cookie, dirent });
        self.0.insert((dir, first), dentry);
    }

    /// The caller holds the lock of `dir` exclusively and is about to change the entry at
    /// `cookie`.
    pub(super) fn forget(&self, dir: Ino, cookie: u64) {
        self.0.remove(&(dir, cookie & !0xff));
    }
}
