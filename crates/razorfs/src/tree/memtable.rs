//! The newest layer of the tree: one epoch's records in RAM, sharded by inode, so that every scan
//! of a directory or a file stays in one shard.
//!
//! What branches write is in the same memtable, under keys of the branch: each of them that writes
//! has an epoch of its own, newer than that of the head. So all of them are frozen and flushed at
//! once, with one cut of the journal.
//!
//! One version of each record is kept. A record that did not exist when the epoch wrote it for the
//! first time is *fresh*: deleting it again removes it without a tombstone, so that temporary
//! files cost journal bytes only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::Fragment;
use razorfs_format::timeline::View;
use razorfs_format::{BatchSeq, Branch, Epoch, Ino};

use super::Bytes;
use super::piece::{Block, Piece, RamPiece};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 64;

/// What a memtable knows of a record.
pub(crate) enum Slot {
    /// Its value.
    Put {
        /// The encoded record.
        value: Bytes,
        /// It did not exist before this epoch.
        fresh: bool,
    },
    /// It is deleted.
    Del,
    /// Pieces over a block of a file.
    Block(Block),
}

type Shard = RwLock<BTreeMap<Key, Slot>>;

/// One epoch's records.
pub(crate) struct Memtable {
    /// The epoch of what the head writes.
    pub epoch: Epoch,
    /// The epochs of the branches that write, in the order in which they got them. Of several of
    /// one branch the last counts; whoever looks with a view from before it knows the others.
    forks: RwLock<Vec<(Branch, Epoch)>>,
    shards: Box<[Shard]>,
    bytes: AtomicUsize,
}

/// RAM of an entry besides its value: key, tree node, allocation.
const ENTRY: usize = 112;

impl Memtable {
    /// An empty one.
    pub fn new(epoch: Epoch) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self {
            epoch,
            forks: RwLock::default(),
            shards,
            bytes: AtomicUsize::new(0),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn shard(&self, ino: Ino) -> &Shard {
        // Fibonacci hashing: neighbours in number go to different shards.
        let mixed = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[mixed as usize % SHARDS]
    }

    /// RAM in use, in bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.read().is_empty())
    }

    /// A branch writes in an epoch, which is newer than all others of the memtable.
    pub fn begin(&self, branch: Branch, epoch: Epoch) {
        self.forks.write().push((branch, epoch));
    }

    /// The epoch of what a branch writes, if it has one.
    pub fn epoch_of(&self, branch: Branch) -> Option<Epoch> {
        if branch == Branch::HEAD {
            return Some(self.epoch);
        }
        let forks = self.forks.read();
        let found = forks.iter().rev().find(|(b, _)| *b == branch);
        found.map(|(_, epoch)| *epoch)
    }

    /// Whether a branch has an epoch.
    pub fn has_forks(&self) -> bool {
        !self.forks.read().is_empty()
    }

    /// The branches that may have written, with their epochs; the head is the first.
    pub fn writers(&self) -> Vec<(Branch, Epoch)> {
        let head = (Branch::HEAD, self.epoch);
        // Each with its newest one only: a branch may have begun very often.
        let forks = self.forks.read();
        let newest: BTreeMap<Branch, Epoch> = forks.iter().copied().collect();
        let is_newest = |(branch, epoch): &&(Branch, Epoch)| newest.get(branch) == Some(epoch);
        let forks = forks.iter().filter(is_newest).copied();
        std::iter::once(head).chain(forks).collect()
    }

    /// The newest of its epochs.
    pub fn last_epoch(&self) -> Epoch {
        let forks = self.forks.read();
        let newest = forks.iter().map(|(_, epoch)| *epoch).max();
        newest.map_or(self.epoch, |newest| newest.max(self.epoch))
    }

    /// The branch whose records a view shows; there is one at most.
    pub fn shown_by(&self, view: &View) -> Option<Branch> {
        if view.sees(self.epoch) {
            return Some(Branch::HEAD);
        }
        let forks = self.forks.read();
        let seen = forks.iter().find(|(_, epoch)| view.sees(*epoch));
        seen.map(|(branch, _)| *branch)
    }

    fn grew(&self, by: usize) {
        self.bytes.fetch_add(by, Ordering::Relaxed);
    }

