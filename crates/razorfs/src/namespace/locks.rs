//! The locks of the inodes: 1024 of them, shared by the inodes that hash alike.
//!
//! Whoever needs several takes them through [`LockTable::write_many`] or
//! [`LockTable::lock_set`], which take each shard once and in ascending order: so nobody waits for
//! anybody in a circle. No lock is held while waiting for durability.

use std::collections::BTreeMap;

use razorfs_format::Ino;

use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 1024;

pub(crate) struct LockTable {
    shards: Box<[RwLock<()>]>,
}

/// Exclusive locks of up to `N` inodes, held until dropped.
pub(crate) struct Locked<'a, const N: usize> {
    _guards: [Option<RwLockWriteGuard<'a, ()>>; N],
}

/// Locks of any number of inodes, held until dropped.
#[derive(Default)]
pub(crate) struct LockedSet<'a> {
    _exclusive: Vec<RwLockWriteGuard<'a, ()>>,
    _shared: Vec<RwLockReadGuard<'a, ()>>,
}

const fn shard_of(ino: Ino) -> usize {
    // Numbers are given out one after the other, so their low bits spread well.
    ino.0 as usize % SHARDS
}

impl LockTable {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::new(())).collect(),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "every index comes from shard_of")]
    fn shard(&self, index: usize) -> &RwLock<()> {
        &self.shards[index]
    }

    /// Shared lock of one inode.
    pub(crate) fn read(&self, ino: Ino) -> RwLockReadGuard<'_, ()> {
        self.shard(shard_of(ino)).read()
    }

    /// Exclusive lock of one inode.
    pub(crate) fn write(&self, ino: Ino) -> RwLockWriteGuard<'_, ()> {
        self.shard(shard_of(ino)).write()
    }

    /// Exclusive locks of `inos`.
    pub(crate) fn write_many<const N: usize>(&self, inos: [Ino; N]) -> Locked<'_, N> {
        let mut shards = inos.map(shard_of);
        shards.sort_unstable();
        let mut last = None;
        let guards = shards.map(|index| {
            let again = last.replace(index) == Some(index);
            (!again).then(|| self.shard(index).write())
        });
        Locked { _guards: guards }
    }

    /// Locks of the inodes in `wanted`, exclusive where that says so.
    pub(crate) fn lock_set(&self, wanted: &BTreeMap<Ino, bool>) -> LockedSet<'_> {
        let mut shards = BTreeMap::new();
        for (ino, exclusive) in wanted {
            *shards.entry(shard_of(*ino)).or_insert(false) |= *exclusive;
        }
        let mut set = LockedSet::default();
        for (index, exclusive) in shards {
            if exclusive {
                set._exclusive.push(self.shard(index).write());
            } else {
                set._shared.push(self.shard(index).read());
            }
        }
        set
    }

    /// Exclusive locks of everything.
    pub(crate) fn lock_all(&self) -> LockedSet<'_> {
        LockedSet {
            _exclusive: self.shards.iter().map(RwLock::write).collect(),
            _shared: Vec::new(),
        }
    }
}
