//! Bytes of regular files.
//!
//! Bytes beyond the size of a file never hold data: shrinking removes the blocks beyond, and
//! erases the rest of the last one. So growing shows zeros without a further thought. Removing
//! more than [`AT_ONCE`] blocks is left to the reaper; the inode is marked `TRIMMING` until it is
//! done, and whoever wants to grow over such blocks finishes the work first.

use std::ops::Range;

use razorfs_format::key::Key;
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{BLOCK, FILE_MAX, FileKind, Inode, Orphan, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::operation::{Afterwards, Operation, load_inode};
use crate::marks::{self, Mark};
use crate::redo::as_request;
use crate::store::{Store, Ticket};
use crate::{AllocateMode, Error, Result, SeekFor};

/// Most blocks that one operation removes.
pub(super) const AT_ONCE: u64 = 1024;
/// Most blocks that a transaction removes: it cannot leave the rest to the reaper, because it may
/// write over it.
const AT_ONCE_IN_TRANSACTION: u64 = 65536;
/// Most bytes that go into one journal transaction; a longer write is several.
pub(super) const WRITE_AT_ONCE: usize = 1 << 20;

/// Most blocks that one operation erases, if the journal takes so many.
const ERASE_MOST: usize = 65536;
/// Bytes that an erased block takes in the journal, at most, with some to spare for the two at
/// the ends of a range, and for the inode.
const ERASE_BYTES: usize = 64;

pub(super) const BLOCK64: u64 = BLOCK as u64;

/// The pieces of `range`, block by block: block, offset in it, length.
pub(super) fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, u32, u32)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let off = (at % BLOCK64) as u32;
        let len = (u64::from(BLOCK - off)).min(range.end - at) as u32;
        let piece = (at / BLOCK64, off, len);
        at += u64::from(len);
        Some(piece)
    })
}

pub(super) fn check_regular(inode: &Inode) -> Result<()> {
    match inode.kind() {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Error::IsADirectory),
        _ => Err(Error::Invalid("not a regular file")),
    }
}

