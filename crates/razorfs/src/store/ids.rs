//! Identities: the next ones, and what may be referred to.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::{Epoch, Ino, PackId, SegmentId};

use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Numbers that only grow.
pub(crate) struct Ids {
    pub ino: AtomicU64,
    pub segment: AtomicU64,
    pub pack: AtomicU64,
    /// The packs that the account has, or will have.
    packs: RwLock<BTreeSet<PackId>>,
    /// Frames to which no new reference may be made, by pack and position, each until the memtable
    /// of this epoch has been frozen: they are moved elsewhere.
    barred: RwLock<BTreeMap<(PackId, u64), Epoch>>,
}

impl Ids {
    /// The next numbers, and the packs that there are.
    pub fn new(
        ino: Ino,
        segment: SegmentId,
        pack: PackId,
        packs: impl Iterator<Item = PackId>,
    ) -> Self {
        Self {
            ino: AtomicU64::new(ino.0),
            segment: AtomicU64::new(segment.0),
            pack: AtomicU64::new(pack.0),
            packs: RwLock::new(packs.collect()),
            barred: RwLock::default(),
        }
    }

    pub fn segment(&self) -> SegmentId {
        SegmentId(self.segment.fetch_add(1, Ordering::Relaxed))
    }

    pub fn pack(&self) -> PackId {
        let id = PackId(self.pack.fetch_add(1, Ordering::Relaxed));
        self.packs.write().insert(id);
        id
    }

    /// Whether there is such a pack, and no generation has let go of it.
    pub fn has_pack(&self, id: PackId) -> bool {
        self.packs.read().contains(&id)
    }

    /// The newest generation does not need these packs.
    pub fn forget_packs(&self, gone: &[PackId]) {
        let mut packs = self.packs.write();
        for id in gone {
            packs.remove(id);
        }
    }

    /// From now on no reference to the frame is made, until it is told when that may end.
    pub fn bar(&self, frame: (PackId, u64)) {
        self.barred.write().insert(frame, Epoch(u64::MAX));
    }

    /// They stay where they are.
    pub fn unbar(&self, frames: impl Iterator<Item = (PackId, u64)>) {
        let mut barred = self.barred.write();
        for frame in frames {
            barred.remove(&frame);
        }
    }

    /// They were moved: nobody commits anything under a look at their old places once the memtable
    /// of this epoch has been frozen.
    pub fn bar_until(&self, frames: impl Iterator<Item = (PackId, u64)>, epoch: Epoch) {
        let mut barred = self.barred.write();
        barred.extend(frames.map(|frame| (frame, epoch)));
    }

    /// The memtable of this epoch was frozen, and those before it.
    pub fn forget_barred(&self, frozen: Epoch) {
        let mut barred = self.barred.write();
        barred.retain(|_, until| *until > frozen);
    }

    /// Whether no new reference to the frame may be made.
    pub fn is_barred(&self, pack: PackId, pos: u64) -> bool {
        self.barred.read().contains_key(&(pack, pos))
    }
}
