//! Sending: what a snapshot has that an older one has not, as a stream.
//!
//! It goes through the tables in the order of their keys, in four phases: names that are gone,
//! inodes with their attributes and data, names that are new, inodes that are gone. The place where
//! it is, phase and key, is all that it needs to go on; so a stream that was broken off is gone on
//! with by another process. With an older snapshot only the keys are looked at that were written
//! since; without, all of them, some at a time.

use std::collections::BTreeSet;
use std::ops::Range;

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{FileKind, Inode};
use razorfs_format::stream::{Attributes, FLAGS, Item};
use razorfs_format::wire::{Put, Take};
use razorfs_format::{Branch, Ino, Place as BytesPlace};

use super::Namespace;
use super::diff::{Side, Written};
use super::file::BLOCK64;
use crate::store::{Layout, Run, What};
use crate::{Error, Result};

/// Keys that are taken from the tables at a time.
const SOME: usize = if cfg!(test) { 5 } else { 1 << 16 };
/// Items of a batch.
const ITEMS: usize = 128;
/// Bytes of a batch that make it full: of its payload, of data before compression, and of all but
/// data, which the receiver's journal has to take at once.
const PAYLOAD: usize = 256 << 10;
const RAW: usize = 512 << 10;
const RECORDS: usize = 64 << 10;

/// A part of the work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Phase {
    NoNames = 0,
    Inodes = 1,
    Names = 2,
    Gone = 3,
    Done = 4,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::NoNames,
        Self::Inodes,
        Self::Names,
        Self::Gone,
        Self::Done,
    ];

    fn next(self) -> Self {
        let next = Self::ALL.into_iter().find(|phase| *phase > self);
        next.unwrap_or(Self::Done)
    }

    const fn tag(self) -> Tag {
        match self {
            Self::NoNames | Self::Names => Tag::Dirent,
            Self::Inodes | Self::Gone | Self::Done => Tag::Inode,
        }
    }
}

/// Where the sender goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    phase: Phase,
    /// The next directory, or inode.
    ino: u64,
    /// The next cookie in the directory; the next block of the inode's data plus one, or 0 for its
    /// attributes.
    within: u64,
}

impl Place {
    /// The beginning.
    pub(crate) const START: Self = Self::of(Phase::NoNames);

    const fn of(phase: Phase) -> Self {
        let (ino, within) = (0, 0);
        Self { phase, ino, within }
    }

    /// As the receiver keeps it.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![self.phase as u8];
        out.put_varint(self.ino);
        out.put_varint(self.within);
        out
    }

    /// From those bytes; nothing if they are not.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let here = BytesPlace::new(razorfs_format::layout::FileName::Super, 0);
        let mut t = Take::new(bytes, here, "place in a stream");
        let phase = t.u8().ok()?;
        let phase = Phase::ALL.into_iter().find(|p| *p as u8 == phase)?;
        let (ino, within) = (t.varint().ok()?, t.varint().ok()?);
        t.end().ok()?;
        Some(Self { phase, ino, within })
    }

    /// The first key that is to be looked at.
    fn key(&self) -> Key {
        match self.phase.tag() {
            Tag::Dirent => Key::dirent(Branch::HEAD, Ino(self.ino), self.within),
            _ => Key::inode(Branch::HEAD, Ino(self.ino)),
        }
    }

    /// After this key.
    fn after(self, key: &Key) -> Self {
        let next = key.successor();
        let (ino, within) = match self.phase.tag() {
            Tag::Dirent => (next.ino().0, next.second()),
            _ => (next.ino().0, 0),
        };
        Self {
            ino,
            within,
            ..self
        }
    }
}

/// Items on their way.
#[derive(Default)]
struct Batch {
    items: Vec<u8>,
    count: usize,
    raw: usize,
    records: usize,
}

/// Whoever writes batches: where the sender goes on after it, and its items.
pub(crate) type Emit<'e> = dyn FnMut(&Place, &[u8]) -> Result<()> + 'e;

/// A stream that is being made.
pub(crate) struct Sending<'a> {
    new: Side<'a>,
    old: Option<Side<'a>>,
    /// What was written since the older one.
    written: Option<Written>,
    batch: Batch,
}