impl Operation<'_> {
    /// The inode of a regular file whose bytes may change.
    pub(super) fn writable(&mut self, ino: Ino) -> Result<&Inode> {
        let inode = self.inode(ino)?;
        check_regular(inode)?;
        if inode.flags & inode_flags::IMMUTABLE != 0 {
            return Err(Error::NotPermitted("the file is immutable"));
        }
        Ok(inode)
    }

    /// Fails if bytes before the end of the file would change though only appending is allowed.
    pub(super) fn check_append_only(&mut self, ino: Ino, offset: u64) -> Result<()> {
        let inode = self.inode(ino)?;
        if inode.flags & inode_flags::APPEND != 0 && offset < inode.size {
            return Err(Error::NotPermitted("the file is append-only"));
        }
        Ok(())
    }

    /// Bytes of the file changed, and with them perhaps its size.
    pub(super) fn data_changed(&mut self, ino: Ino, size: u64) -> Result<()> {
        let now = self.now;
        let inode = self.change(ino)?;
        let delta = size as i64 - inode.size as i64;
        inode.size = size;
        (inode.mtime, inode.ctime) = (now, now);
        self.count(Counter::Bytes, delta);
        Ok(())
    }

    /// Truncates, or extends with a hole. The caller has made room.
    pub(super) fn set_size(&mut self, ino: Ino, size: u64) -> Result<()> {
        let old = self.writable(ino)?.size;
        if size > FILE_MAX {
            return Err(Error::FileTooLarge);
        }
        if size > old {
            self.change(ino)?.flags |= inode_flags::SPARSE;
        } else if size < old {
            self.cut(ino, size, old)?;
            if size == 0 {
                self.change(ino)?.flags &= !inode_flags::SPARSE;
            }
        }
        self.data_changed(ino, size)
    }

    /// Removes what stands from `size` on.
    fn cut(&mut self, ino: Ino, size: u64, old: u64) -> Result<()> {
        if let Some((block, off, len)) = pieces(size..old).next().filter(|piece| piece.1 > 0) {
            debug_assert!(len <= BLOCK - off);
            self.hole(ino, block, off, BLOCK - off);
        }
        let from = size.div_ceil(BLOCK64);
        let to = old.div_ceil(BLOCK64);
        let at_once = match self.is_transaction() {
            true => AT_ONCE_IN_TRANSACTION,
            false => AT_ONCE,
        };
        // Changed from here on: a transaction that fails below is tried again once the pending
        // truncations of the files that it changes are finished.
        let flags = self.change(ino)?.flags;
        if flags & inode_flags::TRIMMING == 0 && to.saturating_sub(from) <= at_once {
            self.remove_blocks(ino, from..to, flags & inode_flags::SPARSE != 0)
        } else if self.is_transaction() {
            Err(Error::Unsupported(
                "a transaction that truncates more than 8 GiB",
            ))
        } else {
            self.trim_later(ino, from)
        }
    }

    /// Takes the bytes of `range` out of the blocks in `present`.
    fn erase_blocks(&mut self, ino: Ino, range: &Range<u64>, present: &[u64]) -> Result<()> {
        if !present.is_empty() {
            self.change(ino)?.flags |= inode_flags::SPARSE;
        }
        for block in present {
            let first = block * BLOCK64;
            let from = range.start.max(first) - first;
            let to = range.end.min(first.saturating_add(BLOCK64)) - first;
            if (from, to) == (0, BLOCK64) {
                self.del(Key::extent(Branch::HEAD, ino, *block));
            } else {
                self.hole(ino, *block, from as u32, (to - from) as u32);
            }
        }
        Ok(())
    }

    fn remove_blocks(&mut self, ino: Ino, blocks: Range<u64>, sparse: bool) -> Result<()> {
        // A transaction may have written blocks that the store does not know yet.
        if !sparse || self.is_transaction() {
            blocks.for_each(|block| self.del(Key::extent(Branch::HEAD, ino, block)));
            return Ok(());
        }
        let mut present = Vec::new();
        self.store
            .extents(ino, blocks.start, blocks.end, &mut |block, _| {
                present.push(block);
                true
            })?;
        for block in present {
            self.del(Key::extent(Branch::HEAD, ino, block));
        }
        Ok(())
    }

    /// Leaves the blocks from `from` on to the reaper.
    fn trim_later(&mut self, ino: Ino, from: u64) -> Result<()> {
        marks::hit(Mark::TrimLater);
        let pending = self.pending_trim(ino)?;
        let from = pending.map_or(from, |pending| pending.min(from));
        let inode = self.change(ino)?;
        inode.flags |= inode_flags::TRIMMING;
        if inode.nlink > 0 {
            let key = Key::orphan(Branch::HEAD, ino);
            let orphan = Orphan::Trim { from }.to_bytes();
            match pending {
                Some(_) => self.put(key, orphan),
                None => self.put_new(key, orphan),
            }
        }
        self.afterwards.push(Afterwards::Trimming(ino));
        Ok(())
    }

    /// First block of a truncation that is not finished.
    pub(super) fn pending_trim(&mut self, ino: Ino) -> Result<Option<u64>> {
        let inode = self.inode(ino)?;
        if inode.flags & inode_flags::TRIMMING == 0 {
            return Ok(None);
        }
        let beyond = inode.size.div_ceil(BLOCK64);
        Ok(Some(match self.orphan(ino)? {
            Some(Orphan::Trim { from }) => from,
            // A nameless file has but the record that says so; it never grew over the first block.
            _ => beyond,
        }))
    }
}

impl<'a> Operation<'a> {
    /// Lays bytes over the file at `offset`, which it may extend. The caller has made room.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, data: &'a [u8]) -> Result<()> {
        let size = self.writable(ino)?.size;
        self.check_append_only(ino, offset)?;
        let end = match offset.checked_add(data.len() as u64) {
            Some(end) if end <= FILE_MAX => end,
            _ => return Err(Error::FileTooLarge),
        };
        if data.is_empty() {
            return Ok(());
        }
        if offset > size {
            self.change(ino)?.flags |= inode_flags::SPARSE;
        }
        let mut rest = data;
        for (block, off, len) in pieces(offset..end) {
            let (piece, tail) = rest.split_at(len as usize);
            self.data(ino, block, off, piece);
            rest = tail;
        }
        self.data_changed(ino, size.max(end))
    }
}