    fn shrank(&self, by: usize) {
        // Saturating: the count is an estimate.
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |b| {
                Some(b.saturating_sub(by))
            });
    }

    /// Writes a record. `new` says that the caller found no such record.
    pub fn put(&self, key: Key, value: Bytes, new: bool) {
        let size = value.len();
        let mut shard = self.shard(key.ino()).write();
        match shard.entry(key) {
            Entry::Occupied(entry) => match entry.into_mut() {
                Slot::Put { value: old, .. } => {
                    self.shrank(old.len());
                    *old = value;
                }
                // A deletion of what lies below must stay known if this is deleted again.
                slot => {
                    let fresh = false;
                    *slot = Slot::Put { value, fresh };
                }
            },
            Entry::Vacant(entry) => {
                self.grew(ENTRY);
                entry.insert(Slot::Put { value, fresh: new });
            }
        }
        self.grew(size);
    }

    /// Deletes a record of any table.
    pub fn del(&self, key: Key) {
        let mut shard = self.shard(key.ino()).write();
        if key.tag() == Tag::Extent {
            let fresh = match shard.get(&key) {
                Some(Slot::Block(block)) => {
                    block.kill();
                    block.fresh
                }
                _ => Self::is_fresh_file(&shard, key),
            };
            if fresh {
                shard.remove(&key);
            } else {
                let block = Block {
                    below: false,
                    fresh,
                    pieces: Vec::new(),
                };
                shard.insert(key, Slot::Block(block));
                self.grew(ENTRY);
            }
            return;
        }
        match shard.get_mut(&key) {
            Some(Slot::Put { fresh: true, .. }) => {
                shard.remove(&key);
                self.shrank(ENTRY);
            }
            Some(slot) => *slot = Slot::Del,
            None => {
                self.grew(ENTRY);
                shard.insert(key, Slot::Del);
            }
        }
    }

    /// Whether the file of this extent was created in this epoch, so that none of its extents can
    /// exist below.
    fn is_fresh_file(shard: &BTreeMap<Key, Slot>, key: Key) -> bool {
        let inode = Key::inode(key.branch(), key.ino());
        matches!(shard.get(&inode), Some(Slot::Put { fresh: true, .. }))
    }

    fn with_block<R>(&self, key: Key, change: impl FnOnce(&mut Block) -> R) -> R {
        let mut shard = self.shard(key.ino()).write();
        let fresh = Self::is_fresh_file(&shard, key);
        let slot = shard.entry(key).or_insert_with(|| {
            self.grew(ENTRY);
            Slot::Block(Block::new(fresh))
        });
        match slot {
            Slot::Block(block) => change(block),
            Slot::Put { .. } | Slot::Del => unreachable!("extents are only held as blocks"),
        }
    }

    /// Lays written bytes over a block, for the open batch. Answers the pieces that came into
    /// being, and by how much the RAM in use grew.
    pub fn write(
        &self,
        key: Key,
        batch: BatchSeq,
        off: u32,
        bytes: &[u8],
    ) -> (Vec<Arc<RamPiece>>, usize) {
        let (piece, grown) = self.with_block(key, |block| block.write(key, batch, off, bytes));
        self.grew(grown);
        (piece, grown)
    }

    /// Lays a fragment over a block. Answers the open pieces that it split off.
    pub fn patch(&self, key: Key, fragment: Fragment, open: BatchSeq) -> Vec<Arc<RamPiece>> {
        self.grew(fragment.len.min(256) as usize);
        let (split, freed) = self.with_block(key, |block| block.patch(fragment, open));
        self.shrank(freed);
        split
    }

    /// A piece got its place in a pack.
    pub fn placed(&self, piece: &Arc<RamPiece>, fragment: Fragment) {
        let mut shard = self.shard(piece.key.ino()).write();
        if let Some(Slot::Block(block)) = shard.get_mut(&piece.key) {
            let freed = block.placed(piece, fragment);
            self.shrank(freed);
        }
    }

    /// The record: `None` if this layer does not know it, `Some(None)` if it is deleted.
    pub fn get(&self, key: &Key) -> Option<Option<Bytes>> {
        match self.shard(key.ino()).read().get(key)? {
            Slot::Put { value, .. } => Some(Some(Arc::clone(value))),
            Slot::Del => Some(None),
            Slot::Block(_) => unreachable!("extents are read as blocks"),
        }
    }

    /// Adds the pieces over a block, newest first, to `pieces`; answers whether the layers below
    /// show through.
    pub fn pieces(&self, key: &Key, pieces: &mut Vec<Piece>) -> bool {
        match self.shard(key.ino()).read().get(key) {
            Some(Slot::Block(block)) => {
                pieces.extend(block.pieces.iter().rev().cloned());
                block.below
            }
            _ => true,
        }
    }

    /// Up to `limit` records from `from` to before `to`, which lie in one shard.
    pub fn range(&self, from: &Key, to: &Key, limit: usize) -> Vec<(Key, Option<Bytes>)> {
        let shard = self.shard(from.ino()).read();
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let records = shard.range(bounds).map(|(key, slot)| match slot {
            Slot::Put { value, .. } => (*key, Some(Arc::clone(value))),
            Slot::Del | Slot::Block(_) => (*key, None),
        });
        records.take(limit).collect()
    }

    /// All records of a table that a branch has written, in the order of their keys, which are
    /// those of the head.
    pub fn sorted<R>(&self, branch: Branch, tag: Tag, each: impl Fn(&Slot) -> R) -> Vec<(Key, R)> {
        let (from, to) = (Key::first_of(tag).on(branch), Key::last_of(tag).on(branch));
        let mut records = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let of_branch = shard.range(from..=to);
            records.extend(of_branch.map(|(key, slot)| (key.on(Branch::HEAD), each(slot))));
        }
        records.sort_unstable_by_key(|(key, _)| *key);
        records
    }
}
