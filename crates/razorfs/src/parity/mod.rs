//! Parity at work: what a disk has lost of a sealed pack or a segment is made again from the rest
//! while it is read, and written back in the background.
//!
//! Whoever reads hands its read and its check to [`Host::checked`]: if that fails for what is on
//! the disk, it is done once more on bytes of which every shard is what it was when the parity was
//! made. The check under the identity that the reader expects decides in both cases.

mod file;

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::Mutex;
use razorfs_disk::{Disk, File, OpenHow};
use razorfs_format::VolumeId;
use razorfs_format::parity::Object;

use crate::Result;
use crate::checkpoint::name_of;
use crate::marks::{self, Mark};

use file::HealedFile;
pub(crate) use file::Shards;

/// Most groups that wait to be written back; others are found again by whoever reads them.
const WAITING_MAX: usize = 4096;

/// A group of an object.
pub(crate) type GroupOf = (Object, u32);

/// What is known of damage that parity makes up for.
#[derive(Default)]
pub(crate) struct Healer {
    vid: VolumeId,
    /// Groups that were damaged when they were read; those that could not be written back stay,
    /// so that they are told once, and are not tried again.
    waiting: Mutex<BTreeMap<GroupOf, Wait>>,
    /// Reads that parity saved.
    reads: AtomicU64,
    /// Shards that were written back.
    healed: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    ToBeWritten,
    GivenUp,
}

impl Healer {
    /// For a volume with parity.
    pub fn new(vid: VolumeId) -> Self {
        Self {
            vid,
            ..Self::default()
        }
    }

    /// Reads that parity saved, and shards that were written back.
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.reads), load(&self.healed))
    }

    /// A group is damaged, and what was read of it was right once it was healed.
    fn note(&self, group: GroupOf) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX && !waiting.contains_key(&group) {
            let (object, index) = group;
            tracing::warn!(file = %object.file(), group = index, "damaged: read with its parity");
            waiting.insert(group, Wait::ToBeWritten);
        }
    }

    /// The next group to write back.
    pub fn next(&self) -> Option<GroupOf> {
        let waiting = self.waiting.lock();
        let next = waiting.iter().find(|(_, wait)| **wait == Wait::ToBeWritten);
        next.map(|(group, _)| *group)
    }

    /// A group was written back, or is gone; or it is not tried again.
    pub fn settled(&self, group: GroupOf, given_up: bool) {
        let mut waiting = self.waiting.lock();
        match waiting.get_mut(&group) {
            Some(wait) if given_up => *wait = Wait::GivenUp,
            _ => drop(waiting.remove(&group)),
        }
    }

    /// Shards were written back.
    pub fn count_healed(&self, shards: usize) {
        self.healed.fetch_add(shards as u64, Ordering::Relaxed);
    }
}

/// The host's disk, with the parity of what is on it.
#[derive(Clone)]
pub struct Host {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) healer: Option<Arc<Healer>>,
}

impl<T: Disk + 'static> From<Arc<T>> for Host {
    fn from(disk: Arc<T>) -> Self {
        Self { disk, healer: None }
    }
}

impl From<Arc<dyn Disk>> for Host {
    fn from(disk: Arc<dyn Disk>) -> Self {
        Self { disk, healer: None }
    }
}

impl Host {
    /// Opens an object to read it.
    pub(crate) fn open(&self, object: Object) -> Result<Arc<dyn File>> {
        Ok(self.disk.open(&name_of(object.file()), OpenHow::Read)?)
    }

    /// Reads and checks with `work`, which is done again on healed bytes if it fails for what is
    /// on the disk.
    pub(crate) fn checked<T>(
        &self,
        object: Object,
        file: &Arc<dyn File>,
        work: &mut dyn FnMut(&dyn File) -> Result<T>,
    ) -> Result<T> {
        let error = match work(file.as_ref()) {
            Err(e) if e.is_loss() => e,
            done => return done,
        };
        let Some(healer) = &self.healer else {
            return Err(error);
        };
        let (disk, file) = (self.disk.as_ref(), Arc::clone(file));
        let Ok(shards) = Shards::open(disk, healer.vid, object, file, OpenHow::Read) else {
            return Err(error);
        };
        let healed = HealedFile::new(shards);
        let Ok(done) = work(&healed) else {
            return Err(error);
        };
        let groups = healed.damaged();
        if !groups.is_empty() {
            marks::hit(Mark::ParityRead);
            healer.reads.fetch_add(1, Ordering::Relaxed);
        }
        for index in groups {
            healer.note((object, index));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod parity_tests;