impl Namespace {
    /// Finishes a pending truncation if the file is going to reach `end` over it; answers the
    /// file's size. The caller holds the inode's lock.
    pub(super) fn make_room(&self, ino: Ino, end: u64) -> Result<u64> {
        let mut op = self.reader();
        let size = op.inode(ino)?.size;
        let pending = op.pending_trim(ino)?;
        if pending.is_some_and(|from| end > from.saturating_mul(BLOCK64)) {
            marks::hit(Mark::TrimFinishedEarly);
            while self.trim_step(ino)? {}
        }
        Ok(size)
    }

    /// Reads at `offset` until `buf` is full or the file ends.
    pub(crate) fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let _lock = self.locks.read(ino);
        match read_from(&self.store, ino, offset, buf) {
            Err(Error::RolledBack) => match self.store.left_with(ino) {
                Some(left) => read_from(&left, ino, offset, buf),
                None => Err(Error::RolledBack),
            },
            read => read,
        }
    }

    /// Writes at `offset`; answers how much was written, which is all unless the file would pass
    /// the largest offset, or something fails after a first part.
    pub(crate) fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        self.store.pace();
        let locks = self.locks.write(ino);
        let (written, ticket) = self.write_locked(ino, offset, data)?;
        drop(locks);
        self.wait(ticket)?;
        Ok(written)
    }

    /// Writes at the end, as far as the largest offset, all or nothing; answers where that was.
    pub(crate) fn append(&self, ino: Ino, data: &[u8]) -> Result<u64> {
        self.store.pace();
        let locks = self.locks.write(ino);
        let offset = self.find_by_inode(ino)?.size;
        let (written, ticket) = self.write_locked(ino, offset, data)?;
        if (written as u64) < (data.len() as u64).min(FILE_MAX.saturating_sub(offset)) {
            // The caller cannot be told of a part, so there is none.
            let mut op = self.begin_undo(OpType::Truncate)?;
            op.set_size(ino, offset)?;
            self.finish(op, locks)?;
            return Err(Error::NoSpace);
        }
        drop(locks);
        self.wait(ticket)?;
        Ok(offset)
    }

    fn write_locked(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(usize, Option<Ticket>)> {
        let room = FILE_MAX.saturating_sub(offset);
        if room == 0 && !data.is_empty() {
            return Err(Error::FileTooLarge);
        }
        let len = room.min(data.len() as u64) as usize;
        let data = data.get(..len).unwrap_or_default();
        let end = offset.saturating_add(len as u64);
        let size = self.make_room(ino, end)?;
        self.store.reserve(len as u64, end.saturating_sub(size))?;
        let mut at = offset;
        let mut rest = data;
        let mut last = None;
        // A zero-length write changes nothing, but says what is wrong with the file.
        loop {
            let (piece, tail) = rest.split_at(rest.len().min(WRITE_AT_ONCE));
            match self.write_piece(ino, at, piece) {
                Ok(ticket) => last = ticket,
                // What is written stays written: the rest meets the error again, if it comes.
                Err(_) if at > offset => return Ok(((at - offset) as usize, last)),
                Err(e) => return Err(e),
            }
            if tail.is_empty() {
                return Ok((len, last));
            }
            at += piece.len() as u64;
            rest = tail;
        }
    }

    pub(super) fn write_piece(&self, ino: Ino, at: u64, piece: &[u8]) -> Result<Option<Ticket>> {
        let mut op = self.begin(OpType::Write)?;
        op.write(ino, at, piece)?;
        self.commit(op)
    }

    /// Reserves, punches or zeroes a range.
    pub(crate) fn allocate(
        &self,
        ino: Ino,
        mode: AllocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        if len == 0 {
            return Err(Error::Invalid("the length is zero"));
        }
        let end = match offset.checked_add(len) {
            Some(end) if end <= FILE_MAX => end,
            _ => return Err(Error::FileTooLarge),
        };
        let (erases, extends) = match mode {
            AllocateMode::Extend => (false, true),
            AllocateMode::KeepSize => (false, false),
            AllocateMode::PunchHole | AllocateMode::ZeroKeepSize => (true, false),
            AllocateMode::ZeroExtend => (true, true),
        };
        let locks = self.locks.write(ino);
        let size = self.begin(OpType::Allocate)?.writable(ino)?.size;
        let new_size = if extends { size.max(end) } else { size };
        if erases {
            self.reader().check_append_only(ino, 0)?;
            self.store.reserve(0, new_size - size)?;
        } else {
            self.store.reserve(len, new_size - size)?;
        }
        self.make_room(ino, new_size)?;
        let mut op = self.begin(OpType::Allocate)?;
        if erases {
            op = self.erase_most(op, ino, offset..end.min(size))?;
        }
        if new_size > size {
            op.change(ino)?.flags |= inode_flags::SPARSE;
        }
        op.data_changed(ino, new_size)?;
        self.finish(op, locks)
    }

    /// Makes a range of the file read as zeros, holding nothing. What the journal does not take at
    /// once goes in steps from the front, each of which leaves a file that a shorter call would
    /// have left; the last one is added to `op`. The caller holds the lock.
    pub(super) fn erase_most<'a>(
        &'a self,
        mut op: Operation<'a>,
        ino: Ino,
        mut range: Range<u64>,
    ) -> Result<Operation<'a>> {
        let at_once = (self.store.limits.most() / ERASE_BYTES).clamp(1, ERASE_MOST);
        while !range.is_empty() {
            let mut present = Vec::new();
            let blocks = range.start / BLOCK64..range.end.div_ceil(BLOCK64);
            self.store
                .extents(ino, blocks.start, blocks.end, &mut |block, _| {
                    present.push(block);
                    present.len() <= at_once
                })?;
            // One more than goes is where the next step begins.
            let next = present.get(at_once).map(|block| block * BLOCK64);
            present.truncate(at_once);
            let part = range.start..next.unwrap_or(range.end);
            op.erase_blocks(ino, &part, &present)?;
            let Some(next) = next else {
                break;
            };
            marks::hit(Mark::EraseSteps);
            let size = op.inode(ino)?.size;
            op.data_changed(ino, size)?;
            // The request is done with the last step only.
            as_request(0, || self.commit(op))?;
            op = self.begin(OpType::Allocate)?;
            range.start = next;
        }
        Ok(op)
    }

    /// The next data, or the next hole, at or after `offset`.
    pub(crate) fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        let _lock = self.locks.read(ino);
        let inode = self.find_by_inode(ino)?;
        check_regular(&inode)?;
        let size = inode.size;
        if offset >= size {
            return Err(Error::BeyondEnd);
        }
        if inode.flags & inode_flags::SPARSE == 0 {
            return Ok(match what {
                SeekFor::Data => offset,
                SeekFor::Hole => size,
            });
        }
        let mut at = offset;
        let mut data = None;
        let blocks = offset / BLOCK64..size.div_ceil(BLOCK64);
        self.store
            .extents(ino, blocks.start, blocks.end, &mut |block, runs| {
                let first = block * BLOCK64;
                for run in runs {
                    let run = first + u64::from(run.start)..first + u64::from(run.end);
                    if run.end <= at {
                        continue;
                    }
                    match what {
                        SeekFor::Data => data = Some(run.start.max(offset)),
                        SeekFor::Hole if run.start <= at => {
                            at = run.end;
                            continue;
                        }
                        SeekFor::Hole => {}
                    }
                    return false;
                }
                true
            })?;
        match what {
            SeekFor::Data => data.filter(|at| *at < size).ok_or(Error::BeyondEnd),
            SeekFor::Hole => Ok(at.min(size)),
        }
    }
}

/// Reads a regular file. The caller holds its lock.
fn read_from(store: &Store, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let inode = load_inode(store, ino)?;
    check_regular(&inode)?;
    let len = inode.size.saturating_sub(offset).min(buf.len() as u64);
    let mut rest = buf;
    for (block, off, len) in pieces(offset..offset.saturating_add(len)) {
        let (piece, tail) = rest.split_at_mut(len as usize);
        store.read_block(ino, block, off, piece)?;
        rest = tail;
    }
    Ok(len as usize)
}