impl<'a> Sending<'a> {
    /// What differs from `old`, or everything.
    pub(crate) fn new(new: &'a Namespace, old: Option<&'a Namespace>) -> Result<Self> {
        let new = Side::new(&new.store);
        let old = old.map(|old| Side::new(&old.store));
        let written = old
            .as_ref()
            .map(|old| Written::new(old, &new))
            .transpose()?;
        Ok(Self {
            new,
            old,
            written,
            batch: Batch::default(),
        })
    }

    /// Makes all batches from a place on.
    pub(crate) fn run(&mut self, from: Place, emit: &mut Emit<'_>) -> Result<()> {
        let mut at = from;
        while at.phase != Phase::Done {
            let keys = self.keys(&at)?;
            if keys.is_empty() {
                at = Place::of(at.phase.next());
                continue;
            }
            for key in keys {
                match at.phase {
                    Phase::Inodes => self.inode(at, &key, emit)?,
                    _ => self.key(at.phase, &key)?,
                }
                at = at.after(&key);
                if self.batch.is_full() {
                    self.send(&at, emit)?;
                }
            }
        }
        if self.batch.count > 0 {
            self.send(&at, emit)?;
        }
        Ok(())
    }

    /// The next keys to be looked at; none where the phase is over.
    fn keys(&self, at: &Place) -> Result<BTreeSet<Key>> {
        let from = at.key();
        let Some(written) = &self.written else {
            return match at.phase {
                Phase::Inodes | Phase::Names => self.new.store.some_keys(&from, SOME),
                // There is nothing before it.
                _ => Ok(BTreeSet::new()),
            };
        };
        let table = match at.phase.tag() {
            Tag::Dirent => &written.dirents,
            _ => &written.inodes,
        };
        Ok(table.range(from..).take(SOME).copied().collect())
    }

    fn send(&mut self, after: &Place, emit: &mut Emit<'_>) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        emit(after, &batch.items)
    }

    /// What has become of a name, or of an inode that may have gone.
    fn key(&mut self, phase: Phase, key: &Key) -> Result<()> {
        if phase == Phase::Gone {
            let ino = key.ino();
            let had = self.old_inode(ino)?.is_some();
            if had && self.new.inode(ino)?.is_none() {
                self.batch.add(&Item::Gone { ino });
            }
            return Ok(());
        }
        let new = self.new.dirent(key)?;
        let old = match &self.old {
            Some(old) => old.dirent(key)?,
            None => None,
        };
        if old == new {
            return Ok(());
        }
        let dir = key.ino();
        match (phase, old, new) {
            (Phase::NoNames, Some(old), _) => {
                let name = old.name;
                self.batch.add(&Item::NoName { dir, name });
            }
            (Phase::Names, _, Some(new)) => {
                let (name, ino) = (new.name, new.ino);
                self.batch.add(&Item::Name { dir, name, ino });
            }
            _ => {}
        }
        Ok(())
    }

    fn old_inode(&self, ino: Ino) -> Result<Option<Inode>> {
        match &self.old {
            Some(old) => old.inode(ino),
            None => Ok(None),
        }
    }

    /// An inode with all that it has, or all of it that is another.
    fn inode(&mut self, mut at: Place, key: &Key, emit: &mut Emit<'_>) -> Result<()> {
        let ino = key.ino();
        let Some(new) = self.new.inode(ino)? else {
            return Ok(());
        };
        let old = self.old_inode(ino)?;
        if at.ino != ino.0 {
            (at.ino, at.within) = (ino.0, 0);
        }
        if at.within == 0 {
            let attributes = attributes_of(ino, &new);
            if old.as_ref().map(|old| attributes_of(ino, old)).as_ref() != Some(&attributes) {
                self.batch.add(&Item::Inode(attributes));
            }
            self.xattrs(at, old.is_some(), emit)?;
            at.within = 1;
        }
        if new.kind() != FileKind::Regular {
            return Ok(());
        }
        match old {
            None => self.whole(at, &new, emit),
            Some(old) => self.changed(at, &old, &new, emit),
        }
    }

    /// Sends what there is so far, if that is much. What comes after it begins at `at`.
    fn send_some(&mut self, at: &Place, emit: &mut Emit<'_>) -> Result<()> {
        match self.batch.is_full() {
            true => self.send(at, emit),
            false => Ok(()),
        }
    }

