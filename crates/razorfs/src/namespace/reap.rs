//! The reaper: removes what nameless inodes and long truncations left, a bounded step at a time.
//!
//! Its work is listed by the orphan records, so that it goes on after a crash. Each step is a
//! transaction of its own; a file whose removal is half done shows its new size all the time.

use razorfs_format::key::Key;
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{Orphan, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::operation::{Operation, PLACE};
use super::remove::counted_bytes;
use crate::marks::{self, Mark};
use crate::{Error, Result};

/// Most records that one step removes.
const STEP: usize = 4096;

impl Operation<'_> {
    /// What is left to be done about the inode.
    pub(super) fn orphan(&self, ino: Ino) -> Result<Option<Orphan>> {
        match self.get(&Key::orphan(Branch::HEAD, ino))? {
            Some(bytes) => Ok(Some(Orphan::decode(&bytes, PLACE)?)),
            None => Ok(None),
        }
    }

    /// Removes blocks from `from` on. Answers whether none is left.
    pub(in crate::namespace) fn reap_blocks(&mut self, ino: Ino, from: u64) -> Result<bool> {
        let mut blocks = Vec::new();
        self.store.extents(ino, from, u64::MAX, &mut |block, _| {
            blocks.push(block);
            blocks.len() < STEP
        })?;
        for block in &blocks {
            self.del(Key::extent(Branch::HEAD, ino, *block));
        }
        Ok(blocks.len() < STEP)
    }

    fn reap_xattrs(&mut self, ino: Ino) -> Result<bool> {
        let mut keys = Vec::new();
        self.each_xattr(ino, |key, _| {
            keys.push(*key);
            keys.len() < STEP
        })?;
        let done = keys.len() < STEP;
        for key in keys {
            self.del(key);
        }
        Ok(done)
    }
}

impl Namespace {
    /// One step of the reaper. Answers whether there was anything to do.
    pub(crate) fn reap_step(&self) -> Result<bool> {
        // What is removed by then is removed from what the stream becomes, or goes on from.
        if self.store.is_covered() {
            return Ok(false);
        }
        let Some(ino) = self.pins.dequeue() else {
            return Ok(false);
        };
        let lock = self.locks.write(ino);
        let more = match self.reader().orphan(ino) {
            Ok(None) => Ok(false),
            Ok(Some(Orphan::Trim { .. })) => self.trim_step(ino),
            Ok(Some(Orphan::Reap)) if self.pins.is_pinned(ino) => {
                marks::hit(Mark::ReapPinned);
                // The last holder queues it again.
                self.pins.lost_its_name(ino);
                self.trim_step(ino)
            }
            Ok(Some(Orphan::Reap)) => self.remove_step(ino),
            Err(e) => Err(e),
        };
        drop(lock);
        // What failed is tried again later.
        if !matches!(more, Ok(false)) {
            self.pins.enqueue(ino);
        }
        more.map(|_| true)
    }

    /// Removes all of an inode that waits for the reaper, if it does. The caller holds the lock, or
    /// nobody else sees the inode.
    pub(super) fn remove_now(&self, ino: Ino) -> Result<()> {
        while self.reader().orphan(ino)? == Some(Orphan::Reap) && self.remove_step(ino)? {}
        Ok(())
    }

    /// Removes some of a nameless inode. Answers whether some is left. The caller holds the lock.
    fn remove_step(&self, ino: Ino) -> Result<bool> {
        let mut op = self.begin(OpType::Reap)?;
        let inode = match op.inode(ino) {
            Ok(inode) => inode.clone(),
            // Its record went with an earlier step, or never came.
            Err(Error::NotFound) => {
                op.del(Key::orphan(Branch::HEAD, ino));
                self.commit(op)?;
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        let blocks_done = op.reap_blocks(ino, 0)?;
        let done = blocks_done && op.reap_xattrs(ino)?;
        if done {
            op.del(Key::orphan(Branch::HEAD, ino));
            op.count(Counter::Bytes, -counted_bytes(&inode));
            op.erase(ino)?;
        }
        self.commit(op)?;
        Ok(!done)
    }

    /// Goes on with a truncation. Answers whether some is left. The caller holds the lock.
    pub(super) fn trim_step(&self, ino: Ino) -> Result<bool> {
        let mut op = self.begin(OpType::Reap)?;
        let Some(from) = op.pending_trim(ino)? else {
            return Ok(false);
        };
        let done = op.reap_blocks(ino, from)?;
        if done {
            op.change(ino)?.flags &= !inode_flags::TRIMMING;
            if op.orphan(ino)? != Some(Orphan::Reap) {
                op.del(Key::orphan(Branch::HEAD, ino));
            }
        }
        self.commit(op)?;
        Ok(!done)
    }
}