    fn xattrs(&mut self, at: Place, has_old: bool, emit: &mut Emit<'_>) -> Result<()> {
        let ino = Ino(at.ino);
        let from = Key::xattr(Branch::HEAD, ino, 0, 0);
        let to = Key::xattr(Branch::HEAD, Ino(at.ino + 1), 0, 0);
        let keys: Vec<Key> = match (&self.written, has_old) {
            (Some(written), true) => written.xattrs.range(from..to).copied().collect(),
            _ => {
                let mut keys = Vec::new();
                self.new.store.scan(&from, &to, &mut |key, _| {
                    keys.push(*key);
                    true
                })?;
                keys
            }
        };
        // Names whose hashes are alike may have changed places: first goes all that is gone.
        if let Some(old) = self.old.as_ref().filter(|_| has_old) {
            for key in &keys {
                let (old, new) = (old.xattr(key)?, self.new.xattr(key)?);
                let name = old.map(|old| old.name);
                if name.is_some() && name != new.map(|new| new.name) {
                    let name = name.unwrap_or_default();
                    self.batch.add(&Item::NoXattr { ino, name });
                }
            }
        }
        for key in &keys {
            let old = match self.old.as_ref().filter(|_| has_old) {
                Some(old) => old.xattr(key)?,
                None => None,
            };
            let new = self.new.xattr(key)?;
            if let Some(new) = new.filter(|new| Some(new) != old.as_ref()) {
                let (name, value) = (new.name, new.value);
                self.batch.add(&Item::Xattr { ino, name, value });
                // Whoever goes on here begins with the inode once more.
                self.send_some(&Place { within: 0, ..at }, emit)?;
            }
        }
        Ok(())
    }

    /// All data of a file.
    fn whole(&mut self, at: Place, new: &Inode, emit: &mut Emit<'_>) -> Result<()> {
        let ino = Ino(at.ino);
        let end = new.size.div_ceil(BLOCK64);
        let mut from = at.within - 1;
        while from < end {
            let mut blocks: Vec<(u64, Vec<Range<u32>>)> = Vec::new();
            let mut next = end;
            self.new.store.extents(ino, from, end, &mut |block, runs| {
                if blocks.len() == SOME / 64 + 1 {
                    next = block;
                    return false;
                }
                blocks.push((block, runs.to_vec()));
                true
            })?;
            for (block, runs) in blocks {
                for run in runs {
                    self.data(ino, block, run, new.size)?;
                }
                let within = block + 2;
                self.send_some(&Place { within, ..at }, emit)?;
            }
            from = next;
        }
        Ok(())
    }

    /// The data of a file that is another.
    fn changed(&mut self, at: Place, old: &Inode, new: &Inode, emit: &mut Emit<'_>) -> Result<()> {
        let ino = Ino(at.ino);
        let from = Key::extent(Branch::HEAD, ino, at.within - 1);
        let to = Key::extent(Branch::HEAD, ino, new.size.div_ceil(BLOCK64));
        let blocks: Vec<u64> = match &self.written {
            Some(written) if from < to => {
                let keys = written.extents.range(from..to);
                keys.map(Key::second).collect()
            }
            _ => Vec::new(),
        };
        for block in blocks {
            self.block(ino, block, old.size, new.size)?;
            let within = block + 2;
            self.send_some(&Place { within, ..at }, emit)?;
        }
        Ok(())
    }

    /// What of a block is another: where both show the same frame it is the same.
    fn block(&mut self, ino: Ino, block: u64, old_size: u64, new_size: u64) -> Result<()> {
        let Some(old) = &self.old else {
            return Ok(());
        };
        let before = clipped(old.store.layout(ino, block)?, block, old_size);
        let after = clipped(self.new.store.layout(ino, block)?, block, new_size);
        let mut parts: Vec<(Range<u32>, bool)> = Vec::new();
        let end = in_block(block, new_size);
        let mut at = 0;
        while at < end {
            let (was, is) = (run_at(&before, at), run_at(&after, at));
            let to = [was, is].into_iter().flatten().map(|run| run.off + run.len);
            let to = to.min().unwrap_or(end).min(end);
            let is_hole = is.is_none_or(|run| matches!(run.what, What::Hole));
            if !is_same(was, is, at) {
                match parts.last_mut() {
                    Some((part, hole)) if part.end == at && *hole == is_hole => part.end = to,
                    _ => parts.push((at..to, is_hole)),
                }
            }
            at = to;
        }
        for (part, is_hole) in parts {
            if is_hole {
                let offset = block * BLOCK64 + u64::from(part.start);
                let len = part.end - part.start;
                self.batch.add(&Item::Hole { ino, offset, len });
            } else {
                self.data(ino, block, part, new_size)?;
            }
        }
        Ok(())
    }

    /// A part of a block, as far as the file goes.
    fn data(&mut self, ino: Ino, block: u64, part: Range<u32>, size: u64) -> Result<()> {
        let end = part.end.min(in_block(block, size));
        if part.start >= end {
            return Ok(());
        }
        let mut bytes = vec![0; (end - part.start) as usize];
        let read = self
            .new
            .store
            .read_block(ino, block, part.start, &mut bytes);
        read.map_err(|e| self.unreadable(ino, &e))?;
        let offset = block * BLOCK64 + u64::from(part.start);
        self.batch.add(&Item::Data { ino, offset, bytes });
        Ok(())
    }

    /// Names the file that cannot be read.
    fn unreadable(&mut self, ino: Ino, error: &Error) -> Error {
        let path = self.new.inode(ino).and_then(|inode| match inode {
            Some(inode) => self.new.home(ino, &inode),
            None => Ok(None),
        });
        let path = path.ok().flatten().unwrap_or_default();
        let why = format!("/{} cannot be read: {error}", path.display());
        Error::Stream(why.into())
    }
}

impl Batch {
    fn add(&mut self, item: &Item) {
        let was = self.items.len();
        item.encode(&mut self.items);
        self.count += 1;
        match item {
            Item::Data { bytes, .. } => self.raw += bytes.len(),
            _ => self.records += self.items.len() - was,
        }
    }

    fn is_full(&self) -> bool {
        self.count >= ITEMS
            || self.items.len() >= PAYLOAD
            || self.raw >= RAW
            || self.records >= RECORDS
    }
}

/// How far a file reaches into a block.
fn in_block(block: u64, size: u64) -> u32 {
    size.saturating_sub(block * BLOCK64).min(BLOCK64) as u32
}

/// The runs of a block without what is beyond the end of the file: a truncation may not be
/// finished.
fn clipped(layout: Layout, block: u64, size: u64) -> Vec<Run> {
    let end = in_block(block, size);
    let inside = layout.runs.into_iter().filter(|run| run.off < end);
    let clip = |run: Run| Run {
        len: run.len.min(end - run.off),
        ..run
    };
    inside.map(clip).collect()
}

fn run_at(runs: &[Run], at: u32) -> Option<&Run> {
    let next = runs.partition_point(|run| run.off <= at);
    let run = runs.get(next.checked_sub(1)?)?;
    (at < run.off + run.len).then_some(run)
}

/// Whether both certainly have the same bytes at `at`, as far as both reach.
fn is_same(was: Option<&Run>, is: Option<&Run>, at: u32) -> bool {
    let frame = |run: Option<&Run>| match run.map(|run| (&run.what, run.off)) {
        Some((What::Own(r) | What::Shared(r), off)) => {
            // Nothing that a snapshot shows is ever moved, and the older of the two is one.
            Some(Some((r.pack, r.pos, r.birth, r.skip + (at - off))))
        }
        Some((What::Bytes, _)) => Some(None),
        Some((What::Hole, _)) | None => None,
    };
    match (frame(was), frame(is)) {
        (None, None) => true,
        (Some(Some(was)), Some(Some(is))) => was == is,
        _ => false,
    }
}

/// What a stream says of an inode.
fn attributes_of(ino: Ino, inode: &Inode) -> Attributes {
    Attributes {
        ino,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        flags: inode.flags & FLAGS,
        size: match inode.kind() {
            FileKind::Regular => inode.size,
            _ => 0,
        },
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
        target: inode.target.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_and_other_bytes_do_not() {
        for phase in Phase::ALL {
            let place = Place {
                phase,
                ino: 1 << 40,
                within: u64::MAX,
            };
            assert_eq!(Place::decode(&place.to_bytes()), Some(place));
        }
        assert_eq!(Place::decode(&[]), None);
        assert_eq!(Place::decode(&[9, 0, 0]), None);
        assert_eq!(Place::decode(&[1, 0, 0, 0]), None);
    }
}
